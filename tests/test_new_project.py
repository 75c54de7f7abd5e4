"""`toolhone init`: what the new project holds, and that a folder in use stays as it is."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from toolhone.cli import main
from toolhone.config_file import load_config
from toolhone.errors import UserError
from toolhone.fetch import MODELS, MODELS_FOLDER
from toolhone.new_project import RUN_NAME, SHIPPED, create_project

ROOT = Path(__file__).parents[1]
FILES = {"config.yaml", "tools.json", "data/train.jsonl", "data/test.jsonl", "Makefile", "README.md", ".gitignore"}


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_project_has_every_file_and_init_prints_the_next_two_commands(
    in_workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "my shop"]) == 0
    assert files_of(in_workspace / "my shop") == FILES
    assert [path.name for path in in_workspace.iterdir()] == ["my shop"]
    shown = capsys.readouterr().out.splitlines()
    assert shown[1:] == ["  cd 'my shop' && toolhone fetch", "  toolhone train --config config.yaml"]


def test_the_config_says_the_same_as_configs_cpu_yaml_except_name_and_paths(
    in_workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_project(Path("shop"))
    monkeypatch.chdir("shop")
    project = load_config(Path("config.yaml")).model_dump()
    original = load_config(ROOT / "configs" / "cpu.yaml").model_dump()
    for key in ("train", "test", "tools"):
        original["data"].pop(key)
    paths = {key: project["data"].pop(key) for key in ("train", "test", "tools")}
    assert paths == {"train": ("data/train.jsonl",), "test": ("data/test.jsonl",), "tools": "tools.json"}
    assert project.pop("name") == RUN_NAME
    original.pop("name")
    assert project == original
    assert Path(project["model"]["name"]) in {MODELS_FOLDER / name for name in MODELS}


def test_the_config_keeps_the_comments_of_the_original_and_names_no_file_of_the_repository(tmp_path: Path) -> None:
    create_project(tmp_path / "shop")
    written = (tmp_path / "shop" / "config.yaml").read_text(encoding="utf-8")
    original = (ROOT / "configs" / "cpu.yaml").read_text(encoding="utf-8")
    after_name = original.partition("\nname:")[2].partition("\n")[2]
    assert written.count("#") >= after_name.count("#") > 0
    for absent in ("customer_service", "configs/", "scripts/"):
        assert absent not in written


def test_the_sample_rows_pass_the_checks(in_workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create_project(Path("shop"))
    rows = ["shop/data/train.jsonl", "shop/data/test.jsonl"]
    assert main(["data", "check", *rows, "--tools", "shop/tools.json"]) == 0
    assert "no faults found" in capsys.readouterr().out


def test_an_empty_folder_is_filled(in_workspace: Path) -> None:
    Path("shop").mkdir()
    create_project(Path("shop"))
    assert files_of(Path("shop")) == FILES


def test_the_current_folder_is_filled_if_it_is_empty(
    in_workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("shop").mkdir()
    monkeypatch.chdir("shop")
    assert main(["init", "."]) == 0
    assert files_of(Path()) == FILES
    assert "cd" not in capsys.readouterr().out


@pytest.mark.parametrize("used", ["file", "folder"])
def test_a_folder_in_use_is_refused_and_stays_as_it_is(
    in_workspace: Path, capsys: pytest.CaptureFixture[str], used: str
) -> None:
    if used == "folder":
        Path("shop").mkdir()
        Path("shop/notes.txt").write_text("mine", encoding="utf-8")
    else:
        Path("shop").write_text("mine", encoding="utf-8")
    before = files_of(in_workspace)
    assert main(["init", "shop"]) == 2
    found = "is not empty (it has notes.txt)" if used == "folder" else "is a file"
    assert capsys.readouterr().err == f"Error: shop: {found}; choose a new or empty folder\n"
    assert files_of(in_workspace) == before


def test_a_full_disk_leaves_nothing_half_written(in_workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def write_some(path: Path, data: bytes) -> int:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(path)
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", write_some)
    with pytest.raises(UserError, match=r"^shop: cannot be written \(No space left on device\)"):
        create_project(Path("shop"))
    assert len(written) == 3
    assert list(in_workspace.iterdir()) == []


def test_a_wheel_gets_the_files_that_a_project_is_made_from() -> None:
    built: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = built["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {source: f"toolhone/project/{name}" for name, source in SHIPPED.items()}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_makefile_runs_toolhone_with_the_config_and_the_run_of_the_project(tmp_path: Path) -> None:
    create_project(tmp_path / "shop")

    def make(*words: str) -> str:
        command = ["make", "--no-print-directory", "TOOLHONE=echo", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path / "shop").stdout

    assert make("train", "SET=seed=7 train.epochs=1").splitlines() == [
        "fetch --config config.yaml",
        "train --config config.yaml --set seed=7 --set train.epochs=1",
    ]
    assert make("report") == f"report --run runs/{RUN_NAME}\n"
    assert make("ask", "Q=where is it?") == f"ask --run runs/{RUN_NAME} where is it?\n"
    assert all(f"make {target}" in make() for target in ("train", "report", "ask", "help"))
