"""Cases with given prices, so that no price table is needed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

from toolhone.economics.inputs import Inputs

PLAIN: dict[str, Any] = {
    "calls_per_day": 100_000.0,
    "api_call_usd": 0.003,
    "cheap_call_usd": 0.001,
    "gpu_usd_per_hour": 2.0,
    "calls_per_second": 30.0,
}


def inputs(**changes: Any) -> Inputs:
    return Inputs(**{**PLAIN, **changes})


def course(**changes: Any) -> Inputs:
    """Return the course's example: a million calls a day at $0.003, and a small model that costs nothing."""
    free = {"small_call_usd": 0.0, "training_usd": 0.0, "labelling_usd": 0.0, "engineering_usd": 0.0}
    stated = {"calls_per_day": 1e6, "api_call_usd": 0.003, "cheap_model": "none", "yearly_budget": 100_000.0}
    return Inputs(**{**stated, **free, "upkeep_usd_per_month": 0.0, **changes})


cases = st.builds(
    lambda **changes: inputs(**changes),
    calls_per_day=st.floats(1_000, 1e7),
    api_call_usd=st.floats(1e-4, 0.02),
    cheap_call_usd=st.floats(1e-5, 0.002),
    api_accuracy=st.floats(0.9, 0.99),
    cheap_accuracy=st.floats(0.7, 0.97),
    small_accuracy=st.floats(0.7, 0.97),
    gpu_usd_per_hour=st.floats(0.2, 5),
    error_usd=st.sampled_from([0.0, 0.002, 0.01]),
    engineering_usd=st.floats(0, 50_000),
    yearly_budget=st.one_of(st.none(), st.floats(5_000, 1e6)),
    examples=st.integers(20, 2_000),
)


@pytest.fixture
def plain() -> Inputs:
    return inputs()
