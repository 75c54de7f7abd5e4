"""`toolhone serve` on the command line: what it refuses at the start, and that it serves until it is interrupted."""

from __future__ import annotations

import json
import socket
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from toolhone.cli import main

CASCADE = ["--policy", "policy.json", "--large-base-url", "http://127.0.0.1:1/v1", "--large-model", "big"]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOOLHONE_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def refused(capsys: pytest.CaptureFixture[str], *flags: str, run: str = "runs/none") -> str:
    """Run the command, which must fail at once, and return its message."""
    assert main(["serve", "--run", run, "--port", "0", *flags]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--policy", "policy.json"], "--large-base-url is missing"),
        (["--log-texts"], "--log-texts: belongs to a cascade, which needs --policy, --large-base-url, --large-model"),
        ([*CASCADE, "--large-timeout", "0"], "--large-timeout: expected more than 0, found 0.0"),
        ([*CASCADE, "--price-in", "-1", "--price-out", "1"], "--price-in: expected 0 or more"),
        ([*CASCADE, "--max-usd-a-day", "5"], "needs both --price-in and --price-out"),
        ([*CASCADE, "--price-in", "1"], "needs both --price-in and --price-out"),
        (["--max-tokens", "0"], "--max-tokens: expected 1 or more"),
        (
            ["--host", "0.0.0.0"],
            "--host 0.0.0.0: other machines can reach this address, and TOOLHONE_API_KEY is not set",
        ),
        (["--port", "70000"], "--port 70000: expected a number from 0 to 65535"),
        ([], "runs/none: is not a run folder"),
    ],
)
def test_invalid_flags_and_runs_are_reported_at_once(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str], in_workspace: Path
) -> None:
    assert message in refused(capsys, *flags)


def test_an_empty_key_counts_as_not_set(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLHONE_API_KEY", "")
    assert "TOOLHONE_API_KEY is not set" in refused(capsys, "--host", "0.0.0.0")


def test_a_taken_port_is_reported_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"--port {port}: cannot bind (Address already in use)" in refused(capsys, "--port", port)


def test_a_missing_package_is_reported_with_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "the package fastapi is not installed; run: pip install 'toolhone[serve]'" in refused(capsys)


def test_a_run_is_served_until_it_is_interrupted(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running: list[Any] = []
    started = threading.Event()
    run = uvicorn.Server.run

    def watched(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        sockets[0].listen()  # from here on clients can connect and wait for an answer
        running.extend((server, sockets[0].getsockname()[1]))
        started.set()
        run(server, sockets=sockets)

    monkeypatch.setattr(uvicorn.Server, "run", watched)
    codes: list[int] = []
    command = ["serve", "--run", str(run_folder), "--port", "0", "--engine", "transformers"]
    thread = threading.Thread(target=lambda: codes.append(main(command)))
    thread.start()
    try:
        assert started.wait(60)
        port = running[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30) as reply:
            assert [model["id"] for model in json.load(reply)["data"]] == ["small"]
    finally:
        running[0].should_exit = True
        thread.join(30)
    assert codes == [0]
    shown = capsys.readouterr().out
    assert f"small in transformers: http://127.0.0.1:{port}/v1 (stop with Ctrl-C)" in shown
