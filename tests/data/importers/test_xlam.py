"""Reading xLAM / APIGen 60k: the data set's first row, and types as the data set annotates them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from toolhone.data.importers import xlam
from toolhone.data.importers.xlam import annotation_schema
from toolhone.errors import RowError
from toolhone.records import Conversation, Gold, Message, Tool, ToolCall

FIXTURE = Path(__file__).parents[2] / "fixtures" / "formats" / "xlam.jsonl"
ROW: dict[str, Any] = json.loads(FIXTURE.read_text(encoding="utf-8"))
WHERE = "xlam.json:17"


def read(**changes: Any) -> Conversation:
    return xlam.read({**ROW, **changes}, WHERE)


def fault(**changes: Any) -> tuple[str, str]:
    """The rule and the message, without its place."""
    with pytest.raises(RowError) as caught:
        read(**changes)
    return caught.value.rule, str(caught.value).removeprefix(f"{WHERE}: ")


def parameters(flat: dict[str, Any]) -> dict[str, Any]:
    return read(tools=json.dumps([{"name": "f", "parameters": flat}]), answers="[]").tools[0].parameters


def test_the_first_row_is_read() -> None:
    assert xlam.looks_like(ROW)
    found = read(id=0)
    assert found.id == "0"
    assert found.messages == (
        Message("user", "Where can I find live giveaways for beta access and games?"),
        Message(
            "assistant",
            "",
            (
                ToolCall("live_giveaways_by_type", {"type": "beta"}, "call_0"),
                ToolCall("live_giveaways_by_type", {"type": "game"}, "call_1"),
            ),
        ),
    )
    described = "The type of giveaways to retrieve (e.g., game, loot, beta)."
    schema = {"type": "object", "properties": {"type": {"type": "string", "description": described, "default": "game"}}}
    description = "Retrieve live giveaways from the GamerPower API based on the specified type."
    assert found.tools == (Tool("live_giveaways_by_type", description, schema),)
    assert found.expected is None
    assert found.meta == {"source": "xlam"}


def test_tools_and_answers_that_are_already_decoded_are_read_the_same() -> None:
    assert read(tools=json.loads(ROW["tools"]), answers=json.loads(ROW["answers"])) == read()


def test_a_row_without_answers_expects_no_call() -> None:
    found = read(answers="[]")
    assert found.expected == Gold("none")
    assert found.messages[1] == Message("assistant", "")


def test_a_parameter_is_required_unless_it_is_optional_or_has_a_default() -> None:
    found = parameters(
        {
            "round": {"type": "str", "description": "which", "default": ""},
            "year": {"type": "int, optional"},
            "ids": {"type": "List[int]", "description": "ids"},
            "tag": {"type": "Optional[str]"},
            "unit": {"type": "str, default 'm'"},
        }
    )
    assert found["required"] == ["ids"]
    assert found["properties"]["ids"] == {"type": "array", "items": {"type": "integer"}, "description": "ids"}
    assert found["properties"]["year"] == {"type": "integer"}
    assert "required" not in parameters({"year": {"type": "int, optional"}})


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        ("str", {"type": "string"}),
        ("float", {"type": "number"}),
        ("bool", {"type": "boolean"}),
        ("list", {"type": "array"}),
        ("Dict", {"type": "object"}),
        ("Any", {}),
        ("List[str]", {"type": "array", "items": {"type": "string"}}),
        ("List[List[int]]", {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}),
        ("List[Union[int, float]]", {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "number"}]}}),
        ("Set[int]", {"type": "array", "items": {"type": "integer"}}),
        (
            "Tuple[int, str]",
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2},
        ),
        ("Tuple[int, ...]", {"type": "array", "items": {"type": "integer"}}),
        ("Dict[str, float]", {"type": "object", "additionalProperties": {"type": "number"}}),
        ("Dict[str, Any]", {"type": "object"}),
        ("Optional[int]", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ("int | None", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        ("Callable[[float], float]", {"type": "string"}),
        ("Literal['a', 'b']", {"enum": ["a", "b"]}),
    ],
)
def test_an_annotation_becomes_json_schema(annotation: str, schema: dict[str, Any]) -> None:
    assert annotation_schema(annotation, WHERE) == schema
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("annotation", ["matrix", "np.ndarray", "List[", "List[matrix]", "", "1", "f()", "(" * 500])
def test_an_annotation_without_a_counterpart_is_an_error(annotation: str) -> None:
    with pytest.raises(RowError, match="has no counterpart in JSON Schema") as caught:
        annotation_schema(annotation, WHERE)
    assert caught.value.rule == "unknown-type"


def test_parameters_that_are_already_json_schema_stay_unchanged() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    assert parameters(schema) == schema
    assert parameters({}) == {"type": "object", "properties": {}}
    # A parameter may be named "type".
    assert parameters({"type": {"type": "str"}})["properties"] == {"type": {"type": "string"}}


@pytest.mark.parametrize(
    ("changes", "rule", "message"),
    [
        ({"query": None}, "bad-content", 'expected "query" to be a string, found nothing'),
        ({"answers": "[{"}, "broken-json", "answers: broken JSON"),
        ({"answers": "{}"}, "bad-row", "answers: expected a list, found {}"),
        ({"answers": None}, "bad-call", 'expected "answers", a list of calls, found nothing'),
        ({"answers": '[{"arguments": {}}]'}, "bad-call", 'answer 0: expected a call with "name" and "arguments"'),
        ({"answers": '[{"name": "f", "arguments": [1]}]'}, "bad-arguments", "answer 0: expected arguments as a JSON"),
        ({"answers": '[{"name": "f", "name": "g"}]'}, "duplicate-key", 'answers: the key "name" appears twice'),
        ({"tools": '[{"name": ""}]'}, "bad-tool", 'tool 0: expected {"type": "function"'),
        ({"tools": '[{"name": "f", "parameters": []}]'}, "bad-tool", 'tool 0: expected "parameters" to be'),
        (
            {"tools": '[{"name": "f", "parameters": {"x": "int"}}]'},
            "unknown-type",
            'tool 0: expected the parameter "x"',
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_an_error(changes: dict[str, Any], rule: str, message: str) -> None:
    found = fault(**changes)
    assert found[0] == rule
    assert found[1].startswith(message)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "type", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(key=st.sampled_from(sorted(ROW)), value=values, inside=values, place=st.integers(0, 300))
def test_a_mutated_row_gives_a_conversation_or_a_row_error(key: str, value: Any, inside: Any, place: int) -> None:
    tool = {"name": "f", "parameters": {"x": {"type": inside}, "y": inside}}
    for changed in (value, json.dumps(value), ROW[key][:place], json.dumps([inside]), json.dumps([tool])):
        row = {**ROW, key: changed}
        xlam.looks_like(row)
        try:
            found = xlam.read(row, WHERE)
        except RowError as error:
            refused = error
        else:
            json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False).encode()
            continue
        assert str(refused).startswith(WHERE)
        assert refused.rule != "row"
