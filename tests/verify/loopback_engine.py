"""A server on this machine that speaks llama-server's HTTP, with a transformers model behind, and faults to plant."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from toolhone.chat.parse import parse_turn
from toolhone.chat.render import ChatRenderer
from toolhone.chat.token_bytes import token_bytes
from toolhone.evaluate.decode import Completion, Prefix, decode_greedily

_MADE: dict[tuple[Any, ...], Completion] = {}
"""The answers so far, because most tests ask the same model the same."""


@dataclass
class LoopbackEngine:
    """What the server serves. With `base`, it has an adapter on a base model of its own, which the scale 0 reaches.

    Attributes:
        stop_ids: where generation ends.
        calls_read: how many calls of a turn its parser reads.
        parallel_status: the HTTP status of chat answers with several calls.
        only_chats: whether it has nothing but OpenAI's chat endpoint.
        begun: for each first token of a prompt, whether the base model computed it. Like llama.cpp, the server goes on
            from there, with whichever weights.
    """

    model: Any
    renderer: ChatRenderer
    template: str
    stop_ids: frozenset[int]
    base: Any = None
    ftype: str = "all F32"
    calls_read: int = 99
    parallel_status: int = 200
    only_chats: bool = False
    begun: dict[int, bool] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, path: str) -> Any:
        if path == "/v1/models":
            return {"data": [{"id": "m", "owned_by": "llamacpp"}]}
        if path == "/version" or self.only_chats:
            return None
        if path == "/lora-adapters":
            return [] if self.base is None else [{"id": 0, "path": "lora.gguf", "scale": 1.0}]
        return {"chat_template": self.template, "model_ftype": self.ftype, "build_info": "b1", "model_path": "m.gguf"}

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/apply-template":
            return 200, {"prompt": self.prompt(body)}
        if path == "/tokenize":
            return 200, {"tokens": self.renderer.encode(body["content"])}
        if path == "/completion":
            is_base = bool(body.get("lora"))
            if body["cache_prompt"]:
                is_base = self.begun.setdefault(body["prompt"][0], is_base)
            made = self.generate(body["prompt"], body["n_predict"], is_base=is_base)
            text = self.text(made.ids)
            return 200, {
                "tokens": made.ids,
                "completion_probabilities": list(map(self.listed, made.ids, made.logprobs, made.runner_ups)),
                "content": text,
                "stop_type": "eos" if made.stopped else "limit",
            }
        ids = self.renderer.encode(self.prompt(body))
        status, reply = self.chat_answer(self.generate(ids, body["max_tokens"]), raw=bool(body.get("logprobs")))
        return status, {**reply, "usage": {"prompt_tokens": len(ids), "completion_tokens": 5}}

    def prompt(self, body: dict[str, Any]) -> str:
        messages = json.loads(json.dumps(body["messages"]))
        for call in (call for message in messages for call in message.get("tool_calls", ())):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        text: str = self.renderer.tokenizer.apply_chat_template(
            messages, tools=body.get("tools"), chat_template=self.template, add_generation_prompt=True, tokenize=False
        )
        return text

    def generate(self, ids: Sequence[int], max_tokens: int, *, is_base: bool = False) -> Completion:
        with self.lock:
            model = self.base if is_base else self.model
            key = model, tuple(ids), self.stop_ids, max_tokens
            if key not in _MADE:
                _MADE[key] = decode_greedily(model, [list(ids)], Prefix([], None), self.stop_ids, max_tokens)[0]
            return _MADE[key]

    def text(self, ids: Sequence[int]) -> str:
        """The text without special tokens, as engines give it."""
        special = set(self.renderer.tokenizer.all_special_ids)
        return self.renderer.decode([id_ for id_ in ids if id_ not in special])

    def listed(self, id_: int, logprob: float, runner_up: float | None) -> dict[str, Any]:
        others = [] if runner_up is None else [{"id": -1, "logprob": runner_up}]
        return {"id": id_, "logprob": logprob, "top_logprobs": [{"id": id_, "logprob": logprob}, *others]}

    def chat_answer(self, made: Completion, *, raw: bool) -> tuple[int, Any]:
        text = self.text(made.ids)
        turn = parse_turn(text, self.renderer.format.name)
        if len(turn.calls) > 1 and self.parallel_status != 200:
            return self.parallel_status, {"error": {"message": "The model produced output that does not match"}}
        pieces = token_bytes(self.renderer.tokenizer).of(made.ids)
        rows = [{"token": "", "bytes": list(piece), "logprob": -0.1} for piece in pieces]
        calls = [call.to_json() for call in turn.calls[: self.calls_read]]
        message = {"role": "assistant", "content": turn.content, "tool_calls": calls}
        finish = "length" if not made.stopped else "tool_calls" if calls else "stop"
        return 200, {
            "choices": [{"message": message, "finish_reason": finish, "logprobs": {"content": rows} if raw else None}]
        }


@contextmanager
def serving_engine(engine: LoopbackEngine) -> Iterator[str]:
    """Serve the engine on a free port; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = engine.get(self.path)
            self.reply(404 if found is None else 200, found)

        def do_POST(self) -> None:
            self.reply(*engine.post(self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))

        def reply(self, status: int, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
