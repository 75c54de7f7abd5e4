"""The inputs of the advice: each with its unit, default and limits, and the source of its value.

In: flags, a YAML file, answers to questions, a run's figures. Out: a `Case`. The fields of `Inputs` define the flags,
the YAML keys, the questions and the tables of the advice.
"""

# ruff: noqa: RUF009  (_input only makes a field)

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt

from toolhone.economics.prices import listed_price
from toolhone.errors import UserError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

GIVEN = "given"
ASSUMED = "assumed"
NONE = "none"

Task = Literal["patterned", "mixed", "reasoning"]
TASKS: tuple[Task, ...] = get_args(Task)

Share = Annotated[float, Ge(0), Le(1)]
Amount = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Volume = Annotated[Positive, Le(1e12)]
Separation = Annotated[float, Ge(0.5), Lt(1)]
Horizon = Annotated[int, Ge(1), Le(120)]


def _input(default: Any, unit: str, meaning: str, *, asked: bool = False) -> Any:
    """Return a field of `Inputs`. `asked`: `toolhone advise` without inputs asks for it."""
    return dataclasses.field(default=default, metadata={"unit": unit, "meaning": meaning, "asked": asked})


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All inputs. A default is an assumption, and the advice says so wherever it uses one.

    An API's price comes from the first of these that is given: `<side>_call_usd`; `<side>_price_in` and `_out`;
    `<side>_model`, by the table of genai-prices. The tuned model's running cost comes from `small_call_usd`, or else
    from machines.
    """

    calls_per_day: Volume = _input(10_000.0, "calls a day", "calls a day, mean over the horizon", asked=True)
    prompt_tokens: Amount = _input(900.0, "tokens", "tokens of a call's prompt, as the API counts them", asked=True)
    completion_tokens: Amount = _input(50.0, "tokens", "tokens of a call's answer", asked=True)
    cached_share: Share = _input(0.0, "share", "share of the prompt that the API has cached")

    api_model: str = _input("gpt-4o", "name", "the API's model", asked=True)
    api_price_in: Amount | None = _input(None, "$ a million tokens", "the API's price of input")
    api_price_cached: Amount | None = _input(None, "$ a million tokens", "the API's price of cached input")
    api_price_out: Amount | None = _input(None, "$ a million tokens", "the API's price of output")
    api_call_usd: Amount | None = _input(None, "$ a call", "the API's cost of a call, instead of tokens and prices")
    api_accuracy: Share = _input(0.95, "share", "share of calls that the API gets right", asked=True)

    cheap_model: str = _input("gpt-4o-mini", "name", "the cheap API's model, or none", asked=True)
    cheap_price_in: Amount | None = _input(None, "$ a million tokens", "the cheap API's price of input")
    cheap_price_cached: Amount | None = _input(None, "$ a million tokens", "the cheap API's price of cached input")
    cheap_price_out: Amount | None = _input(None, "$ a million tokens", "the cheap API's price of output")
    cheap_call_usd: Amount | None = _input(
        None, "$ a call", "the cheap API's cost of a call, instead of tokens and prices"
    )
    cheap_accuracy: Share = _input(0.9, "share", "share of calls that the cheap API gets right", asked=True)

    small_accuracy: Share = _input(0.9, "share", "share of calls that the tuned model gets right", asked=True)
    small_call_usd: Amount | None = _input(None, "$ a call", "the tuned model's running cost, instead of machines")
    gpu_usd_per_hour: Amount = _input(1.0, "$ an hour", "rent of a machine for the tuned model", asked=True)
    calls_per_second: Positive = _input(
        20.0, "calls a second", "calls that one fully loaded machine answers", asked=True
    )
    utilisation: Annotated[Positive, Le(1)] = _input(
        0.6, "share", "share of a machine's full load that is used at the peak"
    )
    peak: Annotated[float, Ge(1)] = _input(3.0, "times", "calls at the busiest time, as a multiple of the day's mean")
    machines: Annotated[int, Ge(1)] = _input(1, "machines", "least number of machines")

    escalation: Share = _input(0.1, "share", "routing: share of calls to escalate to the API")
    auroc: Separation = _input(
        0.85, "AUROC", "routing: how well confidence separates right from wrong (0.5: not at all)"
    )
    overlap: Share = _input(0.5, "share", "routing: how far the two models' errors overlap (0: independent, 1: fully)")

    training_usd: Amount = _input(50.0, "$ once", "training the small model", asked=True)
    labelling_usd: Amount = _input(500.0, "$ once", "labelling the examples", asked=True)
    engineering_usd: Amount = _input(8_000.0, "$ once", "engineering around the small model", asked=True)
    upkeep_usd_per_month: Amount = _input(500.0, "$ a month", "monitoring the small model and tuning it again")
    error_usd: Amount = _input(0.01, "$ a wrong call", "what a wrong call costs", asked=True)

    task: Task = _input("patterned", ", ".join(TASKS), "kind of task", asked=True)
    examples: Annotated[int, Ge(0)] = _input(500, "examples", "number of good examples", asked=True)

    horizon_months: Horizon = _input(12, "months", "time over which costs are compared", asked=True)
    yearly_budget: Positive | None = _input(
        None, "$ a year", "most to pay in a year, without the cost of wrong answers", asked=True
    )
    least_accuracy: Share | None = _input(None, "share", "smallest acceptable share of right calls")

    @property
    def once_usd(self) -> float:
        """All one-time costs, in dollars."""
        return self.training_usd + self.labelling_usd + self.engineering_usd

    @property
    def has_cheap(self) -> bool:
        return self.cheap_model != NONE or self.cheap_call_usd is not None or self.cheap_price_in is not None


FIELDS: dict[str, dataclasses.Field[Any]] = {entry.name: entry for entry in dataclasses.fields(Inputs)}
"""The inputs by name, in order; their metadata has unit, meaning and asked."""


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def checked(values: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """Return the values, converted to their inputs' types; None (YAML's null) leaves an input out.

    Args:
        values: by the inputs' names; numbers may be strings, as in flags.
        places: where each was written, such as advise.yaml:3 or --calls-per-day.

    Raises:
        UserError: one message with all unknown names (with the nearest known one), wrong types and values out of range.
    """
    from pydantic import ValidationError

    stated = {name: value for name, value in values.items() if value is not None}
    for name, value in stated.items():
        if isinstance(value, bool):  # pydantic reads it as 0 or 1
            raise UserError(f"{places.get(name, name)}: {name}: expected a number, found {value}")
    try:
        inputs = _adapter().validate_python(stated)
    except ValidationError as error:
        raise UserError("\n".join(_describe(fault, places) for fault in error.errors())) from None
    return {name: getattr(inputs, name) for name in stated}


@cache
def _adapter() -> TypeAdapter[Inputs]:
    from pydantic import ConfigDict, TypeAdapter
    from pydantic.dataclasses import dataclass

    strict: Any = dataclass(Inputs, config=ConfigDict(extra="forbid", allow_inf_nan=False), frozen=True)
    return TypeAdapter(strict)


def _describe(fault: Any, places: Mapping[str, str]) -> str:
    name = str(fault["loc"][0])
    where = places.get(name, name)
    prefix = where if where == flag_of(name) else f"{where}: {name}"
    if name not in FIELDS:
        near = difflib.get_close_matches(name, FIELDS, n=1)
        hint = f' (did you mean "{near[0]}"?)' if near else f"; known: {', '.join(FIELDS)}"
        return f"{prefix}: unknown key{hint}"
    message = fault["msg"].removeprefix("Input should be ")
    expected = "a number" if fault["type"] in ("float_parsing", "int_parsing", "float_type", "int_type") else message
    return f"{prefix}: expected {expected} ({FIELDS[name].metadata['unit']}), found {fault['input']!r}"


def read_inputs_file(path: Path) -> dict[str, Any]:
    """Return the inputs of a YAML file.

    Raises:
        UserError: as in `checked`, with file and line.
    """
    from toolhone.config_file import read_yaml

    values, places = read_yaml(path, "calls_per_day and api_model")
    return checked({str(name): value for name, value in values.items()}, places)


def ask_inputs(ask: Callable[[str], str], say: Callable[[str], None], measured: Mapping[str, Any]) -> dict[str, Any]:
    """Ask for each input that is marked `asked` and return the typed values. If a value is invalid, `say` why and ask
    again. A prompt offers the measured value if there is one, otherwise the default.

    Args:
        ask: shows a prompt and returns a line, such as `input`.
    """
    values: dict[str, Any] = {}
    for name, entry in FIELDS.items():
        default = measured.get(name, entry.default)
        offered = NONE if default is None else f"{default:g}" if isinstance(default, float) else str(default)
        meaning: str = entry.metadata["meaning"]
        prompt = f"{meaning[0].upper()}{meaning[1:]} ({entry.metadata['unit']}) [{offered}]: "
        while entry.metadata["asked"] and (typed := ask(prompt).strip()) and not typed == offered == NONE:
            try:
                values |= checked({name: typed}, {name: flag_of(name)})
                break
            except UserError as error:
                say(str(error).removeprefix(f"{flag_of(name)}: "))
    return values


@dataclass(frozen=True, slots=True)
class Case:
    """The inputs, and the source of each by name: "given", "assumed", or the run or table that it comes from. `remarks`
    are about prices; `accuracy_interval` is the 95% interval of a measured `small_accuracy`."""

    inputs: Inputs
    sources: dict[str, str]
    remarks: tuple[str, ...] = ()
    accuracy_interval: tuple[float, float] | None = None

    @property
    def assumed(self) -> list[str]:
        """The names of the inputs that are defaults."""
        return [name for name, source in self.sources.items() if source == ASSUMED]

    def is_assumed(self, name: str) -> bool:
        """Whether an input is a default. An API's cost of a call counts as one if its tokens are."""
        if name == "api_call_usd" and name not in self.sources:
            return self.is_assumed("prompt_tokens") or self.is_assumed("completion_tokens")
        return self.sources.get(name) == ASSUMED


def build_case(
    given: Mapping[str, Any],
    measured: Mapping[str, tuple[Any, str]] | None = None,
    accuracy_interval: tuple[float, float] | None = None,
) -> Case:
    """Return the case. A given value overrides a measured one, which overrides a default.

    Raises:
        UserError: if only one of a model's two prices is given, or the price table lacks the model.
    """
    found = measured or {}
    sources = dict.fromkeys(FIELDS, ASSUMED)
    sources |= {name: source for name, (_, source) in found.items()} | dict.fromkeys(given, GIVEN)
    inputs = Inputs(**{name: value for name, (value, _) in found.items()} | dict(given))
    remarks: list[str] = []
    for side in ("api", "cheap"):
        inputs = _priced(inputs, side, sources, remarks)
    unused = _unused(inputs)
    sources = {name: source for name, source in sources.items() if name not in unused}
    return Case(inputs, sources, tuple(remarks), None if "small_accuracy" in given else accuracy_interval)


def _priced(inputs: Inputs, side: str, sources: dict[str, str], remarks: list[str]) -> Inputs:
    """Return the inputs with a side's prices filled in from the table, unless they are given."""
    into, out, cached = (f"{side}_price_{which}" for which in ("in", "out", "cached"))
    if getattr(inputs, f"{side}_call_usd") is not None or (side == "cheap" and not inputs.has_cheap):
        return inputs
    price_in, price_out = getattr(inputs, into), getattr(inputs, out)
    if (price_in is None) != (price_out is None):
        missing, present = (into, out) if price_in is None else (out, into)
        raise UserError(f"{missing}: is missing; {present} needs it")
    if price_in is not None:
        if getattr(inputs, cached) is not None:
            return inputs
        sources[cached] = f"as {into}"
        return dataclasses.replace(inputs, **{cached: price_in})
    model = getattr(inputs, f"{side}_model")
    try:
        listed = listed_price(model)
    except UserError as error:
        raise UserError(
            f"{side}_model: {error} ({flag_of(into)}, {flag_of(out)}) or per call ({flag_of(f'{side}_call_usd')})"
        ) from None
    sources |= dict.fromkeys((into, out, cached), f"listed: {listed.source}")
    remarks.extend(f"{model}: {remark}" for remark in listed.remarks)
    price = listed.price
    filled: dict[str, Any] = {into: price.input_usd, out: price.output_usd, cached: price.cached_input_usd}
    return dataclasses.replace(inputs, **filled)


def _unused(inputs: Inputs) -> set[str]:
    """Return the inputs that no figure uses: they are not set, or another one replaces them."""
    unused = {name for name in FIELDS if getattr(inputs, name) is None}
    for side in ("api", "cheap"):
        if getattr(inputs, f"{side}_call_usd") is not None:
            unused |= {f"{side}_price_{which}" for which in ("in", "out", "cached")}
    if inputs.small_call_usd is not None:
        unused |= {"gpu_usd_per_hour", "calls_per_second", "utilisation", "peak", "machines"}
    if not inputs.has_cheap:
        unused |= {"cheap_accuracy"}
    if inputs.api_call_usd is not None and (inputs.cheap_call_usd is not None or not inputs.has_cheap):
        unused |= {"prompt_tokens", "completion_tokens", "cached_share"}
    return unused
