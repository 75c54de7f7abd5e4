"""What each kind of signal adds, on signals of which it is known what they say."""

from __future__ import annotations

import numpy as np
import pytest

from toolhone.route.ablation import ablation
from toolhone.route.confidence import FEATURES, GROUPS, Gate, Signals

ROWS = 120


def signals(
    gates: list[Gate | None] | None = None, escalated: list[bool] | None = None, **columns: list[float]
) -> list[Signals]:
    """Signals whose features are 1 but for the named columns."""
    handed = escalated or [False] * ROWS
    columns["escalated"] = [float(one) for one in handed]
    rows = [tuple(columns[name][n] if name in columns else 1.0 for name in FEATURES) for n in range(ROWS)]
    return [Signals(gate, one, row) for gate, one, row in zip(gates or [None] * ROWS, handed, rows, strict=True)]


RIGHT = np.array([float(n % 4 > 0) for n in range(ROWS)])
CLUSTERS = [n // 2 for n in range(ROWS)]


def test_the_group_that_knows_ranks_and_the_others_are_chance() -> None:
    random = np.random.default_rng(3)
    knows = (RIGHT * 0.3 + random.uniform(size=ROWS) * 0.5).tolist()
    made = ablation(signals(value_minimum=knows), RIGHT, CLUSTERS)
    assert list(made) == ["gates", *GROUPS, "all features"]
    assert made["values"].auroc["value"] > 0.85
    assert made["values"].brier_gain["low"] > 0
    assert made["all features"].auroc["value"] == pytest.approx(made["values"].auroc["value"])
    # What says nothing is chance to the digit, and its probability the share that is right.
    for name in ("gates", "decision", "names"):
        assert made[name].auroc["value"] == 0.5
        assert made[name].brier["value"] == pytest.approx(0.1875, abs=0.001)


def test_gates_count_in_every_variant() -> None:
    gates: list[Gate | None] = ["malformed" if not right and n % 8 else None for n, right in enumerate(RIGHT)]
    made = ablation(signals(gates), RIGHT, CLUSTERS)
    assert {name: one.auroc["value"] for name, one in made.items()} == dict.fromkeys(made, 0.75)


def test_deferral_is_there_where_an_answer_escalates_and_adds_what_it_knows() -> None:
    random = np.random.default_rng(4)
    knows = (RIGHT * 0.2 + random.uniform(size=ROWS) * 0.8).tolist()
    handed = [not right and n % 8 == 0 for n, right in enumerate(RIGHT)]
    made = ablation(signals(escalated=handed, decision=knows), RIGHT, CLUSTERS)
    assert list(made) == ["gates", "deferral", *GROUPS, "all features", "all with deferral"]
    figures = {name: one.auroc["value"] for name, one in made.items()}
    assert figures["deferral"] == 0.75
    assert figures["all with deferral"] > max(figures["all features"], figures["deferral"])


def test_a_row_is_judged_by_a_calibrator_that_has_seen_none_of_its_cluster() -> None:
    """Each of twelve clusters has a feature that is its own, and one outcome: whoever had seen it would know that."""
    outcomes = np.random.default_rng(5).permutation([0.0, 1.0, 1.0] * 4)
    right, clusters = np.repeat(outcomes, ROWS // 12), [n // (ROWS // 12) for n in range(ROWS)]
    own = [name for name in FEATURES if name != "escalated"]
    columns = {name: [float(cluster == n) for cluster in clusters] for n, name in enumerate(own)}
    held_out = ablation(signals(**columns), right, clusters)["all features"]
    assert held_out.brier_gain["value"] <= 0
    # By clusters of one row each, the same rows give each other away.
    seen = ablation(signals(**columns), right, range(ROWS))["all features"]
    assert seen.brier_gain["value"] > 0.2


@pytest.mark.parametrize(
    ("right", "clusters"),
    [
        (np.ones(ROWS), CLUSTERS),
        (np.array([0.0] * 4 + [1.0] * (ROWS - 4)), CLUSTERS),
        (RIGHT, [0] * ROWS),
        (np.array([0.0] * 30 + [1.0] * (ROWS - 30)), [0 if n < 30 else n for n in range(ROWS)]),  # one holds all wrong
    ],
)
def test_too_few_rows_of_either_kind_give_no_variant(right: np.ndarray, clusters: list[int]) -> None:
    assert ablation(signals(), right, clusters) == {}


def test_a_row_without_features_gives_no_variant() -> None:
    assert ablation([Signals(None, False, None), *signals()[1:]], RIGHT, CLUSTERS) == {}
