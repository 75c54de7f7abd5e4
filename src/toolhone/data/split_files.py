"""`toolhone data split`: read files of conversations and write a folder with one file for each side and split.json.

One pass reads the rows, adds their keys to a table and writes each row to a scratch file. When all sides are known, the
lines of the scratch file are copied to their sides. So a row takes a few hundred bytes of memory, whatever its size,
and the disk has every row twice for a while. split.json is written last: a folder without it has no complete split.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolhone.data.check.finding import LeftOut, describe_left_out, sound_rows
from toolhone.data.groups import NEAR_ROWS, KeyTable, called_tools
from toolhone.data.importers.openai import conversation
from toolhone.data.leakage import Leakage, measure_leakage
from toolhone.data.read import read_sources, split_weight
from toolhone.data.split import SIDES, Shares, Sides, assign_sides, rows_by_tool
from toolhone.errors import UserError
from toolhone.jsonl import conversation_line, counted, json_line, write_json
from toolhone.records import Conversation, Tool
from toolhone.strict_json import parse_strict

if TYPE_CHECKING:
    from rich.console import Console

SPLIT_FILE = "split.json"


@dataclass(frozen=True, slots=True)
class SplitResult:
    """What was written. `summary` is the content of split.json; `warnings` are sentences for the user."""

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

    Rows are written in their order, as toolhone's own JSONL. Rows without tools get `default_tools`. An earlier split
    is replaced. With `unseen_tools`, some tools are kept for the test side: all groups that call one go there, and the
    other sides' rows no longer list them. With `against`, the leakage between the training rows and these files is
    measured.

    Raises:
        UserError: if a row cannot be read, a side is empty, `out` has other files, or rows of `against` are known from
            training (unless `allow_leakage`). Nothing is written then.
    """
    _refuse_foreign_folder(out, sources)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
        scratch = Path(name)
        table = KeyTable(group_by, near_rows if near else 0)
        left_out: LeftOut = {}
        rows = counted(sound_rows(read_sources(sources, default_tools, format), left_out), console, "reading")
        toolless = _read_into(scratch / "rows", rows, table, unseen_tools > 0)
        if not table.rows:
            raise UserError(f"{', '.join(sources)}: no rows")
        split = assign_sides(table, shares, unseen_tools=unseen_tools, salt=salt)
        removed = _write_sides(scratch, split, console)
        leakage = _leakage_against(scratch / "train.jsonl", against, default_tools, group_by, allow_leakage)
        searched = "grouped" if table.searches_near else f"off: over {near_rows} rows"
        summary = {
            "sources": [str(source) for source in sources],
            **_counts(table, split, shares),
            "salt": split.salt,
            "group_by": group_by,
            "near_duplicates": searched if near else "off (--no-near)",
            "unseen_tools_share": unseen_tools,
            "unseen_tools": list(split.kept_tools),
            "unseen_tools_taken_from_rows": removed,
            "rows_without_tools": toolless,
            "leakage": leakage.to_json() if leakage else None,
            "left_out": left_out,
            "files": {f"{side}.jsonl": {"sha256": _sha256(scratch / f"{side}.jsonl")} for side in SIDES},
        }
        write_json(scratch / SPLIT_FILE, summary)
        out.mkdir(exist_ok=True)
        (out / SPLIT_FILE).unlink(missing_ok=True)
        for side in SIDES:
            (scratch / f"{side}.jsonl").replace(out / f"{side}.jsonl")
        (scratch / SPLIT_FILE).replace(out / SPLIT_FILE)
    return SplitResult(summary, tuple(_warnings(summary, shares)))


def show(result: SplitResult, console: Console) -> None:
    """Print the rows of each side, what was left out, and the warnings."""
    summary = result.summary
    lines = [f"{summary['rows']:,} rows in {summary['groups']:,} groups"]
    for side in SIDES:
        found = summary["sides"][side]
        lines.append(f"  {side:<12}{found['rows']:>10,} rows  {found['share']:6.1%} (asked for {found['asked']:.1%})")
    if summary["left_out"]:
        lines.append(describe_left_out(summary["left_out"]))
    if summary["unseen_tools"]:
        removed = sum(summary["unseen_tools_taken_from_rows"].values())
        names = ", ".join(summary["unseen_tools"])
        lines.append(f"kept for the test: {names} (removed from the tools of {removed:,} other rows)")
    if summary["leakage"] and not summary["leakage"]["known"]:
        alone = summary["leakage"]["same_id_alone"]
        ids = f" ({alone:,} share only a template's id and have other words)" if alone else ""
        lines.append(f"none of the {summary['leakage']['rows']:,} rows of the --against files is known{ids}")
    for line in [*lines, *(f"warning: {warning}" for warning in result.warnings)]:
        console.print(line, markup=False)


def _refuse_foreign_folder(out: Path, sources: Sequence[str]) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: expected a folder, found a file")
    written = {(out / f"{side}.jsonl").resolve() for side in SIDES}
    for path in (Path(split_weight(source)[0]).resolve() for source in sources):
        if path in written or path == out.resolve():
            raise UserError(f"--out {out}: {path.name} is a source and would be replaced; name another folder")
    there = [side for side in SIDES if (out / f"{side}.jsonl").exists()]
    if there and not (out / SPLIT_FILE).exists():
        raise UserError(f"--out {out}: has a {there[0]}.jsonl that is not part of a split; name another folder")


def _read_into(scratch: Path, rows: Iterable[Conversation], table: KeyTable, tools_matter: bool) -> int:
    """Write every row to the scratch file, add its keys to the table, and return how many rows list no tools."""
    toolless = 0
    with scratch.open("wb") as lines:
        for row in rows:
            if not row.tools:
                toolless += 1
                if tools_matter and called_tools(row):
                    raise UserError(
                        f"{row.where}: calls a tool but lists none; --unseen-tools needs --tools TOOLS.json"
                    )
            table.add(row)
            lines.write(conversation_line(row))
    return toolless


def _write_sides(scratch: Path, split: Sides, console: Console | None) -> dict[str, int]:
    """Write the scratch file's lines to their sides, and return for each kept tool how many rows no longer list it."""
    removed = dict.fromkeys(split.kept_tools, 0)
    quoted_names = [json.dumps(name, ensure_ascii=False).encode() for name in removed]
    test = SIDES.index("test")
    with ExitStack() as opened:
        lines = opened.enter_context((scratch / "rows").open("rb"))
        files = [opened.enter_context((scratch / f"{side}.jsonl").open("wb")) for side in SIDES]
        for line, side in zip(lines, counted(split.sides.tolist(), console, "writing"), strict=True):
            may_list_kept = side != test and any(name in line for name in quoted_names)
            files[side].write(_without_tools(line, removed) if may_list_kept else line)
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    (scratch / "rows").unlink()
    return removed


def _without_tools(line: bytes, removed: dict[str, int]) -> bytes:
    """Return the row without the tools of `removed`, none of which it calls. An empty list of tools stays, so that the
    row does not get the default tools."""
    row = json.loads(line)
    tools = row.get("tools", ())
    left = [tool for tool in tools if tool["function"]["name"] not in removed]
    if len(left) == len(tools):
        return line
    for tool in tools:
        if tool["function"]["name"] in removed:
            removed[tool["function"]["name"]] += 1
    return json_line({**row, "tools": left})


def _leakage_against(
    train: Path, against: Sequence[str], tools: tuple[Tool, ...], group_by: str | None, allow: bool
) -> Leakage | None:
    if not against:
        return None
    with train.open("rb") as lines:
        rows = (conversation(parse_strict(line.decode()), f"train.jsonl:{n}", tools) for n, line in enumerate(lines, 1))
        # An unreadable row of these files is an error, because it could be a training row.
        return measure_leakage(rows, sound_rows(read_sources(against, tools), {}), allow=allow, group_by=group_by)


def _counts(table: KeyTable, split: Sides, shares: Shares) -> dict[str, Any]:
    rows_on = np.bincount(split.sides, minlength=len(SIDES)).tolist()
    _, sizes = np.unique(split.groups, return_counts=True)
    return {
        "rows": table.rows,
        "groups": len(sizes),
        "largest_group": int(sizes.max()),
        "sides": {
            side: {"rows": count, "share": round(count / table.rows, 6), "asked": round(getattr(shares, side), 6)}
            for side, count in zip(SIDES, rows_on, strict=True)
        },
        "tools": {
            name: {
                "rows": dict(zip(SIDES, by_side, strict=True)),
                "shares": {side: round(n / sum(by_side), 4) for side, n in zip(SIDES, by_side, strict=True)},
                "bound": round(bound, 4),
            }
            for name, (by_side, bound) in rows_by_tool(table, split).items()
        },
    }


def _warnings(summary: dict[str, Any], shares: Shares) -> Iterator[str]:
    if summary["near_duplicates"].startswith("off: "):
        yield f"near duplicates were not searched ({summary['near_duplicates'].removeprefix('off: ')})"
    if summary["largest_group"] > max(20, 0.2 * summary["rows"]):
        yield (
            f"one group has {summary['largest_group']:,} of {summary['rows']:,} rows, which are very similar or share "
            f"one {summary['group_by'] or 'conversation'}; all of them are on one side"
        )
    missing = [
        f"{name} ({side})"
        for name, tool in summary["tools"].items()
        for side, count in tool["rows"].items()
        if not count and name not in summary["unseen_tools"] and getattr(shares, side) * sum(tool["rows"].values()) >= 1
    ]
    if missing:
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        yield f"tools without a row on a side: {shown}; try --salt auto for a better balance"
    if summary["unseen_tools"] and summary["rows_without_tools"]:
        yield (
            f"{summary['rows_without_tools']:,} rows list no tools, so a config's data.tools would offer them the kept "
            "tools too; split with --tools TOOLS.json"
        )
    if summary["leakage"] and summary["leakage"]["known"]:
        known, rows = summary["leakage"]["known"], summary["leakage"]["rows"]
        yield f"leakage allowed: {known:,} of {rows:,} rows of the --against files are known from training"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
