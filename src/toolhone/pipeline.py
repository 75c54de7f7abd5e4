"""The whole path of an experiment, from config to report:

    prepare -> answers of the base model -> adapter -> answers of the tuned model -> scores -> report

Each stage reads files and writes files. One that was finished from the same inputs is reused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from toolhone.chat.probe import make_renderer
from toolhone.chat.render import ChatRenderer, Rendered, render_all
from toolhone.config import Config, EvaluateConfig
from toolhone.config_file import load_config
from toolhone.data.check.finding import describe_left_out
from toolhone.data.read import turns
from toolhone.data.split import Splits, make_splits
from toolhone.errors import UserError
from toolhone.evaluate.match import score
from toolhone.evaluate.predict import predict, predict_once
from toolhone.evaluate.score import score_run, scored_examples
from toolhone.jsonl import read_jsonl, remove_parts, write_jsonl
from toolhone.pretrained import load_tokenizer
from toolhone.records import Example, Prediction
from toolhone.report.report import write_report
from toolhone.run_folder import (
    ADAPTER_FILES,
    RUNS,
    RunFolder,
    existing_run,
    fingerprint,
    legacy_training_fingerprint,
    open_run,
    provenance,
    refuse_other_config,
    training_fingerprint,
)
from toolhone.train.checkpoint import checkpoint_to_resume, last_checkpoint
from toolhone.train.hardware import Hardware, choose_hardware, release_memory
from toolhone.train.model import load_model
from toolhone.train.preflight import refuse_untrainable
from toolhone.train.processes import join_processes, rank, wait_for_all, world_size
from toolhone.train.select import Measure, Measured
from toolhone.tuned import TunedModel


@dataclass(frozen=True)
class Prepared:
    """A run's data, ready for the model, and the hardware that it will run on. `scored` are the examples that the
    models answer; `dropped` are the ids of over-long ones; `with_control_tokens` are the ids of those whose messages or
    tools hold control tokens."""

    config: Config
    hardware: Hardware
    splits: Splits
    renderer: ChatRenderer
    train: list[Rendered]
    validation: list[Rendered]
    scored: list[Example]
    dropped: list[str]
    with_control_tokens: list[str]

    @cached_property  # it hashes every token
    def training_inputs(self) -> tuple[str, int]:
        """What training depends on besides the config: every row's ids with their template, and the processes."""
        ids = [[row.prompt_ids, row.completion_ids] for row in (*self.train, *self.validation)]
        return fingerprint(ids, self.renderer.template_hash()), world_size()

    @property
    def training_fingerprint(self) -> str:
        """What a training from exactly this is recorded under."""
        return training_fingerprint(self.config.model_dump(mode="json"), *self.training_inputs)


def prepare(config: Config, *, console: Console) -> Prepared:
    """Read, check, split and render the data of a config, and print what was found. No weights are loaded.

    Raises:
        UserError: for anything wrong with the data, the model's tokenizer or the hardware asked for.
    """
    hardware = choose_hardware(config.model, cudnn_attention=config.cuda.cudnn_attention)
    splits = make_splits(config.data)
    renderer = make_renderer(load_tokenizer(config.model), config.chat, config.model.name)
    train, dropped = render_all(renderer, turns(splits.train), config.chat, config.train.answer_weight)
    validation, dropped_validation = render_all(
        renderer, turns(splits.validation), config.chat, config.train.answer_weight
    )
    # Scored examples are rendered to prove that their gold can be written; over-long ones are refused, never left out.
    scored = turns(splits.test if config.evaluate.split == "test" else splits.validation)
    rendered, _ = render_all(renderer, scored, config.chat.model_copy(update={"over_long": "error"}))
    dropped = [*dropped, *dropped_validation]
    # The scored examples may be those of the validation.
    guarded = dict.fromkeys(row.example.id for row in (*train, *validation, *rendered) if row.holds_control_tokens)
    prepared = Prepared(config, hardware, splits, renderer, train, validation, scored, dropped, list(guarded))
    if rank() == 0:
        _describe(prepared, console)
    return prepared


def run_experiment(config: Config, *, resume: bool, fresh: bool, console: Console) -> RunFolder | None:
    """Train and evaluate. Returns the run folder, or None if training was asked to stop early.

    Raises:
        UserError: for bad data or settings, before anything is written.
    """
    prepared = prepare(config, console=console)
    refuse_untrainable(config)
    join_processes(prepared.hardware.device)
    run = RunFolder(RUNS / config.name)
    is_trained = False
    if not fresh:
        refuse_other_config(run, config)
        is_trained = _is_trained(run, prepared)
        if is_trained:
            run.require_adapter()
        _refuse_to_lose(run, prepared, is_trained=is_trained, resume=resume)
    wait_for_all()  # no process may write before all have looked
    if rank() == 0:
        _open(prepared, is_trained=is_trained, fresh=fresh)
    wait_for_all()
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
        UserError: if there is no finished run.
    """
    run, _ = existing_run(path)
    run.require_adapter()
    if run.stage("train") is None:
        raise UserError(f"{path}: its training has not finished; `toolhone train --resume` goes on with it")
    config = load_config(run.config, [f"evaluate.{key}={value}" for key, value in overrides.items()])
    tuned = TunedModel.load(path)
    join_processes(tuned.hardware.device)
    examples = scored_examples(run)
    if config.evaluate.base:
        _predict(run, TunedModel.base(path), examples, config.evaluate, console)
    _predict(run, tuned, examples, config.evaluate, console)
    _score(run)
    return run


def _is_trained(run: RunFolder, prepared: Prepared) -> bool:
    """Whether the folder holds an adapter that was trained from exactly this."""
    found = run.stage("train")
    if found is None:
        return False
    return prepared.training_fingerprint in (found["fingerprint"], found.get("same_as")) or (
        found["fingerprint"] == legacy_training_fingerprint(run, *prepared.training_inputs)
    )


def _refuse_to_lose(run: RunFolder, prepared: Prepared, *, is_trained: bool, resume: bool) -> None:
    """Check that nothing in the run folder would be overwritten, and that there is something to resume from.

    Raises:
        UserError: saying what is there, and how to keep or delete it.
    """
    if is_trained:
        return
    if run.stage("train") is not None:
        raise UserError(
            f"{run.path}: holds a finished adapter that was trained on other rows, with another chat template or on "
            "another number of processes; score it as it is with `toolhone eval`, give this run another name "
            "(--set name=...), or delete it with --fresh (FRESH=1)"
        )
    if resume:
        checkpoint_to_resume(run.checkpoints)
        before = run.read_manifest().get("chat")
        if before is not None and before["template_hash"] != prepared.renderer.template_hash():
            raise UserError(
                f"{run.path}: its training began with another chat template, so it cannot be resumed; start anew with "
                "--fresh (FRESH=1)"
            )
        return
    checkpoint = last_checkpoint(run.checkpoints)
    if checkpoint is not None:
        raise UserError(
            f"{checkpoint}: belongs to a training that was interrupted; --resume (make: RESUME=1) continues it, "
            "--fresh (FRESH=1) deletes the run and starts anew"
        )


def _open(prepared: Prepared, *, is_trained: bool, fresh: bool) -> None:
    """Open the run folder and write the config, the splits and the manifest's head."""
    config = prepared.config
    run = open_run(config, fresh=fresh)
    for name, rows in prepared.splits.items():
        write_jsonl(run.split(name), (row.to_json() for row in rows))
    run.note(**_manifest_head(prepared))
    if is_trained:
        # The config on disk may have new values of keys that change no weight: keep the adapter's fingerprint valid.
        stages = run.read_manifest()["stages"]
        stages["train"]["same_as"] = prepared.training_fingerprint
        run.note(stages=stages)


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
            "template_kwargs": dict(renderer.template_kwargs),
        },
        "data": {
            name: {"rows": len(rows), "examples": len(turns(rows)), "sha256": fingerprint([r.to_json() for r in rows])}
            for name, rows in prepared.splits.items()
        },
        "left_out": prepared.splits.left_out,
        "dropped": prepared.dropped,
        "judged": config.evaluate.split,
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
        if not all((run.adapter / name).is_file() for name in ADAPTER_FILES):  # or the run would count as finished
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
    path, made_from = run.predictions(tuned.label), _prediction_fingerprint(run, tuned, examples, config)
    predict_once(tuned, f"predict:{tuned.label}", examples, "turns", config, path, console, made_from)
    wait_for_all()


def _prediction_fingerprint(
    run: RunFolder, tuned: TunedModel, examples: Sequence[Example], config: EvaluateConfig
) -> str:
    trained = run.stage("train") if tuned.adapter else None
    asked = [example.asked() for example in examples]
    sections = {"model": tuned.config.model.model_dump(mode="json"), "evaluate": config.model_dump(mode="json")}
    made_by = trained["fingerprint"] if trained else tuned.label
    return fingerprint(made_by, sections, asked, tuned.renderer.template_hash(), tuned.hardware.dtype_name)


def _score(run: RunFolder) -> None:
    if rank() == 0:
        score_run(run)
        write_report(run.path)
    wait_for_all()


def _describe(prepared: Prepared, console: Console) -> None:
    config, splits, renderer = prepared.config, prepared.splits, prepared.renderer
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    console.print(f"[bold]{config.name}[/]: {config.model.name} on {prepared.hardware.describe()}{processes}")
    for note in prepared.hardware.notes:
        console.print(f"  note: {note}")
    if config.data.format == "auto":
        console.print(f"  data read as: {', '.join(splits.formats)}")
    if splits.left_out:
        console.print(f"  {describe_left_out(splits.left_out)}", markup=False)
    for name, rows in splits.items():
        part = f" of {splits.available[name]}" if len(rows) < splits.available[name] else ""
        console.print(f"  {name}: {len(rows)}{part} conversations, {len(turns(rows))} assistant turns")
    whose = "the model's own" if renderer.source == "model" else "toolhone's"
    why = f" (the model's own: {renderer.note})" if renderer.note else ""
    console.print(f"  format: {renderer.format.name}, {whose} template{why}")
    for what, ids in (
        ("dropped as over-long", prepared.dropped),
        ("control tokens in the text, encoded as plain text", prepared.with_control_tokens),
    ):
        if ids:
            shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
            console.print(f"  {what}: {len(ids)} turns ({shown})", markup=False)
