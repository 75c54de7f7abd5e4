"""Reads values that are written as Python's literals, as strictly as JSON is read.

In: a text and a place in it, as for `call_json.decode`. Out: the value and its end, or why there is none. Nothing is
ever evaluated: strings, numbers, True, False, None, lists and dictionaries are rewritten as JSON, which is then
decoded; tuples, sets, names and operators are broken. Time is linear in what is read.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

from toolhone.chat.call_json import Decoded, Undecodable, decode

# What Python's literals look like; a word or a bracket of any other kind ends the search. JSON's words are read on
# request alone: Python does not know them.
_STRING = r"'(?:[^'\\\n]++|\\.)*+'|" + r'"(?:[^"\\\n]++|\\.)*+"'
_TOKEN = re.compile(rf"\s++|[\[\]{{}}:,]|-?\d[\d.eE+-]*+|{_STRING}|(?:True|False|None)\b")
_TOKEN_OR_JSON_WORD = re.compile(rf"{_TOKEN.pattern}|(?:true|false|null)\b")
_WORDS = {"True": "true", "False": "false", "None": "null"}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|U0010[0-9a-fA-F]{4}|.)")
_PYTHON_WORDS = {json_word: word for word, json_word in _WORDS.items()}
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0"}

# The start of a token that the text's end may have cut.
_CUT_TOKEN = re.compile(r"'(?:[^'\\\n]++|\\.)*+\\?|" + r'"(?:[^"\\\n]++|\\.)*+\\?|-|T(?:ru?)?|F(?:a(?:ls?)?)?|No?n?')

_CUT_NUMBER = re.compile(r"\.|[eE][+-]?")
_BROKEN = "broken Python literal"


def decode_python(text: str, start: int, *, json_words: bool = False) -> Decoded | Undecodable:
    """Decode the Python literal that starts at `start`; with `json_words`, true, false and null are read as well.
    Never raises."""
    written, end, whole = _as_json(text, start, _TOKEN_OR_JSON_WORD if json_words else _TOKEN)
    found = decode(written, 0)
    if isinstance(found, Decoded):
        if whole and found.end == len(written):
            return replace(found, end=end)
        return Undecodable(_BROKEN, end, end == len(text) and _CUT_NUMBER.fullmatch(written, found.end) is not None)
    cut = found.cut and (end == len(text) or _CUT_TOKEN.fullmatch(text, end) is not None)
    return Undecodable(_BROKEN, len(text) if cut else end, cut)


def python_from_json(raw: str) -> str:
    """A JSON text, whole or cut, with its words as Python writes them; all else is the same in both."""
    written: list[str] = []
    at = 0
    while token := _TOKEN_OR_JSON_WORD.match(raw, at):
        at, part = token.end(), token.group()
        written.append(_PYTHON_WORDS.get(part, part))
    return "".join(written) + raw[at:]


def _as_json(text: str, start: int, token_kinds: re.Pattern[str]) -> tuple[str, int, bool]:
    """The literal that starts here as JSON text; where the search ended; and whether it is whole. Of one that has no
    end, what was read of it."""
    written: list[str] = []
    depth, at = 0, start
    while token := token_kinds.match(text, at):
        at, part = token.end(), token.group()
        if part.isspace():
            continue
        if part in ("]", "}"):
            if written[-1:] == [","] and written[-2:-1] not in ([], [","], ["["], ["{"], [":"]):
                written.pop()
            depth -= 1
        elif part in ("[", "{"):
            depth += 1
        written.append(_string(part) if part[0] in "'\"" else _WORDS.get(part, part))
        if depth <= 0:
            return " ".join(written), at, True
    return " ".join(written), at, False


def _string(literal: str) -> str:
    """A string as JSON has it. In double quotes it may be JSON's already, whose escapes differ a little."""
    if literal[0] == '"':
        try:
            json.loads(literal)
        except json.JSONDecodeError:
            pass
        else:
            return literal
    return json.dumps(_ESCAPE.sub(_unescaped, literal[1:-1]))


def _unescaped(escape: re.Match[str]) -> str:
    code = escape[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    # Python keeps the backslash before a letter that means nothing after it.
    return code if code in "'\"\\" else _ESCAPED.get(code, escape[0])
