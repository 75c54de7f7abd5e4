"""Give tools and parameters meaningless names (function masking: Lin and others 2024, arXiv 2410.04587).

A model that chooses tools by their names alone fails if a name misleads. With meaningless names it has to read the
descriptions. Names change alike in the tool list, the calls and the `expected` gold; values, descriptions and what
people write stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

from toolhone.data.escalation import ESCALATE
from toolhone.records import Conversation, Gold, GoldCall, Message, Tool, ToolCall

Names = dict[str, list[Any]]
"""A property's name -> [its new name, the `Names` of the properties inside its value]. A list has the `Names` of its
items."""

_LETTERS = "bcdfghjklmnpqrstvwxz"  # no vowels, so that no word comes up
# fmt: off
_CANNOT_RENAME = frozenset((
    "patternProperties", "propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "allOf", "anyOf",
    "oneOf", "not", "if", "then", "else", "prefixItems", "contains", "unevaluatedProperties", "unevaluatedItems",
))
# fmt: on
"""Keywords by which a schema can name properties elsewhere than under `properties`: such a schema keeps its names."""
_REFERENCE = re.compile(r'"\$(?:ref|dynamicRef|recursiveRef)"')


def rename_tools(row: Conversation, rng: Random) -> tuple[Conversation, Names]:
    """Return the row with its tools and their parameters renamed, and the names that give the row back by `with_names`:
    a tool's new name -> [its own name, the `Names` of its parameters]. The reserved tool `escalate` keeps its name."""
    taken = {tool.name for tool in row.tools}

    def fresh(prefix: str) -> str:
        while (name := prefix + "".join(rng.choices(_LETTERS, k=6))) in taken:
            pass
        taken.add(name)
        return name

    def parameters(tool: Tool) -> Names:
        # A reference names properties on its way to anywhere in the schema.
        return {} if _REFERENCE.search(json.dumps(tool.parameters)) else _draw(tool.parameters, fresh)

    names: Names = {tool.name: [fresh("func_"), parameters(tool)] for tool in row.tools if tool.name != ESCALATE}
    return with_names(row, names), _inverse(names)


def mentions_a_tool(row: Conversation) -> bool:
    """Return whether a message writes out a tool's name, which renaming would make wrong. A name that may be a plain
    word, such as "search", does not count."""
    names = [tool.name for tool in row.tools if re.search(r"[_.\-]|[a-z][A-Z]", tool.name)]
    texts = [message.content for message in row.messages if message.role != "tool"]
    return any(name in text for name in names for text in texts)


def _draw(schema: Any, fresh: Callable[[str], str]) -> Names:
    if not isinstance(schema, dict) or not _CANNOT_RENAME.isdisjoint(schema):
        return {}
    properties, items = schema.get("properties"), schema.get("items")
    if isinstance(properties, dict) and isinstance(items, dict):
        return {}  # a value that may be an object or a list: `Names` cannot tell their properties apart
    if isinstance(properties, dict):
        return {name: [fresh("arg_"), _draw(inner, fresh)] for name, inner in properties.items()}
    return _draw(items, fresh) if isinstance(items, dict) else {}


def with_names(row: Conversation, names: Names) -> Conversation:
    """Return the row with its tools and their parameters under these names."""

    def call(one: ToolCall) -> ToolCall:
        name, inner = names.get(one.name, [one.name, {}])
        return ToolCall(name, _value(one.arguments, inner), one.id)

    def message(one: Message) -> Message:
        return replace(one, tool_calls=tuple(map(call, one.tool_calls))) if one.tool_calls else one

    def tool(one: Tool) -> Tool:
        name, inner = names.get(one.name, [one.name, {}])
        return Tool(name, one.description, _schema(one.parameters, inner))

    def gold(one: GoldCall) -> GoldCall:
        name, inner = names.get(one.name, [one.name, {}])
        optional = frozenset(inner[key][0] if key in inner else key for key in one.optional)
        return GoldCall(name, _value(one.arguments, inner), optional, frozenset(_path(key, inner) for key in one.blank))

    expected = row.expected
    return replace(
        row,
        messages=tuple(map(message, row.messages)),
        tools=tuple(map(tool, row.tools)),
        expected=None if expected is None else Gold(expected.status, tuple(map(gold, expected.calls))),
    )


def _path(path: str, names: Names) -> str:
    """Return a path of keys such as "body/unit" with each key renamed."""
    key, slash, rest = path.partition("/")
    new, inner = names.get(key, [key, {}])
    return f"{new}{slash}{_path(rest, inner) if slash else ''}"


def _value(value: Any, names: Names) -> Any:
    """Return a value with its objects' keys renamed; a key that is no property keeps its name."""
    if not names:
        return value
    if isinstance(value, list):
        return [_value(entry, names) for entry in value]
    if isinstance(value, dict):
        pairs = ((key, names.get(key, [key, {}]), entry) for key, entry in value.items())
        return {new: _value(entry, inner) for _, (new, inner), entry in pairs}
    return value


def _schema(schema: Any, names: Names) -> Any:
    if not names or not isinstance(schema, dict):
        return schema
    return {keyword: _keyword(keyword, value, names) for keyword, value in schema.items()}


def _keyword(keyword: str, value: Any, names: Names) -> Any:
    if keyword == "properties":
        return {names[key][0]: _schema(inner, names[key][1]) for key, inner in value.items()}
    if keyword == "items":
        return _schema(value, names)
    if keyword == "required" and isinstance(value, list):
        return [names[key][0] if key in names else key for key in value]
    if keyword in ("default", "const", "enum", "examples"):
        return _value(value, names)
    return value


def _inverse(names: Names) -> Names:
    return {new: [old, _inverse(inner)] for old, (new, inner) in names.items()}
