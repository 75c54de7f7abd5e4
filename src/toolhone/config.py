"""Defines every key of an experiment's YAML file, with its meaning and its default. `config_file.py` reads the file.

Configs have no inheritance and no interpolation, so each file can be read on its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Thinking = Literal["strip", "keep", "train"]
BaseFormat = Literal["native", "tuned"]
LORA_INITS = ("default", "gaussian", "orthogonal", "mica", "olora", "pissa", "pissa_niter_N")
"""Values of lora.init. N is a number."""
_CALIBRATED = {"eva": "activations", "corda": "activations", "lora_ga": "gradients"}
"""PEFT's other initialisations, and what they need from calibration data."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class ModelConfig(_Section):
    """The model to tune, and how it is loaded."""

    name: str
    """The model: a local folder, or a name on the Hugging Face hub."""
    revision: str | None = None
    """Hub revision: a branch, tag or commit. Pin a commit to make results reproducible."""
    trust_remote_code: bool = False
    """Run the Python code that ships with the model (auto_map). It runs with all your permissions: read it first, and
    pin the revision."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run. auto: a CUDA GPU if there is one, otherwise the CPU."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type of the computation. auto: bfloat16 on GPUs and CPUs that support it in hardware, float32 elsewhere.
    Among CPUs these are the ones with AVX512-BF16 or AMX, where bfloat16 halves the time of a step."""
    quantize: Literal["none", "nf4"] = "none"
    """nf4 stores the frozen weights in 4 bits (QLoRA): a quarter of bfloat16's memory, but slower steps. Use it only if
    the model does not fit otherwise."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention kernel. sdpa: PyTorch's own, on any device. flash_attention_2 needs CUDA and the flash-attn package."""


class DataConfig(_Section):
    """The conversations for training and for scoring."""

    train: tuple[str, ...] = Field(min_length=1)
    """Training sources: files, folders, globs or hub:owner/name[:split], in any format that `toolhone data check`
    reads. `path=0.5` takes half of a source's rows; `path=2` takes each row twice."""
    test: tuple[str, ...] = Field(min_length=1)
    """Test sources, written like those of train. They are scored, and never used to train or to tune."""
    format: str = "auto"
    """Format of the rows, one of those that `toolhone data check --help` lists. auto: detected from the first rows of
    each file."""
    tools: str | None = None
    """JSON file with the list of tools, for rows that have no tools of their own."""
    validation: float = Field(0.1, ge=0.0, lt=1.0)
    """Fraction of the training conversations held out for validation, in whole groups (see group_by)."""
    group_by: str | None = "template"
    """Key of the rows' meta that names their group. Conversations of one group stay on one side of the train/validation
    split. null: each conversation is its own group."""
    train_rows: int | None = Field(None, ge=1)
    """Maximum number of training conversations. The subset is balanced over the tools that they call. null: all."""
    validation_rows: int | None = Field(None, ge=1)
    """Maximum number of validation conversations, balanced in the same way. null: all."""
    test_rows: int | None = Field(None, ge=1)
    """Maximum number of test conversations, balanced in the same way. null: all."""


class ChatConfig(_Section):
    """How a conversation becomes the text that the model reads and writes."""

    format: str = "auto"
    """How calls are written, a name that `toolhone formats` lists. auto: the format that reads what the model's own
    chat template writes. If that template has no calls: pythonic for Gemma, llama3 for Llama 3, otherwise hermes."""
    template: Literal["auto", "model", "toolhone"] = "auto"
    """Which chat template to use. auto: the model's own if it supports tools and its calls can be read back, otherwise
    toolhone's template for the format. The template in use is saved with the adapter."""
    tools: Literal["schema", "signatures", "names"] = "schema"
    """How toolhone's template writes the tools into the prompt. schema: the JSON Schema of each tool. signatures: one
    line per tool, a third as long. names: only the names of tools and arguments, with no instructions for calling.
    Names are enough for a model tuned on these tools, and they save prompt tokens in every request. The base model
    still gets schemas."""
    template_kwargs: dict[str, Any] = {}
    """Extra variables for the template, for example {enable_thinking: false} for Qwen3."""
    max_tokens: int = Field(2048, ge=16)
    """Token limit of an example: prompt and turn together."""
    over_long: Literal["error", "drop"] = "error"
    """What to do with an example longer than max_tokens. error: stop before training. drop: leave the whole example
    out, and report it. An example is never cut."""
    thinking: Thinking = "strip"
    """What to do with the reasoning of assistant turns (`reasoning_content` or a <think> block in the data). strip:
    leave it out. keep: earlier turns have it in the prompt, as far as the template writes it; the turn to learn is
    written without it. train: like keep, and the model learns to write the turn's reasoning before its answer."""


class LoraConfig(_Section):
    """The adapter: two small matrices A [rank, in] and B [out, rank] beside each adapted weight (arXiv 2106.09685)."""

    rank: int = Field(16, ge=1)
    """Width of the adapter. Parameters and capacity grow with it; 8 to 32 is usual."""
    alpha: float = Field(32.0, gt=0)
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout probability for the input of A. 0 is usual for a few hundred rows."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Layers that get an adapter: all linear ones except the LM head, or a list of modules such as [q_proj, v_proj]."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead of alpha / rank (arXiv 2312.03732), so that ranks from about 64 on learn fast
    enough. The saved adapter has an equal alpha / rank, because SGLang and llama.cpp ignore PEFT's flag."""
    dora: bool = False
    """Learn the length of each weight's rows apart from their direction (DoRA, arXiv 2402.09353). Helps at low ranks
    (4 to 16), where it comes closer to full tuning. Steps are slower and take more memory. vLLM, SGLang and llama.cpp's
    converter refuse such adapters; `toolhone serve` and `eval` work."""
    plus: float = Field(1.0, ge=1)
    """Learning rate of B divided by that of A (LoRA+, arXiv 2402.12354). 1: the same rate. Try 4 to 16, with half of
    the usual learning_rate, if a task needs much that the model does not know. PEFT gives vectors (DoRA's lengths,
    norms) the rate of B. The saved adapter is plain LoRA, which every engine reads."""
    init: str = "default"
    """Initial A and B. default: B is zero. gaussian: the same with normal A. pissa: the largest singular vectors of
    each weight (arXiv 2404.02948), often learns faster in short runs; takes minutes for a large model. pissa_niter_16:
    almost the same in seconds. olora: from a QR decomposition (arXiv 2406.01775). orthogonal: orthogonal A and B, needs
    an even rank. mica: trains only A, on the smallest singular vectors (arXiv 2604.01694). With pissa and olora the
    saved adapter has twice the rank and loads onto the unchanged model; vLLM takes ranks up to 512. model.quantize: nf4
    allows default and gaussian only."""
    modules_to_save: tuple[str, ...] = ()
    """Modules to train as a whole and to save with the adapter, such as [embed_tokens, lm_head]. Use it if the model
    never learned a token that it must write, such as its end token. Each weight takes 16 bytes in training. If the
    model shares one weight between embed_tokens and lm_head, naming one trains both. vLLM and llama.cpp's converter
    refuse such adapters, and SGLang leaves these weights out without an error; `toolhone serve` and `eval` work."""

    @field_validator("init")
    @classmethod
    def _init_is_known(cls, init: str) -> str:
        if init in LORA_INITS[:-1] or re.fullmatch(r"pissa_niter_\d+", init):
            return init
        known = f"use one of {', '.join(LORA_INITS)}"
        if init in _CALIBRATED:
            raise ValueError(
                f"lora.init: {init} needs {_CALIBRATED[init]} of calibration data, and is not supported; {known}"
            )
        if init == "loftq":
            raise ValueError(f"lora.init: loftq quantises the weights by itself, and is not supported; {known}")
        raise ValueError(f"lora.init: unknown initialisation {init!r}; {known}")

    @model_validator(mode="after")
    def _variants_agree(self) -> LoraConfig:
        if self.dora and self.init.startswith(("pissa", "olora", "mica")):
            raise ValueError(
                f"lora.init: {self.init} cannot be combined with lora.dora; use default, gaussian or orthogonal"
            )
        if self.init == "orthogonal" and self.rank % 2:
            raise ValueError(f"lora.rank: lora.init: orthogonal needs an even rank, found {self.rank}")
        if self.init == "mica" and self.plus != 1:
            raise ValueError(
                "lora.plus: sets the learning rate of B, which lora.init: mica does not train; set it to 1"
            )
        if "lm_head" in self.targets:
            raise ValueError(
                "lora.targets: lm_head cannot have an adapter, because TRL reads its weight directly; to train it as a "
                "whole, use lora.modules_to_save: [lm_head]"
            )
        return self


class TrainConfig(_Section):
    """How the adapter is trained."""

    epochs: float = Field(1.0, gt=0)
    """Passes over the training examples."""
    max_steps: int | None = Field(None, ge=1)
    """Number of optimizer steps; overrides epochs. null: epochs decides."""
    batch_size: int = Field(4, ge=1)
    """Examples per forward pass, on each device. If memory runs out, lower it and raise gradient_accumulation."""
    gradient_accumulation: int = Field(1, ge=1)
    """Forward passes per optimizer step. Effective batch size: batch_size x gradient_accumulation x devices."""
    learning_rate: float = Field(2e-4, gt=0)
    """Peak learning rate. LoRA needs about ten times the rate of full tuning; small models and short runs need more."""
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    """How the learning rate changes after the warm-up."""
    warmup: float = Field(0.05, ge=0)
    """Length of the warm-up. Below 1: a fraction of all steps; otherwise a number of steps."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay, on the adapter's weights."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Maximum gradient norm. Larger gradients are scaled down to it."""
    optimizer: Literal["auto", "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "sgd"] = "auto"
    """The optimizer. auto: adamw_torch_fused on CUDA, adamw_torch on a CPU. The 8-bit ones come from bitsandbytes and
    need CUDA."""
    packing: Literal["prefix_tree", "rows", "none"] = "prefix_tree"
    """How a batch is computed. prefix_tree: what its examples share (system prompt, tools, earlier turns) is computed
    once; the gradients are the same. rows: each example is computed in full, padded to the longest of its batch, and
    only labelled tokens reach the LM head. none: plain SFTTrainer with its own loss, on every device. A model whose
    loss is wrong with prefix_tree trains with rows, or else with none, and a notice says so."""
    attention: Literal["auto", "flex", "blocks"] = "auto"
    """How prefix_tree computes attention. flex: FlexAttention, one compiled call for each layer; needs a GPU. blocks:
    PyTorch's attention, a call for each block of the tree. auto: flex on a GPU, blocks on a CPU."""
    tree_tokens: int = Field(8192, ge=16)
    """With prefix_tree: token limit of a tree. A batch with more computed tokens becomes several trees."""
    groups_per_batch: int | None = Field(None, ge=1)
    """With prefix_tree: how many groups of examples a batch takes, in equal shares. A group has one system prompt and
    one list of tools. Fewer groups per batch save time, because the prefix of each is computed once. But the model
    forgets more of the other groups, which costs accuracy in short trainings. null: shuffle across groups."""
    answer_weight: float = Field(1.0, gt=0, le=1)
    """Loss weight of a plain answer's tokens after the first; packing none needs 1. The first token decides against a
    call and always counts fully. The wording of an answer is hard to predict; at 1 it can outweigh what calls teach."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, up to 1.5 times the time."""
    log_every: int = Field(1, ge=1)
    """Optimizer steps between lines of train_log.jsonl."""
    validate_every: int | None = Field(None, ge=1)
    """Optimizer steps between validations of the loss and of select_by's metric. null: at the end of each epoch."""
    select_by: Literal["last", "exact_match"] = "last"
    """Which adapter to keep. last: the one after the last step. exact_match: the one that answers the most validation
    turns exactly right, generated as in evaluation. Use it with a few hundred validation rows; with fewer, chance
    decides."""
    patience: int | None = Field(None, ge=1)
    """With select_by: exact_match: stop after this many validations without a new best. null: never stop early."""
    save_every: int | None = Field(None, ge=1)
    """Optimizer steps between checkpoints. null: at the end of each epoch."""
    keep_checkpoints: int = Field(2, ge=1)
    """Number of newest checkpoints to keep; older ones are deleted."""
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Experiment trackers to log to. Each needs the pip extra of the same name."""


class CpuConfig(_Section):
    """Speedups for training on a CPU. Ignored on GPUs and with train.packing: none."""

    matrix_attention: bool = True
    """With prefix_tree in bfloat16: compute attention as plain matrix products instead of PyTorch's kernel."""
    fused_lora: bool = True
    """Compute the adapter's part of a layer as two matrix products, without PEFT's casts and separate passes."""
    release_memory: bool = True
    """Return freed memory to the operating system every few steps."""


class CudaConfig(_Section):
    """Speedups for GPUs, in training, evaluation and serving. Ignored on CPUs."""

    cudnn_attention: bool = False
    """Let PyTorch compute attention with cuDNN. cuDNN spends 0.02 to 0.9 seconds on each new shape, and batches of rows
    have new shapes in every step."""
    fused_lora: bool = True
    """Compute the adapter's part of a layer as two matrix products, and train without autocast, which copies every
    activation. Not with train.packing: none, DoRA, MiCA or float16."""
    workers: int = Field(2, ge=0)
    """Processes that prepare batches in advance. 0: the training process prepares each batch while the GPU waits."""


class EvaluateConfig(_Section):
    """How predictions are made and scored."""

    split: Literal["test", "validation"] = "test"
    """Which rows to score. Compare settings on validation rows; score the test rows once, at the end."""
    base: bool = True
    """Score the base model (before tuning) too. Its token limit is a little above the longest gold answer."""
    base_format: BaseFormat = "native"
    """How the base model is asked to call, and how its answers are read. native: in the syntax of its own chat
    template, if the template has one and can be used. tuned: in the tuned model's chat format."""
    base_rows: int | None = Field(None, ge=1)
    """Maximum number of rows (assistant turns) that the base model answers: a sample in which every kind of turn has
    its share; null: all. Reports label its figures as a subset and compare models on the rows that both answered."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """What computes the answers. vllm: vLLM's offline engine with the adapter; needs `pip install "toolhone[vllm]"`.
    auto: vllm on a GPU if it is installed and supports the adapter, otherwise transformers."""
    batch_size: int = Field(16, ge=1)
    """Rows that transformers generates together. More rows are faster and need more memory; if memory runs out, the
    batch is halved. In bfloat16 this can change results."""
    max_new_tokens: int = Field(256, ge=1)
    """Token limit of an answer. A call cut off there counts as truncated."""


class Config(_Section):
    """One experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run. All its files are in runs/<name>."""
    seed: int = Field(42, ge=0, lt=2**32)
    """Random seed of the adapter's initial weights and the order of the examples."""
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
            raise ValueError(f"data.test: {sorted(shared)[0]} is also in data.train; test on rows never trained on")
        if self.model.attention == "flash_attention_2" and self.model.dtype == "float32":
            raise ValueError("model.attention: flash_attention_2 needs a 16-bit model.dtype, found float32")
        if self.model.device == "cpu" and self.model.attention == "flash_attention_2":
            raise ValueError("model.attention: flash_attention_2 needs CUDA, but model.device is cpu; use sdpa")
        if self.model.device == "cpu" and "8bit" in self.train.optimizer:
            raise ValueError(f"train.optimizer: {self.train.optimizer} needs CUDA, but model.device is cpu")
        if self.model.device == "cpu" and self.train.attention == "flex":
            raise ValueError("train.attention: flex needs a GPU, but model.device is cpu; set it to auto")
        if self.train.packing == "prefix_tree" and self.model.attention != "sdpa":
            found = f"prefix_tree needs model.attention: sdpa, found {self.model.attention}"
            raise ValueError(f"train.packing: {found}; set model.attention: sdpa, or train.packing: rows")
        if self.train.packing == "none" and self.train.answer_weight != 1:
            weight = f"{self.train.answer_weight} needs train.packing: prefix_tree or rows, found none"
            raise ValueError(f"train.answer_weight: {weight}; set train.answer_weight: 1, or train.packing: rows")
        if self.evaluate.split == "validation" and self.data.validation == 0:
            raise ValueError("evaluate.split: there are no validation rows, because data.validation is 0")
        if self.train.select_by == "exact_match" and self.data.validation == 0:
            raise ValueError("train.select_by: exact_match needs validation rows, but data.validation is 0")
        if self.train.patience is not None and self.train.select_by == "last":
            raise ValueError("train.patience: needs train.select_by: exact_match, found last")
        if self.evaluate.max_new_tokens >= self.chat.max_tokens:
            raise ValueError("evaluate.max_new_tokens: must be less than chat.max_tokens")
        if self.model.quantize == "nf4" and self.model.dtype == "float16":
            raise ValueError("model.quantize: nf4 computes in bfloat16 or float32; set model.dtype to auto")
        tools = self.chat.tools
        if tools != "schema" and self.chat.template == "model":
            raise ValueError(f"chat.tools: {tools} needs toolhone's template, but chat.template is model; use auto")
        if self.chat.thinking == "train" and self.chat.template_kwargs.get("enable_thinking") is False:
            raise ValueError(
                "chat.thinking: train needs a template that thinks, but chat.template_kwargs has enable_thinking: "
                "false; remove it"
            )
        if self.model.quantize == "nf4" and self.lora.init not in ("default", "gaussian"):
            raise ValueError(
                f"lora.init: {self.lora.init} does not work with model.quantize: nf4; use default or gaussian"
            )
        return self


def config_yaml(config: Config) -> str:
    """Return the resolved config as YAML, with every key written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_fields(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the pydantic field of every key, in the order of the file."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from config_fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field
