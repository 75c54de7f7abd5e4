"""Ctrl-C in each stage of a real `toolhone train`: it says what is kept, and the command that it prints continues."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from toolhone.cli.terminal import describe_interruption
from toolhone.errors import Interrupted

CONFIG = """\
name: try
model: {name: tiny, device: cpu, dtype: float32}
data: {train: [train.jsonl], test: [test.jsonl], tools: tools.json, validation: 0}
train: {max_steps: 60, batch_size: 2}
evaluate: {batch_size: 1, max_new_tokens: 200}
"""
TURNS = 30


@pytest.fixture
def workspace(in_workspace: Path, tiny_llama: Path) -> Path:
    """A folder with a config whose stages take long enough to be interrupted."""
    (in_workspace / "tiny").symlink_to(tiny_llama)
    Path("try.yaml").write_text(CONFIG, encoding="utf-8")
    for name, first, last in (("train", 0, 40), ("test", 40, 40 + TURNS)):
        rows = []
        for number in range(first, last):
            call = {"function": {"name": "query_order", "arguments": {"order_id": f"ORD-{number}"}}}
            turn = {"role": "assistant", "content": None, "tool_calls": [call]}
            rows.append({"id": f"row-{number}", "messages": [{"role": "user", "content": f"order {number}?"}, turn]})
        Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    schema = {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}
    tool = {"name": "query_order", "description": "Look up an order", "parameters": schema}
    Path("tools.json").write_text(json.dumps([tool]), encoding="utf-8")
    return in_workspace


def interrupted(command: list[str], is_reached: Callable[[], bool]) -> tuple[str, list[str]]:
    """Send SIGINT to a command in a stage. Returns what it says is kept, and the command that it prints."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with Path("out.txt").open("w") as out:
        running = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.PIPE, text=True)
        while not is_reached():
            assert running.poll() is None, f"ended before the stage: {running.communicate()[1]}"
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        error = running.communicate(timeout=120)[1]
    assert running.returncode == 130, error
    assert "Traceback" not in error
    kept, continues = error.strip().splitlines()[-2:]
    assert continues.startswith("to continue: ")
    return kept, shlex.split(continues.removeprefix("to continue: "))


def lines(pattern: str) -> int:
    return sum(path.read_bytes().count(b"\n") for path in Path("runs/try").glob(pattern))


@pytest.mark.slow  # it starts five processes
@pytest.mark.usefixtures("workspace")
def test_each_stage_can_be_interrupted_and_continued_by_the_printed_command() -> None:
    command = [sys.executable, "-m", "toolhone", "train", "--config", "try.yaml"]
    kept, again = interrupted(command, lambda: "chat format" in Path("out.txt").read_text())
    assert kept == "interrupted: nothing was written yet"
    assert again == command

    kept, again = interrupted(again, lambda: lines("predictions/.base.jsonl.*.part") >= 2)
    answered = lines("predictions/.base.jsonl.*.part")
    assert kept == f"interrupted: kept in runs/try: {answered} base answers"
    assert again == command

    kept, again = interrupted(again, lambda: lines("train_log.jsonl") >= 3)
    assert f"base: {answered} answers are reused, {TURNS - answered} are left" in Path("out.txt").read_text()
    assert kept.startswith("interrupted: kept in runs/try: the base answers, the checkpoint of step ")
    assert again == [*command, "--resume"]

    kept, again = interrupted(again, lambda: lines("predictions/.tuned.jsonl.*.part") >= 2)
    answered = lines("predictions/.tuned.jsonl.*.part")
    assert kept == (f"interrupted: kept in runs/try: the base answers, the trained adapter, {answered} tuned answers")
    assert again == command

    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "reusing the adapter" in done.stdout
    assert Path("runs/try/report.html").is_file()
    assert [json.loads(line)["step"] for line in Path("runs/try/train_log.jsonl").read_text().splitlines()] == [
        *range(1, 61)
    ]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/where/toolhone"])
    for name in ("WORLD_SIZE", "MAKELEVEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        (None, "train --config 'a b.yaml' --fresh"),  # nothing was written, so --fresh has deleted nothing
        ("", "train --config 'a b.yaml'"),
        ("--resume", "train --config 'a b.yaml' --resume"),
    ],
)
def test_the_command_that_continues_has_the_flags_that_it_needs(flag: str | None, expected: str) -> None:
    said = describe_interruption(Interrupted("KEPT", flag), ["train", "--config", "a b.yaml", "--fresh"])
    assert said == f": KEPT\nto continue: /some/where/toolhone {expected}"


@pytest.mark.usefixtures("program")
def test_make_and_launchers_get_their_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKELEVEL", "1")
    said = describe_interruption(Interrupted("KEPT", "--resume"), ["train"])
    assert said.endswith("to continue: /some/where/toolhone train --resume (make: RESUME=1)")
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = describe_interruption(Interrupted("KEPT", "--resume"), ["train"])
    assert said == ": KEPT\nto continue, run the same command again, with --resume"
    assert describe_interruption(KeyboardInterrupt(), ["ask"]) == ""
