"""The rules of thumb, with every band written down once: what speaks for tuning, against it, and what lies between.

Volume: over 10,000 calls a day speak for it, under 1,000 against. Task: patterned for, deep reasoning against. Data:
500 good examples or more for, fewer than 50 against. Errors: how much of what tuning saves its extra wrong answers
cost; up to a half for, all of it or more against. Of these, volume, task and data are vetoes: one against is an answer,
whatever the money says. The cost of errors is in the money already, so it only shows where the money goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolhone.economics.cost import DAYS_A_MONTH
from toolhone.economics.inputs import Inputs, Task
from toolhone.economics.options import api_call_usd, running_usd_per_day

Side = Literal["for", "between", "against"]


@dataclass(frozen=True, slots=True)
class Band:
    """Two bounds of a number. `words` names both, for a reader."""

    speaks_against: float
    speaks_for: float
    words: str


VOLUME = Band(1_000, 10_000, "over 10,000 a day for, under 1,000 against")
EXAMPLES = Band(50, 500, "500 or more for, fewer than 50 against")
ERRORS = Band(1.0, 0.5, "up to half of the saving for, all of it or more against")
TASK: dict[Task, Side] = {"patterned": "for", "mixed": "between", "reasoning": "against"}

TEST_SHARE = 0.2
"""The share of the examples held out for a test, by `toolhone data split`."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """One rule, applied. `says` is what it means for this case; a `veto` against tuning decides alone."""

    name: str
    value: str
    side: Side
    band: str
    says: str
    veto: bool


def criteria(inputs: Inputs) -> tuple[Criterion, ...]:
    return _volume(inputs), _task(inputs), _examples(inputs), _errors(inputs)


def vetoes(inputs: Inputs) -> list[str]:
    """The names of the rules that speak against tuning and decide alone."""
    sides = {"calls a day": volume_side(inputs), "task": TASK[inputs.task], "good examples": examples_side(inputs)}
    return [name for name, side in sides.items() if side == "against"]


def volume_side(inputs: Inputs) -> Side:
    """Over 10,000 calls a day: for. Under 1,000: against. Both bounds themselves lie between."""
    if inputs.calls_per_day > VOLUME.speaks_for:
        return "for"
    return "against" if inputs.calls_per_day < VOLUME.speaks_against else "between"


def examples_side(inputs: Inputs) -> Side:
    """500 good examples or more: for. Fewer than 50: against."""
    if inputs.examples >= EXAMPLES.speaks_for:
        return "for"
    return "against" if inputs.examples < EXAMPLES.speaks_against else "between"


def eaten_share(inputs: Inputs) -> float | None:
    """Of what the tuned model saves on a call, the share that its extra wrong answers cost; None where it saves none.

    (API's accuracy - small one's) * dollars of a wrong call / (API's dollars a call - small one's running dollars).
    """
    calls = inputs.calls_per_day
    own = running_usd_per_day(inputs, "tuned", calls) / calls + inputs.upkeep_usd_per_month / DAYS_A_MONTH / calls
    saving = api_call_usd(inputs, "api") - own
    if saving <= 0:
        return None
    return max(0.0, inputs.api_accuracy - inputs.small_accuracy) * inputs.error_usd / saving


def margin_of_test(examples: int) -> float:
    """Half of a 95% interval of a share near 0.9, from the examples held out for a test: 1.96 sqrt(0.09 / rows)."""
    return float(1.96 * (0.09 / max(1.0, TEST_SHARE * examples)) ** 0.5)


def _volume(inputs: Inputs) -> Criterion:
    side = volume_side(inputs)
    says = {
        "for": "enough calls to pay for the work",
        "between": "the money decides: see the break-even volume",
        "against": "too few calls to pay for the work and for looking after it",
    }[side]
    return Criterion("calls a day", f"{inputs.calls_per_day:,.0f}", side, VOLUME.words, says, veto=True)


def _task(inputs: Inputs) -> Criterion:
    side = TASK[inputs.task]
    says = {
        "for": "the same kinds of call over and over, which a small model can learn",
        "between": "a small model can learn the patterned part; routing hands over the rest",
        "against": "a small model learns patterns, not reasoning that it lacks",
    }[side]
    words = "patterned for, deep reasoning against, mixed between"
    return Criterion("task", inputs.task, side, words, says, veto=True)


def _examples(inputs: Inputs) -> Criterion:
    side = examples_side(inputs)
    margin = 100 * margin_of_test(inputs.examples)
    held_out = round(TEST_SHARE * inputs.examples)
    says = {
        "for": f"enough to train on and to judge by: a fifth held out tells accuracy to about {margin:.0f} points",
        "between": (
            f"enough for a first model, not to prove it: {held_out} held out tell its accuracy to about "
            f"{margin:.0f} points; toolhone learning-curve says whether more would help"
        ),
        "against": f"too few to train and to judge: label {EXAMPLES.speaks_against - inputs.examples:.0f} more first",
    }[side]
    return Criterion("good examples", f"{inputs.examples:,}", side, EXAMPLES.words, says, veto=True)


def _errors(inputs: Inputs) -> Criterion:
    eaten = eaten_share(inputs)
    if eaten is None:
        says = "the tuned model saves nothing on a call, so there is nothing to pay for errors with"
        return Criterion("cost of errors", "no saving", "against", ERRORS.words, says, veto=False)
    side: Side = "for" if eaten <= ERRORS.speaks_for else "between" if eaten < ERRORS.speaks_against else "against"
    says = {
        "for": "tolerable",
        "between": "the money decides: most of the saving goes into wrong answers",
        "against": "wrong answers cost more than the calls save; routing has fewer",
    }[side]
    return Criterion("cost of errors", f"{100 * eaten:,.0f}% of the saving", side, ERRORS.words, says, veto=False)
