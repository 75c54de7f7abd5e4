"""How a report formats numbers and shows invisible characters."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.report import numbers, wording


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0.0%"),
        (0.0001, "<0.1%"),
        (0.095, "9.5%"),
        (0.96, "96.0%"),
        (0.9999, ">99.9%"),
        (1.0, "100.0%"),
    ],
)
def test_a_share_is_written_with_one_decimal(value: float | None, text: str) -> None:
    assert numbers.percent(value) == text


@given(st.integers(1, 10_000), st.data())
def test_only_all_rows_right_reads_100_percent_and_only_all_wrong_0(rows: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, rows))
    text = numbers.percent(right / rows)
    assert (text == "100.0%") == (right == rows)
    assert (text == "0.0%") == (right == 0)


def test_a_rate_in_full_has_interval_and_counts() -> None:
    rate = {"value": 0.96, "numerator": 1920, "denominator": 2000, "low": 0.9504, "high": 0.9678}
    assert numbers.figure(rate) == "96.0% [95.0, 96.8] 1,920/2,000"


def test_a_rate_over_nothing_is_a_dash_with_its_counts() -> None:
    rate = {"value": None, "numerator": 0, "denominator": 0, "low": None, "high": None}
    assert numbers.figure(rate) == "– 0/0"


def test_f1_has_neither_interval_nor_counts() -> None:
    assert numbers.figure({"value": 0.5}) == "50.0%"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (1.24, "1.2 s"), (41, "41 s"), (59.7, "1 min 00 s"), (812.0, "13 min 32 s"), (7500, "2 h 05 min")],
)
def test_a_time_has_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert numbers.duration(seconds) == text


def test_values_that_differ_in_invisible_characters_are_shown_differently() -> None:
    assert wording.visible("北京\u200b") == "北京\\u200b"
    assert wording.visible("a\u202egpj.exe\u00a0") == "a\\u202egpj.exe\\u00a0"
    assert wording.visible("订单 ORD-001") == "订单 ORD-001"


@given(st.text())
def test_visible_text_has_no_invisible_characters(text: str) -> None:
    hidden = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert not [c for c in wording.visible(text) if unicodedata.category(c) in hidden]
