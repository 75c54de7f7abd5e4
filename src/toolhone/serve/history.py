"""Reads the messages of a request as clients send them back, and brings them into the order that chat templates take.

In: the list under `messages`. Out: messages, and in words what was changed. Chat templates take one system message at
the start, then turns of the user and the assistant, and after each turn with calls one result for each call, in the
order of the calls. So:

- results are paired with calls by `tool_call_id`; a call without a result gets an empty one, and a result without a
  call is left out;
- several system messages are joined at the start; consecutive messages of one role are joined;
- arguments of earlier calls that are not a JSON object become {}, so that one bad call does not end the session;
- an assistant message without text and calls is left out.

Keys that servers add to their answers are dropped. Thinking stays, for templates that write it.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from toolhone.data.importers.functions import arguments_key, read_arguments
from toolhone.data.importers.importer import Row, short, unexpected
from toolhone.data.importers.openai import text_of
from toolhone.data.importers.thinking import KEY, KEYS, is_thought, with_thinking
from toolhone.errors import RowError
from toolhone.records import Message, Role, ToolCall
from toolhone.serve.tools import MAX_DEPTH
from toolhone.strict_json import StrictJsonError, is_nested_deeper, parse_strict

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_READ = frozenset({"role", "content", "tool_calls", "tool_call_id", "function_call", "name", "refusal", *KEYS})
_DROPPED = frozenset(
    {"annotations", "audio", "cache_control", "id", "index", "object", "parsed", "provider_specific_fields"}
    | {"status", "type", "weight"}
)
"""Keys that servers and clients add to messages, and that do not change what was said."""
_TEXT_PARTS = (None, "text", "input_text", "output_text", "refusal")


@dataclass(slots=True, eq=False)
class _Turn:
    """A message while its place is found. `at` is its index in the request. `results` has a place for each call."""

    role: Role
    content: str
    at: int
    calls: list[ToolCall] = field(default_factory=list)
    answers: str | None = None
    of_function: str | None = None
    thinking: str = ""
    results: list[_Turn | None] = field(default_factory=list)

    def message(self) -> Message:
        return Message(self.role, self.content, tuple(self.calls), self.answers, thinking=self.thinking)


@dataclass(frozen=True, slots=True)
class History:
    """The messages of a request. `repaired` says in words what was changed; `ignored` has the names of unknown keys."""

    messages: tuple[Message, ...]
    repaired: tuple[str, ...]
    ignored: tuple[str, ...]


def read_history(rows: Any) -> History:
    """Return the messages of a request, and what was changed in them.

    Raises:
        RowError: naming the message and the key, if one has a value of the wrong type or a part that is not text, or if
            the last message is the assistant's.
    """
    if not isinstance(rows, list) or not rows:
        raise unexpected("messages", "a list of messages", rows, "no-messages")
    repaired: list[str] = []
    ignored: set[str] = set()
    turns: list[_Turn] = []
    for number, row in enumerate(rows):
        turn = _turn(row, number, repaired, ignored)
        if turn.role == "assistant" and not turn.content.strip() and not turn.calls:
            repaired.append(f"messages[{number}]: an assistant message without text and calls is left out")
        else:
            turns.append(turn)
    system = _system(turns, repaired)
    turns = [turn for turn in turns if turn.role != "system"]
    paired = _paired(_joined(turns, repaired), repaired)
    if not system and not paired:
        raise RowError("messages: no message is left; send a user message", rule="no-messages")
    if paired and paired[-1].role == "assistant":
        text = "messages: the last message is the assistant's; send a user message or tool results after it"
        raise RowError(f"{text} (answers are not continued)", rule="prefill")
    made = [*system, *_joined(paired, repaired)]
    return History(tuple(turn.message() for turn in made), tuple(repaired), tuple(sorted(ignored)))


def _turn(row: Any, number: int, repaired: list[str], ignored: set[str]) -> _Turn:
    where = f"messages[{number}]"
    if not isinstance(row, dict):
        raise unexpected(where, "an object", row, "bad-message")
    found = row.get("role")
    if not isinstance(found, str) or found not in _ROLES:
        raise unexpected(f"{where}.role", f"one of {', '.join(_ROLES)}", found, "bad-role")
    role = _ROLES[found]
    ignored.update(f"messages[].{key}" for key in row.keys() - _READ - _DROPPED if row[key] is not None)
    if role == "assistant":
        return _assistant_turn(row, number, repaired)
    if row.get("tool_calls") or row.get("function_call"):
        raise RowError(f"{where}.tool_calls: only assistant messages may have calls", rule="calls-of-another-role")
    content = _text(row.get("content"), f"{where}.content")
    if role == "tool":
        name = _string(row, "name", where) if found == "function" else None
        return _Turn(role, content or "", number, answers=_string(row, "tool_call_id", where), of_function=name)
    if content is None:
        raise unexpected(f"{where}.content", "a text or a list of text parts", None, "empty-message")
    return _Turn(role, content, number)


def _assistant_turn(row: Row, number: int, repaired: list[str]) -> _Turn:
    where = f"messages[{number}]"
    try:
        row = with_thinking(row, where)
    except RowError:
        repaired.append(f"{where}: its thinking cannot be read and is left out")
        row = {key: value for key, value in row.items() if key not in KEYS}
        if isinstance(row.get("content"), list):
            row["content"] = [part for part in row["content"] if not is_thought(part)]
    content = _text(row.get("content"), f"{where}.content")
    content = content or _string(row, "refusal", where)
    found = row.get("tool_calls")
    if not isinstance(found, list | None):
        raise unexpected(f"{where}.tool_calls", "a list", found, "bad-call")
    if not found and row.get("function_call") is not None:
        found = [{"function": row["function_call"]}]
    calls = [_call(call, f"{where}.tool_calls[{n}]", repaired) for n, call in enumerate(found or ())]
    return _Turn("assistant", content or "", number, calls, thinking=row.get(KEY) or "")


def _string(row: Row, key: str, where: str) -> str | None:
    """Return the text under a key; None if it is absent, null or empty."""
    found = row.get(key)
    if not isinstance(found, str | None):
        raise unexpected(f"{where}.{key}", "a text", found, "bad-type")
    return found or None


def _text(content: Any, where: str) -> str | None:
    if isinstance(content, list):
        content = [{"text": part} if isinstance(part, str) else part for part in content]
        for number, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind not in _TEXT_PARTS:
                text = f"{where}[{number}]: a part of type {short(kind)}; this model reads only text"
                raise RowError(text, rule="content-not-text")
    return text_of(content, where)


# Calls


def _call(row: Any, where: str, repaired: list[str]) -> ToolCall:
    function = row.get("function", row) if isinstance(row, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise unexpected(where, '{"function": {"name": ..., "arguments": ...}}', row, "bad-call")
    id_ = _string(row, "id", where)
    return ToolCall(name, _arguments(function.get(arguments_key(function)), where, repaired), id_)


def _arguments(found: Any, where: str, repaired: list[str]) -> Row:
    """Return the arguments of an earlier call; {} if they are not a JSON object."""
    if isinstance(found, str):
        found = _decoded_twice(found)
    try:
        if found is not None and found != "":
            arguments = read_arguments(found, where)
            if not is_nested_deeper(arguments, MAX_DEPTH):
                return arguments
    except RowError:
        pass  # the session goes on without them
    repaired.append(f"{where}: its arguments are not a JSON object; they count as {{}}")
    return {}


def _decoded_twice(text: str) -> Any:
    """Return the JSON text inside a JSON text; the text itself if it is not encoded twice."""
    if not text.lstrip().startswith('"'):
        return text
    try:
        return parse_strict(text)
    except StrictJsonError:
        return text


# Order


def _system(turns: Sequence[_Turn], repaired: list[str]) -> list[_Turn]:
    """Return the system message, joined from all of them; an empty list if there is none."""
    systems = [turn for turn in turns if turn.role == "system"]
    if len(systems) > 1 or (systems and turns[0].role != "system"):
        repaired.append("messages: the system messages are joined at the start")
        _set_content(systems[0], [turn.content for turn in systems])
    return systems[:1]


def _joined(turns: Sequence[_Turn], repaired: list[str]) -> list[_Turn]:
    """Return the turns with consecutive ones of the user, or of the assistant, joined."""
    made: list[_Turn] = []
    texts: list[str] = []
    for turn in turns:
        last = made[-1] if made else None
        if last is None or turn.role != last.role or turn.role not in ("user", "assistant"):
            _set_content(last, texts)
            made.append(turn)
            texts = [turn.content]
            continue
        repaired.append(f"messages[{turn.at}]: joined with the message before, which has the same role")
        texts.append(turn.content)
        last.calls += turn.calls
        last.results += turn.results
        last.thinking = "\n\n".join(filter(None, (last.thinking, turn.thinking)))
    _set_content(made[-1] if made else None, texts)
    return made


def _set_content(turn: _Turn | None, texts: list[str]) -> None:
    if turn is not None and len(texts) > 1:
        turn.content = "\n\n".join(text for text in texts if text.strip())


def _paired(turns: Sequence[_Turn], repaired: list[str]) -> list[_Turn]:
    """Return the turns with each result after its call's turn, in the order of the calls."""
    others: list[_Turn] = []
    by_id: dict[str, list[tuple[_Turn, int]]] = defaultdict(list)  # the calls without a result; the next one is last
    latest: _Turn | None = None
    unanswered: deque[int] = deque()  # the calls of the latest turn that may have no result yet
    for turn in turns:
        if turn.role != "tool":
            others.append(turn)
            if turn.calls:
                turn.results = [None] * len(turn.calls)
                latest, unanswered = turn, deque(range(len(turn.calls)))
                for number, call in reversed(list(enumerate(turn.calls))):
                    if call.id is not None:
                        by_id[call.id].append((turn, number))
                _give_own_ids(turn, repaired)
            continue
        found = _by_id(by_id.get(turn.answers or "", []))
        if found is None and latest is not None:
            found = _by_position(turn, latest, unanswered)
        if found is None:
            repaired.append(f"messages[{turn.at}]: a tool result without an open call is left out")
            continue
        caller, number = found
        caller.results[number], turn.answers = turn, caller.calls[number].id
    made: list[_Turn] = []
    for place, turn in enumerate(others):
        made.append(turn)
        if place == len(others) - 1 and not any(turn.results):
            break  # its results are not there yet
        for call, result in zip(turn.calls, turn.results, strict=True):
            if result is None:
                repaired.append(
                    f"messages[{turn.at}]: the call of {short(call.name)} has no result; it gets an empty one"
                )
                result = _Turn("tool", "", turn.at, answers=call.id)
            made.append(result)
    given = [turn.at for turn in made]
    if given != sorted(given):
        repaired.append("messages: tool results are moved to their calls, in the order of the calls")
    return made


def _by_id(calls: list[tuple[_Turn, int]]) -> tuple[_Turn, int] | None:
    """Take the last call without a result; None if there is none."""
    while calls:
        caller, number = calls.pop()
        if caller.results[number] is None:
            return caller, number
    return None


def _by_position(result: _Turn, latest: _Turn, unanswered: deque[int]) -> tuple[_Turn, int] | None:
    """Return the first open call of the latest turn, if the result or the call has no id; None if there is none."""
    while unanswered and latest.results[unanswered[0]] is not None:
        unanswered.popleft()
    if not unanswered:
        return None
    call = latest.calls[unanswered[0]]
    is_same = result.of_function in (None, call.name)
    return (latest, unanswered[0]) if is_same and (result.answers is None or call.id is None) else None


def _give_own_ids(turn: _Turn, repaired: list[str]) -> None:
    """Give the calls of one turn different ids. Templates find the call of a result by its id."""
    seen: set[str | None] = {None}
    for number, call in enumerate(turn.calls):
        if call.id is not None and call.id in seen:
            repaired.append(f"messages[{turn.at}].tool_calls[{number}]: another call has its id; it gets a new one")
            turn.calls[number] = replace(call, id=f"{call.id}-{number}")
        seen.add(turn.calls[number].id)
