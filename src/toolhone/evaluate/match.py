"""Score one prediction: read its text, match its calls with the gold calls, and report what is right.

In: an `Example` and the model's `Prediction`. Out: a `Score`. `gold_faults` scores the gold itself, so
that a row that no answer can get right counts against no model.

- gold "calls": tool names are right if the status is calls and the calls have the names of the gold calls, with none
  missing or extra. It is an exact match if all arguments are right too.
- gold "none": the status must be none. Malformed, truncated or partial counts as an attempted call.
- gold "any": the status must be calls, with tools that were offered. An exact match needs valid arguments too.

In a partial turn, names and exact match are wrong because one call is unknown; reports show how the others match.
Policies other than `strict` accept more, by named rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from toolhone.chat.parse import parse_repaired
from toolhone.errors import UserError
from toolhone.evaluate.values import BFCL, NO_RULES, STRICT, Rule, values_match
from toolhone.records import (
    ArgumentError,
    CallMatch,
    Example,
    FormatName,
    Gold,
    GoldCall,
    Prediction,
    Repaired,
    Score,
    ScoringPolicy,
    Status,
    Tool,
    ToolCall,
)
from toolhone.tool_schema import Schema, arguments_valid, filled_nulls, subschemas_of, written_path


class TurnMatch(NamedTuple):
    """The comparison of a turn's calls with the gold. The fields are those of `Score`."""

    matches: tuple[CallMatch, ...]
    missing_calls: tuple[int, ...]
    extra_calls: tuple[int, ...]
    names_right: bool
    exact: bool
    schema_valid: bool | None
    rules: tuple[str, ...] = ()


def score(example: Example, prediction: Prediction, format: FormatName, policy: ScoringPolicy = STRICT) -> Score:
    """Read and score one prediction. A text with a fault is also read and scored with repairs (`Score.repaired`).

    `format` is the chat format of predictions that do not record theirs.

    Raises:
        UserError: if the prediction is of another example, or a called tool's schema is unusable.
    """
    if prediction.id != example.id:
        raise UserError(f"{example.where}: the prediction of {prediction.id} was compared with {example.id}")
    tools, prose_end, format = example.tools_by_name, prediction.prose_end, prediction.format or format
    read = parse_repaired(prediction.text, format, prediction.finish_reason, tools=tools, prose_end=prose_end)
    turn = read.strict
    found = match_turn(example.gold, turn.status, turn.calls, example.tools, example.where, policy)
    repaired = None
    if turn.failure is not None:
        again, fixed = found, read.turn
        if read.repairs:
            again = match_turn(example.gold, fixed.status, fixed.calls, example.tools, example.where, policy)
        repaired = Repaired(dict(read.repairs), fixed.status, again.names_right, again.exact)
    return Score(
        id=example.id,
        conversation_id=example.conversation_id,
        model=prediction.model,
        status=turn.status,
        failure=turn.failure,
        calls=turn.calls,
        gold=example.gold,
        tools=tuple(tools),
        question=example.prompt[-1].content if example.prompt else "",
        text=prediction.text,
        finish_reason=prediction.finish_reason,
        prompt_tokens=prediction.prompt_tokens,
        completion_tokens=prediction.completion_tokens,
        latency_ms=prediction.latency_ms,
        gold_source=example.gold_source,
        # Figures are computed from scores alone, so a score has the properties to group by.
        meta={**example.meta, "turn": "later" if any(m.role == "assistant" for m in example.prompt) else "first"},
        repaired=repaired,
        **found._asdict(),
    )


def match_turn(
    gold: Gold,
    status: Status,
    calls: Sequence[ToolCall],
    tools: Sequence[Tool],
    where: str,
    policy: ScoringPolicy = STRICT,
) -> TurnMatch:
    """Compare the parsed turn with the gold. The message of a `UserError` begins with `where`."""
    schema_valid = _all_valid(calls, tools, where) if calls else None
    if gold.status == "any":
        # Any calls are accepted, so none is missing or extra.
        offered = {tool.name for tool in tools}
        names_right = status == "calls" and all(call.name in offered for call in calls)
        exact = names_right and schema_valid is True
        if policy == BFCL and status == "calls" and not exact:
            return TurnMatch((), (), (), True, True, schema_valid, ("any-call",))
        return TurnMatch((), (), (), names_right, exact, schema_valid)
    if gold.status == "none" and policy == BFCL and status not in ("none", "calls"):
        return TurnMatch((), (), (), True, True, schema_valid, ("unreadable-as-none",))
    pairs = _match_calls(gold.calls, calls, tools, policy)
    matches = tuple(match for match, _ in pairs)
    matched_gold, matched_calls = {match.gold for match in matches}, {match.predicted for match in matches}
    missing = tuple(i for i in range(len(gold.calls)) if i not in matched_gold)
    extra = tuple(i for i in range(len(calls)) if i not in matched_calls)
    names_right = status == gold.status and not missing and not extra
    exact = names_right and all(match.right for match in matches)
    fired = tuple(sorted({rule for _, rules in pairs for rule in rules})) if policy != STRICT else ()
    return TurnMatch(matches, missing, extra, names_right, exact, schema_valid, fired)


def _all_valid(calls: Sequence[ToolCall], tools: Sequence[Tool], where: str) -> bool:
    by_name = {tool.name: tool for tool in tools}
    return all(call.name in by_name and arguments_valid(call.arguments, by_name[call.name], where) for call in calls)


_NO_SCHEMA: Schema = {}


def _match_calls(
    gold: Sequence[GoldCall], calls: Sequence[ToolCall], tools: Sequence[Tool], policy: ScoringPolicy
) -> list[tuple[CallMatch, set[Rule]]]:
    """Pair gold calls with calls of the same name, by maximum-weight bipartite matching. Return the pairs in the gold's
    order, each with the rules that fired in it.

    The matching maximizes the number of fully right pairs, then the number of right arguments. Then it minimizes the
    number of wrong arguments, and last the distance between the calls' places in the turn.
    """
    schemas = {tool.name: tool.parameters for tool in tools}
    found: list[tuple[CallMatch, set[Rule]]] = []
    for name in dict.fromkeys(call.name for call in gold):
        rows = [i for i, call in enumerate(gold) if call.name == name]
        columns = [i for i, call in enumerate(calls) if call.name == name]
        if columns:
            schema = schemas.get(name, _NO_SCHEMA)
            pairs = [[_match_arguments(i, gold[i], j, calls[j], schema, policy) for j in columns] for i in rows]
            best = _best_pairs([[match for match, _ in line] for line in pairs])
            found += (pairs[row][column] for row, column in best)
    return sorted(found, key=lambda pair: pair[0].gold)


def _best_pairs(pairs: Sequence[Sequence[CallMatch]]) -> list[tuple[int, int]]:
    """Return the rows and columns of the best matching. Each criterion outweighs the sum of all later ones.

    Weights are exact up to 2**53. Above that, with hundreds of calls of one tool, ties may be decided differently.
    """
    if len(pairs) == len(pairs[0]) == 1:
        return [(0, 0)]
    from scipy.optimize import linear_sum_assignment  # slow to import, and most turns call each tool once

    flat = [match for row in pairs for match in row]
    size = min(len(pairs), len(pairs[0]))
    most_right = 1 + size * max(match.arguments_right for match in flat)
    most_wrong = 1 + size * max(len(match.errors) for match in flat)
    most_apart = 1 + size * max(len(pairs), len(pairs[0]))

    def weight(match: CallMatch, apart: int) -> int:
        right = match.right * most_right + match.arguments_right
        return (right * most_wrong - len(match.errors)) * most_apart - apart

    weights = np.array(
        [[weight(match, abs(row - column)) for column, match in enumerate(line)] for row, line in enumerate(pairs)],
        dtype=np.float64,
    )  # [gold calls, predicted calls]
    rows, columns = linear_sum_assignment(weights, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _match_arguments(
    gold_index: int, gold: GoldCall, index: int, call: ToolCall, parameters: Schema, policy: ScoringPolicy
) -> tuple[CallMatch, set[Rule]]:
    """Compare a call's arguments with the gold, and return the match and the rules that fired.

    A missing argument is wrong unless the gold lists it as optional. An explicit null is a value like any other. An
    argument that is not in the gold is wrong. The schema's defaults change nothing.
    """
    schema = subschemas_of(parameters)
    required = (parameters.get("required") or ()) if policy == BFCL else ()
    right = 0
    errors: list[ArgumentError] = []
    fired: set[Rule] = set()
    for name, accepted in gold.arguments.items():
        if name in call.arguments:
            good, rules = values_match(gold, name, call.arguments[name], schema, policy)
            fired |= rules
            right += good
            if not good:
                errors.append(ArgumentError(call.name, name, "wrong", accepted, call.arguments[name]))
        elif name not in gold.optional or name in required:
            errors.append(ArgumentError(call.name, name, "missing", accepted, None))
    for name in sorted(gold.blank & set(required)):
        if name not in gold.arguments and name not in call.arguments:
            errors.append(ArgumentError(call.name, name, "missing", [""], None))
    for name, found in call.arguments.items():
        if name not in gold.arguments:
            good, rules = values_match(gold, name, found, schema, policy) if name in gold.blank else (False, NO_RULES)
            fired |= rules
            if not good:
                errors.append(ArgumentError(call.name, name, "invented", [], found))
    return CallMatch(gold_index, index, right, tuple(errors)), fired


def gold_faults(examples: Sequence[Example], policy: ScoringPolicy = STRICT) -> dict[str, str]:
    """Return the ids of examples whose gold is not an exact match with itself under the policy, each with the
    reason."""
    return {example.id: reason for example in examples if (reason := _gold_fault(example, policy)) is not None}


def _gold_fault(example: Example, policy: ScoringPolicy) -> str | None:
    gold, by_name = example.gold, {tool.name: tool for tool in example.tools}
    if gold.status == "none":
        return None
    if gold.status == "any":
        return None if by_name else "some call is expected, but no tool is offered"
    if not gold.calls:
        return "calls are expected, but none is listed"
    calls = []
    for call in gold.calls:
        if call.name not in by_name:
            return f'tool "{call.name}" is expected, but not offered'
        for name, accepted in call.arguments.items():
            if not accepted:
                return f'"{call.name}": no value of "{name}" is accepted'
        # Leave out optional arguments, because BFCL accepts values for them that the schema does not allow.
        left_out = call.optional - set(by_name[call.name].parameters.get("required", ()))
        least = {name: values[0] for name, values in call.arguments.items() if name not in left_out}
        if nulls := filled_nulls(least, by_name[call.name].parameters):
            named = ", ".join(map(written_path, nulls))
            return f'"{call.name}": the expected arguments hold nulls that mean absent ({named}); `data check --fix`'
        calls.append(ToolCall(call.name, least))
    try:
        found = match_turn(gold, "calls", calls, example.tools, example.where, policy)
    except RecursionError:
        return "its arguments are nested too deeply to be compared"
    if not found.exact:
        wrong = next(error for match in found.matches for error in match.errors)
        if wrong.fault == "wrong":
            return f'"{wrong.call}": the accepted value of "{wrong.argument}" is not equal to itself under the schema'
        return f'"{wrong.call}": "{wrong.argument}" is {wrong.fault} even in the call that is expected'
    # BFCL's checker does not check calls against the schema.
    if policy == STRICT and not found.schema_valid:
        bad = next(call for call in calls if not _all_valid([call], example.tools, example.where))
        return f'"{bad.name}": the expected arguments do not satisfy the tool\'s schema'
    return None
