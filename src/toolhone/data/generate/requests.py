"""Rows of several requests: a customer asks for one thing, gets it, and asks for the next.

What lies between two requests comes from a YAML file: for each tool, what a call of it gives back and what the
assistant then says, by language. A `{slot}` there is an argument of the call.

    results:
      query_order:
        - tool: {status: shipped}
          answer: {en: "Order {order_id} has been shipped.", zh: "订单 {order_id} 已发货。"}

These answers are not learned (weight 0): they only make the conversation whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from toolhone.data.check import refuse_faults
from toolhone.data.generate.generator import build_conversation
from toolhone.data.generate.json_yaml import YamlFile
from toolhone.errors import UserError
from toolhone.records import Conversation, Tool, ToolCall

_SLOT = re.compile(r"\{([a-z_]+)\}")


class Result(BaseModel):
    """What a call gives back, and what the assistant then says in each language."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: Any
    answer: dict[str, str]


def load_results(path: Path) -> dict[str, list[Result]]:
    """Read the results of calls, by tool.

    Raises:
        UserError: for broken YAML or another shape.
    """
    value = YamlFile(path, "result").value
    if not isinstance(value, dict) or set(value) != {"results"}:
        raise UserError(f'{path}: expected the one key "results", with a list for each tool')
    try:
        return TypeAdapter(dict[str, list[Result]]).validate_python(value["results"])
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise UserError(f"{path}: results.{place}: {fault['msg'].lower()}, found {fault['input']!r}") from None


def join_requests(
    rows: Sequence[Conversation],
    size: int,
    results: Mapping[str, Sequence[Result]],
    *,
    rng: Random,
    tools: tuple[Tool, ...],
    prefix: str,
) -> list[Conversation]:
    """Make one row of each `size` rows: the requests one after another, rows of a language together.

    `meta` holds the first one's language, and the templates' ids joined by "+". Ids are `prefix`-0001 and so on.

    Raises:
        UserError: for a called tool of which `results` has nothing in the row's language.
    """
    by_language = sorted(rows, key=lambda row: str(row.meta["language"]))
    parts = [by_language[start : start + size] for start in range(0, len(rows), size)]
    rng.shuffle(parts)
    joined = [_join(part, results, rng, tools, f"{prefix}-{number:04}") for number, part in enumerate(parts, 1)]
    refuse_faults(joined)
    return joined


def _join(
    part: Sequence[Conversation],
    results: Mapping[str, Sequence[Result]],
    rng: Random,
    tools: tuple[Tool, ...],
    id: str,
) -> Conversation:
    messages: list[dict[str, Any]] = []
    for number, row in enumerate(part):
        # One system message, at the head.
        messages += [message.to_json() for message in row.messages if number == 0 or message.role != "system"]
        calls = row.messages[-1].tool_calls
        if number + 1 < len(part) and calls:
            messages += _between(calls, str(row.meta["language"]), results, rng, row.where)
    meta = {**part[0].meta, "template": "+".join(str(row.meta["template"]) for row in part)}
    for message in messages:
        message.pop("tool_call_id", None)  # calls are numbered anew, and results follow in their order
    return build_conversation({"id": id, "messages": messages, "meta": meta}, part[0].where, tools)


def _between(
    calls: Sequence[ToolCall], language: str, results: Mapping[str, Sequence[Result]], rng: Random, where: str
) -> list[dict[str, Any]]:
    """The results of the calls, and one answer to all of them."""
    given, said = [], []
    for call in calls:
        fitting = [result for result in results.get(call.name, ()) if language in result.answer]
        if not fitting:
            raise UserError(
                f'{where}: results: nothing for {call.name} in "{language}"; add what a call of it gives back'
            )
        result = rng.choice(fitting)
        given.append({"role": "tool", "content": _fill(result.tool, call, where)})
        said.append(_fill(result.answer[language], call, where))
    return [*given, {"role": "assistant", "content": " ".join(said), "weight": 0}]


def _fill(value: Any, call: ToolCall, where: str) -> Any:
    """`value` with the call's arguments in its slots, at any depth."""
    if isinstance(value, dict):
        return {key: _fill(entry, call, where) for key, entry in value.items()}
    if isinstance(value, list):
        return [_fill(entry, call, where) for entry in value]
    if not isinstance(value, str):
        return value
    lacking = [name for name in _SLOT.findall(value) if name not in call.arguments]
    if lacking:
        raise UserError(f"{where}: results: {call.name}: {{{lacking[0]}}} is no argument of the call")
    return _SLOT.sub(lambda match: str(call.arguments[match[1]]), value)
