"""Try toolhone on every model family: detect the chat format, train two steps, and evaluate the base and tuned model.

The models are tiny and random, their tokenizers and chat templates real (`family_models.py`). The rows are a few of
data/customer_service, and rows with parallel calls, text beside a call and a call without arguments. Prints a table:
each family is trained, or refused with a one-line reason. Exits with 1 if a family crashes.

    .venv/bin/python scripts/check_families.py                       # all families
    .venv/bin/python scripts/check_families.py qwen3 lfm2 --detect   # only detect their chat formats
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

import torch
from family_models import FAMILIES, FOLDER, fetch_templates, make_model
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from toolhone.chat.probe import make_renderer
from toolhone.config import Config, DataConfig, EvaluateConfig, ModelConfig, TrainConfig
from toolhone.errors import UserError
from toolhone.jsonl import write_json, write_jsonl
from toolhone.pipeline import run_experiment
from toolhone.pretrained import load_tokenizer
from toolhone.run_folder import RunFolder

ROOT = Path(__file__).parent.parent.absolute()
PING = "ping"
DATA = ROOT / "data" / "customer_service"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)} (default: all)")
    parser.add_argument("--detect", action="store_true", help="only detect the chat formats")
    parser.add_argument("--report", type=Path, help="JSON lines file to append each result to")
    options = parser.parse_args()
    unknown = [name for name in options.families if name not in FAMILIES]
    if unknown:
        parser.error(f"unknown family {unknown[0]!r}")
    disable_progress_bar()
    work = FOLDER / "work"
    work.mkdir(parents=True, exist_ok=True)
    fetch_templates()
    write_rows(work)
    report = options.report.absolute() if options.report else None
    os.chdir(work)
    crashed = []
    print(f"{'family':<22}{'format':<16}{'template':<32}{'seconds':>7}  result")
    for name in options.families or FAMILIES:
        started = time.monotonic()
        result = try_family(name, detect_only=options.detect)
        result["seconds"] = round(time.monotonic() - started)
        print("{family:<22}{format:<16}{template:<32}{seconds:>7}  {result}".format(**result), flush=True)
        if result["result"].startswith("CRASHED"):
            crashed.append(name)
        if report:
            with report.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result, ensure_ascii=False) + "\n")
    if crashed:
        print(f"Error: {', '.join(crashed)} crashed; see {work}/NAME.traceback", file=sys.stderr)
    return 1 if crashed else 0


def try_family(name: str, *, detect_only: bool) -> dict[str, Any]:
    """Return a row of the table."""
    row = {"family": name, "format": "-", "template": "-"}
    try:
        folder = make_model(name)
    except LookupError as error:
        return row | {"result": f"not tried: {error}"}
    config = config_of(name, folder)
    try:
        renderer = make_renderer(load_tokenizer(config.model), config.chat, name)
        parts = "+".join(renderer.parts)
        row |= {"format": renderer.format.name, "template": renderer.source + (f" ({parts})" if parts else "")}
        if detect_only:
            return row | {"result": renderer.note or "detected"}
        console = Console(file=io.StringIO(), width=200)
        run_experiment(config, resume=False, fresh=True, console=console)
        return row | {"result": f"trained; {scores(RunFolder(Path('runs') / name))}"}
    except UserError as error:
        return row | {"result": f"refused: {' '.join(str(error).split())[:400]}"}
    except Exception as error:  # noqa: BLE001 - a crash of one family is a row of the table
        Path(f"{name}.traceback").write_text(traceback.format_exc(), encoding="utf-8")
        return row | {"result": f"CRASHED: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    finally:
        shutil.rmtree(Path("runs") / name, ignore_errors=True)


def config_of(name: str, folder: Path) -> Config:
    return Config(
        name=name,
        model=ModelConfig(name=str(folder), device="cpu", dtype="float32"),
        data=DataConfig(train=("train.jsonl",), test=("test.jsonl",), tools="tools.json", validation=0),
        train=TrainConfig(max_steps=2, batch_size=4),
        evaluate=EvaluateConfig(max_new_tokens=8, batch_size=8),
    )


def scores(run: RunFolder) -> str:
    """Return how many rows the base and the tuned model answered, and the loss of both steps."""
    models = json.loads(run.metrics.read_text(encoding="utf-8"))["models"]
    log = [json.loads(line) for line in run.train_log.read_text(encoding="utf-8").splitlines()]
    losses = [f"{line['loss']:.2f}" for line in log if "loss" in line]
    answered = ", ".join(f"{name} {figures['rows']}" for name, figures in models.items())
    return f"rows answered: {answered}; losses {', '.join(losses)}"


def write_rows(folder: Path) -> None:
    """Write tools, and training and test rows of every kind of turn."""
    tools = json.loads((DATA / "tools.json").read_text(encoding="utf-8"))
    no_arguments = {
        "name": PING,
        "description": "tests the connection",
        "parameters": {"type": "object", "properties": {}},
    }
    write_json(folder / "tools.json", [*tools, {"type": "function", "function": no_arguments}])
    lines = (DATA / "train.jsonl").read_text(encoding="utf-8").splitlines()
    shop = sorted((json.loads(line) for line in lines), key=lambda row: len(json.dumps(row)))[:6]
    write_jsonl(
        folder / "train.jsonl", [*shop[:4], *(_row(kind, "A") for kind in ("parallel", "text", "no arguments"))]
    )
    write_jsonl(folder / "test.jsonl", [*shop[4:], *(_row(kind, "B") for kind in ("parallel", "text"))])


def _row(kind: str, series: str) -> dict[str, Any]:
    orders = [f"{series}-1", f"{series}-2"] if kind == "parallel" else [f"{series}-1"]
    functions = [{"name": "query_order", "arguments": json.dumps({"order_id": order})} for order in orders]
    if kind == "no arguments":
        functions = [{"name": PING, "arguments": "{}"}]
    calls = [{"id": f"call_{n}", "type": "function", "function": function} for n, function in enumerate(functions, 1)]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": '{"status": "shipped"}'} for call in calls]
    text = "Let me look." if kind == "text" else None
    return {
        "id": f"{kind} {series}",
        "messages": [
            {"role": "system", "content": "You answer for a shop."},
            {"role": "user", "content": f"Where is {' and '.join(orders)}?"},
            {"role": "assistant", "content": text, "tool_calls": calls},
            *results,
            {"role": "assistant", "content": "It is on its way."},
        ],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
