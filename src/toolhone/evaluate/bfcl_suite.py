"""The BFCL suite: a run's models, or an endpoint, answer the leaderboard's entries and are scored under each policy.

In: the folder that `scripts/fetch_bfcl.py` creates. Out, in the run's `suite/bfcl/`: predictions, scores, metrics.json.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from toolhone.config import Config
from toolhone.data.groups import user_words
from toolhone.data.importers.bfcl import NO_CALL, PYTHON_WITH_GOLD, SINGLE_TURN, read_bfcl_folder
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import examples, read_conversations
from toolhone.errors import UserError
from toolhone.evaluate.match import gold_faults, score
from toolhone.evaluate.predict_endpoint import EndpointSettings, predict_endpoint
from toolhone.jsonl import read_json, read_jsonl, write_json, write_jsonl
from toolhone.launcher import rank
from toolhone.rates import rate_of
from toolhone.records import POLICIES, Conversation, Example, FormatName, Prediction, Score
from toolhone.run_folder import RunFolder, existing_run, fingerprint

MODELS = ("base", "tuned")

CATEGORIES = (*PYTHON_WITH_GOLD, *NO_CALL)
"""The default categories: all with Python functions, and those whose gold is no call."""


@dataclass(frozen=True, slots=True)
class Suite:
    """The entries of some categories. `unreadable` maps the place of each entry that cannot be scored to the reason."""

    categories: tuple[str, ...]
    examples: tuple[Example, ...]
    unreadable: dict[str, str]


def parse_categories(text: str | None) -> tuple[str, ...]:
    """Return the comma-separated names of `--categories`; the default ones for None.

    Raises:
        UserError: if a name is unknown, or there is none.
    """
    if text is None:
        return CATEGORIES
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [f'"{name}" is not a single-turn category' for name in names if name not in SINGLE_TURN]
    if unknown or not names:
        problem = unknown[0] if unknown else "expected at least one category"
        raise UserError(f"--categories: {problem}; known: {', '.join(SINGLE_TURN)}")
    return names


def read_suite(folder: Path, categories: Sequence[str], rows: int | None = None, seed: int = 0) -> Suite:
    """Read the entries of the categories. With `rows`, read at most this many of each, chosen by the seed.

    Raises:
        UserError: if a file is missing, a category is unknown or named twice, or nothing is left.
    """
    twice = [name for n, name in enumerate(categories) if name in categories[:n]]
    if twice:
        raise UserError(f'--categories: "{twice[0]}" is named twice')
    if rows is not None and rows < 1:
        raise UserError(f"--max-rows: expected 1 or more, found {rows}")
    found: list[Conversation] = []
    unreadable: dict[str, str] = {}
    for category in categories:
        read = list(read_bfcl_folder(folder, [category]))
        unreadable |= {row.where: row.message for row in read if isinstance(row, RowFault)}
        found += _sample([row for row in read if isinstance(row, Conversation)], rows, seed)
    if not found:
        raise UserError(f"{folder}: no entry of {', '.join(categories) or 'no category'} could be read")
    return Suite(tuple(categories), tuple(example for row in found for example in examples(row)), unreadable)


def _sample(rows: list[Conversation], limit: int | None, seed: int) -> list[Conversation]:
    """Return at most `limit` rows, in the given order. The choice depends only on seed and ids."""
    drawn = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{row.id}".encode()).digest())[:limit]
    chosen = {row.id for row in drawn}
    return [row for row in rows if row.id in chosen]


def suite_of_run(
    folder: Path, suite: Suite, models: Sequence[str], overrides: Mapping[str, Any], console: Console
) -> dict[str, Any]:
    """Answer the suite with a run's models, each with its own prompts, and score them. Return the metrics.

    Raises:
        UserError: if there is no run, or no adapter for "tuned".
    """
    from toolhone.config_file import load_config
    from toolhone.train.processes import in_every_process

    run = in_every_process(lambda: _run_with(folder, models))
    config = load_config(run.config, [f"evaluate.{key}={value}" for key, value in overrides.items()])
    with run.lock(console) if rank() == 0 else nullcontext():
        formats = [_answer(config, run, suite, label, console) for label in models]
        return score_suite(folder, suite, models, formats[-1]) if rank() == 0 else {}


def _run_with(folder: Path, models: Sequence[str]) -> RunFolder:
    run, _ = existing_run(folder)
    if "tuned" in models:
        run.require_adapter()
    return run


def suite_of_endpoint(
    folder: Path, suite: Suite, label: str, settings: EndpointSettings, console: Console
) -> dict[str, Any]:
    """Answer the suite with an endpoint, and score it. Return the metrics."""
    run = RunFolder(folder)
    with run.lock(console) if run.config.is_file() else nullcontext():
        predict_endpoint(suite.examples, label, settings, _predictions(folder, label), console)
        return score_suite(folder, suite, [label], settings.format)


def _answer(config: Config, run: RunFolder, suite: Suite, label: str, console: Console) -> FormatName:
    """Write the predictions of the base or the tuned model, and return their chat format."""
    from toolhone.evaluate.stage import predict_once
    from toolhone.train.processes import in_every_process
    from toolhone.tuned import TunedModel

    load = TunedModel.base if label == "base" else TunedModel.load
    tuned = in_every_process(lambda: load(run.path))
    for note in tuned.notes:
        console.print(f"note: {note}", markup=False)
    path, how = _predictions(run.path, label), config.evaluate
    predict_once(tuned, f"suite:bfcl:{label}", suite.examples, "entries", how, path, console)
    return tuned.renderer.format.name


def _predictions(folder: Path, label: str) -> Path:
    return folder / "suite" / "bfcl" / "predictions" / f"{label}.jsonl"


def _entries_fingerprint(suite: Suite) -> str:
    """Return a fingerprint of the entries' prompts, tools and gold."""
    return fingerprint([[*example.asked(), example.gold.to_json()] for example in suite.examples])


def score_suite(folder: Path, suite: Suite, labels: Sequence[str], format: FormatName) -> dict[str, Any]:
    """Score the labels' predictions under each policy, write scores and metrics.json, and return its content."""
    place = folder / "suite" / "bfcl"
    quarantined = {policy: gold_faults(suite.examples, policy) for policy in POLICIES}
    models: dict[str, Any] = {}
    unanswered: dict[str, list[str]] = {}
    for label in labels:
        answers = {row["id"]: Prediction.from_json(row) for _, row in read_jsonl(_predictions(folder, label))}
        unanswered[label] = [one.id for one in suite.examples if one.id not in answers]
        models[label] = {}
        for policy in POLICIES:
            scored = [one for one in suite.examples if one.id not in quarantined[policy] and one.id in answers]
            scores = [score(example, answers[example.id], format, policy) for example in scored]
            write_jsonl(place / "scores" / f"{label}.{policy}.jsonl", (row.to_json() for row in scores))
            models[label][policy] = by_category(scores, suite.categories)
    made_from = _entries_fingerprint(suite)
    # Keep the figures of other models that answered the same entries.
    known = read_json(place / "metrics.json", "the suite writes it") if (place / "metrics.json").is_file() else {}
    same = known if known.get("entries_fingerprint") == made_from else {"models": {}, "unanswered": {}}
    metrics = {
        "suite": "bfcl",
        "categories": list(suite.categories),
        "entries": len(suite.examples),
        "entries_fingerprint": made_from,
        "unreadable": suite.unreadable,
        "quarantined": quarantined,
        "trained_on": _trained_on(RunFolder(folder), suite),
        "models": {**same["models"], **models},
        "unanswered": {**same["unanswered"], **unanswered},
    }
    write_json(place / "metrics.json", metrics)
    return metrics


def _trained_on(run: RunFolder, suite: Suite) -> list[str]:
    """Return the ids of entries whose question is in the run's training rows."""
    if not run.split("train").is_file():
        return []
    learned = {user_words(row) for row in read_conversations(run.split("train"))}
    return [e.id for e in suite.examples if user_words(Conversation(e.id, e.prompt, (), e.where)) in learned]


def by_category(scores: Sequence[Score], categories: Sequence[str]) -> dict[str, Any]:
    """Return exact match by category and by group of categories, each as a rate with its interval.

    A group's rate is over all its rows, like BFCL's own "Live" figure. BFCL's "Non-Live" figure is a mean of
    categories. `repaired` is exact match if texts with a fault are read with repairs.
    """

    def exact(names: Sequence[str]) -> dict[str, Any]:
        return rate_of(score.exact for score in scores if score.meta["category"] in names)

    groups = {
        "non-live calls": [name for name in categories if not name.startswith("live_") and name not in NO_CALL],
        "live calls": [name for name in categories if name.startswith("live_") and name not in NO_CALL],
        "no call": [name for name in categories if name in NO_CALL],
        "all": list(categories),
    }
    return {
        "categories": {name: exact([name]) for name in categories},
        "groups": {name: exact(members) for name, members in groups.items() if members},
        "tool_name_accuracy": rate_of(score.names_right for score in scores),
        "malformed": rate_of(score.status == "malformed" for score in scores),
        "repaired": rate_of((score.repaired or score).exact for score in scores),
    }
