"""Inputs from YAML, flags and runs: what is taken, and how faults are told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from toolhone.economics.inputs import FIELDS, Inputs, flag_of
from toolhone.economics.read import build_case, checked, measured_inputs, read_inputs_file
from toolhone.errors import UserError

CONTRACTS = Path(__file__).parent.parent / "fixtures" / "contracts"
STATED = {"api_call_usd": 0.003, "cheap_call_usd": 0.001}


def test_numbers_may_be_texts_as_flags_are() -> None:
    assert checked({"calls_per_day": "1e5", "horizon_months": "24", "task": "mixed"}, {}) == {
        "calls_per_day": 100_000.0,
        "horizon_months": 24,
        "task": "mixed",
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("calls_per_day", "many", r"^--calls-per-day: expected a number \(calls a day\), found 'many'$"),
        ("calls_per_day", 0, r"expected greater than 0 \(calls a day\), found 0"),
        ("calls_per_day", True, "expected a number, found True"),
        ("calls_per_day", "nan", "expected a finite number"),
        ("examples", 3.5, r"expected .*integer.* \(examples\), found 3.5"),
        ("api_accuracy", 95, r"expected less than or equal to 1 \(share\), found 95"),
        ("auroc", 0.4, r"expected greater than or equal to 0.5 \(AUROC\), found 0.4"),
        ("task", "easy", "expected 'patterned', 'mixed' or 'reasoning'"),
        ("calls_per_dya", 3, r'unknown key \(did you mean "calls_per_day"\?\)'),
        ("zzz", 3, "unknown key; known: calls_per_day, growth_per_year"),
    ],
)
def test_a_fault_names_place_unit_and_what_was_found(name: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked({name: value}, {name: flag_of(name)})


def test_every_fault_of_a_file_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "advise.yaml"
    path.write_text("calls_per_day: 20000\nutilisation: 2\nhorizon_month: 12\n", encoding="utf-8")
    with pytest.raises(UserError) as told:
        read_inputs_file(path)
    first, second = sorted(str(told.value).splitlines())
    assert first.startswith(f"{path}:2: utilisation: expected less than or equal to 1 (share), found 2")
    assert second == f'{path}:3: horizon_month: unknown key (did you mean "horizon_months"?)'


def test_a_file_that_is_no_inputs_is_told(tmp_path: Path) -> None:
    path = tmp_path / "advise.yaml"
    path.write_text("- 3\n", encoding="utf-8")
    with pytest.raises(UserError, match="expected keys such as calls_per_day and api_model, found list"):
        read_inputs_file(path)


def test_null_leaves_an_input_out(tmp_path: Path) -> None:
    path = tmp_path / "advise.yaml"
    path.write_text("calls_per_day: 1e4\nyearly_budget: null\n", encoding="utf-8")
    assert read_inputs_file(path) == {"calls_per_day": 10_000.0}


def test_what_is_given_counts_before_what_was_measured_and_that_before_a_default(tmp_path: Path) -> None:
    shutil.copy(CONTRACTS / "metrics.json", tmp_path / "metrics.json")
    (tmp_path / "manifest.json").write_text(json.dumps({"data": {"train": {"examples": 7}}}), encoding="utf-8")
    measured = measured_inputs(tmp_path, "gpt-4o", "gpt-4o-mini")
    case = build_case({**STATED, "completion_tokens": 40.0}, measured)
    assert (case.inputs.completion_tokens, case.inputs.small_accuracy, case.inputs.examples) == (40.0, 0.0, 7)
    assert case.sources["small_accuracy"] == f"measured: 0 of 1 rows ({tmp_path}, tuned)"
    assert case.sources["examples"] == f"counted: training examples of {tmp_path}"
    assert case.sources["error_usd"] == "assumed"
    assert case.sources["api_call_usd"] == "given"
    assert case.accuracy_interval == pytest.approx((0.0, 0.7934506856))
    assert build_case({**STATED, "small_accuracy": 0.9}, measured).accuracy_interval is None


def test_prices_come_from_the_table_and_say_so() -> None:
    case = build_case({"calls_per_day": 1e4})
    assert (case.inputs.api_price_in, case.inputs.api_price_out) == (2.5, 10.0)
    assert case.sources["cheap_price_in"].startswith("listed: gpt-4o-mini of OpenAI: genai-prices ")


def test_prices_that_are_given_are_taken_and_cached_input_costs_the_same_unless_told() -> None:
    given = {"api_price_in": 1.0, "api_price_out": 4.0, "cheap_model": "none"}
    case = build_case(given)
    assert case.inputs.api_price_cached == 1.0
    assert case.sources["api_price_cached"] == "as api_price_in"
    assert "cheap_accuracy" not in case.sources
    assert build_case({**given, "api_price_cached": 0.1}).inputs.api_price_cached == 0.1


def test_half_a_price_is_refused() -> None:
    with pytest.raises(UserError, match=r"^api_price_out: goes with api_price_in$"):
        build_case({"api_price_in": 1.0})


def test_a_model_that_the_table_lacks_is_told_with_the_flags_instead() -> None:
    with pytest.raises(
        UserError, match=r"^cheap_model: gpt-4o-minni: not in the table.*--cheap-price-in.*cheap_call_usd"
    ):
        build_case({"api_call_usd": 0.003, "cheap_model": "gpt-4o-minni"})


def test_an_accepted_default_stays_an_assumption() -> None:
    case = build_case({**STATED, "error_usd": 0.01, "examples": 500}, accepted=frozenset({"error_usd"}))
    assert (case.sources["error_usd"], case.sources["examples"]) == ("assumed", "given")


def test_inputs_that_nothing_rests_on_are_not_listed() -> None:
    case = build_case({**STATED, "small_call_usd": 0.0002})
    assert not {"prompt_tokens", "gpu_usd_per_hour", "yearly_budget", "api_price_in"} & set(case.sources)


def test_every_input_has_a_unit_and_a_meaning_and_a_default_that_is_allowed() -> None:
    for name, entry in FIELDS.items():
        assert entry.metadata["unit"]
        assert entry.metadata["meaning"]
        if entry.default is not None:
            assert checked({name: entry.default}, {}) == {name: entry.default}
    assert Inputs().once_usd == 8_550
