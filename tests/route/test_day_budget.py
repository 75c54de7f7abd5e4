"""The day's budget: no order of calls, however they end, takes it over its cap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.economics.cost import Price
from toolhone.route.day_budget import DayBudget


@given(
    cap=st.floats(0.001, 1.0),
    steps=st.lists(st.tuples(st.booleans(), st.floats(0.0, 0.5), st.floats(0.0, 1.0)), max_size=60),
)
def test_what_is_spent_stays_under_the_cap(cap: float, steps: list[tuple[bool, float, float]]) -> None:
    budget = DayBudget(cap, Price(1, 1, 1), 0.0, lambda: "2026-11-25")
    running: list[tuple[float, float]] = []
    for starts, bound, share in steps:
        if starts:
            if budget.reserve(bound):
                running.append((bound, bound * share))
        elif running:
            budget.settle(*running.pop(0))
        assert budget.spent_usd <= cap + 1e-9
    for bound, usd in running:
        budget.settle(bound, usd)
    assert budget.spent_usd <= cap + 1e-9
    assert budget.reserve(max(0.0, cap - budget.spent_usd - 1e-9))


def test_a_new_day_begins_with_nothing_spent() -> None:
    day = ["2026-11-25"]
    budget = DayBudget(1.0, Price(1, 1, 1), 0.9, lambda: day[0])
    assert not budget.reserve(0.2)
    day[0] = "2026-11-26"
    assert budget.reserve(0.2)
    budget.settle(0.2, 0.15)
    assert budget.spent_usd == pytest.approx(0.15)


def test_a_call_over_midnight_counts_for_the_day_on_which_it_ends() -> None:
    day = ["2026-11-25"]
    budget = DayBudget(1.0, Price(1, 1, 1), 0.0, lambda: day[0])
    assert budget.reserve(0.8)
    day[0] = "2026-11-26"
    assert not budget.reserve(0.8)
    budget.settle(0.8, 0.5)
    assert budget.spent_usd == 0.5
