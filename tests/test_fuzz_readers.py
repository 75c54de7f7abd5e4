"""The fuzzer of the readers, on a few rows: it finds no fault in the readers, and finds faults planted here."""

from __future__ import annotations

import random
import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from toolhone.records import Conversation

PATH = Path(__file__).parent.parent / "scripts" / "fuzz_readers.py"
fuzz_readers = SimpleNamespace(**runpy.run_path(str(PATH)))


@pytest.mark.parametrize("name", fuzz_readers.READERS)
def test_mutated_rows_give_a_conversation_or_a_named_fault(name: str) -> None:
    outcomes, faults = fuzz_readers.fuzz(name, 300)
    assert faults == []
    assert outcomes["read"] >= 10
    assert len(outcomes) >= 8


@pytest.mark.parametrize("name", fuzz_readers.READERS)
def test_unchanged_rows_are_read(name: str, tmp_path: Path) -> None:
    format, seeds = fuzz_readers.READERS[name]
    lines = [fuzz_readers.json.dumps(row).encode() for row in seeds()]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    outcomes: Counter[str] = Counter()
    assert fuzz_readers.wrong_with(path, lines, format, outcomes) == []
    assert outcomes["read"] >= 1


def test_the_fuzzer_finds_a_reader_that_crashes_drops_a_row_or_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [fuzz_readers.json.dumps(row).encode() for row in fuzz_readers.rows_of("contracts/conversation.jsonl")]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    inside = fuzz_readers.wrong_with.__globals__

    def broken(*_: object, **__: object) -> list[Conversation]:
        raise KeyError("x")

    monkeypatch.setitem(inside, "read_source", broken)
    assert "KeyError" in fuzz_readers.wrong_with(path, lines, "openai", Counter())[0]
    monkeypatch.setitem(inside, "read_source", lambda *_, **__: [])
    assert "lost without a word" in fuzz_readers.wrong_with(path, lines, "openai", Counter())[0]
    monkeypatch.undo()
    monkeypatch.setitem(inside, "conversation_line", lambda row: b'{"id": "1", "messages": [{"role": "user"}]}')
    assert "RowError" in fuzz_readers.wrong_with(path, lines, "openai", Counter())[0]


def test_the_same_seed_gives_the_same_rows() -> None:
    rows = fuzz_readers.READERS["bfcl"][1]()
    first, second = (fuzz_readers.mutated(rows, random.Random(7)) for _ in range(2))
    assert first == second
