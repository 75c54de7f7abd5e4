"""Fixtures: 1,000 sound rows, and a function that checks rows and returns the JSON report."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from toolhone.data.check.survey import check_files
from toolhone.report.check_findings import print_findings

SHIPPED = Path(__file__).parents[3] / "data" / "customer_service"


@pytest.fixture(scope="session")
def tools_file() -> Path:
    return SHIPPED / "tools.json"


@pytest.fixture(scope="session")
def clean_rows() -> list[dict[str, Any]]:
    """The shipped rows, and 200 copies with another id and another question."""
    rows = [
        json.loads(line)
        for name in ("train", "test")
        for line in (SHIPPED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    again = json.loads(json.dumps(rows[:200]))
    for number, row in enumerate(again):
        row["id"] = f"again-{number}"
        next(message for message in row["messages"] if message["role"] == "user")["content"] += " 麻烦快一点"
    return [*rows, *again]


@pytest.fixture
def run_check(tools_file: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Checks rows (objects, or lines as bytes) and returns the JSON report, with the exit code under "code"."""

    def run(rows: list[Any], name: str = "rows.jsonl", **options: Any) -> dict[str, Any]:
        path = tmp_path / name
        lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        out = io.StringIO()
        code = print_findings(check_files([str(path)], tools_file, **options), Console(file=out), as_json=True)
        report: dict[str, Any] = json.loads(out.getvalue())
        report["code"] = code
        return report

    return run
