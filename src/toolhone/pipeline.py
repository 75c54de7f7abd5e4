"""The whole path of an experiment, from config to report:

    prepare -> answers of the base model -> adapter -> answers of the tuned model -> scores -> report

Each stage reads files and writes files. One that was finished from the same inputs is reused.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from toolhone.chat.render import ChatRenderer, Rendered
from toolhone.config import Config, EvaluateConfig
from toolhone.config_file import load_config
from toolhone.data.read import turns
from toolhone.errors import UserError
from toolhone.evaluate.base_rows import asked_of_base
from toolhone.evaluate.match import score
from toolhone.evaluate.predict import predict, predict_once
from toolhone.evaluate.score import asked_fingerprint, score_run, scored_examples
from toolhone.jsonl import read_jsonl, remove_parts, write_jsonl
from toolhone.prepare import Prepared, prepare, rows_fingerprint
from toolhone.records import Example, Prediction
from toolhone.report.report import write_report
from toolhone.run_folder import (
    RUNS,
    RunFolder,
    existing_run,
    missing_adapter_files,
    older_training_fingerprints,
    open_run,
    provenance,
    refuse_other_config,
)
from toolhone.run_inputs import CONTENT, EVERYTHING, Inputs, differences, listed, other_versions
from toolhone.train.checkpoint import checkpoint_to_resume, last_checkpoint
from toolhone.train.hardware import release_memory
from toolhone.train.model import load_model
from toolhone.train.preflight import refuse_untrainable
from toolhone.train.processes import join_processes, on_first_process, rank, wait_for_all, world_size
from toolhone.train.select import Measure, Measured
from toolhone.tuned import TunedModel


def run_experiment(config: Config, *, resume: bool, fresh: bool, console: Console) -> RunFolder | None:
    """Train and evaluate. Returns the run folder, or None if training was asked to stop early.

    Raises:
        UserError: for bad data or settings, or if a run would be lost or mixed, before anything is written.
    """
    prepared = prepare(config, console=console)
    refuse_untrainable(config)
    join_processes(prepared.hardware.device)
    run = RunFolder(RUNS / config.name)
    with ExitStack() as held:
        is_trained = on_first_process(lambda: _claim(prepared, run, held, console, resume=resume, fresh=fresh))
        if config.evaluate.base:
            _predict(run, TunedModel.base(run.path), prepared.scored, config.evaluate, console)
        if is_trained:
            console.print(f"reusing the adapter in {run.adapter} (finished before; --fresh trains anew)")
        elif not _train(prepared, run, console, resume=resume):
            return None
        # The model is loaded from the run folder: what is scored is the adapter as it was saved.
        _predict(run, TunedModel.load(run.path), prepared.scored, config.evaluate, console)
        _score(run)
    return run


def evaluate_run(path: Path, overrides: dict[str, Any], *, console: Console) -> RunFolder:
    """Predict, score and report again for a finished run, as it was trained, with other `evaluate` values if given.

    Raises:
        UserError: if there is no finished run, or its base model or its rows are not those that it was made from.
    """
    run, _ = existing_run(path)
    run.require_adapter()
    if run.stage("train") is None:
        how = "--fresh starts anew (it records no fingerprints)" if run.inputs() is None else "--resume goes on with it"
        raise UserError(f"{path}: its training has not finished; `toolhone train` with {how}")
    config = load_config(run.config, [f"evaluate.{key}={value}" for key, value in overrides.items()])
    tuned = TunedModel.load(path)
    for note in tuned.notes if rank() == 0 else ():
        console.print(f"note: {note}", markup=False)
    examples = scored_examples(run)
    join_processes(tuned.hardware.device)
    with ExitStack() as held:
        on_first_process(lambda: held.enter_context(run.lock(console)))
        if config.evaluate.base:
            _predict(run, TunedModel.base(path), examples, config.evaluate, console)
        _predict(run, tuned, examples, config.evaluate, console)
        _score(run)
    return run


def _claim(prepared: Prepared, run: RunFolder, held: ExitStack, console: Console, *, resume: bool, fresh: bool) -> bool:
    """Lock the run folder until `held` closes, check that nothing in it would be lost or mixed, and open it. Returns
    whether it holds the finished adapter already.

    Raises:
        UserError: saying what is there, and how to keep or delete it.
    """
    if not (fresh and run.config.is_file()):
        refuse_other_config(run, prepared.config)  # before the lock, which is a file in the folder
    held.enter_context(run.lock(console))
    inputs = prepared.inputs(None if fresh else run.inputs())
    is_trained = False
    if not fresh:
        refuse_other_config(run, prepared.config)
        is_trained = _holds_adapter(run, prepared, inputs, console, resume=resume)
    _open(prepared, inputs, starts=not (is_trained or resume), fresh=fresh)
    return is_trained


def _holds_adapter(run: RunFolder, prepared: Prepared, inputs: Inputs, console: Console, *, resume: bool) -> bool:
    """Whether the folder holds a finished adapter that was trained from exactly these inputs.

    Raises:
        UserError: if an adapter or a checkpoint from other inputs would be lost or mixed, or there is nothing to resume
            from.
    """
    recorded, trained, checkpoint = run.inputs(), run.stage("train"), last_checkpoint(run.checkpoints)
    if trained is not None:
        run.require_adapter()
        changed = _changed_since_older(run, prepared) if recorded is None else differences(recorded, inputs, CONTENT)
        if changed:
            raise UserError(
                f"{run.path}: holds a finished adapter that was trained from something else: {listed(changed)}. Score "
                "it as it is with `toolhone eval`, give this run another name (--set name=...), or delete it with "
                "--fresh (FRESH=1)"
            )
        if recorded is None:
            console.print(f"note: {run.path} is of an older version: its model's files cannot be compared")
        elif made_with := other_versions(recorded):
            console.print(f"note: the adapter in {run.adapter} was {made_with}", markup=False)
        return True
    if checkpoint is not None:
        changed = ["it records no fingerprints"] if recorded is None else differences(recorded, inputs, EVERYTHING)
        if changed:
            raise UserError(
                f"{checkpoint}: belongs to a training that was interrupted and cannot be resumed from these inputs: "
                f"{listed(changed)}. Restore what it began with, give this run another name (--set name=...), or start "
                "anew with --fresh (FRESH=1)"
            )
        if not resume:
            raise UserError(
                f"{checkpoint}: belongs to a training that was interrupted; --resume (make: RESUME=1) continues it, "
                "--fresh (FRESH=1) deletes the run and starts anew"
            )
    elif resume:
        checkpoint_to_resume(run.checkpoints)
    elif (run.adapter / "adapter_config.json").is_file():
        raise UserError(
            f"{run.adapter}: holds an adapter, but {run.manifest} records no finished training, and there is no "
            "checkpoint to resume from; give this run another name (--set name=...), or delete it with --fresh "
            "(FRESH=1)"
        )
    return False


def _changed_since_older(run: RunFolder, prepared: Prepared) -> list[str]:
    """What differs from a training that recorded one fingerprint of everything, as far as can be said."""
    found = run.stage("train") or {}
    older = older_training_fingerprints(run, *prepared.training_inputs)
    if prepared.training_fingerprint == found.get("same_as") or found["fingerprint"] in older:
        return []
    return ["its rows, its chat template or its number of processes"]


def _open(prepared: Prepared, inputs: Inputs, *, starts: bool, fresh: bool) -> None:
    """Open the run folder and write the config, the splits and the manifest's head.

    Only a training that starts records what it is made from. For one that goes on or is finished, only the test rows
    may have changed.
    """
    run = open_run(prepared.config, fresh=fresh)
    data = {
        name: {"rows": len(rows), "examples": len(turns(rows)), "sha256": rows_fingerprint(rows)}
        for name, rows in prepared.splits.items()
    }
    before = run.read_manifest()
    recorded = data if starts else {**before.get("data", {}), "test": data["test"]}
    for name, rows in prepared.splits.items():
        if recorded.get(name) == data[name]:
            write_jsonl(run.split(name), (row.to_json() for row in rows))
    head: dict[str, Any] = {"data": recorded, "judged": prepared.config.evaluate.split}
    if starts:
        head = {**_training_head(prepared), **head, "inputs": inputs}
    elif "train" in before["stages"] and "inputs" not in before:
        # The config on disk may have new values of keys that change no weight: keep the adapter's fingerprint valid.
        before["stages"]["train"]["same_as"] = prepared.training_fingerprint
        head["stages"] = before["stages"]
    run.note(**head)


def _training_head(prepared: Prepared) -> dict[str, Any]:
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
            "template_kwargs": dict(renderer.template_kwargs),
        },
        "left_out": prepared.splits.left_out,
        "dropped": prepared.dropped,
    }


def _train(prepared: Prepared, run: RunFolder, console: Console, *, resume: bool) -> bool:
    """Train the adapter. Returns False if it was asked to stop early."""
    from toolhone.train.trainer import train_adapter

    config, hardware, renderer = prepared.config, prepared.hardware, prepared.renderer
    measure = None
    if config.train.select_by == "exact_match":
        answers = run.checkpoints / "selection" / "answers"
        measure = exact_match_on(prepared.validation, renderer, config.evaluate, answers)
    result = train_adapter(
        config,
        hardware,
        load_model(config.model, hardware),
        renderer.tokenizer,
        prepared.train,
        prepared.validation,
        run,
        console if rank() == 0 else Console(quiet=True),
        resume=resume,
        measure=measure,
    )
    if rank() == 0 and result.finished:
        if missing_adapter_files(run.adapter):  # or the run would count as finished
            raise UserError(
                f"{run.adapter}: training has ended, but its adapter was not saved; check the launcher's config"
            )
        save_chat(run.adapter, renderer)
        # Trainer pickles its arguments beside the weights; they can hold a hub token, and nothing here reads them.
        (run.adapter / "training_args.bin").unlink(missing_ok=True)
        facts = asdict(result)
        del facts["finished"]
        run.mark_finished("train", prepared.training_fingerprint, **facts)
    if rank() == 0 and not result.finished:
        console.print(f"stopped after step {result.steps}; `--resume` goes on from there")
    release_memory(hardware.device)
    wait_for_all()
    return result.finished


def save_chat(folder: Path, renderer: ChatRenderer) -> None:
    """Save the tokenizer with the template in use, so that every later prompt is written as in training."""
    renderer.tokenizer.chat_template = renderer.template
    renderer.tokenizer.save_pretrained(folder)


def exact_match_on(
    validation: Sequence[Rendered], renderer: ChatRenderer, config: EvaluateConfig, folder: Path
) -> Measure:
    """A measure that answers these turns greedily; the answers of each step stay in `folder`."""
    examples = [row.example for row in validation]

    def measure(model: Any, step: int) -> Measured:
        answers = folder / f"step-{step}.jsonl"
        if rank() == 0:  # answers that an interrupted run began are not this model's
            remove_parts(answers)
        wait_for_all()
        attention = model.config._attn_implementation
        model.set_attn_implementation("sdpa")
        try:
            predict(
                model, renderer, examples, "validation", config, answers, Console(quiet=True), fingerprint=f"step{step}"
            )
        finally:
            model.set_attn_implementation(attention)
            model.train()
        predictions = [Prediction.from_json(row) for _, row in read_jsonl(answers)]
        pairs = zip(examples, predictions, strict=True)
        right = sum(score(example, prediction, renderer.format.name).exact for example, prediction in pairs)
        return Measured(step, right, len(examples))

    return measure


def _predict(
    run: RunFolder, tuned: TunedModel, examples: Sequence[Example], config: EvaluateConfig, console: Console
) -> None:
    path, asked, what = run.predictions(tuned.label), examples, "turns"
    facts: dict[str, Any] = {}
    if tuned.adapter is None:
        asked, config = asked_of_base(tuned.renderer, examples, config)
        facts = {"max_new_tokens": config.max_new_tokens}
        if len(asked) < len(examples):
            what, facts["sampled_from"] = f"of {len(examples)} turns", asked_fingerprint(examples)
    predict_once(tuned, f"predict:{tuned.label}", asked, what, config, path, console, facts)
    wait_for_all()


def _score(run: RunFolder) -> None:
    if rank() == 0:
        score_run(run)
        write_report(run.path)
    wait_for_all()
