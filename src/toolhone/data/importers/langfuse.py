"""Langfuse's observations: exports of the UI, the API and blob storage, traces with their observations, and the batches
that the older SDKs post.

A GENERATION is a request and its response. Observations of other types are counted as `log-other`. Keys are in camel
case (API, UI) or snake case (blob storage). Langfuse does not log why a model stopped, so an answer that used all of
`max_tokens` counts as cut off. LangChain's tracer logs each tool as a message of role `tool`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolhone.data.importers.functions import looks_like_tool
from toolhone.data.importers.importer import Row, short
from toolhone.data.importers.traces import NO_REQUEST, PostedJoin, json_or_text, log_line
from toolhone.errors import RowError

_TYPES = frozenset(
    {"GENERATION", "SPAN", "EVENT", "AGENT", "TOOL", "CHAIN", "RETRIEVER", "EMBEDDING", "EVALUATOR", "GUARDRAIL"}
)
_OWN_KEYS = frozenset(
    {"traceId", "trace_id", "parentObservationId", "parent_observation_id", "modelParameters", "providedModelName"}
    | {"provided_model_name", "statusMessage", "usageDetails", "usage_details", "promptTokens", "input", "output"}
)
# Exports of the table of generations have no `type`.
_GENERATION_KEYS = frozenset(
    {"modelParameters", "providedModelName", "provided_model_name", "completionStartTime", "completion_start_time"}
    | {"timeToFirstToken", "time_to_first_token", "usageDetails", "usage_details"}
)
_EVENT_TYPES = ("-create", "-update", "sdk-log")
_LISTS = ("observations", "batch", "data")


def looks_like(row: Row) -> bool:
    """Whether the row is an observation, a list of them, a trace with its observations, or a posted batch of events."""
    if _is_observation(row) or _is_event(row):
        return True
    return any(isinstance(row.get(key), list) and any(map(_is_ours, row[key][:3])) for key in _LISTS)


def join() -> PostedJoin:
    """Joins the events that were posted about one generation. All other observations are complete."""
    return PostedJoin(_observations, _is_whole, lambda row, where: iter([line(row, where)]))


def _is_observation(row: Row) -> bool:
    kind = row.get("type")
    if isinstance(kind, str) and kind.upper() in _TYPES:
        return bool(row.keys() & _OWN_KEYS)
    return kind is None and "input" in row and "output" in row and bool(row.keys() & _GENERATION_KEYS)


def _is_event(row: Row) -> bool:
    kind = row.get("type")
    return isinstance(kind, str) and kind.endswith(_EVENT_TYPES) and isinstance(row.get("body"), dict)


def _is_ours(found: Any) -> bool:
    return isinstance(found, dict) and (_is_observation(found) or _is_event(found))


def _observations(row: Row) -> Iterator[tuple[str | None, Row]]:
    """The observations of a row, each complete, or a posted event with its id."""
    if _is_observation(row):
        yield None, row
        return
    found: list[Any] = [row]
    if not _is_event(row):
        found = next(
            (row[key] for key in _LISTS if isinstance(row.get(key), list) and any(map(_is_ours, row[key][:3]))), [row]
        )
    for each in found:
        if not isinstance(each, dict):
            yield None, {"type": "unknown", "id": each}
        elif not _is_event(each):
            yield None, each
        else:
            kind, _, _ = each["type"].rpartition("-")
            body = {key: value for key, value in each["body"].items() if value is not None}
            kind = str(body.get("type") or kind) if kind == "observation" else kind
            id = body.get("id")
            body = body if kind.upper() == "GENERATION" else {"id": id}
            yield (f"{kind} {id}" if isinstance(id, str) else None), {**body, "type": kind or "unknown"}


def _is_whole(observation: Row) -> bool:
    failed = str(observation.get("level")).upper() == "ERROR"
    return bool(observation.get("input") and (observation.get("output") or failed))


def line(observation: Row, where: str) -> Row:
    """The log line of a generation. Raises RowError for any other observation, and for a failed or unrecorded one."""
    kind = str(observation.get("type") or "GENERATION").upper()
    named = f"the observation {short(observation.get('id'))}"
    if kind != "GENERATION":
        text = f"{where}: {named} is of type {short(observation.get('type'))}, not a request to a model"
        raise RowError(text, rule="log-other")
    if str(observation.get("level")).upper() == "ERROR":
        text = short(_either(observation, "statusMessage", "status_message"))
        raise RowError(f"{where}: {named} failed: {text}", rule="log-error")
    request, tools = _without_tools(json_or_text(observation.get("input"), where))
    if not request:
        text = f"{where}: {named} has no input: it was masked, or the generation's start was not logged"
        raise RowError(text, rule=NO_REQUEST)
    output = json_or_text(observation.get("output"), where)
    if not output:
        raise RowError(f"{where}: {named} has no output", rule="log-no-response")
    parameters = json_or_text(_either(observation, "modelParameters", "model_parameters"), where)
    metadata = json_or_text(observation.get("metadata"), where)
    holders = [{"tools": tools}, parameters]
    if isinstance(metadata, dict):
        attributes = metadata.get("attributes")
        holders += [metadata, metadata.get("invocation_params"), metadata.get("ls_invocation_params"), attributes]
    holders.append({"tools": _definitions(_either(observation, "toolDefinitions", "tool_definitions"), where)})
    model = next(
        (observation[key] for key in ("model", "providedModelName", "provided_model_name") if observation.get(key)),
        None,
    )
    start = _either(observation, "startTime", "start_time") or observation.get("timestamp")
    made = log_line(request, output, where, holders, model, start, observation.get("id"))
    if _used_all_tokens(observation, parameters, where):
        for choice in made["response"].get("choices") or []:
            if isinstance(choice, dict) and choice.get("finish_reason") is None:
                choice["finish_reason"] = "length"
    return made


def _either(row: Row, camel: str, snake: str) -> Any:
    return row.get(snake) if row.get(camel) is None else row[camel]


def _without_tools(found: Any) -> tuple[Any, list[Any]]:
    """The input without the messages that are tools, and these tools."""
    if isinstance(found, dict) and isinstance(found.get("messages"), list):
        messages, tools = _without_tools(found["messages"])
        return {**found, "messages": messages}, tools
    if not isinstance(found, list):
        return found, []
    contents = [each.get("content") if isinstance(each, dict) else None for each in found]
    are_tools = [looks_like_tool(content) and not found[n].get("tool_call_id") for n, content in enumerate(contents)]
    if not any(are_tools):
        return found, []
    messages = [each for each, is_tool in zip(found, are_tools, strict=True) if not is_tool]
    return messages, [content for content, is_tool in zip(contents, are_tools, strict=True) if is_tool]


def _definitions(found: Any, where: str) -> list[Any] | None:
    """The tools that newer exports list: objects, or by name a JSON string."""
    found = json_or_text(found, where)
    if isinstance(found, dict):
        rows = ((name, json_or_text(tool, where)) for name, tool in found.items())
        found = [{"name": name, **tool} if isinstance(tool, dict) else {"name": name} for name, tool in rows]
    return [json_or_text(tool, where) for tool in found] if isinstance(found, list) else None


def _used_all_tokens(observation: Row, parameters: Any, where: str) -> bool:
    limits = (
        [parameters.get(key) for key in ("max_tokens", "max_completion_tokens")] if isinstance(parameters, dict) else []
    )
    limit = next((int(str(each)) for each in limits if str(each).isdecimal()), 0)
    used: Any = None
    for key in ("usageDetails", "usage_details", "usage"):
        usage = json_or_text(observation.get(key), where)
        if isinstance(usage, dict):
            used = used or usage.get("output") or usage.get("completion_tokens") or usage.get("completionTokens")
    used = used or _either(observation, "completionTokens", "completion_tokens")
    is_count = isinstance(used, int) and not isinstance(used, bool)
    return bool(limit) and is_count and used >= limit
