"""Signals of answers with known token probabilities, and the alignment of tokens with the text."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.chat.parse import parse_turn
from toolhone.data.escalation import ESCALATE, escalate_tool
from toolhone.errors import UserError
from toolhone.formats import FORMATS
from toolhone.formats.call_json import call_spans
from toolhone.formats.chat_format import RawCall
from toolhone.records import Example, FormatName, Gold, GoldCall, Message, Prediction, Token, Tool, ToolCall
from toolhone.route.confidence import FEATURES, Gate, Signals, align, signals

Piece = tuple[str, float] | tuple[str, float, float]


def tool(name: str, required: tuple[str, ...] = (), **properties: str) -> Tool:
    schema = {name: {"type": kind} for name, kind in properties.items()}
    return Tool(name, "", {"type": "object", "properties": schema, "required": list(required)})


TOOLS = (
    tool("query_order", ("order_id",), order_id="string", note="string", days="integer"),
    tool("transfer_to_human"),
    tool("update", address="object", tags="array"),
    escalate_tool(),
)


def example(said: str = "where is ORD-20?", *before: Message, tools: tuple[Tool, ...] = TOOLS) -> Example:
    prompt = (Message("system", "Be kind."), *before, Message("user", said))
    return Example("c/1", "c", prompt, Message("assistant", "x"), Gold("none"), tools, "rows.jsonl:1", None, {})


def predicted(*pieces: Piece, finish_reason: Any = "stop", end: float | None = 1.0) -> Prediction:
    """A prediction built from pieces of text, each with its probability and optionally that of the runner-up. `end` is
    the probability of the end of the turn."""
    all_pieces = [*pieces, ("<|im_end|>", end)] if end is not None else list(pieces)
    tokens = tuple(
        Token(n, piece[0].encode(), math.log(piece[1]), math.log(piece[2]) if len(piece) > 2 else None)
        for n, piece in enumerate(all_pieces)
    )
    text = "".join(piece[0] for piece in pieces)
    return Prediction("c/1", "m", text, finish_reason, 1, len(tokens), 1.0, tokens)


def features(found: Signals) -> dict[str, float]:
    assert found.features is not None
    return {name: round(value, 6) for name, value in zip(FEATURES, found.features, strict=True)}


CALL: list[Piece] = [
    ("<tool_call>", 0.9),
    ('\n{"', 0.95),
    ("name", 0.99),
    ('": "', 0.98),
    ("query", 0.8),
    ("_order", 0.7),
    ('", "', 0.97),
    ("arguments", 0.96),
    ('": {"', 0.94),
    ("order_id", 0.93),
    ('": "', 0.92),
    ("ORD", 0.6),
    ("-20", 0.5),
    ('"}}\n', 0.4),
    ("</tool_call>", 0.89),
]


def test_the_features_of_a_call_come_from_its_tokens() -> None:
    found = signals(predicted(*CALL, end=0.88), example(), "hermes")
    assert (found.gate, found.escalated) == (None, False)
    assert features(found) == {
        "decision": round(0.9 * 0.95, 6),
        "name_product": round(0.8 * 0.7 * 0.97, 6),  # the closing quote ends the name
        "name_minimum": 0.7,
        "value_minimum": 0.4,  # the token of the closing quote, which ends the value
        "value_mean": 0.5,
        "value_quantile": 0.42,
        "value_margin": 0.0,  # without a runner-up, the lower bound max(0, 2 x 0.4 - 1)
        "frame_minimum": 0.88,
        "arguments": 1,
        "called": 1,
        "values_in_prompt": 1,
        "codes_left": 0,
        "escalated": 0,
    }


def test_a_token_that_contains_a_value_and_its_quote_counts_for_the_value() -> None:
    opening = '<tool_call>{"name": "query_order", "arguments": {"order_id": '
    straddling = predicted((opening, 0.9), ('"ORD', 0.3), ('-20"}}</tool_call>', 0.2))
    assert features(signals(straddling, example(), "hermes"))["value_mean"] == 0.25
    # A token with only the opening quote does not count for the value.
    apart = predicted((opening, 0.9), ('"', 0.1), ("ORD", 0.3), ('-20"}}</tool_call>', 0.2))
    found = features(signals(apart, example(), "hermes"))
    assert (found["value_mean"], found["frame_minimum"]) == (0.25, 0.1)


def test_the_token_after_a_number_counts_for_it() -> None:
    opening = '<tool_call>{"name": "query_order", "arguments": {"order_id": "ORD-20", "days": '
    tokens = [("1", 0.8), ("5", 0.7), ("}}", 0.6), ("</tool_call>", 0.5)]
    found = features(signals(predicted((opening, 1.0), *tokens), example(), "hermes"))
    assert found["value_minimum"] == 0.6
    assert (found["frame_minimum"], found["arguments"]) == (0.5, 2)


def test_a_nested_argument_counts_as_one_value() -> None:
    opening = '<tool_call>{"name": "update", "arguments": {"address": '
    tokens = [('{"city": ', 0.9), ('"', 0.3), ("杭州", 0.8), ('", "n": [', 0.7), ("1, ", 0.6), ("2]}", 0.5)]
    found = features(signals(predicted((opening, 1.0), *tokens, ("}}</tool_call>", 0.2)), example(), "hermes"))
    assert (found["value_minimum"], found["frame_minimum"], found["arguments"]) == (0.3, 0.2, 1)
    assert found["values_in_prompt"] == 0


def test_several_calls_count_together_and_the_opening_of_a_further_one_counts_as_frame() -> None:
    second: list[Piece] = [
        ("\n<tool_call>", 0.3),
        ('{"name": "', 1.0),
        ("transfer_to_human", 0.55),
        ('", "arguments": {', 0.9),
        ("}}", 0.9),
        ("</tool_call>", 1.0),
    ]
    found = features(signals(predicted(*CALL, *second), example(), "hermes"))
    assert found["name_product"] == round(0.8 * 0.7 * 0.97 * 0.55 * 0.9, 6)
    assert (found["name_minimum"], found["frame_minimum"]) == (0.55, 0.3)
    assert (found["called"], found["arguments"], found["value_minimum"]) == (2, 1, 0.4)


@pytest.mark.parametrize(
    ("format", "opening", "closing"),
    [
        ("hermes", [("<tool", 0.5), ("_call>", 0.8), ('{"', 0.5)], "</tool_call>"),
        ("hermes", [("Let me look.", 0.1), ("\n", 0.5), ("<tool_call>", 0.8), ('{"', 0.5)], "</tool_call>"),
        ("llama3", [('{"', 0.2)], ""),
        ("llama3", [("<|python_tag|>", 0.4), ('{"', 0.5)], ""),
        ("llama3", [("Sure:", 0.3), ("\n", 0.4), ('{"', 0.5)], ""),
        ("gemma", [('{"', 0.2)], ""),
        ("gemma", [("```", 0.8), ("json", 0.5), ("\n", 1.0), ('{"', 0.5)], "\n```"),
        ("json", [('{"', 0.2)], ""),
        ("json", [("[", 0.4), ('{"', 0.5)], "]"),
        ("json", [("``", 0.8), ("`json", 0.5), ("\n", 1.0), ('{"', 0.5)], "\n```"),
        ("json", [("<think>", 0.1), (' {"name": "f"} ', 0.1), ("</think>", 0.1), ("\n\n", 0.4), ('{"', 0.5)], ""),
    ],
)
def test_the_decision_is_the_probability_of_the_tokens_that_open_the_first_call(
    format: FormatName, opening: list[Piece], closing: str
) -> None:
    key = "parameters" if format in ("llama3", "gemma") else "arguments"
    rest = [('name": "', 0.95), ("transfer_to_human", 0.9), (f'", "{key}": {{}}}}', 0.95)]
    found = signals(predicted(*opening, *rest, *([(closing, 0.96)] if closing else [])), example(), format)
    assert found.gate is None
    assert features(found)["decision"] == 0.2
    assert features(found)["frame_minimum"] == 0.95


def test_a_call_without_arguments_has_neutral_values() -> None:
    tokens = [("<tool_call>", 0.9), ('{"name": "', 0.8), ("transfer_to_human", 0.7), ('"}', 0.6), ("</tool_call>", 0.5)]
    assert features(signals(predicted(*tokens), example("help"), "hermes")) == {
        "decision": 0.72,
        "name_product": 0.42,
        "name_minimum": 0.6,
        "value_minimum": 1,
        "value_mean": 1,
        "value_quantile": 1,
        "value_margin": 1,
        "frame_minimum": 0.5,
        "arguments": 0,
        "called": 1,
        "values_in_prompt": 1,
        "codes_left": 0,
        "escalated": 0,
    }


def test_only_the_first_token_of_a_plain_answer_counts() -> None:
    found = signals(predicted(("Good", 0.7), (" morning", 0.01), end=0.02), example(), "hermes")
    neutral = dict.fromkeys(FEATURES, 1.0) | dict.fromkeys(("arguments", "called", "codes_left", "escalated"), 0.0)
    assert features(found) == neutral | {"decision": 0.7}


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        # A call cannot be likelier than the runner-up.
        (("Good", 0.3, 0.05), 0.95),
        (("Good", 0.6, 0.4), 0.6),
        (("Good", 0.5, 0.45), 0.55),
    ],
)
def test_the_runner_up_limits_the_probability_of_a_call(first: Piece, expected: float) -> None:
    assert features(signals(predicted(first, (" morning", 0.1)), example(), "hermes"))["decision"] == expected


def test_the_decision_of_a_plain_answer_comes_after_its_thought() -> None:
    tokens = [("<think>", 0.1), ("hm", 0.1), ("</think>", 0.2), ("\n\n", 0.3), ("Good", 0.7)]
    assert features(signals(predicted(*tokens), example(), "hermes"))["decision"] == 0.7


def test_the_decision_of_an_empty_answer_is_its_end_of_turn() -> None:
    assert features(signals(predicted(end=0.6), example(), "hermes"))["decision"] == 0.6


def test_the_margin_is_the_smallest_lead_over_a_runner_up() -> None:
    opening = '<tool_call>{"name": "query_order", "arguments": {"order_id": "'
    tokens = [("ORD", 0.6, 0.1), ("-20", 0.5, 0.45), ('"}}', 0.9, 0.05), ("</tool_call>", 0.5, 0.5)]
    assert features(signals(predicted((opening, 1.0), *tokens), example(), "hermes"))["value_margin"] == 0.05
    unknown = [("ORD", 0.9), ("-20", 0.8), ('"}}', 0.9), ("</tool_call>", 0.5)]
    assert features(signals(predicted((opening, 1.0), *unknown), example(), "hermes"))["value_margin"] == 0.6


def test_a_call_quoted_in_a_thought_is_ignored() -> None:
    fake = [("<think>", 0.1), ('<tool_call>{"name": "transfer_to_human", "arguments": {"a": "b"}}</tool_call>', 0.01)]
    found = signals(predicted(*fake, ("</think>", 0.1), *CALL, end=0.88), example(), "hermes")
    assert found == signals(predicted(*CALL, end=0.88), example(), "hermes")


def test_escapes_and_split_characters_count_for_the_value() -> None:
    opening = '<tool_call>{"name": "query_order", "arguments": {"order_id": "'
    escaped = predicted(
        (opening, 1.0), ("\\u00", 0.9), ("e9", 0.8), ('\\"', 0.7), ("\\n", 0.6), ('"}}</tool_call>', 0.95)
    )
    found = features(signals(escaped, example('the order is é"'), "hermes"))
    assert (found["value_minimum"], found["value_mean"]) == (0.6, 0.79)
    raw = "查".encode()
    tokens = [
        Token(0, opening.encode(), 0.0),
        Token(1, raw[:1], math.log(0.5)),
        Token(2, raw[1:], math.log(0.9)),
        Token(3, b'"}}</tool_call>', math.log(0.7)),
    ]
    text = b"".join(token.bytes for token in tokens).decode()
    split = Prediction("c/1", "m", text, "stop", 1, 4, 1.0, tuple(tokens))
    assert features(signals(split, example("单 查"), "hermes"))["value_mean"] == 0.7


def call(name: str, **arguments: Any) -> str:
    return FORMATS["hermes"].write("", [RawCall(name, json.dumps(arguments, ensure_ascii=False))], "stop")


@pytest.mark.parametrize(
    ("text", "finish_reason", "gate"),
    [
        ('<tool_call>{"name": "query_order", "arguments": {"order_id": 1</tool_call>', "stop", "malformed"),
        ('<tool_call>{"name": "query_order", "argu', "length", "truncated"),
        (call("transfer_to_human") + "\n<tool_call>{</tool_call>", "stop", "partial"),
        (call("query_ordr", order_id="1"), "stop", "unknown_tool"),
        (call("query_order", order_id=1), "stop", "schema_invalid"),
        (call("query_order"), "stop", "schema_invalid"),
        (call("query_order", order_id="1"), "stop", None),
        ("Hello.", "stop", None),
        ("Hello and", "length", None),
    ],
)
def test_each_gate_has_its_reason(text: str, finish_reason: Any, gate: Gate | None) -> None:
    bare = Prediction("c/1", "m", text, finish_reason, 1, 1, 1.0)
    assert signals(bare, example(), "hermes") == Signals(gate, False, None)
    # Tokens do not change the gate, and they give features even if no call can be read.
    found = signals(replace(bare, tokens=(Token(0, text.encode(), -0.1),)), example(), "hermes")
    assert found.gate == gate
    assert len(features(found)) == len(FEATURES)


def test_tokens_that_do_not_spell_the_text_give_no_features() -> None:
    stray = replace(predicted(("Hello.", 0.5)), text="Good morning.")
    assert signals(stray, example(), "hermes").features is None


def test_an_invalid_schema_is_an_error_that_names_the_tool() -> None:
    broken = (Tool("query_order", "", {"type": "no such type"}),)
    with pytest.raises(UserError, match=r'rows.jsonl:1: tool "query_order"'):
        signals(predicted(*CALL), example(tools=broken), "hermes")


def test_the_model_s_own_escalation_is_a_signal() -> None:
    found = signals(predicted((call(ESCALATE), 0.9)), example(), "hermes")
    assert (found.gate, found.escalated, features(found)["escalated"]) == (None, True, 1)
    # Even if the tool was not offered.
    found = signals(predicted((call(ESCALATE), 0.9)), example(tools=TOOLS[:1]), "hermes")
    assert (found.gate, found.escalated) == ("unknown_tool", True)


@pytest.mark.parametrize(
    ("said", "before", "arguments", "share"),
    [
        ("where is ORD-20?", (), {"order_id": "ORD-20"}, 1),
        ("where is ord-20?", (), {"order_id": "ORD-20"}, 1),
        ("where is ORD-204?", (), {"order_id": "ORD-20"}, 0),
        ("查 ORD-20 到哪了", (), {"order_id": "ORD-20", "note": "急"}, 0.5),
        ("and that one?", (Message("tool", '{"order": "ORD-20"}'),), {"order_id": "ORD-20"}, 1),
        (
            "again",
            (Message("assistant", "", (ToolCall("query_order", {"order_id": "ORD-20"}),)),),
            {"order_id": "ORD-20"},
            1,
        ),
        ("where is ORD-20?", (), {"order_id": "ORD-20", "days": 7}, 1),  # only texts count
    ],
)
def test_values_in_prompt_is_the_share_of_texts_that_appear_in_the_prompt(
    said: str, before: tuple[Message, ...], arguments: dict[str, Any], share: float
) -> None:
    found = signals(predicted((call("query_order", **arguments), 0.9)), example(said, *before), "hermes")
    assert features(found)["values_in_prompt"] == share


@pytest.mark.parametrize(
    ("said", "arguments", "left"),
    [
        ("where is ORD-20?", {"order_id": "ORD-20"}, 0),
        ("where are ord-20 and 38146-09?", {"order_id": "ORD-20"}, 1),
        ("ORD-20, 7 days, then 9", {"order_id": "ORD-20", "days": 7}, 1),
        ("1 2 3 4 5 6", {"order_id": "x"}, 3),
        ("no codes", {"order_id": "x"}, 0),
    ],
)
def test_codes_left_counts_codes_of_the_question_that_no_argument_contains(
    said: str, arguments: dict[str, Any], left: int
) -> None:
    prediction = predicted((call("query_order", **arguments), 0.9))
    assert features(signals(prediction, example(said), "hermes"))["codes_left"] == left
    # A tool's result is not a question, so its codes need not appear.
    after = example(said)
    after = replace(after, prompt=(*after.prompt, Message("tool", "77 88")))
    assert features(signals(prediction, after, "hermes"))["codes_left"] == 0


def test_signals_do_not_depend_on_gold() -> None:
    row = example()
    other = replace(
        row, gold=Gold("calls", (GoldCall("query_order", {"order_id": ["9"]}),)), turn=Message("assistant", "y")
    )
    assert signals(predicted(*CALL), row, "hermes") == signals(predicted(*CALL), other, "hermes")


@given(data=st.data(), format=st.sampled_from(["hermes", "llama3", "gemma", "json"]))
def test_features_are_within_their_bounds_for_any_text_and_tokens(data: st.DataObject, format: FormatName) -> None:
    text = data.draw(
        st.text(max_size=30)
        | st.sampled_from(["<think>x", "</think>", "<tool_call>", '{"name": "update"}', call("update", tags=[1, "b"])])
    )
    raw = text.encode("utf-8", "replace")
    places = sorted(data.draw(st.sets(st.integers(0, len(raw)))))
    pieces = [raw[first:last] for first, last in zip([0, *places], [*places, len(raw)], strict=True)]
    logprobs = st.floats(-30, 0)
    tokens = tuple(
        Token(n, piece, data.draw(logprobs), data.draw(st.none() | logprobs)) for n, piece in enumerate(pieces)
    )
    prediction = Prediction("c/1", "m", raw.decode(), "stop", 1, len(tokens), 1.0, tokens)
    found = signals(prediction, example(), format)
    if not raw:
        assert found.features is None
        return
    for name, value in features(found).items():
        assert -1 <= value <= 1 or name in ("arguments", "called", "codes_left")
        assert value >= 0 or name == "value_margin"  # negative if the likelier token was not chosen


def tokenized(text: str, pieces: list[bytes]) -> Prediction:
    tokens = tuple(Token(n, piece, -0.1) for n, piece in enumerate(pieces))
    return Prediction("c/1", "m", text, "stop", 1, len(tokens), 1.0, tokens)


@st.composite
def cut(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    """Splits the bytes into pieces, possibly inside a character."""
    places = sorted(draw(st.sets(st.integers(1, max(1, len(raw) - 1)), max_size=40)))
    return [raw[first:last] for first, last in zip([0, *places], [*places, len(raw)], strict=True)]


@pytest.mark.parametrize("format", ["hermes", "llama3", "gemma", "json", "xlam", "mistral", "granite3", "hunyuan"])
@given(data=st.data())
def test_a_call_split_into_any_tokens_keeps_its_name_and_values(format: FormatName, data: st.DataObject) -> None:
    arguments = '{"地址": "杭州市\\n\\u00e9 \\"x\\"", "n": -1.5e3, "in": {"a": [1, "}"]}, "no": null}'
    calls = [RawCall("查 order", arguments), RawCall("b", "{}")]
    text = FORMATS[format].write(data.draw(st.sampled_from(["", "好的。", "😀 see:"])), calls, "stop")
    pieces = data.draw(cut(text.encode() + b"<|im_end|>"))
    alignment = align(tokenized(text, pieces))
    assert alignment is not None
    spans = [call_spans(text, place) for place in parse_turn(text, format).places]
    assert [list(one.values) for one in spans] == [["地址", "n", "in", "no"], []]
    for span in [span for one in spans for span in (one.name, *one.values.values())]:
        covered = alignment.of(span)
        said = b"".join(alignment.tokens[n].bytes for n in covered)
        written = text[slice(*span)].encode()
        # The tokens contain the whole span, and the first and last token overlap it.
        before = len(text[: span[0]].encode()) - alignment.begins[covered.start]
        assert said[before : before + len(written)] == written
        assert before < len(pieces[covered.start])
        assert len(said) - before - len(written) < len(pieces[covered.stop - 1])


def test_a_token_that_contains_the_end_of_a_value_and_more_belongs_to_both() -> None:
    alignment = align(tokenized('{"a":"b"}', [b'{"', b'a":', b'"b', b'"}']))
    assert alignment is not None
    assert list(alignment.of((6, 7))) == [2]
    assert list(alignment.of((6, 8))) == [2, 3]
    assert list(alignment.of((2, 2))) == []
    assert alignment.after(5) == 2
    assert alignment.after(9) == 4


def test_a_character_split_over_several_tokens_has_all_of_them() -> None:
    first, second, third = (bytes([byte]) for byte in "查".encode())
    alignment = align(tokenized("a查b", [b"a", first, second, third, b"b"]))
    assert alignment is not None
    assert list(alignment.of((1, 2))) == [1, 2, 3]


def test_tokens_without_bytes_are_skipped() -> None:
    alignment = align(tokenized("ab", [b"", b"a", b"", b"b", b""]))
    assert alignment is not None
    assert [token.bytes for token in alignment.tokens] == [b"a", b"b"]
    assert list(alignment.of((1, 2))) == [1]


def test_an_unfinished_character_decodes_to_one_replacement_character() -> None:
    # As a tokenizer decodes it: one U+FFFD for an unfinished character.
    alignment = align(tokenized("a\ufffdb\ufffd", [b"a", b"\xe6\x9f", b"b", b"\xff"]))
    assert alignment is not None
    assert [list(alignment.of((n, n + 1))) for n in range(4)] == [[0], [1], [2], [3]]


def test_the_leading_space_that_decoding_drops_belongs_to_the_first_token() -> None:
    alignment = align(tokenized("Hi you", [b" Hi", b" you"]))
    assert alignment is not None
    assert list(alignment.of((0, 2))) == [0]
    assert list(alignment.of((3, 6))) == [1]


@pytest.mark.parametrize("pieces", [[], [b""], [b"other"], [b"H"], [b"xHi"]])
def test_tokens_that_do_not_spell_the_text_are_not_aligned(pieces: list[bytes]) -> None:
    assert align(tokenized("Hi", pieces)) is None


def test_an_empty_text_has_only_its_end_of_turn() -> None:
    alignment = align(tokenized("", [b"<|im_end|>"]))
    assert alignment is not None
    assert alignment.after(0) == 0


@given(st.binary(max_size=40))
def test_invalid_bytes_are_aligned_with_the_characters_that_python_decodes(raw: bytes) -> None:
    text = raw.decode(errors="replace")
    alignment = align(tokenized(text, [bytes([byte]) for byte in raw]))
    if not raw:
        assert alignment is None
        return
    assert alignment is not None
    assert [n for at in range(len(text)) for n in alignment.of((at, at + 1))] == list(range(len(raw)))
