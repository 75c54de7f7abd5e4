"""BFCL v4 (Berkeley Function Calling Leaderboard): the single-turn categories.

A category has two files of JSON lines, although their names end in `.json`: the questions with their functions, and in
`possible_answer/` the gold by id. The gold lists the accepted values of each argument; `""` among them means that the
argument may be left out. Inside an object value, each key again has a list of accepted values.

Questions have no assistant turn, so each gets one. It has the gold's first accepted values, or is empty if the category
expects no call or accepts any call.

No call can satisfy the gold of four entries, and some Java and JavaScript gold is an expression of the language instead
of a JSON value. Those entries are reported by id and reason.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolhone.data.files import line_rows
from toolhone.data.importers import openai
from toolhone.data.importers.functions import tool_definition
from toolhone.data.importers.importer import Row, RowFault, json_text, short, unexpected
from toolhone.data.importers.rewrite import with_call_ids
from toolhone.data.importers.schemas import JAVA_TYPES, JAVASCRIPT_TYPES, PYTHON_TYPES, object_schema
from toolhone.errors import RowError, UserError
from toolhone.records import Conversation, Tool

PYTHON_WITH_GOLD = (
    *("simple_python", "multiple", "parallel", "parallel_multiple"),
    *("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"),
)
NO_CALL = ("irrelevance", "live_irrelevance")
SOME_CALL = ("live_relevance",)
OTHER_LANGUAGES = ("simple_java", "simple_javascript")
SINGLE_TURN = (*PYTHON_WITH_GOLD, *NO_CALL, *SOME_CALL, *OTHER_LANGUAGES)

_TYPES: Mapping[str, Mapping[str, str | None]] = {"simple_java": JAVA_TYPES, "simple_javascript": JAVASCRIPT_TYPES}
_MAX_ALTERNATIVES = 10_000


def looks_like(row: Row) -> bool:
    """Whether the row is a question of any BFCL category."""
    question = row.get("question")
    has_functions = isinstance(row.get("function"), list) or "involved_classes" in row
    return has_functions and isinstance(question, list) and all(isinstance(turn, list) for turn in question)


def read(row: Row, where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    """The conversation of a question. `ground_truth` in the row holds its gold, if the category has any."""
    id = row.get("id")
    if not isinstance(id, str):
        raise unexpected(where, '"id" to be a string', id, "bad-type")
    place, category = f"{where}: {id}", category_of(id)
    if category is None:
        text = f"{place}: not in a single-turn category; toolhone reads only {', '.join(SINGLE_TURN)}"
        raise RowError(text, rule="bfcl-category")
    tools = _tools(row.get("function"), _TYPES.get(category, PYTHON_TYPES), place)
    made: Row = {"id": id, "tools": tools, "meta": {"source": "bfcl", "category": category}}
    turn: Row = {"role": "assistant", "content": ""}
    if category in (*NO_CALL, *SOME_CALL):
        made["expected"] = {"status": "none" if category in NO_CALL else "any"}
    else:
        gold = _gold(row.get("ground_truth"), {tool["name"]: tool["parameters"] for tool in tools}, place)
        if category in OTHER_LANGUAGES:
            _refuse_expressions(gold, tools, place)
        made["expected"] = {"status": "calls", "calls": gold}
        turn = {"role": "assistant", "content": None, "tool_calls": _canonical(gold, tools)}
    question = row.get("question")
    if not isinstance(question, list) or len(question) != 1 or not isinstance(question[0], list):
        raise unexpected(place, '"question" to be one turn', question, "no-messages")
    made["messages"] = [*question[0], *with_call_ids([turn])]
    return openai.conversation(made, where)


def read_bfcl_folder(folder: Path, categories: Sequence[str] = SINGLE_TURN) -> Iterator[Conversation | RowFault]:
    """Yield a conversation or a fault for each entry of the categories. A fault (rules `bfcl-gold`, `unknown-type`,
    ...) names the entry by file:line and id. `folder` is the folder that `scripts/fetch_bfcl.py` writes.

    Raises:
        UserError: if a file is missing or a category is unknown.
    """
    unknown = [category for category in categories if category not in SINGLE_TURN]
    if unknown:
        raise UserError(f'unknown single-turn category of BFCL: "{unknown[0]}"; known: {", ".join(SINGLE_TURN)}')
    for category in categories:
        name = f"BFCL_v4_{category}.json"
        golds: dict[str, Row] = {}
        if category not in (*NO_CALL, *SOME_CALL):
            for _, row in _lines(folder / "possible_answer" / name):
                if isinstance(row, RowFault):
                    yield row
                elif row.get("ground_truth") is not None:
                    golds[str(row.get("id"))] = {"ground_truth": row["ground_truth"]}
        for where, row in _lines(folder / name):
            try:
                yield row if isinstance(row, RowFault) else read({**row, **golds.get(str(row.get("id")), {})}, where)
            except RowError as error:
                yield RowFault.of_error(where, error)


def _lines(path: Path) -> Iterator[tuple[str, Row | RowFault]]:
    """The rows of a file of JSON lines, whose name may end in `.json`."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run `python scripts/fetch_bfcl.py` to download the data")
    with path.open("rb") as lines:
        for where, row, fault, _ in line_rows(lines, str(path)):
            if fault is not None:
                yield where, RowFault(where, *fault)
            elif row is not None:
                yield where, row


def category_of(id: str) -> str | None:
    """The single-turn category that an entry's id begins with ("live_multiple" for "live_multiple_3-2-0"), or None."""
    return next((category for category in SINGLE_TURN if re.match(rf"{category}_\d", id)), None)


def _tools(functions: Any, types: Mapping[str, str | None], where: str) -> list[Row]:
    if isinstance(functions, str):  # the hub's dataset viewer exports them as a string
        functions = json_text(functions, f"{where}: function")
    if not isinstance(functions, list):
        raise unexpected(where, '"function" to be a list', functions, "bad-tool")
    tools = []
    for number, row in enumerate(functions):
        function = tool_definition(row, f"{where}: function {number}")
        parameters = object_schema(function["parameters"], f"{where}: function {function['name']}", types)
        if not isinstance(parameters, dict):
            raise unexpected(f"{where}: function {number}", "parameters", parameters, "bad-tool")
        tools.append({**function, "parameters": parameters})
    return tools


def _gold(found: Any, parameters: Mapping[str, Row], where: str) -> list[Row]:
    """The expected calls, in the form that a row's `expected` has."""
    if not isinstance(found, list) or not found:
        text = f"{where}: no gold; read the folder that has possible_answer/ in it, not this file alone"
        raise RowError(text, rule="bfcl-gold")
    calls = []
    for call in found:
        if not isinstance(call, dict) or len(call) != 1 or not isinstance(next(iter(call.values())), dict):
            raise unexpected(where, "a gold call {name: {argument: [accepted values]}}", call, "bfcl-gold")
        ((name, arguments),) = call.items()
        calls.append(_gold_call(name, arguments, parameters.get(name, {}), f'{where}: gold of "{name}"'))
    return calls


def _gold_call(name: str, arguments: Row, schema: Row, where: str) -> Row:
    properties = _properties(schema)
    accepted: dict[str, list[Any]] = {}
    optional, blank = [], []
    for argument, values in arguments.items():
        if not isinstance(values, list):
            raise unexpected(where, f'the accepted values of "{argument}" as a list', values, "bfcl-gold")
        alternatives = [value for value in values if value != ""]
        if not values:
            raise RowError(f'{where}: no value of "{argument}" is accepted, so no call is right', rule="bfcl-gold")
        if "" not in values and argument not in properties:
            text = f'{where}: "{argument}" is expected, but the function does not take it, so no call is right'
            raise RowError(text, rule="bfcl-gold")
        if not alternatives:  # the only accepted choice is to leave it out
            blank.append(argument)
            continue
        accepted[argument] = [value for each in alternatives for value in _expanded(each, where)]
        if not accepted[argument]:
            raise RowError(f'{where}: no value inside "{argument}" is accepted, so no call is right', rule="bfcl-gold")
        if "" in values:
            optional.append(argument)
        inside = [pair for value in alternatives if isinstance(value, dict) for pair in value.items()]
        blank += [f"{argument}/{key}" for key, picks in inside if isinstance(picks, list) and "" in picks]
    return {"name": name, "arguments": accepted, "optional": optional, "blank": blank}


def _expanded(value: Any, where: str) -> list[Any]:
    """All values that one accepted entry describes, the canonical one first. An object describes every combination of
    its keys' accepted values (`""` leaves a key out). So does each object in a list."""
    if isinstance(value, dict):
        lists = [each if isinstance(each, list) else [each] for each in value.values()]
        choices = [sorted(each, key=lambda choice: choice == "") for each in lists]
        return [
            {key: chosen for key, chosen in zip(value, combination, strict=True) if chosen != ""}
            for combination in _combinations(choices, where)
        ]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [list(items) for items in _combinations([_expanded(item, where) for item in value], where)]
    return [value]


def _combinations(choices: list[list[Any]], where: str) -> list[tuple[Any, ...]]:
    combinations = list(itertools.islice(itertools.product(*choices), _MAX_ALTERNATIVES + 1))
    if len(combinations) > _MAX_ALTERNATIVES:
        text = f"{where}: the accepted values have more than {_MAX_ALTERNATIVES:,} combinations"
        raise RowError(text, rule="bfcl-gold")
    return combinations


def _canonical(gold: list[Row], tools: list[Row]) -> list[Row]:
    """The calls of the assistant turn: first accepted values, without optional arguments that no schema requires."""
    required = {tool["name"]: tool["parameters"].get("required") for tool in tools}
    calls = []
    for call in gold:
        names = required.get(call["name"])
        left_out = [name for name in call["optional"] if not isinstance(names, list) or name not in names]
        arguments = {name: values[0] for name, values in call["arguments"].items() if name not in left_out}
        calls.append({"function": {"name": call["name"], "arguments": arguments}})
    return calls


def _refuse_expressions(gold: list[Row], tools: list[Row], where: str) -> None:
    """Raise RowError for a gold value that is a variable or an expression of the language, not of the tool's type."""
    from jsonschema import Draft202012Validator  # a slow import that the other importers do not need
    from jsonschema.exceptions import SchemaError

    schemas = {tool["name"]: _properties(tool["parameters"]) for tool in tools}
    for call in gold:
        for name, values in call["arguments"].items():
            schema = schemas.get(call["name"], {}).get(name, {})
            try:
                Draft202012Validator.check_schema(schema)
            except SchemaError as error:
                text = f"{where}: the parameter {name} is not a valid JSON Schema: {error.message}"
                raise RowError(text, rule="bad-tool") from None
            wrong = [value for value in values if not Draft202012Validator(schema).is_valid(value)]
            if wrong:
                text = f'{where}: gold of "{call["name"]}": {name}: {short(wrong[0])} is an expression of the language'
                raise RowError(f"{text}, not a JSON value of the type {schema.get('type')}", rule="bfcl-gold")


def _properties(schema: Row) -> Row:
    found = schema.get("properties")
    return found if isinstance(found, dict) else {}
