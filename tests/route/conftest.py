"""Generated answers of a small model. Wrong answers have lower log-probabilities on average."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from toolhone.data.read import turns
from toolhone.jsonl import write_conversations, write_json, write_jsonl, write_text
from toolhone.rates import Floats
from toolhone.records import Conversation, Example, Message, Prediction, Token, Tool, ToolCall
from toolhone.route.curve import Outcomes

_TEXT = {"type": "string"}
_ORDER = Tool("query_order", "", {"type": "object", "properties": {"order_id": _TEXT}, "required": ["order_id"]})


def outcomes(scores: Floats, small: Floats, large: Floats | None = None, **known: float | Floats) -> Outcomes:
    """Two models on separate rows; costs and times are nan unless given."""
    count = len(scores)
    names = ("small_usd", "large_usd", "small_s", "large_s")
    columns = {name: np.broadcast_to(known.get(name, np.nan), count) for name in names}
    return Outcomes(scores, small, np.full(count, np.nan) if large is None else large, **columns, clusters=range(count))


def call_text(name: str, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def prediction(id: str, model: str, text: str, surety: float | None) -> Prediction:
    """An answer with one token per character. `surety` is the log-probability of its digits; None: the endpoint gave no
    log-probabilities."""
    tokens = tuple(
        Token(number, character.encode(), surety if character.isdigit() else -0.001)
        for number, character in enumerate(text)
        if surety is not None
    )
    return Prediction(id, model, text, "stop", 100, len(text), 50.0, tokens)


@dataclass(frozen=True, slots=True)
class Made:
    """A run folder, and a file with a large model's predictions for its rows."""

    run: Path
    large: Path
    rows: list[Conversation]


MakeRun = Callable[..., Made]


def small_answer(example: Example, draw: random.Random, wrong: float) -> Prediction:
    """Returns an answer that asks for the other order in the share `wrong` of the rows, mostly with a lower
    log-probability. One answer in twenty is not JSON."""
    number = example.turn.tool_calls[0].arguments["order_id"]
    other = next(order for order in example.meta["orders"] if order != number)
    failed = draw.random() < wrong
    if draw.random() < 0.05:
        return prediction(example.id, "tuned", '<tool_call>\n{"name": \n</tool_call>', -1.0)
    text = call_text("query_order", order_id=other if failed else number)
    return prediction(example.id, "tuned", text, -draw.expovariate(1 / (0.5 if failed else 0.05)))


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes a run of `count` rows, five per template; the large model is right on nine in ten."""

    def make(
        count: int = 240,
        *,
        wrong: float = 0.25,
        gold_source: str | None = None,
        logprobs: bool = True,
        big: str = "big",
    ) -> Made:
        draw = random.Random(7)
        rows = []
        for n in range(count):
            orders = [f"{draw.randrange(10**6):06d}" for _ in range(2)]
            asked = f"Phrasing {n // 5}: of {orders[0]} and {orders[1]}, where is the {'second' if n % 2 else 'first'}?"
            messages = (
                Message("user", asked),
                Message("assistant", "", (ToolCall("query_order", {"order_id": orders[n % 2]}),)),
            )
            meta = {"template": f"t{n // 5}", "orders": orders}
            rows.append(Conversation(f"r{n}", messages, (_ORDER,), f"made:{n}", gold_source=gold_source, meta=meta))
        run, examples = tmp_path / "runs" / "made", turns(rows)
        write_text(
            run / "config.yaml", "name: made\nmodel: {name: some/model}\ndata: {train: [a.jsonl], test: [b.jsonl]}\n"
        )
        write_json(
            run / "manifest.json",
            {
                "stages": {},
                "judged": "test",
                "chat": {"format": "hermes", "template_hash": "0123456789abcdef"},
                "model": {"name": "some/model", "revision": None, "quantize": "none"},
            },
        )
        (run / "adapter").mkdir()
        (run / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
        write_conversations(run / "splits" / "test.jsonl", rows)
        small = [small_answer(example, draw, wrong) for example in examples]
        if not logprobs:
            small = [prediction(one.id, one.model, one.text, None) for one in small]
        write_jsonl(run / "predictions" / "tuned.jsonl", (one.to_json() for one in small))
        large = [
            prediction(
                example.id,
                big,
                call_text("query_order", **example.turn.tool_calls[0].arguments) if draw.random() < 0.9 else "No.",
                None,
            )
            for example in examples
        ]
        write_jsonl(tmp_path / "big.jsonl", (one.to_json() for one in large))
        return Made(run, tmp_path / "big.jsonl", rows)

    return make
