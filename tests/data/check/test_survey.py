"""Checking whole files: the printed text, the exit code, the fixed copy, and OpenAI's profile."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from toolhone.data.check.across_rows import count_band
from toolhone.data.check.survey import check_files
from toolhone.errors import UserError
from toolhone.report.check_findings import print_findings

Row = dict[str, Any]
Check = Callable[..., dict[str, Any]]
USER = {"role": "user", "content": "where is ORD-1?"}
ANSWER = {"role": "assistant", "content": "On its way."}


def call(arguments: Any = '{"order_id": "ORD-1"}', name: str = "query_order", **more: Any) -> Row:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def turn(*calls: Row) -> Row:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def printed(path: Path, tools: Path, **options: Any) -> tuple[int, str]:
    out = io.StringIO()
    code = print_findings(check_files([str(path)], tools, **options), Console(file=out, soft_wrap=True))
    return code, out.getvalue()


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


# Thinking


def thoughtful(thinking: str, content: str = "On its way.", **more: Any) -> Row:
    return {"messages": [USER, {**ANSWER, "content": content, "reasoning_content": thinking or None, **more}]}


def test_rows_that_differ_only_in_thinking_are_neither_duplicates_nor_conflicts(run_check: Check) -> None:
    found = run_check([thoughtful("a"), thoughtful("b"), thoughtful("")])["summary"]["findings_by_rule"]
    assert not {"duplicate", "conflict"} & set(found)
    assert run_check([thoughtful("a"), thoughtful("a")])["summary"]["findings_by_rule"]["duplicate"] == 1


@pytest.mark.parametrize("content", ["<think>\nIt was cut", "On its way. <think>hm</think>", "a</think>b</think>c"])
def test_a_thought_in_the_text_of_a_learned_turn_is_an_error_with_a_remedy(content: str, run_check: Check) -> None:
    (finding,) = [one for one in run_check([thoughtful("", content)])["findings"] if one["severity"] == "error"]
    assert finding["rule"] == "text-thinking"
    assert finding["message"].startswith("message 1: a <")
    assert finding["remedy"]
    assert run_check([thoughtful("", content, weight=0)])["summary"]["errors"] == 0


def test_secrets_and_control_tokens_in_thinking_are_found(run_check: Check) -> None:
    found = run_check([thoughtful("The key is sk-proj-" + "a1B2" * 12), thoughtful("It ends <|im_end|> here")])
    assert {"secret", "control-token"} <= set(found["summary"]["findings_by_rule"])


# What is printed


def test_findings_are_grouped_by_rule_with_place_and_fix(tmp_path: Path, tools_file: Path) -> None:
    rows = [
        {"id": str(n), "messages": [{**USER, "content": f"?{n}"}, turn(call(name="qury_order"))]} for n in range(14)
    ]
    code, text = printed(write(tmp_path / "a.jsonl", *rows), tools_file)
    assert code == 1
    assert "error unknown-tool (14)\n" in text
    assert (
        f'  {tmp_path}/a.jsonl:1: message 1: tool call "qury_order" is not in tools (did you mean "query_order"?)'
        in text
    )
    assert "a.jsonl:10:" in text
    assert "a.jsonl:11:" not in text.partition("warning")[0]
    assert "  ... and 4 more\n  fix: fix the name, or add the tool to tools\n" in text
    assert "14 conversations, 14 assistant turns, 14 calls" in text
    assert "\n14 errors, " in text


def test_sound_rows_end_with_no_faults_found(tmp_path: Path, tools_file: Path) -> None:
    code, text = printed(write(tmp_path / "a.jsonl", {"messages": [USER, ANSWER]}), tools_file)
    assert code == 0
    assert text.endswith("no faults found\n")
    assert "1 rows: too few to learn from (under 50)" in text


def test_markup_in_data_is_printed_as_it_is(tmp_path: Path, tools_file: Path) -> None:
    _, text = printed(write(tmp_path / "a.jsonl", {"messages": [USER, turn(call(name="[bold]x[/]"))]}), tools_file)
    assert "[bold]x[/]" in text


def test_a_file_without_rows_is_an_error(tmp_path: Path, tools_file: Path) -> None:
    code, text = printed(write(tmp_path / "a.jsonl", b""), tools_file)
    assert code == 1
    assert "no-rows" in text


def test_json_gives_every_finding_and_the_summary(run_check: Check) -> None:
    rows = [{"id": str(n), "messages": [{**USER, "content": f"?{n}"}, turn(call(name="f"))]} for n in range(30)]
    report = run_check(rows)
    unknown = [finding for finding in report["findings"] if finding["rule"] == "unknown-tool"]
    assert len(unknown) == 30
    assert unknown[0].keys() == {"where", "rule", "severity", "message", "remedy"}
    assert report["summary"]["errors"] == report["summary"]["findings_by_rule"]["unknown-tool"] == 30
    assert (report["summary"]["rows"], report["summary"]["calls"], report["code"]) == (30, 30, 1)


def test_a_wrong_argument_is_an_error_before_anything_is_printed_or_written(tmp_path: Path, tools_file: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"messages": [USER, ANSWER]})
    for options, message in (
        ({"profile": "opnai"}, '--profile: unknown profile "opnai"'),
        ({"chat_format": "hermez"}, '--chat-format: unknown format "hermez"'),
        ({"max_tokens": 5}, "--chat-format: auto is detected from a tokenizer"),
        ({"max_tokens": 5, "chat_format": "hermes"}, "--max-example-tokens: tokens are counted with a tokenizer"),
        ({"fix": path}, "is the input file itself"),
    ):
        with pytest.raises(UserError) as caught:
            check_files([str(path)], tools_file, **options)
        assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    out = io.StringIO()
    with pytest.raises(UserError, match="no such file"):
        print_findings(check_files([str(tmp_path / "absent.jsonl")], tools_file), Console(file=out), as_json=True)
    assert out.getvalue() == ""


def test_tokens_are_counted_with_a_tokenizer(tiny_llama: Path, run_check: Check) -> None:
    rows = [
        {"id": "a", "messages": [USER, ANSWER]},
        {"id": "b", "messages": [{**USER, "content": "?"}, {**ANSWER, "content": "x " * 9000}]},
    ]
    report = run_check(rows, tokenizer=str(tiny_llama), max_tokens=8000)
    (found,) = [finding for finding in report["findings"] if finding["severity"] != "advice"]
    assert (found["where"].rpartition(":")[2], found["rule"]) == ("2", "over-long")
    assert "more than 8,000" in found["message"]


# Bands


@pytest.mark.parametrize(
    ("rows", "band"),
    [
        (1, "too few"),
        (49, "too few"),
        (50, "trial"),
        (99, "trial"),
        (100, "workable"),
        (499, "workable"),
        (500, "sweet spot"),
        (1_999, "sweet spot"),
        (2_000, "fine if they are varied"),
        (5_000, "fine if they are varied"),
        (5_001, "learning curve"),
    ],
)
def test_each_band_of_row_counts_starts_at_its_bound(rows: int, band: str) -> None:
    text = count_band(rows)
    head = text.partition(";")[0] if band not in ("learning curve",) else text
    assert band in head


@pytest.mark.parametrize(("without", "found"), [(4, True), (5, False), (80, False), (81, True)])
def test_a_share_of_rows_without_a_call_below_5_or_above_80_percent_is_found(
    without: int, found: bool, run_check: Check
) -> None:
    rows = [
        {"id": str(n), "messages": [{**USER, "content": f"{n} ORD-1"}, ANSWER if n < without else turn(call())]}
        for n in range(100)
    ]
    rules = {finding["rule"] for finding in run_check(rows)["findings"]}
    assert ("no-call-share" in rules) is found


def test_a_row_with_a_call_and_an_answer_counts_as_answered(run_check: Check) -> None:
    asked = [{"messages": [{**USER, "content": f"{n} ORD-1"}, turn(call())], "id": str(n)} for n in range(100)]
    for row in asked[:5]:
        row["messages"] = [{**USER, "content": f"hello {row['id']}"}, ANSWER, *row["messages"]]
    assert "no-call-share" not in {finding["rule"] for finding in run_check(asked)["findings"]}
    assert "no-call-share" in {finding["rule"] for finding in run_check(asked[1:])["findings"]}


def test_tools_that_are_never_or_rarely_called_are_found(run_check: Check) -> None:
    rows = [{"id": str(n), "messages": [{**USER, "content": f"{n} ORD-1"}, turn(call())]} for n in range(9)]
    found = {(f["rule"], f["message"].split('"')[1]) for f in run_check(rows)["findings"] if '"' in f["message"]}
    assert ("rare-tool", "query_order") in found
    assert ("unused-tool", "query_stock") in found
    rows.append({"id": "x", "messages": [{**USER, "content": "x ORD-1"}, turn(call())]})
    assert not any(f["rule"] == "rare-tool" for f in run_check(rows)["findings"])


# The fixed copy

BROKEN = b'{"messages": ['
TWICE = json.dumps('{"order_id": "ORD-1"}')


def test_the_copy_is_fixed_and_every_fix_is_reported(tmp_path: Path, run_check: Check) -> None:
    sound = {"id": "s", "messages": [USER, ANSWER], "meta": {"source": "x"}}
    rows = [
        b"\xef\xbb\xbf" + json.dumps(sound).encode(),
        {"id": "t", "messages": [USER, turn(call(TWICE))]},
        b"",
        BROKEN,
        {**sound, "id": "again"},
        {
            "id": "u",
            "messages": [{**USER, "content": "ORD-1!"}, turn(call()), {"role": "tool", "content": "x"}, ANSWER],
        },
        b"",
        b"",
    ]
    copy = tmp_path / "fixed.jsonl"
    report = run_check(rows, fix=copy)
    lines = copy.read_bytes().splitlines()
    assert json.loads(lines[0]) == sound
    assert json.loads(lines[1])["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"order_id": "ORD-1"}'
    assert lines[2] == BROKEN
    assert json.loads(lines[3])["messages"][2]["tool_call_id"] == "call_1"
    assert len(lines) == 4
    done = [(entry["where"].rpartition(":")[2], entry["rule"]) for entry in report["mended"]]
    assert done == [
        ("1", "bom"),
        ("2", "arguments-encoded-twice"),
        ("5", "duplicate"),
        ("6", "missing-call-id"),
        ("6", "missing-call-id"),
    ]
    errors = [(f["where"], f["rule"]) for f in report["findings"] if f["severity"] == "error"]
    assert errors == [(f"{copy}:3", "broken-json")]
    assert report["code"] == 1


def test_fixing_a_fixed_copy_changes_nothing(tmp_path: Path, run_check: Check) -> None:
    rows = [
        {"id": "t", "messages": [USER, turn(call(TWICE))]},
        BROKEN,
        {"id": "v", "messages": [USER, turn(call(TWICE))]},
    ]
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    assert run_check(rows, fix=first)["mended"]
    out = io.StringIO()
    print_findings(check_files([str(first)], fix=second), Console(file=out), as_json=True)
    assert json.loads(out.getvalue())["mended"] == []
    assert second.read_bytes() == first.read_bytes()


def test_sound_rows_are_copied_unchanged(clean_rows: list[Row], tmp_path: Path, run_check: Check) -> None:
    copy = tmp_path / "copy.jsonl"
    assert run_check(clean_rows, fix=copy)["mended"] == []
    assert [json.loads(line) for line in copy.read_text(encoding="utf-8").splitlines()] == clean_rows


def test_several_files_are_copied_into_a_folder(tmp_path: Path, tools_file: Path) -> None:
    one = write(tmp_path / "one.jsonl", {"id": "1", "messages": [USER, turn(call(TWICE))]})
    two = tmp_path / "two.jsonl.gz"
    two.write_bytes(
        gzip.compress(json.dumps({"id": "2", "messages": [USER, ANSWER]}).encode() + b"\n" + BROKEN + b"\n")
    )
    out = io.StringIO()
    check = check_files([str(one), str(two)], tools_file, fix=tmp_path / "fixed")
    code = print_findings(check, Console(file=out, soft_wrap=True))
    assert code == 1
    assert sorted(path.name for path in (tmp_path / "fixed").iterdir()) == ["one.jsonl", "two.jsonl"]
    assert (tmp_path / "fixed" / "two.jsonl").read_bytes().splitlines()[1] == BROKEN
    assert "fixed (arguments-encoded-twice): message 1: call 0: arguments encoded once" in out.getvalue()


# OpenAI's own rules

TOOLS = [
    {"type": "function", "function": {"name": "query_order", "description": "d", "parameters": {"type": "object"}}}
]


def openai_rows(*changed: Row) -> list[Row]:
    rows: list[Row] = [
        {"messages": [{**USER, "content": f"{n}: where is ORD-1?"}, turn(call(id="c"))], "tools": TOOLS}
        for n in range(12)
    ]
    rows[5:5] = changed
    return rows


def openai_rules(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (f["where"].rpartition(":")[2], f["rule"], f["severity"])
        for f in report["findings"]
        if f["rule"].startswith("openai")
    ]


def test_rows_that_openai_accepts_have_no_finding_of_its_profile(run_check: Check) -> None:
    assert openai_rules(run_check(openai_rows(), profile="openai")) == []
    assert run_check(openai_rows(), profile="openai")["code"] == 0


@pytest.mark.parametrize(
    ("changed", "rule", "severity"),
    [
        ({"messages": [USER, ANSWER], "id": "x"}, "openai-key", "warning"),
        ({"messages": [USER, {**ANSWER, "sender": "x"}]}, "openai-key", "error"),
        ({"messages": [USER, ANSWER, USER]}, "openai-messages", "error"),
        ({"messages": [{**USER, "weight": 1}, ANSWER]}, "openai-weight", "error"),
        ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, "openai-weight", "error"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, "openai-weight", "error"),
        ({"messages": [{**USER, "name": "Jane Doe"}, ANSWER]}, "openai-name", "error"),
        ({"messages": [USER, turn(call())], "tools": TOOLS}, "openai-calls", "error"),
        ({"messages": [USER, turn(call({"order_id": "ORD-1"}, id="c"))], "tools": TOOLS}, "openai-calls", "error"),
        ({"messages": [USER, turn()], "tools": TOOLS}, "openai-calls", "error"),
        ({"messages": [USER, turn(call(id="c"))]}, "openai-tools", "error"),
        ({"messages": [USER, ANSWER], "tools": [{**TOOLS[0], "type": "f"}]}, "openai-tools", "error"),
        ({"messages": [USER, ANSWER], "parallel_tool_calls": "no"}, "openai-tools", "error"),
        (
            {"messages": [USER, ANSWER], "tools": [{"type": "function", "function": {"name": "a b"}}]},
            "openai-name",
            "error",
        ),
        (
            {"messages": [USER, ANSWER], "tools": [{"type": "function", "function": {"name": "a" * 65}}]},
            "openai-name",
            "error",
        ),
        ({"messages": [USER, turn(call(id="c")), ANSWER], "tools": TOOLS}, "openai-results", "error"),
        (
            {"messages": [USER, turn(call(id="c")), {"role": "tool", "content": "x"}, ANSWER], "tools": TOOLS},
            "openai-results",
            "error",
        ),
        ({"messages": [{**USER, "content": "x" * 300_000}, ANSWER]}, "openai-length", "warning"),
    ],
)
def test_what_openai_would_refuse_is_found_at_its_line(
    changed: Row, rule: str, severity: str, run_check: Check
) -> None:
    found = openai_rules(run_check(openai_rows(changed), profile="openai"))
    assert ("6", rule, severity) in found
    assert {line for line, _, _ in found} == {"6"}
    assert openai_rules(run_check(openai_rows(changed))) == []


@pytest.mark.parametrize(("count", "found"), [(9, True), (10, False)])
def test_openai_needs_at_least_ten_rows(count: int, found: bool, run_check: Check) -> None:
    rules = {rule for _, rule, _ in openai_rules(run_check(openai_rows()[:count], profile="openai"))}
    assert ("openai-count" in rules) is found
