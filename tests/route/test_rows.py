"""When gold is the large model's own answers."""

from __future__ import annotations

import pytest

from toolhone.route.route import _same_model


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
def test_names_of_one_model(gold: str, model: str, same: bool) -> None:
    assert _same_model(gold, model) is same
    assert _same_model(model, gold) is same
