"""The command `toolhone serve`: a run's tuned model behind OpenAI's chat completions, alone or in a cascade."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli.terminal import plain_console
from toolhone.errors import UserError

if TYPE_CHECKING:
    from toolhone.serve.server import CascadeSettings


def add_serve_commands(commands: Any) -> None:
    """Add `serve` to the commands."""
    parser = commands.add_parser("serve", help="answer over HTTP as OpenAI does, with a larger model behind it or not")
    parser.add_argument("--run", type=Path, required=True, dest="folder", help="a run folder, for example runs/cpu")
    parser.add_argument("--host", default="127.0.0.1", help="(default: %(default)s; any other needs TOOLHONE_API_KEY)")
    parser.add_argument("--port", type=int, default=8000, help="(default: %(default)s; 0 takes a free one)")
    parser.add_argument(
        "--max-new-tokens", type=int, help="the most that an answer may have (default: the run's evaluate section)"
    )
    group = parser.add_argument_group("a cascade: unsure answers go to a larger model, with the key OPENAI_API_KEY")
    group.add_argument("--policy", type=Path, help="when to ask it: the policy.json of `toolhone route`")
    group.add_argument("--large-base-url", metavar="URL", help="its address, for example https://api.openai.com/v1")
    group.add_argument("--large-model", metavar="NAME", help="its name there")
    group.add_argument("--large-timeout", type=float, metavar="S", help="seconds for a call (default: 30)")
    group.add_argument("--large-max-tokens", type=int, metavar="N", help="of its answers (default: 1024)")
    group.add_argument("--price-in", type=float, metavar="USD", help="dollars for a million of its prompt tokens")
    group.add_argument("--price-cached", type=float, metavar="USD", help="of those it had cached (default: --price-in)")
    group.add_argument("--price-out", type=float, metavar="USD", help="dollars for a million tokens of its answers")
    group.add_argument(
        "--max-usd-a-day", type=float, metavar="USD", help="ask it no more once the UTC day has cost this"
    )
    group.add_argument("--log", type=Path, metavar="FILE", help="the decision log (default: RUN/decisions.jsonl)")
    group.add_argument("--log-texts", action="store_true", help="log what was asked and said, too")
    parser.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
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

    settings = _cascade(options)
    console = plain_console()
    serve(options.folder, options.host, options.port, console, cascade=settings, max_new_tokens=options.max_new_tokens)
    return 0


_NEEDED = ("policy", "large_base_url", "large_model")
_OPTIONAL = ("large_timeout", "large_max_tokens", "price_in", "price_cached", "price_out", "max_usd_a_day", "log")


def _cascade(options: argparse.Namespace) -> CascadeSettings | None:
    """The cascade's settings, or None where no flag asks for one.

    Raises:
        UserError: where flags are missing or out of range.
    """
    given = [name for name in (*_NEEDED, *_OPTIONAL) if getattr(options, name) is not None]
    given += ["log_texts"] if options.log_texts else []
    if not given:
        return None
    for name in _NEEDED:
        if name not in given:
            needed = ", ".join(map(_flag, _NEEDED))
            raise UserError(f"{_flag(given[0])}: is for a cascade, which needs {needed}; {_flag(name)} is missing")
    for name in ("large_timeout", "large_max_tokens", "max_usd_a_day"):
        if name in given and not 0 < getattr(options, name) < float("inf"):
            raise UserError(f"{_flag(name)}: expected more than 0, found {getattr(options, name)}")
    for name in ("price_in", "price_cached", "price_out"):
        if name in given and not 0 <= getattr(options, name) < float("inf"):
            raise UserError(f"{_flag(name)}: expected 0 or more, found {getattr(options, name)}")
    prices = [name for name in ("price_in", "price_out") if name in given]
    if len(prices) < 2 and (prices or {"price_cached", "max_usd_a_day"} & set(given)):
        raise UserError(
            "a price or --max-usd-a-day: needs both --price-in and --price-out, in dollars for a million tokens"
        )
    from toolhone.economics.cost import Price
    from toolhone.route.large_model import LargeSettings
    from toolhone.serve.server import CascadeSettings

    large = {"timeout_s": options.large_timeout, "max_tokens": options.large_max_tokens}
    cached = options.price_in if options.price_cached is None else options.price_cached
    return CascadeSettings(
        policy=options.policy,
        large=LargeSettings(
            options.large_model,
            options.large_base_url,
            **{name: value for name, value in large.items() if value is not None},
        ),
        price=Price(options.price_in, cached, options.price_out) if prices else None,
        max_usd_a_day=options.max_usd_a_day,
        log=options.log,
        log_texts=options.log_texts,
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
