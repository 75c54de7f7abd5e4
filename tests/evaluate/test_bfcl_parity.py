"""The policy `bfcl` compared with BFCL's own checker: with its recorded verdicts, and with the checker if installed."""

from __future__ import annotations

import hashlib
import runpy
from collections import Counter
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toolhone.data.importers.bfcl import PYTHON_WITH_GOLD
from toolhone.evaluate.match import match_turn
from toolhone.evaluate.values import BFCL, STRICT
from toolhone.jsonl import read_jsonl
from toolhone.records import ToolCall

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
DATA, CODE = ROOT / ".cache" / "bfcl", ROOT / ".cache" / "bfcl_eval"
parity = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "bfcl_parity.py")))

ENTRIES = {entry.id: entry for entry in parity.read_entries(FIXTURES / "formats" / "bfcl")}
VERDICTS = [row for _, row in read_jsonl(FIXTURES / "bfcl_verdicts.jsonl")]


def exact(id: str, calls: list[dict[str, Any]], policy: Any) -> bool:
    """Whether toolhone scores the calls as right; False for an entry that it reads as unsatisfiable."""
    example = ENTRIES[id].example
    if example is None:
        return False
    made = [ToolCall(name, arguments) for call in calls for name, arguments in call.items()]
    return match_turn(example.gold, "calls" if made else "none", made, example.tools, id, policy).exact


@pytest.mark.parametrize("id", sorted({row["id"] for row in VERDICTS}))
def test_the_bfcl_policy_agrees_with_the_recorded_verdicts_of_bfcl(id: str) -> None:
    """The verdicts were recorded by `scripts/bfcl_parity.py --data tests/fixtures/formats/bfcl --verdicts ...`."""
    rows = [row for row in VERDICTS if row["id"] == id]
    apart = [row for row in rows if exact(id, row["calls"], BFCL) is not row["bfcl"]]
    assert len(rows) >= 20
    assert [row for row in apart if "fault" not in row] == []
    assert {row.get("fault") for row in apart} <= {"sign-or-point", "greedy", "crash"}


def test_the_recorded_verdicts_cover_every_category_and_both_outcomes() -> None:
    assert {ENTRIES[row["id"]].category for row in VERDICTS} == set(PYTHON_WITH_GOLD)
    valid = Counter(row["bfcl"] for row in VERDICTS)
    assert valid[True] > 100 < valid[False]


def test_strict_rejects_respelt_values_that_bfcl_accepts() -> None:
    lax = [row for row in VERDICTS if row["bfcl"] and not exact(row["id"], row["calls"], STRICT)]
    assert {row["mutation"] for row in lax} >= {"respelt"}


def test_mutations_depend_only_on_the_seed() -> None:
    entry = next(iter(ENTRIES.values()))
    mutations = parity.mutations
    first = list(mutations(entry.gold, entry.functions, 10, "0"))
    assert first == list(mutations(entry.gold, entry.functions, 10, "0"))
    assert first != list(mutations(entry.gold, entry.functions, 10, "1"))


def test_a_sample_of_all_entries_gets_the_scores_of_bfcls_own_checker() -> None:
    if not (DATA / "BFCL_v4_simple_python.json").is_file() or not (CODE / "bfcl_eval").is_dir():
        pytest.skip("needs the wheel of bfcl-eval: run `python scripts/bfcl_parity.py` to download it")
    checker = parity.import_checker(CODE)
    drawn = []
    for _, entries in groupby(parity.read_entries(DATA), key=lambda entry: entry.category):
        drawn += sorted(entries, key=lambda entry: hashlib.sha256(f"0:{entry.id}".encode()).digest())[:25]
    pairs = list(parity.compare(checker, iter(drawn), 6, 1))
    faults = Counter(pair.fault for pair in pairs)
    assert len(pairs) > 1000
    assert faults["unexplained"] == 0
    assert len(pairs) - faults[None] < 0.01 * len(pairs)
