"""A base model that answered a sample of the rows: every figure gives the count of its own rows."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_page import drawn, page_of
from rich.console import Console
from scored_run import ScoredRun, call_text

from toolhone.economics.measured import measured_inputs, measured_run
from toolhone.errors import UserError
from toolhone.evaluate.metrics import compare_all, metrics
from toolhone.evaluate.score import compare_files, read_scores
from toolhone.jsonl import write_json, write_jsonl
from toolhone.records import Score
from toolhone.report.facts import verdict
from toolhone.report.report import write_report
from toolhone.report.tables import models_table, pairs_table

SAMPLE = (1, 4, 7, 9)
"""The rows of ten that base answered. Base gets only row 9 right. Tuned gets rows 4 and 5 wrong; only 4 is here."""
WRONG = call_text("query_order", order_id="none")


@pytest.fixture
def run(tmp_path: Path, scored_run: ScoredRun) -> Path:
    base = ["right" if n == 9 else WRONG for n in range(10)]
    tuned = [WRONG if n in (4, 5) else "right" for n in range(10)]
    folder = scored_run(tmp_path / "run", {"base": base, "tuned": tuned}, adapter=True)
    scores = {name: read_scores(folder / "scores" / f"{name}.jsonl") for name in ("base", "tuned")}
    scores["base"] = sampled(scores["base"])
    write_jsonl(folder / "scores" / "base.jsonl", (row.to_json() for row in scores["base"]))
    write_json(folder / "metrics.json", metrics(scores, {}))
    return folder


def sampled(scores: list[Score], rows: tuple[int, ...] = SAMPLE) -> list[Score]:
    return [replace(scores[n], sampled_from=len(scores)) for n in rows]


def figures(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return found


def printed(table: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(table)
    return out.getvalue()


def test_the_verdict_names_the_sample_and_the_rows_of_the_difference(run: Path) -> None:
    found = verdict(figures(run))
    assert found.startswith("base 25.0% (4 of 10 rows) to tuned 80.0% (10 rows) exact match, +50.0 points")
    assert found.endswith(" on the 4 shared rows")


def test_page_markdown_table_and_card_label_the_base_model_with_its_row_count(run: Path) -> None:
    page, markdown, table = drawn(run)
    card = (run / "adapter" / "README.md").read_text(encoding="utf-8")
    for text in (page, markdown, table, card):
        assert "base (4 of 10 rows)" in text
        plain = " ".join(text.split()).replace("\\", "")
        assert "[4.6, 69.9] 1/4" in plain
        assert "[49.0, 94.3] 8/10" in plain
        assert "on the 4 shared rows" in plain
    for text in (page, markdown, card):
        assert "base answered 4 of the 10 rows: a sample" in text


def test_rows_that_changed_are_counted_over_the_shared_rows(run: Path) -> None:
    page, markdown, _ = drawn(run)
    assert "Both models answered 4 rows. Of the rows that base got wrong, tuned gets 2 right." in " ".join(page.split())
    assert (
        "2 rows went from wrong to right and 0 from right to wrong; 1 stayed right and 1 stayed wrong, of 4 shared rows"
        in markdown
    )


def test_rows_that_base_was_not_asked_are_not_its_failures(run: Path) -> None:
    page = page_of(run)
    listed = page.text[page.text.index("Failed rows of base (4 of 10 rows)") :]
    assert "The first 3 of 3" in listed
    assert [f"r{n}/2" in listed for n in range(10)] == [n in (1, 4, 7) for n in range(10)]
    # Of tuned's two failed rows, base answered one.
    assert page.text.count("Answer of base") == 1


def test_each_model_has_its_own_counts_per_tool(run: Path) -> None:
    page, markdown, _ = drawn(run)
    for text in (page, markdown):
        assert "expected: base 4, tuned 10; called: base 4" in " ".join(text.split())
    assert "rows: base 4, tuned 10" in page
    assert "| query\\_order | expected: base 4, tuned 10" in markdown
    assert "25.0% 1/4 | " in markdown


def test_samples_keep_the_row_numbers_of_the_data_set(run: Path) -> None:
    write_report(run)
    [path] = (run / "samples" / "base").glob("samples_*.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(row["doc_id"], row["doc"]["id"]) for row in rows] == [(n, f"r{n}/2") for n in SAMPLE]


def test_compare_labels_the_sample_and_counts_the_rows_of_each_pair(run: Path) -> None:
    found = compare_files([run])
    table, pairs = printed(models_table(found)), printed(pairs_table(found))
    assert "2 models on the same 10 rows, or a sample of them" in table
    assert "base (4 of 10 rows)" in table
    [line] = [line for line in pairs.splitlines() if "Exact match" in line]
    assert [cell.strip() for cell in line.split("│")][3:5] == ["Exact match", "4"]
    assert "resamples of 4 conversations" in pairs


def test_differences_and_mcnemar_use_only_the_shared_rows(run: Path) -> None:
    entry = figures(run)["compare"][0]
    assert (entry["measure"], entry["rows"], entry["value"]) == ("exact_match", 4, 0.5)
    assert (entry["mcnemar"]["first_only"], entry["mcnemar"]["second_only"]) == (0, 2)


def test_each_pair_of_models_is_compared_on_its_shared_rows(run: Path) -> None:
    tuned = read_scores(run / "scores" / "tuned.jsonl")
    models = {"base": sampled(tuned), "other": sampled(tuned, (4, 5)), "large": tuned, "tuned": tuned}
    found = {(one["first"], one["second"]): one["rows"] for one in compare_all(models)}
    assert found == {
        ("base", "other"): 1,
        ("base", "large"): 4,
        ("base", "tuned"): 4,
        ("other", "large"): 2,
        ("other", "tuned"): 2,
        ("large", "tuned"): 10,
    }
    assert "resamples of whole conversations" in printed(pairs_table(metrics(models, {})))


def test_samples_with_foreign_rows_or_no_shared_rows_are_rejected(run: Path) -> None:
    tuned = read_scores(run / "scores" / "tuned.jsonl")
    foreign = [replace(row, id=f"x{row.id}", conversation_id=f"x{row.conversation_id}") for row in sampled(tuned)]
    with pytest.raises(UserError, match=r"^base and tuned cannot be compared.*4 are in base alone \(such as xr1/2\)"):
        compare_all({"base": foreign, "tuned": tuned})
    with pytest.raises(UserError, match=r"^base and other cannot be compared.*4 are in base alone"):
        compare_all({"base": sampled(tuned), "other": foreign})
    one_more = [*sampled(tuned), foreign[0]]
    with pytest.raises(UserError, match=r"1 are in base alone \(such as xr1/2\)"):
        compare_all({"base": one_more, "tuned": tuned})


def test_missing_rows_are_rejected_if_the_model_answered_no_sample(run: Path) -> None:
    tuned = read_scores(run / "scores" / "tuned.jsonl")
    with pytest.raises(UserError, match="cannot be compared"):
        compare_all({"base": tuned[:4], "tuned": tuned})


def test_costs_and_advice_say_that_a_figure_comes_from_a_sample(run: Path) -> None:
    assert measured_run(run, "base").source == f"{run}, base, a sample of 10 rows"
    inputs, _ = measured_inputs(run, "gpt-4o", "gpt-4o-mini")
    assert inputs["prompt_tokens"][1] == f"measured: mean of 4 rows ({run}, base, a sample of 10 rows)"
    assert inputs["small_accuracy"][1] == f"measured: 8 of 10 rows ({run}, tuned)"


def test_only_scores_of_a_sample_record_its_size(run: Path) -> None:
    [first, *_] = read_scores(run / "scores" / "base.jsonl")
    assert first.sampled_from == 10
    assert Score.from_json(first.to_json()) == first
    assert "sampled_from" not in replace(first, sampled_from=None).to_json()
