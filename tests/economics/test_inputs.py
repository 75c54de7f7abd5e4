"""Inputs from YAML, flags, questions and runs: which value counts, and the errors for invalid ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from toolhone.economics.inputs import FIELDS, Inputs, ask_inputs, build_case, checked, flag_of, read_inputs_file
from toolhone.economics.measured import measured_inputs
from toolhone.errors import UserError

CONTRACTS = Path(__file__).parent.parent / "fixtures" / "contracts"
STATED = {"api_call_usd": 0.003, "cheap_call_usd": 0.001}


def test_numbers_may_be_strings_as_in_flags() -> None:
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
        ("zzz", 3, "unknown key; known: calls_per_day, prompt_tokens"),
    ],
)
def test_an_error_names_the_place_the_unit_and_the_value(name: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked({name: value}, {name: flag_of(name)})


def test_every_fault_of_a_file_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "advise.yaml"
    path.write_text("calls_per_day: 20000\nutilisation: 2\nhorizon_month: 12\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_inputs_file(path)
    first, second = sorted(str(caught.value).splitlines())
    assert first.startswith(f"{path}:2: utilisation: expected less than or equal to 1 (share), found 2")
    assert second == f'{path}:3: horizon_month: unknown key (did you mean "horizon_months"?)'


def test_a_file_without_keys_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "advise.yaml"
    path.write_text("- 3\n", encoding="utf-8")
    with pytest.raises(UserError, match="expected keys such as calls_per_day and api_model, found list"):
        read_inputs_file(path)


def test_null_leaves_an_input_out(tmp_path: Path) -> None:
    path = tmp_path / "advise.yaml"
    path.write_text("calls_per_day: 1e4\nyearly_budget: null\n", encoding="utf-8")
    assert read_inputs_file(path) == {"calls_per_day": 10_000.0}


def test_a_given_value_overrides_a_measured_one_which_overrides_a_default(tmp_path: Path) -> None:
    shutil.copy(CONTRACTS / "metrics.json", tmp_path / "metrics.json")
    (tmp_path / "manifest.json").write_text(json.dumps({"data": {"train": {"examples": 7}}}), encoding="utf-8")
    measured, interval = measured_inputs(tmp_path, "gpt-4o", "gpt-4o-mini")
    case = build_case({**STATED, "completion_tokens": 40.0}, measured, interval)
    assert (case.inputs.completion_tokens, case.inputs.small_accuracy, case.inputs.examples) == (40.0, 0.0, 7)
    assert case.sources["small_accuracy"] == f"measured: 0 of 1 rows ({tmp_path}, tuned)"
    assert case.sources["examples"] == f"counted: training examples of {tmp_path}"
    assert case.sources["error_usd"] == "assumed"
    assert case.sources["api_call_usd"] == "given"
    assert case.accuracy_interval == pytest.approx((0.0, 0.7934506856))
    assert build_case({**STATED, "small_accuracy": 0.9}, measured, interval).accuracy_interval is None


def test_prices_come_from_the_table_and_say_so() -> None:
    case = build_case({"calls_per_day": 1e4})
    assert (case.inputs.api_price_in, case.inputs.api_price_out) == (2.5, 10.0)
    assert case.sources["cheap_price_in"].startswith("listed: gpt-4o-mini of OpenAI: genai-prices ")


def test_given_prices_are_used_and_cached_input_costs_the_same_by_default() -> None:
    given = {"api_price_in": 1.0, "api_price_out": 4.0, "cheap_model": "none"}
    case = build_case(given)
    assert case.inputs.api_price_cached == 1.0
    assert case.sources["api_price_cached"] == "as api_price_in"
    assert "cheap_accuracy" not in case.sources
    assert build_case({**given, "api_price_cached": 0.1}).inputs.api_price_cached == 0.1


def test_an_input_price_without_an_output_price_is_refused() -> None:
    with pytest.raises(UserError, match=r"^api_price_out: is missing; api_price_in needs it$"):
        build_case({"api_price_in": 1.0})


def test_a_model_that_the_table_lacks_is_reported_with_the_flags_to_use() -> None:
    with pytest.raises(
        UserError, match=r"^cheap_model: gpt-4o-minni: not in the table.*--cheap-price-in.*--cheap-call-usd"
    ):
        build_case({"api_call_usd": 0.003, "cheap_model": "gpt-4o-minni"})


def test_unused_inputs_are_not_listed() -> None:
    case = build_case({**STATED, "small_call_usd": 0.0002})
    assert not {"prompt_tokens", "gpu_usd_per_hour", "yearly_budget", "api_price_in"} & set(case.sources)


def test_every_input_has_a_unit_a_meaning_and_a_valid_default() -> None:
    for name, entry in FIELDS.items():
        assert entry.metadata["unit"]
        assert entry.metadata["meaning"]
        if entry.default is not None:
            assert checked({name: entry.default}, {}) == {name: entry.default}
    assert Inputs().once_usd == 8_550


ASKED = [name for name, entry in FIELDS.items() if entry.metadata["asked"]]


def answering(answers: dict[str, list[str]]) -> tuple[Callable[[str], str], list[str]]:
    """Return a function that answers by the start of the question (Enter to all others), and the questions asked."""
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        for start, left in answers.items():
            if prompt.lower().startswith(start) and left:
                return left.pop(0)
        return ""

    return ask, asked


def test_each_question_shows_unit_and_default_and_enter_accepts_it() -> None:
    ask, asked = answering({})
    assert ask_inputs(ask, print, {}) == {}, "a default that was not typed stays assumed"
    assert len(asked) == len(ASKED)
    assert asked[0] == "Calls a day, mean over the horizon (calls a day) [10000]: "
    assert "[none]" in asked[-1]


def test_a_typed_default_counts_as_given_and_none_leaves_an_input_out() -> None:
    ask, _ = answering({"calls a day": ["10000"], "most to pay": ["none"]})
    assert ask_inputs(ask, print, {}) == {"calls_per_day": 10_000}


def test_an_invalid_answer_is_reported_and_asked_again() -> None:
    ask, asked = answering({"calls a day": ["many", "-3", "25000"]})
    said: list[str] = []
    assert ask_inputs(ask, said.append, {}) == {"calls_per_day": 25_000}
    assert said == [
        "expected a number (calls a day), found 'many'",
        "expected greater than 0 (calls a day), found '-3'",
    ]
    assert asked[:3] == [asked[0]] * 3


def test_measured_values_are_offered_instead_of_defaults() -> None:
    ask, asked = answering({})
    values = ask_inputs(ask, print, {"small_accuracy": 0.8017})
    assert any("[0.8017]" in prompt for prompt in asked)
    assert "small_accuracy" not in values, "what was measured keeps its source"
