"""An experiment from config to report: splits, answers of the base model, adapter, answers of the tuned one, scores,
report. Each stage reads files and writes files; one that was finished from the same inputs is reused.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from toolhone.chat.render import ChatRenderer, make_renderer
from toolhone.config import Config
from toolhone.config_file import load_config
from toolhone.data.split import turns
from toolhone.errors import UserError
from toolhone.evaluate.predict import predict
from toolhone.evaluate.score import score_run
from toolhone.fingerprint import fingerprint
from toolhone.jsonl import write_jsonl
from toolhone.prepare import Prepared, prepare
from toolhone.report.report import write_report
from toolhone.run_folder import RUNS, RunFolder, existing_run, open_run, provenance
from toolhone.train.checkpoint import checkpoint_to_resume, last_checkpoint
from toolhone.train.cpu.memory import give_back_memory
from toolhone.train.hardware import Hardware, local_rank, rank, world_size
from toolhone.train.model import load_adapter, load_model
from toolhone.train.preflight import refuse_untrainable


def run_experiment(config: Config, *, resume: bool, fresh: bool, console: Console) -> RunFolder | None:
    """Train and evaluate. Returns the run folder, or None where training was asked to stop early."""
    prepared = prepare(config, console=console)
    refuse_untrainable(config)
    if resume:
        checkpoint_to_resume(RunFolder(RUNS / config.name).checkpoints)  # told before the base model's long answers
    run = _open_together(prepared, fresh=fresh)
    trained_from = _training_fingerprint(prepared)
    is_trained = run.is_finished("train", trained_from)
    if not is_trained and not resume:
        _refuse_to_lose(run)
    if config.evaluate.base:
        _predict_base(prepared, run, console)
    if is_trained:
        console.print(f"reusing the adapter in {run.adapter} (finished before; --fresh trains anew)")
    elif not _train(prepared, run, trained_from, console, resume=resume):
        return None
    _predict_tuned(prepared, run, trained_from, console)
    _judge(run, console)
    return run


def evaluate_run(path: Path, overrides: dict[str, Any], *, console: Console) -> RunFolder:
    """Predict and judge again for a run that has an adapter, with other `evaluate` values if given.

    Raises:
        UserError: where there is no finished run.
    """
    run, _ = existing_run(path)
    if not (run.adapter / "adapter_config.json").is_file():
        raise UserError(f"{path}: has no adapter yet; `toolhone train` makes it")
    trained = run.read_manifest()["stages"].get("train")
    if trained is None:
        raise UserError(f"{path}: its training has not finished; `toolhone train --resume` goes on with it")
    config = load_config(run.config, [f"evaluate.{key}={value}" for key, value in overrides.items()])
    prepared = prepare(config, console=console)
    if config.evaluate.base:
        _predict_base(prepared, run, console)
    _predict_tuned(prepared, run, trained["fingerprint"], console)
    _judge(run, console)
    return run


def _refuse_to_lose(run: RunFolder) -> None:
    checkpoint = last_checkpoint(run.checkpoints)
    if checkpoint is not None:
        raise UserError(
            f"{checkpoint}: is of a training that was interrupted; --resume (make: RESUME=1) goes on from it, --fresh "
            "(FRESH=1) deletes the run and starts anew"
        )


def _open_together(prepared: Prepared, *, fresh: bool) -> RunFolder:
    """Open the run folder once for all processes, and write the splits and the manifest's head."""
    if world_size() > 1:
        from accelerate import PartialState

        PartialState(cpu=prepared.hardware.device == "cpu")
    if rank() == 0:
        run = open_run(prepared.config, fresh=fresh)
        for name, rows in prepared.splits.items():
            write_jsonl(run.split(name), (row.to_json() for row in rows))
        run.note(**_manifest_head(prepared))
    _barrier()
    return open_run(prepared.config)


def _manifest_head(prepared: Prepared) -> dict[str, Any]:
    config, renderer = prepared.config, prepared.renderer
    return {
        **provenance(config),
        "device": prepared.hardware.device,
        "dtype": prepared.hardware.dtype_name,
        "hardware": prepared.hardware.describe(),
        "processes": world_size(),
        "model": {"name": config.model.name, "revision": config.model.revision, "quantize": config.model.quantize},
        "chat": {
            "format": renderer.format.name,
            "template": renderer.source,
            "template_hash": renderer.template_hash(),
        },
        "data": {
            name: {"rows": len(rows), "examples": len(turns(rows)), "sha256": fingerprint([r.to_json() for r in rows])}
            for name, rows in prepared.splits.items()
        },
        "dropped": prepared.dropped,
        "judged": config.evaluate.split,
    }


def _predict_base(prepared: Prepared, run: RunFolder, console: Console) -> None:
    stage = "predict:base"
    config = prepared.config
    renderer = make_renderer(prepared.renderer.tokenizer, config.chat, config.model.name, untuned=True)
    made_from = _prediction_fingerprint(prepared, renderer, "base")
    if run.is_finished(stage, made_from):
        console.print(f"reusing {run.predictions('base')}")
        return
    model = on_device(load_model(config.model, prepared.hardware), config, prepared.hardware)
    _predict(prepared, run, model, renderer, "base", stage, made_from, console)


def _predict_tuned(prepared: Prepared, run: RunFolder, trained_from: str, console: Console) -> None:
    stage = "predict:tuned"
    made_from = _prediction_fingerprint(prepared, prepared.renderer, trained_from)
    if run.is_finished(stage, made_from):
        console.print(f"reusing {run.predictions('tuned')}")
        return
    # The model is loaded anew: what is judged is the adapter as it was saved.
    model = load_adapter(load_model(prepared.config.model, prepared.hardware), run.adapter)
    model = on_device(model, prepared.config, prepared.hardware)
    _predict(prepared, run, model, prepared.renderer, "tuned", stage, made_from, console)


def _predict(
    prepared: Prepared,
    run: RunFolder,
    model: Any,
    renderer: ChatRenderer,
    label: str,
    stage: str,
    made_from: str,
    console: Console,
) -> None:
    started = time.perf_counter()
    path, config = run.predictions(label), prepared.config.evaluate
    if rank() == 0:
        console.print(f"{label} answers {len(prepared.judged)} turns ...")
    predict(model, renderer, prepared.judged, label, config, path, console, fingerprint=made_from)
    if rank() == 0:
        seconds = round(time.perf_counter() - started, 1)
        run.mark_finished(stage, made_from, seconds=seconds, examples=len(prepared.judged))
    give_back_memory(prepared.hardware.device)
    _barrier()


def _train(prepared: Prepared, run: RunFolder, trained_from: str, console: Console, *, resume: bool) -> bool:
    """Train the adapter; False where it was asked to stop early."""
    from toolhone.train.select import exact_match_on
    from toolhone.train.trainer import train_adapter

    config, hardware, renderer = prepared.config, prepared.hardware, prepared.renderer
    model = load_model(config.model, hardware)
    quiet = console if rank() == 0 else Console(quiet=True)
    measure = None
    if config.train.select_by == "exact_match":
        answers = run.checkpoints / "selection" / "answers"
        measure = exact_match_on(prepared.validation, renderer, config.evaluate, answers)
    result = train_adapter(
        config,
        hardware,
        model,
        renderer.tokenizer,
        prepared.train,
        prepared.validation,
        run,
        quiet,
        resume=resume,
        measure=measure,
    )
    if rank() == 0 and result.finished:
        save_chat(run.adapter, renderer)
        # Trainer pickles its arguments beside the weights; they can hold a hub token, and nothing here reads them.
        (run.adapter / "training_args.bin").unlink(missing_ok=True)
        facts = asdict(result)
        del facts["finished"]
        run.mark_finished("train", trained_from, **facts)
    if rank() == 0 and not result.finished:
        console.print(f"stopped after step {result.steps}; `--resume` goes on from there")
    give_back_memory(prepared.hardware.device)
    _barrier()
    return result.finished


def save_chat(folder: Path, renderer: ChatRenderer) -> None:
    """Save the tokenizer with the template in use, so that serving writes prompts as training did."""
    renderer.tokenizer.chat_template = renderer.template
    renderer.tokenizer.save_pretrained(folder)


def _judge(run: RunFolder, console: Console) -> None:
    if rank() == 0:
        score_run(run)
        write_report(run.path)
    _barrier()


def on_device(model: Any, config: Config, hardware: Hardware) -> Any:
    """The model where it computes; a quantised one was put there while loading."""
    if config.model.quantize == "none" and hardware.device == "cuda":
        return model.to(f"cuda:{local_rank()}")
    return model


def _barrier() -> None:
    if world_size() > 1:
        torch.distributed.barrier()


def _training_fingerprint(prepared: Prepared) -> str:
    sections = prepared.config.model_dump(mode="json", include={"seed", "model", "lora", "train"})
    return fingerprint(sections, prepared.data_fingerprint(), world_size())


def _prediction_fingerprint(prepared: Prepared, renderer: ChatRenderer, model: str) -> str:
    sections = prepared.config.model_dump(mode="json", include={"model", "evaluate"})
    ids = [[e.id, [m.to_json() for m in e.prompt], [t.to_json() for t in e.tools]] for e in prepared.judged]
    return fingerprint(model, sections, ids, renderer.template_hash(), prepared.hardware.dtype_name)
