"""The log of a cascade's decisions: a JSON line for each request, appended as it is answered.

The dollars of the present day are summed from it, so a cap outlives a restart. A process holds the file alone, and a
line that a crash cut short is taken off when the next one opens it.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from toolhone.errors import UserError
from toolhone.jsonl import json_line
from toolhone.route.confidence import Gate

Route = Literal["small", "large", "none"]
"""Whose answer was given. none: the small model handed over and the large one gave no answer."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One request. `time` is when it was answered (UTC); `asked_large` counts the calls of the large model, and its
    tokens and `cost_usd` are those that it may have charged, failed calls and all; `cost_usd` is None where no price is
    known. `fallback` says why the large model, though asked for, did not answer. `latency_ms` is the whole request's,
    waiting for its turn included; `small_ms` and `large_ms` are the models' own. `texts` is None unless asked for."""

    id: str
    time: str
    route: Route
    confidence: float
    gate: Gate | None
    escalated: bool
    fallback: str | None
    asked_large: int
    latency_ms: float
    small_ms: float
    large_ms: float
    prompt_tokens: int
    completion_tokens: int
    large_prompt_tokens: int
    large_completion_tokens: int
    cost_usd: float | None
    texts: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        row = asdict(self)
        if self.texts is None:
            del row["texts"]
        return row


class DecisionLog:
    """An open log, for one writer. `spent_usd` is what the lines of `day` (UTC, as 2026-11-25) had cost at opening."""

    def __init__(self, path: Path, day: str) -> None:
        """Open the log, and make it where it is not there.

        Raises:
            UserError: where it cannot be written, another process writes it, or a line is no decision.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); name another file with --log") from None
        try:
            self._hold()
            self.spent_usd = self._spent(day)
        except BaseException:
            os.close(self._file)
            raise

    def write(self, decision: Decision) -> None:
        """Append a line, whole or not at all.

        Raises:
            OSError: where the disk does not take it.
        """
        line = json_line(decision.to_json())
        size = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(f"{self.path}: the disk took {written} of {len(line)} bytes")
        except OSError:
            os.ftruncate(self._file, size)
            raise

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _hold(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self.path}: another server writes this log; name another with --log (a daily cap counts what stands "
                "in its own log)"
            ) from None

    def _spent(self, day: str) -> float:
        spent = 0.0
        end = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                if day.encode() in line:  # most lines of an old log are of other days
                    spent += self._cost(line, number, day)
        os.ftruncate(self._file, end)
        return spent

    def _cost(self, line: bytes, number: int, day: str) -> float:
        try:
            row = json.loads(line)
            return float(row["cost_usd"] or 0.0) if row["time"].startswith(day) else 0.0
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{self.path}:{number}: is no decision, so the day's cost is not known; mend the line, or name another "
                "file with --log"
            ) from None
