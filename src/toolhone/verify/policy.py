"""Which engine a routing policy is for, and whether a run's policy fits the engine that serves it."""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import replace
from pathlib import Path

from toolhone.engines.facts import EngineFacts, engine_name
from toolhone.errors import UserError
from toolhone.jsonl import read_json
from toolhone.route.policy import Identity, identity_of_run, read_policy, refuse_other_model
from toolhone.run_folder import RunFolder, sha256_of
from toolhone.tuned import TunedModel
from toolhone.verify.checks import Line

_NAME = "routing policy"
_GOAL_FLAGS = {
    "risk": "risk",
    "alpha": "alpha",
    "delta": "delta",
    "budget_usd": "budget",
    "escalation": "escalation",
    "accuracy": "target-accuracy",
}
PREDICTIONS = "predictions.jsonl"


def served_identity(tuned: TunedModel, facts: EngineFacts, weights: str) -> Identity:
    """Return the identity of a run's model in an engine: with the engine, its weights' number type, and the SHA-256 of
    its GGUF if the file is on this machine."""
    files = [Path(name) for name in (facts.model_path, *facts.adapters) if name is not None]
    engine = engine_name(facts.kind, weights, has_adapter=bool(facts.adapters))
    gguf = None
    if facts.kind == "llama.cpp" and files and all(path.is_absolute() and path.is_file() for path in files):
        hashes = [sha256_of(path) for path in files]
        gguf = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    own = identity_of_run(tuned.run)
    return replace(own, template=tuned.renderer.template_hash(), engine=engine, gguf=gguf)


def engine_folder(run: RunFolder, identity: Identity) -> Path:
    """Return the folder in the run of an engine's answers, and of the policy that is made from them."""
    return run.path / "verify" / re.sub(r"[^A-Za-z0-9_.]+", "-", identity.engine)


def check_policy(run: RunFolder, identity: Identity, named: Path | None) -> Line:
    """Check that the policy to use with this engine was made for it: the named one, that of the engine's folder, or the
    run's."""
    own, general = engine_folder(run, identity) / "policy.json", run.path / "policy.json"
    path = named or (own if own.is_file() else general)
    if named is None and not path.is_file():
        return Line(_NAME, None, "the run has none; `toolhone route` makes one")
    try:
        refuse_other_model(read_policy(path), identity)
    except UserError as error:
        reason = str(error).split("; make one for this model")[0]
        return Line(_NAME, False, f"{path}: {reason}; recalibrate: {remedy(run, identity)}")
    return Line(_NAME, True, f"{path} is for {identity.engine}")


def remedy(run: RunFolder, identity: Identity) -> str:
    """Return the command that makes the policy for this engine, with the goal and the large model of the run's one."""
    words = ["toolhone", "route", "--run", str(run.path), "--small", str(engine_folder(run, identity) / PREDICTIONS)]
    record = run.path / "route.json"
    made = read_json(record, "") if record.is_file() else {}
    large = made.get("made_from", {}).get("large")
    words += ["--large", str(run.path / large["file"])] if large else ["--large-accuracy", "SHARE"]
    goal = made.get("goal", {})
    for key, flag in _GOAL_FLAGS.items():
        words += [f"--{flag}", str(goal[key])] if key in goal else []
    return shlex.join(words)
