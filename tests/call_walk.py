"""Finds every tool call and result in raw JSON by a recursive walk that shares no code with the importers.

`test_call_walk.py` compares what it finds with what the importers read. The walk knows how the calls of many formats
look, but not where a format keeps them, so it finds a call that an importer does not look for.

A row may mention a call several times: a trace repeats the history at every step, LangChain keeps each call twice.
So the walk gives two counts for each call. `low` adds up only what cannot be repeated: items of one list. `high` adds
up everything. For a row without repetition both are equal.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Call(NamedTuple):
    """A call. `arguments` is canonical JSON, or the text itself if it is not JSON. `id` is "" if it has none."""

    name: str
    arguments: str
    id: str


class Result(NamedTuple):
    """A result of a call. `id` is that of the call, "" if it has none."""

    id: str


@dataclass
class Tally:
    low: Counter[Call | Result] = field(default_factory=Counter)
    high: Counter[Call | Result] = field(default_factory=Counter)
    others: set[Call | Result] = field(default_factory=set)
    """Calls in a response's second and later choices, of which an importer reads only the first."""

    @classmethod
    def of(cls, *found: Call | Result) -> Tally:
        return cls(Counter(found), Counter(found))


def added(tallies: Iterable[Tally]) -> Tally:
    """The tally of items of one list, each of which counts."""
    total = Tally()
    for each in tallies:
        total.low += each.low
        total.high += each.high
        total.others |= each.others
    return total


def merged(tallies: Iterable[Tally]) -> Tally:
    """The tally of values that may repeat each other."""
    total = Tally()
    for each in tallies:
        total.low |= each.low
        total.high += each.high
        total.others |= each.others
    return total


def call(name: Any, arguments: Any, id: Any) -> Call:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            return Call(str(name), arguments, id if isinstance(id, str) else "")
    return Call(str(name), canonical({} if arguments is None else arguments), id if isinstance(id, str) else "")


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def walk(value: Any, key: str = "") -> Tally:
    """All calls and results in a value. `key` is the key that holds it."""
    if isinstance(value, str):
        return walk(_decoded(value), key) if key not in _TEXT_KEYS and _decoded(value) is not None else Tally()
    if isinstance(value, list):
        return _walk_list(value, key)
    if not isinstance(value, dict):
        return Tally()
    value = _nested(value)
    own = list(_own(value, key))
    inner = [] if _is_leaf(value, own) else [walk(each, name) for name, each in value.items() if name not in _SKIPPED]
    return merged([Tally.of(*own), *inner])


def units(row: Any) -> list[Tally]:
    """The tally of each span in a row that has several, otherwise of the row."""
    records = list(_records(row))
    return [walk(record) for record in records] if len(records) > 1 else [walk(row)]


_TEXT_KEYS = frozenset({"content", "text", "arguments", "args", "thinking", "description"})
_SKIPPED = frozenset(
    {"tools", "functions", "tool_choice", "expected", "parameters", "input_schema", "inputSchema", "schema"}
    | {"tool_call_chunks", "invalid_tool_calls", "functionCall", "toolUse", "toolResult", "functionResponse"}
    | {"function_response", "tool_calls"}
)
_CALL_ARGUMENTS = ("arguments", "args", "input", "parameters")


def _own(value: dict[str, Any], key: str) -> Iterator[Call | Result]:
    """The calls and results that the object itself is or holds directly."""
    kind = value.get("type")
    for each in value["tool_calls"] if isinstance(value.get("tool_calls"), list) else ():
        yield from _openai_call(each)
    for name in ("functionCall", "function_call"):
        held = value.get(name)
        if isinstance(held, dict) and isinstance(held.get("name"), str) and (name == "functionCall" or len(held) > 1):
            yield call(held["name"], _first(held, ("args", "arguments")), held.get("id"))
    for name in ("functionResponse", "function_response"):
        if isinstance(value.get(name), dict):
            yield Result(value[name].get("id") or "")
    if isinstance(value.get("toolUse"), dict):
        yield call(value["toolUse"].get("name"), value["toolUse"].get("input"), value["toolUse"].get("toolUseId"))
    if isinstance(value.get("toolResult"), dict):
        yield Result(value["toolResult"].get("toolUseId") or "")
    if kind == "tool_use" and isinstance(value.get("name"), str):
        yield call(value["name"], value.get("input"), value.get("id"))
    elif kind == "function_call" and isinstance(value.get("name"), str):
        yield call(value["name"], value.get("arguments"), value.get("call_id"))
    elif kind == "tool_call" and isinstance(value.get("name"), str):
        yield call(value["name"], _first(value, _CALL_ARGUMENTS), value.get("id"))
    elif kind == "tool_result":
        yield Result(value.get("tool_use_id") or "")
    elif kind == "function_call_output":
        yield Result(value.get("call_id") or "")
    elif kind == "tool_call_response":
        yield Result(value.get("id") or "")
    elif isinstance(value.get("toolCallId"), str):
        yield from _ai_sdk(value)
    elif value.get("role") == "tool_call":
        content = value.get("content")
        made = _decoded(content) if isinstance(content, str) else content
        for each in made if isinstance(made, list) else [made]:
            if isinstance(each, dict):
                yield call(each.get("name"), _first(each, _CALL_ARGUMENTS), "")
    elif isinstance(value.get("tool_call_id"), str) and "content" in value:
        yield Result(value["tool_call_id"])
    elif _is_result_message(value):
        yield Result("")


def _ai_sdk(value: dict[str, Any]) -> Iterator[Call | Result]:
    kind, id = str(value.get("type")), value["toolCallId"]
    name = value.get("toolName") or (kind.removeprefix("tool-") if kind.startswith("tool-") else None)
    is_result = kind in ("tool-result", "tool-error")
    is_over = value.get("state") in ("output-error", "output-denied")
    has_result = is_result or is_over or "result" in value or "output" in value
    if name and not is_result and _first(value, ("input", "args", "arguments")) is not None:
        yield call(name, _first(value, ("input", "args", "arguments")), id)
    if has_result:
        yield Result(id)


def _openai_call(found: Any) -> Iterator[Call]:
    found = found.get("tool_call", found) if isinstance(found, dict) else found
    if isinstance(found, str):
        found = _decoded(found)
    if not isinstance(found, dict):
        return
    function = found["function"] if isinstance(found.get("function"), dict) else found
    if isinstance(function.get("name"), str):
        yield call(function["name"], _first(function, _CALL_ARGUMENTS), found.get("id"))


def _is_result_message(value: dict[str, Any]) -> bool:
    """Whether the object is the result of one call, without its id."""
    if value.get("role") in ("tool", "function", "tool_response"):
        return _is_result(value.get("content"))
    return value.get("type") == "function" and "content" in value  # LangChain's FunctionMessage


def _is_result(content: Any) -> bool:
    """Whether a message's content is that of one result, not a tool's definition or a list of results."""
    if isinstance(content, dict):
        return "function" not in content and "parameters" not in content
    if isinstance(content, list):
        return not any(isinstance(part, dict) and "toolCallId" in part for part in content)
    return isinstance(content, str)


def _is_leaf(value: dict[str, Any], own: list[Call | Result]) -> bool:
    """Whether all that the object holds belongs to its one call or result, such as the text of a result."""
    is_message = "tool_calls" in value or "parts" in value or "function_call" in value
    return bool(own) and not is_message and ("type" in value or "role" in value or "toolCallId" in value)


def _walk_list(value: list[Any], key: str) -> Tally:
    if value and all(isinstance(each, dict) for each in value):
        if joined := _joined_stream(value):
            return walk(joined)
        if len(value) > 1 and _are_choices(value, key):
            first, *others = sorted(map(_with_index, enumerate(value)), key=lambda each: each[0])
            rest = added(walk(each) for _, each in others)
            found = walk(first[1])
            return Tally(found.low, found.high + rest.high, found.others | set(rest.high))
        # Each step of the AI SDK's results repeats the messages of the steps before it.
        if any(map(_is_record, value)) or key == "steps":
            return merged(walk(each) for each in value)
    return added(walk(each, key) for each in value)


def _are_choices(value: list[Any], key: str) -> bool:
    """Whether the messages are choices of one response. Langfuse logs them as `output`."""
    if key == "output":
        return all(each.get("role") == "assistant" and "type" not in each for each in value)
    return key in ("choices", "candidates", "output_messages", "gen_ai.output.messages", "completion")


def _with_index(numbered: tuple[int, Any]) -> tuple[int, Any]:
    number, choice = numbered
    return choice.get("index", number), choice


def _first(value: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((value[key] for key in keys if value.get(key) is not None), None)


def _decoded(text: str) -> Any:
    """The value of a JSON string or of server-sent events; None for any other text."""
    start = text.lstrip()
    if start.startswith(("{", "[")):
        try:
            found = json.loads(text)
        except ValueError:
            return None
        return found if isinstance(found, dict | list) else None
    if start.startswith(("data:", "event:")):
        events = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
        try:
            return [json.loads(event) for event in events if event and event != "[DONE]"]
        except ValueError:
            return None
    return None


# Spans


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and bool(
        value.keys() & {"spanId", "span_id", "run_type", "scopeSpans", "scope_spans", "resource", "traceId"}
        or (isinstance(value.get("context"), dict) and "span_id" in value["context"])
    )


def _records(value: Any) -> Iterator[Any]:
    """The innermost spans, runs or observations in a value."""
    if isinstance(value, str):
        value = _decoded(value)
    if isinstance(value, dict):
        inner = [record for each in value.values() for record in _records(each)]
        own = value.keys() & {"spanId", "span_id", "run_type", "traceId"} or "context" in value
        yield from inner or ([value] if own else [])
    elif isinstance(value, list):
        for each in value:
            yield from _records(each)


_NUMBERED = re.compile(r"\.\d+(\.|$)")


def _nested(value: dict[str, Any]) -> dict[str, Any]:
    """The object with OTLP's attributes as plain values, and with flattened keys (`messages.0.role`) as objects."""
    if isinstance(value.get("attributes"), list):
        value = {**value, "attributes": _attributes(value["attributes"])}
    if isinstance(value.get("kvlistValue"), dict):
        value = _attributes(value["kvlistValue"].get("values", []))
    flat = [key for key in value if _NUMBERED.search(key)]
    if not flat:
        return value
    tree: dict[str, Any] = {key: each for key, each in value.items() if key not in flat}
    for key in flat:
        *path, last = key.split(".")
        at = tree
        for step in path:
            at = at.setdefault(step, {}) if isinstance(at.get(step, {}), dict) else {}
        at[last] = value[key]
    made = _lists(tree)
    assert isinstance(made, dict)
    return made


def _attributes(entries: list[Any]) -> dict[str, Any]:
    return {entry["key"]: _any_value(entry.get("value")) for entry in entries if isinstance(entry, dict)}


def _any_value(value: Any) -> Any:
    if isinstance(value, dict) and len(value) == 1:
        (kind, inner), *_ = value.items()
        if kind == "arrayValue":
            return [_any_value(each) for each in inner.get("values", [])]
        if kind == "kvlistValue":
            return _attributes(inner.get("values", []))
        if kind.endswith("Value"):
            return inner
    return value


def _lists(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    if tree and all(key.isdecimal() for key in tree):
        return [_lists(tree[key]) for key in sorted(tree, key=int)]
    return {key: _lists(each) for key, each in tree.items()}


# Streams


def _joined_stream(events: list[dict[str, Any]]) -> Any:
    """What a list of events says as a whole; None if it is no stream."""
    kinds = [str(event.get("type", "")) for event in events]
    if any(kind.startswith("response.") for kind in kinds):
        whole = [event["response"] for event in events if isinstance(event.get("response"), dict)]
        return whole[-1] if whole else [e["item"] for e in events if e.get("type") == "response.output_item.done"]
    if any(kind == "content_block_start" for kind in kinds):
        return _joined_anthropic(events)
    if any("contentBlockDelta" in event for event in events):
        return _joined_bedrock(events)
    if any("delta" in choice for event in events for choice in event.get("choices") or () if isinstance(choice, dict)):
        return _joined_chunks(events)
    return None


def _joined_anthropic(events: list[dict[str, Any]]) -> dict[str, Any]:
    blocks: dict[int, dict[str, Any]] = {}
    for event in events:
        if event.get("type") == "content_block_start":
            blocks[event["index"]] = dict(event["content_block"])
        elif event.get("type") == "content_block_delta" and event["delta"].get("type") == "input_json_delta":
            block = blocks[event["index"]]
            before = block["input"] if isinstance(block.get("input"), str) else ""
            block["input"] = before + event["delta"]["partial_json"]
    return {"content": list(blocks.values())}


def _joined_bedrock(events: list[dict[str, Any]]) -> dict[str, Any]:
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        start, delta = event.get("contentBlockStart", {}), event.get("contentBlockDelta", {})
        if "toolUse" in start.get("start", {}):
            calls[start["contentBlockIndex"]] = {**start["start"]["toolUse"], "input": ""}
        elif "toolUse" in delta.get("delta", {}):
            calls[delta["contentBlockIndex"]]["input"] += delta["delta"]["toolUse"]["input"]
    return {"content": [{"toolUse": each} for each in calls.values()]}


def _joined_chunks(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    made: dict[int, dict[Any, dict[str, Any]]] = {}
    old: dict[str, str] = {}
    for chunk in chunks:
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            for name, piece in (delta.get("function_call") or {}).items():
                old[name] = old.get(name, "") + (piece or "")
            calls = made.setdefault(choice.get("index", 0), {})
            for piece in delta.get("tool_calls") or ():
                at = calls.setdefault(piece.get("index", len(calls)), {"id": "", "name": "", "arguments": ""})
                function = piece.get("function") or {}
                at["id"] = piece.get("id") or at["id"]
                at["name"] += function.get("name") or ""
                at["arguments"] += function.get("arguments") or ""
    choices = [{"index": n, "message": {"tool_calls": list(calls.values())}} for n, calls in sorted(made.items())]
    return {"choices": choices, **({"message": {"function_call": old}} if old else {})}
