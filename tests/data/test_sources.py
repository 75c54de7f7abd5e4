"""Sources of a command line: their format is printed, and none is overwritten."""

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


def printed_formats(*sources: str, format: str = "auto") -> str:
    out = io.StringIO()
    print_formats(sources, format, Console(file=out, width=500))
    return out.getvalue().rstrip("\n")


def test_the_format_of_one_file_is_printed_and_those_of_several_are_counted(tmp_path: Path) -> None:
    hermes = str(FIXTURES / "formats" / "hermes.json")
    assert printed_formats(hermes) == f"{hermes}: read as hermes"
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(json.dumps(OPENAI))
    assert (
        printed_formats(f"{tmp_path}=0.5", hermes)
        == f"{tmp_path}=0.5, {hermes}, 3 files: read as openai (2), hermes (1)"
    )


def test_a_named_format_is_printed_instead_of_the_detected_one() -> None:
    hermes = str(FIXTURES / "formats" / "hermes.json")
    assert printed_formats(hermes, format="glaive") == f"{hermes}: read as glaive"


def test_a_missing_source_is_named() -> None:
    with pytest.raises(UserError, match=r"absent\.jsonl: no such file"):
        printed_formats("absent.jsonl")


@pytest.mark.parametrize("source", ["{}/a.jsonl", "{}", "{}/*.jsonl", "{}/a.jsonl=2"])
def test_a_source_is_not_overwritten_whatever_form_its_name_has(tmp_path: Path, source: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(OPENAI))
    named = [source.format(tmp_path)]
    with pytest.raises(UserError, match=r"a\.jsonl: is one of the files to read; why: name another file"):
        refuse_to_overwrite(tmp_path / "." / "a.jsonl", named, "why")
    refuse_to_overwrite(tmp_path / "b.jsonl", named, "why")
