"""`toolhone cost` and `toolhone advise` as a user runs them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toolhone.cli import main

CONTRACTS = Path(__file__).parents[1] / "fixtures" / "contracts"
COURSE = (
    *("advise", "--calls-per-day", "1000000", "--api-call-usd", "0.003", "--small-call-usd", "0"),
    *("--yearly-budget", "100000", "--cheap-model", "none", "--upkeep-usd-per-month", "0"),
    *("--training-usd", "0", "--labelling-usd", "0", "--engineering-usd", "0"),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder whose base model was asked with 900 tokens, and whose tuned model was right 3 times of 4."""
    metrics = json.loads((CONTRACTS / "metrics.json").read_text(encoding="utf-8"))
    tuned = metrics["models"]["tuned"]
    tuned |= {"rows": 4, "exact_match": {"value": 0.75, "numerator": 3, "denominator": 4, "low": 0.3, "high": 0.95}}
    tuned |= {"prompt_tokens": {"total": 400}, "completion_tokens": {"total": 200}, "latency_ms": {"total": 400.0}}
    metrics["models"] = {"base": {**tuned, "prompt_tokens": {"total": 3600}}, "tuned": tuned}
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (folder / "manifest.json").write_text('{"hardware": "CPU, 2 threads"}', encoding="utf-8")
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one message of a command that must fail as bad input does."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.removeprefix("Error: ").strip()


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(printed(capsys, *arguments, "--json"))


def test_cost_of_a_run_takes_the_base_prompt_the_tuned_answer_and_the_runs_speed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = ("--price-in", "2.5", "--price-out", "10", "--gpu-usd-per-hour", "2")
    found = as_json(capsys, "cost", "--run", str(run), *prices)
    assert found["call"] == {"prompt_tokens": 900.0, "completion_tokens": 50.0, "cached_share": 0.0}
    api, own = found["rows"]
    assert api["running_usd"] == pytest.approx(0.00275)
    # 10 calls a second, 60% planned at a peak of 3: 7,200 calls an hour.
    assert own["running_usd"] == pytest.approx(2 / 7_200)
    assert any("10 calls a second, as measured on CPU, 2 threads" in line for line in found["sources"])


def test_cost_counts_whole_machines_errors_and_what_is_paid_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--gpu-usd-per-hour", "2", "--calls-per-second", "30", "--calls-per-day", "1000000")
    more = ("--training-usd", "3650", "--error-usd", "0.01")
    [own] = as_json(capsys, "cost", "--run", str(run), *flags, *more)["rows"]
    assert own["machines"] == 2
    assert own["running_usd"] == pytest.approx(96 / 1e6)
    assert own["spread_usd"] == pytest.approx(3650 / 365e6)
    assert own["errors_usd"] == pytest.approx(0.25 * 0.01)
    assert own["usd_per_365_days"] == pytest.approx(365e6 * own["total_usd"])


def test_cost_prints_a_table_with_the_source_of_a_listed_price(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--prompt-tokens", "900", "--completion-tokens", "50", "--calls-per-day", "1000000")
    shown = printed(capsys, "cost", "--model", "gpt-4o", *flags)
    assert "$2,750" in shown
    assert re.search(r"gpt-4o of OpenAI: genai-prices [\d.]+, newest entry 20\d\d-\d\d-\d\d: \$2\.5 in", shown)


def test_cost_of_machines_alone_needs_no_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "cost", "--gpu-usd-per-hour", "1", "--calls-per-second", "20")
    assert found["call"] is None
    assert found["rows"][0]["usd_per_day"] is None


def test_cost_of_a_scored_api_takes_its_accuracy_from_the_scores(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--price-in", "1", "--price-out", "1", "--error-usd", "0.01")
    [row] = as_json(capsys, "cost", "--run", str(run), *flags)["rows"]
    assert row["errors_usd"] == pytest.approx(0.25 * 0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to price: give --model"),
        (("--price-in", "1"), "--price-in and --price-out: go together"),
        (("--price-cached", "1"), "--price-cached: goes with --price-in"),
        (("--price-in", "1", "--price-out", "1"), "--prompt-tokens: needed unless --run measures it"),
        (("--gpu-usd-per-hour", "1"), "--calls-per-second: needed with --gpu-usd-per-hour"),
        (("--calls-per-second", "1"), "--calls-per-second: goes with --gpu-usd-per-hour"),
        (("--label", "tuned"), "--label: goes with --run"),
        (("--run", "nowhere", "--model", "x"), "nowhere/metrics.json: no such file"),
    ],
)
def test_cost_reports_what_is_missing(
    arguments: tuple[str, ...], message: str, in_workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, "cost", *arguments).startswith(message)


@pytest.mark.parametrize("value", ["much", "nan", "-1", "0"])
def test_a_flag_that_is_no_amount_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(("cost", f"--gpu-usd-per-hour={value}"))
    assert "--gpu-usd-per-hour: expected" in capsys.readouterr().err


def test_the_courses_example_is_answered_in_its_own_figures(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, *COURSE)
    assert "1,000,000 calls a day at $0.003 (gpt-4o) are $3,000 a day, $1.095 million in 365 days." in shown
    assert (
        "Staying under $100,000 a year with the rest at $0.003 a call needs escalation under 9.1%, even if the small "
        "model were free." in shown
    )


def test_advise_in_json_has_verdict_options_and_what_would_change_it(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, *COURSE)
    assert (found["verdict"], found["option"]) == ("fine-tune", "tuned")
    assert found["escalation_limit"]["free_small"] == pytest.approx(100 / 1095)
    api = found["options"][0]
    assert api["first_year_usd"] == api["running_usd"] == pytest.approx(1_095_000)
    assert api["total_usd"] == pytest.approx(1_095_000 + 365e6 * 0.05 * 0.01)
    [three_years, *_] = as_json(capsys, *COURSE, "--horizon-months", "36")["options"]
    assert three_years["total_usd"] == pytest.approx(3 * api["total_usd"])
    assert {"name": "task", "now": "patterned", "at": "reasoning", "answer": "stay", "change": None} in found["flips"]
    assert found["inputs"]["calls_per_day"] == {"value": 1e6, "unit": "calls a day", "source": "given"}
    assert found["inputs"]["error_usd"]["source"] == "assumed"
    saved = found["against"][0]["saving_usd"]
    of_api, tuned = (next(o["total_usd"] for o in found["options"] if o["option"] == name) for name in ("api", "tuned"))
    assert saved == pytest.approx(of_api - tuned)


def test_advise_marks_what_a_run_measured(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "advise", "--calls-per-day", "100000", "--run", str(run), "--cheap-model", "none")
    assert found["inputs"]["small_accuracy"]["value"] == 0.75
    assert found["inputs"]["small_accuracy"]["source"] == f"measured: 3 of 4 rows ({run}, tuned)"
    assert found["inputs"]["prompt_tokens"]["value"] == 900
    assert any(reason.startswith("The measured accuracy is between 30.0% and 95.0%") for reason in found["reasons"])


def test_advise_takes_an_apis_tokens_and_accuracy_from_a_run_that_has_its_scores(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    tuned = metrics["models"]["tuned"]
    right = {"value": 1.0, "numerator": 4, "denominator": 4, "low": 0.5, "high": 1.0}
    metrics["models"]["vendor-large"] = {**tuned, "exact_match": right, "prompt_tokens": {"total": 3200}}
    (run / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    flags = ("--calls-per-day", "100000", "--api-model", "vendor/large", "--api-price-in", "1", "--api-price-out", "4")
    found = as_json(capsys, "advise", *flags, "--run", str(run), "--cheap-model", "none")["inputs"]
    assert (found["prompt_tokens"]["value"], found["api_accuracy"]["value"]) == (800, 1.0)
    assert found["api_accuracy"]["source"] == f"measured: 4 of 4 rows ({run}, vendor-large)"
    assert found["small_accuracy"]["value"] == 0.75


def test_flags_override_the_file(in_workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("advise.yaml").write_text("calls_per_day: 500\ncheap_model: none\napi_call_usd: 0.003\n", encoding="utf-8")
    assert as_json(capsys, "advise", "--config", "advise.yaml")["vetoed_by"] == ["calls a day"]
    found = as_json(capsys, "advise", "--config", "advise.yaml", "--calls-per-day", "2000000")
    assert found["verdict"] != "stay"


def test_the_worked_example_in_the_docs_is_what_is_printed(
    in_workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "economics.md").read_text(encoding="utf-8")
    Path("advise.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    shown = printed(capsys, "advise", "--config", "advise.yaml")
    for block in text.rpartition("```yaml")[2].split("```")[2].strip().split("\n\n"):
        assert block in shown


def test_a_cheap_api_can_take_away_what_tuning_saves(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("advise", "--calls-per-day", "100000", "--api-call-usd", "0.003", "--cheap-call-usd", "0.00015")
    shown = printed(capsys, *flags)
    assert shown.startswith("Stay with the API: gpt-4o-mini")
    assert "less than gpt-4o alone; gpt-4o-mini is cheaper still" in shown


def test_the_page_is_one_file_that_loads_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "advice.html"
    hostile = "<script>alert(1)</script>"
    printed(capsys, *COURSE, "--api-model", hostile, "--html", str(page))
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"<script|https?://|src=", text)
    assert text.count("<polyline") == 3  # one for each way of answering
    assert "1,000,000 calls a day at $0.003" in text
    places = [place.split(",") for points in re.findall(r'points="([^"]*)"', text) for place in points.split()]
    assert len(places) > 300
    assert all(0 <= float(x) <= 100 and 0 <= float(y) <= 100 for x, y in places)


def test_a_page_of_another_kind_is_refused_before_anything_is_computed(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, *COURSE, "--html", "advice.pdf").startswith("--html advice.pdf: expected a file that ends")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--error-usd", "1"), "--calls-per-day: is required; without any input"),
        (("--config", "none.yaml"), "none.yaml: no such config file"),
        (("--calls-per-day", "many"), "--calls-per-day: expected a number (calls a day), found 'many'"),
        (("--calls-per-day", "1e4", "--api-model", "gpt-4o-minni"), "api_model: gpt-4o-minni: not in the table"),
    ],
)
def test_advise_reports_what_is_wrong(
    arguments: tuple[str, ...], message: str, in_workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, "advise", *arguments).startswith(message)


def test_bare_advise_without_a_terminal_says_what_to_give() -> None:
    command = (sys.executable, "-m", "toolhone", "advise")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: advise: no inputs, and no terminal to ask in; give at least --calls-per-day")


def test_bare_advise_asks_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answers = iter(["a lot", "800"])
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return next(answers, "")

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    shown = printed(capsys, "advise")
    assert shown.startswith("expected a number (calls a day), found 'a lot'\nStay with the API")
    assert "Against tuning: calls a day 800 (over 10,000 a day for, under 1,000 against)" in shown
    assert len(asked) > 15
