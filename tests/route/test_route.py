"""`toolhone route`, from prediction files to policy.json, route.json and the page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from toolhone.cli import main
from toolhone.data.read import read_conversations, turns
from toolhone.jsonl import read_jsonl
from toolhone.records import Prediction
from toolhone.route.confidence import signals
from toolhone.route.policy import read_policy
from toolhone.route.route import read_rows, split_rows
from toolhone.route.ways import same_model

from .conftest import Made, MakeRun


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use few resamples: these tests do not check intervals."""
    monkeypatch.setattr("toolhone.rates.FIGURE_FOLDS", 40)


PRICES = ("--large-price", "0.01", "--small-price", "0.0002")


def routed(made: Made, *flags: str, large: bool = True) -> dict[str, Any]:
    """Run the command and read route.json."""
    given = ("--large", str(made.large)) if large else ()
    assert main(["route", "--run", str(made.run), *given, *PRICES, *flags]) == 0
    found: dict[str, Any] = json.loads((made.run / "route.json").read_text())
    return found


def refused(made: Made, *flags: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["route", "--run", str(made.run), *flags]) == 2
    assert not (made.run / "policy.json").exists()
    return capsys.readouterr().err


def test_the_policy_escalates_about_the_requested_share_of_the_least_confident_rows(make_run: MakeRun) -> None:
    made = make_run()
    found = routed(made, "--escalation", "0.3")
    point = found["cases"][0]["point"]
    assert 0.2 < point["escalation"]["value"] < 0.4
    assert point["random"]["value"] < point["accuracy"]["value"] <= point["oracle"]["value"] + 1e-12
    assert found["reliability"]["auroc"]["value"] > 0.8
    assert found["reliability"]["brier"]["value"] < found["reliability"]["brier_constant"]["value"]
    # The policy in the file keeps the same answers as the measured one.
    policy = read_policy(made.run / "policy.json")
    conversations = list(read_conversations(made.run / "splits" / "test.jsonl"))
    answers = {row["id"]: Prediction.from_json(row) for _, row in read_jsonl(made.run / "predictions" / "tuned.jsonl")}
    rows, _ = read_rows(conversations, "rows", made.run / "predictions" / "tuned.jsonl", made.large, "hermes")
    held_out = {row.small.id for row in split_rows(conversations, rows, 0.5, "rows").held_out}
    kept = [policy.keeps(signals(answers[e.id], e, "hermes")) for e in turns(conversations) if e.id in held_out]
    assert 1 - sum(kept) / len(kept) == pytest.approx(point["escalation"]["value"])
    assert found["rows"] == {"calibration": len(rows) - len(kept), "held_out": len(kept)}


def test_the_cascade_costs_the_small_price_plus_the_escalated_share_of_the_large_price(make_run: MakeRun) -> None:
    point = routed(make_run(), "--escalation", "0.3")["cases"][0]["point"]
    assert point["usd"]["value"] == pytest.approx(0.0002 + point["escalation"]["value"] * 0.01)
    assert point["of_large"]["value"] == pytest.approx(point["usd"]["value"] / 0.01)


def test_no_template_is_on_both_sides_and_adding_rows_does_not_move_others(make_run: MakeRun) -> None:
    made = make_run()
    small = made.run / "predictions" / "tuned.jsonl"
    rows, _ = read_rows(made.rows, "rows", small, None, "hermes")
    parts = split_rows(made.rows, rows, 0.5, "rows")
    templates = [{row.small.meta["template"] for row in side} for side in (parts.calibration, parts.held_out)]
    assert not templates[0] & templates[1]
    fewer = split_rows(made.rows[:100], [row for row in rows if int(row.small.conversation_id[1:]) < 100], 0.5, "rows")
    assert {row.small.id for row in fewer.calibration} <= {row.small.id for row in parts.calibration}


def test_a_guarantee_is_printed_and_recorded(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_run(wrong=0.1)
    found = routed(made, "--risk", "selective", "--alpha", "0.1")
    assert found["certificate"]["certified"]["upper"] <= 0.1
    policy = read_policy(made.run / "policy.json")
    assert policy.threshold == found["certificate"]["certified"]["threshold"]
    assert "Certified: at most 10% wrong among the answers kept" in capsys.readouterr().out


def test_with_too_few_rows_for_a_guarantee_every_answer_is_escalated(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_run(60)
    found = routed(made, "--risk", "selective", "--alpha", "0.01")
    assert found["certificate"]["certified"] is None
    assert read_policy(made.run / "policy.json").threshold is None
    assert "No threshold can be certified at this level" in capsys.readouterr().out
    assert found["cases"][0]["point"]["escalation"]["value"] == 1


@pytest.mark.parametrize("risk", ["system", "harmful_keep"])
def test_risks_of_both_models_need_the_large_models_answers(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], risk: str
) -> None:
    made = make_run()
    message = refused(made, "--large-accuracy", "0.9", "--risk", risk, capsys=capsys)
    assert "an assumed one cannot be certified" in message
    assert routed(made, "--risk", risk, "--alpha", "0.3")["certificate"]["certified"] is not None


def test_an_assumed_large_model_is_reported_at_both_extremes(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_run()
    found = routed(made, "--large-accuracy", "0.95", large=False)
    assert [case["errors"] for case in found["cases"]] == ["independent", "overlapping"]
    assert all(case["assumed"] for case in found["cases"])
    assert [case["point"]["large"]["value"] for case in found["cases"]] == pytest.approx([0.95, 0.95])
    gains = [case["point"]["accuracy"]["value"] for case in found["cases"]]
    assert gains[0] > gains[1]
    assert capsys.readouterr().out.count("small model's, assumed)") == 2
    page = (made.run / "route.html").read_text()
    assert "its accuracy is assumed" in page
    assert "its accuracy of 95.0% is assumed" in page


def test_a_large_model_with_neither_answers_nor_an_assumption_is_refused(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_run()
    assert "--large-accuracy 0.95" in refused(made, capsys=capsys)
    both = refused(made, "--large", str(made.large), "--large-accuracy", "0.9", capsys=capsys)
    assert "leave it out" in both


def test_gold_from_the_large_model_allows_no_comparison_with_it(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_run(gold_source="acme/big", big="big")
    found = routed(made)
    assert found["gold_source"] == {"models": ["acme/big"], "is_large": True}
    out = capsys.readouterr().out
    assert "100% by construction" in out
    assert "cannot be measured" in out
    assert "minus cascade" not in out
    assert "100% by construction" in (made.run / "route.html").read_text()


def test_with_gold_from_another_model_accuracy_is_called_agreement(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_run(gold_source="other")
    assert routed(made)["gold_source"]["is_large"] is False
    assert "agreement with it" in capsys.readouterr().out


def test_predictions_without_log_probabilities_are_refused(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_run(logprobs=False)
    assert "have no log-probabilities" in refused(made, "--large", str(made.large), capsys=capsys)


def test_calibration_rows_may_come_from_separate_files(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_run()
    lines = {
        name: path.read_text().splitlines(keepends=True)
        for name, path in {
            "rows": made.run / "splits" / "test.jsonl",
            "small": made.run / "predictions" / "tuned.jsonl",
            "large": made.large,
        }.items()
    }
    for name, part in (("a", slice(0, 120)), ("b", slice(120, 240))):
        for what, text in lines.items():
            (tmp_path / f"{name}-{what}.jsonl").write_text("".join(text[part]))
    flags = ["route", "--small", "a-small.jsonl", "--large", "a-large.jsonl", "--rows", "a-rows.jsonl"]
    flags += ["--calibration-small", "b-small.jsonl", "--calibration-rows", "b-rows.jsonl", "--out", "out", *PRICES]
    flags = [str(tmp_path / flag) if flag.endswith(".jsonl") or flag == "out" else flag for flag in flags]
    assert main(flags) == 0
    policy = read_policy(tmp_path / "out" / "policy.json")
    assert policy.rows == {"calibration": 120, "held_out": 120}
    assert policy.identity.model == "a-small"
    assert main([*flags, "--target-accuracy", "0.9"]) == 2
    assert "--calibration-large" in capsys.readouterr().err
    assert main([*flags, "--target-accuracy", "0.9", "--calibration-large", str(tmp_path / "b-large.jsonl")]) == 0
    same = [flag.replace("b-", "a-") for flag in flags]
    assert main(same) == 2
    assert "rows are also in --small" in capsys.readouterr().err


def test_settings_come_from_a_file_and_flags_override_it(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, config = make_run(), tmp_path / "route.yaml"
    config.write_text("large_accuracy: 0.9\nescalation: 0.2\n")
    found = routed(made, "--config", str(config), large=False)
    assert found["goal"] == {"kind": "escalation", "escalation": 0.2}
    found = routed(made, "--config", str(config), "--budget", "5", large=False)
    assert found["goal"] == {"kind": "budget", "budget_usd": 5}
    (made.run / "policy.json").unlink()
    config.write_text("large_accuracy: 1.5\nlarge_prize: 1\n")
    message = refused(made, "--config", str(config), capsys=capsys)
    assert "route.yaml:1: large_accuracy: " in message
    assert "route.yaml:2: large_prize: " in message
    assert "--escalation and" not in message
    assert "--budget and --escalation" in refused(made, "--budget", "1", "--escalation", "0.1", capsys=capsys)
    assert "go together" in refused(made, "--large-price-in", "1", capsys=capsys)


def test_prices_per_token_give_the_cost_of_a_row(make_run: MakeRun) -> None:
    made = make_run()
    flags = ["route", "--run", str(made.run), "--large", str(made.large), "--large-price-in", "10"]
    assert main([*flags, "--large-price-out", "0", "--small-price", "0"]) == 0
    found = json.loads((made.run / "route.json").read_text())
    assert found["cases"][0]["point"]["large_usd"]["value"] == pytest.approx(100 * 10 / 1e6)


class _Page(HTMLParser):
    """Collects the ids and links of a page and checks that its tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        self.links += [given["href"] or ""] if tag == "a" else []
        self.loads += [value or "" for key, value in attrs if key in ("src", "href") and tag != "a"]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("flags", [("--large-accuracy", "0.9"), ("--large-accuracy", "0.9", "--risk", "selective")])
def test_the_page_is_valid_html_and_loads_nothing(make_run: MakeRun, flags: tuple[str, ...]) -> None:
    made = make_run()
    routed(made, *flags, large=False)
    page = _Page()
    page.feed((made.run / "route.html").read_text())
    assert not page.open
    assert page.loads == ["data:,"]
    assert {link.removeprefix("#") for link in page.links} <= page.ids


def test_model_names_are_escaped_in_the_page(make_run: MakeRun) -> None:
    made = make_run(big="<b>&big")
    routed(made)
    text = (made.run / "route.html").read_text()
    assert "&lt;b&gt;&amp;big" in text
    assert "<b>" not in text


@pytest.mark.parametrize(
    ("gold", "model", "same"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("openai/gpt-4o", "gpt-4o", True),
        ("openai/GPT-4o", "openai-gpt-4o", True),
        ("gpt-4o-2024-08-06", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o-mini", "gpt-4", False),
        ("gpt-4", "gpt-4o", False),
        ("claude-sonnet", "gpt-4o", False),
    ],
)
def test_names_of_the_same_model_are_recognised(gold: str, model: str, same: bool) -> None:
    assert same_model(gold, model) is same
    assert same_model(model, gold) is same
