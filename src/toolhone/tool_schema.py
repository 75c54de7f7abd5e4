"""A tool's JSON Schema: validates arguments, and finds the subschemas for a value inside them.

In: a tool's `parameters` (Draft 2020-12). Out: valid or not; or the subschemas of a property or an item, found through
`$ref` within the schema, `allOf`, `anyOf` and `oneOf`.
"""

from __future__ import annotations

import json
import marshal
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

from toolhone.errors import UserError
from toolhone.records import Tool

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

Schema = dict[str, Any]
Path = tuple[str | int, ...]
"""The place of a value inside another value: keys of objects and indices of arrays."""
T = TypeVar("T")

_FURTHER = ("additionalProperties", "patternProperties")


def arguments_valid(arguments: dict[str, Any], tool: Tool, where: str) -> bool:
    """Whether arguments satisfy the tool's schema.

    Raises:
        UserError: if the tool's `parameters` are not a usable JSON Schema; starts with `where` and names the tool.
    """
    try:
        with named_schema_faults(f'{where}: tool "{tool.name}": its "parameters" are', "fix the tool"):
            return _is_valid(arguments, tool.parameters)
    except OverflowError:
        return False  # an integer too large for a float, checked against a float `multipleOf`


def check_schema(schema: Schema, where: str) -> None:
    """Check that a schema is usable, and quickly. Raises UserError, which starts with `where`, if it is not."""
    values = [schema]
    for value in values:  # grows while it is read
        values += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if len(values) > _MAX_VALUES:
            raise UserError(f"{where}: the schema has more than {_MAX_VALUES} values; make it smaller")
    with named_schema_faults(f"{where}: the schema is", "fix the schema"):
        counts: dict[int, int] = {}
        if any(_applied(value, schema, counts) > _MAX_APPLIED for value in values):
            found = f"{where}: the schema's references expand to more than {_MAX_APPLIED} schemas for one value"
            raise UserError(f"{found}; use fewer references")
        # The caches by identity are for tools that many rows share.
        _validator(json.dumps(schema, ensure_ascii=False)).is_valid({})


def _applied(schema: Any, root: Schema, counts: dict[int, int]) -> int:
    """Return how many schemas validation applies to one value, with all references followed. A cycle counts once."""
    if not isinstance(schema, dict):
        return 0
    if id(schema) not in counts:
        counts[id(schema)] = 0
        inner = [each for key in ("allOf", "anyOf", "oneOf") for each in _as_list(schema.get(key))]
        inner += [schema.get(key) for key in ("not", "if", "then", "else")]
        inner += [pointed_at(schema["$ref"], root)] if isinstance(schema.get("$ref"), str) else []
        counts[id(schema)] = 1 + sum(_applied(each, root, counts) for each in inner)
    return counts[id(schema)]


def _as_list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []


@contextmanager
def named_schema_faults(what: str, remedy: str) -> Iterator[None]:
    """Turn what validation raises for an unusable schema into a `UserError`, which starts with `what`."""
    from jsonschema.exceptions import SchemaError, UnknownType

    try:
        yield
        return
    except OverflowError:
        raise
    except SchemaError as error:
        reason = error.message[:300]
    except Unresolvable as error:
        reason = f"a reference cannot be resolved ({error})"
    except RecursionError:
        reason = "its references form a cycle"
    except (AttributeError, TypeError, ValueError, ArithmeticError, re.error, UnknownType):
        # A reference may point at any value of the schema, such as a default, and validation takes it for a schema.
        reason = "a reference points at a value that is not a schema"
    raise UserError(f"{what} not a JSON Schema (Draft 2020-12): {reason}; {remedy}")


_MAX_VALUES = 20_000  # checking them takes seconds
_MAX_APPLIED = 5_000
_CACHED_SCHEMAS = 4096
_CACHED_RESULTS = 1 << 16
_results: dict[tuple[int, bytes], tuple[Schema, bool]] = {}
_validators: dict[int, tuple[Schema, Draft202012Validator]] = {}
_subschemas: dict[int, tuple[Schema, Subschemas]] = {}


def _cached(cache: dict[int, tuple[Schema, T]], parameters: Schema, make: Callable[[Schema], T]) -> T:
    """Return what `make` gives for a schema, cached by the identity of the schema. Rows with equal tools share them, so
    the schema need not be hashed as text. The cache holds the schema, so no other object gets its identity."""
    known = cache.get(id(parameters))
    if known is None:
        if len(cache) >= _CACHED_SCHEMAS:
            cache.clear()
        known = cache[id(parameters)] = (parameters, make(parameters))
    return known[1]


def _is_valid(arguments: dict[str, Any], parameters: Schema) -> bool:
    """Validate arguments, with a cache: right answers repeat the gold, so most arguments occur more than once."""
    validator = _cached(_validators, parameters, lambda schema: _validator(json.dumps(schema, ensure_ascii=False)))
    try:
        key = id(parameters), marshal.dumps(arguments, 2)  # version 2 gives equal bytes only for equal values
    except ValueError:  # nested too deeply for marshal
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
    from jsonschema import Draft202012Validator  # the import takes a while, and most commands check no schema

    Draft202012Validator.check_schema(parameters)
    # With an empty registry, no reference is fetched from the network.
    return Draft202012Validator(parameters, registry=EMPTY_REGISTRY)


def subschemas_of(parameters: Schema) -> Subschemas:
    """Return what a tool's schema says about the arguments of a call."""
    return _cached(_subschemas, parameters, lambda schema: Subschemas([schema], schema))


def filled_nulls(arguments: dict[str, Any], parameters: Schema) -> list[Path]:
    """Return the paths of nulls that mean "absent". A table that merges the arguments of several tools fills them in:
    under keys that the tool does not list, or under optional keys whose schema does not accept null. Some tables write
    an object of nulls for an absent object; it counts as one null."""
    found: list[Path] = []
    for member in subschemas_of(parameters).members(arguments):
        inside_found = bool(found) and member.path[: len(found[-1])] == found[-1]
        if not inside_found and _only_nulls(member.value) and _means_absent(member):
            found.append(member.path)
    return found


def _only_nulls(value: Any) -> bool:
    """Whether a value is null, or an object of nothing but nulls."""
    return value is None or (isinstance(value, dict) and bool(value) and all(map(_only_nulls, value.values())))


def _means_absent(member: Member) -> bool:
    """Whether a value of nothing but nulls is not an argument that the schema accepts."""
    if not member.is_listed or member.is_required:
        return not member.is_listed
    if member.value is None:
        return member.schema.refuses_null()
    inner = member.schema.members(member.value)
    return all(each.value is not None or not each.is_listed or each.schema.refuses_null() for each in inner)


def unlisted_keys(arguments: dict[str, Any], parameters: Schema) -> list[Path]:
    """Return the paths of keys with a value that the tool does not list, although it lists others."""
    members = subschemas_of(parameters).members(arguments)
    return [member.path for member in members if not member.is_listed and not _only_nulls(member.value)]


def without_paths(value: Any, paths: Iterable[Path]) -> Any:
    """Return a copy of a value without the keys at these paths."""
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
    """Return a path as text, such as `guests[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


class Member(NamedTuple):
    """A key of an object inside a value, and what the schema says about it."""

    path: Path
    value: Any
    schema: Subschemas
    is_listed: bool
    is_required: bool


class Subschemas:
    """Everything that a schema says about one value. Some or all of its `alternatives` apply. They are empty if the
    schema says nothing about the value.

    References are resolved from `root`. Results are computed on first use and cached.
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
        """Return the type names that any alternative allows."""
        stated = [schema["type"] for schema in self.alternatives if "type" in schema]
        return {name for names in stated for name in ([names] if isinstance(names, str) else names)}

    def refuses_null(self) -> bool:
        """Whether null is invalid: the schema lists other types, or an enum without null."""
        choices = [schema["enum"] for schema in self.alternatives if "enum" in schema]
        types = self.types()
        return bool(types or choices) and "null" not in types and not any(None in each for each in choices)

    def members(self, value: Any, path: Path = ()) -> Iterator[Member]:
        """Yield every key of every object inside a value, but do not descend into keys that no property lists."""
        if isinstance(value, dict):
            # Keys are checked against `properties` only if the schema does not describe further keys.
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
        """Return what the schema says about a property of an object."""
        if name in self._properties:
            return self._properties[name]
        found, stated = [], False
        for schema in self.alternatives:
            properties = schema.get("properties", {})
            stated = stated or name in properties
            found.append(properties[name] if name in properties else schema.get("additionalProperties"))
        # One entry for all names that no schema has, because a model may invent any number of names.
        return self._properties.setdefault(name if stated else None, Subschemas(found, self.root))

    def item(self, index: int) -> Subschemas:
        """Return what the schema says about an item of an array."""
        index = min(index, max((len(schema.get("prefixItems", ())) for schema in self.alternatives), default=0))
        if index in self._items:
            return self._items[index]
        found = []
        for schema in self.alternatives:
            first = schema.get("prefixItems", [])
            found.append(first[index] if index < len(first) else schema.get("items"))
        return self._items.setdefault(index, Subschemas(found, self.root))


def _flatten(schemas: Sequence[Any], root: Schema) -> Iterator[Schema]:
    """Yield the schemas and all schemas that they refer to or combine, each once and in order. True, False and None are
    skipped."""
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
            waiting.append(pointed_at(schema["$ref"], root))


def pointed_at(reference: str, root: Schema) -> Any:
    """Return the value at a reference within the schema ("#/$defs/address"); None for any other reference."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    try:
        return EMPTY_REGISTRY.resolver_with_root(DRAFT202012.create_resource(root)).lookup(reference).contents
    except (Unresolvable, AttributeError, TypeError, ValueError):  # the schema is not valid
        return None
