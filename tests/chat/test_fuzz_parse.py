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


def test_mutated_texts_are_parsed_without_an_error_in_every_format(fuzz_parse: ModuleType) -> None:
    count = 250 * len(FORMATS)
    found = fuzz_parse.fuzz(fuzz_parse.read_sources(), count, seed=1)
    assert found["readings"] >= 3 * count
    assert found["microseconds"]["median"] < 1000
    # In each format, the mutations must reach every status.
    every = {"calls", "none", "malformed", "truncated", "partial"}
    assert {name: set(counted) for name, counted in found["statuses"].items()} == dict.fromkeys(FORMATS, every)
    assert set(found["repairs"]) == {"python_literals", "arguments_as_text", "code_fence", "other_syntax"}


@pytest.mark.parametrize("format", ["hermes", "llama3", "qwen_xml", "pythonic", "gemma4"])
def test_time_grows_with_the_length_on_a_sample_of_a_formats_own_cases(fuzz_parse: ModuleType, format: str) -> None:
    for front, unit in fuzz_parse.own_cases(format)[::25]:
        assert fuzz_parse._growth_of(format, front, unit, 20_000, 2)[0] < 2, (front, unit)


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
        fuzz_parse.fuzz([fuzz_parse.Source("text", ("hermes",))], 1, seed=5)
