"""The geometry of the loss curve."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.report.plots import loss_curve

LOSSES = st.lists(st.floats(0, 20), min_size=1, max_size=600)


def _log(losses: list[float], first: int = 1) -> list[dict[str, float]]:
    return [{"step": step, "loss": loss} for step, loss in enumerate(losses, first)]


def test_a_log_without_losses_gives_no_curve() -> None:
    assert loss_curve([]) is None
    assert loss_curve([{"step": 1, "grad_norm": 0.5}]) is None


def test_the_first_step_is_at_the_left_the_last_at_the_right_and_zero_loss_at_the_bottom() -> None:
    curve = loss_curve(_log([2.0, 1.0, 0.0]))
    assert curve is not None
    assert [(p.x, p.y) for p in curve.training] == [(0, 0), (50, 50), (100, 100)]


def test_the_tooltip_of_a_point_gives_step_and_loss() -> None:
    curve = loss_curve([{"step": 7, "loss": 1.25}, {"step": 7, "eval_loss": 0.5}])
    assert curve is not None
    assert curve.training[0].title == "step 7: training loss 1.2500"
    assert curve.validation[0].title == "step 7: validation loss 0.5000"


def test_the_later_line_of_a_step_counts_after_a_resume() -> None:
    curve = loss_curve([*_log([3.0, 2.0, 9.0]), *_log([1.0, 0.5], first=3)])
    assert curve is not None
    assert [point.title for point in curve.training][2:] == [
        "step 3: training loss 1.0000",
        "step 4: training loss 0.5000",
    ]


def test_a_long_log_is_averaged_over_a_number_of_steps_that_the_curve_gives() -> None:
    curve = loss_curve(_log([1.0, 3.0] * 250))
    assert curve is not None
    assert curve.steps_per_point == 3
    assert len(curve.training) == 167
    assert curve.training[0].title == f"step 3: training loss {5 / 3:.4f}"


@pytest.mark.parametrize("loss", [0.0, 1e-6, 0.3, 1.0, 17.0])
def test_a_single_step_is_one_point_in_the_middle(loss: float) -> None:
    curve = loss_curve(_log([loss]))
    assert curve is not None
    assert curve.training[0].x == 50
    assert len(curve.x_ticks) == 1


@given(LOSSES, st.integers(0, 10_000))
def test_every_point_is_inside_the_plot_and_every_tick_on_its_axis(losses: list[float], first: int) -> None:
    curve = loss_curve(_log(losses, first))
    assert curve is not None
    places = [coordinate for point in curve.training for coordinate in (point.x, point.y)]
    ticks = [tick.at for tick in (*curve.x_ticks, *curve.y_ticks)]
    assert all(0 <= at <= 100 for at in (*places, *ticks))
    assert 2 <= len(curve.y_ticks) <= 7
    assert len({tick.label for tick in curve.x_ticks}) == len(curve.x_ticks)
