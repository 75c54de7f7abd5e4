"""Measure a training step on a CPU: the adapter's part of a layer fused, compared with PEFT's own forward pass.

    .venv/bin/python scripts/bench_fused_lora.py                        # five batches of configs/cpu.yaml
    .venv/bin/python scripts/bench_fused_lora.py --set model.dtype=bfloat16

Both run the same batches in turn, forward and backward; the first batch is a warm-up. In bfloat16 PEFT's pass runs
under autocast, as it does in Trainer.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from toolhone.chat.render import IGNORED
from toolhone.cli.terminal import prepare_libraries
from toolhone.config_file import load_config
from toolhone.prepare import prepare
from toolhone.run_folder import RunFolder
from toolhone.train.fused_lora import fuse_lora
from toolhone.train.log import TrainLog
from toolhone.train.loss import tree_loss
from toolhone.train.model import load_model
from toolhone.train.trainer import make_trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/cpu.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--batches", type=int, default=5, help="number of batches that count (default: %(default)s)")
    options = parser.parse_args()
    prepare_libraries()
    config = load_config(options.config, [*options.overrides, "model.device=cpu"])
    prepared = prepare(config, console=Console(quiet=True))
    model = load_model(config.model, prepared.hardware)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        log = TrainLog(run.train_log, Console(quiet=True))
        tokenizer = prepared.renderer.tokenizer
        trainer = make_trainer(config, prepared.hardware, model, tokenizer, prepared.train, [], run, [log])
        batches = list(islice(trainer.get_train_dataloader(), options.batches + 1))
        log.close()
    times = compare(trainer.model.train(), batches, prepared.hardware.dtype)
    tokens = sum(int(batch["computed_tokens"]) for batch in batches[1:]) / options.batches
    print(f"{config.model.name} on {prepared.hardware.describe()}, {tokens:.0f} computed tokens a step on average\n")
    print("| | s a step |\n| --- | --- |")
    for name, seconds in times.items():
        print(f"| {name} | {sum(seconds) / len(seconds):.2f} |")
    before, after = (sum(seconds) for seconds in times.values())
    print(f"\nratio {before / after:.2f}x")


def compare(model: Any, batches: list[dict[str, torch.Tensor]], dtype: torch.dtype) -> dict[str, list[float]]:
    """Seconds of every counted batch in either way; which goes first changes from batch to batch."""
    ways: dict[str, Callable[[Any], None]] = {"PEFT's own": multiply_apart, "one product": fuse_lora}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number, batch in enumerate(batches):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            ways[name](model)
            started = time.perf_counter()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32 and name == "PEFT's own"):
                loss = tree_loss(model, batch) / (batch["labels"] != IGNORED).sum()
            loss.backward()
            if number:
                times[name].append(time.perf_counter() - started)
            model.zero_grad()
    return times


def multiply_apart(model: Any) -> None:
    """Take back what `fuse_lora` did."""
    for layer in model.modules():
        if hasattr(layer, "lora_variant"):
            layer.cast_input_dtype_enabled = True
            layer.lora_variant.clear()


if __name__ == "__main__":
    main()
