"""Measure the gateway in front of llama.cpp: requests at a time, what the gateway itself adds, and CPU time.

It starts llama.cpp with a GGUF of the run's merged model, and `toolhone serve` in front of it. Test turns of the run
are asked in rounds: one request at a time, and several at a time, in turn, so that a machine whose speed drifts is fair
to both. Then each turn is asked through the gateway and, with the same token ids, in llama.cpp itself.

    .venv/bin/python scripts/bench_gateway.py --run runs/cpu --gguf runs/cpu/export/merged-f32/cpu-q8_0.gguf
    .venv/bin/python scripts/bench_gateway.py --run runs/cpu --gguf FILE --url http://127.0.0.1:9000/v1 --pid 123

With --url and --pid another server is asked instead, one request at a time, for its CPU time only.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil

_ROUNDS = 3
_START_S = 300


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--gguf", type=Path, required=True, help="GGUF of its merged model")
    parser.add_argument("--turns", type=int, default=24, help="test turns in a round (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="requests at a time (default: %(default)s)")
    parser.add_argument("--url", help="address of another server, to measure its CPU time on the same turns")
    parser.add_argument("--pid", type=int, help="with --url: its process")
    options = parser.parse_args()

    from toolhone.engines.llama_cpp import llama_cpp_server
    from toolhone.evaluate.base_rows import sample_turns
    from toolhone.evaluate.score import scored_examples
    from toolhone.tuned import TunedModel

    tuned = TunedModel.load(options.run)
    examples = sample_turns(scored_examples(tuned.run), options.turns)
    bodies = [body_of(example, tuned.config.name) for example in examples]
    if options.url:
        before = cpu_s(options.pid)
        seconds = ask_all(options.url, bodies, 1)
        print(f"{seconds / len(bodies):.2f} s and {(cpu_s(options.pid) - before) / len(bodies):.2f} CPU s a request")
        return 0
    with (
        llama_cpp_server(options.gguf, parallel=options.clients, skip_chat_parsing=True) as engine,
        serving(options.run, engine) as (url, gateway_pid),
    ):
        ask_all(url, bodies, 1)  # fills the engine's caches
        before, seconds = cpu_s(gateway_pid) + llama_cpu_s(), {1: [], options.clients: []}
        for _ in range(_ROUNDS):
            for clients, found in seconds.items():
                found.append(ask_all(url, bodies, clients))
        used = (cpu_s(gateway_pid) + llama_cpu_s() - before) / (2 * _ROUNDS * len(bodies))
        one, many = (statistics.median(found) for found in seconds.values())
        print(f"one request at a time: {len(bodies) / one:.2f} requests a second")
        print(
            f"{options.clients} at a time: {len(bodies) / many:.2f} requests a second, {one / many:.2f} times as many"
        )
        print(f"{used:.2f} CPU s a request, gateway and engine together")
        for is_streamed, name in ((False, "whole"), (True, "streamed")):
            turns = zip(bodies, examples, strict=True)
            added = [added_ms(url, engine, body | {"stream": is_streamed}, tuned, example) for body, example in turns]
            print(
                f"the gateway adds {statistics.median(added):.1f} ms to a {name} answer (median of {len(added)} turns)"
            )
    return 0


def body_of(example: Any, model: str) -> dict[str, Any]:
    """Return the request for a turn."""
    messages = [message.to_json() for message in example.prompt]
    open_ids: list[str] = []
    for place, message in enumerate(messages):
        for number, call in enumerate(message.get("tool_calls", ())):
            call.setdefault("id", f"call_{place}_{number}")
            open_ids.append(call["id"])
        if message["role"] == "tool" and open_ids:
            message.setdefault("tool_call_id", open_ids.pop(0))
    return {"model": model, "messages": messages, "tools": [tool.to_json() for tool in example.tools]}


@contextmanager
def serving(run: Path, engine: str) -> Iterator[tuple[str, int]]:
    """Serve the run in front of an engine; yields the gateway's address and its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "toolhone", "serve", "--run", str(run), "--port", str(port), "--quiet"]
    command += ["--no-verify", "--small-base-url", f"{engine}/v1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + _START_S
    try:
        while not is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("the gateway did not start")
            time.sleep(0.2)
        yield f"{url}/v1", process.pid
    finally:
        process.terminate()
        process.wait()


def is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/ready", trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False


def ask_all(url: str, bodies: Sequence[dict[str, Any]], clients: int) -> float:
    """Send all requests, so many at a time, and return the seconds that it took."""
    with httpx2.Client(timeout=300, trust_env=False) as client, ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        for reply in pool.map(lambda body: client.post(f"{url}/chat/completions", json=body), bodies):
            if reply.status_code != 200:
                sys.exit(f"HTTP {reply.status_code}: {reply.text[:500]}")
        return time.perf_counter() - started


def added_ms(url: str, engine: str, body: dict[str, Any], tuned: Any, example: Any) -> float:
    """Return by how much an answer through the gateway takes longer than in the engine, both with a warm cache, and
    both streamed or both whole."""
    ids = tuned.renderer.prompt(example.prompt, example.tools)[1]
    limit = tuned.config.evaluate.max_new_tokens
    direct = {"prompt": ids, "n_predict": limit, "n_probs": 2, "temperature": 0, "top_k": 1, "cache_prompt": True}
    times: dict[str, list[float]] = {"gateway": [], "engine": []}
    with httpx2.Client(timeout=300, trust_env=False) as client:
        for _ in range(_ROUNDS):
            for name, address, sent in (
                ("engine", f"{engine}/completion", direct | {"stream": body["stream"]}),
                ("gateway", f"{url}/chat/completions", body),
            ):
                started = time.perf_counter()
                client.post(address, json=sent)
                times[name].append(1000 * (time.perf_counter() - started))
    return min(times["gateway"]) - min(times["engine"])


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and its children so far."""
    process = psutil.Process(pid)
    return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))


def llama_cpu_s() -> float:
    """Return the CPU seconds of this process's children that run llama.cpp."""
    found = [one for one in psutil.Process().children() if "llama_cpp" in json.dumps(one.cmdline())]
    return sum(sum(one.cpu_times()[:2]) for one in found)


if __name__ == "__main__":
    sys.exit(main())
