"""Renders all pages and Markdown files with one Jinja environment.

In: a template under `templates/` and its values. Out: text that UTF-8 can encode. An HTML page is a single file with
its styles inside. It loads nothing, has a light and a dark theme, and fits a phone.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from toolhone import __version__
from toolhone.report import numbers

TEMPLATES = Path(__file__).parent / "templates"


def html_page(name: str, /, **values: Any) -> str:
    """Render `templates/<name>.html.jinja` with the report's styles, then those of `templates/<name>.css`.

    Escapes all text. The template must extend `page.html.jinja`, which gives every page the look of the run report.
    """
    sheets = dict.fromkeys(("report", name))
    style = "".join((TEMPLATES / f"{sheet}.css").read_text(encoding="utf-8") for sheet in sheets)
    return _render(f"{name}.html.jinja", style=style, version=__version__, **values)


def markdown_page(name: str, /, **values: Any) -> str:
    """Render `templates/<name>.md.jinja`. It must filter foreign text with `md_cell` or `md_fence`."""
    return _render(f"{name}.md.jinja", **values)


def page_script(name: str) -> dict[str, str]:
    """Return the text of `templates/<name>.js` and its hash. The page's content policy allows only this script.

    If a script in a model's text ever escaped its quoting, the browser would still not run it.
    """
    script = (TEMPLATES / f"{name}.js").read_text(encoding="utf-8")
    return {"script": script, "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}


@cache
def page_environment() -> Environment:
    """Return the environment. HTML templates escape all text, and an unknown name is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        **{name: getattr(numbers, name) for name in ("counted", "decimal", "number", "percent")},
        "md_cell": _markdown_cell,
        "md_fence": _markdown_fence,
        "unbroken": _unbroken,
        "code": _code,
    }
    return environment


def _render(template: str, **values: Any) -> str:
    """Render a template. A lone surrogate, which JSON can hold and UTF-8 cannot, becomes a visible escape."""
    text = page_environment().get_template(template).render(**values)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _markdown_cell(text: str) -> str:
    """Return text that stays inside its table cell and shows literally."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;")


def _markdown_fence(text: str, language: str = "text") -> str:
    """Return text as a code block. Its fence is longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _unbroken(text: str) -> Markup:
    """Return text as HTML that never breaks a line inside an interval such as "[81.0, 91.0]"."""
    return Markup(re.sub(r"\[[^\[\]]*\]", r'<span class="unbroken">\g<0></span>', str(escape(text))))


def _code(text: str) -> Markup:
    """Return text as HTML, with everything between backticks as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))
