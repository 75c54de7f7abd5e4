"""The rules of the values that a tool's JSON Schema accepts.

In: a schema (Draft 2020-12), its root and how values are written. Out: a node of `grammar_rules.py`. Every value that
the node matches satisfies the schema, except for the keywords in `unenforced`. Not every valid value is matched: an
object has no key that its schema does not list, unless the schema asks for further keys.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from toolhone.chat.grammar_merge import flattened, types_of
from toolhone.chat.grammar_rules import (
    ALL,
    ANY,
    DIGIT,
    EMPTY,
    NOTHING,
    Node,
    Ref,
    Text,
    TooLargeError,
    alt,
    automaton,
    both,
    minus,
    optional,
    repeat,
    seq,
)
from toolhone.chat.grammar_table import Rules
from toolhone.chat.grammar_texts import FORMATS, UnsupportedPatternError, bound, integer, number, pattern
from toolhone.chat.grammar_values import Literals, ValueRules

MAX_ANY_ORDER = 8
"""Objects with at most this many properties may have them in any order. Others have them in the schema's order."""
MAX_VALUES = 2_000
"""Maximum values of an enum that are enforced."""
_MAX_DEPTH = 24
_TWICE = "no key twice"
_MAX_LENGTH = 10_000
_UNENFORCED = {
    "object": ("patternProperties", "propertyNames", "dependentRequired", "dependentSchemas", "unevaluatedProperties"),
    "array": ("contains", "unevaluatedItems"),
}

Schema = Mapping[str, Any]


class SchemaRules:
    """Makes the rules of schemas. `unenforced` are the keywords that the rules do not enforce."""

    def __init__(self, rules: Rules, literals: Literals, max_any_order: int = MAX_ANY_ORDER) -> None:
        self.rules, self.max_any_order = rules, max_any_order
        self.values = ValueRules(rules, literals)
        self.unenforced: dict[str, None] = {}
        self._known: dict[tuple[str, int], Ref] = {}
        self._depth = 0

    def note(self, keyword: str) -> None:
        self.unenforced[keyword] = None

    def value(self, schema: Any, root: Schema) -> Node:
        """Return the values that a schema accepts."""
        try:
            text = json.dumps(schema, sort_keys=True)
        except (TypeError, ValueError, RecursionError):
            self.note("a schema that is not JSON")
            return self.values.any()
        # A schema without references means the same in every tool.
        key = text, id(root) if '"$ref"' in text else 0
        if key not in self._known:
            if self._depth == _MAX_DEPTH:
                self.note(f"schemas nested deeper than {_MAX_DEPTH} levels")
                return self.values.any()
            ref = self._known[key] = self.rules.open("value")
            self._depth += 1
            flat = flattened(schema, root, self.note)
            self.rules.close(ref, alt(*(self._flat(each, root) for each in flat)))
            self._depth -= 1
        return self._known[key]

    def _flat(self, schema: Schema, root: Schema) -> Node:
        """Return the values of a schema without references and combinations."""
        if "not" in schema:
            self.note("not")
        if "if" in schema:
            self.note("if")
        listed = listed_values(schema, root)
        if listed is not None and len(listed) <= MAX_VALUES:
            return self.values.values(listed)
        if listed is not None:
            self.note("enum")
        kinds: dict[str, Callable[[Schema, Schema], Node]] = {
            "null": lambda *_: self.values.words(None),
            "boolean": lambda *_: self.values.words(True, False),
            "integer": self._number,
            "number": self._number,
            "string": lambda each, _: self.values.string(self.text(each)),
            "array": self._array,
            "object": self._object,
        }
        types = types_of(schema)
        if types is None:
            self.note(_TWICE)
            return self.values.any()
        return alt(*(kinds[name]({**schema, "type": name}, root) for name in types))

    # Numbers and texts

    def _number(self, schema: Schema, _: Schema) -> Node:
        return self.rules.token(self.number(schema), "number")

    def number(self, schema: Schema) -> Node:
        """Return the numbers of a schema with one type."""
        least, above = _tighter(schema.get("minimum"), schema.get("exclusiveMinimum"), max)
        most, below = _tighter(schema.get("maximum"), schema.get("exclusiveMaximum"), min)
        step = schema.get("multipleOf")
        if schema["type"] == "integer" or (step is not None and float(step).is_integer()):
            low = None if least is None else bound(least, round_up=True) + (above and float(least).is_integer())
            high = None if most is None else bound(most, round_up=False) - (below and float(most).is_integer())
            return self._multiples(low, high, step)
        if step is not None:
            self.note("multipleOf")
        low_, high_ = (None if each is None else Decimal(repr(each)) for each in (least, most))
        return number(low_, high_, above=above, below=below)

    def _multiples(self, least: int | None, most: int | None, step: Any) -> Node:
        """Return the integers between two bounds that a step divides."""
        if step is None or step == 1:
            return integer(least, most)
        if not float(step).is_integer():
            self.note("multipleOf")
            return integer(least, most)
        step = int(step)
        if least is not None and most is not None and most - least <= step * MAX_VALUES:
            first = -(-least // step) * step
            return alt(*(str(value) for value in range(first, most + 1, step)))
        size = next((size for size in (1, 2, 3) if 10**size % step == 0), None)
        if size is None:
            self.note("multipleOf")
            return integer(least, most)
        small = alt(*(str(value) for value in range(0, 10**size, step)))
        ends = alt(*(f"{value:0{size}}" for value in range(0, 10**size, step)))
        large = seq(minus(repeat(DIGIT, 1, 30), seq("0", ALL)), ends)
        multiples = seq(optional("-"), alt(small, large))
        return multiples if least is None and most is None else both(integer(least, most), multiples)

    def text(self, schema: Schema, letter: Node = ANY) -> Node:
        """Return the characters of the strings of a schema. `letter` is the character of a string without a pattern."""
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if least > _MAX_LENGTH or (most or 0) > _MAX_LENGTH:
            self.note("minLength" if least > _MAX_LENGTH else "maxLength")
            least, most = min(least, _MAX_LENGTH), None
        length = repeat(letter, int(least), None if most is None else int(most))
        found: list[Node] = []
        for keyword, expression in (
            *(("pattern", each) for each in schema.get("pattern", ())),
            ("format", FORMATS.get(str(schema.get("format")))),
        ):
            if expression is None:
                continue
            try:
                found.append(pattern(expression, is_search=keyword == "pattern"))
            except UnsupportedPatternError:
                self.note(keyword)
        node = length
        for each in found:
            is_any = node == length and not least and most is None and letter == ANY
            try:
                automaton(narrower := each if is_any else both(each, node))
                node = narrower
            except TooLargeError:
                self.note("pattern")
        return node

    # Arrays and objects

    def _array(self, schema: Schema, root: Schema) -> Node:
        self._note_keywords(schema, "array")
        least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
        if max(least, most or 0) > _MAX_LENGTH:
            self.note("minItems" if least > _MAX_LENGTH else "maxItems")
            least, most = min(least, _MAX_LENGTH), None
        comma, close = self.values.sign(","), self.values.sign("]")
        first = [self.value(each, root) for each in schema.get("prefixItems", ())]
        if schema.get("uniqueItems") and most != 1:
            choices = None if first else distinct_values(schema.get("items"), root, self.note)
            if choices is not None and len(choices) <= self.max_any_order:
                entries = [self.values.values([choice]) for choice in choices]
                return seq(self.values.sign("["), self.members(entries, (), comma, close, least=least, most=most))
            self.note("uniqueItems")
        item = self.value(schema.get("items", True), root)
        node = self._items(item, len(first), least, most, comma)
        for index in reversed(range(len(first))):
            if most is not None and index >= most:
                node = EMPTY
                continue
            here = seq(comma if index else EMPTY, first[index], node)
            node = here if index < least else optional(here)
        return seq(self.values.sign("["), node, close)

    @staticmethod
    def _items(item: Node, before: int, least: int, most: int | None, comma: Node) -> Node:
        """Return the items after the `before` first ones."""
        left = None if most is None else int(most) - before
        if left is not None and left <= 0:
            return EMPTY
        needed = max(0, least - before)
        if before:
            return repeat(seq(comma, item), needed, left)
        more = repeat(seq(comma, item), max(0, needed - 1), None if left is None else left - 1)
        return seq(item, more) if needed else optional(seq(item, more))

    def _object(self, schema: Schema, root: Schema) -> Node:
        open_, comma, close = (self.values.sign(sign) for sign in "{,}")
        names = list(schema.get("properties", ()))
        entries = [
            seq(self.values.key(Text(name) if name else EMPTY), self.value(schema["properties"][name], root))
            for name in names
        ]
        return seq(open_, self.entries(schema, root, names, entries, comma, close, self.values.key))

    def entries(
        self,
        schema: Schema,
        root: Schema,
        names: Sequence[str],
        entries: Sequence[Node],
        comma: Node,
        close: Node,
        key: Callable[[Node], Node] | None,
    ) -> Node:
        """Return the entries of an object and its end.

        Args:
            names, entries: the properties that can be written, and the node of each.
            key: returns a key that the schema does not list; None if there cannot be one.
        """
        self._note_keywords(schema, "object")
        required = [name for name in schema.get("required", ()) if name not in names]
        more = schema.get("additionalProperties", "properties" not in schema)
        extra: Node = NOTHING
        if key is not None and more is not False:
            others = minus(ALL, alt(*names)) if names else ALL
            extra = seq(key(others), self.value(more, root))
            self.note(_TWICE)
        if required and extra == NOTHING:
            return NOTHING
        if required and key is not None:
            entries = [*entries, *(seq(key(Text(name)), self.value(more, root)) for name in required)]
            names = [*names, *required]
            extra = seq(key(minus(ALL, alt(*names))), self.value(more, root))
        needed = [number for number, name in enumerate(names) if name in schema.get("required", ())]
        least, most = int(schema.get("minProperties", 0)), schema.get("maxProperties")
        return self.members(entries, needed, comma, close, least=least, most=most, extra=extra)

    def _note_keywords(self, schema: Schema, kind: str) -> None:
        for keyword in _UNENFORCED[kind]:
            if keyword in schema:
                self.note(keyword)

    def members(
        self,
        entries: Sequence[Node],
        required: Iterable[int],
        comma: Node,
        close: Node,
        *,
        least: int = 0,
        most: int | None = None,
        extra: Node = NOTHING,
    ) -> Node:
        """Return entries, each at most once, and what closes them. `extra` may follow any number of times."""
        needed = frozenset(required)
        is_counted = least > len(needed) or (most is not None and (most < len(entries) or extra != NOTHING))
        if len(entries) > self.max_any_order:
            if is_counted:
                self.note("minProperties and maxProperties")
            return self._in_order(entries, needed, comma, close, extra)
        if extra != NOTHING and is_counted:
            self.note("minProperties and maxProperties")
            least, most = 0, None
        states: dict[tuple[frozenset[int], bool], Ref] = {}

        def after(used: frozenset[int], is_first: bool) -> Node:
            if (used, is_first) in states:
                return states[used, is_first]
            ref = states[used, is_first] = self.rules.open("members")
            between = EMPTY if is_first else comma
            parts = [close] if needed <= used and len(used) >= least else []
            if most is None or len(used) < most:
                for number, entry in enumerate(entries):
                    if number not in used:
                        parts.append(seq(between, entry, after(used | {number}, False)))
                if extra != NOTHING:
                    parts.append(seq(between, extra, after(used, False)))
            self.rules.close(ref, alt(*parts))
            return ref

        return after(frozenset(), True)

    def _in_order(self, entries: Sequence[Node], needed: frozenset[int], comma: Node, close: Node, extra: Node) -> Node:
        """Return entries in their order, then `extra`, and what closes them."""
        more = repeat(seq(comma, extra)) if extra != NOTHING else EMPTY
        started: Node = self.rules.rule(seq(more, close), "members")
        alone = alt(close, seq(extra, more, close)) if extra != NOTHING else close
        for index in reversed(range(len(entries))):
            taken = seq(entries[index], started)
            alone = self.rules.rule(taken if index in needed else alt(taken, alone), "members")
            here = seq(comma, taken)
            started = self.rules.rule(here if index in needed else alt(here, started), "members")
        return alone


def distinct_values(schema: Any, root: Schema, note: Callable[[str], None]) -> list[Any] | None:
    """Return the values that a schema lists; None if it lists none."""
    flat = flattened(schema, root, note)
    found = [listed_values(each, root) for each in flat]
    if not found or any(each is None for each in found):
        return None
    return list(itertools.chain.from_iterable(each for each in found if each is not None))


def listed_values(schema: Schema, root: Schema) -> list[Any] | None:
    """Return the values of an enum or a const that satisfy the whole schema; None if it has neither."""
    if "enum" not in schema and "const" not in schema:
        return None
    values = [schema["const"]] if "const" in schema else list(schema["enum"])
    if len(values) > MAX_VALUES:
        return values
    from jsonschema import Draft202012Validator
    from referencing.jsonschema import EMPTY_REGISTRY

    own = {**schema, **({"allOf": [{"pattern": each} for each in schema["pattern"]]} if "pattern" in schema else {})}
    for key in ("pattern", "enum", "const"):
        own.pop(key, None)
    named = {key: root[key] for key in ("$defs", "definitions") if key in root and key not in own}
    validator = Draft202012Validator({**named, **own}, registry=EMPTY_REGISTRY)
    return [value for value in values if validator.is_valid(value)]


def _tighter(inclusive: Any, exclusive: Any, pick: Callable[..., Any]) -> tuple[Any, bool]:
    """Return the tighter of two bounds, and whether the bound itself is excluded."""
    if exclusive is None:
        return inclusive, False
    if inclusive is None or pick(inclusive, exclusive) == exclusive:
        return exclusive, True
    return inclusive, False
