"""Reads the operations of an OpenAPI 3 document as tools.

Each operation is one tool. Its name is the `operationId`, or the method and the path. Its arguments are the parameters
of path, query, header and cookie, and the properties of the request's JSON body. If two arguments have one
name, both get their place in front (`path_id`, `query_id`), and a body that clashes is one argument `body`.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from toolhone.data.importers.importer import Row, short, unexpected
from toolhone.errors import RowError

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "query")
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_IGNORED_HEADERS = frozenset({"accept", "content-type", "authorization"})  # the specification says so
# Keys of a schema that are OpenAPI's own, not JSON Schema's.
_OWN_SCHEMA_KEYS = frozenset({"nullable", "example", "xml", "externalDocs", "discriminator"})
_SCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_SCHEMA_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMA_MAPS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_MAX_NAME = 64


def is_openapi(document: Any) -> bool:
    """Whether a JSON or YAML document is an OpenAPI description, of any version."""
    return isinstance(document, dict) and ("openapi" in document or "swagger" in document)


def openapi_tools(document: Row, where: str) -> list[Row]:
    """The tools of the document's operations, as bare functions with inlined schemas.

    Raises:
        RowError: for another version than 3, a reference that forms a cycle or cannot be resolved, two operations of
            one name, or a body that is neither JSON nor a form.
    """
    version = str(document.get("openapi") or f"Swagger {document.get('swagger')}")
    if not version.startswith("3."):
        text = f"{where}: OpenAPI {version} is not read; convert the document to OpenAPI 3"
        raise RowError(text, rule="bad-tool")
    resolver = _Resolver(document, is_3_0=version.startswith("3.0"))
    tools: list[Row] = []
    places: dict[str, str] = {}
    for path, item in _object(document.get("paths"), f"{where}: paths").items():
        item = resolver.resolved(item, f"{where}: {path}")
        for method in _METHODS:
            if not isinstance(item.get(method), dict):
                continue
            place = f"{method.upper()} {path}"
            tool = _tool(item, method, path, resolver, f"{where}: {place}")
            other = places.setdefault(tool["name"], place)
            if other != place:
                text = f'{where}: {place} and {other} both give the tool "{tool["name"]}"; change one operationId'
                raise RowError(text, rule="tool-defined-twice")
            tools.append(tool)
    if not tools:
        raise RowError(f'{where}: the OpenAPI document has no operations under "paths"', rule="bad-tool")
    return tools


def _tool(item: Row, method: str, path: str, resolver: _Resolver, where: str) -> Row:
    operation = item[method]
    texts = [operation.get(key) for key in ("summary", "description")]
    said = dict.fromkeys(text.strip() for text in texts if isinstance(text, str) and text.strip())
    arguments = [*_parameters(item, operation, resolver, where), *_body(operation, resolver, where)]
    return {
        "name": _name(operation, method, path),
        "description": "\n".join(said),
        "parameters": _merged(arguments, where),
    }


def _name(operation: Row, method: str, path: str) -> str:
    found = operation.get("operationId")
    text = found if isinstance(found, str) and found else f"{method}{path}"
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", text).strip("_")[:_MAX_NAME]


# Arguments


class _Argument:
    """An argument, and where the request has it: path, query, header, cookie or body."""

    def __init__(self, name: str, place: str, schema: Any, is_required: bool) -> None:
        self.name, self.place, self.schema, self.is_required = name, place, schema, is_required


def _parameters(item: Row, operation: Row, resolver: _Resolver, where: str) -> Iterator[_Argument]:
    """The parameters of the operation. One of its own replaces that of the path with the same name and place."""
    found: dict[tuple[str, str], Row] = {}
    for holder in (item, operation):
        for number, parameter in enumerate(holder.get("parameters") or ()):
            parameter = resolver.resolved(parameter, f"{where}: parameter {number}")
            if not isinstance(parameter.get("name"), str) or not isinstance(parameter.get("in"), str):
                raise unexpected(f"{where}: parameter {number}", 'a "name" and an "in"', parameter, "bad-tool")
            found[parameter["name"], parameter["in"]] = parameter
    for (name, place), parameter in found.items():
        if place == "header" and name.lower() in _IGNORED_HEADERS:
            continue
        schema = parameter.get("schema")
        if schema is None:
            content = parameter.get("content")
            media: Any = next(iter(content.values()), {}) if isinstance(content, dict) else {}
            schema = media.get("schema", {}) if isinstance(media, dict) else {}
        schema = resolver.schema(schema, f"{where}: {name}")
        if isinstance(parameter.get("description"), str) and isinstance(schema, dict):
            schema = {**schema, "description": parameter["description"]}
        yield _Argument(name, place, schema, bool(parameter.get("required")) or place == "path")


def _body(operation: Row, resolver: _Resolver, where: str) -> Iterator[_Argument]:
    """The properties of the request's body, or the body as one argument if it is no plain object."""
    if operation.get("requestBody") is None:
        return
    body = resolver.resolved(operation["requestBody"], f"{where}: requestBody")
    content = _object(body.get("content"), f"{where}: requestBody: content")
    is_required = bool(body.get("required"))
    media = next((kind for kind in content if _is_json(kind)), None)
    media = media or next((form for form in _FORMS if form in content), None)
    if media is None:
        text = f"{where}: the body is {', '.join(content) or 'empty'}, expected JSON or a form"
        raise RowError(f"{text}; remove the operation from the document", rule="bad-tool")
    schema = content[media].get("schema", {}) if isinstance(content[media], dict) else {}
    schema = resolver.schema(schema, f"{where}: requestBody")
    if file := _file_in(schema):
        text = f'{where}: the body has a file ("{file}"), which no model can write'
        raise RowError(f"{text}; remove the operation from the document", rule="bad-tool")
    if _is_plain_object(schema):
        required = schema.get("required", ()) if is_required else ()
        for name, each in schema["properties"].items():
            if not (isinstance(each, dict) and each.get("readOnly") is True):
                yield _Argument(name, "body", each, name in required)
    else:
        yield _Argument("body", "", schema, is_required)


def _file_in(schema: Any) -> str:
    """The name of a property that is a file; "" if there is none."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    for name, each in properties.items() if isinstance(properties, dict) else ():
        if isinstance(each, dict) and (each.get("format") == "binary" or "contentMediaType" in each):
            return str(name)
    return ""


def _is_json(media: str) -> bool:
    kind = media.partition(";")[0].strip().lower()
    return kind in ("application/json", "*/*", "application/*") or kind.endswith(("+json", "/json"))


def _is_plain_object(schema: Any) -> bool:
    """Whether the schema is only a list of properties, so that they can be beside parameters."""
    known = {"type", "properties", "required", "title", "description", "additionalProperties", "example", "examples"}
    return (
        isinstance(schema, dict)
        and isinstance(schema.get("properties"), dict)
        and schema.get("type", "object") == "object"
        and not isinstance(schema.get("additionalProperties"), dict)
        and all(key in known or key.startswith("x-") for key in schema)
    )


def _merged(arguments: list[_Argument], where: str) -> Row:
    """One object schema with all arguments."""
    count = Counter(argument.name for argument in arguments)
    of_body = [argument for argument in arguments if argument.place == "body"]
    if any(count[argument.name] > 1 for argument in of_body):
        properties = {argument.name: argument.schema for argument in of_body}
        required = [argument.name for argument in of_body if argument.is_required]
        body = {"type": "object", "properties": properties, **({"required": required} if required else {})}
        arguments = [argument for argument in arguments if argument.place != "body"]
        arguments.append(_Argument("body", "", body, bool(required)))
        count = Counter(argument.name for argument in arguments)
    made: Row = {}
    required = []
    for argument in arguments:
        name = argument.name
        if count[name] > 1:
            name = f"{argument.place}_{name}" if argument.place else name
        if name in made:
            raise RowError(f'{where}: two arguments are named "{name}"; rename one', rule="bad-tool")
        made[name] = argument.schema
        required += [name] if argument.is_required else []
    return {"type": "object", "properties": made, **({"required": required} if required else {})}


# References and schemas


class _Resolver:
    """Replaces references by what they refer to, and OpenAPI's schemas by JSON Schema."""

    def __init__(self, document: Row, *, is_3_0: bool) -> None:
        self._document = document
        self._is_3_0 = is_3_0

    def resolved(self, value: Any, where: str, seen: tuple[str, ...] = ()) -> Row:
        """The object, or the object that its `$ref` names."""
        found = _object(value, where)
        if not isinstance(found.get("$ref"), str):
            return found
        reference = found["$ref"]
        return self.resolved(self._at(reference, seen, where), where, (*seen, reference))

    def schema(self, value: Any, where: str, seen: tuple[str, ...] = ()) -> Any:
        """The schema as JSON Schema, without references."""
        if isinstance(value, bool):
            return value
        found = _object(value, where)
        if isinstance(found.get("$ref"), str):
            reference = found["$ref"]
            target = self.schema(self._at(reference, seen, where), where, (*seen, reference))
            beside = {key: each for key, each in found.items() if key != "$ref"}
            if self._is_3_0 or not beside or not isinstance(target, dict):  # 3.0 ignores what is beside a reference
                return target
            return {**target, **self.schema(beside, where, seen)}
        made: Row = {}
        for key, each in found.items():
            if key in _OWN_SCHEMA_KEYS or key.startswith("x-"):
                continue
            if key in _SCHEMAS:
                each = self.schema(each, where, seen)
            elif key in _SCHEMA_LISTS and isinstance(each, list):
                each = [self.schema(one, where, seen) for one in each]
            elif key in _SCHEMA_MAPS and isinstance(each, dict):
                each = {name: self.schema(one, f"{where}: {name}", seen) for name, one in each.items()}
            made[key] = each
        return _of_3_0(made, is_nullable=found.get("nullable") is True) if self._is_3_0 else made

    def _at(self, reference: str, seen: tuple[str, ...], where: str) -> Any:
        if reference in seen:
            names = [each.rpartition("/")[2] for each in (*seen[seen.index(reference) :], reference)]
            text = (
                f"{where}: the references form a cycle ({' -> '.join(names)}); a tool's arguments cannot be recursive"
            )
            raise RowError(f"{text}: replace one of them by an object without properties", rule="bad-tool")
        if not reference.startswith("#/"):
            text = f'{where}: the reference "{reference}" is to another file; bundle the document into one file'
            raise RowError(text, rule="bad-tool")
        found: Any = self._document
        for step in reference[2:].split("/"):
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                raise RowError(f'{where}: nothing is at the reference "{reference}"', rule="bad-tool")
            found = found[name]
        return found


def _of_3_0(schema: Row, *, is_nullable: bool) -> Row:
    """JSON Schema for a schema of OpenAPI 3.0, which has `nullable` and limits that are exclusive by a flag."""
    for limit, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and limit in schema:
            schema[exclusive] = schema.pop(limit)
    if not is_nullable:
        return schema
    if not isinstance(schema.get("type"), str):
        described: Row = {key: schema.pop(key) for key in ("description", "default") if key in schema}
        return {**described, "anyOf": [schema, {"type": "null"}]} if schema else described
    schema["type"] = [schema["type"], "null"]
    if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    return schema


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise unexpected(where, "an object", value, "bad-tool")
    return value


# YAML


@functools.cache
def _loader() -> Any:
    """A loader of YAML 1.2: `yes`, `12:30` and `2026-01-01` are strings. It refuses duplicate keys."""
    import yaml  # slow to import, and few documents are YAML

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen and key.value != "<<":
                    text = f"the key {short(key.value)} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, text, key.start_mark)
                seen |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {}
    for tag, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("null", r"~|null|Null|NULL|", "~nN"),
        ("int", r"[-+]?[0-9]+", "-+0123456789"),
        ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
        ("merge", r"<<", "<"),
    ):
        starts = [*first, ""] if tag == "null" else list(first)
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), starts)
    Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))  # 010 is ten
    return Loader


def parse_yaml(document: bytes, where: str) -> Any:
    """The value of a YAML document. Raises RowError, naming the line, if it is not YAML or has a key twice."""
    import yaml

    try:
        return yaml.load(document, _loader())
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RowError(f"{where}{line}: not YAML: {error.problem}", rule="broken-yaml") from None
    except yaml.YAMLError as error:
        raise RowError(f"{where}: not YAML: {error}", rule="broken-yaml") from None
