"""The policy: which of the small model's answers are kept, as numbers in policy.json, and the settings it is made from.

In: an answer's signals. Out: keep or escalate. A policy belongs to one model, adapter, chat template and quantisation.
Every other model is refused, because its confidence is on another scale.

The settings are the keys of the YAML file of `toolhone route`, and its flags with "-" for "_"; a flag overrides the
file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolhone.config_file import read_yaml
from toolhone.errors import UserError
from toolhone.jsonl import read_json, write_json
from toolhone.records import FormatName
from toolhone.route.calibrate import Calibrator
from toolhone.route.confidence import FEATURES, Signals
from toolhone.run_folder import RunFolder, sha256_of

_GOALS = ("risk", "budget", "escalation", "target_accuracy")
TRANSFORMERS = "transformers"
IDENTITY = "identity.json"
"""The file beside an engine's predictions that says which model and engine made them."""
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True, slots=True)
class Identity:
    """The model that a policy belongs to, and the engine that serves it. None if unknown, as behind an endpoint.

    Attributes:
        model: its name, with "@revision" if one is pinned.
        adapter: the SHA-256 of its weights.
        template: the chat template's hash.
        quantize: as in the config.
        engine: the engine and the number type of the weights that it serves, such as "llama.cpp q8_0". Policies of
            older versions were all made for transformers.
        gguf: the SHA-256 of the served GGUF; with an adapter of its own, of both hashes. It counts only if both sides
            know it.
    """

    model: str
    adapter: str | None = None
    template: str | None = None
    quantize: str | None = None
    engine: str = TRANSFORMERS
    gguf: str | None = None


RiskKind = Literal["selective", "system", "harmful_keep"]
"""The share that a guarantee bounds. selective: wrong among the answers kept; system: wrong among all answers, whoever
gave them; harmful_keep: kept and wrong where the large model is right, among all calls."""


class Goal(BaseModel):
    """What the threshold was chosen for: `risk` at most `alpha`, except with probability `delta`; at most `budget_usd`
    for 1,000 calls; a share `escalation` of calls; or `accuracy` on the calibration rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["guarantee", "budget", "escalation", "accuracy"]
    risk: RiskKind | None = None
    alpha: float | None = None
    delta: float | None = None
    budget_usd: float | None = None
    escalation: float | None = None
    accuracy: float | None = None


class RouteSettings(BaseModel):
    """The settings of `toolhone route`. Prices are in dollars; None means not given."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    risk: RiskKind | None = Field(None, description="certify a threshold for this risk, at most alpha")
    alpha: float = Field(0.05, gt=0, lt=1, description="maximum of the risk")
    delta: float = Field(0.05, gt=0, lt=1, description="maximum failure probability of the guarantee")
    budget: float | None = Field(None, gt=0, description="dollars per 1,000 calls")
    escalation: float | None = Field(None, ge=0, le=1, description="fraction of calls to escalate")
    target_accuracy: float | None = Field(None, gt=0, le=1, description="accuracy to reach, without a guarantee")
    calibration_share: float = Field(0.5, gt=0, lt=1, description="fraction of row groups used for calibration")
    large_accuracy: float | None = Field(
        None, gt=0, le=1, description="assumed accuracy of a large model without predictions"
    )
    large_price: float | None = Field(None, ge=0, description="dollars per call of the large model")
    small_price: float | None = Field(None, ge=0, description="dollars per call of the small model")
    large_price_in: float | None = Field(None, ge=0, description="dollars per million prompt tokens")
    large_price_out: float | None = Field(None, ge=0, description="dollars per million completion tokens")
    small_price_in: float | None = Field(None, ge=0, description="dollars per million prompt tokens")
    small_price_out: float | None = Field(None, ge=0, description="dollars per million completion tokens")
    large_latency: float | None = Field(None, ge=0, description="seconds per answer (default: as predicted)")
    small_latency: float | None = Field(None, ge=0, description="seconds per answer (default: as predicted)")

    def goal(self) -> Goal:
        """Return what the threshold is chosen for; by default a tenth of the calls is escalated."""
        if self.risk is not None:
            return Goal(kind="guarantee", risk=self.risk, alpha=self.alpha, delta=self.delta)
        if self.budget is not None:
            return Goal(kind="budget", budget_usd=self.budget)
        if self.target_accuracy is not None:
            return Goal(kind="accuracy", accuracy=self.target_accuracy)
        return Goal(kind="escalation", escalation=0.1 if self.escalation is None else self.escalation)


def route_settings(path: Path | None, flags: Mapping[str, Any]) -> RouteSettings:
    """Return the settings of a YAML file, overridden by flags that are not None.

    Raises:
        UserError: for a key or flag that is unknown or out of range, and for two goals.
    """
    values, places = ({}, {}) if path is None else read_yaml(path, "escalation and large_price")
    given = {key: value for key, value in flags.items() if value is not None}
    goal_given = [key for key in _GOALS if key in given]
    if goal_given:  # a goal on the command line replaces the file's
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
        raise UserError(f"{named}: are different goals; give one")
    for who in ("large", "small"):
        tokens = [getattr(settings, f"{who}_price_{way}") for way in ("in", "out")]
        if (tokens[0] is None) != (tokens[1] is None):
            raise UserError(f"--{who}-price-in and --{who}-price-out: go together; give both")
        if tokens[0] is not None and getattr(settings, f"{who}_price") is not None:
            raise UserError(f"--{who}-price: is per call, --{who}-price-in per token; give one of them")
    return settings


class Policy(BaseModel):
    """When the small model's answer is kept: if the calibrator's score is at least `threshold`. None escalates every
    call. `rows` counts the calibration and the held-out rows; `certificate` says, for a guarantee, what was tested."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = 1
    identity: Identity
    format: FormatName
    features: tuple[str, ...]
    calibrator: Calibrator
    threshold: float | None
    goal: Goal
    certificate: dict[str, Any] | None = None
    rows: dict[str, int]
    toolhone: str

    def score(self, signals: Signals) -> float:
        """What answers are ranked by, above 0; 0 for a gate, an own escalation, or an answer without
        log-probabilities."""
        if not signals.keepable or signals.features is None:
            return 0.0
        return self.calibrator.score(signals.features)

    def confidence(self, signals: Signals) -> float:
        """The estimated probability that the answer is right; 0 if `score` is 0."""
        score = self.score(signals)
        return self.calibrator.probability(score) if score else 0.0

    def keeps(self, signals: Signals) -> bool:
        """Whether the small model's answer is kept."""
        score = self.score(signals)
        return self.threshold is not None and score > 0 and score >= self.threshold


def identity_of_run(run: RunFolder) -> Identity:
    """Return the identity of a run's tuned model.

    Raises:
        UserError: if the run has no adapter, or its manifest does not name the model and template.
    """
    manifest = run.read_manifest()
    if "model" not in manifest or "chat" not in manifest:
        raise UserError(f"{run.manifest}: does not name the model and its chat template; `toolhone train` writes it")
    weights = next((run.adapter / name for name in _WEIGHTS if (run.adapter / name).is_file()), None)
    if weights is None:
        raise UserError(f"{run.adapter}: has no adapter ({' or '.join(_WEIGHTS)}); finish `toolhone train` first")
    model = manifest["model"]
    revision = "" if model["revision"] is None else f"@{model['revision']}"
    return Identity(
        f"{model['name']}{revision}", sha256_of(weights), manifest["chat"]["template_hash"], model["quantize"]
    )


def refuse_other_model(policy: Policy, identity: Identity) -> None:
    """Raise a UserError that names the differences if the policy was made for another model."""
    differences = [
        f"{field.name} is {_short(getattr(identity, field.name))}, the policy's {_short(ours)}"
        for field in fields(Identity)
        if (ours := getattr(policy.identity, field.name)) != getattr(identity, field.name)
        and (field.name != "gguf" or None not in (ours, identity.gguf))
    ]
    if differences:
        raise UserError(
            f"the policy was made for another model: {'; '.join(differences)}; make one for this model with "
            "`toolhone route`"
        )


def _short(value: str | None) -> str:
    if value is None:
        return "not known"
    return f"{value[:16]}..." if len(value) == 64 else value


def write_identity(path: Path, identity: Identity) -> None:
    write_json(path, asdict(identity))


def read_identity(path: Path) -> Identity:
    """Read the identity that `toolhone verify` writes beside an engine's predictions.

    Raises:
        UserError: if the file is missing or not an identity.
    """
    remedy = "`toolhone verify` writes it"
    found = read_json(path, remedy)
    try:
        return Identity(**found)
    except TypeError:
        known = ", ".join(field.name for field in fields(Identity))
        raise UserError(f"{path}: is not an identity; expected an object with {known}; {remedy}") from None


def write_policy(path: Path, policy: Policy) -> None:
    write_json(path, {**policy.model_dump(mode="json"), "identity": asdict(policy.identity)})


def read_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        UserError: if the file is missing, not a policy, or made with other features than this version's.
    """
    remedy = "`toolhone route` makes one"
    try:
        policy = Policy.model_validate(read_json(path, remedy))
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"])) or "the file"
        raise UserError(f"{path}: {key}: {fault['msg']}, found {fault['input']!r}; {remedy}") from None
    lengths = {len(policy.features), *map(len, (policy.calibrator.means, policy.calibrator.scales))}
    if policy.features != FEATURES or lengths != {len(policy.calibrator.weights)}:
        raise UserError(
            f"{path}: features: expected {', '.join(FEATURES)}, each with a mean, a scale and a weight, found "
            f"{', '.join(policy.features)}; make the policy again with `toolhone route`"
        )
    return policy
