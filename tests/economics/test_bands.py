"""The rules of thumb at the bounds of their bands."""

from __future__ import annotations

import pytest
from economics.conftest import inputs

from toolhone.economics.bands import Side, criteria, eaten_share, examples_side, margin_of_test, vetoes, volume_side
from toolhone.economics.inputs import Task


@pytest.mark.parametrize(
    ("calls", "side"), [(999, "against"), (1_000, "between"), (10_000, "between"), (10_001, "for")]
)
def test_volume(calls: float, side: Side) -> None:
    assert volume_side(inputs(calls_per_day=float(calls))) == side


@pytest.mark.parametrize(("count", "side"), [(49, "against"), (50, "between"), (499, "between"), (500, "for")])
def test_examples(count: int, side: Side) -> None:
    assert examples_side(inputs(examples=count)) == side


@pytest.mark.parametrize(("task", "side"), [("patterned", "for"), ("mixed", "between"), ("reasoning", "against")])
def test_task(task: Task, side: Side) -> None:
    found = {entry.name: entry for entry in criteria(inputs(task=task))}
    assert found["task"].side == side


def test_too_few_examples_say_how_many_more_and_few_say_how_little_a_test_would_tell() -> None:
    says = {count: {entry.name: entry.says for entry in criteria(inputs(examples=count))} for count in (20, 100)}
    assert says[20]["good examples"].endswith("label 30 more first")
    # 20 held out of 100: 1.96 * sqrt(0.09 / 20) is 13 points.
    assert "20 held out tell its accuracy to about 13 points" in says[100]["good examples"]
    assert margin_of_test(100) == pytest.approx(0.1315, abs=1e-4)


def test_the_share_of_the_saving_that_errors_eat_by_hand() -> None:
    # $0.003 beside $48 a day for 100,000 calls and $500 a month; 5 points more wrong at 1 cent.
    case = inputs(upkeep_usd_per_month=0.0)
    assert eaten_share(case) == pytest.approx(0.05 * 0.01 / (0.003 - 0.00048))


@pytest.mark.parametrize(
    ("error_usd", "side"), [(0.0, "for"), (0.0199, "for"), (0.0201, "between"), (0.0399, "between"), (0.041, "against")]
)
def test_errors_are_tolerable_up_to_half_of_the_saving(error_usd: float, side: Side) -> None:
    # A saving of $0.002 a call and 5 points more wrong: half of it is eaten at 2 cents, all at 4.
    case = inputs(small_call_usd=0.001, upkeep_usd_per_month=0.0, error_usd=error_usd)
    found = {entry.name: entry for entry in criteria(case)}["cost of errors"]
    assert (found.side, found.veto) == (side, False)


def test_without_a_saving_no_error_is_tolerable_yet_that_is_no_veto() -> None:
    case = inputs(small_call_usd=0.004)
    found = {entry.name: entry for entry in criteria(case)}["cost of errors"]
    assert (found.value, found.side) == ("no saving", "against")
    assert vetoes(case) == []
