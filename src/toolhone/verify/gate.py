"""The parity gate: asks an engine for every scored turn, and compares it with the run's model in transformers.

In: a run's tuned model and a client of the engine that serves it. Out: a `Verdict` with a line for each check
(`checks.py`). float32 weights are compared with transformers in float32. All others are compared with the run's own
answers if there are any, because those are the ones that the report scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from toolhone.engines.client import ChatAnswer, EngineClient
from toolhone.engines.facts import Generation
from toolhone.engines.http import EngineError
from toolhone.errors import UserError
from toolhone.evaluate import decode
from toolhone.evaluate.base_rows import sample_turns
from toolhone.evaluate.match import gold_faults, score
from toolhone.evaluate.openai_wire import request_of
from toolhone.evaluate.predict import prediction_of
from toolhone.evaluate.score import scored_examples
from toolhone.evaluate.stage import is_answered, predict_once
from toolhone.jsonl import read_jsonl, write_json, write_jsonl
from toolhone.progress import Progress
from toolhone.records import Example, FinishReason, Prediction
from toolhone.route.policy import IDENTITY, Identity, write_identity
from toolhone.run_folder import RunFolder
from toolhone.train.hardware import release_memory
from toolhone.train.model import load_for_inference
from toolhone.tuned import TunedModel
from toolhone.verify import checks
from toolhone.verify.checks import Bounds, Line, Turn
from toolhone.verify.policy import PREDICTIONS, check_policy, engine_folder, served_identity
from toolhone.verify.tool_calls import call_fault, check_tool_calls, own_reading

_PROBES = 6
"""Turns that tell whether the base model under an adapter is right."""
_PROBE_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Chosen:
    """The run's scored turns, those to ask, and the prompts of these as text and ids, by the turn's id. They are
    rendered once, for the engine's context and for the comparison."""

    every: list[Example]
    asked: list[Example]
    prompts: Mapping[str, tuple[str, list[int]]]

    def context(self, max_new_tokens: int) -> int:
        """Return the context in tokens for any of these turns and its answer."""
        longest = max((len(ids) for _, ids in self.prompts.values()), default=0)
        # llama.cpp's chat templates may add a few tokens to those of training, which the gate should report.
        return -(-(longest + max_new_tokens + 64) // 256) * 256


def choose_turns(tuned: TunedModel, rows: int | None = None) -> Chosen:
    """Return this many of the run's scored turns, a sample of all kinds of them; None: all."""
    every = scored_examples(tuned.run)
    asked = sample_turns(every, rows)
    return Chosen(every, asked, {one.id: tuned.renderer.prompt(one.prompt, one.tools) for one in asked})


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of the gate. `predictions` are the engine's answers, as a stage of the run writes them; `reference`
    says in words what they were compared with."""

    identity: Identity
    kind: str
    reference: str
    rows: int
    of_rows: int
    lines: tuple[Line, ...]
    predictions: tuple[Prediction, ...]

    @property
    def passed(self) -> bool:
        return all(line.passed is not False for line in self.lines)

    @property
    def is_whole(self) -> bool:
        """Whether every scored turn was asked."""
        return self.rows == self.of_rows

    def to_json(self) -> dict[str, Any]:
        lines = [
            {"check": line.name, "result": line.result, "detail": line.detail, "figures": dict(line.figures)}
            for line in self.lines
        ]
        facts = {"engine": self.identity.engine, "gguf": self.identity.gguf, "reference": self.reference}
        return {"passed": self.passed, **facts, "rows": self.rows, "of_rows": self.of_rows, "lines": lines}


def verify(
    tuned: TunedModel,
    client: EngineClient,
    console: Console,
    *,
    chosen: Chosen | None = None,
    concurrency: int = 4,
    weights: str | None = None,
    policy: Path | None = None,
    calls_in_text: bool = False,
    ids_only: bool = False,
) -> Verdict:
    """Compare an engine with the run's tuned model on its scored turns.

    Args:
        chosen: the turns to ask; None: all scored turns.
        concurrency: requests at a time.
        weights: the number type of the served weights, such as "q8_0"; None: as the engine says, otherwise the run's.
        calls_in_text: whether the server leaves calls in the text.
        policy: the routing policy to use with the engine; None: that of the engine's folder, or the run's.
        ids_only: ask only for answers to token ids. The engine's template, its parser and the policy are not checked.

    Raises:
        UserError: if the run has nothing to score, or the engine does not answer.
    """
    chosen = chosen or choose_turns(tuned)
    every, examples = chosen.every, chosen.asked
    if not examples:
        raise UserError(f"{tuned.run.path}: has no scored turns to verify; `toolhone train` writes its splits")
    weights = weights or client.facts.weights or tuned.hardware.dtype_name
    precision = checks.precision_of(weights)
    bounds = checks.BOUNDS[precision]
    asked, answers = reference_answers(tuned, every, examples, precision, console)
    identity = served_identity(tuned, client.facts, weights)
    base = _base_differences(asked, client, chosen, console) if client.facts.serves_base else None
    turns = observe(
        asked, client, chosen, answers, concurrency, console, calls_in_text=calls_in_text, ids_only=ids_only
    )
    predictions = engine_predictions(asked, turns, identity.engine, calls_in_text=calls_in_text)
    lines = compare(asked, turns, predictions, bounds, base, calls_in_text=calls_in_text)
    if not ids_only:
        lines.append(check_policy(tuned.run, identity, policy))
    reference = f"transformers {asked.hardware.dtype_name}"
    return Verdict(
        identity, client.kind, reference, len(examples), len(every), tuple(lines), tuple(predictions.values())
    )


def reference_answers(
    tuned: TunedModel, every: Sequence[Example], examples: Sequence[Example], precision: str, console: Console
) -> tuple[TunedModel, dict[str, Prediction]]:
    """Return the model that the engine is compared with, and its answers by id.

    The run's own answers are used if they are up to date, unless only the engine computes in float32. Otherwise
    transformers answers in float32, into `verify/transformers-float32.jsonl` of the run folder.
    """
    run, config = tuned.run, tuned.config.evaluate.model_copy(update={"engine": "transformers"})
    own = run.predictions(tuned.label)
    is_precise = precision != "float32" or tuned.hardware.dtype == torch.float32
    if is_precise and is_answered(tuned, f"predict:{tuned.label}", every, config, own):
        return tuned, _read(own)
    precise = replace(tuned, hardware=replace(tuned.hardware, dtype=torch.float32))
    path, stage = run.path / "verify" / "transformers-float32.jsonl", "verify:transformers"
    if not is_answered(precise, stage, every, config, path):
        predict_once(precise, stage, examples, "turns to compare with", config, path, console)
    return precise, _read(path)


def _read(path: Path) -> dict[str, Prediction]:
    return {row["id"]: Prediction.from_json(row) for _, row in read_jsonl(path)}


def _base_differences(tuned: TunedModel, client: EngineClient, chosen: Chosen, console: Console) -> list[float]:
    """Return how much the runner-ups' log-probabilities of the base model differ, on a few prompts.

    The prompts lack their first token. llama.cpp reuses what it computed for the beginning of an earlier prompt even if
    that was without the adapter, so later answers to these prompts would be wrong.
    """
    renderer = tuned.renderer
    probes = sample_turns(chosen.asked, _PROBES)
    prompts = [chosen.prompts[example.id][1][1:] for example in probes]
    with Progress("the base model's probabilities", None, "", console):
        model = load_for_inference(tuned.config.model, tuned.hardware, None).eval()
        found = decode.decode_greedily(model, prompts, decode.Prefix([], None), renderer.stop_ids(), _PROBE_TOKENS)
    del model
    release_memory(tuned.hardware.device)
    pairs = []
    for example, prompt, completion in zip(probes, prompts, found, strict=True):
        answer = client.complete(prompt, _PROBE_TOKENS, base=True)
        assert answer is not None
        pairs.append((answer, prediction_of(completion, example, prompt, renderer, "base", 0.0)))
    return checks.runner_up_differences(pairs)


def observe(
    tuned: TunedModel,
    client: EngineClient,
    chosen: Chosen,
    answers: Mapping[str, Prediction],
    concurrency: int,
    console: Console,
    *,
    calls_in_text: bool,
    ids_only: bool = False,
) -> list[Turn]:
    """Ask the engine for the prompt, the answer to ids and the chat answer of each example; or for the second only."""
    renderer, max_tokens = tuned.renderer, tuned.config.evaluate.max_new_tokens
    format = renderer.format.name

    def ask(example: Example) -> Turn:
        text, ids = chosen.prompts[example.id]
        needs_ids = renderer.encode(text) != ids
        messages, tools = wire_messages(example, keeps_thinking=renderer.thinking != "strip")
        prompt: list[int] | EngineError | None
        generation: Generation | EngineError | None
        try:
            prompt = None if ids_only else client.prompt_ids(messages, tools)
        except EngineError as error:
            prompt = error
        try:
            generation = client.complete(ids, max_tokens)
        except EngineError as error:
            generation = error
        turn = Turn(example, ids, needs_ids, answers[example.id], prompt, generation, None)
        if needs_ids or ids_only:  # as messages, the texts' control tokens would be read as tokens
            return turn

        def chat(*, raw: bool) -> Turn:
            try:
                return replace(turn, chat=client.chat(messages, tools, max_tokens, raw=raw))
            except EngineError as error:
                return replace(turn, chat=error)

        # The text of the answer to ids serves as well, unless something differs. Then both must read the same text.
        asked = chat(raw=not isinstance(generation, Generation))
        if not isinstance(asked.chat, ChatAnswer) or asked.chat.raw_text is not None:
            return asked
        read = own_reading(asked, format)
        is_equal = read is not None and call_fault(asked, read, format, in_text=calls_in_text) is None
        return asked if is_equal else chat(raw=True)

    found: dict[str, Turn] = {}
    pool = ThreadPoolExecutor(concurrency)
    try:
        futures = [pool.submit(ask, example) for example in chosen.asked]
        with Progress(f"{client.kind} answers", len(futures), "turns", console) as progress:
            for future in as_completed(futures):
                turn = future.result()
                found[turn.example.id] = turn
                progress.advance()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [found[example.id] for example in chosen.asked]


def wire_messages(example: Example, *, keeps_thinking: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the messages and tools of a request for the example's turn. Tools keep the names of training."""
    request = request_of(example)
    for tool in request.tools:
        tool["function"]["name"] = request.names[tool["function"]["name"]]
    for message, own in zip(request.messages, example.prompt, strict=True):
        for call, own_call in zip(message.get("tool_calls", ()), own.tool_calls, strict=True):
            call["function"]["name"] = own_call.name
        if keeps_thinking and own.thinking:
            message["reasoning_content"] = own.thinking
    return request.messages, request.tools


def engine_predictions(
    tuned: TunedModel, turns: Iterable[Turn], label: str, *, calls_in_text: bool
) -> dict[str, Prediction]:
    """Return the engine's answers as predictions, by id: those to ids, or to messages if it takes no ids. Refused turns
    have none."""
    found = {}
    for turn in turns:
        if isinstance(turn.generation, Generation):
            found[turn.example.id] = _prediction_of_ids(tuned, turn, turn.generation, label)
        elif turn.generation is None and isinstance(turn.chat, ChatAnswer):
            found[turn.example.id] = _prediction_of_chat(tuned, turn, turn.chat, label, calls_in_text=calls_in_text)
    return found


def _prediction_of_ids(tuned: TunedModel, turn: Turn, answer: Generation, label: str) -> Prediction:
    stopped = bool(answer.ids) and answer.ids[-1] in tuned.renderer.stop_ids()
    completion = decode.Completion(list(answer.ids), answer.logprobs, answer.runner_ups, stopped=stopped)
    made = prediction_of(completion, turn.example, turn.trained_ids, tuned.renderer, label, answer.latency_ms)
    return replace(made, finish_reason=answer.finish_reason)  # some engines leave out the stop token


def _prediction_of_chat(
    tuned: TunedModel, turn: Turn, answer: ChatAnswer, label: str, *, calls_in_text: bool
) -> Prediction:
    """Return a chat answer as a prediction, without tokens: such an engine gives no ids."""
    format = tuned.renderer.format
    finish: FinishReason = "length" if answer.finish_reason == "length" else "stop"
    text = answer.content if calls_in_text else format.write(answer.content, answer.calls, finish)
    prose_end = 0 if calls_in_text else len(answer.content)
    tokens = answer.prompt_tokens or len(turn.trained_ids), answer.completion_tokens or 0
    return Prediction(
        turn.example.id, label, text, finish, *tokens, answer.latency_ms, prose_end=prose_end, format=format.name
    )


def compare(
    tuned: TunedModel,
    turns: Sequence[Turn],
    predictions: Mapping[str, Prediction],
    bounds: Bounds,
    base: Sequence[float] | None,
    *,
    calls_in_text: bool,
) -> list[Line]:
    """Return the lines of all checks except the policy's. `base` has the differences of the base model's runner-ups;
    None if the engine serves no separate base model."""
    renderer, stop_ids = tuned.renderer, tuned.renderer.stop_ids()
    stop_texts = [renderer.decode([id_]) for id_ in sorted(stop_ids)]
    format = renderer.format.name
    pairs = [(turn.generation, turn.reference) for turn in turns if isinstance(turn.generation, Generation)]
    ours = checks.runner_up_differences(pairs)
    if base is None:
        remedy = "these are other weights; serve the model merged from this run's adapter and base"
        identity = [checks.check_weights("weights", ours, bounds, remedy)]
    else:
        remedy = f"this is another base model; serve {tuned.config.model.name}"
        identity = [checks.check_weights("base model", base, bounds, remedy)]
        remedy = f"this is another adapter; serve {tuned.adapter}"
        identity.append(checks.check_weights("adapter", ours, bounds, remedy))
    unsound = gold_faults([turn.example for turn in turns])
    scored = [turn for turn in turns if turn.example.id in predictions and turn.example.id not in unsound]
    return [
        *identity,
        checks.check_prompts(turns, renderer.decode),
        checks.check_control_tokens(turns),
        checks.check_stops(turns, stop_ids, stop_texts, renderer.decode),
        checks.check_greedy(turns, stop_ids, bounds, renderer.decode),
        checks.check_logprobs(turns, bounds),
        check_tool_calls(turns, format, in_text=calls_in_text),
        checks.check_accuracy(
            [score(turn.example, turn.reference, format) for turn in scored],
            [score(turn.example, predictions[turn.example.id], format) for turn in scored],
            bounds,
        ),
    ]


def write_verdict(verdict: Verdict, run: RunFolder, out: Path | None) -> Path:
    """Write the verdict as JSON, by default as `verify/<engine>.json` of the run. Returns its path.

    If every turn was asked, the engine's predictions and identity go to `verify/<engine>/`, for `toolhone route`.
    """
    folder = engine_folder(run, verdict.identity)
    if verdict.is_whole:
        write_jsonl(folder / PREDICTIONS, (prediction.to_json() for prediction in verdict.predictions))
        write_identity(folder / IDENTITY, verdict.identity)
    path = out or folder.with_name(f"{folder.name}.json")
    write_json(path, verdict.to_json())
    return path
