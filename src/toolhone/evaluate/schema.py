"""A tool's JSON Schema, as the scorer asks it: are these arguments valid, and what does it say of a value inside?

In: a tool's `parameters` (Draft 2020-12). Out: valid or not; or the subschemas that speak of a property or an item,
looked up through `$ref` within the schema, `allOf`, `anyOf` and `oneOf`.
"""

from __future__ import annotations

import json
import marshal
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from toolhone.errors import UserError
from toolhone.records import Tool

Schema = dict[str, Any]


def arguments_valid(arguments: dict[str, Any], tool: Tool, where: str) -> bool:
    """Whether arguments satisfy the tool's schema.

    Raises:
        UserError: beginning with `where` and naming the tool, where its `parameters` are no usable JSON Schema.
    """
    try:
        return _is_valid(arguments, tool.parameters)
    except SchemaError as error:
        reason = error.message
    except Unresolvable as error:
        reason = f"it refers to what is not in it ({error})"
    except RecursionError:
        reason = "its references go round in a circle"
    except OverflowError:
        # A whole number beyond any float, held against `multipleOf` a float.
        return False
    raise UserError(
        f'{where}: tool "{tool.name}": its "parameters" are not a JSON Schema (Draft 2020-12): {reason}; mend the tool'
    )


_MOST_RESULTS = 1 << 16
_results: dict[tuple[int, bytes], tuple[Schema, bool]] = {}


def _is_valid(arguments: dict[str, Any], parameters: Schema) -> bool:
    """Right answers say what gold says, so most arguments come more than once, and are validated once."""
    try:
        key = id(parameters), marshal.dumps(arguments, 2)  # version 2 gives equal bytes for equal values alone
    except ValueError:  # nested deeper than marshal goes
        return bool(_validator_of(parameters).is_valid(arguments))
    known = _results.get(key)
    if known is None:
        if len(_results) >= _MOST_RESULTS:
            _results.clear()
        known = _results[key] = (parameters, bool(_validator_of(parameters).is_valid(arguments)))
    return known[1]


_MOST_VALIDATORS = 4096
_validators: dict[int, tuple[Schema, Draft202012Validator]] = {}


def _validator_of(parameters: Schema) -> Draft202012Validator:
    """The compiled schema. Rows that were read with equal tools share them, so it is found by identity, without making
    the schema's text for every call; the schema is kept with it, so that no other can come to have its identity."""
    known = _validators.get(id(parameters))
    if known is None:
        validator = _validator(json.dumps(parameters, ensure_ascii=False))
        if len(_validators) >= _MOST_VALIDATORS:
            _validators.clear()
        known = _validators[id(parameters)] = (parameters, validator)
    return known[1]


@lru_cache(maxsize=_MOST_VALIDATORS)
def _validator(schema: str) -> Draft202012Validator:
    parameters = json.loads(schema)
    Draft202012Validator.check_schema(parameters)
    # An empty registry, so that no reference is looked up on the network.
    return Draft202012Validator(parameters, registry=EMPTY_REGISTRY)


class Subschemas:
    """All that a schema says of one value inside an instance: the alternatives of which some or all apply. Empty where
    it says nothing. `root` is where references start from. They are gathered when first asked for, as of most values,
    such as strings, nothing need be known; and what is said of a property or an item is kept, for the next call."""

    __slots__ = ("_gathered", "_items", "_properties", "_schemas", "root")

    def __init__(self, schemas: Sequence[Any], root: Schema) -> None:
        self.root = root
        self._schemas = schemas
        self._gathered: tuple[Schema, ...] | None = None
        self._properties: dict[str | None, Subschemas] = {}
        self._items: dict[int, Subschemas] = {}

    @property
    def alternatives(self) -> tuple[Schema, ...]:
        if self._gathered is None:
            self._gathered = tuple(_flatten(self._schemas, self.root))
        return self._gathered

    def types(self) -> set[str]:
        """The type names that any alternative allows."""
        stated = [schema["type"] for schema in self.alternatives if "type" in schema]
        return {name for names in stated for name in ([names] if isinstance(names, str) else names)}

    def property(self, name: str) -> Subschemas:
        """What is said of an object's property."""
        known = self._properties.get(name)
        if known is not None:
            return known
        found, stated = [], False
        for schema in self.alternatives:
            properties = schema.get("properties", {})
            stated = stated or name in properties
            found.append(properties[name] if name in properties else schema.get("additionalProperties"))
        # Of all names that no schema states, the same is said, and they are without number.
        return self._properties.setdefault(name if stated else None, Subschemas(found, self.root))

    def item(self, index: int) -> Subschemas:
        """What is said of an array's item."""
        index = min(index, max((len(schema.get("prefixItems", ())) for schema in self.alternatives), default=0))
        known = self._items.get(index)
        if known is not None:
            return known
        found = []
        for schema in self.alternatives:
            first = schema.get("prefixItems", [])
            found.append(first[index] if index < len(first) else schema.get("items"))
        return self._items.setdefault(index, Subschemas(found, self.root))


_subschemas: dict[int, Subschemas] = {}


def subschemas_of(parameters: Schema) -> Subschemas:
    """What a tool's schema says, found by its identity as validators are, for as long as it is known."""
    known = _subschemas.get(id(parameters))
    if known is None:
        if len(_subschemas) >= _MOST_VALIDATORS:
            _subschemas.clear()
        known = _subschemas[id(parameters)] = Subschemas([parameters], parameters)
    return known


def _flatten(schemas: Sequence[Any], root: Schema) -> Iterator[Schema]:
    """The schemas and all that they refer to or are made of, each once, in order. True, False and None say nothing."""
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
    """The value at a reference within the schema (RFC 6901, "#/$defs/address"), or None for any other reference."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    found: Any = root
    for step in reference.split("/")[1:]:
        key = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, dict) and key in found:
            found = found[key]
        else:
            return None
    return found
