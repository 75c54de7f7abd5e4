"""policy.json: which answers it keeps, which files are refused, and which model it belongs to."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolhone.cli import main
from toolhone.errors import UserError
from toolhone.jsonl import write_json
from toolhone.route.calibrate import Calibrator
from toolhone.route.confidence import FEATURES, Signals
from toolhone.route.policy import (
    Goal,
    Identity,
    Policy,
    identity_of_run,
    read_identity,
    read_policy,
    refuse_other_model,
    write_identity,
    write_policy,
)
from toolhone.run_folder import RunFolder

from .conftest import MakeRun

CONTRACT = Path(__file__).parents[1] / "fixtures" / "contracts" / "policy.json"
COUNT = len(FEATURES)
IDENTITY = Identity("some/model", "a" * 64, "0123456789abcdef", "none")


def policy(threshold: float | None = 0.5, knots: tuple[tuple[float, float], ...] = ()) -> Policy:
    """A policy whose score is the logistic function of the first feature."""
    calibrator = Calibrator((0.0,) * COUNT, (1.0,) * COUNT, (1.0,) + (0.0,) * (COUNT - 1), 0.0, knots)
    return Policy(
        identity=IDENTITY,
        format="hermes",
        features=FEATURES,
        calibrator=calibrator,
        threshold=threshold,
        goal=Goal(kind="escalation", escalation=0.1),
        rows={"calibration": 10, "held_out": 10},
        toolhone="0.1.0",
    )


def looks(first: float, **changes: Any) -> Signals:
    return replace(Signals(None, False, (first,) + (0.0,) * (COUNT - 1)), **changes)


def test_an_answer_is_kept_at_or_above_the_threshold() -> None:
    assert [policy().keeps(looks(value)) for value in (-0.01, 0.0, 3.0)] == [False, True, True]


@pytest.mark.parametrize("reason", [{"gate": "malformed"}, {"escalated": True}, {"features": None}])
def test_a_gated_answer_is_escalated_at_any_threshold(reason: dict[str, Any]) -> None:
    signals = looks(9.0, **reason)
    assert not policy(threshold=0.0).keeps(signals)
    assert policy().confidence(signals) == policy().score(signals) == 0


def test_without_a_threshold_every_answer_is_escalated() -> None:
    assert not policy(threshold=None).keeps(looks(50.0))


def test_the_threshold_is_compared_with_the_score_and_not_with_the_isotonic_confidence() -> None:
    curved = policy(threshold=0.9, knots=((0.0, 0.2), (1.0, 0.7)))
    assert curved.confidence(looks(0.0)) == pytest.approx(0.45)
    assert curved.confidence(looks(9.0)) < 0.9
    assert curved.keeps(looks(9.0))


def test_a_policy_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path, written = tmp_path / "policy.json", policy(knots=((0.1, 0.2), (0.4, 0.9)))
    write_policy(path, written)
    assert read_policy(path) == written
    row = json.loads(path.read_text())
    assert row["threshold"] == 0.5
    assert row["identity"]["adapter"] == "a" * 64
    assert all(isinstance(weight, float) for weight in row["calibrator"]["weights"])


def test_the_contract_is_read_and_written_byte_for_byte(tmp_path: Path) -> None:
    write_policy(tmp_path / "policy.json", read_policy(CONTRACT))
    assert (tmp_path / "policy.json").read_bytes() == CONTRACT.read_bytes()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("threshold", "high", r"policy\.json: threshold: .*found 'high'"),
        ("threshold", float("inf"), "Infinity is not JSON"),
        ("unheard_of", 1, "unheard_of: Extra inputs"),
        ("version", 2, "version: "),
        ("features", ["decision"], "features: expected decision, "),
    ],
)
def test_a_file_that_is_not_a_policy_is_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    path = tmp_path / "policy.json"
    write_policy(path, policy())
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=message):
        read_policy(path)


def test_the_error_for_a_missing_policy_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`toolhone route` makes one"):
        read_policy(tmp_path / "policy.json")


@pytest.mark.parametrize("field", ["model", "adapter", "template", "quantize", "engine"])
def test_another_model_is_refused_and_the_difference_is_named(field: str) -> None:
    refuse_other_model(policy(), IDENTITY)
    with pytest.raises(UserError, match=rf"another model: {field} is other, the policy's "):
        refuse_other_model(policy(), replace(IDENTITY, **{field: "other"}))


def test_a_policy_without_an_engine_is_for_transformers(tmp_path: Path) -> None:
    older = json.loads(CONTRACT.read_text(encoding="utf-8"))
    del older["identity"]["engine"], older["identity"]["gguf"]
    write_json(tmp_path / "policy.json", older)
    found = read_policy(tmp_path / "policy.json")
    refuse_other_model(found, replace(found.identity, engine="transformers"))
    with pytest.raises(UserError, match=r"engine is llama\.cpp q8_0, the policy's transformers; make one for this"):
        refuse_other_model(found, replace(found.identity, engine="llama.cpp q8_0"))


def test_the_hashes_of_gguf_files_count_if_both_are_known() -> None:
    made = policy().model_copy(update={"identity": replace(IDENTITY, gguf="a" * 64)})
    refuse_other_model(made, replace(IDENTITY, gguf=None))
    refuse_other_model(made, replace(IDENTITY, gguf="a" * 64))
    with pytest.raises(
        UserError, match=r"another model: gguf is bbbbbbbbbbbbbbbb\.\.\., the policy's aaaaaaaaaaaaaaaa"
    ):
        refuse_other_model(made, replace(IDENTITY, gguf="b" * 64))


def test_a_policy_from_an_engines_answers_is_for_that_engine_and_stays_beside_them(make_run: MakeRun) -> None:
    made = make_run()
    folder = made.run / "verify" / "llama.cpp-q8_0"
    folder.mkdir(parents=True)
    answers = folder / "predictions.jsonl"
    shutil.copy(made.run / "predictions" / "tuned.jsonl", answers)
    served = replace(identity_of_run(RunFolder(made.run)), engine="llama.cpp q8_0", gguf="c" * 64)
    write_identity(folder / "identity.json", served)
    assert main(["route", "--small", str(answers), "--large", str(made.large)]) == 0
    assert read_policy(folder / "policy.json").identity == served
    assert not (made.run / "policy.json").exists()


def test_an_unreadable_identity_names_its_file(tmp_path: Path) -> None:
    write_json(tmp_path / "identity.json", {"name": "x"})
    with pytest.raises(UserError, match=r"identity\.json: is not an identity; expected an object with model, adapter"):
        read_identity(tmp_path / "identity.json")


def test_the_identity_of_a_run_has_its_model_adapter_template_and_quantization(make_run: MakeRun) -> None:
    run = RunFolder(make_run(10).run)
    weights = hashlib.sha256(b"weights").hexdigest()
    assert identity_of_run(run) == Identity("some/model", weights, "0123456789abcdef", "none")
    run.note(model={"name": "some/model", "revision": "main", "quantize": "nf4"})
    assert identity_of_run(run) == Identity("some/model@main", weights, "0123456789abcdef", "nf4")
    (run.adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="has no adapter"):
        identity_of_run(run)
