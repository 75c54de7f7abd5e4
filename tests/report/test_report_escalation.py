"""A report shows escalations only if its rows offer or expect them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from report_page import drawn

from toolhone.data.escalation import ESCALATE
from toolhone.evaluate.match import match_turn
from toolhone.evaluate.metrics import metrics
from toolhone.jsonl import read_jsonl, write_json, write_jsonl
from toolhone.records import Gold, GoldCall, Score, Tool, ToolCall

ScoredRun = Callable[..., Path]
ANSWERS = {"base": ["right", "right", "right"], "tuned": ["right", "right", "right"]}


def rescored(score: Score, gold: Gold, *, escalates: bool) -> Score:
    """Return the score with another gold, for the same answer or for the reserved call."""
    calls = (ToolCall(ESCALATE, {}),) if escalates else score.calls
    names = (*score.tools, ESCALATE)
    tools = [Tool(name, "", {"type": "object"}) for name in names]
    verdict = match_turn(gold, "calls", calls, tools, "here")
    return replace(score, gold=gold, calls=calls, tools=names, **verdict._asdict())


def escalate(run: Path) -> None:
    """Rescore a run whose first row expects an escalation. The tuned model escalates that row and, without need, the
    second one."""
    scores = {}
    for model in ANSWERS:
        path = run / "scores" / f"{model}.jsonl"
        first, second, *rest = (Score.from_json(row) for _, row in read_jsonl(path))
        first = rescored(first, Gold("calls", (GoldCall(ESCALATE, {}),)), escalates=model == "tuned")
        scores[model] = [first, rescored(second, second.gold, escalates=model == "tuned"), *rest]
        write_jsonl(path, (score.to_json() for score in scores[model]))
    write_json(run / "metrics.json", metrics(scores, {}))


def test_escalations_have_their_own_section(tmp_path: Path, scored_run: ScoredRun) -> None:
    run = scored_run(tmp_path, ANSWERS)
    escalate(run)
    page, markdown, table = drawn(run)
    assert '<h3 id="escalation">' in page
    assert 'aria-label="tuned: 100.0% (1/1), 95% interval [20.7, 100.0]"' in page
    assert "| Escalated | 0.0% [0.0, 79.3] 0/1 | 100.0% [20.7, 100.0] 1/1 |" in markdown
    assert "| Needless escalations | 0.0% [0.0, 65.8] 0/2 | 50.0% [9.5, 90.5] 1/2 |" in markdown
    assert "| Exact match, not escalated | 66.7% [20.8, 93.9] 2/3 | 100.0% [20.7, 100.0] 1/1 |" in markdown
    [line] = [line for line in table.splitlines() if "Needless escalations" in line]
    assert "50.0% [9.5, 90.5] 1/2" in line


def test_runs_without_the_reserved_tool_and_older_files_show_no_escalations(
    tmp_path: Path, scored_run: ScoredRun
) -> None:
    run = scored_run(tmp_path, ANSWERS)
    for text in drawn(run):
        assert "scalat" not in text
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    for model in found["models"].values():
        del model["escalation"]
    write_json(run / "metrics.json", found)
    for text in drawn(run):
        assert "scalat" not in text
