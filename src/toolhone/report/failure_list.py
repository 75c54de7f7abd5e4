"""The failed rows as the page has room for them: the first in full, the next a line each, the rest counted.

In: the failed rows, and the template that draws one. Out: their HTML, and how many rows are on the page in neither
form. A page of 10 MB still opens on a phone; where a row is not shown in full, its line in scores/ has all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jinja2 import Environment
from markupsafe import Markup

from toolhone.report.failures import Failure

_ARTICLE_BYTES = 5_000_000
_LISTED_BYTES = 3_500_000


@dataclass(frozen=True, slots=True)
class ShownFailures:
    """Rows in full, then rows of a table, in the order of the scores; and how many more there are."""

    articles: tuple[Markup, ...]
    listed: tuple[Markup, ...]
    unlisted: int


def show_failures(rows: Sequence[Failure], first_model: str, environment: Environment) -> ShownFailures:
    """Draw as many rows as the page has room for."""
    template = environment.get_template("failure.html.jinja").module
    articles = _fitting((Markup(template.article(row, first_model)) for row in rows), _ARTICLE_BYTES)  # type: ignore[attr-defined]
    rest = rows[len(articles) :]
    listed = _fitting((Markup(template.line(row)) for row in rest), _LISTED_BYTES)  # type: ignore[attr-defined]
    return ShownFailures(articles, listed, len(rest) - len(listed))


def _fitting(drawn: Iterable[Markup], size: int) -> tuple[Markup, ...]:
    """The first of the texts that together take no more than so many bytes of UTF-8."""
    fitting = []
    for text in drawn:
        size -= len(text.encode("utf-8", "backslashreplace"))
        if size < 0:
            break
        fitting.append(text)
    return tuple(fitting)
