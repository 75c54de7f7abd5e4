"""The texts of the advice: its sentences, and that every allowed case gets advice."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from economics.conftest import PLAIN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from toolhone.economics.advice import Advice, advise
from toolhone.economics.inputs import build_case
from toolhone.report.advice import advice_page, headline, reasons, show_advice

shares = st.floats(0, 1)
wide = st.fixed_dictionaries(
    {
        "calls_per_day": st.floats(1e-3, 1e9),
        "api_call_usd": st.one_of(st.just(0.0), st.floats(1e-9, 10)),
        "cheap_call_usd": st.one_of(st.none(), st.floats(0, 10)),
        "api_accuracy": shares,
        "small_accuracy": shares,
        "small_call_usd": st.one_of(st.none(), st.floats(0, 1)),
        "gpu_usd_per_hour": st.floats(0, 100),
        "calls_per_second": st.floats(0.01, 1e4),
        "escalation": shares,
        "auroc": st.floats(0.5, 0.9999),
        "engineering_usd": st.floats(0, 1e6),
        "error_usd": st.floats(0, 100),
        "task": st.sampled_from(["patterned", "mixed", "reasoning"]),
        "examples": st.integers(0, 10_000),
        "horizon_months": st.integers(1, 40),
        "yearly_budget": st.one_of(st.none(), st.floats(0.01, 1e7)),
        "least_accuracy": st.one_of(st.none(), shares),
    }
)


def advised(**changes: Any) -> Advice:
    return advise(build_case({**PLAIN, **changes}))


@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(wide)
def test_every_allowed_case_gets_advice_in_json_terminal_and_page(changes: dict[str, Any]) -> None:
    if changes["cheap_call_usd"] is None:
        changes["cheap_model"] = "none"
    advice = advise(build_case(changes))
    assert json.loads(json.dumps(advice.to_json(), allow_nan=False))["verdict"] in ("fine-tune", "route", "stay")
    out = io.StringIO()
    show_advice(advice, Console(file=out, width=100))
    assert advice.decision.answer == "stay" or "Stay with" not in out.getvalue()
    assert "nan" not in advice_page(advice).lower().replace("finance", "")


def test_the_costs_of_an_option_add_up() -> None:
    for entry in advised().options:
        assert entry.total_usd == pytest.approx(entry.once_usd + entry.running_usd + entry.errors_usd)
        assert entry.first_year_usd == pytest.approx(entry.once_usd + entry.running_usd)


def test_advice_against_tuning_says_what_cost_alone_would_choose() -> None:
    said = reasons(advised(examples=20, api_call_usd=0.05, cheap_call_usd=0.05))
    assert any(reason.startswith("Against tuning: good examples 20 (500 or more for") for reason in said)
    assert any(reason.startswith("Cost alone would choose ") for reason in said)


def test_limits_that_no_option_meets_are_reported() -> None:
    advice = advised(least_accuracy=0.999)
    assert advice.decision.answer == "stay"
    assert any(reason.startswith("No option meets the limits") for reason in reasons(advice))


def test_between_the_bands_the_advice_says_that_cost_decides() -> None:
    said = "Between the bands (calls a day 5,000, good examples 100), cost decides: the lowest total over the horizon."
    assert said in reasons(advised(calls_per_day=5_000.0, examples=100))


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (1e9, "leaves room to escalate every call if the small model were free."),
        (10_000.0, "with what it costs, no escalation fits."),
        (80_000.0, "with what it costs, under 43.7%."),
    ],
)
def test_the_advice_says_how_many_escalations_a_budget_allows(budget: float, words: str) -> None:
    # $48 a day, $500 a month and $8,550 once are $32,070 in the first year; all calls at $0.003 are $109,500.
    said = reasons(advised(yearly_budget=budget))
    assert any(reason.endswith(words) for reason in said), said


def test_the_headline_of_routing_gives_its_share_and_compares_it_with_both_apis() -> None:
    line = headline(advised(calls_per_day=1e6, error_usd=0.03, small_accuracy=0.92))
    assert line.startswith("Route: the tuned model first, 10% to gpt-4o: ")
    assert " less than gpt-4o and " in line
    assert line.endswith(" less than gpt-4o-mini")
