"""docs/data.md lists every format that is read, and the version of every package that wrote a fixture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolhone.data.importers import IMPORTERS

ROOT = Path(__file__).parents[3]
SOURCES = sorted((ROOT / "tests" / "fixtures" / "importers").glob("*/source.json"))
TABLE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("## Formats")[2].partition("\n## ")[0]


@pytest.mark.parametrize("name", IMPORTERS)
def test_the_table_of_formats_has_every_importer(name: str) -> None:
    assert f"`{name}`" in TABLE


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.parent.name)
def test_the_table_names_the_package_that_wrote_a_fixture(path: Path) -> None:
    source = json.loads(path.read_text(encoding="utf-8"))
    if source["package"] is None:
        assert "documentation" in source["how"]
    elif path.parent.name not in ("mcp", "openapi"):  # tools, which are not rows
        assert source["version"] in TABLE
