"""A .zst file as a stream of bytes that says when it was cut off: the library's own reader ends there in silence."""

from __future__ import annotations

import io
from typing import BinaryIO

import zstandard

_CHUNK = 1 << 17


class ZstdStream(io.RawIOBase):
    """The unpacked bytes of one or more frames.

    Raises:
        EOFError: on reading, where the last frame is not complete or the bytes are no frame.
    """

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._in_frame = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any writable buffer; this is what comes
        while not self._ready:
            chunk = self._frame.unused_data or self._packed.read(_CHUNK)
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
                self._in_frame = False
            if not chunk:
                if self._in_frame:
                    raise EOFError("the last zstd frame is not complete")
                return 0
            self._in_frame = True
            try:
                self._ready = self._frame.decompress(chunk)
            except zstandard.ZstdError as error:
                raise EOFError(str(error)) from None
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size
