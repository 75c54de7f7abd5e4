"""A tool's JSON Schema, compiled once for each content: are these arguments valid, and if not, where and why.

In: a tool's `parameters` (Draft 2020-12) and decoded arguments. Out: pairs of rule and message. Nearly all arguments
are valid and nearly all schemas plain, so a quick test comes first: where it says yes, jsonschema would find nothing
(a property test holds the two together); where it does not, jsonschema is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from toolhone.data.importers.schemas import describe_nulls
from toolhone.records import Tool

Accepts = Callable[[Any], bool]
"""True: surely valid. False: valid or not."""


class CompiledTool:
    """A tool with its schema made ready. `unusable` says why the schema is none, or is ""."""

    __slots__ = ("_accepts", "_validator", "name", "unusable", "unusable_rule")

    def __init__(self, tool: Tool) -> None:
        self.name = tool.name
        self.unusable, self.unusable_rule = "", "bad-schema"
        self._accepts: Accepts | None = None
        try:
            self._compile(tool)
        except RecursionError:
            self.unusable = f'tool "{tool.name}": its parameters are nested too deeply; mend the tool'

    def _compile(self, tool: Tool) -> None:
        if nulls := describe_nulls(tool.parameters):
            self.unusable_rule = "null-filled-schema"
            self.unusable = f'tool "{tool.name}": {nulls}'
        else:
            try:
                Draft202012Validator.check_schema(tool.parameters)
            except SchemaError as error:
                self.unusable = (
                    f'tool "{tool.name}": its parameters are not a JSON Schema: {error.message}; mend the tool'
                )
        if not self.unusable:
            # An empty registry, so that no reference is looked up on the network.
            self._validator = Draft202012Validator(tool.parameters, registry=EMPTY_REGISTRY)
            self._accepts = quick_test({k: v for k, v in tool.parameters.items() if k != "$schema"})

    def accepts(self, arguments: dict[str, Any]) -> bool:
        """True where the arguments are surely valid."""
        return self._accepts is not None and self._accepts(arguments)

    def faults(self, arguments: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Rule and message of each fault of the arguments; none where the schema is unusable, which is told once."""
        if self.unusable or self.accepts(arguments):
            return
        try:
            faults = list(self._validator.iter_errors(arguments))
        except Unresolvable as error:
            text = f'tool "{self.name}": its parameters refer to what is not in them ({error}); mend it'
            yield "bad-schema", text
        except (re.error, ValueError) as error:  # a pattern that is no regular expression, a $ref that is no address
            yield "bad-schema", f'tool "{self.name}": its parameters cannot be applied ({error}); mend the tool'
        except RecursionError:
            yield "bad-schema", f'tool "{self.name}": references in its parameters go round in a circle; mend it'
        except OverflowError:  # a whole number beyond any float, held against `multipleOf` a float
            yield "schema", f'arguments of "{self.name}": a number is too large'
        else:
            for fault in faults:
                path = fault.json_path.removeprefix("$").removeprefix(".")
                yield "schema", f'arguments of "{self.name}": {path + ": " if path else ""}{fault.message}'


def quick_test(schema: Any) -> Accepts | None:
    """A test of values for a plain schema, or None where the schema says more than this knows.

    The schema must be a valid one. Keywords that assert nothing (descriptions, formats, defaults, names of one's own)
    are passed over, as jsonschema does."""
    if schema is True:
        return lambda value: True
    if not isinstance(schema, dict):
        return None
    tests: list[Accepts] = []
    for key, value in schema.items():
        if key in _TESTS:
            test = _TESTS[key](value, schema)
            if test is None:
                return None
            tests.append(test)
        elif key in _UNKNOWN:
            return None
    if not tests:
        return lambda value: True
    if len(tests) == 1:
        return tests[0]
    together = tuple(tests)

    def all_of(value: Any) -> bool:
        for test in together:  # noqa: SIM110 (a loop is twice as fast as all() over a generator)
            if not test(value):
                return False
        return True

    return all_of


def _type(names: Any, _: dict[str, Any]) -> Accepts | None:
    names = [names] if isinstance(names, str) else names
    kinds: set[type] = set()
    for name in names:
        if name not in _PYTHON_TYPES:
            return None
        kinds |= _PYTHON_TYPES[name]
    # By exact type, for a bool is an int in Python and not in JSON. (1.0 is an integer too: jsonschema says so.)
    accepted = frozenset(kinds)
    return lambda value: type(value) in accepted


_PYTHON_TYPES: dict[str, set[type]] = {
    "string": {str},
    "integer": {int},
    "number": {int, float},
    "boolean": {bool},
    "array": {list},
    "object": {dict},
    "null": {type(None)},
}


def _enum(values: Any, _: dict[str, Any]) -> Accepts | None:
    if not isinstance(values, list):
        return None
    texts = frozenset(value for value in values if isinstance(value, str))
    return lambda value: type(value) is str and value in texts


def _properties(properties: Any, _: dict[str, Any]) -> Accepts | None:
    tests: dict[str, Accepts] = {}
    for name, schema in properties.items():
        test = quick_test(schema)
        if test is None:
            return None
        tests[name] = test

    def each(value: Any) -> bool:
        if type(value) is not dict:
            return False
        for name, entry in value.items():  # noqa: SIM110 (as above)
            if name in tests and not tests[name](entry):
                return False
        return True

    return each


def _additional(allowed: Any, schema: dict[str, Any]) -> Accepts | None:
    if allowed is True:
        return lambda value: True
    if allowed is not False:
        return None
    names = frozenset(schema.get("properties", {}))
    return lambda value: type(value) is dict and value.keys() <= names


def _required(required: Any, _: dict[str, Any]) -> Accepts | None:
    names = frozenset(required)
    return lambda value: type(value) is dict and value.keys() >= names


def _items(schema: Any, _: dict[str, Any]) -> Accepts | None:
    test = quick_test(schema)
    return None if test is None else lambda value: type(value) is list and all(map(test, value))


def _number(holds: Callable[[Any, Any], bool]) -> Callable[[Any, dict[str, Any]], Accepts]:
    return lambda limit, _: lambda value: type(value) in (int, float) and holds(value, limit)


def _length(
    kind: type[str] | type[list[Any]], holds: Callable[[int, Any], bool]
) -> Callable[[Any, dict[str, Any]], Accepts]:
    return lambda limit, _: lambda value: type(value) is kind and holds(len(value), limit)


_TESTS: dict[str, Callable[[Any, dict[str, Any]], Accepts | None]] = {
    "type": _type,
    "enum": _enum,
    "properties": _properties,
    "additionalProperties": _additional,
    "required": _required,
    "items": _items,
    "minimum": _number(lambda value, limit: value >= limit),
    "maximum": _number(lambda value, limit: value <= limit),
    "exclusiveMinimum": _number(lambda value, limit: value > limit),
    "exclusiveMaximum": _number(lambda value, limit: value < limit),
    "minLength": _length(str, lambda count, limit: count >= limit),
    "maxLength": _length(str, lambda count, limit: count <= limit),
    "minItems": _length(list, lambda count, limit: count >= limit),
    "maxItems": _length(list, lambda count, limit: count <= limit),
}
_UNKNOWN = (set(Draft202012Validator.VALIDATORS) - set(_TESTS) - {"format"}) | {"$schema", "$id"}
