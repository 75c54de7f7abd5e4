"""No importer loses or changes a call: each fixture is compared with an independent walk of its raw JSON.

Each row is read alone first. Its calls and results must be exactly those that the walk finds, except in a row that a
fault leaves out. Reading a row alone counts the history that a request repeats once, before log lines are folded. Then
the whole file is read. Folding joins histories there, so only the set of calls is compared, over the rows that no fault
leaves out. A call is a name, its arguments and its id; an id that the row does not have may be anything.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from call_walk import Call, Result, Tally, canonical, units, walk

from toolhone.data.check.finding import finding_of
from toolhone.data.files import iter_file
from toolhone.data.importers import logs, openai
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import read_source
from toolhone.records import Conversation

FIXTURES = Path(__file__).parents[2] / "fixtures"
FOLDERS = sorted(path.parent for path in (FIXTURES / "importers").glob("*/source.json"))
SUFFIXES = (".json", ".jsonl", ".parquet")
FILES = [file for folder in FOLDERS for file in sorted(folder.iterdir()) if file.name != "source.json"]
FILES = [file for file in FILES if file.suffix in SUFFIXES]
OTHER_FILES = sorted(file for file in (FIXTURES / "logs").iterdir() if file.suffix == ".jsonl")
# Faults that leave nothing of a row out.
NOTES = frozenset({"bom", "nul", "log-id-reused"})
# The fault that counts results after the last answer, which no turn uses.
UNUSED = "log-unused-result"


def is_exclusion(fault: RowFault) -> bool:
    return fault.rule not in NOTES and finding_of(fault).severity != "advice"


def read_calls(found: Iterable[Conversation | RowFault]) -> Counter[Call | Result]:
    made: Counter[Call | Result] = Counter()
    for row in found:
        for message in row.messages if isinstance(row, Conversation) else ():
            made.update(Call(c.name, canonical(c.arguments), c.id or "") for c in message.tool_calls)
            if message.role == "tool":
                made[Result(message.tool_call_id or "")] += 1
    return made


def differences(raw: Tally, read: Counter[Call | Result]) -> tuple[list[Call | Result], list[Call | Result]]:
    """The calls that are in the raw row and not read often enough, and those that are read but not in the row."""
    left = Counter(read)
    missing: list[Call | Result] = []
    for found in sorted(raw.high, key=lambda each: not each[-1]):  # those with an id first
        same = [each for each in left if each[:-1] == found[:-1] and type(each) is type(found)]
        same = [each for each in same if not found[-1] or each == found]
        taken = 0
        for each in same:
            taken += (count := min(left[each], raw.high[found] - taken))
            left[each] -= count
        if taken < raw.low[found]:
            missing.append(found)
    return missing, sorted(+left, key=str)


def lost_in_row(row: dict[str, Any], path: Path) -> list[str]:
    """What is wrong with the calls of a row that is read alone."""
    path.write_text(json.dumps(row, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    found = list(read_source(path))
    faults = [each for each in found if isinstance(each, RowFault)]
    left_out = [each for each in faults if is_exclusion(each)]
    if not any(isinstance(each, Conversation) for each in found):
        return [] if left_out else ["the row gave nothing, and no fault says why"]
    parts = units(row)
    missing, strange = differences(walk(row), read_calls(found))
    if any(fault.rule == UNUSED for fault in faults):
        missing = [each for each in missing if not isinstance(each, Result)]
    wrong = [f"read, but not in the row: {each}" for each in strange]
    for each in missing:
        # A row with several spans may be read in part. A missing call is then only in spans with a fault of their own.
        if len(parts) > 1 and sum(each in part.high for part in parts) <= len(left_out):
            continue
        wrong.append(f"in the row, but not read: {each}")
    of_others = {each for part in parts for each in part.others if not any(each in part.low for part in parts)}
    if of_others and not any(fault.rule == "log-choices" for fault in faults):
        wrong.append("other choices are left out without a fault")
    return wrong


def lost_in_source(rows: list[tuple[str, dict[str, Any]]], source: Path) -> list[str]:
    """What is wrong with the calls of a file or folder that is read as a whole."""
    found = list(read_source(source))
    read = set(read_calls(found))
    left_out = {each.where for each in found if isinstance(each, RowFault) and is_exclusion(each)}
    # A request and its response in two rows are left out together, under one fault.
    halves = {row["custom_id"] for where, row in rows if where in left_out and "custom_id" in row}
    left_out |= {where for where, row in rows if row.get("custom_id", "") in halves}
    unused = {each.where for each in found if isinstance(each, RowFault) and each.rule == UNUSED}
    raw = [(where, walk(row)) for where, row in rows]
    wrong = []
    for where, tally in raw:
        missing, _ = differences(Tally(Counter(set(tally.low)), tally.high), Counter(dict.fromkeys(read, 10**6)))
        if where in unused:
            missing = [each for each in missing if not isinstance(each, Result)]
        if where not in left_out:
            wrong += [f"{where}: not read: {each}" for each in missing]
    everything = Counter(each for _, tally in raw for each in tally.high)
    _, strange = differences(Tally(Counter(), Counter(dict.fromkeys(everything, 10**9))), Counter(read))
    return wrong + [f"read, but not in the source: {each}" for each in strange]


def wrong_with(file: Path, folder: Path) -> list[str]:
    rows = [(each.where, each.row) for each in iter_file(str(file)) if each.row is not None]
    faults = [each for each in read_source(file) if isinstance(each, RowFault)]
    if any(fault.rule == "tools-file" for fault in faults):
        return [f"a list of tools has calls: {walk(row).high}" for _, row in rows if walk(row).high]
    wrong = [f"{where}: {text}" for where, row in rows for text in lost_in_row(row, folder / "row.jsonl")]
    return wrong + lost_in_source(rows, file)


@pytest.mark.parametrize("file", [*FILES, *OTHER_FILES], ids=lambda file: f"{file.parent.name}/{file.name}")
def test_the_calls_of_a_file_are_read_or_left_out_under_a_rule(file: Path, tmp_path: Path) -> None:
    assert wrong_with(file, tmp_path) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_of_fixtures_names_its_files_and_the_package_that_wrote_them(folder: Path) -> None:
    source = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    assert {"package", "version", "how", "files"} <= source.keys()
    assert set(source["files"]) == {file.name for file in folder.iterdir()} - {"source.json", "README.md"}
    if source["package"] is not None:
        assert source["version"]


def together() -> list[tuple[Path, list[str]]]:
    """Files that are read as one source, because a request is in one and its response in another."""
    sources = [(folder, json.loads((folder / "source.json").read_text(encoding="utf-8"))) for folder in FOLDERS]
    return [(folder, names) for folder, source in sources for names in source.get("together", ())]


@pytest.mark.parametrize(("folder", "names"), together(), ids=str)
def test_the_calls_of_files_that_belong_together_are_read(folder: Path, names: list[str], tmp_path: Path) -> None:
    for name in names:
        shutil.copy(folder / name, tmp_path / name)
    rows = [(each.where, each.row) for name in names for each in iter_file(str(tmp_path / name))]
    found = list(read_source(tmp_path))
    assert sum(isinstance(each, Conversation) for each in found) > 0
    assert lost_in_source([(where, row) for where, row in rows if row is not None], tmp_path) == []


# The walk finds calls in every shape, and the comparison fails if a reader loses or changes one.

ARGUMENTS = {"city": "Lund", "n": 2}
TEXT = json.dumps(ARGUMENTS)
CALL = Call("find", canonical(ARGUMENTS), "c1")
NO_ID = CALL._replace(id="")
OPENAI_CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": TEXT}}
ANTHROPIC_EVENTS = [
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "c1", "name": "find"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": TEXT[:9]}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": TEXT[9:]}},
]
CHUNKS = [
    {"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "find", "arguments": ""}}]}}]},
    {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": TEXT[:5]}}]}}]},
    {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": TEXT[5:]}}]}}]},
    {"choices": []},
]
RESPONSES_EVENTS = [
    {"type": "response.output_item.added", "item": {"type": "function_call", "name": "find", "arguments": ""}},
    {
        "type": "response.completed",
        "response": {"output": [{"type": "function_call", "call_id": "c1", "name": "find", "arguments": TEXT}]},
    },
]
SHAPES: dict[str, tuple[Any, Call | Result]] = {
    "openai": ({"messages": [{"role": "assistant", "tool_calls": [OPENAI_CALL]}]}, CALL),
    "openai result": ({"messages": [{"role": "tool", "tool_call_id": "c1", "content": "x"}]}, Result("c1")),
    "legacy": ({"role": "assistant", "function_call": {"name": "find", "arguments": TEXT}}, NO_ID),
    "legacy result": ({"role": "function", "name": "find", "content": "{}"}, Result("")),
    "responses": ({"output": [{"type": "function_call", "name": "find", "arguments": TEXT, "call_id": "c1"}]}, CALL),
    "responses result": ({"input": [{"type": "function_call_output", "call_id": "c1", "output": "x"}]}, Result("c1")),
    "anthropic": ({"content": [{"type": "tool_use", "id": "c1", "name": "find", "input": ARGUMENTS}]}, CALL),
    "anthropic result": (
        {"content": [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "x"}]}]},
        Result("c1"),
    ),
    "gemini": ({"parts": [{"functionCall": {"name": "find", "args": ARGUMENTS}}]}, NO_ID),
    "gemini with id": ({"parts": [{"function_call": {"name": "find", "args": ARGUMENTS, "id": "c1"}}]}, CALL),
    "gemini result": ({"parts": [{"functionResponse": {"name": "find", "response": {}}}]}, Result("")),
    "langchain": ({"tool_calls": [{"name": "find", "args": ARGUMENTS, "id": "c1", "type": "tool_call"}]}, CALL),
    "langchain serialised": (
        {"lc": 1, "kwargs": {"tool_calls": [{"name": "find", "args": ARGUMENTS, "id": "c1"}], "content": ""}},
        CALL,
    ),
    "langchain result": ({"lc": 1, "kwargs": {"content": "x", "tool_call_id": "c1", "type": "tool"}}, Result("c1")),
    "langchain legacy result": ({"type": "function", "name": "find", "content": "x"}, Result("")),
    "ai sdk": ({"content": [{"type": "tool-call", "toolCallId": "c1", "toolName": "find", "input": ARGUMENTS}]}, CALL),
    "ai sdk text": ({"toolCalls": json.dumps([{"toolCallId": "c1", "toolName": "find", "args": TEXT}])}, CALL),
    "ai sdk result": (
        {"content": [{"type": "tool-result", "toolCallId": "c1", "toolName": "find", "output": {"value": 1}}]},
        Result("c1"),
    ),
    "otel": ({"parts": [{"type": "tool_call", "id": "c1", "name": "find", "arguments": ARGUMENTS}]}, CALL),
    "otel result": ({"parts": [{"type": "tool_call_response", "id": "c1", "response": "x"}]}, Result("c1")),
    "otlp": (
        {
            "spanId": "1",
            "attributes": [
                {
                    "key": "gen_ai.output.messages",
                    "value": {
                        "stringValue": json.dumps(
                            [{"parts": [{"type": "tool_call", "id": "c1", "name": "find", "arguments": ARGUMENTS}]}]
                        )
                    },
                }
            ],
        },
        CALL,
    ),
    "bedrock": ({"content": [{"toolUse": {"toolUseId": "c1", "name": "find", "input": ARGUMENTS}}]}, CALL),
    "bedrock result": ({"content": [{"toolResult": {"toolUseId": "c1", "content": []}}]}, Result("c1")),
    "batch": ({"custom_id": "1", "body": {"messages": [{"role": "assistant", "tool_calls": [OPENAI_CALL]}]}}, CALL),
    "openinference": (
        {
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "find",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": TEXT,
            "llm.output_messages.0.message.tool_calls.0.tool_call.id": "c1",
        },
        CALL,
    ),
    "traceloop": (
        {
            "gen_ai.completion.0.tool_calls.0.name": "find",
            "gen_ai.completion.0.tool_calls.0.arguments": TEXT,
            "gen_ai.completion.0.tool_calls.0.id": "c1",
        },
        CALL,
    ),
    "ms-swift": ({"role": "tool_call", "content": json.dumps({"name": "find", "arguments": ARGUMENTS})}, NO_ID),
    "ms-swift result": ({"role": "tool_response", "content": "x"}, Result("")),
    "json text": ({"request": json.dumps({"messages": [{"role": "assistant", "tool_calls": [OPENAI_CALL]}]})}, CALL),
    "chunks": ({"chunks": CHUNKS}, CALL),
    "server-sent events": ({"response": "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in CHUNKS)}, CALL),
    "anthropic events": ({"response": ANTHROPIC_EVENTS}, CALL),
    "responses events": ({"response": RESPONSES_EVENTS}, CALL),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_walk_finds_a_call_or_a_result_in_every_shape(shape: str) -> None:
    row, wanted = SHAPES[shape]
    assert walk(row) == Tally.of(wanted)


def test_the_walk_counts_items_of_a_list_and_not_repetitions() -> None:
    message = {"role": "assistant", "tool_calls": [OPENAI_CALL]}
    twice = walk({"messages": [message, message]})
    assert (twice.low[CALL], twice.high[CALL]) == (2, 2)
    repeated = walk({"messages": [message], "proxy_server_request": {"messages": [message]}})
    assert (repeated.low[CALL], repeated.high[CALL]) == (1, 2)
    span = {"spanId": "1", "messages": [message]}
    assert walk({"spans": [span, {**span, "spanId": "2"}]}).low[CALL] == 1
    other = {"message": {"tool_calls": [{**OPENAI_CALL, "id": "c2"}]}}
    choices = walk({"choices": [{"message": message}, other]})
    assert (set(choices.low), choices.others) == ({CALL}, {CALL._replace(id="c2")})
    for key in ("output", "gen_ai.output.messages"):
        choices = walk({key: json.dumps([message, {**other["message"], "role": "assistant"}])})
        assert (set(choices.low), choices.others) == ({CALL}, {CALL._replace(id="c2")})


def test_definitions_forced_choices_and_texts_are_no_calls() -> None:
    tool = {"type": "function", "function": {"name": "find", "parameters": {}}}
    for row in (
        {"tools": [tool], "tool_choice": tool, "function_call": {"name": "find"}},
        {"messages": [{"role": "user", "content": json.dumps({"tool_calls": [OPENAI_CALL]})}]},
        {"messages": [{"role": "tool", "content": tool}]},
    ):
        assert walk(row) == Tally()


def drop_a_call(row: dict[str, Any]) -> dict[str, Any]:
    return changed(row, lambda calls: calls[:-1])


def change_an_argument(row: dict[str, Any]) -> dict[str, Any]:
    return changed(row, lambda calls: [*calls[:-1], {**calls[-1], "function": {"name": "query_order"}}])


def drop_an_id(row: dict[str, Any]) -> dict[str, Any]:
    return changed(row, lambda calls: [{**calls[0], "id": None}, *calls[1:]])


def drop_a_result(row: dict[str, Any]) -> dict[str, Any]:
    number = next((n for n, message in enumerate(row["messages"]) if message["role"] == "tool"), None)
    return {**row, "messages": [message for n, message in enumerate(row["messages"]) if n != number]}


def changed(row: dict[str, Any], change: Callable[[list[Any]], list[Any]]) -> dict[str, Any]:
    made = [dict(message) for message in row["messages"]]
    for message in made:
        if message.get("tool_calls"):
            message["tool_calls"] = change(message["tool_calls"])
            message["content"] = message.get("content") or ""
            break
    return {**row, "messages": made}


@pytest.mark.parametrize("break_row", [drop_a_call, change_an_argument, drop_an_id, drop_a_result])
@pytest.mark.parametrize("name", ["contracts/conversation.jsonl", "logs/chat.jsonl"])
def test_a_reader_that_loses_or_changes_a_call_is_found(
    name: str, break_row: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wrong_with(FIXTURES / name, tmp_path) == []
    read = openai._parsed

    def broken(row: dict[str, Any], where: str, tools: Any) -> Conversation:
        return read(break_row(row), where, tools)

    monkeypatch.setattr(openai, "_parsed", broken)
    assert wrong_with(FIXTURES / name, tmp_path)


def test_a_row_that_gives_nothing_and_no_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs.Fold, "conversations", lambda self: iter(()))
    assert any("gave nothing" in text for text in wrong_with(FIXTURES / "logs" / "chat.jsonl", tmp_path))
