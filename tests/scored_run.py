"""A small run, scored by the real scorer from texts of answers, and scores without a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolhone.data.read import turns
from toolhone.evaluate.match import score
from toolhone.evaluate.metrics import metrics
from toolhone.jsonl import read_jsonl, write_conversations, write_json, write_jsonl
from toolhone.records import Conversation, Gold, Message, Prediction, Score, Tool, ToolCall

ScoredRun = Callable[..., Path]

((_, _ROW),) = read_jsonl(Path(__file__).parent / "fixtures" / "contracts" / "score.jsonl")
_TEXT = {"type": "string"}
_TOOLS = (
    Tool("query_order", "", {"type": "object", "properties": {"order_id": _TEXT}, "required": ["order_id"]}),
    Tool("query_stock", "", {"type": "object", "properties": {"sku": _TEXT}, "required": ["sku"]}),
)


def call_text(name: str, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"


def made_score(**fields: Any) -> Score:
    """Return a score with these fields. The other fields describe a row that expects no call and got none."""
    row: dict[str, Any] = {
        "id": "order-1/2",
        "conversation_id": "order-1",
        "model": "tuned",
        "status": "none",
        "failure": None,
        "calls": (),
        "gold": Gold("none"),
        "tools": ("query_order", "query_stock"),
        "matches": (),
        "missing_calls": (),
        "extra_calls": (),
        "names_right": False,
        "exact": False,
        "schema_valid": None,
        "rules": (),
        "question": "",
        "text": "",
        "finish_reason": "stop",
        "prompt_tokens": 500,
        "completion_tokens": 20,
        "latency_ms": 40.0,
        "gold_source": None,
        "meta": {"language": "zh"},
    }
    return Score(**{**row, **fields})


def scores_file(path: Path, outcomes: str, **changed: Any) -> Path:
    """Write the scores of rows r0/1, r1/1, ... In `outcomes`, "1" is a right answer."""
    rows = (
        {
            **_ROW,
            "id": f"r{n}/1",
            "conversation_id": f"r{n}",
            "exact": right == "1",
            "names_right": right == "1",
            "meta": {},
            **changed,
        }
        for n, right in enumerate(outcomes)
    )
    write_jsonl(path, rows)
    return path


@pytest.fixture
def scored_run() -> ScoredRun:
    """Make a run folder with its split, scores and metrics.

    Row n asks for order ORD-00n. With `last_is_chat`, the last row is a thank-you that needs no call. `answers` has the
    texts of each model, one per row; "right" means the gold text.
    """

    def make(
        folder: Path,
        answers: dict[str, list[str]],
        *,
        last_is_chat: bool = False,
        gold_source: str | None = None,
        adapter: bool = False,
        **manifest: object,
    ) -> Path:
        count = len(next(iter(answers.values())))
        rows = []
        for number in range(count):
            is_chat = last_is_chat and number == count - 1
            calls = () if is_chat else (ToolCall("query_order", {"order_id": f"ORD-00{number}"}),)
            messages = (
                Message("system", "你是客服"),
                Message("user", "谢谢" if is_chat else f"帮我查订单 ORD-00{number}"),
                Message("assistant", "不客气" if is_chat else "", calls),
            )
            meta = {"language": "zh"}
            rows.append(Conversation(f"r{number}", messages, _TOOLS, "made:1", gold_source=gold_source, meta=meta))
        write_conversations(folder / "splits" / "test.jsonl", rows)
        scores = {}
        for model, texts in answers.items():
            scores[model] = []
            for example, text in zip(turns(rows), texts, strict=True):
                calls = example.turn.tool_calls
                gold = call_text(calls[0].name, **calls[0].arguments) if calls else "不客气"
                answer = Prediction(example.id, model, gold if text == "right" else text, "stop", 100, 9, 5.0)
                scores[model].append(score(example, answer, "hermes"))
            write_jsonl(folder / "scores" / f"{model}.jsonl", (row.to_json() for row in scores[model]))
        write_json(folder / "metrics.json", metrics(scores, {}))
        write_json(folder / "manifest.json", {"judged": "test", "stages": {}, **manifest})
        if adapter:
            write_json(folder / "adapter" / "adapter_config.json", {})
        return folder

    return make
