"""The strict JSON decoder of toolhone. It refuses a text without a single meaning, and gives the rule and the reason.

In: JSON from a row, a file, a model or a request. Out: its value, or `StrictJsonError`. Two things make it fast. The
decoder is built once, while `json.loads` with a hook builds one per call. Lines with the same "tools" share the value.
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
_BOM = "its first character is a byte order mark (BOM), which most JSON readers refuse; save it as UTF-8 without BOM"
_NUL = "holds the character NUL (\\u0000), which databases and tokenizers refuse or drop; remove it"


class StrictJsonError(ValueError):
    """A text that is not strict JSON. `rule` is "broken-json", "encoding", "nul", "surrogate", "duplicate-key" or
    "nan". `line` is the line of the error in broken JSON, counted from 1."""

    def __init__(self, rule: str, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.rule = rule
        self.line = line


def parse_strict(text: str, *, allow_surrogates: bool = False) -> Any:
    """Decode one JSON text that has a single meaning and can be written again.

    Args:
        allow_surrogates: accept half of a surrogate pair, which a model's text may contain.

    Raises:
        StrictJsonError: for duplicate keys, NaN, Infinity, numbers too large for a float or with too many digits, lone
            surrogates, nesting too deep for the interpreter, and anything that is not JSON.
    """
    return _parse(text, _whole, allow_surrogates)


def parse_line(line: bytes) -> tuple[Any, tuple[tuple[str, str], ...]]:
    """Decode a line of JSONL. Returns its value and notes (rule, message): "bom", or "nul" for an escaped NUL.

    Lines with the same "tools" as the line before share the value, so do not change it in place. Raises
    StrictJsonError like `parse_strict`, and for a line that is not UTF-8 or contains a bare NUL."""
    notes = (("bom", _BOM),) if line.startswith(BOM_UTF8) else ()
    text = decode_utf8(line).rstrip("\r\n")  # otherwise a cut line is reported at column 1 of the next line
    try:
        value = _parse(text, _ROW_DECODER.decode)
    except StrictJsonError as error:
        if error.rule == "broken-json" and "\0" in text:
            found = f"a NUL byte at column {text.index(chr(0)) + 1}; the file was cut by a crash or is not text"
            raise StrictJsonError("nul", found) from None
        raise
    if "\\u0000" in text and _NUL_ESCAPE.search(text):
        notes = (*notes, ("nul", _NUL))
    return value, notes


def decode_utf8(raw: bytes) -> str:
    """Decode UTF-8 and drop a byte order mark. Raises StrictJsonError with the rule "encoding"."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        raise StrictJsonError("encoding", message) from None


def refuse_surrogates(value: Any, *, allow_nan: bool = True) -> None:
    """Refuse half of a surrogate pair: JSON's grammar allows it, but no tokenizer or UTF-8 file can represent it.
    Raises StrictJsonError with the rule "surrogate", and ValueError for NaN or Infinity unless `allow_nan`."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=allow_nan).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        message = f"holds {half!r}, half of a surrogate pair; write the whole character"
        raise StrictJsonError("surrogate", message) from None


def is_nested_deeper(value: Any, levels: int) -> bool:
    """Whether the objects and lists of a JSON value are nested in more than this many levels."""
    inside = [value]
    for _ in range(levels + 1):
        containers = [each for each in inside if isinstance(each, dict | list)]
        if not containers:
            return False
        inside = [each for one in containers for each in (one.values() if isinstance(one, dict) else one)]
    return True


def _parse(text: str, decoder: Callable[[str], Any], allow_surrogates: bool = False) -> Any:
    try:
        value = decoder(text)
    except StrictJsonError:
        raise
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise StrictJsonError("broken-json", f"broken JSON: {error.msg} at {place}", error.lineno) from None
    except ValueError:  # Python's limit on the digits of an integer
        raise StrictJsonError("broken-json", "a number with too many digits") from None
    except RecursionError:
        raise StrictJsonError("broken-json", "JSON that is nested too deeply") from None
    if not allow_surrogates and "\\u" in text and _SURROGATE_ESCAPE.search(text):
        refuse_surrogates(value)
    return value


def _whole(text: str) -> Any:
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        end = -1
    return value if end == len(text) else _DECODER.decode(text)  # white space around it, or a fault


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    decoded = dict(pairs)
    if len(decoded) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise StrictJsonError("duplicate-key", f'the key "{twice}" appears twice in one object')
    return decoded


def _refuse_constant(name: str) -> NoReturn:
    raise StrictJsonError("nan", f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise StrictJsonError("nan", "holds a number that is too large for a float; write it as a text")
    return number


class _RowDecoder:
    """Decodes objects that repeat the "tools" of the object before. If the value of "tools" starts with the full text
    of the last list, the decoder reuses that list."""

    def __init__(self) -> None:
        self._text = "[]"
        self._tools: Any = []

    def decode(self, text: str) -> Any:
        """Like `_DECODER.decode`, which is used if the text is not a plain object or has a fault."""
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


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object_without_duplicates, parse_constant=_refuse_constant, parse_float=_finite
)
_scan = _DECODER.scan_once  # type: ignore[attr-defined]  # not in the stubs either
_ROW_DECODER = _RowDecoder()
