"""The answers so far of a prediction that was interrupted: a file beside the final one, a JSON line for each answer.

Its name holds a fingerprint of what was asked, so that answers are reused only where the same is asked again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def part_path(path: Path, number: int, fingerprint: str) -> Path:
    """The part file of the `number`-th share of `path`."""
    return path.parent / f".{path.name}.{fingerprint}.{number}.part"


def read_part(part: Path) -> list[dict[str, Any]]:
    """The rows of a share so far; a last line that an interruption cut short is taken off the file."""
    if not part.is_file():
        return []
    # As bytes: the cut may go through a character, and a text may hold what `str.splitlines` takes for a line's end.
    written = part.read_bytes()
    whole = written[: written.rfind(b"\n") + 1]
    if whole != written:
        part.write_bytes(whole)
    return [json.loads(line) for line in whole.split(b"\n")[:-1]]


def remove_parts(path: Path) -> None:
    """Delete all parts of a file that is complete."""
    for stale in path.parent.glob(f".{path.name}.*.part"):
        stale.unlink()
