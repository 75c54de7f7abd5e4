"""What commands print to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def plain_console() -> Console:
    """Standard output: long lines are left to the terminal, and numbers are not coloured."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)
