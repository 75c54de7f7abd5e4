"""Measure accuracy and time of training by how batches are filled: what do batches of rows with one prefix cost?

`1`, `2` ...: values of `train.groups_per_batch`. `conversations`: null, the default, which keeps a conversation's
turns together. `turns`: SFTTrainer's order, which mixes all turns. All see the same turns, number of steps and
learning rate, and are scored on rows of held_out.yaml, which the script generates.

customer_service has one set of tools. The script therefore splits its single requests between four agents with one or
two tools each: a batch of one agent's rows is as one-sided as grouping can make it. `--whole` takes the conversations
as they are instead, as configs/cpu.yaml does.

    .venv/bin/python scripts/compare_grouping.py                       # SmolLM2, about an hour on two cores
    .venv/bin/python scripts/compare_grouping.py --seeds 1 --rows 40   # a quick look
    .venv/bin/python scripts/compare_grouping.py --whole --batches conversations turns
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

AGENTS = (
    ("query_order", "cancel_order"),
    ("query_logistics", "transfer_to_human"),
    ("request_refund", "update_address"),
    ("query_stock",),
)
DATA = "data/customer_service"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=".cache/models/SmolLM2-135M-Instruct")
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3))
    parser.add_argument("--rows", type=int, default=320, help="number of training turns (default: %(default)s)")
    parser.add_argument("--judge", type=int, help="number of held-out turns to score (default: all)")
    parser.add_argument("--whole", action="store_true", help="take customer_service as it is, with chat.tools: names")
    parser.add_argument("--batch", type=int, default=8)
    kinds = ("1", "2", "3", "4", "conversations", "turns")
    parser.add_argument("--batches", nargs="+", choices=kinds, default=("1", "2", "conversations"))
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="JSON file to write the figures to as well")
    options = parser.parse_args()

    from rich.console import Console

    from toolhone.cli.terminal import prepare_libraries
    from toolhone.data.generate.rows import generate

    prepare_libraries()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        held_out_rows = Path(folder, "held_out.jsonl")
        generate(Path(DATA, "held_out.yaml"), Console(stderr=True), out=held_out_rows)
        for seed in options.seeds:
            for batches in options.batches:
                found.append(train_and_score(options, held_out_rows, seed, batches))
                print(json.dumps(found[-1]), file=sys.stderr)
                if options.json:
                    options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    show(found)
    return 0


def train_and_score(options: argparse.Namespace, held_out_rows: Path, seed: int, batches: str) -> dict[str, Any]:
    """Train one adapter and score it on held-out rows."""
    from rich.console import Console
    from transformers import set_seed

    from toolhone.chat.probe import make_renderer
    from toolhone.chat.render import render_all
    from toolhone.config import Config
    from toolhone.data.read import turns
    from toolhone.data.split import make_splits
    from toolhone.evaluate.match import score
    from toolhone.evaluate.predict import predict
    from toolhone.jsonl import read_jsonl
    from toolhone.pretrained import load_tokenizer
    from toolhone.records import Prediction
    from toolhone.run_folder import RunFolder
    from toolhone.train.hardware import choose_hardware
    from toolhone.train.log import TrainLog
    from toolhone.train.model import load_model
    from toolhone.train.trainer import make_trainer

    config = Config.model_validate(
        {
            "name": "grouping",
            "seed": seed,
            "model": {"name": options.model},
            "data": {
                "train": [f"{DATA}/train.jsonl"],
                "test": [str(held_out_rows)],
                "tools": f"{DATA}/tools.json",
                "validation": 0,
            },
            "train": {
                "epochs": options.epochs,
                "batch_size": options.batch,
                "groups_per_batch": int(batches) if batches.isdecimal() else None,
                "answer_weight": 0.3 if options.whole else 1.0,
                "learning_rate": options.rate,
                "scheduler": "linear",
            },
            "chat": {"tools": "names" if options.whole else "schema"},
            "evaluate": {"batch_size": 32, "max_new_tokens": 96},
        }
    )
    hardware = choose_hardware(config.model, cudnn_attention=config.cuda.cudnn_attention)
    splits = make_splits(config.data)
    take = turns if options.whole else of_agents
    learned, held_out = take(splits.train)[: options.rows], take(splits.test)[: options.judge]
    renderer = make_renderer(load_tokenizer(config.model), config.chat, config.model.name)
    rows, _ = render_all(renderer, learned, config.chat)
    set_seed(seed)
    model = load_model(config.model, hardware)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        log = TrainLog(run.train_log, Console(quiet=True))
        trainer = make_trainer(config, hardware, model, renderer.tokenizer, rows, [], run, [log])
        if batches == "turns":
            trainer.prefix_sampler = None
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        trainer.model.set_attn_implementation("sdpa")
        answers = run.predictions("tuned")
        predict(
            trainer.model,
            renderer,
            held_out,
            "tuned",
            config.evaluate,
            answers,
            Console(quiet=True),
            fingerprint=f"{seed}-{batches}",
        )
        predictions = {row["id"]: Prediction.from_json(row) for _, row in read_jsonl(answers)}
        # The log counts up.
        tokens = max(json.loads(line).get("computed_tokens", 0) for line in run.train_log.open(encoding="utf-8"))
    scores = [score(example, predictions[example.id], renderer.format.name) for example in held_out]
    return {
        "seed": seed,
        "batches": batches,
        "rows": len(rows),
        "steps": trainer.state.global_step,
        "computed_tokens": tokens,
        "seconds": round(seconds),
        "scored": len(scores),
        "exact": sum(one.exact for one in scores),
        "names_right": sum(one.names_right for one in scores),
    }


def of_agents(conversations: Sequence[Any]) -> list[Any]:
    """The single-call turns, each with only the tools of the agent that makes its call."""
    from toolhone.data.read import turns

    agent_of = {name: agent for agent in AGENTS for name in agent}
    found = []
    for example in turns(conversations):
        if len(example.turn.tool_calls) == 1 and len(example.prompt) == 2:
            agent = agent_of[example.turn.tool_calls[0].name]
            found.append(replace(example, tools=tuple(tool for tool in example.tools if tool.name in agent)))
    return found


def show(found: Sequence[dict[str, Any]]) -> None:
    """Print a row for each run, and the mean of each kind of batch."""
    print("| seed | batches of | steps | computed tokens | seconds | exact match | tool names |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for one in found:
        exact, names = (
            f"{one[key] / one['scored']:.1%} ({one[key]}/{one['scored']})" for key in ("exact", "names_right")
        )
        print(
            f"| {one['seed']} | {one['batches']} | {one['steps']} | {one['computed_tokens']:,} | {one['seconds']} "
            f"| {exact} | {names} |"
        )
    for batches in dict.fromkeys(one["batches"] for one in found):
        runs = [one for one in found if one["batches"] == batches]
        exact = sum(one["exact"] / one["scored"] for one in runs) / len(runs)
        seconds = sum(one["seconds"] for one in runs) / len(runs)
        print(f"{batches}: {exact:.1%} exact and {seconds:.0f} s on average")


if __name__ == "__main__":
    sys.exit(main())
