"""The data generator: what a notebook can do with it, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from toolhone.data.check import check
from toolhone.data.generate import FineTuneDataGenerator
from toolhone.data.read import read_conversations, read_tools
from toolhone.errors import UserError
from toolhone.formats.foreign_syntax import call_syntax

TOOLS_FILE = Path(__file__).parents[3] / "data" / "customer_service" / "tools.json"
SYSTEM = "你是客服 Agent,负责查询订单和物流。"

NESTED = {
    "type": "function",
    "function": {
        "name": "place_order",
        "description": "Order goods",
        "parameters": {
            "type": "object",
            "properties": {
                "lines": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"count": {"type": "integer"}}},
                }
            },
        },
    },
}


@pytest.fixture
def tools() -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads(TOOLS_FILE.read_text(encoding="utf-8"))
    return loaded


def call(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **more}


def test_a_notebook_written_for_a_simpler_class_runs_unchanged(tmp_path: Path) -> None:
    generator = FineTuneDataGenerator()
    samples = [
        ("帮我查订单 ORD-001", "query_order", {"order_id": "ORD-001"}, None),
        ("SF1234567890 到哪了", "query_logistics", {"tracking_no": "SF1234567890"}, None),
        ("你们几点下班", None, None, "人工客服的服务时间是每天 9:00 到 21:00。"),
    ]
    for user_msg, tool_name, tool_args, answer in samples:
        generator.add_sample(SYSTEM, user_msg, tool_name=tool_name, tool_args=tool_args, direct_answer=answer)
    output = tmp_path / "sft" / "train.jsonl"

    text = generator.export_jsonl(str(output))

    rows = [json.loads(line) for line in text.split("\n")]
    assert output.read_text(encoding="utf-8") == text
    assert generator.stats() == {"total": 3, "tool_call_samples": 2, "direct_answer_samples": 1}
    assert rows[0] == {
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": "帮我查订单 ORD-001"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "query_order", "arguments": '{"order_id": "ORD-001"}'},
                    }
                ],
            },
        ]
    }
    assert rows[2]["messages"][-1] == {"role": "assistant", "content": "人工客服的服务时间是每天 9:00 到 21:00。"}


def test_positional_arguments_have_the_notebooks_order() -> None:
    generator = FineTuneDataGenerator()
    generator.add_sample(SYSTEM, "B-773 取消", "cancel_order", {"order_id": "B-773"})
    generator.add_sample(SYSTEM, "谢谢", None, None, "不客气。")
    assert generator.stats() == {"total": 2, "tool_call_samples": 1, "direct_answer_samples": 1}


def test_chinese_is_not_escaped_in_arguments_and_text() -> None:
    generator = FineTuneDataGenerator()
    generator.add_sample(SYSTEM, "改到公司", "update_address", {"address": "公司"})
    assert "\\u" not in generator.export_jsonl()


@pytest.mark.parametrize("arguments", [None, {}])
def test_a_call_without_arguments_is_still_a_call(arguments: dict[str, Any] | None) -> None:
    generator = FineTuneDataGenerator()
    generator.add_sample(SYSTEM, "转人工", "transfer_to_human", arguments)
    (made,) = generator.samples[0]["messages"][-1]["tool_calls"]
    assert made["function"] == {"name": "transfer_to_human", "arguments": "{}"}
    assert generator.stats()["tool_call_samples"] == 1


def test_an_empty_system_prompt_gives_a_row_without_a_system_message() -> None:
    generator = FineTuneDataGenerator()
    generator.add_sample("", "hello", direct_answer="Hello!")
    assert [message["role"] for message in generator.samples[0]["messages"]] == ["user", "assistant"]


def test_several_calls_of_one_turn_have_different_ids() -> None:
    generator = FineTuneDataGenerator()
    generator.add_sample(SYSTEM, "两个都取消", calls=[("cancel_order", {"order_id": c}) for c in ("1", "2")])
    calls = generator.samples[0]["messages"][-1]["tool_calls"]
    assert [(c["id"], c["function"]["arguments"]) for c in calls] == [
        ("call_1", '{"order_id": "1"}'),
        ("call_2", '{"order_id": "2"}'),
    ]


def test_each_result_has_the_id_of_its_call() -> None:
    generator = FineTuneDataGenerator()
    generator.add_conversation(
        [
            {"role": "user", "content": "1 和 2 发货没"},
            {
                "role": "assistant",
                "content": "我看看。",
                "tool_calls": [
                    call("query_order", '{"order_id": "1"}', id="a"),
                    call("query_order", {"order_id": "2"}, id="b"),
                ],
            },
            {"role": "tool", "content": {"status": "已发货"}, "tool_call_id": "b"},
            {"role": "tool", "content": "没有这个订单"},
            {"role": "assistant", "tool_calls": [call("query_logistics", {"tracking_no": "SF1"})]},
            {"role": "tool", "content": ["杭州"]},
            {"role": "assistant", "content": "2 在杭州。"},
        ]
    )
    messages = generator.samples[0]["messages"]
    assert [message.get("tool_call_id") for message in messages] == [
        None,
        None,
        "call_1",
        "call_2",
        None,
        "call_3",
        None,
    ]
    assert [c["id"] for message in messages for c in message.get("tool_calls", ())] == ["call_1", "call_2", "call_3"]
    assert messages[1]["content"] == "我看看。"
    assert messages[2]["content"] == "没有这个订单"
    assert messages[3]["content"] == '{"status": "已发货"}'
    assert messages[5]["content"] == '["杭州"]'


def test_exported_rows_are_read_back_and_pass_the_check(tmp_path: Path, tools: list[dict[str, Any]]) -> None:
    generator = FineTuneDataGenerator(tools=tools)
    generator.add_sample(SYSTEM, "SKU4471 两件", "query_stock", {"sku": "SKU4471", "quantity": 2}, id="a")
    generator.add_sample(SYSTEM, "人工", "transfer_to_human", id="b", meta={"language": "zh"})
    generator.export_jsonl(tmp_path / "rows.jsonl")
    rows = list(read_conversations(tmp_path / "rows.jsonl"))
    assert [(row.id, row.tools, row.meta) for row in rows] == [
        ("a", read_tools(TOOLS_FILE), {}),
        ("b", read_tools(TOOLS_FILE), {"language": "zh"}),
    ]
    assert list(check(rows)) == []


@given(st.text(), st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()))
@example("<function_calls", {})
def test_any_text_and_arguments_are_exported_unchanged(text: str, arguments: dict[str, Any]) -> None:
    assume(call_syntax(f"答{text}", None) is None)  # a call in the text of an answer is refused
    generator = FineTuneDataGenerator()
    generator.add_sample(SYSTEM, f"问{text}", "lookup", arguments)
    generator.add_sample(SYSTEM, f"问{text}", direct_answer=f"答{text}")
    called, answered = (json.loads(line)["messages"] for line in generator.export_jsonl().split("\n"))
    assert called[1]["content"] == answered[1]["content"] == f"问{text}"
    assert json.loads(called[2]["tool_calls"][0]["function"]["arguments"]) == arguments
    assert answered[2]["content"] == f"答{text}"


def test_later_changes_to_given_objects_and_returned_rows_do_not_change_the_samples() -> None:
    generator = FineTuneDataGenerator()
    arguments = {"order_id": "88213"}
    generator.add_sample(SYSTEM, "查 88213", "query_order", arguments)
    before = generator.export_jsonl()
    arguments["order_id"] = "0"
    generator.samples[0]["messages"].clear()
    assert generator.export_jsonl() == before


REFUSED = {
    "neither call nor answer": ({}, "neither a call nor an answer"),
    "empty answer": ({"direct_answer": ""}, "neither a call nor an answer"),
    "call and answer": ({"tool_name": "transfer_to_human", "direct_answer": "好的"}, "both a call and a direct_answer"),
    "arguments without tool": ({"tool_args": {"a": 1}, "direct_answer": "好的"}, "tool_args without a tool_name"),
    "tool_name and calls": ({"tool_name": "transfer_to_human", "calls": [("transfer_to_human", {})]}, "both tool_name"),
    "unknown tool": ({"tool_name": "query_ordr", "tool_args": {"order_id": "1"}}, 'did you mean "query_order"'),
    "missing argument": ({"tool_name": "query_order"}, "'order_id' is a required property"),
    "unknown argument": ({"tool_name": "transfer_to_human", "tool_args": {"to": "a"}}, "'to' was unexpected"),
    "wrong type": ({"tool_name": "query_stock", "tool_args": {"sku": "S", "quantity": "2"}}, "quantity: '2' is not"),
    "not in enum": (
        {"tool_name": "request_refund", "tool_args": {"order_id": "1", "reason": "broken"}},
        "reason: 'broken' is not one of ['damaged', 'wrong_item', 'late', 'not_wanted']",
    ),
    "arguments as text": ({"tool_name": "query_order", "tool_args": "[1]"}, "expected arguments as a JSON object"),
    "not JSON": ({"tool_name": "query_order", "tool_args": {"order_id": {1, 2}}}, "cannot be written as JSON"),
    "NaN": ({"tool_name": "query_stock", "tool_args": {"sku": "S", "quantity": float("nan")}}, "cannot be written as"),
    "half a character": ({"direct_answer": "\ud83d"}, "cannot be written as JSON"),
    "taken id": ({"direct_answer": "好的", "id": "first"}, 'an earlier sample has the id "first"'),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_sample_is_named_and_changes_nothing(
    tools: list[dict[str, Any]], arguments: dict[str, Any], message: str
) -> None:
    generator = FineTuneDataGenerator(tools=tools)
    generator.add_sample(SYSTEM, "你好", direct_answer="您好。", id="first")
    before = generator.export_jsonl()
    with pytest.raises(UserError) as refusal:
        generator.add_sample(SYSTEM, "你好", **arguments)
    assert str(refusal.value).startswith("sample 2:")
    assert message in str(refusal.value)
    assert generator.export_jsonl() == before
    assert generator.stats()["total"] == 1


def test_a_fault_deep_in_the_arguments_is_named_with_its_path() -> None:
    generator = FineTuneDataGenerator(tools=[NESTED])
    with pytest.raises(UserError, match=r"lines\[1\]\.count: 'x' is not of type 'integer'"):
        generator.add_sample(SYSTEM, "q", "place_order", {"lines": [{"count": 1}, {"count": "x"}]})


def test_without_tools_any_call_is_accepted() -> None:
    generator = FineTuneDataGenerator()
    generator.add_sample(SYSTEM, "q", "anything", {"at": ["all"]})
    assert generator.stats()["tool_call_samples"] == 1


USER = {"role": "user", "content": "q"}
CALLING = {"role": "assistant", "tool_calls": [call("f", {}, id="a"), call("f", {}, id="b")]}
RESULT = {"role": "tool", "content": "r"}
ANSWER = {"role": "assistant", "content": "a"}

MALFORMED = {
    "no message": ([], 'expected "messages"'),
    "no answer": ([USER], "the last message is of role user"),
    "result last": ([USER, CALLING, RESULT, RESULT], "the last message is of role tool"),
    "no question": ([ANSWER], "message 0: an assistant turn with nothing to answer"),
    "empty question": ([{"role": "user", "content": " "}, ANSWER], "message 0: an empty user message"),
    "two answers": ([USER, ANSWER, ANSWER], "message 2: two assistant turns in a row"),
    "late system": ([USER, ANSWER, {"role": "system", "content": "s"}, USER, ANSWER], "message 2: a system message"),
    "result of nothing": ([USER, RESULT, ANSWER], "message 1: a tool result without an unanswered call"),
    "one result too few": ([USER, CALLING, RESULT, ANSWER], "message 3: 1 call(s) before it have no result"),
    "one result too many": ([USER, CALLING, RESULT, RESULT, RESULT, ANSWER], "message 4: a tool result without"),
    "result of another call": (
        [USER, CALLING, {**RESULT, "tool_call_id": "c"}],
        'message 2: no unanswered call has the id "c"; known: a, b',
    ),
    "an id given twice": (
        [USER, {"role": "assistant", "tool_calls": [call("f", {}, id="a"), call("f", {}, id="a")]}],
        'message 1: two calls have the id "a"',
    ),
    "unknown role": ([USER, {"role": "model", "content": "a"}], "message 1: expected a"),
    "unknown key": ([USER, {**ANSWER, "text": "a"}], 'message 1: unknown key "text"'),
    "not a message": ([USER, "a"], "message 1: expected an object"),
    "calls without a name": ([USER, {"role": "assistant", "tool_calls": ["f"]}], "message 1: call 0"),
}


@pytest.mark.parametrize(("messages", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_conversation_is_refused(messages: list[Any], message: str) -> None:
    generator = FineTuneDataGenerator()
    with pytest.raises(UserError) as refusal:
        generator.add_conversation(messages)
    assert str(refusal.value).startswith("sample 1:")
    assert message in str(refusal.value)
    assert generator.samples == []


def test_calls_at_the_end_of_a_conversation_need_no_results() -> None:
    generator = FineTuneDataGenerator()
    generator.add_conversation([USER, CALLING])
    assert generator.stats() == {"total": 1, "tool_call_samples": 1, "direct_answer_samples": 0}


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = FineTuneDataGenerator()
    generator.add_sample(SYSTEM, "hello", direct_answer="Hello!")
    output = tmp_path / "train.jsonl"
    output.write_text("old", encoding="utf-8")

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("toolhone.jsonl.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        generator.export_jsonl(output)
    assert output.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [output]


def test_a_path_under_a_file_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    generator = FineTuneDataGenerator()
    generator.add_sample(SYSTEM, "hello", direct_answer="Hello!")
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(OSError, match="taken"):
        generator.export_jsonl(tmp_path / "taken" / "train.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
