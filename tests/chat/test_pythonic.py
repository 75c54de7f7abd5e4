"""Reading the gemma format: lists of calls as Python writes them."""

from __future__ import annotations

import ast
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolhone.chat.call_json import Decoded
from toolhone.chat.parse import parse_repaired, parse_turn
from toolhone.chat.python_literals import decode_python
from toolhone.chat.spans import CallSpans, call_spans
from toolhone.records import Status, ToolCall

ORDER = ToolCall("query_order", {"order_id": "ORD-1"})
STOCK = ToolCall("query_stock", {"sku": "SKU1", "quantity": 2})
CALL = '[query_order(order_id="ORD-1")]'

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12) | st.sampled_from(
    ["it's", 'say "hi"', "back\\slash", "line\nbreak", ")]", "}", "), f(", "**", "é", "查", "😀", "\x7f", "True"]
)
NUMBERS = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,8}", fullmatch=True)
KEYS = st.from_regex(r"[a-z_][a-z_0-9]{0,8}", fullmatch=True)
CALLS = st.builds(ToolCall, NAMES, st.dictionaries(KEYS, VALUES, max_size=3))


def write(calls: list[ToolCall]) -> str:
    """The calls as Python itself would print them."""
    each = (f"{c.name}({', '.join(f'{key}={value!r}' for key, value in c.arguments.items())})" for c in calls)
    return f"[{', '.join(each)}]"


def as_json(calls: Any) -> str:
    # As JSON text, since in Python 1 == 1.0 == True.
    return json.dumps([[c.name, c.arguments] for c in calls])


@given(calls=st.lists(CALLS, min_size=1, max_size=3), before=st.sampled_from(["", "Let me look.\n", "好的。\n\n"]))
def test_calls_as_python_prints_them_are_read(calls: list[ToolCall], before: str) -> None:
    turn = parse_turn(before + write(calls), "gemma")
    assert (turn.status, turn.failure, turn.content) == ("calls", None, before.strip())
    assert as_json(turn.calls) == as_json(calls)


@settings(max_examples=50)
@given(st.lists(CALLS.filter(lambda call: call.name.isidentifier()), min_size=1, max_size=3))
def test_what_is_read_is_what_python_s_own_parser_reads(calls: list[ToolCall]) -> None:
    text = write(calls)
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:  # a name or a key that is one of Python's words
        return
    assert isinstance(tree, ast.List)
    found = [
        ToolCall(ast.unparse(node.func), {str(word.arg): ast.literal_eval(word.value) for word in node.keywords})
        for node in tree.elts
        if isinstance(node, ast.Call)
    ]
    assert as_json(parse_turn(text, "gemma").calls) == as_json(found)


@given(calls=st.lists(CALLS, min_size=1, max_size=2), data=st.data())
def test_a_call_that_is_cut_anywhere_is_truncated_or_partial(calls: list[ToolCall], data: st.DataObject) -> None:
    whole = write(calls)
    begun = len(write(calls[:-1])) if len(calls) > 1 else 1
    cut = whole[: data.draw(st.integers(begun, len(whole) - 1))]
    turn = parse_turn(cut, "gemma", "length")
    # The last call may be whole, and its list not closed.
    assert turn.status == ("partial" if turn.calls else "truncated")
    assert len(turn.calls) in ((0, 1) if len(calls) == 1 else (1, 2))
    assert str(turn.failure).startswith("cut off at the token limit: ")
    assert parse_turn(cut, "gemma", "stop").status in ("malformed", "partial", "none")


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[f()]", (ToolCall("f", {}),)),
        ("[ f( ) ]", (ToolCall("f", {}),)),
        ("[f(a=1,)]", (ToolCall("f", {"a": 1}),)),
        ("[f(a=1), g(),]", (ToolCall("f", {"a": 1}), ToolCall("g", {}))),
        ("[f(a=1)]\n[g()]", (ToolCall("f", {"a": 1}), ToolCall("g", {}))),
        ("[\n  f(\n    a = 1,\n    b = [True, None, 'x'],\n  ),\n]", (
            ToolCall("f", {"a": 1, "b": [True, None, "x"]}),
        )),
        ("[orders.v2.query-all(a='it\\'s', b=\"\\u00e9\")]", (
            ToolCall("orders.v2.query-all", {"a": "it's", "b": "é"}),
        )),
        ('[f(a=1, **{"the key": {"b": False}, "c": 2}, d=3)]', (
            ToolCall("f", {"a": 1, "the key": {"b": False}, "c": 2, "d": 3}),
        )),
        ('[f(地址="杭州")]', (ToolCall("f", {"地址": "杭州"}),)),
        ("[f(in=1)]", (ToolCall("f", {"in": 1}),)),  # Python's own words are keys like any other
        ("<think>[f(a=1)]</think>\n\n[g()]<end_of_turn>", (ToolCall("g", {}),)),
        ("perhaps [f(a=1)]\n</think>[g()]", (ToolCall("g", {}),)),
    ],
)  # fmt: skip
def test_a_list_of_calls(text: str, calls: tuple[ToolCall, ...]) -> None:
    turn = parse_turn(text, "gemma")
    assert (turn.status, turn.calls, turn.content) == ("calls", calls, "")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[1, 2]", "[see here](https://example.org)", "f(x) is a function; f(x) == 2", "Order (ORD-1) was sent.",
     "说明(见下)。", "```python\nprint(1)\n```", '{"order": "ORD-1"}', "a = [b]", "[f", "[f, g]",
     "The call f() is mine.", "<think> is a tag"],
)  # fmt: skip
def test_prose_is_no_call(text: str) -> None:
    turn = parse_turn(text, "gemma")
    assert (turn.status, turn.calls, turn.content, turn.failure) == ("none", (), text, None)


OUTSIDE = "a call without its brackets, inside a line of text or in a code fence"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[f(1)]", "expected key=value"),
        ("[f(a)]", "expected key=value"),
        ("[f(=1)]", "expected key=value"),
        ("[f(,)]", "expected key=value"),
        ("[f(1a=1)]", '"1a" is no key of an argument'),
        ("[f(a=b)]", "broken Python literal"),
        ("[f(a=true)]", "broken Python literal"),
        ("[f(a=(1, 2))]", "broken Python literal"),
        ("[f(a={1, 2})]", "broken Python literal"),
        ("[f(a={1: 2})]", "broken Python literal"),
        ("[f(a=[1 2])]", "broken Python literal"),
        ("[f(a=g())]", "broken Python literal"),
        ("[f(a=NaN)]", "broken Python literal"),
        ("[f(a=01)]", "broken Python literal"),
        ("[f(a='x\ny')]", "broken Python literal"),
        ("[f(a=1 + 1)]", 'expected "," or ")" after an argument'),
        ("[f(a=1 b=2)]", 'expected "," or ")" after an argument'),
        ("[f(a='x' 'y')]", 'expected "," or ")" after an argument'),
        ("[f(a=1, a=2)]", 'the argument "a" twice'),
        ('[f(a=1, **{"a": 2})]', 'the argument "a" twice'),
        ('[f(**{"a": 1, "a": 2})]', 'the key "a" stands twice in one object'),
        ("[f(**[1])]", "expected a dictionary after **"),
        ("[f(a='\\ud800')]", "half of a surrogate pair, which is no character"),
        ("[f(a=1e999)]", "a number too large for a float"),
        ("[f(a=1", 'expected "," or ")" after an argument'),
        ("[f(a='x", "broken Python literal"),
        ("f(a=1)", OUTSIDE),
        ("f()", OUTSIDE),
        ("I call [f(a=1)].", OUTSIDE),
        ("```python\n[f(a=1)]\n```", OUTSIDE),
        ("<think>[f(a=1)]", "the <think> block is not closed"),
        ('{"name": "f", "parameters": {}}', OUTSIDE),
        ("<tool_call>{}</tool_call>", "a call in another format (<tool_call>)"),
        ("<|python_tag|>f(a=1)", "a call in another format (<|python_tag|>)"),
        ("[TOOL_CALLS] f", "a call in another format ([TOOL_CALLS])"),
    ],
)
def test_a_turn_that_tried_to_call_is_malformed_and_says_why(text: str, reason: str) -> None:
    turn = parse_turn(text, "gemma")
    assert (turn.status, turn.calls, turn.failure) == ("malformed", (), reason)


@pytest.mark.parametrize(
    ("text", "finish_reason", "status"),
    [
        ("[f(a=1), g(b=oops)]", "stop", "partial"),
        ("[f(b=oops)]\n[f(a=1)]", "stop", "partial"),
        ("[f(a=1)]\nThen g(b=2).", "stop", "partial"),
        ("[f(a=1); g(b=2)]", "stop", "partial"),
        ("[f(a=1)", "stop", "partial"),
        ("[f(a=1), ", "length", "partial"),
        ("[f(a=1)]\n[g", "length", "partial"),
        ("[f(a=1)]\n[g", "stop", "calls"),
        ("[f(b=oops), g(a='x", "length", "malformed"),
        ("[f(a=[1 2, 3", "length", "malformed"),
        ("[f(a=1.", "length", "truncated"),
        ("[f(a=[1, 2e", "length", "truncated"),
        ("[f(a=01", "length", "malformed"),
        ("[f(a=Fal", "length", "truncated"),
        ("[f(a={'b", "length", "truncated"),
        ("[f(a={'b': [-", "length", "truncated"),
        ("[f(a='\\", "length", "truncated"),
        ("[fe", "length", "truncated"),
        ("Your order is on its way to", "length", "none"),
    ],
)
def test_broken_cut_and_partial_turns(text: str, finish_reason: Any, status: Status) -> None:
    turn = parse_turn(text, "gemma", finish_reason)
    assert turn.status == status
    assert [call.arguments for call in turn.calls] == ([{"a": 1}] if status in ("partial", "calls") else [])


@pytest.mark.parametrize("end", ["<end_of_turn>", "<eos>", "<end_of_turn>\n<eos>", " \n"])
def test_end_of_turn_tokens_are_dropped(end: str) -> None:
    assert parse_turn(CALL + end, "gemma").calls == (ORDER,)


@pytest.mark.parametrize(
    "unit",
    ["[f(", "[f(a=", "[f()]", "[f()]\n", "\n[f(a=1)]", "\n[f(a='", "\n[f(a=[", "\n[f(a={'b':", "[\n", "[ ", "f(", "f( ",
     "f()", "a", "a.", "**", "[f(**{", "f() ", "``` ", "\n```python\n[f(", "<think>", "</think>", "</think> ",
     "\n[f(a=1, ", "'", '"', "\\", "\n[f(a=1e", " ", "\n", "[f", "\n[f(**{'a': [1]})]"],
)  # fmt: skip
@pytest.mark.parametrize("before", ["", "[f(a=[", "[f(a='", "f("])
def test_reading_takes_linear_time(before: str, unit: str) -> None:
    text = before + unit * (200_000 // len(unit))
    start = time.process_time()
    parse_repaired(text, "gemma", "length")
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    "value", ["[" * 100_000, "[" * 65 + "]" * 65, "1" * 5_000, "-1e999", "{'a': " * 900 + "1" + "}" * 900]
)
def test_absurd_nesting_and_numbers_are_malformed(value: str) -> None:
    turn = parse_turn(f"[f(a={value})]", "gemma")
    assert (turn.status, turn.calls) == ("malformed", ())


# Repairs


def test_a_code_fence_is_mended_and_counted() -> None:
    text = f"Here:\n```python\n{CALL}\n```\nDone."
    found = parse_repaired(text, "gemma")
    assert (found.strict.status, found.turn.status, found.turn.calls) == ("malformed", "calls", (ORDER,))
    assert (found.turn.content, dict(found.repairs)) == ("Here:\n\nDone.", {"code_fence": 1})
    assert parse_repaired(text, "gemma", "stop", ()).turn.status == "malformed"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (f"```\n{CALL} and\n```", "partial"),
        (f"```\n{CALL}\n``", "calls"),
        ("```\n[f(a=oops)]\n```", "malformed"),
        ("```\nprint(1)\n```", "none"),
    ],
)
def test_a_fence_that_holds_more_than_calls_or_none(text: str, status: Status) -> None:
    assert parse_repaired(text, "gemma").turn.status == status


# Places


@given(arguments=st.dictionaries(KEYS, VALUES, max_size=3), spread=st.dictionaries(TEXTS, VALUES, max_size=3))
def test_the_spans_are_where_name_and_values_were_written(arguments: dict[str, Any], spread: dict[str, Any]) -> None:
    spread = {key: value for key, value in spread.items() if key not in arguments}
    text = "Let me look.\n[first(), "
    start = len(text)
    text += "query_order"
    name = start, len(text)
    text += "("
    values: dict[str, tuple[int, int]] = {}

    def put(before: str, key: str, value: Any) -> None:
        nonlocal text
        text += before
        values[key] = len(text), len(text) + len(repr(value))
        text += f"{value!r}, "

    for key, value in arguments.items():
        put(f"{key} = ", key, value)
    text += "**{"
    for key, value in spread.items():
        put(f"{key!r} : ", key, value)
    text += "})"
    turn = parse_turn(f"{text}]", "gemma")
    assert turn.places == ((start - len("first(), "), start - len(", ")), (start, len(text)))
    assert call_spans(text, turn.places[0]) == CallSpans((start - 9, start - 4), {})
    assert call_spans(text, turn.places[1]) == CallSpans(name, values)


# Literals


@settings(max_examples=50)
@given(VALUES)
def test_what_python_writes_is_read_as_python_reads_it(value: Any) -> None:
    text = repr(value)
    assert ast.literal_eval(text) == value
    found = decode_python(f"{text} and more", 0)
    assert isinstance(found, Decoded)
    assert (json.dumps(found.value), found.end) == (json.dumps(value), len(text))


def test_json_s_words_are_read_on_request_alone() -> None:
    assert not isinstance(decode_python("[true]", 0), Decoded)
    assert decode_python("[true, null]", 0, json_words=True) == Decoded([True, None], 12)
