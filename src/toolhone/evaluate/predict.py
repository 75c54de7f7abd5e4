"""Predictions of a local model: examples in, a line of `predictions/<model>.jsonl` for each out.

Answers are written batch by batch beside the file's final name, so an interrupted prediction goes on where it stopped.
Under a launcher each process answers its share of the examples, and the first one joins the shares.
"""

from __future__ import annotations

import functools
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from toolhone.chat.render import ChatRenderer
from toolhone.chat.token_bytes import TokenBytes
from toolhone.config import EvaluateConfig
from toolhone.evaluate.decode import (
    Completion,
    Prefix,
    batches_by_length,
    compute_prefix,
    decode_greedily,
    shared_prefix,
)
from toolhone.jsonl import part_path, read_part, remove_parts, write_jsonl
from toolhone.records import Example, Message, Prediction, Token
from toolhone.train.hardware import rank, world_size

_WORTH_SHARING = 4
"""So many rows with the same system prompt and tools are answered apart from others, from the cache of their prefix."""


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
    """
    share = list(examples)[rank() :: world_size()]
    part = part_path(path, rank(), fingerprint)
    done = {row["id"] for row in read_part(part)}
    waiting = [example for example in share if example.id not in done]
    if done and rank() == 0:
        console.print(f"{label}: {len(done)} answers are there from before, {len(waiting)} to go")
    model.eval()
    part.parent.mkdir(parents=True, exist_ok=True)
    batches = _batches(renderer, waiting, config.batch_size)
    shown = track(batches, f"answers of {label}", console=console, disable=rank() != 0 or not console.is_terminal)
    prefixes = PrefixCache(model)
    with part.open("a", encoding="utf-8") as out:
        for batch in shown:
            for prediction in _answer(model, renderer, label, config, prefixes, batch):
                out.write(json.dumps(prediction.to_json(), ensure_ascii=False) + "\n")
            out.flush()
    if world_size() > 1:
        torch.distributed.barrier()
    if rank() == 0:
        parts = [part_path(path, n, fingerprint) for n in range(world_size())]
        rows = {row["id"]: row for part in parts for row in read_part(part)}
        write_jsonl(path, (rows[example.id] for example in examples))
        remove_parts(path)
    if world_size() > 1:
        torch.distributed.barrier()


def answer_one(
    model: Any,
    renderer: ChatRenderer,
    example: Example,
    max_new_tokens: int,
    *,
    label: str = "ask",
    prefixes: PrefixCache | None = None,
) -> Prediction:
    """Answer a single example. What later ones are likely to share with it, the system prompt and the tools, is kept
    in `prefixes` where they are given."""
    _, ids = renderer.prompt(example.prompt, example.tools)
    shared = _system_and_tools(renderer, example, ids) if prefixes else []
    config = EvaluateConfig(batch_size=1, max_new_tokens=max_new_tokens)
    cache = prefixes or PrefixCache(model)
    return _answer(model.eval(), renderer, label, config, cache, _Batch(shared, [ids], [example]))[0]


def _system_and_tools(renderer: ChatRenderer, example: Example, ids: list[int]) -> list[int]:
    """The tokens that the prompt `ids` begins with whatever is asked: those that an empty question has too."""
    system = example.prompt[:1] if example.prompt and example.prompt[0].role == "system" else ()
    return shared_prefix([ids, renderer.prompt((*system, Message("user", "")), example.tools)[1]])


@dataclass(frozen=True, slots=True)
class _Batch:
    """Prompts that are answered together; all begin with `prefix_ids`, which other batches may share."""

    prefix_ids: list[int]
    prompts: list[list[int]]
    examples: list[Example]


class PrefixCache:
    """Holds the prefixes that were used last. In a prediction one is enough, since batches that share one come in a
    row. `reused_tokens` is how much of the last answer's prompt was there already."""

    def __init__(self, model: Any, held: int = 1) -> None:
        self.reused_tokens = 0
        self._model = model
        self._held = held
        self._prefixes: list[Prefix] = []  # the last used stands last

    def get(self, ids: list[int]) -> Prefix:
        """The prefix of these tokens, computed where it is not held."""
        found = next((prefix for prefix in self._prefixes if prefix.ids == ids), None)
        self.reused_tokens = len(ids) if found else 0
        others = [prefix for prefix in self._prefixes if prefix is not found]
        if found is None:
            # Before the new one is made, so that their memory is there for it.
            self._prefixes = others = others[max(0, len(others) + 1 - self._held) :]
            found = compute_prefix(self._model, ids)
        self._prefixes = [*others, found]
        return found


def _batches(renderer: ChatRenderer, examples: Sequence[Example], batch_size: int) -> list[_Batch]:
    """The examples in batches: those with the same system prompt and tools together, and those that share theirs with
    few others or none; of like length within."""
    groups: dict[tuple[str, ...], list[Example]] = defaultdict(list)
    for example in examples:
        system = example.prompt[0].content if example.prompt and example.prompt[0].role == "system" else ""
        groups[(system, *(json.dumps(tool.to_json()) for tool in example.tools))].append(example)
    # A prefix that is computed once is worth less than a batch that is full.
    alone = [example for group in groups.values() if len(group) < _WORTH_SHARING for example in group]
    batches = []
    for group in [*(group for group in groups.values() if len(group) >= _WORTH_SHARING), *([alone] if alone else [])]:
        prompts = [renderer.prompt(example.prompt, example.tools)[1] for example in group]
        # A row alone has nothing to share: it is computed in one go.
        prefix_ids = shared_prefix(prompts) if len(prompts) > 1 else []
        for indices in batches_by_length(prompts, batch_size):
            batches.append(_Batch(prefix_ids, [prompts[n] for n in indices], [group[n] for n in indices]))
    return batches


def _answer(
    model: Any,
    renderer: ChatRenderer,
    label: str,
    config: EvaluateConfig,
    prefixes: PrefixCache,
    batch: _Batch,
) -> list[Prediction]:
    stop_ids, token_bytes = renderer.stop_ids(), _token_bytes(renderer.tokenizer)
    started = time.perf_counter()
    prefix = prefixes.get(batch.prefix_ids)
    completions = decode_greedily(model, batch.prompts, prefix, stop_ids, config.max_new_tokens)
    latency_ms = (time.perf_counter() - started) * 1000 / len(batch.prompts)
    return [
        _prediction(renderer, label, token_bytes, example, len(prompt), completion, latency_ms)
        for example, prompt, completion in zip(batch.examples, batch.prompts, completions, strict=True)
    ]


def _prediction(
    renderer: ChatRenderer,
    label: str,
    token_bytes: TokenBytes,
    example: Example,
    prompt_tokens: int,
    completion: Completion,
    latency_ms: float,
) -> Prediction:
    said = completion.ids[:-1] if completion.stopped else completion.ids
    return Prediction(
        id=example.id,
        model=label,
        text=renderer.decode(said),
        finish_reason="stop" if completion.stopped else "length",
        prompt_tokens=prompt_tokens,
        completion_tokens=len(completion.ids),
        latency_ms=latency_ms,
        tokens=tuple(
            map(Token, completion.ids, token_bytes.of(completion.ids), completion.logprobs, completion.runner_ups)
        ),
    )


@functools.lru_cache(maxsize=4)
def _token_bytes(tokenizer: Any) -> TokenBytes:
    # Made once: it reads the whole tokenizer, which takes longer than a batch of a small model.
    return TokenBytes(tokenizer)
