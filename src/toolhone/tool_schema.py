"""A tool's JSON Schema: whether arguments are valid, and what it says of a value inside them.

In: a tool's `parameters` (Draft 2020-12). Out: valid or not; or the subschemas of a property or an item, found through
`$ref` within the schema, `allOf`, `anyOf` and `oneOf`.
"""

from __future__ import annotations

import json
import marshal
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeVar

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

from toolhone.errors import UserError
from toolhone.records import Tool

Schema = dict[str, Any]
Path = tuple[str | int, ...]
"""Where a value is inside another: keys of objects and indexes of arrays."""
T = TypeVar("T")

_FURTHER = ("additionalProperties", "patternProperties")


def arguments_valid(arguments: dict[str, Any], tool: Tool, where: str) -> bool:
    """Whether arguments satisfy the tool's schema.

    Raises:
        UserError: beginning with `where` and naming the tool, if its `parameters` are no usable JSON Schema.
    """
    try:
        return _is_valid(arguments, tool.parameters)
    except SchemaError as error:
        reason = error.message
    except Unresolvable as error:
        reason = f"it refers to what is not in it ({error})"
    except RecursionError:
        reason = "its references form a circle"
    except OverflowError:
        return False  # a whole number beyond any float, compared with a `multipleOf` that is a float
    raise UserError(
        f'{where}: tool "{tool.name}": its "parameters" are not a JSON Schema (Draft 2020-12): {reason}; fix the tool'
    )


_CACHED_SCHEMAS = 4096
_CACHED_RESULTS = 1 << 16
_results: dict[tuple[int, bytes], tuple[Schema, bool]] = {}
_validators: dict[int, tuple[Schema, Draft202012Validator]] = {}
_subschemas: dict[int, tuple[Schema, Subschemas]] = {}


def _cached(cache: dict[int, tuple[Schema, T]], parameters: Schema, make: Callable[[Schema], T]) -> T:
    """What was made of a schema before. Rows that were read with equal tools share them, so it is found by identity,
    without writing the schema as text for every call. The cache holds the schema, so its identity is not used again."""
    known = cache.get(id(parameters))
    if known is None:
        if len(cache) >= _CACHED_SCHEMAS:
            cache.clear()
        known = cache[id(parameters)] = (parameters, make(parameters))
    return known[1]


def _is_valid(arguments: dict[str, Any], parameters: Schema) -> bool:
    """Right answers repeat the gold, so most arguments come more than once, and are validated once."""
    validator = _cached(_validators, parameters, lambda schema: _validator(json.dumps(schema, ensure_ascii=False)))
    try:
        key = id(parameters), marshal.dumps(arguments, 2)  # version 2 gives equal bytes for equal values alone
    except ValueError:  # nested deeper than marshal goes
        return bool(validator.is_valid(arguments))
    known = _results.get(key)
    if known is None:
        if len(_results) >= _CACHED_RESULTS:
            _results.clear()
        known = _results[key] = (parameters, bool(validator.is_valid(arguments)))
    return known[1]


@lru_cache(maxsize=_CACHED_SCHEMAS)
def _validator(schema: str) -> Draft202012Validator:
    parameters = json.loads(schema)
    Draft202012Validator.check_schema(parameters)
    # An empty registry, so that no reference is looked up on the network.
    return Draft202012Validator(parameters, registry=EMPTY_REGISTRY)


def subschemas_of(parameters: Schema) -> Subschemas:
    """What a tool's schema says of a call's arguments."""
    return _cached(_subschemas, parameters, lambda schema: Subschemas([schema], schema))


def filled_nulls(arguments: dict[str, Any], parameters: Schema) -> list[Path]:
    """The nulls among arguments that mean "absent", as a table writes them that merges the arguments of several tools:
    under a key that the tool does not list, or an optional one whose schema does not take null."""
    return [
        member.path
        for member in subschemas_of(parameters).members(arguments)
        if member.value is None and (not member.is_listed or (not member.is_required and member.schema.refuses_null()))
    ]


def unlisted_keys(arguments: dict[str, Any], parameters: Schema) -> list[Path]:
    """The keys of arguments, with a value, that the tool does not list, although it lists others."""
    members = subschemas_of(parameters).members(arguments)
    return [member.path for member in members if member.value is not None and not member.is_listed]


def without_paths(value: Any, paths: Iterable[Path]) -> Any:
    """A copy of a value without the keys at these paths."""
    heads: dict[str | int, list[Path]] = {}
    for path in paths:
        heads.setdefault(path[0], []).append(path[1:])
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    kept = {
        key: without_paths(each, heads[key]) if key in heads else each
        for key, each in entries
        if () not in heads.get(key, ())
    }
    return kept if isinstance(value, dict) else list(kept.values())


def written_path(path: Path) -> str:
    """A path as text, such as `guests[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


class Member(NamedTuple):
    """A key of an object inside a value, and what the schema says of it."""

    path: Path
    value: Any
    schema: Subschemas
    is_listed: bool
    is_required: bool


class Subschemas:
    """All that a schema says of one value: `alternatives`, of which some or all apply; empty if it says nothing.

    References start from `root`. Everything is found when first asked for, and cached for the next call.
    """

    def __init__(self, schemas: Sequence[Any], root: Schema) -> None:
        self.root = root
        self._schemas = schemas
        self._properties: dict[str | None, Subschemas] = {}
        self._items: dict[int, Subschemas] = {}

    @cached_property
    def alternatives(self) -> tuple[Schema, ...]:
        return tuple(_flatten(self._schemas, self.root))

    def types(self) -> set[str]:
        """The type names that any alternative allows."""
        stated = [schema["type"] for schema in self.alternatives if "type" in schema]
        return {name for names in stated for name in ([names] if isinstance(names, str) else names)}

    def refuses_null(self) -> bool:
        """Whether null breaks the schema: it states other types, or choices without null."""
        choices = [schema["enum"] for schema in self.alternatives if "enum" in schema]
        types = self.types()
        return bool(types or choices) and "null" not in types and not any(None in each for each in choices)

    def members(self, value: Any, path: Path = ()) -> Iterator[Member]:
        """Every key of every object inside a value, except those inside what no property lists."""
        if isinstance(value, dict):
            # An object's keys are listed if there are `properties`, and further ones are not described.
            properties = [schema["properties"] for schema in self.alternatives if "properties" in schema]
            further = (schema.get(key) for schema in self.alternatives for key in _FURTHER)
            is_open = not properties or any(each not in (None, False) for each in further)
            required = {name for schema in self.alternatives for name in schema.get("required", ())}
            for key, inside in value.items():
                is_listed = is_open or any(key in each for each in properties)
                yield Member((*path, key), inside, self.property(key), is_listed, key in required)
                if is_listed:
                    yield from self.property(key).members(inside, (*path, key))
        elif isinstance(value, list):
            for number, inside in enumerate(value):
                yield from self.item(number).members(inside, (*path, number))

    def property(self, name: str) -> Subschemas:
        """What the schema says of an object's property."""
        if name in self._properties:
            return self._properties[name]
        found, stated = [], False
        for schema in self.alternatives:
            properties = schema.get("properties", {})
            stated = stated or name in properties
            found.append(properties[name] if name in properties else schema.get("additionalProperties"))
        # One entry for all names that no schema states, since a model may invent any number of them.
        return self._properties.setdefault(name if stated else None, Subschemas(found, self.root))

    def item(self, index: int) -> Subschemas:
        """What the schema says of an array's item."""
        index = min(index, max((len(schema.get("prefixItems", ())) for schema in self.alternatives), default=0))
        if index in self._items:
            return self._items[index]
        found = []
        for schema in self.alternatives:
            first = schema.get("prefixItems", [])
            found.append(first[index] if index < len(first) else schema.get("items"))
        return self._items.setdefault(index, Subschemas(found, self.root))


def _flatten(schemas: Sequence[Any], root: Schema) -> Iterator[Schema]:
    """The schemas and all that they refer to or consist of, each once, in order. True, False and None say nothing."""
    waiting, seen = list(reversed(schemas)), set[int]()
    while waiting:
        schema = waiting.pop()
        if not isinstance(schema, dict) or id(schema) in seen:
            continue
        seen.add(id(schema))
        yield schema
        for key in ("oneOf", "anyOf", "allOf"):
            waiting += reversed(schema.get(key, []))
        if "$ref" in schema:
            waiting.append(_pointed_at(schema["$ref"], root))


def _pointed_at(reference: str, root: Schema) -> Any:
    """The value at a reference within the schema ("#/$defs/address"), or None for any other reference."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    try:
        return EMPTY_REGISTRY.resolver_with_root(DRAFT202012.create_resource(root)).lookup(reference).contents
    except (Unresolvable, AttributeError, TypeError, ValueError):  # of a schema that is not valid
        return None
