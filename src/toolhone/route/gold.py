"""Whose answers the gold is: where it is the large model's own, that model is right by construction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from toolhone.route.rows import Row


@dataclass(frozen=True, slots=True)
class GoldOrigin:
    """The models whose answers are gold (none: people's or made data). `is_large`: the large model is one of them."""

    models: tuple[str, ...]
    rows: int
    is_large: bool

    def sentence(self, large: str) -> str | None:
        """What the reader must know of it, None where there is nothing."""
        if not self.models:
            return None
        named = ", ".join(self.models)
        if self.is_large:
            return (
                f"The gold of {self.rows:,} rows is what {named} answered, which is the large model itself: its "
                "accuracy on them is 100% by construction, and every figure is agreement with it. How many points the "
                "cascade is behind it in truth, these rows cannot tell."
            )
        more = f"; if that is {large}, it is right on them by construction" if large == ASSUMED else ""
        return f"The gold of {self.rows:,} rows is what {named} answered: the figures are agreement with it{more}."


ASSUMED = "the large model"
"""What a large model is called that did not answer the rows."""


def gold_origin(rows: Sequence[Row]) -> GoldOrigin:
    """Find out from the rows and the names of their predictions."""
    sources = [row.small.gold_source for row in rows if row.small.gold_source is not None]
    large = {_plain(row.large.model) for row in rows if row.large is not None}
    same = any(_same(_plain(source), name) for source in set(sources) for name in large)
    return GoldOrigin(tuple(sorted(set(sources))), len(sources), same)


def _plain(name: str) -> str:
    """A model's name without its maker's, in small letters and digits: "openai/GPT-4o" and "openai-gpt-4o" are one."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def _same(one: str, other: str) -> bool:
    """Whether two names may be one model's: equal, or one with a maker before it or a date behind."""
    short, long = sorted((one, other), key=len)
    dated = re.fullmatch(re.escape(short) + r"-(\d{4}-\d{2}-\d{2}|\d{4,8}|latest)", long) is not None
    return short == long or dated or long.endswith(f"-{short}")
