"""The effects of repairs and policies are named and counted beside the strict figures and never replace them."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any, get_args

from report_page import drawn
from rich.console import Console

from toolhone.evaluate.bfcl_suite import by_category
from toolhone.evaluate.match import score
from toolhone.jsonl import read_jsonl, write_json, write_jsonl
from toolhone.records import Example, Gold, GoldCall, Message, Prediction, Repair, Tool
from toolhone.report.facts import verdict
from toolhone.report.tables import suite_table
from toolhone.report.wording import REPAIRS

ScoredRun = Callable[..., Path]

REPAIRED = """<tool_call>
{'name': 'query_order', 'arguments': {'order_id': 'ORD-000'}}
</tool_call>"""
REPAIRED_AND_WRONG = REPAIRED.replace("ORD-000", "ORD-999")
ANSWERS = {"base": ["right", "right", "right"], "tuned": [REPAIRED, REPAIRED_AND_WRONG, "right"]}


def test_every_repair_says_what_it_fixes() -> None:
    assert set(REPAIRS) == set(get_args(Repair))


def test_figures_with_repairs_are_shown_beside_the_strict_ones(tmp_path: Path, scored_run: ScoredRun) -> None:
    page, markdown, table = drawn(scored_run(tmp_path, ANSWERS))
    assert "base 100.0% to tuned 33.3% exact match" in page
    assert '<h3 id="repaired">' in page
    assert 'aria-label="tuned: 66.7% (2/3), 95% interval [20.8, 93.9]"' in page
    assert "| Exact match, with repairs | 100.0% [43.9, 100.0] 3/3 | 66.7% [20.8, 93.9] 2/3 |" in markdown
    assert r"| python\_literals | single quotes, True, False, None" in markdown
    assert "before a closing bracket, as Python writes them | 0 | 2 |" in markdown
    [line] = [line for line in table.splitlines() if "Exact match, with repairs" in line]
    assert "66.7% [20.8, 93.9] 2/3" in line


def test_each_failed_row_says_how_repairs_change_it(tmp_path: Path, scored_run: ScoredRun) -> None:
    page, *_ = drawn(scored_run(tmp_path, ANSWERS))
    assert page.count('class="reason repaired"') == 2
    assert "Read with repairs (python_literals), its status is calls: an exact match." in page
    assert "Read with repairs (python_literals), its status is calls: right tools, but not an exact match." in page


def test_a_run_without_repaired_texts_does_not_mention_repairs(tmp_path: Path, scored_run: ScoredRun) -> None:
    for text in drawn(scored_run(tmp_path, {"base": ["<tool_call>\n{"] * 2, "tuned": ["right"] * 2})):
        assert "repairs" not in text


def test_a_report_of_older_files_does_not_mention_repairs(tmp_path: Path, scored_run: ScoredRun) -> None:
    run = scored_run(tmp_path, ANSWERS)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    for name, model in metrics["models"].items():
        del model["repaired"]
        path = run / "scores" / f"{name}.jsonl"
        write_jsonl(path, [{k: v for k, v in row.items() if k != "repaired"} for _, row in read_jsonl(path)])
    write_json(run / "metrics.json", metrics)
    for text in drawn(run):
        assert "repairs" not in text


def test_rules_that_fired_are_listed_with_their_meaning(tmp_path: Path, scored_run: ScoredRun) -> None:
    run = scored_run(tmp_path, {"base": ["right"] * 2, "tuned": ["right"] * 2})
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    metrics["models"]["tuned"]["rules"] = {"any-call": 1, "spelling": 1_200}
    metrics["provenance"]["policy"] = "bfcl"
    write_json(run / "metrics.json", metrics)
    page, markdown, table = drawn(run)
    assert page.index('<span class="code">spelling</span>') < page.index('<span class="code">any-call</span>')
    assert "| spelling | a text differs from the expected in case" in markdown
    assert "only | 0 | 1,200 |" in markdown
    assert "Scored under the policy bfcl" in page
    assert "Scored under the policy bfcl" in markdown
    assert verdict(metrics).startswith("base 100.0% to tuned 100.0% exact match under the policy bfcl, ")
    assert "under the policy bfcl" in table


def test_a_report_of_strict_figures_names_no_policy(tmp_path: Path, scored_run: ScoredRun) -> None:
    run = scored_run(tmp_path, {"base": ["right"] * 2, "tuned": ["right"] * 2})
    for text in drawn(run):
        assert "policy" not in text.replace("Content-Security-Policy", "").replace("content policy", "")


def suite_figures(text: str) -> dict[str, Any]:
    """Return the figures of a suite with one row and this answer."""
    gold = Gold("calls", (GoldCall("query_order", {"order_id": ["ORD-000"]}),))
    tool = Tool("query_order", "", {"type": "object", "properties": {"order_id": {"type": "string"}}})
    meta = {"category": "multiple"}
    asked = Example("a/1", "a", (), Message("assistant", ""), gold, (tool,), "rows.jsonl:1", None, meta)
    scored = score(asked, Prediction("a/1", "m", text, "stop", 1, 1, 1.0), "hermes")
    return {"models": {"m": {"strict": by_category([scored], ["multiple"])}}}


def test_a_suite_s_table_has_a_row_for_repairs_only_if_they_change_a_figure() -> None:
    for text, is_shown in ((REPAIRED, True), (REPAIRED_AND_WRONG, False), ("Which one?", False)):
        out = StringIO()
        Console(file=out, width=200).print(suite_table(suite_figures(text)))
        assert ("all, with repairs" in out.getvalue()) == is_shown
