"""The terminal tables of `toolhone eval --suite bfcl` and of `toolhone learning-curve`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from toolhone.report import numbers


def suite_table(metrics: Mapping[str, Any]) -> Table:
    """The suite's figures of all models under all policies."""
    models: dict[str, dict[str, Any]] = metrics["models"]
    table = Table(title=Text("BFCL: exact match, with its 95% interval"), title_justify="left", title_style="bold")
    table.add_column("Category")
    columns = [figures for model in models.values() for figures in model.values()]
    for name, model in models.items():
        for policy in model:
            table.add_column(Text(f"{name}, {policy}"), justify="right")

    def add_row(label: str, rates: Sequence[dict[str, Any]]) -> None:
        table.add_row(label, *(Text(numbers.figure(rate)) for rate in rates))

    for section in ("categories", "groups"):
        for name in columns[0][section]:
            add_row(name, [figures[section][name] for figures in columns])
        table.add_section()
    add_row("tool names", [figures["tool_name_accuracy"] for figures in columns])
    add_row("malformed", [figures["malformed"] for figures in columns])
    strict = [figures["groups"]["all"] for figures in columns]
    repaired = [figures.get("repaired", figures["groups"]["all"]) for figures in columns]
    if repaired != strict:
        add_row("all, with repairs", repaired)
    return table


def learning_curve_table(exact_match: Mapping[str, dict[str, Any]], gains: Sequence[str]) -> Table:
    """Exact match by number of training rows, with the gain over the size before it, of which the first has none."""
    table = Table("Rows", "Exact match", "Against the size before")
    for (size, rate), gain in zip(exact_match.items(), ("", *gains), strict=True):
        table.add_row(size, numbers.figure(rate), gain)
    return table
