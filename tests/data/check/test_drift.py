"""Schema drift: the versions of a tool, and the map of old rows to the newest version."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from toolhone.cli import main
from toolhone.data.check.drift import MAX_VERSIONS, SeenTools, changes, renames, value_renames
from toolhone.data.check.schema import ToolSets
from toolhone.data.check.survey import check_files
from toolhone.data.check.tool_map import starting_map
from toolhone.data.importers.openai import conversation
from toolhone.data.read import read_source
from toolhone.errors import UserError
from toolhone.records import Conversation, Tool

Row = dict[str, Any]
Check = Callable[..., dict[str, Any]]

TEXT = {"type": "string"}
OLD = {
    "type": "object",
    "properties": {"town": TEXT, "unit": {**TEXT, "enum": ["C", "F"]}, "verbose": {"type": "boolean"}},
    "required": ["town"],
}
NEW = {
    "type": "object",
    "properties": {
        "city": TEXT,
        "unit": {**TEXT, "enum": ["celsius", "fahrenheit"]},
        "language": {**TEXT, "default": "en"},
    },
    "required": ["city", "language"],
    "additionalProperties": False,
}


def tool(parameters: Row, name: str = "weather", **more: Any) -> Row:
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters, **more}}


def row(number: int, tools: list[Row] | None, arguments: Any, name: str = "weather", **more: Any) -> Row:
    calls = [{"id": "c", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}]
    messages = [
        {"role": "user", "content": f"Lund {number}, C or F, celsius, en"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "name": name, "tool_call_id": "c", "content": "rain"},
        {"role": "assistant", "content": "Rain."},
    ]
    return {"id": f"row-{number}", "messages": messages, **({} if tools is None else {"tools": tools}), **more}


OLD_ROW = row(1, [tool(OLD)], {"town": "Lund", "unit": "C", "verbose": True}, meta={"date": "2025-01-02"})
NEW_ROW = row(2, [tool(NEW)], {"city": "Lund", "unit": "celsius", "language": "en"}, meta={"date": "2025-03-04T10:00"})


def write(path: Path, *rows: Row) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def written(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def seen(*rows: Row) -> SeenTools:
    found, sets = SeenTools(), ToolSets()
    for number, each in enumerate(rows, 1):
        read = conversation({**each, "id": str(number)}, f"rows.jsonl:{number}")
        found.add(read, sets.get(read.tools))
    return found


# Versions


def test_the_check_lists_the_versions_of_a_tool_with_rows_dates_and_changes(run_check: Check, tmp_path: Path) -> None:
    rows = [NEW_ROW, OLD_ROW, {**OLD_ROW, "id": "3", "meta": {"date": "2025-01-09"}}]
    report = run_check(rows)
    first, second = report["summary"]["tool_versions"]["weather"]
    assert first == {
        "rows": 2,
        "first_date": "2025-01-02",
        "last_date": "2025-01-09",
        "where": f"{tmp_path / 'rows.jsonl'}:2",
        "changes": [],
    }
    assert (second["rows"], second["first_date"], second["last_date"]) == (1, "2025-03-04", "2025-03-04")
    assert second["changes"] == [
        '"town" was probably renamed to "city"',
        '"verbose" was removed',
        '"language" was added (string, required)',
        'the values of "unit" are now without "C", "F" and with "celsius", "fahrenheit"',
        "additionalProperties of the arguments changed",
    ]
    (found,) = [each for each in report["findings"] if each["rule"] == "tool-differs"]
    assert found["where"].endswith(":1")
    assert found["severity"] == "warning"
    assert f"defined differently at {tmp_path / 'rows.jsonl'}:2" in found["message"]


def test_without_dates_the_last_new_version_is_the_newest(run_check: Check) -> None:
    rows = [{**each, "meta": {}, "id": str(n)} for n, each in enumerate([OLD_ROW, NEW_ROW, OLD_ROW])]
    versions = run_check(rows)["summary"]["tool_versions"]["weather"]
    assert [(each["rows"], each["first_date"]) for each in versions] == [(2, None), (1, None)]


def test_one_version_gives_no_table_and_no_finding(run_check: Check) -> None:
    report = run_check([OLD_ROW, {**OLD_ROW, "id": "again"}])
    assert report["summary"]["tool_versions"] == {}
    assert "tool-differs" not in report["summary"]["findings_by_rule"]


def test_rows_beyond_the_limit_of_versions_are_counted() -> None:
    rows = [row(n, [tool({"type": "object", "properties": {f"a{n}": TEXT}})], {}) for n in range(MAX_VERSIONS + 3)]
    found = seen(*rows)
    findings = list(found.findings())
    assert len(findings) == MAX_VERSIONS
    assert f"more than {MAX_VERSIONS} versions, and 3 more rows" in findings[-1].message


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ({"a": TEXT}, {"a": {"type": "integer"}}, '"a" was string, is integer'),
        ({"a": TEXT}, {"a": {**TEXT, "enum": ["x"]}}, '"a" has only certain values now ("x")'),
        ({"a": {**TEXT, "enum": ["x"]}}, {"a": TEXT}, '"a" may have any value now'),
        ({"a": TEXT}, {"a": {**TEXT, "pattern": "x"}}, 'pattern of "a" changed'),
        ({"orderId": TEXT}, {"order_id": TEXT}, '"orderId" was probably renamed to "order_id"'),
        ({"a": {"type": "object", "properties": {"b": TEXT}}}, {"a": {"type": "object"}}, '"a.b" was removed'),
        (
            {"a": {"type": "array", "items": TEXT}},
            {"a": {"type": "array", "items": {"type": "integer"}}},
            '"a[]" was string, is integer',
        ),
    ],
)
def test_a_change_is_described(old: Row, new: Row, change: str) -> None:
    before, after = (Tool("f", "", {"type": "object", "properties": each}) for each in (old, new))
    assert changes(before, after) == [change]


def test_required_and_the_description_are_described() -> None:
    before = Tool("f", "a", {"properties": {"x": TEXT, "y": TEXT}, "required": ["y"]})
    after = Tool("f", "b", {"properties": {"x": TEXT, "y": TEXT}, "required": ["x"]})
    assert changes(before, after) == ["the description changed", '"x" is now required', '"y" is no longer required']


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["string", "a", "properties"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "properties", "required", "enum", "items", "default", "a", "b"]), inner
        )
    ),
    max_leaves=10,
)
schemas = st.fixed_dictionaries({"properties": st.dictionaries(st.sampled_from("abcd"), json_values), "x": json_values})


@given(schemas, schemas)
def test_any_two_schemas_can_be_compared_and_give_a_map_that_can_be_read(old: Row, new: Row) -> None:
    before, after = Tool("f", "", old), Tool("f", "", new)
    assert changes(before, after)
    assert renames(old, new).keys() <= old["properties"].keys()
    assert isinstance(value_renames(old["x"], new["x"]), dict)
    found, sets = SeenTools(), ToolSets()
    for each in (before, after):
        found.add(Conversation("", (), (each,), "rows.jsonl:1"), sets.get((each,)))
    assert yaml.safe_load(starting_map(found) or "f: {}").keys() == {"f"}


# Maps


def check_with_map(source: Path, map_text: str, out: Path, tools: Path | None = None) -> list[Any]:
    (source.parent / "map.yaml").write_text(map_text, encoding="utf-8")
    return list(check_files([str(source)], tools, fix=out, tool_map=source.parent / "map.yaml").found)


def rules(found: list[Any], severity: str) -> list[str]:
    return [each.rule for each in found if getattr(each, "severity", "") == severity]


def test_the_first_map_maps_old_rows_to_rows_without_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, made = write(tmp_path / "rows.jsonl", OLD_ROW, NEW_ROW), tmp_path / "map.yaml"
    out = tmp_path / "fixed.jsonl"
    assert main(["data", "check", str(source), "--write-map", str(made), "--json"]) == 0
    json.loads(capsys.readouterr().out)
    assert yaml.safe_load(made.read_text(encoding="utf-8")) == {
        "weather": {
            "rename": {"town": "city"},
            "drop": ["verbose"],
            "default": {"language": "en"},
            "values": {"unit": {"C": "celsius", "F": "fahrenheit"}},
        }
    }
    assert main(["data", "check", str(source)]) == 0
    printed = capsys.readouterr().out
    assert "Versions of weather" in printed
    assert "2025-01-02" in printed
    assert main(["data", "check", str(source), "--fix", str(out), "--map", str(made)]) == 0
    assert "fixed: mapped 1" in capsys.readouterr().out
    mapped, unchanged = written(out)
    assert unchanged == NEW_ROW
    assert mapped["tools"] == NEW_ROW["tools"]
    arguments = json.loads(mapped["messages"][1]["tool_calls"][0]["function"]["arguments"])
    assert arguments == {"city": "Lund", "unit": "celsius", "language": "en"}
    again = list(check_files([str(out)], fix=tmp_path / "again.jsonl", tool_map=made).found)
    assert rules(again, "error") == rules(again, "warning") == []
    assert (tmp_path / "again.jsonl").read_bytes() == out.read_bytes()


def test_a_map_is_not_overwritten_and_none_is_written_for_one_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, made = write(tmp_path / "rows.jsonl", OLD_ROW), tmp_path / "map.yaml"
    assert main(["data", "check", str(source), "--write-map", str(made)]) == 0
    assert "not written: every tool has one version" in capsys.readouterr().err
    assert not made.exists()
    made.write_text("{}", encoding="utf-8")
    assert main(["data", "check", str(source), "--write-map", str(made)]) != 0
    assert "exists already" in capsys.readouterr().err


def test_the_first_map_drops_no_argument_that_was_required() -> None:
    old = {"type": "object", "properties": {"a": TEXT, "b": TEXT}, "required": ["a", "b"]}
    new = {"type": "object", "properties": {"north": TEXT, "zzz": TEXT}, "required": ["north", "zzz"]}
    text = starting_map(seen(row(1, [tool(old)], {}), row(2, [tool(new)], {})))
    assert yaml.safe_load(text) == {"weather": {}}
    assert '# "a" was required: put it under rename or drop' in text
    assert '# "zzz" is required now: rename an old argument, or give a value under default' in text


def test_a_renamed_tool_is_mapped_in_tools_calls_results_and_expected(tmp_path: Path) -> None:
    gold = {"name": "get_weather", "arguments": {"town": ["Lund", "lund"], "unit": ["C"]}, "optional": ["unit"]}
    old = row(
        1,
        [tool(OLD, "get_weather"), tool(NEW)],
        {"town": "Lund"},
        "get_weather",
        expected={"status": "calls", "calls": [gold]},
    )
    del old["messages"][3]
    old["messages"] = [*old["messages"][:2]]
    source = write(tmp_path / "rows.jsonl", old, NEW_ROW)
    found = check_with_map(
        source,
        "get_weather:\n  new_name: weather\n  rename: {town: city}\n  default: {language: en}\n"
        "  values: {unit: {C: celsius}}",
        tmp_path / "out.jsonl",
    )
    assert rules(found, "error") == []
    mapped, _ = written(tmp_path / "out.jsonl")
    assert mapped["tools"] == [tool(NEW)]
    assert mapped["messages"][1]["tool_calls"][0]["function"]["name"] == "weather"
    assert mapped["expected"]["calls"] == [
        {
            "name": "weather",
            "arguments": {"city": ["Lund", "lund"], "unit": ["celsius"], "language": ["en"]},
            "optional": ["unit"],
        }
    ]
    old = row(1, [tool(OLD, "get_weather")], {"town": "Lund"}, "get_weather")
    write(source, old, NEW_ROW)
    check_with_map(source, "get_weather: {new_name: weather}", tmp_path / "out.jsonl")
    assert written(tmp_path / "out.jsonl")[0]["messages"][2]["name"] == "weather"


def test_legacy_rows_arguments_as_objects_and_tools_as_text_are_mapped(tmp_path: Path) -> None:
    called = {"name": "weather", "arguments": '{"town": "Lund"}'}
    user, asks = {"role": "user", "content": "Lund"}, {"role": "user", "content": "Lund, please"}
    legacy = {
        "messages": [user, {"role": "assistant", "content": None, "function_call": called}],
        "functions": [tool(OLD)["function"]],
    }
    bare = {
        "messages": [asks, {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": {"town": "Lund"}}]}],
        "tools": json.dumps([tool(OLD)]),
    }
    source = write(tmp_path / "rows.jsonl", legacy, bare, NEW_ROW)
    text = "weather: {rename: {town: city}, default: {language: en}}"
    found = check_with_map(source, text, tmp_path / "out.jsonl")
    assert rules(found, "error") == []
    rows = [each for each in read_source(tmp_path / "out.jsonl") if isinstance(each, Conversation)]
    assert [each.messages[1].tool_calls[0].arguments for each in rows[:2]] == [{"city": "Lund", "language": "en"}] * 2
    assert all(each.tools == rows[0].tools for each in rows)


def test_the_definition_in_tools_is_the_newest_and_rows_without_tools_are_mapped(tmp_path: Path) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([tool(NEW)]), encoding="utf-8")
    source = write(tmp_path / "rows.jsonl", NEW_ROW, row(3, None, {"town": "Lund"}), OLD_ROW)
    text = "weather: {rename: {town: city}, drop: [verbose], default: {language: en}, values: {unit: {C: celsius}}}"
    found = check_with_map(source, text, tmp_path / "out.jsonl", tools)
    assert rules(found, "error") == []
    assert "tools" not in written(tmp_path / "out.jsonl")[1]
    assert written(tmp_path / "out.jsonl")[2]["tools"] == [tool(NEW)]


def test_calls_that_still_violate_the_newest_schema_are_errors(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", OLD_ROW, NEW_ROW)
    found = check_with_map(source, "weather: {rename: {town: city}}", tmp_path / "out.jsonl")
    assert set(rules(found, "error")) == {"schema"}


def test_rows_that_the_map_cannot_be_applied_to_are_reported_and_unchanged(tmp_path: Path) -> None:
    both = row(5, [tool(OLD)], {"town": "Lund", "city": "Oslo"})
    other = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
    source = write(tmp_path / "rows.jsonl", both, NEW_ROW, OLD_ROW, other)
    found = check_with_map(source, "weather: {rename: {town: city}}", tmp_path / "out.jsonl")
    first, second = [each for each in found if each.rule == "not-mapped"]
    assert (first.severity, first.where) == ("error", f"{source}:1")
    assert 'a call of "weather" has two arguments for "city"' in first.message
    assert (second.severity, second.where) == ("warning", f"{source}:4")
    assert written(tmp_path / "out.jsonl")[0] == both
    assert written(tmp_path / "out.jsonl")[3] == other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wether: {}", 'map.yaml:1: wether: no row has this tool; did you mean "weather"?'),
        ("weather:\n  renam: {a: b}", 'map.yaml:2: weather.renam: unknown key; did you mean "rename"?'),
        ("weather: [town]", "map.yaml:1: weather: expected new_name, rename, drop, default, values below it"),
        ("weather:\n  drop: town", "map.yaml:2: weather.drop: expected a list of names, such as [units], found"),
        ("weather:\n  rename: {town: cty}", 'no argument "cty"; did you mean "city"?'),
        ("weather: {rename: {town: city, city: language}}", '"city" is both an old and a new name'),
        ("weather: {rename: {town: city}, drop: [town]}", '"town" is under rename too; keep one'),
        ("weather: {default: {lang: en}}", 'weather.default: the newest version has no argument "lang"'),
        ("weather: {values: {unit: {C: F, F: C}}}", 'unit: "F" is both an old and a new value'),
        ("weather: {values: {unit: {on: celsius}}}", 'quote them, such as "on"'),
        ("weather: {values: {unit: celsius}}", "expected names with old and new values"),
        ("weather: {new_name: wether}", 'neither a row nor --tools defines the tool "wether"; did you mean "weather"?'),
        ("weather: {", "not YAML"),
        ("- weather", "expected keys such as the name of a tool"),
    ],
)
def test_a_bad_map_is_one_error_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", OLD_ROW, NEW_ROW)
    with pytest.raises(UserError) as error:
        check_with_map(source, text, tmp_path / "out.jsonl")
    assert message in str(error.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_map_needs_its_file_and_a_place_for_the_copy(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", OLD_ROW)
    with pytest.raises(UserError, match="no such file; --write-map"):
        check_files([str(source)], fix=tmp_path / "out.jsonl", tool_map=tmp_path / "none.yaml")
    with pytest.raises(UserError, match="name it with --fix OUT"):
        check_files([str(source)], tool_map=tmp_path / "none.yaml")
