"""Maps rows with old versions of a tool to its newest version: `data check --fix OUT --map FILE`.

A map is a YAML or JSON file with a key for each tool, by its old name:

    get_weather:
      new_name: weather            # the tool's name in the newest version
      rename: {town: city}         # arguments: old name, new name
      drop: [units]                # arguments that the newest version does not have
      default: {language: en}      # values of arguments that a call does not have
      values: {unit: {C: celsius}} # by the new name of the argument: old value, new value

All keys are optional. The row then gets the newest definition of the tool (`check/drift.py`, or the one in --tools), in
`tools`, and its calls and its `expected` are changed. A row that already has that definition stays as it is. So a map
that has been applied once changes nothing more. The check of the copy reports calls that still violate the schema.
`starting_map` writes a first map with its guesses.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from toolhone.config_file import read_yaml
from toolhone.data.check.drift import (
    SeenTools,
    ToolVersion,
    changes,
    keywords,
    properties_of,
    renames,
    required_of,
    similar_names,
    value_renames,
)
from toolhone.data.importers.functions import arguments_key, read_tool
from toolhone.errors import RowError, UserError
from toolhone.records import Tool
from toolhone.strict_json import StrictJsonError, parse_strict

Row = dict[str, Any]

_SUCH_AS = "the name of a tool, with new_name, rename, drop, default or values below it"


class MapConflict(Exception):  # noqa: N818  (an outcome that is counted, not a fault)
    """The map cannot be applied to a row. The text says why."""


@dataclass(frozen=True, slots=True)
class ToolChange:
    """How calls of one tool change, and the newest definition."""

    newest: Tool
    rename: Mapping[str, str] = field(default_factory=dict)
    drop: frozenset[str] = frozenset()
    default: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)

    def arguments(self, given: Row) -> Row:
        """The arguments of a call under the newest definition. Raises MapConflict if two would have one name."""
        made = self._renamed(given)
        return {**made, **{name: value for name, value in self.default.items() if name not in made}}

    def _renamed(self, given: Row) -> Row:
        made: Row = {}
        for name, value in given.items():
            now = self.rename.get(name, name)
            if name in self.drop:
                continue
            if now in made or (now != name and now in given):
                raise MapConflict(f'a call of "{self.newest.name}" has two arguments for "{now}"')
            made[now] = self._value(now, value)
        return made

    def _value(self, name: str, value: Any) -> Any:
        known = self.values.get(name, {})
        if isinstance(value, list):
            return [self._value(name, item) for item in value]
        # With the type, because in Python True == 1 == 1.0.
        return next((new for old, new in known.items() if type(old) is type(value) and old == value), value)

    def gold(self, call: Row) -> Row:
        """A call of `expected`, whose arguments have lists of accepted values. Raises MapConflict as `arguments`
        does."""
        accepted = self._renamed(call["arguments"])
        accepted |= {name: [value] for name, value in self.default.items() if name not in accepted}
        made = {**call, "name": self.newest.name, "arguments": accepted}
        for key in ("optional", "blank"):
            if isinstance(call.get(key), list):
                made[key] = [self.rename.get(name, name) for name in call[key] if name not in self.drop]
        return made


# Applying a map


def map_row(row: Row, changes_by_tool: Mapping[str, ToolChange]) -> tuple[Row, list[str]]:
    """The row in OpenAI's format with the newest definitions, and what was done. The same object if nothing changes.

    Raises:
        MapConflict: if a call would have two arguments of one name.
    """
    offered = row.get("tools")
    try:
        listed = parse_strict(offered) if isinstance(offered, str) else offered
    except StrictJsonError:  # the check of the copy reports it
        return row, []
    tools: list[Any] | None = None
    wanted = changes_by_tool  # a row without tools has those of --tools, which are the newest
    if isinstance(listed, list):
        tools, old = _newest_tools(listed, changes_by_tool)
        wanted = {name: changes_by_tool[name] for name in old}
    if not wanted:
        return row, []
    done = [f'tool "{name}": the newest definition' for name in wanted] if tools is not None else []
    messages = []
    for number, message in enumerate(row["messages"]):
        calls = message.get("tool_calls")
        made = [_mapped_call(call, wanted) for call in calls] if isinstance(calls, list) else calls
        if made != calls:
            done.append(f"message {number}: calls mapped")
            message = {**message, "tool_calls": made}
        if message.get("role") == "tool" and message.get("name") in wanted:
            message = {**message, "name": wanted[message["name"]].newest.name}
        messages.append(message)
    made_row = {**row, "messages": messages} | ({"tools": tools} if tools is not None else {})
    gold = row.get("expected")
    if isinstance(gold, dict) and isinstance(gold.get("calls"), list):
        mapped = [_mapped_gold(call, wanted) for call in gold["calls"]]
        if mapped != gold["calls"]:
            done.append("expected: calls mapped")
            made_row["expected"] = {**gold, "calls": mapped}
    return (made_row, done) if done else (row, [])


def _newest_tools(listed: Sequence[Any], by_tool: Mapping[str, ToolChange]) -> tuple[list[Any], list[str]]:
    """The row's tools with the newest definitions, and the names of those that were old."""
    made: list[Any] = []
    old: list[str] = []
    names: set[str] = set()
    for each in listed:
        try:
            tool = read_tool(each, "tools")
        except RowError:  # the check of the copy reports it
            made.append(each)
            continue
        change = by_tool.get(tool.name)
        if change is not None and tool != change.newest:
            old.append(tool.name)
            tool, each = change.newest, change.newest.to_json()
        if tool.name not in names:  # the row may have the tool under its new name already
            made.append(each)
        names.add(tool.name)
    return made, old


def _mapped_call(call: Any, wanted: Mapping[str, ToolChange]) -> Any:
    function = call.get("function", call) if isinstance(call, dict) else None
    change = wanted.get(str(function.get("name"))) if isinstance(function, dict) else None
    if change is None or not isinstance(function, dict):
        return call
    key = arguments_key(function)
    given = function.get(key)
    try:
        arguments = parse_strict(given) if isinstance(given, str) and given.strip() else given or {}
    except StrictJsonError:  # the check of the copy reports it
        return call
    if not isinstance(arguments, dict):
        return call
    made: Any = change.arguments(arguments)
    made = given if made == arguments else json.dumps(made, ensure_ascii=False) if isinstance(given, str) else made
    mapped = {**function, "name": change.newest.name, key: made}
    return {**call, "function": mapped} if "function" in call else mapped


def _mapped_gold(call: Any, wanted: Mapping[str, ToolChange]) -> Any:
    change = wanted.get(str(call.get("name"))) if isinstance(call, dict) else None
    readable = change is not None and isinstance(call.get("arguments"), dict)
    return change.gold(call) if change is not None and readable else call


# Reading a map


def read_map(path: Path, seen: SeenTools, default_tools: Sequence[Tool] = ()) -> dict[str, ToolChange]:
    """The changes of a map file, by the old name of the tool. `seen` has the versions of the rows' tools; a definition
    in `default_tools` (--tools) is the newest.

    Raises:
        UserError: one message with every fault of the map, each with its line.
    """
    if not path.is_file():
        raise UserError(f"--map: {path}: no such file; --write-map {path} writes a first one")
    written, places = read_yaml(path, _SUCH_AS)
    newest = {name: versions[-1].tool for name, versions in seen.versions().items()}
    newest |= {tool.name: tool for tool in default_tools}
    faults: list[str] = []
    found: dict[str, ToolChange] = {}
    for name, entry in written.items():
        wrong = list(_entry_faults(str(name), entry, newest))
        for key, fault in wrong:
            dotted = f"{name}.{key}" if key else str(name)
            faults.append(f"{places.get(dotted, path)}: {dotted}: {fault}")
        if not wrong:
            entry = entry or {}
            rename, drop, default, values = (entry.get(key) or {} for key in ("rename", "drop", "default", "values"))
            found[name] = ToolChange(newest[entry.get("new_name", name)], rename, frozenset(drop), default, values)
    if faults:
        raise UserError("\n".join(faults))
    return found


_KINDS = {"new_name": str, "rename": dict, "drop": list, "default": dict, "values": dict}
_FORMS = {
    "new_name": "the tool's new name",
    "rename": "old names with new names, such as {town: city}",
    "drop": "a list of names, such as [units]",
    "default": "names with values, such as {language: en}",
    "values": "names with old and new values, such as {unit: {C: celsius}}",
}


def _entry_faults(name: str, entry: Any, newest: Mapping[str, Tool]) -> Iterator[tuple[str, str]]:
    """What is wrong with the map of one tool, with the key that it is under."""
    if name not in newest:
        yield "", f"no row has this tool{_meant(name, newest)}"
        return
    if not isinstance(entry, dict | None):
        yield "", f"expected {', '.join(_FORMS)} below it, found {json.dumps(entry, default=str)}"
        return
    entry = entry or {}
    malformed = list(_malformed(entry))
    if malformed:
        yield from malformed
        return
    new_name = entry.get("new_name", name)
    if new_name not in newest:
        yield "new_name", f'neither a row nor --tools defines the tool "{new_name}"{_meant(new_name, newest)}'
        return
    properties = properties_of(newest[new_name].parameters)
    rename, drop, default, values = (entry.get(key) or {} for key in ("rename", "drop", "default", "values"))
    for key, names in (("rename", rename.values()), ("default", default), ("values", values)):
        for each in dict.fromkeys(names):
            if each not in properties:
                yield key, f'the newest version has no argument "{each}"{_meant(str(each), properties)}'
    for each in sorted(set(rename.values()) & rename.keys()):
        yield "rename", f'"{each}" is both an old and a new name; rename each old name to the newest one'
    for each in sorted(set(map(str, drop)) & rename.keys()):
        yield "drop", f'"{each}" is under rename too; keep one'
    for argument, known in values.items():
        for new in known.values():
            if any(type(new) is type(old) and new == old for old in known):
                yield "values", f"{argument}: {json.dumps(new)} is both an old and a new value; keep one"


def _malformed(entry: Row) -> Iterator[tuple[str, str]]:
    """The keys that are unknown, or whose value has another shape."""
    for key, value in entry.items():
        if key not in _FORMS:
            yield str(key), f"unknown key{_meant(str(key), _FORMS)}"
            continue
        well_formed = isinstance(value, _KINDS[key])
        if key == "rename" and well_formed:
            well_formed = all(isinstance(each, str) for pair in value.items() for each in pair)
        if key == "values" and well_formed:
            well_formed = all(isinstance(each, dict) for each in value.values())
            if well_formed and any(isinstance(old, bool) for each in value.values() for old in each):
                yield key, 'YAML reads on, off, yes and no as true and false; quote them, such as "on"'
        if not well_formed:
            yield key, f"expected {_FORMS[key]}, found {json.dumps(value, default=str)}"


def _meant(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f'; did you mean "{near[0]}"?' if near else f"; known: {', '.join(known) or 'none'}"


# A first map


def starting_map(seen: SeenTools) -> str:
    """A map of all tools with several versions, as YAML, with the guesses of `check/drift.py`; "" if there are none."""
    drifted = seen.drifted()
    names = list(seen.versions())
    alike = [pair for pair in combinations(names, 2) if similar_names(*pair) == 1]
    lines = [
        "# A first map of old rows to the newest tools, made by guessing. Check each line, then run",
        "#     toolhone data check FILES --fix OUT --map THIS",
        "# Below each tool: new_name, rename (old: new), drop, default (new: value), values (new: {old: new}).",
    ]
    for name, versions in drifted.items():
        lines += _starting_entry(name, versions)
    for one, other in alike:
        lines.append(f"# {_quoted(one)} and {_quoted(other)} may be one tool: then write new_name below the old name")
    return "\n".join(lines) + "\n" if drifted or alike else ""


def _starting_entry(name: str, versions: Sequence[ToolVersion]) -> Iterator[str]:
    newest = versions[-1].tool.parameters
    properties = properties_of(newest)
    rename: dict[str, str] = {}
    drop: dict[str, None] = {}
    values: dict[str, dict[str, str]] = {}
    needed: dict[str, None] = {}
    unclear: dict[str, None] = {}
    yield f"{_quoted(name)}:"
    yield f"  # newest: {versions[-1].span()}, from {versions[-1].where}"
    for version in versions[:-1]:
        old = version.tool.parameters
        before = properties_of(old)
        changed = "; ".join(changes(version.tool, versions[-1].tool)).replace("\n", " ")
        yield f"  # older: {version.span()}, from {version.where}: {changed}"
        guessed = renames(old, newest)
        rename |= {each: now for each, now in guessed.items() if each not in rename}
        for each in (each for each in before if each not in properties and each not in rename):
            (unclear if each in required_of(old) else drop)[each] = None
        for each, schema in before.items():
            now = guessed.get(each, each)
            if spellings := value_renames(schema, properties.get(now)):
                values[now] = {**spellings, **values.get(now, {})}
        had = {*before, *guessed.values()}
        needed |= dict.fromkeys(each for each in sorted(required_of(newest)) if each not in had)
    defaults = {each: properties[each]["default"] for each in needed if "default" in keywords(properties.get(each))}
    parts = {"rename": rename, "drop": [each for each in drop if each not in rename], "default": defaults}
    parts["values"] = values
    for key, part in parts.items():
        if part:
            yield f"  {key}: {json.dumps(part, ensure_ascii=False)}"
    for each in unclear:
        yield f"  # {_quoted(each)} was required: put it under rename or drop"
    for each in needed:
        if each not in defaults:
            yield f"  # {_quoted(each)} is required now: rename an old argument, or give a value under default"
    if not any(parts.values()):
        yield "  {}"


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)
