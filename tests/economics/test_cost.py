"""What a call costs: figures by hand, and properties of all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.economics.cost import (
    OWN,
    Call,
    Machine,
    Price,
    call_cost_usd,
    cost_rows,
    loaded_call_usd,
    machines_needed,
    machines_usd_per_day,
)
from toolhone.errors import UserError
from toolhone.report.numbers import dollars

GPT_4O = Price(2.5, 1.25, 10.0)

prices = st.builds(Price, st.floats(0, 100), st.floats(0, 100), st.floats(0, 100))
tokens = st.integers(0, 100_000)
machines = st.builds(
    Machine,
    st.floats(0.01, 50),
    st.floats(0.1, 500),
    st.floats(0.1, 1),
    st.floats(1, 10),
    st.integers(1, 4),
)


def test_a_call_costs_its_tokens_times_the_prices() -> None:
    # 900 * $2.50 + 50 * $10 = $2,750 for a million such calls.
    assert call_cost_usd(GPT_4O, 900, 50) == pytest.approx(0.00275)


def test_cached_tokens_count_as_prompt_tokens_with_their_own_price() -> None:
    # 500 * $2.50 + 400 * $1.25 + 50 * $10 = $2,250.
    assert call_cost_usd(GPT_4O, 900, 50, 400) == pytest.approx(0.00225)


@pytest.mark.parametrize("counts", [(-1, 0, 0), (10, -1, 0), (10, 5, 11), (10, 5, -1)])
def test_impossible_token_counts_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="impossible token counts"):
        call_cost_usd(GPT_4O, *counts)


@given(prices, tokens, tokens, st.integers(0, 5_000), st.integers(0, 5_000))
def test_more_tokens_never_cost_less(price: Price, prompt: int, answer: int, more: int, longer: int) -> None:
    less = call_cost_usd(price, prompt, answer)
    assert call_cost_usd(price, prompt + more, answer + longer) >= less


@given(st.floats(0.01, 100), st.floats(0, 1), st.floats(0, 100), st.integers(1, 10_000), st.floats(0, 1))
def test_a_discount_on_cached_input_never_costs_more(
    full: float, discount: float, out: float, prompt: int, cached: float
) -> None:
    price = Price(full, full * discount, out)
    assert call_cost_usd(price, prompt, 10, prompt * cached) <= call_cost_usd(price, prompt, 10) * (1 + 1e-12)


def test_the_peak_needs_whole_machines() -> None:
    # 1,000,000 / 86,400 = 11.574 a second on the mean, 34.72 at the peak; one carries 30 * 0.6 = 18.
    assert machines_needed(Machine(2.0, 30.0, 0.6, 3.0), 1_000_000) == 2
    assert machines_usd_per_day(Machine(2.0, 30.0, 0.6, 3.0), 1_000_000) == pytest.approx(96.0)


def test_a_load_of_exactly_three_machines_needs_three() -> None:
    assert machines_needed(Machine(1.0, 10.0, 0.7, 1.0), 3 * 7 * 86_400) == 3


def test_at_least_one_machine_runs_or_the_least_number_given() -> None:
    assert machines_needed(Machine(1.0, 10.0), 1) == 1
    assert machines_needed(Machine(1.0, 10.0, least=2), 1) == 2


@given(machines, st.floats(1, 1e8))
def test_machines_carry_the_peak_and_one_fewer_would_not(machine: Machine, calls: float) -> None:
    peak = calls / 86_400 * machine.peak
    carried = machine.calls_per_second * machine.utilisation
    count = machines_needed(machine, calls)
    assert count * carried >= peak * (1 - 1e-6) - 1e-6 * carried
    assert count == max(machine.least, 1) or (count - 1) * carried < peak


@given(machines, st.floats(1, 1e8), st.floats(1, 10))
def test_more_calls_never_lower_the_rent(machine: Machine, calls: float, factor: float) -> None:
    assert machines_usd_per_day(machine, calls * factor) >= machines_usd_per_day(machine, calls)


@given(machines, st.floats(1, 1e7), st.integers(1, 50))
def test_a_whole_multiple_of_the_calls_never_costs_more_per_call(machine: Machine, calls: float, factor: int) -> None:
    now = machines_usd_per_day(machine, calls) / calls
    assert machines_usd_per_day(machine, calls * factor) / (calls * factor) <= now * (1 + 1e-9)


@given(machines, st.floats(1, 1e7), st.floats(1, 1e3))
def test_without_an_added_machine_more_calls_cost_less_each(machine: Machine, calls: float, factor: float) -> None:
    if machines_needed(machine, calls * factor) == machines_needed(machine, calls):
        assert machines_usd_per_day(machine, calls * factor) / (calls * factor) <= (
            machines_usd_per_day(machine, calls) / calls * (1 + 1e-12)
        )


@given(machines)
def test_the_cost_of_a_call_tends_to_the_fully_loaded_cost_from_above(machine: Machine) -> None:
    many = 1e5 * machine.calls_per_second * 86_400
    share = machines_usd_per_day(machine, many) / many
    assert share == pytest.approx(loaded_call_usd(machine), rel=1e-3)
    assert machines_usd_per_day(machine, 1_000) / 1_000 >= loaded_call_usd(machine) * (1 - 1e-6)


def test_a_fully_loaded_call_costs_the_hour_divided_by_its_calls() -> None:
    # $2 an hour, 30 a second planned at 60% with a peak of 3: 6 a second on the mean, 21,600 an hour.
    assert loaded_call_usd(Machine(2.0, 30.0, 0.6, 3.0)) == pytest.approx(2 / 21_600)


def row_of(name: str, **changes: object) -> float:
    settings: dict[str, object] = {
        "calls_per_day": 100_000.0,
        "once_usd": 3_650.0,
        "horizon_days": 365.0,
        "error_usd": 0.01,
        "accuracies": {"API": 0.95, OWN: 0.9},
    }
    rows = cost_rows(
        Call(900, 50),
        {"API": (GPT_4O, "given")},
        Machine(2.0, 30.0),
        **{**settings, **changes},  # type: ignore[arg-type]
    )
    return next(row.total_usd for row in rows if row.name == name)


def test_a_row_sums_running_one_time_and_error_costs() -> None:
    assert row_of("API") == pytest.approx(0.00275 + 0.05 * 0.01)
    # One machine: $48 a day for 100,000; $3,650 once over 36.5 million; a tenth wrong.
    assert row_of(OWN) == pytest.approx(48 / 100_000 + 3_650 / 36_500_000 + 0.1 * 0.01)


@given(st.floats(0, 1e6), st.floats(1, 1e8), st.floats(1, 100), st.floats(1, 3650))
def test_more_calls_never_raise_the_one_time_cost_per_call(
    usd: float, calls: float, factor: float, days: float
) -> None:
    def spread(calls_per_day: float) -> float:
        wanted = {"once_usd": usd, "horizon_days": days, "error_usd": 0.0, "accuracies": {}}
        [row] = cost_rows(Call(900, 50), {"API": (GPT_4O, "given")}, None, calls_per_day=calls_per_day, **wanted)  # type: ignore[arg-type]
        return row.spread_usd or 0.0

    assert spread(calls * factor) <= spread(calls) * (1 + 1e-12)


def test_with_an_error_cost_every_row_needs_an_accuracy() -> None:
    with pytest.raises(UserError, match="--api-accuracy: needed with --error-usd"):
        row_of("API", accuracies={OWN: 0.9})
    assert row_of("API", error_usd=0.0, accuracies={}) == pytest.approx(0.00275)


def test_one_time_costs_need_calls_a_day() -> None:
    with pytest.raises(UserError, match="--calls-per-day: needed to spread"):
        row_of(OWN, calls_per_day=None)


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (0, "$0"),
        (1_095_000, "$1,095,000"),
        (3_000, "$3,000"),
        (27.4, "$27.40"),
        (0.5, "$0.50"),
        (0.0027, "$0.0027"),
        (0.00004212, "$0.0000421"),
        (-3.5, "-$3.50"),
    ],
)
def test_amounts_have_as_many_digits_as_they_need(amount: float, words: str) -> None:
    assert dollars(amount) == words


@given(st.floats(1e-9, 1e9))
def test_a_shown_amount_is_within_a_percent(amount: float) -> None:
    shown = float(dollars(amount).replace("$", "").replace(",", ""))
    assert math.isclose(shown, amount, rel_tol=0.01)
