"""The formats functiongemma and gemma4: what is written is read back, and nothing else is read as a call."""

from __future__ import annotations

import json
import time
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from toolhone.chat.parse import parse_repaired, parse_turn
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.records import ToolCall

NAMES = ("functiongemma", "gemma4")
EVERY = pytest.mark.parametrize("format", NAMES)
OPENING = {"functiongemma": "<start_function_call>", "gemma4": "<|tool_call>"}
CLOSING = {"functiongemma": "<end_function_call>", "gemma4": "<tool_call|>"}
QUOTE = {"functiongemma": "<escape>", "gemma4": '<|"|>'}
TOKENS = [*OPENING.values(), *CLOSING.values(), *QUOTE.values(), "<|channel>", "<channel|>"]

texts = st.text(st.characters(exclude_categories=("Cs",))).filter(lambda text: not any(t in text for t in TOKENS))
keys = st.from_regex(r"[\w$][\w$. /-]{0,8}[\w$]", fullmatch=True)
numbers = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.sampled_from(["5", "true", "null", "{a:1}", "x,b:2", '"', "\\n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
calls = st.lists(st.tuples(keys, st.dictionaries(keys, values, max_size=4)), min_size=1, max_size=4)
ARGUMENTS = {
    "text": 'a\n"q" \\ {x},[y]: 订单😀',
    "number": [-1.5e-07, 0, -3, 10**30, 1e22],
    "flags": [True, False, None],
    "nested": {"k": {"l": [[], {}, {"m": "5"}]}},
    "empty": "",
}


def write(format: str, *calls: ToolCall, content: str = "") -> str:
    return FORMATS[format].write(content, [RawCall(c.name, json.dumps(c.arguments)) for c in calls], "stop")


def native(format: str, text: str) -> str:
    """Return a text that has ⟦, ⟧ and ¦ for the format's tokens."""
    return text.replace("⟦", OPENING[format]).replace("⟧", CLOSING[format]).replace("¦", QUOTE[format])


def as_text(made: Any) -> str:
    return json.dumps(made)  # because in Python 1 == 1.0 == True


@EVERY
@given(content=st.sampled_from(["", "Let me look.", "好的,\n请稍等", "5 < 7"]), made=calls, ascii=st.booleans())
def test_written_calls_are_read_back_unchanged(
    format: str, content: str, made: list[tuple[str, dict[str, Any]]], ascii: bool
) -> None:
    raw = [RawCall(name, json.dumps(arguments, ensure_ascii=ascii)) for name, arguments in made]
    turn = parse_turn(FORMATS[format].write(content, raw, "stop"), format)
    assert (turn.status, turn.failure, turn.content) == ("calls", None, content)
    assert as_text([[c.name, c.arguments] for c in turn.calls]) == as_text([[n, a] for n, a in made])


@EVERY
@given(
    name=st.text(min_size=1),
    key=st.text() | st.lists(st.sampled_from([*TOKENS, ":", ",", "a", "{", "}"])).map("".join),
    value=st.text() | st.lists(st.sampled_from([*TOKENS, "}", "call:g{", ",b:", "x"])).map("".join),
)
def test_a_call_that_the_grammar_cannot_carry_is_never_read_as_another_call(
    format: str, name: str, key: str, value: str
) -> None:
    arguments = json.dumps({key: value, "o": {key: [value]}})
    turn = parse_turn(FORMATS[format].write("", [RawCall(name, arguments)], "stop"), format)
    if turn.status == "calls":
        assert turn.calls == (ToolCall(name, json.loads(arguments)),)
    else:
        assert (turn.status, turn.calls) == ("malformed", ())


@EVERY
@pytest.mark.parametrize(
    "arguments",
    [{"a": "x⟧"}, {"a": "⟦call:g{}"}, {"a": "x¦,b:¦y"}, {"a:b": 1}, {"a,b": 1}, {"": 1}, {" a": 1}, {'"a"': 1},
     {"o": {"{": 1}}, {"a": ["¦"]}],
)  # fmt: skip
def test_a_call_that_the_grammar_cannot_carry_is_malformed(format: str, arguments: dict[str, Any]) -> None:
    raw = native(format, json.dumps(arguments, ensure_ascii=False)).replace('<|"|>', '<|\\"|>')
    text = FORMATS[format].write("", [RawCall("f", raw)], "stop")
    assert (parse_turn(text, format).status, parse_turn(text, format).calls) == ("malformed", ())


@EVERY
@pytest.mark.parametrize("arguments", ['{"a": 1', "{'a': 1}", '{"a": NaN}', "[1]", "not json", '{"a": "\\ud800"}'])
def test_arguments_that_are_not_a_json_object_are_malformed(format: str, arguments: str) -> None:
    turn = parse_turn(FORMATS[format].write("", [RawCall("look", arguments)], "stop"), format)
    assert (turn.status, turn.calls) == ("malformed", ())


@EVERY
@pytest.mark.parametrize("cut", range(1, 31))
def test_cut_arguments_are_written_up_to_the_cut_and_truncated(format: str, cut: int) -> None:
    arguments = '{"a": "K\\u00f6ln", "b": [1, {}]'
    text = FORMATS[format].write("", [RawCall("look", arguments[:cut])], "length")
    assert parse_turn(text, format, "length").status == "truncated"
    assert (native(format, "a:¦Köln¦") in text) == (cut >= 17)


@EVERY
def test_a_turn_cut_at_any_character_is_truncated_or_has_the_first_calls(format: str) -> None:
    made = (ToolCall("get.it", ARGUMENTS), ToolCall("other", {}), ToolCall("third", {"n": 12}))
    text = write(format, *made, content="Let me look.")
    for end in range(len("Let me look.") + 3, len(text)):
        turn = parse_turn(text[:end], format, "length")
        whole = text.count(CLOSING[format], 0, end)
        assert turn.calls == made[:whole]
        between = text[:end].endswith((CLOSING[format], CLOSING[format] + "<", CLOSING[format] + OPENING[format][:2]))
        assert turn.status == ("calls" if between else "partial" if whole else "truncated"), text[:end]
        assert turn.content.startswith("Let me look.")


@EVERY
@pytest.mark.parametrize(
    "text",
    ["⟦call:f{a:1}", "⟦call:f{a:1⟧", "⟦call:f{a:¦x}⟧", "⟦call:f{a:x}⟧", "⟦call:f{a:}⟧", "⟦call:f{a:1,}⟧",
     "⟦call:f{a:1 b:2}⟧", "⟦call:f{a:01}⟧", "⟦call:f{a:1.}⟧", "⟦call:f{a:NaN}⟧", "⟦call:f{a:1e999}⟧",
     "⟦call:f{a:None}⟧",
     "⟦call:f{a:1,a:2}⟧", "⟦call:f{'a':1}⟧", '⟦call:f{"a": 1}⟧', '⟦{"name": "f", "arguments": {}}⟧', "⟦f{}⟧",
     "⟦call:{}⟧",
     "⟦call:f⟧", "⟦call:f()⟧", "⟦call:f{}x⟧", "⟦⟧", "⟧", "⟦call:f{a:[1}⟧", "⟦call:f{a:[1,]}⟧", "⟦call:f{a:[}⟧",
     "⟦call:f{a:¦\ud800¦}⟧", "⟦call:f{a:" + "[" * 70 + "]" * 70 + "}⟧", "⟦call:f{a:" + "9" * 5000 + "}⟧",
     "⟦print(f(a=1))⟧", "call:f{a:1}⟧"],
)  # fmt: skip
def test_a_broken_call_is_malformed(format: str, text: str) -> None:
    for finish_reason in ("stop", "length") if text.endswith("⟧") else ("stop",):
        turn = parse_turn(native(format, text), format, finish_reason, tools=("f",))  # type: ignore[arg-type]
        assert (turn.status, turn.calls) == ("malformed", ())


@EVERY
def test_a_broken_call_does_not_hide_a_good_one(format: str) -> None:
    good = ToolCall("g", {"a": "x"})
    for broken in ("⟦call:f{a:⟧", "⟦call:f{a:¦x", "⟦", "⟦call:f{"):
        turn = parse_turn(native(format, broken) + write(format, good), format)
        assert (turn.status, turn.calls) == ("partial", (good,))


@EVERY
def test_white_space_between_the_parts_of_a_call_does_not_matter(format: str) -> None:
    text = native(format, "⟦ call:f{ a : ¦x ¦ , ¦b¦: [ 1 , 2 ] , c:{ } } ⟧\n⟦\ncall:g{\n}\n⟧")
    assert parse_turn(text, format).calls == (ToolCall("f", {"a": "x ", "b": [1, 2], "c": {}}), ToolCall("g", {}))


@EVERY
def test_python_words_are_repaired(format: str) -> None:
    text = native(format, "⟦call:f{a:True,b:[None],c:False}⟧⟦call:g{a:1}⟧")
    read = parse_repaired(text, format)
    assert (read.strict.status, read.strict.calls) == ("partial", (ToolCall("g", {"a": 1}),))
    assert read.turn.calls == (ToolCall("f", {"a": True, "b": [None], "c": False}), ToolCall("g", {"a": 1}))
    assert read.repairs == {"python_literals": 1}


@EVERY
def test_spans_are_those_of_the_name_and_of_each_written_value(format: str) -> None:
    text = "好的😀 " + write(format, ToolCall("get.it", ARGUMENTS), ToolCall("g", {"a": "1"}))
    turn = parse_turn(text, format)
    first, second = turn.call_spans(text)
    assert text[slice(*first.name)] == "get.it"
    written = {key: text[slice(*span)] for key, span in first.values.items()}
    assert written["flags"] == "[true,false,null]"
    assert written["text"] == QUOTE[format] + ARGUMENTS["text"] + QUOTE[format]  # type: ignore[operator]
    assert list(written) == list(ARGUMENTS)
    assert text[slice(*second.values["a"])] == native(format, "¦1¦")
    assert [text[start:end] for start, end in turn.places] == [
        write(format, call) for call in (ToolCall("get.it", ARGUMENTS), ToolCall("g", {"a": "1"}))
    ]


@EVERY
@pytest.mark.parametrize(
    "text",
    ["Use call:f{a} to call.", "I can call f for you.", "{a:1}", "a < b", "<start", "<|tool", "Press <escape> twice.",
     "call: me"],
)  # fmt: skip
def test_prose_is_not_a_call(format: str, text: str) -> None:
    turn = parse_turn(text, format, tools=("f",))
    assert (turn.status, turn.calls, turn.content) == ("none", (), text)


@EVERY
@pytest.mark.parametrize(
    "text",
    ['<tool_call>{"name": "f", "arguments": {}}</tool_call>', '{"name": "f", "parameters": {}}', "[f(a=1)]",
     '[TOOL_CALLS]f[ARGS]{"a": 1}', "```tool_code\nf(a=1)\n```", "call:f{a:1}",
     '<|channel|>commentary to=functions.f<|message|>{"a": 1}<|call|>'],
)  # fmt: skip
def test_a_call_in_another_syntax_is_malformed(format: str, text: str) -> None:
    turn = parse_turn(text, format, tools=("f",))
    assert (turn.status, turn.calls) == ("malformed", ())


def test_each_of_the_two_formats_refuses_the_calls_of_the_other() -> None:
    call = ToolCall("f", {"a": "x"})
    assert "FunctionGemma" in str(parse_turn(write("functiongemma", call), "gemma4").failure)
    assert "Gemma 4" in str(parse_turn(write("gemma4", call), "functiongemma").failure)


@EVERY
@pytest.mark.parametrize(
    "unit",
    ["⟦", "⟧", "⟦call:f{", "⟦call:f{a:¦", "⟦call:f{a:1}⟧", "⟦call:f{a:[", "⟦call:", "¦", "<|channel>", "<channel|>",
     "⟦call:f{a:1,", "⟦call:f{a:" + "1" * 50, "<|channel>thought\n", "<channel|>⟦", " ", "⟦ ", "call:f{", "⟦call:a "],
)  # fmt: skip
def test_reading_takes_linear_time(format: str, unit: str) -> None:
    written = native(format, unit)
    started = time.process_time()
    for front in ("", native(format, "⟦call:f{a:"), native(format, "⟦call:f{a:¦")):
        parse_repaired(front + written * (200_000 // len(written)), format, "length")
    assert time.process_time() - started < 6


@EVERY
def test_toolhones_templates_write_what_the_format_writes(format: str) -> None:
    chat_format = FORMATS[format]
    template = f"{{%- macro write_calls(content, calls) -%}}{chat_format.calls}{{%- endmacro -%}}" + (
        "{{ write_calls(messages[0].content, messages[0].tool_calls) }}"
    )
    for content in ("", "Let me look. "):
        for made in ((), (ToolCall("f", {}),), (ToolCall("get.it", ARGUMENTS), ToolCall("g", {"a": [1, "é"]}))):
            functions = [{"function": {"name": call.name, "arguments": call.arguments}} for call in made]
            message = {"role": "assistant", "content": content, "tool_calls": functions}
            rendered, _ = render_jinja_template([[message]], chat_template=template)
            assert rendered[0] == write(format, *made, content=content)


# Gemma 4's own templates, as TRL ships them

TEMPLATES = ("gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5")


def rendered(template: str, *turn: dict[str, Any]) -> str:
    """Return the text that a template of Gemma 4 writes for the assistant's turn."""
    source = (files("trl") / "chat_templates" / f"{template}.jinja").read_text(encoding="utf-8")
    question = {"role": "user", "content": "Where is it?"}
    texts, _ = render_jinja_template([[question, *turn]], chat_template=source, bos_token="<bos>")
    return str(texts[0]).rpartition("<|turn>model\n")[2]


def assistant(arguments: dict[str, Any], content: str = "") -> dict[str, Any]:
    functions = [{"function": {"name": name, "arguments": arguments}} for name in ("f", "g")]
    return {"role": "assistant", "content": content, "tool_calls": functions}


@pytest.mark.parametrize("template", TEMPLATES)
def test_calls_of_gemma_4s_own_templates_are_read(template: str) -> None:
    arguments = {**ARGUMENTS, "flags": [True, False]}
    turn = parse_turn(rendered(template, assistant(arguments, "One moment.")), "gemma4")
    assert (turn.status, turn.content) == ("calls", "One moment.")
    assert turn.calls == (ToolCall("f", arguments), ToolCall("g", arguments))
    assert as_text(turn.calls[0].arguments["number"]) == as_text(arguments["number"])
    plain = parse_turn(rendered(template, {"role": "assistant", "content": "It is here."}), "gemma4")
    assert (plain.status, plain.content) == ("none", "It is here.")


def test_a_null_that_older_templates_write_as_none_is_malformed() -> None:
    statuses = {
        template: parse_turn(rendered(template, assistant({"a": None})), "gemma4").status for template in TEMPLATES
    }
    assert statuses == {**dict.fromkeys(TEMPLATES, "malformed"), "gemma4_v5": "calls"}


def test_thoughts_in_gemma_4s_channel_are_read() -> None:
    call = ToolCall("f", {"a": 1})
    text = write("gemma4", call)
    for written, thinking in (
        (f"<|channel>thought\nHm.\n<channel|>{text}", "Hm."),
        (f"Hm.\n<channel|>{text}", "Hm."),  # the prompt opened the thought
        (f"thought\nHm.\n<channel|>{text}", "Hm."),
        (f"<|channel>thought\nHm.{text}", "Hm."),  # as in vLLM, a call ends the thought
        (f"<|channel>thought\n<channel|>{text}", ""),
        (f"<|channel>thought\na<channel|><|channel>thought\nb<channel|>{text}<channel|>", "a\n\nb"),
        (f"<think>Hm.</think>{text}", "Hm."),
    ):
        turn = parse_turn(written, "gemma4")
        assert (turn.status, turn.calls, turn.thinking, turn.content) == ("calls", (call,), thinking, "")


def test_a_thought_cut_at_the_token_limit_is_truncated() -> None:
    for text in ("<|channel>thought\nThe user", "<think>The user", "<|channel>thought\nSo [f(a=1)]"):
        assert parse_turn(text, "gemma4", "length").status == "truncated"
    assert parse_turn("<|channel>thought\nThe user", "gemma4", "stop").status == "none"
    assert parse_turn("<|channel>thought\nSo [f(a=1)]", "gemma4", "stop").status == "malformed"


@pytest.mark.parametrize("end", ["<turn|>", "<|tool_response>", "<eos>", "<turn|>\n", "<end_of_turn>"])
def test_end_tokens_after_a_call_are_dropped(end: str) -> None:
    turn = parse_turn(write("gemma4", ToolCall("f", {})) + end, "gemma4")
    assert (turn.status, turn.calls, turn.content) == ("calls", (ToolCall("f", {}),), "")
