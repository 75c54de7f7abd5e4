"""The three-row table: figures by hand, their bases, and the report for a current or outdated policy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_page import Page

from toolhone.cli import main
from toolhone.evaluate.score import score_run
from toolhone.jsonl import read_json, write_json, write_text
from toolhone.report.report import write_report
from toolhone.report.routing import ways_page
from toolhone.route.curve import Outcomes, assumed_large, operating_point
from toolhone.route.policy import RouteSettings
from toolhone.route.ways import Way, Ways, policy_ways, scored_ways
from toolhone.run_folder import RunFolder

from .conftest import Made, MakeRun, outcomes

SMALL = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 0], dtype=float)
LARGE = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 0], dtype=float)
KEPT = np.array([1, 1, 1, 1, 1, 1, 0, 1, 0, 0], dtype=float)
"""Ten rows. Seven are kept, and six of these are right; of the three escalated, the large model has two right."""
COSTS = {"small_usd": 0.0002, "large_usd": 0.01, "small_s": 0.1, "large_s": 2.0}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolhone.rates.FIGURE_FOLDS", 40)


def ways_of(cases: list[Outcomes], **settings: Any) -> tuple[Ways, dict[str, Way]]:
    pairs = [(rows, operating_point(rows, KEPT)) for rows in cases]
    ways = policy_ways(pairs, KEPT, RouteSettings(**settings), small="tuned", large="big", clustered_by="conversation")
    return ways, {way.name: way for way in ways.ways}


def test_the_figures_of_ten_rows_equal_those_by_hand() -> None:
    ways, by_name = ways_of([outcomes(np.ones(10), SMALL, LARGE, **COSTS)], small_price=0.0002, large_price=0.01)
    assert ways.escalation == pytest.approx(0.3)
    shares = {name: (way.accuracy.numerator, way.accuracy.denominator) for name, way in by_name.items()}
    assert shares == {"large": (9, 10), "tuned": (7, 10), "routed": (8, 10)}
    # Wilson's interval of 8 of 10.
    assert (by_name["routed"].accuracy.low, by_name["routed"].accuracy.high) == pytest.approx(
        (0.4902, 0.9433), abs=1e-4
    )
    # 0.0002 + 0.3 x 0.01 dollars.
    assert by_name["routed"].usd.value == pytest.approx(0.0032)
    assert {way.usd.basis for way in ways.ways} == {"assumed"}
    # Seven answers take 100 ms and three 100 + 2,000 ms.
    latency = by_name["routed"].latency_ms
    assert (latency.value, latency.p50, latency.p95) == pytest.approx((700, 100, 2100))
    assert {way.latency_ms.basis for way in ways.ways} == {"measured"}
    assert {way.accuracy.basis for way in ways.ways} == {"measured"}


def test_an_assumed_large_model_gives_a_range_of_accuracies() -> None:
    cases = [outcomes(np.ones(10), SMALL, large, **COSTS) for large in assumed_large(SMALL, 0.9).values()]
    _, by_name = ways_of(cases, large_accuracy=0.9, large_latency=2.0, large_price=0.01)
    large, routed = by_name["large"].accuracy, by_name["routed"].accuracy
    assert (large.value, large.basis, large.denominator, large.low) == (0.9, "assumed", None, None)
    # Independent errors: (6 + 3 x 0.9) / 10. If all errors overlap with the tuned model's, its wrong rows are right
    # with probability 0.2 / 0.3, and one escalated row is right anyway: (6 + 1 + 2 x 2/3) / 10.
    assert (routed.value, routed.up_to) == pytest.approx((8.3333 / 10, 0.87), abs=1e-5)
    assert routed.low is not None
    assert routed.high is not None
    assert (routed.low < 8.33 / 10, routed.high > 0.87) == (True, True)
    assert routed.basis == "assumed"
    assert routed.denominator is None
    # The sum has an assumed part, so it is assumed too and has no percentile.
    assert by_name["tuned"].latency_ms.basis == "measured"
    assert (by_name["routed"].latency_ms.basis, by_name["routed"].latency_ms.p95) == ("assumed", None)


def test_a_figure_without_a_basis_is_not_measured_rather_than_zero() -> None:
    ways, by_name = ways_of([outcomes(np.ones(10), SMALL, LARGE, large_usd=0.01, small_s=0.1)], large_price=0.01)
    assert by_name["tuned"].usd.value is by_name["routed"].usd.value is by_name["routed"].latency_ms.value is None
    rows = {row["name"]: [figure for figure, _, _ in row["cells"]] for row in ways_page(ways)["rows"]}
    assert rows["large model only"] == ["$10.00", "not measured", "90.0%"]
    assert rows["tuned only"] == ["not measured", "100 ms", "70.0%"]
    assert rows["routed"] == ["not measured", "not measured", "80.0%"]


def scored_model(right: int, latency: float) -> dict[str, Any]:
    tokens = {key: {"total": total} for key, total in (("prompt_tokens", 9000), ("completion_tokens", 500))}
    share = {"value": right / 10, "numerator": right, "denominator": 10, "low": 0.1, "high": 0.9}
    times = {"p50": latency, "p95": latency, "total": 10 * latency}
    return {"rows": 10, "exact_match": share, "latency_ms": times, "agreement_with": None, **tokens}


def test_without_a_policy_an_endpoint_is_priced_by_its_tokens_and_nothing_is_routed() -> None:
    metrics = {"models": {"tuned": scored_model(7, 40.0), "gpt-4o": scored_model(9, 0.0)}}
    ways = scored_ways(metrics, {"gpt-4o": {"price_in": 2.5, "price_out": 10.0}})
    assert ways is not None
    large, tuned, routed = ways.ways
    # (900 x 2.5 + 50 x 10) / 1,000,000
    assert (large.usd.value, large.usd.basis) == (pytest.approx(0.00275), "priced")
    assert large.latency_ms.value is None  # zero milliseconds mean that the answer was not timed
    assert (tuned.latency_ms.value, tuned.usd.value) == (40.0, None)
    assert routed.accuracy.value is routed.usd.value is routed.latency_ms.value is None
    unpriced = scored_ways(metrics, {"gpt-4o": {"price_in": 2.5, "price_out": 10.0, "answers_without_usage": 1}})
    assert unpriced is not None
    assert unpriced.ways[0].usd.value is None


# In a run folder


@pytest.fixture
def scored(make_run: MakeRun) -> Made:
    """A scored run with a report."""
    made = make_run(120)
    manifest = read_json(made.run / "manifest.json", "")
    facts = dict.fromkeys(("toolhone", "run", "created", "git_commit", "seed", "versions"), "")
    write_json(made.run / "manifest.json", {**manifest, **facts})
    score_run(RunFolder(made.run))
    write_report(made.run)
    return made


def with_endpoint(made: Made, **note: Any) -> Path:
    """Put the large model's predictions into the run, as `toolhone predict` does, and score them."""
    path = made.run / "predictions" / "big.jsonl"
    shutil.copy(made.large, path)
    write_json(
        path.with_suffix(".json"), {"endpoint": "http://127.0.0.1/v1", "price_in": 2.0, "price_out": 8.0, **note}
    )
    score_run(RunFolder(made.run))
    write_report(made.run)
    return path


def routed(made: Made, *flags: str) -> dict[str, Any]:
    assert main(["route", "--run", str(made.run), *flags]) == 0
    found: dict[str, Any] = read_json(made.run / "route.json", "")
    return found


def texts(made: Made) -> tuple[str, str]:
    page, markdown = ((made.run / f"report.{kind}").read_text() for kind in ("html", "md"))
    return Page(page).text, markdown


def test_a_run_without_policy_and_large_model_has_no_table(scored: Made) -> None:
    page, markdown = texts(scored)
    assert "large model only" not in page + markdown


def test_route_rewrites_the_report_with_the_table_of_route_html(
    scored: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    found = routed(scored, "--large-accuracy", "0.95", "--large-price", "0.01", "--small-price", "0.0002")
    large, tuned, both = found["ways"]["ways"]
    assert large["accuracy"] == {**large["accuracy"], "value": 0.95, "basis": "assumed", "denominator": None}
    assert tuned["accuracy"]["denominator"] == found["rows"]["held_out"] == found["ways"]["rows"]
    assert both["usd"]["value"] == pytest.approx(0.0002 + found["ways"]["escalation"] * 0.01)
    page, markdown = texts(scored)
    counts = f"{tuned['accuracy']['numerator']}/{tuned['accuracy']['denominator']}"
    for text in (page, markdown):
        assert counts in text
        assert "not measured" in text  # the large model's latency
    assert "| $10.00 (assumed) | not measured | 95.0% (assumed) |" in markdown

    def table(name: str) -> str:
        text = (scored.run / name).read_text()
        return text[text.index('<table class="numbers ways">') :].partition("</table>")[0]

    assert table("report.html") == table("route.html")
    out = capsys.readouterr().out
    assert "large model only" in out
    assert f"report: {scored.run / 'report.html'}" in out


def test_the_report_asks_for_a_policy_and_then_shows_the_large_models_measured_figures(
    scored: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    large = with_endpoint(scored)
    page, markdown = texts(scored)
    assert f"toolhone route --run {scored.run} --large {large}" in page
    assert "Figures are of all 120 rows" in markdown
    found = routed(scored, "--large", str(large))
    # 100 prompt tokens at the recorded $2 a million: the price that `toolhone predict` was given.
    first = found["ways"]["ways"][0]
    assert first["usd"]["basis"] == "priced"
    assert first["usd"]["value"] > 100 * 2e-6
    assert {way["accuracy"]["basis"] for way in found["ways"]["ways"]} == {"measured"}
    assert "No policy yet" not in texts(scored)[0]
    capsys.readouterr()
    assert main(["report", "--run", str(scored.run)]) == 0
    assert "routed" in capsys.readouterr().out


def test_unscored_predictions_are_reported_as_not_scored_yet(scored: Made) -> None:
    path = with_endpoint(scored)
    shutil.copy(path, path.with_name("later.jsonl"))
    shutil.copy(path.with_suffix(".json"), path.with_name("later.json"))
    write_report(scored.run)
    assert f"later: not scored yet. Run toolhone score --run {scored.run}." in texts(scored)[0]


@pytest.mark.parametrize("changed", ["predictions/tuned.jsonl", "policy.json", "splits/test.jsonl"])
def test_a_policy_made_from_changed_files_is_out_of_date(
    scored: Made, changed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    routed(scored, "--large-accuracy", "0.95")
    path = scored.run / changed
    write_text(path, path.read_text().rstrip("\n") + " \n")
    write_report(scored.run)
    page, _ = texts(scored)
    assert f"policy.json is out of date: {changed} has changed" in page
    assert "95.0%" not in page.partition("Results by tool")[0].partition("only")[2]
    main(["report", "--run", str(scored.run)])
    assert "is out of date" in capsys.readouterr().out


def test_a_policy_without_its_figures_is_reported(scored: Made) -> None:
    routed(scored, "--large-accuracy", "0.95")
    route = scored.run / "route.json"
    found = json.loads(route.read_text())
    del found["ways"]
    write_json(route, found)
    write_report(scored.run)
    assert "no figures beside it in route.json" in texts(scored)[0]
    route.unlink()
    write_report(scored.run)
    assert "no figures beside it in route.json" in texts(scored)[0]


def test_a_policy_made_from_another_models_predictions_is_not_shown_for_the_run(scored: Made, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    shutil.copy(scored.run / "predictions" / "tuned.jsonl", other)
    routed(scored, "--small", str(other), "--large-accuracy", "0.95")
    assert f"was made from {other}, not from the answers of this run’s tuned model" in texts(scored)[0]


def test_a_report_of_scores_shows_the_table_of_a_run(scored: Made, tmp_path: Path) -> None:
    routed(scored, "--large-accuracy", "0.95")
    assert main(["report", "--scores", str(scored.run), "--out", str(tmp_path / "r.html")]) == 0
    assert "large model only" in (tmp_path / "r.html").read_text()
