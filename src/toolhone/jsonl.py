"""Reads and writes JSON Lines files. Reading is strict and names the place of every fault. Writing is atomic."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from toolhone.errors import UserError
from toolhone.strict_json import StrictJsonError, decode_utf8, parse_strict

if TYPE_CHECKING:
    from rich.console import Console

    from toolhone.records import Conversation

Row = TypeVar("Row")


def read_json(path: Path, missing: str) -> Any:
    """Return the value of a JSON file. `missing` says what to do if there is no such file. Raises UserError, naming the
    file and the line, if it is missing, not UTF-8 or not strict JSON."""
    try:
        return parse_strict(decode_utf8(path.read_bytes()), allow_surrogates=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {missing}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except StrictJsonError as error:
        place = f"{path}:{error.line}" if error.line else str(path)
        raise UserError(f"{place}: {str(error).replace(f'line {error.line}, ', '')}") from None


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `(file:line, row)` for each line that is not blank. Raises UserError, naming file and line, if the file is
    missing or not UTF-8, or a line is not a JSON object."""
    # Read bytes, so that the error can name a line that is not UTF-8.
    with named_open_errors(path), path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.removeprefix(BOM_UTF8).strip():
                yield f"{path}:{number}", _parse_row(line, f"{path}:{number}")


@contextmanager
def named_open_errors(path: str | Path) -> Iterator[None]:
    """Turn a failure to open the file into a `UserError` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file (looked in {Path.cwd()})") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, expected a JSONL file") from None
    except PermissionError:
        raise UserError(f"{path}: permission denied; check the file's permissions") from None


def _parse_row(line: bytes, where: str) -> dict[str, Any]:
    try:
        # Strip the line end: otherwise a cut line is reported at column 1 of the next line.
        row = parse_strict(decode_utf8(line).rstrip("\r\n"), allow_surrogates=True)
    except StrictJsonError as error:
        raise UserError(f"{where}: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]], console: Console | None = None) -> None:
    """Write one row per line, as the rows arrive. The file gets its name only when it is complete. On `console`, a long
    file shows a progress bar."""
    with whole_file(path) as out:
        out.writelines(map(json_line, counted(rows, console, "writing")))


def write_conversations(path: Path, rows: Iterable[Conversation], console: Console | None = None) -> None:
    """Write one conversation per line, like `write_jsonl`."""
    with whole_file(path) as out:
        out.writelines(map(conversation_line, counted(rows, console, "writing")))


def conversation_line(row: Conversation) -> bytes:
    """Return the same line as `json_line(row.to_json())`, but faster."""
    try:
        return (row.to_text() + "\n").encode()
    except UnicodeEncodeError:
        return json_line(row.to_json())


def json_line(row: dict[str, Any]) -> bytes:
    try:
        return (_encode(row) + "\n").encode()
    except UnicodeEncodeError:
        # A model's text may contain half of a surrogate pair, which can only be written as an escape.
        return (json.dumps(row) + "\n").encode()


_encode = json.JSONEncoder(ensure_ascii=False).encode


def write_json(path: Path, value: Any) -> None:
    """Write one indented JSON value atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text atomically."""
    with whole_file(path) as out:
        out.write(text.encode())


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a temporary file beside `path`. It is renamed to `path` when everything is flushed to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, neighbour = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        Path(neighbour).chmod(0o644)
        Path(neighbour).replace(path)
    except BaseException:
        Path(neighbour).unlink(missing_ok=True)
        raise


def counted(rows: Iterable[Row], console: Console | None, doing: str, *, short: int = 20_000) -> Iterator[Row]:
    """Yield the rows unchanged, and show progress once there are more than `short`, which takes about a second. `doing`
    is the word for the work, such as "writing"."""
    waiting = iter(rows)
    yield from itertools.islice(waiting, short)
    more = next(waiting, None)
    if more is None:
        return
    from toolhone.progress import Progress

    with Progress(doing, len(rows) if isinstance(rows, Sized) else None, "rows", console, done=short) as progress:
        for number, row in enumerate(itertools.chain([more], waiting), short + 1):
            yield row
            if number % min(1_000, short) == 0:
                progress.update(number)


# Part files are written one line at a time, so that an interrupted command can continue where it stopped.


def part_path(path: Path, number: int, fingerprint: str) -> Path:
    """Return the part file of process `number`, beside `path`. `fingerprint` identifies what it is made from."""
    return path.parent / f".{path.name}.{fingerprint}.{number}.part"


def read_part(part: Path) -> list[dict[str, Any]]:
    """Return the rows so far. An incomplete last line is removed from the file."""
    if not part.is_file():
        return []
    # Read bytes: the cut may go through a character, and `str.splitlines` splits at more than newlines.
    written = part.read_bytes()
    whole = written[: written.rfind(b"\n") + 1]
    if whole != written:
        part.write_bytes(whole)
    return [json.loads(line) for line in whole.split(b"\n")[:-1]]


def count_parts(path: Path) -> int:
    """How many lines the part files of `path` hold."""
    return sum(part.read_bytes().count(b"\n") for part in path.parent.glob(f".{path.name}.*.part"))


def remove_parts(path: Path) -> None:
    """Delete all part files of `path`, once it is complete. Several processes may do so at once."""
    for stale in path.parent.glob(f".{path.name}.*.part"):
        stale.unlink(missing_ok=True)
