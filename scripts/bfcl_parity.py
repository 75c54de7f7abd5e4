"""Compare toolhone's policy `bfcl` with BFCL's own checker, pair by pair: every Python gold, and mutations of it.

The wheel of `bfcl-eval` is unpacked into a cache folder, never installed, and its checker is imported from there; a
stub replaces its table of models. Both score the same calls. The table gives pairs and disagreements by category and
by mutation. `--out` writes each disagreeing pair with both verdicts and its class:

- sign-or-point: BFCL drops `-` and `.` from texts, so it takes "-5" for "5" and "1.5" for "15"
- greedy: BFCL gives each expected call the first that fits, which may leave none for a later one
- crash: BFCL's checker raised an error, such as a `KeyError` on nested gold
- unsatisfiable: one of the four entries that no call satisfies; toolhone does not score them
- unexplained: none of these, so a bug in toolhone; the exit status is then 1

    .venv/bin/python scripts/bfcl_parity.py --out bfcl_parity.jsonl
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import types
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, permutations
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from bfcl_mutations import mutations
from fetch_bfcl import download, unpack

from toolhone.data.importers.bfcl import PYTHON_WITH_GOLD, read_bfcl_folder
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import examples
from toolhone.evaluate.match import match_turn
from toolhone.evaluate.values import BFCL
from toolhone.jsonl import read_jsonl, write_jsonl
from toolhone.records import Example, ToolCall

CODE = Path(".cache/bfcl_eval")
DATA = Path(".cache/bfcl")
UNSATISFIABLE = ("live_simple_106-63-0", "live_simple_112-68-0", "live_multiple_862-181-3", "live_multiple_964-207-0")
"""The entries that no call satisfies: their gold accepts no value, or needs an argument that the function lacks."""
Calls = list[dict[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Pair:
    """The same calls scored by both. `bfcl` is None if its checker raised an error, which `explained` then holds."""

    id: str
    category: str
    mutation: str
    calls: Calls
    gold: Any
    toolhone: bool
    bfcl: bool | None
    fault: str | None
    explained: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A question of BFCL with its gold; `example` is None if toolhone reads it as unsatisfiable."""

    id: str
    category: str
    functions: list[dict[str, Any]]
    gold: list[dict[str, Any]]
    example: Example | None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of BFCL's data (default: %(default)s)")
    parser.add_argument("--code", type=Path, default=CODE, help="folder for the unpacked wheel (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSONL file for the disagreeing pairs")
    parser.add_argument("--verdicts", type=Path, help="file for the calls and BFCL's verdict of every pair")
    parser.add_argument(
        "--per-entry", type=int, default=12, help="maximum number of mutations of each entry (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the choice of mutations, a whole number (default: %(default)s)"
    )
    options = parser.parse_args()
    if not bring(options.data, options.code):
        return 1
    checker = import_checker(options.code)
    counted: Counter[tuple[str, str, str]] = Counter()
    apart, verdicts = [], []
    for pair in compare(checker, read_entries(options.data), options.per_entry, options.seed):
        for kind, row in (("category", pair.category), ("mutation", pair.mutation), ("all", "all")):
            counted[kind, row, "pairs"] += 1
            counted[kind, row, "right"] += pair.bfcl is True
            counted[kind, row, pair.fault or "agree"] += 1
        if pair.fault:
            apart.append(pair)
        if options.verdicts:
            verdict = {"id": pair.id, "mutation": pair.mutation, "calls": pair.calls, "bfcl": pair.bfcl}
            verdicts.append({**verdict, "fault": pair.fault} if pair.fault else verdict)
    print_table(counted)
    if options.out:
        write_jsonl(options.out, (asdict(pair) for pair in apart))
        print(f"{options.out}: {len(apart):,} disagreeing pairs")
    if options.verdicts:
        write_jsonl(options.verdicts, verdicts)
    return 1 if counted["all", "all", "unexplained"] else 0


def bring(data: Path, code: Path) -> bool:
    """Download the wheel if the data or the code is missing."""
    checker = code / "bfcl_eval" / "eval_checker" / "ast_eval" / "ast_checker.py"
    if checker.is_file() and (data / "BFCL_v4_simple_python.json").is_file():
        return True
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download(Path(scratch))
        if wheel is None:
            return False
        if not checker.is_file():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(code, [name for name in archive.namelist() if name.endswith(".py")])
        if not data.exists():
            unpack(wheel, data)
    return True


def import_checker(code: Path) -> Callable[[Any, Calls, Any, str], bool]:
    """BFCL's checker out of the unpacked wheel, as a function of functions, calls, gold and category.

    The stub of its table of models says of each that it keeps dots in names, as a model does that is prompted.
    """
    sys.path.insert(0, str(code))
    stub = types.ModuleType("bfcl_eval.constants.model_config")
    stub.MODEL_CONFIG_MAPPING = {"stub": types.SimpleNamespace(underscore_to_dot=False)}  # type: ignore[attr-defined]
    sys.modules[stub.__name__] = stub
    from bfcl_eval.constants.enums import Language  # type: ignore[import-not-found]
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker  # type: ignore[import-not-found]

    def checker(functions: Any, calls: Calls, gold: Any, category: str) -> bool:
        return bool(ast_checker(functions, calls, gold, Language.PYTHON, category, "stub")["valid"])

    return checker


def read_entries(data: Path, categories: Sequence[str] = PYTHON_WITH_GOLD) -> Iterator[Entry]:
    """Each entry as BFCL has it and as toolhone reads it."""
    for category in categories:
        name = f"BFCL_v4_{category}.json"
        golds = {row["id"]: row["ground_truth"] for _, row in read_jsonl(data / "possible_answer" / name)}
        read: dict[str, Example] = {}
        for row in read_bfcl_folder(data, [category]):
            if not isinstance(row, RowFault):
                read[row.id] = examples(row)[-1]
        for _, row in read_jsonl(data / name):
            id = row["id"]
            if id in golds:
                yield Entry(id, category, row["function"], golds[id], read.get(id))


def compare(
    checker: Callable[[Any, Calls, Any, str], bool], entries: Iterator[Entry], per_entry: int, seed: int
) -> Iterator[Pair]:
    """Score each entry's gold and mutations by both."""
    for entry in entries:
        for mutation, calls in mutations(entry.gold, entry.functions, per_entry, f"{seed}:{entry.id}"):
            yield score_by_both(checker, entry, mutation, calls)


def score_by_both(checker: Callable[[Any, Calls, Any, str], bool], entry: Entry, mutation: str, calls: Calls) -> Pair:
    ours, rules = False, tuple[str, ...]()
    if entry.example is not None:
        made = [ToolCall(name, arguments) for call in calls for name, arguments in call.items()]
        example = entry.example
        verdict = match_turn(example.gold, "calls" if made else "none", made, example.tools, entry.id, BFCL)
        ours, rules = verdict.exact, verdict.rules
    theirs: bool | None
    try:
        theirs, explained = checker(entry.functions, calls, entry.gold, entry.category), ""
    except Exception as error:  # noqa: BLE001  whatever its checker raises is its verdict
        theirs, explained = None, f"{type(error).__name__}: {error}"
    fault = None
    if ours is not theirs:
        fault = _fault(checker, entry, calls, ours, theirs)
    elif entry.example is None and mutation == "gold":
        explained = "unsatisfiable to both"
    return Pair(entry.id, entry.category, mutation, calls, entry.gold, ours, theirs, fault, explained, rules)


def _fault(
    checker: Callable[[Any, Calls, Any, str], bool], entry: Entry, calls: Calls, ours: bool, theirs: bool | None
) -> str:
    """The class of a disagreement, found from what it implies and not from how the pair was made."""
    if theirs is None:
        return "crash"
    if entry.id in UNSATISFIABLE:
        return "unsatisfiable"
    if ours and "parallel" in entry.category and _some_order_passes(checker, entry, calls):
        return "greedy"
    # The two agree once no text has a sign or a point that BFCL drops.
    if theirs and not ours and _agree_without_signs(entry, calls):
        return "sign-or-point"
    return "unexplained"


def _some_order_passes(checker: Callable[[Any, Calls, Any, str], bool], entry: Entry, calls: Calls) -> bool:
    orders = islice(permutations(calls), 5040)
    return any(checker(entry.functions, list(order), entry.gold, entry.category) for order in orders)


def _agree_without_signs(entry: Entry, calls: Calls) -> bool:
    """Whether toolhone accepts the calls too if all texts of calls and gold, but no numbers, lose `-` and `.`."""
    if entry.example is None:
        return False
    made = [ToolCall(name, _bared(arguments)) for call in calls for name, arguments in call.items()]
    bared = [
        type(call)(call.name, {k: _bared(v) for k, v in call.arguments.items()}, call.optional, call.blank)
        for call in entry.example.gold.calls
    ]
    gold = type(entry.example.gold)("calls", tuple(bared))
    return match_turn(gold, "calls", made, entry.example.tools, entry.id, BFCL).exact


def _bared(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub(r"[-.]", "", value)
    if isinstance(value, list):
        return [_bared(item) for item in value]
    return {key: _bared(item) for key, item in value.items()} if isinstance(value, dict) else value


def print_table(counted: Counter[tuple[str, str, str]]) -> None:
    faults = ["sign-or-point", "greedy", "crash", "unsatisfiable", "unexplained"]
    print(f"{'':28}{'pairs':>9}{'BFCL valid':>12}{'agree':>9}" + "".join(f"{name:>15}" for name in faults))
    for kind in ("category", "mutation", "all"):
        for row in dict.fromkeys(row for each, row, _ in counted if each == kind):
            cells = [counted[kind, row, name] for name in ("pairs", "right", "agree", *faults)]
            widths = [9, 12, 9] + [15] * len(faults)
            print(f"{row:28}" + "".join(f"{cell:>{width},}" for cell, width in zip(cells, widths, strict=True)))
        print()
    pairs = counted["all", "all", "pairs"]
    print(f"disagreeing: {1 - counted['all', 'all', 'agree'] / max(pairs, 1):.3%} of {pairs:,} pairs")


if __name__ == "__main__":
    sys.exit(main())
