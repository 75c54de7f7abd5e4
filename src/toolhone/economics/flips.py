"""What would turn the verdict: each input solved for alone, all others as they are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from toolhone.economics.inputs import TASKS, Inputs
from toolhone.economics.options import api_call_usd
from toolhone.economics.verdict import Answer, decide

_LIMITS: dict[str, tuple[float, float]] = {
    "calls_per_day": (1, 1e9),
    "growth_per_year": (-0.9, 10),
    "prompt_tokens": (1, 1e6),
    "completion_tokens": (1, 1e5),
    "cached_share": (0, 1),
    "api_call_usd": (1e-7, 10),
    "api_accuracy": (0, 1),
    "cheap_call_usd": (1e-7, 10),
    "cheap_accuracy": (0, 1),
    "small_accuracy": (0, 1),
    "small_call_usd": (1e-7, 10),
    "gpu_usd_per_hour": (1e-3, 1e3),
    "calls_per_second": (1e-2, 1e5),
    "utilisation": (0.01, 1),
    "peak": (1, 100),
    "machines": (1, 1000),
    "escalation": (0, 1),
    "auroc": (0.5, 0.999),
    "overlap": (0, 1),
    "engineering_usd": (0, 1e8),
    "upkeep_usd_per_month": (0, 1e7),
    "error_usd": (0, 1e3),
    "examples": (0, 1e6),
    "horizon_months": (1, 120),
    "yearly_budget": (1, 1e12),
    "least_accuracy": (0, 1),
}
"""How far each input is tried. Shares go by equal steps, the rest by equal factors."""

_SHARES = {
    "cached_share", "api_accuracy", "cheap_accuracy", "small_accuracy", "utilisation", "escalation", "auroc", "overlap",
    "least_accuracy", "growth_per_year",
}  # fmt: skip
_WHOLE = {"machines", "examples", "horizon_months"}
_TRIES = 40
_LEAST_STEP = 1e-4
"""From 0, steps by factors begin at this share of the limit."""
_NOTHING = 1e-12
"""Below this share of the limit an input is as good as 0."""


@dataclass(frozen=True, slots=True)
class Flip:
    """An input that would turn the verdict: from `now` to `at`, which is just past the point, to `answer`."""

    name: str
    now: float | str
    at: float | str
    answer: Answer

    @property
    def change(self) -> float | None:
        """How far it is, as a share of now: 0.5 is half as much again. None from 0, or next to it, or for a word."""
        if isinstance(self.now, str) or isinstance(self.at, str) or abs(self.now) < _NOTHING:
            return None
        return (self.at - self.now) / abs(self.now)


def flips(inputs: Inputs) -> list[Flip]:
    """The nearest turn of each input, below and above, the nearest by share first; words last."""
    answer = decide(inputs).answer
    found = [flip for name in _LIMITS for flip in _flips_of(inputs, name, answer)]
    found.sort(key=_distance)
    for task in TASKS:
        other = decide(with_value(inputs, "task", task)).answer
        if other != answer:
            found.append(Flip("task", inputs.task, task, other))
    return found


def value_of(inputs: Inputs, name: str) -> float | None:
    """An input as it stands; of an API's cost of a call, also where tokens and prices make it."""
    if name == "api_call_usd":
        return api_call_usd(inputs, "api")
    if name == "cheap_call_usd":
        return api_call_usd(inputs, "cheap") if inputs.has_cheap else None
    if name == "cheap_accuracy" and not inputs.has_cheap:
        return None
    if name in ("gpu_usd_per_hour", "calls_per_second", "utilisation", "peak", "machines") and (
        inputs.small_call_usd is not None
    ):
        return None
    value: float | None = getattr(inputs, name)
    return value


def with_value(inputs: Inputs, name: str, value: Any) -> Inputs:
    """The inputs with one of them changed."""
    change: dict[str, Any] = {name: value}
    return dataclasses.replace(inputs, **change)


def _flips_of(inputs: Inputs, name: str, answer: Answer) -> Iterator[Flip]:
    now = value_of(inputs, name)
    if now is None:
        return
    for way in ("down", "up"):
        same = now
        for value in _tries(name, now, "down" if way == "down" else "up"):
            if decide(with_value(inputs, name, value)).answer != answer:
                at = _readable(inputs, name, now, _edge(inputs, name, same, value, answer), answer)
                yield Flip(name, now, at, decide(with_value(inputs, name, at)).answer)
                break
            same = value


def _tries(name: str, now: float, way: Literal["down", "up"]) -> Iterator[float]:
    """Values from now to the limit, each further off than the last."""
    low, high = _LIMITS[name]
    end = low if way == "down" else high
    if (way == "down" and end >= now) or (way == "up" and end <= now):
        return
    values: Iterator[float]
    if name in _SHARES:
        values = (now + (end - now) * step / _TRIES for step in range(1, _TRIES + 1))
    else:
        # What is as good as 0 has nothing below it, and steps by factors get nowhere from it.
        nothing = now < high * _NOTHING
        start = high * _LEAST_STEP if nothing else now
        last = end or start * _LEAST_STEP
        steps = range(0 if nothing else 1, 0 if nothing and way == "down" else _TRIES + 1)
        values = (start * (last / start) ** (step / _TRIES) for step in steps)
    previous = now
    for value in (*values, end):
        tried = round(value) if name in _WHOLE else value
        if tried != previous:
            yield tried
        previous = tried


def _edge(inputs: Inputs, name: str, same: float, other: float, answer: Answer) -> float:
    """The value just past the turn between one that keeps the answer and one that turns it."""
    for _ in range(60):
        middle = (same + other) / 2
        if name in _WHOLE:
            if abs(same - other) <= 1:
                break
            middle = round(middle)
        if decide(with_value(inputs, name, middle)).answer == answer:
            same = middle
        else:
            other = middle
        if name not in _WHOLE and math.isclose(same, other, rel_tol=1e-9, abs_tol=1e-12):
            break
    return other


def _readable(inputs: Inputs, name: str, now: float, at: float, answer: Answer) -> float:
    """The value in as few digits as still turn the verdict, rounded away from now."""
    if name in _WHOLE or at == 0:
        return at
    low, high = _LIMITS[name]
    for digits in range(2, 12):
        unit = 10.0 ** (math.floor(math.log10(abs(at))) - digits + 1)
        steps = at / unit
        rounded = (math.floor(steps) if at < now else math.ceil(steps)) * unit
        rounded = float(f"{rounded:.{digits + 2}g}")
        near = math.isclose(rounded, at, rel_tol=1e-2, abs_tol=1e-12) or digits > 2
        if near and low <= rounded <= high and decide(with_value(inputs, name, rounded)).answer != answer:
            return rounded
    return at


def _distance(flip: Flip) -> float:
    """How far off a turn is: by the logarithm of the factor, so that a half and a double are the same."""
    now, at = float(flip.now), float(flip.at)
    if now == at == 0:
        return 0.0
    if now <= 0 or at <= 0:
        return 50 + abs(at - now)
    return abs(math.log(at / now))
