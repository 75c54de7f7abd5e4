"""The run folder: where its files are, what the manifest records, and when a run may continue."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from toolhone import __version__
from toolhone.cli import main
from toolhone.config import Config
from toolhone.config_file import load_config
from toolhone.errors import UserError
from toolhone.run_folder import RunFolder, existing_run, open_run, provenance

pytestmark = pytest.mark.usefixtures("in_workspace")


def config(**values: Any) -> Config:
    sections: dict[str, Any] = {"model": {"name": "m"}, "data": {"train": ["a.jsonl"], "test": ["b.jsonl"]}}
    for key, value in values.items():
        section, _, name = key.partition("__")
        if name:
            sections[section] = {**sections.get(section, {}), name: value}
        else:
            sections[section] = value
    return Config.model_validate({"name": "try", **sections})


def test_every_file_of_a_run_has_its_path() -> None:
    run = RunFolder(Path("runs/x"))
    assert [
        str(path.relative_to(run.path))
        for path in (
            run.config,
            run.manifest,
            run.split("test"),
            run.adapter,
            run.checkpoints,
            run.train_log,
            run.predictions("base"),
            run.scores("tuned"),
            run.metrics,
            run.report,
        )
    ] == [
        "config.yaml",
        "manifest.json",
        "splits/test.jsonl",
        "adapter",
        "checkpoints",
        "train_log.jsonl",
        "predictions/base.jsonl",
        "scores/tuned.jsonl",
        "metrics.json",
        "report.html",
    ]


def test_a_new_run_folder_has_the_name_and_the_resolved_config() -> None:
    run = open_run(config(train__epochs=2))
    assert run.path == Path("runs/try")
    assert load_config(run.config) == config(train__epochs=2)


def test_a_run_continues_with_the_same_config() -> None:
    open_run(config()).note(seed=42)
    assert open_run(config()).read_manifest()["seed"] == 42


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora__rank": 8}, "lora.rank is 8, was 16"),
        ({"seed": 1}, "seed is 1, was 42"),
        ({"model__name": "n"}, "model.name is 'n', was 'm'"),
        ({"data__train": ["c.jsonl"]}, "data.train is ['c.jsonl'], was ['a.jsonl']"),
        ({"chat__max_tokens": 512}, "chat.max_tokens is 512, was 2048"),
        ({"train__epochs": 3}, "train.epochs is 3.0, was 1.0"),
    ],
)
def test_a_run_with_another_config_is_refused_with_the_differing_key(values: dict[str, Any], message: str) -> None:
    before = open_run(config()).config.read_text(encoding="utf-8")
    with pytest.raises(UserError) as caught:
        open_run(config(**values))
    assert str(caught.value).startswith(f"runs/try: holds a run with another config ({message}); ")
    assert "--set name=" in str(caught.value)
    assert "--fresh" in str(caught.value)
    assert RunFolder(Path("runs/try")).config.read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    "values",
    [
        {"evaluate__max_new_tokens": 8},
        {"evaluate__base": False},
        {"train__log_every": 5},
        {"train__keep_checkpoints": 1},
        {"train__report_to": ["tensorboard"]},
        {"data__test": ["other.jsonl"]},
        {"data__test_rows": 3},
    ],
)
def test_keys_that_change_no_weight_may_change_in_a_run(values: dict[str, Any]) -> None:
    open_run(config())
    run = open_run(config(**values))
    assert load_config(run.config) == config(**values)


def test_fresh_deletes_the_old_run() -> None:
    old = open_run(config())
    old.mark_finished("train", "abc")
    run = open_run(config(lora__rank=8), fresh=True)
    assert load_config(run.config).lora.rank == 8
    assert run.read_manifest() == {"stages": {}}


def test_a_folder_that_is_not_a_run_stays_unchanged() -> None:
    Path("runs/try").mkdir(parents=True)
    Path("runs/try/notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"^runs/try: is not empty and is not a run folder; choose another name"):
        open_run(config())
    assert [path.name for path in Path("runs/try").iterdir()] == ["notes.txt"]


def test_a_file_in_place_of_the_folder_stays_unchanged() -> None:
    Path("runs").mkdir()
    Path("runs/try").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"^runs/try: is not empty and is not a run folder; choose another name"):
        open_run(config())
    assert Path("runs/try").read_text(encoding="utf-8") == "mine"


def test_a_stage_is_finished_only_for_the_fingerprint_it_was_made_with() -> None:
    run = open_run(config())
    assert not run.is_finished("train", "abc")
    run.mark_finished("train", "abc", steps=12)
    run.mark_finished("predict:base", "xyz")
    assert run.is_finished("train", "abc")
    assert not run.is_finished("train", "abd")
    assert not run.is_finished("predict:tuned", "xyz")
    assert run.read_manifest()["stages"]["train"]["steps"] == 12


def test_a_note_keeps_other_notes_and_the_stages() -> None:
    run = open_run(config())
    run.note(device="cpu")
    run.mark_finished("train", "abc")
    run.note(seed=1)
    run.note(device="cuda")
    manifest = run.read_manifest()
    assert (manifest["device"], manifest["seed"], list(manifest["stages"])) == ("cuda", 1, ["train"])


def test_a_broken_manifest_is_reported_with_the_fix() -> None:
    run = open_run(config())
    run.manifest.write_text('{"stages": ', encoding="utf-8")
    with pytest.raises(UserError, match=r"^runs/try/manifest\.json:1: broken JSON.* --fresh"):
        run.read_manifest()


def test_an_existing_run_is_opened_with_its_config() -> None:
    open_run(config(lora__targets=["q_proj"], train__learning_rate=1e-5))
    run, found = existing_run(Path("runs/try"))
    assert run.path == Path("runs/try")
    assert found == config(lora__targets=["q_proj"], train__learning_rate=1e-5)


def test_a_missing_run_is_reported_with_the_existing_runs() -> None:
    with pytest.raises(UserError) as caught:
        existing_run(Path("runs/x"))
    assert str(caught.value) == "runs/x: is not a run folder; known: none yet, run `make train`"
    open_run(config())
    open_run(config(name="a"))
    with pytest.raises(UserError, match=r"known: runs/a, runs/try$"):
        existing_run(Path("runs/x"))


def test_a_broken_config_in_a_run_folder_is_reported_with_its_line() -> None:
    path = open_run(config()).config
    path.write_text(path.read_text(encoding="utf-8").replace("rank: 16", "rnak: 16"), encoding="utf-8")
    with pytest.raises(UserError, match=r"^runs/try/config\.yaml:\d+: lora\.rnak: unknown key"):
        existing_run(Path("runs/try"))


def test_provenance_names_versions_seed_and_commit() -> None:
    found = provenance(config(seed=7))
    assert (found["toolhone"], found["run"], found["seed"]) == (__version__, "try", 7)
    assert found["versions"]["torch"] == metadata.version("torch")
    assert found["git_commit"] is None, "an empty folder is in no repository"


def test_provenance_marks_a_commit_with_changed_files_as_dirty(in_workspace: Path) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    Path("file").write_text("one", encoding="utf-8")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True, cwd=in_workspace)
    commit = provenance(config())["git_commit"]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert head.startswith(commit)
    Path("file").write_text("two", encoding="utf-8")
    assert provenance(config())["git_commit"] == f"{commit}-dirty"


def test_a_note_that_cannot_be_written_leaves_the_manifest_unchanged() -> None:
    run = open_run(config())
    run.note(seed=1)
    with pytest.raises(TypeError):
        run.note(seed={1})
    assert run.read_manifest()["seed"] == 1
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "manifest.json"]


# The lock

QUIET = Console(quiet=True)
_HOLD = """
import sys
from pathlib import Path
from rich.console import Console
from toolhone.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock(Console(quiet=True)):
    print("locked", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def other_process(run: RunFolder) -> Iterator[subprocess.Popen[str]]:
    """Start a process that holds the run's lock until it is killed or the block ends."""
    command = [sys.executable, "-c", _HOLD, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


@pytest.mark.parametrize(
    "command",
    [
        ["score", "--run", "runs/try"],
        ["report", "--run", "runs/try"],
        ["predict", "--run", "runs/try", "--endpoint-model", "m", "--base-url", "http://127.0.0.1:9/v1"],
    ],
    ids=lambda command: command[0],
)
def test_a_command_that_writes_into_a_folder_in_use_is_refused_with_the_process(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = open_run(config())
    run.split("test").parent.mkdir()
    run.split("test").write_text('{"messages": [{"role": "user", "content": "?"}]}', encoding="utf-8")
    run.note(judged="test", chat={"format": "hermes"})
    with other_process(run) as process:
        before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
        assert main(command) == 2
        assert f"Error: runs/try: is in use by process {process.pid} on " in capsys.readouterr().err
        assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_killed_process_leaves_no_lock_and_the_folder_stays_usable() -> None:
    run = RunFolder(Path("runs/try"))
    with other_process(run) as process:
        with pytest.raises(UserError, match=r"runs/try: is in use by process \d+ on .*, since \d{4}-"), run.lock(QUIET):
            raise AssertionError
        process.kill()
        process.wait()
        assert [path.name for path in run.path.iterdir()] == [".lock"]
        open_run(config())  # the remaining lock file does not make the folder foreign
        with run.lock(QUIET):
            open_run(config(lora__rank=8), fresh=True)
            assert run.lock_file.is_file(), "--fresh must not delete the lock that is held"
    assert not run.lock_file.exists()


def test_a_lock_leaves_no_folder_if_nothing_was_written() -> None:
    run = RunFolder(Path("runs/try"))
    with pytest.raises(UserError), run.lock(QUIET):
        raise UserError("refused")
    assert not run.path.exists()


def test_a_lock_file_deleted_between_open_and_lock_is_opened_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import fcntl

    run = open_run(config())
    lock, calls = fcntl.flock, []

    def deleted_before(handle: int, how: int) -> None:
        calls.append(handle)
        if len(calls) == 1:
            run.lock_file.unlink()
        lock(handle, how)

    monkeypatch.setattr("toolhone.run_folder.fcntl.flock", deleted_before)
    with run.lock(QUIET):
        assert len(calls) == 2
        assert "process" in run.lock_file.read_text(encoding="utf-8")


def test_a_file_system_without_locks_gets_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("toolhone.run_folder.fcntl.flock", unsupported)
    printed = io.StringIO()
    with RunFolder(Path("runs/try")).lock(Console(file=printed, width=200)):
        pass
    assert "note: runs/try cannot be locked here; do not run a second command on it" in printed.getvalue()


def test_a_read_only_folder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(config())

    def read_only(*_: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("toolhone.run_folder.os.open", read_only)
    with pytest.raises(UserError, match=r"^runs/try: cannot be written to \(Read-only"), run.lock(QUIET):
        raise AssertionError
