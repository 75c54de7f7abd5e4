"""Measure training speed: toolhone's three ways of packing, and TRL's SFTTrainer as its documentation uses it.

All get the same rows, model, number type, optimizer and learning rate. Each measurement runs in its own process, which
gives its peak memory. The contenders take turns, so that a machine whose speed drifts is fair to all. The first step
of each is a warm-up and does not count. Each contender runs at every batch size that fits in memory, and all are
compared with TRL at its best.

    .venv/bin/python scripts/bench_train.py                        # SmolLM2-135M, on a GPU if there is one
    .venv/bin/python scripts/bench_train.py --random-llama 1b      # random weights of Llama-3.2-1B's shape, no hub
    .venv/bin/python scripts/bench_train.py --largest 16           # only the largest batch of each within 16 GB
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

CONTENDERS = ("toolhone prefix_tree", "toolhone rows", "toolhone none", "TRL as documented")
# hidden, inner, layers, heads, key-value heads of Llama-3.2
SHAPES = {"1b": (2048, 8192, 16, 32, 8), "3b": (3072, 8192, 28, 24, 8)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=".cache/models/SmolLM2-135M-Instruct")
    parser.add_argument("--random-llama", choices=SHAPES, help="take random weights of this shape instead of --model")
    parser.add_argument(
        "--batch", type=int, nargs="+", default=(4, 8), help="batch sizes in rows, rising (default: 4 8)"
    )
    parser.add_argument(
        "--memory",
        type=float,
        default=16,
        metavar="GB",
        help="leave out batches that would take more gigabytes (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", type=int, default=3, help="number of steps of each turn that count (default: %(default)s)"
    )
    parser.add_argument("--turns", type=int, default=2, help="number of runs of each contender (default: %(default)s)")
    parser.add_argument(
        "--tools", choices=("schema", "signatures", "names"), default="schema", help="as chat.tools (default: schema)"
    )
    parser.add_argument("--largest", type=float, metavar="GB", help="find the largest batch within this many gigabytes")
    parser.add_argument("--json", type=Path, help="JSON file to write the figures to as well")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # the child process: a contender's name
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        if options.random_llama:
            options.model = str(make_llama(Path(scratch) / options.random_llama, SHAPES[options.random_llama]))
        if options.largest:
            show_largest({name: largest_batch(name, options) for name in CONTENDERS}, options)
            return 0
        found = compare(options)
    show(found, options)
    return 0


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure each contender at each batch size, in turns, up to the batch that would take too much memory."""
    found: list[dict[str, Any]] = []
    largest = dict.fromkeys(CONTENDERS, max(options.batch))
    for _ in range(options.turns):
        for batch in options.batch:
            for name in CONTENDERS:
                if batch > largest[name]:
                    continue
                one = run_child(name, options, batch)
                if "failed" in one:
                    largest[name] = batch - 1
                    continue
                found.append(one)
                following = min((more for more in options.batch if batch < more <= largest[name]), default=batch)
                # A batch's memory grows with its size, except the model's own part.
                needed = one["peak_memory_gb"] * following / batch
                if following > batch and needed > options.memory:
                    largest[name] = batch
                    print(f"{name}: batch {following} may take {needed:.0f} GB, left out (--memory)", file=sys.stderr)
    return found


def largest_batch(name: str, options: argparse.Namespace) -> int:
    """The largest power of two whose steps stay within `options.largest` GB; 0 if not even one row does."""
    options.steps = 1
    batch = 0
    while batch < 512:
        found = run_child(name, options, max(1, 2 * batch))
        if "failed" in found or found["peak_memory_gb"] > options.largest:
            break
        batch = found["batch"]
    return batch


def run_child(name: str, options: argparse.Namespace, batch: int) -> dict[str, Any]:
    """Measure one contender in its own process, and report if it runs out of memory."""
    command = [sys.executable, __file__, "--measure", name, "--model", options.model, "--steps", str(options.steps)]
    command += ["--batch", str(batch), "--tools", options.tools]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().split("\n")[-1] if done.returncode > 0 else f"killed by signal {-done.returncode}"
        print(f"{name}: {reason}", file=sys.stderr)
        return {"contender": name, "failed": reason}
    found: dict[str, Any] = json.loads(done.stdout.strip().split("\n")[-1])
    rate, memory = found["examples_per_second"], found["peak_memory_gb"]
    print(f"{name}: batch {found['batch']}, {rate:.3f} examples/s, {memory:.1f} GB", file=sys.stderr)
    return found


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train a few steps and time all but the first."""
    from toolhone.cli.terminal import prepare_libraries

    prepare_libraries()
    import torch
    from transformers import PrinterCallback, TrainerCallback

    from toolhone.config import Config
    from toolhone.data.read import turns
    from toolhone.data.split import make_splits
    from toolhone.train.hardware import choose_hardware, peak_memory_gb

    (batch,) = options.batch
    config = Config.model_validate(
        {
            "name": "bench",
            "model": {"name": options.model},
            "data": {
                "train": ["data/customer_service/train.jsonl"],
                "test": ["data/customer_service/test.jsonl"],
                "tools": "data/customer_service/tools.json",
            },
            "chat": {"tools": options.tools},
            "train": {
                "max_steps": options.steps + 1,
                "batch_size": batch,
                "packing": name.removeprefix("toolhone ") if name.startswith("toolhone") else "none",
                "scheduler": "constant",
                "warmup": 0,
                "learning_rate": 2e-4,
            },
        }
    )
    hardware = choose_hardware(config.model, cudnn_attention=config.cuda.cudnn_attention)
    examples = turns(make_splits(config.data).train)

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.ends: list[float] = []
            self.losses: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if hardware.device == "cuda":
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                self.losses.append(logs["loss"])

    with tempfile.TemporaryDirectory() as folder:
        build = trl_as_documented if name.startswith("TRL") else toolhone_trainer
        trainer, tokens_a_row = build(config, hardware, examples, Path(folder), batch)
        clock = Clock()
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    seconds = clock.ends[-1] - clock.ends[0]
    rate = options.steps * batch / seconds
    return {
        "contender": name,
        "batch": batch,
        "examples_per_second": rate,
        "computed_tokens_per_second": rate * tokens_a_row,
        "peak_memory_gb": peak_memory_gb(hardware.device),
        "last_loss": clock.losses[-1],
        "device": hardware.describe(),
    }


def toolhone_trainer(config: Any, hardware: Any, examples: Any, folder: Path, batch: int) -> tuple[Any, float]:
    """toolhone's trainer on rendered rows, as `toolhone train` makes it."""
    from rich.console import Console

    from toolhone.chat.probe import make_renderer
    from toolhone.chat.render import render_all
    from toolhone.pretrained import load_tokenizer
    from toolhone.run_folder import RunFolder
    from toolhone.train.estimate import count_batches
    from toolhone.train.log import TrainLog
    from toolhone.train.model import load_model
    from toolhone.train.trainer import make_trainer

    renderer = make_renderer(load_tokenizer(config.model), config.chat, config.model.name)
    rows, _ = render_all(renderer, examples, config.chat)
    run = RunFolder(folder)
    model = load_model(config.model, hardware)
    log = TrainLog(run.train_log, Console(quiet=True))
    trainer = make_trainer(config, hardware, model, renderer.tokenizer, rows, [], run, [log])
    packed = [row.tokens for row in rows]
    order = list(trainer.prefix_sampler) if trainer.prefix_sampler else None
    return trainer, sum(batch.tokens for batch in count_batches(config, packed, order)) / len(rows)


def trl_as_documented(config: Any, hardware: Any, examples: Any, folder: Path, batch: int) -> tuple[Any, float]:
    """SFTTrainer on prompt and completion texts, with its defaults, except those that cut rows or change the task."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    from toolhone.chat.probe import make_renderer
    from toolhone.chat.render import render_all
    from toolhone.pretrained import load_tokenizer
    from toolhone.train.adapter import lora_config

    tokenizer = load_tokenizer(config.model)
    rows, _ = render_all(make_renderer(tokenizer, config.chat, config.model.name), examples, config.chat)
    texts = Dataset.from_list([{"prompt": row.prompt_text, "completion": row.completion_text} for row in rows])
    model = AutoModelForCausalLM.from_pretrained(config.model.name, dtype=hardware.dtype, trust_remote_code=False)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=batch,
            max_steps=config.train.max_steps,
            learning_rate=config.train.learning_rate,
            lr_scheduler_type="constant",
            optim="adamw_torch",
            max_length=None,
            use_cpu=hardware.device == "cpu",
            bf16=hardware.dtype == torch.bfloat16,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=texts,
        processing_class=tokenizer,
        peft_config=lora_config(config.lora, model),
    )
    return trainer, sum(len(row) for row in rows) / len(rows)


def make_llama(folder: Path, shape: tuple[int, int, int, int, int]) -> Path:
    """Random weights of a Llama-3.2 shape, with SmolLM2's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    hidden, inner, layers, heads, key_value_heads = shape
    tokenizer = AutoTokenizer.from_pretrained(".cache/models/SmolLM2-135M-Instruct", trust_remote_code=False)
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        dtype="bfloat16",
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def show(found: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the medians as a Markdown table, and write every figure with --json."""
    device = next((row["device"] for row in found if "device" in row), "no contender ran")
    print(f"\n{Path(options.model).name}, {device}, {platform.machine()}, {date.today().isoformat()}\n")
    print("| | batch | examples/s | compared with TRL's best | computed tokens/s | peak GB | last loss |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    keys = ("examples_per_second", "computed_tokens_per_second", "peak_memory_gb", "last_loss")
    medians = {
        (name, batch): [statistics.median(row[key] for row in rows) for key in keys]
        for name in CONTENDERS
        for batch in options.batch
        if (rows := [row for row in found if (row["contender"], row["batch"]) == (name, batch)])
    }
    best = max((rate for (name, _), (rate, *_) in medians.items() if name.startswith("TRL")), default=None)
    for (name, batch), (rate, tokens, memory, loss) in medians.items():
        ratio = f"{rate / best:.1f}x" if best else "-"
        print(f"| {name} | {batch} | {rate:.3f} | {ratio} | {tokens:.0f} | {memory:.1f} | {loss:.3f} |")
    for name in CONTENDERS:
        if not any(ran == name for ran, _ in medians):
            print(f"| {name} | did not run | | | | | |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def show_largest(batches: dict[str, int], options: argparse.Namespace) -> None:
    """Print the largest batch of each contender."""
    print(
        f"\n{Path(options.model).name}, largest batch (a power of two) within {options.largest:g} GB, {date.today()}\n"
    )
    print("| | batch |")
    print("| --- | --- |")
    for name, batch in batches.items():
        print(f"| {name} | {batch} |")


if __name__ == "__main__":
    sys.exit(main())
