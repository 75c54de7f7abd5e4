"""Make training and test rows from BFCL's non-live entries, with tools that only the test rows call.

configs/bfcl-unseen-tools.yaml trains on them, to measure how well a model calls tools that it was not trained on.
Entries with Python functions, and those where no call is right, are split as `toolhone data split --unseen-tools`
does: rows that share a tool, and near duplicates, stay on one side. An entry whose gold contradicts its tool's schema
is left out and named, since training would refuse it. meta.tool_group names the rows that share a tool, so that a
config can hold out validation rows by tool too. BFCL's live entries are not used: they are for evaluation.
scripts/fetch_bfcl.py downloads the data.

The training rows are also in one-call.jsonl, more-calls.jsonl and no-call.jsonl, so that a config can take fewer of
some. In these files the calls teach more. BFCL's gold lets a call leave out many arguments that the user states: here
the call has them. And every second row of simple_python, which has only one tool, gets a tool of another training row,
so that more rows teach the model to choose.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolhone.cli.terminal import plain_console
from toolhone.data.augment import Augmentation, augment
from toolhone.data.check import check
from toolhone.data.groups import called_tools
from toolhone.data.importers.bfcl import read_bfcl_folder
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import read_conversations
from toolhone.data.split import Shares
from toolhone.data.split_files import show, split_files
from toolhone.errors import UserError
from toolhone.jsonl import write_conversations
from toolhone.records import Conversation, GoldCall

CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path(".cache/bfcl"), help="folder of BFCL's data (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(".cache/bfcl-unseen-tools"), help="folder to write (default: %(default)s)"
    )
    parser.add_argument(
        "--unseen-tools",
        type=float,
        default=0.15,
        help="share of the tools that only test rows call, from 0 to 1 (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        rows, left_out = sound_entries(read_bfcl_folder(options.folder, CATEGORIES))
        for where, message in left_out.items():
            print(f"left out: {where}: {message}")
        source = options.out / "rows.jsonl"
        write_conversations(source, with_tool_groups(rows))
        shares = Shares(validation=0.0, calibration=0.0, test=0.1)
        result = split_files([str(source)], options.out / "split", shares, unseen_tools=options.unseen_tools)
        train = list(read_conversations(options.out / "split" / "train.jsonl"))
        calls = with_second_tools([with_stated_options(row) for row in train if called_tools(row)])
        # A row that listed kept tools alone has none left, and so nothing to decline.
        parts = {
            "one-call": [row for row in calls if len(row.messages[-1].tool_calls) == 1],
            "more-calls": [row for row in calls if len(row.messages[-1].tool_calls) > 1],
            "no-call": [row for row in train if row.tools and not called_tools(row)],
        }
        for name, part in parts.items():
            write_conversations(options.out / f"{name}.jsonl", part)
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


def with_stated_options(row: Conversation) -> Conversation:
    """The row, whose turn has each optional argument with an accepted text or number that the user's words hold."""
    words = "\n".join(message.content for message in row.messages if message.role == "user")
    gold = row.expected.calls if row.expected else ()
    *before, turn = row.messages
    calls = tuple(
        replace(call, arguments=_in_order(call.arguments | _stated(one, words), one.arguments))
        for call, one in zip(turn.tool_calls, gold, strict=True)
    )
    return replace(row, messages=(*before, replace(turn, tool_calls=calls)))


def _stated(gold: GoldCall, words: str) -> dict[str, Any]:
    found = {}
    for name in gold.optional:
        texts = [value for value in gold.arguments[name] if isinstance(value, str | int | float)]
        held = [value for value in texts if not isinstance(value, bool) and _holds(words, str(value))]
        found.update({name: held[0]} if held else {})
    return found


def _holds(words: str, value: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(value)}(?!\w|\.\d)", words, re.IGNORECASE) is not None


def _in_order(arguments: dict[str, Any], order: Iterable[str]) -> dict[str, Any]:
    return {name: arguments[name] for name in order if name in arguments}


def with_second_tools(rows: Sequence[Conversation]) -> list[Conversation]:
    """The rows, of which every other one of simple_python lists a tool of another row too, in either order."""
    pool = {tool.name: tool for row in rows for tool in row.tools}
    simple = [row for row in rows if row.meta["category"] == "simple_python"][::2]
    made = augment(simple, Augmentation(shuffle_tools=True, distractors=1), pool, Counter())
    changed = {row.id: row for row in made}
    return [changed.get(row.id, row) for row in rows]


if __name__ == "__main__":
    sys.exit(main())
