"""Make training and test rows of BFCL's non-live entries, with tools that only the test rows call.

configs/bfcl-unseen-tools.yaml trains on them: how well does a model call tools that it was not trained on? Entries
whose functions are Python's, and those where no call is right, are split as `toolhone data split --unseen-tools` does;
rows of a kept tool, and rows much alike, stay on one side. BFCL's live entries are left alone, for evaluation.
scripts/fetch_bfcl.py brings the data.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from toolhone.data.formats.bfcl import read_bfcl_folder
from toolhone.data.partition.files import show, split_files
from toolhone.data.partition.partition import Shares
from toolhone.data.read import RowFault
from toolhone.errors import UserError
from toolhone.jsonl import write_conversations
from toolhone.terminal import plain_console

CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".cache/bfcl"), help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(".cache/bfcl-unseen-tools"), help="(default: %(default)s)")
    parser.add_argument("--unseen-tools", type=float, default=0.15, help="share of the tools (default: %(default)s)")
    options = parser.parse_args()
    try:
        found = list(read_bfcl_folder(options.folder, CATEGORIES))
        rows = [row for row in found if not isinstance(row, RowFault)]
        for fault in (row for row in found if isinstance(row, RowFault)):
            print(f"left out: {fault.where}: {fault.message}")
        source = options.out / "rows.jsonl"
        write_conversations(source, rows)
        shares = Shares(validation=0.0, calibration=0.0, test=0.1)
        result = split_files([str(source)], options.out / "split", shares, unseen_tools=options.unseen_tools)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    show(result, plain_console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
