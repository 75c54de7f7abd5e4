"""Judge a prediction: read its text, match its calls with the gold's, and say what is right and what is not.

In: an `Example` and the model's `Prediction`. Out: a `Score`. Gold itself goes through the same judgement first
(`gold_faults`), so that a row which no answer could get right is known before any model is blamed for it.

What is right:
- gold "calls": the status is calls, and every call has a gold call of the same name with all arguments right, and none
  is missing or extra.
- gold "none": the status is none. Malformed, truncated or partial is a call attempted, never an abstention.
- gold "any": the status is calls and every call names a tool that was offered; exact needs valid arguments too.
A partial turn is wrong in names and as a whole, since one of its calls is unknown; the calls that could be read are
still matched, so that a report can show them. A policy other than `strict` excuses more, by named rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from toolhone.chat.parse import parse_repaired
from toolhone.errors import UserError
from toolhone.evaluate.bfcl_values import Accepted, taken
from toolhone.evaluate.policy import ANY_CALL, DEFAULT_ADDED, DEFAULT_LEFT_OUT, STRICT, UNREADABLE_AS_NONE, Policy
from toolhone.evaluate.schema import Schema, Subschemas, arguments_valid, subschemas_of
from toolhone.evaluate.values import same_value
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
    Status,
    Tool,
    ToolCall,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a turn's calls compare with the gold; the fields are those of `Score`."""

    matches: tuple[CallMatch, ...]
    missing_calls: tuple[int, ...]
    extra_calls: tuple[int, ...]
    names_right: bool
    exact: bool
    schema_valid: bool | None
    rules: tuple[str, ...] = ()


def score(example: Example, prediction: Prediction, format: FormatName, policy: Policy = STRICT) -> Score:
    """Read and judge one prediction, strictly unless another policy is named; beside it, as it reads with repairs.

    Raises:
        UserError: where the prediction is of another example, or a called tool's schema is unusable.
    """
    if prediction.id != example.id:
        raise UserError(f"{example.where}: the prediction of {prediction.id} was held against {example.id}")
    read = parse_repaired(prediction.text, format, prediction.finish_reason)
    turn = read.strict
    verdict = judge(example.gold, turn.status, turn.calls, example.tools, example.where, policy)
    repaired = None
    if turn.failure is not None:
        again, mended = verdict, read.turn
        if read.repairs:
            again = judge(example.gold, mended.status, mended.calls, example.tools, example.where, policy)
        repaired = Repaired(dict(read.repairs), mended.status, again.names_right, again.exact)
    return Score(
        id=example.id,
        conversation_id=example.conversation_id,
        model=prediction.model,
        status=turn.status,
        failure=turn.failure,
        calls=turn.calls,
        gold=example.gold,
        tools=tuple(tool.name for tool in example.tools),
        matches=verdict.matches,
        missing_calls=verdict.missing_calls,
        extra_calls=verdict.extra_calls,
        names_right=verdict.names_right,
        exact=verdict.exact,
        schema_valid=verdict.schema_valid,
        rules=verdict.rules,
        question=example.prompt[-1].content if example.prompt else "",
        text=prediction.text,
        finish_reason=prediction.finish_reason,
        prompt_tokens=prediction.prompt_tokens,
        completion_tokens=prediction.completion_tokens,
        latency_ms=prediction.latency_ms,
        gold_source=example.gold_source,
        # A score stands alone, so what figures are grouped by goes with it.
        meta={**example.meta, "turn": "later" if any(m.role == "assistant" for m in example.prompt) else "first"},
        repaired=repaired,
    )


def judge(
    gold: Gold,
    status: Status,
    calls: Sequence[ToolCall],
    tools: Sequence[Tool],
    where: str,
    policy: Policy = STRICT,
) -> Verdict:
    """Compare what was read of a turn with the gold. `where` begins the message of a `UserError`."""
    schema_valid = _all_valid(calls, tools, where) if calls else None
    if gold.status == "any":
        # Whichever calls were made, none is missing or extra.
        offered = {tool.name for tool in tools}
        names_right = status == "calls" and all(call.name in offered for call in calls)
        exact = names_right and schema_valid is True
        excused = policy.any_call and status == "calls" and not exact
        rules = (ANY_CALL,) if excused else ()
        return Verdict((), (), (), names_right or excused, exact or excused, schema_valid, rules)
    if gold.status == "none" and policy.unreadable_as_none and status not in ("none", "calls"):
        return Verdict((), (), (), True, True, schema_valid, (UNREADABLE_AS_NONE,))
    pairs = _pairs(gold.calls, calls, tools, policy)
    matches = tuple(match for match, _ in pairs)
    matched_gold, matched_calls = {match.gold for match in matches}, {match.predicted for match in matches}
    missing = tuple(i for i in range(len(gold.calls)) if i not in matched_gold)
    extra = tuple(i for i in range(len(calls)) if i not in matched_calls)
    names_right = status == gold.status and not missing and not extra
    exact = names_right and all(match.right for match in matches)
    fired = tuple(sorted({rule for _, rules in pairs for rule in rules})) if policy is not STRICT else ()
    return Verdict(matches, missing, extra, names_right, exact, schema_valid, fired)


def _all_valid(calls: Sequence[ToolCall], tools: Sequence[Tool], where: str) -> bool:
    by_name = {tool.name: tool for tool in tools}
    return all(call.name in by_name and arguments_valid(call.arguments, by_name[call.name], where) for call in calls)


def match_calls(
    gold: Sequence[GoldCall], calls: Sequence[ToolCall], tools: Sequence[Tool], policy: Policy = STRICT
) -> tuple[CallMatch, ...]:
    """Pair gold calls with calls of the same name, by maximum-weight bipartite matching; in the gold's order.

    As many pairs as possible are wholly right; then as many arguments as possible; then as few as possible are wrong.
    What is still tied goes to the pairs whose places in the turn are nearest.
    """
    return tuple(match for match, _ in _pairs(gold, calls, tools, policy))


_NO_SCHEMA: Schema = {}


def _pairs(
    gold: Sequence[GoldCall], calls: Sequence[ToolCall], tools: Sequence[Tool], policy: Policy
) -> list[tuple[CallMatch, frozenset[str]]]:
    """The matching, each pair with the rules that fired in it."""
    schemas = {tool.name: tool.parameters for tool in tools}
    found: list[tuple[CallMatch, frozenset[str]]] = []
    for name in dict.fromkeys(call.name for call in gold):
        rows = [i for i, call in enumerate(gold) if call.name == name]
        columns = [i for i, call in enumerate(calls) if call.name == name]
        if columns:
            said = schemas.get(name, _NO_SCHEMA)
            pairs = [[_match_arguments(i, gold[i], j, calls[j], said, policy) for j in columns] for i in rows]
            best = _best_pairs([[match for match, _ in line] for line in pairs])
            found += (pairs[row][column] for row, column in best)
    return sorted(found, key=lambda pair: pair[0].gold)


def _best_pairs(pairs: Sequence[Sequence[CallMatch]]) -> list[tuple[int, int]]:
    """The rows and columns of the best matching. Each aim weighs more than all that the aims after it could add up to.

    Weights are exact up to 2**53; beyond that, which takes hundreds of calls of one tool, only ties are decided
    otherwise.
    """
    if len(pairs) == len(pairs[0]) == 1:
        return [(0, 0)]
    flat = [match for row in pairs for match in row]
    size = min(len(pairs), len(pairs[0]))
    most_right = 1 + size * max(match.arguments_right for match in flat)
    most_wrong = 1 + size * max(len(match.errors) for match in flat)
    most_apart = 1 + size * max(len(pairs), len(pairs[0]))
    weights = np.array(
        [
            [
                ((match.right * most_right + match.arguments_right) * most_wrong - len(match.errors)) * most_apart
                - abs(row - column)
                for column, match in enumerate(line)
            ]
            for row, line in enumerate(pairs)
        ],
        dtype=np.float64,
    )  # [gold calls, predicted calls]
    rows, columns = linear_sum_assignment(weights, maximize=True)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _match_arguments(
    gold_index: int, gold: GoldCall, index: int, call: ToolCall, parameters: Schema, policy: Policy
) -> tuple[CallMatch, frozenset[str]]:
    """Compare a call's arguments with those expected of it, and tell the rules that fired.

    Left out is wrong, unless the gold lists the argument as optional; an explicit null is a value like any other; an
    argument that the gold does not know is wrong. The schema's defaults excuse nothing but where the policy says so.
    """
    schema = subschemas_of(parameters)
    required = (parameters.get("required") or ()) if policy.required_by_schema else ()
    right = 0
    errors: list[ArgumentError] = []
    fired: set[str] = set()
    for name, accepted in gold.arguments.items():
        if name in call.arguments:
            found = call.arguments[name]
            good, rules = _same(gold, name, found, schema, policy)
            fired |= rules
            right += good
            if not good:
                errors.append(ArgumentError(call.name, name, "wrong", accepted, found))
        elif name not in gold.optional or name in required:
            if policy.default_left_out and _has_default(accepted, schema.property(name)):
                fired.add(DEFAULT_LEFT_OUT)
            else:
                errors.append(ArgumentError(call.name, name, "missing", accepted, None))
    for name in sorted(gold.blank & set(required)):
        if name not in gold.arguments and name not in call.arguments:
            errors.append(ArgumentError(call.name, name, "missing", [""], None))
    for name, found in call.arguments.items():
        if name not in gold.arguments:
            if policy.default_added and _has_default([found], schema.property(name)):
                fired.add(DEFAULT_ADDED)
                continue
            good, rules = _same(gold, name, found, schema, policy) if name in gold.blank else (False, frozenset())
            fired |= rules
            if not good:
                errors.append(ArgumentError(call.name, name, "invented", [], found))
    return CallMatch(gold_index, index, right, tuple(errors)), frozenset(fired)


def _same(gold: GoldCall, name: str, found: Any, schema: Subschemas, policy: Policy) -> tuple[bool, frozenset[str]]:
    """Whether a value is right as the policy compares them, and the rules that fired."""
    accepted, said = gold.arguments.get(name, []), schema.property(name)
    if policy.values == "json":
        return any(same_value(value, found, said) for value in accepted), frozenset()
    if not any(name in one.get("properties", {}) for one in schema.alternatives):
        return False, frozenset()
    blank_keys = frozenset(path.removeprefix(f"{name}/") for path in gold.blank if path.startswith(f"{name}/"))
    return taken(Accepted(accepted, name in gold.optional or name in gold.blank, blank_keys), found, said)


def _has_default(values: Sequence[Any], schema: Subschemas) -> bool:
    """Whether one of the values is a default that the schema states."""
    defaults = [one["default"] for one in schema.alternatives if "default" in one]
    return any(same_value(value, default, schema) for value in values for default in defaults)


def gold_faults(examples: Sequence[Example], policy: Policy = STRICT) -> list[tuple[str, str]]:
    """The examples whose own gold does not score full marks under the policy, each with its id and the reason.

    Such a row says nothing about a model: it is to be quarantined, by id, and counted.
    """
    return [(example.id, reason) for example in examples if (reason := _gold_fault(example, policy)) is not None]


def _least_call(call: GoldCall, tool: Tool) -> ToolCall:
    """The call that gold asks for, without what may be left out: BFCL accepts there what the schema does not allow."""
    left_out = call.optional - set(tool.parameters.get("required", ()))
    return ToolCall(call.name, {name: values[0] for name, values in call.arguments.items() if name not in left_out})


def _gold_fault(example: Example, policy: Policy) -> str | None:
    gold, tools = example.gold, example.tools
    offered = {tool.name for tool in tools}
    if gold.status == "none":
        return None
    if gold.status == "any":
        return None if offered else "some call is expected, but no tool is offered"
    if not gold.calls:
        return "calls are expected, but none is listed"
    for call in gold.calls:
        if call.name not in offered:
            return f'tool "{call.name}" is expected, but not offered'
        for name, accepted in call.arguments.items():
            if not accepted:
                return f'"{call.name}": no value of "{name}" is accepted'
    by_name = {tool.name: tool for tool in tools}
    calls = [_least_call(call, by_name[call.name]) for call in gold.calls]
    try:
        verdict = judge(gold, "calls", calls, tools, example.where, policy)
    except RecursionError:
        return "its arguments are nested too deeply to be compared"
    if not verdict.exact:
        wrong = next(error for match in verdict.matches for error in match.errors)
        if wrong.fault == "wrong":
            return f'"{wrong.call}": the accepted value of "{wrong.argument}" is not equal to itself under the schema'
        return f'"{wrong.call}": "{wrong.argument}" is {wrong.fault} even in the call that is expected'
    # BFCL's checker does not ask whether a call satisfies the schema.
    if policy.values == "json" and not verdict.schema_valid:
        bad = next(call for call in calls if not arguments_valid(call.arguments, by_name[call.name], example.where))
        return f'"{bad.name}": the expected arguments do not satisfy the tool\'s schema'
    return None
