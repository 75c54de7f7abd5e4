"""Progress in a log file and on a terminal, with the time left."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from rich.console import Console

from toolhone import progress as module
from toolhone.jsonl import counted
from toolhone.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The time that progress sees. No line comes from the thread that speaks regularly."""
    time = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: time.now))
    monkeypatch.setattr(module, "_IDLE_INTERVAL_S", 1e6)
    monkeypatch.setenv("TERM", "xterm")
    yield time
    assert not Progress._open, "a progress is still shown"


def log() -> tuple[io.StringIO, Console]:
    out = io.StringIO()
    return out, Console(file=out, width=200)


def test_a_log_gets_a_line_at_each_tenth_with_the_time_left(clock: SimpleNamespace) -> None:
    out, console = log()
    with Progress("base answers", 60, "turns", console) as progress:
        for _ in range(60):
            clock.now += 1
            progress.advance()
    lines = out.getvalue().splitlines()
    assert lines[0] == "base answers: 10 of 60 turns, 50 s left"
    assert lines[-2:] == ["base answers: 50 of 60 turns, 10 s left", "base answers: 60 of 60 turns in 60 s"]
    assert len(lines) == 6


def test_lines_of_fast_work_are_seconds_apart_and_short_work_writes_none(clock: SimpleNamespace) -> None:
    out, console = log()
    with Progress("writing", 1000, "rows", console) as progress:
        for _ in range(1000):
            clock.now += 0.02
            progress.advance()
    assert len(out.getvalue().splitlines()) == 2
    out, console = log()
    with Progress("writing", 1000, "rows", console) as progress:
        clock.now += 4
        progress.update(1000)
    assert out.getvalue() == ""


def test_a_log_gets_a_line_while_nothing_advances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE_INTERVAL_S", 0.05)
    out, console = log()
    with Progress("loading the model", None, "", console) as progress:
        for _ in range(200):
            if out.getvalue():
                break
            progress._closed.wait(0.05)
    assert re.match(r"loading the model: \d+ s so far\n", out.getvalue())


def test_the_time_left_goes_by_the_new_units_alone(clock: SimpleNamespace) -> None:
    progress = Progress("training", 100, "steps", None, done=40)
    assert progress.seconds_left() is None
    clock.now += 20
    progress.update(50, "loss 0.500")
    assert progress.seconds_left() == 100
    clock.now += 30  # the eleventh unit is on its way
    assert progress.seconds_left() == 70
    assert progress.status() == "50 of 100 steps, loss 0.500, 70 s left"


def test_inner_progress_takes_the_place_of_the_outer_one(clock: SimpleNamespace) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200)
    with Progress("training", 10, "steps", console) as outer:
        with Progress("validation", 3, "batches", console) as inner:
            assert outer._bar is None
            assert inner._bar is not None
        assert inner._bar is None
        assert outer._bar is not None
    assert outer._bar is None
    assert "3 batches" in out.getvalue()


def test_an_error_removes_the_bar_and_shows_the_cursor_again(clock: SimpleNamespace) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200)
    progress = Progress("base answers", 10, "turns", console)

    def work() -> None:
        with progress:
            clock.now += 60
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert progress._bar is None
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert out.getvalue().count(hidden) == out.getvalue().count(shown) == 1
    assert " in 60 s" not in out.getvalue()


def test_only_the_first_process_shows_progress(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    out, console = log()
    with Progress("base answers", 10, "turns", console) as progress:
        clock.now += 60
        progress.update(9)
    assert out.getvalue() == ""


def test_rows_are_counted_only_once_there_are_many(clock: SimpleNamespace) -> None:
    out, console = log()
    rows = list(counted(({} for _ in range(4)), console, "reading", short=4))
    assert len(rows) == 4
    seen = []
    for row in counted([{"n": n} for n in range(50)], console, "writing", short=10):
        clock.now += 1
        seen.append(row["n"])
    assert seen == list(range(50))
    assert out.getvalue().splitlines()[0] == "writing: 20 of 50 rows, 30 s left"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5399, "90 min"), (5400, "1.5 h")]
)
def test_a_duration_has_one_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
