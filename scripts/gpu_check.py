"""Check toolhone on a GPU in ten minutes: ten steps, each with what it measured and its bound.

It needs no hub and no data but this repository's: the models have random weights. Each step runs in its own process
with a time limit, so a step that fails or hangs does not stop the others.

    .venv/bin/python scripts/gpu_check.py                     # all steps; prints a table, writes gpu_check.json
    .venv/bin/python scripts/gpu_check.py --step 3 10         # some of them
    .venv/bin/python scripts/gpu_check.py --cpu               # tries the script on a CPU, with tiny models

Exit code 0: nothing failed; 1: a step failed; 2: there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from bench_train import tree_attention
from random_models import data_of, make_model

BENCH = Path(__file__).parent / "bench_train.py"
TOTAL_S = 600
_KEPT_MODELS = ("tiny", "small", "llama-3.2-1b")


class Place(NamedTuple):
    """Where a step runs: the folder with the models, the device, and how large the step is."""

    folder: Path
    device: str

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def model(self, shape: str) -> str:
        """The folder of a model. On a CPU every shape is the tiny one."""
        return str(self.folder / "models" / (shape if self.on_gpu else "tiny"))


Figures = Iterator[dict[str, Any]]
"""What a step measured: `what`, `measured`, and `bound` with `holds`, if the figure has a bound."""


def at_most(what: str, measured: float, bound: float) -> dict[str, Any]:
    return {"what": what, "measured": measured, "bound": f"<= {bound:,g}", "holds": bool(measured <= bound)}


def at_least(what: str, measured: float, bound: float) -> dict[str, Any]:
    return {"what": what, "measured": measured, "bound": f">= {bound:,g}", "holds": bool(measured >= bound)}


def exactly(what: str, measured: float, wanted: float) -> dict[str, Any]:
    return {"what": what, "measured": measured, "bound": f"= {wanted:,g}", "holds": bool(measured == wanted)}


def note(what: str, measured: Any) -> dict[str, Any]:
    return {"what": what, "measured": measured}


class NotHereError(Exception):
    """The step cannot run on this machine or with this version. The message says why."""


def check_doctor(place: Place) -> Figures:
    from toolhone.doctor import diagnose

    checks = list(diagnose())
    failed = [f"{check.name}: {check.detail}" for check in checks if check.status == "FAIL"]
    yield at_most("failed checks of toolhone doctor", len(failed), 0)
    if failed:
        yield note("failed", "; ".join(failed))
    if place.on_gpu:
        yield at_least("GPU found (1: yes)", int(checks[0].status == "ok"), 1)
    yield note("checks", "; ".join(f"{check.name}: {check.detail}" for check in checks))


def check_plan(place: Place) -> Figures:
    """The dry run of a training on customer_service: it times the model's layers on this machine."""
    from rich.console import Console

    from toolhone.plan import make_plan
    from toolhone.prepare import prepare

    config = config_of(place, place.model("llama-3.2-1b"), data={"train_rows": 40, "test_rows": 20})
    prepared = prepare(config, console=Console(quiet=True))
    started = time.perf_counter()
    plan = make_plan(prepared)
    yield at_most("seconds that the dry run takes", time.perf_counter() - started, 60)
    times = [stage.seconds or 0.0 for stage in plan.stages]
    yield at_least("stages with a time", sum(0 < seconds < math.inf for seconds in times), len(plan.stages))
    yield note("plan", "; ".join(plan.lines()))


def check_gradients(place: Place) -> Figures:
    """Gradients of a tree and of its rows, one by one, in float32 and in bfloat16. A mask with one wrong token must be
    found."""
    model = place.model("small")
    shared, own, rows = (700, 64, 16) if place.on_gpu else (60, 12, 4)
    batch = rows_of(place, model, rows, shared, own)
    exact = row_gradients(place, model, "float32", batch)
    yield at_most(
        "float32: tree against rows, relative", apart(tree_gradients(place, model, "float32", batch), exact), 1e-4
    )
    with one_wrong_end(shared):
        wrong = tree_gradients(place, model, "float32", batch)
    yield at_least("float32 with one token too many in view", apart(wrong, exact), 1e-3)
    of_tree = apart(tree_gradients(place, model, "bfloat16", batch), exact)
    of_rows = apart(row_gradients(place, model, "bfloat16", batch), exact)
    yield note("bfloat16: tree against float32", of_tree)
    yield note("bfloat16: rows against float32", of_rows)
    yield at_most("bfloat16: error of the tree / error of rows", of_tree / of_rows, 1.5)


def check_signal_and_resume(place: Place) -> Figures:
    """`toolhone train`, stopped by SIGTERM and resumed, against a training without a stop."""
    steps = 150 if place.on_gpu else 12
    folder = place.folder / "signal"
    folder.mkdir(exist_ok=True)
    for name in ("whole", "stopped"):
        values = config_values(
            place,
            str(place.folder / "models" / "tiny"),
            name=name,
            data={"train_rows": 24, "validation": 0.1, "validation_rows": 4, "test_rows": 4},
            train={"max_steps": steps, "batch_size": 4, "epochs": 1000, "save_every": steps, "log_every": 1},
            evaluate={"max_new_tokens": 8, "base": False},
        )
        (folder / f"{name}.yaml").write_text(json.dumps(values), encoding="utf-8")
    whole = start_training(folder, "whole").wait()
    yield exactly("exit code of a training", whole, 0)
    training = start_training(folder, "stopped")
    log = folder / "runs" / "stopped" / "train_log.jsonl"
    while training.poll() is None and len(losses_of(log)) < 3:
        time.sleep(0.01)
    training.send_signal(signal.SIGTERM)
    yield exactly("exit code after SIGTERM (130: stopped, with a checkpoint)", training.wait(), 130)
    before = len(losses_of(log))
    yield note("steps before the stop", before)
    yield exactly("exit code of the resumed training", start_training(folder, "stopped", "--resume").wait(), 0)
    stopped, never = losses_of(log), losses_of(folder / "runs" / "whole" / "train_log.jsonl")
    yield exactly("steps in the log of the resumed training", len(stopped), steps)
    pairs = zip(stopped, never, strict=False)
    yield at_most("largest relative difference of a loss", max(abs(a - b) / b for a, b in pairs), 1e-2)


def check_nf4(place: Place) -> Figures:
    """A training on NF4 weights with the paged 8-bit optimizer."""
    import torch
    from bitsandbytes.nn import Linear4bit

    model, steps = place.model("small"), 40 if place.on_gpu else 6
    train = {
        "max_steps": steps,
        "batch_size": 4,
        "learning_rate": 5e-3,
        "optimizer": "paged_adamw_8bit" if place.on_gpu else "adamw_torch",
        "log_every": 1,
        "epochs": 1000,
    }
    trainer = trainer_of(place, model, rows_of(place, model, 4, 60, 24), quantize="nf4", train=train)
    layers = sum(isinstance(module, Linear4bit) for module in trainer.model.modules())
    yield at_least("layers with 4-bit weights", layers, 1)
    others = {str(p.dtype) for p in trainer.model.parameters() if p.requires_grad} - {"torch.float32"}
    yield at_most("number types of the adapter other than float32", len(others), 0)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    yield note("optimizer", type(getattr(trainer.optimizer, "optimizer", trainer.optimizer)).__name__)
    yield note("loss", f"{losses[0]:.3f} to {losses[-1]:.3f}")
    yield at_most("last loss / first loss", losses[-1] / losses[0], 0.95)
    if place.on_gpu:
        yield note("peak memory, GB", torch.cuda.max_memory_allocated() / 1e9)


def check_launches(place: Place) -> Figures:
    """Launches of kernels in a forward and backward pass, and how often a step waits for the GPU."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile, record_function
    from transformers import TrainerCallback

    model, steps = place.model("llama-3.2-1b"), 2
    rows = rows_of(place, model, 16 * 12 if place.on_gpu else 24, *((700, 64) if place.on_gpu else (60, 12)))
    batch = 16 if place.on_gpu else 2
    train = {"max_steps": 10, "batch_size": batch, "log_every": 1000}
    trainer = trainer_of(place, model, rows, train=train)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if place.on_gpu else [])]
    profiler = profile(activities=activities)

    class Record(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step == 6:
                profiler.start()
            elif state.global_step == 6 + steps:
                profiler.stop()

    step = trainer.training_step

    def named(*args: Any, **kwargs: Any) -> Any:
        with record_function("forward and backward"):
            return step(*args, **kwargs)

    trainer.training_step = named
    trainer.add_callback(Record())
    trainer.train()
    events = profiler.events()
    # The GPU's own track has an event of this name too.
    on_cpu = [event for event in events if event.device_type == DeviceType.CPU]
    passes = [event.time_range for event in on_cpu if event.name == "forward and backward"]
    yield note("attention", tree_attention(trainer))
    if not place.on_gpu:
        yield note("operators in the profile", len(events))
        yield at_least("profiled steps", len(passes), steps)
        return
    launches = [event for event in on_cpu if "LaunchKernel" in event.name and event.name.startswith("cu")]
    inside = [event for event in launches if any(r.start <= event.time_range.start <= r.end for r in passes)]
    most = 3500 if tree_attention(trainer) == "flex" else 5200
    yield at_most("launches in a forward and backward pass", len(inside) / steps, most)
    yield note("launches in a whole step", len(launches) / steps)
    waits = [event.name for event in events if event.name.startswith("cuda") and "Synchronize" in event.name]
    # The profiler itself waits once when it stops.
    yield at_most("waits for the GPU in a step", max(0, len(waits) - 1) / steps, 4)
    blocking = [event.name for event in events if event.name == "cudaMemcpy"]
    yield note("blocking copies in a step", len(blocking) / steps)
    names = sorted({name: waits.count(name) for name in waits}.items())
    yield note("kinds of waits, both steps", ", ".join(f"{name} {count}" for name, count in names))


def check_speed(place: Place) -> Figures:
    """scripts/bench_train.py: trees against TRL at its best."""
    tree, trl = "toolhone prefix_tree", ["TRL bfd, flash attention", "TRL bfd, sdpa", "TRL padded, sdpa"]
    if not place.on_gpu:
        found = bench(place, "shared-700", 2, [tree, "TRL padded, sdpa"])
        yield at_least("contenders that ran", sum("failed" not in row for row in found), 2)
        return
    for workload, bound in (("shared-700", 4.0), ("distinct", 1.0)):
        found = bench(place, workload, 16, [tree, *trl])
        rates = {row["contender"]: row.get("examples_per_second", 0.0) for row in found}
        best = max(trl, key=lambda name: rates.get(name, 0.0))
        yield note(f"{workload}: examples/s", {name: round(rate, 2) for name, rate in rates.items()})
        yield note(
            f"{workload}: not run", "; ".join(f"{r['contender']}: {r['failed']}" for r in found if "failed" in r)
        )
        ratio = rates.get(tree, 0.0) / rates[best] if rates.get(best) else math.nan
        yield at_least(f"{workload}: examples/s, compared with {best}", ratio, bound)
    (dense,) = bench(place, "dense", 4, [tree])
    if "failed" in dense:
        raise RuntimeError(f"dense: {dense['failed']}")
    yield note("dense: TFLOPS", dense["tflops_per_second"])
    if dense["mfu"] is None:
        yield note("dense: MFU", "unknown peak of this card; scripts/bench_train.py --peak-tflops")
    else:
        yield at_least("dense LoRA, 8k tokens a step: MFU", dense["mfu"], 0.40)


def check_memory(place: Place) -> Figures:
    """The peak memory of two trainings, and of answering, against the dry run's."""
    from toolhone.pretrained import load_model_config
    from toolhone.train.estimate import estimate
    from toolhone.train.hardware import choose_hardware, release_memory

    model = place.model("llama-3.2-1b")
    batch = 16 if place.on_gpu else 2
    rows = rows_of(place, model, 4 * batch, *((700, 64) if place.on_gpu else (60, 12)))
    for quantize in ("none", "nf4"):
        train = {"max_steps": 3, "batch_size": batch, "log_every": 100}
        config = config_of(place, model, quantize=quantize, train=train)
        hardware = choose_hardware(config.model)
        expected = estimate(config, hardware, load_model_config(config.model), [row.tokens for row in rows])
        with peak_of(place) as peak:
            trainer = trainer_of(place, model, rows, quantize=quantize, train=train)
            trainer.train()
        yield from compared_memory(place, f"training, quantize {quantize}", expected.memory_gb, peak())
        del trainer
        release_memory(place.device)
    yield from check_memory_of_answers(place, model)


def check_memory_of_answers(place: Place, model: str) -> Figures:
    from toolhone.evaluate.decode import compute_prefix, decode_greedily, shared_prefix
    from toolhone.evaluate.predict import AnswerMemory, Batch
    from toolhone.pretrained import load_model_config
    from toolhone.train.hardware import choose_hardware
    from toolhone.train.model import load_for_inference
    from toolhone.train.sizes import model_sizes

    config = config_of(place, model)
    hardware, model_config = choose_hardware(config.model), load_model_config(config.model)
    count, shared, limit = (64, 700, 48) if place.on_gpu else (4, 40, 6)
    prompts = [row.prompt_ids for row in rows_of(place, model, count, shared, 48)]
    memory = AnswerMemory(config, hardware, model_config, model_sizes(config, model_config))
    expected = memory.peak_gb([Batch(shared_prefix(prompts), prompts, [])], limit, tuned=False)
    with peak_of(place) as peak:
        loaded = load_for_inference(config.model, hardware, None)
        prefix = compute_prefix(loaded, shared_prefix(prompts))
        decode_greedily(loaded, prompts, prefix, frozenset(), limit)
    yield from compared_memory(place, f"answering {count} rows together", expected, peak())


@contextmanager
def peak_of(place: Place) -> Iterator[Callable[[], float]]:
    """Measure the peak memory of the body in GB. On a GPU it includes what the driver and torch's kernels take."""
    import torch

    from toolhone.train.hardware import peak_memory_gb

    def peak() -> float:
        if not place.on_gpu:
            return peak_memory_gb(place.device)
        free, total = torch.cuda.mem_get_info()
        outside = total - free - torch.cuda.memory_reserved()
        return (torch.cuda.max_memory_allocated() + outside) / 1e9

    if place.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    yield peak


def compared_memory(place: Place, what: str, expected: float, measured: float) -> Figures:
    yield note(f"{what}: GB measured, GB of the dry run", [round(measured, 2), expected])
    if place.on_gpu:  # on a CPU, Python and its libraries are most of a tiny model's memory
        yield at_most(f"{what}: the dry run is off by this fraction", abs(expected / measured - 1), 0.15)


def check_decoding(place: Place) -> Figures:
    """Answers with a cached prefix against transformers' generate, in float32. Where the two likeliest tokens are
    nearly equal, either is right."""
    import torch
    from bench_eval import generate, timed

    from toolhone.config import ModelConfig
    from toolhone.evaluate.decode import compute_prefix, decode_greedily, shared_prefix
    from toolhone.train.hardware import choose_hardware
    from toolhone.train.model import load_for_inference

    count, shared, limit = (64, 700, 32) if place.on_gpu else (4, 40, 6)
    model = place.model("small")
    prompts = [row.prompt_ids for row in rows_of(place, model, count, shared, 48)]
    prompts = [ids[: len(ids) - n % 9] for n, ids in enumerate(prompts)]  # of unequal length
    for dtype in ("float32", "bfloat16") if place.on_gpu else ("float32",):
        config = ModelConfig(name=model, device=place.device, dtype=dtype)
        loaded = load_for_inference(config, choose_hardware(config), None)
        stop = frozenset({loaded.config.eos_token_id})

        def cached(loaded: Any = loaded, stop: frozenset[int] = stop) -> Any:
            prefix = compute_prefix(loaded, shared_prefix(prompts))
            return decode_greedily(loaded, prompts, prefix, stop, limit)

        cached(), generate(loaded, prompts[:2], stop, 2)
        ours_s, ours = timed(cached)
        plain_s, plain = timed(lambda loaded=loaded, stop=stop: generate(loaded, prompts, stop, limit))
        wrong = [n for n, (answer, ids) in enumerate(zip(ours, plain, strict=True)) if not same_answer(answer, ids)]
        if dtype == "float32":
            yield at_most("float32: answers that differ from generate", len(wrong), 0)
        else:
            yield note("bfloat16: answers that differ from generate", len(wrong))
        yield note(f"{dtype}: times faster than generate", plain_s / ours_s)
        del loaded
        torch.cuda.empty_cache()


def check_flex(place: Place) -> Figures:
    """FlexAttention against the loop over blocks: gradients, compilations over six lengths, and time."""
    import torch
    from accelerate.utils import send_to_device
    from torch._dynamo.utils import counters

    from toolhone.config import TrainConfig

    if "attention" not in TrainConfig.model_fields:
        raise NotHereError("this version has no train.attention")
    if not place.on_gpu:
        raise NotHereError("FlexAttention has no backward pass on a CPU")
    model = place.model("small")
    batch = rows_of(place, model, 16, 700, 64)
    flex = tree_gradients(place, model, "float32", batch, attention="flex")
    blocks = tree_gradients(place, model, "float32", batch, attention="blocks")
    yield at_most("float32: gradients of flex against blocks, relative", apart(flex, blocks), 1e-4)

    big, seconds = place.model("llama-3.2-1b"), {}
    for attention in ("flex", "blocks"):
        trainer = trainer_of(place, big, batch, train={"attention": attention, "batch_size": 16})
        counters.clear()
        prepared = trainer.accelerator.prepare_model(trainer.model)
        before = None
        for length in (64, 40, 90, 130, 20, 64):
            rows = rows_of(place, big, 16, 500 + 3 * length, length)
            inputs = send_to_device(trainer.data_collator(features_of(trainer, rows)), trainer.args.device)
            trainer.compute_loss(prepared, inputs).backward()
            if before is None:
                before = counters["stats"]["unique_graphs"]
        if attention == "flex":
            yield note("graphs compiled for the first length", before)
            yield at_most("graphs compiled for five more lengths", counters["stats"]["unique_graphs"] - before, 0)
        inputs = send_to_device(trainer.data_collator(features_of(trainer, batch)), trainer.args.device)
        seconds[attention] = step_seconds(trainer, prepared, inputs)
        del trainer, prepared
        torch.cuda.empty_cache()
    yield note("seconds of a forward and backward pass", {name: round(value, 4) for name, value in seconds.items()})
    yield at_least("times faster than the loop over blocks", seconds["blocks"] / seconds["flex"], 1.0)


class Step(NamedTuple):
    """One step: its name, what runs, and its time limit in seconds."""

    name: str
    run: Callable[[Place], Figures]
    limit_s: int


STEPS = {
    1: Step("doctor", check_doctor, 60),
    2: Step("plan of a training", check_plan, 100),
    3: Step("gradients of a tree", check_gradients, 90),
    4: Step("SIGTERM and resume", check_signal_and_resume, 150),
    5: Step("NF4 with paged_adamw_8bit", check_nf4, 75),
    6: Step("launches and waits", check_launches, 75),
    7: Step("speed against TRL", check_speed, 260),
    8: Step("memory against the dry run", check_memory, 90),
    9: Step("decoding against generate", check_decoding, 75),
    10: Step("FlexAttention", check_flex, 120),
}
ORDER = (1, 2, 3, 4, 5, 6, 8, 9, 10, 7)
"""Speed comes last: it takes the longest, and proves the least about correctness."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--step", type=int, nargs="+", choices=STEPS, default=list(STEPS), metavar="N", help="steps to run: 1 to 10")
    add("--cpu", action="store_true", help="try the script on a CPU with tiny models; the figures mean nothing")
    add("--limit", type=float, default=TOTAL_S, metavar="S", help="seconds for all steps (default: %(default)s)")
    add("--json", type=Path, default=Path("gpu_check.json"), help="file for the results (default: %(default)s)")
    add("--child", type=int, help=argparse.SUPPRESS)  # the number of the step that this process runs; 0 makes models
    add("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    place = Place(options.folder or Path(), "cpu" if options.cpu else "cuda")
    if options.child == 0:
        for shape in _KEPT_MODELS if place.on_gpu else ("tiny",):
            make_model(place.folder / "models" / shape, shape)
        print(json.dumps(versions_and_card(options.cpu)))
        return 0
    if options.child:
        print(json.dumps(run_step(STEPS[options.child], place)))
        return 0
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    if place.on_gpu and not torch.cuda.is_available():
        print("no GPU that torch can use here: nothing was checked (--cpu tries the script itself)")
        return 2
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for found in run_steps(options, Path(folder)):  # after each step, in case this script is stopped
            options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    show(found)
    print(f"\nresults: {options.json}")
    return int(any(step["result"] == "FAIL" for step in found["steps"]))


def run_steps(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Run the steps one after the other, each in its own process, until the time is used up. Yield all results so far
    after each step."""
    started = time.monotonic()
    flags = ["--folder", str(folder), *(["--cpu"] if options.cpu else [])]
    made = start_child(["--child", "0", *flags], 150 * (10 if options.cpu else 1))
    about = {"date": datetime.now().isoformat(timespec="seconds")}
    about |= json.loads(made[-1]) if isinstance(made, list) else {"card": "unknown", "driver": None, "versions": {}}
    steps: list[dict[str, Any]] = []
    for number in sorted(options.step, key=ORDER.index):
        step, left = STEPS[number], options.limit - (time.monotonic() - started)
        began = time.monotonic()
        if isinstance(made, str):
            outcome: dict[str, Any] = {"result": "FAIL", "detail": f"no models: {made}", "figures": []}
        elif left < 10:
            outcome = {"result": "skipped", "detail": "no time left (--limit)", "figures": []}
        else:
            limit = min(step.limit_s * (10 if options.cpu else 1), left)
            done = start_child(["--child", str(number), *flags], limit)
            outcome = (
                json.loads(done[-1]) if isinstance(done, list) else {"result": "FAIL", "detail": done, "figures": []}
            )
        steps.append({"step": number, "name": step.name, **outcome, "seconds": round(time.monotonic() - began, 1)})
        print(f"{number:>2} {step.name}: {outcome['result']} {outcome['detail']}", file=sys.stderr, flush=True)
        ordered = sorted(steps, key=lambda one: one["step"])
        yield {**about, "seconds": round(time.monotonic() - started, 1), "steps": ordered}


def start_child(arguments: list[str], limit: float) -> list[str] | str:
    """Run this script again. Return the lines that it printed, or why it failed. Its own children end with it."""
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"took longer than {limit:.0f} s"
    if process.returncode != 0:
        last = err.strip().split("\n")[-1] if err.strip() else "no message"
        return f"exit code {process.returncode}: {last[:300]}"
    return out.strip().split("\n")


def run_step(step: Step, place: Place) -> dict[str, Any]:
    """Run a step in this process. A failure after some figures keeps them."""
    from toolhone.cli.terminal import prepare_libraries

    prepare_libraries()
    figures: list[dict[str, Any]] = []
    try:
        figures.extend(step.run(place))
    except NotHereError as reason:
        return {"result": "skipped", "detail": str(reason), "figures": figures}
    except Exception as error:  # noqa: BLE001  # whatever fails on a new machine is the result
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
        detail = f"{message} ({Path(where.filename).name}:{where.lineno})"
        return {"result": "FAIL", "detail": detail, "traceback": traceback.format_exc(), "figures": figures}
    broken = [figure["what"] for figure in figures if not figure.get("holds", True)]
    return {"result": "FAIL" if broken else "pass", "detail": "; ".join(broken), "figures": figures}


def versions_and_card(on_cpu: bool) -> dict[str, Any]:
    """What the results depend on. This starts CUDA, whose memory would count in every step if the parent did it."""
    import torch

    from toolhone.run_folder import versions
    from toolhone.train.cuda import driver_version

    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = ""
    if shutil.which("git"):
        commit = subprocess.run(describe, capture_output=True, text=True, check=False, cwd=Path(__file__).parent).stdout
    card = "CPU, tiny models" if on_cpu else torch.cuda.get_device_name()
    return {
        "card": card,
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "machine": platform.machine(),
        "versions": versions(),
        "git_commit": commit.strip() or None,
    }


def show(found: dict[str, Any]) -> None:
    """Print the results as a Markdown table. Figures without a bound are in the JSON file only."""
    print(f"\n{found['card']}, driver {found['driver']}, torch {found['versions'].get('torch')}, {found['date']}")
    print(f"{found['seconds']:.0f} seconds\n")
    print("| | step | result | measured | bound |")
    print("| --- | --- | --- | --- | --- |")
    for step in found["steps"]:
        bounded = [figure for figure in step["figures"] if "bound" in figure]
        first = "" if bounded else step["detail"]
        print(f"| {step['step']} | {step['name']} ({step['seconds']:.0f} s) | {step['result']} | {first} | |")
        for figure in bounded:
            mark = "pass" if figure["holds"] else "FAIL"
            print(f"| | {figure['what']} | {mark} | {figure['measured']:.4g} | {figure['bound']} |")
        if bounded and step["result"] == "FAIL" and "traceback" in step:
            print(f"| | stopped by an error | FAIL | {step['detail']} | |")


def config_values(
    place: Place, model: str, *, dtype: str = "auto", quantize: str = "none", **sections: Any
) -> dict[str, Any]:
    """The values of a config for this device. `sections` add to its sections."""
    values: dict[str, Any] = {
        "name": "check",
        "model": {"name": model, "device": place.device, "dtype": dtype, "quantize": quantize},
        "data": data_of("customer_service"),
        "train": {"scheduler": "constant", "warmup": 0, "learning_rate": 2e-4},
    }
    for section, more in sections.items():
        values[section] = {**values.get(section, {}), **more} if isinstance(more, dict) else more
    return values


def config_of(place: Place, model: str, **sections: Any) -> Any:
    from toolhone.config import Config

    return Config.model_validate(config_values(place, model, **sections))


def rows_of(place: Place, model: str, count: int, shared: int, own: int) -> list[Any]:
    """Rows that share their first tokens; the second half of the rest is learned."""
    from random_models import as_rendered, shared_rows

    vocabulary = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    return as_rendered(shared_rows(count, shared, own, own // 2, vocabulary))


def trainer_of(place: Place, model: str, rows: list[Any], **sections: Any) -> Any:
    """toolhone's trainer on these rows, as `toolhone train` makes it."""
    from rich.console import Console
    from transformers import PrinterCallback

    from toolhone.pretrained import load_tokenizer
    from toolhone.run_folder import RunFolder
    from toolhone.train.hardware import choose_hardware
    from toolhone.train.log import TrainLog
    from toolhone.train.model import load_model
    from toolhone.train.trainer import make_trainer

    config = config_of(place, model, **sections)
    hardware = choose_hardware(config.model, cudnn_attention=config.cuda.cudnn_attention)
    run = RunFolder(Path(tempfile.mkdtemp(dir=place.folder)))
    log = TrainLog(run.train_log, Console(quiet=True))
    loaded = load_model(config.model, hardware)
    trainer = make_trainer(config, hardware, loaded, load_tokenizer(config.model), rows, [], run, [log])
    trainer.remove_callback(PrinterCallback)
    return trainer


def features_of(trainer: Any, rows: list[Any]) -> list[dict[str, Any]]:
    from toolhone.train.batches import tree_features

    return [tree_features(row.tokens) for row in rows]


def tree_gradients(place: Place, model: str, dtype: str, rows: list[Any], attention: str | None = None) -> Any:
    """The gradients of one tree, as a training computes them."""
    from accelerate.utils import send_to_device

    train = {"batch_size": len(rows), **({"attention": attention} if attention else {})}
    trainer = trainer_of(place, model, rows, dtype=dtype, train=train)
    prepared = trainer.accelerator.prepare_model(with_random_adapter(trainer.model))
    inputs = send_to_device(trainer.data_collator(features_of(trainer, rows)), trainer.args.device)
    trainer.compute_loss(prepared.train(), inputs).backward()
    return taken_gradients(trainer.model)


def row_gradients(place: Place, model: str, dtype: str, rows: list[Any]) -> Any:
    """The gradients of the rows, one by one, with PyTorch's attention and PEFT's own layers."""
    import torch
    from torch.nn.functional import cross_entropy

    trainer = trainer_of(place, model, rows, dtype=dtype, train={"packing": "none"})
    prepared = with_random_adapter(trainer.model).to(place.device)
    labels = sum(len(row.completion_ids) for row in rows)
    for row in rows:
        ids = torch.tensor([row.tokens.ids], device=place.device)
        targets = torch.tensor(row.tokens.labels[1:], device=place.device)
        with torch.autocast(place.device, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = prepared(input_ids=ids, use_cache=False).logits[0, :-1]
        (cross_entropy(logits.float(), targets, reduction="sum") / labels).backward()
    return taken_gradients(trainer.model)


def with_random_adapter(model: Any) -> Any:
    """Give both matrices of the adapter the same random values in every model: if B is zero, A has no gradient."""
    import torch

    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                values = torch.randn(parameter.shape, generator=draw) * (0.02 if "lora_B" in name else 0.05)
                parameter.copy_(values)
    return model


def taken_gradients(model: Any) -> Any:
    """All gradients in one vector on the CPU. The model's memory is free afterwards."""
    import torch

    found = torch.cat([p.grad.float().flatten().cpu() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return found


def apart(found: Any, expected: Any) -> float:
    """The relative difference of two vectors."""
    return float((found - expected).norm() / expected.norm())


@contextmanager
def one_wrong_end(shared: int) -> Iterator[None]:
    """Let the first token of the first branch be seen by every later token of the tree."""
    from toolhone.train import batches

    split = batches.split_into_trees

    def wrong(*args: Any) -> Any:
        trees = split(*args)
        ends = list(trees[0].ends)
        ends[shared] = len(ends)
        return [replace(trees[0], ends=ends), *trees[1:]]

    batches.split_into_trees = wrong
    try:
        yield
    finally:
        batches.split_into_trees = split


def same_answer(answer: Any, ids: list[int]) -> bool:
    """Whether the tokens are equal up to the first place where the second likeliest token is as likely."""
    for n, (ours, other) in enumerate(zip(answer.ids, ids, strict=False)):
        if ours != other:
            return bool(answer.logprobs[n] - answer.runner_ups[n] < 1e-3)
    return len(answer.ids) == len(ids)


def step_seconds(trainer: Any, model: Any, inputs: dict[str, Any]) -> float:
    """The median seconds of a forward and backward pass on the GPU."""
    import statistics

    import torch

    seconds = []
    for _ in range(12):
        torch.cuda.synchronize()
        started = time.perf_counter()
        trainer.compute_loss(model, inputs).backward()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def start_training(folder: Path, name: str, *flags: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "toolhone", "train", "--config", f"{name}.yaml", *flags]
    with (folder / f"{name}.out").open("ab") as out:
        return subprocess.Popen(command, cwd=folder, stdout=out, stderr=out)


def losses_of(log: Path) -> list[float]:
    lines = log.read_text(encoding="utf-8").split("\n")[:-1] if log.is_file() else []
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def bench(place: Place, workload: str, batch: int, contenders: list[str]) -> list[dict[str, Any]]:
    """Run scripts/bench_train.py and return its figures."""
    path = place.folder / f"bench-{workload}.json"
    steps = ("3", "8") if place.on_gpu else ("1", "1")
    command = [sys.executable, str(BENCH), "--model", place.model("llama-3.2-1b"), "--workload", workload]
    command += ["--batch", str(batch), "--warmup", steps[0], "--steps", steps[1], "--turns", "1", "--json", str(path)]
    subprocess.run([*command, "--contenders", *contenders], check=False, capture_output=True)
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    sys.exit(main())
