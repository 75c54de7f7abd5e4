"""The playground in headless Chromium, on a desktop and on a phone, against a server with scripted streams."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from served import serving_app

from toolhone.records import Tool
from toolhone.serve.playground import page_and_policy, playground_routes
from toolhone.serve.start import ChatStart

sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "query_order",
        "description": "Find an order",
        "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
    },
}
START: dict[str, Any] = {"tools": [TOOL], "system": "Be kind.", "examples": ["Where is my order ORD-20417?", "谢谢"]}
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"


def call_chunks(order_id: str, **more: Any) -> list[dict[str, Any]]:
    """The deltas of a call of query_order, whose arguments come in pieces."""
    arguments = json.dumps({"order_id": order_id, **more})
    pieces = [arguments[start : start + 7] for start in range(0, len(arguments), 7)]
    first = {
        "index": 0,
        "id": f"call_{order_id}",
        "type": "function",
        "function": {"name": "query_order", "arguments": ""},
    }
    return [{"tool_calls": [first]}] + [
        {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces
    ]


class Gateway:
    """A server that streams scripted answers. `bodies` are the requests; `cancelled` counts clients that hung up."""

    def __init__(self) -> None:
        self.models = ["shop", "shop-base"]
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.cancelled = 0
        self.key: str | None = None
        self.app = FastAPI()
        tools = tuple(Tool(**tool["function"]) for tool in START["tools"])
        start = ChatStart(START["system"], tools, tuple(START["examples"]))
        self.app.include_router(playground_routes(start, self._check))
        self.app.get("/v1/models")(self._models)
        self.app.post("/v1/chat/completions")(self._answer)

    def _check(self, request: Request) -> None:
        self.keys.append(request.headers.get("authorization"))
        if self.key is not None and self.keys[-1] != f"Bearer {self.key}":
            raise HTTPException(401, "Incorrect API key")

    async def _models(self, request: Request) -> Any:
        self._check(request)
        return {"data": [{"id": name} for name in self.models]}

    async def _answer(self, request: Request) -> Any:
        body = await request.json()
        self.bodies.append(body)
        last = body["messages"][-1]["content"]
        if "too long" in last:
            return JSONResponse({"error": {"message": "messages: the prompt has 9,000 tokens"}}, 400)
        headers = {"x-toolhone-route": "small", "x-toolhone-confidence": "0.9312"} if body["model"] == "shop" else {}
        return StreamingResponse(self._stream(body, last), media_type="text/event-stream", headers=headers)

    async def _stream(self, body: dict[str, Any], last: str) -> AsyncIterator[str]:
        def event(**chunk: Any) -> str:
            return f"data: {json.dumps({'object': 'chat.completion.chunk', **chunk})}\n\n"

        is_base, is_result = body["model"] == "shop-base", body["messages"][-1]["role"] == "tool"
        details: dict[str, Any] = {
            "route": "small",
            "confidence": None,
            "raw_text": "raw",
            "decision": 0.98,
            "calls": [],
        }
        finish = "stop"
        if "endless" in last:
            deltas = [{"content": f"word {n} "} for n in range(2_000)]
        elif "evil" in last:
            deltas = [{"content": EVIL}]
        elif is_result:
            deltas = [{"content": text} for text in ("Your order ", "is on its way ", "and comes tomorrow.")]
        elif is_base:
            deltas = [{"content": "I cannot look up orders, but you can ask our support."}]
        else:
            deltas, finish = call_chunks("ORD-20417", days=14, note="urgent, 请尽快"), "tool_calls"
            call = {"name_confidence": 0.997, "arguments": {"order_id": 0.973, "days": 0.71, "note": 0.34}}
            details |= {"calls": [call], "raw_text": "<tool_call>\n{…}\n</tool_call>"}
        try:
            yield event(choices=[{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}])
            for delta in deltas:
                await asyncio.sleep(0.01)
                yield event(choices=[{"index": 0, "delta": delta, "finish_reason": None}])
            yield event(choices=[{"index": 0, "delta": {}, "finish_reason": finish}], toolhone=details)
            yield event(choices=[], usage={"prompt_tokens": 142, "completion_tokens": 23, "total_tokens": 165})
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
def url(gateway: Gateway) -> Iterator[str]:
    with serving_app(gateway.app) as url:
        yield url.removesuffix("/v1") + "/playground"


class Visit:
    """A page, and the errors in its console. The end of the visit checks that there are none."""

    def __init__(self, browser: Any, url: str, size: dict[str, int], **options: Any) -> None:
        self.context = browser.new_context(viewport=size, **options)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on(
            "console", lambda message: message.type in ("error", "warning") and self.errors.append(message.text)
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)
        self.page.get_by_role("button", name=START["examples"][0]).wait_for()

    def say(self, text: str) -> None:
        self.page.get_by_label("Message").fill(text)
        self.page.get_by_label("Message").press("Enter")

    def has_no_sideways_scroll(self) -> bool:
        boxes = "[document.documentElement, ...document.querySelectorAll('.log, .setup, .talk')]"
        return bool(self.page.evaluate(f"() => {boxes}.every(one => one.scrollWidth <= one.clientWidth)"))

    def end(self) -> None:
        self.context.close()
        assert self.errors == []


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def visit(request: pytest.FixtureRequest, browser: Any, url: str) -> Iterator[Visit]:
    visit = Visit(browser, url, request.param)
    yield visit
    visit.end()


@pytest.fixture
def desktop(browser: Any, url: str) -> Iterator[Visit]:
    visit = Visit(browser, url, DESKTOP)
    yield visit
    visit.end()


def test_both_models_answer_beside_each_other_and_a_call_gets_its_typed_result(visit: Visit, gateway: Gateway) -> None:
    page, expect = visit.page, sync_api.expect
    assert visit.has_no_sideways_scroll()
    page.get_by_role("button", name=START["examples"][0]).click()
    page.get_by_label("Message").press("Enter")
    expect(page.locator(".lane h3")).to_have_text(["shop-base", "shop"])
    expect(page.locator(".lane").first).to_contain_text("I cannot look up orders")
    expect(page.locator(".call h4")).to_contain_text("query_order")
    values = page.locator(".call dd .value")
    expect(page.locator(".call dd")).to_have_text(['"ORD-20417"97%', "1471%", '"urgent, 请尽快"34%'])
    assert [re.sub("value ", "", value.get_attribute("class")) for value in values.all()] == ["high", "middle", "low"]
    chance = page.locator(".call dd .chance").first
    expect(chance).to_have_css("opacity", "0")
    values.first.focus()
    expect(chance).to_have_css("opacity", "1")
    expect(page.locator(".badge")).to_have_text("small model · 93%")
    assert visit.has_no_sideways_scroll()
    result = page.get_by_label("Result of query_order")
    result.fill('{"status": "shipped"}')
    result.press("Enter")
    expect(page.locator(".lane").last).to_contain_text("Your order is on its way and comes tomorrow.")
    body = gateway.bodies[-1]
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool"]
    assert body["messages"][3] == {"role": "tool", "tool_call_id": "call_ORD-20417", "content": '{"status": "shipped"}'}
    assert (body["tools"], body["stream"], body["logprobs"], body["toolhone"]) == (
        [TOOL],
        True,
        True,
        {"details": True},
    )
    assert visit.has_no_sideways_scroll()


def test_a_fault_in_the_tools_is_named_and_nothing_is_sent(visit: Visit, gateway: Gateway) -> None:
    page, expect = visit.page, sync_api.expect
    if page.get_by_role("button", name="Setup").is_visible():
        page.get_by_role("button", name="Setup").click()
    tools, wrong = page.get_by_label("Tools"), page.get_by_role("alert")
    expect(page.locator("#count")).to_have_text("1 tool")
    for text, message in {
        "[{]": "not JSON",
        '{"a": 1}': "expected a list of tools",
        '[{"type": "function", "function": {}}]': "tools[0].function.name: expected a name",
        json.dumps([TOOL, TOOL]): "query_order is there twice",
        '[{"type": "function", "function": {"name": "f", "parameters": {"required": ["x"]}}}]': "x is not among",
    }.items():
        tools.fill(text)
        expect(wrong).to_contain_text(message)
        expect(tools).to_have_attribute("aria-invalid", "true")
    assert visit.has_no_sideways_scroll()
    if page.get_by_role("button", name="Done").is_visible():
        page.get_by_role("button", name="Done").click()
    visit.say("hello")
    expect(page.get_by_role("status")).to_have_text("the tools have a fault; fix it in the setup")
    assert gateway.bodies == []
    page.get_by_role("button", name="Reset").click()
    expect(wrong).to_have_text("")


def test_stop_ends_the_answer_and_the_request_and_keeps_what_is_there(desktop: Visit, gateway: Gateway) -> None:
    page, expect = desktop.page, sync_api.expect
    desktop.say("endless")
    expect(page.locator(".text").first).to_contain_text("word 3")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".turn .note").first).to_contain_text("Stopped.")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.locator(".text").first).to_contain_text("word 3")
    page.wait_for_timeout(100)
    assert gateway.cancelled == 2  # both models
    desktop.say("endless")
    expect(page.locator(".exchange").last).to_contain_text("word 3")
    page.keyboard.press("Escape")
    expect(page.locator(".exchange").last.locator(".note").first).to_contain_text("Stopped.")
    # A stopped answer is not part of the next request.
    assert [message["role"] for message in gateway.bodies[-1]["messages"]] == ["system", "user"]


def test_a_call_that_is_left_without_a_result_gets_a_stated_one(desktop: Visit, gateway: Gateway) -> None:
    desktop.say("Where is it?")
    sync_api.expect(desktop.page.locator(".call .result")).to_be_visible()
    desktop.say("evil")
    sync_api.expect(desktop.page.locator(".exchange").last.locator(".text").first).to_have_text(EVIL)  # as text
    [body] = [body for body in gateway.bodies[2:] if body["model"] == "shop"]
    assert body["messages"][3]["content"] == "no result was given"
    sync_api.expect(desktop.page.get_by_label("Result of query_order")).to_have_value("no result was given")


def test_a_refused_request_shows_why_and_can_be_repeated(browser: Any, url: str, gateway: Gateway) -> None:
    visit = Visit(browser, url, DESKTOP)
    visit.say("too long")
    sync_api.expect(visit.page.locator(".failed").first).to_contain_text("messages: the prompt has 9,000 tokens")
    visit.page.get_by_role("button", name="Ask again").first.click()
    sync_api.expect(visit.page.locator(".failed")).to_have_count(2)
    visit.page.wait_for_timeout(50)
    assert len(gateway.bodies) == 3
    visit.say("hello")
    sync_api.expect(visit.page.locator(".exchange").first.get_by_role("button", name="Ask again")).to_have_count(0)
    sync_api.expect(visit.page.locator(".lane .text")).to_have_count(1)
    # The refused message is not part of the next request.
    assert [message["content"] for message in gateway.bodies[-1]["messages"]] == ["Be kind.", "hello"]
    visit.errors = [error for error in visit.errors if "400" not in error]  # the browser itself reports the status
    visit.end()


def test_one_model_has_one_column_and_a_dark_page(browser: Any, url: str, gateway: Gateway) -> None:
    gateway.models = ["shop"]
    visit = Visit(browser, url, PHONE, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    assert visit.page.evaluate(background) == "rgb(20, 23, 26)"
    visit.say("Where is it?")
    sync_api.expect(visit.page.locator(".lane")).to_have_count(1)
    visit.page.locator("#theme").click()
    assert visit.page.evaluate(background) == "rgb(255, 255, 255)"
    visit.page.reload()
    assert visit.page.evaluate(background) == "rgb(255, 255, 255)"
    visit.end()


def test_a_server_with_a_key_asks_for_it(browser: Any, url: str, gateway: Gateway) -> None:
    gateway.key = "secret"
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    page.goto(url)
    sync_api.expect(page.get_by_role("status")).to_contain_text("this server needs its API key")
    page.get_by_label("API key").fill("secret")
    page.get_by_label("API key").press("Tab")
    page.get_by_role("button", name=START["examples"][0]).wait_for()
    assert gateway.keys[-1] == "Bearer secret"
    context.close()


def test_copies_of_a_request_run_and_hold_no_key(browser: Any, url: str, gateway: Gateway) -> None:
    visit = Visit(browser, url, DESKTOP, permissions=["clipboard-read", "clipboard-write"])
    visit.page.get_by_label("API key").fill("secret")
    visit.say("it's 'here'?\n$HOME")
    visit.page.get_by_role("button", name="Copy Python").first.click()
    sync_api.expect(visit.page.get_by_role("button", name="Copied")).to_be_visible()
    python = visit.page.evaluate("navigator.clipboard.readText()")
    visit.page.get_by_role("button", name="Copy curl").last.click()
    sync_api.expect(visit.page.get_by_role("button", name="Copied").last).to_be_visible()
    curl = visit.page.evaluate("navigator.clipboard.readText()")
    visit.end()
    assert "secret" not in python + curl
    asked: list[dict[str, Any]] = []

    class Completions:
        def create(self, **body: Any) -> Any:
            asked.append(body)
            return type("Answer", (), {"choices": [type("Choice", (), {"message": "fine"})]})

    client = type("Client", (), {"chat": type("Chat", (), {"completions": Completions()})})
    names = {"OpenAI": lambda **_: client, "os": type("os", (), {"environ": {"TOOLHONE_API_KEY": "x"}})}
    exec(re.sub(r"^(?:import|from) .*$", "", python, flags=re.MULTILINE), names)
    sent = {key: gateway.bodies[0][key] for key in ("model", "messages", "tools", "temperature")}
    assert asked == [sent]
    import shlex

    words = shlex.split(curl.replace("\\\n", ""))
    assert words[1].endswith("/v1/chat/completions")
    assert json.loads(words[-1])["messages"] == sent["messages"]


def test_the_policy_allows_only_the_pages_own_script_and_style() -> None:
    html, policy = page_and_policy()
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "innerHTML" not in html
    assert not re.findall(r"(?:src|href)=\"(?!data:)|https?://", html)
    assert not re.findall(r"<[^>]+ (?:style|on\w+)=", html.partition("<script>")[0])
