"""Run every command of docs/migrate-from-openai.md in order, against a local endpoint that plays OpenAI.

The commands come from the page's code blocks, so the page cannot drift from what works. A block without a language is
shell, `python` is a script, and `yaml` is a file whose first line names it. A `text` block shows output and is not run.
Commands run as they are on the page, with three exceptions: OpenAI's address becomes the local endpoint's, training
takes two steps of the tiny model of configs/smoke.yaml, and the server gets a free port.

The endpoint returns the job and the files of tests/fixtures/openai_finetuning. As the fine-tuned model it answers the
validation rows with their gold, and every third call wrongly. Nothing leaves this machine.

    .venv/bin/python scripts/migration_walkthrough.py        # make migration-check: about half a minute
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

from toolhone.data.read import read_conversations, turns
from toolhone.records import Message

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "migrate-from-openai.md"
FIXTURES = ROOT / "tests" / "fixtures" / "openai_finetuning"
OPENAI = "https://api.openai.com/v1"
SERVER = "http://127.0.0.1:8000"
TINY = ROOT / ".cache" / "models" / "tiny-random-llama"
SMALL = (
    f"model.name={TINY}",
    "model.device=cpu",
    "model.dtype=float32",
    "train.max_steps=2",
    "evaluate.max_new_tokens=16",
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block of a page. `line` is the line of its opening fence, from 1."""

    language: str
    text: str
    line: int


def main() -> int:
    started = time.monotonic()
    blocks = read_blocks(PAGE.read_text(encoding="utf-8"))
    make_model = [sys.executable, str(ROOT / "scripts" / "make_tiny_llama.py"), "--folder", str(TINY)]
    subprocess.run(make_model, cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as scratch, playing_openai() as openai:
        folder = Path(scratch)
        walk = Walk(folder, openai.url)
        try:
            for block in blocks:
                walk.run_block(block)
        finally:
            walk.stop_server()
        check_result(folder, openai)
    print(f"{PAGE.name}: {walk.commands} commands work ({time.monotonic() - started:.0f} s)")
    return 0


def read_blocks(page: str) -> list[Block]:
    """Return the fenced code blocks of a Markdown page, in order."""
    blocks: list[Block] = []
    opened: tuple[str, int] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif opened is None:
            opened, lines = (line.removeprefix("```").strip(), number), []
        else:
            blocks.append(Block(opened[0], "\n".join(lines) + "\n", opened[1]))
            opened = None
    if opened is not None:
        fail(f"line {opened[1]}: the code block has no end")
    return blocks


def shell_commands(text: str) -> list[str]:
    """Return the commands of a shell block. Lines that end with a backslash are joined; comment lines are dropped."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def is_ready(port: int) -> bool:
    """Whether a server answers /health on this port."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@dataclass(slots=True)
class Walk:
    """Runs the blocks of the page in one folder, and at most one server in the background."""

    folder: Path
    endpoint: str
    port: int = field(default_factory=free_port)
    server: subprocess.Popen[str] | None = None
    commands: int = 0

    def run_block(self, block: Block) -> None:
        """Run a block. Ends the script with the command's output if it fails."""
        match block.language:
            case "":
                for command in shell_commands(block.text):
                    self.run_command(self.adapted(command), block.line)
            case "python":
                self.run([sys.executable, "-c", self.adapted(block.text)], "a Python script", block.line)
            case "yaml":
                name = block.text.partition("\n")[0].removeprefix("#").strip()
                if not re.fullmatch(r"[\w-]+\.yaml", name):
                    text = "expected the file's name as the first line, such as # desk.yaml, found"
                    fail(f"line {block.line}: {text} {name}")
                (self.folder / name).write_text(block.text, encoding="utf-8")
            case "text":
                pass
            case other:
                fail(f"line {block.line}: expected a block of shell (no language), python, yaml or text, found {other}")

    def adapted(self, text: str) -> str:
        return text.replace(OPENAI, self.endpoint).replace(SERVER, f"http://127.0.0.1:{self.port}")

    def run_command(self, command: str, line: int) -> None:
        command = without_comment(command)
        if command.startswith("toolhone serve"):
            self.start_server(command, line)
            return
        small = "".join(f" --set {pair}" for pair in SMALL) if command.startswith("toolhone train") else ""
        self.run(["bash", "-ec", command + small], command, line)

    def run(self, arguments: list[str], shown: str, line: int) -> None:
        started = time.monotonic()
        done = subprocess.run(
            arguments, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            fail(f"line {line}: {shown} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        self.commands += 1
        print(f"{time.monotonic() - started:5.1f} s  {shown}", flush=True)

    def start_server(self, command: str, line: int) -> None:
        started = time.monotonic()
        arguments = ["bash", "-ec", f"exec {command} --port {self.port}"]
        output = (self.folder / "serve.txt").open("w", encoding="utf-8")
        self.server = subprocess.Popen(
            arguments, cwd=self.folder, env=self.environment(), stdout=output, stderr=output, text=True
        )
        output.close()
        while not is_ready(self.port):
            if self.server.poll() is not None or time.monotonic() - started > 120:
                fail(
                    f"line {line}: {command} did not start:\n{(self.folder / 'serve.txt').read_text(encoding='utf-8')}"
                )
            time.sleep(0.2)
        self.commands += 1
        print(f"{time.monotonic() - started:5.1f} s  {command}", flush=True)

    def stop_server(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            self.server.wait(60)

    def environment(self) -> dict[str, str]:
        """The environment of a user who has toolhone installed and a key of OpenAI, without a network."""
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        keys = {"OPENAI_API_KEY": "sk-walkthrough", "OPENAI_BASE_URL": self.endpoint}
        return {**os.environ, **keys, "PATH": path, "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}


def without_comment(command: str) -> str:
    """Return the command without the comment at its end, so that flags can be added."""
    return re.sub(r"\s+#\s.*$", "", command)


# The endpoint that plays OpenAI


class OpenAIEndpoint(ThreadingHTTPServer):
    """Returns the fixture's job and files, and answers the validation rows as the job's model. `right` counts its right
    answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.job = json.loads((FIXTURES / "job.json").read_text(encoding="utf-8"))
        self.files = {self.job["training_file"]: "train.jsonl", self.job["validation_file"]: "validation.jsonl"}
        self.right: set[str] = set()
        self.asked: set[str] = set()
        self.answers: dict[Any, tuple[str, Message, bool]] = {}
        calls = 0
        for example in turns(list(read_conversations(FIXTURES / "validation.jsonl", ()))):
            calls += bool(example.turn.tool_calls)
            wrong = bool(example.turn.tool_calls) and calls % 3 == 0
            turn = Message("assistant", "I cannot look that up.") if wrong else example.turn
            self.answers[tuple((one.role, one.content) for one in example.prompt)] = (example.id, turn, not wrong)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a chat request. KeyError if the model or the prompt is not one of the fixture."""
        if body["model"] != self.job["fine_tuned_model"]:
            raise KeyError(body["model"])
        asked = tuple((message["role"], message.get("content") or "") for message in body["messages"])
        id_, turn, right = self.answers[asked]
        self.asked.add(id_)
        if right:
            self.right.add(id_)
        message = {"content": None, **turn.to_json()}
        message.pop("weight", None)
        for number, call in enumerate(message.get("tool_calls", ())):
            call["id"] = f"call_{number}"
        reason = "tool_calls" if turn.tool_calls else "stop"
        return {
            "id": f"chatcmpl-{id_}",
            "object": "chat.completion",
            "created": self.job["finished_at"],
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}],
            "usage": {"prompt_tokens": 200, "completion_tokens": 20, "total_tokens": 220},
        }


class _Handler(BaseHTTPRequestHandler):
    server: OpenAIEndpoint

    def do_GET(self) -> None:
        job, files = self.server.job, self.server.files
        if self.path == f"/v1/fine_tuning/jobs/{job['id']}":
            self.reply(200, json.dumps(job).encode())
            return
        for id_, name in files.items():
            if self.path == f"/v1/files/{id_}/content":
                self.reply(200, (FIXTURES / name).read_bytes())
                return
        self.reply(404, json.dumps({"error": {"message": f"{self.path} is unknown"}}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        try:
            self.reply(200, json.dumps(self.server.completion(body)).encode())
        except KeyError as error:
            self.reply(404, json.dumps({"error": {"message": f"{error} is unknown"}}).encode())

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def playing_openai() -> Iterator[OpenAIEndpoint]:
    endpoint = OpenAIEndpoint()
    thread = threading.Thread(target=endpoint.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.shutdown()
        thread.join()
        endpoint.server_close()


def check_result(folder: Path, openai: OpenAIEndpoint) -> None:
    """Check that the run scored and reports three models, and that OpenAI's has the score of the endpoint's answers."""
    [path] = folder.glob("runs/*/metrics.json")
    models = json.loads(path.read_text(encoding="utf-8"))["models"]
    other = models.keys() - {"base", "tuned"}
    if len(models) != 3 or len(other) != 1:
        fail(f"expected the models base, tuned and one of OpenAI in metrics.json, found {', '.join(models)}")
    label = other.pop()
    found = models[label]["exact_match"]
    expected = (len(openai.right), len(openai.asked))
    if not 0 < expected[0] < expected[1] or (found["numerator"], found["denominator"]) != expected:
        fail(f"expected {expected[0]} of {expected[1]} right answers of OpenAI's model, found {found}")
    if label not in path.with_name("report.html").read_text(encoding="utf-8"):
        fail(f"expected the model {label} in the run's report.html")


def fail(message: str) -> NoReturn:
    sys.exit(f"Error: {PAGE.relative_to(ROOT)}: {message}")


if __name__ == "__main__":
    sys.exit(main())
