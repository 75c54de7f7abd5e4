"""Whether to tune: rules of thumb, the verdict, the figures behind it and which inputs would change it.

In: a `Case`. Out: one frozen `Advice` of numbers and names, which `report/` puts into words.

The verdict: if a rule of thumb with a veto speaks against tuning, stay with the API. Else take the way that costs least
over the horizon, wrong answers and what is paid once included, among those that keep to the yearly budget and the least
accuracy. If none does, stay with the API.
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
"""The share of the examples held out for a test, by `toolhone data split`."""

_RULES = {
    "calls a day": (
        f"over {MANY_CALLS:,} a day for, under {FEW_CALLS:,} against",
        "enough calls to pay for the work",
        "the money decides: see the break-even volume",
        "too few calls to pay for the work and the upkeep",
    ),
    "task": (
        "patterned for, deep reasoning against",
        "the same kinds of call over and over, which a small model can learn",
        "a small model can learn the patterned part; routing escalates the rest",
        "a small model learns patterns, not reasoning that it lacks",
    ),
    "good examples": (
        f"{ENOUGH_EXAMPLES} or more for, fewer than {FEW_EXAMPLES} against",
        "enough to train and to test: a fifth held out shows the accuracy to about {margin:.0f} points",
        "enough for a first model, not to prove it: {held_out:.0f} held out show its accuracy to about {margin:.0f} "
        "points; toolhone learning-curve says whether more would help",
        "too few to train and to test: label {missing} more first",
    ),
    "cost of errors": (
        "up to half of the saving for, all of it or more against",
        "tolerable",
        "the money decides: most of the saving goes into wrong answers",
        "wrong answers cost more than the calls save, or no call saves anything; routing has fewer",
    ),
}
"""Each rule of thumb: its band, and what it means when it speaks for tuning, lies between, or speaks against."""
_ANSWERS: dict[Option, Answer] = {"tuned": "fine-tune", "route": "route", "api": "stay", "cheap": "stay"}


@dataclass(frozen=True, slots=True)
class Criterion:
    """One rule of thumb, applied. `says` is what it means for this case; a `veto` against tuning decides alone."""

    name: str
    value: str
    side: Side
    band: str
    says: str
    veto: bool


def criteria(inputs: Inputs) -> tuple[Criterion, ...]:
    """Apply the rules of thumb. The cost of errors has no veto: the money already counts it."""
    calls, count, eaten = inputs.calls_per_day, inputs.examples, error_share_of_saving(inputs)
    held_out = TEST_SHARE * count
    # The margin is half of a 95% interval of an accuracy near 90%, in points.
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
    errors: Side = "against" if eaten is None or eaten >= 1 else "for" if eaten <= 0.5 else "between"
    return (
        rule("calls a day", f"{calls:,.0f}", volume),
        rule("task", inputs.task, TASK_SIDES[inputs.task]),
        rule("good examples", f"{count:,}", examples),
        rule("cost of errors", "no saving" if eaten is None else f"{100 * eaten:,.0f}% of the saving", errors),
    )


def error_share_of_saving(inputs: Inputs) -> float | None:
    """Return which share of what the tuned model saves on a call its extra wrong answers cost; None if it saves none.

    (API's accuracy - small one's) * dollars of a wrong call / (API's dollars a call - small one's running dollars).
    """
    own = running_usd_per_day(inputs, "tuned") + inputs.upkeep_usd_per_month / DAYS_A_MONTH
    saved = api_call_usd(inputs, "api") - own / inputs.calls_per_day
    return max(0.0, inputs.api_accuracy - inputs.small_accuracy) * inputs.error_usd / saved if saved > 0 else None


@dataclass(frozen=True, slots=True)
class Decision:
    """`answer`, and the option it comes to. `cheapest` is what the money alone would take among the options within the
    limits (None: there is none); `vetoed_by` are the rules that forbid tuning."""

    answer: Answer
    option: Option
    cheapest: Option | None
    vetoed_by: tuple[str, ...]


def decide(inputs: Inputs) -> Decision:
    """Apply the rule of this module."""
    vetoed_by = tuple(rule.name for rule in criteria(inputs) if rule.veto and rule.side == "against")
    # Of equal totals the first counts, so an API before a model to be tuned.
    by_total = sorted((costs(inputs, option) for option in options(inputs)), key=lambda entry: entry.total_usd)
    fit = [entry.option for entry in by_total if not entry.short_of]
    apis = [entry.option for entry in by_total if entry.option not in OWN_OPTIONS]
    cheapest = fit[0] if fit else None
    staying = next((option for option in apis if option in fit), apis[0])
    option = staying if cheapest is None or vetoed_by else cheapest
    return Decision(_ANSWERS[option], option, cheapest, vetoed_by)


@dataclass(frozen=True, slots=True)
class Flip:
    """An input that would change the verdict: from `now` to `at`, which is just past the point, to `answer`."""

    name: str
    now: float | str
    at: float | str
    answer: Answer

    @property
    def change(self) -> float | None:
        """How far it is, as a share of now: 0.5 is half as much again. None from as good as 0 or for a word."""
        if isinstance(self.now, str) or isinstance(self.at, str) or self.now < 1e-12:
            return None
        return (self.at - self.now) / self.now

    @property
    def distance(self) -> float:
        """The logarithm of the factor, so that a half and a double are as far; infinite without one."""
        return math.inf if self.change is None or self.change <= -1 else abs(math.log1p(self.change))


_SHARES = ("small_accuracy", "api_accuracy", "cheap_accuracy", "escalation", "least_accuracy")
_DECADES = {"calls_per_day": (0, 9), "api_call_usd": (-7, 1), "error_usd": (-7, 3), "yearly_budget": (0, 12)}
_GRIDS = {name: [step / 40 for step in range(41)] for name in _SHARES} | {
    name: [10 ** (step / 20) for step in range(20 * low, 20 * high + 1)] for name, (low, high) in _DECADES.items()
}
"""The values to try: shares by steps of a fortieth, amounts by steps of an eighth between two powers of ten."""


def flips(inputs: Inputs) -> tuple[Flip, ...]:
    """Return the inputs that would change the verdict, each alone: the nearest change below and above, those nearest by
    factor first, words last."""
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
        turn = next(((same, value) for same, value in pairwise(values) if changes(value)), None)
        if turn:
            at = _rounded(now, bisect(*turn, changes), changes)
            yield Flip(name, now, at, _answer_at(inputs, name, at))


def _answer_at(inputs: Inputs, name: str, value: Any) -> Answer:
    return decide(replace(inputs, **{name: value})).answer


def _rounded(now: float, at: float, changes: Callable[[float], bool]) -> float:
    """Round to three digits away from now, if that value changes the verdict too."""
    if at < 1e-9:  # as good as 0, and a logarithm has no place for that
        return 0.0 if changes(0.0) else at
    unit = 10.0 ** (math.floor(math.log10(at)) - 2)
    value = float(f"{(math.floor(at / unit) if at < now else math.ceil(at / unit)) * unit:.3g}")
    return value if changes(value) else at


@dataclass(frozen=True, slots=True)
class Comparison:
    """A tuned option against an API: dollars saved over the horizon, from how many calls a day it costs no more,
    and after how many months it has earned back what was paid once."""

    option: Option
    rival: Option
    saving_usd: float
    break_even_calls_per_day: float | None
    payback_months: float | None


@dataclass(frozen=True, slots=True)
class Advice:
    case: Case
    decision: Decision
    criteria: tuple[Criterion, ...]
    options: tuple[Costs, ...]
    against: tuple[Comparison, ...]
    flips: tuple[Flip, ...]
    escalation_limit: dict[str, float] | None

    def to_json(self) -> dict[str, Any]:
        """Everything with all its digits."""
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
    """Work everything out."""
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
