"""Two models on the same rows: the difference between their headline rates, its interval, and an exact test of it.

In: two models' scores of the same examples. Out: the dictionaries under `compare` in metrics.json, one for each
headline rate. The interval is a paired bootstrap over whole clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from toolhone.errors import UserError
from toolhone.rates import DIFFERENCE_FOLDS, bootstrap, mcnemar, rate_difference
from toolhone.records import Score

Counts = tuple[int, int]
"""What a row adds to a rate's numerator and denominator."""

HEADLINE: dict[str, Callable[[Score], Counts]] = {
    "exact_match": lambda score: (int(score.exact), 1),
    "tool_name_accuracy": lambda score: (int(score.names_right), 1),
    "argument_accuracy": lambda score: (sum(match.right for match in score.matches), len(score.matches)),
}
"""The headline rates: exact match, tool names, and arguments over gold calls whose tool was called."""

_BY_ROW = ("exact_match", "tool_name_accuracy")  # yes or no for every row, as McNemar's test needs


def compare_all(scores_by_model: Mapping[str, Sequence[Score]]) -> list[dict[str, Any]]:
    """Every pair of models, in the order given, in every headline rate; none for one model alone.

    Each entry has `value`, the second's rate less the first's (None if either has none), with the interval `low` and
    `high` of the coarsest clustering, which is named in `clustered_by`; `intervals`, one for each clustering; and
    `mcnemar` (`first_only` and `second_only`, the rows that one model alone has right, and `p_value`), or None for a
    rate that is not by row. McNemar's test assumes independent rows; if they are not, believe the interval.

    Raises:
        UserError: if a row is scored twice, or models were not scored on the same rows with the same gold.
    """
    by_id = _same_rows(scores_by_model)
    # In the order of ids, so that the order of files changes nothing, not even which folds are drawn.
    ids = sorted(next(iter(by_id.values()), {}))
    return [
        found
        for first, second in combinations(by_id, 2)
        for found in _compare(first, second, [(by_id[first][id_], by_id[second][id_]) for id_ in ids])
    ]


def _compare(first: str, second: str, pairs: Sequence[tuple[Score, Score]]) -> list[dict[str, Any]]:
    sources = sorted({score.gold_source for score, _ in pairs if score.gold_source is not None})
    clusters = clusterings([score for score, _ in pairs])
    entries: list[dict[str, Any]] = []
    for measure, counts in HEADLINE.items():
        rows = [(*counts(one), *counts(other)) for one, other in pairs]
        total = np.array(rows, dtype=np.int64).reshape(-1, 4).sum(axis=0)
        intervals = [{"clustered_by": name, **bootstrap(rows, of_row)} for name, of_row in clusters]
        first_only, second_only = rows.count((1, 1, 0, 1)), rows.count((0, 1, 1, 1))
        test = {"first_only": first_only, "second_only": second_only, "p_value": mcnemar(first_only, second_only)}
        entries.append(
            {
                "measure": measure,
                "first": first,
                "second": second,
                "rows": len(pairs),
                "agreement_with": ", ".join(sources) or None,
                "value": float(rate_difference(total)) if total[1] and total[3] else None,
                "low": intervals[-1]["low"],
                "high": intervals[-1]["high"],
                "clustered_by": intervals[-1]["clustered_by"],
                "intervals": intervals,
                "folds": DIFFERENCE_FOLDS,
                "mcnemar": test if measure in _BY_ROW else None,
            }
        )
    return entries


def _same_rows(scores_by_model: Mapping[str, Sequence[Score]]) -> dict[str, dict[str, Score]]:
    """Each model's scores by id, if all are of the same rows with the same gold."""
    by_id: dict[str, dict[str, Score]] = {}
    for model, scores in scores_by_model.items():
        rows = by_id.setdefault(model, {})
        for score in scores:
            if score.id in rows:
                raise UserError(f"{model}: {score.id} is scored twice, expected each row once; score it again")
            rows[score.id] = score
    for (first, ours), (second, theirs) in pairwise(by_id.items()):
        alone = {first: sorted(ours.keys() - theirs.keys()), second: sorted(theirs.keys() - ours.keys())}
        found = [f"{len(ids)} are in {model} alone (such as {ids[0]})" for model, ids in alone.items() if ids]
        if found:
            raise UserError(
                f"{first} and {second} cannot be compared, for they were not scored on the same rows: "
                f"{', '.join(found)}; predict and score both on one set of rows"
            )
        unlike = [id_ for id_ in ours if ours[id_].gold != theirs[id_].gold]
        if unlike:
            raise UserError(
                f"{first} and {second} cannot be compared, for their gold differs in {len(unlike)} rows "
                f"(such as {unlike[0]}); score both against one set of rows"
            )
    return by_id


def clusterings(scores: Sequence[Score]) -> list[tuple[str, list[Hashable]]]:
    """The cluster of each row: its conversation, and if any row states one, its template. A row without a template
    stays with its conversation."""
    conversations: list[Hashable] = [score.conversation_id for score in scores]
    if not any("template" in score.meta for score in scores):
        return [("conversation", conversations)]
    templates: list[Hashable] = [
        ("template", str(score.meta["template"])) if "template" in score.meta else score.conversation_id
        for score in scores
    ]
    return [("conversation", conversations), ("template", templates)]
