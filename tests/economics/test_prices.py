"""Prices by name: from the table in the package, never from the network."""

from __future__ import annotations

import socket
import sys
import threading
from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest

from toolhone.economics.cost import Price
from toolhone.economics.prices import listed_price
from toolhone.errors import UserError

DAY = datetime(2026, 11, 25, 23, 59, tzinfo=UTC)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a price was looked up on the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_price_comes_from_the_table_with_its_version_and_date() -> None:
    before = threading.active_count()
    listed = listed_price("gpt-4o", DAY)
    assert listed.price == Price(2.5, 1.25, 10.0)
    assert listed.source.startswith("gpt-4o of OpenAI: genai-prices ")
    newest = datetime.fromisoformat(listed.source.rpartition(" ")[2]).date()
    assert datetime(2026, 1, 1, tzinfo=UTC).date() < newest <= DAY.date()
    assert threading.active_count() == before, "the table's updater was started"


def test_the_date_of_the_table_is_not_after_the_given_day() -> None:
    early = listed_price("gpt-4o", datetime(2025, 6, 1, tzinfo=UTC)).source.rpartition(" ")[2]
    assert early <= "2025-06-01"


def test_a_provider_may_be_named_before_the_model() -> None:
    assert listed_price("azure:gpt-4o", DAY).source.startswith("gpt-4o of Microsoft Azure: genai-prices ")


def test_an_unknown_model_is_reported_with_similar_names_that_have_a_price() -> None:
    with pytest.raises(
        UserError, match=r"^gpt-4o-minni: not in the table of genai-prices \(nearest: gpt-4o-mini"
    ) as caught:
        listed_price("gpt-4o-minni", DAY)
    names = str(caught.value).partition("nearest: ")[2].partition(")")[0].split(", ")
    assert [listed_price(name, DAY).price for name in names]


def test_a_name_without_a_similar_one_is_reported() -> None:
    with pytest.raises(UserError, match="no similar name"):
        listed_price("qqqqzzzz-0000", DAY)


def test_a_model_without_token_prices_is_refused() -> None:
    with pytest.raises(UserError, match="has no token prices for it; give its prices"):
        listed_price("github-copilot:gpt-4o", DAY)


def test_a_higher_price_for_long_prompts_is_a_remark() -> None:
    listed = listed_price("gpt-5.5", DAY)
    assert any(remark.startswith("prompts of more than 272,000 tokens cost more") for remark in listed.remarks)
    assert listed.price.input_usd == 5.0


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(UserError, match=r"pip install 'toolhone\[prices\]'; or give its prices"):
        listed_price("gpt-4o", DAY)


def test_before_the_first_entry_the_table_is_undated() -> None:
    assert listed_price("gpt-4o", datetime(2020, 1, 1, tzinfo=UTC)).source.endswith("newest entry undated")
