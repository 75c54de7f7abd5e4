"""Build the wheel, install it in a new environment and use it in an empty folder, as a newcomer without a clone does.

    .venv/bin/python scripts/check_wheel.py           # takes its dependencies from this environment: half a minute
    .venv/bin/python scripts/check_wheel.py --full    # installs every dependency: minutes

It runs `toolhone init`, `toolhone fetch` and a dry run. A model that this repository has already is not downloaded
again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="install every dependency instead of borrowing them")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", scratch, str(ROOT), cwd=folder)
        wheel = next(folder.glob("toolhone-*.whl"))
        python = new_environment(folder / "env", wheel, full=options.full)
        use(python, folder)
    print(f"{wheel.name}: init, fetch and a dry run work without a clone ({time.monotonic() - started:.0f} s)")
    return 0


def new_environment(folder: Path, wheel: Path, *, full: bool) -> Path:
    """Make a virtual environment with the wheel in it and return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    if full:
        run(python, *PIP, "install", "-c", str(ROOT / "constraints.txt"), str(wheel), cwd=folder)
        return python
    run(python, *PIP, "install", "--no-deps", str(wheel), cwd=folder)
    # A .pth file adds the folder, but not what the .pth files in it add: the editable toolhone stays out of sight.
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (packages / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    return python


def use(python: Path, folder: Path) -> None:
    """Run what a newcomer types, in an empty folder."""
    toolhone, shop = python.parent / "toolhone", folder / "empty" / "shop"
    shop.parent.mkdir()
    run(toolhone, "init", "shop", cwd=shop.parent)
    models = ROOT / ".cache"
    if models.is_dir():
        (shop / ".cache").symlink_to(models)
    run(toolhone, "fetch", cwd=shop)
    run(toolhone, "train", "--config", "config.yaml", "--dry-run", cwd=shop)


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command; end with its output if it fails. Nothing of the repository is on its path."""
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=outside, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"Error: {' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
