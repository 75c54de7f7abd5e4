"""Create a project folder with everything that a first training needs: `toolhone init`.

In: a new or empty folder. Out: config.yaml, tools.json, data/, Makefile, README.md and .gitignore in it.
The config is configs/cpu.yaml of toolhone's repository with other paths, and the rows are those of
data/customer_service. A wheel contains copies of them (listed in pyproject.toml); an editable install reads the
originals.
"""

from __future__ import annotations

import re
import tempfile
from importlib import resources
from pathlib import Path

from toolhone.errors import UserError

RUN_NAME = "first"
SHIPPED = {
    "config.yaml": "configs/cpu.yaml",
    "tools.json": "data/customer_service/tools.json",
    "data/train.jsonl": "data/customer_service/train.jsonl",
    "data/test.jsonl": "data/customer_service/test.jsonl",
}
"""Files of a project, and the repository files that they are made from."""
_TEMPLATES = {"Makefile": "Makefile", "README.md": "README.md", ".gitignore": "gitignore"}
"""Files of a project, and the files of the package's folder `project` that they are copied from."""

_HEADER = f"""\
# What is tuned, and how: `toolhone train --config config.yaml`. `toolhone config` explains every key.
# Paths start at the folder that toolhone runs in. All files of a run go to runs/<name>.
name: {RUN_NAME}
"""


def create_project(folder: Path) -> None:
    """Write a project's files into a new or empty folder.

    Raises:
        UserError: if the folder is not empty, or cannot be written. Then it is unchanged.
    """
    _require_empty(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            whole = Path(scratch) / "project"
            for name, text in _files().items():
                path = whole / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(text)
            if folder.is_dir():  # a shell may be in the folder, so keep it and move the files into it
                for path in whole.iterdir():
                    path.rename(folder / path.name)
            else:
                whole.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); check its permissions, or choose another folder"
        ) from None


def _require_empty(folder: Path) -> None:
    if folder.is_dir():
        found = sorted(path.name for path in folder.iterdir())
        if found:
            raise UserError(f"{folder}: is not empty (it has {found[0]}); choose a new or empty folder")
    elif folder.exists() or folder.is_symlink():
        raise UserError(f"{folder}: is a file; choose a new or empty folder")


def _files() -> dict[str, bytes]:
    """Return the content of every file of a project, by path."""
    files = {name: _shipped(name) for name in SHIPPED}
    files["config.yaml"] = project_config(files["config.yaml"].decode()).encode()
    templates = resources.files("toolhone") / "project"
    return files | {name: (templates / source).read_bytes() for name, source in _TEMPLATES.items()}


def _shipped(name: str) -> bytes:
    """Return the content of a file: from the wheel, or from the repository in an editable install."""
    packed = resources.files("toolhone") / "project" / name
    return packed.read_bytes() if packed.is_file() else (Path(__file__).parents[2] / SHIPPED[name]).read_bytes()


def project_config(text: str) -> str:
    """Return configs/cpu.yaml with a project's name and paths. Keys and comments stay."""
    body = re.sub(r"\A(?:#.*\n|\s*\n)*name:.*\n", "", text)
    for name, source in SHIPPED.items():
        body = body.replace(source, name)
    return _HEADER + body
