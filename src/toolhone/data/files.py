"""Rows out of files, folders, globs and hub data sets: each as it stands, with its place, and what is wrong with it.

Nothing stops at a bad line: it becomes a row with a fault, so that one pass tells all of them. Lines, the elements of a
JSON array and the row groups of Parquet are read one after the other, so a file may be larger than memory; only a .json
file that is one object is held whole.
"""

from __future__ import annotations

import glob
import gzip
import io
import json
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from toolhone.data.json_array import array_elements
from toolhone.errors import UserError
from toolhone.strict_json import StrictJsonError, parse_line, parse_strict, refuse_surrogates

_SUFFIXES = tuple(f"{kind}{packed}" for kind in (".jsonl", ".json", ".ndjson") for packed in ("", ".gz", ".zst"))
_ALL_SUFFIXES = (*_SUFFIXES, ".parquet")
_HEAD = 1 << 16
_BATCH = 256
_BLANK = BOM_UTF8 + b" \t\r\n"
_NOT_A_LIST_OF_ROWS = {"messages", "conversations", "tools", "functions", "function", "input", "output", "choices"}
_NOT_A_LIST_OF_ROWS |= {"chunks", "question", "ground_truth", "answers"}


class SourceRow(NamedTuple):
    """A row of a source, or the fault that hides it.

    `where` is `file:line` (`file:row` counted from 1 in .json and .parquet). Where `fault` (rule, message) is given,
    `row` is None. `notes` are faults (rule, message) that leave the row readable. Messages do not repeat the place.
    """

    where: str
    row: dict[str, Any] | None
    fault: tuple[str, str] | None = None
    notes: tuple[tuple[str, str], ...] = ()


def iter_source(source: str | Path) -> Iterator[SourceRow]:
    """Yield the rows of a file, folder, glob or `hub:owner/name[:split]`, one after the other.

    Raises:
        UserError: where the source itself cannot be opened; never for a bad line.
    """
    for file in expand_source(source):
        yield from iter_file(file)


def expand_source(source: str | Path) -> list[str]:
    """The files of a source, sorted: the source itself, those in a folder (at any depth) or those that a glob names.

    Raises:
        UserError: where a folder or glob has no file that can be read.
    """
    name = str(source)
    path = Path(name)
    if name.startswith("hub:") or path.is_file():
        return [name]
    if path.is_dir():
        inside = (file for file in path.rglob("*") if file.is_file() and file.name.endswith(_ALL_SUFFIXES))
        files = sorted(str(file) for file in inside if not _hidden(file.relative_to(path)))
        if not files:
            raise UserError(f"{name}: the folder has no file that ends in {', '.join(_ALL_SUFFIXES)}")
        return files
    if glob.has_magic(name) and not path.exists():
        # Path.glob takes no absolute pattern.
        files = sorted(file for file in glob.glob(name, recursive=True) if Path(file).is_file())  # noqa: PTH207
        if not files:
            raise UserError(f"{name}: no file has such a name (looked in {Path.cwd()})")
        return files
    return [name]


def iter_file(file: str) -> Iterator[SourceRow]:
    """Yield the rows of one file or hub data set, as `expand_source` names it.

    Raises:
        UserError: where it cannot be opened.
    """
    if file.startswith("hub:"):
        yield from _hub_rows(file)
        return
    try:
        if file.endswith(".parquet"):
            yield from _parquet_rows(file)
        else:
            yield from _text_rows(file)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file (looked in {Path.cwd()})") from None
    except PermissionError:
        raise UserError(f"{file}: may not be read; give yourself the right to") from None


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


# Text: JSON lines, a JSON array, one JSON object


def _text_rows(file: str) -> Iterator[SourceRow]:
    row: SourceRow | None = None
    try:
        with _opened(file) as stream:
            head = stream.peek(_HEAD)[:_HEAD]
            if head.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
                yield SourceRow(f"{file}:1", None, ("encoding", "the file is UTF-16; save it as UTF-8"))
                return
            for row in _rows_by_shape(stream, head, file):
                yield row
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        number = int(row.where.rpartition(":")[2]) if row else 0
        message = f"the compressed file is cut off or damaged here ({error}); what follows is lost: fetch it again"
        yield SourceRow(f"{file}:{number + 1}", None, ("broken-file", message))


def _rows_by_shape(stream: io.BufferedReader, head: bytes, file: str) -> Iterator[SourceRow]:
    """By content, and by name only where content leaves it open: many a .json holds lines, many a .jsonl an array."""
    start = head.removeprefix(BOM_UTF8).lstrip()
    first, _, rest = start.partition(b"\n")
    named_json = ".json" in Path(file).suffixes
    if start.startswith(b"[") and _starts_an_array(first, rest, named_json):
        return _array_rows(stream, file, head.startswith(BOM_UTF8))
    if named_json and start.startswith(b"{") and not (_is_object(first) and rest.strip()):
        return _object_rows(stream.read(), file)
    return _line_rows(stream, file)


def _line_rows(lines: Iterable[bytes], file: str) -> Iterator[SourceRow]:
    for number, line in enumerate(lines, 1):
        if not line.lstrip(_BLANK):
            continue
        where = f"{file}:{number}"
        try:
            value, notes = parse_line(line)
        except StrictJsonError as error:
            yield SourceRow(where, None, (error.rule, str(error)))
            continue
        yield _row(value, where, notes)


def _array_rows(stream: io.BufferedReader, file: str, has_bom: bool) -> Iterator[SourceRow]:
    for number, text in enumerate(array_elements(stream), 1):
        where = f"{file}:{number}"
        if isinstance(text, StrictJsonError):
            message = f"{text}; the rows after it cannot be told apart and are not read"
            yield SourceRow(where, None, (text.rule, message))
            return
        try:
            value, notes = parse_line((BOM_UTF8 if has_bom and number == 1 else b"") + text.encode())
        except StrictJsonError as error:
            yield SourceRow(where, None, (error.rule, str(error)))
            continue
        yield _row(value, where, notes)


def _object_rows(content: bytes, file: str) -> Iterator[SourceRow]:
    """A .json file that starts with an object: one row, or an object with one list of rows."""
    try:
        value, notes = parse_line(content)
    except StrictJsonError as error:
        if error.rule == "broken-json" and content.strip().count(b"\n"):
            # Lines after all, of which the first is broken: better a fault for each than one for all.
            lines = list(_line_rows(io.BytesIO(content), file))
            if any(line.row is not None for line in lines):
                yield from lines
                return
        yield SourceRow(f"{file}:1", None, (error.rule, str(error)))
        return
    lists = [key for key, rows in value.items() if _is_list_of_rows(key, rows)]
    if len(lists) != 1:
        yield _row(value, f"{file}:1", notes)
        return
    for number, row in enumerate(value[lists[0]], 1):
        yield _row(row, f"{file}:{number}", notes if number == 1 else ())


def _is_list_of_rows(key: str, rows: Any) -> bool:
    if key in _NOT_A_LIST_OF_ROWS or not isinstance(rows, list) or not rows:
        return False
    return all(isinstance(row, dict) and not row.keys() & {"role", "from"} for row in rows)


def _starts_an_array(first: bytes, rest: bytes, named_json: bool) -> bool:
    """Whether text that starts with "[" is one array over lines, and not JSON lines of which the first is a list."""
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        head = first[1:].strip() or rest.lstrip()[:1]
        return named_json or head.startswith(b"{")
    return not rest.strip()


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _row(value: Any, where: str, notes: tuple[tuple[str, str], ...] = ()) -> SourceRow:
    if isinstance(value, dict):
        return SourceRow(where, value, None, notes)
    return SourceRow(where, None, ("not-an-object", f"expected a JSON object, found {_kind(value)}"))


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a truth value", str: "a text", list: "a list"}
    return names.get(type(value), "a number")


@contextmanager
def _opened(file: str) -> Iterator[io.BufferedReader[Any]]:
    with io.BufferedReader(io.FileIO(file), _HEAD) as raw:
        if file.endswith(".gz"):
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield io.BufferedReader(unpacked, _HEAD)
        elif file.endswith(".zst"):
            from toolhone.data.zstd import ZstdStream

            yield io.BufferedReader(ZstdStream(raw), _HEAD)
        else:
            yield raw


# Tables: Parquet and hub data sets


def _parquet_rows(file: str) -> Iterator[SourceRow]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield _table_row(row, f"{file}:{number}")
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        message = f"the Parquet file cannot be read on from here ({error}); what follows is lost: fetch it again"
        yield SourceRow(f"{file}:{number + 1}", None, ("broken-file", message))


def _table_row(row: dict[str, Any], where: str) -> SourceRow:
    """Hold a table's row to what JSON can hold; dates become ISO texts."""
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_as_json)
        refuse_surrogates(text)
    except StrictJsonError as error:
        return SourceRow(where, None, (error.rule, str(error)))
    except TypeError as error:
        return SourceRow(where, None, ("broken-file", f"{error}; write such columns as text"))
    except ValueError:
        return SourceRow(where, None, ("nan", "holds NaN or Infinity, which are not JSON"))
    return SourceRow(where, parse_strict(text))


def _as_json(value: Any) -> Any:
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"holds a value of type {type(value).__name__}, which JSON has no form for")


def _hub_rows(source: str) -> Iterator[SourceRow]:
    """`hub:owner/name` gives the rows of all splits, `hub:owner/name:split` those of one."""
    name, _, split = source.removeprefix("hub:").partition(":")
    try:
        import datasets
    except ImportError:
        raise UserError(f'{source}: reading from the hub needs "datasets"; pip install datasets') from None
    try:
        found = datasets.load_dataset(name, split=split or None, streaming=True)
        splits = {split: found} if split else dict(found)
        for part, rows in splits.items():
            for number, row in enumerate(rows, 1):
                yield _table_row(row, f"hub:{name}:{part}:{number}")
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{source}: cannot be fetched from the hub ({type(error).__name__}: {reason}); check the name and the "
            "network, or download the file and give its path"
        ) from None
