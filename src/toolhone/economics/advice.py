"""Whether to tune: rules of thumb, the verdict, its figures, and which inputs would change it.

In: a `Case`. Out: one frozen `Advice` of numbers and names, which `report/` puts into words.

The verdict:
1. If a rule of thumb with a veto speaks against tuning, stay with the API.
2. Otherwise take the cheapest option over the horizon, including wrong answers and one-time costs, among the options
   within the yearly budget and the least accuracy.
3. If no option is within these limits, stay with the API.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

from toolhone.economics.cost import DAYS_A_MONTH
from toolhone.economics.inputs import FIELDS, TASKS, Case, Inputs, Task
from toolhone.economics.options import (
    OWN_OPTIONS,
    Costs,
    Option,
    api_call_usd,
    bisect,
    break_even_calls,
    costs,
    escalation_limit,
    options,
    payback_months,
    running_usd_per_day,
    saving,
)

Side = Literal["for", "between", "against"]
Answer = Literal["fine-tune", "route", "stay"]

FEW_EXAMPLES, ENOUGH_EXAMPLES = 50, 500
FEW_CALLS, MANY_CALLS = 1_000, 10_000
TASK_SIDES: dict[Task, Side] = {"patterned": "for", "mixed": "between", "reasoning": "against"}
TEST_SHARE = 0.2
"""The share of the examples that `toolhone data split` holds out for a test."""

_RULES = {
    "calls a day": (
        f"over {MANY_CALLS:,} a day for, under {FEW_CALLS:,} against",
        "enough calls to pay for the work",
        "the money decides: see the break-even volume",
        "too few calls to pay for the work and the upkeep",
    ),
    "task": (
        "patterned for, deep reasoning against",
        "the same kinds of calls repeat, so a small model can learn them",
        "a small model can learn the patterned part; routing escalates the rest",
        "a small model learns patterns, but not deep reasoning",
    ),
    "good examples": (
        f"{ENOUGH_EXAMPLES} or more for, fewer than {FEW_EXAMPLES} against",
        "enough to train and test: a fifth held out measures the accuracy to within {margin:.0f} points",
        "enough for a first model, but not to prove its accuracy: {held_out:.0f} held out measure it to within "
        "{margin:.0f} points; toolhone learning-curve says whether more would help",
        "too few to train and test: label {missing} more first",
    ),
    "cost of errors": (
        "up to half of the saving for, all of it or more against",
        "tolerable",
        "the money decides: wrong answers cost more than half of the saving",
        "wrong answers cost all that tuning saves, or it saves nothing; routing makes fewer errors",
    ),
}
"""For each rule of thumb: its band, and what it means if it speaks for tuning, lies between, or speaks against it."""
_ANSWERS: dict[Option, Answer] = {"tuned": "fine-tune", "route": "route", "api": "stay", "cheap": "stay"}


@dataclass(frozen=True, slots=True)
class Criterion:
    """One rule of thumb, applied to a case. `says` is what it means there. With `veto`, a rule against tuning decides
    alone."""

    name: str
    value: str
    side: Side
    band: str
    says: str
    veto: bool


def criteria(inputs: Inputs) -> tuple[Criterion, ...]:
    """Return the rules of thumb, applied. The cost of errors has no veto, because the totals already count it."""
    calls, count, lost = inputs.calls_per_day, inputs.examples, error_share_of_saving(inputs)
    held_out = TEST_SHARE * count
    # The margin is half the width of a 95% interval for an accuracy near 90%, in points.
    figures = {
        "margin": 196 * (0.09 / max(1.0, held_out)) ** 0.5,
        "held_out": held_out,
        "missing": FEW_EXAMPLES - count,
    }

    def rule(name: str, value: str, side: Side) -> Criterion:
        band, *says = _RULES[name]
        means = says[get_args(Side).index(side)].format(**figures)
        return Criterion(name, value, side, band, means, veto=name != "cost of errors")

    volume: Side = "for" if calls > MANY_CALLS else "against" if calls < FEW_CALLS else "between"
    examples: Side = "for" if count >= ENOUGH_EXAMPLES else "against" if count < FEW_EXAMPLES else "between"
    errors: Side = "against" if lost is None or lost >= 1 else "for" if lost <= 0.5 else "between"
    return (
        rule("calls a day", f"{calls:,.0f}", volume),
        rule("task", inputs.task, TASK_SIDES[inputs.task]),
        rule("good examples", f"{count:,}", examples),
        rule("cost of errors", "no saving" if lost is None else f"{100 * lost:,.0f}% of the saving", errors),
    )


def error_share_of_saving(inputs: Inputs) -> float | None:
    """Return the cost of the tuned model's extra wrong answers as a share of its saving; None if it saves nothing.

    (API's accuracy - tuned accuracy) * dollars per wrong call / (API's dollars per call - tuned running dollars per
    call).
    """
    own = running_usd_per_day(inputs, "tuned") + inputs.upkeep_usd_per_month / DAYS_A_MONTH
    saved = api_call_usd(inputs, "api") - own / inputs.calls_per_day
    return max(0.0, inputs.api_accuracy - inputs.small_accuracy) * inputs.error_usd / saved if saved > 0 else None


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict: `answer`, and the `option` that it chooses. `cheapest` is the cheapest option within the limits,
    None if there is none. `vetoed_by` are the rules that forbid tuning."""

    answer: Answer
    option: Option
    cheapest: Option | None
    vetoed_by: tuple[str, ...]


def decide(inputs: Inputs) -> Decision:
    """Return the verdict, by the three steps in this module's docstring."""
    vetoed_by = tuple(rule.name for rule in criteria(inputs) if rule.veto and rule.side == "against")
    # If totals are equal, the first option wins: an API before tuning.
    by_total = sorted((costs(inputs, option) for option in options(inputs)), key=lambda entry: entry.total_usd)
    fit = [entry.option for entry in by_total if not entry.short_of]
    apis = [entry.option for entry in by_total if entry.option not in OWN_OPTIONS]
    cheapest = fit[0] if fit else None
    staying = next((option for option in apis if option in fit), apis[0])
    option = staying if cheapest is None or vetoed_by else cheapest
    return Decision(_ANSWERS[option], option, cheapest, vetoed_by)


@dataclass(frozen=True, slots=True)
class Flip:
    """A change of one input, from `now` to `at`, that changes the verdict to `answer`; `at` is just past the turning
    point."""

    name: str
    now: float | str
    at: float | str
    answer: Answer

    @property
    def change(self) -> float | None:
        """The change as a share of `now`: 0.5 is 50% more. None if `now` is practically 0 or a word."""
        if isinstance(self.now, str) or isinstance(self.at, str) or self.now < 1e-12:
            return None
        return (self.at - self.now) / self.now

    @property
    def distance(self) -> float:
        """The absolute logarithm of the factor, so half and double are equally far; infinite without a factor."""
        return math.inf if self.change is None or self.change <= -1 else abs(math.log1p(self.change))


_SHARES = ("small_accuracy", "api_accuracy", "cheap_accuracy", "escalation", "least_accuracy")
_DECADES = {"calls_per_day": (0, 9), "api_call_usd": (-7, 1), "error_usd": (-7, 3), "yearly_budget": (0, 12)}
_GRIDS = {name: [step / 40 for step in range(41)] for name in _SHARES} | {
    name: [10 ** (step / 20) for step in range(20 * low, 20 * high + 1)] for name, (low, high) in _DECADES.items()
}
"""The values to try: shares in steps of 1/40, amounts in steps of 12% between two powers of ten."""


def flips(inputs: Inputs) -> tuple[Flip, ...]:
    """Return the changes of a single input that change the verdict: for each input the nearest below and above `now`.
    The smallest factors come first, words last."""
    answer = decide(inputs).answer
    found = [flip for name, grid in _GRIDS.items() for flip in _flips_of(inputs, name, grid, answer)]
    others: list[tuple[str, Any]] = [("task", task) for task in TASKS]
    others.append(("examples", FEW_EXAMPLES - 1 if inputs.examples >= FEW_EXAMPLES else FEW_EXAMPLES))
    for name, value in others:
        other = _answer_at(inputs, name, value)
        if other != answer:
            found.append(Flip(name, getattr(inputs, name), value, other))
    return tuple(sorted(found, key=lambda flip: flip.distance))


def _flips_of(inputs: Inputs, name: str, grid: list[float], answer: Answer) -> Iterator[Flip]:
    now: float | None = api_call_usd(inputs, "api") if name == "api_call_usd" else getattr(inputs, name)
    if now is None:
        return

    def changes(value: float) -> bool:
        return _answer_at(inputs, name, value) != answer

    for values in ([now, *(value for value in reversed(grid) if value < now)], [now, *(v for v in grid if v > now)]):
        crossing = next(((same, value) for same, value in pairwise(values) if changes(value)), None)
        if crossing:
            at = _rounded(now, bisect(*crossing, changes), changes)
            yield Flip(name, now, at, _answer_at(inputs, name, at))


def _answer_at(inputs: Inputs, name: str, value: Any) -> Answer:
    return decide(replace(inputs, **{name: value})).answer


def _rounded(now: float, at: float, changes: Callable[[float], bool]) -> float:
    """Return `at` rounded to three digits, away from `now`; unrounded if the rounded value keeps the verdict."""
    if at < 1e-9:  # practically 0, which has no logarithm
        return 0.0 if changes(0.0) else at
    unit = 10.0 ** (math.floor(math.log10(at)) - 2)
    value = float(f"{(math.floor(at / unit) if at < now else math.ceil(at / unit)) * unit:.3g}")
    return value if changes(value) else at


@dataclass(frozen=True, slots=True)
class Comparison:
    """A tuned option compared with an API: dollars saved over the horizon, the calls a day from which it costs no more,
    and the months after which its one-time costs are paid back."""

    option: Option
    rival: Option
    saving_usd: float
    break_even_calls_per_day: float | None
    payback_months: float | None


@dataclass(frozen=True, slots=True)
class Advice:
    """The verdict for a case, with all figures behind it."""

    case: Case
    decision: Decision
    criteria: tuple[Criterion, ...]
    options: tuple[Costs, ...]
    against: tuple[Comparison, ...]
    flips: tuple[Flip, ...]
    escalation_limit: dict[str, float] | None

    def to_json(self) -> dict[str, Any]:
        """Return all figures as JSON values, unrounded."""
        found, inputs = asdict(self), self.case.inputs
        decision = found.pop("decision")
        found["flips"] = [{**asdict(flip), "change": flip.change} for flip in self.flips]
        found["inputs"] = {
            name: {"value": getattr(inputs, name), "unit": FIELDS[name].metadata["unit"], "source": source}
            for name, source in self.case.sources.items()
        }
        found["remarks"] = found.pop("case")["remarks"]
        return {"verdict": decision.pop("answer"), **decision, **found}


def advise(case: Case) -> Advice:
    """Return the advice for a case."""
    inputs = case.inputs
    pairs = [(own, rival) for own in OWN_OPTIONS for rival in options(inputs) if rival not in OWN_OPTIONS]
    return Advice(
        case=case,
        decision=decide(inputs),
        criteria=criteria(inputs),
        options=tuple(costs(inputs, option) for option in options(inputs)),
        against=tuple(
            Comparison(*pair, saving(inputs, *pair), break_even_calls(inputs, *pair), payback_months(inputs, *pair))
            for pair in pairs
        ),
        flips=flips(inputs),
        escalation_limit=escalation_limit(inputs),
    )
