"""Checking conversations: what a model must not be taught, each finding with its place and how to mend it.

Reading has made sure of the rows' shape; here they are held against their tools and against each other. All findings
come in one pass.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from toolhone.errors import UserError
from toolhone.records import Conversation, Message, Tool, ToolCall

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: `where` is file:line, `rule` its kind."""

    where: str
    rule: str
    message: str


def check(conversations: Iterable[Conversation]) -> Iterator[Finding]:
    """Yield every finding, in the order of the rows."""
    places: dict[str, str] = {}
    checkers: dict[int, _Tools] = {}
    for row in conversations:
        if row.id in places:
            message = f'the id "{row.id}" stands at {places[row.id]} already; ids must differ'
            yield Finding(row.where, "duplicate-id", message)
        places.setdefault(row.id, row.where)
        yield from _turn_order(row)
        # Rows of one file mostly share one tuple of tools: its schemas are compiled once.
        if id(row.tools) not in checkers:
            checkers[id(row.tools)] = _Tools(row.tools)
            yield from (Finding(row.where, "bad-schema", text) for text in checkers[id(row.tools)].unusable.values())
        tools = checkers[id(row.tools)]
        for number, turn in enumerate(row.messages):
            for call in turn.tool_calls:
                yield from (Finding(row.where, rule, f"message {number}: {text}") for rule, text in tools.faults(call))


def refuse_faults(conversations: list[Conversation]) -> None:
    """Raise one `UserError` with the findings, should there be any."""
    findings = list(check(conversations))
    if findings:
        lines = [f"{finding.where}: {finding.message}" for finding in findings[:_SHOWN]]
        if len(findings) > _SHOWN:
            lines.append(f"... and {len(findings) - _SHOWN} more")
        raise UserError("\n".join(lines))


class _Tools:
    """The tools of a conversation with their compiled schemas."""

    def __init__(self, tools: tuple[Tool, ...]) -> None:
        self.tools = tools  # kept, so that the id that this is stored under stays taken
        # An empty registry, so that no reference is looked up on the network.
        self.validators = {tool.name: Draft202012Validator(tool.parameters, registry=EMPTY_REGISTRY) for tool in tools}
        self.unusable = dict(_unusable_schemas(tools))

    def faults(self, call: ToolCall) -> Iterator[tuple[str, str]]:
        if call.name not in self.validators:
            near = difflib.get_close_matches(call.name, self.validators, n=1)
            hint = f' (did you mean "{near[0]}"?)' if near else f"; known: {', '.join(self.validators) or 'none'}"
            yield "unknown-tool", f'tool call "{call.name}" is not in tools{hint}'
            return
        if call.name in self.unusable:  # told once already
            return
        try:
            faults = list(self.validators[call.name].iter_errors(call.arguments))
        except Unresolvable as error:
            yield "bad-schema", f'tool "{call.name}": its parameters refer to what is not in them ({error}); mend it'
        except RecursionError:
            yield "bad-schema", f'tool "{call.name}": references in its parameters go round in a circle; mend it'
        except OverflowError:  # a whole number beyond any float, held against `multipleOf` a float
            yield "schema", f'arguments of "{call.name}": a number is too large'
        else:
            for fault in faults:
                path = fault.json_path.removeprefix("$").removeprefix(".")
                yield "schema", f'arguments of "{call.name}": {path + ": " if path else ""}{fault.message}'


def _unusable_schemas(tools: tuple[Tool, ...]) -> Iterator[tuple[str, str]]:
    for tool in tools:
        try:
            Draft202012Validator.check_schema(tool.parameters)
        except SchemaError as error:
            text = f'tool "{tool.name}": its parameters are not a JSON Schema: {error.message}; mend the tool'
            yield tool.name, text


def _turn_order(row: Conversation) -> Iterator[Finding]:
    if not any(message.role == "assistant" for message in row.messages):
        yield Finding(row.where, "no-assistant", "no assistant turn: there is nothing to learn from the row")
    for number, message in enumerate(row.messages):
        before = row.messages[number - 1].role if number else None
        if message.role == "system" and number:
            yield Finding(row.where, "role-order", f"message {number}: a system message stands first or not at all")
        if message.role == "assistant" and before in (None, "system"):
            yield Finding(row.where, "role-order", f"message {number}: an assistant turn with nothing to answer")
        if message.role == "assistant" and before == "assistant":
            yield Finding(row.where, "role-order", f"message {number}: two assistant turns in a row; merge them")
        if message.role == "assistant" and not message.content.strip() and not message.tool_calls:
            yield Finding(row.where, "empty-turn", f"message {number}: the assistant neither calls nor says anything")
        if message.role == "tool":
            yield from _tool_result(row, number)


def _tool_result(row: Conversation, number: int) -> Iterator[Finding]:
    caller = _caller(row.messages, number)
    if caller is None:
        yield Finding(row.where, "role-order", f"message {number}: a tool result without a call before it")
        return
    answered = row.messages[number].tool_call_id
    ids = [call.id for call in caller.tool_calls if call.id is not None]
    if answered is not None and ids and answered not in ids:
        yield Finding(
            row.where, "orphan-result", f'message {number}: no call has the id "{answered}" ({", ".join(ids)})'
        )


def _caller(messages: tuple[Message, ...], number: int) -> Message | None:
    """The assistant turn that a tool result answers: the one before the run of tool messages."""
    while number and messages[number].role == "tool":
        number -= 1
    return messages[number] if messages[number].tool_calls else None
