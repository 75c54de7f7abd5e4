"""The command `toolhone serve`: the gateway in front of an engine, with or without a larger model behind."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli import flags
from toolhone.cli.terminal import plain_console
from toolhone.errors import UserError

if TYPE_CHECKING:
    from toolhone.serve.engine import EngineSettings
    from toolhone.serve.server import CascadeSettings


def add_serve_command(commands: Any) -> None:
    """Add `serve`."""
    about = "answer over HTTP as the API of OpenAI does, with or without a larger model behind"
    parser = flags.command(commands, "serve", _serve, about)
    flags.add(parser, "--run")
    add = parser.add_argument
    about = "address to bind; others need the variable TOOLHONE_API_KEY (default: %(default)s)"
    add("--host", default="127.0.0.1", help=about)
    about = "number of the port; 0: any free port (default: %(default)s)"
    add("--port", type=int, default=8000, metavar="N", help=about)
    flags.add(parser, "--max-tokens", type=int, help="token limit of one answer, in tokens (default: the run's)")
    about = "valid: a grammar makes every call readable and valid under its tool's schema (default: %(default)s)"
    add("--decode", choices=("free", "valid"), default="free", help=about)
    add("--strict", action="store_true", help="refuse keys that the gateway does not know, instead of ignoring them")
    about = "web page that may ask the gateway, such as http://localhost:3000; may be repeated"
    add("--allow-origin", action="append", default=[], metavar="URL", help=about)
    about = "serve the base model too, as NAME-base, to compare both in the playground; with --engine transformers"
    add("--with-base", action="store_true", help=about)
    add("--quiet", action="store_true", help="print no line for each request")
    add = add_engine_flags(parser)
    about = "start without comparing a few answers of the engine with those of the run"
    add("--no-verify", action="store_true", help=about)
    about = "a cascade: unsure answers are escalated to a larger model, with the key OPENAI_API_KEY"
    group = parser.add_argument_group(about)
    add = group.add_argument
    add("--policy", type=Path, help="when to escalate: the policy.json of `toolhone route`")
    add("--large-base-url", metavar="URL", help="address of the larger model, for example https://api.openai.com/v1")
    add("--large-model", metavar="NAME", help="name of the larger model at that address")
    add("--large-timeout", type=float, metavar="S", help="time limit of a call of it, in seconds (default: 30)")
    about = "token limit of one answer of the larger model, in tokens (default: 1024)"
    add("--large-max-tokens", type=int, metavar="N", help=about)
    flags.add(group, "--price-in", "--price-cached", "--price-out")
    about = "stop escalating for the rest of the UTC day after this many dollars (default: no limit)"
    add("--max-usd-a-day", type=float, metavar="USD", help=about)
    add("--log", type=Path, metavar="FILE", help="file for the log of decisions (default: RUN/decisions.jsonl)")
    add("--log-texts", action="store_true", help="log questions and answers too")


def add_engine_flags(parser: argparse.ArgumentParser) -> Any:
    """Add the flags that choose the engine, and return the function that adds further ones to their group."""
    add = parser.add_argument_group("the engine of the small model").add_argument
    about = "what computes the answers (default: vllm with a GPU, otherwise llama.cpp, if they are installed)"
    add("--engine", choices=("llama.cpp", "vllm", "transformers"), help=about)
    about = "a running vLLM, SGLang or llama-server instead (its key: TOOLHONE_ENGINE_KEY)"
    add("--small-base-url", metavar="URL", help=about)
    about = "with --small-base-url: the model's name there (default: the last one that it lists)"
    add("--small-model", metavar="NAME", help=about)
    about = (
        "with --engine llama.cpp: GGUF of the merged model (default: one that `toolhone export` wrote, or a new one)"
    )
    add("--gguf", type=Path, metavar="FILE", help=about)
    about = "with --engine: the command vllm, for example of another Python environment (default: the one on PATH)"
    add("--vllm-command", metavar="COMMAND", help=about)
    return add


def engine_settings(options: argparse.Namespace, *, verify: bool) -> EngineSettings:
    """Return the engine that the flags choose.

    Args:
        verify: whether a few of its answers are compared with those of the run first.

    Raises:
        UserError: if flags contradict each other, or a package is missing.
    """
    for name, needed in (
        ("small_model", "small_base_url"),
        ("gguf", "engine llama.cpp"),
        ("vllm_command", "engine vllm"),
    ):
        flag, _, value = needed.partition(" ")
        found = getattr(options, flag)
        if getattr(options, name) is not None and (found is None or (value and found != value)):
            raise UserError(f"{_flag(name)}: goes with {_flag(needed)}; leave it out, or give both")
    if options.engine is not None and options.small_base_url is not None:
        raise UserError("--engine: --small-base-url names a running engine; give one of them")
    from toolhone.serve.engine import EngineSettings

    return EngineSettings(
        kind=options.engine,
        base_url=options.small_base_url,
        model=options.small_model,
        gguf=options.gguf,
        vllm_command=options.vllm_command,
        verify=verify,
    )


def _serve(options: argparse.Namespace) -> None:
    if options.max_tokens is not None and options.max_tokens < 1:
        raise UserError(f"--max-tokens: expected 1 or more, found {options.max_tokens}")
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"the package {error.name} is not installed; run: pip install 'toolhone[serve]'") from None
    from toolhone.serve.server import ServeSettings, serve

    engine = engine_settings(options, verify=not options.no_verify)
    settings = ServeSettings(
        host=options.host,
        port=options.port,
        max_new_tokens=options.max_tokens,
        decode_valid=options.decode == "valid",
        strict=options.strict,
        allowed_origins=tuple(options.allow_origin),
        with_base=options.with_base,
        logs_access=not options.quiet,
    )
    serve(options.folder, engine, settings, _cascade(options), plain_console())


_NEEDED = ("policy", "large_base_url", "large_model")
_ABOVE_ZERO = ("large_timeout", "large_max_tokens", "max_usd_a_day")
_PRICES = ("price_in", "price_cached", "price_out")


def _cascade(options: argparse.Namespace) -> CascadeSettings | None:
    """The cascade's settings, or None if no flag asks for one.

    Raises:
        UserError: if flags are missing or out of range.
    """
    given = list(flags.given(options, (*_NEEDED, *_ABOVE_ZERO, *_PRICES, "log")))
    given += ["log_texts"] if options.log_texts else []
    if not given:
        return None
    for name in _NEEDED:
        if name not in given:
            needed = ", ".join(map(_flag, _NEEDED))
            raise UserError(f"{_flag(given[0])}: belongs to a cascade, which needs {needed}; {_flag(name)} is missing")
    for names, minimum in ((_ABOVE_ZERO, "more than 0"), (_PRICES, "0 or more")):
        for name in (name for name in names if name in given):
            value = getattr(options, name)
            if not 0 <= value < float("inf") or (value == 0 and names is _ABOVE_ZERO):
                raise UserError(f"{_flag(name)}: expected {minimum}, found {value}")
    prices = [name for name in ("price_in", "price_out") if name in given]
    if len(prices) < 2 and (prices or {"price_cached", "max_usd_a_day"} & set(given)):
        both = "both --price-in and --price-out, in dollars for a million tokens"
        raise UserError(f"a price or --max-usd-a-day: needs {both}")
    from toolhone.economics.cost import Price
    from toolhone.route.large_model import LargeSettings
    from toolhone.serve.server import CascadeSettings

    limits = {"timeout_s": options.large_timeout, "max_tokens": options.large_max_tokens}
    limits = {name: value for name, value in limits.items() if value is not None}
    large = LargeSettings(options.large_model, options.large_base_url, **limits)
    cached = options.price_in if options.price_cached is None else options.price_cached
    price = Price(options.price_in, cached, options.price_out) if prices else None
    return CascadeSettings(options.policy, large, price, options.max_usd_a_day, options.log, options.log_texts)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
