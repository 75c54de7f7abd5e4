"""Rows as public tools write them (`tests/fixtures/cases`): a file is read in full or refused, naming its format."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.config import DataConfig
from toolhone.data.check.finding import Finding, describe_left_out, sound_rows
from toolhone.data.check.survey import check_files
from toolhone.data.convert import convert
from toolhone.data.importers import IMPORTERS
from toolhone.data.importers.functions import read_call, read_tool
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import examples, read_source, read_sources, read_tools
from toolhone.data.split import make_splits, read_files
from toolhone.errors import RowError, UserError
from toolhone.evaluate.match import gold_faults
from toolhone.records import Conversation, Message, ToolCall

CASES = Path(__file__).parent.parent / "fixtures" / "cases"
Row = dict[str, Any]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def read(name: str) -> list[Conversation | RowFault]:
    return list(read_source(CASES / name))


def rows(name: str) -> list[Conversation]:
    found = read(name)
    assert {row.rule for row in found if isinstance(row, RowFault)} <= {"log-id-reused"}
    return [row for row in found if isinstance(row, Conversation)]


def findings(*files: Path, fix: Path | None = None) -> list[Finding]:
    return [one for one in check_files([str(file) for file in files], fix=fix).found if isinstance(one, Finding)]


def rules(*files: Path, severity: str) -> Counter[str]:
    return Counter(finding.rule for finding in findings(*files) if finding.severity == severity)


def write(path: Path, *found: Row) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    return path


# Every file


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("langchain_args_optional.jsonl", 6),
        ("ids_session_ids.jsonl", 6),
        ("ids_azure_stream.jsonl", 6),
        ("ids_azure_stream_filter_tail.jsonl", 6),
        ("litellm_spend_logs_full.jsonl", 6),
        ("litellm_standard_logging_payload.jsonl", 6),
        ("openpipe_dataset.jsonl", 6),
        ("langfuse_langchain_with_tools.jsonl", 6),
        ("msswift_agent.jsonl", 6),
        ("otel_spans.jsonl", 6),
        ("trl_prompt_completion.jsonl", 6),
        ("trl_datasets.parquet", 12),
        ("pydantic_enum_ref.jsonl", 4),
        ("reasoning_rows.jsonl", 6),
        ("parts_model_dump.jsonl", 1),
        ("parts_refusal_null_content.jsonl", 1),
        ("tools_arguments_not_in_schema.jsonl", 1),
        ("tools_call_parameters_key.jsonl", 1),
        ("tools_list_of_texts.jsonl", 1),
        ("args_same_row_twice.jsonl", 13),
        ("other_messages_text.jsonl", 6),
        ("parallel_rows.jsonl", 1),
        ("anthropic_tool_use.jsonl", 6),
        ("anthropic_text_only.jsonl", 6),
        ("gemini_tuning.jsonl", 6),
    ],
)
def test_a_file_of_a_public_tool_is_read_in_full(name: str, count: int) -> None:
    found = rows(name)
    assert len(found) == count
    assert all(row.tools for row in found)
    called = [call for row in found for message in row.messages for call in message.tool_calls]
    assert all(call.arguments for call in called)
    assert called or name in ("parts_refusal_null_content.jsonl", "anthropic_text_only.jsonl")
    assert not rules(CASES / name, severity="error")


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []}, "OpenAI's preference pairs"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference pairs"),
        ({"instruction": "a", "input": "", "output": "b"}, "Alpaca"),
        ({"prompt": "a", "completion": "b"}, "plain texts"),
        ({"object": "trace.span", "span_data": {"type": "generation"}}, "Agents SDK"),
        ({"type": "user", "sessionId": "a", "uuid": "b", "message": {}}, "Claude Code"),
        ({"span_attributes": {"type": "llm"}, "input": [], "output": []}, "Braintrust"),
        ({"meta": {"kind": "llm"}, "name": "a"}, "Datadog"),
        ({"info": {"trace_id": "a"}, "data": {"spans": []}}, "MLflow"),
        ({"RequestBody": "{}"}, "an object without a conversation (it has the keys RequestBody)"),
    ],
)
def test_an_unsupported_format_is_refused_with_its_name(row: Row, format: str, tmp_path: Path) -> None:
    (fault,) = read_source(write(tmp_path / "rows.jsonl", row))
    assert isinstance(fault, RowFault)
    assert fault.rule == "unread-format"
    assert format in fault.message


def test_a_csv_file_is_refused_in_one_sentence() -> None:
    (fault,) = read("other_log.csv")
    assert isinstance(fault, RowFault)
    assert fault.rule == "unread-format"
    assert fault.message.startswith(
        "looks like CSV with the columns id, input, output, model; convert the file to JSON"
    )
    assert fault.message.endswith(f"(formats that are read: {', '.join(IMPORTERS)})")


@pytest.mark.parametrize(
    "head", [b"PK\x03\x04rest", b"SQLite format 3\0", b"<html>", b"---\na: 1\n", b"\x1f\x8b\x08rest"]
)
def test_a_file_that_is_not_json_is_refused_in_one_sentence(head: bytes, tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(head + b"\nmore\nand more\n")
    (fault,) = read_source(tmp_path / "rows")
    assert isinstance(fault, RowFault)
    assert fault.rule == "unread-format"


def test_reasoning_is_thinking_and_the_check_says_once_what_happens_to_it() -> None:
    names = ("Golden Fork", "Blue Lantern", "Casa Miro", "Old Mill", "Nordlys", "Tamarind")
    assert [row.messages[1].thinking for row in rows("reasoning_rows.jsonl")] == [f"They want {n}." for n in names]
    (advice,) = [one for one in findings(CASES / "reasoning_rows.jsonl") if one.rule == "thinking"]
    assert advice.severity == "advice"
    assert advice.message == "6 of 6 assistant turns have thinking (reasoning_content)"
    assert "chat.thinking" in advice.remedy


# Logs


def test_repeated_response_ids_drop_no_row(tmp_path: Path) -> None:
    for name in ("ids_session_ids.jsonl", "ids_azure_stream.jsonl"):
        found = list(sound_rows(read_source(CASES / name), left_out := {}))
        assert len(found) == len({row.id for row in found}) == 6
        assert left_out == {}
    assert rules(CASES / "ids_session_ids.jsonl", severity="warning") == {"log-id-reused": 5}
    # A line that was logged twice is one row, whether or not another response has its id.
    lines = (CASES / "ids_session_ids.jsonl").read_text().splitlines()
    (tmp_path / "twice.jsonl").write_text("\n".join([*lines, lines[0], lines[3]]))
    found = list(sound_rows(read_source(tmp_path / "twice.jsonl"), left_out := {}))
    assert len(found) == 6
    assert left_out == {"log-repeated": [f"{tmp_path / 'twice.jsonl'}:{line}" for line in (7, 8)]}


def test_steps_of_one_conversation_under_one_id_are_folded_without_a_warning(tmp_path: Path) -> None:
    ask, answer = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
    more, last = {"role": "user", "content": "bye"}, {"role": "assistant", "content": "bye bye"}
    steps = [{"messages": [ask]}, {"messages": [ask, answer, more]}]
    lines = [{"id": "s", "request": step, "response": said} for step, said in zip(steps, (answer, last), strict=True)]
    (row,) = read_source(write(tmp_path / "log.jsonl", *lines))
    assert isinstance(row, Conversation)
    assert (row.id, [m.weight for m in row.messages if m.role == "assistant"]) == ("s", [1.0, 1.0])


def test_a_broken_response_is_left_out_and_the_others_are_read() -> None:
    name = CASES / "args_log_one_broken.jsonl"
    found = list(sound_rows(read_source(name), left_out := {}))
    assert len(found) == 59
    assert left_out == {"log-broken-call": [f"{name}:8"]}
    assert describe_left_out(left_out) == (
        f"left out 1 row: 1 log-broken-call ({name}:8); `toolhone data check` says why"
    )


def test_observations_that_are_not_requests_are_counted() -> None:
    found = list(sound_rows(read_source(CASES / "langfuse_mixed_observations.jsonl"), left_out := {}))
    assert len(found) == 1
    assert [len(places) for places in left_out.values()] == [2]


def test_training_names_every_row_that_it_leaves_out(tmp_path: Path) -> None:
    ask = {"role": "user", "content": "elsewhere"}
    write(tmp_path / "test.jsonl", {"messages": [ask, {"role": "assistant", "content": "yes"}]})
    config = DataConfig(train=[str(CASES / "args_log_one_broken.jsonl")], test=[str(tmp_path / "test.jsonl")])
    splits = make_splits(config)
    assert len(splits.train) + len(splits.validation) == 59
    assert splits.left_out == {"log-broken-call": [f"{CASES / 'args_log_one_broken.jsonl'}:8"]}


# Tools and calls under other keys


@pytest.mark.parametrize(
    "key",
    ["parameters", "inputSchema", "input_schema", "parametersJsonSchema", "parameters_json_schema", "args_schema"],
)
def test_a_schema_is_read_under_every_known_key(key: str) -> None:
    for schema in (SCHEMA, json.dumps(SCHEMA)):
        for tool in ({"name": "f", key: schema}, {"type": "function", "function": {"name": "f", key: schema}}):
            assert read_tool(tool, "w").parameters == SCHEMA
    assert read_tool({"toolSpec": {"name": "f", "inputSchema": {"json": SCHEMA}}}, "w").parameters == SCHEMA


def test_mcp_tools_give_the_same_findings_as_openai_tools(tmp_path: Path) -> None:
    def said(name: str) -> list[tuple[str, str]]:
        return [(one.rule, one.message) for one in findings(CASES / name) if one.severity == "error"]

    assert said("mcp_rows.jsonl") == said("mcp_rows_as_openai.jsonl")
    assert len(said("mcp_rows.jsonl")) == 3
    (tool,) = read_tools(CASES / "mcp_list_result.json")
    assert tool.parameters["required"] == ["restaurant", "guests"]
    assert tool == rows("mcp_rows_as_openai.jsonl")[0].tools[0]


@pytest.mark.parametrize("key", ["arguments", "args", "parameters", "input"])
def test_arguments_are_read_under_every_known_key(key: str) -> None:
    call = ToolCall("f", {"city": "Lund"}, "c")
    for arguments in ({"city": "Lund"}, '{"city": "Lund"}'):
        assert read_call({"name": "f", key: arguments, "id": "c"}, "w") == call
        assert read_call({"id": "c", "function": {"name": "f", key: arguments}}, "w") == call


@given(st.text(min_size=1), st.sampled_from([{"city": "Lund"}, "x", 1]))
def test_an_unknown_key_of_a_call_or_a_tool_is_refused_with_its_name_or_read(key: str, value: Any) -> None:
    for reader, row, kept in (
        (read_call, {"name": "f"}, lambda call: call.arguments),
        (read_tool, {"name": "f"}, lambda tool: tool.parameters["properties"]),
    ):
        if key in row or key == "function":
            continue
        try:
            found = reader({**row, key: value}, "w")
        except RowError as error:
            assert key in str(error) or "arguments" in str(error) or "JSON" in str(error)  # noqa: PT017
        else:
            from toolhone.data.importers import functions

            ignored = functions._CALL_KEYS | functions._NOT_NEEDED_IN_TOOLS | {"description", "required"}
            assert kept(found) or key in ignored or key in functions._SCHEMA_KEYS


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"name": "f", "argz": {"city": "Lund"}}, '"argz"'),
        ({"function": {"name": "f", "kwargs": {"city": "Lund"}}}, '"kwargs"'),
        ({"name": "f", "args": {"a": 1}, "input": {"a": 2}}, 'both "args" and "input"'),
        ({"type": "custom", "name": "f", "custom": {"input": "x"}}, '"custom"'),
    ],
)
def test_a_call_whose_arguments_cannot_be_found_is_refused(row: Row, named: str) -> None:
    with pytest.raises(RowError, match=named):
        read_call(row, "w")


def test_an_empty_id_is_a_missing_id() -> None:
    assert read_call({"id": "", "function": {"name": "f", "arguments": "{}"}}, "w").id is None


def test_convert_compares_the_rows_with_the_file(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"city": "Lund"}'}}
    tool = {"type": "function", "function": {"name": "f", "strict": True, "inputSchema": SCHEMA}}
    said = [
        {"role": "user", "name": "Ada", "content": "go"},
        {"role": "assistant", "annotations": [{"url": "https://example.org"}], "tool_calls": [call]},
    ]
    source = write(tmp_path / "rows.jsonl", {"messages": said, "tools": [tool]})
    report = convert([str(source)], "openai", tmp_path / "out.jsonl")
    assert [loss.reason for loss in report.sorted()] == [
        "messages.annotations.url in the file",
        "messages.name in the file",
        "tools.function.strict in the file",
    ]
    assert report.lossless == 0
    assert convert([str(CASES / "mcp_rows.jsonl")], "openai", tmp_path / "mcp.jsonl").lossless == 7


# Nulls that a table format filled in


@pytest.mark.parametrize("name", ["trl_pyarrow.parquet", "trl_from_list_to_json.jsonl"])
def test_null_filled_arguments_are_an_error_that_fix_removes(name: str, tmp_path: Path) -> None:
    assert rules(CASES / name, severity="error") == {"null-arguments": 12}
    with pytest.raises(UserError, match="have nulls that the tool does not accept"):
        read_files([str(CASES / name)], {})
    fixed = tmp_path / "fixed.jsonl"
    assert [one for one in findings(CASES / name, fix=fixed) if one.severity == "error"] == []
    wanted = rows("trl_datasets.parquet")
    assert [row.messages for row in rows_of(fixed)] == [row.messages for row in wanted]


def test_gold_with_filled_nulls_is_not_scored() -> None:
    examples_ = [example for row in rows("trl_pyarrow.parquet") for example in examples(row)]
    faults = gold_faults(examples_)
    assert set(faults) == {example.id for example in examples_}
    assert "nulls that mean absent (from, to)" in faults[examples_[0].id]


def test_nulls_inside_objects_are_found_and_those_that_a_schema_accepts_stay(tmp_path: Path) -> None:
    place = {"type": "object", "properties": {"city": {"type": "string"}}}
    schema = {
        "type": "object",
        "properties": {
            "where": {"$ref": "#/$defs/P"},
            "note": {"type": ["string", "null"]},
            "free": {"type": "object"},
        },
        "$defs": {"P": {"anyOf": [place, {"type": "null"}]}},
    }
    arguments = {"where": {"city": "Lund", "zip": None}, "note": None, "free": {"any": None}}
    call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
    said = [{"role": "user", "content": "Lund"}, {"role": "assistant", "tool_calls": [call]}]
    source = write(tmp_path / "rows.jsonl", {"messages": said, "tools": [{"name": "f", "parameters": schema}]})
    (found,) = [one for one in findings(source) if one.severity == "error"]
    assert "(where.zip)" in found.message
    list(check_files([str(source)], fix=tmp_path / "fixed.jsonl").found)
    (row,) = rows_of(tmp_path / "fixed.jsonl")
    assert row.messages[1].tool_calls[0].arguments == {"where": {"city": "Lund"}, "note": None, "free": {"any": None}}


def rows_of(path: Path) -> list[Conversation]:
    return list(sound_rows(read_source(path), {}))


@pytest.mark.parametrize(
    ("properties", "fixed"),
    [
        ({}, {}),
        ({"place": {"type": "object", "properties": {"city": {"type": "string"}}}}, {}),
        ({"place": {"type": "object", "properties": {"city": {"type": ["string", "null"]}}}}, None),
        ({"place": {"type": "object"}}, None),
    ],
)
def test_an_object_of_nulls_is_one_null_unless_the_schema_accepts_it(
    properties: Row, fixed: Row | None, tmp_path: Path
) -> None:
    given = {"place": {"city": None}}
    call = {"function": {"name": "f", "arguments": given}}
    turns = [{"role": "user", "content": "go"}, {"role": "assistant", "tool_calls": [call]}]
    tool = {"name": "f", "parameters": {"type": "object", "properties": properties}}
    source = write(tmp_path / "rows.jsonl", {"messages": turns, "tools": [tool]})
    assert rules(source, severity="error") == ({} if fixed is None else {"null-arguments": 1})
    list(check_files([str(source)], fix=tmp_path / "fixed.jsonl").found)
    (row,) = rows_of(tmp_path / "fixed.jsonl")
    assert row.messages[1].tool_calls[0].arguments == (given if fixed is None else fixed)


# Results of parallel calls


def test_results_are_in_the_order_of_their_calls() -> None:
    (row,) = rows("parallel_rows.jsonl")
    results = [(message.tool_call_id, message.content) for message in row.messages if message.role == "tool"]
    assert results == [("a", "nordlys ok"), ("b", "mill full")]


@pytest.mark.parametrize(
    ("answered", "rule"),
    [(("b", "x"), "orphan-result"), (("b", "b"), "double-result"), (("b",), "unanswered-call")],
)
def test_orphan_missing_and_duplicate_results_are_named(answered: tuple[str, ...], rule: str, tmp_path: Path) -> None:
    line = json.loads((CASES / "parallel_rows.jsonl").read_text())
    ask, calls, *_, last = line["messages"]
    results = [{"role": "tool", "tool_call_id": id, "content": id} for id in answered]
    (found,) = [
        one
        for one in findings(write(tmp_path / "rows.jsonl", {**line, "messages": [ask, calls, *results, last]}))
        if one.severity in ("error", "warning")
    ]
    assert found.rule == rule
    named = {"orphan-result": '"x"', "double-result": '"b"', "unanswered-call": '"a"'}[rule]
    assert named in found.message


# Numbers, ids and others


def test_an_id_with_one_wrong_digit_is_invented() -> None:
    assert rules(CASES / "numbers_long_ids_wrong.jsonl", severity="warning")["invented"] == 4


@pytest.mark.parametrize(
    ("said", "value", "invented"),
    [
        ("order 2512292042121000001", "251229204212100000", True),
        ("order 2512292042121000001", 512292042121000001, True),
        ("order ORD-2512292042121000001", "ORD-251229204212100000", True),
        ("card 2512 2920 4212 1000 001 now", "251229204212100000", True),
        ("card 2512 2920 4212 1000 001 now", "2512292042121000001", False),
        ("call +8613800001111", "13800001111", False),
        ("on 20260102", 2026, False),
        ("order 251229, then 251229204", "251229204", False),
    ],
)
def test_an_id_that_lost_a_digit_is_invented(said: str, value: Any, invented: bool, tmp_path: Path) -> None:
    call = {"function": {"name": "f", "arguments": {"id": value}}}
    turns = [{"role": "user", "content": said}, {"role": "assistant", "tool_calls": [call]}]
    tool = {"name": "f", "parameters": {"properties": {"id": {}}}}
    found = findings(write(tmp_path / "rows.jsonl", {"messages": turns, "tools": [tool]}))
    assert ("invented" in {one.rule for one in found}) == invented


def test_arguments_that_the_tool_does_not_list_are_advice() -> None:
    (found,) = [
        one for one in findings(CASES / "tools_arguments_not_in_schema.jsonl") if one.rule == "unlisted-argument"
    ]
    assert found.severity == "advice"
    assert found.message.endswith("does not list: smoking, gests")


def test_a_row_that_occurs_twice_without_an_id_is_a_warning() -> None:
    name = CASES / "args_same_row_twice.jsonl"
    assert rules(name, severity="warning") == {"duplicate": 1}
    found = read_files([str(name)], {})
    assert len({row.id for row in found}) == 13
    copies = [row for row in read_sources([f"{name}=2"]) if isinstance(row, Conversation)]
    assert len({row.id for row in copies}) == 26


def test_a_refusal_without_content_is_the_answer() -> None:
    (row,) = rows("parts_refusal_null_content.jsonl")
    assert row.messages[1] == Message("assistant", "I can not do that.")


def test_other_fields_of_a_request_become_meta() -> None:
    assert rows("openpipe_dataset.jsonl")[0].meta == {"split": "TRAIN", "tool_choice": "auto"}


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("holder", ["model_parameters", "proxy_server_request", "invocation_params", "extra"])
def test_the_tools_of_a_log_are_found_beside_its_messages(holder: str, as_text: bool, tmp_path: Path) -> None:
    held: Row = {"tools": [{"name": "find", "input_schema": SCHEMA}], "parallel_tool_calls": False}
    held = {"invocation_params": held} if holder == "extra" else held
    call = {"id": "c", "function": {"name": "find", "arguments": {"city": "Lund"}}}
    asked = [{"role": "user", "content": "Lund"}]
    line = {"messages": asked, "response": {"role": "assistant", "content": None, "tool_calls": [call]}, holder: held}
    if as_text:
        line = {key: json.dumps(value) for key, value in line.items()}
    (row,) = read_source(write(tmp_path / "log.jsonl", line))
    assert isinstance(row, Conversation)
    assert [tool.parameters for tool in row.tools] == [SCHEMA]
    assert not row.parallel_tool_calls
