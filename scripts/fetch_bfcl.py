"""Download the data of BFCL v4, the Berkeley Function Calling Leaderboard, without a model hub.

The PyPI package `bfcl-eval` contains it (Apache-2.0, by the Gorilla project of UC Berkeley). This script downloads the
wheel without installing it, checks its SHA-256, and unpacks only the data, the package's statement of its licence and
the licence's text. It does nothing if the folder exists. `toolhone.data.importers.bfcl` reads the data.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "bfcl-eval==2026.3.23"
WHEEL_SHA256 = "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a"
FOLDER = Path(".cache/bfcl")
INSIDE = "bfcl_eval/data/"
LICENCE = Path(__file__).parents[1] / "LICENSE"  # Apache-2.0 as well; the wheel names its licence, without the text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder for the data (default: %(default)s)")
    folder: Path = parser.parse_args().folder
    if (folder / "BFCL_v4_simple_python.json").is_file():
        print(f"{folder}: already there")
        return 0
    if folder.exists():
        print(f"Error: {folder}: exists, but is not BFCL's data; choose another with --folder", file=sys.stderr)
        return 1
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = download(Path(scratch))
        if wheel is None:
            return 1
        unpacked = Path(scratch) / "unpacked"
        unpack(wheel, unpacked)
        unpacked.rename(folder)
    print(f"{folder}: ready")
    return 0


def download(scratch: Path) -> Path | None:
    """Return the downloaded wheel; print why and return None if that fails or the file has another hash."""
    print(f"fetching {PACKAGE} (2 MB) ...", flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE, "--dest", str(scratch)]
    if subprocess.run(pip, check=False).returncode != 0:
        print(
            f"Error: pip could not download {PACKAGE}; check the network, or give a folder with the wheel: "
            "PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER",
            file=sys.stderr,
        )
        return None
    wheel = next(scratch.glob("bfcl_eval-*.whl"))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        print(f"Error: {wheel.name} has SHA-256 {found}, expected {WHEEL_SHA256}; not using it", file=sys.stderr)
        return None
    return wheel


def unpack(wheel: Path, folder: Path) -> None:
    """Write the wheel's data, its README, its METADATA and the licence into the folder; no code."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            inside = member.startswith(INSIDE) and not member.startswith(f"{INSIDE}unused_datasets/")
            if not member.endswith("/") and (inside or member.endswith(".dist-info/METADATA")):
                path = folder / (member.removeprefix(INSIDE) if inside else "METADATA")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(member))
    shutil.copyfile(LICENCE, folder / "LICENSE")


if __name__ == "__main__":
    sys.exit(main())
