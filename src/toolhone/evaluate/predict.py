"""Predictions of a local model: examples in, a line of `predictions/<model>.jsonl` for each out.

Answers are written batch by batch into a part file, so an interrupted prediction resumes. Under a launcher each process
answers its share of the examples and sends it to process 0, which writes the file. They need no shared folder.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from toolhone.chat.render import ChatRenderer
from toolhone.chat.token_bytes import token_bytes
from toolhone.config import Config, EvaluateConfig
from toolhone.errors import UserError
from toolhone.evaluate.decode import (
    Completion,
    Prefix,
    batches_by_length,
    compute_prefix,
    decode_greedily,
    shared_prefix,
)
from toolhone.evaluate.prefix_attention import can_share_prefix
from toolhone.formats.pieces import THINK, THINK_END
from toolhone.jsonl import json_line, part_path, read_part, remove_parts, write_jsonl
from toolhone.launcher import rank, world_size
from toolhone.progress import Progress
from toolhone.records import Example, Message, Prediction, Token
from toolhone.train.hardware import Hardware, release_memory
from toolhone.train.language_layers import model_without_weights
from toolhone.train.memory import RUNTIME_BYTES, answering_bytes
from toolhone.train.model import supported_attention
from toolhone.train.processes import gather_to_first, wait_for_all
from toolhone.train.sizes import Sizes

_MIN_SHARED_ROWS = 4
"""At least this many rows with the same system prompt and tools get their own batches, with a cached prefix."""

_THINK_TOKENS = 8
"""The opening tag of a thought, and the white space after it, have fewer tokens."""


def predict(
    model: Any,
    renderer: ChatRenderer,
    examples: Sequence[Example],
    label: str,
    config: EvaluateConfig,
    path: Path,
    console: Console,
    *,
    fingerprint: str,
) -> None:
    """Answer every example greedily and write the predictions to `path`, in the examples' order.

    `label` names the model in the records. Answers of an interrupted call are reused if `fingerprint` is the same.

    Raises:
        UserError: if memory runs out even with a single row.
    """
    model.eval()

    def answers(waiting: list[Example]) -> Iterator[Prediction]:
        yield from _answers(model, renderer, label, config, waiting, console)

    share = list(examples)[rank() :: world_size()]
    answer_missing(part_path(path, rank(), fingerprint), share, label, console, answers)
    wait_for_all()
    shares = gather_to_first(read_part(part_path(path, rank(), fingerprint)))  # each on its own machine's disk
    if rank() == 0:
        rows = {row["id"]: row for share in shares for row in share}
        write_jsonl(path, (rows[example.id] for example in examples))
    wait_for_all()
    remove_parts(path)


def answer_missing(
    part: Path,
    examples: Sequence[Example],
    label: str,
    console: Console,
    answers: Callable[[list[Example]], Iterable[Prediction]],
) -> None:
    """Append to a part file the predictions that it lacks, as `answers` yields them."""
    done = {row["id"] for row in read_part(part)}
    waiting = [example for example in examples if example.id not in done]
    if done and rank() == 0:
        console.print(f"{label}: {len(done)} answers are reused, {len(waiting)} are left")
    if waiting:
        part.parent.mkdir(parents=True, exist_ok=True)
        progress = Progress(f"{label} answers", len(examples), "turns", console, done=len(done))
        with part.open("ab") as out, progress:
            for prediction in answers(waiting):
                out.write(json_line(prediction.to_json()))
                out.flush()
                progress.advance()


def answer_one(
    model: Any,
    renderer: ChatRenderer,
    example: Example,
    max_new_tokens: int,
    *,
    label: str = "ask",
    prefixes: PrefixCache | None = None,
) -> Prediction:
    """Answer a single example. With `prefixes`, the system prompt and the tools stay cached for later examples."""
    _, ids = renderer.prompt(example.prompt, example.tools)
    shared: list[int] = []
    if prefixes:  # the system prompt and tools are what the prompt shares with an empty question
        system = example.prompt[:1] if example.prompt and example.prompt[0].role == "system" else ()
        shared = shared_prefix([ids, renderer.prompt((*system, Message("user", "")), example.tools)[1]])
    config = EvaluateConfig(batch_size=1, max_new_tokens=max_new_tokens)
    cache = prefixes or PrefixCache(model)
    return _answer(model.eval(), renderer, label, config, cache, Batch(shared, [ids], [example]))[0]


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts that are answered together. All begin with `prefix_ids`, which other batches may share."""

    prefix_ids: list[int]
    prompts: list[list[int]]
    examples: list[Example]


class PrefixCache:
    """Caches the last used prefixes. One is enough for a prediction, because batches with the same prefix are
    consecutive. `reused_tokens` counts the tokens of the last prompt that were cached."""

    def __init__(self, model: Any, size: int = 1) -> None:
        self.reused_tokens = 0
        self._model = model
        self._size = size
        self._prefixes: list[Prefix] = []  # the most recently used last

    def get(self, ids: list[int]) -> Prefix:
        """Return the prefix of these tokens, from the cache or computed."""
        found = next((prefix for prefix in self._prefixes if prefix.ids == ids), None)
        self.reused_tokens = len(ids) if found else 0
        others = [prefix for prefix in self._prefixes if prefix is not found]
        if found is None:
            # Drop old prefixes first, to free their memory for the new one.
            self._prefixes = others = others[max(0, len(others) + 1 - self._size) :]
            found = compute_prefix(self._model, ids)
        self._prefixes = [*others, found]
        return found


def answer_batches(renderer: ChatRenderer, examples: Sequence[Example], batch_size: int) -> list[Batch]:
    """Return the examples in batches of similar length. Examples with the same system prompt and tools share batches.
    Small groups are batched together, without a shared prefix of system prompt and tools."""
    groups: dict[tuple[str, ...], list[Example]] = defaultdict(list)
    for example in examples:
        system = example.prompt[0].content if example.prompt and example.prompt[0].role == "system" else ""
        groups[(system, *(json.dumps(tool.to_json()) for tool in example.tools))].append(example)
    # For small groups, a full batch saves more time than a shared prefix.
    alone = [example for group in groups.values() if len(group) < _MIN_SHARED_ROWS for example in group]
    batches = []
    for group in [*(group for group in groups.values() if len(group) >= _MIN_SHARED_ROWS), *([alone] if alone else [])]:
        prompts = [renderer.prompt(example.prompt, example.tools)[1] for example in group]
        # A single row has no prefix to share.
        prefix_ids = shared_prefix(prompts) if len(prompts) > 1 else []
        for indices in batches_by_length(prompts, batch_size):
            batches.append(Batch(prefix_ids, [prompts[n] for n in indices], [group[n] for n in indices]))
    return batches


@dataclass(frozen=True, slots=True)
class AnswerMemory:
    """Estimates the memory of a model that answers. `sizes` are those of `model_config` with its adapter."""

    config: Config
    hardware: Hardware
    model_config: Any
    sizes: Sizes

    def peak_gb(self, batches: Sequence[Batch], max_new_tokens: int, *, tuned: bool) -> float:
        """Return the peak of these batches in GB of 10^9 bytes, if every answer is as long as it may be. `tuned`: with
        the adapter."""
        model = self.config.model
        has_kernel = supported_attention(model, self.model_config) == "sdpa"
        shares = has_kernel and can_share_prefix(model_without_weights(model, self.model_config))
        peak = max(
            answering_bytes(
                self.config,
                self.hardware,
                self.sizes,
                rows=len(batch.prompts),
                prefix_tokens=len(batch.prefix_ids),
                own_tokens=max(map(len, batch.prompts)) - len(batch.prefix_ids),
                new_tokens=max_new_tokens,
                shares_prefix=shares and len(batch.prompts) > 1 and bool(batch.prefix_ids),
                tuned=tuned,
            )
            for batch in batches
        )
        return round((RUNTIME_BYTES[self.hardware.device] + peak) / 1e9, 2)


def _answers(
    model: Any,
    renderer: ChatRenderer,
    label: str,
    config: EvaluateConfig,
    examples: Sequence[Example],
    console: Console,
) -> Iterator[Prediction]:
    """Yield the predictions. If memory runs out, this batch and all later ones have half of the rows.

    Raises:
        UserError: if memory runs out with a single row.
    """
    prefixes, size = PrefixCache(model), config.batch_size
    for batch in answer_batches(renderer, examples, config.batch_size):
        first = 0
        while first < len(batch.prompts):
            rows = slice(first, first + size)
            part = Batch(batch.prefix_ids, batch.prompts[rows], batch.examples[rows])
            found = None
            with suppress(torch.OutOfMemoryError):
                found = _answer(model, renderer, label, config, prefixes, part)
            if found is None:  # here the error, which would keep the tensors of the batch, is gone
                size = _halved(part, console)
                release_memory(model.device.type)
                continue
            yield from found
            first += size


def _halved(batch: Batch, console: Console) -> int:
    """Return half of a batch's rows, and say so.

    Raises:
        UserError: if the batch has a single row.
    """
    rows = len(batch.prompts)
    if rows == 1:
        raise UserError(
            f"evaluate.batch_size: memory ran out with a single row of {len(batch.prompts[0]):,} prompt tokens; set "
            "model.quantize: nf4, use shorter prompts (chat.tools: signatures), or use a GPU with more memory"
        )
    console.print(f"note: evaluate.batch_size: {rows // 2} rows instead of {rows}, because memory ran out")
    return rows // 2


def _answer(
    model: Any,
    renderer: ChatRenderer,
    label: str,
    config: EvaluateConfig,
    prefixes: PrefixCache,
    batch: Batch,
) -> list[Prediction]:
    started = time.perf_counter()
    prefix = prefixes.get(batch.prefix_ids)
    completions = decode_greedily(model, batch.prompts, prefix, renderer.stop_ids(), config.max_new_tokens)
    latency_ms = (time.perf_counter() - started) * 1000 / len(batch.prompts)
    return [
        prediction_of(completion, example, prompt, renderer, label, latency_ms)
        for example, prompt, completion in zip(batch.examples, batch.prompts, completions, strict=True)
    ]


def opens_thought(renderer: ChatRenderer, prompt_ids: Sequence[int]) -> bool:
    """Return whether a prompt ends with the opening tag of a thought, so that the answer begins in it."""
    return renderer.decode(prompt_ids[-_THINK_TOKENS:]).rstrip().endswith(THINK)


def prediction_of(
    completion: Completion,
    example: Example,
    prompt_ids: Sequence[int],
    renderer: ChatRenderer,
    label: str,
    latency_ms: float,
) -> Prediction:
    """Return what a model generated as a prediction. The stop token counts as a completion token, but is not part of
    the text. If the prompt opens a thought and the answer is cut off in it, the text begins with the opening tag, so
    that it is read as truncated."""
    ids = completion.ids
    pieces = token_bytes(renderer.tokenizer).of(ids, prompt_ids[-1] if prompt_ids else None)
    text = renderer.decode(ids[:-1] if completion.stopped else ids, prompt_ids)
    if not completion.stopped and THINK_END not in text and opens_thought(renderer, prompt_ids):
        text = THINK + text
    return Prediction(
        id=example.id,
        model=label,
        text=text,
        finish_reason="stop" if completion.stopped else "length",
        prompt_tokens=len(prompt_ids),
        completion_tokens=len(ids),
        latency_ms=latency_ms,
        tokens=tuple(map(Token, ids, pieces, completion.logprobs, completion.runner_ups)),
        format=renderer.format.name,
    )
