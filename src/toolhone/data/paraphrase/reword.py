"""Paraphrases of what a user says: how they are asked for, and which may be kept.

In: a conversation, and a model's answer to the request for paraphrases of its user turns. Out: the conversations that
the answer gives, with everything but the user's words as it was, and the reason for each that was dropped.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from toolhone.data.values import argument_values, codes, numbers_in, stands_in
from toolhone.records import Conversation
from toolhone.strict_json import StrictJsonError, parse_strict

_INSTRUCTIONS = """\
You write other wordings of what the user of an assistant says. You get a JSON object: "user" lists the user's
messages of one conversation in order, "assistant" says what the assistant rightly does in it, "keep" lists for each
message what must stand in it letter for letter, and "count" says how many wordings to write.

For each wording write every message anew, as another person would who wants exactly the same:
- same language, same facts, same request, so that the assistant's calls stay right to the last argument;
- everything under "keep" unchanged, case included;
- no new code, number, name, date or place, and none left out; a number in words stays that number;
- vary the structure, tone and length of the sentences, from curt to chatty, as people do; not only single words.

Answer with JSON alone: {"wordings": [["first message", "second message"], ...]}, each wording with as many messages
as "user" has."""

_HAN = re.compile(r"[\u3400-\u9fff]")
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


def request(row: Conversation, count: int) -> list[dict[str, str]]:
    """The messages that ask for so many paraphrases of a conversation's user turns."""
    done: list[Any] = []
    for message in row.messages:
        if message.role == "assistant":
            calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
            done.append({"calls": calls} if calls else {"says": message.content})
    asked = {
        "user": user_turns(row),
        "assistant": done,
        "keep": [sorted(str(value) for value in values) for values in kept_values(row)],
        "count": count,
    }
    content = json.dumps(asked, ensure_ascii=False)
    return [{"role": "system", "content": _INSTRUCTIONS}, {"role": "user", "content": content}]


def user_turns(row: Conversation) -> list[str]:
    return [message.content for message in row.messages if message.role == "user"]


def kept_values(row: Conversation) -> list[set[str | int | float]]:
    """For each user turn, the argument values that stand in it."""
    values = argument_values(row)
    return [{value for value in values if value != "" and stands_in(value, turn)} for turn in user_turns(row)]


def read_wordings(answer: str) -> list[Any] | None:
    """The wordings in a model's answer, bare or in a code fence, or None where it cannot be read."""
    fenced = _FENCE.search(answer)
    text = fenced[1] if fenced else answer[answer.find("{") : answer.rfind("}") + 1]
    try:
        read = parse_strict(text)
    except StrictJsonError:
        return None
    wordings = read.get("wordings") if isinstance(read, dict) else None
    return wordings if isinstance(wordings, list) else None


def fault(row: Conversation, wording: Any) -> str | None:
    """Why a wording may not stand in for the user's turns, in a few words that can be counted; None where it may."""
    turns = user_turns(row)
    if isinstance(wording, str) and len(turns) == 1:
        wording = [wording]
    if not isinstance(wording, list) or len(wording) != len(turns) or not all(isinstance(t, str) for t in wording):
        return "not the right number of messages"
    try:
        "".join(wording).encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair"
    if not all(text.strip() for text in wording):
        return "an empty message"
    values = argument_values(row)
    numbers = {value for value in values if not isinstance(value, str)}
    for before, after, kept in zip(turns, wording, kept_values(row), strict=True):
        if not all(stands_in(value, after) for value in kept):
            return "an argument's value lost"
        # A number that the user says in words, "two of them", can be held to no spelling.
        said, says = numbers_in(before), numbers_in(after)
        if any(abs(number) in said and abs(number) not in says for number in numbers):
            return "an argument's value lost"
        if any(not stands_in(code, before) and not _is_number(code, said) for code in codes(after)):
            return "a code or number made up"
        if bool(_HAN.search(before)) != bool(_HAN.search(after)):
            return "another language"
        if len(after) > 4 * len(before) + 200:
            return "far too long"
    return None


def _is_number(code: str, numbers: set[float]) -> bool:
    """Whether a code is a number that was said before in another form: "2" for "two"."""
    try:
        return float(code.replace(",", "")) in numbers
    except ValueError:
        return False


def reworded(row: Conversation, wording: Any, id: str, model: str) -> Conversation:
    """The conversation with other words in the user's turns."""
    texts = iter([wording] if isinstance(wording, str) else wording)
    messages = tuple(replace(m, content=next(texts).strip()) if m.role == "user" else m for m in row.messages)
    meta = {**row.meta, "template": template_of(row), "paraphrase_of": row.id, "generator": model}
    return replace(row, id=id, messages=messages, meta=meta)


def template_of(row: Conversation) -> Any:
    """The template that keeps a row and its paraphrases on one side of a split: its own, or one by its content."""
    return row.meta.get("template", f"row-{row.content_hash()}")


def plain(turns: list[str]) -> str:
    """Letters and digits in one case, to tell whether two wordings differ in more than signs and spaces."""
    return re.sub(r"[\W_]+", "", "\n".join(turns)).casefold()
