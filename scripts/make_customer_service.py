"""Make data/customer_service/{train,test}.jsonl from the spec and the templates beside them.

    python scripts/make_customer_service.py            write both files
    python scripts/make_customer_service.py --check    compare with the existing files; exit code 1 if they differ

It does what `toolhone data generate data/customer_service/spec.yaml` does, in a checkout without an installation.
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
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the existing files differ")
    arguments = parser.parse_args()
    try:
        same = generate(SPEC, Console(highlight=False, soft_wrap=True), compare=arguments.check)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
