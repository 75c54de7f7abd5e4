"""The harmony format of gpt-oss: messages with headers are read as thoughts, prose and calls."""

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

texts = st.text(st.characters(exclude_categories=("Cs",))) | st.sampled_from(["<|end|>", "<|call|>", "\\<|x", "to=f"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
names = st.from_regex(r"[^\s<\ud800-\udfff]{1,12}", fullmatch=True)
calls = st.lists(st.tuples(names, st.dictionaries(texts, values, max_size=4)), min_size=1, max_size=4)
CALL = ToolCall("get-it.now", {"text": 'a\n"q" \\ 订单', "n": [-1.5e-07, True, None], "o": {"k": {}}})
OTHER = ToolCall("g", {})
THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
SAID = "<|channel|>commentary<|message|>One moment.<|end|><|start|>assistant"


def write(*calls: ToolCall, content: str = "") -> str:
    return FORMATS["harmony"].write(content, [RawCall(c.name, json.dumps(c.arguments)) for c in calls], "stop")


def read(text: str, finish_reason: Any = "stop") -> Any:
    return parse_turn(text, "harmony", finish_reason, tools=("f", "g"))


@given(content=st.sampled_from(["", "Let me look.", "好的,\n请稍等", "5 < 7"]), made=calls, ascii=st.booleans())
def test_written_calls_are_read_back_unchanged(
    content: str, made: list[tuple[str, dict[str, Any]]], ascii: bool
) -> None:
    raw = [RawCall(name, json.dumps(arguments, ensure_ascii=ascii)) for name, arguments in made]
    turn = parse_turn(FORMATS["harmony"].write(content, raw, "stop"), "harmony")
    assert (turn.status, turn.failure, turn.content) == ("calls", None, content)
    # As JSON text, because in Python 1 == 1.0 == True.
    assert json.dumps([[c.name, c.arguments] for c in turn.calls]) == json.dumps([[n, a] for n, a in made])


@given(name=st.text(min_size=1) | st.sampled_from(["f<|call|>", "f <|message|>{}<|call|>", "a b"]), raw=st.text())
def test_any_call_is_read_back_as_it_is_or_malformed(name: str, raw: str) -> None:
    turn = parse_turn(FORMATS["harmony"].write("", [RawCall(name, raw)], "stop"), "harmony")
    if turn.status == "calls":
        assert turn.calls == (ToolCall(name, json.loads(raw) if raw.strip() else {}),)
    else:
        assert (turn.status, turn.calls) == ("malformed", ())


@pytest.mark.parametrize("cut", range(1, 16))
def test_arguments_cut_at_the_limit_are_truncated(cut: int) -> None:
    text = FORMATS["harmony"].write("", [RawCall("look", '{"city": "Köln"}'[:cut])], "length")
    assert parse_turn(text, "harmony", "length").status == "truncated"


def test_a_turn_cut_at_any_character_is_truncated_or_has_the_first_calls() -> None:
    made = (CALL, ToolCall("other", {"a": "b"}), OTHER)
    text = THOUGHT + SAID + write(*made)
    ends = [end for end in range(len(text)) if text.startswith("<|call|>", end)]
    for end in range(len(THOUGHT + SAID) + len("<|channel|>"), len(text)):
        turn = parse_turn(text[:end], "harmony", "length")
        assert turn.calls in (
            made[: sum(end >= place for place in ends)],
            made[: sum(end > place + 7 for place in ends)],
        )
        assert turn.status in ("calls", "partial") if turn.calls else turn.status == "truncated"
        assert (turn.content[:11], turn.thinking) == ("One moment.", "Hm.")


@pytest.mark.parametrize(
    ("text", "thinking", "content", "calls"),
    [
        ("<|channel|>final<|message|>Hello.<|return|>", "", "Hello.", ()),
        ("Hello.", "", "Hello.", ()),
        (f"{THOUGHT}<|channel|>final<|message|>Hello.<|return|>", "Hm.", "Hello.", ()),
        (f"{THOUGHT}<|channel|>final<|message|>Hello.<|end|>", "Hm.", "Hello.", ()),
        (f"{THOUGHT}<|channel|>final <|constrain|>json<|message|>[1]<|return|>", "Hm.", "[1]", ()),
        (f"{THOUGHT}{SAID}<|channel|>commentary to=functions.g<|message|>{{}}<|call|>", "Hm.", "One moment.", (OTHER,)),
        (f"{THOUGHT}{THOUGHT}{SAID}<|channel|>final<|message|>Yes", "Hm.\n\nHm.", "One moment.Yes", ()),
        ("<think>Hm.</think>Hello.", "Hm.", "Hello.", ()),
    ],
)
def test_thoughts_and_prose_are_read_by_their_channels(
    text: str, thinking: str, content: str, calls: tuple[ToolCall, ...]
) -> None:
    turn = read(text)
    assert (turn.status, turn.failure) == ("calls" if calls else "none", None)
    assert (turn.thinking, turn.content, turn.calls) == (thinking, content, calls)


@pytest.mark.parametrize(
    "header",
    ["<|channel|>commentary to=functions.f <|constrain|>json", " to=functions.f<|channel|>commentary json",
     " to=functions.f<|channel|>commentary <|constrain|>json", "<|channel|>commentary to=functions.f",
     "<|channel|>commentary to=functions.f<|constrain|>json", "<|channel|>analysis to=functions.f code",
     "<|channel|>commentary to=f json", " to=functions.f", "assistant<|channel|>commentary to=functions.f json"],
)  # fmt: skip
def test_a_call_may_have_any_header_that_openais_parser_accepts(header: str) -> None:
    for before in ("", THOUGHT):
        if before and header.startswith("assistant"):
            continue
        turn = read(f'{before}{header}<|message|>{{"a": 1}}<|call|>')
        assert (turn.status, turn.calls, turn.content) == ("calls", (ToolCall("f", {"a": 1}),), "")


@pytest.mark.parametrize(
    "text",
    ["<|channel|>commentary to=functions.f<|message|>{'a': 1}<|call|>",
     "<|channel|>commentary to=functions.f<|message|><|call|>",
     "<|channel|>commentary to=functions.f<|message|>[1]<|call|>",
     '<|channel|>commentary to=functions.f<|message|>{"a": 1} x<|call|>',
     '<|channel|>commentary to=functions.f<|message|>{"a": 1}{"a": 2}<|call|>',
     '<|channel|>commentary to=functions.f<|message|>{"a": "<|call|>"}<|call|>',
     "<|channel|>commentary to=functions.<|message|>{}<|call|>",
     "<|channel|>commentary to=functions.f\ud800<|message|>{}<|call|>",
     "<|channel|>commentary to=functions.f g json<|message|>{}<|call|>",
     "<|channel|>commentary x to=functions.f json<|message|>{}<|call|>",
     "<|channel|>commentary to=python code<|message|>print(1)<|call|>",
     "<|channel|>commentary json<|message|>{}<|call|>",
     "<|channel|>commentary to=functions.f<|call|>",
     "<|channel|>commentary to=functions.f<|start|>assistant",
     f"{THOUGHT[: -len('assistant')]}to=functions.f<|channel|>commentary<|message|>{{}}<|call|>",
     f"{THOUGHT[: -len('<|start|>assistant')]}<|channel|>commentary to=functions.f<|message|>{{}}<|call|>",
     "<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}<|call|>",
     "Hi<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}<|call|>",
     "<|channel|>final<|message|>Hi<|end|><|start|>user<|message|>Hello<|end|>",
     "<|channel|>final<|message|>Hi<|channel|>commentary to=functions.f<|message|>{}<|call|>",
     'assistantcommentary to=functions.f json{"a": 1}'],
)  # fmt: skip
def test_a_broken_call_is_malformed(text: str) -> None:
    assert (read(text).status, read(text).calls) == ("malformed", ())


def test_a_broken_call_beside_a_good_one_is_partial() -> None:
    broken = "<|channel|>commentary to=functions.f<|message|>{a: 1}<|call|>"
    for text in (f"{broken}<|start|>assistant{write(OTHER)}", f"{write(OTHER)}<|start|>assistant{broken}"):
        assert (read(text).status, read(text).calls) == ("partial", (OTHER,))


@pytest.mark.parametrize(
    "text",
    ['<tool_call>{"name": "f", "arguments": {}}</tool_call>', '{"name": "f", "parameters": {}}', "[f(a=1)]",
     '[TOOL_CALLS]f[ARGS]{"a": 1}', "<|tool_call>call:f{a:1}<tool_call|>", 'f(a="x")'],
)  # fmt: skip
def test_a_call_in_another_syntax_is_malformed(text: str) -> None:
    for front in ("", "<|channel|>final<|message|>", f"{THOUGHT}{SAID}<|channel|>final<|message|>Look: "):
        assert (read(front + text).status, read(front + text).calls) == ("malformed", ())
    assert read(f"<|channel|>analysis<|message|>{text}<|end|><|start|>assistant{write(OTHER)}").calls == (OTHER,)


@pytest.mark.parametrize(
    "text", ["Call f to look.", "It goes to=you.", "a < b", "<|chan", "{", '{"a": 1}', "f() is it"]
)
def test_prose_is_not_a_call(text: str) -> None:
    for front in ("", "<|channel|>final<|message|>", "<|channel|>commentary<|message|>"):
        turn = read(front + text)
        assert (turn.status, turn.calls, turn.content) == ("none", (), text)


def test_an_analysis_cut_at_the_token_limit_is_truncated() -> None:
    for text in ("<|channel|>analysis<|message|>The user", "<|channel|>analysis", "<think>The user"):
        assert read(text, "length").status == "truncated"
        assert read(text, "stop").status == "none"
    assert read("<|channel|>final<|message|>The order", "length").status == "none"


def test_spans_are_those_of_the_name_and_of_each_value() -> None:
    text = f"{THOUGHT}{SAID}{write(CALL, OTHER)}"
    turn = parse_turn(text, "harmony")
    first, second = turn.call_spans(text)
    assert [text[slice(*spans.name)] for spans in (first, second)] == ["get-it.now", "g"]
    assert {key: json.loads(text[slice(*span)]) for key, span in first.values.items()} == CALL.arguments


@pytest.mark.parametrize(
    "unit",
    ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|start|>assistant", " to=", " to=functions.f ",
     "<|channel|>analysis<|message|>", "<|channel|>analysis<|message|>x<|end|><|start|>assistant", " ",
     "<|channel|>commentary to=functions.f<|message|>{", "<|message|>{}<|call|><|start|>assistant to=functions.f",
     "<think></think>", "<|end|><think></think>", "<think>", "</think>", "<|constrain|>", " json", "assistant"],
)  # fmt: skip
def test_reading_takes_linear_time(unit: str) -> None:
    started = time.process_time()
    for front in ("", "<|channel|>commentary to=functions.f", "<|channel|>final<|message|>"):
        parse_repaired(front + unit * (200_000 // len(unit)), "harmony", "length")
    assert time.process_time() - started < 6


# gpt-oss's own template, as TRL ships it


def rendered(*turn: dict[str, Any]) -> str:
    """Return the text that the template writes after the prompt."""
    source = (files("trl") / "chat_templates" / "gptoss.jinja").read_text(encoding="utf-8")
    question = {"role": "user", "content": "Where is it?"}
    (prompt,), _ = render_jinja_template([[question]], chat_template=source, add_generation_prompt=True)
    (whole,), _ = render_jinja_template([[question, *turn]], chat_template=source)
    assert whole.startswith(prompt)
    return str(whole[len(prompt) :])


def assistant(content: str = "", *calls: ToolCall, **keys: str) -> dict[str, Any]:
    functions = [{"function": {"name": call.name, "arguments": call.arguments}} for call in calls]
    return {"role": "assistant", "content": content, **({"tool_calls": functions} if calls else {}), **keys}


def test_turns_of_gpt_oss_own_template_are_read() -> None:
    for turn, expected in (
        (assistant("", CALL), ("calls", (CALL,), "", "")),
        (assistant("", OTHER, thinking="Hm."), ("calls", (OTHER,), "", "Hm.")),
        (assistant("Hello."), ("none", (), "Hello.", "")),
        (assistant("Hello.", thinking="Hm."), ("none", (), "Hello.", "Hm.")),
    ):
        read_back = read(rendered(turn))
        assert (read_back.status, read_back.calls, read_back.content, read_back.thinking) == expected


def test_what_gpt_oss_own_template_loses_is_not_read_back() -> None:
    assert read(rendered(assistant("", CALL, OTHER))).calls == (CALL,)
    beside = read(rendered(assistant("One moment.", CALL)))
    assert (beside.content, beside.thinking) == ("", "One moment.")
