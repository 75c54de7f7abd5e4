"""Two models on the same rows: the difference, its interval and McNemar's test, compared with scipy and simulation."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from scipy.stats import bootstrap as scipy_bootstrap

from toolhone.errors import UserError
from toolhone.evaluate.metrics import compare_all
from toolhone.rates import bootstrap, expanded_tail, mcnemar
from toolhone.records import CallMatch, Gold, GoldCall, Score, ToolCall

GOLD = Gold("calls", (GoldCall("find", {"a": [1]}),))


def scored(
    id: str,
    exact: bool,
    *,
    names_right: bool | None = None,
    matches: tuple[CallMatch, ...] = (),
    gold: Gold = GOLD,
    gold_source: str | None = None,
    **meta: Any,
) -> Score:
    """A score of the row `id`, whose conversation is the text before "/"."""
    return Score(
        id=id,
        conversation_id=id.partition("/")[0],
        model="m",
        status="calls",
        failure=None,
        calls=(ToolCall("find", {"a": 1}),),
        gold=gold,
        tools=("find",),
        matches=matches,
        missing_calls=(),
        extra_calls=(),
        names_right=exact if names_right is None else names_right,
        exact=exact,
        schema_valid=True,
        rules=(),
        question="",
        text="",
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
        latency_ms=1.0,
        gold_source=gold_source,
        meta=meta,
    )


def model(outcomes: str, **given: Any) -> list[Score]:
    """Scores of rows c0/1, c1/1, ...: "1" is right."""
    return [scored(f"c{n}/1", outcome == "1", **given) for n, outcome in enumerate(outcomes)]


def first_entry(one: Sequence[Score], other: Sequence[Score]) -> dict[str, Any]:
    return compare_all({"base": one, "tuned": other})[0]


# What is reported


def test_the_difference_is_the_second_models_rate_minus_the_firsts() -> None:
    found = first_entry(model("1000110000"), model("1111110100"))
    assert (found["measure"], found["first"], found["second"], found["rows"]) == ("exact_match", "base", "tuned", 10)
    assert found["value"] == pytest.approx(0.7 - 0.3)
    assert 0 <= found["low"] < found["value"] < found["high"] <= 1
    assert found["mcnemar"] == {"first_only": 0, "second_only": 4, "p_value": pytest.approx(2 * 0.5**4)}
    assert found["folds"] == 10_000


def test_the_difference_is_negative_if_the_second_model_is_worse() -> None:
    found = first_entry(model("1110000"), model("0001000"))
    assert found["value"] == pytest.approx(-2 / 7)
    assert (found["mcnemar"]["first_only"], found["mcnemar"]["second_only"]) == (3, 1)


def test_every_measure_is_compared_and_argument_accuracy_is_over_matched_calls() -> None:
    right, wrong = CallMatch(0, 0, 1, ()), CallMatch(0, 0, 0, (object(),))  # type: ignore[arg-type]
    base = [scored("a/1", False, names_right=True, matches=(wrong,)), scored("b/1", False, names_right=False)]
    tuned = [scored("a/1", True, matches=(right,)), scored("b/1", False, names_right=True, matches=(wrong,))]
    found = {entry["measure"]: entry for entry in compare_all({"base": base, "tuned": tuned})}
    assert {name: entry["value"] for name, entry in found.items()} == {
        "exact_match": 0.5,
        "tool_name_accuracy": 0.5,
        "argument_accuracy": 0.5,  # 1 of 2 minus 0 of 1
    }
    assert found["argument_accuracy"]["mcnemar"] is None
    assert found["tool_name_accuracy"]["mcnemar"]["second_only"] == 1


def test_a_measure_that_has_no_value_for_one_model_has_no_difference() -> None:
    matched = [scored("a/1", True, matches=(CallMatch(0, 0, 1, ()),)), scored("b/1", True)]
    entry = compare_all({"base": model_of("ab"), "tuned": matched})[2]
    assert (entry["measure"], entry["value"], entry["low"], entry["high"]) == ("argument_accuracy", None, None, None)


def model_of(names: str) -> list[Score]:
    return [scored(f"{name}/1", False) for name in names]


def test_several_models_are_compared_pair_by_pair_in_their_order() -> None:
    found = compare_all({"a": model("10"), "b": model("01"), "c": model("11")})
    pairs = [(entry["first"], entry["second"]) for entry in found if entry["measure"] == "exact_match"]
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c")]
    assert compare_all({"a": model("10")}) == []
    assert compare_all({}) == []


def test_the_order_of_the_rows_changes_nothing() -> None:
    one, other = model("1001101"), model("1101111")
    assert compare_all({"a": one, "b": other}) == compare_all({"a": one[::-1], "b": other[3:] + other[:3]})


def test_the_comparison_names_the_model_that_wrote_the_gold() -> None:
    assert (
        first_entry(model("10", gold_source="gpt-4o"), model("11", gold_source="gpt-4o"))["agreement_with"] == "gpt-4o"
    )
    assert first_entry(model("10"), model("11"))["agreement_with"] is None


def test_the_interval_clusters_rows_by_template_if_they_have_one() -> None:
    templates = [f"t{n // 10}" for n in range(40)]
    base = [scored(f"c{n}/1", False, template=templates[n]) for n in range(40)]
    tuned = [scored(f"c{n}/1", n // 10 != 3, template=templates[n]) for n in range(40)]
    found = first_entry(base, tuned)
    by = {entry["clustered_by"]: entry for entry in found["intervals"]}
    assert {name: entry["clusters"] for name, entry in by.items()} == {"conversation": 40, "template": 4}
    assert (found["clustered_by"], found["low"], found["high"]) == (
        "template",
        by["template"]["low"],
        by["template"]["high"],
    )
    assert by["template"]["high"] - by["template"]["low"] > 2 * (by["conversation"]["high"] - by["conversation"]["low"])


def test_rows_without_a_template_are_clustered_by_conversation() -> None:
    ids = ["a/1", "a/3", "b/1", "c/1", "c/3"]
    templates = [{}, {}, {"template": "t"}, {"template": "t"}, {"template": "t"}]
    one = [scored(id, False, **meta) for id, meta in zip(ids, templates, strict=True)]
    other = [scored(id, id == "a/1", **meta) for id, meta in zip(ids, templates, strict=True)]
    found = first_entry(one, other)
    assert [(entry["clustered_by"], entry["clusters"]) for entry in found["intervals"]] == [
        ("conversation", 3),
        ("template", 2),
    ]


@pytest.mark.parametrize(
    ("base", "tuned"), [("00", "11"), ("11", "11"), ("", ""), ("0", "1")], ids=["lifted", "same", "no rows", "one row"]
)
def test_there_is_no_interval_if_every_resample_gives_the_same_difference(base: str, tuned: str) -> None:
    found = first_entry(model(base), model(tuned))
    assert (found["low"], found["high"]) == (None, None)
    assert found["value"] == (None if not base else tuned.count("1") / len(base) - base.count("1") / len(base))


# What is refused


def test_different_rows_are_refused_with_their_number_and_the_first_of_them() -> None:
    with pytest.raises(UserError) as caught:
        compare_all({"base": model("1010"), "tuned": [*model("10"), scored("x/1", True)]})
    assert str(caught.value) == (
        "base and tuned cannot be compared: they were not scored on the same rows: 2 are in base alone (such as "
        "c2/1), 1 are in tuned alone (such as x/1); predict and score both on one set of rows"
    )


def test_every_model_must_have_the_same_rows() -> None:
    with pytest.raises(UserError, match=r"^a and c cannot be compared.*1 are in a alone \(such as c1/1\)"):
        compare_all({"a": model("10"), "b": model("10"), "c": model("1")})


def test_the_same_rows_with_different_gold_are_refused() -> None:
    other = [scored("c0/1", True), scored("c1/1", True, gold=Gold("none"))]
    with pytest.raises(UserError, match=r"their gold differs in 1 rows \(such as c1/1\)"):
        compare_all({"base": model("10"), "tuned": other})


def test_a_row_that_is_scored_twice_is_refused_even_for_one_model() -> None:
    with pytest.raises(UserError, match=r"^base: c0/1 is scored twice"):
        compare_all({"base": [*model("1"), *model("0")]})


# McNemar's test


@given(st.integers(0, 400), st.integers(0, 400))
def test_the_p_value_equals_that_of_scipys_exact_binomial_test(first_only: int, second_only: int) -> None:
    found = mcnemar(first_only, second_only)
    if first_only + second_only == 0:
        assert found == 1.0
    else:
        assert found == pytest.approx(binomtest(first_only, first_only + second_only, 0.5).pvalue, rel=1e-9)


def test_the_p_value_of_large_counts_equals_that_of_scipy() -> None:
    for one, other in ((10_000, 10_400), (3, 50_000), (25_000, 25_000)):
        expected = float(binomtest(one, one + other, 0.5).pvalue)
        assert mcnemar(one, other) == pytest.approx(expected, rel=1e-8, abs=1e-300)


# The bootstrap


def test_the_same_seed_gives_the_same_interval() -> None:
    rows = [(n % 2, 1, n % 3 > 0, 1) for n in range(50)]
    assert bootstrap(rows, range(50)) == bootstrap(rows, range(50))
    assert bootstrap(rows, range(50), seed=8) != bootstrap(rows, range(50))


def test_the_interval_without_clusters_agrees_with_scipys_bootstrap() -> None:
    draw = np.random.default_rng(5)
    outcomes = (draw.random((200, 2)) < [0.55, 0.7]).astype(int)
    ours = bootstrap([(one, 1, other, 1) for one, other in outcomes.tolist()], range(200))
    difference = (outcomes[:, 1] - outcomes[:, 0]).astype(float)
    level = 1 - 2 * expanded_tail(200)
    theirs = scipy_bootstrap(
        (difference,), np.mean, confidence_level=level, n_resamples=10_000, method="percentile", rng=draw
    )
    # A quantile of 10,000 folds at 2.5% errs by 0.027 standard deviations, the difference of two by 0.038; and the
    # resampled difference moves by steps of 1/200.
    tolerance = 4 * 0.038 * theirs.standard_error + 1 / 200
    assert ours["low"] == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert ours["high"] == pytest.approx(theirs.confidence_interval.high, abs=tolerance)
    assert ours["high"] - ours["low"] == pytest.approx(2 * 1.975 * theirs.standard_error, rel=0.06)


def test_the_interval_agrees_with_the_exact_distribution_over_all_resamples() -> None:
    # Of 200 rows, 20 gain, 8 lose: the resampled net gain is the sum of 200 draws, whose distribution is a convolution.
    rows = [(0, 1, 1, 1)] * 20 + [(1, 1, 0, 1)] * 8 + [(1, 1, 1, 1)] * 172
    one_draw, total = np.array([8, 172, 20]) / 200, np.ones(1)
    for _ in rows:
        total = np.convolve(total, one_draw)
    reached = np.cumsum(total)
    tail = expanded_tail(200)
    exact = [(int(np.searchsorted(reached, share)) - 200) / 200 for share in (tail, 1 - tail)]
    found = bootstrap(rows, range(200))
    assert [found["low"], found["high"]] == pytest.approx(exact, abs=1 / 200 + 1e-12)


def test_few_clusters_move_the_quantiles_outwards_and_many_do_not() -> None:
    assert expanded_tail(100_000) == pytest.approx(0.025, abs=1e-5)
    assert expanded_tail(20) == pytest.approx(norm.cdf(-math.sqrt(20 / 19) * 2.093), abs=1e-4)
    assert expanded_tail(5) < expanded_tail(20) < 0.025


def test_numerators_and_denominators_of_uneven_clusters_are_resampled_together() -> None:
    # Clusters differ in rate and size; the statistic is a ratio of sums, not a mean of ratios.
    draw = np.random.default_rng(3)
    sizes = draw.integers(1, 6, 60)
    rows = [(int(draw.integers(0, s + 1)), int(s), int(draw.integers(0, s + 1)), int(s)) for s in sizes]
    found = bootstrap(rows, range(60))

    def statistic(a: Any, b: Any, size: Any, axis: int = -1) -> Any:
        return (b.sum(axis) - a.sum(axis)) / size.sum(axis)

    columns = np.array(rows, dtype=float)
    theirs = scipy_bootstrap(
        (columns[:, 0], columns[:, 2], columns[:, 1]),
        statistic,
        paired=True,
        confidence_level=1 - 2 * expanded_tail(60),
        n_resamples=10_000,
        method="percentile",
        rng=draw,
    )
    tolerance = 5 * 0.038 * float(theirs.standard_error)
    assert found["low"] == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert found["high"] == pytest.approx(theirs.confidence_interval.high, abs=tolerance)


def coverage(data_sets: int, folds: int, *, clusters: int, sigma: float, seed: int) -> float:
    """How often the interval covers the true difference, over simulated data of 200 rows in uneven clusters.

    Within a cluster both models share one normal effect on the logit scale, and each model adds its own. So the rows of
        a cluster are correlated in both models and in their difference.
    """
    draw = np.random.default_rng(seed)
    logits = np.array([-0.4, 0.6])
    effects = draw.normal(size=(400_000, 1)) * sigma + draw.normal(size=(400_000, 2)) * sigma
    truth = float(np.diff((1 / (1 + np.exp(-logits - effects))).mean(axis=0))[0])
    held = 0
    for n in range(data_sets):
        cluster = np.concatenate([np.arange(clusters), draw.integers(0, clusters, 200 - clusters)])
        effect = draw.normal(size=(clusters, 1)) * sigma + draw.normal(size=(clusters, 2)) * sigma
        chances = 1 / (1 + np.exp(-logits - effect[cluster]))  # [rows, models]
        right = (draw.random((200, 2)) < chances).astype(int)
        rows = [(one, 1, other, 1) for one, other in right.tolist()]
        found = bootstrap(rows, cluster.tolist(), folds, seed=n)
        held += found["low"] <= truth <= found["high"]
    return held / data_sets


@pytest.mark.parametrize("clusters", [100, 20])
def test_the_interval_covers_the_truth_in_93_to_97_percent_of_clustered_data(clusters: int) -> None:
    assert 0.93 <= coverage(400, 500, clusters=clusters, sigma=0.8, seed=clusters) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.3, 0.8, 1.5])
@pytest.mark.parametrize("clusters", [100, 40, 20])
def test_coverage_over_thousands_of_data_sets(clusters: int, sigma: float) -> None:
    assert 0.93 <= coverage(4000, 1000, clusters=clusters, sigma=sigma, seed=clusters) <= 0.97


def test_resampling_single_rows_gives_intervals_that_are_too_narrow() -> None:
    """Shows that the simulation above would detect a method that ignores clusters."""
    draw = np.random.default_rng(1)
    cluster = np.repeat(np.arange(20), 10)
    ratios = []
    for _ in range(40):
        chances = 1 / (1 + np.exp(-draw.normal(size=(20, 2))[cluster] * 1.5))
        rows = [(one, 1, other, 1) for one, other in (draw.random((200, 2)) < chances).astype(int).tolist()]
        by_row, by_cluster = bootstrap(rows, range(200), 500), bootstrap(rows, cluster.tolist(), 500)
        ratios.append((by_cluster["high"] - by_cluster["low"]) / (by_row["high"] - by_row["low"]))
    assert np.mean(ratios) > 1.4


def test_ten_thousand_resamples_of_ten_thousand_rows_take_about_a_second() -> None:
    draw = np.random.default_rng(2)
    rows = [(one, 1, other, 1) for one, other in draw.integers(0, 2, (10_000, 2)).tolist()]
    started = time.process_time()
    bootstrap(rows, draw.integers(0, 3000, 10_000).tolist())
    # 0.2 s of processor time; the bound is far below what a loop over folds takes (a minute).
    assert time.process_time() - started < 3
