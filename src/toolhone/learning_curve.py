"""Would more data help? The same experiment on more and more of its training rows, judged on the same turns.

Each size is a run of its own, `runs/<name>-rows<size>`, so what is finished is reused. All have the config's epochs: a
larger size also takes more steps, as it would in earnest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from toolhone.config import Config
from toolhone.data.split import make_splits
from toolhone.errors import UserError
from toolhone.evaluate.compare import compare_all
from toolhone.evaluate.read_scores import read_scores
from toolhone.jsonl import write_json
from toolhone.rates import rate_of
from toolhone.records import Score
from toolhone.report import numbers
from toolhone.run_folder import RUNS

HARDLY = 0.02
"""A gain that even at its interval's upper end is smaller than this is not worth collecting rows for."""


@dataclass(frozen=True, slots=True)
class Step:
    """From one size to the next: the gain in exact match, with its 95% interval (paired bootstrap). The bounds are None
    where there is none, as of turns that are all of one template."""

    smaller: int
    larger: int
    gain: float
    low: float | None
    high: float | None

    @property
    def per_doubling(self) -> float:
        """The gain that a doubling of the rows would have brought at this pace."""
        return self.gain / math.log2(self.larger / self.smaller)

    def __str__(self) -> str:
        return numbers.points({"value": self.gain, "low": self.low, "high": self.high})


def learning_curve(config: Config, sizes: Sequence[int], console: Console) -> Path | None:
    """Train and judge at each size, print the curve and the advice, and write `runs/<name>-learning-curve.json`.

    Returns that file, or None where a training was asked to stop early.

    Raises:
        UserError: where the sizes do not rise, or are more than there are training conversations.
    """
    from toolhone.pipeline import run_experiment  # torch: not before the sizes are known to be good

    _refuse_sizes(sizes, len(make_splits(config.data).train))
    scores: dict[str, list[Score]] = {}
    for size in sizes:
        console.print(f"{size} training conversations", style="bold")
        run = run_experiment(at_size(config, size), resume=False, fresh=False, console=console)
        if run is None:
            return None
        scores[str(size)] = read_scores(run.scores("tuned"), "run `toolhone score`")
    found = steps(scores)
    console.print(_table(scores, found))
    console.print(advice(found, len(scores[str(sizes[-1])])), markup=False)
    path = RUNS / f"{config.name}-learning-curve.json"
    write_json(path, _to_json(scores, found))
    console.print(f"written: {path}", markup=False)
    return path


def at_size(config: Config, size: int) -> Config:
    """The config of one size's run. The untuned model is the same for all, so it is not asked."""
    return config.model_copy(
        update={
            "name": f"{config.name}-rows{size}",
            "data": config.data.model_copy(update={"train_rows": size}),
            "evaluate": config.evaluate.model_copy(update={"base": False}),
        }
    )


def steps(scores: dict[str, list[Score]]) -> list[Step]:
    """The gains from each size to the next; `scores` has sizes, written as text, in rising order."""
    sizes = list(scores)
    found = []
    for smaller, larger in pairwise(sizes):
        entries = compare_all({smaller: scores[smaller], larger: scores[larger]})
        (exact,) = (entry for entry in entries if entry["measure"] == "exact_match")
        found.append(Step(int(smaller), int(larger), exact["value"], exact["low"], exact["high"]))
    return found


def advice(found: Sequence[Step], turns: int) -> str:
    """What the last step says of more data."""
    last = found[-1]
    seen = f"from {last.smaller} to {last.larger} rows exact match changed by {last}"
    if last.low is not None and last.low > 0:
        return f"More data helps: {seen}, about {last.per_doubling * 100:.1f} points a doubling."
    if last.high is not None and last.high < HARDLY and turns * HARDLY >= 1:  # fewer turns cannot show so small a gain
        return f"More data of this kind would hardly help: {seen}. Look at what is still wrong instead."
    return f"{turns} turns cannot tell whether more data would help: {seen}. Judge on more rows, or add a larger size."


def _refuse_sizes(sizes: Sequence[int], available: int) -> None:
    if len(sizes) < 2 or any(b <= a for a, b in pairwise(sizes)) or sizes[0] < 1:
        raise UserError(f"--sizes: expected two or more rising numbers, found {','.join(map(str, sizes))}")
    if sizes[-1] > available:
        raise UserError(f"--sizes: {sizes[-1]} is more than the {available} training conversations that there are")


def _table(scores: dict[str, list[Score]], found: Sequence[Step]) -> Table:
    table = Table("Rows", "Exact match", "Against the size before")
    gains = ["", *map(str, found)]
    for (size, rows), gain in zip(scores.items(), gains, strict=True):
        table.add_row(size, numbers.figure(rate_of(score.exact for score in rows)), gain)
    return table


def _to_json(scores: dict[str, list[Score]], found: Sequence[Step]) -> dict[str, Any]:
    return {
        "sizes": [
            {"rows": int(size), "exact_match": rate_of(score.exact for score in rows)} for size, rows in scores.items()
        ],
        "steps": [{**asdict(step), "per_doubling": step.per_doubling} for step in found],
        "advice": advice(found, len(next(iter(scores.values())))),
    }
