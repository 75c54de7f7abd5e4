"""Would more data help? Run the same experiment on more and more of its training rows, scored on the same turns.

Each size is a separate run, `runs/<name>-rows<size>`, so finished sizes are reused. All sizes train for the config's
epochs, so a larger size takes more steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from toolhone.config import Config
from toolhone.data.split import make_splits
from toolhone.errors import Interrupted, UserError
from toolhone.evaluate.metrics import compare_all
from toolhone.evaluate.score import read_scores
from toolhone.jsonl import write_json
from toolhone.rates import rate_of
from toolhone.records import Score
from toolhone.report import numbers
from toolhone.report.tables import learning_curve_table
from toolhone.run_folder import RUNS, RunFolder
from toolhone.train.checkpoint import can_continue

MIN_USEFUL_GAIN = 0.02
"""If even the upper end of a gain's interval is smaller than this, more rows are not worth collecting."""


@dataclass(frozen=True, slots=True)
class Step:
    """The gain in exact match from one size to the next, with its 95% interval (paired bootstrap). The bounds are None
    if there is no interval, for example because all turns have the same template."""

    smaller: int
    larger: int
    gain: float
    low: float | None
    high: float | None

    @property
    def per_doubling(self) -> float:
        """The gain for twice the rows, if gains grow with the logarithm of the size."""
        return self.gain / math.log2(self.larger / self.smaller)

    def __str__(self) -> str:
        return numbers.points({"value": self.gain, "low": self.low, "high": self.high})


def learning_curve(config: Config, sizes: Sequence[int], console: Console) -> Path:
    """Train and score at each size, print the curve and the advice, and write `runs/<name>-learning-curve.json`.

    Returns:
        The path of that file.

    Raises:
        Interrupted: if a training was stopped early.
        UserError: if the sizes do not increase, or exceed the number of training conversations.
    """
    from toolhone.pipeline import interruption, run_experiment

    if len(sizes) < 2 or any(b <= a for a, b in pairwise(sizes)) or sizes[0] < 1:
        raise UserError(f"--sizes: expected two or more increasing numbers, found {','.join(map(str, sizes))}")
    if sizes[-1] > (available := len(make_splits(config.data).train)):
        raise UserError(f"--sizes: {sizes[-1]} is more than the {available} training conversations available")
    scores: dict[str, list[Score]] = {}
    for size in sizes:
        console.print(f"{size} training conversations", style="bold")
        sized = at_size(config, size)
        started = RunFolder(RUNS / sized.name)
        # An interrupted size continues from its checkpoint when the command is run again.
        resume = can_continue(started)
        try:
            run = run_experiment(sized, resume=resume, fresh=False, console=console)
        except Interrupted as error:
            raise Interrupted(error.kept, flag="") from None
        if run is None:
            raise Interrupted(interruption(started).kept, flag="")
        scores[str(size)] = read_scores(run.scores("tuned"), "run `toolhone score`")
    found = steps(scores)
    exact_match = {size: rate_of(score.exact for score in rows) for size, rows in scores.items()}
    advised = advice(found, len(scores[str(sizes[-1])]))
    console.print(learning_curve_table(exact_match, list(map(str, found))))
    console.print(advised, markup=False)
    path = RUNS / f"{config.name}-learning-curve.json"
    curve = {
        "sizes": [{"rows": int(size), "exact_match": rate} for size, rate in exact_match.items()],
        "steps": [{**asdict(step), "per_doubling": step.per_doubling} for step in found],
        "advice": advised,
    }
    write_json(path, curve)
    console.print(f"written: {path}", markup=False)
    return path


def at_size(config: Config, size: int) -> Config:
    """Return the config for the run of one size. It skips the base model, which is the same for all sizes."""
    return config.model_copy(
        update={
            "name": f"{config.name}-rows{size}",
            "data": config.data.model_copy(update={"train_rows": size}),
            "evaluate": config.evaluate.model_copy(update={"base": False}),
        }
    )


def steps(scores: dict[str, list[Score]]) -> list[Step]:
    """Return the gain from each size to the next. The keys of `scores` are sizes as text, in increasing order."""
    sizes = list(scores)
    found = []
    for smaller, larger in pairwise(sizes):
        entries = compare_all({smaller: scores[smaller], larger: scores[larger]})
        (exact,) = (entry for entry in entries if entry["measure"] == "exact_match")
        found.append(Step(int(smaller), int(larger), exact["value"], exact["low"], exact["high"]))
    return found


def advice(found: Sequence[Step], turns: int) -> str:
    """Return whether more data would help, according to the last step."""
    last = found[-1]
    seen = f"from {last.smaller} to {last.larger} rows exact match changed by {last}"
    if last.low is not None and last.low > 0:
        return f"More data helps: {seen}, about {last.per_doubling * 100:.1f} points a doubling."
    # With fewer turns than this, one turn is more than the gain.
    if last.high is not None and last.high < MIN_USEFUL_GAIN and turns * MIN_USEFUL_GAIN >= 1:
        return f"More data of this kind would hardly help: {seen}. Look at what is still wrong instead."
    return f"{turns} turns cannot tell whether more data would help: {seen}. Score on more rows, or add a larger size."
