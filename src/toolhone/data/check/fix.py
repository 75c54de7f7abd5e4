"""`toolhone data check --fix OUT`: a copy of the files, mended where mending is safe, with what was done to each row.

Every row of the copy is a line of JSON. One that cannot be read stands there as it stood, byte for byte, and one that
needs no mending says what it said. Left out are blank lines, byte order marks, and rows that repeat an earlier row
(the same tools and messages, whatever their ids). Nothing else is lost: a row that can be neither read nor copied, as
in a broken compressed file, is told.
"""

from __future__ import annotations

import gzip
import json
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from toolhone.data.check.mend import mend
from toolhone.data.check.repeats import content_key
from toolhone.data.files import expand_source, iter_file
from toolhone.data.importers import openai
from toolhone.data.json_rows import SourceRow
from toolhone.errors import RowError, UserError
from toolhone.jsonl import json_line, whole_file
from toolhone.records import Tool
from toolhone.strict_json import StrictJsonError, parse_line


@dataclass(frozen=True, slots=True)
class Mended:
    """Something that was done to a row: `where` is its place in the file that it came from."""

    where: str
    rule: str
    message: str

    def to_json(self) -> dict[str, Any]:
        return {"where": self.where, "rule": self.rule, "message": self.message}


def plan_copies(sources: Sequence[str], out: Path) -> list[tuple[str, Path]]:
    """Each file of the sources and the path of its copy: `out` for one file, a file in the folder `out` for several.

    Raises:
        UserError: where two copies would have one name, or a copy would take the place of its original.
    """
    files = [file for source in sources for file in expand_source(source)]
    if len(files) == 1 and not out.is_dir():
        copies = [(files[0], out)]
    else:
        copies = [(file, out / f"{Path(file.removeprefix('hub:')).name.partition('.')[0]}.jsonl") for file in files]
    taken: dict[Path, str] = {}
    for file, copy in copies:
        if Path(file).resolve() == copy.resolve():
            raise UserError(f"--fix: {copy} is the file itself; name another, so that the original stays")
        if copy in taken:
            raise UserError(f"--fix: the copies of {taken[copy]} and {file} would both be {copy}; mend them one by one")
        taken[copy] = file
    return copies


class Fixer:
    """Writes the mended copies of files; repeated rows are told across all of them."""

    def __init__(self, default_tools: tuple[Tool, ...]) -> None:
        self._default_tools = default_tools
        self._seen: dict[Any, str] = {}

    def write(self, file: str, copy: Path) -> Iterator[Mended]:
        """Write the copy of one file, and yield what was done, row by row. The copy appears when all is written."""
        with whole_file(copy) as out, ExitStack() as open_files:
            lines = _Lines(file, open_files)
            for source in iter_file(file):
                line, done = self._row(source, lines)
                yield from done
                if line is not None:
                    out.write(line)

    def _row(self, source: SourceRow, lines: _Lines) -> tuple[bytes | None, list[Mended]]:
        where = source.where
        done = [Mended(where, "bom", "byte order mark left out") for rule, _ in source.notes if rule == "bom"]
        if source.row is None:
            line = lines.broken(where)
            if line is None:
                done.append(Mended(where, "left-out", "cannot be read, and is no line that could be copied: left out"))
            return line, done
        row, mended = mend(source.row, self._default_tools)
        done += [Mended(where, rule, text) for rule, text in mended]
        place = self._seen.setdefault(self._key(row), where)
        if place != where:
            return None, [*done, Mended(where, "duplicate", f"left out: the same row stands at {place}")]
        return json_line(row), done

    def _key(self, row: dict[str, Any]) -> Any:
        if openai.looks_like(row):
            try:
                return content_key(openai.read(row, "", self._default_tools))
            except RowError:
                pass  # told when the copy is checked; such a row is the same as another only where its text is
        return hash(json.dumps({key: value for key, value in row.items() if key != "id"}, sort_keys=True))


class _Lines:
    """The lines of a file that rows could not be read from, as bytes, found by their numbers in one pass."""

    def __init__(self, file: str, open_files: ExitStack) -> None:
        self._file = file
        self._open_files = open_files
        self._stream: Any = None
        self._at = 0

    def broken(self, where: str) -> bytes | None:
        """The line at `where`, which is to be one that cannot be decoded: a row of an array or a table has no line."""
        number = int(where.rpartition(":")[2])
        if self._file.startswith("hub:") or self._file.endswith((".parquet", ".zst")):
            return None
        if self._stream is None:
            opener = gzip.open if self._file.endswith(".gz") else open
            self._stream = self._open_files.enter_context(opener(self._file, "rb"))
        try:
            line = next(islice(self._stream, number - self._at - 1, None), b"")
        except (OSError, EOFError, zlib.error):  # a damaged archive
            return None
        self._at = number
        text = line.rstrip(b"\r\n")
        # A part of an array or of an object over many lines, or a file in another encoding, is no line.
        if len(text) < 2 or text.startswith((b"[", BOM_UTF16_LE, BOM_UTF16_BE)):
            return None
        try:
            value, _ = parse_line(text)
        except StrictJsonError:
            return text + b"\n"
        return None if isinstance(value, dict) else text + b"\n"
