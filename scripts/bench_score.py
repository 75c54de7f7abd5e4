"""Measure scoring of generated rows and answers on one core: seconds of processor time for each stage.

Rows have seven tools, a turn with up to two calls, and the answers of two models. Some answers are right; the others
fail in every way that a model fails. The stages are those of `toolhone score`: read rows and score their gold, read
and score predictions, write scores, compute figures with the paired bootstrap, and read the scores back.

    .venv/bin/python scripts/bench_score.py                          # 100,000 predictions
    .venv/bin/python scripts/bench_score.py --predictions 20000 --profile
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

MODELS = ("base", "tuned")
_WORDS = ("order", "parcel", "refund", "shirt", "Paris", "Lyon", "Köln", "北京", "上海", "tomorrow", "late", "blue")


def main() -> int:
    from toolhone.cli.terminal import gc_disabled

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--predictions",
        type=int,
        default=100_000,
        help="number of predictions, half of each model (default: %(default)s)",
    )
    parser.add_argument("--tokens", action="store_true", help="give each prediction its tokens, as a local model does")
    parser.add_argument("--profile", action="store_true", help="print where scoring spends its time")
    parser.add_argument("--json", type=Path, help="JSON file to write the figures to as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, gc_disabled():  # as the commands do
        found = measure(Path(folder), options.predictions, tokens=options.tokens, profile=options.profile)
    for stage, seconds in found["seconds"].items():
        print(f"  {stage:<28} {seconds:7.2f} s")
    print(f"  {'all':<28} {found['all_seconds']:7.2f} s   {found['predictions']:,} predictions, {found['machine']}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(folder: Path, predictions: int, *, tokens: bool = False, profile: bool = False) -> dict[str, Any]:
    """Generate `predictions` answers, half of each model, score them, and return each stage's processor seconds."""
    from toolhone.data.read import examples, read_conversations
    from toolhone.evaluate.match import gold_faults, score
    from toolhone.evaluate.metrics import metrics
    from toolhone.jsonl import read_jsonl, write_jsonl
    from toolhone.records import Prediction, Score

    count = predictions // len(MODELS)
    rows, seconds = folder / "rows.jsonl", dict[str, float]()
    write_jsonl(rows, conversations(count))
    for model in MODELS:
        write_jsonl(folder / f"{model}.jsonl", answers(count, model, tokens=tokens))

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        started = time.process_time()
        done = work()
        seconds[stage] = time.process_time() - started
        return done

    asked = timed("rows read", lambda: [turn for row in read_conversations(rows) for turn in examples(row)])
    faults = timed("gold scored", lambda: gold_faults(asked))
    answered = timed(
        "predictions read",
        lambda: {
            model: [Prediction.from_json(row) for _, row in read_jsonl(folder / f"{model}.jsonl")] for model in MODELS
        },
    )
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    scores = timed(
        "predictions scored",
        lambda: {
            model: [score(turn, answer, "hermes") for turn, answer in zip(asked, answered[model], strict=True)]
            for model in MODELS
        },
    )
    profiler.disable()
    for model in MODELS:
        timed(
            f"scores written, {model}",
            lambda model=model: write_jsonl(folder / f"{model}.scores.jsonl", (s.to_json() for s in scores[model])),
        )
    figures = timed("figures and comparison", lambda: metrics(scores, {}))
    timed(
        "scores read back",
        lambda: [Score.from_json(row) for m in MODELS for _, row in read_jsonl(folder / f"{m}.scores.jsonl")],
    )
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
    return {
        "predictions": count * len(MODELS),
        "quarantined": len(faults),
        "exact_match": {model: figures["models"][model]["exact_match"]["value"] for model in MODELS},
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "all_seconds": round(sum(seconds.values()), 2),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


def conversations(count: int) -> Iterator[dict[str, Any]]:
    """Rows in OpenAI's format: a question and the expected turn, with up to two calls."""
    tools = [_tool(number) for number in range(7)]
    for number in range(count):
        calls = _calls(number)
        turn: dict[str, Any] = {"role": "assistant", "content": None if calls else "Hello, how can I help?"}
        if calls:
            turn["tool_calls"] = [
                {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
                for name, arguments in calls
            ]
        asked = {"role": "user", "content": f"Question {number}: {_WORDS[number % len(_WORDS)]}"}
        yield {
            "id": f"row-{number}",
            "messages": [asked, turn],
            "tools": tools,
            "meta": {"language": "zh" if number % 3 else "en", "template": f"t{number % 97}"},
        }


def answers(count: int, model: str, *, tokens: bool = False) -> Iterator[dict[str, Any]]:
    """One model's predictions of `conversations(count)`; "tuned" is right more often than any other."""
    draw = random.Random(model)
    for number in range(count):
        right = draw.random() < (0.9 if model == "tuned" else 0.3)
        text = _write(_calls(number)) if right else _fail(number, draw)
        made = [{"id": n, "bytes": [65, 66], "logprob": -0.25} for n in range(len(text) // 4)] if tokens else []
        yield {
            "id": f"row-{number}/1",
            "model": model,
            "text": text,
            "finish_reason": "stop",
            "prompt_tokens": 400 + number % 50,
            "completion_tokens": len(text) // 4,
            "latency_ms": 100.0 + number % 7,
            "tokens": made,
        }


def _tool(number: int) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "order_id": {"type": "string", "description": "The order's number"},
        "quantity": {"type": "integer", "minimum": 0},
        "kind": {"type": "string", "enum": ["new", "old", "any"]},
        "place": {"type": "object", "properties": {"city": {"type": "string"}, "zip": {"type": "string"}}},
    }
    parameters = {"type": "object", "properties": properties, "required": ["order_id"], "additionalProperties": False}
    function = {"name": f"tool_{number}", "description": f"Does the work of tool {number}", "parameters": parameters}
    return {"type": "function", "function": function}


def _calls(number: int) -> list[tuple[str, dict[str, Any]]]:
    wanted = (0, 1, 1, 1, 1, 2)[number % 6]
    city = _WORDS[number % len(_WORDS)]
    arguments = {"order_id": f"ORD-{number}", "quantity": number % 9, "kind": "new", "place": {"city": city}}
    # In half of the rows with two calls, both call the same tool.
    return [
        (f"tool_{(number + n * (number % 4 // 2)) % 7}", {**arguments, "quantity": number % 9 + n})
        for n in range(wanted)
    ]


def _write(calls: list[tuple[str, dict[str, Any]]]) -> str:
    if not calls:
        return "Hello, how can I help?"
    texts = (json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False) for name, arguments in calls)
    return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)


def _fail(number: int, draw: random.Random) -> str:
    calls = _calls(number) or [("tool_0", {"order_id": "ORD-0"})]
    name, arguments = calls[0]
    kind = draw.randrange(6)
    if kind == 0:
        return "I am not sure what you mean."
    if kind == 1:
        return _write(calls)[:-20]
    if kind == 2:
        return _write([("tool_9", arguments), *calls[1:]])
    if kind == 3:
        return _write([(name, {**arguments, "order_id": "ORD-X"}), *calls[1:]])
    if kind == 4:
        return _write([*calls, calls[0]])
    return _write([(name, {"order_id": arguments["order_id"], "colour": "blue"}), *calls[1:]])


if __name__ == "__main__":
    raise SystemExit(main())
