"""The fuzzer of the parser, with fewer and shorter texts than a run of `scripts/fuzz_parse.py`."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from toolhone.formats import FORMATS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fuzz_parse() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_parse", ROOT / "scripts" / "fuzz_parse.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_twenty_thousand_mutated_texts_are_parsed_without_an_error(fuzz_parse: ModuleType) -> None:
    found = fuzz_parse.fuzz(fuzz_parse.read_sources(), 20_000, seed=1)
    assert found["readings"] == 20_000 * len(FORMATS)
    assert found["microseconds"]["median"] < 1000
    # The mutations must reach every status and every repair.
    assert set(found["statuses"]) == {"calls", "none", "malformed", "truncated", "partial"}
    assert set(found["repairs"]) == {"python_literals", "arguments_as_text", "code_fence", "other_syntax"}


def test_the_same_seed_gives_the_same_texts(fuzz_parse: ModuleType) -> None:
    sources = fuzz_parse.read_sources()
    first, again = (
        [fuzz_parse.mutated(sources, draw) for _ in range(50)] for draw in (random.Random(3), random.Random(3))
    )
    assert first == again


def test_a_parser_that_raises_is_reported_with_the_text(
    fuzz_parse: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: Any, **__: Any) -> None:
        raise ValueError("boom")

    monkeypatch.setattr(fuzz_parse, "parse_turn", raises)
    with pytest.raises(AssertionError, match=r"^seed 5, text 0, hermes: ValueError\('boom'\) on "):
        fuzz_parse.fuzz(["text"], 1, seed=5)
