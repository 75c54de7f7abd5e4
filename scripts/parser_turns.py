"""Assistant turns to try a chat format with: 78 fixed ones, and generated ones with random tools and values.

`scripts/check_parsers.py` writes them in each format and asks vLLM's parser what it reads. The tools' schemas belong to
a turn, because some syntaxes write no types and their readers take them from the schema.
"""

from __future__ import annotations

import random
import string
from typing import Any, NamedTuple

Json = dict[str, Any]


class Turn(NamedTuple):
    """An assistant turn: its text, and its calls with "name" and decoded "arguments"."""

    name: str
    content: str
    calls: list[Json]
    tools: list[Json]


def _tool(name: str, properties: Json, required: list[str] | None = None) -> Json:
    parameters = {"type": "object", "properties": properties, "required": required or []}
    return {"type": "function", "function": {"name": name, "description": f"does {name}", "parameters": parameters}}


FIXED_TOOLS = [
    _tool("ping", {}),
    _tool(
        "write_note",
        {
            "text": {"type": "string"},
            "title": {"type": "string"},
            "kind": {"type": "string", "enum": ["todo", "idea", "1"]},
            "whole": {"type": "integer"},
            "number": {"type": "number"},
            "flag": {"type": "boolean"},
            "maybe": {"type": ["string", "null"]},
            "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
            "items": {"type": "array"},
            "names": {"type": "array", "items": {"type": "string"}},
            "thing": {"type": "object"},
            "anything": {},
        },
    ),
    _tool("get_weather", {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}}, ["city"]),
    _tool(
        "book_trip",
        {
            "traveller": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "vip": {"type": "boolean"}},
            },
            "legs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"to": {"type": "string"}, "nights": {"type": "integer"}},
                },
            },
        },
    ),
    _tool("look-up", {"id": {"type": "string"}}),
    _tool("Step2", {"x1": {"type": "number"}, "_y": {"type": "string"}}),
]


def _call(name: str, **arguments: Any) -> Json:
    return {"name": name, "arguments": arguments}


def _note(**arguments: Any) -> tuple[str, list[Json]]:
    return "", [_call("write_note", **arguments)]


_WEATHER = _call("get_weather", city="Paris")
_TRIP = _call(
    "book_trip",
    traveller={"name": "Ada Lovelace", "age": 36, "vip": True},
    legs=[{"to": "London", "nights": 2}, {"to": "Turin", "nights": 0}],
)
_CASES: dict[str, tuple[str, list[Json]]] = {
    # Plain answers
    "a plain answer": ("Good morning. How can I help?", []),
    "an answer in Chinese": ("您好,订单 92049 已发货。", []),
    "an answer with an emoji": ("Done 🎉 — enjoy!", []),
    "an answer of several lines": ("First line.\n\nSecond line.\n- a point", []),
    "an answer with quotes": ("She said \"yes\", he said 'no'.", []),
    "an answer with a code block": ("Try this:\n```python\nprint('hi')\n```", []),
    "an answer with braces and brackets": ("The set {1, 2} and the list [3, 4].", []),
    "an answer with angle brackets": ("Use <b>bold</b> if 3 < 4.", []),
    "an answer that names a tool": ("I can use get_weather for that. Which city?", []),
    "an answer that ends in a colon": ("I need the order number, please:", []),
    # Calls
    "one call": ("", [_WEATHER]),
    "one call with two arguments": ("", [_call("get_weather", city="Paris", unit="c")]),
    "a call without arguments": ("", [_call("ping")]),
    "a call that leaves out all arguments": ("", [_call("write_note")]),
    "a tool with a hyphen": ("", [_call("look-up", id="A-7")]),
    "a tool with capitals and digits": ("", [_call("Step2", x1=1.5, _y="b")]),
    "all arguments in another order": ("", [_call("get_weather", unit="f", city="Rome")]),
    # Parallel calls
    "two calls": ("", [_WEATHER, _call("get_weather", city="Rome")]),
    "two equal calls": ("", [_WEATHER, _WEATHER]),
    "three calls": ("", [_call("get_weather", city=city) for city in ("Paris", "Rome", "Bern")]),
    "two calls of different tools": ("", [_WEATHER, _call("look-up", id="7")]),
    "two calls without arguments": ("", [_call("ping"), _call("ping")]),
    "a call without arguments before another": ("", [_call("ping"), _WEATHER]),
    "a call without arguments after another": ("", [_WEATHER, _call("ping")]),
    "five calls": ("", [_call("write_note", whole=number) for number in range(5)]),
    # Text beside calls
    "text beside a call": ("Let me look.", [_WEATHER]),
    "text beside two calls": ("I compare both cities.", [_WEATHER, _call("get_weather", city="Rome")]),
    "text beside a call without arguments": ("One moment.", [_call("ping")]),
    "text of two lines beside a call": ("Let me look.\nOne moment.", [_WEATHER]),
    "Chinese text beside a call": ("好的,我查一下。", [_WEATHER]),
    "text with quotes beside a call": ('You said "Paris".', [_WEATHER]),
    "text with a list beside a call": ("Two steps:\n1. look\n2. book", [_TRIP]),
    # Strings
    "an empty string": _note(text=""),
    "two empty strings": _note(text="", title=""),
    "a space": _note(text=" "),
    "space around a string": _note(text="  a b  "),
    "a string of two lines": _note(text="one\ntwo"),
    "a string that ends in a line break": _note(text="one\n"),
    "a string that begins with a line break": _note(text="\none"),
    "a string with a tab": _note(text="a\tb"),
    "a string with double quotes": _note(text='say "hi"'),
    "a string with single quotes": _note(text="it's 'fine'"),
    "a string with both quotes": _note(text='"it\'s"'),
    "a string with a backslash": _note(text="C:\\new\\table"),
    "a string that ends in a backslash": _note(text="C:\\"),
    "a string with an escape written out": _note(text="a\\nb\\u00e9"),
    "a string in Chinese": _note(text="查询订单，谢谢"),
    "a string with accents": _note(text="Ça va, Zoë? naïve"),
    "a string with an emoji": _note(text="👍🏽 ok"),
    "a string in Arabic": _note(text="مرحبا"),
    "a string with angle brackets": _note(text="<b>x</b> & 3 < 4 > 2"),
    "a string with braces": _note(text="{a: [1, 2]} }"),
    "a string with commas and parentheses": _note(text="f(a=1, b=2), (c)"),
    "a string that is JSON": _note(text='{"a": [1, null]}'),
    "a long string": _note(text="word " * 60 + "end"),
    # Strings that look like other values
    "a string that looks like a number": _note(text="007"),
    "a string that looks like a whole number": _note(text="42"),
    "a string that looks like a decimal": _note(text="-1.50"),
    "a string that looks like a boolean": _note(text="true"),
    "a string that looks like Python's boolean": _note(text="False"),
    "a string that looks like null": _note(text="null", title="None"),
    "an enum that looks like a number": _note(kind="1"),
    # Numbers, booleans, null
    "a whole number": _note(whole=42),
    "zero and a negative number": _note(whole=0, number=-7),
    "a large number": _note(whole=9007199254740993),
    "a decimal": _note(number=0.1),
    "a decimal without a fraction": _note(number=2.0),
    "a negative and a tiny decimal": _note(number=-2.5e-7),
    "booleans": ("", [_call("write_note", flag=True), _call("write_note", flag=False)]),
    "null": _note(maybe=None),
    "a number or a string": ("", [_call("write_note", either=5), _call("write_note", either="five")]),
    # Lists and objects
    "a list of strings": _note(names=["a", "b c", ""]),
    "an empty list and an empty object": _note(items=[], thing={}),
    "a list of mixed values": _note(items=[1, "1", 1.5, True, None, "true", [2]]),
    "a nested object": ("", [_TRIP]),
    "a deep object": _note(thing={"a": {"b": {"c": [{"d": [[]]}]}}, 'e"f': "g'h"}),
    "an object with unicode": _note(thing={"名": "值", "é": ["ü\n", "\\"]}),
    # Everything
    "many arguments": _note(text="a", whole=1, number=1.5, flag=True, maybe="x", names=["n"], thing={"k": None}),
}
FIXED_TURNS = [Turn(name, content, calls, FIXED_TOOLS) for name, (content, calls) in _CASES.items()]

_WORDS = (
    "order", "Zoë", "订单", "ab12", "7", "-3", "0.5", "1e5", "true", "None", "null", "x y", "👍", "naïve", "a=b", "{}",
    "[1, 2]", "(c)", "https://a.b/c?d=e&f=g", "50%", "#1", "user@example.com", "2026-11-30T10:00:00Z", "</b>", "<i>",
)  # fmt: skip
_TAGS = (
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<|tool_call_end|>", "<function=f>",
    "</function>", "</parameter>", "<arg_value>", "</arg_value>", "functools[", "</think>", "<escape>", "```",
)  # fmt: skip
"""Tags of call syntaxes. Most formats can write them inside an argument; the others refuse the turn."""
_MARKS = ("", " ", " ", "  ", "\n", "\t", '"', "'", "\\", ", ", ": ", "; ", "|", "`", "/", "\\n", "''", '""')
_CONTENTS = ("Let me look.", "好的,我查一下。", "One moment:\nI check both.", 'You said "Rome"; right?', "It is 3 < 4.")


def generated_turn(draw: random.Random) -> Turn:
    """Return a random turn: tools with typed arguments, up to four calls, and values that the schemas allow."""
    tools = [_tool(name, {key: _schema(draw) for key in _names(draw, 5)}) for name in _names(draw, 3) or ["ping"]]
    count = draw.choice((0, 1, 1, 1, 2, 2, 3, 4))
    calls = []
    for _ in range(count):
        function = draw.choice(tools)["function"]
        given = [(key, schema) for key, schema in function["parameters"]["properties"].items() if draw.random() < 0.8]
        calls.append({"name": function["name"], "arguments": {key: _value(schema, draw) for key, schema in given}})
    content = "" if calls and draw.random() < 0.6 else draw.choice(_CONTENTS)
    return Turn("generated", content, calls, tools)


def _names(draw: random.Random, most: int) -> list[str]:
    names = (
        "".join(draw.choices(string.ascii_lowercase + "_", k=draw.randint(1, 9))) for _ in range(draw.randint(0, most))
    )
    return sorted({f"{draw.choice(string.ascii_letters)}{name}{draw.choice(('', '2', '_id'))}" for name in names})


def _schema(draw: random.Random, depth: int = 0) -> Json:
    kinds = ["string"] * 4 + ["integer", "number", "boolean", "enum", "nullable", "either", "any"]
    kind = draw.choice(kinds if depth > 1 else [*kinds, "array", "array", "object", "object"])
    if kind == "array":
        return {"type": "array", "items": _schema(draw, depth + 1)}
    if kind == "object":
        return {"type": "object", "properties": {key: _schema(draw, depth + 1) for key in _names(draw, 3)}}
    if kind == "enum":
        return {"type": "string", "enum": sorted({_text(draw) for _ in range(3)})}
    if kind == "nullable":
        return {"type": [draw.choice(("string", "integer", "boolean")), "null"]}
    if kind == "either":
        return {
            "anyOf": [{"type": kind} for kind in draw.sample(("string", "integer", "number", "boolean", "null"), 2)]
        }
    return {} if kind == "any" else {"type": kind}


def _value(schema: Json, draw: random.Random) -> Any:
    if "enum" in schema:
        return draw.choice(schema["enum"])
    if "anyOf" in schema:
        return _value(draw.choice(schema["anyOf"]), draw)
    kind = schema.get("type") or draw.choice(("string", "integer", "number", "boolean", "null", "array", "object"))
    if isinstance(kind, list):
        kind = draw.choice(kind)
    if kind == "array":
        return [_value(schema.get("items", {"type": "string"}), draw) for _ in range(draw.randint(0, 3))]
    if kind == "object":
        properties = schema.get("properties", {})
        return {key: _value(inner, draw) for key, inner in properties.items()} or {_text(draw): _text(draw)}
    if kind == "integer":
        return draw.choice((0, 1, -1, draw.randint(-(10**6), 10**6), draw.randint(-(2**60), 2**60)))
    if kind == "number":
        return draw.choice((0, 3, -2, 0.5, 2.0, -0.25, 1e-7, 1e22, round(draw.uniform(-1000, 1000), 3), draw.random()))
    return {"boolean": draw.random() < 0.5, "null": None}.get(kind, "") if kind != "string" else _text(draw)


def _text(draw: random.Random) -> str:
    if draw.random() < 0.1:
        return draw.choice(("", " ", "\n", *_WORDS))
    if draw.random() < 0.02:
        return f"{draw.choice(_WORDS)} {draw.choice(_TAGS)} {draw.choice(_WORDS)}"
    return "".join(draw.choice(_WORDS) + draw.choice(_MARKS) for _ in range(draw.randint(1, 5)))
