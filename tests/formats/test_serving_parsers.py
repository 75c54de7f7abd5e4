"""vLLM's parsers read what the chat formats write: the recorded verdicts hold for what the formats write today.

`make parser-check` asks the parsers, which need vLLM. `scripts/check_parsers.py --fixtures` records their verdicts.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import byte_tokenizer, load_script

from toolhone.formats import FORMATS

check = load_script("check_parsers")
CLAIMS: dict[str, str] = check.claims()
UNTYPED = {"gemma4": ("a list of mixed values", "many arguments")}
"""Turns whose values have no declared type. vLLM types the values of these formats by the schema, so they become
texts."""


def fixture(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    path = check.FIXTURES / f"{name}.jsonl"
    assert path.is_file(), f"{path} is missing; run scripts/check_parsers.py --formats {name} --turns 0 --fixtures"
    first, *rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return first, rows


def test_there_are_78_different_turns_and_a_fixture_for_each_format_that_names_a_parser() -> None:
    assert len({turn.name for turn in check.FIXED_TURNS}) == len(check.FIXED_TURNS) == 78
    assert {"hermes", "llama3"} <= set(CLAIMS) <= set(FORMATS)
    assert {path.stem for path in check.FIXTURES.glob("*.jsonl")} == {*CLAIMS, "hf"}


@pytest.mark.parametrize("name", CLAIMS)
def test_the_parser_read_exactly_what_the_format_writes_today(name: str) -> None:
    first, rows = fixture(name)
    assert (first["format"], first["parser"]) == (name, CLAIMS[name])
    assert [row["turn"] for row in rows] == [turn.name for turn in check.FIXED_TURNS]
    again = f"run scripts/check_parsers.py --formats {name} --turns 0 --fixtures"
    for turn, row in zip(check.FIXED_TURNS, rows, strict=True):
        case = check.case_of(name, turn)
        assert case.text == row["text"], f"{turn.name}: the format writes another text than vLLM read; {again}"
        assert case.refused == row.get("refused", ""), f"{turn.name}: {again}"
        if not case.refused:
            outcome = check.outcome_of(turn, row["verdict"])
            expected = "wrong calls" if turn.name in UNTYPED.get(name, ()) else "exact"
            assert outcome.startswith(expected), f"{turn.name}: {outcome}: {row['verdict']}"


@pytest.mark.parametrize("name", CLAIMS)
def test_a_format_writes_most_turns(name: str) -> None:
    refused = [row["turn"] for row in fixture(name)[1] if "refused" in row]
    assert len(refused) <= 10, refused


def test_vllm_read_every_format_by_its_response_template() -> None:
    lines = check.HF_FIXTURE.read_text(encoding="utf-8").split("\n")
    rows = {row["format"]: row for row in map(json.loads, filter(None, lines))}
    assert set(rows) == set(check.hf_claims())
    for name, row in rows.items():
        again = f"{name}: run scripts/check_parsers.py --hf --fixtures"
        tokens = dict.fromkeys(["<|im_start|>", "<|im_end|>", *FORMATS[name].control_tokens])
        assert row["response_template"] == check.template_of(name, byte_tokenizer(list(tokens))), again
        cases = [check.case_of(name, turn) for turn in check.FIXED_TURNS]
        assert row["texts"] == check.hash_of(cases), again
        read = [case.turn for case in cases if not case.refused]
        not_carried = {turn.name for turn in read if check.known_limit(name, turn).startswith("not carried")}
        assert set(row["others"]) == not_carried, name
        assert row["exact"] == len(read) - len(not_carried) > 55


def test_another_value_another_type_and_lost_or_added_calls_are_wrong() -> None:
    turn = next(turn for turn in check.FIXED_TURNS if turn.name == "text beside a call")
    call = turn.calls[0]
    seen = {
        "exact": {"calls": [call], "content": turn.content},
        "exact calls, text dropped": {"calls": [call], "content": None},
        "wrong text": {"calls": [call], "content": "Let me"},
        "wrong calls": {"calls": [], "content": turn.content},
        "wrong: exception": {"error": "ValueError: no"},
    }
    assert {check.outcome_of(turn, verdict) for verdict in seen.values()} == set(seen)
    for other in ({**call, "arguments": {"city": "paris"}}, {**call, "name": "ping"}):
        assert check.outcome_of(turn, {"calls": [other], "content": ""}) == "wrong calls"
    assert check.outcome_of(turn, {"calls": [call, call], "content": ""}) == "wrong calls"
    numbers = next(turn for turn in check.FIXED_TURNS if turn.name == "a decimal without a fraction")
    for value, outcome in ((2, "exact"), (2.5, "wrong calls"), ("2", "wrong calls"), (True, "wrong calls")):
        read = {"name": "write_note", "arguments": {"number": value}}
        assert check.outcome_of(numbers, {"calls": [read], "content": None}) == outcome


def test_generated_turns_are_the_same_for_a_seed_and_differ_between_seeds() -> None:
    first, again, other = (check.generated_turn(check.random.Random(seed)) for seed in ("0 1", "0 1", "0 2"))
    assert first == again != other
