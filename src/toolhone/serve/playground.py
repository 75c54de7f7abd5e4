"""The playground: one page that talks with the served models through the gateway's own API.

In: `playground.html`, beside this module, and where conversations start. Out: the routes /playground and
/playground/start.json. The page loads nothing from elsewhere. Its content policy allows only its own script and style,
by their hashes, so a script in a model's text would not run. The page holds nothing secret, so it needs no key; the
requests that it makes do.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

from toolhone.jsonl import json_line
from toolhone.serve.start import ChatStart

PAGE = Path(__file__).with_suffix(".html")


def playground_routes(start: ChatStart, check: Callable[[Request], None]) -> APIRouter:
    """Return the routes of the playground.

    Args:
        start: the tools, the system prompt and the examples that the page begins with.
        check: raises if a request may not read `start`, which has texts of the run's rows.
    """
    routes = APIRouter()

    @routes.get("/playground", include_in_schema=False)
    async def page() -> Response:
        return _page()

    @routes.get("/playground/start.json", include_in_schema=False)
    async def start_json(request: Request) -> Response:
        check(request)
        return Response(json_line(start.to_json()), media_type="application/json")

    return routes


def _page() -> Response:
    html, policy = page_and_policy()
    headers = {
        "content-security-policy": policy,
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cross-origin-opener-policy": "same-origin",
    }
    return Response(html, media_type="text/html; charset=utf-8", headers=headers)


@cache
def page_and_policy() -> tuple[str, str]:
    """Return the page and its content policy."""
    html = PAGE.read_text(encoding="utf-8")
    script, style = (f"'{_hash(html, tag)}'" for tag in ("script", "style"))
    rules = (
        "default-src 'none'",
        f"script-src {script}",
        f"style-src {style}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
    return html, "; ".join(rules)


def _hash(html: str, tag: str) -> str:
    """Return the hash of the page's only element with this tag, as a content policy writes it."""
    [inner] = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return "sha256-" + base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
