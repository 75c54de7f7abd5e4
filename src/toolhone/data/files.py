"""Read files, folders, globs and hub data sets as rows, each unchanged, with its place and its faults.

A bad line becomes a row with a fault and does not stop the reader, so that one pass finds all faults. Rows are read one
at a time, so a file may be larger than memory. Only a .json file that is one object is read as a whole.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from toolhone.errors import UserError
from toolhone.jsonl import named_open_errors
from toolhone.strict_json import StrictJsonError, parse_line, parse_strict, refuse_surrogates

_SUFFIXES = (*(kind + packed for kind in (".jsonl", ".json", ".ndjson") for packed in ("", ".gz", ".zst")), ".parquet")
_BATCH = 256
_HEAD = 1 << 16
_CHUNK = 1 << 18
_BLANK = " \t\r\n"
_NEAR_THE_END = 16
"""The decoder reports a cut token at its start. The longest are `\\uXXXX` and `-Infinity`; 16 leaves a margin."""
_NOT_A_LIST_OF_ROWS = {"messages", "conversations", "tools", "functions", "function", "input", "output", "choices"}
_NOT_A_LIST_OF_ROWS |= {"chunks", "events", "question", "ground_truth", "answers"}


class SourceRow(NamedTuple):
    """A row of a source. If it cannot be read, `row` is None and `fault` is (rule, message).

    `where` is `file:line`, or `file:row` in .json and .parquet, counted from 1. `notes` are faults that leave the row
    readable. Messages do not repeat the place.
    """

    where: str
    row: dict[str, Any] | None
    fault: tuple[str, str] | None = None
    notes: tuple[tuple[str, str], ...] = ()


def expand_source(source: str | Path) -> list[str]:
    """Return the files of a source, sorted: the source itself, the files of a folder (at any depth) or those of a glob.
    Raises UserError if a folder or glob has no file that can be read."""
    name = str(source)
    path = Path(name)
    if name.startswith("hub:") or path.is_file():
        return [name]
    if path.is_dir():
        inside = (file for file in path.rglob("*") if file.is_file() and file.name.endswith(_SUFFIXES))
        files = [str(f) for f in inside if not any(part.startswith(".") for part in f.relative_to(path).parts)]
        if not files:
            raise UserError(f"{name}: the folder has no file with one of the endings {', '.join(_SUFFIXES)}")
        return sorted(files)
    if glob.has_magic(name) and not path.exists():
        # Path.glob takes no absolute pattern.
        files = sorted(file for file in glob.glob(name, recursive=True) if Path(file).is_file())  # noqa: PTH207
        if not files:
            raise UserError(f"{name}: no file matches (looked in {Path.cwd()})")
        return files
    return [name]


def iter_file(file: str) -> Iterator[SourceRow]:
    """Yield the rows of one file or hub data set that `expand_source` returned. Raises UserError if it cannot be
    opened, but never for a bad line."""
    with named_open_errors(file):
        if file.startswith("hub:"):
            yield from _hub_rows(file)
        elif file.endswith(".parquet"):
            yield from _parquet_rows(file)
        else:
            yield from _text_rows(file)


def _text_rows(file: str) -> Iterator[SourceRow]:
    row: SourceRow | None = None
    try:
        with _opened(file) as stream:
            for row in _json_rows(stream, file):
                yield row
    except (EOFError, zlib.error, OSError) as error:
        if getattr(error, "errno", None):  # an error of the system, such as a missing file, not of the content
            raise
        number = int(row.where.rpartition(":")[2]) if row else 0
        message = f"the compressed file is cut off or damaged here ({error}); the rest is not read: download it again"
        yield SourceRow(f"{file}:{number + 1}", None, ("broken-file", message))


@contextmanager
def _opened(file: str) -> Iterator[io.BufferedReader[Any]]:
    with io.BufferedReader(io.FileIO(file), _HEAD) as raw:
        if file.endswith(".gz"):
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield io.BufferedReader(unpacked, _HEAD)
        elif file.endswith(".zst"):
            import pyarrow

            yield io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd"), _HEAD)
        else:
            yield raw


# JSON: lines, one array, or one object


def _json_rows(stream: io.BufferedReader[Any], file: str) -> Iterator[SourceRow]:
    """Return the rows of a stream. Its content decides its shape; the file's name only decides ambiguous cases."""
    head = stream.peek(_HEAD)[:_HEAD]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return iter([SourceRow(f"{file}:1", None, ("encoding", "the file is UTF-16; save it as UTF-8"))])
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    first, _, rest = start.partition(b"\n")
    if other := _other_kind(head, first, file):
        message = f"looks like {other}; convert the file to JSON lines, JSON or Parquet (.jsonl, .json, .parquet)"
        return iter([SourceRow(f"{file}:1", None, ("unread-format", message))])
    named_json = ".json" in Path(file).suffixes
    if start.startswith(b"[") and _starts_an_array(first, rest, named_json):
        return _array_rows(stream, file, head.startswith(codecs.BOM_UTF8))
    if named_json and start.startswith(b"{") and not (isinstance(_json_value(first), dict) and rest.strip()):
        return _object_rows(stream.read(), file)
    return line_rows(stream, file)


_MAGIC = (
    (b"PK\x03\x04", "a ZIP archive or an Excel sheet"),
    (b"SQLite format 3", "an SQLite database"),
    (b"PAR1", "a Parquet file whose name does not end in .parquet"),
    (b"\x1f\x8b", "a gzip file whose name does not end in .gz"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file whose name does not end in .zst"),
    (b"ARROW1", "an Arrow file"),
    (b"<", "XML or HTML"),
    (b"---", "YAML"),
)
_TABLES = {".csv": (b",", "CSV"), ".tsv": (b"\t", "TSV")}


def _other_kind(head: bytes, first: bytes, file: str) -> str:
    """Return what kind of file this is, by its first bytes or for a table its name, or "" if it may be JSON."""
    if kind := next((kind for magic, kind in _MAGIC if head.startswith(magic)), ""):
        return kind
    suffix = next((each for each in Path(file).suffixes if each in _TABLES), "")
    if not suffix or first.startswith((b"{", b"[")):
        return ""
    separator, kind = _TABLES[suffix]
    columns = [name.strip().decode(errors="replace") for name in first.split(separator)][:8]
    return f"{kind} with the columns {', '.join(columns)}"


def _starts_an_array(first: bytes, rest: bytes, named_json: bool) -> bool:
    """Return whether text that starts with "[" is one array of rows, and not JSON lines whose first value is a list."""
    if _json_value(first) is None:
        head = first[1:].strip() or rest.lstrip()[:1]
        return named_json or head.startswith(b"{")
    return not rest.strip()


def _json_value(line: bytes) -> Any:
    """Return the value of a line of JSON, or None if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def line_rows(lines: Iterable[bytes], file: str) -> Iterator[SourceRow]:
    """Yield the rows of JSON lines."""
    for number, line in enumerate(lines, 1):
        if line.lstrip(codecs.BOM_UTF8 + _BLANK.encode()):
            yield _parsed(line, f"{file}:{number}")


def _array_rows(stream: BinaryIO, file: str, has_bom: bool) -> Iterator[SourceRow]:
    for number, text in enumerate(array_elements(stream), 1):
        where = f"{file}:{number}"
        if isinstance(text, StrictJsonError):
            message = f"{text}; the rows after this one cannot be read"
            yield SourceRow(where, None, (text.rule, message))
            return
        yield _parsed((codecs.BOM_UTF8 if has_bom and number == 1 else b"") + text.encode(), where)


def _object_rows(content: bytes, file: str) -> Iterator[SourceRow]:
    """Yield the rows of a .json file that starts with an object: one row, or an object with one list of rows."""
    whole = _parsed(content, f"{file}:1")
    if whole.row is None:
        if whole.fault and whole.fault[0] == "broken-json" and content.strip().count(b"\n"):
            # These are JSON lines, and the first is broken. One fault per line says more than one for the file.
            lines = list(line_rows(io.BytesIO(content), file))
            if any(line.row is not None for line in lines):
                yield from lines
                return
        yield whole
        return
    lists = [rows for key, rows in whole.row.items() if _is_list_of_rows(key, rows)]
    if len(lists) != 1:
        yield whole
        return
    for number, row in enumerate(lists[0], 1):
        yield SourceRow(f"{file}:{number}", row, None, whole.notes if number == 1 else ())


def _is_list_of_rows(key: str, rows: Any) -> bool:
    if key in _NOT_A_LIST_OF_ROWS or not isinstance(rows, list) or not rows:
        return False
    return all(isinstance(row, dict) and not row.keys() & {"role", "from"} for row in rows)


def _parsed(line: bytes, where: str) -> SourceRow:
    try:
        value, notes = parse_line(line)
    except StrictJsonError as error:
        return SourceRow(where, None, (error.rule, str(error)))
    if isinstance(value, dict):
        return SourceRow(where, value, None, notes)
    kind = {type(None): "null", bool: "a boolean", str: "a text", list: "a list"}.get(type(value), "a number")
    return SourceRow(where, None, ("not-an-object", f"expected a JSON object, found {kind}"))


def array_elements(stream: BinaryIO) -> Iterator[str | StrictJsonError]:
    """Yield the JSON text of each element of an array, read in chunks. A fault of the array itself comes last."""
    window = _Window(stream)
    try:
        if window.take() != "[":
            raise window.fault("expected the start of a list")
        sign = "," if window.peek() != "]" else window.take()
        while sign == ",":
            yield window.element()
            sign = window.peek()
            if sign not in (",", "]"):
                raise window.fault('expected "," or "]" after a row')
            window.take()
            if sign == "," and window.peek() == "]":
                raise window.fault("a comma before the end of the list")
        if window.peek():
            raise window.fault("text after the end of the list")
    except StrictJsonError as error:
        yield error


class _Window:
    """The text of the stream that is being decoded. Everything from `_at` in `_text` is still to parse."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._lines = 1  # the line number at the start of `_text`
        self._ended = False
        self._decode_json = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """Return the next character that is not blank, or "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read(_CHUNK):
                return ""

    def take(self) -> str:
        sign = self.peek()
        self._at += len(sign)
        return sign

    def element(self) -> str:
        """Return the text of the next value. Each try reads twice as much, so that a long row takes linear time."""
        self.peek()
        size = _CHUNK
        while True:
            try:
                _, end = self._decode_json(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _NEAR_THE_END
                if not (cut and self._read(size)):
                    raise self.fault(error.msg, error.pos) from None
            except RecursionError:
                raise self.fault("JSON that is nested too deeply") from None
            except ValueError:
                raise self.fault("a number with too many digits") from None
            else:
                if end < len(self._text) or not self._read(size):  # a number may continue in the next chunk
                    element = self._text[self._at : end]
                    self._at = end
                    return element
            size *= 2

    def fault(self, message: str, at: int | None = None) -> StrictJsonError:
        line = self._lines + self._text.count("\n", 0, self._at if at is None else at)
        return StrictJsonError("broken-json", f"broken JSON: {message} at line {line}")

    def _read(self, size: int) -> bool:
        """Read more of the stream and drop the text already parsed. Return False at the end of the stream."""
        if self._ended:
            return False
        chunk = self._stream.read(size)
        self._ended = not chunk
        self._lines += self._text.count("\n", 0, self._at)
        try:
            more = self._decoder.decode(chunk, final=self._ended)
        except UnicodeDecodeError as error:
            message = f"not UTF-8 ({error.reason}, after line {self._lines}); save it as UTF-8"
            raise StrictJsonError("encoding", message) from None
        self._text = self._text[self._at :] + more
        self._at = 0
        return not self._ended or bool(more)


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
        message = f"the Parquet file is damaged here ({error}); the rest is not read: download it again"
        yield SourceRow(f"{file}:{number + 1}", None, ("broken-file", message))


def _hub_rows(source: str) -> Iterator[SourceRow]:
    """Yield the rows of all splits (`hub:owner/name`) or of one (`hub:owner/name:split`)."""
    name, _, split = source.removeprefix("hub:").partition(":")
    try:
        import datasets
    except ImportError:
        raise UserError(f'{source}: reading from the hub needs "datasets"; pip install datasets') from None
    from toolhone.hub import hub_fault, unreachable

    if hub_fault() is not None:
        raise UserError(unreachable(source, f"the dataset {name}", "download its file and give the path"))
    try:
        found = datasets.load_dataset(name, split=split or None, streaming=True)
        splits = {split: found} if split else dict(found)
        for part, rows in splits.items():
            for number, row in enumerate(rows, 1):
                yield _table_row(row, f"hub:{name}:{part}:{number}")
    except datasets.exceptions.DatasetNotFoundError as error:
        how = "check the spelling, or run `hf auth login` if it is private"
        if "gated" in str(error):
            how = "accept its licence on its page and run `hf auth login`"
        raise UserError(f"{source}: {str(error).rstrip('.')}; {how}") from None
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{source}: cannot be fetched from the hub ({type(error).__name__}: {reason}); check the name and the "
            "network, or download the file and give its path"
        ) from None


def _table_row(row: dict[str, Any], where: str) -> SourceRow:
    """Return a row of a table with values that JSON has. Dates become ISO texts."""
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_as_json)
        refuse_surrogates(text)
    except StrictJsonError as error:
        return SourceRow(where, None, (error.rule, str(error)))
    except TypeError as error:
        return SourceRow(where, None, ("broken-file", f"{error}; write such columns as text"))
    except ValueError:
        return SourceRow(where, None, ("nan", "has NaN or Infinity, which are not JSON"))
    return SourceRow(where, parse_strict(text))


def _as_json(value: Any) -> Any:
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == int(value) else float(value)
    raise TypeError(f"has a value of type {type(value).__name__}, which JSON cannot represent")
