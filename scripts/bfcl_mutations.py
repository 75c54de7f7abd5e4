"""Mutations of BFCL's gold: calls that a model might make instead, right or wrong.

Each is a list of calls as BFCL's checker takes them, `[{name: arguments}]`, with the name of the mutation. They are
made systematically, for every argument and every value inside it. If an entry has more than the limit, the seed
decides which stay.
"""

from __future__ import annotations

import copy
import random
import unicodedata
from collections.abc import Iterator
from typing import Any

Calls = list[dict[str, dict[str, Any]]]
Path = tuple[str | int, ...]


def mutations(
    gold: list[dict[str, Any]], functions: list[dict[str, Any]], limit: int, seed: str
) -> Iterator[tuple[str, Calls]]:
    """The gold's own calls, with all arguments and without the optional ones, and `limit` mutations of them."""
    whole = [{name: {k: v for k, v in _firsts(given).items() if v != ""} for name, given in c.items()} for c in gold]
    least = [{name: _firsts(given, skip=True) for name, given in c.items()} for c in gold]
    yield "gold", whole
    yield "gold, least", least
    drawn = random.Random(seed)
    made = list(_of_arguments(whole, gold, functions)) + list(_of_calls(whole, functions, drawn))
    by_kind: dict[str, list[Calls]] = {}
    for kind, calls in made:
        if calls != whole or kind.startswith("calls"):
            by_kind.setdefault(kind, []).append(calls)
    for several in by_kind.values():
        drawn.shuffle(several)
    # Takes one of each kind in turn, or an entry with many arguments would give only one kind.
    left = limit
    while left > 0 and any(by_kind.values()):
        for kind, several in by_kind.items():
            if several and left > 0:
                yield kind, several.pop()
                left -= 1


def _firsts(arguments: dict[str, list[Any]], *, skip: bool = False) -> dict[str, Any]:
    """The first accepted value of each argument; with `skip`, only of required ones."""
    return {
        name: next((_plain(value) for value in values if value != ""), "")
        for name, values in arguments.items()
        if values and not (skip and "" in values)
    }


def _plain(value: Any) -> Any:
    """An accepted value with the first choice of each of its keys."""
    if isinstance(value, dict):
        firsts = {k: next((c for c in v if c != ""), "") if isinstance(v, list) else v for k, v in value.items()}
        return {key: choice for key, choice in firsts.items() if choice != ""}
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return [_plain(item) for item in value]
    return value


def _of_arguments(
    whole: Calls, gold: list[dict[str, Any]], functions: list[dict[str, Any]]
) -> Iterator[tuple[str, Calls]]:
    said = {function["name"]: function["parameters"].get("properties", {}) for function in functions}
    for n, call in enumerate(whole):
        ((name, arguments),) = call.items()
        accepted = gold[n][name]
        yield "arguments reordered", _with(whole, n, name, dict(reversed(arguments.items())))
        yield "argument added", _with(whole, n, name, {**arguments, "zz_unknown": 1})
        for other, schema in said.get(name, {}).items():
            if other not in arguments:
                for value in ("", " ", 0, None, [], {}, False, "x", schema.get("default", 1)):
                    yield "argument added", _with(whole, n, name, {**arguments, other: value})
        for key, value in arguments.items():
            less = {other: kept for other, kept in arguments.items() if other != key}
            yield "argument dropped", _with(whole, n, name, less)
            yield "argument renamed", _with(whole, n, name, {**less, key.upper() + "_": value})
            for alternative in accepted[key][1:]:
                if alternative != "":
                    yield "gold, other", _with(whole, n, name, {**arguments, key: _plain(alternative)})
            for kind, changed in _values(value):
                yield kind, _with(whole, n, name, {**arguments, key: changed})
            for path, inner in _inside(value):
                for kind, changed in _values(inner):
                    yield f"nested {kind}", _with(whole, n, name, {**arguments, key: _set(value, path, changed)})


def _values(value: Any) -> Iterator[tuple[str, Any]]:
    """What may replace a value."""
    for blank in ("", " ", ".", [], {}, None, [""], [[]], [{}]):
        yield "blank", blank
    yield "retyped", [value]
    yield "retyped", {"value": value}
    if isinstance(value, bool):
        yield "value changed", not value
        yield from (("retyped", other) for other in (int(value), float(value), str(value), str(value).lower()))
    elif isinstance(value, int | float):
        yield from (
            ("value changed", other) for other in (value + 1, -value, value * 10, value + 0.5, value * 1.0000001)
        )
        yield from (("retyped", other) for other in (str(value), float(value), int(value), bool(value)))
    elif isinstance(value, str):
        yield from (("value changed", other) for other in (value + "x", value[1:], value[::-1], "other", value * 2))
        yield from (("retyped", other) for other in (1, 1.0, True, list(value), _number(value)))
        yield from (("respelt", other) for other in _spellings(value))
    elif isinstance(value, list):
        yield from (("value changed", other) for other in (value[1:], value[:-1], value + value[-1:], [*value, "x"]))
        yield "items reordered", value[::-1]
        yield from (
            ("retyped", other) for other in (str(value), ", ".join(map(str, value)), [value, value], len(value))
        )
        yield "retyped", [str(item) for item in value]
        yield "retyped", [float(item) if isinstance(item, int) else item for item in value]
        yield "retyped", [int(item) if isinstance(item, float) else item for item in value]
    elif isinstance(value, dict):
        yield "value changed", {**value, "zz_unknown": ""}
        for key in value:
            yield "value changed", {other: kept for other, kept in value.items() if other != key}
            yield "value changed", {**value, key: ""}
        yield "items reordered", dict(reversed(value.items()))
        yield from (
            ("retyped", other) for other in (str(value), list(value), list(value.values()), list(value.items()))
        )
        yield "retyped", {key: [item] for key, item in value.items()}


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return len(text)


def _spellings(text: str) -> Iterator[str]:
    yield from (text.upper(), text.lower(), text.title(), text.swapcase())
    yield from (
        f" {text}",
        f"{text} ",
        f"{text}.",
        f"\t{text}\n",
        f"{text}\u00a0",
        f"'{text}'",
        f'"{text}"',
        f"-{text}",
    )
    yield from (text.replace(" ", ""), text.replace(" ", "  "), text.replace(" ", "_"), text.replace(" ", "-"))
    yield from (text.replace(sign, "") for sign in ",.-/_'*^" if sign in text)
    yield from (text.replace(sign, " ") for sign in ",.-/_'" if sign in text)
    yield from (text.replace("-", "/"), text.replace("/", "-"), text.replace("'", '"'), text.replace("&", "and"))
    yield from (unicodedata.normalize("NFD", text), text.replace("e", "é"), text.replace(":", ""), f"{text}!")


def _inside(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key), item
        yield from _inside(item, (*path, key))


def _set(value: Any, path: Path, changed: Any) -> Any:
    made = copy.deepcopy(value)
    place = made
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = changed
    return made


def _with(calls: Calls, n: int, name: str, arguments: dict[str, Any]) -> Calls:
    return [{name: arguments} if i == n else call for i, call in enumerate(calls)]


def _of_calls(whole: Calls, functions: list[dict[str, Any]], drawn: random.Random) -> Iterator[tuple[str, Calls]]:
    yield "calls none", []
    yield "calls reversed", whole[::-1]
    for _ in range(3):
        yield "calls permuted", drawn.sample(whole, len(whole))
    yield "calls doubled", whole + whole
    for n, call in enumerate(whole):
        ((name, arguments),) = call.items()
        yield "calls one doubled", [*whole, call]
        yield "calls one dropped", whole[:n] + whole[n + 1 :]
        yield "calls one for another", [call if i == (n + 1) % len(whole) else other for i, other in enumerate(whole)]
        for other in {name.replace(".", "_"), name.replace("_", "."), name.upper(), f"{name}2", *_names(functions)}:
            if other != name:
                yield "calls renamed", [{other: arguments} if i == n else c for i, c in enumerate(whole)]


def _names(functions: list[dict[str, Any]]) -> list[str]:
    return [function["name"] for function in functions]
