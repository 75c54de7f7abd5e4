"""The BFCL suite: its entries as examples, and a model's scores as the leaderboard's categories.

In: the folder that `scripts/fetch_bfcl.py` makes, or scores. Out: examples with what could not be read, or figures by
category with their intervals, under each policy of judging.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from toolhone.data.importers.bfcl import NO_CALL, PYTHON_WITH_GOLD, SINGLE_TURN, read_bfcl_folder
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import examples
from toolhone.errors import UserError
from toolhone.rates import rate_of
from toolhone.records import Conversation, Example, Score
from toolhone.report import numbers

CATEGORIES = (*PYTHON_WITH_GOLD, *NO_CALL)
"""What is run unless told otherwise: all whose functions are Python's, and those where no call is right."""


@dataclass(frozen=True, slots=True)
class Suite:
    """The entries of some categories. `unreadable` gives for each entry that cannot be judged, by its place, why."""

    categories: tuple[str, ...]
    examples: tuple[Example, ...]
    unreadable: dict[str, str]


def read_suite(folder: Path, categories: Sequence[str], rows: int | None = None, seed: int = 0) -> Suite:
    """Read the entries; with `rows`, at most so many of each category, those that the seed draws.

    Raises:
        UserError: where a file is missing, a category is unknown or named twice, or nothing is left.
    """
    twice = [name for n, name in enumerate(categories) if name in categories[:n]]
    if twice:
        raise UserError(f'--categories: "{twice[0]}" is named twice')
    if rows is not None and rows < 1:
        raise UserError(f"--rows: expected 1 or more, found {rows}")
    found: list[Conversation] = []
    unreadable: dict[str, str] = {}
    for category in categories:
        read = list(read_bfcl_folder(folder, [category]))
        unreadable |= {row.where: row.message for row in read if isinstance(row, RowFault)}
        found += _slice([row for row in read if isinstance(row, Conversation)], rows, seed)
    if not found:
        raise UserError(f"{folder}: no entry of {', '.join(categories) or 'no category'} could be read")
    return Suite(tuple(categories), tuple(example for row in found for example in examples(row)), unreadable)


def _slice(rows: list[Conversation], limit: int | None, seed: int) -> list[Conversation]:
    """At most so many rows, in their own order; which ones depends on seed and ids alone."""
    if limit is None or len(rows) <= limit:
        return rows
    drawn = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{row.id}".encode()).digest())[:limit]
    chosen = {row.id for row in drawn}
    return [row for row in rows if row.id in chosen]


def by_category(scores: Sequence[Score], categories: Sequence[str]) -> dict[str, Any]:
    """Exact match by category, then over groups of them, each as a rate with its interval.

    BFCL's own "Live" figures are taken over all rows of their categories, as here; its "Non-Live" one is a mean of
    categories, which has no such interval, so that here too the rows are counted together. `repaired` is exact match
    over all rows with texts mended that strict reading refuses.
    """
    groups = {
        "non-live calls": [name for name in categories if not name.startswith("live_") and name not in NO_CALL],
        "live calls": [name for name in categories if name.startswith("live_") and name not in NO_CALL],
        "no call": [name for name in categories if name in NO_CALL],
        "all": list(categories),
    }
    return {
        "categories": {name: _exact(scores, [name]) for name in categories},
        "groups": {name: _exact(scores, members) for name, members in groups.items() if members},
        "tool_name_accuracy": rate_of(score.names_right for score in scores),
        "malformed": rate_of(score.status == "malformed" for score in scores),
        "repaired": rate_of((score.repaired or score).exact for score in scores),
    }


def _exact(scores: Sequence[Score], categories: Sequence[str]) -> dict[str, Any]:
    return rate_of(score.exact for score in scores if score.meta["category"] in categories)


def suite_table(metrics: Mapping[str, Any]) -> Table:
    """The figures of all models under all policies, for the terminal."""
    models: dict[str, dict[str, Any]] = metrics["models"]
    table = Table(title=Text("BFCL: exact match, with its 95% interval"), title_justify="left", title_style="bold")
    table.add_column("Category")
    columns = [(name, policy, figures) for name, model in models.items() for policy, figures in model.items()]
    for name, policy, _ in columns:
        table.add_column(Text(f"{name}, {policy}"), justify="right")
    for part in ("categories", "groups"):
        for row in columns[0][2][part]:
            table.add_row(row, *(Text(numbers.figure(figures[part][row])) for _, _, figures in columns))
        table.add_section()
    table.add_row("tool names", *(Text(numbers.figure(figures["tool_name_accuracy"])) for _, _, figures in columns))
    table.add_row("malformed", *(Text(numbers.figure(figures["malformed"])) for _, _, figures in columns))
    mended = [figures.get("repaired", figures["groups"]["all"]) for _, _, figures in columns]
    if any(rate != figures["groups"]["all"] for rate, (_, _, figures) in zip(mended, columns, strict=True)):
        table.add_row("all, with repairs", *(Text(numbers.figure(rate)) for rate in mended))
    return table


def parse_categories(text: str | None) -> tuple[str, ...]:
    """The value of `--categories`: names with commas between; None gives the default ones.

    Raises:
        UserError: for a name that is no category, with the nearest ones.
    """
    if text is None:
        return CATEGORIES
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in SINGLE_TURN:
            raise UserError(f'--categories: "{name}" is no single-turn category; known: {", ".join(SINGLE_TURN)}')
    if not names:
        raise UserError(f"--categories: none is named; known: {', '.join(SINGLE_TURN)}")
    return names
