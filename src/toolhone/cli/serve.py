"""The command `toolhone serve`: a run's tuned model behind OpenAI's API, alone or in a cascade."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli import flags
from toolhone.cli.terminal import plain_console
from toolhone.errors import UserError

if TYPE_CHECKING:
    from toolhone.serve.server import CascadeSettings


def add_serve_commands(commands: Any) -> None:
    """Add `serve` to the commands."""
    about = "answer over HTTP as OpenAI does, with or without a larger model behind"
    parser = flags.command(commands, "serve", _serve, about)
    flags.add(parser, "--run")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to bind (default: %(default)s; any other needs TOOLHONE_API_KEY)")
    add("--port", type=int, default=8000, help="port to bind; 0: any free one (default: %(default)s)")
    add("--max-new-tokens", type=int, metavar="N", help="token limit of an answer (default: the run's)")
    about = "a cascade: unsure answers go to a larger model, with the key OPENAI_API_KEY"
    group = parser.add_argument_group(about)
    add = group.add_argument
    add("--policy", type=Path, help="when to escalate: the policy.json of `toolhone route`")
    add("--large-base-url", metavar="URL", help="address of the larger model, for example https://api.openai.com/v1")
    add("--large-model", metavar="NAME", help="its name at that address")
    add("--large-timeout", type=float, metavar="S", help="time limit of a call in seconds (default: 30)")
    add("--large-max-tokens", type=int, metavar="N", help="token limit of its answers (default: 1024)")
    add("--price-cached", type=float, metavar="USD", help="price of a million cached tokens (default: --price-in)")
    flags.add(group, "--price-in", "--price-out")
    add("--max-usd-a-day", type=float, metavar="USD", help="stop escalating once the UTC day has cost this")
    add("--log", type=Path, metavar="FILE", help="the decision log (default: RUN/decisions.jsonl)")
    add("--log-texts", action="store_true", help="also log questions and answers")


def _serve(options: argparse.Namespace) -> None:
    if options.max_new_tokens is not None and options.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens: expected 1 or more, found {options.max_new_tokens}")
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the package {error.name} is not installed; `pip install 'toolhone[serve]'` brings it"
        ) from None
    from toolhone.serve.server import serve

    cascade, tokens = _cascade(options), options.max_new_tokens
    serve(options.folder, options.host, options.port, plain_console(), cascade=cascade, max_new_tokens=tokens)


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
            raise UserError(f"{_flag(given[0])}: is for a cascade, which needs {needed}; {_flag(name)} is missing")
    for names, minimum in ((_ABOVE_ZERO, "more than 0"), (_PRICES, "0 or more")):
        for name in (name for name in names if name in given):
            value = getattr(options, name)
            if not 0 <= value < float("inf") or (value == 0 and names is _ABOVE_ZERO):
                raise UserError(f"{_flag(name)}: expected {minimum}, found {value}")
    prices = [name for name in ("price_in", "price_out") if name in given]
    if len(prices) < 2 and (prices or {"price_cached", "max_usd_a_day"} & set(given)):
        raise UserError(
            "a price or --max-usd-a-day: needs both --price-in and --price-out, in dollars for a million tokens"
        )
    from toolhone.economics.cost import Price
    from toolhone.route.large_model import LargeSettings
    from toolhone.serve.server import CascadeSettings

    limits = {"timeout_s": options.large_timeout, "max_tokens": options.large_max_tokens}
    limits = {name: value for name, value in limits.items() if value is not None}
    large = LargeSettings(options.large_model, options.large_base_url, **limits)
    cached = options.price_in if options.price_cached is None else options.price_cached
    price = Price(options.price_in, cached, options.price_out) if prices else None
    return flags.call(CascadeSettings, options, large=large, price=price)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
