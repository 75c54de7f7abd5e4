"""Predictions from an endpoint: a local server whose answers are right, malformed, late or missing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from loopback import Answer, Server, hangs, serving
from rich.console import Console

from toolhone.chat.parse import parse_turn
from toolhone.cli import main
from toolhone.config_file import load_config
from toolhone.endpoint import Pace
from toolhone.errors import UserError
from toolhone.evaluate.match import score
from toolhone.evaluate.openai_wire import request_of
from toolhone.evaluate.predict_endpoint import EndpointSettings, predict_endpoint
from toolhone.jsonl import read_jsonl, write_jsonl
from toolhone.records import Conversation, Example, FormatName, Gold, Message, Prediction, Tool, ToolCall
from toolhone.route.confidence import signals
from toolhone.run_folder import open_run, provenance

TOOL = Tool("query_order", "", {"type": "object", "properties": {"id": {"type": "string"}}})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(calls_the_tool, monkeypatch) as made:
        yield made


def says(message: Any, finish_reason: str = "stop", logprobs: Any = None, **usage: int) -> tuple[int, Any]:
    counted = {"prompt_tokens": 100, "completion_tokens": 20, **usage}
    choice = {"index": 0, "finish_reason": finish_reason, "message": message, "logprobs": logprobs}
    return 200, {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": counted,
    }


def calls(*functions: Any, **more: Any) -> dict[str, Any]:
    """A message with one call for each of the given functions."""
    rows = [{"id": f"c{n}", "type": "function", "function": function} for n, function in enumerate(functions)]
    return {"role": "assistant", "content": None, "tool_calls": rows, **more}


def calls_the_tool(body: dict[str, Any]) -> tuple[int, Any]:
    """The right call for the question "order N?"."""
    number = body["messages"][-1]["content"].split()[-1].rstrip("?")
    name = body["tools"][0]["function"]["name"]
    return says(calls({"name": name, "arguments": json.dumps({"id": number})}), "tool_calls")


def fails(status: int, message: str = "no") -> Answer:
    return lambda body: (status, {"error": {"message": message}})


def always(*answer: Any, **more: Any) -> Answer:
    return lambda body: says(*answer, **more)


def example(number: int = 7, tool: Tool = TOOL) -> Example:
    turn = Message("assistant", "", (ToolCall(tool.name, {"id": str(number)}, "c1"),))
    prompt = (Message("user", f"order {number}?"),)
    return Example(f"r{number}/1", f"r{number}", prompt, turn, Gold.of_message(turn), (tool,), "rows:1", None, {})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "predictions" / "gpt.jsonl"


def ask(server: Server, path: Path, examples: list[Example] | None = None, **given: Any) -> dict[str, Any]:
    options = {"first_wait_s": 0.001, "retries": 2, **given}
    settings = EndpointSettings("gpt-x", server.url, **options)
    return predict_endpoint(examples or [example()], "gpt", settings, path, Console(file=StringIO()))


def predictions(path: Path) -> list[Prediction]:
    return [Prediction.from_json(row) for _, row in read_jsonl(path)]


def test_right_answers_are_saved_in_the_order_of_the_examples_and_score_as_exact(server: Server, path: Path) -> None:
    rows = [example(n) for n in range(20)]
    summary = ask(server, path, rows, price_in=1.0, price_out=10.0)
    made = predictions(path)
    assert [one.id for one in made] == [row.id for row in rows]
    assert all(score(row, one, "hermes").exact for row, one in zip(rows, made, strict=True))
    assert made[0].finish_reason == "stop"
    assert (made[0].model, made[0].prompt_tokens, made[0].completion_tokens) == ("gpt", 100, 20)
    assert made[0].latency_ms > 0
    assert (summary["rows"], summary["calls"], summary["prompt_tokens"]) == (20, 20, 2000)
    assert summary["cost_usd"] == pytest.approx(20 * (100 * 1 + 20 * 10) / 1e6)
    assert json.loads(path.with_suffix(".json").read_text()) == summary
    assert sorted(file.name for file in path.parent.iterdir()) == ["gpt.json", "gpt.jsonl"]


def test_the_request_has_the_tools_and_greedy_settings_and_none_of_our_own_keys(server: Server, path: Path) -> None:
    ask(server, path, max_tokens=77)
    body = server.requests[0]
    assert body["tools"] == [TOOL.to_json()]
    assert body["messages"] == [{"role": "user", "content": "order 7?"}]
    assert (body["model"], body["temperature"], body["max_tokens"], body["logprobs"]) == ("gpt-x", 0.0, 77, True)


def test_earlier_calls_and_their_results_share_ids_and_weights_are_not_sent() -> None:
    call = ToolCall("query.order", {"id": "1"})
    prompt = (
        Message("user", "both?"),
        Message("assistant", "", (call, call), weight=0.0),
        Message("tool", "one"),
        Message("tool", "two"),
        Message("user", "and?"),
    )
    tool = Tool("query.order", "", {"type": "object"})
    row = Example("r/5", "r", prompt, Message("assistant", "ok"), Gold("none"), (tool,), "rows:1", None, {})
    messages = request_of(row).messages
    ids = [one["id"] for one in messages[1]["tool_calls"]]
    assert len(set(ids)) == 2
    assert [messages[2]["tool_call_id"], messages[3]["tool_call_id"]] == ids
    assert "weight" not in messages[1]
    assert messages[1]["tool_calls"][0]["function"]["name"] == "query_order"


@pytest.mark.parametrize("format", ["hermes", "llama3"])
def test_parallel_calls_are_written_in_the_requested_format(server: Server, path: Path, format: FormatName) -> None:
    one = {"name": "query_order", "arguments": '{"id": "1"}'}
    two = {"name": "query_order", "arguments": '{"id": "}; </tool_call>"}'}
    server.answers = [always(calls(one, two, content="Both."), "tool_calls")]
    assert ask(server, path, format=format)["chat_format"] == format
    turn = parse_turn(predictions(path)[0].text, format)
    assert [call.arguments["id"] for call in turn.calls] == ["1", "}; </tool_call>"]
    assert (turn.status, turn.content) == ("calls", "Both.")


MALFORMED: dict[str, Any] = {
    "broken arguments": calls({"name": "query_order", "arguments": '{"id": '}),
    "arguments that are a list": calls({"name": "query_order", "arguments": "[1]"}),
    "arguments encoded twice": calls({"name": "query_order", "arguments": '"{\\"id\\": \\"7\\"}"'}),
    "a number as arguments": calls({"name": "query_order", "arguments": 7}),
    "no name": calls({"arguments": "{}"}),
    "a name that is no text": calls({"name": 5, "arguments": "{}"}),
    "function is a text": calls("query_order"),
    "another type of call": {"content": None, "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "x"}}]},
    "a call that is null": {"content": None, "tool_calls": [None]},
    "calls that are no list": {"content": None, "tool_calls": {"a": 1}},
    "half a character": calls({"name": "query_order", "arguments": '{"id": "\\ud83d"}'}),
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED.keys())
def test_calls_that_cannot_be_read_are_malformed(server: Server, path: Path, message: Any) -> None:
    server.answers = [always({"role": "assistant", **message}, "tool_calls")]
    ask(server, path)
    [made] = predictions(path)
    found = score(example(), made, "hermes")
    assert (found.status, found.exact) == ("malformed", False)


OWN_TEXT = '<tool_call>\n{"name": "query_order", "arguments": {"id": "7"}}\n</tool_call>'
SOUND: dict[str, tuple[Any, str]] = {
    "arguments as an object": (calls({"name": "query_order", "arguments": {"id": "7"}}), "calls"),
    "the older form": ({"content": None, "function_call": {"name": "query_order", "arguments": '{"id":"7"}'}}, "calls"),
    "null for no calls": ({"content": "Hello.", "tool_calls": None}, "none"),
    "content in parts": ({"content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]}, "none"),
    "a refusal": ({"content": None, "refusal": "I cannot."}, "none"),
    "nothing at all": ({"content": None}, "none"),
    "half a character": ({"content": "\ud83d"}, "none"),
    "prose that quotes a call": ({"content": 'It was {"name": "query_order", "arguments": {"id": "7"}}.'}, "none"),
    "prose before a call": ({"content": f"Looking.\n{OWN_TEXT}"}, "none"),
    "prose that is JSON": ({"content": '{"name": "query_order", "arguments": {"id": "7"}}'}, "none"),
    "a call that the server left in the text": ({"content": OWN_TEXT}, "calls"),
    "a call after a thought": ({"content": f"<think>Hm.</think>\n{OWN_TEXT}"}, "calls"),
    "a foreign call that the server left": ({"content": "<|tool_call_start|>[f(a=1)]"}, "malformed"),
    "prose that quotes a call beside a call": (
        calls({"name": "query_order", "arguments": '{"id": "7"}'}, content=f"Instead of {OWN_TEXT}:"),
        "calls",
    ),
}


@pytest.mark.parametrize(("message", "status"), SOUND.values(), ids=SOUND.keys())
def test_other_shapes_of_an_answer_are_read(server: Server, path: Path, message: Any, status: str) -> None:
    server.answers = [always({"role": "assistant", **message})]
    ask(server, path)
    found = score(example(), predictions(path)[0], "hermes")
    assert found.status == status
    assert found.exact == (status == "calls")


def test_a_server_that_leaves_calls_in_the_text_must_be_declared(server: Server, path: Path) -> None:
    server.answers = [always({"content": f"Looking.\n{OWN_TEXT}"})]
    printed = StringIO()
    settings = EndpointSettings("gpt-x", server.url)
    undeclared = predict_endpoint([example()], "gpt", settings, path, Console(file=printed, width=500))
    assert score(example(), predictions(path)[0], "hermes").status == "none"
    assert "1 texts look like calls (the first is r7/1)" in printed.getvalue()
    assert "--calls-in-text" in printed.getvalue()
    assert (undeclared["calls_in_text"], undeclared["texts_like_calls"]) == (False, 1)
    declared = ask(server, path, calls_in_text=True)
    assert score(example(), predictions(path)[0], "hermes").exact
    assert (declared["calls_in_text"], declared["texts_like_calls"]) == (True, 0)


def test_prose_that_quotes_calls_is_not_reported_if_the_server_returns_tool_calls(server: Server, path: Path) -> None:
    server.answers = [always({"content": f"Looking.\n{OWN_TEXT}"}), calls_the_tool]
    assert ask(server, path, [example(1), example(2)], concurrency=1)["texts_like_calls"] == 0


def test_prose_keeps_its_tokens_and_is_read_as_prose_from_the_file(server: Server, path: Path) -> None:
    text = 'It was {"name": "query_order", "arguments": {"id": "7"}}.'
    rows = [token(text), token("<|im_end|>")]
    server.answers = [always({"content": text}, logprobs={"content": rows})]
    ask(server, path)
    [made] = predictions(path)
    assert (len(made.tokens), made.prose_end) == (2, len(text))
    assert score(example(), made, "hermes").status == "none"
    assert signals(made, example(), "hermes").gate is None


CUT: dict[str, Any] = {
    "inside a call": calls({"name": "query_order", "arguments": '{"id": "7'}),
    "before anything was said": {"content": None},
    "in thoughts that are in the text": {"content": "<think>I need query_order"},
    "in its thoughts": {"content": "", "reasoning_content": "The user wants"},
}


@pytest.mark.parametrize("message", CUT.values(), ids=CUT.keys())
def test_an_answer_cut_at_the_limit_is_truncated(server: Server, path: Path, message: Any) -> None:
    server.answers = [always({"role": "assistant", **message}, "length")]
    ask(server, path)
    [made] = predictions(path)
    assert made.finish_reason == "length"
    assert score(example(), made, "hermes").status == "truncated"


def test_tool_names_that_endpoints_reject_are_renamed_and_restored(server: Server, path: Path) -> None:
    dotted, plain, chinese = (Tool(name, "", TOOL.parameters) for name in ("math.add", "math_add", "查"))
    row = example(3, dotted)
    row = Example(
        row.id, row.conversation_id, row.prompt, row.turn, row.gold, (dotted, plain, chinese), "r:1", None, {}
    )
    summary = ask(server, path, [row])
    assert [tool["function"]["name"] for tool in server.requests[0]["tools"]] == ["math_add_2", "math_add", "_"]
    assert score(row, predictions(path)[0], "hermes").exact
    assert summary["tools_renamed"] == ["math.add", "查"]


def token(text: str | bytes, logprob: float = -0.5) -> dict[str, Any]:
    said = text.encode() if isinstance(text, str) else text
    return {"token": said.decode(errors="replace"), "bytes": list(said), "logprob": logprob, "top_logprobs": []}


def test_tokens_of_a_text_are_kept_with_their_bytes(server: Server, path: Path) -> None:
    first, second = "查".encode()[:1], "查".encode()[1:]
    rows = [token(first, -0.1), token(second, -0.2), token("<|im_end|>", -0.3)]
    server.answers = [always({"content": "查"}, logprobs={"content": rows})]
    ask(server, path)
    [made] = predictions(path)
    assert [(one.bytes, one.logprob) for one in made.tokens] == [(first, -0.1), (second, -0.2), (b"<|im_end|>", -0.3)]
    assert server.requests[-1]["top_logprobs"] == 2


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([token("Hi", -0.1), token("Yo", -3.0), token("Ey", -2.5)], -2.5),
        ([token("Yo", -3.0)], -3.0),  # the chosen token may be missing
        ([token("Hi", -0.1)], None),
        ([token("Hi", -0.1) | {"bytes": None}], None),
        (
            [token("Hi", -0.1), token("Hi", -2.0) | {"bytes": [72]}],
            -2.0,
        ),  # different parts of a character may have the same text
        ([], None),
        (None, None),
        ("no", None),
        ([{"token": "Yo"}], None),
        (7, None),
    ],
)
def test_the_runner_up_is_the_likeliest_other_token_if_the_endpoint_returns_it(
    server: Server, path: Path, others: Any, expected: float | None
) -> None:
    server.answers = [always({"content": "Hi"}, logprobs={"content": [token("Hi", -0.1) | {"top_logprobs": others}]})]
    ask(server, path)
    [made] = predictions(path)
    assert [(one.bytes, one.logprob, one.runner_up) for one in made.tokens] == [(b"Hi", -0.1, expected)]


def test_if_the_tokens_spell_the_call_they_and_their_text_are_saved(server: Server, path: Path) -> None:
    raw = '<tool_call>{"name":"query_order",  "arguments":{"id":"7"}}</tool_call>'
    message = calls({"name": "query_order", "arguments": '{"id": "7"}'})
    server.answers = [always(message, "tool_calls", logprobs={"content": [token(raw)]})]
    ask(server, path)
    [made] = predictions(path)
    assert made.text == raw
    assert len(made.tokens) == 1


@pytest.mark.parametrize(
    "logprobs",
    [
        {"content": [token("something else")]},
        {"content": [{"token": "Hello.", "bytes": ["x"], "logprob": -1}]},
        {"content": [{"token": "Hello.", "bytes": [999], "logprob": -1}]},
        {"content": [{"token": None, "bytes": None, "logprob": -1}]},
        {"content": [{}]},
        {"content": ["a"]},
        {"content": "a"},
        [],
        "no",
    ],
)
def test_tokens_that_do_not_spell_the_text_are_dropped(server: Server, path: Path, logprobs: Any) -> None:
    server.answers = [always(calls({"name": "query_order", "arguments": '{"id": "7"}'}), logprobs=logprobs)]
    ask(server, path)
    [made] = predictions(path)
    assert made.tokens == ()
    assert score(example(), made, "hermes").exact


PASSING: dict[str, Answer] = {
    "429": fails(429),
    "500": fails(500),
    "503": fails(503),
    "broken JSON": lambda body: (200, b'{"choices": ['),
    "a page": lambda body: (200, b"<html>"),
    "a page that is not UTF-8": lambda body: (200, (b"<html>\xff", {"content-type": "text/html"})),
    "a body that is not UTF-8": lambda body: (200, '{"choices": "Grüße"}'.encode("latin-1")),
    "no body": lambda body: (200, b""),
    "not gzip": lambda body: (200, (b"{}", {"content-encoding": "gzip"})),
    "JSON nested too deeply": lambda body: (200, b"[" * 100_000),
    "no choices": lambda body: (200, {"choices": []}),
    "null choices": lambda body: (200, {"choices": None}),
    "an error inside": lambda body: (200, {"error": {"message": "busy"}}),
    "a choice without a message": lambda body: (200, {"choices": [{"index": 0}]}),
    "a message that is a text": lambda body: (200, {"choices": [{"message": "hello"}]}),
}


@pytest.mark.parametrize("failure", PASSING.values(), ids=PASSING.keys())
def test_a_temporary_failure_is_retried_and_counted(server: Server, path: Path, failure: Answer) -> None:
    server.answers = [failure, calls_the_tool]
    summary = ask(server, path)
    assert score(example(), predictions(path)[0], "hermes").exact
    assert (summary["calls"], sum(summary["failures"].values())) == (2, 1)


def test_a_request_that_hangs_times_out_and_is_retried(server: Server, path: Path) -> None:
    server.answers = [hangs, calls_the_tool]
    assert ask(server, path, timeout_s=0.3)["failures"] == {"timeout": 1}
    assert len(predictions(path)) == 1


def test_options_that_an_endpoint_rejects_are_dropped_from_the_next_request(server: Server, path: Path) -> None:
    server.answers = [
        fails(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        fails(400, "'temperature' does not support 0 with this model"),
        fails(400, "top_logprobs is not supported"),
        fails(400, "logprobs are not available"),
        calls_the_tool,
    ]
    summary = ask(server, path, retries=4)
    *_, before, last = server.requests
    assert before["logprobs"] is True
    assert last["max_completion_tokens"] == 1024
    assert not {"max_tokens", "temperature", "logprobs", "top_logprobs"} & last.keys()
    assert (summary["temperature"], summary["logprobs"]) == (None, False)


def test_rows_without_an_answer_are_reported_and_the_answered_ones_are_reused(server: Server, path: Path) -> None:
    def but_one(body: dict[str, Any]) -> tuple[int, Any]:
        return fails(500)(body) if "order 2?" in str(body) else calls_the_tool(body)

    server.answers = [but_one]
    rows = [example(n) for n in range(4)]
    with pytest.raises(UserError, match=r"1 of 4 rows have no answer \(1 x status 500; the first is r2/1\)"):
        ask(server, path, rows)
    assert not path.exists()
    server.answers = [calls_the_tool]
    asked = len(server.requests)
    summary = ask(server, path, rows)
    assert len(server.requests) == asked + 1
    assert (len(predictions(path)), summary["failures"]) == (4, {"status 500": 3})
    ask(server, path, rows)
    assert len(server.requests) == asked + 1, "a finished file is reused"
    ask(server, path, rows[:3])
    assert len(server.requests) == asked + 4, "other rows get new requests"


def test_a_row_whose_line_was_cut_off_gets_a_new_request(server: Server, path: Path) -> None:
    rows = [example(n) for n in range(3)]
    with pytest.raises(UserError, match="budget"):
        ask(server, path, rows, max_calls=2, concurrency=1)
    [part] = path.parent.glob(".*.part")
    part.write_bytes(part.read_bytes()[:-9])
    ask(server, path, rows, concurrency=1)
    assert [one.id for one in predictions(path)] == ["r0/1", "r1/1", "r2/1"]
    assert len(server.requests) == 4


def test_rows_that_the_endpoint_refuses_are_left_out_only_on_request(server: Server, path: Path) -> None:
    server.answers = [lambda body: fails(400)(body) if "order 2?" in str(body) else calls_the_tool(body)]
    rows = [example(n) for n in range(4)]
    with pytest.raises(UserError, match=r"refused with status 400.*--leave-out-refused"):
        ask(server, path, rows)
    summary = ask(server, path, rows, leave_out_refused=True)
    assert [one.id for one in predictions(path)] == ["r0/1", "r1/1", "r3/1"]
    assert list(summary["left_out"]) == ["r2/1"]
    assert summary["rows"] == 3


def test_a_filtered_answer_does_not_count_as_an_answer(server: Server, path: Path) -> None:
    server.answers = [always({"content": ""}, "content_filter")]
    with pytest.raises(UserError, match="content filter"):
        ask(server, path)


def test_the_budget_in_dollars_is_never_exceeded_and_counts_earlier_commands(server: Server, path: Path) -> None:
    rows = [example(n) for n in range(8)]
    # A request costs $0.0003. It starts only if its highest cost (1,024 tokens and the prompt's bytes) still fits.
    options = {"price_in": 1.0, "price_out": 10.0, "concurrency": 1}
    with pytest.raises(UserError, match=r"budget is used up with \d of 8 rows"):
        ask(server, path, rows, max_usd=0.0115, **options)
    spent = len(server.requests)
    assert 0 < spent < 8
    with pytest.raises(UserError, match="budget"):
        ask(server, path, rows, max_usd=0.0115, **options)
    assert len(server.requests) == spent
    assert ask(server, path, rows, max_usd=1.0, **options)["cost_usd"] == pytest.approx(8 * 0.0003)


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_or_model_stops_at_once(server: Server, path: Path, status: int) -> None:
    server.answers = [fails(status)]
    with pytest.raises(UserError, match=str(status)):
        ask(server, path, [example(n) for n in range(50)], concurrency=2)
    assert len(server.requests) < 10


def test_the_key_comes_from_the_environment(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-1")
    ask(server, path)
    assert server.keys == ["Bearer sk-test-1"]
    assert "sk-test-1" not in path.with_suffix(".json").read_text()


def test_an_answer_without_usage_is_counted(server: Server, path: Path) -> None:
    status, body = calls_the_tool({"messages": [{"content": "order 7?"}], "tools": [TOOL.to_json()]})
    server.answers = [lambda _: (status, {**body, "usage": None})]
    assert ask(server, path)["answers_without_usage"] == 1
    assert predictions(path)[0].prompt_tokens == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_usd": 1.0}, "--max-usd needs --price-in"),
        ({"concurrency": 0}, "--concurrency: expected 1 or more"),
        ({"timeout_s": 0.0}, "--timeout: expected more than 0"),
        ({"calls_a_minute": -1.0}, "--calls-a-minute: expected more than 0"),
    ],
)
def test_invalid_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EndpointSettings("m", "http://127.0.0.1:1/v1", **given)


def test_requests_start_at_even_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    import toolhone.endpoint

    now, waits = [100.0], []
    monkeypatch.setattr(toolhone.endpoint.time, "monotonic", lambda: now[0])

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return False

    pace = Pace(120)
    for _ in range(3):
        pace.wait(Stop())
    now[0] += 10
    pace.wait(Stop())
    assert waits == [0.0, 0.5, 1.0, 0.0]


# From the command line


def flags(server: Server, *more: str) -> list[str]:
    return ["--endpoint-model", "org/gpt", "--base-url", server.url, "--retries", "0", *more]


def test_predict_answers_the_rows_of_a_file_and_prints_the_figures(
    server: Server, in_workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Conversation(f"r{n}", (*example(n).prompt, example(n).turn), (TOOL,), "rows:1") for n in range(3)]
    write_jsonl(Path("rows.jsonl"), (row.to_json() for row in rows))
    server.answers = [always({"content": "Sorry."}), calls_the_tool]
    more = ("--price-in", "1", "--price-out", "2", "--concurrency", "1")
    assert main(["predict", "--rows", "rows.jsonl", *flags(server, *more)]) == 0
    shown = capsys.readouterr().out
    assert "66.7% [20.8, 93.9] 2/3" in shown
    assert "3 answers, 3 calls, 300 prompt and 60 completion tokens, $0.0004" in shown
    made = predictions(Path("predictions/org-gpt.jsonl"))
    assert [one.id for one in made] == ["r0/1", "r1/1", "r2/1"]
    assert {one.model for one in made} == {"org-gpt"}
    assert main(["predict", "--rows", "rows.jsonl", *flags(server), "--out", "x/y.jsonl", "--label", "y"]) == 0
    assert len(predictions(Path("x/y.jsonl"))) == 3


def test_the_rows_of_a_run_are_answered_in_its_format_and_scored_beside_its_models(
    server: Server, in_workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("try.yaml").write_text(
        "name: try\nmodel: {name: tiny}\ndata: {train: [a.jsonl], test: [b.jsonl]}\n", encoding="utf-8"
    )
    config = load_config(Path("try.yaml"), [])
    run = open_run(config)
    rows = [Conversation(f"r{n}", (*example(n).prompt, example(n).turn), (TOOL,), "rows:1") for n in range(2)]
    write_jsonl(run.split("test"), (row.to_json() for row in rows))
    run.note(**provenance(config), judged="test", chat={"format": "llama3", "template": "toolhone"})
    assert main(["predict", "--run", "runs/try", *flags(server)]) == 0
    text = predictions(run.predictions("org-gpt"))[0].text
    assert text == '{"name": "query_order", "parameters": {"id": "0"}}'
    assert main(["score", "--run", "runs/try"]) == 0
    metrics = json.loads(run.metrics.read_text(encoding="utf-8"))
    assert metrics["models"]["org-gpt"]["exact_match"]["numerator"] == 2


def test_an_endpoint_can_answer_the_suite_in_a_folder_without_a_run(
    server: Server, in_workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bfcl = Path(__file__).parents[1] / "fixtures" / "formats" / "bfcl"
    server.answers = [always({"content": "No tool fits."})]
    suite = ["--suite", "bfcl", "--suite-data", str(bfcl), "--categories", "simple_python,irrelevance"]
    assert main(["eval", "--run", "runs/gpt", *suite, *flags(server)]) == 0
    metrics = json.loads(Path("runs/gpt/suite/bfcl/metrics.json").read_text(encoding="utf-8"))
    figures = metrics["models"]["org-gpt"]["strict"]["categories"]
    assert {name: (rate["numerator"], rate["denominator"]) for name, rate in figures.items()} == {
        "simple_python": (0, 4),
        "irrelevance": (1, 1),
    }
    assert "org-gpt, strict" in capsys.readouterr().out
    assert all("." not in tool["function"]["name"] for body in server.requests for tool in body["tools"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "rows.jsonl"], "--endpoint-model: name the model"),
        (["--rows", "no.jsonl", "--endpoint-model", "m", "--base-url", "http://127.0.0.1:1/v1"], "no.jsonl"),
        (["--rows", "rows.jsonl", "--vllm"], "--vllm takes its rows and its model from --run"),
        (["--run", "runs/none", "--endpoint-model", "m"], "is not a run folder"),
    ],
)
def test_an_incomplete_command_is_refused(
    in_workspace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    row = Conversation("r", (*example().prompt, example().turn), (TOOL,), "rows:1")
    write_jsonl(Path("rows.jsonl"), [row.to_json()])
    assert main(["predict", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [file.name for file in in_workspace.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("label", ["base", "tuned", "..", "a/b"])
def test_a_label_that_is_reserved_or_no_file_name_is_refused(
    in_workspace: Path, capsys: pytest.CaptureFixture[str], label: str
) -> None:
    row = Conversation("r", (*example().prompt, example().turn), (TOOL,), "rows:1")
    write_jsonl(Path("rows.jsonl"), [row.to_json()])
    address = ["--endpoint-model", "m", "--base-url", "http://127.0.0.1:1/v1", "--label", label]
    assert main(["predict", "--rows", "rows.jsonl", *address]) == 2
    assert f"--label {label}" in capsys.readouterr().err
