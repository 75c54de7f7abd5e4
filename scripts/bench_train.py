"""Measure training speed: toolhone's ways of packing, and TRL's SFTTrainer at its best on this machine.

All get the same rows, model, number type and learning rate. Each measurement runs in its own process, which gives its
peak memory. The contenders take turns, so that a machine whose speed drifts is fair to all. Warm-up steps do not count.
Each contender runs at every batch size that fits in memory, and all are compared with TRL at its best.

On a GPU, TRL packs rows into sequences (packing_strategy="bfd") and uses FlashAttention for variable lengths, without
activation checkpointing. If FlashAttention is missing, PyTorch's own attention takes its place, with packed rows and
with padded ones; the table says so. On a CPU, TRL runs as its documentation uses it.

    .venv/bin/python scripts/bench_train.py                                  # on a CPU: SmolLM2-135M
    .venv/bin/python scripts/bench_train.py --shape qwen3-0.6b llama-3.2-1b  # random weights of these shapes, no hub
    .venv/bin/python scripts/bench_train.py --shape llama-3.2-1b --workload dense --batch 4   # MFU: 8k tokens a step
    .venv/bin/python scripts/bench_train.py --largest 16                     # only the largest batch within 16 GB

MFU is model FLOPs a second, divided by the card's peak for dense bfloat16 products (PaLM, arXiv 2204.02311, appendix
B). Counted for LoRA, with multiply and add as two operations:

    4 W T            frozen weights: the forward pass, and the gradient of the layer's input
    6 A T            the adapter's weights: the same, and their own gradient
    12 d L P         attention of L layers with d = heads x head size, for the P pairs of a query and a key that it sees
    4 V h N          the LM head, for the N labelled tokens

T counts computed tokens: a shared prefix counts once, and padding counts nothing. Recomputation counts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from random_models import SHAPES, WORKLOADS, data_of, make_model, rendered_rows

OURS = ("toolhone prefix_tree", "toolhone rows", "toolhone none")
TRL_GPU = ("TRL bfd, flash attention", "TRL bfd, sdpa", "TRL padded, sdpa")
TRL_CPU = ("TRL as documented",)
CONTENDERS = (*OURS, *TRL_GPU, *TRL_CPU)
DEFAULT = {
    "cpu": {"contenders": (*OURS, *TRL_CPU), "batch": (4, 8), "memory": 16.0, "warmup": 1, "steps": 3, "turns": 2},
    "cuda": {"contenders": (*OURS[:2], *TRL_GPU), "batch": (16,), "memory": 0.0, "warmup": 10, "steps": 30, "turns": 1},
}
"""What is measured on each device without flags. `memory` 0 means the memory of the GPU."""

PEAK_TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H800": 989.0,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A10G": 70.0,
    "A10": 125.0,
    "A40": 150.0,
    "RTX 6000 Ada": 364.0,
    "RTX 5090": 209.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Dense bfloat16 products with float32 sums, in 10^12 operations a second, from NVIDIA's data sheets. The first name
that is part of the card's name counts. --peak-tflops replaces it."""


def main() -> int:
    options = parse()
    if options.measure:
        print(json.dumps(measure(options.measure, options)))
        return 0
    models = options.shape or [options.model]
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for model in models:
            options.model = str(make_model(Path(scratch) / model, model)) if options.shape else model
            for workload in options.workload:
                options.workload_now = workload
                if options.largest:
                    show_largest({name: largest_batch(name, options) for name in options.contenders}, options)
                    continue
                found += compare(options)
                show(found, Path(options.model).name, options)
                if options.json:
                    options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0 if options.largest or any("failed" not in row for row in found) else 1


def parse() -> argparse.Namespace:
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # the question alone does not start CUDA
    import torch

    usual = DEFAULT["cuda" if torch.cuda.is_available() else "cpu"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default=".cache/models/SmolLM2-135M-Instruct", help="folder of a model (default: %(default)s)")
    add("--shape", choices=SHAPES, nargs="+", help="take random weights of these shapes instead of --model")
    add("--workload", choices=WORKLOADS, nargs="+", default=["customer_service"], help="rows (default: %(default)s)")
    add("--contenders", choices=CONTENDERS, nargs="+", default=usual["contenders"], help="default: %(default)s")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="config keys of toolhone's contenders")
    add(
        "--batch",
        type=int,
        nargs="+",
        default=usual["batch"],
        help="batch sizes in rows, rising (default: %(default)s)",
    )
    about = "leave out batches that would take more gigabytes; 0: the GPU's memory (default: %(default)s)"
    add("--memory", type=float, default=usual["memory"], metavar="GB", help=about)
    add("--warmup", type=int, default=usual["warmup"], help="steps that do not count (default: %(default)s)")
    add("--steps", type=int, default=usual["steps"], help="steps that count (default: %(default)s)")
    add("--turns", type=int, default=usual["turns"], help="number of runs of each contender (default: %(default)s)")
    about = "how the rows of files write tools, as chat.tools (default: schema)"
    add("--tools", choices=("schema", "signatures", "names"), default="schema", help=about)
    add("--peak-tflops", type=float, help="the card's peak for MFU (default: from a table of cards)")
    add("--largest", type=float, metavar="GB", help="find the largest batch within this many gigabytes")
    add("--json", type=Path, help="JSON file to write the figures to as well")
    add("--measure", help=argparse.SUPPRESS)  # the child process: a contender's name
    options = parser.parse_args()
    options.workload_now = options.workload[0]
    return options


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure each contender at each batch size, in turns, up to the batch that would take too much memory."""
    found: list[dict[str, Any]] = []
    largest = dict.fromkeys(options.contenders, max(options.batch))
    for _ in range(options.turns):
        for batch in options.batch:
            for name in options.contenders:
                if batch > largest[name]:
                    continue
                one = run_child(name, options, batch)
                found.append(one)
                if "failed" in one:
                    largest[name] = batch - 1
                    continue
                following = min((more for more in options.batch if batch < more <= largest[name]), default=batch)
                # A batch's memory grows with its size, except the model's own part.
                needed = one["peak_memory_gb"] * following / batch
                if following > batch and needed > (options.memory or one["memory_gb"]):
                    largest[name] = batch
                    print(f"{name}: batch {following} may take {needed:.0f} GB, left out (--memory)", file=sys.stderr)
    return found


def largest_batch(name: str, options: argparse.Namespace) -> int:
    """The largest power of two whose steps stay within `options.largest` GB; 0 if not even one row does."""
    options.steps = options.warmup = 1
    batch = 0
    while batch < 512:
        found = run_child(name, options, max(1, 2 * batch))
        if "failed" in found or found["peak_memory_gb"] > options.largest:
            break
        batch = found["batch"]
    return batch


def run_child(name: str, options: argparse.Namespace, batch: int) -> dict[str, Any]:
    """Measure one contender in its own process, and report if it fails or runs out of memory."""
    command = [sys.executable, __file__, "--measure", name, "--model", options.model, "--steps", str(options.steps)]
    command += ["--warmup", str(options.warmup), "--workload", options.workload_now, "--tools", options.tools]
    command += ["--batch", str(batch)] + (["--set", *options.set] if options.set else [])
    command += ["--peak-tflops", str(options.peak_tflops)] if options.peak_tflops else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    place = {"model": Path(options.model).name, "workload": options.workload_now, "contender": name, "batch": batch}
    if done.returncode != 0:
        reason = done.stderr.strip().split("\n")[-1] if done.returncode > 0 else f"killed by signal {-done.returncode}"
        print(f"{name}, batch {batch}: {reason}", file=sys.stderr)
        return {**place, "failed": reason}
    found: dict[str, Any] = {**place, **json.loads(done.stdout.strip().split("\n")[-1])}
    rate, memory = found["examples_per_second"], found["peak_memory_gb"]
    print(f"{name}: {place['workload']}, batch {batch}, {rate:.3f} examples/s, {memory:.1f} GB", file=sys.stderr)
    return found


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train for some steps, and time all but the first ones."""
    from toolhone.cli.terminal import prepare_libraries

    prepare_libraries()
    import torch
    from transformers import PrinterCallback, TrainerCallback

    from toolhone.pretrained import load_model_config
    from toolhone.train.hardware import choose_hardware, peak_memory_gb
    from toolhone.train.sizes import model_sizes

    (batch,) = options.batch
    config = bench_config(name, options, batch)
    hardware = choose_hardware(config.model, cudnn_attention=config.cuda.cudnn_attention)
    model_config = load_model_config(config.model)
    count = batch * (options.warmup + options.steps + 1)
    rows = rendered_rows(options.workload_now, count, config, model_config.get_text_config().vocab_size)
    batches: list[dict[str, Any]] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.ends: list[float] = []
            self.seen: list[int] = []  # number of batches at the end of each step
            self.losses: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if hardware.device == "cuda" and len(self.ends) in (options.warmup - 1, options.warmup + options.steps - 1):
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())
            self.seen.append(len(batches))

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                self.losses.append(logs["loss"])

    with tempfile.TemporaryDirectory() as folder:
        build = toolhone_trainer if name in OURS else trl_trainer
        trainer, attention = build(name, config, hardware, rows, Path(folder), batch)
        clock = Clock()
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        keep_batches(trainer, batches)
        trainer.train()
    seconds = clock.ends[options.warmup + options.steps - 1] - clock.ends[options.warmup - 1]
    counted = batches[clock.seen[options.warmup - 1] : clock.seen[options.warmup + options.steps - 1]]
    work = [work_of(one) for one in counted]
    total = {key: sum(one[key] for one in work) for key in work[0]}
    flops = training_flops(model_sizes(config, model_config), model_config, total)
    peak = options.peak_tflops or peak_tflops(torch.cuda.get_device_name()) if hardware.device == "cuda" else None
    return {
        "attention": attention,
        "steps": options.steps,
        "examples_per_second": total["examples"] / seconds,
        "logical_tokens_per_second": total["logical_tokens"] / seconds,
        "computed_tokens_per_second": total["computed_tokens"] / seconds,
        "logical_to_computed": total["logical_tokens"] / total["computed_tokens"],
        "seconds_per_step": seconds / options.steps,
        "tflops_per_second": flops / seconds / 1e12,
        "peak_tflops": peak,
        "mfu": flops / seconds / (peak * 1e12) if peak else None,
        "peak_memory_gb": peak_memory_gb(hardware.device),
        "memory_gb": torch.cuda.mem_get_info()[1] / 1e9 if hardware.device == "cuda" else None,
        "last_loss": clock.losses[-1],
        "device": hardware.describe(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }


def bench_config(name: str, options: argparse.Namespace, batch: int) -> Any:
    """The config of a contender. TRL's ones take the model, the adapter and the learning rate from it."""
    from toolhone.config_file import load_config

    values = {
        "name": "bench",
        "model": {"name": options.model},
        "data": data_of(options.workload_now),
        "chat": {"tools": options.tools},
        "train": {
            "max_steps": options.warmup + options.steps,
            "batch_size": batch,
            "packing": name.removeprefix("toolhone ") if name in OURS else "none",
            "scheduler": "constant",
            "warmup": 0,
            "learning_rate": 2e-4,
            "log_every": options.warmup + options.steps,
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.yaml"
        path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
        return load_config(path, options.set if name in OURS else [])


def keep_batches(trainer: Any, batches: list[dict[str, Any]]) -> None:
    """Keep the small tensors of every batch. They are read after the last step, so nothing waits for the GPU."""
    step = trainer.training_step

    def keeping(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        wanted = ("labels", "position_ids", "attention_mask", "examples", "logical_tokens", "computed_tokens")
        batches.append({key: inputs[key] for key in wanted if key in inputs})
        return step(model, inputs, *args, **kwargs)

    trainer.training_step = keeping


def work_of(batch: dict[str, Any]) -> dict[str, int]:
    """Count a batch: examples, logical and computed tokens, labels, and pairs of a query and a key that it sees.

    A token sees itself and the tokens before it in its row, which its position counts.
    """
    found = {"labels": int((batch["labels"] != -100).sum())}
    if "attention_mask" in batch and batch["attention_mask"].dim() == 2:
        lengths = batch["attention_mask"].sum(dim=1)
        tokens = int(lengths.sum())
        pairs = int((lengths * (lengths + 1) // 2).sum())
        return {**found, "examples": len(lengths), "logical_tokens": tokens, "computed_tokens": tokens, "pairs": pairs}
    positions = batch["position_ids"]
    pairs = int((positions + 1).sum())
    if "examples" in batch:
        counts = {key: int(batch[key]) for key in ("examples", "logical_tokens", "computed_tokens")}
        return {**found, **counts, "pairs": pairs - (positions.numel() - counts["computed_tokens"])}  # without padding
    tokens = positions.numel()
    examples = int((positions == 0).sum())
    return {**found, "examples": examples, "logical_tokens": tokens, "computed_tokens": tokens, "pairs": pairs}


def training_flops(sizes: Any, model_config: Any, work: dict[str, int]) -> float:
    """The operations of a forward and backward pass, as this file's docstring counts them."""
    text = model_config.get_text_config()
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    layers = work["computed_tokens"] * (4 * sizes.body + 6 * sizes.adapter)
    attention = 12 * width * text.num_hidden_layers * work["pairs"]
    return float(layers + attention + 4 * text.vocab_size * text.hidden_size * work["labels"])


def peak_tflops(card: str) -> float | None:
    """The card's peak from the table; None if it is unknown."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if name.lower() in card.lower()), None)


def toolhone_trainer(name: str, config: Any, hardware: Any, rows: Any, folder: Path, batch: int) -> tuple[Any, str]:
    """toolhone's trainer, as `toolhone train` makes it."""
    from rich.console import Console

    from toolhone.pretrained import load_tokenizer
    from toolhone.run_folder import RunFolder
    from toolhone.train.log import TrainLog
    from toolhone.train.model import load_model
    from toolhone.train.trainer import make_trainer

    run = RunFolder(folder)
    model = load_model(config.model, hardware)
    log = TrainLog(run.train_log, Console(quiet=True))
    trainer = make_trainer(config, hardware, model, load_tokenizer(config.model), rows, [], run, [log])
    return trainer, tree_attention(trainer) if name == OURS[0] else config.model.attention


def tree_attention(trainer: Any) -> str:
    """How a trainer of prefix trees computes attention: "flex" or "blocks"."""
    return "flex" if getattr(getattr(trainer.data_collator, "attention", None), "flex", False) else "blocks"


def trl_trainer(name: str, config: Any, hardware: Any, rows: Any, folder: Path, batch: int) -> tuple[Any, str]:
    """SFTTrainer. As documented, it gets texts and its defaults, except those that cut rows or change the task. At its
    best, it gets token ids and labels, and neither checkpointing nor padding where rows can be packed."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from toolhone.pretrained import load_tokenizer
    from toolhone.train.adapter import lora_config

    documented, packs = name in TRL_CPU, " bfd" in name
    if documented and not rows[0].prompt_text:
        raise SystemExit("it takes texts, and this workload has token ids only")
    if documented:
        columns = [{"prompt": row.prompt_text, "completion": row.completion_text} for row in rows]
    else:
        columns = [{"input_ids": row.tokens.ids, "labels": row.tokens.labels} for row in rows]
    model, attention = load_for_trl(config, hardware, flash="flash" in name)
    longest = max(len(row) for row in rows)
    average = sum(len(row) for row in rows) / len(rows)
    on_gpu = hardware.device == "cuda"
    faster = {
        "activation_checkpointing": False,
        "optim": "adamw_torch_fused" if on_gpu else "adamw_torch",
        "dataloader_num_workers": 2 if on_gpu else 0,
    }
    if packs:  # one packed sequence of about `batch` rows
        faster |= {"packing": True, "packing_strategy": "bfd", "max_length": max(longest, round(batch * average))}
    arguments = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=1 if packs else batch,
        max_steps=config.train.max_steps,
        learning_rate=config.train.learning_rate,
        lr_scheduler_type="constant",
        use_cpu=not on_gpu,
        bf16=hardware.dtype == torch.bfloat16,
        logging_steps=config.train.max_steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **({"max_length": None} if not packs else {}),
        **({"optim": "adamw_torch"} if documented else faster),
    )
    if on_gpu:
        arguments._n_gpu = 1  # otherwise TRL refuses a machine with several GPUs
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(columns),
        processing_class=load_tokenizer(config.model),
        peft_config=lora_config(config.lora, model),
    )
    return trainer, attention


def load_for_trl(config: Any, hardware: Any, *, flash: bool) -> tuple[Any, str]:
    """The model with the newest FlashAttention that loads, or with sdpa. Returns the attention's name too."""
    import torch
    from transformers import AutoModelForCausalLM

    # FlashAttention 3 is for Hopper GPUs. On others it may load, and fail in the first step.
    is_hopper = hardware.device == "cuda" and torch.cuda.get_device_capability()[0] == 9
    newest = ("flash_attention_3", "flash_attention_2") if is_hopper else ("flash_attention_2",)
    tried = []
    for attention in newest if flash else ("sdpa",):
        try:  # transformers takes the hub's kernels if the package kernels is installed, and flash-attn is not
            model = AutoModelForCausalLM.from_pretrained(
                config.model.name, dtype=hardware.dtype, attn_implementation=attention, trust_remote_code=False
            )
        except Exception as error:  # noqa: BLE001  # any loader of kernels runs here
            tried.append(f"{attention}: {str(error).strip().partition(chr(10))[0][:80]}")
            continue
        model.config.use_cache = False
        return model, model.config._attn_implementation
    raise SystemExit(f"no FlashAttention here ({'; '.join(tried)})")


def show(found: list[dict[str, Any]], model: str, options: argparse.Namespace) -> None:
    """Print the medians of a model and workload as a Markdown table."""
    rows = [row for row in found if (row["model"], row["workload"]) == (model, options.workload_now)]
    device = next((row["device"] for row in rows if "device" in row), "no contender ran")
    print(f"\n{model}, {options.workload_now}, {device}, {platform.machine()}, {date.today().isoformat()}")
    print(f"{options.warmup} warm-up steps, {options.steps} counted\n")
    head = ("", "attention", "batch", "examples/s", "TRL's best", "logical tokens/s", "logical : computed", "MFU")
    print(f"| {' | '.join((*head, 'peak GB', 'last loss'))} |")
    print("| --- " * (len(head) + 2) + "|")
    ran = [row for row in rows if "failed" not in row]
    best = max((rate_of(ran, row) for row in ran if row["contender"] not in OURS), default=None)
    shown = set()
    for row in ran:
        key = row["contender"], row["batch"]
        if key in shown:
            continue
        shown.add(key)
        rate = rate_of(ran, row)
        cells = [
            row["contender"],
            row["attention"],
            str(row["batch"]),
            f"{rate:.3f}",
            f"{rate / best:.1f}x" if best else "-",
            f"{median_of(ran, row, 'logical_tokens_per_second'):,.0f}",
            f"{row['logical_to_computed']:.1f}",
            f"{median_of(ran, row, 'mfu'):.1%}" if row["mfu"] else "-",
            f"{median_of(ran, row, 'peak_memory_gb'):.1f}",
            f"{row['last_loss']:.3f}",
        ]
        print(f"| {' | '.join(cells)} |")
    for row in rows:
        if "failed" in row:
            print(f"| {row['contender']} | did not run: {row['failed']} | {row['batch']} | | | | | | | |")


def rate_of(rows: list[dict[str, Any]], like: dict[str, Any]) -> float:
    """The median examples per second of a contender at a batch size."""
    return median_of(rows, like, "examples_per_second")


def median_of(rows: list[dict[str, Any]], like: dict[str, Any], key: str) -> float:
    same = [row[key] for row in rows if (row["contender"], row["batch"]) == (like["contender"], like["batch"])]
    return statistics.median(same)


def show_largest(batches: dict[str, int], options: argparse.Namespace) -> None:
    """Print the largest batch of each contender."""
    name = f"{Path(options.model).name}, {options.workload_now}"
    print(f"\n{name}, largest batch (a power of two) within {options.largest:g} GB, {date.today()}\n")
    print("| | batch |")
    print("| --- | --- |")
    for contender, batch in batches.items():
        print(f"| {contender} | {batch} |")


if __name__ == "__main__":
    sys.exit(main())
