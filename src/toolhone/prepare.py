"""Read, check, split and render the data of a config, before any weight is loaded.

In: a config. Out: `Prepared`, with fingerprints of everything that training depends on. No file is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

from rich.console import Console

from toolhone.chat.probe import Need, make_renderer, needs_of
from toolhone.chat.render import ChatRenderer, Rendered, render_all
from toolhone.config import Config, config_fields
from toolhone.data.check.finding import describe_left_out
from toolhone.data.read import turns
from toolhone.data.split import Splits, make_splits
from toolhone.errors import UserError
from toolhone.launcher import rank, world_size
from toolhone.pretrained import load_model_config, load_tokenizer
from toolhone.progress import Progress
from toolhone.records import Conversation, Example
from toolhone.run_folder import (
    RunFolder,
    fingerprint,
    older_training_fingerprints,
    provenance,
    training_fingerprint,
    versions,
)
from toolhone.run_inputs import Inputs, model_inputs
from toolhone.train.hardware import Hardware, choose_hardware
from toolhone.train.language_layers import target_notes
from toolhone.train.packing import settle_packing, uses_flex


@dataclass(frozen=True)
class Prepared:
    """A run's data, ready for the model, and the hardware that it will run on.

    Attributes:
        scored: the examples that the models answer.
        scored_tokens: the number of tokens in the gold turn of each scored example.
        needs: what the chat template must be able to write for these rows.
        dropped: the ids of over-long examples.
        with_control_tokens: the ids of examples whose messages or tools contain control tokens.
        notes: notices for the user, in addition to those of the hardware.
    """

    config: Config
    hardware: Hardware
    splits: Splits
    renderer: ChatRenderer
    train: list[Rendered]
    validation: list[Rendered]
    scored: list[Example]
    scored_tokens: list[int]
    needs: frozenset[Need]
    dropped: list[str]
    with_control_tokens: list[str]
    notes: tuple[str, ...] = ()

    @cached_property  # it hashes every token
    def training_inputs(self) -> tuple[str, int]:
        """The inputs of training besides the config: a fingerprint of all token ids and the template, and the number
        of processes."""
        ids = [[row.prompt_ids, row.completion_ids] for row in (*self.train, *self.validation)]
        return fingerprint(ids, self.renderer.template_hash()), world_size()

    def inputs(self, known: Inputs | None = None) -> dict[str, dict[str, Any]]:
        """Return fingerprints of all inputs of training besides the config. `known`: those of an earlier run."""
        ids, processes = self.training_inputs
        return {
            "data": {
                "training rows of data.train": rows_fingerprint(self.splits.train),
                "validation rows of data.train": rows_fingerprint(self.splits.validation),
                "tokens of the data": ids,
            },
            **model_inputs(self.config.model, known),
            "template": {"chat template": self.renderer.template_hash()},
            "processes": {"number of processes": processes},
            "hardware": {"device": self.hardware.device, "number type": self.hardware.dtype_name},
            "versions": versions(),
        }

    def all_inputs(self) -> Inputs:
        """Return everything that must be the same on all machines of a training: its inputs, the config, and the
        examples that the models answer."""
        values = {name: repr(attrgetter(name)(self.config)) for name, _ in config_fields()}
        scored = fingerprint([example.asked() for example in self.scored])
        inputs = {section: found for section, found in self.inputs().items() if section != "stat"}
        return {"config": values, **inputs, "answers": {"rows to answer": scored}}

    @property
    def training_fingerprint(self) -> str:
        """The fingerprint under which a training from these inputs is recorded."""
        return training_fingerprint(self.config.model_dump(mode="json"), *self.training_inputs)

    def differences_from_older(self, run: RunFolder) -> list[str]:
        """Return what differs from a training by an older version, which recorded a single fingerprint of all
        inputs."""
        found = run.stage("train") or {}
        older = older_training_fingerprints(run, *self.training_inputs)
        if self.training_fingerprint == found.get("same_as") or found["fingerprint"] in older:
            return []
        return ["its rows, its chat template or its number of processes"]


def prepare(config: Config, *, console: Console) -> Prepared:
    """Read, check, split and render the data of a config, and print a summary. No weights are loaded.

    Raises:
        UserError: if the data, the model's tokenizer or the requested hardware cannot be used.
    """
    with Progress("reading and rendering the data", None, "", console):
        prepared = _prepare(config)
    if rank() == 0:
        _describe(prepared, console)
    return prepared


def _prepare(config: Config) -> Prepared:
    hardware = choose_hardware(config.model, cudnn_attention=config.cuda.cudnn_attention)
    uses_flex(config, hardware)  # an error now rather than after all other preparations
    splits = make_splits(config.data)
    if config.chat.thinking == "train" and not any(example.turn.thinking for example in turns(splits.train)):
        raise UserError(
            "chat.thinking: train, but no turn to learn in data.train has thinking (reasoning_content or a <think> "
            "block); set chat.thinking: strip, or use rows with thinking"
        )
    # Rendering the scored examples proves that the format can write their gold. Over-long ones are an error.
    scored = turns(splits.test if config.evaluate.split == "test" else splits.validation)
    needs = needs_of((*turns(splits.train), *turns(splits.validation), *scored))
    renderer = make_renderer(load_tokenizer(config.model), config.chat, config.model.name, needs=needs)
    model_config = load_model_config(config.model)
    config, notes = settle_packing(config, model_config)
    notes = (*notes, *target_notes(config, model_config))
    train, dropped = render_all(renderer, turns(splits.train), config.chat, config.train.answer_weight)
    validation, dropped_validation = render_all(
        renderer, turns(splits.validation), config.chat, config.train.answer_weight
    )
    rendered, _ = render_all(renderer, scored, config.chat.model_copy(update={"over_long": "error"}))
    dropped = [*dropped, *dropped_validation]
    # A dict removes duplicates: the scored examples may be the validation's.
    guarded = dict.fromkeys(row.example.id for row in (*train, *validation, *rendered) if row.holds_control_tokens)
    lengths = [len(row.completion_ids) for row in rendered]
    return Prepared(
        config,
        hardware,
        splits,
        renderer,
        train,
        validation,
        scored,
        lengths,
        needs,
        dropped,
        with_control_tokens=list(guarded),
        notes=notes,
    )


def training_head(prepared: Prepared) -> dict[str, Any]:
    """Return the head of a new run's manifest: what the training is made from."""
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
            "traits": asdict(renderer.traits) if renderer.traits else None,
            "parts": list(renderer.parts),
            "needs": sorted(prepared.needs),
        },
        "left_out": prepared.splits.left_out,
        "dropped": prepared.dropped,
    }


def rows_fingerprint(rows: Sequence[Conversation]) -> str:
    """Return the fingerprint of a split's rows, as recorded in the manifest."""
    return fingerprint([row.to_json() for row in rows])


def _describe(prepared: Prepared, console: Console) -> None:
    config, splits, renderer = prepared.config, prepared.splits, prepared.renderer
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    console.print(f"[bold]{config.name}[/]: {config.model.name} on {prepared.hardware.describe()}{processes}")
    for note in (*prepared.hardware.notes, *prepared.notes):
        console.print(f"  note: {note}", markup=False)
    if config.data.format == "auto":
        console.print(f"  data read as: {', '.join(splits.formats)}")
    if splits.left_out:
        console.print(f"  {describe_left_out(splits.left_out)}", markup=False)
    for name, rows in splits.items():
        part = f" of {splits.available[name]}" if len(rows) < splits.available[name] else ""
        console.print(f"  {name}: {len(rows)}{part} conversations, {len(turns(rows))} assistant turns")
    why = f"chat.tools is {config.chat.tools}" if config.chat.template == "auto" else "chat.template is toolhone"
    console.print(f"  chat format: {renderer.format.name}, {renderer.describe_template(why)}", markup=False)
    for line in _thinking_lines(prepared):
        console.print(f"  {line}", markup=False)
    for what, ids in (
        ("dropped as over-long", prepared.dropped),
        ("control tokens in the text, encoded as plain text", prepared.with_control_tokens),
    ):
        if ids:
            shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
            console.print(f"  {what}: {len(ids)} turns ({shown})", markup=False)


_THINKING = {
    "strip": "is left out (chat.thinking: strip)",
    "keep": "is context in later prompts and is not learned (chat.thinking: keep)",
    "train": "is learned, and is context in later prompts (chat.thinking: train)",
}


def _thinking_lines(prepared: Prepared) -> list[str]:
    """Return how many assistant turns have thinking and what happens to it; none if no turn has any."""
    chat, evaluate = prepared.config.chat, prepared.config.evaluate
    spoken = [m for _, rows in prepared.splits.items() for row in rows for m in row.messages if m.role == "assistant"]
    thoughtful = sum(bool(message.thinking) for message in spoken)
    if not thoughtful:
        return []
    lines = [f"thinking: {thoughtful} of {len(spoken)} assistant turns have some; it {_THINKING[chat.thinking]}"]
    longest = max(prepared.scored_tokens, default=0)
    if chat.thinking == "train" and longest > evaluate.max_new_tokens:
        lines.append(
            f"note: the longest scored turn has {longest} tokens with its thinking, more than evaluate.max_new_tokens "
            f"({evaluate.max_new_tokens}); raise it, or such answers are cut off"
        )
    return lines
