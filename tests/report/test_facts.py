"""The sentences and facts of a run, from manifests that record more or less."""

from __future__ import annotations

from typing import Any

import pytest

from toolhone.report import facts, tables
from toolhone.report.facts import RunFiles


def _run(manifest: dict[str, Any] | None = None, log: list[dict[str, Any]] | None = None) -> RunFiles:
    return RunFiles("cpu", {"models": {}}, {}, log or [], manifest or {}, "name: cpu\n")


def test_what_a_manifest_does_not_record_is_left_out() -> None:
    assert list(facts.machine(_run())) == []
    assert list(facts.training(_run({"stages": {}}))) == []
    assert list(facts.left_out(_run({}))) == []
    assert tables.data_table({}) is None
    assert tables.stages_table({"stages": {}}) is None


def test_a_stage_without_a_measurement_has_a_dash() -> None:
    table = tables.stages_table({"stages": {"predict:base": {"finished": "2025-11-02T10:36:00+00:00"}}})
    assert table is not None
    assert table.rows == (("predict:base", "–", "–", "2025-11-02 10:36"),)


def test_training_names_the_share_of_parameters_trained() -> None:
    stage = {"trainable_parameters": 4_884_480, "total_parameters": 139_399_488}
    assert dict(facts.training(_run({"stages": {"train": stage}}))) == {
        "Parameters trained": "4,884,480 of 139,399,488 (3.50%)"
    }


def test_a_single_validation_loss_is_not_shown_as_a_change() -> None:
    found = dict(facts.training(_run(log=[{"step": 4, "eval_loss": 0.4}])))
    assert found == {"Validation loss": "0.400"}


@pytest.mark.parametrize(
    ("manifest", "commands"),
    [
        (None, ("make train CONFIG=runs/cpu/config.yaml",)),
        ({"git_commit": None}, ("make train CONFIG=runs/cpu/config.yaml",)),
        (
            {"git_commit": "abc", "config": "configs/cpu.yaml"},
            ("git checkout abc", "make train CONFIG=configs/cpu.yaml"),
        ),
    ],
)
def test_the_commands_reproduce_the_run(manifest: dict[str, Any] | None, commands: tuple[str, ...]) -> None:
    assert facts.commands(_run(manifest)) == commands


def test_the_checkout_of_a_dirty_commit_mentions_its_uncommitted_changes() -> None:
    checkout, _ = facts.commands(_run({"git_commit": "v0.1-3-gabc123-dirty"}))
    assert checkout.startswith("git checkout v0.1-3-gabc123 ")
    assert "not committed" in checkout
