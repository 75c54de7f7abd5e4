"""The sources on a command line: what they are taken for is said, and none of them is written over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolhone.data.files import expand_source
from toolhone.data.read import detected_formats, split_weight
from toolhone.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


def name_of(sources: Sequence[str]) -> str:
    """All sources as one name, to print."""
    return ", ".join(sources)


def say_formats(sources: Sequence[str], format: str, console: Console) -> None:
    """Print the format in which the files are read: the one that is named or, with "auto", that of their first rows.

    Raises:
        UserError: where a source cannot be opened.
    """
    names = Counter(
        name if format == "auto" else format
        for source in sources
        for name in detected_formats(split_weight(source)[0]).values()
    )
    files = f", {sum(names.values())} files" if sum(names.values()) > 1 else ""
    said = ", ".join(f"{name} ({count})" if len(names) > 1 else name for name, count in names.most_common())
    console.print(f"{name_of(sources)}{files}: read as {said}", markup=False)


def refuse_to_overwrite(out: Path, sources: Sequence[str], why: str) -> None:
    """Refuse an `out` that is one of the files to read; `why` says what would be gone.

    Raises:
        UserError: naming it.
    """
    files = (file for source in sources for file in expand_source(split_weight(source)[0]))
    if any(Path(file).resolve() == out.resolve() for file in files):
        raise UserError(f"--out {out}: is one of the files to read; {why}: name another")
