"""Reading rows from files: every shape and compression is read, every bad line is named, and no row is lost."""

from __future__ import annotations

import gzip
import json
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from toolhone.data.files import SourceRow, expand_source, iter_file
from toolhone.errors import UserError

ROWS = [{"id": str(n), "text": f'第{n}行 \\ " x'} for n in range(5)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def iter_source(source: str | Path) -> Iterator[SourceRow]:
    return chain.from_iterable(map(iter_file, expand_source(source)))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path | str) -> list[Any]:
    found = list(iter_source(path))
    assert [row for row in found if row.fault] == []
    return [row.row for row in found]


def faults(path: Path) -> list[tuple[int, str]]:
    return [(int(row.where.rpartition(":")[2]), row.fault[0]) for row in iter_source(path) if row.fault]


# Shapes and compressions


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.ndjson", LINES),
        ("a.txt", LINES),
        ("a.json", LINES),
        ("a.jsonl", LINES.replace("\n", "\r\n\r\n")),
        ("a.jsonl", LINES.rstrip()),
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.jsonl", json.dumps(ROWS)),
        ("a.jsonl", json.dumps(ROWS, indent=2)),
        ("a.jsonl", "[\n" + ",\n".join(json.dumps(row) for row in ROWS) + "\n]\n"),
        ("a.jsonl", "[" + ",\n".join(json.dumps(row) for row in ROWS) + "]"),
        ("a.json", json.dumps({"version": 1, "data": ROWS})),
        ("a.json", json.dumps({"data": ROWS}, indent=1)),
        # mtime=0, because a test's name contains the bytes and must be the same in every process of pytest-xdist.
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)),
        ("a.jsonl.zst", zstandard.compress(LINES.encode())),
        ("a.json.zst", zstandard.compress(json.dumps(ROWS).encode())),
        ("a.jsonl.zst", b"".join(zstandard.compress(line.encode()) for line in LINES.splitlines(keepends=True))),
    ],
)
def test_every_shape_and_compression_gives_the_same_rows(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert rows(write(tmp_path / name, content)) == ROWS


def test_places_are_lines_in_jsonl_and_row_numbers_in_json(tmp_path: Path) -> None:
    lines = write(tmp_path / "a.jsonl", '\n{"a": 1}\n  \n{"a": 2}\n')
    array = write(tmp_path / "a.json", '[\n\n{"a": 1},\n\n{"a": 2}]')
    assert [row.where for row in iter_source(lines)] == [f"{lines}:2", f"{lines}:4"]
    assert [row.where for row in iter_source(array)] == [f"{array}:1", f"{array}:2"]


@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_an_object_that_is_a_conversation_is_one_row(tmp_path: Path, key: str) -> None:
    row = {key: [{"role": "user", "content": "hi"}]}
    assert rows(write(tmp_path / "a.json", json.dumps(row, indent=2))) == [row]
    assert rows(write(tmp_path / "b.json", json.dumps({"turns": [{"from": "human", "value": "hi"}]}))) != []


def test_json_lines_of_lists_are_not_read_as_an_array(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '[{"role": "user"}]\n{"a": 1}\n[2]\n')
    assert faults(path) == [(1, "not-an-object"), (3, "not-an-object")]


def test_a_damaged_first_line_loses_only_that_line(tmp_path: Path) -> None:
    for name, first in (("a.jsonl", "[x"), ("a.jsonl", "{"), ("a.json", '{"a": ')):
        path = write(tmp_path / name, f'{first}\n{{"b": 1}}\n{{"b": 2}}\n')
        assert faults(path) == [(1, "broken-json")]
        assert len(list(iter_source(path))) == 3


def test_parquet_is_read_with_dates_as_texts(tmp_path: Path) -> None:
    import datetime

    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"id": ["a", "b"], "at": [datetime.date(2025, 1, 2), None], "x": [1.0, float("nan")]})
    parquet.write_table(table, tmp_path / "a.parquet")
    first, second = iter_source(tmp_path / "a.parquet")
    assert first == SourceRow(f"{tmp_path / 'a.parquet'}:1", {"id": "a", "at": "2025-01-02", "x": 1.0})
    assert second.fault is not None
    assert second.fault[0] == "nan"


def test_folders_and_globs_give_their_files_sorted(tmp_path: Path) -> None:
    (tmp_path / "b" / ".hidden").mkdir(parents=True)
    for name in ("b/2.jsonl", "1.json", "b/.hidden/3.jsonl", "notes.md", "b/3.jsonl.gz"):
        content = gzip.compress(b'{"n": 1}') if name.endswith("gz") else b'{"n": 1}'
        (tmp_path / name).write_bytes(content)
    expected = [str(tmp_path / name) for name in ("1.json", "b/2.jsonl", "b/3.jsonl.gz")]
    assert expand_source(tmp_path) == expected
    assert expand_source(f"{tmp_path}/**/*.json*") == expected
    assert len(rows(tmp_path)) == 3


def test_a_file_whose_name_has_glob_signs_is_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "a[1].jsonl", '{"a": 1}')
    assert rows(path) == [{"a": 1}]


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "no.jsonl", "no such file"),
        (tmp_path / "no.parquet", "no such file"),
        (tmp_path / "*.jsonl", "no file matches"),
        (tmp_path / "empty", "the folder has no file with one of the endings .jsonl"),
    ):
        with pytest.raises(UserError, match=message):
            list(iter_source(source))


def test_a_hub_name_without_the_library_asks_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'^hub:owner/name: reading from the hub needs "datasets"'):
        list(iter_source("hub:owner/name"))


# Faults


@pytest.mark.parametrize(
    ("line", "rule", "message"),
    [
        (b'{"a": ', "broken-json", "broken JSON: Expecting value at column 7"),
        (b'{"a": 1} {"a": 2}', "broken-json", "broken JSON: Extra data at column 10"),
        (b'{"a": "\t"}', "broken-json", "broken JSON: Invalid control character at at column 8"),
        (b'{"a": "\xff"}', "encoding", "not UTF-8 (invalid start byte at byte 7)"),
        ('{"a": "é"}'.encode("latin-1"), "encoding", "not UTF-8"),
        (b'{"a": "x\x00"}', "nul", "a NUL byte at column 9"),
        (b"\x00\x00\x00\x00", "nul", "a NUL byte at column 1"),
        (b'{"a": "\\ud83d"}', "surrogate", "holds '\\ud83d', half of a surrogate pair"),
        (b'{"a": {"\\uDE00": 1}}', "surrogate", "holds '\\ude00', half of a surrogate pair"),
        (b'{"a": [{"b": 1, "b": 2}]}', "duplicate-key", 'the key "b" appears twice in one object'),
        (b'{"a": NaN}', "nan", "NaN is not JSON"),
        (b'{"a": [-Infinity]}', "nan", "-Infinity is not JSON"),
        (b'{"a": 1e999}', "nan", "holds a number that is too large for a float"),
        (b"[1]", "not-an-object", "expected a JSON object, found a list"),
        (b'"text"', "not-an-object", "expected a JSON object, found a text"),
        (b"null", "not-an-object", "expected a JSON object, found null"),
        (b"7", "not-an-object", "expected a JSON object, found a number"),
        (b'{"a": ' + b"1" * 5000 + b"}", "broken-json", "a number with too many digits"),
        (b'{"a": ' + b"[" * 9000 + b"]" * 9000 + b"}", "broken-json", "JSON that is nested too deeply"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_bad_line_is_named_and_the_lines_around_it_are_read(
    tmp_path: Path, line: bytes, rule: str, message: str
) -> None:
    path = write(tmp_path / "a.jsonl", b'{"n": 1}\n' + line + b'\n{"n": 3}\n')
    first, bad, last = iter_source(path)
    assert (first.row, last.row) == ({"n": 1}, {"n": 3})
    assert (bad.where, bad.row) == (f"{path}:2", None)
    assert bad.fault is not None
    assert bad.fault[0] == rule
    assert bad.fault[1].startswith(message)


def test_complete_surrogate_pairs_and_escaped_backslashes_are_no_fault(tmp_path: Path) -> None:
    line = '{"a": "\\ud83d\\ude00", "b": "\\\\ud83d", "c": "\\\\u0000"}'
    (row,) = iter_source(write(tmp_path / "a.jsonl", line))
    assert row.row == {"a": "😀", "b": "\\ud83d", "c": "\\u0000"}
    assert row.notes == ()


def test_a_byte_order_mark_and_an_escaped_nul_are_notes_on_a_row_that_is_read(tmp_path: Path) -> None:
    for name, content in (
        ("a.jsonl", '\ufeff{"a": 1}\n{"b": "\\u0000"}\n'),
        ("a.json", '\ufeff[{"a": 1}, {"b": "\\u0000"}]'),
    ):
        first, second = iter_source(write(tmp_path / name, content))
        assert (first.row, [rule for rule, _ in first.notes]) == ({"a": 1}, ["bom"])
        assert (second.row, [rule for rule, _ in second.notes]) == ({"b": "\0"}, ["nul"])


def test_utf_16_is_one_fault_and_not_one_per_line(tmp_path: Path) -> None:
    assert faults(write(tmp_path / "a.jsonl", LINES.encode("utf-16"))) == [(1, "encoding")]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gz", "zst"])
def test_a_truncated_compressed_file_gives_its_complete_lines_and_a_fault(tmp_path: Path, pack: Any) -> None:
    noise = [{"n": n, "text": str(hash((n, "x")))} for n in range(9000)]
    packed = pack("".join(json.dumps(row) + "\n" for row in noise).encode())
    path = write(tmp_path / f"a.jsonl.{'gz' if pack is gzip.compress else 'zst'}", packed[: len(packed) * 2 // 3])
    *good, last = iter_source(path)
    assert [row.row for row in good] == noise[: len(good)]
    assert last.fault is not None
    assert last.fault[0] == "broken-file"
    assert last.where == f"{path}:{len(good) + 1}"


def test_a_plain_file_with_the_ending_of_a_compressed_one_or_a_table_is_a_fault(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "a.jsonl.zst", "a.parquet"):
        assert faults(write(tmp_path / name, LINES)) == [(1, "broken-file")]


@pytest.mark.parametrize(
    ("text", "read", "message"),
    [
        ('[{"a": 1}, {"a": }, {"a": 3}]', 1, "broken JSON: Expecting value at line 1"),
        ('[{"a": 1},\n\n {"a": 2}', 2, 'broken JSON: expected "," or "]" after a row at line 3'),
        ('[{"a": 1} {"a": 2}]', 1, 'broken JSON: expected "," or "]" after a row at line 1'),
        ('[{"a": 1},]', 1, "broken JSON: a comma before the end of the list at line 1"),
        ('[{"a": 1}]]', 1, "broken JSON: text after the end of the list at line 1"),
        ('[{"a": 1}, {"a": "cut', 1, "broken JSON: Unterminated string starting at at line 1"),
    ],
)
def test_a_broken_array_gives_the_rows_before_the_break(tmp_path: Path, text: str, read: int, message: str) -> None:
    *good, bad = iter_source(write(tmp_path / "a.json", text))
    assert [row.row for row in good] == [{"a": n + 1} for n in range(read)]
    assert bad.fault is not None
    assert bad.fault[1].startswith(message)
    assert bad.fault[1].endswith("the rows after this one cannot be read")


def test_a_fault_inside_an_element_loses_only_that_element(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '[{"a": 1}, {"a": NaN}, {"a": 1, "a": 2}, 7, {"a": "\\ud83d"}, {"a": 6}]')
    assert faults(path) == [(2, "nan"), (3, "duplicate-key"), (4, "not-an-object"), (5, "surrogate")]
    assert [row.row for row in iter_source(path) if row.row] == [{"a": 1}, {"a": 6}]


@given(st.lists(st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False, allow_infinity=False) | st.text())))
def test_arrays_are_read_correctly_wherever_a_chunk_ends(values: list[dict[str, Any]]) -> None:
    import io

    from toolhone.data import files

    text = json.dumps(values, ensure_ascii=bool(len(values) % 2), indent=len(values) % 3 or None)
    original, files._CHUNK = files._CHUNK, 3
    try:
        found = list(files.array_elements(io.BytesIO(text.encode(errors="surrogatepass"))))
    finally:
        files._CHUNK = original
    assert [json.loads(element) for element in found if isinstance(element, str)] == values


@given(st.lists(st.binary(max_size=40)))
def test_any_bytes_give_a_row_or_a_fault_for_each_line_that_is_not_blank(
    tmp_path_factory: Any, lines: list[bytes]
) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    path = write(tmp_path_factory.mktemp("any") / "a.jsonl", b'{"first": 1}\n' + b"\n".join(lines))
    numbers = [int(row.where.rpartition(":")[2]) for row in iter_source(path)]
    blank = b" \t\r\n\xef\xbb\xbf"
    assert numbers == [1] + [n for n, line in enumerate(lines, 2) if line.strip(blank)]


@pytest.mark.parametrize("as_array", [False, True])
def test_a_large_file_is_read_in_little_memory(tmp_path: Path, as_array: bool) -> None:
    row = json.dumps({"text": "x" * 1000})
    text = "[" + ",".join([row] * 20_000) + "]" if as_array else f"{row}\n" * 20_000
    path = write(tmp_path / ("a.json" if as_array else "a.jsonl"), text)
    del text
    tracemalloc.start()
    assert sum(1 for _ in iter_source(path)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6, "the 20 MB file is in memory as a whole"
