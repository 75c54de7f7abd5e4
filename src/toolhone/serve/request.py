"""Validates a chat-completions request. In: its JSON. Out: an example, how to sample its answer, and what the answer
must look like.

Every option that OpenAI's API defines is read or refused by name. Unknown keys are ignored and listed, or refused with
`strict`. Null counts as absent. A request without `temperature` gets the most likely answer, as in training's reports;
OpenAI's default is 1. Refusals are `ApiError`, in OpenAI's shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from toolhone.data.importers.importer import short
from toolhone.engines.generate import Sampling
from toolhone.errors import RowError, UserError
from toolhone.records import Example, Gold, Message
from toolhone.serve.history import History, read_history
from toolhone.serve.tools import MAX_DEPTH, RequestTools, read_tool_choice, read_tools
from toolhone.strict_json import StrictJsonError, is_nested_deeper, parse_strict
from toolhone.tool_schema import check_schema

ALIAS = "toolhone"
"""A name by which every server's model may be asked for."""

MAX_CHOICES = 8
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 32
_LONGEST_LIMIT = 2**31 - 1

ResponseFormat = Mapping[str, Any] | None
"""The JSON Schema that the text of an answer must follow. None: any text."""

_READ = frozenset(
    {"model", "messages", "tools", "functions", "tool_choice", "function_call", "parallel_tool_calls"}
    | {"response_format", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "seed"}
    | {"presence_penalty", "frequency_penalty", "logit_bias", "stop", "n", "logprobs", "top_logprobs", "stream"}
    | {"stream_options", "modalities", "web_search_options", "toolhone"}
)
_NO_EFFECT: Mapping[str, type] = {
    "user": str,
    "safety_identifier": str,
    "prompt_cache_key": str,
    "prompt_cache_retention": str,
    "metadata": dict,
    "store": bool,
    "prediction": dict,
}
"""Keys that change no answer, and the types of their values."""

_IGNORED: Mapping[str, type] = {
    "reasoning_effort": str,
    "verbosity": str,
    "service_tier": str,
    "chat_template_kwargs": dict,
}
"""Keys of which the small model knows nothing, and the types of their values. They are listed as ignored."""

_FOR_LARGE_MODEL = (
    *("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "stop", "logprobs", "top_logprobs"),
    *("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "metadata", "store", "prediction"),
    *("reasoning_effort", "verbosity", "service_tier"),
)
"""Keys that a large model gets as the client sent them. `logit_bias` is not among them: its ids belong to the small
model's tokenizer."""

_TYPES = {str: "a text", bool: "true or false", dict: "an object", list: "a list"}


class ApiError(Exception):
    """A refused request; OpenAI's client raises its own exception for it. `param` is the key at fault, `code` a short
    name of the fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}

    def to_json(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def no_such_model(name: str, served: Sequence[str]) -> ApiError:
    has = " and ".join(map(repr, served))
    return ApiError(404, f"The model {name!r} does not exist; this server has {has}", code="model_not_found")


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the answer calls. auto: text or calls. none: text only. required: at least one call. `names` are the
    tools that may be called: all declared ones, or the chosen ones."""

    mode: Literal["auto", "none", "required"]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A valid request.

    Attributes:
        model: the name that the client asked for, one of those that are served.
        example: its messages and tools as the model sees them, without gold. With tool_choice "none" it has no tools.
        parallel: False: at most one call.
        max_tokens: the limit of an answer; None if the request sets none.
        n: the number of answers.
        include_usage: whether a stream ends with the number of tokens.
        response_schema: what the text of the answer must follow.
        top_logprobs: how many likely tokens to list at each place, 0 to 20.
        ignored: unknown keys, and known ones without effect here. Safe in a header.
        repaired: what was changed in the messages and tools, in words. Safe in a header.
        large_options: the client's options as a large model of OpenAI's API takes them. `strict` is apart: the names of
            the tools that are strict.
        details: whether the answer shows the probability of each argument, as the playground asks.
        legacy_functions: the tools came as `functions`, so the client expects `function_call` in the answer.
    """

    model: str
    example: Example
    tool_choice: ToolChoice
    parallel: bool = True
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    response_schema: ResponseFormat = None
    logprobs: bool = False
    top_logprobs: int = 0
    ignored: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()
    large_options: Mapping[str, Any] = field(default_factory=dict)
    details: bool = False
    legacy_functions: bool = False


def read_request(body: bytes, id_: str, models: Sequence[str], *, strict: bool = False) -> ChatRequest:
    """Return the request in a JSON body, validated.

    Args:
        id_: the id of the answer, and of its example.
        models: the names of the models that are served. `ALIAS` is accepted too, for the first one.
        strict: refuse unknown keys.

    Raises:
        ApiError: if the body is invalid; it names the key at fault.
    """
    row = _object(body)
    if (name := _typed(row, "model", str)) is None:
        raise ApiError(400, f"model: is missing; this server has {models[0]!r}", param="model")
    if name not in (*models, ALIAS):
        raise no_such_model(name, models)
    tools, legacy = _tools(row)
    choice = _tool_choice(row, tools, legacy=legacy)
    history = _history(row)
    stream_options = _typed(row, "stream_options", dict) or {}
    ignored = _ignored(row, stream_options, tools, history)
    if strict and ignored:
        key = ignored[0]
        raise ApiError(400, f"Unrecognized request argument supplied: {key}", param=key, code="unknown_parameter")
    stream = bool(_typed(row, "stream", bool))
    include_usage = _typed(stream_options, "include_usage", bool, "stream_options.include_usage")
    logprobs = bool(_typed(row, "logprobs", bool))
    top = _whole(row, "top_logprobs", 0, MAX_TOP_LOGPROBS)
    if top and not logprobs:
        raise ApiError(400, "top_logprobs: set logprobs to true as well", param="top_logprobs")
    limits = [_whole(row, key, 1, None) for key in ("max_completion_tokens", "max_tokens")]
    parallel = _typed(row, "parallel_tool_calls", bool)
    schema, response_format = _response_format(row)
    given = () if choice.mode == "none" else tools.tools
    no_turn, no_gold = Message("assistant", ""), Gold("any")
    return ChatRequest(
        model=name if name in models else models[0],
        example=Example(id_, id_, history.messages, no_turn, no_gold, given, "the request", None, {}),
        tool_choice=choice,
        parallel=parallel is not False and not legacy,
        sampling=_sampling(row),
        max_tokens=next((min(limit, _LONGEST_LIMIT) for limit in limits if limit is not None), None),
        stop=_stops(row),
        n=_whole(row, "n", 1, MAX_CHOICES) or 1,
        stream=stream,
        include_usage=bool(include_usage) and stream,
        response_schema=schema,
        logprobs=logprobs,
        top_logprobs=top or 0,
        ignored=_for_header(ignored),
        repaired=_for_header((*tools.repaired, *history.repaired)),
        large_options={
            **{key: row[key] for key in _FOR_LARGE_MODEL if key in row},
            **({"response_format": response_format} if response_format else {}),
            **(_options_of_tools(row, tools, choice, parallel) if given else {}),
        },
        details=bool(_typed(_typed(row, "toolhone", dict) or {}, "details", bool, "toolhone.details")),
        legacy_functions=legacy,
    )


def _object(body: bytes) -> dict[str, Any]:
    """Return the body's JSON object, without keys whose value is null."""
    try:
        row = parse_strict(body.decode())
    except (UnicodeDecodeError, StrictJsonError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    except RecursionError:  # in the search for half surrogate pairs
        raise ApiError(400, "the body is not JSON: it is nested too deeply", code="invalid_json") from None
    if not isinstance(row, dict):
        raise ApiError(400, f"the body: expected a JSON object, found {type(row).__name__}", code="invalid_json")
    if is_nested_deeper(row, MAX_DEPTH):
        raise ApiError(400, f"the body: expected at most {MAX_DEPTH} levels of nesting", code="invalid_json")
    return {key: value for key, value in row.items() if value is not None}


# Values


def _refused(key: str, expected: str, found: Any) -> ApiError:
    return ApiError(400, f"{key}: expected {expected}, found {short(found)}", param=key, code="invalid_value")


def _typed(row: Mapping[str, Any], key: str, kind: type, place: str = "") -> Any:
    value = row.get(key)
    if value is not None and not isinstance(value, kind):
        raise _refused(place or key, _TYPES[kind], value)
    return value


def _whole(row: Mapping[str, Any], key: str, least: int, most: int | None) -> int | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # some languages write every number with a fraction
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        expected = f"{least} or more" if most is None else f"{least} to {most}"
        raise _refused(key, f"a whole number of {expected}", value)
    return value


def _number(row: Mapping[str, Any], key: str, least: float, most: float, default: float, place: str = "") -> float:
    value = row.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _refused(place or key, f"a number from {least:g} to {most:g}", value)
    return float(value)


def _sampling(row: Mapping[str, Any]) -> Sampling:
    top_p = _number(row, "top_p", 0, 1, 1.0)
    seed = _whole(row, "seed", -(2**63), 2**63 - 1)
    return Sampling(
        # With top_p 0 only the most likely token is left.
        temperature=_number(row, "temperature", 0, 2, 0.0) if top_p else 0.0,
        top_p=top_p or 1.0,
        top_k=max(_whole(row, "top_k", -1, _LONGEST_LIMIT) or 0, 0),
        min_p=_number(row, "min_p", 0, 1, 0.0),
        # -1 is a random seed for llama.cpp and vLLM, and llama.cpp's seeds have 32 bits.
        seed=None if seed is None or seed == -1 else seed % (2**32 - 1),
        presence_penalty=_number(row, "presence_penalty", -2, 2, 0.0),
        frequency_penalty=_number(row, "frequency_penalty", -2, 2, 0.0),
        logit_bias=_logit_bias(row),
    )


def _logit_bias(row: Mapping[str, Any]) -> tuple[tuple[int, float], ...]:
    found = _typed(row, "logit_bias", dict) or {}
    for key in found:
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise _refused("logit_bias", "the ids of tokens as keys", key)
    return tuple((int(key), _number(found, key, -100, 100, 0.0, "logit_bias")) for key in found)


def _stops(row: Mapping[str, Any]) -> tuple[str, ...]:
    found = row.get("stop")
    stops = [] if found is None else [found] if isinstance(found, str) else found
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(stop, str) for stop in stops):
        raise _refused("stop", f"a text or a list of at most {MAX_STOPS} texts", found)
    return tuple(dict.fromkeys(stop for stop in stops if stop))  # an empty text stops nothing


def _response_format(row: Mapping[str, Any]) -> tuple[ResponseFormat, dict[str, Any] | None]:
    """Return the schema of the answer's text, and the format as chat completions take it; both None for any text."""
    found = _typed(row, "response_format", dict)
    if not found:
        return None, None
    kind = found.get("type")
    if kind == "text":
        return None, None
    if kind == "json_object":
        return {"type": "object"}, {"type": "json_object"}
    if kind != "json_schema":
        raise _refused("response_format.type", "text, json_object or json_schema", kind)
    inner = found.get("json_schema")
    if inner is None and "schema" in found:  # the responses API has no inner object
        inner = {key: value for key, value in found.items() if key != "type"}
    if not isinstance(inner, dict):
        raise _refused("response_format.json_schema", "an object with name and schema", inner)
    place = "response_format.json_schema"
    _typed(inner, "name", str, f"{place}.name")
    _typed(inner, "strict", bool, f"{place}.strict")
    schema = _typed(inner, "schema", dict, f"{place}.schema") or {}
    try:
        check_schema(schema, f"{place}.schema")
    except UserError as error:
        raise ApiError(400, str(error), param="response_format", code="invalid_schema") from None
    return schema, {"type": "json_schema", "json_schema": {"name": "answer", **inner}}


# Messages and tools


def _tools(row: Mapping[str, Any]) -> tuple[RequestTools, bool]:
    """Return the tools, and whether they came as legacy functions."""
    if _typed(row, "functions", list) and row.get("tools"):
        raise ApiError(400, "functions: tools are given too; keep tools", param="functions", code="invalid_tools")
    key = "functions" if row.get("functions") else "tools"
    if "web_search_options" in row:
        found = "web_search_options: this server hosts no tools; leave it out"
        raise ApiError(400, found, param="web_search_options", code="unsupported")
    modalities = _typed(row, "modalities", list)
    if modalities is not None and modalities != ["text"]:
        raise _refused("modalities", '["text"]', modalities)
    try:
        return read_tools(row.get(key, []), key), key == "functions"
    except UserError as error:
        code = error.rule if isinstance(error, RowError) and error.rule == "hosted-tool" else "invalid_tools"
        raise ApiError(400, str(error), param=key, code=code) from None


def _tool_choice(row: Mapping[str, Any], tools: RequestTools, *, legacy: bool) -> ToolChoice:
    key = "function_call" if legacy else "tool_choice"
    try:
        return ToolChoice(*read_tool_choice(row.get(key), [tool.name for tool in tools.tools], key))
    except RowError as error:
        raise ApiError(400, str(error), param=key, code=error.rule) from None


def _history(row: Mapping[str, Any]) -> History:
    try:
        return read_history(row.get("messages"))
    except RowError as error:
        raise ApiError(400, str(error), param="messages", code=error.rule) from None


def _options_of_tools(
    row: Mapping[str, Any], tools: RequestTools, choice: ToolChoice, parallel: bool | None
) -> dict[str, Any]:
    """Return the options about tools in the shape of chat completions, with the tools' own names."""
    options: dict[str, Any] = {} if parallel is None else {"parallel_tool_calls": parallel}
    if tools.strict:
        options["strict"] = tools.strict
    named = [{"type": "function", "function": {"name": name}} for name in choice.names]
    if len(named) < len(tools.tools) or isinstance(row.get("tool_choice"), dict):
        allowed = {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": named}}
        options["tool_choice"] = named[0] if choice.mode == "required" and len(named) == 1 else allowed
    elif choice.mode == "required":
        options["tool_choice"] = "required"
    return options


def _ignored(
    row: Mapping[str, Any], stream_options: Mapping[str, Any], tools: RequestTools, history: History
) -> list[str]:
    for key, kind in (*_NO_EFFECT.items(), *_IGNORED.items()):
        _typed(row, key, kind)
    unknown = sorted(row.keys() - _READ - _NO_EFFECT.keys())
    of_stream = sorted(stream_options.keys() - {"include_usage", "include_obfuscation"})
    return [*unknown, *(f"stream_options.{key}" for key in of_stream), *tools.ignored, *history.ignored]


_MOST_IN_HEADER = 16
_LONGEST_IN_HEADER = 120


def _for_header(texts: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Return the first texts, each short and of printable ASCII, because a client chose parts of them."""
    shown = [ascii(text)[1:-1][:_LONGEST_IN_HEADER] for text in texts[:_MOST_IN_HEADER]]
    more = len(texts) - len(shown)
    return (*shown, f"and {more} more") if more else tuple(shown)
