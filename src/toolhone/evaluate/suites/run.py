"""Running the BFCL suite: a run's models, or an endpoint, answer its entries; scores and figures go into `suite/bfcl/`.

Everything lies under the run folder: `predictions/<model>.jsonl`, `scores/<model>.<policy>.jsonl` and `metrics.json`,
which keeps the figures of models that answered the same entries before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from toolhone.data.groups import user_words
from toolhone.data.read import read_conversations
from toolhone.errors import UserError
from toolhone.evaluate.match import gold_faults, score
from toolhone.evaluate.policy import POLICIES
from toolhone.evaluate.predict_endpoint import EndpointSettings, predict_endpoint
from toolhone.evaluate.suites.bfcl import Suite, by_category
from toolhone.jsonl import read_json, read_jsonl, write_json, write_jsonl
from toolhone.records import Conversation, FormatName, Prediction
from toolhone.run_folder import RunFolder, existing_run, fingerprint

if TYPE_CHECKING:
    from toolhone.config import Config

MODELS = ("base", "tuned")


def suite_of_run(
    folder: Path, suite: Suite, models: Sequence[str], overrides: Mapping[str, Any], console: Console
) -> dict[str, Any]:
    """Have a run's models answer the suite, each with its own prompts, and judge them. Returns the metrics.

    Raises:
        UserError: where there is no run, or no adapter for "tuned".
    """
    from toolhone.config_file import load_config
    from toolhone.train.hardware import rank

    run, _ = existing_run(folder)
    if "tuned" in models and not (run.adapter / "adapter_config.json").is_file():
        raise UserError(f"{folder}: has no adapter yet; `toolhone train` makes it, or name --models base")
    config = load_config(run.config, [f"evaluate.{key}={value}" for key, value in overrides.items()])
    format: FormatName | None = None
    for label in models:
        format = _answer(config, run, suite, label, console)
    if format is None:
        raise UserError("--models: none is named; base and tuned are known")
    return judge_suite(folder, suite, list(models), format) if rank() == 0 else {}


def suite_of_endpoint(
    folder: Path, suite: Suite, label: str, settings: EndpointSettings, console: Console
) -> dict[str, Any]:
    """Have an endpoint answer the suite, and judge it. Returns the metrics."""
    predict_endpoint(suite.examples, label, settings, _predictions(folder, label), console)
    return judge_suite(folder, suite, [label], settings.format)


def _answer(config: Config, run: RunFolder, suite: Suite, label: str, console: Console) -> str:
    """Predictions of the base or the tuned model; returns the chat format that they are in."""
    from toolhone.evaluate.predict import predict
    from toolhone.train.hardware import rank, release_memory
    from toolhone.tuned import TunedModel

    tuned = TunedModel.base(run.path) if label == "base" else TunedModel.load(run.path)
    trained = (run.stage("train") or {}).get("fingerprint")
    made_from = fingerprint(
        label,
        trained if label == "tuned" else None,
        config.model_dump(mode="json", include={"model", "evaluate"}),
        _asked(suite),
        tuned.renderer.template_hash(),
        tuned.hardware.dtype_name,
    )
    path, stage = _predictions(run.path, label), f"suite:bfcl:{label}"
    if path.is_file() and run.is_finished(stage, made_from):
        console.print(f"reusing {path}", markup=False)
        return tuned.renderer.format.name
    if rank() == 0:
        console.print(f"{label} answers {len(suite.examples)} entries ...")
    started = time.perf_counter()
    model = tuned.load_weights()
    predict(model, tuned.renderer, suite.examples, label, config.evaluate, path, console, fingerprint=made_from)
    if rank() == 0:
        seconds = round(time.perf_counter() - started, 1)
        run.mark_finished(stage, made_from, seconds=seconds, examples=len(suite.examples))
    del model
    release_memory(tuned.hardware.device)
    return tuned.renderer.format.name


def judge_suite(folder: Path, suite: Suite, labels: Sequence[str], format: FormatName) -> dict[str, Any]:
    """Score the labels' predictions under each policy, write scores and metrics.json, and return its content."""
    place = folder / "suite" / "bfcl"
    quarantined = {name: dict(gold_faults(suite.examples, policy)) for name, policy in POLICIES.items()}
    models: dict[str, Any] = {}
    unanswered: dict[str, list[str]] = {}
    for label in labels:
        answers = {row["id"]: Prediction.from_json(row) for _, row in read_jsonl(_predictions(folder, label))}
        unanswered[label] = [one.id for one in suite.examples if one.id not in answers]
        models[label] = {}
        for name, policy in POLICIES.items():
            judged = [one for one in suite.examples if one.id not in quarantined[name] and one.id in answers]
            scores = [score(example, answers[example.id], format, policy) for example in judged]
            write_jsonl(place / "scores" / f"{label}.{name}.jsonl", (row.to_json() for row in scores))
            models[label][name] = by_category(scores, suite.categories)
    asked = _asked(suite)
    metrics = {
        "suite": "bfcl",
        "categories": list(suite.categories),
        "entries": len(suite.examples),
        "entries_fingerprint": asked,
        "unreadable": suite.unreadable,
        "quarantined": quarantined,
        "trained_on": _trained_on(RunFolder(folder), suite),
        "models": {**_earlier(place / "metrics.json", asked, "models"), **models},
        "unanswered": {**_earlier(place / "metrics.json", asked, "unanswered"), **unanswered},
    }
    write_json(place / "metrics.json", metrics)
    return metrics


def _trained_on(run: RunFolder, suite: Suite) -> list[str]:
    """The entries whose question stands among the run's training rows: there "tuned" has been shown the answer."""
    if not run.split("train").is_file():
        return []
    learned = {user_words(row) for row in read_conversations(run.split("train"))}
    return [e.id for e in suite.examples if user_words(Conversation(e.id, e.prompt, (), e.where)) in learned]


def _predictions(folder: Path, label: str) -> Path:
    return folder / "suite" / "bfcl" / "predictions" / f"{label}.jsonl"


def _asked(suite: Suite) -> str:
    """Identifies the entries: what they ask, offer and expect."""
    rows = [
        [e.id, [m.to_json() for m in e.prompt], [t.to_json() for t in e.tools], e.gold.to_json()]
        for e in suite.examples
    ]
    return fingerprint(rows)


def _earlier(path: Path, asked: str, key: str) -> dict[str, Any]:
    """What is known of models that have answered the same entries."""
    if not path.is_file():
        return {}
    known = read_json(path, "the suite writes it")
    found: dict[str, Any] = known[key] if known.get("entries_fingerprint") == asked else {}
    return found
