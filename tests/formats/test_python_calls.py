"""Calls as Python writes them: the reader against Python's own, and what holds for every format that uses it."""

from __future__ import annotations

import ast
import json
import keyword
import time
import warnings
from typing import Any

import pytest
from conftest import byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from toolhone.chat.parse import parse_turn
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.formats.pieces import Fault, PlacedCall
from toolhone.formats.python_calls import PythonCallStyle, read_python_call
from toolhone.records import FormatName, ToolCall

EACH = pytest.mark.parametrize("format", ["pythonic", "lfm2", "olmo3", "llama3_ipython", "tool_code"])
STYLE = PythonCallStyle(dotted=True, ascii_first=False)

LETTERS = "abcxyzABCXYZ"
names = (
    st.text(LETTERS + "0123456789_é订", max_size=6).map("n".__add__).filter(lambda name: not keyword.iskeyword(name))
)
MARKUP = [
    "'", '"', "\\", "\\n", "\n", "\r", "\t", "\x00", "\x0b", "\x85", "\u2028", "[", "]", "(", ")", "{", "}", ",",
    "=", "#",
    "```", "<think>", "</think>", "</function>", "<tool_call>", "<|python_start|>", "[f(a=1)]", "'''", '"""', "007",
    "None",
    "é", "订单", "😀",
]  # fmt: skip
strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.lists(
    st.sampled_from(MARKUP), max_size=4
).map("".join)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | strings,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=6,
)
turns = st.lists(st.tuples(names, st.dictionaries(names, values, max_size=3)), min_size=1, max_size=3)
prose = st.sampled_from(["", "Let me look.", "好的,我查一下。", "5 < 7; fine"])


def write(format: FormatName, content: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    return FORMATS[format].write(content, [RawCall(name, json.dumps(arguments)) for name, arguments in calls], "stop")


def exact(calls: Any) -> str:
    """Return JSON text, because in Python 1 == 1.0 == True."""
    return json.dumps([[call.name, call.arguments] if isinstance(call, ToolCall) else list(call) for call in calls])


def fits(format: FormatName, content: str) -> str:
    """Return the content that a turn with calls can have in a format."""
    return "" if format == "pythonic" else content


# The formats


@EACH
@given(content=prose, calls=turns)
def test_written_turns_read_back_the_same(
    format: FormatName, content: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    content = fits(format, content)
    turn = parse_turn(write(format, content, calls), format)
    assert (turn.status, turn.failure, turn.content) == ("calls", None, content)
    assert exact(turn.calls) == exact(calls)


@EACH
@given(content=prose, calls=turns)
@settings(max_examples=40)
def test_the_jinja_macro_writes_what_the_writer_writes(
    format: FormatName, content: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    template = FORMATS[format].calls_macro + "{{ write_calls(messages[0].content, messages[0].tool_calls) }}"
    made = [{"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in calls]
    message = {"role": "assistant", "content": content, "tool_calls": made}
    rendered = byte_tokenizer([]).apply_chat_template([message], chat_template=template, tokenize=False)
    assert rendered == FORMATS[format].write(
        content, [RawCall(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in calls], "stop"
    )


@EACH
@given(content=prose, calls=turns)
@settings(max_examples=40)
def test_a_turn_cut_anywhere_has_only_calls_from_its_beginning(
    format: FormatName, content: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    content = fits(format, content)
    text = write(format, content, calls)
    for end in range(len(text)):
        turn = parse_turn(text[:end], format, "length")
        assert exact(turn.calls) == exact(calls[: len(turn.calls)])
        if end > len(content) + len("\n```tool_code\n"):
            assert turn.status in ("calls", "partial", "truncated"), text[:end]
        assert parse_turn(text[:end], format, "stop").status != "truncated"


@EACH
def test_the_spans_of_a_call_cover_its_name_and_the_values_as_written(format: FormatName) -> None:
    arguments = {"text": 'it\'s "x" \\ 订', "n": -1.5, "more": [1, {"a": None}]}
    text = write(format, "", [("look", arguments), ("ping", {})])
    turn = parse_turn(text, format)
    first, second = turn.call_spans(text)
    assert [text[slice(*spans.name)] for spans in (first, second)] == ["look", "ping"]
    assert list(first.values) == list(arguments)
    for name, span in first.values.items():
        written = text[slice(*span)].replace("null", "None")
        assert ast.literal_eval(written) == arguments[name]
    assert [text[slice(*place)].startswith(name) for place, name in zip(turn.places, ("look", "ping"), strict=True)]


@EACH
@pytest.mark.parametrize(
    "text",
    [
        "query_order needs a number.",
        "You can call query_order() once you have the number.",
        "[1] Smith et al., 2020",
        "[the docs](https://example.com/?a=1&b=(2))",
        "[ ] buy milk\n[x] call home",
        "[query_order] is the tool for that.",
        "[]",
        "[1, 2, 3]",
        '["a", "b"]',
        "x = [n for n in range(3)]",
        "```python\nprint('hello')\n```",
        "<b>bold</b>",
    ],
)
def test_prose_is_no_call(format: FormatName, text: str) -> None:
    turn = parse_turn(text, format, tools=("query_order",))
    assert (turn.status, turn.content, turn.failure) == ("none", text, None)


FOREIGN = {
    "hermes": '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
    "mistral": '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]',
    "gemma 4": "<|tool_call>call:f{a:1}<tool_call|>",
    "qwen coder": "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
    "anthropic": '<function_calls>\n<invoke name="f">\n<parameter name="a">1</parameter>\n</invoke>\n</function_calls>',
    "pythonic": "[f(a=1)]",
    "lfm2": "<|tool_call_start|>[f(a=1)]<|tool_call_end|>",
    "olmo3": "<function_calls>f(a=1)</function_calls>",
    "llama3_ipython": '<function=f>{"a": 1}</function>',
    "tool_code": "```tool_code\nf(a=1)\n```",
}


@EACH
@pytest.mark.parametrize("syntax", FOREIGN)
def test_the_calls_of_another_format_are_malformed(format: FormatName, syntax: str) -> None:
    turn = parse_turn(FOREIGN[syntax], format, tools=("f",))
    expected = ("calls", (ToolCall("f", {"a": 1}),)) if syntax == format else ("malformed", ())
    assert (turn.status, turn.calls) == expected


@EACH
@pytest.mark.parametrize(
    "unit",
    [
        "[f(", "[f(a=", "[f(a=1", "[f(a=1), ", "[f(a=[", "[f(a={'b':", '[f(a="', "[f(a='\\", "[f(a='x', ", "[f(aaaa",
        "[ ",
        "<|tool_call_start|>", "<|tool_call_start|>[f(", "<|tool_call_start|>[{", "<function_calls>",
        "<function_calls>f(",
        "<function_calls>f()\n", "```tool_code\n", "```tool_code\nf(", "<function=", "<function=f>{", "<|python_tag|>f",
        "<|python_tag|>f.call(", "\n[f()", "\n[f(a=1)]", "f(a=1)\n", "</think>", "<think>", " ", "\n", "\\", "1",
        "-", "'",
    ],
)  # fmt: skip
def test_reading_takes_linear_time(format: FormatName, unit: str) -> None:
    openings = {"pythonic": "[f(a=", "lfm2": "<|tool_call_start|>[f(a='", "olmo3": "<function_calls>f("}
    for opening in ("", openings.get(format, "```tool_code\nf(a=")):
        text = opening + unit * (40_000 // len(unit))
        start = time.process_time()
        parse_turn(text, format, "length", tools=("f",))
        assert time.process_time() - start < 1.5


@EACH
@pytest.mark.parametrize("arguments", ['{"a": 1', "[1]", '"x"', "null", '{"a": NaN}', "not json", '{"a": 1}), g(b=2'])
def test_arguments_that_are_no_object_are_malformed_and_add_no_call(format: FormatName, arguments: str) -> None:
    turn = parse_turn(FORMATS[format].write("", [RawCall("look", arguments)], "stop"), format)
    assert (turn.status, turn.calls) == ("malformed", ())


@pytest.mark.parametrize("format", ["pythonic", "lfm2", "olmo3", "tool_code"])
@pytest.mark.parametrize("name", ["a(b=1), c", "x y", "f)", "", 'f"', "f\n"])
def test_a_name_with_punctuation_is_malformed_and_adds_no_call(format: FormatName, name: str) -> None:
    for calls in ([RawCall(name, "{}")], [RawCall("f", json.dumps({name: 1}))]):
        turn = parse_turn(FORMATS[format].write("", calls, "stop"), format)
        assert (turn.status, turn.calls) == ("malformed", ())


# The reader


def python_reads(text: str) -> tuple[str, dict[str, Any]] | None:
    """Return the call in a text as Python's own parser reads it; None if it is no call with literals."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python reads "\\q", with a warning
            call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call)
        assert not call.args
        arguments = {argument.arg: ast.literal_eval(argument.value) for argument in call.keywords}
    except (SyntaxError, ValueError, AssertionError, MemoryError, RecursionError, TypeError):
        return None
    return ast.unparse(call.func), arguments


PIECES = [
    "f(", "a=", "b=", ")", "(", ", ", ",", "[", "]", "{", "}", ":", "'", '"', "'''", '"""', "\\", "\\n", "\\x41",
    "\\u00e9",
    "\\101", "\\'", "\\N{BULLET}", "\\U0001f600", "\\q", "\n", " ", "\t", "\r\n", "x", "1", "0", "-", "+", ".", "e",
    "_", "0x1f",
    "1e5", "True", "False", "None", "true", "nu", "*", "**", "#", "=", "r'", "'k': ", '"k": ', "订", "\x00", "\x0c",
]  # fmt: skip


@given(parts=st.lists(st.sampled_from(PIECES), max_size=14))
@settings(max_examples=1500)
def test_a_call_that_is_read_has_the_values_that_python_reads(parts: list[str]) -> None:
    text = "f(a=" + "".join(parts) + ")"
    piece, end = read_python_call(text, 0, STYLE)
    assert 0 <= end <= len(text)
    if isinstance(piece, PlacedCall) and not any(word in text for word in ("true", "null")):
        expected = python_reads(text[:end])
        assert expected is not None
        assert repr((piece.call.name, dict(piece.call.arguments))) == repr(expected)


@given(value=values, quote=st.sampled_from(["repr", "ascii"]))
def test_literals_as_python_writes_them_are_read(value: Any, quote: str) -> None:
    written = repr(value) if quote == "repr" else ascii(value)
    piece, end = read_python_call(f"f(a={written})", 0, STYLE)
    assert isinstance(piece, PlacedCall)
    assert (end, repr(piece.call.arguments)) == (len(written) + 5, repr({"a": value}))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("0x1F", 31), ("1_000", 1000), (".5", 0.5), ("5.", 5.0), ("-1e-3", -0.001), ("+2", 2), ("true", True),
        ("null", None),
        ('"""a\n"b" """', 'a\n"b" '), (r"'\x41\u00e9\101\N{BULLET}\q'", "AéA•\\q"), ("'a\\\nb'", "ab"),
        ("[1, [2], ]", [1, [2]]), ("{'a': {}, }", {"a": {}}),
    ],
)  # fmt: skip
def test_every_kind_of_literal_is_read(written: str, value: Any) -> None:
    piece, _ = read_python_call(f"f(a={written})", 0, STYLE)
    assert isinstance(piece, PlacedCall)
    assert repr(piece.call.arguments["a"]) == repr(value)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("1", "expected each argument as name=value"),
        ("a=1, 'x'", "expected each argument as name=value"),
        ("**{'a': 1}", "expected each argument as name=value"),
        ("a=x", 'expected a literal, found "x)"'),
        ("a=f(b=1)", "expected a literal"),
        ("a=1+1", "expected , or ) after an argument"),
        ("a=(1, 2)", "expected a literal"),
        ("a='x' 'y'", "expected , or ) after an argument"),
        ("a=r'x'", "expected a literal"),
        ("a=07", "not a number: 07"),
        ("a=1j", "not a number: 1j"),
        ("a=1e999", "a number that is too large for a float"),
        ("a=" + "9" * 5000, "not a number"),
        ("a=0x" + "f" * 5000, "a number with too many digits"),
        ("a=1, a=2", 'the argument "a" appears twice'),
        ("a={'k': 1, 'k': 2}", 'the key "k" appears twice in one dict'),
        ("a={1: 2}", "expected a string as the key of a dict"),
        ("a={'k'}", "expected : after the key of a dict"),
        ("a='x\ny'", "a string that is not closed in its line"),
        ("a='\x00'", "a string that contains NUL without an escape"),
        (r"a='\ud83d'", "half of a surrogate pair"),
        (r"a='\x4'", "a broken escape"),
        (r"a='\N{NO SUCH}'", "a broken escape"),
        ("a=" + "[" * 80, "values nested deeper than 62 levels"),
        ("order-id=1", 'an argument named "order-id", which is not a name in Python'),
        ("from=1", 'an argument named "from", which is a keyword of Python'),
        ("ﬁ=1", 'an argument named "ﬁ", which Python changes to fi'),
    ],
)
def test_a_call_that_is_not_read_names_the_reason(arguments: str, reason: str) -> None:
    piece, _ = read_python_call(f"f({arguments})", 0, STYLE)
    assert isinstance(piece, Fault)
    assert piece.reason.startswith(reason)
    assert piece.kind == "broken"


def test_nesting_up_to_the_limit_of_json_is_read() -> None:
    arguments: dict[str, Any] = {"a": 1}
    for _ in range(61):
        arguments = {"a": [arguments["a"]] if "a" in arguments else []}
    text = write("pythonic", "", [("f", arguments)])
    assert exact(parse_turn(text, "pythonic").calls) == exact([("f", arguments)])
    hermes = write("hermes", "", [("f", arguments)])
    assert parse_turn(hermes, "hermes").status == "calls"
