"""Every key that an experiment's YAML file may have, its meaning and its default. `config_file.py` reads the file.

There is no inheritance and no interpolation: a config can be read alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class ModelConfig(_Section):
    """Which model is tuned, and its form in memory."""

    name: str
    """A local folder, or the name of a model on the Hugging Face hub."""
    revision: str | None = None
    """The hub revision: a branch, tag or commit. Pin a commit to be able to reproduce a result."""
    trust_remote_code: bool = False
    """Run the Python code that the model's folder or hub page brings with it (auto_map). It runs with all your
    permissions: read it first, and pin the revision."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a CUDA device if there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on GPUs and CPUs that multiply it (CPUs with AVX512-BF16 or AMX, where it halves the time of a
    step), float32 elsewhere."""
    quantize: Literal["none", "nf4"] = "none"
    """nf4 stores the frozen weights in 4 bits (QLoRA): a quarter of bfloat16's memory, slower steps. Not needed if the
    model fits."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """sdpa is PyTorch's own and runs everywhere; flash_attention_2 needs CUDA and the package flash-attn."""


class DataConfig(_Section):
    """Which conversations are for training and for scoring."""

    train: tuple[str, ...] = Field(min_length=1)
    """Files, folders, globs or hub:owner/name[:split], in any format that `toolhone data check` reads. `path=0.5` takes
    half of a source's rows, `path=2` each twice."""
    test: tuple[str, ...] = Field(min_length=1)
    """Sources that are never trained or tuned on."""
    format: str = "auto"
    """The rows' format, one of those that `toolhone data check --help` lists; auto: detected from the first rows of
    each file."""
    tools: str | None = None
    """A JSON file with the list of tools, for rows that have none of their own."""
    validation: float = Field(0.1, ge=0.0, lt=1.0)
    """Share of the training conversations held out as validation rows, whole groups at a time."""
    group_by: str | None = "template"
    """Conversations whose meta has the same value under this key stay on one side of the split; null: each is a group
    of its own."""
    train_rows: int | None = Field(None, ge=1)
    """Maximum number of training conversations, a subset balanced over the tools that they call; null: all."""
    validation_rows: int | None = Field(None, ge=1)
    """Maximum number of validation conversations, balanced likewise; null: all."""
    test_rows: int | None = Field(None, ge=1)
    """Maximum number of test conversations, balanced likewise; null: all."""


class ChatConfig(_Section):
    """How a conversation becomes the text that the model reads and writes."""

    format: str = "auto"
    """How calls are written, such as hermes (<tool_call> tags; ChatML models such as Qwen and SmolLM2), llama3 and
    gemma (JSON with "parameters", in those models' turns) or json (a JSON object a line, without tags; ChatML models).
    auto: detected from the tokenizer's special tokens, never json."""
    template: Literal["auto", "model", "toolhone"] = "auto"
    """Whose chat template: auto takes the model's own if it knows tools and calls can be read back from it, otherwise
    toolhone's for the format. Either is saved with the adapter."""
    tools: Literal["schema", "signatures", "names"] = "schema"
    """How toolhone's template writes the tools into the prompt. schema: each as its JSON Schema. signatures: one line
    each, a third as long. names: names of tools and arguments alone, without a word on how to call; a model tuned on
    its tools needs no more, and every call takes fewer tokens. The untuned model still gets schemas then."""
    template_kwargs: dict[str, Any] = {}
    """Extra variables for the template, for example {enable_thinking: false} for Qwen3."""
    max_tokens: int = Field(2048, ge=16)
    """Token limit of an example (prompt and turn together)."""
    over_long: Literal["error", "drop"] = "error"
    """What happens to a longer example. It is never cut: drop leaves it out whole, counted and named."""


class LoraConfig(_Section):
    """The adapter: two small matrices A [rank, in] and B [out, rank] beside each adapted weight (arXiv 2106.09685)."""

    rank: int = Field(16, ge=1)
    """Width of the adapter. Parameters and capacity grow with it; 8 to 32 is usual."""
    alpha: float = Field(32.0, gt=0)
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout before A. 0 is the usual choice for a few hundred rows."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Which weights: every linear layer except the LM head, or a list of module names such as [q_proj, v_proj]."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (arXiv 2312.03732), which keeps high ranks from learning too slowly."""


class TrainConfig(_Section):
    """How the adapter is trained."""

    epochs: float = Field(1.0, gt=0)
    """Passes over the training examples."""
    max_steps: int | None = Field(None, ge=1)
    """Number of optimizer steps; overrides epochs."""
    batch_size: int = Field(4, ge=1)
    """Examples in one forward pass, on each device."""
    gradient_accumulation: int = Field(1, ge=1)
    """Forward passes for one optimizer step: the effective batch is batch_size x this x devices."""
    learning_rate: float = Field(2e-4, gt=0)
    """The peak rate. LoRA wants about ten times that of full tuning; very small models and short runs still more."""
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    """How the rate falls after warm-up."""
    warmup: float = Field(0.05, ge=0)
    """Below 1: a share of all steps; otherwise a number of steps."""
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
    """With prefix_tree: a batch of more computed tokens than this becomes several trees."""
    groups_per_batch: int | None = Field(None, ge=1)
    """With prefix_tree, if groups of examples have a system prompt and tools of their own: how many groups a batch
    takes, in equal parts. Fewer groups save time, since the prefix of each is computed once, but the model forgets
    more of the others; in short trainings that costs accuracy. null: conversations are shuffled across groups."""
    answer_weight: float = Field(1.0, gt=0, le=1)
    """With prefix_tree: weight in the loss of a plain answer's tokens after the first, which decides against a call.
    An answer's wording is hard to predict: at 1 it can outweigh all that calls teach."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, up to 1.5 times the time."""
    log_every: int = Field(1, ge=1)
    """Steps between lines of train_log.jsonl."""
    validate_every: int | None = Field(None, ge=1)
    """Steps between measurements of the validation loss and of select_by's metric; null: at the end of each epoch."""
    select_by: Literal["last", "exact_match"] = "last"
    """Which adapter stays: last, that of the last step; exact_match, the one that answered the most validation turns
    exactly right, by generation as in evaluation. That needs some hundred validation rows, or chance decides."""
    patience: int | None = Field(None, ge=1)
    """With select_by: exact_match, number of measurements without a new best that ends training; null: never."""
    save_every: int | None = Field(None, ge=1)
    """Steps between checkpoints; null: at the end of each epoch."""
    keep_checkpoints: int = Field(2, ge=1)
    """Keep the newest N checkpoints."""
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Experiment trackers to write to as well; each needs the pip extra of its name."""


class CpuConfig(_Section):
    """What makes training on a CPU faster. GPUs and train.packing: none ignore this section."""

    matrix_attention: bool = True
    """With prefix_tree in bfloat16: compute attention as plain matrix products instead of PyTorch's kernel."""
    fused_lora: bool = True
    """Compute the adapter's part of a layer as two matrix products, without PEFT's casts and separate passes."""
    release_memory: bool = True
    """Return freed memory to the system every few steps."""


class CudaConfig(_Section):
    """What makes a GPU faster, in training, evaluation and serving. CPUs ignore this section."""

    cudnn_attention: bool = False
    """Let PyTorch compute attention with cuDNN, which prepares each new shape for 0.02 to 0.9 seconds. Batches of rows
    bring new shapes in every step."""


class EvaluateConfig(_Section):
    """How predictions are made and scored."""

    split: Literal["test", "validation"] = "test"
    """Which rows are scored. Compare settings on validation rows, and score test rows once, at the end."""
    base: bool = True
    """Score the untuned model too. Its prompts are the same, except with chat.tools: names: then the untuned model gets
    full schemas. Its answers end a little after the length of the longest gold answer."""
    base_rows: int | None = Field(None, ge=1)
    """Maximum number of rows (assistant turns) that the untuned model answers, a sample with every kind of turn in its
    share; null: all. Reports label its figures as a subset and compare the models on the rows that both answered."""
    batch_size: int = Field(16, ge=1)
    """Rows generated together. In bfloat16 results can change with it; in float32 they do not."""
    max_new_tokens: int = Field(256, ge=1)
    """The token limit of an answer; a call cut off by it counts as truncated."""


class Config(_Section):
    """One experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run's name: all of its files are in runs/<name>."""
    seed: int = Field(42, ge=0, lt=2**32)
    """Seeds the adapter's initial weights and the order of the examples."""
    model: ModelConfig
    data: DataConfig
    chat: ChatConfig = ChatConfig()
    lora: LoraConfig = LoraConfig()
    train: TrainConfig = TrainConfig()
    cpu: CpuConfig = CpuConfig()
    cuda: CudaConfig = CudaConfig()
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
            weight = f"{self.train.answer_weight} needs train.packing: prefix_tree, found {self.train.packing}"
            raise ValueError(f"train.answer_weight: {weight}; set train.answer_weight: 1 to go without")
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
        tools = self.chat.tools
        if tools != "schema" and self.chat.template == "model":
            raise ValueError(f"chat.tools: {tools} needs toolhone's template, but chat.template is model; use auto")
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
