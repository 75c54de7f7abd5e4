"""Measure reading, checking, writing and splitting on generated rows of 1 kB.

Every stage runs in its own process, which reports its seconds, its processor time and its peak memory. All stages read
first, so that the cost of checking or writing is the difference. Rows a second are rows per second of processor time,
on one core. Only --near looks for near duplicates, since the texts are then held in memory.

    .venv/bin/python scripts/bench_data.py                               # 100,000 rows
    .venv/bin/python scripts/bench_data.py --rows 1000000 --keep /tmp/bench --json data.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROW_BYTES = 1000
STAGES = ("read", "check", "write", "all", "split")
_TEXT = (
    "please could you have a look for me because the parcel that my sister sent last week has not come yet and she "
    "asks every day whether it is lost or only late while the shop says nothing at all and nobody picks up the phone"
)
_MB = 1_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="number of rows (default: %(default)s)")
    parser.add_argument(
        "--keep", type=Path, help="folder for the files, which stay and are used again (default: a temporary one)"
    )
    parser.add_argument("--near", action="store_true", help="also look for near duplicates in the split")
    parser.add_argument("--json", type=Path, help="JSON file to write the figures to as well")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)  # for the child processes
    options = parser.parse_args()
    if options.stage:
        print(json.dumps(run_stage(options.stage, options.keep, options.near)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        found = measure(folder, options.rows, options.near)
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


def measure(folder: Path, rows: int, near: bool = False) -> dict[str, Any]:
    """Generate the rows, unless the folder has that many already, and run every stage in a process of its own."""
    from toolhone.jsonl import write_jsonl

    source = folder / f"rows-{rows}.jsonl"
    if not source.is_file():
        write_jsonl(source, generate(rows))
    (folder / "rows.jsonl").unlink(missing_ok=True)
    (folder / "rows.jsonl").symlink_to(source.resolve())
    stages = {stage: _in_child(stage, folder, near) for stage in STAGES}
    counts = {stage: figures["rows"] for stage, figures in stages.items()}
    if set(counts.values()) != {rows}:
        raise SystemExit(f"rows were lost: {counts}, expected {rows}")
    base = stages["read"]["cpu_seconds"]
    alone = {
        "read": base,
        "check": stages["check"]["cpu_seconds"] - base,
        "write": stages["write"]["cpu_seconds"] - base,
        "read, check and write": stages["all"]["cpu_seconds"],
    }
    return {
        "rows": rows,
        "bytes": source.stat().st_size,
        "findings": stages["check"]["findings"],
        "rows_per_second": {name: rows / max(seconds, 1e-9) for name, seconds in alone.items()},
        "split": {"seconds": stages["split"]["seconds"], "peak_mb": stages["split"]["peak_mb"], "near": near},
        "stages": stages,
        "cores": os.cpu_count(),
    }


def generate(rows: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of some 1,000 bytes without a fault: a question with a number in it, and the call that it asks for."""
    chance, words = random.Random(seed), _TEXT.split()
    tools = [
        _tool("track_parcel", "Say where a parcel is", "parcel_id"),
        _tool("cancel_order", "Cancel an order that has not been sent", "order_id"),
    ]
    for number in range(rows):
        name, argument, lead = (
            ("track_parcel", "parcel_id", "Where is parcel"),
            ("cancel_order", "order_id", "Cancel order"),
        )[number % 2]
        value = f"ID-{number:07d}"
        arguments = json.dumps({argument: value})
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
        question = {"role": "user", "content": f"{lead} {value}?"}
        turn = {"role": "assistant", "content": None, "tool_calls": [call]}
        row = {"id": f"row-{number}", "messages": [question, turn], "tools": tools, "meta": {"language": "en"}}
        lacking = ROW_BYTES - len(json.dumps(row)) - 1
        question["content"] += (" " + " ".join(chance.choices(words, k=lacking // 4 + 8)))[: max(lacking, 0)]
        yield row


def _tool(name: str, description: str, argument: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {argument: {"type": "string", "description": "As the customer writes it"}},
        "required": [argument],
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _in_child(stage: str, folder: Path, near: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, "--stage", stage, "--keep", str(folder), *(["--near"] if near else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def run_stage(stage: str, folder: Path, near: bool) -> dict[str, Any]:
    """Run one stage in this process and tell what it took."""
    from toolhone.data.check import Survey
    from toolhone.data.importers.importer import RowFault
    from toolhone.data.read import read_source
    from toolhone.data.split import Shares
    from toolhone.data.split_files import split_files
    from toolhone.jsonl import write_conversations
    from toolhone.records import Conversation

    source = folder / "rows.jsonl"
    count = findings = 0
    survey = Survey()

    def rows(checked: bool) -> Iterator[Conversation]:
        nonlocal count, findings
        for row in read_source(source):
            if isinstance(row, RowFault):
                raise SystemExit(f"{row.where}: {row.message}")
            count += 1
            if checked:
                findings += sum(1 for _ in survey.row(row))
            yield row

    started, cpu = time.perf_counter(), time.process_time()
    if stage == "split":
        result = split_files([str(source)], folder / "split", Shares(), near=near)
        count = result.summary["rows"]
    elif stage in ("write", "all"):
        write_conversations(folder / "written.jsonl", rows(stage == "all"))
    else:
        for _ in rows(stage == "check"):
            pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "rows": count,
        "seconds": round(time.perf_counter() - started, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "peak_mb": round(peak / _MB, 1),
        "findings": findings,
    }


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    title = f"{found['rows']:,} rows, {found['bytes'] / _MB:,.0f} MB, {found['findings']} findings"
    table = Table(title=title, title_justify="left")
    table.add_column("Stage")
    for column in ("rows/s on one core", "seconds", "peak MB"):
        table.add_column(column, justify="right")
    names = {"read": "read", "check": "check", "write": "write", "all": "read, check and write"}
    for stage in STAGES:
        speed = f"{found['rows_per_second'][names[stage]]:,.0f}" if stage in names else ""
        figures = found["stages"][stage]
        table.add_row(names.get(stage, stage), speed, f"{figures['seconds']:,.1f}", f"{figures['peak_mb']:,.0f}")
    console = Console()
    console.print(table)
    console.print("seconds and memory of check, write and split include reading", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
