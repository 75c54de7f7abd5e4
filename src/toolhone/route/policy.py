"""The frozen policy: which answers the small model keeps, written as numbers that anyone can read.

In: an answer's signals. Out: keep or hand over. A policy belongs to one model, adapter, chat template and quantisation:
the confidence of another means something else, so another is refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from toolhone.errors import UserError
from toolhone.jsonl import read_json, write_json
from toolhone.records import FormatName
from toolhone.route.calibrate import Calibrator
from toolhone.route.confidence import FEATURES, Signals
from toolhone.run_folder import RunFolder

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a policy was made for. `model`: the name, "@revision" behind it where one is pinned; `adapter`: the SHA-256
    of its weights; `template`: the chat template's hash; `quantize`: as the config says it. All but the model are None
    where they are not known, as of a model behind an endpoint."""

    model: str
    adapter: str | None = None
    template: str | None = None
    quantize: str | None = None


RiskKind = Literal["selective", "system", "harmful_keep"]
"""What is to stay rare. selective: wrong among the answers kept; system: wrong among all answers, whoever gave them;
harmful_keep: among all calls, those kept and wrong that the large model has right."""


class Goal(BaseModel):
    """What the threshold was chosen for, with the figures that belong to its kind.

    guarantee: `risk` at most `alpha` but for a chance of `delta`. budget: at most `budget_usd` for 1,000 calls.
    escalation: the share `escalation` is handed over. accuracy: `accuracy` is reached on the calibration rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["guarantee", "budget", "escalation", "accuracy"]
    risk: RiskKind | None = None
    alpha: float | None = None
    delta: float | None = None
    budget_usd: float | None = None
    escalation: float | None = None
    accuracy: float | None = None


class Policy(BaseModel):
    """When the small model's answer is kept. `threshold` is held against the calibrator's score; None hands over every
    call. `rows` counts those that calibrated it and those held out; `certificate` says, for a guarantee, what was
    tested."""

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
        """What answers are ranked by: 0 for a gate, an own escalation, or an answer without log-probabilities."""
        if signals.gate is not None or signals.escalated or signals.features is None:
            return 0.0
        return self.calibrator.score(signals.features)

    def confidence(self, signals: Signals) -> float:
        """The estimated probability that the answer is right; 0 where `score` is 0 for want of a look at it."""
        if signals.gate is not None or signals.escalated or signals.features is None:
            return 0.0
        return self.calibrator.probability(self.calibrator.score(signals.features))

    def keeps(self, signals: Signals) -> bool:
        """Whether the small model's answer stands."""
        if signals.gate is not None or signals.escalated or signals.features is None or self.threshold is None:
            return False
        return self.calibrator.score(signals.features) >= self.threshold


def identity_of_run(run: RunFolder) -> Identity:
    """The identity of a run's tuned model.

    Raises:
        UserError: where the run has no adapter, or its manifest does not say what it was made from.
    """
    manifest = run.read_manifest()
    if "model" not in manifest or "chat" not in manifest:
        raise UserError(f"{run.manifest}: does not name the model and its chat template; `toolhone train` writes it")
    weights = next((run.adapter / name for name in _WEIGHTS if (run.adapter / name).is_file()), None)
    if weights is None:
        raise UserError(f"{run.adapter}: holds no adapter ({' or '.join(_WEIGHTS)}); finish `toolhone train` first")
    model = manifest["model"]
    with weights.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    revision = "" if model["revision"] is None else f"@{model['revision']}"
    return Identity(f"{model['name']}{revision}", digest, manifest["chat"]["template_hash"], model["quantize"])


def refuse_other_model(policy: Policy, identity: Identity) -> None:
    """Refuse a policy that was made for another model.

    Raises:
        UserError: naming what differs.
    """
    told = [
        f"{field.name} is {_short(getattr(identity, field.name))}, the policy's {_short(ours)}"
        for field in fields(Identity)
        if (ours := getattr(policy.identity, field.name)) != getattr(identity, field.name)
    ]
    if told:
        raise UserError(
            f"the policy was made for another model: {'; '.join(told)}; make one for this model with `toolhone route`"
        )


def _short(value: str | None) -> str:
    if value is None:
        return "not known"
    return f"{value[:16]}..." if len(value) == 64 else value


def write_policy(path: Path, policy: Policy) -> None:
    """Write a policy, whole or not at all."""
    write_json(path, {**policy.model_dump(mode="json"), "identity": asdict(policy.identity)})


def read_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        UserError: where the file is missing or no policy, or was made of other features than this version's.
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
            f"{', '.join(policy.features)}; make the policy anew with `toolhone route`"
        )
    return policy
