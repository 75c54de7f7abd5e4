"""A cascade of two real servers, each with a tiny model, tested with OpenAI's own client; the large one may fail."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from rich.console import Console
from served import LEARNED, WIRE_TOOLS, app_of, example, learn, make_run, messages, serving_app, small_model

import toolhone.serve.server as server_module
from toolhone.chat.parse import parse_turn
from toolhone.data.escalation import escalate_tool
from toolhone.data.read import read_conversations
from toolhone.economics.cost import Price
from toolhone.errors import UserError
from toolhone.evaluate.predict import answer_one
from toolhone.formats.foreign_syntax import opens_with_marker
from toolhone.jsonl import write_conversations
from toolhone.records import Prediction
from toolhone.route.calibrate import Calibrator
from toolhone.route.confidence import FEATURES, signals
from toolhone.route.large_model import LargeSettings
from toolhone.route.policy import Goal, Policy, identity_of_run, write_policy
from toolhone.run_folder import RunFolder
from toolhone.serve.answer import SmallModel
from toolhone.serve.app import make_app
from toolhone.serve.engine import EngineSettings, open_engine
from toolhone.serve.server import CascadeSettings, ServeSettings, make_gateway, open_cascade, reserved_tool
from toolhone.tuned import TunedModel

QUESTIONS = (
    *LEARNED,
    *(f"Where is ORD-{number}?" for number in (2, 7, 15)),
    *("A person", "A person, please.", "A person, now!", "谢谢!", "thanks", "weather", "Where is it?"),
)
QUIET = Console(file=io.StringIO())
PRICE = Price(2.0, 2.0, 8.0)


@pytest.fixture(scope="session")
def large_run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    learn(tiny_llama, folder / "model", seed=1)
    return make_run(folder / "large", folder / "model")


@pytest.fixture(scope="session")
def large_model(large_run: Path) -> SmallModel:
    return small_model(large_run)


@pytest.fixture(scope="session")
def alone(run_folder: Path) -> dict[str, Prediction]:
    """The small model's answer to each question."""
    return answers(run_folder, QUESTIONS)


def answers(run: Path, questions: Sequence[str]) -> dict[str, Prediction]:
    tuned = TunedModel.load(run)
    return {question: answer_one(tuned.model, tuned.renderer, example(question), 100) for question in questions}


@pytest.fixture(scope="session")
def policy(small: SmallModel, alone: dict[str, Prediction], run_folder: Path) -> Policy:
    """A hand-made policy: all features have the same weight, and the threshold is the median of the answers' scores."""
    found = [signals(answer, example(question), "hermes") for question, answer in alone.items()]
    rows = [each.features for each in found if each.gate is None and each.features is not None]
    columns = list(zip(*rows, strict=True))
    means = tuple(map(statistics.fmean, columns))
    scales = tuple(statistics.pstdev(column) or 1.0 for column in columns)
    calibrator = Calibrator(means, scales, (0.3,) * len(FEATURES), 0.0, ())
    scores = sorted(map(calibrator.score, rows))
    middle = len(scores) // 2
    return Policy(
        identity=replace(identity_of_run(RunFolder(run_folder)), template=small.renderer.template_hash()),
        format="hermes",
        features=FEATURES,
        calibrator=calibrator,
        threshold=(scores[middle - 1] + scores[middle]) / 2,
        goal=Goal(kind="escalation", escalation=0.5),
        rows={"calibration": len(rows)},
        toolhone="0.1.0",
    )


class FlakyServer:
    """The large model's server; `state` is well, hangs or the HTTP status that it fails with."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.state = "well"
        self.asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.asked += 1
        if scope["type"] != "http" or self.state == "well":
            await self.app(scope, receive, send)
        elif self.state == "hangs":
            while (await receive())["type"] != "http.disconnect":
                pass
        else:
            body = b'{"error": {"message": "not today"}}'
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": int(self.state), "headers": headers})
            await send({"type": "http.response.body", "body": body})


@contextmanager
def cascade(
    small: SmallModel, run_folder: Path, policy: Policy, log: Path, large_url: str, *, timeout_s: float = 60.0
) -> Iterator[OpenAI]:
    """Yields a client of a cascade whose large model is at this address."""
    write_policy(log.with_name("policy.json"), policy)
    large = LargeSettings("large", large_url, timeout_s=timeout_s, first_wait_s=0.01)
    settings = CascadeSettings(log.with_name("policy.json"), large, PRICE, log=log)
    run = RunFolder(run_folder)
    identity = replace(identity_of_run(run), template=small.renderer.template_hash())
    made = open_cascade(settings, run, identity, QUIET)
    with (
        serving_app(app_of(small, made)) as url,
        OpenAI(base_url=url, api_key="none", max_retries=0) as client,
    ):
        yield client


def ask(client: OpenAI, question: str) -> Any:
    """Return the completion and the headers."""
    create: Any = client.chat.completions.with_raw_response.create
    raw = create(model="small", messages=messages(question), tools=WIRE_TOOLS)
    return raw.parse(), raw.headers


def lines(log: Path) -> dict[str, dict[str, Any]]:
    """Return the log's lines by id; each id must occur once."""
    rows = [json.loads(line) for line in log.read_bytes().splitlines()]
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_a_request_is_escalated_if_the_small_model_is_unsure(
    small: SmallModel,
    large_model: SmallModel,
    large_run: Path,
    run_folder: Path,
    policy: Policy,
    alone: dict[str, Prediction],
    tmp_path: Path,
) -> None:
    log = tmp_path / "decisions.jsonl"
    kept, escalated = [], []
    by_large = answers(large_run, QUESTIONS)
    with (
        serving_app(app_of(large_model)) as large_url,
        cascade(small, run_folder, policy, log, large_url) as client,
    ):
        for question in QUESTIONS:
            reply, headers = ask(client, question)
            line = lines(log)[reply.id]
            own, large = alone[question], by_large[question]
            found = signals(own, example(question), "hermes")
            assert line["gate"] == found.gate
            assert line["confidence"] == pytest.approx(policy.confidence(found), abs=1e-3)
            (escalated if line["asked_large"] else kept).append(line["confidence"])

            # If the large model's server could not parse its call, the small answer is kept. All other text is prose.
            broken = parse_turn(large.text, "hermes", large.finish_reason).failure is not None
            unreadable = broken and opens_with_marker(large.text)
            route = "large" if line["asked_large"] and not unreadable else "small"
            fallback = "malformed" if line["asked_large"] and unreadable else None
            assert (line["route"], line["fallback"]) == (route, fallback)
            assert (headers["x-toolhone-route"], headers.get("x-toolhone-fallback")) == (route, fallback)
            assert float(headers["x-toolhone-confidence"]) == pytest.approx(line["confidence"], abs=1e-4)
            assert headers["x-request-id"] == reply.id
            assert (reply.model, reply.usage.completion_tokens) == (
                ("large", large.completion_tokens) if route == "large" else ("small", own.completion_tokens)
            )
            cost = (large.prompt_tokens * 2 + large.completion_tokens * 8) / 1e6 if line["asked_large"] else 0.0
            assert line["cost_usd"] == pytest.approx(cost)
    assert len(kept) >= 4
    assert len(escalated) >= 4
    assert max(escalated) < policy.threshold < min(kept)  # type: ignore[operator]
    assert len(lines(log)) == len(QUESTIONS)


def test_every_request_is_answered_once_however_the_large_model_fails(
    small: SmallModel, large_model: SmallModel, run_folder: Path, policy: Policy, tmp_path: Path
) -> None:
    log = tmp_path / "decisions.jsonl"
    escalate_all = policy.model_copy(update={"threshold": None})
    asked = QUESTIONS[:4]
    flaky: Any = FlakyServer(app_of(large_model))
    ids: list[str] = []

    def check_requests(state: str, client: OpenAI) -> None:
        before, flaky.state = flaky.asked, state
        with ThreadPoolExecutor(len(asked)) as pool:
            found = list(pool.map(lambda question: ask(client, question), asked))
        well = state == "well"
        fallback = {"well": None, "hangs": "timeout", "killed": "no-connection"}.get(state, f"status-{state}")
        for reply, headers in found:
            line = lines(log)[reply.id]
            assert headers["x-toolhone-route"] == line["route"] == ("large" if well else "small")
            assert headers.get("x-toolhone-fallback") == line["fallback"] == fallback
            assert line["asked_large"] == (1 if well else 2)
            [choice] = reply.choices
            assert choice.message.content or choice.message.tool_calls
        # The large model got exactly the requests that the log counts.
        assert flaky.asked - before == {"well": len(asked), "killed": 0}.get(state, 2 * len(asked))
        ids.extend(reply.id for reply, _ in found)
        assert sorted(lines(log)) == sorted(ids)

    with ExitStack() as large_server:
        large_url = large_server.enter_context(serving_app(flaky))
        with cascade(small, run_folder, escalate_all, log, large_url, timeout_s=1.0) as client:
            check_requests("hangs", client)
        with cascade(small, run_folder, escalate_all, log, large_url) as client:  # restarted, with the same log
            for state in ("429", "500", "well"):
                check_requests(state, client)
            large_server.close()
            check_requests("killed", client)
    assert len(set(ids)) == 5 * len(asked)


def test_a_policy_of_another_model_is_refused(
    small: SmallModel, run_folder: Path, policy: Policy, tmp_path: Path
) -> None:
    other = policy.model_copy(update={"identity": replace(policy.identity, adapter="0" * 64)})
    write_policy(tmp_path / "policy.json", other)
    settings = CascadeSettings(tmp_path / "policy.json", LargeSettings("big", "http://127.0.0.1:1/v1"))
    with pytest.raises(UserError, match="made for another model: adapter is"):
        open_cascade(settings, RunFolder(run_folder), policy.identity, QUIET)
    assert not (run_folder / "decisions.jsonl").exists()


def test_the_reserved_tool_is_offered_if_the_run_was_trained_with_it(run_folder: Path, tmp_path: Path) -> None:
    assert reserved_tool(RunFolder(run_folder), QUIET) is None
    run, console = RunFolder(tmp_path), Console(file=io.StringIO())
    assert reserved_tool(run, console) is None
    assert "is missing: the tool escalate is not offered" in console.file.getvalue()  # type: ignore[attr-defined]
    rows = [
        replace(row, tools=(*row.tools, escalate_tool()))
        for row in read_conversations(RunFolder(run_folder).split("test"))
    ]
    write_conversations(run.split("test"), rows)
    assert reserved_tool(run, QUIET) == escalate_tool()


def test_the_engine_is_the_one_that_the_policy_was_made_for(policy: Policy, tmp_path: Path) -> None:
    chosen: Any = server_module._chosen_engine
    for engine, kind in (("transformers", "transformers"), ("llama.cpp q8_0", "llama.cpp"), ("vllm bfloat16", "vllm")):
        path = tmp_path / "policy.json"
        write_policy(path, policy.model_copy(update={"identity": replace(policy.identity, engine=engine)}))
        cascade_settings = CascadeSettings(path, LargeSettings("big", "http://127.0.0.1:1/v1"))
        assert chosen(EngineSettings(), ServeSettings(), cascade_settings).kind == kind
    named = EngineSettings(kind="transformers")
    assert chosen(named, ServeSettings(), cascade_settings) == named


def test_the_base_model_is_served_beside_the_tuned_one_by_transformers_only(run_folder: Path) -> None:
    chosen: Any = server_module._chosen_engine
    both = ServeSettings(with_base=True)
    with pytest.raises(UserError, match="--with-base: needs --engine transformers"):
        chosen(EngineSettings(kind="llama.cpp"), both, None)
    tuned, settings = TunedModel.load(run_folder), chosen(EngineSettings(), both, None)
    with open_engine(tuned, settings, QUIET) as opened:
        gateway = make_gateway(tuned, opened, both, None, None, QUIET)
        with serving_app(make_app(gateway)) as url, OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["small", "small-base"]
            for name in ("small", "small-base"):
                reply: Any = client.chat.completions.create(model=name, messages=messages("谢谢"), tools=WIRE_TOOLS)
                assert reply.model == name
