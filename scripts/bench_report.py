"""Measure the time and the size of a report: `python scripts/bench_report.py [--rows 10000] [--wrong 1.0]`.

The report shows two models' answers to generated rows in two languages, with every kind of failed row. The script
prints wall-clock and processor seconds, megabytes, and how failed rows are shown. It exits with 1 above 15 s or 10 MB.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from toolhone.cli.terminal import gc_disabled
from toolhone.data.read import turns
from toolhone.evaluate.match import score
from toolhone.evaluate.metrics import metrics
from toolhone.jsonl import write_conversations, write_json, write_jsonl
from toolhone.records import Conversation, Example, Message, Prediction, Tool, ToolCall
from toolhone.report.report import write_report
from toolhone.run_folder import RunFolder

MAX_SECONDS, MAX_BYTES = 15.0, 10_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the report.")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument(
        "--wrong", type=float, default=1.0, help="share of wrong answers of the tuned model, from 0 to 1"
    )
    parser.add_argument("--keep", type=Path, help="folder for the run, which then stays")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        run = RunFolder(options.keep or Path(made))
        _make_run(run, options.rows, options.wrong)
        started, used = time.perf_counter(), time.process_time()
        with gc_disabled():  # as the command does
            write_report(run.path)
        seconds, used, size = time.perf_counter() - started, time.process_time() - used, run.report.stat().st_size
        page = run.report.read_text(encoding="utf-8")
    full, listed = page.count('<article class="row"'), page.count('<tr class="row"')
    print(f"{options.rows:,} rows: {seconds:.1f} s ({used:.1f} s of processor), {size / 1e6:.1f} MB")
    print(f"failed rows: {full:,} in full, {listed:,} a line each")
    return 0 if seconds < MAX_SECONDS and size < MAX_BYTES else 1


def _make_run(run: RunFolder, rows: int, wrong: float) -> None:
    conversations = list(_conversations(rows, random.Random(7)))
    write_conversations(run.split("test"), conversations)
    examples, scores = turns(conversations), {}
    for model, share in (("base", 0.9), ("tuned", wrong)):
        source = random.Random(model)
        answers = (_answer(example, model, source.random() < share, source) for example in examples)
        scores[model] = [score(e, answer, "hermes") for e, answer in zip(examples, answers, strict=True)]
        write_jsonl(run.scores(model), (row.to_json() for row in scores[model]))
    write_json(run.manifest, {"judged": "test", "stages": {}})
    write_json(run.metrics, metrics(scores, {}))
    steps = ({"step": n, "loss": 2 / n, "tokens_per_second": 900.0} for n in range(1, 1001))
    write_jsonl(run.train_log, steps)


def _conversations(rows: int, source: random.Random) -> Iterator[Conversation]:
    text = {"type": "string"}
    schema = {"type": "object", "properties": {"order_id": text, "address": text}, "required": ["order_id"]}
    tools = tuple(Tool(f"tool_{n:02d}", "订单 order", schema) for n in range(7))
    for number in range(rows):
        order = f"ORD-{source.randrange(10**8):08d}"
        chinese = number % 2 == 0
        ask = (
            f"帮我把订单 {order} 的收货地址改成上海市浦东新区世纪大道 100 号,谢谢"
            if chinese
            else f"please look at {order} for me"
        )
        arguments = {"order_id": order, **({"address": "上海市浦东新区世纪大道 100 号"} if chinese else {})}
        turn = Message("assistant", "", (ToolCall(tools[number % 7].name, arguments),))
        before = (Message("system", "你是客服 Agent,负责查询订单和物流。"), Message("user", ask))
        meta = {"language": "zh" if chinese else "en", "template": f"t{number % 50}"}
        yield Conversation(f"bench-{number:06d}", (*before, turn), tools, f"bench:{number + 1}", meta=meta)


def _answer(example: Example, model: str, is_wrong: bool, source: random.Random) -> Prediction:
    [call] = example.turn.tool_calls
    written = ToolCall(call.name, call.arguments)
    kind = source.randrange(4) if is_wrong else None
    if kind in (0, 1):
        digits = str(call.arguments["order_id"])
        written = ToolCall(call.name, {**call.arguments, "order_id": f"{digits[:-2]}{digits[-1]}{digits[-2]}0"})
    elif kind == 2:
        written = ToolCall("tool_06" if call.name != "tool_06" else "tool_05", call.arguments)
    body = json.dumps({"name": written.name, "arguments": written.arguments}, ensure_ascii=False)
    text = "好的,我来帮您。" if kind == 3 else f"<tool_call>\n{body}\n</tool_call>"
    return Prediction(example.id, model, text, "stop", 400, 40, 50.0)


if __name__ == "__main__":
    sys.exit(main())
