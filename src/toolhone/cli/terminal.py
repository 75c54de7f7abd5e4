"""What commands print to."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def plain_console() -> Console:
    """Standard output: long lines are left to the terminal, and numbers are not coloured."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Turn off Python's cyclic garbage collector. Reading and scoring make records by the hundred thousand, none of
    which is in a cycle; to search all of them again and again takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
