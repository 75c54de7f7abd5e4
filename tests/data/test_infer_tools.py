"""`toolhone data infer-tools`: the tools that calls imply."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from toolhone.cli import main
from toolhone.config import DataConfig
from toolhone.data.check.survey import Survey, check_files
from toolhone.data.importers.openai import conversation, read_tool_list
from toolhone.data.infer_tools import MARK, MAX_CHOICES, MAX_KEYS, MAX_SHOWN, MIN_CALLS, MIN_SEEN, InferredTools, infer
from toolhone.data.read import read_tools
from toolhone.data.split import make_splits
from toolhone.errors import UserError
from toolhone.records import Conversation

CALLS = Path(__file__).parents[2] / "data" / "customer_service"

Row = dict[str, Any]


def row(*calls: tuple[str, Row], said: str = "go", **more: Any) -> Row:
    made = [{"function": {"name": name, "arguments": arguments}} for name, arguments in calls]
    turn = {"role": "assistant", "tool_calls": made} if made else {"role": "assistant", "content": "no"}
    return {"messages": [{"role": "user", "content": said}, turn], **more}


def conversations(*rows: Row, tools: Any = ()) -> list[Conversation]:
    listed = read_tool_list(list(tools), "tools")
    return [conversation(each, f"rows.jsonl:{n}", listed) for n, each in enumerate(rows, 1)]


def parameters(*rows: Row) -> dict[str, Row]:
    found = infer(conversations(*rows)).tools()
    return {tool["function"]["name"]: tool["function"]["parameters"] for tool in found}


def of_values(*values: Any) -> Row:
    """The schema of the argument x, from one call for each value."""
    found: Row = parameters(*(row(("f", {"x": value})) for value in values))["f"]["properties"]["x"]
    return found


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
calls = st.tuples(st.sampled_from("fg"), st.dictionaries(st.sampled_from("xyz"), json_values, max_size=3))
many_rows = st.lists(st.lists(calls, max_size=2), min_size=1, max_size=40)


@given(many_rows)
def test_every_call_validates_against_its_inferred_tool_once_filled_nulls_are_removed(found: list[Any]) -> None:
    rows = [row(*each) for each in found]
    tools = infer(conversations(*rows)).tools()
    assert all(Draft202012Validator.check_schema(tool["function"]["parameters"]) is None for tool in tools)
    survey = Survey()
    errors = [each for one in conversations(*rows, tools=tools) for each in survey.faults(one)]
    # A null that always is one means "absent"; --fix removes it, and the survey checks the call without it.
    assert {each.rule for each in errors if each.severity == "error"} <= {"null-arguments", "duplicate-id"}


@given(many_rows, st.randoms(use_true_random=False), st.integers(0, 40))
def test_the_tools_depend_neither_on_the_order_of_the_rows_nor_on_the_files(
    found: list[Any], chance: random.Random, cut: int
) -> None:
    rows = [row(*each) for each in found]
    wanted = json.dumps(infer(conversations(*rows)).tools())
    shuffled = chance.sample(rows, len(rows))
    assert json.dumps(infer(conversations(*shuffled)).tools()) == wanted
    one, other = infer(conversations(*shuffled[:cut])), infer(conversations(*shuffled[cut:]))
    one.merge(other)
    assert json.dumps(one.tools()) == wanted


def test_the_shipped_rows_give_the_types_required_arguments_and_enums_of_their_real_tools() -> None:
    found = infer(conversations(*map(json.loads, (CALLS / "train.jsonl").read_text("utf-8").splitlines()))).tools()
    made = {tool.name: tool.parameters for tool in read_tool_list(found, "tools")}
    for tool in read_tools(CALLS / "tools.json"):
        real, mine = tool.parameters, made[tool.name]
        assert mine["properties"].keys() == real["properties"].keys()
        assert sorted(mine.get("required", [])) == sorted(real["required"])
        for name, schema in real["properties"].items():
            assert mine["properties"][name]["type"] == schema["type"]
            assert sorted(mine["properties"][name].get("enum", [])) == sorted(schema.get("enum", []))


@pytest.mark.parametrize(
    ("values", "schema"),
    [
        ([1, 2], {"type": "integer"}),
        ([1, 2.5], {"type": "number"}),
        ([True, 1], {"type": ["integer", "boolean"]}),
        (["a b", None], {"type": ["string", "null"]}),
        ([["a b"], []], {"type": "array", "items": {"type": "string"}}),
        ([[]], {"type": "array", "items": {}}),
        ([[1, None]], {"type": "array", "items": {"type": ["integer", "null"]}}),
        ([{"a": 1}, {"a": 1, "b": [2]}], {"type": "object", "properties": {"a": {"type": "integer"}, "b": ...}}),
        ([{}], {"type": "object"}),
    ],
)
def test_types_follow_json_schema(values: list[Any], schema: Row) -> None:
    found = of_values(*values)
    if "properties" in schema:
        assert found["properties"].pop("b") == {"type": "array", "items": {"type": "integer"}}
        schema["properties"].pop("b")
    assert found == schema


def test_an_argument_is_required_if_all_of_enough_calls_have_it() -> None:
    rows = [row(("f", {"a": {"in": 1}, "b": 1} if n else {"a": {"in": 2}})) for n in range(MIN_CALLS)]
    found = parameters(*rows)["f"]
    assert found["required"] == ["a"]
    assert found["properties"]["a"]["required"] == ["in"]
    assert "required" not in parameters(*rows[1:])["f"]


def test_few_labels_over_many_calls_give_an_enum() -> None:
    labels = [f"kind_{chr(97 + n)}" for n in range(MAX_CHOICES)]
    assert of_values(*labels * MIN_SEEN)["enum"] == labels
    assert of_values(*labels * MIN_SEEN, None)["enum"] == [*labels, None]
    assert "enum" not in of_values(*labels * MIN_SEEN, "once")
    assert "enum" not in of_values(*labels * (MIN_SEEN - 1))
    assert "enum" not in of_values(*[*labels, "one_more"] * MIN_SEEN)


@pytest.mark.parametrize(
    "values", [["New York", "Rome"], ["Paris", "Rome"], ["ORD-1", "ORD-2"], ["北京", "上海"], ["on"]]
)
def test_names_codes_and_a_single_value_give_no_enum(values: list[str]) -> None:
    assert "enum" not in of_values(*values * 50)


def test_words_that_the_calls_copy_from_the_user_give_no_enum() -> None:
    rows = [row(("f", {"x": value}), said=f"the word is {value}!") for value in ["red", "green"] * 10]
    assert "enum" not in parameters(*rows)["f"]["properties"]["x"]


def test_free_keys_are_described_by_their_values() -> None:
    rows = [row(("f", {"x": {f"key{n}": n}})) for n in range(MAX_KEYS + 1)]
    found = parameters(*rows)["f"]["properties"]["x"]
    assert found == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert "properties" in parameters(*rows[1:])["f"]["properties"]["x"]


def test_nulls_that_a_table_filled_in_make_no_argument_nullable() -> None:
    filled = [row(("f", {"x": n, "y": None, "z": None}), ("g", {"x": None, "y": "a b", "z": None})) for n in range(12)]
    filled.append(row(("f", {"x": None, "y": None, "z": None})))
    found = parameters(*filled)
    assert found["f"]["properties"] == {"x": {"type": "integer"}}
    assert "required" not in found["f"]
    assert found["g"]["properties"] == {"y": {"type": "string"}}
    assert found["g"]["required"] == ["y"]


def test_rows_with_tools_of_their_own_and_calls_without_a_name_are_not_used_but_counted() -> None:
    rows = [row(("f", {})), row(("g", {}), tools=[{"name": "g"}]), row(("", {}))]
    found = infer(conversations(*rows))
    assert (found.rows, found.rows_with_tools, found.unnamed) == (3, 1, 1)
    assert [tool["function"]["name"] for tool in found.tools()] == ["f"]


def test_accepted_alternatives_of_the_gold_are_valid_but_no_further_calls() -> None:
    gold = {"name": "f", "arguments": {"x": ["a b", 1], "y": [2]}, "optional": ["y"]}
    rows = [row(("f", {"x": "a b", "y": 2}), expected={"status": "calls", "calls": [gold]}) for _ in range(5)]
    found = infer(conversations(*rows))
    assert found.calls["f"] == 5
    (tool,) = found.tools()
    assert tool["function"]["parameters"]["properties"]["x"] == {"type": ["string", "integer"]}
    assert "required" not in tool["function"]["parameters"]


def test_a_rare_name_like_a_frequent_one_is_called_a_possible_misspelling() -> None:
    found = infer(conversations(*[row(("query_order", {}))] * MIN_CALLS, row(("query_ordr", {}))))
    assert found.uncertain("query_ordr", filled=False) == [
        "few calls, so no argument is required",
        'a misspelt "query_order"?',
    ]
    assert found.uncertain("query_order", filled=False) == []


def write(path: Path, *rows: Row) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def test_the_command_writes_marked_tools_that_the_check_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "rows.jsonl", *(row(("find", {"city": f"A {n}"}), said=f"A {n}") for n in range(12)))
    out = tmp_path / "tools.json"
    assert main(["data", "infer-tools", str(source), "--out", str(out)]) == 0
    (tool,) = json.loads(out.read_text(encoding="utf-8"))
    assert tool["_meta"] == {MARK: 12}
    (read,) = read_tools(out)
    assert read.to_json().keys() == {"type", "function"}
    printed = capsys.readouterr().out
    assert "city*: string" in printed
    assert "tools 1, inferred from 12 calls in 12 rows" in printed
    assert not [each for each in check_files([str(source)], out).found if getattr(each, "severity", "") == "error"]


def test_rows_without_such_calls_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "rows.jsonl", row(), row(("g", {}), tools=[{"name": "g"}]))
    assert main(["data", "infer-tools", str(source), "--out", str(tmp_path / "tools.json")]) != 0
    assert "2 rows, but no call in a row without tools; 1 list their own tools" in capsys.readouterr().err
    assert not (tmp_path / "tools.json").exists()


def test_the_error_for_a_call_points_to_the_command_if_no_tools_are_known(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", row(("find", {"city": "go"})))
    (found,) = [each for each in check_files([str(source)]).found if getattr(each, "rule", "") == "unknown-tool"]
    assert "`toolhone data infer-tools`" in found.message
    with pytest.raises(UserError, match="`toolhone data infer-tools`"):
        make_splits(DataConfig(train=[str(source)], test=[str(write(tmp_path / "test.jsonl", row()))]))
    known = write(tmp_path / "known.jsonl", row(("find", {"city": "go"}), tools=[{"name": "look"}]))
    (found,) = [each for each in check_files([str(known)]).found if getattr(each, "rule", "") == "unknown-tool"]
    assert found.message.endswith("; known: look")


def test_counts_of_no_rows_are_empty() -> None:
    assert InferredTools().tools() == []


def test_a_long_table_shows_the_tools_with_the_fewest_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row((f"tool_{n}", {})) for n in range(MAX_SHOWN)] + [row(("frequent", {}), said=str(n)) for n in range(3)]
    out = tmp_path / "tools.json"
    assert main(["data", "infer-tools", str(write(tmp_path / "rows.jsonl", *rows)), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "tool_59" in printed
    assert "frequent" not in printed
    assert len(json.loads(out.read_text(encoding="utf-8"))) == MAX_SHOWN + 1
