"""The comparisons of the parity gate, as functions of recorded observations. No engine and no model is needed here.

In: a `Turn` for each scored turn, with the prompt of training, the reference answer of transformers, and what the
engine gave. Out: one `Line` for each check. The lines come in an order in which the first failing one names the cause:
another adapter also changes answers, but its own line stands above those.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from toolhone.engines.client import ChatAnswer
from toolhone.engines.facts import Generation
from toolhone.engines.http import EngineError
from toolhone.evaluate.metrics import compare_all
from toolhone.records import Example, Prediction, Score

Kind = Literal["parallel", "single", "text"]
Decode = Callable[[Sequence[int]], str]

_SHOWN_TOKENS = 6  # of each side, around a difference
_ENOUGH_ROWS = 200
"""From this many rows on, the interval of the accuracy's difference decides. With fewer, one turn moves its end by
more than the bound."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What rounding may change at a precision. Log-probabilities are in nats.

    Attributes:
        equal: least share of equal greedy answers.
        logprob_mean, logprob_max: of the chosen tokens, the largest mean and single difference.
        runner_up_mean: the same for the runner-ups, which lie further down, where another adapter shows most.
        changed: largest share of turns whose correctness may change; None: the interval of the difference decides.
        least_difference: least lower end of the 95% interval of the difference in accuracy.
    """

    equal: float
    logprob_mean: float
    logprob_max: float
    runner_up_mean: float
    changed: float | None
    least_difference: float = -0.02


BOUNDS: dict[str, Bounds] = {
    "float32": Bounds(0.99, 0.001, 0.07, 0.02, 2 / 242),
    "16 bits": Bounds(0.95, 0.01, 0.7, 0.3, None),
    "quantised": Bounds(0.90, 0.05, 1.5, 0.4, None),
}
"""By precision. Measured with tuned Gemma 3 270M adapters on 242 turns, in llama.cpp unless it says vLLM:

float32: chosen tokens mean 0.00017, largest 0.013; runner-ups mean 0.0046; 241 answers equal.
bfloat16, vLLM, 20 turns: chosen tokens mean 0.0011, largest 0.07.
Q8_0: chosen tokens mean 0.0049, largest 0.25; runner-ups mean 0.13; 228 answers equal.
Q8_0 after two steps of training, 12 turns: chosen tokens mean 0.021, largest 0.52; runner-ups mean 0.12.

The bounds are two to five times as wide, because a largest value grows with the number of tokens. Another adapter on
the same base, tuned on the same rows in another chat format, has runner-ups that differ by 0.72."""


def precision_of(weights: str) -> str:
    """Return the key of BOUNDS for a number type, such as "f32", "bfloat16" or "q8_0"."""
    if weights in ("f32", "float32"):
        return "float32"
    return "16 bits" if weights in ("f16", "bf16", "float16", "bfloat16") else "quantised"


@dataclass(frozen=True, slots=True)
class Turn:
    """A scored turn, and what the engine gave for it.

    An `EngineError` is a refusal with its reason; None: this engine cannot be asked.

    Attributes:
        trained_ids: the prompt as in training.
        needs_ids: whether texts of the prompt contain control tokens, so that it can be sent only as ids.
        reference: the answer of transformers.
        prompt: the ids that the engine makes from the messages.
        generation: its answer to `trained_ids`.
        chat: its answer to the messages, with the calls that its own parser read.
    """

    example: Example
    trained_ids: list[int]
    needs_ids: bool
    reference: Prediction
    prompt: list[int] | EngineError | None
    generation: Generation | EngineError | None
    chat: ChatAnswer | EngineError | None

    @property
    def kind(self) -> Kind:
        return kind_of(self.example)

    @property
    def reference_ids(self) -> list[int]:
        return [token.id for token in self.reference.tokens]


def kind_of(example: Example) -> Kind:
    """Return what the gold turn is: several calls, one call, or text."""
    calls = len(example.turn.tool_calls)
    return "parallel" if calls > 1 else "single" if calls else "text"


@dataclass(frozen=True, slots=True)
class Line:
    """The result of a check. `passed` is None if the engine does not tell what the check needs."""

    name: str
    passed: bool | None
    detail: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def result(self) -> str:
        return {True: "pass", False: "FAIL", None: "not checked"}[self.passed]


def check_prompts(turns: Sequence[Turn], decode: Decode) -> Line:
    """Check that the engine makes the prompts of training from messages."""
    name = "prompt ids"
    asked = [turn for turn in turns if turn.prompt is not None and not turn.needs_ids]
    if not asked:
        return _check_prompt_lengths(name, turns)
    equal = sum(turn.prompt == turn.trained_ids for turn in asked)
    figures = {"turns": len(asked), "equal": equal}
    if equal == len(asked):
        return Line(name, True, f"{equal} of {len(asked)} equal those of training", figures)
    first = next(turn for turn in asked if turn.prompt != turn.trained_ids)
    if isinstance(first.prompt, EngineError):
        shown = f"refused: {first.prompt}"
    else:
        assert first.prompt is not None
        shown = shown_difference(first.trained_ids, first.prompt, decode, "training has", "the engine")
    detail = f"{equal} of {len(asked)} equal those of training; first: {first.example.id}, {shown}"
    return Line(name, False, f"{detail}; serve the chat template that is saved beside the adapter", figures)


def _check_prompt_lengths(name: str, turns: Sequence[Turn]) -> Line:
    """Check the number of prompt tokens that the chat endpoint reports, where it tells no ids."""
    lengths = [
        (turn.chat.prompt_tokens, len(turn.trained_ids))
        for turn in turns
        if isinstance(turn.chat, ChatAnswer) and turn.chat.prompt_tokens is not None
    ]
    if not lengths:
        return Line(name, None, "the engine tells neither the ids nor the length of its prompts")
    equal = sum(theirs == ours for theirs, ours in lengths)
    detail = f"the engine tells no ids; {equal} of {len(lengths)} prompts are as long as in training"
    if equal < len(lengths):
        return Line(name, False, f"{detail}; serve the chat template that is saved beside the adapter")
    return Line(name, None, detail, {"turns": len(lengths), "equal_lengths": equal})


def check_control_tokens(turns: Sequence[Turn]) -> Line:
    """Check that prompts whose texts contain control tokens can be sent as ids, or are refused."""
    name = "control tokens in texts"
    special = [turn for turn in turns if turn.needs_ids]
    if not special:
        return Line(name, True, "no turn contains any", {"turns": 0})
    as_messages = [turn for turn in special if turn.prompt == turn.trained_ids]
    refused = [turn for turn in special if isinstance(turn.generation, EngineError)]
    as_ids = [turn for turn in special if isinstance(turn.generation, Generation)]
    figures = {"turns": len(special), "equal_as_messages": len(as_messages), "sent_as_ids": len(as_ids)}
    detail = f"{len(special)} turns: {len(as_messages)} are safe as messages, {len(as_ids)} can be sent as ids"
    if refused:
        detail += f", {len(refused)} are refused ({refused[0].generation})"
    unsafe = [turn for turn in special if turn.prompt != turn.trained_ids]
    if unsafe:
        detail += f"; send turns such as {unsafe[0].example.id} as ids, because the engine reads the text as tokens"
    covered = {turn.example.id for turn in (*as_messages, *as_ids, *refused)}
    return Line(name, len(covered) == len(special), detail, figures)


def runner_up_differences(pairs: Iterable[tuple[Generation, Prediction]]) -> list[float]:
    """Return how much the runner-ups' log-probabilities differ at each token, up to where two answers part.

    At that token both are still comparable: each is the second largest value of its model."""
    found = []
    for generation, reference in pairs:
        same = common_length(generation.ids, [token.id for token in reference.tokens])
        for engine, token in list(zip(generation.runner_ups, reference.tokens, strict=False))[: same + 1]:
            if engine is not None and token.runner_up is not None:
                found.append(abs(engine - token.runner_up))
    return found


def check_weights(name: str, differences: Sequence[float], bounds: Bounds, remedy: str) -> Line:
    """Check that the engine serves the run's weights, by the log-probabilities of the runner-ups.

    Args:
        differences: what `runner_up_differences` returns.
        remedy: which weights may be wrong.
    """
    if not differences:
        return Line(name, None, "the engine gives no log-probabilities of answers to ids")
    mean = fmean(differences)
    figures = {"tokens": len(differences), "runner_up_mean": mean, "bound": bounds.runner_up_mean}
    detail = f"runner-ups' log-probabilities differ by {mean:.2g} on average (bound {bounds.runner_up_mean:g})"
    passed = mean <= bounds.runner_up_mean
    return Line(name, passed, detail if passed else f"{detail}: {remedy}", figures)


def check_stops(turns: Sequence[Turn], stop_ids: Collection[int], stop_texts: Collection[str], decode: Decode) -> Line:
    """Check that generation ends at the format's stop ids, with the finish reason "stop", and shows no stop text."""
    name = "stops"
    answered = [turn for turn in turns if isinstance(turn.generation, Generation | None)]
    faults: dict[str, list[Turn]] = {}
    checked = 0
    for turn in answered:
        fault = None
        if isinstance(turn.generation, Generation):
            checked += 1
            fault = _stop_fault(turn, turn.generation, stop_ids, stop_texts, decode)
        if fault is None and isinstance(turn.chat, ChatAnswer):
            checked += turn.generation is None
            leaked = next((text for text in stop_texts if text in turn.chat.content), None)
            fault = f"the chat answer contains {leaked}" if leaked is not None else None
        if fault is not None:
            faults.setdefault(fault, []).append(turn)
    if not checked:
        return Line(name, None, "the engine answered no turn")
    bad = sum(map(len, faults.values()))
    figures = {"turns": checked, "ended_right": checked - bad}
    if not faults:
        return Line(name, True, f"{checked} of {checked} answers end where they should", figures)
    fault, found = max(faults.items(), key=lambda item: len(item[1]))
    detail = f"{bad} of {checked} answers end wrongly; {fault} (first: {found[0].example.id})"
    return Line(name, False, f"{detail}; give the engine the stop ids {sorted(stop_ids)}", figures)


def _stop_fault(
    turn: Turn, generation: Generation, stop_ids: Collection[int], stop_texts: Collection[str], decode: Decode
) -> str | None:
    inside = next((id_ for id_ in generation.ids[:-1] if id_ in stop_ids), None)
    if inside is not None:
        return f"generation runs on after {decode([inside])}"
    leaked = next((text for text in stop_texts if text in generation.text), None)
    if leaked is not None:
        return f"the answer's text contains {leaked}"
    ours, expected = until_stop(generation.ids, stop_ids), until_stop(turn.reference_ids, stop_ids)
    ends = bool(generation.ids) and generation.ids[-1] in stop_ids
    if generation.finish_reason == "length" and ends:
        return f"{decode(generation.ids[-1:])} ends the answer, but the finish reason is length"
    is_cut = len(ours) < len(expected) and list(expected[: len(ours)]) == list(ours)
    if generation.finish_reason == "stop" and not ends and is_cut:
        return "generation stops before the end of the turn"
    return None


def check_greedy(turns: Sequence[Turn], stop_ids: Collection[int], bounds: Bounds, decode: Decode) -> Line:
    """Check that the engine's greedy answers equal the reference's, up to the stop token.

    With 16 bits or fewer, an answer may also differ from a token on at which the reference's likeliest two are nearly
    tied: their gap is at most the bound of the runner-ups. An adapter that was hardly trained has many such tokens.
    """
    name = "greedy answers"
    refused = [turn for turn in turns if isinstance(turn.generation, EngineError)]
    pairs = list(_answers(turns, stop_ids))
    if not pairs and not refused:
        return Line(name, None, "the engine does not answer token ids")
    equal = sum(ours == expected for _, ours, expected in pairs)
    total = len(pairs) + len(refused)
    figures: dict[str, Any] = {"turns": total, "equal": equal, "refused": len(refused), "least_share": bounds.equal}
    detail = f"{equal} of {total} equal those of transformers (at least {bounds.equal:.0%})"
    unlike = [pair for pair in pairs if pair[1] != pair[2]]
    are_ties = False
    if unlike:
        gaps = [_gap(turn, common_length(ours, expected)) for turn, ours, expected in unlike]
        figures["gaps"] = gaps
        near = bounds.runner_up_mean
        are_ties = bounds.changed is None and all(gap is not None and gap <= near for gap in gaps)
        if are_ties:
            detail += f", the others part where the likeliest two differ by at most {near:g}"
        turn, ours, expected = unlike[0]
        detail += f"; first difference: {turn.example.id}, "
        detail += shown_difference(expected, ours, decode, "transformers has", "the engine")
        if gaps[0] is not None:
            detail += f", where the likeliest two differ by {gaps[0]:.2g}"
    if refused:
        detail += f"; {len(refused)} refused: {refused[0].generation}"
    passed = equal >= bounds.equal * total or are_ties
    return Line(name, passed and not refused, detail, figures)


def _answers(turns: Sequence[Turn], stop_ids: Collection[int]) -> Iterator[tuple[Turn, list[int], list[int]]]:
    """Yield the turns that the engine answered, with its ids and the reference's, both without the stop token."""
    for turn in turns:
        if isinstance(turn.generation, Generation):
            yield turn, until_stop(turn.generation.ids, stop_ids), until_stop(turn.reference_ids, stop_ids)


def _gap(turn: Turn, place: int) -> float | None:
    """Return by how much the reference prefers its token at this place to the runner-up."""
    token = turn.reference.tokens[place] if place < len(turn.reference.tokens) else None
    return None if token is None or token.runner_up is None else token.logprob - token.runner_up


def check_logprobs(turns: Sequence[Turn], bounds: Bounds) -> Line:
    """Check the log-probabilities of the chosen tokens, as far as the answers are equal."""
    name = "log-probabilities"
    found = []
    for turn in turns:
        if isinstance(turn.generation, Generation):
            same = common_length(turn.generation.ids, turn.reference_ids)
            tokens = turn.reference.tokens[:same]
            found += [
                abs(ours - token.logprob) for ours, token in zip(turn.generation.logprobs[:same], tokens, strict=True)
            ]
    if not found:
        return Line(name, None, "no token of an answer can be compared")
    mean, largest = fmean(found), max(found)
    figures = {
        "tokens": len(found),
        "mean": mean,
        "max": largest,
        "bounds": {"mean": bounds.logprob_mean, "max": bounds.logprob_max},
    }
    detail = (
        f"mean difference {mean:.2g} (bound {bounds.logprob_mean:g}), largest {largest:.2g} (bound "
        f"{bounds.logprob_max:g}), {len(found):,} tokens"
    )
    return Line(name, mean <= bounds.logprob_mean and largest <= bounds.logprob_max, detail, figures)


def check_accuracy(reference: Sequence[Score], engine: Sequence[Score], bounds: Bounds) -> Line:
    """Check the accuracy through the engine against that of the reference, on the same turns."""
    name = "accuracy"
    if not engine:
        return Line(name, None, "no answer of the engine can be scored")
    found = next(
        entry
        for entry in compare_all({"transformers": reference, "engine": engine})
        if entry["measure"] == "exact_match"
    )
    lost, gained = found["mcnemar"]["first_only"], found["mcnemar"]["second_only"]
    right, total = sum(score.exact for score in engine), len(engine)
    before = sum(score.exact for score in reference)
    low, high = (found["value"] if found[end] is None else found[end] for end in ("low", "high"))
    changed = lost + gained
    detail = (
        f"{right} of {total} right, {before} with transformers: {100 * found['value']:+.1f} points (95% from "
        f"{100 * low:+.1f} to {100 * high:+.1f}); {changed} turns changed, {lost} to wrong and {gained} to right"
    )
    if bounds.changed is not None:
        passed = changed <= max(1, bounds.changed * total)
    elif total >= _ENOUGH_ROWS:
        passed = low > bounds.least_difference
    else:
        passed = found["value"] >= bounds.least_difference or lost - gained <= 1
    figures = {
        "right": right,
        "turns": total,
        "transformers_right": before,
        "to_wrong": lost,
        "to_right": gained,
        **{key: found[key] for key in ("value", "low", "high", "clustered_by")},
        "p_value": found["mcnemar"]["p_value"],
    }
    return Line(name, passed, detail, figures)


def until_stop(ids: Sequence[int], stop_ids: Collection[int]) -> list[int]:
    """Return the ids before the first stop id."""
    end = next((n for n, id_ in enumerate(ids) if id_ in stop_ids), len(ids))
    return list(ids[:end])


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many ids two sequences begin with in common."""
    shorter = min(len(one), len(other))
    return next((n for n in range(shorter) if one[n] != other[n]), shorter)


def shown_difference(expected: Sequence[int], found: Sequence[int], decode: Decode, whose: str, others: str) -> str:
    """Return the first difference of two sequences of ids as text, with its position."""
    place = common_length(expected, found)
    before = decode(expected[max(0, place - _SHOWN_TOKENS) : place])
    ours, theirs = (decode(ids[place : place + _SHOWN_TOKENS]) or "the end" for ids in (expected, found))
    return f"token {place} after {before!r}: {whose} {ours!r}, {others} {theirs!r}"
