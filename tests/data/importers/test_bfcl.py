"""Reading BFCL v4: lines of the benchmark, and the whole benchmark if `scripts/fetch_bfcl.py` has downloaded it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from toolhone.data.importers import bfcl, openai
from toolhone.data.importers.importer import RowFault
from toolhone.data.importers.schemas import JAVA_TYPES, PYTHON_TYPES, json_schema
from toolhone.errors import RowError, UserError
from toolhone.records import Conversation, Gold, GoldCall, Message

FIXTURES = Path(__file__).parents[2] / "fixtures" / "formats" / "bfcl"
WHOLE = Path(__file__).parents[3] / ".cache" / "bfcl"
WHERE = "bfcl.json:17"

UNSATISFIABLE = {
    "live_simple_106-63-0",
    "live_simple_112-68-0",
    "live_multiple_862-181-3",
    "live_multiple_964-207-0",
}
"""Entries whose gold no call satisfies: no value is accepted, or the tool lacks an expected argument."""

EXPRESSIONS = {
    *(f"simple_java_{n}" for n in (26, 35, 38, 45, 58, 69, 72, 82, 87, 88)),
    *(f"simple_javascript_{n}" for n in (5, 9, 11, 15, 19, 32, 37, 39)),
}
"""Entries of other languages whose gold is a variable or an expression, not a value of the tool's type."""

UNTYPED = {"simple_javascript_23"}
"""An entry with a parameter whose type is ""."""

OUTSIDE_SCHEMA = {
    *("parallel_multiple_21", "parallel_multiple_94", "live_parallel_multiple_2-2-0"),
    *("live_multiple_87-38-4", "live_multiple_507-149-4", "live_multiple_552-153-1", "live_multiple_595-158-1"),
    *("live_multiple_596-158-2", "live_multiple_731-167-2", "live_multiple_733-167-4", "live_multiple_735-167-6"),
    *("live_multiple_750-169-5", "live_multiple_756-169-11", "live_multiple_835-178-10", "live_multiple_871-182-8"),
    "live_multiple_947-197-0",
}
"""Python entries that are read although the expected call does not satisfy the tool's schema."""


def entries(folder: Path, *categories: str) -> dict[str, Conversation | RowFault]:
    """The conversation or fault of each entry, by id."""
    found = bfcl.read_bfcl_folder(folder, categories or bfcl.SINGLE_TURN)
    return {row.id if isinstance(row, Conversation) else row.message.partition(":")[0]: row for row in found}


def entry(id: str, folder: Path = FIXTURES) -> Conversation:
    category = bfcl.category_of(id)
    assert category is not None
    found = entries(folder, category)[id]
    assert isinstance(found, Conversation)
    return found


def row(ground_truth: Any = None, *, category: str = "simple_python", **properties: Any) -> dict[str, Any]:
    function = {"name": "f", "description": "", "parameters": {"type": "dict", "properties": properties}}
    made = {"id": f"{category}_0", "question": [[{"role": "user", "content": "?"}]], "function": [function]}
    return made if ground_truth is None else {**made, "ground_truth": ground_truth}


def accepted(values: list[Any], schema: dict[str, Any] | None = None) -> GoldCall:
    found = bfcl.read(row([{"f": {"x": values}}], x=schema or {"type": "any"}), WHERE)
    assert found.expected is not None
    return found.expected.calls[0]


def test_required_arguments_that_are_not_strings_are_ignored() -> None:
    made = row([{"f": {"x": [1, ""]}}], x={"type": "any"})
    made["function"][0]["parameters"]["required"] = [["x"]]
    (call,) = bfcl.read(made, WHERE).messages[-1].tool_calls
    assert call.arguments == {}


def call_fits(found: Conversation) -> bool:
    schemas = {tool.name: tool.parameters for tool in found.tools}
    calls = found.messages[-1].tool_calls
    return all(Draft202012Validator(schemas[call.name]).is_valid(call.arguments) for call in calls)


# Lines of the benchmark


def test_a_question_is_joined_with_its_gold() -> None:
    found = entry("simple_python_0")
    assert found.where == f"{FIXTURES / 'BFCL_v4_simple_python.json'}:1"
    question = "Find the area of a triangle with a base of 10 units and height of 5 units."
    assert found.messages[0] == Message("user", question)
    (call,) = found.messages[1].tool_calls
    assert (call.name, call.arguments, call.id) == ("calculate_triangle_area", {"base": 10, "height": 5}, "call_0")
    arguments = {"base": [10], "height": [5], "unit": ["units"]}
    assert found.expected == Gold("calls", (GoldCall("calculate_triangle_area", arguments, frozenset({"unit"})),))
    assert found.tools[0].parameters["type"] == "object"
    assert found.tools[0].parameters["required"] == ["base", "height"]
    assert found.meta == {"source": "bfcl", "category": "simple_python"}


def test_tuples_and_floats_become_arrays_and_numbers() -> None:
    found = entry("simple_python_83")
    coordinate = found.tools[0].parameters["properties"]["coord1"]
    assert (coordinate["type"], coordinate["items"]["type"]) == ("array", "number")
    assert found.messages[1].tool_calls[0].arguments["coord1"] == [33.4484, -112.074]


def test_alternatives_inside_an_object_give_every_combination() -> None:
    found = entry("simple_python_94")
    assert found.expected is not None
    update = found.expected.calls[0].arguments["update_info"]
    assert update == [{"name": "John Doe", "email": "johndoe@email.com"}]
    choices = accepted([{"a": [1, 2], "b": ["", "x"], "c": 3}]).arguments["x"]
    assert choices == [{"a": 1, "b": "x", "c": 3}, {"a": 1, "c": 3}, {"a": 2, "b": "x", "c": 3}, {"a": 2, "c": 3}]
    lists = accepted([[{"a": [1, 2]}, {"b": [3]}]]).arguments["x"]
    assert lists == [[{"a": 1}, {"b": 3}], [{"a": 2}, {"b": 3}]]
    assert accepted([[1, 2], [2, 1]]).arguments["x"] == [[1, 2], [2, 1]]


def test_an_argument_that_may_only_be_left_out_is_not_in_the_gold() -> None:
    found = entry("simple_python_211")
    assert found.expected is not None
    assert {"cc", "bcc"} <= found.tools[0].parameters["properties"].keys()
    assert not {"cc", "bcc"} & found.expected.calls[0].arguments.keys()


def test_an_optional_argument_is_in_the_turn_only_if_the_schema_requires_it() -> None:
    gold = [{"f": {"x": ["", 1], "y": [2, ""]}}]
    found = bfcl.read(row(gold, x={"type": "integer"}, y={"type": "integer"}), WHERE)
    assert found.messages[1].tool_calls[0].arguments == {}
    made = row(gold, x={"type": "integer"}, y={"type": "integer"})
    made["function"][0]["parameters"]["required"] = ["y"]
    found = bfcl.read(made, WHERE)
    assert found.messages[1].tool_calls[0].arguments == {"y": 2}
    assert found.expected == Gold("calls", (GoldCall("f", {"x": [1], "y": [2]}, frozenset({"x", "y"})),))


def test_a_parameter_with_default_null_accepts_null() -> None:
    found = entry("live_simple_30-8-0")
    assert found.expected is not None
    assert found.expected.calls[0].arguments["filterName"] == [None]
    schema = found.tools[0].parameters["properties"]["filterName"]
    assert (schema["type"], schema["default"]) == (["string", "null"], None)
    choices = {"type": "string", "enum": ["a", "b"], "default": None}
    assert json_schema(choices, PYTHON_TYPES, WHERE)["enum"] == ["a", "b", None]


def test_an_enum_beside_an_array_applies_to_its_items() -> None:
    tools = {tool.name: tool.parameters for tool in entry("live_multiple_148-58-2").tools}
    metrics = tools["get_sensor_readings_latest"]["properties"]["metrics"]
    assert "enum" not in metrics
    assert metrics["items"]["enum"][:2] == ["temperature", "humidity"]
    Draft202012Validator(metrics).validate(["humidity"])
    assert not Draft202012Validator(metrics).is_valid(["x"])


def test_parallel_calls_are_one_turn() -> None:
    found = entry("parallel_0")
    assert [(call.name, call.id) for call in found.messages[-1].tool_calls] == [
        ("spotify.play", "call_0"),
        ("spotify.play", "call_1"),
    ]


def test_irrelevance_expects_no_call_and_relevance_some_call() -> None:
    for id in ("irrelevance_0", "live_irrelevance_0-0-0"):
        assert entry(id).expected == Gold("none")
    found = entry("live_relevance_0-0-0")
    assert found.expected == Gold("any")
    assert found.messages[-1] == Message("assistant", "")
    assert found.tools


def test_java_types_are_mapped_and_expressions_are_faults() -> None:
    assert entry("simple_java_1").tools[0].parameters["properties"]["params"]["type"] == "object"
    assert entry("simple_java_1").messages[1].tool_calls[0].arguments["params"] == {
        "limit": 50,
        "schemaFilter": "public",
    }
    found = entries(FIXTURES, "simple_java")["simple_java_35"]
    assert isinstance(found, RowFault)
    assert found.where == f"{FIXTURES / 'BFCL_v4_simple_java.json'}:2"
    assert found.rule == "bfcl-gold"
    assert 'destination: "user:online:both" is an expression of the language' in found.message
    long = {"type": "ArrayList", "items": {"type": "long"}}
    assert json_schema(long, JAVA_TYPES, WHERE) == {"type": "array", "items": {"type": "integer"}}


def test_entries_that_cannot_be_read_are_faults_with_id_and_reason() -> None:
    found = entries(FIXTURES)
    faults = {id: fault for id, fault in found.items() if isinstance(fault, RowFault)}
    assert faults.keys() == {"live_simple_106-63-0", "simple_java_35", "simple_javascript_23"}
    assert faults["live_simple_106-63-0"].message.endswith(
        'gold of "record": no value of "auto_loan_payment_start" is accepted, so no call is right'
    )
    assert faults["simple_javascript_23"].rule == "unknown-type"
    assert faults["simple_javascript_23"].message.endswith("the type '' has no counterpart in JSON Schema")


def test_written_conversations_are_read_back_unchanged() -> None:
    for found in entries(FIXTURES).values():
        if isinstance(found, Conversation):
            assert openai.read(json.loads(json.dumps(found.to_json())), found.where) == found


# What cannot be read


@pytest.mark.parametrize(
    ("made", "rule", "message"),
    [
        (row(), "bfcl-gold", "simple_python_0: no gold; read the folder that has possible_answer/ in it"),
        (row([]), "bfcl-gold", "simple_python_0: no gold; "),
        (row([{"f": {}, "g": {}}]), "bfcl-gold", "simple_python_0: expected a gold call"),
        (
            row([{"f": {"x": 1}}], x={}),
            "bfcl-gold",
            'simple_python_0: gold of "f": expected the accepted values of "x"',
        ),
        (row([{"f": {"x": []}}], x={}), "bfcl-gold", 'simple_python_0: gold of "f": no value of "x" is accepted'),
        (row([{"f": {"x": [{"a": []}]}}], x={}), "bfcl-gold", 'simple_python_0: gold of "f": no value inside "x"'),
        (row([{"f": {"x": [1]}}]), "bfcl-gold", 'simple_python_0: gold of "f": "x" is expected, but the function'),
        (row([{"f": {}}], x={"type": "matrix"}), "unknown-type", "simple_python_0: function f: the type 'matrix'"),
        (
            row([{"f": {"x": [{c: list(range(9)) for c in "abcdef"}]}}], x={}),
            "bfcl-gold",
            'simple_python_0: gold of "f": the accepted values have more than 10,000 combinations',
        ),
        (
            row([{"f": {"x": ["v"]}}], category="simple_javascript", x={"type": "integer"}),
            "bfcl-gold",
            'simple_javascript_0: gold of "f": x: "v" is an expression of the language',
        ),
        (row(category="multi_turn_base"), "bfcl-category", "multi_turn_base_0: not in a single-turn category"),
        ({**row([{"f": {}}]), "question": [[], []]}, "no-messages", 'simple_python_0: expected "question" to be one'),
        ({**row([{"f": {}}]), "function": "["}, "broken-json", "simple_python_0: function: broken JSON"),
        ({**row([{"f": {}}]), "function": [1]}, "bad-tool", 'simple_python_0: function 0: expected {"type"'),
        ({**row([{"f": {}}]), "id": 7}, "bad-type", 'expected "id" to be a string, found 7'),
    ],
)
def test_an_entry_that_cannot_be_read_is_an_error(made: dict[str, Any], rule: str, message: str) -> None:
    with pytest.raises(RowError) as caught:
        bfcl.read(made, WHERE)
    assert caught.value.rule == rule
    assert str(caught.value).startswith(f"{WHERE}: {message}")


def test_a_missing_file_and_an_unknown_category_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; run `python scripts/fetch_bfcl\.py` to download the data"):
        list(bfcl.read_bfcl_folder(tmp_path))
    with pytest.raises(UserError, match=r'unknown single-turn category of BFCL: "simple"; known: simple_python, '):
        list(bfcl.read_bfcl_folder(FIXTURES, ["simple"]))


def test_a_broken_line_loses_only_that_line(tmp_path: Path) -> None:
    (tmp_path / "possible_answer").mkdir()
    for name in ("BFCL_v4_parallel.json", "possible_answer/BFCL_v4_parallel.json"):
        line = (FIXTURES / name).read_bytes()
        (tmp_path / name).write_bytes(line + b'{"id": \n')
    found = list(bfcl.read_bfcl_folder(tmp_path, ["parallel"]))
    assert [row.where.removeprefix(f"{tmp_path}/") for row in found] == [
        "possible_answer/BFCL_v4_parallel.json:2",
        "BFCL_v4_parallel.json:1",
        "BFCL_v4_parallel.json:2",
    ]
    assert isinstance(found[1], Conversation)


def test_a_question_is_detected_by_its_shape() -> None:
    assert bfcl.looks_like(row())
    assert bfcl.looks_like({"id": "multi_turn_base_0", "question": [[]], "involved_classes": []})
    assert not bfcl.looks_like({"question": "?", "function": []})
    assert not bfcl.looks_like({"question": [["?"]], "answer": []})


LINES = [
    {**json.loads(line), "ground_truth": gold}
    for name in ("BFCL_v4_simple_python.json", "BFCL_v4_live_parallel_multiple.json", "BFCL_v4_simple_java.json")
    for line, gold in zip(
        (FIXTURES / name).read_text(encoding="utf-8").splitlines(),
        (json.loads(x)["ground_truth"] for x in (FIXTURES / "possible_answer" / name).read_text("utf-8").splitlines()),
        strict=True,
    )
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
def test_a_mutated_entry_gives_a_conversation_or_a_row_error(data: st.DataObject) -> None:
    made = json.loads(json.dumps(data.draw(st.sampled_from(LINES))))
    holder, key = made, data.draw(st.sampled_from(sorted(made)))
    while isinstance(holder[key], dict | list) and holder[key] and data.draw(st.booleans()):
        holder = holder[key]
        key = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
    if data.draw(st.booleans()):
        del holder[key]
    else:
        holder[key] = data.draw(values)
    bfcl.looks_like(made)
    try:
        found = bfcl.read(made, WHERE)
    except RowError as error:
        refused = error
    else:
        json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False).encode()
        return
    assert str(refused).startswith(WHERE)
    assert refused.rule != "row"


# The whole benchmark

whole = pytest.mark.skipif(not WHOLE.is_dir(), reason="needs BFCL's data; run scripts/fetch_bfcl.py")


@whole
def test_every_single_turn_entry_is_read_or_a_fault_with_its_id() -> None:
    found = list(bfcl.read_bfcl_folder(WHOLE))
    assert len(found) == 3641
    faults = [row.message.partition(":")[0] for row in found if isinstance(row, RowFault)]
    assert sorted(faults) == sorted(UNSATISFIABLE | EXPRESSIONS | UNTYPED)
    read = [row for row in found if isinstance(row, Conversation)]
    counts = Counter(row.meta["category"] for row in read)
    assert sum(counts[category] for category in bfcl.PYTHON_WITH_GOLD) == 2351 - len(UNSATISFIABLE)
    assert sum(counts[category] for category in bfcl.NO_CALL) == 240 + 884
    assert counts["live_relevance"] == 16
    assert (counts["simple_java"], counts["simple_javascript"]) == (90, 41)
    assert len({row.id for row in read}) == len(read)
    for schema in {json.dumps(tool.parameters) for row in read for tool in row.tools}:
        Draft202012Validator.check_schema(json.loads(schema))


@whole
def test_the_gold_satisfies_its_schema_except_for_known_entries() -> None:
    found = bfcl.read_bfcl_folder(WHOLE)
    outside = {row.id for row in found if isinstance(row, Conversation) and not call_fits(row)}
    assert outside == OUTSIDE_SCHEMA
