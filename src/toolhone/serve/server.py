"""`toolhone serve`: load the model, check that the policy belongs to it, and answer requests until Ctrl-C."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn
from rich.console import Console

from toolhone.data.escalation import ESCALATE
from toolhone.data.read import read_conversations
from toolhone.economics.cost import Price
from toolhone.errors import UserError
from toolhone.evaluate.predict import PrefixCache
from toolhone.records import Tool
from toolhone.route.cascade import Cascade, DecisionLog
from toolhone.route.large_model import DayBudget, LargeModel, LargeSettings, utc_day
from toolhone.route.policy import identity_of_run, read_policy, refuse_other_model
from toolhone.run_folder import RunFolder
from toolhone.serve.app import LOOPBACK, Engine, make_app
from toolhone.tuned import TunedModel

_CACHED_PREFIXES = 4
KEY = "TOOLHONE_API_KEY"
"""The environment variable with the API key that clients must send."""


@dataclass(frozen=True, slots=True)
class CascadeSettings:
    """Settings of a cascade. `log` is the decision log's file (default: decisions.jsonl in the run folder).
    `max_usd_a_day` needs a price."""

    policy: Path
    large: LargeSettings
    price: Price | None = None
    max_usd_a_day: float | None = None
    log: Path | None = None
    log_texts: bool = False


def serve(
    folder: Path, host: str, port: int, console: Console, cascade: CascadeSettings | None, max_new_tokens: int | None
) -> None:
    """Serve a run's tuned model until it is interrupted.

    Raises:
        UserError: if the address is taken, other machines can reach it and no key is set, the run has no adapter, or
            the policy is another model's.
    """
    key = os.environ.get(KEY) or None
    if key is None and host not in LOOPBACK:
        raise UserError(
            f"--host {host}: other machines can reach this address, and {KEY} is not set; set it to a key, or use "
            "--host 127.0.0.1"
        )
    address = _bind(host, port)
    try:
        engine, run = load_engine(folder, max_new_tokens, console)
        opened = open_cascade(cascade, run, engine, console) if cascade else None
        app = make_app(engine, cascade=opened, key=key)
        shown = f"[{host}]" if ":" in host else host
        console.print(f"{engine.name}: http://{shown}:{address.getsockname()[1]}/v1 (stop with Ctrl-C)", markup=False)
        # Requests in progress are answered first; a second Ctrl-C does not wait for them.
        config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=60)
        uvicorn.Server(config).run(sockets=[address])
    finally:
        address.close()


def open_cascade(settings: CascadeSettings, run: RunFolder, engine: Engine, console: Console) -> Cascade:
    """Return the cascade: reads the policy, opens the decision log, and sums what was spent today.

    Raises:
        UserError: if the policy is invalid or another model's, the manifest does not name the model and template, the
            log cannot be opened, or the large model's address or key is wrong.
    """
    policy = read_policy(settings.policy)
    # Compares the chat template in use, not the one in the run's manifest.
    refuse_other_model(policy, replace(identity_of_run(run), template=engine.renderer.template_hash()))
    reserved = reserved_tool(run, console)
    log = DecisionLog(settings.log or run.path / "decisions.jsonl", utc_day())
    try:
        budget = DayBudget(settings.max_usd_a_day, settings.price, log.spent_usd)
        large = LargeModel(settings.large, budget)
    except UserError:
        log.close()
        raise
    console.print(f"escalates to {settings.large.model}; decision log: {log.path}", markup=False)
    if settings.max_usd_a_day is not None:
        console.print(f"spent today (UTC): ${log.spent_usd:.4f} of ${settings.max_usd_a_day:.2f}")
    return Cascade(policy, large, log, reserved, settings.log_texts)


def load_engine(folder: Path, max_new_tokens: int | None, console: Console) -> tuple[Engine, RunFolder]:
    """Return a run's tuned model, loaded, and its run folder. `max_new_tokens` defaults to the config's.

    Raises:
        UserError: if the run has no tuned model.
    """
    tuned = TunedModel.load(folder)
    for note in (*tuned.hardware.notes, *tuned.notes):
        console.print(note, markup=False)
    engine = Engine(
        name=tuned.config.name,
        model=tuned.model,
        renderer=tuned.renderer,
        prefixes=PrefixCache(tuned.model, _CACHED_PREFIXES),
        max_new_tokens=max_new_tokens or tuned.config.evaluate.max_new_tokens,
        context=tuned.model.config.max_position_embeddings,
    )
    return engine, tuned.run


def reserved_tool(run: RunFolder, console: Console) -> Tool | None:
    """Return the reserved tool `escalate` from the run's test rows; None if the model was not trained with it."""
    if not run.split("test").is_file():
        console.print(f"{run.split('test')} is missing: the tool {ESCALATE} is not offered", markup=False)
        return None
    rows = read_conversations(run.split("test"))
    return next((tool for row in rows for tool in row.tools if tool.name == ESCALATE), None)


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address. Called before the model loads, so a taken port is reported at once."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise UserError(
            f"--host {host} --port {port}: cannot bind ({error.strerror}); choose another with --port"
        ) from None
    except OverflowError:
        bound.close()
        raise UserError(f"--port {port}: expected a number from 0 to 65535") from None
    return bound
