"""An experiment from config to report:

    prepare -> answers of the base model -> adapter -> answers of the tuned model -> scores -> report

Each stage reads files and writes files. A stage that was finished from the same inputs is reused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from toolhone.chat.render import ChatRenderer, Rendered
from toolhone.config import Config, EvaluateConfig
from toolhone.config_file import load_config
from toolhone.data.read import turns
from toolhone.errors import Interrupted, UserError
from toolhone.evaluate.base_rows import select_for_base
from toolhone.evaluate.match import score
from toolhone.evaluate.predict import predict
from toolhone.evaluate.score import asked_fingerprint, score_run, scored_examples
from toolhone.evaluate.stage import is_answered, predict_once, refuse_missing_vllm
from toolhone.jsonl import count_parts, read_jsonl, remove_parts, write_jsonl
from toolhone.launcher import rank
from toolhone.plan import make_plan
from toolhone.prepare import Prepared, prepare, rows_fingerprint, training_head
from toolhone.progress import Progress
from toolhone.records import Example, Prediction
from toolhone.report.report import write_report
from toolhone.run_folder import (
    RUNS,
    RunFolder,
    existing_run,
    missing_adapter_files,
    open_run,
    refuse_other_config,
)
from toolhone.run_inputs import CONTENT, EVERYTHING, Inputs, differences, listed, other_versions
from toolhone.train.checkpoint import checkpoint_to_resume, last_checkpoint, steps_of
from toolhone.train.hardware import choose_device, release_memory, reset_peak_memory
from toolhone.train.machines import copy_to_other_machines
from toolhone.train.model import load_model
from toolhone.train.preflight import refuse_untrainable
from toolhone.train.processes import (
    in_every_process,
    join_for_run,
    join_processes,
    on_first_process,
    require_same_inputs,
    wait_for_all,
)
from toolhone.train.select import Measure, Measured
from toolhone.tuned import TunedModel


def run_experiment(config: Config, *, resume: bool, fresh: bool, console: Console) -> RunFolder | None:
    """Train and evaluate. Return the run folder, or None if training was stopped early.

    Raises:
        UserError: for bad data or settings, or if results of another run would be lost. Then nothing is written.
        Interrupted: on Ctrl-C in a stage; its message lists what is kept.
    """
    join_processes(choose_device(config.model.device)[0])
    prepared = in_every_process(lambda: _prepare_to_train(config, console))
    config = prepared.config
    with _opened(prepared, console, resume=resume, fresh=fresh) as (run, is_trained):
        base = TunedModel.base(run.path) if config.evaluate.base else None
        if not is_trained and not console.quiet:
            on_first_process(lambda: _show_plan(prepared, run, base, console, resume=resume))
        if base is not None:
            _predict(run, base, prepared.scored, config.evaluate, console)
        if is_trained:
            console.print(f"reusing the adapter in {run.adapter} (finished before; --fresh trains again)")
        elif not _train(prepared, run, console, resume=resume):
            return None
        # Load the model from the run folder, so that the saved adapter is what is scored.
        _predict(run, TunedModel.load(run.path), prepared.scored, config.evaluate, console)
        _score(run, console)
    return run


def train_only(prepared: Prepared, *, resume: bool, fresh: bool, console: Console) -> RunFolder | None:
    """Train, and predict nothing. Return the run folder, or None if training was stopped early.

    Raises:
        UserError, Interrupted: as `run_experiment`.
    """
    refuse_untrainable(prepared.config)
    join_processes(prepared.hardware.device)
    with _opened(prepared, console, resume=resume, fresh=fresh) as (run, is_trained):
        if is_trained:
            console.print(f"reusing the adapter in {run.adapter} (finished before; --fresh trains again)")
        elif not _train(prepared, run, console, resume=resume):
            return None
    return run


def evaluate_run(path: Path, overrides: dict[str, Any], *, console: Console) -> RunFolder:
    """Predict, score and report again for a finished run. `overrides` replace values of the config's `evaluate`.

    Raises:
        UserError: if there is no finished run, or its base model or its rows have changed since training.
        Interrupted: on Ctrl-C; its message lists what is kept.
    """
    join_for_run(path)
    config, tuned, examples = in_every_process(lambda: _finished_run(path, overrides))
    run = tuned.run
    for note in tuned.notes if rank() == 0 else ():
        console.print(f"note: {note}", markup=False)
    with ExitStack() as stack:
        on_first_process(lambda: stack.enter_context(run.lock(console)))
        stack.enter_context(_report_kept_on_interrupt(run))
        if config.evaluate.base:
            _predict(run, TunedModel.base(path), examples, config.evaluate, console)
        _predict(run, tuned, examples, config.evaluate, console)
        _score(run, console)
    return run


def _finished_run(path: Path, overrides: dict[str, Any]) -> tuple[Config, TunedModel, list[Example]]:
    """Return a finished run's config with overrides for `evaluate`, its model, and the rows to score."""
    run, _ = existing_run(path)
    run.require_adapter()
    if run.stage("train") is None:
        how = "--fresh (it has no fingerprints, so it cannot be resumed)" if run.inputs() is None else "--resume"
        raise UserError(f"{path}: its training has not finished; run `toolhone train` with {how}")
    config = load_config(run.config, [f"evaluate.{key}={value}" for key, value in overrides.items()])
    return config, TunedModel.load(path), scored_examples(run)


def interruption(run: RunFolder) -> Interrupted:
    """Return the error for Ctrl-C: its message lists the results in the run folder."""
    kept, flag = [], None
    for label in ("base", "tuned"):
        if part := count_parts(run.predictions(label)):
            kept.append(f"{part} {label} answers")
        elif run.stage(f"predict:{label}") is not None:
            kept.append(f"the {label} answers")
        if label == "base" and run.stage("train") is not None:
            kept.append("the trained adapter")
        elif label == "base" and (checkpoint := last_checkpoint(run.checkpoints)):
            kept.append(f"the checkpoint of step {steps_of(checkpoint)[0]}")
            flag = "--resume"
    if not kept:
        return Interrupted(f"{run.path} has no results yet", flag="")
    return Interrupted(f"kept in {run.path}: {', '.join(kept)}", flag or "")


@contextmanager
def _report_kept_on_interrupt(run: RunFolder) -> Iterator[None]:
    """Add what is kept to a Ctrl-C in the body."""
    try:
        yield
    except KeyboardInterrupt:
        raise interruption(run) from None


def _show_plan(prepared: Prepared, run: RunFolder, base: TunedModel | None, console: Console, *, resume: bool) -> None:
    is_finished, base_turns = False, None
    if base is not None:
        asked, config = select_for_base(base.renderer, prepared.scored, prepared.config.evaluate)
        base_turns = base.renderer, asked, config
        is_finished = is_answered(base, "predict:base", asked, config, run.predictions("base"))
    checkpoint = last_checkpoint(run.checkpoints) if resume else None
    steps_done = steps_of(checkpoint)[0] if checkpoint else 0
    with Progress("measuring this machine", None, "", console):
        plan = make_plan(prepared, base_turns=base_turns, base_is_finished=is_finished, steps_done=steps_done)
    plan.print(console)


def _prepare_to_train(config: Config, console: Console) -> Prepared:
    prepared = prepare(config, console=console)
    refuse_untrainable(prepared.config)
    refuse_missing_vllm(config.evaluate)
    return prepared


@contextmanager
def _opened(prepared: Prepared, console: Console, *, resume: bool, fresh: bool) -> Iterator[tuple[RunFolder, bool]]:
    """Open the run folder on every machine, locked. Yield it, and whether it has the finished adapter already."""
    run = RunFolder(RUNS / prepared.config.name)
    require_same_inputs(prepared.all_inputs)
    with ExitStack() as stack:
        is_trained = on_first_process(lambda: _lock_and_open(prepared, run, stack, console, resume=resume, fresh=fresh))
        stack.enter_context(_report_kept_on_interrupt(run))
        copy_to_other_machines(run, prepared.config, fresh=fresh, checkpoint=resume)
        yield run, is_trained


def _lock_and_open(
    prepared: Prepared, run: RunFolder, stack: ExitStack, console: Console, *, resume: bool, fresh: bool
) -> bool:
    """Lock the run folder until `stack` closes, check that no results in it would be lost, and open it.

    Returns:
        Whether the folder already has the finished adapter.

    Raises:
        UserError: if results would be lost. The message lists them, and how to keep or delete them.
    """
    if not (fresh and run.config.is_file()):
        refuse_other_config(run, prepared.config)  # before the lock, which is a file in the folder
    stack.enter_context(run.lock(console))
    inputs = prepared.inputs(None if fresh else run.inputs())
    is_trained = False
    if not fresh:
        refuse_other_config(run, prepared.config)
        is_trained = _has_finished_adapter(run, prepared, inputs, console, resume=resume)
    _open(prepared, inputs, starts=not (is_trained or resume), fresh=fresh)
    return is_trained


def _has_finished_adapter(
    run: RunFolder, prepared: Prepared, inputs: Inputs, console: Console, *, resume: bool
) -> bool:
    """Return whether the folder has a finished adapter that was trained from exactly these inputs.

    Raises:
        UserError: if the folder has an adapter or a checkpoint from other inputs, or nothing to resume from.
    """
    recorded, trained, checkpoint = run.inputs(), run.stage("train"), last_checkpoint(run.checkpoints)
    if trained is not None:
        run.require_adapter()
        changed = prepared.differences_from_older(run) if recorded is None else differences(recorded, inputs, CONTENT)
        if changed:
            raise UserError(
                f"{run.path}: its finished adapter was trained from other inputs: {listed(changed)}. Score "
                "it unchanged with `toolhone eval`, give this run another name (--set name=...), or delete it with "
                "--fresh (FRESH=1)"
            )
        if recorded is None:
            console.print(f"note: {run.path} was made by an older version: its model's files cannot be compared")
        elif made_with := other_versions(recorded):
            console.print(f"note: the adapter in {run.adapter} was {made_with}", markup=False)
        return True
    if checkpoint is not None:
        changed = ["it records no fingerprints"] if recorded is None else differences(recorded, inputs, EVERYTHING)
        if changed:
            raise UserError(
                f"{checkpoint}: belongs to an interrupted training that cannot be resumed from these inputs: "
                f"{listed(changed)}. Restore the recorded inputs, give this run another name (--set name=...), or "
                "start again with --fresh (FRESH=1)"
            )
        if not resume:
            raise UserError(
                f"{checkpoint}: belongs to an interrupted training; --resume (make: RESUME=1) continues it, "
                "--fresh (FRESH=1) deletes the run and starts again"
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


def _open(prepared: Prepared, inputs: Inputs, *, starts: bool, fresh: bool) -> None:
    """Open the run folder and write the config, the splits and the manifest's head.

    Inputs are recorded only when a training starts. If it is resumed or finished, only the test rows may have changed.
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
        head = {**training_head(prepared), **head, "inputs": inputs}
    elif "train" in before["stages"] and "inputs" not in before:
        # The new config may differ in keys that change no weight. Record that the adapter belongs to it too.
        before["stages"]["train"]["same_as"] = prepared.training_fingerprint
        head["stages"] = before["stages"]
    run.note(**head)


def _train(prepared: Prepared, run: RunFolder, console: Console, *, resume: bool) -> bool:
    """Train the adapter. Return False if training was stopped early."""
    from toolhone.train.trainer import train_adapter

    config, hardware, renderer = prepared.config, prepared.hardware, prepared.renderer
    measure = None
    if config.train.select_by == "exact_match":
        answers = run.checkpoints / "selection" / "answers"
        measure = exact_match_on(prepared.validation, renderer, config.evaluate, answers, console)
    reset_peak_memory(hardware.device)
    with Progress("loading the model", None, "", console):
        model = load_model(config.model, hardware)
    result = train_adapter(
        config,
        hardware,
        model,
        renderer.tokenizer,
        prepared.train,
        prepared.validation,
        run,
        console if rank() == 0 else Console(quiet=True),
        resume=resume,
        measure=measure,
    )
    if rank() == 0 and result.finished:
        if missing_adapter_files(run.adapter):  # check this here: from now on the run counts as finished
            raise UserError(
                f"{run.adapter}: training has ended, but its adapter was not saved; check the launcher's config"
            )
        save_chat(run.adapter, renderer)
        # Trainer pickles its arguments beside the weights. They can hold a hub token, and nothing reads them.
        (run.adapter / "training_args.bin").unlink(missing_ok=True)
        facts = asdict(result)
        del facts["finished"], facts["asked_to_stop"]
        run.mark_finished("train", prepared.training_fingerprint, **facts)
    del model
    release_memory(hardware.device)
    wait_for_all()
    copy_to_other_machines(run, config)
    if result.finished and result.asked_to_stop:  # in the last step: the adapter is saved
        raise interruption(run)
    return result.finished


def save_chat(folder: Path, renderer: ChatRenderer) -> None:
    """Save the tokenizer with the template in use, so that later prompts are the same as in training."""
    renderer.tokenizer.chat_template = renderer.template
    renderer.tokenizer.save_pretrained(folder)


def exact_match_on(
    validation: Sequence[Rendered], renderer: ChatRenderer, config: EvaluateConfig, folder: Path, console: Console
) -> Measure:
    """Return a measure that answers the validation turns greedily. `folder` keeps the answers of each step."""
    examples = [row.example for row in validation]

    def measure(model: Any, step: int) -> Measured:
        answers = folder / f"step-{step}.jsonl"
        remove_parts(answers)  # those of an interrupted run are from another model
        wait_for_all()
        attention = model.config._attn_implementation
        if attention != "eager":  # the class may have no sdpa
            model.set_attn_implementation("sdpa")
        try:
            fingerprint = f"step{step}"
            predict(model, renderer, examples, "validation", config, answers, console, fingerprint=fingerprint)
        finally:
            model.set_attn_implementation(attention)
            model.train()
        return Measured(step, on_first_process(lambda: count_right(answers)), len(examples))

    def count_right(answers: Path) -> int:
        predictions = [Prediction.from_json(row) for _, row in read_jsonl(answers)]
        pairs = zip(examples, predictions, strict=True)
        return sum(score(example, prediction, renderer.format.name).exact for example, prediction in pairs)

    return measure


def _predict(
    run: RunFolder, tuned: TunedModel, examples: Sequence[Example], config: EvaluateConfig, console: Console
) -> None:
    path, asked, what = run.predictions(tuned.label), examples, "turns"
    facts: dict[str, Any] = {}
    if tuned.adapter is None:
        asked, config = select_for_base(tuned.renderer, examples, config)
        facts = {"max_new_tokens": config.max_new_tokens}
        if len(asked) < len(examples):
            what, facts["sampled_from"] = f"of {len(examples)} turns", asked_fingerprint(examples)
    predict_once(tuned, f"predict:{tuned.label}", asked, what, config, path, console, facts)
    wait_for_all()


def _score(run: RunFolder, console: Console) -> None:
    if rank() == 0:
        with Progress("scores and report", None, "", console):
            score_run(run)
            write_report(run.path)
    wait_for_all()
