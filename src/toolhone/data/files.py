"""Files, folders, globs and hub data sets as rows: each unchanged, with its place, and what is wrong with it."""

from __future__ import annotations

import glob
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from toolhone.data.json_rows import HEAD, SourceRow, json_rows
from toolhone.errors import UserError
from toolhone.strict_json import StrictJsonError, parse_strict, refuse_surrogates

_SUFFIXES = (*(kind + packed for kind in (".jsonl", ".json", ".ndjson") for packed in ("", ".gz", ".zst")), ".parquet")
_BATCH = 256


def expand_source(source: str | Path) -> list[str]:
    """The files of a source, sorted: the source itself, those in a folder (at any depth) or those that a glob names.

    Raises:
        UserError: if a folder or glob has no file that can be read.
    """
    name = str(source)
    path = Path(name)
    if name.startswith("hub:") or path.is_file():
        return [name]
    if path.is_dir():
        inside = (file for file in path.rglob("*") if file.is_file() and file.name.endswith(_SUFFIXES))
        files = [str(f) for f in inside if not any(part.startswith(".") for part in f.relative_to(path).parts)]
        if not files:
            raise UserError(f"{name}: the folder has no file that ends in {', '.join(_SUFFIXES)}")
        return sorted(files)
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
        UserError: if it cannot be opened; never for a bad line.
    """
    try:
        if file.startswith("hub:"):
            yield from _hub_rows(file)
        elif file.endswith(".parquet"):
            yield from _parquet_rows(file)
        else:
            yield from _text_rows(file)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file (looked in {Path.cwd()})") from None
    except PermissionError:
        raise UserError(f"{file}: permission denied; check the file's permissions") from None


def _text_rows(file: str) -> Iterator[SourceRow]:
    row: SourceRow | None = None
    try:
        with _opened(file) as stream:
            for row in json_rows(stream, file):
                yield row
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        number = int(row.where.rpartition(":")[2]) if row else 0
        message = f"the compressed file is cut off or damaged here ({error}); what follows is lost: fetch it again"
        yield SourceRow(f"{file}:{number + 1}", None, ("broken-file", message))


@contextmanager
def _opened(file: str) -> Iterator[io.BufferedReader[Any]]:
    with io.BufferedReader(io.FileIO(file), HEAD) as raw:
        if file.endswith(".gz"):
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield io.BufferedReader(unpacked, HEAD)
        elif file.endswith(".zst"):
            yield io.BufferedReader(_ZstdStream(raw), HEAD)
        else:
            yield raw


class _ZstdStream(io.RawIOBase):
    """The unpacked bytes of one or more zstd frames. Raises EOFError if the last frame is cut or the bytes are not a
    frame; zstandard's own reader just ends there."""

    def __init__(self, packed: BinaryIO) -> None:
        import zstandard

        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._error = zstandard.ZstdError
        self._packed = packed
        self._frame = self._new_frame()
        self._in_frame = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any writable buffer; this is what comes
        while not self._ready:
            chunk = self._frame.unused_data or self._packed.read(HEAD)
            if self._frame.eof:
                self._frame = self._new_frame()
                self._in_frame = False
            if not chunk:
                if self._in_frame:
                    raise EOFError("the last zstd frame is not complete")
                return 0
            self._in_frame = True
            try:
                self._ready = self._frame.decompress(chunk)
            except self._error as error:
                raise EOFError(str(error)) from None
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size


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


def _table_row(row: dict[str, Any], where: str) -> SourceRow:
    """A table's row as JSON can hold it; dates become ISO texts."""
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
