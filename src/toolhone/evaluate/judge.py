"""Judging a run: predictions in, scores, metrics and report out. No model and no tokenizer is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolhone.data.read import read_conversations
from toolhone.data.split import turns
from toolhone.errors import UserError
from toolhone.evaluate.match import gold_faults, score
from toolhone.evaluate.metrics import metrics
from toolhone.evaluate.report import write_report
from toolhone.jsonl import read_jsonl, write_json, write_jsonl
from toolhone.records import Example, Prediction, Score
from toolhone.run import RunFolder


def judge_run(run: RunFolder) -> dict[str, Any]:
    """Score every file of predictions, write scores/, metrics.json and the report, and return the metrics.

    Examples whose own gold does not score are left out by id, and listed under the metrics' provenance.

    Raises:
        UserError: where there are no predictions, or they do not answer the run's test rows.
    """
    manifest = run.read_manifest()
    if "judged" not in manifest:
        raise UserError(f"{run.manifest}: does not say which rows were judged; `toolhone train` writes it")
    examples = turns(read_conversations(run.split(manifest["judged"])))
    quarantined = dict(gold_faults(examples))
    judged = {example.id: example for example in examples if example.id not in quarantined}
    scores = {path.stem: _score_file(path, judged, quarantined, manifest) for path in _prediction_files(run)}
    for model, rows in scores.items():
        write_jsonl(run.scores(model), (row.to_json() for row in rows))
    facts = {key: manifest[key] for key in ("toolhone", "run", "created", "git_commit", "seed", "versions", "chat")}
    found = metrics(scores, {**facts, "quarantined": quarantined})
    write_json(run.metrics, found)
    write_report(run.path)
    return found


def _prediction_files(run: RunFolder) -> list[Path]:
    """The files of predictions, the base model's first."""
    files = sorted(run.predictions("base").parent.glob("*.jsonl"), key=lambda path: (path.stem != "base", path.stem))
    if not files:
        raise UserError(f"{run.path}: has no predictions yet; `toolhone train` or `toolhone eval` makes them")
    return files


def _score_file(
    path: Path, examples: dict[str, Example], quarantined: dict[str, str], manifest: dict[str, Any]
) -> list[Score]:
    predictions: dict[str, Prediction] = {}
    for where, row in read_jsonl(path):
        if row["id"] in predictions:
            raise UserError(f"{where}: {row['id']} is answered twice, expected once; run `toolhone eval`")
        predictions[row["id"]] = Prediction.from_json(row)
    lacking = [id_ for id_ in examples if id_ not in predictions]
    foreign = [id_ for id_ in predictions if id_ not in examples and id_ not in quarantined]
    if lacking or foreign:
        raise UserError(
            f"{path}: does not answer the {manifest['judged']} rows in {path.parent.parent}/splits: "
            f"{len(lacking)} lack an answer, {len(foreign)} are no such rows (first: {(lacking + foreign)[0]}); "
            "run `toolhone eval`"
        )
    chat_format = manifest["chat"]["format"]
    return [score(example, predictions[id_], chat_format) for id_, example in examples.items()]
