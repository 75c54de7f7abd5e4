"""`vllm_server` starts vLLM, waits for it and ends it, shown with a small HTTP server in its place; and, slow, a real
vLLM on a CPU."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from toolhone.chat.probe import make_renderer
from toolhone.config import ChatConfig
from toolhone.engines import vllm
from toolhone.engines.vllm import max_lora_rank, vllm_command, vllm_server
from toolhone.errors import UserError
from toolhone.export.response_template import response_template
from toolhone.records import Example, Gold, Message, Tool, ToolCall

FAKE = """#!{python}
import http.server, json, os, subprocess, sys, time
here = os.path.dirname(os.path.abspath(__file__))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
names = ("VLLM_NO_USAGE_STATS", "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND")
told = {{"arguments": sys.argv[1:], "children": [os.getpid(), child.pid]}}
told["environment"] = {{name: os.environ.get(name) for name in names}}
with open(os.path.join(here, "told.json"), "w") as file:
    json.dump(told, file)
for number in range(40):
    print("line", number, flush=True)
if "{mode}" == "fail":
    child.kill()
    sys.exit("ValueError: no kv cache")
if "{mode}" == "hang":
    time.sleep(600)
class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        self.send_response(200 if self.path == "/health" and Handler.asked > 1 else 503)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(vllm, "_POLL_S", 0.05)
    monkeypatch.setattr(vllm, "_has_gpu", lambda: False)
    return tmp_path


def fake(folder: Path, mode: str = "serve") -> str:
    """Write a command that behaves like vLLM, with a child of its own."""
    command = folder / "vllm"
    command.write_text(FAKE.format(python=sys.executable, mode=mode), encoding="utf-8")
    command.chmod(0o755)
    return str(command)


def told(folder: Path) -> dict[str, object]:
    """Return what the command was told. It may still be starting."""
    path = folder / "told.json"
    deadline = time.monotonic() + 20
    while not path.is_file() or not path.stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    found: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return found


def assert_all_ended(folder: Path) -> None:
    processes = told(folder)["children"]
    assert isinstance(processes, list)
    assert len(processes) == 2
    deadline = time.monotonic() + 5
    while any(is_running(process) for process in processes):
        assert time.monotonic() < deadline, "a process of the server still runs"
        time.sleep(0.02)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # it has ended, and nobody has asked for its exit code


def test_it_waits_until_the_server_answers_and_ends_all_of_its_processes(folder: Path) -> None:
    with vllm_server("merged", executable=fake(folder), log=folder / "log") as url:
        assert httpx2.get(f"{url}/health").status_code == 200
    assert_all_ended(folder)


def test_a_merged_model_is_served_with_its_parser_and_limits(folder: Path) -> None:
    server = vllm_server(
        "merged",
        executable=fake(folder),
        log=folder / "log",
        dtype="float32",
        max_model_len=512,
        parser="hf",
        reasoning_parser="hf",
    )
    with server as url:
        arguments = told(folder)["arguments"]
        environment = told(folder)["environment"]
    port = url.rpartition(":")[2]
    assert arguments == [
        *("serve", "merged", "--host", "127.0.0.1", "--port", port, "--dtype", "float32"),
        *("--served-model-name", "tuned", "--enable-prompt-tokens-details", "--max-model-len", "512"),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hf", "--reasoning-parser", "hf", "--enforce-eager"),
    ]
    assert environment == {
        "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"
    }  # fmt: skip


def test_an_adapter_is_served_beside_its_base_with_its_own_tokenizer_and_stops(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "_has_gpu", lambda: True)
    adapter = adapter_of(folder, r=24)
    server = vllm_server(
        "base", adapter=adapter, tokenizer=adapter, generation_config=adapter, executable=fake(folder),
        revision="v1", trust_remote_code=True, parser="hermes", log=folder / "log",
    )  # fmt: skip
    with server as url:
        arguments = told(folder)["arguments"]
        environment = told(folder)["environment"]
    assert arguments == [
        *("serve", "base", "--host", "127.0.0.1", "--port", url.rpartition(":")[2], "--dtype", "auto"),
        *("--served-model-name", "base", "--enable-prompt-tokens-details", "--enable-lora", "--max-lora-rank", "32"),
        *("--lora-modules", f"tuned={adapter}", "--tokenizer", str(adapter), "--generation-config", str(adapter)),
        *("--revision", "v1", "--trust-remote-code"),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    ]
    assert environment == {
        "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": None, "VLLM_CPU_OMP_THREADS_BIND": None
    }  # fmt: skip


def test_an_error_in_the_block_ends_all_processes(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="gone"), vllm_server("m", executable=fake(folder), log=folder / "log"):
        raise RuntimeError("gone")
    assert_all_ended(folder)


def test_ctrl_c_while_it_starts_ends_all_processes(folder: Path) -> None:
    script = (
        # A shell starts background commands with SIGINT ignored, which their children inherit.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path; from toolhone.engines import vllm; vllm._has_gpu = lambda: False\n"
        f"with vllm.vllm_server('m', executable={fake(folder, 'hang')!r}, log=Path({str(folder / 'log')!r})): pass"
    )
    # Its own group, as a shell gives each command, so that the signal reaches this process alone.
    waiting = subprocess.Popen([sys.executable, "-c", script], start_new_session=True, stderr=subprocess.PIPE)
    told(folder)
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=60)
    assert b"KeyboardInterrupt" in said
    assert_all_ended(folder)


def test_sigterm_to_the_gateway_while_vllm_starts_ends_all_processes(folder: Path) -> None:
    script = (
        "from pathlib import Path; from toolhone.engines import vllm; vllm._has_gpu = lambda: False\n"
        "from toolhone.serve.server import ends_on_sigterm\n"
        f"server = vllm.vllm_server('m', executable={fake(folder, 'hang')!r}, log=Path({str(folder / 'log')!r}))\n"
        "with ends_on_sigterm(), server: pass"
    )
    waiting = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    told(folder)
    waiting.terminate()
    assert waiting.wait(timeout=60) == 128 + signal.SIGTERM
    assert_all_ended(folder)


def test_a_server_that_ends_at_once_is_reported_with_the_end_of_its_log(folder: Path) -> None:
    with pytest.raises(UserError) as error, vllm_server("m", executable=fake(folder, "fail"), log=folder / "log"):
        pytest.fail("the server was ready")
    message = str(error.value)
    assert message.startswith("vLLM ended with exit code 1 before it was ready. The end of ")
    assert message.endswith("line 39\nValueError: no kv cache")
    assert "line 5\n" not in message
    assert_all_ended(folder)


def test_a_server_that_is_not_ready_in_time_is_ended(folder: Path) -> None:
    server = vllm_server("m", executable=fake(folder, "hang"), log=folder / "log", timeout_s=0.2)
    with pytest.raises(UserError, match=r"vLLM was not ready after 0.2 s. The end of .*log:"), server:
        pytest.fail("the server was ready")
    # It may have been ended before it could tell its processes.
    assert not [command for command in running_commands() if str(folder) in command]


def running_commands() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended just now
            yield path.read_bytes().decode(errors="replace")


def test_without_vllm_the_error_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    with pytest.raises(UserError, match="pip install vllm"):
        vllm_command()
    with pytest.raises(UserError, match="no/vllm: is not an executable file"):
        vllm_command("no/vllm")
    assert vllm_command(fake(folder)) == vllm_command() == str(folder / "vllm")


def adapter_of(folder: Path, **settings: object) -> Path:
    adapter = folder / "adapter"
    adapter.mkdir(exist_ok=True)
    (adapter / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return adapter


def test_the_rank_that_vllm_allocates_is_the_next_one_that_it_knows(tmp_path: Path) -> None:
    assert max_lora_rank(adapter_of(tmp_path, r=16)) == 16
    assert max_lora_rank(adapter_of(tmp_path, r=17)) == 32
    assert max_lora_rank(adapter_of(tmp_path, r=8, rank_pattern={"q_proj": 100})) == 128
    with pytest.raises(UserError, match="up to rank 512, and this one has rank 600"):
        max_lora_rank(adapter_of(tmp_path, r=600))


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_that_vllm_does_not_support_is_refused_before_it_starts(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    with pytest.raises(UserError, match="serve the merged model"):
        max_lora_rank(adapter_of(tmp_path, r=8, **settings))


@pytest.fixture
def real_vllm() -> str:
    """The command vllm that TOOLHONE_VLLM names."""
    command = os.environ.get("TOOLHONE_VLLM")
    if not command:
        pytest.skip("set TOOLHONE_VLLM to the command vllm of a Python environment with vLLM or vllm-cpu")
    return command


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_real_vllm_tokenizes_stops_and_reads_calls_as_toolhone_does(
    real_vllm: str, tiny_llama: Path, tmp_path: Path
) -> None:
    """The model is random, so it writes no call of its own: the requests constrain it to the text of a gold turn."""
    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    config = AutoConfig.from_pretrained(model, head_dim=32)  # the smallest that vLLM has for CPUs
    LlamaForCausalLM(config).save_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    own = make_renderer(tokenizer, ChatConfig(format="hermes"), "tiny")
    tokenizer.chat_template, tokenizer.response_template = own.template, response_template(own)
    tokenizer.save_pretrained(model)
    stops = sorted(own.stop_ids())
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}), encoding="utf-8")
    tools = (Tool("look", "looks", {"type": "object", "properties": {"text": {"type": "string"}}}),)
    messages = [Message("system", "Be brief."), Message("user", "look </tool_call> twice")]
    asked = {
        "model": "tuned",
        "messages": [message.to_json() for message in messages],
        "tools": [tool.to_json() for tool in tools],
    }
    calls = (ToolCall("look", {"text": "a </tool_call> \n“b”"}), ToolCall("look", {}))
    gold = Message("assistant", "Let me look.", calls)
    row = own.render(Example("1", "1", tuple(messages), gold, Gold.of_message(gold), tools, "rows.jsonl:1", None, {}))
    server = vllm_server(str(model), executable=real_vllm, dtype="float32", parser="hf", log=tmp_path / "log")
    with server as url, httpx2.Client(base_url=url, timeout=120, trust_env=False) as client:
        tokens = client.post("/tokenize", json={**asked, "add_generation_prompt": True}).json()["tokens"]
        assert tokens == own.prompt(messages, tools)[1]
        plain = {"temperature": 0, "max_tokens": 600}
        forced = {**plain, "structured_outputs": {"regex": re.escape(row.turn_text)}}
        answer = client.post("/v1/chat/completions", json={**asked, **forced}).json()["choices"][0]
        assert answer["finish_reason"] == "tool_calls", answer
        read = [call["function"] for call in answer["message"]["tool_calls"]]
        assert [(one["name"], json.loads(one["arguments"])) for one in read] == [(c.name, c.arguments) for c in calls]
        assert answer["message"]["content"].strip() == gold.content
        ids = {"model": "tuned", "prompt": row.prompt_ids, "return_token_ids": True}
        stopped = client.post("/v1/completions", json={**ids, **plain, "logit_bias": {str(stops[0]): 100}}).json()
        assert stopped["choices"][0]["token_ids"] == stops[:1]
        assert stopped["choices"][0]["finish_reason"] == "stop"
