"""`toolhone data infer-tools FILES --out tools.json`: infers tool definitions from the calls of rows without tools.

In: rows in any format. Out: a JSON list of tools that --tools and data.tools take, and a table of what is uncertain.
Every call of the rows validates against its inferred tool. The result depends neither on the order of the rows nor on
how they are spread over files. Memory grows with the number of tools and arguments, not with the number of rows.

types: all that occur, as a union; a mix of whole and other numbers is a number.
required: in every call, if there are at least `MIN_CALLS`. Fewer calls prove little: an argument that a quarter of all
    calls leave out is in all of 10 calls once in 18 tools.
enum: at most `MAX_CHOICES` labels such as `wrong_item` or `ASC`, each of them in at least `MIN_SEEN` calls. If no value
    is rare, an unseen one is improbable (Good and Turing's estimate is zero). A wrong enum refuses right calls, whereas
    a missing one costs little. So texts with spaces, digits or a capital first letter give no enum, as they may be
    names or codes. Nor do words that most calls copy from the conversation.
null: a type among others. An argument that is null in every call is not listed: the null means "absent", and
    `data check --fix` removes it. If all tools have the same arguments in every call, a table filled in the nulls, and
    all of them mean "absent".
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.data.check.across_rows import FEW_CALLS
from toolhone.data.sources import read_and_report, refuse_to_overwrite
from toolhone.data.values import letters_and_digits
from toolhone.errors import UserError
from toolhone.jsonl import counted, write_json
from toolhone.records import Conversation, GoldCall

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Schema = dict[str, Any]

MIN_CALLS = FEW_CALLS
MAX_CHOICES = 12
MIN_SEEN = 4
MAX_KEYS = 64
"""An object with more keys maps free keys to values: its schema describes the values, not each key."""
MAX_DEPTH = 12
"""Values nested more deeply get a type, but no description of what is inside."""
MAX_SHOWN = 60
"""Tools in the printed table. Most doubts are about tools with few calls."""
MARK = "inferred_from_calls"
"""The key in a tool's `_meta` that marks it as inferred. Readers of tools accept `_meta`, and no prompt shows it."""

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
_ORDER = ("string", "integer", "number", "boolean", "array", "object", "null")
_LABEL = re.compile(r"[a-z][A-Za-z_.+/-]{0,39}|[A-Z_-]{1,40}")


class Source:
    """The texts of a conversation so far. Their letters and digits are extracted when they are needed, because that
    takes twice as long as reading a row."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._plain = ""

    def contains(self, value: str) -> bool:
        """Whether a text contains the value, in any case and with any separators."""
        if self.texts:
            self._plain += letters_and_digits("\n".join(self.texts))
            self.texts.clear()
        return letters_and_digits(value) in self._plain


class Values:
    """Everything that occurs at one place of the arguments, as counts."""

    __slots__ = ("copied", "further", "items", "properties", "texts", "types")

    def __init__(self) -> None:
        self.types: Counter[str] = Counter()
        self.texts: dict[str, int] | None = {}
        """The strings, if they may be choices: few short words. None: they are not."""
        self.copied = 0  # strings of `texts` that the conversation contains
        self.properties: dict[str, Values] = {}
        self.further: Values | None = None  # the values under all keys, if there are more than `MAX_KEYS`
        self.items: Values | None = None

    def count(self) -> int:
        return self.types.total()

    def add(self, value: Any, source: Source, depth: int = MAX_DEPTH) -> None:
        """Count a value. `source` has the conversation before the call."""
        kind = _TYPES.get(type(value), "null")
        self.types[kind] += 1
        if kind == "string":
            if self.texts is not None:
                self._add_texts({value: 1} if _LABEL.fullmatch(value) else None)
                self.copied += source.contains(value)
        elif kind == "array" and depth:
            self.items = self.items or Values()
            for item in value:
                self.items.add(item, source, depth - 1)
        elif kind == "object" and depth:
            for name, inside in value.items():
                self._property(name).add(inside, source, depth - 1)

    def merge(self, other: Values) -> None:
        """Add the counts of `other`, as if its values had been added here."""
        self.types.update(other.types)
        self.copied += other.copied
        self._add_texts(other.texts)
        for name, values in other.properties.items():
            self._property(name).merge(values)
        if other.further is not None:
            self._all_keys().merge(other.further)
        if other.items is not None:
            self.items = self.items or Values()
            self.items.merge(other.items)

    def _add_texts(self, texts: dict[str, int] | None) -> None:
        if self.texts is None or texts is None:
            self.texts = None
            return
        for text, count in texts.items():
            self.texts[text] = self.texts.get(text, 0) + count
        if len(self.texts) > MAX_CHOICES:
            self.texts = None

    def _property(self, name: str) -> Values:
        if self.further is not None:
            return self.further
        if name not in self.properties:
            if len(self.properties) == MAX_KEYS:
                return self._all_keys()
            self.properties[name] = Values()
        return self.properties[name]

    def _all_keys(self) -> Values:
        """The values under all keys together; from now on, no key has its own values."""
        if self.further is None:
            self.further = Values()
            for values in self.properties.values():
                self.further.merge(values)
            self.properties = {}
        return self.further

    def choices(self) -> list[str]:
        """The values of an enum, sorted; none if the strings are free text."""
        if not self.texts or min(self.texts.values()) < MIN_SEEN or self.types.keys() - {"string", "null"}:
            return []
        return sorted(self.texts) if 2 * self.copied <= self.types["string"] and len(self.texts) > 1 else []


class InferredTools:
    """The calls so far, by tool."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.rows = self.rows_with_tools = self.unnamed = 0
        self._arguments: dict[str, Values] = {}

    def add(self, row: Conversation) -> None:
        """Count the calls of a row, unless it lists tools."""
        self.rows += 1
        if row.tools:
            self.rows_with_tools += 1
            return
        source = Source()
        for message in row.messages:
            for call in message.tool_calls:
                self._add(call.name, call.arguments, source)
            source.texts.append(message.content)
        last = row.messages[-1].tool_calls
        for gold in row.expected.calls if row.expected is not None else ():
            for number, arguments in enumerate(_accepted(gold)):
                known = number > 0 or any(call.name == gold.name for call in last)
                self._add(gold.name, arguments, source, calls=0 if known else 1)

    def _add(self, name: str, arguments: dict[str, Any], source: Source, calls: int = 1) -> None:
        if not name:
            self.unnamed += calls
            return
        self.calls[name] += calls
        self._arguments.setdefault(name, Values()).add(arguments, source)

    def merge(self, other: InferredTools) -> None:
        """Add the calls of `other`, as if its rows had been added here."""
        self.rows += other.rows
        self.rows_with_tools += other.rows_with_tools
        self.unnamed += other.unnamed
        self.calls.update(other.calls)
        for name, values in other._arguments.items():
            self._arguments.setdefault(name, Values()).merge(values)

    def filled_by_table(self) -> bool:
        """Whether a table filled in nulls: all tools have the same arguments in every call, some of them only null."""
        found = list(self._arguments.values())
        names = {frozenset(values.properties) for values in found}
        if len(found) < 2 or len(names) > 1 or any(values.further is not None for values in found):
            return False
        each = [(values.count(), inside) for values in found for inside in values.properties.values()]
        return all(inside.count() == count for count, inside in each) and any(_only_null(inside) for _, inside in each)

    def tools(self) -> list[dict[str, Any]]:
        """The tools in OpenAI's shape, sorted by name, each marked as inferred in its `_meta`."""
        filled = self.filled_by_table()
        return [
            {
                "type": "function",
                "function": {"name": name, "description": "", "parameters": self._parameters(name, filled)},
                "_meta": {MARK: self.calls[name]},
            }
            for name in sorted(self._arguments)
        ]

    def _parameters(self, name: str, filled: bool) -> Schema:
        schema = {"type": "object", "properties": {}, **_members(self._arguments[name], filled)}
        if self.calls[name] < MIN_CALLS:  # the alternatives of `expected` are no calls
            schema.pop("required", None)
        return schema

    def uncertain(self, name: str, filled: bool) -> list[str]:
        """What to check by hand about a tool, in words. `filled`: a table filled in nulls."""
        found, calls = [], self.calls[name]
        if calls < MIN_CALLS:
            found.append("few calls, so no argument is required")
            others = [other for other, count in self.calls.items() if count >= MIN_CALLS]
            if near := difflib.get_close_matches(name, sorted(others), n=1, cutoff=0.8):
                found.append(f'a misspelt "{near[0]}"?')
        if filled:
            found.append("a table filled in nulls; remove them with data check --fix")
        return [*found, *_doubts(self._arguments[name], "", filled)]


def _accepted(gold: GoldCall) -> Iterator[dict[str, Any]]:
    """Calls that together have every accepted value. Only the last one leaves out the optional arguments."""
    for n in range(max(map(len, gold.arguments.values()), default=1)):
        yield {name: accepted[min(n, len(accepted) - 1)] for name, accepted in gold.arguments.items()}
    if gold.optional:
        yield {name: accepted[0] for name, accepted in gold.arguments.items() if name not in gold.optional}


def _members(values: Values, filled: bool) -> Schema:
    """The keywords for the members of an object. `filled`: a null member means "absent"."""
    if values.further is not None:
        return {"additionalProperties": _schema(values.further, filled, is_member=True)}
    total = values.types["object"]
    listed = {name: inside for name, inside in values.properties.items() if not _only_null(inside)}
    if not values.properties:
        return {}
    always = [name for name, inside in listed.items() if inside.count() - filled * inside.types["null"] == total]
    required = sorted(always) if total >= MIN_CALLS else []
    names = [*required, *sorted(listed.keys() - set(required))]
    members: Schema = {"properties": {name: _schema(listed[name], filled, is_member=True) for name in names}}
    return {**members, "required": required} if required else members


def _schema(values: Values, filled: bool, *, is_member: bool = False) -> Schema:
    """The schema of one value, a member of an object or an item of an array."""
    kinds = [kind for kind in _ORDER if values.types[kind] and not (filled and is_member and kind == "null")]
    if "number" in kinds and "integer" in kinds:
        kinds.remove("integer")
    schema: Schema = {"type": kinds[0] if len(kinds) == 1 else kinds} if kinds else {}
    if choices := values.choices():
        schema["enum"] = [*choices, None] if "null" in kinds else choices
    if "array" in kinds:
        schema["items"] = _schema(values.items, filled) if values.items is not None else {}
    if "object" in kinds:
        schema |= _members(values, filled)
    return schema


def _only_null(values: Values) -> bool:
    return values.types["null"] == values.count()


def _doubts(values: Values, path: str, filled: bool) -> Iterator[str]:
    """What is uncertain about the members of an object, with their paths."""
    if values.further is not None:
        yield f"{path or 'the call'} has more than {MAX_KEYS} keys, so they are not listed"
    for name, inside in sorted(values.properties.items()):
        place = f"{path}.{name}" if path else name
        kinds = [kind for kind in _ORDER if inside.types[kind] and kind != "null"]
        if kinds == ["integer", "number"]:
            kinds = ["number"]
        if not kinds:
            if not filled:
                yield f"{place} is always null, so it is not listed"
        elif len(kinds) > 1:
            yield f"{place} is {', '.join(kinds[:-1])} or {kinds[-1]}"
        elif values.types["object"] >= MIN_CALLS > inside.count():
            yield f"{place} is in only {inside.count()} call{'s' if inside.count() > 1 else ''}"
        if inside.types["array"] and (inside.items is None or not inside.items.count()):
            yield f"{place} is always an empty list"
        yield from _doubts(inside, place, filled)


def infer(rows: Iterable[Conversation]) -> InferredTools:
    """Count the calls of rows."""
    found = InferredTools()
    for row in rows:
        found.add(row)
    return found


def infer_files(sources: Sequence[str], out: Path, console: Console, *, format: str = "auto") -> InferredTools:
    """Write the tools inferred from the sources' calls to `out`, as a JSON list, and print the table.

    Raises:
        UserError: if a source cannot be read, `out` is one of them, or no row without tools has a call.
    """
    refuse_to_overwrite(out, sources, "its rows would be lost")
    found = infer(counted(read_and_report(sources, (), format, console), console, "reading"))
    if not found.calls:
        have = f"; {found.rows_with_tools:,} list their own tools" if found.rows_with_tools else ""
        raise UserError(
            f"{', '.join(sources)}: {found.rows:,} rows, but no call in a row without tools{have}; choose files whose "
            "rows have calls and no tools"
        )
    write_json(out, found.tools())
    console.print(_table(found))
    used = found.rows - found.rows_with_tools
    lines = [f"{out}: tools {len(found.calls):,}, inferred from {found.calls.total():,} calls in {used:,} rows"]
    if found.rows_with_tools:
        lines.append(f"not used: {found.rows_with_tools:,} rows that list their own tools")
    if found.unnamed:
        lines.append(f"left out: {found.unnamed:,} calls without a name")
    lines.append("the calls do not say what a tool is for: write the descriptions before you train")
    for line in lines:
        console.print(line, markup=False)
    return found


def _table(found: InferredTools) -> Table:
    from rich.table import Table
    from rich.text import Text

    shown = sorted(found.calls, key=lambda name: (found.calls[name], name))[:MAX_SHOWN]
    filled, more = found.filled_by_table(), len(found.calls) - len(shown)
    title = f"Inferred tools, the {MAX_SHOWN} with the fewest calls" if more else "Inferred tools"
    table = Table("Tool", title=title, title_justify="left", title_style="bold")
    table.add_column("Calls", justify="right")
    table.add_column("Arguments (* required)")
    table.add_column("Uncertain")
    for tool in found.tools():
        name, parameters = tool["function"]["name"], tool["function"]["parameters"]
        if name not in shown:
            continue
        required = parameters.get("required", ())
        listed = [
            f"{each}{'*' if each in required else ''}: {_type_text(schema)}"
            for each, schema in parameters["properties"].items()
        ]
        doubts = found.uncertain(name, filled)
        table.add_row(Text(name), f"{found.calls[name]:,}", Text("\n".join(listed)), Text("\n".join(doubts)))
    return table


def _type_text(schema: Schema) -> str:
    """A schema in a few words, such as `string or null` or `late | damaged`."""
    if "enum" in schema:
        return " | ".join(each if isinstance(each, str) else json.dumps(each) for each in schema["enum"])
    kinds = schema.get("type", "any")
    return kinds if isinstance(kinds, str) else " or ".join(kinds)
