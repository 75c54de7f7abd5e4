"""Read the sources of a command line, print their formats and what is left out, and refuse to overwrite them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolhone.data.check.finding import LeftOut, describe_left_out, sound_rows
from toolhone.data.files import expand_source
from toolhone.data.read import detected_formats, read_sources, split_weight
from toolhone.errors import UserError
from toolhone.records import Conversation, Tool

if TYPE_CHECKING:
    from rich.console import Console


def print_formats(sources: Sequence[str], format: str, console: Console) -> None:
    """Print the format in which the files are read, detected from their first rows if `format` is "auto". Raises
    UserError if a source cannot be opened."""
    detected = [name for source in sources for name in detected_formats(split_weight(source)[0]).values()]
    names = Counter(name if format == "auto" else format for name in detected)
    files = f", {len(detected)} files" if len(detected) > 1 else ""
    formats = ", ".join(f"{name} ({count})" if len(names) > 1 else name for name, count in names.most_common())
    console.print(f"{', '.join(sources)}{files}: read as {formats}", markup=False)


def read_and_report(
    sources: Sequence[str], tools: tuple[Tool, ...], format: str, console: Console
) -> Iterator[Conversation]:
    """Yield the conversations of sources. `tools` are for rows without any.

    Prints the format before the first conversation. After the last one, prints which rows were left out that need no
    fix, such as a log's failed requests.

    Raises:
        UserError: if a source cannot be opened or, after the last conversation, if rows must be fixed.
    """
    print_formats(sources, format, console)
    left_out: LeftOut = {}
    yield from sound_rows(read_sources(sources, tools, format), left_out)
    if left_out:
        console.print(describe_left_out(left_out), markup=False)


def refuse_to_overwrite(out: Path, sources: Sequence[str], why: str) -> None:
    """Raise UserError if `out` is one of the files to read. `why` says what would be lost."""
    files = (file for source in sources for file in expand_source(split_weight(source)[0]))
    if any(Path(file).resolve() == out.resolve() for file in files):
        raise UserError(f"--out {out}: is one of the files to read; {why}: name another file")
