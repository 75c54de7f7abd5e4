"""llama.cpp's server as a child process, with tiny models that recite given turns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from toolhone.chat.parse import parse_turn
from toolhone.chat.render import ChatRenderer
from toolhone.engines import llama_cpp
from toolhone.engines.llama_cpp import llama_cpp_server
from toolhone.engines.llama_cpp_parser import unread_turn, write_reciter
from toolhone.errors import UserError
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall

CALLS = [RawCall("find_order", '{"id": "A-1"}'), RawCall("cancel_item", '{"id": "B-2", "count": 3}')]
ARGUMENTS = {"id": {"type": "string"}, "count": {"type": "integer"}}
TOOLS = [
    {"type": "function", "function": {"name": call.name, "parameters": {"type": "object", "properties": ARGUMENTS}}}
    for call in CALLS
]


@pytest.fixture
def renderers(tiny_gemma_tokenizer: Any, tiny_tokenizer: Any) -> dict[str, ChatRenderer]:
    tokenizers = {"gemma": tiny_gemma_tokenizer, "pythonic": tiny_gemma_tokenizer, "hermes": tiny_tokenizer}
    return {
        name: ChatRenderer(tokenizer, FORMATS[name], FORMATS[name].template_with("names"), "toolhone", "", {})
        for name, tokenizer in tokenizers.items()
    }


def reciter(renderer: ChatRenderer, folder: Path) -> tuple[Path, int, str]:
    """Write a model that makes two calls. Returns its file, the first id of its answer, and the answer."""
    path, text = folder / f"{renderer.format.name}.gguf", renderer.format.write("", CALLS, "stop")
    (first,) = write_reciter(path, renderer, [(text, renderer.format.end_of_turn)])
    return path, first, text


def ask(address: str, first: int) -> httpx2.Response:
    body = {"messages": [{"role": "user", "content": "hello"}], "tools": TOOLS, "temperature": 0, "max_tokens": 100}
    return httpx2.post(f"{address}/v1/chat/completions", json={**body, "logit_bias": [[first, 10.0]]})


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("hermes", None),
        ("gemma", "two calls: HTTP 500: The model produced output that does not match the expected peg-native format"),
        ("pythonic", "a plain answer: HTTP 500: "),
    ],
)
def test_llama_cpp_is_asked_whether_its_parser_reads_a_template(
    renderers: dict[str, ChatRenderer], name: str, fault: str | None
) -> None:
    found = unread_turn(renderers[name])
    assert found == fault or (fault is not None and found is not None and found.startswith(fault))


def test_a_template_that_refuses_two_calls_or_cannot_be_loaded_is_no_error(renderers: dict[str, ChatRenderer]) -> None:
    hermes = renderers["hermes"]
    refuses = (
        "{% for m in messages if (m.tool_calls or []) | length > 1 %}{{ raise_exception('one call') }}{% endfor %}"
    )
    assert unread_turn(replace(hermes, template=refuses + hermes.template)) is None
    broken = replace(hermes, template=hermes.template + "{{ '\\u0041'[:0] }}")  # Jinja reads it, llama.cpp does not
    found = unread_turn(broken)
    assert found is not None
    assert found.startswith("the template: llama.cpp cannot serve it: ")


@pytest.mark.parametrize("name", ["gemma", "pythonic", "hermes"])
def test_parallel_calls_can_be_read_in_every_format(
    renderers: dict[str, ChatRenderer], name: str, tmp_path: Path
) -> None:
    renderer = renderers[name]
    path, first, text = reciter(renderer, tmp_path)
    skips = unread_turn(renderer) is not None
    with llama_cpp_server(path, threads=1, skip_chat_parsing=skips) as address:
        reply = ask(address, first)
    message = reply.json()["choices"][0]["message"]
    if skips:
        assert message["content"] == text
        calls = [(call.name, call.arguments) for call in parse_turn(text, name).calls]
    else:
        functions = [call["function"] for call in message["tool_calls"]]
        calls = [(function["name"], json.loads(function["arguments"])) for function in functions]
    assert calls == [("find_order", {"id": "A-1"}), ("cancel_item", {"id": "B-2", "count": 3})]


def test_llama_cpp_forces_answers_into_the_schema_unless_it_skips_parsing(
    renderers: dict[str, ChatRenderer], tmp_path: Path
) -> None:
    text = '<tool_call>\n{"name": "find_order", "arguments": {"number": 7}}\n</tool_call>'  # no such argument
    path = tmp_path / "m.gguf"
    (first,) = write_reciter(path, renderers["hermes"], [(text, "<|im_end|>")])
    with llama_cpp_server(path, threads=1) as address:
        (call,) = ask(address, first).json()["choices"][0]["message"]["tool_calls"]
        assert "number" not in call["function"]["arguments"]
    with llama_cpp_server(path, threads=1, skip_chat_parsing=True) as address:
        assert ask(address, first).json()["choices"][0]["message"]["content"] == text


def test_servers_run_one_after_another_and_end_with_their_block(
    renderers: dict[str, ChatRenderer], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, _, _ = reciter(renderers["hermes"], tmp_path)
    log = tmp_path / "logs" / "server.log"
    seen = []
    for slots in (1, 3):
        with llama_cpp_server(path, parallel=slots, ctx=512, threads=1, log=log) as address:
            found = httpx2.get(f"{address}/slots").json()
            seen.append((len(found), {slot["n_ctx"] for slot in found}))
            other = "{{ 'another template' }}"
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{address}/health")
    assert seen == [(1, {512}), (3, {512})]
    with llama_cpp_server(path, template=other, threads=1, log=log) as address:
        body = {"messages": [{"role": "user", "content": "hello"}]}
        assert httpx2.post(f"{address}/apply-template", json=body).json()["prompt"] == "another template"
    assert log.read_text(encoding="utf-8").count("main loop exited") == 3
    assert capfd.readouterr() == ("", "")


def test_the_server_ends_with_the_process_that_started_it(renderers: dict[str, ChatRenderer], tmp_path: Path) -> None:
    path, _, _ = reciter(renderers["hermes"], tmp_path)
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom toolhone.engines.llama_cpp import llama_cpp_server\n"
        "with llama_cpp_server(Path(sys.argv[1]), threads=1) as address:\n"
        "    print(address, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        address = parent.stdout.readline().strip()
        assert httpx2.get(f"{address}/health").status_code == 200
        os.kill(parent.pid, signal.SIGKILL)
    for _ in range(100):
        try:
            httpx2.get(f"{address}/health")
        except httpx2.TransportError:
            return
        time.sleep(0.1)
    pytest.fail(f"{address} still answers")


def test_a_file_that_cannot_be_served_is_one_clear_error(renderers: dict[str, ChatRenderer], tmp_path: Path) -> None:
    def fault(path: Path, lora: Path | None = None) -> str:
        with pytest.raises(UserError) as caught, llama_cpp_server(path, lora=lora, threads=1):
            pass
        return str(caught.value).replace(str(tmp_path), "")

    path, _, _ = reciter(renderers["hermes"], tmp_path)
    assert (
        fault(tmp_path / "none.gguf") == "/none.gguf: cannot be read (No such file or directory); expected a GGUF file"
    )
    (tmp_path / "zip.gguf").write_bytes(b"PK\x03\x04")
    assert fault(tmp_path / "zip.gguf") == "/zip.gguf: is not a GGUF file; write one with `toolhone export --gguf`"
    (tmp_path / "cut.gguf").write_bytes(path.read_bytes()[:-1000])
    assert "/cut.gguf: llama.cpp cannot serve it: " in fault(tmp_path / "cut.gguf")
    assert "not within the file bounds, model is corrupted or incomplete" in fault(tmp_path / "cut.gguf")
    assert "/hermes.gguf: llama.cpp cannot serve it: " in fault(path, lora=path)  # a model is not an adapter


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"run pip install 'toolhone\[gguf\]'$"), llama_cpp_server(tmp_path):
        pass


def test_only_idle_processors_get_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    found = []
    for load in (0.2, 2.6, 30.0):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        found.append(llama_cpp._idle_processors())
    assert found == [8, 5, 1]
