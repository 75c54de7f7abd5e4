"""Schema drift: the versions of a tool over time, and what changed from one to the next.

Logs of several months often define one tool in several ways. A version is one content of a tool's definition. Versions
are ordered by their first date (`meta.date`, an ISO day) if all have one, otherwise by their first row. The last one is
the newest.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from toolhone.data.check.finding import Finding
from toolhone.data.check.schema import ToolSet
from toolhone.data.values import letters_and_digits
from toolhone.records import Conversation, Tool

Schema = dict[str, Any]

MAX_VERSIONS = 50
"""Versions of a tool that are kept; further ones are only counted. A tool that is generated for each row has as many
versions as there are rows."""
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_SIMILAR = 0.6
_SHAPE = ("type", "properties", "required", "enum", "items")  # keywords that have their own description of a change


@dataclass(slots=True)
class ToolVersion:
    """A definition of a tool, the first row that has it, the number of rows and their first and last date."""

    tool: Tool
    where: str
    rows: int = 0
    first_date: str = ""
    last_date: str = ""

    def add(self, rows: int, first_date: str, last_date: str) -> None:
        self.rows += rows
        if first_date:
            self.first_date = min(self.first_date or first_date, first_date)
            self.last_date = max(self.last_date, last_date)

    def span(self) -> str:
        """The number of rows and their dates, in words."""
        rows = f"{self.rows:,} row{'' if self.rows == 1 else 's'}"
        return f"{rows}, {self.first_date} to {self.last_date}" if self.first_date else rows


class SeenTools:
    """The versions of all tools so far. `uncounted` has, by tool, the rows beyond `MAX_VERSIONS`."""

    def __init__(self) -> None:
        self.uncounted: dict[str, int] = {}
        self._versions: dict[str, dict[bytes, ToolVersion]] = {}
        # Most rows have the same tools as the row before. Such a run of rows is added as a whole.
        self._last: ToolSet | None = None
        self._run = ToolVersion(Tool("", "", {}), "")

    def add(self, row: Conversation, tools: ToolSet) -> None:
        """Count the versions of a row's tools."""
        if tools is not self._last:
            self._end_run()
            self._last, self._run = tools, ToolVersion(self._run.tool, row.where)
        date = row.meta.get("date")
        day = date[:10] if isinstance(date, str) and _DAY.match(date) else ""
        self._run.add(1, day, day)

    def _end_run(self) -> None:
        run = self._run
        for tool in self._last.tools if self._last is not None and run.rows else ():
            versions = self._versions.setdefault(tool.name, {})
            digest = self._last.digests[tool.name]  # type: ignore[union-attr]
            if digest not in versions:
                if len(versions) == MAX_VERSIONS:
                    self.uncounted[tool.name] = self.uncounted.get(tool.name, 0) + run.rows
                    continue
                versions[digest] = ToolVersion(tool, run.where)
            versions[digest].add(run.rows, run.first_date, run.last_date)
        self._run = ToolVersion(run.tool, run.where)

    def versions(self) -> dict[str, list[ToolVersion]]:
        """The versions of each tool, the oldest first."""
        self._end_run()
        found = {name: list(each.values()) for name, each in sorted(self._versions.items())}
        for each in found.values():
            if all(version.first_date for version in each):
                each.sort(key=lambda version: (version.first_date, version.last_date))
        return found

    def drifted(self) -> dict[str, list[ToolVersion]]:
        """The tools with several versions."""
        return {name: each for name, each in self.versions().items() if len(each) > 1}

    def findings(self) -> Iterator[Finding]:
        """A finding for each version but the oldest, at its first row: what changed since the version before."""
        remedy = "use one definition: --write-map FILE suggests how to map old rows, --fix OUT --map FILE does it"
        for name, versions in self.drifted().items():
            for old, new in pairwise(versions):
                text = (
                    f'the tool "{name}" is defined differently at {old.where}: {"; ".join(changes(old.tool, new.tool))}'
                )
                yield Finding(new.where, "tool-differs", text, "warning", remedy)
            if name in self.uncounted:
                text = (
                    f'the tool "{name}" has more than {MAX_VERSIONS} versions, and {self.uncounted[name]:,} more rows'
                )
                yield Finding(versions[-1].where, "tool-differs", text, "warning", remedy)


def changes(old: Tool, new: Tool) -> list[str]:
    """What changed from one version to the next, in words."""
    found = ["the description changed"] if old.description != new.description else []
    found += _object_changes(old.parameters, new.parameters, "")
    return found or ["the order of names changed"]


def _object_changes(old: Schema, new: Schema, path: str) -> Iterator[str]:
    before, after = properties_of(old), properties_of(new)
    renamed = renames(old, new)
    for name, now in renamed.items():
        yield f'"{path}{name}" was probably renamed to "{path}{now}"'
    for name in sorted(before.keys() - after.keys() - renamed.keys()):
        yield f'"{path}{name}" was removed'
    required, was_required = required_of(new), required_of(old)
    for name in sorted(after.keys() - before.keys() - set(renamed.values())):
        yield f'"{path}{name}" was added ({_types(after[name])}{", required" if name in required else ""})'
    for name in sorted(before.keys() & after.keys() | renamed.keys()):
        now = renamed.get(name, name)
        if (name in was_required) != (now in required):
            yield f'"{path}{now}" is {"now" if now in required else "no longer"} required'
        yield from _value_changes(before[name], after[now], f"{path}{now}")
    for key in sorted((old.keys() | new.keys()) - set(_SHAPE)):
        if old.get(key) != new.get(key):
            yield f"{key} of {f'{path[:-1]!r}' if path else 'the arguments'} changed"


def _value_changes(old: Any, new: Any, path: str) -> Iterator[str]:
    if old == new:
        return
    if not isinstance(old, dict) or not isinstance(new, dict):
        yield f'the schema of "{path}" changed'
        return
    if old.get("type") != new.get("type"):
        yield f'"{path}" was {_types(old)}, is {_types(new)}'
    if old.get("enum") != new.get("enum"):
        yield _enum_change(old.get("enum"), new.get("enum"), path)
    if isinstance(old.get("items"), dict) and isinstance(new.get("items"), dict):
        yield from _value_changes(old["items"], new["items"], f"{path}[]")
    if "properties" in old or "properties" in new:
        yield from _object_changes(old, new, f"{path}.")
        return
    others = sorted(key for key in (old.keys() | new.keys()) - set(_SHAPE) if old.get(key) != new.get(key))
    if others:
        yield f'{", ".join(others)} of "{path}" changed'


def _enum_change(old: Any, new: Any, path: str) -> str:
    if not isinstance(old, list) and isinstance(new, list):
        return f'"{path}" has only certain values now ({_shown(new)})'
    if not isinstance(old, list) or not isinstance(new, list):
        return f'"{path}" may have any value now'
    gone = [value for value in old if value not in new]
    more = [value for value in new if value not in old]
    parts = [f"without {_shown(gone)}"] if gone else []
    parts += [f"with {_shown(more)}"] if more else []
    return f'the values of "{path}" are now {" and ".join(parts) or "in another order"}'


def _shown(values: Sequence[Any]) -> str:
    return ", ".join(json.dumps(value, ensure_ascii=False) for value in values[:8]) + (
        ", ..." if len(values) > 8 else ""
    )


def _types(schema: Any) -> str:
    types = keywords(schema).get("type")
    return " or ".join(map(str, types)) if isinstance(types, list) else str(types or "any type")


def keywords(schema: Any) -> Schema:
    """The schema as an object; empty for `true`, `false` and what is no schema."""
    return schema if isinstance(schema, dict) else {}


def properties_of(schema: Schema) -> Schema:
    return keywords(schema.get("properties"))


def required_of(schema: Schema) -> set[str]:
    found = schema.get("required")
    return {name for name in found if isinstance(name, str)} if isinstance(found, list) else set()


# Guesses


def renames(old: Schema, new: Schema) -> dict[str, str]:
    """Which removed properties probably have a new name: of the same type, with a similar name or the same
    description. If both sides have only one required property left, it is the same one."""
    before, after = properties_of(old), properties_of(new)
    gone, more = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    scored = [
        (_similarity(name, other, before[name], after[other]), name, other)
        for name in gone
        for other in more
        if _types(before[name]) == _types(after[other])
    ]
    needed = [name for name in gone if name in required_of(old)]
    needed_now = [name for name in more if name in required_of(new) and "default" not in keywords(after[name])]
    found: dict[str, str] = {}
    for score, name, other in sorted(scored, key=lambda each: (-each[0], each[1:])):
        only = needed == [name] and needed_now == [other]
        if (score >= _SIMILAR or only) and name not in found and other not in found.values():
            found[name] = other
    return found


def _similarity(name: str, other: str, old: Any, new: Any) -> float:
    said = keywords(old).get("description")
    if said and said == keywords(new).get("description"):
        return 1.0
    return similar_names(name, other)


def similar_names(one: str, other: str) -> float:
    """How similar two names are, from 0 to 1, whatever their case and their separators."""
    plain, plain_other = letters_and_digits(one), letters_and_digits(other)
    if plain and plain_other and (plain.startswith(plain_other) or plain_other.startswith(plain)):
        return 0.9 if plain != plain_other else 1.0
    return difflib.SequenceMatcher(None, plain, plain_other).ratio()


def value_renames(old: Any, new: Any) -> dict[str, str]:
    """Which removed values of an enum probably have a new spelling, such as `C` and `celsius`."""
    before, after = _choices(old), _choices(new)
    found: dict[str, str] = {}
    more = [value for value in after if value not in before]
    for value in before:
        near = [(similar_names(value, other), other) for other in more if other not in found.values()]
        if value not in after and near and max(near)[0] >= _SIMILAR:
            found[value] = max(near)[1]
    return found


def _choices(schema: Any) -> list[str]:
    found = keywords(schema).get("enum")
    return [value for value in found if isinstance(value, str)] if isinstance(found, list) else []
