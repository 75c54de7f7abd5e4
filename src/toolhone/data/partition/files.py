"""`toolhone data split`: files of conversations go in, a folder with one file a side and split.json comes out.

One pass reads the rows, remembers their keys and writes each to a scratch file; when all sides are known, the scratch
file's lines go to their sides. So memory holds some hundred bytes a row, whatever the rows' size; the disk holds them
once more for a while. split.json appears last: a folder without it has no complete split.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from toolhone.data.check.row_faults import sound_rows
from toolhone.data.identity import called_tools
from toolhone.data.partition.leakage import Leakage, refuse_leakage
from toolhone.data.partition.partition import NEAR_ROWS, SIDES, Ledger, Partition, Shares, partition, rows_by_tool
from toolhone.data.read import conversation, read_sources, split_weight
from toolhone.errors import UserError
from toolhone.jsonl import conversation_line, write_json
from toolhone.records import Conversation, Tool
from toolhone.strict_json import parse_strict

if TYPE_CHECKING:
    from rich.console import Console

_ENCODE = json.JSONEncoder(ensure_ascii=False).encode
_T = TypeVar("_T")

SPLIT_FILE = "split.json"


@dataclass(frozen=True, slots=True)
class SplitResult:
    """What was written. `summary` is what stands in split.json; `warnings` are for the reader, a sentence each."""

    summary: dict[str, Any]
    warnings: tuple[str, ...]


def split_files(
    sources: Sequence[str],
    out: Path,
    shares: Shares,
    *,
    default_tools: tuple[Tool, ...] = (),
    format: str = "auto",
    group_by: str | None = "template",
    unseen_tools: float = 0.0,
    salt: str = "",
    near: bool = True,
    near_rows: int = NEAR_ROWS,
    against: Sequence[str] = (),
    allow_leakage: bool = False,
    console: Console | None = None,
) -> SplitResult:
    """Split the rows of all sources and write train, validation, calibration and test.jsonl and split.json to `out`.

    Rows are written in their order, as toolhone's own JSONL. With `default_tools`, rows without tools are written with
    these. With `unseen_tools`, tools are kept for the test side: whole groups with a call of one go there, and rows of
    the other sides no longer list them. A split that is there already is replaced. With `against`, the training rows
    are held against those files.

    Raises:
        UserError: where a row cannot be read, a side stays empty, `out` holds something else, or training rows are
            known to a file of `against` (unless `allow_leakage`). Nothing is written then.
    """
    _refuse_foreign_folder(out, sources)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
        scratch = Path(name)
        ledger = Ledger(group_by, near_rows if near else 0)
        left_out: Counter[str] = Counter()
        rows = sound_rows(read_sources(sources, default_tools, format), left_out)
        toolless = _read_into(
            scratch / "rows", _with_progress(rows, "reading", None, console), ledger, unseen_tools > 0
        )
        if not ledger.rows:
            raise UserError(f"{', '.join(sources)}: no rows")
        parted = partition(ledger, shares, unseen_tools=unseen_tools, salt=salt)
        without = _write_sides(scratch, parted, console)
        leakage = _leakage_against(scratch / "train.jsonl", against, default_tools, group_by, allow_leakage)
        summary = _summary(sources, shares, ledger, parted, group_by, near, unseen_tools, without, toolless, leakage)
        summary["left_out"] = dict(left_out)
        summary["files"] = {f"{side}.jsonl": {"sha256": _sha256(scratch / f"{side}.jsonl")} for side in SIDES}
        write_json(scratch / SPLIT_FILE, summary)
        out.mkdir(exist_ok=True)
        (out / SPLIT_FILE).unlink(missing_ok=True)
        for side in SIDES:
            (scratch / f"{side}.jsonl").replace(out / f"{side}.jsonl")
        (scratch / SPLIT_FILE).replace(out / SPLIT_FILE)
    return SplitResult(summary, tuple(_warnings(summary, shares)))


def show(result: SplitResult, console: Console) -> None:
    """Print what was split, the tools' shares where they are off, and the warnings."""
    summary = result.summary
    console.print(f"{summary['rows']:,} rows in {summary['groups']:,} groups", markup=False)
    for side in SIDES:
        part = summary["sides"][side]
        console.print(f"  {side:<12}{part['rows']:>10,} rows  {part['share']:6.1%} (asked for {part['asked']:.1%})")
    if summary["left_out"]:
        rules = ", ".join(f"{count:,} {rule}" for rule, count in summary["left_out"].items())
        console.print(f"left out: {rules} (`toolhone data check` names them)", markup=False)
    if summary["unseen_tools"]:
        removed = sum(summary["unseen_tools_taken_from_rows"].values())
        console.print(
            f"kept for the test: {', '.join(summary['unseen_tools'])} (taken from the tools of {removed:,} other rows)",
            markup=False,
        )
    if summary["leakage"] and not summary["leakage"]["known"]:
        alone = summary["leakage"]["same_id_alone"]
        ids = f" ({alone:,} share a template's id and nothing of its wording)" if alone else ""
        console.print(
            f"none of the {summary['leakage']['rows']:,} rows of the --against files is known{ids}", markup=False
        )
    for warning in result.warnings:
        console.print(f"warning: {warning}", markup=False)


def _refuse_foreign_folder(out: Path, sources: Sequence[str]) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file, expected a folder")
    written = {(out / f"{side}.jsonl").resolve() for side in SIDES}
    for path in (Path(split_weight(source)[0]).resolve() for source in sources):
        if path in written or path == out.resolve():
            raise UserError(f"--out {out}: {path.name} is read from there and would be replaced; name another folder")
    there = [side for side in SIDES if (out / f"{side}.jsonl").exists()]
    if there and not (out / SPLIT_FILE).exists():
        raise UserError(f"--out {out}: holds a {there[0]}.jsonl that no split.json there tells of; name another folder")


def _read_into(scratch: Path, rows: Iterable[Conversation], ledger: Ledger, tools_matter: bool) -> int:
    """Write every row to the scratch file and its keys to the ledger; count the rows that list no tools."""
    toolless = 0
    with scratch.open("wb") as lines:
        for row in rows:
            if not row.tools:
                toolless += 1
                if tools_matter and called_tools(row):
                    raise UserError(
                        f"{row.where}: calls a tool and lists none; --unseen-tools needs --tools TOOLS.json"
                    )
            ledger.add(row)
            lines.write(conversation_line(row))
    return toolless


def _write_sides(scratch: Path, parted: Partition, console: Console | None) -> dict[str, int]:
    """Deal the scratch file's lines out; count for each kept tool the rows that no longer list it."""
    taken = dict.fromkeys(parted.kept_tools, 0)
    marks = [json.dumps(name, ensure_ascii=False).encode() for name in taken]
    test = SIDES.index("test")
    files = [(scratch / f"{side}.jsonl").open("wb") for side in SIDES]
    try:
        with (scratch / "rows").open("rb") as lines:
            sided = zip(lines, parted.sides.tolist(), strict=True)
            for line, side in _with_progress(sided, "writing", len(parted.sides), console):
                kept = line
                if side != test and any(mark in line for mark in marks):
                    kept = _without_tools(line, taken)
                files[side].write(kept)
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in files:
            file.close()
    (scratch / "rows").unlink()
    return taken


def _without_tools(line: bytes, taken: dict[str, int]) -> bytes:
    """A row that no longer lists certain tools, none of which it calls; its list is there even if nothing is left, so
    that no default steps in."""
    row = json.loads(line)
    left = [tool for tool in row.get("tools", ()) if tool["function"]["name"] not in taken]
    if len(left) == len(row.get("tools", ())):
        return line
    for tool in row["tools"]:
        if tool["function"]["name"] in taken:
            taken[tool["function"]["name"]] += 1
    return _line({**row, "tools": left})


def _leakage_against(
    train: Path, against: Sequence[str], tools: tuple[Tool, ...], group_by: str | None, allow: bool
) -> Leakage | None:
    if not against:
        return None
    with train.open("rb") as lines:
        rows = (conversation(parse_strict(line.decode()), f"train.jsonl:{n}", tools) for n, line in enumerate(lines, 1))
        # A row of theirs that cannot be read could be one that is trained on.
        return refuse_leakage(rows, sound_rows(read_sources(against, tools)), allow=allow, group_by=group_by)


def _summary(
    sources: Sequence[str],
    shares: Shares,
    ledger: Ledger,
    parted: Partition,
    group_by: str | None,
    near: bool,
    unseen_tools: float,
    without: dict[str, int],
    toolless: int,
    leakage: Leakage | None,
) -> dict[str, Any]:
    import numpy as np

    counts = np.bincount(parted.sides, minlength=len(SIDES)).tolist()
    _, sizes = np.unique(parted.roots, return_counts=True)
    tools = {
        name: {
            "rows": dict(zip(SIDES, by_side, strict=True)),
            "shares": {side: round(n / sum(by_side), 4) for side, n in zip(SIDES, by_side, strict=True)},
            "bound": round(bound, 4),
        }
        for name, (by_side, bound) in rows_by_tool(ledger, parted).items()
    }
    looked = near and ledger.looks_for_near
    return {
        "sources": [str(source) for source in sources],
        "rows": ledger.rows,
        "groups": len(sizes),
        "largest_group": int(sizes.max()),
        "sides": {
            side: {"rows": count, "share": round(count / ledger.rows, 6), "asked": round(getattr(shares, side), 6)}
            for side, count in zip(SIDES, counts, strict=True)
        },
        "salt": parted.salt,
        "group_by": group_by,
        "near_duplicates": "grouped"
        if looked
        else "off (--no-near)"
        if not near
        else f"off: over {ledger.near_rows} rows",
        "unseen_tools_share": unseen_tools,
        "unseen_tools": list(parted.kept_tools),
        "unseen_tools_taken_from_rows": without,
        "rows_without_tools": toolless,
        "tools": tools,
        "leakage": leakage.to_json() if leakage else None,
    }


def _warnings(summary: dict[str, Any], shares: Shares) -> Iterator[str]:
    if summary["near_duplicates"].startswith("off: "):
        yield f"near duplicates were not looked for ({summary['near_duplicates'].removeprefix('off: ')})"
    if summary["largest_group"] > max(20, 0.2 * summary["rows"]):
        yield (
            f"one group holds {summary['largest_group']:,} of {summary['rows']:,} rows: rows that are much alike, or "
            f"one {summary['group_by'] or 'conversation'}; all of it is on one side"
        )
    lacking = [
        f"{name} ({side})"
        for name, tool in summary["tools"].items()
        for side, count in tool["rows"].items()
        if not count and name not in summary["unseen_tools"] and getattr(shares, side) * sum(tool["rows"].values()) >= 1
    ]
    if lacking:
        shown = ", ".join(lacking[:10]) + (f" and {len(lacking) - 10} more" if len(lacking) > 10 else "")
        yield f"tools that a side lacks: {shown}; --salt auto looks for a better balance"
    if summary["unseen_tools"] and summary["rows_without_tools"]:
        yield (
            f"{summary['rows_without_tools']:,} rows list no tools; a config's data.tools would offer them the kept "
            "tools too; split with --tools"
        )
    if summary["leakage"] and summary["leakage"]["known"]:
        known, rows = summary["leakage"]["known"], summary["leakage"]["rows"]
        yield f"leakage allowed: {known:,} of {rows:,} rows of the --against files are known from training"


def _line(row: dict[str, Any]) -> bytes:
    return _ENCODE(row).encode() + b"\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_progress(rows: Iterable[_T], verb: str, total: int | None, console: Console | None) -> Iterator[_T]:
    """The rows as they are, with a bar on a console that is a terminal."""
    if console is None or not console.is_terminal:
        yield from rows
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(rows, total=total, description=verb)
