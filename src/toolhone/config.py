"""One YAML file is one experiment: here is every key that it may have, what it means and what it defaults to.

There is no inheritance and no interpolation: a config can be read alone. `config_file.py` reads the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class ModelConfig(_Section):
    """Which model is tuned, and how it is held in memory."""

    name: str
    """A local folder, or the name of a model on the Hugging Face hub."""
    revision: str | None = None
    """The hub revision: a branch, tag or commit. Pin a commit for a result that can be had again."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a CUDA device where there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on GPUs and CPUs that multiply it (CPUs with AVX512-BF16 or AMX, where it halves the time of a
    step), float32 elsewhere."""
    quantize: Literal["none", "nf4"] = "none"
    """nf4 holds the frozen weights in 4 bits (QLoRA): a quarter of bfloat16's memory, slower steps. Not needed where
    the model fits."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """sdpa is PyTorch's own and runs everywhere; flash_attention_2 needs CUDA and the package flash-attn."""


class DataConfig(_Section):
    """Which conversations are learned from and judged on."""

    train: tuple[str, ...] = Field(min_length=1)
    """Files, folders, globs or hub:owner/name[:split], in any format that `toolhone data check` reads. `path=0.5` takes
    half of a source's rows, `path=2` each twice."""
    test: tuple[str, ...] = Field(min_length=1)
    """Sources that are never trained or tuned on."""
    format: str = "auto"
    """The rows' format, one of those that `toolhone data check --help` lists; auto: detected from the first rows of
    each file."""
    tools: str | None = None
    """A JSON file with the list of tools, for rows that carry none of their own."""
    validation: float = Field(0.1, ge=0.0, lt=1.0)
    """Share of the training conversations held out as validation rows, whole groups at a time."""
    group_by: str | None = "template"
    """Conversations whose meta has the same value under this key stay on one side of the split; null: every one may
    go its own way."""
    train_rows: int | None = Field(None, ge=1)
    """Train on at most so many conversations, a subset balanced over the tools that they call; null: all."""
    validation_rows: int | None = Field(None, ge=1)
    """At most so many validation conversations, balanced likewise; null: all."""
    test_rows: int | None = Field(None, ge=1)
    """Judge on at most so many test conversations, balanced likewise; null: all."""


class ChatConfig(_Section):
    """How a conversation becomes the text that the model reads and writes."""

    format: str = "auto"
    """How calls are written, such as hermes (<tool_call> tags; ChatML models such as Qwen and SmolLM2), llama3 and
    gemma (JSON with "parameters", in those models' turns) or json (a JSON object a line, without tags; ChatML models).
    auto: detected from the tokenizer's special tokens, never json."""
    template: Literal["auto", "model", "toolhone"] = "auto"
    """Whose chat template: auto takes the model's own where it knows tools and calls can be read back from it,
    otherwise toolhone's for the format. Either is saved with the adapter."""
    tools: Literal["schema", "signatures", "names"] = "schema"
    """How toolhone's template writes the tools into the prompt: each as its JSON Schema, as a signature of one line, a
    third as long, or as its name and its arguments' names alone, without a word on how to call. A model that is tuned
    on its tools needs no more; it saves tokens in training and at every call. With names, the untuned model, which
    cannot know what it was not told, is still asked with schemas."""
    template_kwargs: dict[str, Any] = {}
    """Extra variables for the template, for example {enable_thinking: false} for Qwen3."""
    max_tokens: int = Field(2048, ge=16)
    """The longest example (prompt and turn together) in tokens."""
    over_long: Literal["error", "drop"] = "error"
    """What happens to a longer one. It is never cut: drop leaves the whole example out, counted and named."""


class LoraConfig(_Section):
    """The adapter: two small matrices A [rank, in] and B [out, rank] beside each adapted weight (arXiv 2106.09685)."""

    rank: int = Field(16, ge=1)
    """Width of the adapter. Parameters and capacity grow with it; 8 to 32 is usual."""
    alpha: float = Field(32.0, gt=0)
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout before A. 0 is the usual choice for a few hundred rows."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Which weights: every linear layer but the LM head, or a list of module names such as [q_proj, v_proj]."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (arXiv 2312.03732), which keeps high ranks from learning too slowly."""


class TrainConfig(_Section):
    """How the adapter is trained."""

    epochs: float = Field(1.0, gt=0)
    """Passes over the training examples."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after so many optimizer steps, whatever epochs says."""
    batch_size: int = Field(4, ge=1)
    """Examples in one forward pass, on each device."""
    gradient_accumulation: int = Field(1, ge=1)
    """Forward passes to one optimizer step: the effective batch is batch_size x this x devices."""
    learning_rate: float = Field(2e-4, gt=0)
    """The peak rate. LoRA wants about ten times that of full tuning; very small models and short runs still more."""
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    """How the rate falls after warm-up."""
    warmup: float = Field(0.05, ge=0)
    """Below 1: a share of all steps; from 1 on: a number of steps."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay, on the adapter's weights."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "sgd"] = "adamw_torch"
    """The 8-bit ones are bitsandbytes' and need CUDA."""
    packing: Literal["prefix_tree", "rows", "none"] = "prefix_tree"
    """prefix_tree: what the examples of a batch share (system prompt, tools, earlier turns) is computed once, with the
    same gradients. rows: each example is computed in full, padded to the longest of its batch, and only its labelled
    tokens reach the LM head. none: plain SFTTrainer with its own loss, on every device."""
    tree_tokens: int = Field(8192, ge=16)
    """With prefix_tree: a batch of more computed tokens than this is laid out as several trees."""
    groups_per_batch: int | None = Field(None, ge=1)
    """With prefix_tree, where several groups of examples have a system prompt and tools of their own: a batch takes
    equal parts of so many groups. Fewer save time, for each group's prefix is computed once, but unteach what the
    others taught: in short trainings that costs accuracy. null: conversations are shuffled without regard to groups."""
    answer_weight: float = Field(1.0, gt=0, le=1)
    """With prefix_tree: what a token of a plain answer counts in the loss, after its first, which decides against a
    call. Answers' wordings are hard to foresee: at 1 they can outweigh all that calls have to teach."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, up to 1.5 times the time."""
    log_every: int = Field(1, ge=1)
    """Steps between lines of train_log.jsonl."""
    validate_every: int | None = Field(None, ge=1)
    """Steps between measurements of the validation loss, and of what select_by names; null: at each epoch's end."""
    select_by: Literal["last", "exact_match"] = "last"
    """Which adapter is kept: that of the last step, or the one that answered the most validation turns exactly right,
    by generation as in evaluation. Validation rows should then be some hundred, or chance decides."""
    patience: int | None = Field(None, ge=1)
    """With select_by: exact_match, end training after so many measurements in a row without a new best; null: never."""
    save_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; null: at the end of each epoch."""
    keep_checkpoints: int = Field(2, ge=1)
    """Older checkpoints than the newest so many are deleted."""
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Experiment trackers to write to as well; each needs the extra of its name."""


class CpuConfig(_Section):
    """What makes training on a CPU faster. No key has an effect on a GPU, or with train.packing: none."""

    matrix_attention: bool = True
    """With prefix_tree in bfloat16: compute attention as plain matrix products instead of PyTorch's kernel."""
    fused_lora: bool = True
    """Compute the adapter's part of a layer as two matrix products, without PEFT's casts and separate passes."""
    release_memory: bool = True
    """Return freed memory to the system every few steps."""


class EvaluateConfig(_Section):
    """How predictions are made and judged."""

    split: Literal["test", "validation"] = "test"
    """Which rows are judged. Compare settings on validation rows, and judge on test rows once, at the end."""
    base: bool = True
    """Score the untuned model on the same rows too. Its prompts are the same, except with chat.tools: names: then the
    untuned model gets full schemas."""
    batch_size: int = Field(16, ge=1)
    """Rows generated together. In bfloat16 results can change with it; in float32 they do not."""
    max_new_tokens: int = Field(256, ge=1)
    """The token limit of an answer; a call cut off by it counts as truncated."""


class Config(_Section):
    """One experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run's name: everything that it makes lies in runs/<name>."""
    seed: int = Field(42, ge=0, lt=2**32)
    """Seeds the adapter's initial weights and the order of the examples."""
    model: ModelConfig
    data: DataConfig
    chat: ChatConfig = ChatConfig()
    lora: LoraConfig = LoraConfig()
    train: TrainConfig = TrainConfig()
    cpu: CpuConfig = CpuConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _keys_agree(self) -> Config:
        shared = set(self.data.train) & set(self.data.test)
        if shared:
            raise ValueError(f"data.test: {sorted(shared)[0]} is a training file too; test on rows never trained on")
        if self.model.attention == "flash_attention_2" and self.model.dtype == "float32":
            raise ValueError("model.attention: flash_attention_2 needs a 16-bit model.dtype, found float32")
        if self.model.device == "cpu" and self.model.attention == "flash_attention_2":
            raise ValueError("model.attention: flash_attention_2 needs CUDA, but model.device is cpu; use sdpa")
        if self.model.device == "cpu" and "8bit" in self.train.optimizer:
            raise ValueError(f"train.optimizer: {self.train.optimizer} needs CUDA, but model.device is cpu")
        if self.train.packing == "prefix_tree" and self.model.attention != "sdpa":
            raise ValueError(f"train.packing: prefix_tree needs model.attention: sdpa, found {self.model.attention}")
        if self.train.packing != "prefix_tree" and self.train.answer_weight != 1:
            raise ValueError(
                f"train.answer_weight: {self.train.answer_weight} needs train.packing: prefix_tree, found "
                f"{self.train.packing}; "
                "set train.answer_weight: 1 to go without"
            )
        if self.evaluate.split == "validation" and self.data.validation == 0:
            raise ValueError("evaluate.split: there are no validation rows, since data.validation is 0")
        if self.train.select_by == "exact_match" and self.data.validation == 0:
            raise ValueError("train.select_by: exact_match needs validation rows, but data.validation is 0")
        if self.train.patience is not None and self.train.select_by == "last":
            raise ValueError("train.patience: needs train.select_by: exact_match, found last")
        if self.evaluate.max_new_tokens >= self.chat.max_tokens:
            raise ValueError("evaluate.max_new_tokens: must be smaller than chat.max_tokens")
        if self.model.quantize == "nf4" and self.model.dtype == "float16":
            raise ValueError("model.quantize: nf4 computes in bfloat16 or float32; set model.dtype to auto")
        if self.chat.tools != "schema" and self.chat.template == "model":
            raise ValueError(
                f"chat.tools: {self.chat.tools} needs toolhone's template, but chat.template is model; use auto"
            )
        if "lm_head" in self.lora.targets:
            raise ValueError("lora.targets: lm_head cannot carry an adapter, since TRL reads its weight directly")
        return self


def config_yaml(config: Config) -> str:
    """The resolved config as YAML, every key written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_fields(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key with its pydantic field, dotted and in the order of the file."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from config_fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field
