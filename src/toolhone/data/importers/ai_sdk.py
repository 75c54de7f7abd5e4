"""The Vercel AI SDK (versions 4 to 6): rows of its messages, and calls of `generateText` with their results.

A model message has parts: `tool-call` in the assistant's content, `tool-result` in a message of role tool. A UI message
keeps a call and its result in one part, and several steps in one message. Both become OpenAI's messages. A result's
steps become one log line each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolhone.data.importers.bodies import REQUEST_KEYS, RESPONSE_KEYS, body_of, refuse_failed
from toolhone.data.importers.importer import Row, RowFault, json_text, short, unexpected
from toolhone.data.importers.turns import (
    add_call,
    add_reasoning,
    add_text,
    assistant_turn,
    data_row,
    hosted_tool,
    log_line,
    not_text,
    objects,
    result_text,
)
from toolhone.errors import RowError

_FINISH_REASONS = {"tool-calls": "tool_calls", "content-filter": "content_filter", "unknown": None, "other": None}
_OWN_PARTS = ("tool-call", "tool-result", "tool-invocation", "dynamic-tool", "step-start", "tool-approval-request")
_NO_CONTENT = ("step-start", "tool-approval-request", "tool-approval-response", "source", "source-url")
_OUTPUT_TYPES = ("text", "json", "error-text", "error-json", "content", "execution-denied")
_PROMPT_KEYS = ("messages", "prompt", "system", "instructions", "tools", "toolChoice")
_KEPT = ("role", "content", "tool_calls", "tool_call_id", "weight")  # of a message without parts
_DENIED = "Tool execution denied."


def looks_like(row: Row) -> bool:
    """Whether the row has messages with the SDK's parts, its object of tools, or a result of `generateText`."""
    if _are_own_messages(row.get("messages")) or _are_own_messages(row.get("prompt")):
        return True
    tools = row.get("tools")
    if isinstance(tools, dict) and "messages" in row and any(map(_is_own_tool, tools.values())):
        return True
    return _result(row) is not None


def rewrite(row: Row, where: str) -> Iterator[Row | RowFault]:
    """Yield the log line of each step of a result, or the row of a data set."""
    result, request = _result(row), _request(row)
    if result is None:
        messages = _prompt(row, where)
        yield data_row(row, messages, *openai_tools(row.get("tools"), where), _PROMPT_KEYS)
        return
    refuse_failed(row, result, where)
    if request is None:
        raise RowError(f'{where}: a result without "messages" or "prompt"', rule="log-no-request")
    thread = _prompt(request, where)
    functions, hosted = openai_tools(_tools(request), where)
    made = {
        "tools": [*functions, *({"type": name} for name in hosted)] or None,
        "tool_choice": _tool_choice(request.get("toolChoice")),
    }
    steps = _steps(result, f"{where}: result")
    answer: list[Row] = [{}]
    for step, reason, messages in steps:
        answer = []
        _add_messages(answer, messages, f"{where}: result")
        if not answer or answer[0]["role"] != "assistant":
            raise RowError(f"{where}: a step of the result without an answer", rule="log-empty")
        choice = {"index": 0, "message": answer[0], "finish_reason": _FINISH_REASONS.get(reason, reason)}
        response = _response_of(step)
        about = {"id": response.get("id"), "model": response.get("modelId"), "created": response.get("timestamp")}
        yield log_line(row, {**made, "messages": list(thread)}, {**about, "choices": [choice]})
        thread += answer
    if unused := len(answer) - 1:
        text = f"the last answer is followed by {unused} tool results, which no turn uses; they are left out"
        yield RowFault(where, "log-unused-result", text)


# Messages


def openai_messages(messages: Any, where: str) -> list[Row]:
    """The messages, of either kind, in OpenAI's format. Raises RowError for a part that is neither text nor a call."""
    if isinstance(messages, str):
        messages = json_text(messages, where) if messages[:1] == "[" else [{"role": "user", "content": messages}]
    made: list[Row] = []
    _add_messages(made, objects(messages, where, "messages"), where)
    return made


def _add_messages(made: list[Row], messages: list[Row], where: str) -> None:
    for number, message in enumerate(messages):
        place, role = f"{where}: message {number}", message.get("role")
        parts = message.get("parts") or message.get("content")
        if message.get("experimental_attachments"):
            raise not_text("experimental_attachments", place)
        if role == "assistant" and message.get("toolInvocations") and not message.get("parts"):
            _add_invocations(made, message, place)
        elif not isinstance(parts, list):
            made.append({key: message[key] for key in _KEPT if key in message})
        elif role == "assistant":
            _add_assistant(made, objects(parts, place, "parts"), place)
        elif role == "tool":
            made += _results(objects(parts, place, "parts"), place)
        else:
            texts = [_text(part, f"{place}: part {n}") for n, part in enumerate(objects(parts, place, "parts"))]
            made.append({"role": role, "content": "".join(texts)})


def _add_assistant(made: list[Row], parts: list[Row], where: str) -> None:
    """Add the turns of an assistant's message. A step starts a new turn; the results of a step follow its turn."""
    results: list[Row] = []
    invocations = False
    turn: Row | None = None
    for number, part in enumerate(parts):
        kind, place = str(part.get("type")), f"{where}: part {number}"
        if turn is None or kind == "step-start" or (invocations and kind != "tool-invocation"):
            made += results
            results, invocations, turn = [], False, None
        if _is_without_content(kind):
            continue
        if turn is None:
            made.append(turn := {"role": "assistant", "content": None})
        if part.get("providerExecuted"):
            raise hosted_tool(part.get("toolName") or kind, place)
        if kind == "reasoning":
            text = part.get("text", part.get("reasoning"))  # "reasoning" in UI messages of version 4
            add_reasoning(turn, text, place)
        elif kind == "tool-call":
            add_call(turn, part.get("toolCallId"), part.get("toolName"), _input(part), place)
        elif kind in ("tool-result", "tool-error"):
            results += _results([part], place)
        elif kind == "tool-invocation":
            invocations = True
            results += _add_invocation(turn, part.get("toolInvocation"), place)
        elif kind == "dynamic-tool" or kind.startswith("tool-"):
            name = part.get("toolName") if kind == "dynamic-tool" else kind.removeprefix("tool-")
            results += _add_invocation(turn, {**part, "toolName": name}, place)
        elif kind != "redacted-reasoning":  # encrypted, so there is no text to keep
            add_text(turn, _text(part, place), place)
    if turn is None and not results:
        assistant_turn(made)
    made += results


def _add_invocations(made: list[Row], message: Row, where: str) -> None:
    """Add the turns of a UI message of version 4 that has no parts. Its text comes after the results."""
    found = objects(message["toolInvocations"], where, "tool invocations")
    for step in sorted({int(each.get("step") or 0) for each in found}):
        of_step = [
            {"type": "tool-invocation", "toolInvocation": each} for each in found if (each.get("step") or 0) == step
        ]
        _add_assistant(made, of_step, where)
    if message.get("content"):
        made.append({"role": "assistant", "content": message["content"]})


def _add_invocation(turn: Row, found: Any, where: str) -> list[Row]:
    """Add the call of a UI message to the turn, and return its result, if there is one."""
    if not isinstance(found, dict):
        raise unexpected(where, "a tool invocation", found, "bad-call")
    state = found.get("state")
    if state in ("partial-call", "input-streaming"):
        raise RowError(f"{where}: a call that was still being written", rule="log-truncated")
    add_call(turn, found.get("toolCallId"), found.get("toolName"), _input(found), where)
    content = None
    if state in ("output-available", "result"):
        content = _output_text(found.get("output", found.get("result")), where)
    elif state == "output-error":
        content = result_text(found.get("errorText"))
    elif state == "output-denied":
        approval = found.get("approval")
        content = str((approval.get("reason") if isinstance(approval, dict) else None) or _DENIED)
    if content is not None:
        return [{"role": "tool", "tool_call_id": found.get("toolCallId"), "content": content}]
    return []


def _results(parts: list[Row], where: str) -> Iterator[Row]:
    """The message of each result."""
    for number, part in enumerate(parts):
        kind, place = part.get("type"), f"{where}: part {number}"
        if kind == "tool-approval-response":
            continue
        if kind not in ("tool-result", "tool-error"):
            raise unexpected(place, "a tool-result", part, "bad-content")
        if part.get("providerExecuted"):
            raise hosted_tool(part.get("toolName"), place)
        found = next((part[key] for key in ("output", "result", "error") if key in part), None)
        yield {"role": "tool", "tool_call_id": part.get("toolCallId"), "content": _output_text(found, place)}


def _input(call: Row) -> Any:
    return next((call[key] for key in ("input", "args", "rawInput") if call.get(key) is not None), None)


def _output_text(output: Any, where: str) -> str:
    """The text of a result: of its typed output since version 5, or of the value itself."""
    if not isinstance(output, dict) or output.get("type") not in _OUTPUT_TYPES:
        return result_text(output)
    if output["type"] == "execution-denied":
        return str(output.get("reason") or _DENIED)
    if "value" not in output:
        return result_text(output)
    if output["type"] == "content" and isinstance(output["value"], list):
        return "".join(_text(part, where) for part in objects(output["value"], where, "parts"))
    return result_text(output["value"])


def _text(part: Row, where: str) -> str:
    if part.get("type") != "text" or not isinstance(part.get("text"), str):
        if _is_without_content(str(part.get("type"))):
            return ""
        raise not_text(part.get("type"), where)
    return str(part["text"])


def _is_without_content(kind: str) -> bool:
    """Whether the part holds nothing that the model reads or writes: a mark, a source, or data for the page."""
    return kind in _NO_CONTENT or kind == "source-document" or kind.startswith("data-")


def _are_own_messages(messages: Any) -> bool:
    return isinstance(messages, list) and any(_is_own_message(m) for m in messages if isinstance(m, dict))


def _is_own_message(message: Row) -> bool:
    content, parts = message.get("content"), message.get("parts")
    if isinstance(content, list) and any(isinstance(p, dict) and p.get("type") in _OWN_PARTS for p in content):
        return True
    if isinstance(message.get("toolInvocations"), list):
        return True
    return "role" in message and isinstance(parts, list) and any(map(_is_ui_part, parts))


def _is_ui_part(part: Any) -> bool:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return False
    return part["type"].startswith(("tool-", "dynamic-tool", "step-start")) or (
        part["type"] == "text" and isinstance(part.get("text"), str)
    )


# Requests and results


def _request(row: Row) -> Row | None:
    """The arguments of the call: in the row itself, or under a known key."""
    for found in (row, *(body_of(row.get(key)) for key in REQUEST_KEYS)):
        if isinstance(found, dict) and (isinstance(found.get("messages"), list) or found.get("prompt") is not None):
            return found
    return None


def _prompt(request: Row, where: str) -> list[Row]:
    found = request.get("messages") if request.get("messages") is not None else request.get("prompt")
    messages = openai_messages(found, f"{where}: messages")
    system = request.get("system") or request.get("instructions")
    if isinstance(system, dict | list):  # since version 6 also as messages
        return [*openai_messages(system if isinstance(system, list) else [system], f"{where}: system"), *messages]
    return [{"role": "system", "content": system}, *messages] if system else messages


def _result(row: Row) -> Row | None:
    """The result of `generateText`, of one of its steps, or of the model itself."""
    for found in (*(body_of(row.get(key)) for key in RESPONSE_KEYS), row):
        if isinstance(found, dict) and (_is_step(found) or _has_messages(found) or _has_steps(found)):
            return found
    return None


def _is_step(found: Any) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("finishReason"), str | dict):
        return False
    return isinstance(found.get("content"), list) or isinstance(found.get("text"), str) or "toolCalls" in found


def _has_steps(found: Row) -> bool:
    steps = found.get("steps")
    return isinstance(steps, list) and bool(steps) and all(map(_is_step, steps))


def _has_messages(found: Row) -> bool:
    """Whether the value is a result, or its `response`, with the messages that it generated."""
    response = found.get("response")
    if not isinstance(response, dict) or "choices" in response:
        return False
    return isinstance(response.get("messages"), list) and bool(response["messages"])


def _steps(result: Row, where: str) -> list[tuple[Row, Any, list[Row]]]:
    """Each step with its finish reason and its messages: the assistant's, and the results of its calls."""
    steps = [result] if not _has_steps(result) else result["steps"]
    whole = _messages_of(result) or _messages_of(steps[-1])
    starts = [n for n, message in enumerate(whole) if message.get("role") == "assistant"]
    if len(starts) >= len(steps):  # the messages of all steps
        ends = [*starts[1:], len(whole)]
        steps = [{"response": {"modelId": _response_of(steps[-1]).get("modelId")}}] * (len(starts) - len(steps)) + steps
        pieces = [whole[start:end] for start, end in zip(starts, ends, strict=True)]
    else:
        pieces = [_messages_of(step) or _messages_of_content(step, where) for step in steps]
    return [(step, _finish_reason(step), piece) for step, piece in zip(steps, pieces, strict=True)]


def _response_of(step: Row) -> Row:
    found = step.get("response")
    return found if isinstance(found, dict) else {}


def _messages_of(step: Row) -> list[Row]:
    found = _response_of(step).get("messages")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _messages_of_content(step: Row, where: str) -> list[Row]:
    """The messages of a step without messages: of its content, or of its text, calls and results."""
    content = step.get("content")
    if not isinstance(content, list):
        content = [{"type": "text", "text": step["text"]}] if step.get("text") else []
        for key, kind in (("toolCalls", "tool-call"), ("toolResults", "tool-result")):
            content += [{**each, "type": kind} for each in objects(step.get(key) or [], f"{where}: {key}", "objects")]
    return [{"role": "assistant", "content": content}]


def _finish_reason(step: Row) -> Any:
    found = step.get("finishReason")
    return found.get("unified") if isinstance(found, dict) else found


def _tool_choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "tool":
        return {"type": "function", "function": {"name": choice.get("toolName")}}
    return choice.get("type")


# Tools


def _tools(request: Row) -> Any:
    mode = request.get("mode")  # where the SDK's version 4 gives a model its tools
    return request.get("tools") if request.get("tools") is not None or not isinstance(mode, dict) else mode.get("tools")


def _is_own_tool(tool: Any) -> bool:
    return isinstance(tool, dict) and ("inputSchema" in tool or "parameters" in tool)


def openai_tools(tools: Any, where: str) -> tuple[list[Any], list[str]]:
    """The tools as bare functions, and the names of those that the provider runs. `tools` is a list, or an object from
    name to tool. Raises RowError for a schema that was written as a Zod object, which JSON does not hold in full."""
    tools = json_text(tools, f"{where}: tools") if isinstance(tools, str) else tools
    if isinstance(tools, dict):
        tools = [{"name": name, **tool} if isinstance(tool, dict) else tool for name, tool in tools.items()]
    if not isinstance(tools or [], list):
        raise unexpected(where, "a list or an object of tools", tools, "bad-tool")
    functions: list[Any] = []
    hosted: list[str] = []
    for tool in tools or []:
        if not isinstance(tool, dict):
            functions.append(tool)
            continue
        if str(tool.get("type")).startswith("provider"):
            hosted.append(str(tool.get("name") or tool.get("id")))
            continue
        schema = tool.get("inputSchema") or tool.get("parameters")
        if isinstance(schema, dict) and ("~standard" in schema or "_def" in schema):
            text = f"{where}: the tool {short(tool.get('name'))} has a Zod object as its schema; log its JSON Schema"
            raise RowError(f"{text}: asSchema(tool.inputSchema).jsonSchema", rule="bad-tool")
        functions.append(
            {key: value for key, value in tool.items() if key != "type"} if "function" not in tool else tool
        )
    return functions, hosted
