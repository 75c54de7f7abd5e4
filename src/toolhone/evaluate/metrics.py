"""Figures over scores: what metrics.json says of each model.

In: scores of one model or several, over the same examples. Out: dictionaries in a fixed order, so that the same scores
give the same text. Every rate carries its numerator, its denominator and a 95% interval (`rates.rate`).

The denominators:
- exact_match, tool_name_accuracy, malformed, truncated, partial: all rows.
- argument_accuracy: gold calls whose tool was called. argument_precision: arguments of all predicted calls.
  argument_recall: arguments of all gold calls. The `_given_name` three: the same over matched calls alone, so that
  choosing a wrong tool does not count a second time.
- missing_argument_rate, wrong_argument_rate: arguments of matched gold calls. invented_argument_rate: arguments of
  matched predicted calls.
- schema_valid: rows in which a call could be read. invented_tool: predicted calls.
- over_call (some call could be read): rows whose gold is none. under_call (status none): rows whose gold is some call.
- missing_calls, extra_calls (one at least): rows whose gold lists calls.
- rules: in how many rows each leniency of the policy fired.
- repaired: exact_match and tool_name_accuracy over all rows, with the texts that strict reading finds a fault in read
  once more with repairs; in how many rows (`rows`) repairs gave calls, and how often each fired. None where scores do
  not record it, as those of older versions. All other figures are of the strict reading.
- escalation: the reserved call `escalate` as a class of its own. handed_over (recall): of the rows whose gold is that
  call, those in which it was made. needless: of all other rows, those in which it was. kept_exact_match: of the rows in
  which it was not made, those that are right: what a user of the model sees who hands over where it says so. None
  where no row offers or expects it.
An optional argument counts as the gold's only where it was given. The calls that could be read of a partial row count
like any others. Rows whose gold is "any" list no calls, and stay out of all that is counted by call or argument but
for invented_tool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from toolhone.data.escalation import ESCALATE
from toolhone.evaluate.compare import compare_all
from toolhone.rates import f1, rate, rate_of, spread
from toolhone.records import Score

NONE, MALFORMED, UNKNOWN = "<none>", "<malformed>", "<unknown>"
"""What stands in a confusion matrix beside the tools: no call; a call that cannot be read; a tool not offered."""

UNSTATED = "unstated"
"""The group of rows that do not say what they are grouped by, where others do."""


def metrics(
    scores_by_model: Mapping[str, Sequence[Score]],
    provenance: Mapping[str, Any],
    seen_tools: Collection[str] | None = None,
) -> dict[str, Any]:
    """The content of metrics.json, with the models in the order given, and under `compare` each pair of them.

    Args:
        scores_by_model: each model's scores, over the same examples.
        provenance: what the figures were made from and with.
        seen_tools: the tools that training called, to report on them and on others apart.

    Raises:
        UserError: where a model has an example twice, or not all have the same ones with the same gold.
    """
    comparisons = compare_all(scores_by_model)
    models = {model: aggregate(scores, seen_tools) for model, scores in scores_by_model.items()}
    return {"models": models, "compare": comparisons, "provenance": dict(provenance)}


def aggregate(scores: Sequence[Score], seen_tools: Collection[str] | None = None) -> dict[str, Any]:
    """All figures of one model. See the module's docstring for what each rate is taken over."""
    sources = sorted({score.gold_source for score in scores if score.gold_source is not None})
    return {
        "rows": len(scores),
        "agreement_with": ", ".join(sources) or None,
        "exact_match": rate_of(score.exact for score in scores),
        "tool_name_accuracy": rate_of(score.names_right for score in scores),
        **_arguments(scores),
        **_behaviour(scores),
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


def _arguments(scores: Sequence[Score]) -> dict[str, Any]:
    listed = [score for score in scores if score.gold.status != "any"]
    matches = [match for score in listed for match in score.matches]
    faults = Counter(error.fault for match in matches for error in match.errors)
    right = sum(match.arguments_right for match in matches)
    matched_gold = right + faults["wrong"] + faults["missing"]
    matched_predicted = right + faults["wrong"] + faults["invented"]
    gold = matched_gold + sum(_expected_arguments(score, index) for score in listed for index in score.missing_calls)
    predicted = matched_predicted + sum(
        len(score.calls[index].arguments) for score in listed for index in score.extra_calls
    )
    return {
        "argument_accuracy": rate_of(match.right for match in matches),
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


def _expected_arguments(score: Score, index: int) -> int:
    call = score.gold.calls[index]
    return sum(name not in call.optional for name in call.arguments)


def _behaviour(scores: Sequence[Score]) -> dict[str, Any]:
    listed = [score for score in scores if score.gold.status == "calls"]
    return {
        "schema_valid": rate_of(score.schema_valid for score in scores if score.schema_valid is not None),
        "malformed": rate_of(score.status == "malformed" for score in scores),
        "truncated": rate_of(score.status == "truncated" for score in scores),
        "partial": rate_of(score.status == "partial" for score in scores),
        "over_call": rate_of(bool(score.calls) for score in scores if score.gold.status == "none"),
        "under_call": rate_of(score.status == "none" for score in scores if score.gold.status != "none"),
        "invented_tool": rate_of(call.name not in score.tools for score in scores for call in score.calls),
        "missing_calls": rate_of(bool(score.missing_calls) for score in listed),
        "extra_calls": rate_of(bool(score.extra_calls) for score in listed),
    }


def _repaired(scores: Sequence[Score]) -> dict[str, Any] | None:
    if any(score.failure is not None and score.repaired is None for score in scores):
        return None
    counts = Counter[str]()
    for score in scores:
        counts.update(score.repaired.repairs if score.repaired else {})
    return {
        "exact_match": rate_of((score.repaired or score).exact for score in scores),
        "tool_name_accuracy": rate_of((score.repaired or score).names_right for score in scores),
        "rows": sum(bool(score.repaired and score.repaired.repairs) for score in scores),
        "repairs": dict(sorted(counts.items())),
    }


def _escalation(scores: Sequence[Score]) -> dict[str, Any] | None:
    expected = [any(call.name == ESCALATE for call in score.gold.calls) for score in scores]
    if not any(expected) and not any(ESCALATE in score.tools for score in scores):
        return None
    made = [any(call.name == ESCALATE for call in score.calls) for score in scores]
    rows = list(zip(scores, expected, made, strict=True))
    return {
        "handed_over": rate_of(handed for _, due, handed in rows if due),
        "needless": rate_of(handed for _, due, handed in rows if not due),
        "kept_exact_match": rate_of(score.exact for score, _, handed in rows if not handed),
    }


def _per_tool(scores: Sequence[Score]) -> dict[str, Any]:
    """For each tool that is expected or, having been offered, called: how often it is expected (`support`) and called,
    the shares of its gold calls that were called and that were right, and the share of its calls that were expected."""
    listed = [score for score in scores if score.gold.status != "any"]
    support = Counter(call.name for score in listed for call in score.gold.calls)
    called = Counter(call.name for score in listed for call in score.calls if call.name in score.tools)
    matched: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for score in listed:
        for match in score.matches:
            matched[score.gold.calls[match.gold].name] += 1
            right[score.gold.calls[match.gold].name] += match.right
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
    """A matrix of counts, gold in rows, predicted in columns; see `_cells` for what is counted."""
    cells = Counter(cell for score in scores if score.gold.status != "any" for cell in _cells(score))
    labels = [
        *sorted({label for cell in cells for label in cell} - {NONE, MALFORMED, UNKNOWN}),
        NONE,
        MALFORMED,
        UNKNOWN,
    ]
    return {"labels": labels, "matrix": [[cells[gold, predicted] for predicted in labels] for gold in labels]}


def _cells(score: Score) -> Iterator[tuple[str, str]]:
    """What each gold call was taken for.

    A matched call stands on the diagonal. The gold calls left over are held against the predicted calls left over, in
    order; then against the call that could not be read, where there is one; then against no call. Predicted calls
    still left over, or a call that could not be read, stand against no gold call. A row that rightly calls nothing is
    one count of no call against no call.
    """
    for match in score.matches:
        name = score.gold.calls[match.gold].name
        yield name, name
    unread = score.status in ("malformed", "truncated", "partial")
    missing = [score.gold.calls[index].name for index in score.missing_calls]
    extra = [score.calls[index].name for index in score.extra_calls]
    extra = [name if name in score.tools else UNKNOWN for name in extra]
    yield from zip(missing, extra, strict=False)
    both = min(len(missing), len(extra))
    for name in missing[both:]:
        yield name, MALFORMED if unread else NONE
    for name in extra[both:]:
        yield NONE, name
    if unread and not missing[both:]:
        yield NONE, MALFORMED
    if not score.gold.calls and score.status == "none":
        yield NONE, NONE


def _by(scores: Sequence[Score], seen_tools: Collection[str] | None) -> dict[str, Any]:
    """Exact match and tool names by group. A property that no row states is left out."""
    properties: dict[str, Callable[[Score], str | None]] = {
        "language": lambda score: _stated(score, "language"),
        "calls": lambda score: "any" if score.gold.status == "any" else str(len(score.gold.calls)),
        "turns": lambda score: _stated(score, "turn"),
        "tools": lambda score: str(len(score.tools)),
        "source": lambda score: _stated(score, "source"),
    }
    if seen_tools is not None:
        properties["seen"] = lambda score: _seen(score, seen_tools)
    return {
        name: _groups(scores, group)
        for name, group in properties.items()
        if any(group(score) is not None for score in scores)
    }


def _groups(scores: Sequence[Score], group: Callable[[Score], str | None]) -> dict[str, Any]:
    groups: dict[str, list[Score]] = {}
    for score in scores:
        groups.setdefault(group(score) or UNSTATED, []).append(score)
    return {
        value: {
            "exact_match": rate_of(score.exact for score in groups[value]),
            "tool_name_accuracy": rate_of(score.names_right for score in groups[value]),
        }
        # Numbers by their size, then words.
        for value in sorted(groups, key=lambda value: (not value.isdecimal(), len(value) * value.isdecimal(), value))
    }


def _stated(score: Score, key: str) -> str | None:
    return str(score.meta[key]) if key in score.meta else None


def _seen(score: Score, seen_tools: Collection[str]) -> str | None:
    if not score.gold.calls:
        return None
    return "seen" if all(call.name in seen_tools for call in score.gold.calls) else "unseen"
