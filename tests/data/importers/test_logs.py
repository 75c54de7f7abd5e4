"""Application logs: request and response, streams, the Responses API, and steps folded into conversations."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolhone.data.importers import logs
from toolhone.data.importers.importer import RowFault
from toolhone.data.importers.openai import conversation
from toolhone.data.read import detected_formats, examples, read_source
from toolhone.errors import RowError
from toolhone.records import Conversation, Message, ToolCall

FIXTURES = Path(__file__).parents[2] / "fixtures" / "logs"
USER = {"role": "user", "content": "Where is ORD-001?"}
TOOL = {"type": "function", "function": {"name": "query_order", "parameters": {"type": "object", "properties": {}}}}


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FIXTURES / name).read_text(encoding="utf-8").splitlines()]


def read_all(source: Path) -> tuple[list[Conversation], list[tuple[int, str]]]:
    found = list(read_source(source))
    faults = [(int(row.where.rpartition(":")[2]), row.rule) for row in found if isinstance(row, RowFault)]
    return [row for row in found if isinstance(row, Conversation)], faults


def fold(rows: list[dict[str, Any]]) -> list[Conversation]:
    folded = logs.Fold()
    for number, row in enumerate(rows, 1):
        assert list(folded.add(row, f"a.jsonl:{number}")) == []
    return list(folded.conversations())


def response(content: str | None = "It has left.", reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": reason}
    return {"object": "chat.completion", "model": "gpt-4o-2024-08-06", "choices": [choice]}


def pair(*messages: dict[str, Any], answer: str = "It has left.", **request: Any) -> dict[str, Any]:
    return {"request": {"model": "gpt-4o", "messages": list(messages), **request}, "response": response(answer)}


def rule(row: dict[str, Any]) -> str:
    with pytest.raises(RowError, match=r"^a\.jsonl:3: ") as caught:
        logs.read(row, "a.jsonl:3")
    return caught.value.rule


# Chat completions


def test_steps_of_one_conversation_are_folded_and_every_answer_is_learned() -> None:
    (shop, stock), faults = read_all(FIXTURES / "chat.jsonl")
    assert shop.id == "chatcmpl-A3"
    assert shop.where == f"{FIXTURES / 'chat.jsonl'}:4"
    assert [m.role for m in shop.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "user",
        "assistant",
    ]
    assert [example.id for example in examples(shop)] == ["chatcmpl-A3/2", "chatcmpl-A3/5", "chatcmpl-A3/7"]
    assert shop.messages[2].tool_calls == (
        ToolCall("query_order", {"order_id": "ORD-001"}, "call_a1"),
        ToolCall("query_stock", {"sku": "SKU4471"}, "call_a2"),
    )
    assert [tool.name for tool in shop.tools] == ["query_order", "query_stock"]
    assert {shop.gold_source, stock.gold_source} == {"gpt-4o-2024-08-06"}
    # A turn that no logged response produced is context.
    assert [example.id for example in examples(stock)] == ["chatcmpl-B1/4"]
    assert faults == [(5, "log-truncated"), (6, "log-error"), (7, "log-refusal")]


@pytest.mark.parametrize("order", list(itertools.permutations((0, 1, 3))))
def test_steps_are_folded_in_any_order(order: tuple[int, ...]) -> None:
    rows = lines("chat.jsonl")
    (found,) = fold([rows[n] for n in order])
    (expected,) = fold([rows[0], rows[1], rows[3]])
    assert found.to_json() == expected.to_json()


def test_a_conversation_that_branches_learns_each_answer_once() -> None:
    answer = {"role": "assistant", "content": "It has left."}
    rows = [
        pair(USER),
        pair(USER, answer, {"role": "user", "content": "When?"}, answer="Today."),
        pair(USER, answer, {"role": "user", "content": "From where?"}, answer="From Bremen."),
    ]
    first, second = fold(rows)
    assert [turn.weight for turn in first.messages if turn.role == "assistant"] == [1, 1]
    assert [turn.weight for turn in second.messages if turn.role == "assistant"] == [0, 1]


def test_lines_with_other_tools_or_another_model_are_not_folded() -> None:
    answer = {"role": "assistant", "content": "It has left."}
    more = pair(USER, answer, USER, answer="Yes.", tools=[TOOL])
    assert len(fold([pair(USER), more])) == 2
    assert len(fold([pair(USER, tools=[TOOL]), more])) == 1
    more["response"]["model"] = "gpt-4o-mini"
    assert len(fold([pair(USER, tools=[TOOL]), more])) == 2


def test_a_repeated_question_gives_two_rows_and_a_repeated_response_is_an_error() -> None:
    assert len(fold([pair(USER), pair(USER)])) == 2
    row = lines("chat.jsonl")[0]
    folded = logs.Fold()
    assert list(folded.add(row, "a.jsonl:1")) == []
    with pytest.raises(RowError, match=r"^a\.jsonl:2: .* chatcmpl-A1 was already logged at a\.jsonl:1") as caught:
        list(folded.add(row, "a.jsonl:2"))
    assert caught.value.rule == "log-repeated"


@given(st.data())
def test_every_accepted_line_is_one_learned_turn(data: st.DataObject) -> None:
    texts = st.sampled_from(["a", "b"])
    rows = []
    for _ in range(data.draw(st.integers(1, 8))):
        steps = data.draw(st.integers(0, 2))
        messages = [{"role": "user", "content": data.draw(texts)}]
        for _ in range(steps):
            messages += [
                {"role": "assistant", "content": data.draw(texts)},
                {"role": "user", "content": data.draw(texts)},
            ]
        rows.append(pair(*messages, answer=data.draw(texts)))
    assert sum(len(examples(row)) for row in fold(rows)) == len(rows)


def test_legacy_functions_are_folded_too() -> None:
    (found,), faults = read_all(FIXTURES / "legacy.jsonl")
    assert faults == []
    assert [example.id for example in examples(found)] == ["chatcmpl-L2/1", "chatcmpl-L2/3"]
    assert found.messages[2].tool_call_id == found.messages[1].tool_calls[0].id == "call_1"


# Where a line keeps its request and response


@pytest.mark.parametrize(
    "row",
    [
        {"request": {"messages": [USER]}, "response": response()},
        {"req": {"messages": [USER]}, "res": response()},
        {"request_body": json.dumps({"messages": [USER]}), "response_body": json.dumps(response())},
        {"input": {"messages": [USER]}, "output": response()},
        {"input": [USER], "output": {"role": "assistant", "content": "It has left."}, "model": "gpt-4o-2024-08-06"},
        {"body": {"messages": [USER]}, "response": {"status_code": 200, "body": response()}},
        {"request": {"body": {"messages": [USER]}}, "response": {"headers": {}, "body": response()}},
        {"messages": [USER], "response": response()},
        {"messages": [USER], **response()},
        {"request": {"messages": [USER], "model": "gpt-4o-2024-08-06"}, "response": "It has left."},
    ],
    ids=lambda row: "+".join(row)[:40],
)
def test_request_and_response_are_found_under_common_names(row: dict[str, Any]) -> None:
    assert logs.looks_like(row)
    found = logs.read(row, "a.jsonl:3")
    assert found.messages == (Message("user", "Where is ORD-001?"), Message("assistant", "It has left."))
    assert found.gold_source == "gpt-4o-2024-08-06"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER]},
        {"instruction": "Translate", "input": "Hallo", "output": "Hello"},
        {"query": "x", "answers": "[]", "tools": "[]"},
        {"input": "x", "output": {"a": 1}},
        {"request": 1, "response": response()},
        {"response": response()},
        {"request": {"messages": [USER]}},
    ],
)
def test_a_row_without_request_or_response_is_not_a_log_line(row: dict[str, Any]) -> None:
    assert not logs.looks_like(row)


# Streams


def test_a_stream_gives_the_same_response_as_without_streaming() -> None:
    (calls, text), faults = read_all(FIXTURES / "streamed.jsonl")
    assert calls.messages[-1].tool_calls == (
        ToolCall("query_order", {"order_id": "ORD-007"}, "call_s1"),
        ToolCall("query_stock", {"sku": "S1"}, "call_s2"),
    )
    assert (calls.id, calls.gold_source) == ("chatcmpl-S1", "gpt-4o-2024-08-06")
    assert text.messages[-1].content == "It is on its way."
    assert faults == [(3, "log-truncated")]


@given(st.data())
def test_deltas_are_joined_wherever_the_response_is_cut(data: st.DataObject) -> None:
    arguments = [json.dumps(data.draw(st.dictionaries(st.text('ab"é'), st.text("xy"), max_size=2))) for _ in range(2)]
    content = data.draw(st.text("hello ", max_size=8))
    chunks: list[dict[str, Any]] = [{"role": "assistant"}]
    chunks += [{"content": sign} for sign in content]
    for index, text in enumerate(arguments):
        function = {"name": f"f{index}", "arguments": ""}
        chunks.append({"tool_calls": [{"index": index, "id": f"c{index}", "type": "function", "function": function}]})
        cut = data.draw(st.integers(0, len(text)))
        chunks += [
            {"tool_calls": [{"index": index, "function": {"arguments": part}}]} for part in (text[:cut], text[cut:])
        ]
    stream = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}], "model": "m"} for delta in chunks]
    stream.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}], "model": "m"})
    found = logs.read({"request": {"messages": [USER]}, "response": stream}, "a.jsonl:1")
    calls = tuple(ToolCall(f"f{n}", json.loads(text), f"c{n}") for n, text in enumerate(arguments))
    assert found.messages[-1] == Message("assistant", content, calls)


def test_calls_in_deltas_without_an_index_start_with_their_ids() -> None:
    pieces = [{"id": "c0", "function": {"name": "f", "arguments": "{"}}, {"function": {"arguments": "}"}}]
    pieces.append({"id": "c1", "function": {"name": "g", "arguments": "{}"}})
    stream = [{"choices": [{"delta": {"tool_calls": [piece]}, "finish_reason": None}]} for piece in pieces]
    stream.append({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    found = logs.read({"request": {"messages": [USER]}, "chunks": stream}, "a.jsonl:1")
    assert found.messages[-1].tool_calls == (ToolCall("f", {}, "c0"), ToolCall("g", {}, "c1"))


# The Responses API


def test_items_of_the_responses_api_become_messages() -> None:
    (found, streamed), faults = read_all(FIXTURES / "responses.jsonl")
    call = ToolCall("query_order", {"order_id": "ORD-001"}, "call_r1")
    assert found.messages == (
        Message("system", "You help the customers of a shop."),
        Message("user", "Where is ORD-001?"),
        Message("assistant", "", (call,)),
        Message("tool", '{"status":"shipped"}', tool_call_id="call_r1"),
        Message("assistant", "It has been shipped."),
        Message("user", "Thanks! And ORD-002?"),
        Message("assistant", "I look.", (ToolCall("query_order", {"order_id": "ORD-002"}, "call_r2"),)),
    )
    assert (found.id, found.gold_source) == ("resp_3", "gpt-4o-2024-08-06")
    assert [tool.name for tool in found.tools] == ["query_order"]
    assert found.meta == {"hosted_tools": ["web_search_preview"], "date": "2025-03-08"}
    assert streamed.messages[-1].content == "Yes."
    assert faults == [(4, "log-no-history"), (5, "log-hosted-tool"), (6, "log-truncated"), (7, "log-error")]


def test_input_and_output_in_one_object_are_request_and_response() -> None:
    row = lines("responses.jsonl")[0]
    flat = {**row["response"]["body"], "input": row["body"]["input"]}
    found = logs.read(flat, "a.jsonl:1")
    assert found.messages == logs.read(row, "a.jsonl:1").messages
    assert logs.looks_like(flat)


# What cannot be learned from


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (response("Once upon", "length"), "log-truncated"),
        (response("", "content_filter"), "log-filtered"),
        (response(None, "stop", refusal="I can't."), "log-refusal"),
        (response(None), "log-empty"),
        ({"choices": []}, "log-empty"),
        (None, "log-empty"),
        ({"error": {"message": "Overloaded"}}, "log-error"),
        ({"status_code": 429, "body": {}}, "log-error"),
        (response(None, "tool_calls", tool_calls=[{"function": {"name": "f", "arguments": "{"}}]), "log-broken-call"),
        ('{"choices": [{"mess', "broken-json"),
        ([{"choices": [{"delta": {"content": "x"}, "finish_reason": None}]}], "log-truncated"),
        ([{"choices": [{"delta": {}}]}, {"choices": [{"index": 1, "delta": {}}]}], "log-choices"),
    ],
)
def test_an_unusable_response_is_an_error_with_its_rule(answer: Any, expected: str) -> None:
    assert rule({"request": {"messages": [USER]}, "response": answer}) == expected


def test_a_usable_response_with_choices_or_a_forced_call_gives_faults_and_a_row() -> None:
    row = pair(USER, tools=[TOOL], tool_choice="required")
    row["response"]["choices"] *= 2
    folded = logs.Fold()
    assert [fault.rule for fault in folded.add(row, "a.jsonl:1")] == ["log-choices", "log-forced"]
    assert len(list(folded.conversations())) == 1


def test_a_request_that_forbids_calls_offers_no_tools() -> None:
    assert logs.read(pair(USER, tools=[TOOL], tool_choice="none"), "a.jsonl:1").tools == ()
    assert len(logs.read(pair(USER, tools=[TOOL], tool_choice="auto"), "a.jsonl:1").tools) == 1


# Any log


@pytest.mark.parametrize("name", ["chat", "streamed", "responses", "legacy"])
def test_log_files_are_detected(name: str) -> None:
    path = FIXTURES / f"{name}.jsonl"
    assert detected_formats(path) == {str(path): "logs"}


def test_written_conversations_are_read_back_unchanged() -> None:
    for name in ("chat", "streamed", "responses", "legacy"):
        for row in read_all(FIXTURES / f"{name}.jsonl")[0]:
            assert conversation(json.loads(json.dumps(row.to_json())), row.where) == row


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 600) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
    max_leaves=3,
)
ROWS = [row for name in ("chat", "streamed", "responses", "legacy") for row in lines(f"{name}.jsonl")]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


@settings(max_examples=300)
@given(st.data())
def test_any_mutated_line_is_learned_or_an_error(data: st.DataObject) -> None:
    row = json.loads(json.dumps(data.draw(st.sampled_from(ROWS))))
    for _ in range(data.draw(st.integers(1, 3))):
        found = [place for place in places(row) if place]
        if not found:
            break
        *path, key = data.draw(st.sampled_from(found))
        holder = row
        for step in path:
            holder = holder[step]
        if data.draw(st.booleans()):
            holder[key] = data.draw(JSON)
        else:
            del holder[key]
    logs.looks_like(row)
    folded = logs.Fold()
    try:
        list(folded.add(row, "a.jsonl:3"))
    except RowError as error:
        where = str(error)[:11]
    else:
        (row_found,) = folded.conversations()
        where = f"{row_found.where}: "
        assert len(examples(row_found)) == 1
    assert where == "a.jsonl:3: "


def test_a_response_of_ollamas_own_api_is_read() -> None:
    call = {"function": {"name": "query_order", "arguments": {"order_id": "1"}}}
    answer = {"role": "assistant", "content": "", "thinking": "Look it up.", "tool_calls": [call]}
    response = {"model": "qwen3", "created_at": "2026-01-02T03:04:05Z", "message": answer, "done": True}
    request = {"messages": [{"role": "user", "content": "Where is order 1?"}]}
    found = logs.read({"request": request, "response": {**response, "done_reason": "stop"}}, "a.jsonl:1")
    turn = found.messages[-1]
    assert (turn.tool_calls[0].arguments, turn.thinking) == ({"order_id": "1"}, "Look it up.")
    assert (found.gold_source, found.meta) == ("qwen3", {"date": "2026-01-02"})
    with pytest.raises(RowError, match="token limit"):
        logs.read({"request": request, "response": {**response, "done_reason": "length"}}, "a.jsonl:1")
