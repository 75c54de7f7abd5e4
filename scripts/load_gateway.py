"""Load a running gateway with many clients, some of which hang up, and check that no answer is lost or mixed up.

Each request offers one tool with an argument that allows only the request's own id, and requires a call. So an answer
with another id belongs to another request. Half of the requests stream.

    toolhone serve --run RUN --port 8000 &
    .venv/bin/python scripts/load_gateway.py --url http://127.0.0.1:8000/v1 --pid $! --requests 10000 --clients 64

It prints the number of right answers, the requests per second, and the memory of the gateway and of the engine that it
started, at each tenth of the requests. Exit code 1 if an answer is lost or wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2
import psutil

_TIMEOUT_S = 120.0
_LONGEST_WAIT_S = 0.3
"""A client that hangs up does so within this time."""


@dataclass
class Load:
    """What happened so far. `memory_mib` has the figures of gateway and engine at each tenth of the requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    first_fault: str = ""
    memory_mib: list[tuple[float, float]] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="default: %(default)s")
    parser.add_argument("--key", default="none", help="API key")
    parser.add_argument("--pid", type=int, help="process whose memory is measured")
    parser.add_argument("--requests", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--clients", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--hang-up", type=float, default=0.2, metavar="SHARE", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args()
    started = time.monotonic()
    load = asyncio.run(run_load(options))
    seconds = time.monotonic() - started
    print(
        f"{options.requests} requests of {options.clients} clients in {seconds:.0f} s: "
        f"{options.requests / seconds:.1f} a second"
    )
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(load.outcomes.items())))
    for name, figures in zip(("gateway", "engine"), zip(*load.memory_mib, strict=True), strict=False):
        print(f"memory of the {name}, MiB, at each tenth: " + ", ".join(f"{found:.0f}" for found in figures))
    bad = load.outcomes["lost"] + load.outcomes["mixed up"]
    if bad:
        print(f"first fault: {load.first_fault}")
    return 1 if bad else 0


async def run_load(options: argparse.Namespace) -> Load:
    """Send the requests, at most one of each client at a time."""
    load, numbers = Load(), iter(range(options.requests))
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=options.clients)
    headers = {"Authorization": f"Bearer {options.key}"}
    async with httpx2.AsyncClient(
        base_url=options.url, headers=headers, timeout=_TIMEOUT_S, limits=limits, trust_env=False
    ) as client:
        model = (await client.get("/models")).json()["data"][0]["id"]

        async def work() -> None:
            for number in numbers:
                if options.pid and number % max(1, options.requests // 10) == 0:
                    load.memory_mib.append(memory_mib(options.pid))
                choice = random.Random(f"{options.seed} {number}")
                await ask(client, model, number, choice, options.hang_up, load)

        await asyncio.gather(*(work() for _ in range(options.clients)))
    if options.pid:
        load.memory_mib.append(memory_mib(options.pid))
    return load


async def ask(
    client: httpx2.AsyncClient, model: str, number: int, choice: random.Random, hang_up: float, load: Load
) -> None:
    """Send one request, and check its answer."""
    own = f"id-{number:06d}"
    parameters = {
        "type": "object",
        "properties": {"id": {"const": own}},
        "required": ["id"],
        "additionalProperties": False,
    }
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Echo {own}"}],
        "tools": [{"type": "function", "function": {"name": "echo", "parameters": parameters}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "stream": choice.random() < 0.5,
    }
    leaves_after = choice.uniform(0, _LONGEST_WAIT_S) if choice.random() < hang_up else None
    try:
        async with asyncio.timeout(leaves_after):
            reply = await client.post("/chat/completions", json=body)
    except TimeoutError:
        load.outcomes["hung up"] += 1
        return
    except httpx2.HTTPError as error:
        note(load, "lost", f"{own}: {type(error).__name__} {error}")
        return
    try:
        found = streamed_id(reply.text) if body["stream"] else whole_id(reply.json())
    except (ValueError, KeyError, IndexError, TypeError):
        note(load, "lost", f"{own}: HTTP {reply.status_code} {reply.text[:300]}")
        return
    note(load, "right" if found == own else "mixed up", f"{own}: got {found}")


def whole_id(reply: dict[str, Any]) -> str:
    """Return the id in the call of an answer."""
    (call,) = reply["choices"][0]["message"]["tool_calls"]
    return str(json.loads(call["function"]["arguments"])["id"])


def streamed_id(text: str) -> str:
    """Return the id in the call of a streamed answer. Raises KeyError if the stream has no end."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if not lines or lines[-1] != "[DONE]":
        raise KeyError("[DONE]")
    pieces = ""
    for choice in (choice for line in lines[:-1] for choice in json.loads(line)["choices"]):
        for call in choice["delta"].get("tool_calls") or ():
            pieces += call["function"].get("arguments") or ""
    return str(json.loads(pieces)["id"])


def note(load: Load, outcome: str, fault: str) -> None:
    load.outcomes[outcome] += 1
    if outcome != "right" and not load.first_fault:
        load.first_fault = fault


def memory_mib(pid: int) -> tuple[float, float]:
    """Return the memory of a process, and of its children together, in MiB."""
    process = psutil.Process(pid)
    children = sum(child.memory_info().rss for child in process.children(recursive=True))
    return process.memory_info().rss / 2**20, children / 2**20


if __name__ == "__main__":
    sys.exit(main())
