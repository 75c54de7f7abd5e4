"""`toolhone data convert`: conversations of any format into OpenAI's, Hermes' or xLAM's, and what that cost.

Every row is read back from what would be written, by the reader that `toolhone data` itself has for the format. What
comes back otherwise is counted as lost; a row in which a question, a call or an answer would change is left out. So the
file holds no row that says something else than its source, and the report holds every loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from toolhone.data.importers import hermes, openai, xlam
from toolhone.data.read import RowFault, read_sources, read_tools
from toolhone.data.round_trip import Changed, losses
from toolhone.data.write_formats import DoesNotFit, to_hermes, to_openai, to_xlam
from toolhone.errors import RowError, UserError
from toolhone.jsonl import write_jsonl
from toolhone.records import Conversation

TargetName = Literal["openai", "hermes", "xlam"]
Kind = Literal["left out", "lost", "in reading"]

_PLACES = 3

TARGETS: dict[TargetName, tuple[Callable[[Conversation, bool], dict[str, Any]], Callable[..., Conversation]]] = {
    "openai": (to_openai, openai.read),
    "hermes": (to_hermes, hermes.read),
    "xlam": (to_xlam, xlam.read),
}
"""How a format is written, and how it is read."""


@dataclass(slots=True)
class Loss:
    """What happened to `count` rows, and the first places: left out, something of them lost, or a fault in reading."""

    kind: Kind
    reason: str
    count: int = 0
    places: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Converted:
    """The report: conversations read and rows written, rows written without any loss, and every loss."""

    read: int = 0
    written: int = 0
    lossless: int = 0
    losses: dict[tuple[Kind, str], Loss] = field(default_factory=dict)

    def note(self, kind: Kind, reason: str, where: str) -> None:
        """Count one row under a reason."""
        loss = self.losses.setdefault((kind, reason), Loss(kind, reason))
        loss.count += 1
        if len(loss.places) < _PLACES:
            loss.places.append(where)

    def to_json(self) -> dict[str, Any]:
        rows = [{"kind": x.kind, "reason": x.reason, "count": x.count, "places": x.places} for x in self.sorted()]
        return {"read": self.read, "written": self.written, "lossless": self.lossless, "losses": rows}

    def sorted(self) -> list[Loss]:
        """Left out first, and the commonest first."""
        kinds: list[Kind] = ["left out", "lost", "in reading"]
        return sorted(self.losses.values(), key=lambda loss: (kinds.index(loss.kind), -loss.count, loss.reason))


def convert(
    sources: Sequence[str],
    to: TargetName,
    out: Path,
    *,
    tools: Path | None = None,
    format: str = "auto",
    keep_extra: bool = False,
    console: Console | None = None,
) -> Converted:
    """Write the sources' conversations to `out` as JSONL of a format. The file is whole or not there.

    Args:
        keep_extra: keep toolhone's own keys (id, expected, gold_source, meta), as far as the format has a place for
            them; OpenAI refuses rows that have them.

    Raises:
        UserError: where a source cannot be opened, `out` is one of them, or not one row could be written.
    """
    if any(Path(source).resolve() == out.resolve() for source in sources):
        raise UserError(
            f"--out {out}: is one of the files to read; what the format cannot hold would be gone: name another"
        )
    report = Converted()
    rows = read_sources(sources, read_tools(tools) if tools else (), format)
    write_jsonl(out, _written(rows, to, keep_extra, report), console)
    return report


def _written(
    rows: Iterable[Conversation | RowFault], to: TargetName, keep_extra: bool, report: Converted
) -> Iterator[dict[str, Any]]:
    write, read = TARGETS[to]
    for row in rows:
        if isinstance(row, RowFault):
            report.note("in reading", row.rule, row.where)
            continue
        report.read += 1
        try:
            written = write(row, keep_extra)
            lost = losses(row, read(written, row.where), to)
        except (DoesNotFit, Changed) as why:
            report.note("left out", str(why), row.where)
            continue
        except RowError as error:
            report.note("left out", f"what would be written could not be read ({error.rule})", row.where)
            continue
        report.written += 1
        report.lossless += not lost
        for reason in lost:
            report.note("lost", reason, row.where)
        yield written
    if not report.written:
        first = next(iter(report.sorted()), None)
        cause = f"; first reason: {first.reason} ({first.places[0]})" if first else ": there are none"
        raise UserError(f"not one row could be written as {to}{cause}; try `toolhone data check`")


def show(report: Converted, to: TargetName, out: Path, console: Console) -> None:
    """Print what was written, and a line for every loss."""
    console.print(
        f"{out}: {report.written:,} of {report.read:,} rows as {to}, {report.lossless:,} of them without any loss",
        markup=False,
    )
    for loss in report.sorted():
        more = ", ..." if loss.count > len(loss.places) else ""
        rows = f"{loss.count:,} row{'' if loss.count == 1 else 's'}"
        said = {"left out": "left out, {}", "lost": "lost in {}", "in reading": "fault in reading, {}"}[loss.kind]
        console.print(f"  {said.format(rows)}: {loss.reason} ({', '.join(loss.places)}{more})", markup=False)
