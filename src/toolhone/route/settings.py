"""What routing is asked for: the goal, prices, and what is assumed of a large model that did not answer the rows.

The keys of the YAML file and the flags of `toolhone route` are the same, "-" in a flag being "_" in a key; a flag goes
before the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolhone.config_file import read_yaml
from toolhone.errors import UserError
from toolhone.route.policy import Goal, RiskKind

_GOALS = ("risk", "budget", "escalation", "target_accuracy")


class RouteSettings(BaseModel):
    """The keys, each with its meaning. Prices are dollars; None is not given."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    risk: RiskKind | None = Field(None, description="certify a threshold for this risk, at most alpha")
    alpha: float = Field(0.05, gt=0, lt=1, description="the most that the risk may be")
    delta: float = Field(0.05, gt=0, lt=1, description="the most that the chance of a larger risk may be")
    budget: float | None = Field(None, gt=0, description="dollars for 1,000 calls")
    escalation: float | None = Field(None, ge=0, le=1, description="hand over this share of the calls")
    target_accuracy: float | None = Field(None, gt=0, le=1, description="reach this, without a guarantee")
    calibration_share: float = Field(0.5, gt=0, lt=1, description="of the groups of rows, the part that calibrates")
    large_accuracy: float | None = Field(None, gt=0, le=1, description="of a large model without predictions")
    large_price: float | None = Field(None, ge=0, description="dollars for a call of the large model")
    small_price: float | None = Field(None, ge=0, description="dollars for a call of the small model")
    large_price_in: float | None = Field(None, ge=0, description="dollars for a million of its prompt tokens")
    large_price_out: float | None = Field(None, ge=0, description="dollars for a million of its completion tokens")
    small_price_in: float | None = Field(None, ge=0, description="dollars for a million of its prompt tokens")
    small_price_out: float | None = Field(None, ge=0, description="dollars for a million of its completion tokens")
    large_latency: float | None = Field(None, ge=0, description="seconds of an answer (default: as predicted)")
    small_latency: float | None = Field(None, ge=0, description="seconds of an answer (default: as predicted)")

    def goal(self) -> Goal:
        """What the threshold is chosen for; without one asked for, a tenth of the calls is handed over."""
        if self.risk is not None:
            return Goal(kind="guarantee", risk=self.risk, alpha=self.alpha, delta=self.delta)
        if self.budget is not None:
            return Goal(kind="budget", budget_usd=self.budget)
        if self.target_accuracy is not None:
            return Goal(kind="accuracy", accuracy=self.target_accuracy)
        return Goal(kind="escalation", escalation=0.1 if self.escalation is None else self.escalation)


def route_settings(path: Path | None, flags: Mapping[str, Any]) -> RouteSettings:
    """The settings of a YAML file, with flags (None: not given) before its keys.

    Raises:
        UserError: naming the key or flag, for one that is unknown or out of range, and for two goals.
    """
    values, places = ({}, {}) if path is None else read_yaml(path, "escalation and large_price")
    given = {key: value for key, value in flags.items() if value is not None}
    goal_given = [key for key in _GOALS if key in given]
    if goal_given:  # a goal on the command line takes the place of the file's
        values = {key: value for key, value in values.items() if key not in _GOALS}
    try:
        settings = RouteSettings.model_validate({**values, **given})
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            key = ".".join(map(str, fault["loc"]))
            place = f"--{key.replace('_', '-')}" if key in given else f"{places.get(key, path)}: {key}"
            known = f"; known: {', '.join(RouteSettings.model_fields)}" if fault["type"] == "extra_forbidden" else ""
            faults.append(f"{place}: {fault['msg']}, found {fault['input']!r}{known}")
        raise UserError("\n".join(faults)) from None
    goals = [key for key in _GOALS if getattr(settings, key) is not None]
    if len(goals) > 1:
        named = " and ".join(f"--{key.replace('_', '-')}" for key in goals)
        raise UserError(f"{named}: are different goals, and a threshold has one; name one")
    for who in ("large", "small"):
        tokens = [getattr(settings, f"{who}_price_{way}") for way in ("in", "out")]
        if (tokens[0] is None) != (tokens[1] is None):
            raise UserError(f"--{who}-price-in and --{who}-price-out: go together")
        if tokens[0] is not None and getattr(settings, f"{who}_price") is not None:
            raise UserError(f"--{who}-price: is for a call, --{who}-price-in for tokens; give one of them")
    return settings
