"""Formats whose calls are JSON behind a marker: what they write is read back, and cut or broken calls add no call."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolhone.chat.parse import parse_repaired, parse_turn
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.formats.pieces import OTHER_FORMAT
from toolhone.records import FormatName

MARKED = (
    "mistral", "mistral_args", "phi4", "granite3", "hunyuan", "internlm", "xlam", "deepseek", "deepseek_v31", "kimi",
)  # fmt: skip
EVERY = pytest.mark.parametrize("format", MARKED)
CALL = ("query_order", {"order_id": "ORD-1", "count": 2})
PING = ("ping", {})

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=10) | st.lists(
    st.sampled_from(
        ["[", "]", "{", "}", '"', "\\", "```", "\n", "<think>", "</think>", "[/THINK]", "functools[{", "é"]
    ),
    max_size=4,
).map("".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
calls = st.lists(st.tuples(names, st.dictionaries(texts, values, max_size=3)), max_size=3)
prose = st.sampled_from(["", "Let me look.", "好的,我查一下。\n请稍等", 'I said "no" [1, 2].', "5 < 7; fine"])


def write(format: FormatName, made: list[tuple[str, dict[str, Any]]], content: str = "") -> str:
    raw = [RawCall(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in made]
    return FORMATS[format].write(content, raw, "stop")


def by_macro(format: FormatName, made: list[tuple[str, dict[str, Any]]], content: str) -> str:
    """Return a turn as the format's Jinja macro writes it."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(FORMATS[format].calls_macro + "{{ write_calls(content, calls) }}")
    openai = [{"function": {"name": name, "arguments": arguments}} for name, arguments in made]
    return template.render(content=content, calls=openai)


def exact(made: Any) -> str:
    return json.dumps(made)  # in Python, 1 == 1.0 == True


@EVERY
@settings(max_examples=30)  # of each of ten formats, which share a reader
@given(content=prose, made=calls)
def test_written_turns_are_read_back_with_the_spans_of_names_and_values(
    format: FormatName, content: str, made: list[tuple[str, dict[str, Any]]]
) -> None:
    text = write(format, made, content)
    assert by_macro(format, made, content) == text
    turn = parse_turn(text, format)
    assert (turn.status, turn.failure, turn.content) == ("calls" if made else "none", None, content)
    assert exact([(call.name, call.arguments) for call in turn.calls]) == exact(made)
    for spans, (name, arguments) in zip(turn.call_spans(text), made, strict=True):
        assert text[slice(*spans.name)].strip('"') == name
        assert exact({key: json.loads(text[slice(*span)]) for key, span in spans.values.items()}) == exact(arguments)


@EVERY
@pytest.mark.parametrize("content", ["", "Let me look."])
def test_a_turn_cut_at_any_character_has_only_its_first_calls(format: FormatName, content: str) -> None:
    made = [CALL, PING, ("f", {"text": 'a ]} " b', "list": [{"a": None}]})]
    text = write(format, made, content)
    statuses = set()
    for end in range(len(text)):
        turn = parse_turn(text[:end], format, "length")
        assert [(call.name, call.arguments) for call in turn.calls] == made[: len(turn.calls)]
        assert turn.status != "malformed", text[:end]
        statuses.add(turn.status)
        assert parse_turn(text[:end], format).status != "truncated"
    assert {"none", "truncated", "partial"} <= statuses


# Texts as the families' own templates and models write them.
NATIVE: list[tuple[FormatName, str]] = [
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}]'),
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]'),
    ("mistral", '[TOOL_CALLS]{"name": "f", "arguments": {"a": 1}}'),
    ("mistral", '[THINK]I use [TOOL_CALLS].[/THINK][TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]'),
    ("mistral", '<think>I use f.</think>[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]'),
    ("mistral_args", '[TOOL_CALLS]f[ARGS]{"a": 1}'),
    ("mistral_args", '[TOOL_CALLS]f{"a": 1}'),
    ("mistral_args", '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}'),
    ("mistral_args", 'A tool can do it.[/THINK][TOOL_CALLS]f[ARGS]{"a": 1}'),
    ("phi4", 'functools[{"name": "f", "arguments": {"a": 1}}]'),
    ("phi4", ' functools[{"name": "f", "parameters": {"a": 1}}]'),
    ("phi4", '<|tool_call|>[{"name": "f", "arguments": {"a": 1}}]<|/tool_call|>'),
    ("phi4", '<|tool_call|>\n[{"type": "function", "name": "f", "arguments": {"a": 1}}]\n<|/tool_call|>'),
    ("granite3", '<|tool_call|>[{"name": "f", "arguments": {"a": 1}}]'),
    ("granite3", '<tool_call>[{"name": "f", "arguments": {"a": 1}}]'),
    ("granite3", '<tool_call>\n[{"name": "f", "arguments": {"a": 1}}]\n</tool_call>'),
    ("hunyuan", '<tool_calls>[{"name": "f", "arguments": {"a": 1}}]</tool_calls>'),
    ("hunyuan", '<think>\nSo.\n</think>\n<tool_calls>\n[\n{"name": "f", "arguments": {"a": 1}}\n]\n</tool_calls>'),
    ("hunyuan", '<tool_calls>\n{"name": "f", "arguments": {"a": 1}}\n</tool_calls>'),
    ("internlm", '<|action_start|><|plugin|>\n{"name": "f", "parameters": {"a": 1}}<|action_end|>'),
    ("internlm", '<|action_start|> <|plugin|>\n{"name": "f", "arguments": {"a": 1}}<|action_end|>\n'),
    ("xlam", '[{"name": "f", "arguments": {"a": 1}}]'),
    ("xlam", '<think>go</think>[{"name": "f", "arguments": {"a": 1}}]'),
    ("xlam", '```json\n[\n  {"name": "f", "arguments": {"a": 1}}\n]\n```'),
    (
        "deepseek",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n"
        '```json\n{\n  "a": 1\n}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    ),
    (
        "deepseek_v31",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    ),
    (
        "kimi",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:12<|tool_call_argument_begin|>"
        '{"a": 1}<|tool_call_end|><|tool_calls_section_end|>',
    ),
    (
        "kimi",
        '<|tool_calls_section_begin|>\n<|tool_call_begin|>f:0<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|>\n'
        "<|tool_calls_section_end|>",
    ),
]


@pytest.mark.parametrize(("format", "text"), NATIVE)
def test_calls_as_the_family_writes_them_are_read(format: FormatName, text: str) -> None:
    turn = parse_turn(text, format, tools=("f",))
    assert (turn.status, turn.failure, turn.content) == ("calls", None, "")
    assert [(call.name, call.arguments) for call in turn.calls] == [("f", {"a": 1})]


BROKEN: list[tuple[FormatName, str]] = [
    ("mistral", "[TOOL_CALLS][]"),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 1}'),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}'),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": "{}"}]'),
    ("mistral_args", '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]'),
    ("mistral_args", "[TOOL_CALLS]f[ARGS]"),
    ("mistral_args", "[TOOL_CALLS]f[ARGS][1]"),
    ("mistral_args", '[TOOL_CALLS]f[ARGS]{"a": 1} and so on'),
    ("phi4", '<|tool_call|>[{"name": "f", "arguments": {}}]'),
    ("phi4", "done<|/tool_call|>"),
    ("phi4", 'functools[{"name": "f", "arguments": {}, "why": 1}]'),
    ("granite3", '<|tool_call|>[{"name": "f"}, {"arguments": {}}]'),
    ("granite3", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'),
    ("hunyuan", '<tool_calls>[{"name": "f", "arguments": {}}]'),
    ("hunyuan", "<tool_calls></tool_calls>"),
    ("internlm", "<|action_start|><|interpreter|>\nprint(1)<|action_end|>"),
    ("internlm", '<|action_start|><|plugin|>\n{"name": "f", "parameters": {}}'),
    ("xlam", '{"name": "f", "arguments": {}}'),
    ("xlam", '{"name": "f", "arguments": {}}\n{"name": "f", "arguments": {}}'),
    (
        "deepseek",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    ),
    ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>"),
    ("deepseek_v31", '<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>'),
    ("kimi", '<|tool_calls_section_begin|><|tool_call_begin|>functions.f<|tool_call_argument_begin|>{"a": 1}'),
    ("kimi", '<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|>'),
]


@pytest.mark.parametrize(("format", "text"), BROKEN)
def test_a_call_that_departs_from_the_syntax_is_malformed(format: FormatName, text: str) -> None:
    turn = parse_turn(text, format)
    assert turn.status in ("malformed", "partial")
    assert turn.failure is not None
    assert len(turn.calls) == (turn.status == "partial")


@EVERY
def test_a_broken_call_does_not_hide_the_next_one(format: FormatName) -> None:
    broken = write(format, [("f", {"a": 1})]).replace('"a": 1', '"a": one')
    turn = parse_turn(broken + "\n" + write(format, [PING]), format)
    if format != "xlam":  # a bare list has no end that can be found after a fault in it
        assert (turn.status, [call.name for call in turn.calls]) == ("partial", ["ping"])
    assert turn.failure is not None


@EVERY
@pytest.mark.parametrize("other", [name for name in FORMATS if name != "hermes"])
def test_no_format_reads_wrong_calls_in_the_text_of_another_one(format: FormatName, other: FormatName) -> None:
    turn = parse_turn(write(other, [CALL, PING], "Let me look."), format, tools=("query_order", "ping"))
    read = [(call.name, call.arguments) for call in turn.calls]
    assert read == ([CALL, PING] if turn.failure is None else [CALL, PING][: len(read)])


@EVERY
def test_a_call_of_hermes_is_another_format(format: FormatName) -> None:
    turn = parse_turn(write("hermes", [CALL]), format)
    assert (turn.status, turn.failure) == ("malformed", f"{OTHER_FORMAT} (Hermes <tool_call>)")


@EVERY
@pytest.mark.parametrize(
    "text",
    [
        "query_order needs the number of the order.",
        "Use functools.partial or functools[0].",
        "I list [1, 2].",
        "<tool>",
    ],
)
def test_prose_without_a_call_stays_prose(format: FormatName, text: str) -> None:
    for finish_reason in ("stop", "length"):
        turn = parse_turn(text, format, finish_reason, tools=("query_order",))  # type: ignore[arg-type]
        assert (turn.status, turn.content) == ("none", text)


@pytest.mark.parametrize("format", ["mistral", "mistral_args"])
def test_thoughts_of_mistral_are_not_content(format: FormatName) -> None:
    turn = parse_turn("[THINK]They greet me.[/THINK]Hello.", format)
    assert (turn.status, turn.content, turn.thinking) == ("none", "Hello.", "They greet me.")
    assert parse_turn("[THINK]They greet", format, "length").status == "truncated"


@EVERY
def test_repairs_are_counted(format: FormatName) -> None:
    text = write(format, [("f", {"a": 1})])
    python = text.replace('{"a": 1}', "{'a': 1}").replace('"name": "f"', "'name': 'f'")
    for key in ("arguments", "parameters"):
        python = python.replace(f'"{key}"', f"'{key}'")
    repaired = parse_repaired(python, format, tools=("f",))
    assert repaired.strict.calls == ()
    assert [(call.name, call.arguments) for call in repaired.turn.calls] == [("f", {"a": 1})]
    assert repaired.repairs["python_literals"] == 1


@EVERY
def test_json_text_as_arguments_is_a_repair(format: FormatName) -> None:
    text = write(format, [("f", {"a": 1})]).replace('{"a": 1}', json.dumps('{"a": 1}'))
    repaired = parse_repaired(text, format)
    assert repaired.strict.calls == ()
    assert [(call.name, call.arguments) for call in repaired.turn.calls] == [("f", {"a": 1})]
    assert dict(repaired.repairs) == {"arguments_as_text": 1}


@EVERY
def test_reading_takes_linear_time(format: FormatName) -> None:
    text = write(format, [PING])
    units = [
        text,
        text[:-1],
        *FORMATS[format].call_tokens,
        "[TOOL_CALLS]f",
        "functools",
        "functools[ ",
        "<tool_call>  ",
    ]
    units += ["[THINK]", "[/THINK]", "<|action_start|> ", '[TOOL_CALLS]f[ARGS]{"a": ']
    for unit in units:
        started = time.process_time()
        parse_repaired(unit * (60_000 // len(unit)), format, "length", tools=("f",))
        assert time.process_time() - started < 2, unit


def test_deepseek_reads_what_trls_template_writes() -> None:
    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "chat_templates" / "deepseekv3.jinja").read_text(encoding="utf-8")
    made = [CALL, PING]
    message = {
        "role": "assistant",
        "content": "Let me look.",
        "tool_calls": [
            {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for name, arguments in made
        ],
    }
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(source).render(messages=[{"role": "user", "content": "Hi"}, message], bos_token="")
    turn = parse_turn(text.rpartition("<｜Assistant｜>")[2].removesuffix("<｜end▁of▁sentence｜>"), "deepseek")
    assert (turn.status, turn.content) == ("calls", "Let me look.")
    assert [(call.name, call.arguments) for call in turn.calls] == made
