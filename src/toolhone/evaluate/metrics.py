"""Compute the figures of metrics.json for each model and each pair of models.

In: scores of one or more models for the same examples. Out: dictionaries in a fixed order, so that the same scores
give the same text. Every rate has its numerator, its denominator and a 95% interval (`rates.rate`).

To add a rate, add a line to `RATES` and its wording to a group in report/wording.py; reports and tables then show it.
The rates in `HEADLINE` are also compared between models.

Figures by call or argument skip rows whose gold is "any", because it lists no calls; only invented_tool includes them.
An optional argument counts as gold only if it was given. The readable calls of a partial row count like any others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from toolhone.data.escalation import ESCALATE
from toolhone.errors import UserError
from toolhone.rates import DIFFERENCE_FOLDS, Rate, bootstrap, f1, mcnemar, rate, rate_difference, rate_of, spread
from toolhone.records import Score

Counts = tuple[int, int]
"""The amounts that a row adds to a rate's numerator and denominator."""

HEADLINE: dict[str, Callable[[Score], Counts]] = {
    "exact_match": lambda score: (int(score.exact), 1),
    "tool_name_accuracy": lambda score: (int(score.names_right), 1),
    "argument_accuracy": lambda score: (sum(match.right for match in score.matches), len(score.matches)),
}
"""The headline rates: exact match, tool names, and arguments over gold calls whose tool was called."""

_BY_ROW = ("exact_match", "tool_name_accuracy")  # yes or no for every row, as McNemar's test needs

NONE, MALFORMED, UNKNOWN = "<none>", "<malformed>", "<unknown>"
"""The labels of a confusion matrix beside the tools: no call; a call that cannot be read; a tool not offered."""

UNSTATED = "unstated"  # the group of rows without the property


def metrics(
    scores_by_model: Mapping[str, Sequence[Score]],
    provenance: Mapping[str, Any],
    seen_tools: Collection[str] | None = None,
) -> dict[str, Any]:
    """Return the content of metrics.json: the models in the given order, and each pair of them under `compare`.

    `provenance` records what the figures were made from. `seen_tools` are the tools that the training rows call, for
    separate figures on rows with and without other tools.

    Raises:
        UserError: if a model has an example twice, or the models' examples or gold differ.
    """
    comparisons = compare_all(scores_by_model)
    models = {model: aggregate(scores, seen_tools) for model, scores in scores_by_model.items()}
    return {"models": models, "compare": comparisons, "provenance": dict(provenance)}


def aggregate(scores: Sequence[Score], seen_tools: Collection[str] | None = None) -> dict[str, Any]:
    """Return all figures of one model. `rules` counts the rows in which each rule of the policy fired."""
    sources = sorted({score.gold_source for score in scores if score.gold_source is not None})
    sampled_from = next((score.sampled_from for score in scores), None)
    return {
        "rows": len(scores),
        **({} if sampled_from is None else {"sampled_from": sampled_from}),
        "agreement_with": ", ".join(sources) or None,
        **{name: _headline(scores, counts) for name, counts in HEADLINE.items()},
        **_arguments(scores),
        **{name: over(scores) for name, over in RATES.items()},
        "rules": dict(sorted(Counter(rule for score in scores for rule in set(score.rules)).items())),
        "repaired": _repaired(scores),
        "escalation": _escalation(scores),
        "per_tool": _per_tool(scores),
        "confusion": _confusion(scores),
        "by": _by(scores, seen_tools),
        "prompt_tokens": spread([score.prompt_tokens for score in scores]),
        "completion_tokens": spread([score.completion_tokens for score in scores]),
        "latency_ms": spread([score.latency_ms for score in scores]),
    }


def _headline(scores: Sequence[Score], counts: Callable[[Score], Counts]) -> Rate:
    rows = [counts(score) for score in scores]
    return rate(sum(numerator for numerator, _ in rows), sum(denominator for _, denominator in rows))


def _arguments(scores: Sequence[Score]) -> dict[str, Any]:
    """Return precision over the arguments of all predicted calls, and recall over those of all gold calls. The three
    `_given_name` figures and the error rates are over matched calls only, so that a wrong tool does not count twice."""
    listed = [score for score in scores if score.gold.status != "any"]
    matches = [match for score in listed for match in score.matches]
    faults = Counter(error.fault for match in matches for error in match.errors)
    right = sum(match.arguments_right for match in matches)
    matched_gold = right + faults["wrong"] + faults["missing"]
    matched_predicted = right + faults["wrong"] + faults["invented"]
    missed = [score.gold.calls[index] for score in listed for index in score.missing_calls]
    gold = matched_gold + sum(name not in call.optional for call in missed for name in call.arguments)
    extra = [score.calls[index] for score in listed for index in score.extra_calls]
    predicted = matched_predicted + sum(len(call.arguments) for call in extra)
    return {
        "argument_precision": rate(right, predicted),
        "argument_recall": rate(right, gold),
        "argument_f1": f1(right, predicted, gold),
        "argument_precision_given_name": rate(right, matched_predicted),
        "argument_recall_given_name": rate(right, matched_gold),
        "argument_f1_given_name": f1(right, matched_predicted, matched_gold),
        "missing_argument_rate": rate(faults["missing"], matched_gold),
        "invented_argument_rate": rate(faults["invented"], matched_predicted),
        "wrong_argument_rate": rate(faults["wrong"], matched_gold),
    }


RATES: dict[str, Callable[[Sequence[Score]], Rate]] = {
    "schema_valid": lambda rows: rate_of(row.schema_valid for row in rows if row.schema_valid is not None),
    "malformed": lambda rows: rate_of(row.status == "malformed" for row in rows),
    "truncated": lambda rows: rate_of(row.status == "truncated" for row in rows),
    "partial": lambda rows: rate_of(row.status == "partial" for row in rows),
    "over_call": lambda rows: rate_of(bool(row.calls) for row in rows if row.gold.status == "none"),
    "under_call": lambda rows: rate_of(row.status == "none" for row in rows if row.gold.status != "none"),
    "invented_tool": lambda rows: rate_of(call.name not in row.tools for row in rows for call in row.calls),
    "missing_calls": lambda rows: rate_of(bool(row.missing_calls) for row in rows if row.gold.status == "calls"),
    "extra_calls": lambda rows: rate_of(bool(row.extra_calls) for row in rows if row.gold.status == "calls"),
}
"""Rates of the model's behaviour, in addition to the headline rates and those of arguments."""


def _repaired(scores: Sequence[Score]) -> dict[str, Any] | None:
    """Return the figures if texts with a fault are read with repairs. `rows` counts the repaired rows. All other
    figures are of the strict reading. None for scores of an older version, which do not record repairs."""
    if any(score.failure is not None and score.repaired is None for score in scores):
        return None
    repairs = [score.repaired.repairs for score in scores if score.repaired and score.repaired.repairs]
    return {
        "exact_match": rate_of((score.repaired or score).exact for score in scores),
        "tool_name_accuracy": rate_of((score.repaired or score).names_right for score in scores),
        "rows": len(repairs),
        "repairs": dict(sorted(sum(map(Counter, repairs), Counter[str]()).items())),
    }


def _escalation(scores: Sequence[Score]) -> dict[str, Any] | None:
    """Return how often `escalate` is called in rows that expect it and in all others, and exact match in rows without
    that call. None if no row offers or expects it."""
    expected = [any(call.name == ESCALATE for call in score.gold.calls) for score in scores]
    if not any(expected) and not any(ESCALATE in score.tools for score in scores):
        return None
    made = [any(call.name == ESCALATE for call in score.calls) for score in scores]
    rows = list(zip(scores, expected, made, strict=True))
    return {
        "handed_over": rate_of(escalated for _, due, escalated in rows if due),
        "needless": rate_of(escalated for _, due, escalated in rows if not due),
        "kept_exact_match": rate_of(score.exact for score, _, escalated in rows if not escalated),
    }


def _per_tool(scores: Sequence[Score]) -> dict[str, Any]:
    """Return for each tool that is expected, or offered and called: how often it is expected (`support`) and called,
    and the rates of these calls."""
    listed = [score for score in scores if score.gold.status != "any"]
    support = Counter(call.name for score in listed for call in score.gold.calls)
    called = Counter(call.name for score in listed for call in score.calls if call.name in score.tools)
    matches = [(score.gold.calls[match.gold].name, match.right) for score in listed for match in score.matches]
    matched = Counter(tool for tool, _ in matches)
    right = Counter(tool for tool, is_right in matches if is_right)
    return {
        tool: {
            "support": support[tool],
            "called": called[tool],
            "name_recall": rate(matched[tool], support[tool]),
            "name_precision": rate(matched[tool], called[tool]),
            "exact": rate(right[tool], support[tool]),
        }
        for tool in sorted(support | called)
    }


def _confusion(scores: Sequence[Score]) -> dict[str, Any]:
    """Return a matrix of counts, with gold in rows and predictions in columns. `_cells` defines what is counted."""
    cells = Counter(cell for score in scores if score.gold.status != "any" for cell in _cells(score))
    others = (NONE, MALFORMED, UNKNOWN)
    labels = [*sorted({label for cell in cells for label in cell}.difference(others)), *others]
    return {"labels": labels, "matrix": [[cells[gold, predicted] for predicted in labels] for gold in labels]}


def _cells(score: Score) -> Iterator[tuple[str, str]]:
    """Yield pairs of gold and prediction.

    A matched call is on the diagonal. Unmatched gold calls are paired, in order, with unmatched predicted calls, then
    with a call that could not be read, if there is one, then with no call. The remaining predicted calls are paired
    with no call. A row that rightly calls nothing counts once, as no call for no call.
    """
    for match in score.matches:
        name = score.gold.calls[match.gold].name
        yield name, name
    unread = score.status in ("malformed", "truncated", "partial")
    missing = [score.gold.calls[index].name for index in score.missing_calls]
    called = [score.calls[index].name for index in score.extra_calls]
    extra = [name if name in score.tools else UNKNOWN for name in called]
    if unread and len(missing) <= len(extra):
        yield NONE, MALFORMED
    longer = max(len(missing), len(extra))
    missing += [NONE] * (longer - len(missing))
    extra += [MALFORMED if unread else NONE] * (longer - len(extra))
    yield from zip(missing, extra, strict=True)
    if not score.gold.calls and score.status == "none":
        yield NONE, NONE


def _by(scores: Sequence[Score], seen_tools: Collection[str] | None) -> dict[str, Any]:
    """Return exact match and tool names by group. A property that no row has is left out."""

    def stated(key: str) -> list[str | None]:
        return [str(score.meta[key]) if key in score.meta else None for score in scores]

    properties: dict[str, list[str | None]] = {
        "language": stated("language"),
        "calls": ["any" if score.gold.status == "any" else str(len(score.gold.calls)) for score in scores],
        "turns": stated("turn"),
        "tools": [str(len(score.tools)) for score in scores],
        "source": stated("source"),
    }
    if seen_tools is not None:
        called = [{call.name for call in score.gold.calls} for score in scores]
        properties["seen"] = [
            ("seen" if names.issubset(seen_tools) else "unseen") if names else None for names in called
        ]
    return {name: _groups(scores, values) for name, values in properties.items() if set(values) != {None}}


def _groups(scores: Sequence[Score], values: Sequence[str | None]) -> dict[str, Any]:
    groups: dict[str, list[Score]] = {}
    for score, value in zip(scores, values, strict=True):
        groups.setdefault(value or UNSTATED, []).append(score)
    return {
        value: {
            "exact_match": rate_of(score.exact for score in groups[value]),
            "tool_name_accuracy": rate_of(score.names_right for score in groups[value]),
        }
        # Numbers in increasing order, then words.
        for value in sorted(groups, key=lambda value: (not value.isdecimal(), len(value) * value.isdecimal(), value))
    }


# Two models on the same rows


def compare_all(scores_by_model: Mapping[str, Sequence[Score]]) -> list[dict[str, Any]]:
    """Compare every pair of models, in the given order, in every headline rate. Return an entry for each pair and rate.

    - `value`: the second model's rate minus the first's (None if either has none).
    - `low`, `high`: the interval of the coarsest clustering, which `clustered_by` names.
    - `intervals`: the interval of each clustering.
    - `mcnemar`: the rows that only one model has right, and `p_value`; None for a rate that is not by row. McNemar's
      test
      assumes independent rows; if they are dependent, use the interval.

    Raises:
        UserError: if a row is scored twice, or models were not scored on the same rows with the same gold.
    """
    by_id = _comparable(scores_by_model)
    return [
        found
        for first, second in combinations(by_id, 2)
        for found in _compare(first, second, _pairs(by_id[first], by_id[second]))
    ]


def _pairs(first: Mapping[str, Score], second: Mapping[str, Score]) -> list[tuple[Score, Score]]:
    """Return both models' scores of the rows that both answered, in the order of ids. So the order of files changes
    nothing, not even which folds are drawn."""
    return [(first[id_], second[id_]) for id_ in sorted(first.keys() & second.keys())]


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


def _comparable(scores_by_model: Mapping[str, Sequence[Score]]) -> dict[str, dict[str, Score]]:
    """Return each model's scores by id, after checking that all are of the same rows with the same gold. A model that
    answered a sample may lack rows, but must share some with each other model."""
    by_id: dict[str, dict[str, Score]] = {}
    for model, scores in scores_by_model.items():
        rows = by_id.setdefault(model, {})
        for score in scores:
            if score.id in rows:
                raise UserError(f"{model}: {score.id} is scored twice, expected each row once; score it again")
            rows[score.id] = score
    sampled = {model for model, rows in by_id.items() if any(score.sampled_from is not None for score in rows.values())}
    for (first, ours), (second, theirs) in combinations(by_id.items(), 2):
        pairs = _pairs(ours, theirs)
        alone = {first: sorted(ours.keys() - theirs.keys()), second: sorted(theirs.keys() - ours.keys())}
        for model, other in ((first, second), (second, first)):
            if other in sampled and pairs:
                alone[model] = []
        found = [f"{len(ids)} are in {model} alone (such as {ids[0]})" for model, ids in alone.items() if ids]
        if found:
            raise UserError(
                f"{first} and {second} cannot be compared: they were not scored on the same rows: "
                f"{', '.join(found)}; predict and score both on one set of rows"
            )
        unlike = [one.id for one, other in pairs if one.gold != other.gold]
        if unlike:
            raise UserError(
                f"{first} and {second} cannot be compared: their gold differs in {len(unlike)} rows "
                f"(such as {unlike[0]}); score both against one set of rows"
            )
    return by_id


def clusterings(scores: Sequence[Score]) -> list[tuple[str, list[Hashable]]]:
    """Return the clusterings and the cluster of each row in them: by conversation, and by template if any row has one.
    A row without a template is clustered by its conversation."""
    conversations: list[Hashable] = [score.conversation_id for score in scores]
    if not any("template" in score.meta for score in scores):
        return [("conversation", conversations)]
    templates: list[Hashable] = [
        ("template", str(score.meta["template"])) if "template" in score.meta else score.conversation_id
        for score in scores
    ]
    return [("conversation", conversations), ("template", templates)]
