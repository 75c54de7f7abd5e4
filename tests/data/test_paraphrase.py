"""Paraphrases: which are kept, and what happens on an endpoint's errors, a spent budget and an interruption."""

from __future__ import annotations

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Answer, Server, serving
from rich.console import Console

from toolhone.data.paraphrase import (
    ParaphraseReport,
    ParaphraseSettings,
    fault,
    paraphrase,
    read_wordings,
    request,
)
from toolhone.data.read import read_conversations, read_source, read_tools
from toolhone.data.values import codes, leaves, occurs_in
from toolhone.endpoint import Budget, OutOfBudget
from toolhone.errors import UserError
from toolhone.jsonl import write_jsonl
from toolhone.records import Conversation, Message, Tool, ToolCall

FOLDER = Path(__file__).parents[2] / "data" / "customer_service"
TOOLS = read_tools(FOLDER / "tools.json")
ANY_TOOL = Tool("call", "", {"type": "object"})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(well, monkeypatch) as made:
        yield made


def asked(body: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(body["messages"][-1]["content"])
    return read


def says(content: Any, usage: tuple[int, int] | None = (100, 50)) -> dict[str, Any]:
    """Return a response whose message has this content."""
    text = content if isinstance(content, str) else json.dumps(content)
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    made: dict[str, Any] = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    if usage is not None:
        made["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return made


def well(body: dict[str, Any]) -> tuple[int, Any]:
    """Answer with as many good wordings as are asked for."""
    wanted = asked(body)
    openings = ("Hm, ", "Well now. ", "Please please: ", "So ")
    return 200, says({"wordings": [[start + turn for turn in wanted["user"]] for start in openings[: wanted["count"]]]})


def wordings(*texts: str) -> Answer:
    return lambda body: (200, says({"wordings": [[text] for text in texts]}))


def fails(status: int, message: str = "no") -> Answer:
    return lambda body: (status, {"error": {"message": message}})


def slow(body: dict[str, Any]) -> tuple[int, Any]:
    time.sleep(4.0)
    return well(body)


def row(question: str = "where is ORD-204?", id: str = "r1", **arguments: Any) -> Conversation:
    turn = Message("assistant", "", (ToolCall("call", arguments or {"order_id": "ORD-204"}, "call_1"),))
    return Conversation(id, (Message("user", question), turn), (ANY_TOOL,), "rows.jsonl:1", meta={"template": "t"})


def write(folder: Path, *rows: Conversation) -> Path:
    path = folder / "rows.jsonl"
    write_jsonl(path, (one.to_json() for one in rows))
    return path


def many(count: int) -> list[Conversation]:
    return [row(f"where is ORD-{n}?", f"r{n}", order_id=f"ORD-{n}") for n in range(100, 100 + count)]


def ask(server: Server, source: Path, tools: tuple[Tool, ...] = (), **given: Any) -> ParaphraseReport:
    options = {"per_row": 2, "first_wait_s": 0.001, "retries": 2, "timeout_s": 60.0, **given}
    settings = ParaphraseSettings("writer-1", server.url, **options)
    return paraphrase([str(source)], source.with_name("out.jsonl"), settings, quiet(), tools=tools)


def quiet() -> Console:
    return Console(file=io.StringIO())


def out_rows(source: Path) -> list[Conversation]:
    return list(read_conversations(source.with_name("out.jsonl")))


def test_each_row_is_followed_by_its_paraphrases_with_everything_else_unchanged(server: Server, tmp_path: Path) -> None:
    source = write(tmp_path, row())
    report = ask(server, source)
    first, *others = out_rows(source)
    assert first.messages == row().messages
    assert [one.messages[0].content for one in others] == ["Hm, where is ORD-204?", "Well now. where is ORD-204?"]
    for number, one in enumerate(others, 1):
        assert one.id == f"r1-p{number}"
        assert one.messages[1:] == first.messages[1:]
        assert one.meta == {"template": "t", "paraphrase_of": "r1", "generator": "writer-1"}
    assert (report.rows, report.kept, report.calls) == (1, 2, 1)
    assert server.requests[0]["model"] == "writer-1"


def test_the_request_lists_the_values_to_keep_and_what_the_assistant_does(server: Server, tmp_path: Path) -> None:
    ask(server, write(tmp_path, row("two of SKU12 to ORD-204", a="ORD-204", b="SKU12", c="Leeds")))
    wanted = asked(server.requests[0])
    assert wanted["keep"] == [["ORD-204", "SKU12"]]
    assert wanted["assistant"][0]["calls"][0]["arguments"]["c"] == "Leeds"
    assert wanted["count"] == 2


def test_a_row_without_a_template_gets_one_that_its_paraphrases_share(server: Server, tmp_path: Path) -> None:
    source = write(tmp_path, replace(row(), meta={}))
    ask(server, source)
    assert len({one.meta["template"] for one in out_rows(source)}) == 1
    assert len(out_rows(source)) == 3


def test_every_turn_of_a_longer_conversation_is_reworded(server: Server, tmp_path: Path) -> None:
    rows = [one for one in read_conversations(FOLDER / "train.jsonl", TOOLS) if len(one.messages) > 5][:3]
    source = write(tmp_path, *rows)
    report = ask(server, source, TOOLS, per_row=1)
    made = out_rows(source)
    assert report.kept == 3
    for before, after in zip(made[::2], made[1::2], strict=True):
        for one, other in zip(before.messages, after.messages, strict=True):
            assert other.content == ("Hm, " + one.content if one.role == "user" else one.content)


def test_rows_whose_tools_come_from_a_file_are_written_without_them(server: Server, tmp_path: Path) -> None:
    source = write(tmp_path, *(replace(one, tools=()) for one in many(2)))
    ask(server, source, (ANY_TOOL,))
    assert all(one.tools == () for one in out_rows(source))


FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize(
    ("file", "format"),
    [("formats/hermes.json", "hermes"), ("formats/xlam.jsonl", "xlam"), ("logs/chat.jsonl", "logs")],
)
def test_rows_of_any_format_are_paraphrased_and_written_in_toolhones_own_format(
    server: Server, tmp_path: Path, file: str, format: str
) -> None:
    source, said = str(FIXTURES / file), Console(file=io.StringIO(), width=500)
    settings = ParaphraseSettings("writer-1", server.url, per_row=1)
    report = paraphrase([source], tmp_path / "out.jsonl", settings, said)
    assert f"{file}: read as {format}\n" in said.file.getvalue()  # type: ignore[attr-defined]
    before = [one for one in read_source(source) if isinstance(one, Conversation)]
    made = list(read_conversations(tmp_path / "out.jsonl"))
    assert [one.messages for one in made if "paraphrase_of" not in one.meta] == [one.messages for one in before]
    assert [one.meta["paraphrase_of"] for one in made if "paraphrase_of" in one.meta] == [one.id for one in before]
    assert report.kept == len(before) > 0
    assert {one.id: one.tools for one in made}.items() >= {one.id: one.tools for one in before}.items()


def test_a_source_with_errors_is_refused_before_the_first_request(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'rows\.jsonl:2: .*"r1"'):
        ask(server, write(tmp_path, row(), row()))
    assert server.requests == []


def test_the_source_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    source = write(tmp_path, row())
    with pytest.raises(UserError, match=r"rows\.jsonl: is one of the files to read"):
        paraphrase([str(tmp_path)], source, ParaphraseSettings("m", server.url), quiet())
    assert server.requests == []


def test_only_new_rows_are_written_if_asked_for(server: Server, tmp_path: Path) -> None:
    source = write(tmp_path, row())
    ask(server, source, only_new=True)
    assert [one.id for one in out_rows(source)] == ["r1-p1", "r1-p2"]


DROPPED = {
    "value lost": (row(), "where is my order?", "an argument's value is missing"),
    "value in another case": (row(), "where is ord-204?", "an argument's value is missing"),
    "value inside a longer code": (row(), "where is ORD-2041?", "an argument's value is missing"),
    "number lost": (row("I want 3", n=3), "I want some", "an argument's value is missing"),
    "number inside a number": (row("I want 3", n=3), "I want 13 or 3.5", "an argument's value is missing"),
    "number in words changed": (row("I want two", n=2), "I want three", "an argument's value is missing"),
    "number in Chinese words changed": (row("要两个", n=2), "要三个", "an argument's value is missing"),
    "nested value lost": (row("to Leeds", to=[{"city": "Leeds"}]), "to York", "an argument's value is missing"),
    "code made up": (row(), "where is ORD-204, not ORD-205?", "an invented code or number"),
    "number made up": (row(), "ORD-204? I have waited 5 days", "an invented code or number"),
    "address made up": (row(), "ORD-204? write to me@example.com", "an invented code or number"),
    "another language": (row(), "ORD-204 在哪", "another language"),
    "copy": (row(), "Where is ORD-204", "only a copy"),
    "empty": (row(), "  ", "an empty message"),
    "too long": (row(), "where is ORD-204? " * 30, "far too long"),
}


@pytest.mark.parametrize(("source", "text", "reason"), DROPPED.values(), ids=DROPPED.keys())
def test_a_wording_that_changes_the_request_is_dropped_and_counted(
    server: Server, tmp_path: Path, source: Conversation, text: str, reason: str
) -> None:
    server.answers = [wordings(text)]
    path = write(tmp_path, source)
    report = ask(server, path)
    assert report.dropped == {reason: 1}
    assert report.kept == 0
    assert [one.id for one in out_rows(path)] == ["r1"]


KEPT = [
    (row(), "Any news of ORD-204?"),
    (row("I want two", n=2), "2 for me please"),
    (row("I want 1000", n=1000), "1,000 would be good"),
    (row("订单ORD-204在哪里"), "帮我看看ORD-204到哪了"),
    (row("ship it to 3.5 Mill Lane", to="3.5 Mill Lane"), "3.5 Mill Lane is where it goes"),
    (row("it came broken, ORD-204", order_id="ORD-204", reason="damaged"), "ORD-204 arrived in pieces"),
]


@pytest.mark.parametrize(("source", "text"), KEPT)
def test_a_wording_with_the_same_request_is_kept(source: Conversation, text: str) -> None:
    assert fault(source, [text]) is None


def test_repeated_wordings_and_surplus_ones_are_left_out(server: Server, tmp_path: Path) -> None:
    server.answers = [wordings("ORD-204, please", "ord 204... ORD-204 please?", "ORD-204 please!", "ORD-204, where?")]
    report = ask(server, write(tmp_path, row()), per_row=3)
    assert report.kept == 2
    assert report.dropped == {"only a copy": 1}


UNREADABLE = ["I would rather not.", "{", '{"wordings": "one"}', '["a"]', "", '{"wordings": [1}', "\ud83d {"]


@pytest.mark.parametrize("text", UNREADABLE)
def test_an_answer_that_is_not_the_requested_json_is_counted(server: Server, tmp_path: Path, text: str) -> None:
    server.answers = [lambda body: (200, says(text))]
    report = ask(server, write(tmp_path, row()))
    assert report.dropped == {"an answer that is not the requested JSON": 1}
    assert ask(server, tmp_path / "rows.jsonl").calls == 1, "a paid answer is not asked for again"


@pytest.mark.parametrize("wording", [[], ["a", "b"], 3, None, [3], {"a": 1}, ["\ud83d ORD-204"]])
def test_a_wording_of_another_shape_is_counted(server: Server, tmp_path: Path, wording: Any) -> None:
    server.answers = [lambda body: (200, says({"wordings": [wording]}))]
    assert ask(server, write(tmp_path, row())).dropped.total() == 1


def test_json_in_a_fence_or_after_prose_is_read() -> None:
    assert read_wordings('Sure!\n```json\n{"wordings": [["a"]]}\n```\nDone.') == [["a"]]
    assert read_wordings('Here: {"wordings": ["a"]} as you like') == ["a"]


@pytest.mark.parametrize("failure", [fails(429), fails(500), fails(503), lambda body: (200, b"<html>"), slow])
def test_a_temporary_failure_is_retried(server: Server, tmp_path: Path, failure: Answer) -> None:
    server.answers = [failure, well]
    report = ask(server, write(tmp_path, row()), timeout_s=1.5 if failure is slow else 60.0)
    assert (report.kept, report.calls) == (2, 2)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl.answers.jsonl").read_text().splitlines()]
    assert [line["text"] is None for line in lines] == [True, False]


def test_a_permanent_failure_is_counted_by_reason_and_other_rows_continue(server: Server, tmp_path: Path) -> None:
    server.answers = [lambda body: fails(500)(body) if "ORD-101" in str(body) else well(body)]
    source = write(tmp_path, *many(3))
    report = ask(server, source, concurrency=1)
    assert report.rows_without == {"status 500": 1}
    assert report.kept == 4
    assert report.calls == 2 + 3
    server.answers = [well]
    again = ask(server, source)
    assert again.kept == 6
    assert again.rows_without == {}


def test_a_row_that_the_endpoint_refuses_is_not_retried(server: Server, tmp_path: Path) -> None:
    server.answers = [lambda body: fails(400, "unsafe")(body) if "ORD-101" in str(body) else well(body)]
    report = ask(server, write(tmp_path, *many(3)), concurrency=1)
    assert report.rows_without == {"refused with status 400": 1}
    assert report.calls == 3


def test_an_endpoint_that_requires_max_completion_tokens_gets_it(server: Server, tmp_path: Path) -> None:
    def requires_newer_name(body: dict[str, Any]) -> tuple[int, Any]:
        if "max_tokens" in body:
            return fails(400, "Unsupported parameter: use 'max_completion_tokens'")(body)
        return well(body)

    server.answers = [requires_newer_name]
    assert ask(server, write(tmp_path, *many(3)), concurrency=1).kept == 6
    assert len(server.requests) == 4


@pytest.mark.parametrize(("status", "remedy"), [(401, "OPENAI_API_KEY"), (404, "--endpoint-model")])
def test_a_wrong_key_or_model_stops_the_run_at_once(server: Server, tmp_path: Path, status: int, remedy: str) -> None:
    server.answers = [fails(status)]
    with pytest.raises(UserError, match=f"the endpoint answered {status}.*{remedy}"):
        ask(server, write(tmp_path, *many(20)), concurrency=1)
    assert len(server.requests) == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_an_endpoint_that_never_answers_stops_the_run_after_a_few_rows(server: Server, tmp_path: Path) -> None:
    server.answers = [fails(500)]
    with pytest.raises(UserError, match=r"the first 5 rows got no answer \(status 500\)"):
        ask(server, write(tmp_path, *many(50)), concurrency=1, retries=0)
    assert len(server.requests) == 5


def test_no_more_than_concurrency_requests_run_at_once(server: Server, tmp_path: Path) -> None:
    def takes_a_moment(body: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(0.2)
        return well(body)

    server.answers = [takes_a_moment]
    ask(server, write(tmp_path, *many(9)), concurrency=3)
    assert server.most_at_once == 3


def test_a_spent_budget_of_calls_stops_cleanly_and_a_larger_one_continues(server: Server, tmp_path: Path) -> None:
    source = write(tmp_path, *many(10))
    report = ask(server, source, max_calls=4)
    assert (report.calls, report.kept, report.rows_without) == (4, 8, {"not asked": 6})
    assert report.stopped is not None
    assert len(out_rows(source)) == 10 + 8
    again = ask(server, source, max_calls=4)
    assert (again.calls, again.kept) == (4, 8)
    assert len(server.requests) == 4
    rest = ask(server, source, max_calls=10)
    assert (rest.calls, rest.kept, rest.stopped) == (10, 20, None)
    assert len(server.requests) == 10


def test_the_budget_in_dollars_is_never_exceeded(server: Server, tmp_path: Path) -> None:
    source = write(tmp_path, *many(40))
    prices = {"price_in": 10.0, "price_out": 100.0, "max_tokens": 60}
    # A call costs 100 and 50 tokens, $0.006. Before it starts, up to 2,000 and 60 tokens are reserved for it.
    report = ask(server, source, max_usd=0.1, **prices)
    assert report.usd == pytest.approx(0.006 * report.calls)
    assert 0.05 < report.usd <= 0.1
    assert report.stopped is not None
    everything = ask(server, source, max_usd=1.0, **prices)
    assert everything.usd == pytest.approx(0.24)
    assert everything.kept == 80


def test_an_answer_without_usage_counts_at_its_highest_possible_cost(server: Server, tmp_path: Path) -> None:
    server.answers = [lambda body: (200, says({"wordings": [["so, ORD-204"]]}, usage=None))]
    report = ask(server, write(tmp_path, row()), price_in=0.0, price_out=10.0, max_usd=1.0, max_tokens=1000)
    assert report.usd == pytest.approx(0.01)


def test_a_failed_call_costs_nothing_but_a_timed_out_one_counts(server: Server, tmp_path: Path) -> None:
    server.answers = [fails(500), slow, well]
    given = {"price_in": 0.0, "price_out": 10.0, "max_tokens": 1000, "timeout_s": 1.5}
    report = ask(server, write(tmp_path, row()), **given)
    assert report.usd == pytest.approx(0.01 + 50 * 10 / 1e6)


def test_a_second_run_asks_only_for_what_is_missing(server: Server, tmp_path: Path) -> None:
    source = write(tmp_path, *many(3))
    ask(server, source)
    write(tmp_path, *many(5))
    assert ask(server, source).kept == 10
    assert len(server.requests) == 5
    first = (tmp_path / "out.jsonl").read_bytes()
    ask(server, source)
    assert (tmp_path / "out.jsonl").read_bytes() == first
    assert len(server.requests) == 5
    ask(server, source, per_row=1)
    assert len(server.requests) == 10, "another request has another key"


def test_a_truncated_line_of_the_answers_file_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    source = write(tmp_path, *many(3))
    ask(server, source)
    side = tmp_path / "out.jsonl.answers.jsonl"
    side.write_bytes(side.read_bytes()[:-20])
    report = ask(server, source)
    assert (report.kept, report.calls, len(server.requests)) == (6, 4, 4)
    assert ask(server, source).kept == 6
    assert len(server.requests) == 4


def test_ctrl_c_keeps_the_answers_so_far(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolhone.data import paraphrase as module

    source = write(tmp_path, *many(8))
    real, calls = module.wait, Counter[str]()

    def interrupted(*given: Any, **options: Any) -> Any:
        calls["wait"] += 1
        if calls["wait"] == 4:
            raise KeyboardInterrupt
        return real(*given, **options)

    monkeypatch.setattr(module, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(server, source, concurrency=1)
    monkeypatch.undo()
    assert not (tmp_path / "out.jsonl").exists()
    before = len(server.requests)
    assert 3 <= before < 8
    assert ask(server, source).kept == 16
    assert len(server.requests) == 8


def test_a_test_row_is_refused_before_the_first_request(server: Server, tmp_path: Path) -> None:
    source = write(tmp_path, row(), replace(row(id="r2"), meta={"split": "test"}))
    with pytest.raises(UserError, match=r"rows.jsonl:2: is a test row"):
        ask(server, source)
    assert server.requests == []


def test_paraphrases_are_not_paraphrased_again(server: Server, tmp_path: Path) -> None:
    source = write(tmp_path, row())
    ask(server, source)
    (tmp_path / "out.jsonl").rename(source)
    report = ask(server, source)
    assert report.skipped == 2
    assert len(server.requests) == 1
    assert [one.id for one in out_rows(source)] == ["r1", "r1-p3", "r1-p4", "r1-p1", "r1-p2"]


def test_the_key_comes_from_the_environment_and_is_never_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-test")
    ask(server, write(tmp_path, row()))
    assert server.keys == ["Bearer sk-of-the-test"]
    assert not any(b"sk-of-the-test" in file.read_bytes() for file in tmp_path.iterdir())


def test_a_missing_key_is_an_error_for_a_remote_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    settings = ParaphraseSettings("m", "https://models.example/v1")
    with pytest.raises(UserError, match=r"OPENAI_API_KEY is not set; set it to the key for models\.example"):
        paraphrase([str(write(tmp_path, row()))], tmp_path / "out.jsonl", settings, quiet())


SETTINGS = {
    "--per-row": {"per_row": 0},
    "--concurrency": {"concurrency": 0},
    "--max-calls": {"max_calls": -1},
    "--timeout": {"timeout_s": 0.0},
    "needs --price-in and --price-out": {"max_usd": 1.0, "price_in": 1.0},
}


@pytest.mark.parametrize(("flag", "given"), SETTINGS.items())
def test_the_error_for_an_invalid_setting_names_its_flag(flag: str, given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=flag):
        ParaphraseSettings("m", "http://127.0.0.1:1/v1", **given)


def test_a_wrong_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--base-url models"):
        paraphrase([str(write(tmp_path, row()))], tmp_path / "o.jsonl", ParaphraseSettings("m", "models"), quiet())


def test_a_call_waits_for_budget_that_running_calls_may_release() -> None:
    budget = Budget(None, 1.0, 1.0, 1.0)
    budget.reserve(0.8)
    timer = threading.Timer(0.05, budget.settle, (0.8, 0.1))
    timer.start()
    budget.reserve(0.8)
    timer.join()
    budget.settle(0.8, 0.8)
    with pytest.raises(OutOfBudget):
        budget.reserve(0.2)
    assert (budget.calls, budget.usd) == (2, pytest.approx(0.9))


@given(st.text(alphabet="AB-09 在", max_size=8), st.text(alphabet="AB-09 在", max_size=4))
def test_a_value_occurs_only_as_a_whole_word(before: str, value: str) -> None:
    assert occurs_in(value, f"{before} {value} 在")
    if value.strip()[-1:].isalnum() and value.strip()[-1:].isascii():
        assert not occurs_in(value, value.strip() + "9")


def test_codes_are_words_with_a_digit_and_numbers_and_addresses() -> None:
    text = "ORD-204 and 3.5kg, 1,000 of SKU12; a_b x@y.org https://z.org/q。在B2在"
    assert codes(text) >= {"ORD-204", "1,000", "SKU12", "x@y.org", "https://z.org/q", "B2"}
    assert "a_b" not in codes(text)


def test_leaves_are_texts_and_numbers_with_their_paths() -> None:
    value = {"a": [1, {"b": "x"}], "c": True, "d": None, "e": 2.5}
    assert list(leaves(value)) == [("a[0]", 1), ("a[1].b", "x"), ("e", 2.5)]


def test_the_checks_accept_the_own_words_of_the_committed_rows() -> None:
    """The checks accept the user's own words of real rows."""
    for one in read_conversations(FOLDER / "train.jsonl", TOOLS):
        turns = [message.content for message in one.messages if message.role == "user"]
        assert fault(one, turns) is None, one.id
        assert len(request(one, 3)) == 2


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)))
def test_a_wording_of_any_invalid_shape_gives_a_reason(wording: Any) -> None:
    reason = fault(row(), wording)
    assert reason is not None
    assert "ORD" not in reason, "reasons are counted, so they must not name a row"


@pytest.mark.parametrize(
    "line",
    ["[]", "3", "{}", '{"key": 1, "text": "x"}', '{"key": "k", "text": 3, "prompt_tokens": "a", "x": 1}', "\x00"],
)
def test_a_line_of_the_answers_file_that_is_not_an_answer_counts_as_a_call(
    server: Server, tmp_path: Path, line: str
) -> None:
    (tmp_path / "out.jsonl.answers.jsonl").write_text(line + "\n")
    report = ask(server, write(tmp_path, row()))
    assert (report.calls, report.kept) == (2, 2)
