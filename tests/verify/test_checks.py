"""Each comparison of the parity gate, on recorded observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from scored_run import made_score

from toolhone.engines.client import ChatAnswer
from toolhone.engines.facts import Generation
from toolhone.engines.http import EngineError
from toolhone.formats.chat_format import RawCall
from toolhone.records import Example, Gold, Message, Prediction, Token, Tool, ToolCall
from toolhone.verify import checks
from toolhone.verify.checks import BOUNDS, Turn
from toolhone.verify.tool_calls import check_tool_calls

FLOAT32, QUANTISED = BOUNDS["float32"], BOUNDS["quantised"]
STOP = 9
TOOLS = (Tool("count", "", {"type": "object", "properties": {"n": {"type": "integer"}}}),)
ONE, TWO = ToolCall("count", {"n": 1}), ToolCall("count", {"n": 2})


def letters(ids: Sequence[int]) -> str:
    """Return a letter for each id, and the stop text for the stop id."""
    return "".join("<end>" if id_ == STOP else chr(97 + id_) for id_ in ids)


def call_text(*calls: ToolCall) -> str:
    return "\n".join(
        f'<tool_call>\n{{"name": "{c.name}", "arguments": {{"n": {c.arguments["n"]}}}}}\n</tool_call>' for c in calls
    )


def generation(*ids: int, off: float = 0.0, below: float = 0.0, finish: Any = "stop") -> Generation:
    """Return an answer whose log-probabilities are off by so much from those of `turn`."""
    text = letters([id_ for id_ in ids if id_ != STOP])
    return Generation(ids, (-0.1 + off,) * len(ids), (-3.0 + below,) * len(ids), text, finish, 1.0)


def turn(name: str = "r1", expected: Sequence[int] = (1, 2, STOP), **seen: Any) -> Turn:
    example = Example(
        name, name, (Message("user", "?"),), Message("assistant", "b"), Gold("none"), TOOLS, name, None, {}
    )
    tokens = tuple(Token(id_, letters([id_]).encode(), -0.1, -3.0) for id_ in expected)
    reference = Prediction(name, "tuned", "b", "stop", 3, len(expected), 1.0, tokens)
    given = {"prompt": [1, 2, 3], "generation": generation(1, 2, STOP), "chat": None, **seen}
    return Turn(example, [1, 2, 3], False, reference, **given)


def answer(*calls: RawCall, content: str = "", raw: str | None = None, finish: str = "stop") -> ChatAnswer:
    return ChatAnswer(content, calls, finish, raw, 3, 1, 1.0)


def test_the_first_unequal_prompt_is_shown_as_text_with_its_position() -> None:
    line = checks.check_prompts([turn(), turn("r2", prompt=[1, 2, 4, 3])], letters)
    assert line.passed is False
    assert line.figures == {"turns": 2, "equal": 1}
    assert "first: r2, token 2 after 'bc': training has 'd', the engine 'ed'" in line.detail


def test_a_prompt_that_is_only_longer_is_unequal() -> None:
    line = checks.check_prompts([turn(prompt=[1, 2, 3, 4])], letters)
    assert "token 3 after 'bcd': training has 'the end', the engine 'e'" in line.detail


def test_prompts_are_not_checked_if_the_engine_does_not_tell_them() -> None:
    assert checks.check_prompts([turn(prompt=None)], letters).result == "not checked"
    assert "refused: HTTP 400" in checks.check_prompts([turn(prompt=EngineError("HTTP 400"))], letters).detail


def test_without_ids_the_lengths_of_the_prompts_are_compared() -> None:
    line = checks.check_prompts([turn(prompt=None, chat=answer())], letters)
    assert line.result == "not checked"
    assert "1 of 1 prompts are as long as in training" in line.detail
    longer = replace(answer(), prompt_tokens=4)
    assert checks.check_prompts([turn(prompt=None, chat=longer)], letters).passed is False


def test_control_tokens_fail_only_if_the_turn_can_neither_be_sent_nor_is_refused() -> None:
    special = replace(turn(prompt=[1, 9]), needs_ids=True)
    assert checks.check_control_tokens([special]).passed
    refused = replace(special, generation=EngineError("HTTP 400: no ids"))
    assert "1 are refused (HTTP 400: no ids)" in checks.check_control_tokens([refused]).detail
    assert checks.check_control_tokens([replace(special, generation=None)]).passed is False


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (generation(1, 2, STOP, 5, 5, finish="length"), "generation runs on after <end>"),
        (generation(1, 2, STOP, finish="length"), "the finish reason is length"),
        (generation(1), "stops before the end of the turn"),
        (replace(generation(1, 2, STOP), text="bc<end>"), "the answer's text contains <end>"),
    ],
)
def test_a_wrong_end_of_an_answer_is_named(made: Generation, fault: str) -> None:
    line = checks.check_stops([turn(generation=made)], [STOP], ["<end>"], letters)
    assert line.passed is False
    assert fault in line.detail


@pytest.mark.parametrize("made", [generation(1, 2, STOP), generation(1, 2), generation(7, 8, 7, finish="length")])
def test_an_answer_may_end_with_or_without_the_stop_id_or_at_the_limit(made: Generation) -> None:
    assert checks.check_stops([turn(generation=made)], [STOP], ["<end>"], letters).passed


def test_a_stop_text_in_a_chat_answer_is_a_fault() -> None:
    line = checks.check_stops([turn(chat=answer(content="b<end>"))], [STOP], ["<end>"], letters)
    assert "the chat answer contains <end>" in line.detail


def test_greedy_answers_are_counted_and_the_first_difference_is_shown() -> None:
    turns = [turn(f"r{n}") for n in range(99)]
    assert checks.check_greedy(
        [*turns, turn("r99", generation=generation(1, 5, STOP))], [STOP], FLOAT32, letters
    ).passed
    two = [turn(name, generation=generation(1, 5, STOP)) for name in ("a", "b")]
    line = checks.check_greedy([*turns[:98], *two], [STOP], FLOAT32, letters)
    assert line.passed is False
    assert "98 of 100 equal" in line.detail
    assert (
        "a, token 1 after 'b': transformers has 'c', the engine 'f', where the likeliest two differ by 2.9"
        in line.detail
    )


@pytest.mark.parametrize(
    ("runner_up", "bounds", "passed"), [(-0.3, QUANTISED, True), (-3.0, QUANTISED, False), (-0.3, FLOAT32, False)]
)
def test_answers_may_part_at_a_near_tie_unless_both_are_in_float32(
    runner_up: float, bounds: checks.Bounds, passed: bool
) -> None:
    found = turn(generation=generation(1, 5, STOP))
    tokens = tuple(replace(token, runner_up=runner_up) for token in found.reference.tokens)
    found = replace(found, reference=replace(found.reference, tokens=tokens))
    assert checks.check_greedy([found], [STOP], bounds, letters).passed is passed


def test_a_refused_answer_fails_the_greedy_line() -> None:
    line = checks.check_greedy([turn(generation=EngineError("HTTP 500: broken"))], [STOP], QUANTISED, letters)
    assert line.passed is False
    assert "1 refused: HTTP 500: broken" in line.detail


def test_an_answer_that_runs_on_is_equal_up_to_its_stop() -> None:
    made = generation(1, 2, STOP, 5, 5, finish="length")
    assert checks.check_greedy([turn(generation=made)], [STOP], FLOAT32, letters).passed


def test_log_probabilities_are_bounded_by_mean_and_by_largest() -> None:
    assert checks.check_logprobs([turn()], FLOAT32).passed
    assert checks.check_logprobs([turn(generation=generation(1, 2, STOP, off=0.01))], FLOAT32).passed is False
    assert checks.check_logprobs([turn(generation=generation(1, 2, STOP, off=0.01))], QUANTISED).passed
    one_far = [turn() for _ in range(300)] + [turn(generation=generation(1, 2, STOP, off=2.0))]
    line = checks.check_logprobs(one_far, QUANTISED)
    assert line.figures["mean"] < QUANTISED.logprob_mean
    assert line.passed is False


def test_log_probabilities_after_a_difference_are_not_compared() -> None:
    line = checks.check_logprobs([turn(generation=generation(1, 5, STOP))], FLOAT32)
    assert line.figures["tokens"] == 1


def test_other_weights_show_in_the_runner_ups_even_if_the_answers_are_equal() -> None:
    other = turn(generation=generation(1, 2, STOP, below=1.5))
    differences = checks.runner_up_differences([(other.generation, other.reference)])  # type: ignore[list-item]
    assert differences == pytest.approx([1.5, 1.5, 1.5])
    line = checks.check_weights("adapter", differences, QUANTISED, "this is another adapter")
    assert line.passed is False
    assert "this is another adapter" in line.detail
    assert checks.check_weights("adapter", [0.001], FLOAT32, "").passed


@pytest.mark.parametrize(
    ("chat", "fault"),
    [
        (
            answer(RawCall("count", '{"n": 1}'), raw=call_text(ONE, TWO)),
            'dropped 1 of 2 calls, such as count({"n": 2})',
        ),
        (answer(raw=call_text(ONE), content=call_text(ONE)), "dropped 1 of 1 calls"),
        (answer(RawCall("count", '{"n": 1}'), raw="hello"), 'invented count({"n": 1})'),
        (answer(RawCall("count", '{"n": "1"}'), raw=call_text(ONE)), 'changed count({"n": 1}) to count({"n": "1"})'),
        (answer(RawCall("count", '{"n": 1.0}'), raw=call_text(ONE)), 'to count({"n": 1.0})'),
        (answer(RawCall("count", "{"), raw=call_text(ONE)), "to count({)"),
        (answer(raw="hello", content="hell"), "text changed from 'hello' to 'hell'"),
    ],
)
def test_a_fault_of_the_engines_parser_is_named(chat: ChatAnswer, fault: str) -> None:
    line = check_tool_calls([turn(chat=chat)], "hermes")
    assert line.passed is False
    assert fault in line.detail


def test_calls_in_any_spelling_of_their_json_are_equal() -> None:
    chat = answer(RawCall("count", '{ "n":1 }'), RawCall("count", '{"n": 2}'), raw=call_text(ONE, TWO))
    line = check_tool_calls([turn(chat=chat), turn(chat=answer(raw="hello<|im_end|>", content="hello"))], "hermes")
    assert line.passed
    assert "parallel 1 of 1, text 1 of 1" in line.detail


def test_a_refused_chat_is_shown_and_an_unreadable_turn_is_left_out() -> None:
    refused = turn(
        chat=EngineError("HTTP 500: cannot parse"), generation=replace(generation(), text=call_text(ONE, TWO))
    )
    line = check_tool_calls([refused], "hermes")
    assert "parallel 0 of 1; 1 differ" in line.detail
    assert "refused: HTTP 500: cannot parse" in line.detail
    unreadable = answer(raw="<tool_call>\n{broken\n</tool_call>", content="whatever")
    assert check_tool_calls([turn(chat=unreadable)], "hermes").result == "not checked"


def test_calls_left_in_the_text_must_be_whole_there() -> None:
    text = call_text(ONE, TWO)
    assert check_tool_calls([turn(chat=answer(raw=text, content=text))], "hermes", in_text=True).passed
    cut = answer(raw=text, content=call_text(ONE))
    assert "dropped 1 of 2" in check_tool_calls([turn(chat=cut)], "hermes", in_text=True).detail


def rows(outcomes: str) -> list[Any]:
    return [made_score(id=f"r{n}", conversation_id=f"r{n}", exact=right == "1") for n, right in enumerate(outcomes)]


def test_in_float32_at_most_two_of_242_turns_may_change() -> None:
    before = rows("1" * 242)
    assert checks.check_accuracy(before, rows("1" * 240 + "00"), FLOAT32).passed
    line = checks.check_accuracy(before, rows("1" * 239 + "000"), FLOAT32)
    assert line.passed is False
    assert "239 of 242 right, 242 with transformers: -1.2 points" in line.detail
    assert "3 turns changed, 3 to wrong and 0 to right" in line.detail


def test_quantised_accuracy_passes_if_the_interval_stays_above_two_points_less() -> None:
    before = rows("1" * 200 + "0" * 42)
    assert checks.check_accuracy(before, rows("1" * 199 + "0" * 43), QUANTISED).passed
    line = checks.check_accuracy(before, rows("1" * 194 + "0" * 48), QUANTISED)
    assert line.figures["low"] < -0.02
    assert line.passed is False


def test_one_changed_turn_of_a_few_is_no_proof() -> None:
    assert checks.check_accuracy(rows("1" * 20), rows("1" * 19 + "0"), QUANTISED).passed
    assert checks.check_accuracy(rows("1" * 20), rows("1" * 16 + "0000"), QUANTISED).passed is False


@pytest.mark.parametrize(
    ("weights", "precision"),
    [("f32", "float32"), ("float32", "float32"), ("bf16", "16 bits"), ("q8_0", "quantised"), ("q4_k", "quantised")],
)
def test_each_number_type_has_its_bounds(weights: str, precision: str) -> None:
    assert checks.precision_of(weights) == precision
    assert precision in BOUNDS
