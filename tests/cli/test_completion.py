"""Shell completion: the script that `toolhone completion bash` prints, run in a real bash."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from toolhone.cli import main

COMPLETE = """\
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(( $# - 1 ))
$(complete -p toolhone | sed -E 's/.* -F ([^ ]+) .*/\\1/') toolhone
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""Completes the last of its arguments, as bash does at the tab key."""


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    assert main(["completion", "bash"]) == 0
    path = tmp_path / "completion.bash"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    return path


def completed(script: Path, *words: str) -> list[str]:
    command = ["bash", "--norc", "-c", COMPLETE, "bash", str(script), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=script.parent)
    assert "command not found" not in done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("toolhone", "fe"), ["fetch"]),
        (("toolhone", "comp"), ["completion", "compare"]),
        (("toolhone", "data", "pre"), ["preview"]),
        (("toolhone", "train", "--dr"), ["--dry-run"]),
        (("toolhone", "data", "convert", "x.jsonl", "--to", "he"), ["hermes"]),
        (("toolhone", "completion", "ba"), ["bash"]),
    ],
    ids=["command", "two commands", "command of data", "flag", "choice", "choice without a flag"],
)
def test_bash_completes_commands_flags_and_choices(script: Path, words: tuple[str, ...], expected: list[str]) -> None:
    assert sorted(completed(script, *words)) == sorted(expected)


def test_bash_completes_the_file_of_a_flag_that_takes_a_path(script: Path) -> None:
    (script.parent / "shop.yaml").touch()
    assert completed(script, "toolhone", "train", "--config", "sho") == ["shop.yaml"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_name_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for command in ("fetch", "train", "learning-curve", "paraphrase"):
        assert command in script


def test_help_says_how_to_install_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "--help"])
    assert "echo 'source <(toolhone completion bash)' >> ~/.bashrc" in capsys.readouterr().out
