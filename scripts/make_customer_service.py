"""Make data/customer_service/{train,test}.jsonl from the spec and the templates beside them.

    python scripts/make_customer_service.py            writes both files
    python scripts/make_customer_service.py --check    compares with the files there; exit code 1 where they differ

It is `toolhone data generate data/customer_service/spec.yaml`, for a checkout in which nothing is installed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from toolhone.data.generate.rows import generate
from toolhone.errors import UserError

SPEC = Path(__file__).resolve().parent.parent / "data" / "customer_service" / "spec.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the customer_service data set from its spec.")
    parser.add_argument("--check", action="store_true", help="compare with the files that are there, write nothing")
    arguments = parser.parse_args()
    try:
        same = generate(SPEC, Console(highlight=False, soft_wrap=True), compare=arguments.check)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
