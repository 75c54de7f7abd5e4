"""Make training and test rows of BFCL's non-live entries, with tools that only the test rows call.

configs/bfcl-unseen-tools.yaml trains on them: how well does a model call tools that it was not trained on? Entries
whose functions are Python's, and those where no call is right, are split as `toolhone data split --unseen-tools` does;
rows of a kept tool, and rows much alike, stay on one side. An entry that training would refuse, since its gold is at
odds with its own tool's schema, is left out and named. Each row's meta.tool_group names the rows that share a tool, so
that a config can hold out validation rows by tool too. BFCL's live entries are left alone, for evaluation.
scripts/fetch_bfcl.py brings the data.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from toolhone.data.check import check
from toolhone.data.formats.bfcl import read_bfcl_folder
from toolhone.data.identity import called_tools
from toolhone.data.partition.files import show, split_files
from toolhone.data.partition.partition import Shares
from toolhone.data.read import RowFault
from toolhone.errors import UserError
from toolhone.jsonl import write_conversations
from toolhone.records import Conversation
from toolhone.terminal import plain_console

CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".cache/bfcl"), help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(".cache/bfcl-unseen-tools"), help="(default: %(default)s)")
    parser.add_argument("--unseen-tools", type=float, default=0.15, help="share of the tools (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        rows, left_out = sound_entries(read_bfcl_folder(options.folder, CATEGORIES))
        for where, message in left_out.items():
            print(f"left out: {where}: {message}")
        source = options.out / "rows.jsonl"
        write_conversations(source, with_tool_groups(rows))
        shares = Shares(validation=0.0, calibration=0.0, test=0.1)
        result = split_files([str(source)], options.out / "split", shares, unseen_tools=options.unseen_tools)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    show(result, plain_console())
    return 0


def sound_entries(entries: Iterable[Conversation | RowFault]) -> tuple[list[Conversation], dict[str, str]]:
    """The entries that can be read and that training takes; the others by file:line, with the first fault of each."""
    rows: list[Conversation] = []
    left_out: dict[str, str] = {}
    for entry in entries:
        if isinstance(entry, RowFault):
            left_out[entry.where] = entry.message
        else:
            rows.append(entry)
    for finding in check(rows):
        left_out.setdefault(finding.where, finding.message)
    return [row for row in rows if row.where not in left_out], left_out


def with_tool_groups(rows: Sequence[Conversation]) -> list[Conversation]:
    """The rows, with meta.tool_group alike for all that are linked by a tool that they call; rows without a call get
    none."""
    leader: dict[str, str] = {}

    def find(tool: str) -> str:
        while leader.setdefault(tool, tool) != tool:
            tool = leader[tool]
        return tool

    called = [sorted(called_tools(row)) for row in rows]
    for tools in called:
        for tool in tools:
            leader[find(tool)] = find(tools[0])
    return [
        replace(row, meta={**row.meta, "tool_group": find(tools[0])}) if tools else row
        for row, tools in zip(rows, called, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
