"""A bar that counts rows as they pass through a stage, on a terminal and where there are many."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

_SHORT = 20_000
"""Rows that pass in about a second: a bar would be gone before it is read."""
_STEP = 1_000
"""Rows between two movements of the bar."""

Row = TypeVar("Row")


def counted(rows: Iterable[Row], console: Console | None, doing: str, *, short: int = _SHORT) -> Iterator[Row]:
    """Yield the rows as they are. Past `short` rows, where the console is a terminal, a bar says how many came.

    Args:
        doing: the word before the bar, such as "writing".
        short: fewer where a row takes long.
    """
    waiting = iter(rows)
    yield from itertools.islice(waiting, short)
    more = next(waiting, None)
    if more is None:
        return
    waiting = itertools.chain([more], waiting)
    if console is None or not console.is_terminal:
        yield from waiting
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(doing, total=len(rows) if isinstance(rows, Sized) else None, completed=short)
        for number, row in enumerate(waiting, short + 1):
            yield row
            if number % min(_STEP, short) == 0:
                bar.update(task, completed=number)
