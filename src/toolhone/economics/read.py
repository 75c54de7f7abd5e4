"""Inputs from flags, YAML, a run and answers: checked, with the place of every fault, and each with its source."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.economics.inputs import FIELDS, Inputs, flag_of
from toolhone.errors import UserError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

GIVEN = "given"
ASSUMED = "assumed"


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """Inputs, and by name where each is from: "given", "assumed", or what measured or lists it. `remarks` are what a
    reader of prices should know; `accuracy_interval` is the 95% interval of a measured `small_accuracy`."""

    inputs: Inputs
    sources: dict[str, str]
    remarks: tuple[str, ...] = ()
    accuracy_interval: tuple[float, float] | None = None

    @property
    def assumed(self) -> list[str]:
        return [name for name, source in self.sources.items() if source == ASSUMED]


def checked(values: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """The values as their inputs' types, or one message with every fault.

    Args:
        values: by the inputs' names; numbers may be texts, as flags are.
        places: where each was written, such as advise.yaml:3 or --calls-per-day.

    Raises:
        UserError: for an unknown name (with the nearest), what is no number, and what is out of its limits.
    """
    from pydantic import ValidationError

    faults = [
        f"{places.get(name, name)}: {name}: expected a number, found {value}"
        for name, value in values.items()
        if isinstance(value, bool)
    ]
    if faults:
        raise UserError("\n".join(faults))
    # None is how YAML writes an input that is left out.
    stated = {name: value for name, value in values.items() if value is not None}
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
    """The inputs of a YAML file.

    Raises:
        UserError: as `checked`, with file and line.
    """
    from toolhone.config_file import read_yaml

    values, places = read_yaml(path, "calls_per_day and api_model")
    return checked({str(name): value for name, value in values.items()}, places)


@dataclasses.dataclass(frozen=True, slots=True)
class MeasuredInputs:
    """Inputs that were measured, by name, where each is from, and the interval of the accuracy."""

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    accuracy_interval: tuple[float, float] | None = None


def measured_inputs(folder: Path, api_model: str, cheap_model: str) -> MeasuredInputs:
    """What a run measured of its tuned model, and of an API's where the run has its predictions too.

    The prompt is that of the API's model, else of the untuned one, which was shown the tools as an API must be. The
    run's throughput is left out: it is that of the machine of the run, which is rarely the one that will serve.

    Args:
        api_model: the API's model; its predictions have that name, as `toolhone predict` writes it.
    """
    from toolhone.economics.measured import Measured, has_model, measured_run, training_examples

    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def take(name: str, value: float | None, of: Measured, words: str) -> None:
        values[name], sources[name] = value, f"measured: {words} ({of.source})"

    tuned = measured_run(folder)
    take("small_accuracy", tuned.accuracy, tuned, f"{tuned.right:,} of {tuned.rows:,} rows")
    label = _label(api_model)
    api = measured_run(folder, label) if has_model(folder, label) else None
    prompt = api or (measured_run(folder, "base") if has_model(folder, "base") else tuned)
    answer = api or tuned
    take("prompt_tokens", prompt.prompt_tokens, prompt, f"mean of {prompt.rows:,} rows")
    take("completion_tokens", answer.completion_tokens, answer, f"mean of {answer.rows:,} rows")
    for name, model in (("api_accuracy", label), ("cheap_accuracy", _label(cheap_model))):
        if has_model(folder, model):
            large = measured_run(folder, model)
            take(name, large.accuracy, large, f"{large.right:,} of {large.rows:,} rows")
    examples = training_examples(folder)
    if examples is not None:
        values["examples"], sources["examples"] = examples, f"counted: training examples of {folder}"
    return MeasuredInputs(values, sources, tuned.interval)


def _label(model: str) -> str:
    """The name under which `toolhone predict` keeps a model's answers."""
    return model.replace("/", "-").replace(":", "-")


def build_case(
    given: Mapping[str, Any],
    measured: MeasuredInputs = MeasuredInputs(),
    accepted: frozenset[str] = frozenset(),
) -> Case:
    """Put inputs together: what is given counts before what was measured, and that before a default.

    Args:
        given: checked values.
        accepted: names whose default was accepted when asked: still an assumption.

    Raises:
        UserError: where prices are given by half, or the table lacks a model's.
    """
    sources = dict.fromkeys(FIELDS, ASSUMED)
    sources |= measured.sources | {name: GIVEN for name in given if name not in accepted}
    inputs = Inputs(**{**measured.values, **given})
    remarks: list[str] = []
    for side in ("api", "cheap"):
        inputs = _priced(inputs, side, sources, remarks)
    unused = _unused(inputs)
    sources = {name: source for name, source in sources.items() if name not in unused}
    interval = None if "small_accuracy" in given else measured.accuracy_interval
    return Case(inputs, sources, tuple(remarks), interval)


def _priced(inputs: Inputs, side: str, sources: dict[str, str], remarks: list[str]) -> Inputs:
    """The inputs with a side's prices filled in from the table, where they are not given."""
    into, out, cached = (f"{side}_price_{which}" for which in ("in", "out", "cached"))
    if getattr(inputs, f"{side}_call_usd") is not None or (side == "cheap" and not inputs.has_cheap):
        return inputs
    price_in, price_out = getattr(inputs, into), getattr(inputs, out)
    if (price_in is None) != (price_out is None):
        raise UserError(f"{into if price_in is None else out}: goes with {out if price_in is None else into}")
    if price_in is not None:
        if getattr(inputs, cached) is None:
            sources[cached] = f"as {into}"
            return dataclasses.replace(inputs, **{cached: price_in})
        return inputs
    from toolhone.economics.prices import listed_price

    model = getattr(inputs, f"{side}_model")
    try:
        listed = listed_price(model)
    except UserError as error:
        raise UserError(
            f"{side}_model: {error} ({flag_of(into)}, {flag_of(out)}) or of a call ({side}_call_usd)"
        ) from None
    sources |= dict.fromkeys((into, out, cached), f"listed: {listed.source}")
    remarks.extend(f"{model}: {remark}" for remark in listed.remarks)
    price = listed.price
    filled: dict[str, Any] = {into: price.input_usd, out: price.output_usd, cached: price.cached_input_usd}
    return dataclasses.replace(inputs, **filled)


def _unused(inputs: Inputs) -> set[str]:
    """Inputs that nothing rests on, as another takes their place or they are not set."""
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
