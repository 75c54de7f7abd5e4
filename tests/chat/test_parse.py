"""Parsing a model's text: hand-written cases, and random texts from hypothesis."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.chat.parse import parse_turn
from toolhone.formats import FORMATS as ALL_FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.records import FormatName, ToolCall

FORMATS: tuple[FormatName, ...] = ("hermes", "llama3", "gemma", "json")
ORDER = ToolCall("query_order", {"order_id": "ORD-1"})
STOCK = ToolCall("query_stock", {"sku": "SKU1", "quantity": 2})


def write(calls: tuple[ToolCall, ...] | list[ToolCall], format: FormatName, content: str = "") -> str:
    """Return a turn as the format's template writes it, without its end-of-turn token."""
    if format == "hermes":
        written = "\n".join(
            f'<tool_call>\n{{"name": {json.dumps(c.name)}, "arguments": {json.dumps(c.arguments)}}}\n</tool_call>'
            for c in calls
        )
    else:
        key = "arguments" if format == "json" else "parameters"
        each = (f'{{"name": {json.dumps(c.name)}, "{key}": {json.dumps(c.arguments)}}}' for c in calls)
        written = ("; " if format == "llama3" else "\n").join(each)
    return content + ("\n" if content and calls else "") + written


def tagged(call: str) -> str:
    return f"<tool_call>\n{call}\n</tool_call>"


# Round trip

# Content cannot contain markup, and an object or a fence in it may read as a call. Strings may contain anything.
CONTENT = st.text(st.characters(exclude_characters='<{["`', exclude_categories=["Cs"]), max_size=30).map(str.strip)
MARKUP = [
    "}",
    "]}",
    "</tool_call>",
    "<tool_call>",
    "; {",
    '"',
    "\\",
    "<think>",
    "</think>",
    "<|python_tag|>",
    "\n{",
    "```",
    "\n```json\n",
    "\x1b",
    "é",
]
STRINGS = st.one_of(st.text(max_size=12), st.lists(st.sampled_from(MARKUP), max_size=4).map("".join))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=6,
)
CALLS = st.builds(ToolCall, STRINGS.filter(bool), st.dictionaries(STRINGS, VALUES, max_size=3))


@given(content=CONTENT, calls=st.lists(CALLS, max_size=3), format=st.sampled_from(FORMATS))
def test_what_a_template_writes_reads_back_the_same(content: str, calls: list[ToolCall], format: FormatName) -> None:
    turn = parse_turn(write(calls, format, content), format)
    assert turn.status == ("calls" if calls else "none")
    assert json.dumps([c.to_json() for c in turn.calls]) == json.dumps([c.to_json() for c in calls])
    assert turn.content == content
    assert turn.failure is None


@given(calls=st.lists(CALLS, min_size=1, max_size=2), format=st.sampled_from(FORMATS), data=st.data())
def test_a_call_cut_anywhere_is_truncated_or_partial(
    calls: list[ToolCall], format: FormatName, data: st.DataObject
) -> None:
    before = write(calls[:-1], format)
    whole = write(calls, format)
    # From where the last call has recognisably begun, to the last index where it is incomplete.
    begun = len(before) + (len("\n<tool") if format == "hermes" else len('; {"')) if before else 5
    end = data.draw(st.integers(begun, len(whole) - 1))
    if whole[:end].endswith(("<|im_end|>", "<|eot_id|>")):
        return
    turn = parse_turn(whole[:end], format, "length")
    assert turn.status == ("partial" if before else "truncated"), whole[:end]
    assert turn.failure.startswith("cut off at the token limit")
    assert len(turn.calls) == len(calls) - 1
    assert parse_turn(whole[:end], format, "stop").status != "truncated"


# Any text

PIECES = [
    *MARKUP, "{", "[", "]", ",", ":", ";", "\n", " ", "```", "```json\n", "a", "1", "-", "1e999", "NaN", "\x00",
    "\ud800", r"\ud800", "<|im_end|>", "<|eot_id|>", '"name"', '"arguments"', '"parameters"', '{"name": "f"',
    ', "arguments": {}}', ', "parameters": {"a": 1}}', "<function=f>", "[TOOL_CALLS]",
]  # fmt: skip


@given(
    text=st.text(st.characters()) | st.lists(st.sampled_from(PIECES), max_size=25).map("".join),
    format=st.sampled_from(FORMATS),
    finish_reason=st.sampled_from(["stop", "length"]),
)
def test_any_text_parses_to_a_consistent_result(text: str, format: FormatName, finish_reason: Any) -> None:
    turn = parse_turn(text, format, finish_reason)
    assert bool(turn.calls) == (turn.status in ("calls", "partial"))
    assert (turn.failure is None) == (turn.status in ("calls", "none"))
    assert turn.failure is None or ("\n" not in turn.failure and len(turn.failure) < 200)
    if finish_reason == "stop":
        assert turn.status != "truncated"
    for call in turn.calls:
        json.dumps(call.arguments, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "unit",
    [
        "<tool_call>", "<tool_call>{", '<tool_call>["', "<tool_call>{x", "</tool_call>", "<tool", '"name": "',
        '<tool_call>{"name": "f"}</tool_call>', "<think>", "</think>", "<think></think>", "</think><|python_tag|>",
        '{"name":', '{"name":\n', '\n{"name": "', '\n{"name": x', '\n{"type": "', '{"arguments": {', '{"id": "a", ',
        '\n{"name": "f", "x": "', '\n{"name": "f", "parameters": {}}', '\n{"a": 1}', "\n[{", "[", "{", '"', "\\", "; ",
        "```", "\n```", " ", "<|im_end|>", "<|im_end|> ", "<|python_tag|>",
    ],
)  # fmt: skip
def test_parsing_takes_linear_time(format: FormatName, unit: str) -> None:
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    parse_turn(text, format, "length")
    assert time.process_time() - start < 2


@pytest.mark.parametrize("format", FORMATS)
def test_text_after_a_hundred_faults_is_not_read(format: FormatName) -> None:
    broken = "</tool_call>\n" if format == "hermes" else '{"name": f}\n'
    assert parse_turn(broken * 99 + write([ORDER], format), format).status == "partial"
    assert parse_turn(broken * 100 + write([ORDER], format), format).status == "malformed"


def test_extreme_nesting_and_numbers_are_malformed() -> None:
    for value in ("[" * 100_000, "[" * 65 + "]" * 65, "[" * 900 + "]" * 900, "1" * 5_000, "1e999", "-1e999"):
        turn = parse_turn(tagged('{"name": "f", "arguments": {"a": ' + value + "}}"), "hermes")
        assert (turn.status, turn.calls) == ("malformed", ())


def test_a_large_integer_keeps_all_digits() -> None:
    number = 10**40 + 1
    assert parse_turn(write([ToolCall("f", {"n": number})], "hermes"), "hermes").calls[0].arguments == {"n": number}


@pytest.mark.parametrize(
    "fault", ["NaN", "Infinity", "-Infinity", '{"a": 1, "a": 1}', '"\\ud800"', "'x'", "True", "None", '"a\nb"', "01"]
)
@pytest.mark.parametrize("format", FORMATS)
def test_a_call_that_is_not_strict_json_is_malformed(fault: str, format: FormatName) -> None:
    text = write([ToolCall("f", {"x": "VALUE"})], format).replace('"VALUE"', fault)
    turn = parse_turn(text, format)
    assert (turn.status, turn.calls) == ("malformed", ())


def test_a_duplicate_key_of_the_call_is_malformed() -> None:
    turn = parse_turn(tagged('{"name": "f", "name": "g", "arguments": {}}'), "hermes")
    assert turn.status == "malformed"
    assert turn.failure == 'the key "name" appears twice in one object'


# No call


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "text",
    ["", "   ", "您好,请问订单号是多少?", "[]", "{}", "Use {braces} as you like.", 'A row is {"id": 7, "name": "Ann"}.',
     '{"order": "ORD-1"}',
     '```json\n{"status": "shipped"}\n```', "[see here](https://example.org)", "1; 2; 3", 'She said "name": it was.',
     "a < b, <b>bold</b>",
     "{", "[", "<tool", 'The object {"name": "Ann"} is mine.', '[{"sku": "A"}, {"sku": "B"}]',
     '{"title": "x", "name": "y", "age": 3}'],
)  # fmt: skip
def test_prose_is_not_a_call(format: FormatName, text: str) -> None:
    turn = parse_turn(text, format)
    assert (turn.status, turn.calls, turn.content, turn.failure) == ("none", (), text.strip(), None)


@pytest.mark.parametrize("format", FORMATS)
def test_prose_cut_at_the_token_limit_is_not_a_call(format: FormatName) -> None:
    assert parse_turn("Your order was sent on", format, "length").status == "none"


def test_an_empty_list_after_the_python_tag_is_not_a_call() -> None:
    assert parse_turn("<|python_tag|>[]", "llama3").status == "none"


# Calls


@pytest.mark.parametrize("format", FORMATS)
def test_a_call_without_arguments_may_have_an_empty_object_or_no_key(format: FormatName) -> None:
    key = "parameters" if format == "llama3" else "arguments"
    for text in (f'{{"name": "transfer", "{key}": {{}}}}', '{"name": "transfer"}'):
        turn = parse_turn(tagged(text) if format == "hermes" else text, format)
        assert (turn.status, turn.calls) == ("calls", (ToolCall("transfer", {}),))


@pytest.mark.parametrize("format", FORMATS)
def test_prose_before_and_after_calls_is_content(format: FormatName) -> None:
    text = "One moment.\n" + write([ORDER, STOCK], format) + "\nAnything else?"
    turn = parse_turn(text, format)
    assert (turn.status, turn.calls) == ("calls", (ORDER, STOCK))
    assert turn.content == "One moment.\n\nAnything else?"


@pytest.mark.parametrize(
    "text", ["}", "</tool_call>", ";", '; {"name": "g", "parameters": {}}', "<tool_call>", '"', "\n"]
)
@pytest.mark.parametrize("format", FORMATS)
def test_markup_inside_a_string_is_part_of_the_string(format: FormatName, text: str) -> None:
    call = ToolCall("search", {"query": f"a {text} b"})
    assert parse_turn(write([call], format), format).calls == (call,)


def test_an_escaped_letter_is_the_letter() -> None:
    escaped, plain = (
        parse_turn(tagged(f'{{"name": "f", "arguments": {{"x": "{e}"}}}}'), "hermes") for e in (r"\u00e9", "é")
    )
    assert escaped.calls == plain.calls == (ToolCall("f", {"x": "é"}),)


@pytest.mark.parametrize("format", FORMATS)
def test_nested_objects_and_dotted_names_are_kept(format: FormatName) -> None:
    call = ToolCall("orders.v2.query-all", {"filter": {"any": [{"a": None}, {"b": [1.5, -5, True]}]}})
    assert parse_turn(write([call], format), format).calls == (call,)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "end", ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>\n<|endoftext|>", " \n"]
)
def test_end_of_turn_tokens_are_dropped(format: FormatName, end: str) -> None:
    assert parse_turn(write([ORDER], format) + end, format).calls == (ORDER,)
    assert parse_turn("Hello." + end, format).content == "Hello."


@pytest.mark.parametrize("space", ["", " ", "\n", "\r\n\t"])
def test_white_space_in_a_block_does_not_matter(space: str) -> None:
    text = f'<tool_call>{space}{{"name":{space}"f",{space}"arguments":{{}}}}{space}</tool_call>'
    assert parse_turn(text * 2, "hermes").calls == (ToolCall("f", {}),) * 2


@pytest.mark.parametrize("extra", ['"id": "call_1"', '"type": "function"', '"id": "call_1", "type": "function"'])
def test_id_and_type_are_ignored(extra: str) -> None:
    assert parse_turn(tagged(f'{{{extra}, "name": "f", "arguments": {{}}}}'), "hermes").calls == (ToolCall("f", {}),)
    assert parse_turn(f'{{{extra}, "name": "f", "parameters": {{}}}}', "llama3").calls == (ToolCall("f", {}),)


def test_llama3_reads_both_parameters_and_arguments() -> None:
    for key in ("parameters", "arguments"):
        assert parse_turn(f'{{"name": "f", "{key}": {{"a": 1}}}}', "llama3").calls == (ToolCall("f", {"a": 1}),)
        assert parse_turn(f'{{"{key}": {{"a": 1}}, "name": "f"}}', "llama3").calls == (ToolCall("f", {"a": 1}),)


A, B = '{"name": "f", "parameters": {"a": 1}}', '{"name": "g", "parameters": {}}'


@pytest.mark.parametrize(
    "text",
    [f"{A}; {B}", f"{A};{B}", f"{A} ;\n{B};", f"{A}\n{B}", f"{A} {B}", f"{A}{B}", f"[{A}, {B}]",
     f"[\n  {A},\n  {B}\n]", f"<|python_tag|>{A}; {B}",
     f"<|python_tag|>[{A}, {B}]", f"<|python_tag|>{A}\n<|python_tag|>{B}<|eom_id|>", f"  {A}\n\n{B}<|eot_id|>",
     f"[{A}]; [{B}]"],
)  # fmt: skip
def test_llama3_calls_may_be_separated_in_many_ways(text: str) -> None:
    turn = parse_turn(text, "llama3")
    assert (turn.status, turn.calls, turn.content) == ("calls", (ToolCall("f", {"a": 1}), ToolCall("g", {})), "")


def test_llama3_reads_a_call_on_its_own_line_after_text() -> None:
    turn = parse_turn(f"Let me look.\n\n{A}", "llama3")
    assert (turn.calls, turn.content) == ((ToolCall("f", {"a": 1}),), "Let me look.")


# Thoughts


@pytest.mark.parametrize("format", FORMATS)
def test_a_call_inside_a_thought_is_not_a_call(format: FormatName) -> None:
    fake = write([ORDER], format)
    turn = parse_turn(f"<think>\nI could write\n{fake}\n</think>\n\nWhich order?", format)
    assert (turn.status, turn.content) == ("none", "Which order?")
    turn = parse_turn(f"<think>\n{fake}\n</think>\n\n{write([STOCK], format)}", format)
    assert (turn.status, turn.calls, turn.content) == ("calls", (STOCK,), "")


@pytest.mark.parametrize("format", FORMATS)
def test_a_thought_that_the_prompt_opened_is_skipped(format: FormatName) -> None:
    turn = parse_turn(f"I could write\n{write([ORDER], format)}\n</think>{write([STOCK], format)}", format)
    assert (turn.status, turn.calls, turn.content) == ("calls", (STOCK,), "")


@pytest.mark.parametrize("format", FORMATS)
def test_a_thought_cut_at_the_token_limit_is_truncated_not_a_missing_call(format: FormatName) -> None:
    assert parse_turn("<think>\nThe user wants", format, "length").status == "truncated"
    assert parse_turn(f"<think>\n{write([ORDER], format)}", format, "length").status == "truncated"


@pytest.mark.parametrize("format", FORMATS)
def test_an_unclosed_thought_is_prose_unless_it_contains_a_call(format: FormatName) -> None:
    assert parse_turn("The <think> tag is not closed here.", format).status == "none"
    assert parse_turn(f"<think>\n{write([ORDER], format)}", format).status == "malformed"


@pytest.mark.parametrize("format", FORMATS)
def test_a_call_before_a_stray_end_of_a_thought_counts_if_no_call_follows(format: FormatName) -> None:
    turn = parse_turn(f"{write([ORDER], format)}\n</think>\n\n", format)
    assert (turn.status, turn.calls, turn.content) == ("calls", (ORDER,), "")
    turn = parse_turn(f"{write([ORDER], format)}\n</think>\n\nLet me look.", format)
    assert (turn.status, turn.calls, turn.content) == ("calls", (ORDER,), "Let me look.")
    assert parse_turn("They greet me.\n</think>\n\nHello.", format).status == "none"


# Malformed


@pytest.mark.parametrize("format", ["kimi", "mistral_args", "deepseek_v31", "granite3", "hermes"])
def test_a_name_with_half_of_a_surrogate_pair_is_malformed(format: FormatName) -> None:
    text = ALL_FORMATS[format].write("", [RawCall("query", "{}")], "stop").replace("query", "que\ud800ry")
    assert parse_turn(text, format).status == "malformed"


NO_NAME = 'expected "name" to be a non-empty string'


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ('{"name": "f", "parameters": {}}', 'unknown key "parameters" in a call, expected "arguments"'),
        ('{"name": "f", "arguments": "{}"}', 'expected "arguments" to be a JSON object, found a string'),
        ('{"name": "f", "arguments": null}', 'expected "arguments" to be a JSON object, found null'),
        ('{"name": "f", "arguments": [1]}', 'expected "arguments" to be a JSON object, found a list'),
        ('{"name": "f", "arguments": {}, "order_id": "1"}', 'unknown key "order_id" in a call, expected "arguments"'),
        ('{"arguments": {}}', NO_NAME),
        ('{"name": "", "arguments": {}}', NO_NAME),
        ('{"name": ["f"], "arguments": {}}', NO_NAME),
        ("[]", "expected the call to be a JSON object, found a list"),
        ("", "broken JSON: Expecting value"),
        ("call f", "broken JSON: Expecting value"),
        ('```json\n{"name": "f", "arguments": {}}\n```', "broken JSON: Expecting value"),
        ('{"name": "f", "arguments": {}', "broken JSON: Expecting ',' delimiter"),
        ('{"name": "f", "arguments": {}}}', "expected </tool_call> after the call's JSON"),
        ('{"name": "f", "arguments": {}} ok', "expected </tool_call> after the call's JSON"),
    ],
)  # fmt: skip
def test_a_block_that_is_not_a_call_is_malformed_with_the_reason(call: str, reason: str) -> None:
    turn = parse_turn(tagged(call), "hermes")
    assert (turn.status, turn.calls, turn.failure) == ("malformed", (), reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"name": "f", "parameters": {}, "arguments": {}}', 'both "parameters" and "arguments" in one call'),
        ('{"name": "f", "parameters": "{}"}', 'expected "parameters" to be a JSON object, found a string'),
        ('{"name": "f", "parameters": {"a": b}}', "broken JSON: Expecting value"),
        ('{"name": f}', "broken JSON: Expecting value"),
        ('{"type": "function", "function": {"name": "f", "parameters": {}}}', NO_NAME),
        ('<|python_tag|>get_weather.call(city="Paris")', "broken JSON: Expecting value"),
        ("<|python_tag|>", "broken JSON: Expecting value"),
        ('<|python_tag|>{"city": "Paris"}', NO_NAME),
        ('[{"name": "f", "parameters": {}', "broken JSON: Expecting ',' delimiter"),
        ('<function=f>{"a": 1}</function>', "a call in another format (Llama 3.1 <function=> with JSON)"),
        ('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', "a call in another format (Hermes <tool_call>)"),
        ('```json\n{"name": "f", "parameters": {}}\n```', "a call inside a line of text or in a code fence"),
        ('```\n{"name": "f"}\n```', "a call inside a line of text or in a code fence"),
        ('I will call {"name": "f", "parameters": {}}.', "a call inside a line of text or in a code fence"),
    ],
)  # fmt: skip
def test_a_llama3_turn_with_an_unreadable_call_is_malformed_with_the_reason(text: str, reason: str) -> None:
    turn = parse_turn(text, "llama3")
    assert (turn.status, turn.calls, turn.failure) == ("malformed", (), reason)


@pytest.mark.parametrize(
    "text",
    ['{"name": "f", "arguments": {}}', 'Sure: {"name": "f", "arguments": {"a": 1}}',
     '```json\n{"name": "f", "arguments": {}}\n```', '{"name": "f"}',
     '```\n{"name": "f"}\n```', '{"arguments": {"a": 1}, "name": "f"}', '[{"name": "f", "arguments": {}}]',
     '{"name": "f", "parameters": {}}',
     '{"name": "f", "arguments": {"a": tru', '{"type": "function", "function": {"name": "f", "arguments": "{}"}}',
     '{"name": "f", "arg'],
)  # fmt: skip
def test_a_call_outside_the_tags_is_malformed_in_hermes(text: str) -> None:
    turn = parse_turn(text, "hermes")
    assert (turn.status, turn.calls, turn.failure) == ("malformed", (), "a call outside <tool_call> tags")


@pytest.mark.parametrize(
    "text", [f"<|python_tag|>{A}", "[TOOL_CALLS] [...]", '<function=f>{"a": 1}</function>', "done</tool_call>"]
)
def test_markers_of_other_formats_are_malformed_in_hermes(text: str) -> None:
    assert parse_turn(text, "hermes").status == "malformed"


def test_a_call_without_its_closing_tag_is_malformed_or_if_cut_truncated() -> None:
    whole = '<tool_call>\n{"name": "f", "arguments": {}}'
    assert parse_turn(whole, "hermes", "stop").status == "malformed"
    for end in ("", "\n", "\n</tool_", "</"):
        assert parse_turn(whole + end, "hermes", "length").status == "truncated"


def test_a_call_broken_before_the_cut_is_malformed_not_truncated() -> None:
    assert parse_turn('<tool_call>{"name": f, "arguments": {"a": "b', "hermes", "length").status == "malformed"
    assert parse_turn('{"name": f, "parameters": {"a": 1}}\nAnd then', "llama3", "length").status == "malformed"


# Truncated and partial


@pytest.mark.parametrize("format", FORMATS)
def test_a_call_cut_in_the_middle_of_a_string_is_truncated(format: FormatName) -> None:
    call = ToolCall("f", {"note": "a </tool_call> and }; b"})
    text = write([call], format)
    turn = parse_turn(text[: text.index("; b")], format, "length")
    assert (turn.status, turn.calls) == ("truncated", ())
    assert turn.failure == "cut off at the token limit: broken JSON: Unterminated string starting at"


def test_a_call_cut_at_any_character_is_truncated() -> None:
    call = ToolCall("f", {"t": [True, False, None], "n": [-1.5e-7, 12], "s": "é😀", "o": {"a": {}}})
    for format, begun in (("hermes", len("<tool")), ("llama3", len("{")), ("json", len("{"))):
        text = write([call], format)  # type: ignore[arg-type]
        assert r"\ud83d" in text
        statuses = {end: parse_turn(text[:end], format, "length").status for end in range(begun, len(text))}  # type: ignore[arg-type]
        assert {end: status for end, status in statuses.items() if status != "truncated"} == {}


@pytest.mark.parametrize("format", FORMATS)
def test_a_good_call_and_a_broken_one_are_partial_in_either_order(format: FormatName) -> None:
    good = write([ORDER], format)
    broken = write([STOCK], format).replace("2}", "two}")
    separator = "; " if format == "llama3" else "\n"
    for text in (good + separator + broken, broken + "\n" + good):
        turn = parse_turn(text, format)
        assert (turn.status, turn.calls, turn.failure) == ("partial", (ORDER,), "broken JSON: Expecting value")


def test_a_call_after_one_without_a_closing_tag_is_still_read() -> None:
    text = '<tool_call>{"name": "f", "arguments": {}}\n<tool_call>{"name": "g", "arguments": {}}</tool_call>'
    turn = parse_turn(text, "hermes")
    assert (turn.status, turn.calls) == ("partial", (ToolCall("g", {}),))


@pytest.mark.parametrize("format", FORMATS)
def test_a_later_call_that_is_cut_makes_the_turn_partial(format: FormatName) -> None:
    turn = parse_turn(write([ORDER, STOCK], format)[:-20], format, "length")
    assert (turn.status, turn.calls) == ("partial", (ORDER,))
    assert turn.failure.startswith("cut off at the token limit: ")


def test_a_separator_before_the_cut_means_that_a_call_is_missing() -> None:
    assert parse_turn(f"{A};", "llama3", "length").status == "partial"
    assert parse_turn(f"{A};", "llama3", "stop").status == "calls"


def test_a_cut_list_of_calls_keeps_the_complete_ones() -> None:
    for text in (f"[{A}, {B[:-5]}", f"[{A},", f"[{A}"):
        turn = parse_turn(text, "llama3", "length")
        assert (turn.status, turn.calls) == ("partial", (ToolCall("f", {"a": 1}),))


def test_a_call_in_prose_and_a_tagged_call_are_partial() -> None:
    turn = parse_turn('{"name": "g", "arguments": {}}\n' + write([ORDER], "hermes"), "hermes")
    assert (turn.status, turn.calls, turn.failure) == ("partial", (ORDER,), "a call outside <tool_call> tags")
