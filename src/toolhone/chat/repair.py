"""Mending what strict reading refuses, where it was asked for: each repair has a name and is counted when it fires.

In: the text and a place in it, as for `call_json.decode`. Out: the same, mended where that gives a call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, get_args

from toolhone.chat.call_json import Decoded, Undecodable, decode, read_call
from toolhone.chat.python_literals import decode_python
from toolhone.records import Repair, ToolCall

REPAIRS: tuple[Repair, ...] = get_args(Repair)


class Mender:
    """Reads values and calls, mending with the repairs that are `allowed`; with none it reads strictly. `fired` counts
    the repairs without which a call would not have been read.

    It looks at no more characters than four times the text's, so that time stays linear whatever the text.
    """

    def __init__(self, allowed: Iterable[Repair], length: int) -> None:
        self.allowed = frozenset(allowed)
        self.fired = Counter[Repair]()
        self._budget = 4 * length

    def decode(self, text: str, at: int) -> Decoded | Undecodable:
        """The value that starts here, as JSON or, where that is allowed, as Python's literals. Never raises."""
        found = decode(text, at)
        if isinstance(found, Decoded) or found.cut or "python_literals" not in self.allowed or self._budget <= 0:
            return found
        mended = decode_python(text, at, json_words=True)
        self._budget -= mended.end - at
        if isinstance(mended, Undecodable) or mended.fault is not None:
            return found
        return replace(mended, repairs=("python_literals",))

    def read_call(self, found: Decoded, argument_keys: tuple[str, ...]) -> ToolCall | str:
        """The call that a decoded value is, or why it is none; counts what it took to read it."""
        call = found.fault or read_call(found.value, argument_keys)
        repairs = found.repairs
        if isinstance(call, str) and "arguments_as_text" in self.allowed:
            inner = self._arguments(found.value, argument_keys)
            if inner is not None:
                call = read_call(inner.value, argument_keys)
                repairs += (*inner.repairs, "arguments_as_text")
        if isinstance(call, ToolCall):
            self.fired.update(repairs)
        return call

    def _arguments(self, value: Any, argument_keys: tuple[str, ...]) -> Decoded | None:
        """The call with the object that its arguments' text holds, if it holds one and nothing else."""
        key = next((key for key in argument_keys if isinstance(value, dict) and isinstance(value.get(key), str)), None)
        if key is None:
            return None
        text = value[key].strip()
        inner = self.decode(text, 0)
        if isinstance(inner, Undecodable) or not isinstance(inner.value, dict) or inner.end < len(text):
            return None
        return replace(inner, value={**value, key: inner.value})
