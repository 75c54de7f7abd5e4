"""The cascade: which model answers a request if the large one works, is slow, fails or is down; and the log."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from decided import half_sure as policy
from loopback import Server, hangs, serving

from toolhone.data.escalation import escalate_tool
from toolhone.data.read import read_tools
from toolhone.economics.cost import Price
from toolhone.errors import UserError
from toolhone.records import Example, Gold, Message, Prediction, Token, Tool
from toolhone.route.cascade import Cascade, DecisionLog, Routed, answer
from toolhone.route.large_model import DayBudget, LargeModel, LargeSettings

TOOLS = (
    Tool("order.query", "", {"type": "object", "properties": {"id": {"type": "string"}}}),
    Tool("help", "", {"type": "object", "properties": {}}),
)
DAY = "2026-11-25"
PRICE = Price(2.0, 1.0, 8.0)


def example(id_: str = "r1", tools: tuple[Tool, ...] = TOOLS) -> Example:
    prompt = (Message("system", "Be brief."), Message("user", "Where is order 7?"))
    return Example(id_, id_, prompt, Message("assistant", ""), Gold("any"), tools, "made:1", None, {})


def small(text: str, logprob: float = -0.01) -> Prediction:
    tokens = tuple(Token(byte, bytes([byte]), logprob) for byte in text.encode())
    return Prediction(
        "r1", "small", text, "stop", 100, len(tokens) + 1, 40.0, (*tokens, Token(0, b"<|im_end|>", -0.01))
    )


CALL = small('<tool_call>\n{"name": "order.query", "arguments": {"id": "7"}}\n</tool_call>')
BROKEN = small('<tool_call>\n{"name": "order.query", "argum')


def said(message: dict[str, Any], finish: str = "tool_calls", usage: Any = ...) -> dict[str, Any]:
    reported = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60} if usage is ... else usage
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {
        "id": "theirs",
        "object": "chat.completion",
        "created": 1,
        "model": "big-1",
        "choices": [choice],
        "usage": reported,
    }


def calls(name: str = "order_query", arguments: Any = '{"id": "8"}') -> dict[str, Any]:
    call = {"id": "call_big", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"content": None, "tool_calls": [call]}


def good(_: dict[str, Any]) -> tuple[int, Any]:
    return 200, said(calls())


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(good, monkeypatch) as server:
        yield server


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    opened = DecisionLog(tmp_path / "decisions.jsonl", DAY)
    yield opened
    opened.close()


def lines(log: DecisionLog) -> list[dict[str, Any]]:
    text = log.path.read_bytes()
    assert not text or text.endswith(b"\n")
    return [json.loads(line) for line in text.splitlines()]


def route(
    log: DecisionLog,
    url: str,
    *predictions: Prediction,
    keeps: bool = False,
    budget: DayBudget | None = None,
    asked: Example | None = None,
    settings: dict[str, Any] | None = None,
    options: Sequence[dict[str, Any]] = (),
    **cascade: Any,
) -> list[Routed]:
    """Route one request per prediction of the small model, in order, each with its options, if there are any."""

    async def all_of_them() -> list[Routed]:
        how = LargeSettings("big", url, **{"timeout_s": 5.0, "first_wait_s": 0.0, **(settings or {})})
        model = LargeModel(how, budget or DayBudget(None, PRICE))
        made = Cascade(policy(keeps=keeps), model, log, **cascade)
        found = []
        for number, prediction in enumerate(predictions):

            async def ask_small(_: Example, answer: Prediction = prediction) -> Prediction:
                return answer

            given = options[number] if options else None
            found.append(await answer(made, asked or example(f"r{number}"), ask_small, options=given))
        await model.close()
        return found

    return asyncio.run(all_of_them())


def test_a_kept_answer_makes_no_request_to_the_large_model(large: Server, log: DecisionLog) -> None:
    [routed] = route(log, large.url, CALL, keeps=True)
    assert (routed.route, routed.confidence, routed.fallback, routed.small) == ("small", 0.5, None, CALL)
    assert large.requests == []
    [line] = lines(log)
    assert (line["route"], line["confidence"], line["asked_large"], line["cost_usd"]) == ("small", 0.5, 0, 0.0)
    assert (line["prompt_tokens"], line["completion_tokens"], line["small_ms"]) == (100, CALL.completion_tokens, 40.0)
    assert "texts" not in line


def test_an_answer_below_the_threshold_is_replaced_by_the_large_models(large: Server, log: DecisionLog) -> None:
    [routed] = route(log, large.url, CALL)
    assert (routed.route, routed.fallback) == ("large", None)
    completion = routed.completion
    assert completion is not None
    [choice] = completion["choices"]
    # Endpoints do not accept the tool's name. It is renamed in the request and restored in the answer.
    assert large.requests[0]["tools"][0]["function"]["name"] == "order_query"
    assert choice["message"]["tool_calls"] == [
        {"id": "call_big", "type": "function", "function": {"name": "order.query", "arguments": '{"id": "8"}'}}
    ]
    assert (completion["model"], choice["finish_reason"], completion["usage"]["total_tokens"]) == (
        "big-1",
        "tool_calls",
        60,
    )
    [line] = lines(log)
    assert (line["route"], line["asked_large"], line["fallback"]) == ("large", 1, None)
    assert (line["large_prompt_tokens"], line["large_completion_tokens"]) == (50, 10)
    assert line["cost_usd"] == pytest.approx((50 * 2 + 10 * 8) / 1e6)


def test_the_contracts_decision_has_the_keys_of_a_log_line(large: Server, log: DecisionLog, tmp_path: Path) -> None:
    contract = Path(__file__).parents[1] / "fixtures" / "contracts" / "decision.jsonl"
    row = json.loads(contract.read_text(encoding="utf-8"))
    route(log, large.url, CALL)
    assert list(lines(log)[0]) == list(row)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(contract.read_bytes())
    opened = DecisionLog(copy, DAY)
    assert opened.spent_usd == row["cost_usd"]
    opened.close()


def test_a_gated_answer_is_escalated_at_any_threshold(large: Server, log: DecisionLog) -> None:
    [routed] = route(log, large.url, BROKEN, keeps=True)
    assert (routed.route, routed.confidence) == ("large", 0.0)
    assert lines(log)[0]["gate"] == "malformed"


SAID = json.dumps(said({"content": "Grüße"}, "stop"), ensure_ascii=False)
GZIP = {"content-encoding": "gzip"}
FAULTS: dict[str, tuple[Callable[..., Any], str, int]] = {
    "not UTF-8": (lambda _: (200, SAID.encode("latin-1")), "malformed", 2),
    "another charset": (
        lambda _: (200, (SAID.encode("latin-1"), {"content-type": "application/json; charset=latin-1"})),
        "malformed",
        2,
    ),
    "no body": (lambda _: (200, b""), "malformed", 2),
    "half a body": (lambda _: (200, SAID.encode()[:-9]), "malformed", 2),
    "not gzip": (lambda _: (200, (SAID.encode(), GZIP)), "malformed", 2),
    "gzip, not UTF-8": (lambda _: (200, (gzip.compress(SAID.encode("latin-1")), GZIP)), "malformed", 2),
    "a page, not UTF-8": (lambda _: (200, (b"<html>\xff</html>", {"content-type": "text/html"})), "malformed", 2),
    "an error, not UTF-8": (lambda _: (500, b"\xff\xfe"), "status-500", 2),
    "nested too deeply": (lambda _: (200, SAID.replace('"Grüße"', "[" * 100_000).encode()), "malformed", 2),
    "a call that the server left in the text": (lambda _: (200, said({"content": CALL.text}, "stop")), "malformed", 1),
    "a call of another format in the text": (
        lambda _: (200, said({"content": '[TOOL_CALLS][{"name": "help", "arguments": {}}]'}, "stop")),
        "malformed",
        1,
    ),
    "a broken call in the text": (lambda _: (200, said({"content": BROKEN.text}, "stop")), "malformed", 1),
    "a text": (lambda _: (200, "hello"), "malformed", 2),
    "429": (lambda _: (429, {"error": {"message": "slow down"}}), "status-429", 2),
    "500": (lambda _: (500, {"error": {"message": "oops"}}), "status-500", 2),
    "401": (lambda _: (401, {"error": {"message": "no such key"}}), "status-401", 1),
    "hangs": (hangs, "timeout", 2),
    "page": (lambda _: (200, b"<html>maintenance</html>"), "malformed", 2),
    "error inside": (lambda _: (200, {"error": "overloaded"}), "malformed", 2),
    "no choices": (lambda _: (200, {**said(calls()), "choices": []}), "malformed", 2),
    "cut call": (lambda _: (200, said(calls(arguments='{"id": "'), "length")), "malformed", 1),
    "withheld": (lambda _: (200, said({"content": ""}, "content_filter")), "withheld", 1),
    "empty": (lambda _: (200, said({"content": ""}, "stop")), "empty", 1),
    "blank": (lambda _: (200, said({"content": " \n"}, "stop")), "empty", 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_small_answer_is_kept_if_the_large_model_fails(fault: str, large: Server, log: DecisionLog) -> None:
    answers, reason, asked = FAULTS[fault]
    large.answers = [answers]
    [routed] = route(log, large.url, CALL, settings={"timeout_s": 0.2 if fault == "hangs" else 5.0})
    assert (routed.route, routed.fallback, routed.small) == ("small", reason, CALL)
    assert len(large.requests) == asked
    [line] = lines(log)
    assert (line["route"], line["fallback"], line["asked_large"]) == ("small", reason, asked)


QUOTES = 'The log has {"name": "order.query", "arguments": {"id": "7"}} and <tool_call>{"name": "help"}</tool_call>.'


PROSE = (
    QUOTES,
    '{"name": "order.query", "arguments": {"id": "7"}}',
    "\ud83d",
    "<tool_call> opens a call in this format.",
    '<tool_call>{"name": "help"}</tool_call> is what a model writes.',
    '<tool_call>{"name": "help"} is not closed here.',
    "[TOOL_CALLS] opens a call of Mistral.",
    '<tool_call>\n{"name": "another", "arguments": {}}\n</tool_call>',
)


@pytest.mark.parametrize("text", PROSE)
def test_prose_of_the_large_model_that_quotes_a_call_stays_prose(large: Server, log: DecisionLog, text: str) -> None:
    large.answers = [lambda _: (200, said({"content": text}, "stop"))]
    [routed] = route(log, large.url, BROKEN)
    assert (routed.route, routed.fallback) == ("large", None)
    assert routed.completion is not None
    [choice] = routed.completion["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
    assert "tool_calls" not in choice["message"]


def test_prose_beside_a_call_of_the_large_model_is_returned_with_the_call(large: Server, log: DecisionLog) -> None:
    large.answers = [lambda _: (200, said({**calls(), "content": QUOTES}))]
    [routed] = route(log, large.url, BROKEN)
    assert routed.completion is not None
    message = routed.completion["choices"][0]["message"]
    assert (message["content"], len(message["tool_calls"])) == (QUOTES, 1)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_body_in_any_unicode_encoding_is_read(large: Server, log: DecisionLog, encoding: str) -> None:
    large.answers = [lambda _: (200, SAID.encode(encoding))]
    [routed] = route(log, large.url, BROKEN)
    assert routed.completion is not None
    assert routed.completion["choices"][0]["message"]["content"] == "Grüße"


def test_no_connection_to_the_large_model_is_reported(large: Server, log: DecisionLog) -> None:
    url = large.url
    large.shutdown()
    large.server_close()
    [routed] = route(log, url, CALL)
    assert (routed.route, routed.fallback) == ("small", "no-connection")
    assert lines(log)[0]["cost_usd"] == 0.0


def test_a_temporary_failure_is_retried_once(large: Server, log: DecisionLog) -> None:
    large.answers = [FAULTS["500"][0], good]
    [routed] = route(log, large.url, CALL)
    assert (routed.route, routed.fallback) == ("large", None)
    assert lines(log)[0]["asked_large"] == 2


def test_a_long_retry_after_is_not_waited_for() -> None:
    model = LargeModel(LargeSettings("big", "http://127.0.0.1:1/v1"), DayBudget(None, None))
    found = {}
    for pause in ("0.2", "30"):
        response = httpx2.Response(429, headers={"retry-after": pause}, request=httpx2.Request("POST", "http://x/"))
        error = openai.RateLimitError("slow down", response=response, body=None)
        found[pause] = model._refusal(error, {}, 0.01, {}).wait_s
    assert found == {"0.2": 0.2, "30": None}


def test_the_timeout_covers_an_answer_that_arrives_byte_by_byte(
    monkeypatch: pytest.MonkeyPatch, log: DecisionLog
) -> None:
    with serving(good, monkeypatch) as server:

        def trickle(_: dict[str, Any]) -> tuple[int, Any]:
            raise AssertionError("the handler below answers")

        handler = server.RequestHandlerClass

        class Trickling(handler):  # type: ignore[valid-type, misc]
            def do_POST(self) -> None:  # noqa: N802  # the name that the base class calls
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", "1000")
                self.end_headers()
                while not self.server.closing.wait(0.05):  # each byte arrives before the read timeout
                    try:
                        self.wfile.write(b" ")
                        self.wfile.flush()
                    except OSError:
                        return

        server.RequestHandlerClass = Trickling
        started = time.perf_counter()
        [routed] = route(log, server.url, CALL, settings={"timeout_s": 0.4})
        assert (routed.route, routed.fallback) == ("small", "timeout")
        assert time.perf_counter() - started < 4


def test_options_that_the_endpoint_rejects_are_dropped_from_then_on(large: Server, log: DecisionLog) -> None:
    def newer(body: dict[str, Any]) -> tuple[int, Any]:
        if "max_tokens" in body:
            return 400, {"error": {"message": "'max_tokens' is not supported: use 'max_completion_tokens' instead"}}
        if "temperature" in body:
            return 400, {"error": {"message": "'temperature' does not support 0 with this model"}}
        return good(body)

    large.answers = [newer]
    assert [routed.route for routed in route(log, large.url, CALL, CALL)] == ["large", "large"]
    assert [line["asked_large"] for line in lines(log)] == [3, 1]


CHOICE = {"type": "function", "function": {"name": "order.query"}}
OPTIONS: dict[str, Any] = {
    "temperature": 0.3,
    "top_p": 0.9,
    "seed": 7,
    "user": "me",
    "metadata": {"a": "b"},
    "logprobs": True,
    "stop": ["x"],
    "parallel_tool_calls": False,
    "response_format": {"type": "json_object"},
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [CHOICE]}},
}


def test_the_large_model_gets_the_clients_options_with_the_names_that_are_sent(large: Server, log: DecisionLog) -> None:
    [routed] = route(log, large.url, CALL, options=[{**OPTIONS, "strict": ("order.query",)}])
    assert routed.route == "large"
    sent = large.requests[0]
    choice = {"type": "function", "function": {"name": "order_query"}}
    expected = {
        **OPTIONS,
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [choice]}},
    }
    assert {key: sent[key] for key in OPTIONS} == expected
    assert [tool["function"].get("strict") for tool in sent["tools"]] == [True, None]
    assert "strict" not in sent


def test_an_option_of_a_client_that_the_endpoint_does_not_have_is_dropped_from_then_on(
    large: Server, log: DecisionLog
) -> None:
    def older(body: dict[str, Any]) -> tuple[int, Any]:
        strict = any("strict" in tool["function"] for tool in body["tools"])
        refused = "strict" if strict else next((key for key in ("seed", "metadata") if key in body), None)
        return (400, {"error": {"message": f"Unknown parameter: '{refused}'."}}) if refused else good(body)

    large.answers = [older]
    options = {"seed": 7, "metadata": {"a": "b"}, "strict": ("help",), "top_p": 0.5}
    assert [routed.route for routed in route(log, large.url, CALL, CALL, options=[options, options])] == ["large"] * 2
    assert [line["asked_large"] for line in lines(log)] == [4, 1]
    assert large.requests[-1]["top_p"] == 0.5


def test_a_value_that_the_endpoint_refuses_is_dropped_for_that_client_only(large: Server, log: DecisionLog) -> None:
    def narrow(body: dict[str, Any]) -> tuple[int, Any]:
        return (400, {"error": {"message": "top_p must be at least 0.1"}}) if body.get("top_p", 1) < 0.1 else good(body)

    large.answers = [narrow]
    route(log, large.url, CALL, CALL, options=[{"top_p": 0.01}, {"top_p": 0.5}])
    assert [body.get("top_p") for body in large.requests] == [0.01, None, 0.5]


@pytest.mark.parametrize("key", ["response_format", "tool_choice"])
def test_a_request_never_goes_to_the_large_model_without_its_format_or_its_choice(
    key: str, large: Server, log: DecisionLog
) -> None:
    large.answers = [
        lambda body: (400, {"error": {"message": f"{key} is not supported"}}) if key in body else good(body)
    ]
    first, second = route(log, large.url, CALL, CALL, options=[OPTIONS, {}])
    assert (first.route, first.fallback, second.route) == ("small", "status-400", "large")


@pytest.mark.parametrize("name", ["order.delete", "escalate", ""])
def test_a_call_of_an_undeclared_tool_is_never_returned(name: str, large: Server, log: DecisionLog) -> None:
    large.answers = [lambda _: (200, said(calls(name)))]
    [routed] = route(log, large.url, CALL)
    assert (routed.route, routed.small) == ("small", CALL)
    assert routed.fallback == ("undeclared-tool" if name else "malformed")


def test_without_tools_a_call_of_the_large_model_is_never_returned(large: Server, log: DecisionLog) -> None:
    [routed] = route(log, large.url, BROKEN, asked=example(tools=()), options=[OPTIONS])
    assert (routed.route, routed.fallback) == ("small", "undeclared-tool")
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & large.requests[0].keys()


def test_the_daily_cap_survives_a_restart(large: Server, log: DecisionLog) -> None:
    dear = {"prompt_tokens": 50, "completion_tokens": 100, "total_tokens": 150}
    large.answers = [lambda _: (200, said(calls(), usage=dear))]
    today = [DAY]

    def budget(spent: float) -> DayBudget:
        return DayBudget(0.0022, PRICE, spent, lambda: today[0])

    limits = {"max_tokens": 100}  # so that no request costs more than $0.0018
    routed = route(log, large.url, CALL, CALL, CALL, budget=budget(0.0), settings=limits)
    # Each request costs $0.0009. The next one starts only if its highest cost still fits.
    assert [(r.route, r.fallback) for r in routed] == [("large", None), ("small", "budget"), ("small", "budget")]
    assert [line["cost_usd"] for line in lines(log)] == pytest.approx([0.0009, 0, 0])
    log.close()

    again = DecisionLog(log.path, lines(log)[0]["time"][:10])
    spent = budget(again.spent_usd)
    assert again.spent_usd == pytest.approx(0.0009)
    assert route(again, large.url, CALL, budget=spent, settings=limits)[0].fallback == "budget"
    today[0] = "2026-11-26"
    assert route(again, large.url, CALL, budget=spent, settings=limits)[0].route == "large"
    again.close()
    other_day = DecisionLog(log.path, "1999-01-01")
    assert other_day.spent_usd == 0.0
    other_day.close()


def test_a_call_that_may_have_been_charged_counts_at_its_highest_cost(large: Server, log: DecisionLog) -> None:
    large.answers = [hangs]
    budget = DayBudget(None, PRICE)
    route(log, large.url, CALL, budget=budget, settings={"timeout_s": 0.1, "max_tokens": 100})
    [line] = lines(log)
    assert line["large_completion_tokens"] == 200
    assert line["cost_usd"] == pytest.approx((line["large_prompt_tokens"] * 2 + 200 * 8) / 1e6) == budget.spent_usd


def test_without_a_price_the_logged_cost_is_null(large: Server, log: DecisionLog) -> None:
    route(log, large.url, CALL, budget=DayBudget(None, None))
    assert lines(log)[0]["cost_usd"] is None


def test_a_request_interrupted_by_a_shutdown_is_logged_with_its_highest_cost(large: Server, log: DecisionLog) -> None:
    large.answers = [hangs]
    budget = DayBudget(None, PRICE)

    async def stopped() -> None:
        model = LargeModel(LargeSettings("big", large.url), budget)

        async def ask_small(_: Example) -> Prediction:
            return CALL

        task = asyncio.create_task(answer(Cascade(policy(keeps=False), model, log), example(), ask_small))
        while not large.requests:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await model.close()

    asyncio.run(stopped())
    [line] = lines(log)
    assert (line["fallback"], line["asked_large"]) == ("interrupted", 1)
    assert line["cost_usd"] == pytest.approx(budget.spent_usd)
    assert budget.spent_usd > 0


def test_texts_are_logged_only_on_request(large: Server, log: DecisionLog) -> None:
    route(log, large.url, CALL, log_texts=True)
    texts = lines(log)[0]["texts"]
    assert texts["messages"][1] == {"role": "user", "content": "Where is order 7?"}
    assert texts["small"] == CALL.text
    assert texts["large"]["tool_calls"][0]["function"]["name"] == "order.query"


ESCALATES = small('<tool_call>\n{"name": "escalate", "arguments": {}}\n</tool_call>')


def test_only_the_small_model_is_offered_the_escalation_tool(large: Server, log: DecisionLog) -> None:
    offered = []

    async def ask_small(found: Example) -> Prediction:
        offered.extend(tool.name for tool in found.tools)
        return ESCALATES

    async def once() -> Routed:
        model = LargeModel(LargeSettings("big", large.url), DayBudget(None, None))
        made = Cascade(policy(keeps=True), model, log, escalate_tool())
        try:
            return await answer(made, example(), ask_small)
        finally:
            await model.close()

    assert asyncio.run(once()).route == "large"
    assert offered == ["order.query", "help", "escalate"]
    assert [tool["function"]["name"] for tool in large.requests[0]["tools"]] == ["order_query", "help"]
    line = lines(log)[0]
    assert (line["escalated"], line["gate"], line["confidence"]) == (True, None, 0.0)


@pytest.mark.parametrize(("tools", "expected"), [(TOOLS, "none"), ((*TOOLS, escalate_tool()), "small")])
def test_an_escalation_is_an_answer_only_for_a_client_that_offered_it(
    tools: tuple[Tool, ...], expected: str, large: Server, log: DecisionLog
) -> None:
    large.answers = [FAULTS["500"][0]]
    [routed] = route(log, large.url, ESCALATES, asked=example(tools=tools), escalate=escalate_tool())
    assert (routed.route, routed.fallback) == (expected, "status-500")


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, taken: int) -> Iterator[None]:
    """Simulates a full disk: each write stops after `taken` bytes."""
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda file, data: write(file, data[:taken]))
        yield


def test_a_full_disk_loses_a_log_line_but_no_answer(
    large: Server, log: DecisionLog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    route(log, large.url, CALL)
    with full_disk(monkeypatch, 20):
        assert route(log, large.url, CALL)[0].route == "large"
    assert "the decision r0 is not logged" in capsys.readouterr().err
    route(log, large.url, CALL)
    assert len(lines(log)) == 2


def test_a_line_cut_short_by_a_crash_is_removed(large: Server, log: DecisionLog) -> None:
    route(log, large.url, CALL)
    log.close()
    with log.path.open("ab") as out:
        out.write(b'{"id": "r9", "time": "2026-11-25", "cost')
    again = DecisionLog(log.path, DAY)
    assert [line["id"] for line in lines(again)] == ["r0"]
    route(again, large.url, CALL)
    assert len(lines(again)) == 2
    again.close()


def test_a_log_has_one_writer(log: DecisionLog) -> None:
    with pytest.raises(UserError, match=r"decisions\.jsonl: another server writes this log"):
        DecisionLog(log.path, DAY)


def test_a_line_that_is_not_a_decision_is_an_error_because_the_days_cost_would_be_unknown(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    path.write_text('{"time": "2026-11-24T01:00:00+00:00"}\n{"time": "2026-11-25T01:00:00+00:00"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"decisions\.jsonl:2: is not a decision"):
        DecisionLog(path, DAY)


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        DecisionLog(tmp_path, DAY)


def test_a_large_model_without_address_or_key_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    budget = DayBudget(None, None)
    with pytest.raises(UserError, match="--large-base-url api: expected an address"):
        LargeModel(LargeSettings("big", "api"), budget)
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        LargeModel(LargeSettings("big", "https://api.example.com/v1"), budget)


def test_concurrent_requests_have_one_log_line_each(large: Server, log: DecisionLog) -> None:
    large.answers = [FAULTS["429"][0], good, FAULTS["500"][0], good, FAULTS["page"][0], good]

    async def all_at_once() -> list[Routed]:
        model = LargeModel(LargeSettings("big", large.url, first_wait_s=0.0), DayBudget(None, PRICE))
        made = Cascade(policy(keeps=True), model, log)
        few = asyncio.Semaphore(4)

        async def ask_small(asked: Example) -> Prediction:
            return BROKEN if int(asked.id) % 2 else CALL

        async def ask(number: int) -> Routed:
            async with few:  # the test server accepts few connections at once
                return await answer(made, example(str(number)), ask_small)

        found = await asyncio.gather(*map(ask, range(40)))
        await model.close()
        return found

    routed = asyncio.run(all_at_once())
    logged = {int(line["id"]): line for line in lines(log)}
    assert len(lines(log)) == len(logged) == 40
    for number, found in enumerate(routed):
        assert (logged[number]["route"], logged[number]["fallback"]) == (found.route, found.fallback)
        assert (found.route == "large") == (number % 2 == 1 and found.fallback is None)
        assert logged[number]["asked_large"] <= 2 * (number % 2)
    assert sum(line["asked_large"] for line in logged.values()) == len(large.requests)
    assert sum(found.route == "large" for found in routed) >= 15


def test_a_cascade_adds_less_than_two_milliseconds_to_a_small_answer(large: Server, log: DecisionLog) -> None:
    tools = read_tools(Path(__file__).parents[2] / "data" / "customer_service" / "tools.json")
    text = '<tool_call>\n{"name": "query_order", "arguments": {"order_id": "ORD-20240315"}}\n</tool_call>'
    asked = replace(example(), tools=tools)
    added = []

    async def measure() -> None:
        model = LargeModel(LargeSettings("big", large.url), DayBudget(None, PRICE))
        made = Cascade(policy(keeps=True), model, log)
        prediction = small(text)

        async def ask_small(_: Example) -> Prediction:
            return prediction

        for _ in range(200):
            started = time.perf_counter()
            routed = await answer(made, asked, ask_small)
            added.append((time.perf_counter() - started) * 1000)
            assert routed.route == "small"
        await model.close()

    asyncio.run(measure())
    assert large.requests == []
    assert statistics.median(added) < 2
