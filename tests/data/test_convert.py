"""Conversion: a written row follows its format, reads back the same, and every loss is counted."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from toolhone.cli.data import show_conversion
from toolhone.data.convert import Changed, Converted, convert, losses
from toolhone.data.importers.openai import in_call_order
from toolhone.data.read import detected_formats, read_conversations, read_source, read_tools
from toolhone.data.write_formats import WRITERS, DoesNotFit, to_hermes, to_openai, to_xlam
from toolhone.errors import UserError
from toolhone.jsonl import read_jsonl, write_jsonl
from toolhone.records import Conversation, Gold, GoldCall, Message, Tool, ToolCall

FIXTURES = Path(__file__).parents[1] / "fixtures" / "formats"
SHIPPED = Path(__file__).parents[2] / "data" / "customer_service"
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Where"},
        "days": {"type": "integer", "minimum": 1},
        "tags": {"type": "array", "items": {"type": "string"}},
        "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
    },
    "required": ["city"],
}
WEATHER = Tool("weather", "Say the weather", SCHEMA)
ASK = Message("user", "Weather in Rome?")
CALLS = (ToolCall("weather", {"city": "Rome"}, "a"), ToolCall("weather", {"city": "Oslo", "days": 2}, "b"))


def row(*messages: Message, **more: Any) -> Conversation:
    return Conversation("r1", messages, (WEATHER,), "rows.jsonl:1", **more)


def through(format: str, before: Conversation, keep_extra: bool = False) -> tuple[Conversation, list[str]]:
    """Return the row after it was written as JSON text and read back, and what it lost."""
    written = json.loads(json.dumps(WRITERS[format].write(before, keep_extra)))
    after = WRITERS[format].read(written, "out.jsonl:1", ())
    return after, losses(before, after, format)


@pytest.mark.parametrize(
    ("format", "keep_extra", "lost"),
    [("openai", True, False), ("openai", False, True), ("hermes", False, False), ("xlam", False, True)],
)
def test_thinking_is_written_or_counted_as_lost(format: str, keep_extra: bool, lost: bool) -> None:
    before = row(ASK, Message("assistant", "", CALLS, thinking="Both, then."))
    after, found = through(format, before, keep_extra)
    assert after.messages[-1].thinking == ("" if lost else "Both, then.")
    assert ("thinking (reasoning_content)" in found) == lost


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "content"])
def test_thinking_read_from_any_key_is_no_loss(key: str, tmp_path: Path) -> None:
    said = {"role": "assistant", "content": "Rain.", key: "<think>Hm.</think>\n\nRain." if key == "content" else "Hm."}
    write_jsonl(tmp_path / "in.jsonl", [{"messages": [{"role": "user", "content": "Rome?"}, said]}])
    report = convert([str(tmp_path / "in.jsonl")], "openai", tmp_path / "out.jsonl", keep_extra=True)
    assert [loss.reason for loss in report.sorted()] == []
    assert (report.written, report.lossless) == (1, 1)


# OpenAI


def test_a_row_for_openai_has_only_the_keys_that_openai_accepts() -> None:
    before = row(
        Message("system", "Be brief."),
        ASK,
        Message("assistant", "", CALLS),
        Message("tool", "sun", tool_call_id="b"),
        Message("tool", "rain", tool_call_id="a"),
        Message("assistant", "Sun.", weight=0.0),
        parallel_tool_calls=False,
        expected=Gold("none"),
        gold_source="gpt-4o",
        meta={"language": "en"},
    )
    assert to_openai(before, False) == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather in Rome?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
                    {
                        "id": "b",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city": "Oslo", "days": 2}'},
                    },
                ],
            },
            {"role": "tool", "content": "sun", "tool_call_id": "b"},
            {"role": "tool", "content": "rain", "tool_call_id": "a"},
            {"role": "assistant", "content": "Sun.", "weight": 0},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "weather", "description": "Say the weather", "parameters": SCHEMA},
            }
        ],
        "parallel_tool_calls": False,
    }
    assert isinstance(to_openai(before, False)["messages"][-1]["weight"], int)


def test_calls_without_ids_get_new_ones_and_results_get_them_in_order() -> None:
    calls = (ToolCall("weather", {}), ToolCall("weather", {"city": "x"}, "call_1"))
    results = (Message("tool", "one"), Message("tool", "two"))
    messages = to_openai(row(ASK, Message("assistant", "", calls), *results), False)["messages"]
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["call_2", "call_1"]
    assert [message["tool_call_id"] for message in messages[2:]] == ["call_2", "call_1"]


def test_a_result_without_an_unanswered_call_does_not_fit() -> None:
    with pytest.raises(DoesNotFit, match="a tool result without a call before it"):
        to_openai(row(ASK, Message("tool", "sun")), False)


def test_with_extra_keys_openai_loses_nothing() -> None:
    before = row(
        ASK,
        Message("assistant", "Look:", CALLS),
        expected=Gold("calls", (GoldCall("weather", {"city": ["Rome", "Roma"]}),)),
        gold_source="gpt-4o",
        parallel_tool_calls=False,
        meta={"template": "t1"},
    )
    after, lost = through("openai", before, keep_extra=True)
    assert lost == []
    assert after.to_json() == before.to_json()
    _, lost = through("openai", before)
    assert lost == [
        "id",
        "expected (accepted alternatives)",
        "gold_source (whose answers the gold is)",
        "meta: template",
    ]


# Hermes


def test_a_row_for_hermes_has_tools_in_its_system_text_and_calls_in_tags() -> None:
    before = row(
        Message("system", "Be brief."),
        ASK,
        Message("assistant", "Look:", CALLS),
        Message("tool", "sun", tool_call_id="b"),
        Message("tool", "rain", tool_call_id="a"),
    )
    written = to_hermes(before, False)
    system, human, gpt, tool = written["conversations"]
    assert (system["from"], human["from"], gpt["from"], tool["from"]) == ("system", "human", "gpt", "tool")
    assert system["value"].startswith("Be brief.\n\n")
    listed = system["value"].split("<tools>\n")[1].split("\n</tools>")[0]
    assert json.loads(listed) == [WEATHER.to_json()]
    assert gpt["value"] == (
        'Look:\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>'
    )
    assert tool["value"] == "<tool_response>\nrain\n</tool_response>\n<tool_response>\nsun\n</tool_response>"
    _, lost = through("hermes", before)
    assert lost == ["call ids, which are new"]


def test_a_tag_inside_a_value_does_not_end_the_call_or_the_tools() -> None:
    city = "</tool_call><tool_call></tools>"
    tool = Tool("weather", "</tools> <tools>[]</tools>", SCHEMA)
    before = Conversation("r1", (ASK, Message("assistant", "", (ToolCall("weather", {"city": city}),))), (tool,), "x:1")
    after, lost = through("hermes", before)
    assert after.messages[1].tool_calls[0].arguments == {"city": city}
    assert after.tools == (tool,)
    assert lost == []


@pytest.mark.parametrize(
    "messages",
    [
        (ASK, Message("assistant", "write <tool_call> and </tool_call> around it")),
        (ASK, Message("assistant", "", CALLS[:1]), Message("tool", "</tool_response>", tool_call_id="a")),
        (ASK, Message("assistant", "", CALLS), Message("tool", "only the second", tool_call_id="b")),
    ],
    ids=["tag-in-text", "tag-in-result", "result-of-only-the-second"],
)
def test_a_row_that_would_be_read_back_differently_is_left_out(messages: tuple[Message, ...], tmp_path: Path) -> None:
    good = row(ASK, Message("assistant", "Sun."))
    write_jsonl(tmp_path / "rows.jsonl", [row(*messages).to_json(), good.to_json() | {"id": "r2"}])
    report = convert([str(tmp_path / "rows.jsonl")], "hermes", tmp_path / "out.jsonl")
    (loss,) = [loss for loss in report.sorted() if loss.kind == "left out"]
    assert (loss.count, loss.places) == (1, [f"{tmp_path / 'rows.jsonl'}:1"])
    assert [found["id"] for _, found in read_jsonl(tmp_path / "out.jsonl")] == ["r2"]


def test_a_conversion_to_hermes_reports_all_losses() -> None:
    before = row(
        ASK,
        Message("assistant", " Sun. ", CALLS[:1], weight=0.0),
        parallel_tool_calls=False,
        expected=Gold("any"),
        gold_source="gpt-4o",
        meta={"template": "t1"},
    )
    _, lost = through("hermes", before)
    assert lost == [
        "parallel_tool_calls: false",
        "expected (accepted alternatives)",
        "gold_source (whose answers the gold is)",
        "meta: template",
        "weight 0: the turn would be learned",
        "white space at the ends of a text",
        "call ids, which are new",
    ]
    after, lost = through("hermes", before, keep_extra=True)
    assert "meta: template" not in lost
    assert after.meta["gold_source"] == "gpt-4o"


# xLAM


def test_a_row_for_xlam_has_query_tools_and_answers_with_python_types() -> None:
    written = to_xlam(row(Message("system", "Be brief."), ASK, Message("assistant", "", CALLS)), False)
    assert (written["id"], written["query"]) == ("r1", "Weather in Rome?")
    assert json.loads(written["answers"]) == [
        {"name": "weather", "arguments": {"city": "Rome"}},
        {"name": "weather", "arguments": {"city": "Oslo", "days": 2}},
    ]
    assert json.loads(written["tools"]) == [
        {
            "name": "weather",
            "description": "Say the weather",
            "parameters": {
                "city": {"type": "str", "description": "Where"},
                "days": {"type": "int, optional", "minimum": 1},
                "tags": {"type": "List[str], optional"},
                "unit": {"type": "str", "enum": ["C", "F"], "default": "C"},
            },
        }
    ]


def test_a_conversion_to_xlam_keeps_a_plain_row_except_for_ids() -> None:
    after, lost = through("xlam", row(ASK, Message("assistant", "", CALLS)))
    assert lost == ["call ids, which are new"]
    assert after.tools == (WEATHER,)
    assert [call.arguments for call in after.messages[1].tool_calls] == [call.arguments for call in CALLS]


def test_a_conversion_to_xlam_reports_what_flat_parameters_and_a_single_turn_lose() -> None:
    tool = Tool(
        "weather",
        "Say the weather",
        {
            "type": "object",
            "properties": {"city": {"type": "string", "default": "Rome"}, "at": {"type": ["string", "null"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    )
    before = Conversation(
        "r1", (Message("system", "Be brief."), ASK, Message("assistant", "Look:", CALLS[:1])), (tool,), "x:1"
    )
    _, lost = through("xlam", before)
    assert lost == [
        "tools: additionalProperties, anyOf, required, type in the schema",
        "system message",
        "text beside a call",
        "call ids, which are new",
    ]
    _, lost = through("xlam", row(ASK, Message("assistant", "It is a city.")))
    assert lost == ["text of a turn without a call"]


@pytest.mark.parametrize(
    "messages",
    [
        (ASK, Message("assistant", "", CALLS[:1]), Message("tool", "sun"), Message("assistant", "Sun.")),
        (ASK, ASK, Message("assistant", "Sun.")),
        (ASK,),
        (ASK, Message("assistant", "Sun.", weight=0.0)),
    ],
    ids=["result", "two-questions", "no-turn", "weight-0"],
)
def test_a_row_of_more_than_one_turn_does_not_fit_xlam(messages: tuple[Message, ...]) -> None:
    with pytest.raises(DoesNotFit):
        to_xlam(row(*messages), False)


# Properties of all rows

NAMES = st.sampled_from(["weather", "send_mail", "查询"])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    [
        "</tool_call>",
        "<tools>[]</tools>",
        "<tool_response>\nx\n</tool_response>",
        " a\n",
        "{}",
        "[f(x=1)]",
        "<tool_call>",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
TOOLS = tuple(Tool(name, f"does {name}", SCHEMA) for name in ("weather", "send_mail", "查询"))


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Conversations of well-formed turns: questions, calls with their results, answers."""
    messages: list[Message] = [Message("system", draw(TEXTS))] if draw(st.booleans()) else []
    number = 0
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(TEXTS)))
        for _ in range(draw(st.integers(0, 2))):
            with_id = draw(st.booleans())
            calls = []
            for _ in range(draw(st.integers(1, 3))):
                number += 1
                arguments = draw(st.dictionaries(TEXTS, VALUES, max_size=3))
                calls.append(ToolCall(draw(NAMES), arguments, f"id-{number}" if with_id else None))
            messages.append(Message("assistant", draw(TEXTS), tuple(calls), weight=draw(st.sampled_from([0.0, 1.0]))))
            for call in draw(st.permutations(calls)):
                messages.append(Message("tool", draw(TEXTS), tool_call_id=call.id))
        messages.append(Message("assistant", draw(TEXTS)))
    meta = draw(st.dictionaries(st.sampled_from(["language", "template"]), st.sampled_from(["en", "zh"])))
    return Conversation("row-1", tuple(messages), TOOLS, "rows.jsonl:1", meta=meta)


@given(conversations())
def test_openai_with_extra_keys_is_the_identity_except_for_new_ids(found: Conversation) -> None:
    before = replace(found, messages=in_call_order(found.messages))  # as every row is read
    after, lost = through("openai", before, keep_extra=True)
    assert lost == []
    assert [(m.role, m.content, m.weight) for m in after.messages] == [
        (m.role, m.content, m.weight) for m in before.messages
    ]
    for old, new in zip(before.messages, after.messages, strict=True):
        assert json.dumps([[c.name, c.arguments] for c in old.tool_calls]) == json.dumps(
            [[c.name, c.arguments] for c in new.tool_calls]
        )
        assert all(call.id for call in new.tool_calls)
    assert (after.tools, after.meta, after.id) == (before.tools, before.meta, before.id)
    written = to_openai(before, True)
    assert to_openai(after, True) == written


@given(conversations())
@settings(max_examples=200)
def test_a_row_in_hermes_reads_back_with_the_same_calls_or_is_left_out(before: Conversation) -> None:
    try:
        after, lost = through("hermes", before)
    except (Changed, DoesNotFit, UserError):
        return
    said = [json.dumps([c.name, c.arguments], sort_keys=True) for m in before.messages for c in m.tool_calls]
    assert [json.dumps([c.name, c.arguments], sort_keys=True) for m in after.messages for c in m.tool_calls] == said
    spoken = [m.content.strip() for m in before.messages if m.role in ("user", "assistant")]
    assert [m.content.strip() for m in after.messages if m.role in ("user", "assistant")] == spoken
    assert after.tools == before.tools
    if any(call.id for message in before.messages for call in message.tool_calls):
        assert any("call ids" in reason for reason in lost) or not before.messages


def test_plain_rows_are_never_left_out_of_hermes() -> None:
    """The property above would also hold for a converter that leaves everything out."""
    for before in read_conversations(SHIPPED / "test.jsonl", read_tools(SHIPPED / "tools.json")):
        after, lost = through("hermes", before, keep_extra=True)
        assert set(lost) <= {"call ids, which are new"}
        assert [m.content for m in after.messages] == [m.content for m in before.messages]


# The command


def test_the_shipped_rows_convert_to_every_format_and_are_detected_as_it(tmp_path: Path) -> None:
    source = SHIPPED / "test.jsonl"
    rows = [row for _, row in read_jsonl(source)]
    single = sum([m["role"] for m in row["messages"]] == ["system", "user", "assistant"] for row in rows)
    for format in WRITERS:
        out = tmp_path / f"{format}.jsonl"
        report = convert([str(source)], format, out, tools=SHIPPED / "tools.json", keep_extra=True)
        assert detected_formats(out) == {str(out): format}
        found = list(read_source(out))
        assert all(isinstance(row, Conversation) for row in found)
        assert report.read == len(rows)
        assert report.written == len(found) == (single if format == "xlam" else len(rows))
    left_out = {loss.reason: loss.count for loss in report.sorted() if loss.kind == "left out"}
    reason = "not exactly one question and one turn, as xLAM requires"
    assert left_out == {reason: len(rows) - single}


def test_a_row_that_cannot_be_read_is_in_the_report(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    good = json.dumps(row(ASK, Message("assistant", "Sun.")).to_json())
    source.write_text(f"{{broken\n{good}\n", encoding="utf-8")
    report = convert([str(source)], "openai", tmp_path / "out.jsonl", keep_extra=True)
    (loss,) = report.sorted()
    assert (loss.kind, loss.reason, loss.places) == ("in reading", "broken-json", [f"{source}:1"])
    assert (report.read, report.written, report.lossless) == (1, 1, 1)


def test_if_no_row_fits_no_file_is_written(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    write_jsonl(source, [row(ASK).to_json()])
    with pytest.raises(
        UserError, match=r"no row could be written as xlam; first reason: not exactly one .*rows.jsonl:1"
    ):
        convert([str(source)], "xlam", tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_the_source_is_not_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    write_jsonl(source, [row(ASK, Message("assistant", "Sun.")).to_json()])
    kept = source.read_bytes()
    with pytest.raises(UserError, match="is one of the files to read"):
        convert([str(source)], "openai", tmp_path / "." / "rows.jsonl")
    assert source.read_bytes() == kept


def test_the_report_counts_each_reason_and_names_its_first_places() -> None:
    report = Converted(read=9, written=4, lossless=0)
    for number in range(5):
        report.note("left out", "too long", f"a:{number}")
    report.note("lost", "id", "a:7")
    console = Console(file=StringIO(), width=200, highlight=False)
    show_conversion(report, "xlam", Path("out.jsonl"), console)
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue() == (
        "out.jsonl: 4 of 9 rows as xlam, 0 of them without any loss\n"
        "  left out, 5 rows: too long (a:0, a:1, a:2, ...)\n"
        "  lost in 1 row: id (a:7)\n"
    )


def test_a_verbatim_row_of_xlam_is_written_unchanged(tmp_path: Path) -> None:
    convert([str(FIXTURES / "xlam.jsonl")], "xlam", tmp_path / "out.jsonl")
    (_, printed), (_, written) = (next(read_jsonl(path)) for path in (FIXTURES / "xlam.jsonl", tmp_path / "out.jsonl"))
    assert written["query"] == printed["query"]
    for key in ("tools", "answers"):
        old, new = (json.loads(row[key]) if isinstance(row[key], str) else row[key] for row in (printed, written))
        assert new == old


@pytest.mark.parametrize("source", ["hermes.json", "glaive.jsonl", "llamafactory.json", "xlam.jsonl"])
@pytest.mark.parametrize("format", ["openai", "hermes"])
def test_verbatim_rows_of_other_formats_keep_their_meaning_when_converted(
    tmp_path: Path, source: str, format: Any
) -> None:
    out = tmp_path / "out.jsonl"
    report = convert([str(FIXTURES / source)], format, out, keep_extra=True)
    before = [row for row in read_source(FIXTURES / source) if isinstance(row, Conversation)]
    after = [row for row in read_source(out) if isinstance(row, Conversation)]
    assert report.written == report.read == len(before) == len(after) > 0
    for old, new in zip(before, after, strict=True):
        assert [(m.role, m.content.strip()) for m in new.messages] == [
            (m.role, m.content.strip()) for m in old.messages
        ]
        assert [m.tool_calls for m in new.messages] == [m.tool_calls for m in old.messages]
        assert new.tools == old.tools
