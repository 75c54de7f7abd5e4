"""How a run came about, in words: the facts of its manifest and of its training log.

In: a run folder's files, read. Out: pairs of name and text, tables, and the commands that make the run again. A
manifest grows with the stages that have finished; what it does not record is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from toolhone.report import numbers, wording
from toolhone.report.run_files import RunFiles


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows that do not count, with the reason in a sentence, and each one's id and what is known of it."""

    sentence: str
    rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A plain table: its head, its rows, and for each column "l" or "r", as it holds words or figures."""

    align: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def facts(run: RunFiles) -> Iterator[tuple[str, str]]:
    """The few facts that stand under the title."""
    manifest = run.manifest or {}
    model = manifest.get("model")
    if isinstance(model, dict) and "name" in model:
        yield "Model", str(model["name"])
    device = [str(manifest[key]) for key in ("device", "dtype") if manifest.get(key)]
    if manifest.get("hardware") or device:
        yield "Device", str(manifest.get("hardware") or ", ".join(device))
    if manifest.get("machine"):
        yield "Machine", str(manifest["machine"])
    if manifest.get("created"):
        yield "Made", str(manifest["created"])[:16].replace("T", " ")


def left_out(run: RunFiles) -> Iterator[LeftOut]:
    """The rows that were left out of the figures or of training."""
    quarantined = run.metrics.get("provenance", {}).get("quarantined") or {}
    if quarantined:
        count = f"{len(quarantined):,} test row{' is' if len(quarantined) == 1 else 's are'}"
        rows = tuple(f"{wording.visible(id_)}: {why}" for id_, why in quarantined.items())
        yield LeftOut(f"{count} in no figure here, as even the gold answer does not score.", rows)
    for model, refused in (run.metrics.get("provenance", {}).get("refused") or {}).items():
        count = f"{len(refused):,} test row{' is' if len(refused) == 1 else 's are'}"
        rows = tuple(f"{wording.visible(id_)}: {why}" for id_, why in refused.items())
        yield LeftOut(f"{count} in no figure here, of any model, as the endpoint of {model} would not answer.", rows)
    dropped = (run.manifest or {}).get("dropped") or []
    if dropped:
        count = f"{len(dropped):,} turn{' was' if len(dropped) == 1 else 's were'}"
        yield LeftOut(f"{count} left out of training, as longer than the config allows.", tuple(map(str, dropped)))


def training(run: RunFiles) -> Iterator[tuple[str, str]]:
    """What training took and where it ended, from the manifest's stage and the log."""
    stage = (run.manifest or {}).get("stages", {}).get("train", {})
    if stage.get("seconds") is not None:
        yield "Time", numbers.duration(stage["seconds"])
    if stage.get("peak_memory_gb") is not None:
        yield "Peak memory", f"{stage['peak_memory_gb']:.1f} GB"
    trainable, total = stage.get("trainable_parameters"), stage.get("total_parameters")
    if trainable is not None:
        share = f" of {total:,} ({100 * trainable / total:.2f}%)" if total else ""
        yield "Parameters trained", f"{trainable:,}{share}"
    steps = [line for line in run.train_log if line.get("loss") is not None]
    if steps:
        yield "Steps", f"{steps[-1]['step']:,}"
        yield "Training loss", f"{steps[0]['loss']:.3f} to {steps[-1]['loss']:.3f}"
    losses = [line["eval_loss"] for line in run.train_log if line.get("eval_loss") is not None]
    if losses:
        yield "Validation loss", f"{losses[0]:.3f} to {losses[-1]:.3f}" if len(losses) > 1 else f"{losses[0]:.3f}"
    speeds = sorted(line["tokens_per_second"] for line in steps if line.get("tokens_per_second") is not None)
    if speeds:
        yield "Median speed", f"{numbers.number(speeds[len(speeds) // 2])} tokens/s"


def data(manifest: Mapping[str, Any]) -> Table | None:
    """The splits, with the start of each one's hash."""
    splits = manifest.get("data")
    if not isinstance(splits, dict) or not splits:
        return None
    rows = []
    for name, split in splits.items():
        if isinstance(split, dict):
            counts = (numbers.number(split.get("rows")), numbers.number(split.get("examples")))
            rows.append((str(name), *counts, str(split.get("sha256") or numbers.ABSENT)[:16]))
    return Table("lrrl", ("Split", "Rows", "Examples", "SHA-256"), tuple(rows)) if rows else None


def stages(manifest: Mapping[str, Any]) -> Table | None:
    """The stages that have finished, and what they took."""
    finished_stages = manifest.get("stages")
    if not isinstance(finished_stages, dict) or not finished_stages:
        return None
    rows = []
    for name, stage in finished_stages.items():
        memory = stage.get("peak_memory_gb")
        finished = str(stage.get("finished") or numbers.ABSENT)[:16].replace("T", " ")
        size = numbers.ABSENT if memory is None else f"{memory:.1f} GB"
        rows.append((str(name), numbers.duration(stage.get("seconds")), size, finished))
    return Table("lrrl", ("Stage", "Time", "Peak memory", "Finished"), tuple(rows))


def commands(run: RunFiles) -> tuple[str, ...]:
    """The commands that make this run again. The run folder's own config.yaml is complete, so it serves where the
    manifest does not name the file that was given."""
    if run.config is None:
        return ()
    manifest = run.manifest or {}
    commit, config = manifest.get("git_commit"), manifest.get("config")
    source = config if isinstance(config, str) else f"runs/{run.name}/config.yaml"
    train = f"make train CONFIG={source}"
    if not commit:
        return (train,)
    clean = str(commit).removesuffix("-dirty")
    return (f"git checkout {clean}{'' if clean == commit else '   # and changes that were not committed'}", train)
