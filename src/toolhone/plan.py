"""What `toolhone train` will do and how long it takes on this machine, before any weight is loaded.

Two decoder layers of the model, with random weights, train on a batch of the real data and answer a prompt of the usual
length. The LM head is timed separately. This takes a few seconds; the result is scaled to all layers, batches and
turns.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import send_to_device
from peft import get_peft_model
from rich.console import Console
from torch.nn.functional import cross_entropy, linear

from toolhone.chat.probe import make_base_renderer
from toolhone.chat.render import IGNORED, ChatRenderer, LabelledTokens
from toolhone.config import Config, EvaluateConfig, LoraConfig
from toolhone.errors import UserError
from toolhone.evaluate.base_rows import select_for_base
from toolhone.evaluate.decode import compute_prefix, decode_greedily
from toolhone.evaluate.predict import AnswerMemory, Batch, answer_batches
from toolhone.launcher import world_size
from toolhone.prepare import Prepared
from toolhone.pretrained import build_model, load_model_config
from toolhone.progress import duration
from toolhone.records import Example
from toolhone.train.adapter import lora_config
from toolhone.train.attention import TREE_ATTENTION
from toolhone.train.batches import TreeAttention, TreeCollator, tree_features
from toolhone.train.cpu import map_large_tensors
from toolhone.train.estimate import Estimate, count_batches, estimate, forward_flops, training_flops
from toolhone.train.fused_lora import fuse_lora, fuses_lora
from toolhone.train.hardware import Hardware, release_memory
from toolhone.train.loss import label_loss, summed_cross_entropy, tree_loss
from toolhone.train.model import supported_attention
from toolhone.train.sizes import BatchCount, Sizes
from toolhone.train.trainer import prefix_sampler

_LAYERS = 2
_VOCABULARY = 128
"""Vocabulary of the timed layers. The LM head is timed separately, with the real vocabulary."""
_UNSHARED_TOKENS = 8
"""Tokens of the timed prompts after their shared prefix."""
_DECODE_STEPS = 6
"""Number of decoding steps that are timed."""
_MAX_HEAD_POSITIONS = 256
"""At most this many positions of the LM head are timed."""
_MAX_BATCH_FLOPS = {"cpu": 2e11, "cuda": 2e13}
"""The timed batch is shortened to about this many operations."""
_TIMING_S = 0.25
"""Each measurement is repeated until its total time exceeds this, at most three times."""
_NO_REPEAT_S = 2.0
"""A measurement whose first call takes longer is not repeated."""
_NF4_SLOWDOWN = 1.2
"""Layers with NF4 weights take this many times longer, measured on a CPU."""
_CHECKPOINTING_SLOWDOWN = 1.5
"""With activation checkpointing, a step takes this many times longer, because it computes the forward pass twice."""
_SCORED_TURNS_PER_S = 60
"""Rough number of turns that are scored and reported per second on two cores."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a run. `seconds` is None if its results are reused."""

    name: str
    detail: str
    seconds: float | None

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}, " + (
            "finished before" if self.seconds is None else f"about {duration(self.seconds)}"
        )


@dataclass(frozen=True, slots=True)
class AnswerSpeed:
    """How fast a model answers: operations per second on prompts, seconds per decoding step and per row in a step."""

    prompt_flops: float
    step_s: float
    row_s: float


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast this machine is: operations per second of the layers in training, seconds per position at the LM head
    (forward and backward), and how fast the base and the tuned model answer."""

    training_flops: float
    head_s: float
    base: AnswerSpeed
    tuned: AnswerSpeed


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages of a run, the estimate of its training, and the peak memory of stages in GB of 10^9 bytes."""

    stages: list[Stage]
    training: Estimate
    memory_gb: dict[str, float]
    device: str

    def lines(self) -> Iterator[str]:
        """Yield a line for each stage, then one with the total time and the peak memory."""
        yield from map(str, self.stages)
        total = sum(stage.seconds or 0.0 for stage in self.stages)
        kind = "GPU memory" if self.device == "cuda" else "memory"
        largest = max(self.memory_gb, key=lambda stage: self.memory_gb[stage])
        yield f"total: about {duration(total)}, peak {kind} about {self.memory_gb[largest]:.1f} GB ({largest})"

    def print(self, console: Console) -> None:
        """Print the lines."""
        for line in self.lines():
            console.print(f"  {line}", markup=False)


BaseTurns = tuple[ChatRenderer, list[Example], EvaluateConfig]
"""The base model's renderer, the examples that it answers, and the config of its answers."""


def make_plan(
    prepared: Prepared, *, base_turns: BaseTurns | None = None, base_is_finished: bool = False, steps_done: int = 0
) -> Plan:
    """Measure this machine for a few seconds, and estimate each stage.

    Args:
        base_turns: None: chosen here.
        base_is_finished: whether the base model's answers are reused.
        steps_done: steps of an interrupted run.
    """
    config, hardware = prepared.config, prepared.hardware
    rows = [row.tokens for row in prepared.train]
    order = list(prefix_sampler(prepared.train, config.train, config.seed))
    model_config = load_model_config(config.model)
    found = estimate(config, hardware, model_config, rows, order)
    if base_turns is None:
        tokenizer, base_format = prepared.renderer.tokenizer, config.evaluate.base_format
        renderer = make_base_renderer(tokenizer, config.chat, config.model.name, base_format, needs=prepared.needs)
        base_turns = renderer, *select_for_base(renderer, prepared.scored, config.evaluate)
    base_renderer, asked, base_config = base_turns
    size = config.evaluate.batch_size
    base = list(answer_batches(base_renderer, asked, size))
    tuned = list(answer_batches(prepared.renderer, prepared.scored, size))
    typical = sorted(range(len(found.epoch)), key=lambda n: training_flops(found.sizes, found.epoch[n]))
    start = typical[len(typical) // 2] * config.train.batch_size
    batch = [rows[index] for index in order[start : start + config.train.batch_size]]
    speed = measure_speed(
        config, hardware, model_config, found.sizes, batch, _median_prompt(base), _median_prompt(tuned)
    )

    limit = config.evaluate.max_new_tokens
    gold = {
        example.id: min(limit, length) for example, length in zip(prepared.scored, prepared.scored_tokens, strict=True)
    }
    # A pretrained model without a chat template rarely ends its answer before the limit.
    has_template = prepared.renderer.tokenizer.chat_template is not None
    base_limit = base_config.max_new_tokens
    base_lengths = {id_: min(length if has_template else limit, base_limit) for id_, length in gold.items()}
    turns = f"{len(prepared.scored)} turns"
    stages = []
    if config.evaluate.base:
        seconds = answer_seconds(found.sizes, speed.base, base, base_lengths)
        some = f"{len(asked)} of {turns}" if len(asked) < len(prepared.scored) else turns
        stages.append(Stage("base answers", some, None if base_is_finished else seconds))
    steps = f"{found.steps} steps of {found.effective_batch} examples"
    seconds = training_seconds(config, found, speed, [row.tokens for row in prepared.validation])
    if config.train.select_by == "exact_match":
        share = len(prepared.validation) / max(1, len(prepared.scored))
        seconds += _validations(config, found) * share * answer_seconds(found.sizes, speed.tuned, tuned, gold)
    stages.append(Stage("training", steps, seconds * max(0.0, 1 - steps_done / found.steps)))
    stages.append(Stage("tuned answers", turns, answer_seconds(found.sizes, speed.tuned, tuned, gold)))
    scored = len(prepared.scored) + len(asked) * config.evaluate.base
    stages.append(Stage("report", "scores and page", 5 + scored / _SCORED_TURNS_PER_S))
    needs = AnswerMemory(config, hardware, model_config, found.sizes)
    memory = {"training": found.memory_gb, "tuned answers": needs.peak_gb(tuned, limit, tuned=True)}
    if config.evaluate.base and not base_is_finished:
        memory["base answers"] = needs.peak_gb(base, base_limit, tuned=False)
    return Plan(stages, found, memory, hardware.device)


def training_seconds(config: Config, found: Estimate, speed: Speed, validation: Sequence[LabelledTokens]) -> float:
    """Return the seconds of all training steps and validations."""
    epochs = found.steps * found.batches_per_step / len(found.epoch)
    slower = _CHECKPOINTING_SLOWDOWN if config.train.activation_checkpointing else 1.0
    trained = epochs * _pass_seconds(found.sizes, speed, found.epoch) * slower
    if not validation:
        return trained / world_size()
    held_out = _pass_seconds(found.sizes, speed, count_batches(config, validation))
    # A forward pass alone takes half of the operations of a forward and backward pass.
    return (trained + _validations(config, found) * held_out / 2) / world_size()


def answer_seconds(sizes: Sizes, speed: AnswerSpeed, batches: Sequence[Batch], lengths: dict[str, int]) -> float:
    """Return the seconds that a model takes to answer these batches. `lengths` has the answer's tokens by example
    id."""
    seconds = 0.0
    before: list[int] = []
    for batch in batches:
        shared = len(batch.prefix_ids)
        if batch.prefix_ids != before:
            before = batch.prefix_ids
            seconds += forward_flops(sizes, shared) / speed.prompt_flops
        width = max(map(len, batch.prompts)) - shared
        seconds += len(batch.prompts) * forward_flops(sizes, width, shared) / speed.prompt_flops
        tokens = [lengths[example.id] for example in batch.examples]  # finished rows leave the batch
        seconds += max(tokens) * speed.step_s + sum(tokens) * speed.row_s
    return seconds / world_size()


def measure_speed(
    config: Config,
    hardware: Hardware,
    model_config: Any,
    sizes: Sizes,
    rows: Sequence[LabelledTokens],
    base_prompt: int,
    tuned_prompt: int,
) -> Speed:
    """Time the model's layers and LM head on this machine: training on a batch of rows, and answering prompts of these
    lengths in tokens."""
    if hardware.device == "cpu":
        map_large_tensors()
    layers = min(_LAYERS, sizes.layers)
    part = layers / sizes.layers
    small = replace(sizes, body=int(sizes.body * part), adapter=int(sizes.adapter * part), layers=layers)
    with torch.device(hardware.device):
        trust = config.model.trust_remote_code
        model: Any = build_model(_small_config(model_config, layers), dtype=hardware.dtype, trust_remote_code=trust)
    model.set_attn_implementation(supported_attention(config.model, model_config))
    base = _answer_speed(config, hardware, model.eval(), small, sizes, base_prompt)
    try:
        model = get_peft_model(model, lora_config(config.lora, model, init="default"))
    except (ValueError, UserError):  # the targets, or the modules to save, are in other layers
        model = get_peft_model(model, lora_config(LoraConfig(rank=config.lora.rank), model))
    tuned = _answer_speed(config, hardware, model.eval(), small, sizes, tuned_prompt)
    trained = _training_rate(config, hardware, model.train(), small, rows)
    del model
    release_memory(hardware.device)
    slower = _NF4_SLOWDOWN if config.model.quantize == "nf4" else 1.0
    return Speed(
        trained / slower,
        _head_seconds(config, hardware, sizes, rows),
        *(replace(one, prompt_flops=one.prompt_flops / slower, step_s=one.step_s * slower) for one in (base, tuned)),
    )


def _answer_speed(
    config: Config, hardware: Hardware, model: Any, small: Sizes, sizes: Sizes, prompt_tokens: int
) -> AnswerSpeed:
    length = max(prompt_tokens - _UNSHARED_TOKENS, 1)
    ids = [1 + n % (_VOCABULARY - 1) for n in range(length)]
    prompts = _seconds(hardware, lambda: compute_prefix(model, ids))
    prefix = compute_prefix(model, ids)
    weight = torch.empty(sizes.vocabulary, sizes.hidden, dtype=hardware.dtype, device=hardware.device).fill_(0.01)

    def step(rows: int) -> float:
        """Return the seconds of a decoding step with this many rows, including the LM head."""
        prompts = [ids + [1 + row % 100] * _UNSHARED_TOKENS for row in range(rows)]

        def decode(tokens: int) -> float:
            return _seconds(hardware, lambda: decode_greedily(model, prompts, prefix, frozenset(), tokens))

        layers = max(0.0, decode(1 + _DECODE_STEPS) - decode(1)) / _DECODE_STEPS
        hidden = torch.full((rows, sizes.hidden), 0.1, dtype=hardware.dtype, device=hardware.device)

        def score() -> None:
            logprobs = linear(hidden, weight).float().log_softmax(dim=-1)  # [rows, vocabulary]
            logprobs.max(dim=-1).indices.tolist()
            logprobs.topk(2, dim=-1)

        return layers * sizes.layers / small.layers + _seconds(hardware, score)

    many = max(2, config.evaluate.batch_size)
    all_rows, one_row = step(many), step(1)
    row_s = max(0.0, all_rows - one_row) / (many - 1)
    return AnswerSpeed(forward_flops(small, length) / prompts, max(one_row - row_s, 0.0), row_s)


def _training_rate(
    config: Config, hardware: Hardware, model: Any, small: Sizes, rows: Sequence[LabelledTokens]
) -> float:
    """Return the operations per second of a forward and backward pass over a batch."""
    known = [_in_small_vocabulary(row) for row in rows]
    one_batch = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": len(rows)})})

    def flops() -> float:
        (batch,) = count_batches(one_batch, known, range(len(known)))
        return training_flops(small, batch)

    while len(known) > 1 and flops() > _MAX_BATCH_FLOPS[hardware.device]:
        known = known[: (len(known) + 1) // 2]
    if fuses_lora(config, hardware):
        fuse_lora(model)
    if config.train.packing == "prefix_tree":
        model.set_attn_implementation(TREE_ATTENTION)
    attention = TreeAttention(device=hardware.device, matrix_attention=config.cpu.matrix_attention)
    batch = TreeCollator(0, config.train.tree_tokens, attention)([tree_features(row) for row in known])
    batch = send_to_device(batch, hardware.device)

    def step() -> None:
        if config.train.packing == "prefix_tree":
            loss = tree_loss(model, batch)
        else:
            loss = label_loss(model, **_padded(known, hardware.device))
        loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)

    wide = hardware.dtype != torch.float32 and not fuses_lora(config, hardware)
    with torch.autocast(hardware.device, dtype=hardware.dtype, enabled=wide):
        return flops() / _seconds(hardware, step)


def _head_seconds(config: Config, hardware: Hardware, sizes: Sizes, rows: Sequence[LabelledTokens]) -> float:
    """Return the seconds per position of the LM head and the loss, forward and backward."""
    positions = min(_MAX_HEAD_POSITIONS, sum(len(row.ids) - row.prompt_length for row in rows))
    options: dict[str, Any] = {"dtype": hardware.dtype, "device": hardware.device}
    weight = torch.empty(sizes.vocabulary, sizes.hidden, **options).fill_(0.01)
    weight.requires_grad = sizes.trains_head
    hidden = torch.full((positions, sizes.hidden), 0.1, requires_grad=True, **options)
    targets = torch.arange(positions, device=hardware.device) % sizes.vocabulary

    def step() -> None:
        logits = linear(hidden, weight)  # [positions, vocabulary]
        if config.train.packing == "none":
            cross_entropy(logits.float(), targets).backward()  # type: ignore[no-untyped-call]
        else:
            summed_cross_entropy(logits, targets).backward()  # type: ignore[no-untyped-call]

    return _seconds(hardware, step) / positions


def _seconds(hardware: Hardware, act: Callable[[], Any]) -> float:
    """Return the median seconds of a few calls after a warm-up call, or the seconds of the first call if it is slow."""
    taken: list[float] = []
    for _ in range(4):
        if hardware.device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        act()
        if hardware.device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
        if taken[0] > _NO_REPEAT_S or (len(taken) > 1 and sum(taken) > _TIMING_S):
            break
    return statistics.median(taken[1:] or taken)


def _small_config(model_config: Any, layers: int) -> Any:
    """Return the architecture with few layers and a small vocabulary."""
    small = copy.deepcopy(model_config)
    text = small.get_text_config()
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == text.num_hidden_layers:  # one entry for each layer
            setattr(text, name, value[:layers])
    text.num_hidden_layers, text.vocab_size = layers, _VOCABULARY
    if getattr(text, "num_kv_shared_layers", None):
        text.num_kv_shared_layers = 0  # the layers whose keys are shared are gone
    for one in (small, text):
        one.pad_token_id = one.bos_token_id = one.eos_token_id = 0
    return small


def _in_small_vocabulary(row: LabelledTokens) -> LabelledTokens:
    labels = [label if label == IGNORED else label % _VOCABULARY for label in row.labels]
    return replace(row, ids=[id_ % _VOCABULARY for id_ in row.ids], labels=labels)


def _padded(rows: Sequence[LabelledTokens], device: str) -> dict[str, torch.Tensor]:
    width = max(len(row.ids) for row in rows)
    ids = [row.ids + [0] * (width - len(row.ids)) for row in rows]
    labels = [row.labels + [IGNORED] * (width - len(row.ids)) for row in rows]
    mask = [[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows]
    named = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    return {name: torch.tensor(values, device=device) for name, values in named.items()}  # each [rows, width]


def _median_prompt(batches: Sequence[Batch]) -> int:
    return int(statistics.median(len(prompt) for batch in batches for prompt in batch.prompts))


def _pass_seconds(sizes: Sizes, speed: Speed, batches: Sequence[BatchCount]) -> float:
    layers = sum(training_flops(sizes, batch) for batch in batches) / speed.training_flops
    return layers + sum(batch.head_positions for batch in batches) * speed.head_s


def _validations(config: Config, found: Estimate) -> float:
    """Return how many times training validates."""
    if config.train.validate_every:
        return found.steps / config.train.validate_every
    return max(1.0, found.steps * found.batches_per_step / len(found.epoch))
