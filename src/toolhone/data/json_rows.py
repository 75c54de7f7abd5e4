"""Rows out of JSON text: JSON lines, one JSON array, or one JSON object. Each comes with its place and its faults.

A bad line becomes a row with a fault and stops nothing, so that one pass finds all faults. Lines and the elements of an
array are read one after the other, so a file may be larger than memory; only a .json file that is one object is held
whole.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from toolhone.strict_json import StrictJsonError, parse_line

HEAD = 1 << 16
_CHUNK = 1 << 18
_BLANK = " \t\r\n"
_NEAR_THE_END = 16
"""The longest cut token that the decoder reports at its start: `\\uXXXX`, `-Infinity`, and room."""
_NOT_A_LIST_OF_ROWS = {"messages", "conversations", "tools", "functions", "function", "input", "output", "choices"}
_NOT_A_LIST_OF_ROWS |= {"chunks", "question", "ground_truth", "answers"}


class SourceRow(NamedTuple):
    """A row of a source, or the fault (rule, message) that hides it; `row` is then None.

    `where` is `file:line` (`file:row` counted from 1 in .json and .parquet). `notes` are faults that leave the row
    readable. Messages do not repeat the place.
    """

    where: str
    row: dict[str, Any] | None
    fault: tuple[str, str] | None = None
    notes: tuple[tuple[str, str], ...] = ()


def json_rows(stream: io.BufferedReader[Any], file: str) -> Iterator[SourceRow]:
    """Yield the rows of a stream. Its content decides the shape, and the name only if the content leaves it open: some
    .json files hold lines, some .jsonl files an array."""
    head = stream.peek(HEAD)[:HEAD]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return iter([SourceRow(f"{file}:1", None, ("encoding", "the file is UTF-16; save it as UTF-8"))])
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    first, _, rest = start.partition(b"\n")
    named_json = ".json" in Path(file).suffixes
    if start.startswith(b"[") and _starts_an_array(first, rest, named_json):
        return _array_rows(stream, file, head.startswith(codecs.BOM_UTF8))
    if named_json and start.startswith(b"{") and not (_is_object(first) and rest.strip()):
        return _object_rows(stream.read(), file)
    return line_rows(stream, file)


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


def line_rows(lines: Iterable[bytes], file: str) -> Iterator[SourceRow]:
    """Yield the rows of JSON lines."""
    for number, line in enumerate(lines, 1):
        if line.lstrip(codecs.BOM_UTF8 + _BLANK.encode()):
            yield _parsed(line, f"{file}:{number}")


def _array_rows(stream: BinaryIO, file: str, has_bom: bool) -> Iterator[SourceRow]:
    for number, text in enumerate(array_elements(stream), 1):
        where = f"{file}:{number}"
        if isinstance(text, StrictJsonError):
            message = f"{text}; the rows after it cannot be separated and are not read"
            yield SourceRow(where, None, (text.rule, message))
            return
        yield _parsed((codecs.BOM_UTF8 if has_bom and number == 1 else b"") + text.encode(), where)


def _object_rows(content: bytes, file: str) -> Iterator[SourceRow]:
    """A .json file that starts with an object: one row, or an object with one list of rows."""
    whole = _parsed(content, f"{file}:1")
    if whole.row is None:
        if whole.fault and whole.fault[0] == "broken-json" and content.strip().count(b"\n"):
            # Lines after all, of which the first is broken: better a fault for each than one for all.
            lines = list(line_rows(io.BytesIO(content), file))
            if any(line.row is not None for line in lines):
                yield from lines
                return
        yield whole
        return
    lists = [key for key, rows in whole.row.items() if _is_list_of_rows(key, rows)]
    if len(lists) != 1:
        yield whole
        return
    for number, row in enumerate(whole.row[lists[0]], 1):
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
    names = {type(None): "null", bool: "a truth value", str: "a text", list: "a list"}
    kind = names.get(type(value), "a number")
    return SourceRow(where, None, ("not-an-object", f"expected a JSON object, found {kind}"))


# The elements of a JSON array, out of a stream that need not fit into memory


def array_elements(stream: BinaryIO) -> Iterator[str | StrictJsonError]:
    """Yield the JSON text of each element; at the first fault of the array itself, that fault, and no more."""
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
    """The part of the stream that is being decoded: `_text` from `_at` on is not yet read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._lines = 1  # of what was read and let go
        self._ended = False
        self._plain = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is not blank; "" at the end."""
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
        """The text of the next value. What is read doubles with each try, so that a long row costs linear time."""
        self.peek()
        size = _CHUNK
        while True:
            try:
                _, end = self._plain.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _NEAR_THE_END
                if not (cut and self._read(size)):
                    raise self.fault(error.msg, error.pos) from None
            except RecursionError:
                raise self.fault("JSON that is nested too deeply") from None
            except ValueError:
                raise self.fault("a number with too many digits") from None
            else:
                if end < len(self._text) or not self._read(size):  # a number may go on in the next chunk
                    element = self._text[self._at : end]
                    self._at = end
                    return element
            size *= 2

    def fault(self, message: str, at: int | None = None) -> StrictJsonError:
        line = self._lines + self._text.count("\n", 0, self._at if at is None else at)
        return StrictJsonError("broken-json", f"broken JSON: {message} at line {line}")

    def _read(self, size: int) -> bool:
        """Take in more of the stream, letting go of what was read; False at its end."""
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
