"""The elements of a JSON array, one after the other, out of a stream that need not fit into memory."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import BinaryIO

from toolhone.strict_json import StrictJsonError

_CHUNK = 1 << 18
_BLANK = " \t\r\n"
_NEAR_THE_END = 16
"""The longest cut token that the decoder reports at its start: `\\uXXXX`, `-Infinity`, and room."""


def array_elements(stream: BinaryIO) -> Iterator[str | StrictJsonError]:
    """Yield the JSON text of each element; at the first fault of the array itself, that fault, and no more."""
    window = _Window(stream)
    try:
        window.skip_blank()
        window.take("[", "the start of a list")
        window.skip_blank()
        while not window.starts_with("]"):
            yield window.element()
            window.skip_blank()
            if window.starts_with(","):
                window.take(",", "a comma")
                window.skip_blank()
                if window.starts_with("]"):
                    raise window.fault("a comma before the end of the list")
            elif not window.starts_with("]"):
                raise window.fault('expected "," or "]" after a row')
        window.take("]", "the end of the list")
        window.skip_blank()
        if not window.at_end():
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

    def skip_blank(self) -> None:
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text) or not self._read(_CHUNK):
                return

    def at_end(self) -> bool:
        return self._at >= len(self._text) and not self._read(_CHUNK)

    def starts_with(self, sign: str) -> bool:
        return not self.at_end() and self._text[self._at] == sign

    def take(self, sign: str, name: str) -> None:
        if not self.starts_with(sign):
            raise self.fault(f"expected {name}")
        self._at += 1

    def element(self) -> str:
        """The text of the value at hand. What comes in doubles with each try, so that a long row costs linear time."""
        size = _CHUNK
        while True:
            try:
                _, end = self._plain.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _NEAR_THE_END
                if not (cut and self._read(size)):
                    line = self._lines + self._text.count("\n", 0, min(error.pos, len(self._text)))
                    raise StrictJsonError("broken-json", f"broken JSON: {error.msg} at line {line}") from None
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

    def fault(self, message: str) -> StrictJsonError:
        return StrictJsonError("broken-json", f"broken JSON: {message} at line {self._line()}")

    def _line(self) -> int:
        return self._lines + self._text.count("\n", 0, self._at)

    def _read(self, size: int) -> bool:
        """Take in more of the stream, letting go of what was read; False at its end."""
        if self._ended:
            return False
        chunk = self._stream.read(size)
        self._ended = not chunk
        self._lines = self._line()
        try:
            more = self._decoder.decode(chunk, final=self._ended)
        except UnicodeDecodeError as error:
            message = f"not UTF-8 ({error.reason}, after line {self._lines}); save it as UTF-8"
            raise StrictJsonError("encoding", message) from None
        self._text = self._text[self._at :] + more
        self._at = 0
        return not self._ended or bool(more)
