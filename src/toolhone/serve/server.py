"""`toolhone serve`: open the engine, check that the policy belongs to it, and answer requests until Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn
from rich.console import Console

from toolhone.data.escalation import ESCALATE
from toolhone.data.read import read_conversations
from toolhone.economics.cost import Price
from toolhone.errors import UserError
from toolhone.records import Tool
from toolhone.route.cascade import Cascade, DecisionLog
from toolhone.route.large_model import DayBudget, LargeModel, LargeSettings, utc_day
from toolhone.route.policy import TRANSFORMERS, Identity, read_policy, refuse_other_model
from toolhone.run_folder import RunFolder
from toolhone.serve.access import LOOPBACK
from toolhone.serve.answer import SmallModel
from toolhone.serve.app import Gateway, make_app
from toolhone.serve.completion import Answerer
from toolhone.serve.engine import KINDS, EngineSettings, OpenEngine, open_engine
from toolhone.serve.local import LocalGenerator
from toolhone.serve.metrics import ACCESS, Metrics
from toolhone.serve.start import ChatStart, chat_start
from toolhone.tuned import TunedModel

_GRACE_S = 60
_KEEP_ALIVE_S = 75
"""Seconds that an idle connection stays open: longer than those of clients and proxies, which are often 60, so that
they do not send a request on a connection that just closed."""

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


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Settings of the gateway. `max_new_tokens` limits an answer (default: the config's); with `decode_valid` a grammar
    makes every call valid; with `strict` unknown keys are refused; `allowed_origins` are web pages that may ask;
    `with_base` serves the base model too."""

    host: str = "127.0.0.1"
    port: int = 8000
    max_new_tokens: int | None = None
    decode_valid: bool = False
    strict: bool = False
    allowed_origins: tuple[str, ...] = ()
    with_base: bool = False
    logs_access: bool = True


def serve(
    folder: Path, engine: EngineSettings, settings: ServeSettings, cascade: CascadeSettings | None, console: Console
) -> None:
    """Serve a run's tuned model until it is interrupted.

    Raises:
        UserError: if the address is taken, other machines can reach it and no key is set, the run has no adapter, the
            engine does not start or answers differently, or the policy is another model's.
    """
    key, host = os.environ.get(KEY) or None, settings.host
    if key is None and host not in LOOPBACK:
        raise UserError(
            f"--host {host}: other machines can reach this address, and {KEY} is not set; set it to a key, or use "
            "--host 127.0.0.1"
        )
    address = _bind(host, settings.port)
    try:
        tuned = TunedModel.load(folder)
        for note in (*tuned.hardware.notes, *tuned.notes):
            console.print(note, markup=False)
        with ends_on_sigterm(), open_engine(tuned, _chosen_engine(engine, settings, cascade), console) as opened:
            gateway = make_gateway(tuned, opened, settings, cascade, key, console)
            url = f"http://{f'[{host}]' if ':' in host else host}:{address.getsockname()[1]}"
            console.print(f"{tuned.config.name} in {opened.engine}: {url}/v1 (stop with Ctrl-C)", markup=False)
            console.print(f"try it in a browser: {url}/playground", markup=False)
            if settings.logs_access:
                logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
                ACCESS.setLevel(logging.INFO)
            # Requests in progress are answered first; a second Ctrl-C does not wait for them.
            config = uvicorn.Config(
                make_app(gateway),
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
            uvicorn.Server(config).run(sockets=[address])
    finally:
        address.close()


@contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that an engine that was started in it ends too. Only the main thread
    gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _chosen_engine(engine: EngineSettings, settings: ServeSettings, cascade: CascadeSettings | None) -> EngineSettings:
    """Return the engine, which is the policy's if no flag names one."""
    if engine.kind is not None or engine.base_url is not None:
        if settings.with_base and engine.kind != TRANSFORMERS:
            raise UserError(f"--with-base: needs --engine {TRANSFORMERS}, which has the base model; add it")
        return engine
    if settings.with_base:
        return replace(engine, kind="transformers")
    if cascade is None:
        return engine
    made_for = read_policy(cascade.policy).identity.engine.split(" ")[0]
    return replace(engine, kind=next((kind for kind in KINDS if kind == made_for), None))


def make_gateway(
    tuned: TunedModel,
    opened: OpenEngine,
    settings: ServeSettings,
    cascade: CascadeSettings | None,
    key: str | None,
    console: Console,
) -> Gateway:
    """Return the gateway in front of an open engine.

    Raises:
        UserError: as `open_cascade` does.
    """
    limit = settings.max_new_tokens or tuned.config.evaluate.max_new_tokens
    small = SmallModel(tuned.config.name, tuned.renderer, opened.generator, limit, settings.decode_valid)
    metrics = Metrics()
    behind = open_cascade(cascade, tuned.run, opened.identity, console) if cascade else None
    models = {small.name: Answerer(small, metrics, behind)}
    if settings.with_base:
        base = TunedModel.base(tuned.run.path)
        name = f"{small.name}-base"
        generator = LocalGenerator(base.model, base.renderer)
        models[name] = Answerer(SmallModel(name, base.renderer, generator, limit), metrics)
    start = chat_start(tuned.run) if tuned.run.split("test").is_file() else ChatStart("", (), ())
    return Gateway(models, metrics, key, settings.strict, settings.allowed_origins, start, closes_engines=True)


def open_cascade(settings: CascadeSettings, run: RunFolder, identity: Identity, console: Console) -> Cascade:
    """Return the cascade: reads the policy, opens the decision log, and sums what was spent today.

    Raises:
        UserError: if the policy is invalid or another model's, the manifest does not name the model and template, the
            log cannot be opened, or the large model's address or key is wrong.
    """
    policy = read_policy(settings.policy)
    refuse_other_model(policy, identity)
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
