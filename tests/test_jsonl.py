"""JSON Lines files: what is refused, how errors name it, and that files are complete or absent."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from toolhone.errors import UserError
from toolhone.jsonl import read_json, read_jsonl, write_json, write_jsonl, write_text
from toolhone.strict_json import StrictJsonError, parse_strict

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("NaN", "NaN is not JSON"),
        ('{"a": [-Infinity]}', "-Infinity is not JSON"),
        ('{"a": 1, "b": 2, "a": 1}', 'the key "a" appears twice in one object'),
        ('{"x": {"a": 1, "a": 2}}', 'the key "a" appears twice in one object'),
        ("1" * 5000, "a number with too many digits"),
        ("[" * 100_000 + "]" * 100_000, "JSON that is nested too deeply"),
    ],
    ids=["nan", "infinity", "key-twice", "inner-key-twice", "many-digits", "deep"],
)
def test_json_without_a_single_meaning_is_refused(text: str, fault: str) -> None:
    with pytest.raises(StrictJsonError) as caught:
        parse_strict(text)
    assert str(caught.value) == fault


def test_the_same_key_in_two_objects_is_not_a_duplicate() -> None:
    assert parse_strict('[{"a": 1}, {"a": {"a": 2}}]') == [{"a": 1}, {"a": {"a": 2}}]


def test_broken_json_is_refused_with_line_and_column() -> None:
    with pytest.raises(StrictJsonError, match="broken JSON: Expecting ':' delimiter at line 2, column 6") as caught:
        parse_strict('{"a": 1,\n "b" 2}')
    assert (caught.value.rule, caught.value.line) == ("broken-json", 2)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, ": no such file; make one"),
        (b"\xff", ": not UTF-8 (invalid start byte at byte 0); save it as UTF-8"),
        (b'{"a": 1,\n "b" 2}', ":2: broken JSON: Expecting ':' delimiter at column 6"),
        (b'{"a": 1, "a": 2}', ': the key "a" appears twice in one object'),
        (b"[NaN]", ": NaN is not JSON"),
    ],
    ids=["missing", "not-utf-8", "broken", "key-twice", "nan"],
)
def test_a_json_file_that_cannot_be_read_is_reported_with_its_line(
    tmp_path: Path, content: bytes | None, fault: str
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(path, "make one")
    assert str(caught.value) == f"{path}{fault}"


def test_a_json_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": [1]}')
    assert read_json(tmp_path / "a.json", "") == {"a": [1]}


def test_a_duplicate_in_a_huge_object_is_found_in_linear_time() -> None:
    keys = [*range(100_000), 99_999]
    text = "{" + ", ".join(f'"k{key}": 0' for key in keys) + "}"
    started = time.perf_counter()
    with pytest.raises(StrictJsonError, match='"k99999" appears twice'):
        parse_strict(text)
    # Comparing every name with all others takes minutes; one pass takes a tenth of a second.
    assert time.perf_counter() - started < 10


@settings(max_examples=50)  # every file is flushed to disk
@given(st.lists(st.dictionaries(st.text(), JSON, max_size=4)))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    write_jsonl(path, rows)
    assert [row for _, row in read_jsonl(path)] == rows


def test_rows_are_named_by_file_and_line_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\r\n\r\n   \n{"b": 2}')
    assert list(read_jsonl(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:4", {"b": 2})]


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "查"}\n', encoding="utf-8-sig")
    assert list(read_jsonl(path)) == [(f"{path}:1", {"a": "查"})]
    path.write_text("", encoding="utf-8-sig")
    assert list(read_jsonl(path)) == []


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x1c"])
def test_only_a_newline_ends_a_line(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": f"x{separator}y"}, {"a": "z"}])
    assert [row["a"] for _, row in read_jsonl(path)] == [f"x{separator}y", "z"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"a": ', "broken JSON: Expecting value at column 7"),
        (b'{"a": 1} {"b": 2}', "broken JSON: Extra data at column 10"),
        (b"[1]", "expected a JSON object, found list"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": 1, "a": 1}', 'the key "a" appears twice in one object'),
        (b"[" * 100_000, "JSON that is nested too deeply"),
        ('{"a": "é"}'.encode("latin-1"), "not UTF-8 (invalid continuation byte at byte 7); save it as UTF-8"),
    ],
    ids=["cut", "two-objects", "list", "nan", "key-twice", "deep", "latin-1"],
)
def test_a_faulty_line_is_named_by_file_and_line(tmp_path: Path, line: bytes, fault: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(UserError) as caught:
        list(read_jsonl(path))
    assert str(caught.value) == f"{path}:2: {fault}"


def test_a_missing_file_is_reported_with_the_folder_searched(in_workspace: Path) -> None:
    with pytest.raises(UserError) as caught:
        list(read_jsonl(Path("data/rows.jsonl")))
    assert str(caught.value) == f"data/rows.jsonl: no such file (looked in {in_workspace})"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder, expected a JSONL file"):
        list(read_jsonl(tmp_path))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user without root permissions")
def test_a_file_without_read_permission_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.touch(mode=0)
    with pytest.raises(UserError, match="permission denied"):
        list(read_jsonl(path))


def test_chinese_is_written_without_escapes_one_row_per_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "rows.jsonl"
    write_jsonl(path, [{"a": "查订单"}, {"b": "1\n2"}])
    assert path.read_bytes().decode() == '{"a": "查订单"}\n{"b": "1\\n2"}\n'


def test_half_of_a_surrogate_pair_is_written_as_an_escape(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"text": "查\ud83d"}])
    assert path.read_bytes() == b'{"text": "\\u67e5\\ud83d"}\n'
    assert [row for _, row in read_jsonl(path)] == [{"text": "查\ud83d"}]


def test_write_json_indents(tmp_path: Path) -> None:
    write_json(tmp_path / "value.json", {"a": ["查"]})
    assert (tmp_path / "value.json").read_text(encoding="utf-8") == '{\n  "a": [\n    "查"\n  ]\n}\n'


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {"a": 1}
        raise KeyboardInterrupt

    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"old": True}])
    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, rows())
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half of a pair: \ud83d")
    assert path.read_text(encoding="utf-8") == '{"old": true}\n'
    assert [left.name for left in tmp_path.iterdir()] == ["rows.jsonl"]


def test_rows_are_written_as_they_arrive_to_a_temporary_file(tmp_path: Path) -> None:
    """A million rows must not be collected in memory first, and no reader may see a half-written file."""
    sizes: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(4):
            written = list(tmp_path.iterdir())
            assert [path.name for path in written if path.name == "rows.jsonl"] == []
            sizes.extend(path.stat().st_size for path in written)
            yield {"number": number, "text": "x" * 100_000}

    path = tmp_path / "rows.jsonl"
    write_jsonl(path, rows())
    assert sizes == sorted(sizes)
    assert sizes[-1] > 200_000, "nothing was written before the last row arrived"
    assert [row["number"] for _, row in read_jsonl(path)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("terminal", "rows", "shown"), [(True, 20_001, True), (True, 20_000, False), (False, 20_001, False)]
)
def test_a_long_file_shows_a_progress_bar_only_on_a_terminal(
    tmp_path: Path, terminal: bool, rows: int, shown: bool
) -> None:
    console = Console(file=StringIO(), force_terminal=terminal, width=100)
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, ({"n": n} for n in range(rows)), console)
    assert isinstance(console.file, StringIO)
    assert ("writing" in console.file.getvalue()) == shown
    assert [row["n"] for _, row in read_jsonl(path)] == list(range(rows))


def test_a_row_that_json_cannot_represent_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_jsonl(tmp_path / "rows.jsonl", [{"a": 1}, {"a": {1, 2}}])
    assert list(tmp_path.iterdir()) == []
