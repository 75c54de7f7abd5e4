"""What the client sends to each kind of engine, and how it reads their replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from toolhone.engines.client import connect
from toolhone.engines.http import EngineError
from toolhone.engines.llama_cpp_api import weights_name
from toolhone.errors import UserError

Reply = Callable[[str, dict[str, Any] | None], Any]
MESSAGES = [{"role": "user", "content": "hi"}]


@contextmanager
def engine(reply: Reply, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Any]]]:
    """Answer every request by the function of path and body; None is 404. Yields the requests."""
    asked: list[tuple[str, Any]] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content) if request.content else None
        asked.append((request.url.path, body))
        found = reply(request.url.path, body)
        if isinstance(found, httpx2.Response):
            return found
        return httpx2.Response(404 if found is None else 200, json=found)

    client = httpx2.Client
    monkeypatch.setattr(httpx2, "Client", lambda **o: client(**o, transport=httpx2.MockTransport(handle)))
    yield asked


def vllm_reply(path: str, body: Any) -> Any:
    """Replies as vLLM 0.32 writes them, with an adapter beside its base model."""
    if path == "/v1/models":
        base = {"id": "base", "owned_by": "vllm", "parent": None}
        return {"data": [base, {"id": "shop", "owned_by": "vllm", "parent": "base"}]}
    if path == "/version":
        return {"version": "0.32.0"}
    if path == "/tokenize":
        return {"count": 3, "max_model_len": 1024, "tokens": [2, 5, 7]}
    if path == "/v1/completions":
        logprobs = {
            "tokens": ["a", "<end>"],
            "token_logprobs": [-0.1, -0.2],
            "top_logprobs": [{"a": -0.1, "b": -2.5}, {"<end>": -0.2, "c": -1.5}],
        }
        choice = {"text": "a", "finish_reason": "stop", "stop_reason": 106, "token_ids": [8, 106], "logprobs": logprobs}
        return {"choices": [choice]}
    return None


def llama_cpp_reply(path: str, body: Any) -> Any:
    if path == "/v1/models":
        return {"data": [{"id": "m", "owned_by": "llamacpp"}]}
    if path == "/props":
        return {"chat_template": "T", "model_ftype": "Q8_0", "model_path": "/m.gguf", "build_info": "b1"}
    if path == "/lora-adapters":
        return []
    if path == "/tokenize":
        return {"tokens": [4]}
    if path == "/completion" and body["n_predict"] == 1:  # as llama.cpp lists a place where another token is forced
        likeliest = 163 if len(body["prompt"]) == 2 else 119
        top = [{"id": likeliest, "logprob": -0.005}, {"id": 93, "logprob": -6.5}]
        return {"completion_probabilities": [{"id": 4, "logprob": -13.2, "top_logprobs": top}]}
    if path == "/completion":
        top = [{"id": 238, "logprob": -0.004}, {"id": 119, "logprob": -6.6}]
        end = [{"id": 2, "logprob": -0.003}, {"id": 245, "logprob": -7.1}]
        rows = [{"id": 238, "logprob": -0.004, "top_logprobs": top}, {"id": 2, "logprob": -0.003, "top_logprobs": end}]
        return {"tokens": [163, 119, 238, 2], "completion_probabilities": rows, "content": "不", "stop_type": "eos"}
    return None


def test_vllm_is_detected_and_its_last_model_is_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(vllm_reply, monkeypatch) as asked, connect("http://127.0.0.1:1/v1") as client:
        assert (client.kind, client.facts.model, client.facts.base_model) == ("vllm", "shop", "base")
        assert client.facts.serves_base
        assert client.prompt_ids(MESSAGES, []) == [2, 5, 7]
        made = client.complete([2, 5, 7], 9)
    assert made is not None
    assert (made.ids, made.logprobs, made.runner_ups) == ((8, 106), (-0.1, -0.2), (-2.5, -1.5))
    assert asked[-1][1]["prompt"] == [2, 5, 7]
    assert not {"stop", "stop_token_ids"} & asked[-1][1].keys()


def test_the_base_model_of_vllm_is_asked_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(vllm_reply, monkeypatch) as asked, connect("http://127.0.0.1:1") as client:
        client.complete([2], 1, base=True)
    assert asked[-1][1]["model"] == "base"


def test_llama_cpp_gives_a_log_probability_to_each_token_of_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(llama_cpp_reply, monkeypatch) as asked, connect("http://127.0.0.1:1") as client:
        assert (client.kind, client.facts.weights, client.facts.serves_base) == ("llama.cpp", "q8_0", False)
        made = client.complete([1, 2], 9)
    assert made is not None
    assert made.ids == (163, 119, 238, 2)
    assert made.logprobs == (-0.005, -0.005, -0.004, -0.003)
    assert made.runner_ups == (-6.5, -6.5, -6.6, -7.1)
    forced = [body["prompt"] for path, body in asked if path == "/completion" and body["n_predict"] == 1]
    assert forced == [[1, 2], [1, 2, 163]]


def test_another_server_answers_only_chats(monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(path: str, body: Any) -> Any:
        if path == "/v1/models":
            return {"data": [{"id": "gpt", "owned_by": "someone"}]}
        call = {"function": {"name": "f", "arguments": "{}"}}
        content = [{"token": "f", "bytes": [102], "logprob": -0.1}]
        message = {"content": None, "tool_calls": [call]}
        choice = {"message": message, "finish_reason": "tool_calls", "logprobs": {"content": content}}
        return {"choices": [choice], "usage": {"prompt_tokens": 3}} if path == "/v1/chat/completions" else None

    with engine(reply, monkeypatch), connect("http://127.0.0.1:1") as client:
        assert client.kind == "openai"
        assert client.prompt_ids(MESSAGES, []) is None
        assert client.complete([1], 1) is None
        answer = client.chat(MESSAGES, [], 9, raw=True)
    assert (answer.calls[0].name, answer.raw_text, answer.content, answer.prompt_tokens) == ("f", "f", "", 3)


def test_a_refusal_has_the_status_and_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(path: str, body: Any) -> Any:
        if path == "/completion":
            return httpx2.Response(500, json={"error": {"code": 500, "message": "The output does not match"}})
        return llama_cpp_reply(path, body)

    refused = pytest.raises(EngineError, match="HTTP 500: The output does not match")
    with engine(reply, monkeypatch), connect("http://127.0.0.1:1") as client, refused:
        client.complete([1], 1)


@pytest.mark.parametrize(
    ("url", "model", "message"),
    [
        ("ftp://127.0.0.1", None, "--endpoint ftp://127.0.0.1: expected an address"),
        ("http://127.0.0.1:1", "shoes", "serves base, shop, and not shoes; name one of these models"),
    ],
)
def test_a_wrong_address_or_model_is_an_error(
    url: str, model: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine(vllm_reply, monkeypatch), pytest.raises(UserError, match=message), connect(url, model):
        pass


def test_llama_cpps_names_of_number_types_are_shortened() -> None:
    found = map(weights_name, ("all F32", "Q8_0", "Q4_K - Medium", "(guessed) BF16", None))
    assert list(found) == ["f32", "q8_0", "q4_k", "bf16", None]
