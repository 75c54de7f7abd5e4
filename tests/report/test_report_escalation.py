"""Hand-overs stand in a report of rows that offer or expect them, and in no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

from rich.console import Console

from toolhone.data.escalation import ESCALATE
from toolhone.evaluate.match import judge
from toolhone.evaluate.metrics import metrics
from toolhone.jsonl import read_jsonl, write_json, write_jsonl
from toolhone.records import Gold, GoldCall, Score, Tool, ToolCall
from toolhone.report.report import write_report
from toolhone.report.tables import summary_table

ScoredRun = Callable[..., Path]
ANSWERS = {"base": ["right", "right", "right"], "tuned": ["right", "right", "right"]}


def drawn(run: Path) -> tuple[str, str, str]:
    """The page, report.md and the short table, as text."""
    write_report(run)
    out = StringIO()
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    Console(file=out, width=200).print(summary_table(found))
    return *((run / name).read_text(encoding="utf-8") for name in ("report.html", "report.md")), out.getvalue()


def judged(score: Score, gold: Gold, *, hands_over: bool) -> Score:
    """The score as it would be with this gold, of this answer or of the reserved call."""
    calls = (ToolCall(ESCALATE, {}),) if hands_over else score.calls
    names = (*score.tools, ESCALATE)
    tools = [Tool(name, "", {"type": "object"}) for name in names]
    verdict = judge(gold, "calls", calls, tools, "here")
    return replace(score, gold=gold, calls=calls, tools=names, **asdict(verdict) | {"matches": verdict.matches})


def handing_over(run: Path) -> None:
    """Judge a run's answers as if its first row should be handed over, and the tuned model had done so, and once more
    without need."""
    scores = {}
    for model in ANSWERS:
        path = run / "scores" / f"{model}.jsonl"
        first, second, *rest = (Score.from_json(row) for _, row in read_jsonl(path))
        first = judged(first, Gold("calls", (GoldCall(ESCALATE, {}),)), hands_over=model == "tuned")
        scores[model] = [first, judged(second, second.gold, hands_over=model == "tuned"), *rest]
        write_jsonl(path, (score.to_json() for score in scores[model]))
    write_json(run / "metrics.json", metrics(scores, {}))


def test_hand_overs_are_a_class_of_their_own(tmp_path: Path, scored_run: ScoredRun) -> None:
    run = scored_run(tmp_path, ANSWERS)
    handing_over(run)
    page, markdown, table = drawn(run)
    assert '<h3 id="escalation">' in page
    assert 'aria-label="tuned: 100.0% (1/1), 95% interval [20.7, 100.0]"' in page
    assert "| Handed over | 0.0% [0.0, 79.3] 0/1 | 100.0% [20.7, 100.0] 1/1 |" in markdown
    assert "| Needless hand-overs | 0.0% [0.0, 65.8] 0/2 | 50.0% [9.5, 90.5] 1/2 |" in markdown
    assert "| Exact match, if kept | 66.7% [20.8, 93.9] 2/3 | 100.0% [20.7, 100.0] 1/1 |" in markdown
    [line] = [line for line in table.splitlines() if "Needless hand-overs" in line]
    assert "50.0% [9.5, 90.5] 1/2" in line


def test_without_the_reserved_tool_nothing_is_said_nor_in_files_from_before(
    tmp_path: Path, scored_run: ScoredRun
) -> None:
    run = scored_run(tmp_path, ANSWERS)
    for text in drawn(run):
        assert "anded over" not in text
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    for model in found["models"].values():
        del model["escalation"]
    write_json(run / "metrics.json", found)
    for text in drawn(run):
        assert "anded over" not in text
