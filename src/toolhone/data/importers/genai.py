"""Reads the attributes of a span that is a request to a model, in the conventions that tracers use.

The conventions, tried in this order: OpenTelemetry's `gen_ai.input.messages`; flat attributes such as
`gen_ai.prompt.0.role` (OpenLLMetry) and `llm.input_messages.0.message.role` (OpenInference); the AI SDK's
`ai.prompt.messages`; LangSmith's `gen_ai.prompt`; OpenTelemetry's older events, such as
`gen_ai.user.message`; OpenInference's `input.value`. Structured values may be JSON strings. Each becomes a log line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from toolhone.data.importers import langchain
from toolhone.data.importers.importer import Row, short
from toolhone.data.importers.traces import BROKEN, NO_REQUEST, completed, completion, json_or_text, log_line
from toolhone.errors import RowError

_REQUESTS = frozenset({"chat", "text_completion", "generate_content", "completion", "responses", "generate"})
_MARKS = (
    *("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.request.model", "llm.request.type", "gen_ai.prompt"),
    *("gen_ai.prompt.0.role", "gen_ai.completion.0.role", "llm.input_messages.0.message.role", "llm.input_messages"),
)
_BODIES = (  # the attributes of a whole input and output
    ("gen_ai.prompt", "gen_ai.completion"),
    ("input.value", "output.value"),
)
_RESULTS = ("tool_call_response", "tool-result", "tool_result")
_BLOCKS = {"text", "toolUse", "toolResult", "image", "document", "video", "reasoningContent"}
_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_TOOL_KEYS = ("name", "description", "parameters", "parameters_json_schema", "inputSchema", "input_schema")


def is_request(attributes: Row, span_kind: Any = None) -> bool:
    """Whether a span with these attributes is a request to a chat model. `span_kind` is a span's own kind."""
    kind = attributes.get("openinference.span.kind") or (
        span_kind if span_kind in ("LLM", "CHAIN", "AGENT", "TOOL") else 0
    )
    if kind:
        return kind == "LLM"
    for key, value in (("langfuse.observation.type", "generation"), ("langsmith.span.kind", "llm")):
        if attributes.get(key):
            return str(attributes[key]).lower() == value
    operation = attributes.get("ai.operationId")
    if isinstance(operation, str):
        return operation.endswith((".doGenerate", ".doStream"))
    operation = attributes.get("gen_ai.operation.name")
    if isinstance(operation, str):
        return operation in _REQUESTS
    return any(mark in attributes for mark in _MARKS)


def log_line_of(attributes: Row, events: Sequence[Row], where: str) -> Row:
    """The log line of a request. Raises RowError with the rule `log-no-request` if its messages were not recorded."""
    holders = [{"tools": _tools(attributes, where)}, attributes.get("llm.invocation_parameters")]
    model = next((attributes[key] for key in _MODEL_KEYS if isinstance(attributes.get(key), str)), None)
    id = next((attributes[key] for key in ("gen_ai.response.id", "ai.response.id") if attributes.get(key)), None)
    for convention in (_semantic, _flat, _openinference, _ai_sdk, _of_events):
        found = convention(attributes, events, where)
        if found is not None:
            prompt, response = found
            _with_finish(response, attributes)
            if not response["choices"]:
                raise RowError(f"{where}: no response was recorded", rule="log-no-response")
            return completed({"messages": prompt}, response, where, holders, model, None, id)
    for asked, answered in _BODIES:
        if attributes.get(asked) is not None:
            if attributes.get(answered) in (None, ""):
                raise RowError(f"{where}: no response was recorded", rule="log-no-response")
            line = log_line(attributes[asked], attributes[answered], where, holders, model, None, id)
            _with_finish(line["response"], attributes)
            return line
    text = f"{where}: the messages were not recorded; switch on the recording of content in the tracer"
    raise RowError(text, rule=NO_REQUEST)


_MODEL_KEYS = (
    *("gen_ai.response.model", "ai.response.model", "llm.model_name", "gen_ai.request.model"),
    *("ai.model.id", "llm.request.model"),
)
_Found = tuple[list[Row], Row] | None
"""The messages of the request and the response; None if the span has no messages in the convention."""


# The conventions


def _semantic(attributes: Row, events: Sequence[Row], where: str) -> _Found:
    """OpenTelemetry's messages with parts, in attributes or in the event with the details of the operation."""
    holder = next((h for h in (attributes, *events) if h.get("gen_ai.input.messages") is not None), None)
    if holder is None:
        return None
    asked = _json_list(holder["gen_ai.input.messages"], f"{where}: gen_ai.input.messages")
    answered = _json_list(holder.get("gen_ai.output.messages"), f"{where}: gen_ai.output.messages")
    prompt = _messages(asked, f"{where}: input")
    system = json_or_text(holder.get("gen_ai.system_instructions", attributes.get("gen_ai.system_instructions")), where)
    if system:
        prompt = [langchain.message({"role": "system", "content": system}, f"{where}: system"), *prompt]
    return prompt, _choices(answered, where)


def _flat(attributes: Row, events: Sequence[Row], where: str) -> _Found:
    """OpenLLMetry's `gen_ai.prompt.0.role`, `gen_ai.completion.0.tool_calls.0.name`, ..."""
    asked = _nested(attributes, "gen_ai.prompt", where)
    if not asked:
        return None
    answered = _nested(attributes, "gen_ai.completion", where)
    prompt = _messages([_with_parts(each) for each in asked], f"{where}: prompt")
    return prompt, _choices([_with_parts(each) for each in answered], where)


def _openinference(attributes: Row, events: Sequence[Row], where: str) -> _Found:
    asked = _nested(attributes, "llm.input_messages", where)
    if not asked:
        return None
    answered = _nested(attributes, "llm.output_messages", where)
    prompt = _messages([_of_openinference(each) for each in asked], f"{where}: input")
    response = _choices([_of_openinference(each) for each in answered], where)
    # Phoenix flattens neither the response's id nor, in old versions, its finish_reason; the raw body has both.
    body = json_or_text(attributes.get("output.value"), where)
    if isinstance(body, dict):
        choices = body.get("choices")
        reasons = (
            [each.get("finish_reason") for each in choices if isinstance(each, dict)]
            if isinstance(choices, list)
            else []
        )
        if body.get("status") == "incomplete":
            reasons = ["length"]
        for choice, reason in zip(response["choices"], reasons, strict=False):
            choice["finish_reason"] = langchain.finish_reason(reason)
        response |= {key: body[key] for key in ("id", "created") if body.get(key)}
    return prompt, response


def _ai_sdk(attributes: Row, events: Sequence[Row], where: str) -> _Found:
    """The telemetry of the AI SDK: `ai.prompt.messages`, `ai.response.text`, `ai.response.toolCalls`."""
    if attributes.get("ai.prompt.messages") is None:
        return None
    prompt = _messages(_json_list(attributes["ai.prompt.messages"], where), f"{where}: prompt")
    said = {key: attributes.get(f"ai.response.{key}", attributes.get(f"ai.result.{key}")) for key in _AI_SDK_KEYS}
    text = said["text"] if said["text"] is not None else said["object"]
    calls = _json_list(said["toolCalls"], where)
    if text is None and not calls:
        return prompt, {"choices": []}
    answer = {"role": "assistant", "content": text, "tool_calls": calls, "reasoning": said["reasoning"]}
    return prompt, completion(langchain.message(answer, where), said["finishReason"])


_AI_SDK_KEYS = ("text", "object", "toolCalls", "reasoning", "finishReason")


def _of_events(attributes: Row, events: Sequence[Row], where: str) -> _Found:
    """OpenTelemetry's older events: `gen_ai.user.message`, ..., `gen_ai.choice`."""
    prompt: list[Row] = []
    answers: list[Any] = []
    for event in events:
        name = event["event.name"]
        body = json_or_text(event.get("gen_ai.event.content", event.get("body")), where)
        fields = {**event, **body} if isinstance(body, dict) else event
        if name == "gen_ai.choice":
            message = json_or_text(fields.get("message"), where)
            message = message if isinstance(message, dict) else {"content": message}
            answers.append({**fields, **{key: value for key, value in message.items() if value is not None}})
        elif name.startswith("gen_ai.") and name.endswith(".message"):
            role = name.removeprefix("gen_ai.").removesuffix(".message")
            prompt += _messages([{**fields, "role": _ROLES.get(role, fields.get("role"))}], f"{where}: {name}")
        elif name in ("gen_ai.content.prompt", "gen_ai.content.completion"):
            found = _json_list(event.get(name.replace(".content", "")), where)
            if name.endswith("prompt"):
                prompt += _messages(found, f"{where}: prompt")
            else:
                answers += found
    return (prompt, _choices(answers, where)) if prompt else None


# Messages, calls and tools


def _messages(found: list[Any], where: str) -> list[Row]:
    made: list[Row] = []
    for number, each in enumerate(found):
        place = f"{where} message {number}"
        each = json_or_text(each, place)
        if not isinstance(each, dict) or not isinstance(each.get("role"), str):
            raise RowError(f"{place}: expected a message with a role, found {short(each)}", rule="log-unknown")
        content = _of_strands(each.get("parts", each.get("content")))
        if each["role"] == "tool" and content and not isinstance(content, str) and not _is_parts(content):
            content = json.dumps(content, ensure_ascii=False)  # Pydantic AI logs the result itself
        results = [part for part in content if _is_result(part)] if isinstance(content, list) else []
        others: Any = [part for part in content if not _is_result(part)] if results else content
        if content in (None, []) and not (each.get("tool_calls") or each.get("function_call")):
            raise RowError(f"{place}: the tracer did not record its content", rule=NO_REQUEST)
        if others or not results:
            made.append(_message(each, others, place))
        for result in results:
            id = next((result[key] for key in ("id", "toolCallId", "tool_use_id") if result.get(key)), None)
            made.append({"role": "tool", "tool_call_id": id, "content": _result_text(result, place)})
    return made


def _message(found: Row, content: Any, where: str) -> Row:
    calls = found.get("tool_calls")
    calls = _json_list(calls, where) if calls else None
    keys = ("role", "name", "refusal", "reasoning", "reasoning_content", "function_call", "tool_call_id")
    made = {**{key: found[key] for key in keys if found.get(key) is not None}, "content": content, "tool_calls": calls}
    if found["role"] == "tool" and not made.get("tool_call_id"):
        made["tool_call_id"] = found.get("id")
    return langchain.message(made, where)


def _choices(found: list[Any], where: str) -> Row:
    choices: list[Row] = []
    for number, each in enumerate(found):
        if not isinstance(each, dict):
            raise RowError(f"{where}: expected a message, found {short(each)}", rule="log-unknown")
        content = _of_strands(each.get("parts", each.get("content")))
        message = _message({**each, "role": "assistant"}, content, f"{where}: output {number}")
        choices += completion(message, each.get("finish_reason"))["choices"]
    return {"choices": choices}


def _of_strands(content: Any) -> Any:
    """The content with the blocks of Bedrock as parts. Strands Agents logs them as a JSON string."""
    if isinstance(content, str) and content.startswith(('[{"text":', '[{"toolUse":', '[{"toolResult":')):
        content = json_or_text(content, "")
    if not isinstance(content, list) or not all(isinstance(part, dict) and part.keys() <= _BLOCKS for part in content):
        return content
    made = []
    for kind, value in (item for part in content for item in part.items()):
        if kind in ("toolUse", "toolResult") and isinstance(value, dict):
            name = "tool_call" if kind == "toolUse" else "tool_call_response"
            made.append({**value, "type": name, "id": value.get("toolUseId")})
        else:
            made.append({"type": "text", "text": value} if kind == "text" else {"type": kind})
    return made


def _is_parts(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(part, dict) and "type" in part for part in content)


def _is_result(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in _RESULTS


def _result_text(part: Row, where: str) -> str:
    keys = ("response", "result", "output", "content")
    found = next((part[key] for key in keys if part.get(key) is not None), "")
    if isinstance(found, dict) and set(found) == {"type", "value"}:  # the AI SDK's {"type": "json", "value": ...}
        if found["type"] == "content":
            raise RowError(f"{where}: a result with parts other than text", rule="content-not-text")
        found = found["value"]
    if isinstance(found, list) and found and all(map(_is_text, found)):
        found = langchain.message({"role": "tool", "content": found}, where)["content"]
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type", "text") == "text"


def _with_parts(found: Any) -> Any:
    """OpenLLMetry's message, whose content is a JSON string if it has several parts."""
    content = found.get("content") if isinstance(found, dict) else None
    if not isinstance(content, str) or not content.startswith('[{"type"') or found.get("role") in ("tool", "assistant"):
        return found
    parts = json_or_text(content, "")
    return {**found, "content": parts} if isinstance(parts, list) else found


def _of_openinference(found: Any) -> Any:
    """OpenInference's message without its wrappers, such as {"message": {"contents": [{"message_content": ...}]}}."""
    message = found.get("message") if isinstance(found, dict) else None
    if not isinstance(message, dict):
        return found
    made = {**message, "role": message.get("role", "assistant")}
    if isinstance(message.get("tool_calls"), list):
        made["tool_calls"] = [
            each.get("tool_call", each) if isinstance(each, dict) else each for each in message["tool_calls"]
        ]
    if isinstance(message.get("contents"), list) and message.get("content") is None:
        parts = message["contents"]
        made["content"] = [each.get("message_content", each) if isinstance(each, dict) else each for each in parts]
    if message.get("function_call_name"):
        arguments = message.get("function_call_arguments_json")
        made["function_call"] = {"name": message["function_call_name"], "arguments": arguments}
    return made


def _tools(attributes: Row, where: str) -> list[Any]:
    """The tools that the request offered, wherever the convention keeps them."""
    for key in ("gen_ai.tool.definitions", "ai.prompt.tools", "gen_ai.request.tools", "tools"):
        if attributes.get(key):
            tools = [json_or_text(each, where) for each in _json_list(attributes[key], f"{where}: {key}")]
            return [_of_wrapped(each) for each in tools]
    if flat := _nested(attributes, "llm.request.functions", where):
        return flat
    if flat := _nested(attributes, "llm.tools", where):
        tools = [
            each.get("tool", each).get("json_schema", each) if isinstance(each.get("tool", each), dict) else each
            for each in flat
        ]
        return [json_or_text(each, where) for each in tools]
    parameters = json_or_text(attributes.get("model_request_parameters"), where)  # Pydantic AI's
    if isinstance(parameters, dict):
        found = [
            *_json_list(parameters.get("function_tools"), where),
            *_json_list(parameters.get("output_tools"), where),
        ]
        return [
            {key: each[key] for key in _TOOL_KEYS if key in each} if isinstance(each, dict) else each for each in found
        ]
    return []


def _of_wrapped(tool: Any) -> Any:
    """The tool without the wrapper of Vercel's provider tools."""
    return {**tool, "type": "function"} if isinstance(tool, dict) and tool.get("type") == "tool" else tool


def _with_finish(response: Row, attributes: Row) -> None:
    """Set the finish reasons of the choices that have none, from the span's."""
    found = next((attributes[key] for key in _FINISH_KEYS if attributes.get(key)), None)
    found = json_or_text(found, "")
    reasons = found if isinstance(found, list) else [found]
    choices = response.get("choices")
    for number, choice in enumerate(choices if isinstance(choices, list) else ()):
        if isinstance(choice, dict) and choice.get("finish_reason") is None and reasons:
            choice["finish_reason"] = langchain.finish_reason(reasons[min(number, len(reasons) - 1)])


_FINISH_KEYS = (
    *("gen_ai.response.finish_reasons", "ai.response.finishReason", "llm.response.finish_reason", "llm.finish_reason"),
    *("gen_ai.response.finish_reason"),
)


def _json_list(found: Any, where: str) -> list[Any]:
    """The list, decoded if it is a JSON string; empty if absent. A single object is a list of one."""
    decoded = json_or_text(found, where)
    if isinstance(decoded, dict):
        return [decoded]
    if isinstance(decoded, list):
        return decoded
    if decoded in (None, ""):
        return []
    raise RowError(f"{where}: expected a list as JSON, found {short(found)}", rule=BROKEN)


def _nested(attributes: Row, name: str, where: str) -> list[Any]:
    """The list whose values are flat attributes, such as `name.0.role`; or the list under `name` itself."""
    if isinstance(attributes.get(name), list):
        return [_split_keys(each) for each in attributes[name]]
    tree: Row = {}
    for key in attributes:
        if key.startswith(name) and key[len(name) : len(name) + 1] == ".":
            _insert(tree, key[len(name) + 1 :].split("."), attributes[key], where)
    found = _lists(tree)
    return found if isinstance(found, list) else []


def _split_keys(found: Any) -> Any:
    """The value with each key such as "message.role" split into two levels, as data frames of Phoenix need."""
    if isinstance(found, list):
        return [_split_keys(each) for each in found]
    if not isinstance(found, dict):
        return found
    tree: Row = {}
    for key, value in found.items():
        if value is not None:
            _insert(tree, key.split("."), _split_keys(value), "")
    return _lists(tree)


def _insert(tree: Row, path: list[str], value: Any, where: str) -> None:
    for step in path[:-1]:
        tree = tree.setdefault(step, {})
        if not isinstance(tree, dict):
            raise RowError(f"{where}: the attribute {'.'.join(path)} is below one that is a value", rule="log-unknown")
    tree[path[-1]] = value


def _lists(tree: Any) -> Any:
    """The tree with each object whose keys are numbers as a list."""
    if not isinstance(tree, dict):
        return tree
    if tree and all(key.isdecimal() for key in tree):
        return [_lists(tree[key]) for key in sorted(tree, key=int)]
    return {key: _lists(value) for key, value in tree.items()}
