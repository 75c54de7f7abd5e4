"""Predictions of a local model: examples in, a line of `predictions/<model>.jsonl` for each out.

Answers are written batch by batch into a part file, so an interrupted prediction resumes. Under a launcher each process
answers its share of the examples, and the first one merges them.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from toolhone.chat.render import ChatRenderer
from toolhone.chat.token_bytes import token_bytes
from toolhone.config import EvaluateConfig
from toolhone.evaluate.decode import (
    Completion,
    Prefix,
    batches_by_length,
    compute_prefix,
    decode_greedily,
    shared_prefix,
)
from toolhone.evaluate.score import asked_fingerprint
from toolhone.formats.pieces import THINK, THINK_END
from toolhone.jsonl import json_line, part_path, read_part, remove_parts, write_jsonl
from toolhone.launcher import rank, world_size
from toolhone.progress import Progress
from toolhone.records import Example, Message, Prediction, Token
from toolhone.run_folder import versions
from toolhone.run_inputs import other_versions
from toolhone.train.hardware import release_memory
from toolhone.train.processes import wait_for_all
from toolhone.tuned import TunedModel

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
    """
    model.eval()

    def answers(waiting: list[Example]) -> Iterator[Prediction]:
        batches, prefixes = answer_batches(renderer, waiting, config.batch_size), PrefixCache(model)
        for batch in batches:
            yield from _answer(model, renderer, label, config, prefixes, batch)

    share = list(examples)[rank() :: world_size()]
    answer_missing(part_path(path, rank(), fingerprint), share, label, console, answers)
    wait_for_all()
    if rank() == 0:
        parts = [part_path(path, n, fingerprint) for n in range(world_size())]
        rows = {row["id"]: row for part in parts for row in read_part(part)}
        write_jsonl(path, (rows[example.id] for example in examples))
        remove_parts(path)
    wait_for_all()


def predict_once(
    tuned: TunedModel,
    stage: str,
    examples: Sequence[Example],
    what: str,
    config: EvaluateConfig,
    path: Path,
    console: Console,
    more_facts: Mapping[str, Any] | None = None,
) -> None:
    """Answer the examples with a run's tuned or base model as a stage of the run, unless the stage is finished. `what`
    is the console's word for the examples; `more_facts` are recorded with the stage."""
    made_from = tuned.answers_fingerprint(examples, config)
    if is_answered(tuned, stage, examples, config, path):
        made_with = other_versions(tuned.run.stage(stage) or {})
        console.print(f"reusing {path}{f', {made_with}' if made_with else ''}", markup=False)
        return
    if rank() == 0:
        console.print(f"{tuned.label} answers {len(examples)} {what} ...")
    started = time.perf_counter()
    with Progress(f"loading the {tuned.label} model", None, "", console):
        model = tuned.load_weights()
    predict(model, tuned.renderer, examples, tuned.label, config, path, console, fingerprint=made_from)
    if rank() == 0:
        seconds = round(time.perf_counter() - started, 1)
        facts = {"examples": len(examples), "asked": asked_fingerprint(examples), "versions": versions()}
        tuned.run.mark_finished(stage, made_from, seconds=seconds, **facts, **(more_facts or {}))
    del model
    release_memory(tuned.hardware.device)


def is_answered(tuned: TunedModel, stage: str, examples: Sequence[Example], config: EvaluateConfig, path: Path) -> bool:
    """Return whether the stage of these answers is finished."""
    return path.is_file() and tuned.run.is_finished(stage, tuned.answers_fingerprint(examples, config))


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
