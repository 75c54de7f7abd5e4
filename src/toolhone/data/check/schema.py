"""Compiles a row's tools, and validates a call's arguments against the tool's JSON Schema: what is wrong, and where.

Most arguments are valid and most schemas simple, so a quick test runs first. If it accepts the arguments, jsonschema
would find nothing (a property test compares the two); otherwise jsonschema decides. Most rows of a file share their
tools, so compiled tools are cached by content.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import marshal
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from toolhone.data.importers.schemas import describe_nulls
from toolhone.data.values import leaves, letters_and_digits
from toolhone.records import Tool, ToolCall
from toolhone.tool_schema import Path, filled_nulls, unlisted_keys

Accepts = Callable[[Any], bool]
"""True: valid. False: valid or not; only jsonschema can decide."""

NO_TOOLS = "no tools are known (`toolhone data infer-tools` makes a list from the calls)"
"""What the error for a call says if the row lists no tools."""

_MAX_TOOL_SETS = 512
"""How many compiled tool lists the cache holds: enough for a file whose rows draw their tools from a catalogue."""


class CompiledTool:
    """A tool with its schema compiled. `unusable` says why the schema cannot be used; "" if it can."""

    __slots__ = ("_accepts", "_listed", "_parameters", "_validator", "name", "unusable", "unusable_rule")

    def __init__(self, tool: Tool) -> None:
        self.name = tool.name
        self._parameters = tool.parameters
        properties = tool.parameters.get("properties")
        self._listed = frozenset(properties if isinstance(properties, dict) else ())
        self.unusable, self.unusable_rule = "", "bad-schema"
        self._accepts: Accepts | None = None
        try:
            if nulls := describe_nulls(tool.parameters):
                self.unusable, self.unusable_rule = f'tool "{tool.name}": {nulls}', "null-filled-schema"
                return
            Draft202012Validator.check_schema(tool.parameters)
            # The empty registry prevents look-ups of references on the network.
            self._validator = Draft202012Validator(tool.parameters, registry=EMPTY_REGISTRY)
            self._accepts = quick_test({k: v for k, v in tool.parameters.items() if k != "$schema"})
        except SchemaError as error:
            self.unusable = f'tool "{tool.name}": its parameters are not a JSON Schema: {error.message}; fix the tool'
        except RecursionError:
            self.unusable = f'tool "{tool.name}": its parameters are nested too deeply; fix the tool'

    def accepts(self, arguments: dict[str, Any]) -> bool:
        """True if the arguments are valid; False if only jsonschema can decide."""
        return self._accepts is not None and self._accepts(arguments)

    def lists_all(self, arguments: dict[str, Any]) -> bool:
        """True if each argument is a property of the tool and is not null, a list or an object. Nearly all calls pass,
        so the slower `filled_nulls` and `unlisted_keys` rarely run."""
        for name, value in arguments.items():
            if value is None or name not in self._listed or type(value) in (dict, list):
                return False
        return True

    def filled_nulls(self, arguments: dict[str, Any]) -> list[Path]:
        """The nulls that mean "absent" (`tool_schema.filled_nulls`); none if the schema is unusable."""
        return [] if self.unusable else filled_nulls(arguments, self._parameters)

    def unlisted_keys(self, arguments: dict[str, Any]) -> list[Path]:
        """The keys that the tool does not list (`tool_schema.unlisted_keys`), if its schema accepts them anyway."""
        unlisted = [] if self.unusable else unlisted_keys(arguments, self._parameters)
        return unlisted if unlisted and not any(self.faults(arguments)) else []

    def faults(self, arguments: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Rule and message of each fault of the arguments; none if the schema is unusable, which is a separate
        finding."""
        if self.unusable or self.accepts(arguments):
            return
        try:
            faults = list(self._validator.iter_errors(arguments))
        except Unresolvable as error:
            yield "bad-schema", f'tool "{self.name}": its parameters have a broken reference ({error}); fix the tool'
        except (re.error, ValueError) as error:  # an invalid regular expression in a pattern, or an invalid $ref
            yield "bad-schema", f'tool "{self.name}": its parameters cannot be applied ({error}); fix the tool'
        except RecursionError:
            yield "bad-schema", f'tool "{self.name}": references in its parameters form a circle; fix the tool'
        except OverflowError:  # an integer larger than any float, compared with a `multipleOf` that is a float
            yield "schema", f'arguments of "{self.name}": a number is too large'
        else:
            for fault in faults:
                path = fault.json_path.removeprefix("$").removeprefix(".")
                yield "schema", f'arguments of "{self.name}": {path + ": " if path else ""}{fault.message}'


class ToolSet:
    """The tools of a conversation, compiled. `key` identifies the list as it is written; `digests` has a hash of each
    definition's content."""

    def __init__(self, key: bytes, tools: tuple[Tool, ...], compiled: dict[bytes, CompiledTool]) -> None:
        self.key = key
        self.tools = tools
        self.by_name: dict[str, CompiledTool] = {}
        self.digests: dict[str, bytes] = {}
        for tool in tools:
            written = json.dumps([tool.name, tool.description, tool.parameters], sort_keys=True)
            digest = hashlib.blake2b(written.encode(), digest_size=16).digest()
            if digest not in compiled:
                if len(compiled) >= 16 * _MAX_TOOL_SETS:
                    compiled.clear()
                compiled[digest] = CompiledTool(tool)
            self.by_name[tool.name] = compiled[digest]
            self.digests[tool.name] = digest
        self.unusable = any(tool.unusable for tool in self.by_name.values())

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.tools)

    def faults(self, call: ToolCall) -> Iterator[tuple[str, str]]:
        """Rule and message of each fault of a call."""
        if call.name in self.by_name:
            yield from self.by_name[call.name].faults(call.arguments)
            return
        yield "unknown-tool", f'tool call "{call.name}" is not in tools{self.hint(call.name)}'

    def hint(self, name: str) -> str:
        """What to add to the error for a tool that is not in the list: a similar name, the known names, or how to get a
        list."""
        if not self.by_name:
            return f"; {NO_TOOLS}"
        near = difflib.get_close_matches(name, self.by_name, n=1)
        return f' (did you mean "{near[0]}"?)' if near else f"; known: {', '.join(self.by_name)}"


class ToolSets:
    """A cache of compiled tools, by content."""

    def __init__(self) -> None:
        self._sets: dict[bytes, ToolSet] = {}
        self._compiled: dict[bytes, CompiledTool] = {}
        self._last: ToolSet | None = None

    def get(self, tools: tuple[Tool, ...]) -> ToolSet:
        if self._last is not None and self._last.tools is tools:
            return self._last
        # marshal is many times faster than JSON here, and distinguishes 1, 1.0 and true. Version 2 of its format
        # depends only on the values, not on the identity of objects.
        written = marshal.dumps([(tool.name, tool.description, tool.parameters) for tool in tools], 2)
        key = hashlib.blake2b(written, digest_size=16).digest()
        if key not in self._sets:
            if len(self._sets) >= _MAX_TOOL_SETS:
                self._sets.clear()
            self._sets[key] = ToolSet(key, tools, self._compiled)
        self._last = self._sets[key]
        return self._last


class Vocabulary:
    """What the tools name themselves: `values` from their schemas, and `words` from their descriptions."""

    __slots__ = ("values", "words")

    def __init__(self, tools: tuple[Tool, ...]) -> None:
        self.values: set[str] = set()
        texts: list[str] = []
        for tool in tools:
            texts.append(tool.description)
            stack: list[Any] = [tool.parameters]
            while stack:
                found = stack.pop()
                if isinstance(found, list):
                    stack.extend(found)
                for key, value in found.items() if isinstance(found, dict) else ():
                    # A property with a keyword's name is treated as the keyword, which does no harm.
                    if key in ("enum", "default", "const", "examples", "example"):
                        self.values.update(str(leaf) for _, leaf in leaves(value))
                    elif isinstance(value, str):
                        texts.append(value)
                    stack.append(value)
        self.words = letters_and_digits("\n".join(texts))

    def names(self, value: Any) -> bool:
        return str(value) in self.values or (isinstance(value, str) and letters_and_digits(value) in self.words)


def quick_test(schema: Any) -> Accepts | None:
    """A fast test of values for a simple schema, or None if the schema has keywords that the test does not know.

    The schema must be valid. Keywords that assert nothing (descriptions, formats, defaults, unknown names) are skipped,
    as jsonschema does."""
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

    def all_of(value: Any) -> bool:
        for test in tests:  # noqa: SIM110 (a loop is twice as fast as all() over a generator)
            if not test(value):
                return False
        return True

    return all_of


def _type(names: Any, _: dict[str, Any]) -> Accepts:
    # Exact types, because a bool is an int in Python but not in JSON. (Only jsonschema accepts 1.0 as an integer.)
    kinds = [_PYTHON_TYPES[name] for name in ([names] if isinstance(names, str) else names)]
    accepted = frozenset[type]().union(*kinds)
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


def _enum(values: Any, _: dict[str, Any]) -> Accepts:
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


def _required(required: Any, _: dict[str, Any]) -> Accepts:
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
