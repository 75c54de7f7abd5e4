"""From a config to data that is ready for the model: read, check, split, render.

All faults of the data are told before any weight is loaded, and every row that is left out is counted and named.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from toolhone.chat.render import ChatRenderer, Rendered, make_renderer, render_all
from toolhone.config import Config
from toolhone.data.read import turns
from toolhone.data.split import Splits, make_splits
from toolhone.fingerprint import fingerprint
from toolhone.records import Example
from toolhone.train.hardware import Hardware, choose_hardware, rank, world_size
from toolhone.train.model import load_tokenizer


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run's data, ready for the model, and what it will be run on."""

    config: Config
    hardware: Hardware
    splits: Splits
    renderer: ChatRenderer
    train: list[Rendered]
    validation: list[Rendered]
    judged: list[Example]
    dropped: list[str]

    def data_fingerprint(self) -> str:
        """Identifies all that training sees: the ids of every row, and the template that made them."""
        ids = [[row.prompt_ids, row.completion_ids] for row in (*self.train, *self.validation)]
        return fingerprint(ids, self.renderer.template_hash())


def prepare(config: Config, *, console: Console) -> Prepared:
    """Read, check, split and render the data of a config, and say what was found.

    Raises:
        UserError: for anything wrong with the data, the model's tokenizer or the hardware asked for.
    """
    hardware = choose_hardware(config.model)
    splits = make_splits(config.data)
    renderer = make_renderer(load_tokenizer(config.model), config.chat, config.model.name)
    train, dropped = render_all(renderer, turns(splits.train), config.chat)
    validation, dropped_validation = render_all(renderer, turns(splits.validation), config.chat)
    # Judged examples are rendered to prove that their gold can be written; over-long ones are refused, never left out.
    judged = turns(splits.test if config.evaluate.split == "test" else splits.validation)
    render_all(renderer, judged, config.chat.model_copy(update={"over_long": "error"}))
    prepared = Prepared(config, hardware, splits, renderer, train, validation, judged, [*dropped, *dropped_validation])
    if rank() == 0:
        _describe(prepared, console)
    return prepared


def _describe(prepared: Prepared, console: Console) -> None:
    config, splits, renderer = prepared.config, prepared.splits, prepared.renderer
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    console.print(f"[bold]{config.name}[/]: {config.model.name} on {prepared.hardware.describe()}{processes}")
    for note in prepared.hardware.notes:
        console.print(f"  note: {note}")
    if config.data.format == "auto":
        console.print(f"  data read as: {', '.join(splits.formats)}")
    for name, rows in splits.items():
        part = f" of {splits.available[name]}" if len(rows) < splits.available[name] else ""
        console.print(f"  {name}: {len(rows)}{part} conversations, {len(turns(rows))} assistant turns")
    whose = "the model's own" if renderer.source == "model" else "toolhone's"
    why = f" (the model's own: {renderer.note})" if renderer.note else ""
    console.print(f"  format: {renderer.format.name}, {whose} template{why}")
    if prepared.dropped:
        shown = ", ".join(prepared.dropped[:5]) + (", ..." if len(prepared.dropped) > 5 else "")
        console.print(f"  dropped as over-long: {len(prepared.dropped)} turns ({shown})")
