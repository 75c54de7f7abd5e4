"""JSON in, one meaning out: decoding that names what no row may hold, fast enough for a million lines.

The hook for duplicate keys costs less than half of the decoding itself; a decoder made once saves `json.loads` making
one for each line, which cost more than that. Tools are most of many a row, and mostly those of the row before: such are
decoded once.
"""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable
from json.decoder import scanstring  # type: ignore[attr-defined]  # in json/decoder.py, but not in the stubs
from typing import Any, NoReturn

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_BOM = "its first character is a byte order mark (BOM), which most readers of JSON refuse; save it as UTF-8 without BOM"
_NUL = "holds the character NUL (\\u0000), which databases and tokenizers refuse or drop; take it out"


class Undecodable(ValueError):  # noqa: N818  # a state of the text, not an accident
    """A text that is no row's JSON. `rule` is "broken-json", "encoding", "nul", "surrogate", "duplicate-key", "nan"."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def decode(text: str) -> Any:
    """Decode JSON that has a single meaning and can be written again.

    Raises:
        Undecodable: for duplicate keys, NaN, Infinity, numbers too large, lone surrogates, depth, and what is no JSON.
    """
    return _decode(text, _whole)


def _decode(text: str, decoder: Callable[[str], Any]) -> Any:
    try:
        value = decoder(text)
    except Undecodable:
        raise
    except json.JSONDecodeError as error:
        raise Undecodable("broken-json", f"broken JSON: {error.msg} at {_place(error)}") from None
    except ValueError:  # Python's limit on the digits of a whole number
        raise Undecodable("broken-json", "a number with too many digits") from None
    except RecursionError:
        raise Undecodable("broken-json", "JSON that is nested too deeply") from None
    if "\\u" in text and _SURROGATE_ESCAPE.search(text):
        refuse_surrogates(value)
    return value


def decode_line(line: bytes) -> tuple[Any, tuple[tuple[str, str], ...]]:
    """Decode a line of JSON lines; the second part has notes (rule, message): "bom", "nul" where one is escaped.

    Lines that write the same "tools" as the line before share the value, which is not to be changed in place.

    Raises:
        Undecodable: as `decode`, and for a line that is not UTF-8 or holds a bare NUL.
    """
    notes: tuple[tuple[str, str], ...] = ()
    if line.startswith(BOM_UTF8):
        line = line.removeprefix(BOM_UTF8)
        notes = (("bom", _BOM),)
    try:
        text = line.decode().rstrip("\r\n")  # else a cut line is told as column 1 of the next
    except UnicodeDecodeError as error:
        message = f"not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        raise Undecodable("encoding", message) from None
    try:
        value = _decode(text, _ROW_DECODER.decode)
    except Undecodable as error:
        if error.rule == "broken-json" and "\0" in text:
            found = f"a NUL byte at column {text.index(chr(0)) + 1}; the file was cut by a crash or is not text"
            raise Undecodable("nul", found) from None
        raise
    if "\\u0000" in text and _NUL_ESCAPE.search(text):
        notes = (*notes, ("nul", _NUL))
    return value, notes


def _whole(text: str) -> Any:
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        end = -1
    return value if end == len(text) else _DECODER.decode(text)  # else with white space around it, or a fault


def refuse_surrogates(value: Any, *, allow_nan: bool = True) -> None:
    """Refuse what JSON's grammar lets in and no tokenizer or file can hold: half of a surrogate pair.

    Raises:
        Undecodable: with the rule "surrogate".
        ValueError: for a number that is none or without end, unless `allow_nan`.
    """
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=allow_nan).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        message = f"holds {half!r}, half of a surrogate pair; write the whole character"
        raise Undecodable("surrogate", message) from None


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    decoded = dict(pairs)
    if len(decoded) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise Undecodable("duplicate-key", f'the key "{twice}" stands twice in one object')
    return decoded


def _refuse_constant(name: str) -> NoReturn:
    raise Undecodable("nan", f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise Undecodable("nan", "holds a number that is too large for a float; write it as a text")
    return number


def _place(error: json.JSONDecodeError) -> str:
    return f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object_without_duplicates, parse_constant=_refuse_constant, parse_float=_finite
)


class _RowDecoder:
    """Decodes objects that repeat the "tools" of the one before. A JSON list ends with itself: where a text goes on
    with the whole text of one, there stands that list, and nothing of it need be decoded again."""

    def __init__(self) -> None:
        self._text = "[]"
        self._tools: Any = []

    def decode(self, text: str) -> Any:
        """As `_DECODER.decode`, which is asked wherever the text is not an object plainly written and without fault."""
        try:
            value = self._plain_object(text)
        except (ValueError, IndexError, StopIteration, RecursionError):
            value = None
        return _DECODER.decode(text) if value is None else value

    def _plain_object(self, text: str) -> dict[str, Any] | None:
        if not text.startswith("{"):
            return None
        value: dict[str, Any] = {}
        at = 0
        while text[at] == ("," if value else "{"):
            at += 1 + (text[at + 1] == " ")
            if text[at] != '"':
                return None
            key, at = scanstring(text, at + 1, True)
            if key in value or text[at] != ":":
                return None
            at += 1 + (text[at + 1] == " ")
            if key == "tools" and text.startswith(self._text, at):
                value[key], at = self._tools, at + len(self._text)
                continue
            start = at
            value[key], at = _scan(text, at)
            if key == "tools" and text[start] == "[":
                self._text, self._tools = text[start:at], value[key]
        return value if text[at:] == "}" else None


_scan = _DECODER.scan_once  # type: ignore[attr-defined]  # likewise
_ROW_DECODER = _RowDecoder()
