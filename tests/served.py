"""Runs and servers for the tests of serving: a tiny Llama that has memorised three turns, behind uvicorn."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import uvicorn

from toolhone.chat.probe import make_renderer
from toolhone.config import ChatConfig, Config, DataConfig, EvaluateConfig, ModelConfig, config_yaml
from toolhone.jsonl import write_conversations, write_json, write_text
from toolhone.pipeline import save_chat
from toolhone.records import Conversation, Example, Gold, Message, Tool, ToolCall
from toolhone.route.cascade import Cascade
from toolhone.serve.answer import SmallModel
from toolhone.serve.app import Gateway, make_app
from toolhone.serve.completion import Answerer
from toolhone.serve.local import LocalGenerator
from toolhone.serve.metrics import Metrics
from toolhone.tuned import TunedModel

CHAT = ChatConfig(tools="names")
SYSTEM = Message("system", "你是客服。")
TOOLS = (
    Tool("query_order", "查", {"type": "object", "properties": {"order_id": {"type": "string"}}}),
    Tool("help", "", {"type": "object", "properties": {}}),
)
LEARNED = {
    "Where is ORD-1?": Message("assistant", "", (ToolCall("query_order", {"order_id": "ORD-1"}),)),
    "A person, now.": Message("assistant", "好", (ToolCall("help", {}), ToolCall("query_order", {"order_id": "0"}))),
    "谢谢": Message("assistant", "不客气"),
}
"""The model's answer to each question. Its answers to other questions have a lower probability."""
WIRE_TOOLS: Any = [tool.to_json() for tool in TOOLS]


def messages(question: str) -> Any:
    return [SYSTEM.to_json(), {"role": "user", "content": question}]


def example(question: str, tools: tuple[Tool, ...] = TOOLS) -> Example:
    """Return the question as an example; its gold is the memorised turn."""
    turn = LEARNED.get(question, Message("assistant", "?"))
    prompt = (SYSTEM, Message("user", question))
    return Example(question, question, prompt, turn, Gold.of_message(turn), tools, "made:1", None, {})


def learn(tiny_llama: Path, folder: Path, seed: int = 0, turns: Sequence[Example] = (), steps: int = 60) -> None:
    """Save a Llama of two layers that has memorised these turns, or LEARNED, with the tokenizer of `tiny_llama`."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_llama, num_hidden_layers=2))
    renderer = make_renderer(tokenizer, CHAT, "tiny")
    rows = [renderer.render(turn) for turn in turns or map(example, LEARNED)]
    width = max(len(row) for row in rows)
    padded = [[*row.prompt_ids, *row.completion_ids, *[-100] * (width - len(row))] for row in rows]
    labels = torch.tensor(padded)  # [rows, width]
    ids = labels.clamp(min=0)
    for row, row_labels in zip(rows, labels, strict=True):
        row_labels[: len(row.prompt_ids)] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, betas=(0.9, 0.95))
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 15))
    for _ in range(steps):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        warmup.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_run(
    folder: Path, model: Path, *, max_new_tokens: int = 100, test: Sequence[Conversation] | None = None
) -> Path:
    """Write a finished run on the model, with an adapter that changes nothing, and return its folder. Its test rows are
    LEARNED by default."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = Config(
        name=folder.name,
        model=ModelConfig(name=str(model), device="cpu", dtype="float32"),
        data=DataConfig(train=("train.jsonl",), test=("test.jsonl",)),
        chat=CHAT,
        evaluate=EvaluateConfig(max_new_tokens=max_new_tokens),
    )
    renderer = make_renderer(AutoTokenizer.from_pretrained(model), config.chat, config.model.name)
    write_text(folder / "config.yaml", config_yaml(config))
    write_json(
        folder / "manifest.json",
        {
            "stages": {},
            "judged": "test",
            "model": {"name": str(model), "revision": None, "quantize": "none"},
            "chat": {"format": "hermes", "template": "toolhone", "template_hash": renderer.template_hash()},
        },
    )
    rows = [
        Conversation(f"r{n}", (SYSTEM, Message("user", question), turn), TOOLS, "made:1")
        for n, (question, turn) in enumerate(LEARNED.items())
    ]
    write_conversations(folder / "splits" / "test.jsonl", rows if test is None else test)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(folder / "adapter")
    save_chat(folder / "adapter", renderer)
    return folder


def small_model(run: Path, max_new_tokens: int | None = None) -> SmallModel:
    """Return a run's tuned model, loaded in this process."""
    tuned = TunedModel.load(run)
    generator = LocalGenerator(tuned.model, tuned.renderer)
    limit = max_new_tokens or tuned.config.evaluate.max_new_tokens
    return SmallModel(tuned.config.name, tuned.renderer, generator, limit)


def app_of(small: SmallModel, cascade: Cascade | None = None, **settings: Any) -> Any:
    """Return a gateway's application with this model."""
    metrics = Metrics()
    return make_app(Gateway({small.name: Answerer(small, metrics, cascade)}, metrics, **settings))


@contextmanager
def serving_app(app: Any) -> Iterator[str]:
    """Serve the application on a free port of this machine; yields the base URL for OpenAI's client."""
    with socket.create_server(("127.0.0.1", 0)) as address:  # listens, so clients can connect before the server runs
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [address]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{address.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
