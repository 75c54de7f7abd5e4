"""Sources on a command line: what they are taken for is said, and none is written over."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from toolhone.data.sources import print_formats, refuse_to_overwrite
from toolhone.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures"
OPENAI = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}


def said(*sources: str, format: str = "auto") -> str:
    out = io.StringIO()
    print_formats(sources, format, Console(file=out, width=500))
    return out.getvalue().rstrip("\n")


def test_the_format_is_told_of_one_file_and_counted_of_several(tmp_path: Path) -> None:
    hermes = str(FIXTURES / "formats" / "hermes.json")
    assert said(hermes) == f"{hermes}: read as hermes"
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(json.dumps(OPENAI))
    assert said(f"{tmp_path}=0.5", hermes) == f"{tmp_path}=0.5, {hermes}, 3 files: read as openai (2), hermes (1)"


def test_a_format_that_is_named_is_said_instead_of_what_the_rows_look_like() -> None:
    hermes = str(FIXTURES / "formats" / "hermes.json")
    assert said(hermes, format="glaive") == f"{hermes}: read as glaive"


def test_a_source_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match=r"absent\.jsonl: no such file"):
        said("absent.jsonl")


@pytest.mark.parametrize("source", ["{}/a.jsonl", "{}", "{}/*.jsonl", "{}/a.jsonl=2"])
def test_a_file_that_is_read_is_not_written_over_however_it_is_named(tmp_path: Path, source: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(OPENAI))
    named = [source.format(tmp_path)]
    with pytest.raises(UserError, match=r"a\.jsonl: is one of the files to read; why: name another"):
        refuse_to_overwrite(tmp_path / "." / "a.jsonl", named, "why")
    refuse_to_overwrite(tmp_path / "b.jsonl", named, "why")
