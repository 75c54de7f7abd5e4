"""Pages that are one file: styles inside, nothing loaded from anywhere, no script, light and dark, fit for a phone.

A template under `pages/` extends `page.html.jinja` and takes the look of the run report.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from toolhone import __version__

_PAGES = Path(str(files("toolhone.report"))) / "templates"
_REPORT_STYLE = _PAGES / "report.css"


def html_page(name: str, /, **values: Any) -> str:
    """Render `pages/<name>.html.jinja` with `pages/<name>.css` behind the report's styles.

    All text is escaped; half of a surrogate pair, which JSON can carry and UTF-8 cannot, becomes a visible escape.
    """
    environment = Environment(
        loader=FileSystemLoader(_PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = "".join(path.read_text(encoding="utf-8") for path in (_REPORT_STYLE, _PAGES / f"{name}.css"))
    text = environment.get_template(f"{name}.html.jinja").render(style=style, version=__version__, **values)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
