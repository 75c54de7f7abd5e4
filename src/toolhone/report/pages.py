"""The one Jinja environment of all pages and Markdown files.

In: a template under `templates/` and its values. Out: text that UTF-8 can carry. An HTML page is one file: styles
inside, nothing loaded from anywhere, light and dark, fit for a phone.
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

    All text is escaped. A template extends `page.html.jinja` and takes the look of the run report.
    """
    sheets = dict.fromkeys(("report", name))
    style = "".join((TEMPLATES / f"{sheet}.css").read_text(encoding="utf-8") for sheet in sheets)
    return _render(f"{name}.html.jinja", style=style, version=__version__, **values)


def markdown_page(name: str, /, **values: Any) -> str:
    """Render `templates/<name>.md.jinja`. Text from outside must pass through `md_cell` or `md_fence` there."""
    return _render(f"{name}.md.jinja", **values)


def page_script(name: str) -> dict[str, str]:
    """The text of `templates/<name>.js`, and its hash, by which a page's content policy lets this one script run.

    If a model's text ever escaped its quoting, it would still be inert.
    """
    script = (TEMPLATES / f"{name}.js").read_text(encoding="utf-8")
    return {"script": script, "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}


@cache
def page_environment() -> Environment:
    """The environment: HTML templates escape all text, and an unknown name is an error."""
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
    """Render a template; half of a surrogate pair, which JSON can carry and UTF-8 cannot, becomes a visible escape."""
    text = page_environment().get_template(template).render(**values)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _markdown_cell(text: str) -> str:
    """Text that stays inside its table cell and is shown as it is."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;")


def _markdown_fence(text: str, language: str = "text") -> str:
    """Text as a code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _unbroken(text: str) -> Markup:
    """Text in whose intervals, "[81.0, 91.0]", no line is broken."""
    return Markup(re.sub(r"\[[^\[\]]*\]", r'<span class="unbroken">\g<0></span>', str(escape(text))))


def _code(text: str) -> Markup:
    """Text in which what is between backticks is code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))
