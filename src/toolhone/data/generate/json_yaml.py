"""YAML whose unquoted values have the types that they would have in JSON, read with the line of every key.

YAML 1.1 makes the number 540 of `9:00`, a boolean of `no` and a date of `2026-01-31`; in phrasings these are texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from toolhone.errors import UserError


class _JsonTypesLoader(yaml.SafeLoader):
    """Unquoted values have JSON's types, and a key given twice is refused."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own way)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for index, name in enumerate(names):
            if name in names[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f'the key "{name}" stands twice', mark)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", "n~"),
    ("int", r"-?(?:0|[1-9][0-9]*)", "-0123456789"),
    ("float", r"-?(?:0|[1-9][0-9]*)\.[0-9]+", "-0123456789"),
):
    _JsonTypesLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})$"), [*_first, *([""] if _tag == "null" else [])]
    )

Entries = list[tuple[str, Any]]
"""The members of a list, each with its `file:line`."""


class YamlFile:
    """A YAML file, read: its `value`, and where in the file its keys and the members of its lists stand."""

    def __init__(self, path: Path, what: str) -> None:
        """Read it; `what` names the kind of file for the error that it is missing.

        Raises:
            UserError: naming the file and the line, for a missing file, broken YAML or a key given twice.
        """
        self.path = path
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise UserError(f"{path}: no such {what} file") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read as a {what} file ({error.strerror})") from None
        try:
            loader = _JsonTypesLoader(text)
            self._root: yaml.Node | None = loader.get_single_node()
            self.value: Any = None if self._root is None else loader.construct_document(self._root)
        except yaml.MarkedYAMLError as error:
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
            raise UserError(f"{path}{line}: not YAML: {error.problem}") from None
        except yaml.reader.ReaderError as error:
            held = f"it holds the character {chr(error.character)!r}"
            raise UserError(f"{path}:{text[: error.position].count(chr(10)) + 1}: not YAML: {held}") from None

    def entries(self, *keys: str) -> Entries | None:
        """The members of the list under these keys, or None where there is no list."""
        node: Any = self._root
        value = self.value
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                return None
            node = next(below for name, below in node.value if name.value == key)
            value = value[key]
        if not isinstance(value, list):
            return None
        lines = (member.start_mark.line + 1 for member in node.value)
        return [(f"{self.path}:{line}", member) for line, member in zip(lines, value, strict=True)]

    def place(self, keys: list[str]) -> str:
        """The `file:line` of the key, else of the nearest section around it that is written down, else the file."""
        written = dict(_lines_of_keys(self._root))
        lines = (written.get(tuple(keys[:depth])) for depth in range(len(keys), 0, -1))
        line = next((line for line in lines if line is not None), None)
        return str(self.path) if line is None else f"{self.path}:{line}"


def _lines_of_keys(node: yaml.Node | None, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*above, str(key.value))
            yield path, key.start_mark.line + 1
            yield from _lines_of_keys(value, path)
