"""What the advice rests on: every input with its unit, its default and its limits, in one place.

In: flags, a YAML file, a run's figures, answers to questions. Out: one frozen `Inputs`. Flags, YAML keys, questions and
the tables of the advice are all made from its fields.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt

Task = Literal["patterned", "mixed", "reasoning"]
TASKS: tuple[str, ...] = get_args(Task)

Share = Annotated[float, Ge(0), Le(1)]
Amount = Annotated[float, Ge(0)]


def _about(unit: str, meaning: str, *, asked: bool = False) -> dict[str, Any]:
    """`asked`: the input is among the questions in the terminal."""
    return {"unit": unit, "meaning": meaning, "asked": asked}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All inputs, each a number in its unit. A default is an assumption, and the advice says so wherever one is used.

    A model's price comes from `<side>_call_usd`, else from `<side>_price_in` and `_out`, else by `<side>_model` from
    the table of genai-prices; `<side>` is api or cheap. The small model's running cost comes from `small_call_usd`,
    else from machines.
    """

    calls_per_day: Annotated[float, Gt(0), Le(1e12)] = field(
        default=10_000.0, metadata=_about("calls a day", "calls a day in the first month", asked=True)
    )
    growth_per_year: Annotated[float, Gt(-1), Le(100)] = field(
        default=0.0,
        metadata=_about("share a year", "growth of the calls: 0.5 is half as many again after a year", asked=True),
    )
    prompt_tokens: Amount = field(
        default=900.0, metadata=_about("tokens", "tokens of a call's prompt, as the API counts them", asked=True)
    )
    completion_tokens: Amount = field(default=50.0, metadata=_about("tokens", "tokens of a call's answer", asked=True))
    cached_share: Share = field(default=0.0, metadata=_about("share", "share of the prompt that the API has cached"))

    api_model: str = field(default="gpt-4o", metadata=_about("name", "the API's model", asked=True))
    api_price_in: Amount | None = field(default=None, metadata=_about("$ a million tokens", "the API's price of input"))
    api_price_cached: Amount | None = field(
        default=None, metadata=_about("$ a million tokens", "the API's price of cached input")
    )
    api_price_out: Amount | None = field(
        default=None, metadata=_about("$ a million tokens", "the API's price of output")
    )
    api_call_usd: Amount | None = field(
        default=None, metadata=_about("$ a call", "the API's cost of a call, instead of tokens and prices")
    )
    api_accuracy: Share = field(
        default=0.95, metadata=_about("share", "share of calls that the API gets right", asked=True)
    )

    cheap_model: str = field(
        default="gpt-4o-mini", metadata=_about("name", "the cheap API's model, or none", asked=True)
    )
    cheap_price_in: Amount | None = field(
        default=None, metadata=_about("$ a million tokens", "the cheap API's price of input")
    )
    cheap_price_cached: Amount | None = field(
        default=None, metadata=_about("$ a million tokens", "the cheap API's price of cached input")
    )
    cheap_price_out: Amount | None = field(
        default=None, metadata=_about("$ a million tokens", "the cheap API's price of output")
    )
    cheap_call_usd: Amount | None = field(
        default=None, metadata=_about("$ a call", "the cheap API's cost of a call, instead of tokens and prices")
    )
    cheap_accuracy: Share = field(
        default=0.9, metadata=_about("share", "share of calls that the cheap API gets right", asked=True)
    )

    small_accuracy: Share = field(
        default=0.9, metadata=_about("share", "share of calls that the tuned model gets right", asked=True)
    )
    small_call_usd: Amount | None = field(
        default=None, metadata=_about("$ a call", "the tuned model's running cost, instead of machines")
    )
    gpu_usd_per_hour: Amount = field(
        default=1.0, metadata=_about("$ an hour", "rent of a machine for the tuned model", asked=True)
    )
    calls_per_second: Annotated[float, Gt(0)] = field(
        default=20.0, metadata=_about("calls a second", "what one machine answers, fully loaded", asked=True)
    )
    utilisation: Annotated[float, Gt(0), Le(1)] = field(
        default=0.6, metadata=_about("share", "share of a machine's throughput that is planned for at the peak")
    )
    peak: Annotated[float, Ge(1)] = field(
        default=3.0, metadata=_about("times", "calls at the busiest time, over the day's mean")
    )
    machines: Annotated[int, Ge(1)] = field(
        default=1, metadata=_about("machines", "machines that run whatever the load")
    )

    escalation: Share = field(default=0.1, metadata=_about("share", "routing: share of calls handed to the API"))
    auroc: Annotated[float, Ge(0.5), Lt(1)] = field(
        default=0.85,
        metadata=_about("AUROC", "routing: how well confidence tells right answers from wrong (0.5: not at all)"),
    )

    overlap: Share = field(
        default=0.5,
        metadata=_about(
            "share",
            "routing: how far the two models' errors overlap (0: independent, 1: fully)",
        ),
    )

    training_usd: Amount = field(default=50.0, metadata=_about("$ once", "training the small model", asked=True))
    labelling_usd: Amount = field(default=500.0, metadata=_about("$ once", "labelling the examples", asked=True))
    engineering_usd: Amount = field(
        default=8_000.0, metadata=_about("$ once", "engineering around the small model", asked=True)
    )
    upkeep_usd_per_month: Amount = field(
        default=500.0, metadata=_about("$ a month", "looking after the small model: monitoring, tuning again")
    )
    error_usd: Amount = field(default=0.01, metadata=_about("$ a wrong call", "what a wrong call costs", asked=True))

    task: Task = field(
        default="patterned", metadata=_about(", ".join(TASKS), "what the calls ask of a model", asked=True)
    )
    examples: Annotated[int, Ge(0)] = field(
        default=500, metadata=_about("examples", "good examples that there are", asked=True)
    )

    horizon_months: Annotated[int, Ge(1), Le(120)] = field(
        default=12, metadata=_about("months", "time over which the costs are compared", asked=True)
    )
    yearly_budget: Annotated[float, Gt(0)] | None = field(
        default=None, metadata=_about("$ a year", "the most that may be paid in a year, errors apart", asked=True)
    )
    least_accuracy: Share | None = field(
        default=None, metadata=_about("share", "the least share of right calls that will do")
    )

    @property
    def once_usd(self) -> float:
        """What is paid once, in dollars."""
        return self.training_usd + self.labelling_usd + self.engineering_usd

    @property
    def has_cheap(self) -> bool:
        return self.cheap_model != "none" or self.cheap_call_usd is not None or self.cheap_price_in is not None


FIELDS: dict[str, dataclasses.Field[Any]] = {entry.name: entry for entry in dataclasses.fields(Inputs)}
"""The inputs by name, in order; their metadata has unit, meaning and asked."""


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"
