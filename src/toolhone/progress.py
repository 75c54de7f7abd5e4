"""Progress of long work, with the time left: a bar on a terminal, regular lines in a log file.

    with Progress("base answers", len(examples), "turns", console) as progress:
        for example in examples:
            ...
            progress.advance()

A log then has lines such as `base answers: 40 of 60 turns, 12 s left`. Under a launcher only the first process prints.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar

from toolhone.launcher import rank

if TYPE_CHECKING:
    from rich.console import Console

_MIN_REPORTED_S = 5.0
"""Shorter work prints no final line."""
_MIN_INTERVAL_S = 10.0
"""Minimum time between two lines in a log while units are counted."""
_IDLE_INTERVAL_S = 15.0
"""Time between two lines in a log while no unit is counted. It grows after two minutes."""


class Progress:
    """Shows the progress of a piece of work while it is open as a context.

    An inner Progress replaces the outer one on the screen until it closes. The bar disappears at the end and on errors.
    If the work took longer than a few seconds, its duration is printed at the end.

    Attributes:
        what: the name of the work, such as "base answers".
        total: the number of units; None if unknown.
        done: the number of units done, including those of an earlier, interrupted run.
        note: other text to show, such as the loss.
    """

    _open: ClassVar[list[Progress]] = []  # the innermost at the end

    def __init__(self, what: str, total: int | None, unit: str, console: Console | None, *, done: int = 0) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self.note = ""
        self._console = console if rank() == 0 else None
        self._first, self._done_at_print = done, done
        self._started = self._updated = self._printed = time.monotonic()
        self._bar: Any = None
        self._closed = threading.Event()

    def __enter__(self) -> Progress:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)

    def open(self) -> None:
        """Start showing progress."""
        if Progress._open:
            Progress._open[-1]._hide()
        Progress._open.append(self)
        self._show()
        if self._console is not None and not self._console.is_terminal:
            threading.Thread(target=self._print_regularly, daemon=True).start()

    def close(self, *, failed: bool = False) -> None:
        """Stop showing progress; safe to call twice. Failed work prints no final line."""
        if self not in Progress._open:
            return
        self._closed.set()
        self._hide()
        Progress._open.remove(self)
        elapsed = time.monotonic() - self._started
        if not failed and self._console is not None and elapsed >= _MIN_REPORTED_S:
            counted = f"{self._counts()} in " if self.total is not None or self.done else ""
            self._console.print(f"{self.what}: {counted}{duration(elapsed)}", markup=False)
        if Progress._open:
            Progress._open[-1]._show()

    def advance(self, units: int = 1) -> None:
        """Add units to those done."""
        self.update(self.done + units)

    def update(self, done: int, note: str = "") -> None:
        """Set the number of units done, and the note."""
        self.done, self.note, self._updated = done, note or self.note, time.monotonic()
        is_tenth = self.total is not None and (done - self._done_at_print) * 10 >= self.total
        if is_tenth and done != self.total and self._updated - self._printed >= _MIN_INTERVAL_S:
            self._print_line()

    def status(self) -> str:
        """Return the text to show: counts, note and time left, or the time so far if the time left is unknown."""
        left = self.seconds_left()
        so_far = time.monotonic() - self._started
        times = f"{duration(so_far)} so far" if left is None else f"{duration(left)} left"
        return ", ".join(part for part in (self._counts(), self.note, times) if part)

    def seconds_left(self) -> float | None:
        """Return the time left at the average speed since the start; None before the first unit is done."""
        if self.total is None or self.done <= self._first:
            return None
        each = (self._updated - self._started) / (self.done - self._first)
        left = each * (self.total - self.done) - (time.monotonic() - self._updated)
        return left if left > 0 else None  # not positive if the current unit takes longer than the average

    def _counts(self) -> str:
        if self.total is not None:
            return f"{self.done:,} of {self.total:,} {self.unit}"
        return f"{self.done:,} {self.unit}" if self.done else ""

    def _show(self) -> None:
        """Put the bar on the terminal."""
        if self._console is None or not self._console.is_terminal or self._console.quiet:
            return
        from rich.progress import BarColumn, ProgressColumn, TextColumn
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        work = self

        class Status(ProgressColumn):
            def render(self, task: Any) -> Text:
                task.completed = work.done
                return Text(work.status())

        columns = (TextColumn(self.what, markup=False), Status(), BarColumn())
        self._bar = RichProgress(*columns, console=self._console, transient=True)
        self._bar.add_task(self.what, total=self.total, completed=self.done)
        self._bar.start()

    def _hide(self) -> None:
        """Remove the bar from the terminal; safe to call twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print_regularly(self) -> None:
        pause = _IDLE_INTERVAL_S
        while not self._closed.wait(max(0.1, self._printed + pause - time.monotonic())):
            if Progress._open[-1:] == [self] and time.monotonic() - self._printed >= pause:
                self._print_line()
            pause = max(_IDLE_INTERVAL_S, (time.monotonic() - self._started) / 8)

    def _print_line(self) -> None:
        self._printed, self._done_at_print = time.monotonic(), self.done
        if self._console is not None and not self._console.is_terminal and not self._closed.is_set():
            self._console.print(f"{self.what}: {self.status()}", markup=False)


def duration(seconds: float) -> str:
    """Return a readable duration: seconds below 90 s, minutes below 90 min, then hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
