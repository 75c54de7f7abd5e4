"""What a command imports: data commands and --help must not wait for torch."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes"}
SHIPPED = ROOT / "data" / "customer_service"
CHECK = ["data", "check", str(SHIPPED / "test.jsonl"), "--tools", str(SHIPPED / "tools.json")]

_RUN_AND_LIST = """
import contextlib, io, sys
import toolhone.cli
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    toolhone.cli.main(sys.argv[1:])
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def imported_by(*arguments: str) -> set[str]:
    """Return the top-level packages that are loaded after a command, which runs in its own process."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN_AND_LIST, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_help_imports_nothing_heavy() -> None:
    loaded = imported_by("--help")
    assert "toolhone" in loaded
    assert loaded & (HEAVY | {"numpy", "scipy", "pydantic", "jsonschema", "yaml"}) == set()


TRAIN = str(SHIPPED / "train.jsonl")
ADVISE = ["advise", "--calls-per-day", "1000000", "--api-call-usd", "0.003", "--small-call-usd", "0"]
COST = ["cost", "--price-in", "1", "--price-out", "2", "--prompt-tokens", "900", "--completion-tokens", "30"]


@pytest.mark.parametrize(
    ("arguments", "used"),
    [
        (["config"], "pydantic"),
        (CHECK, "rich"),
        (["data", "stats", TRAIN, "--tools", str(SHIPPED / "tools.json")], "rich"),
        (ADVISE, "rich"),
        (COST, "rich"),
    ],
    ids=["config", "data-check", "data-stats", "advise", "cost"],
)
def test_commands_that_need_no_model_import_no_model_library(arguments: list[str], used: str) -> None:
    loaded = imported_by(*arguments)
    assert used in loaded, "the command stopped before its work"
    assert loaded & HEAVY == set()


def test_a_missing_run_is_reported_without_loading_a_model_library() -> None:
    for command in ("score", "report"):
        assert imported_by(command, "--run", "no-such-run") & HEAVY == set()


def test_scoring_comparing_and_reporting_files_load_no_model_library(tmp_path: Path) -> None:
    contracts = ROOT / "tests" / "fixtures" / "contracts"
    scores, conversation = str(contracts / "score.jsonl"), str(contracts / "conversation.jsonl")
    predicted = json.loads((contracts / "prediction.jsonl").read_text(encoding="utf-8"))
    rows = [json.dumps({**predicted, "id": id_}) for id_ in ("order-1/2", "order-1/5")]
    (tmp_path / "tuned.jsonl").write_text("\n".join(rows), encoding="utf-8")
    score = ("score", "--predictions", str(tmp_path / "tuned.jsonl"), "--rows", conversation)
    for arguments, written in (
        ((*score, "--out", str(tmp_path / "scored")), tmp_path / "scored" / "report.html"),
        (("report", "--scores", scores, "--out", str(tmp_path / "report.html")), tmp_path / "report.html"),
        (("compare", scores), None),
    ):
        loaded = imported_by(*arguments)
        assert {"numpy", "rich"} <= loaded, "the command stopped before its work"
        assert loaded & HEAVY == set()
        assert written is None or written.is_file()


def test_help_answers_within_a_second() -> None:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "toolhone", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - started)
    # It takes a tenth of a second. The limit leaves room for a busy machine, and is far below the time to import torch.
    assert statistics.median(seconds) < 1.0
