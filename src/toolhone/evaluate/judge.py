"""Judging predictions, a run's or those in files: scores, metrics and report. No model and no tokenizer is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from toolhone import __version__
from toolhone.data.read import read_conversations, turns
from toolhone.errors import UserError
from toolhone.evaluate.match import gold_faults, score
from toolhone.evaluate.metrics import metrics
from toolhone.evaluate.policy import STRICT, Policy
from toolhone.jsonl import read_json, read_jsonl, write_json, write_jsonl
from toolhone.records import Conversation, Example, FinishReason, FormatName, Prediction, Score
from toolhone.run_folder import RunFolder, model_files

_PREDICTION_KEYS = {field.name for field in fields(Prediction)}


@dataclass(frozen=True, slots=True)
class Asked:
    """The rows that were asked: those to judge, and by id the reason why another cannot be. `named` says in a message
    which rows they are, and `remedy` what to do where they are not the ones that were answered."""

    judged: dict[str, Example]
    quarantined: dict[str, str]
    named: str
    remedy: str

    @classmethod
    def of(cls, examples: Sequence[Example], policy: Policy, named: str, remedy: str) -> Asked:
        places: dict[str, str] = {}
        for example in examples:
            if example.id in places:
                raise UserError(f"{example.where}: {example.id} stands at {places[example.id]} too; ids must differ")
            places[example.id] = example.where
        quarantined = dict(gold_faults(examples, policy))
        judged = {example.id: example for example in examples if example.id not in quarantined}
        return cls(judged, quarantined, named, remedy)


def judge_run(run: RunFolder, policy: Policy = STRICT) -> dict[str, Any]:
    """Score every file of predictions, write scores/, metrics.json and the report, and return the metrics.

    Examples whose own gold does not score are left out by id, and listed under the metrics' provenance; so are those
    that an endpoint refused, of every model, for all are judged on the same rows.

    Raises:
        UserError: where there are no predictions, or they do not answer the run's test rows.
    """
    manifest = run.read_manifest()
    if "judged" not in manifest:
        raise UserError(f"{run.manifest}: does not say which rows were judged; `toolhone train` writes it")
    named = f"the {manifest['judged']} rows in {run.path}/splits"
    asked = Asked.of(turns(read_conversations(run.split(manifest["judged"]))), policy, named, "run `toolhone eval`")
    scores, refused = _score_all(_prediction_files(run), asked, manifest["chat"]["format"], policy)
    facts = {key: manifest[key] for key in ("toolhone", "run", "created", "git_commit", "seed", "versions", "chat")}
    left_out = {"policy": policy.name, "quarantined": asked.quarantined, "refused": refused}
    return _write(run, scores, {**facts, **left_out}, _tools_trained_on(run))


def judge_files(
    predictions: Sequence[Path],
    rows: Sequence[Conversation],
    rows_named: str,
    out: Path,
    format: FormatName,
    policy: Policy = STRICT,
) -> dict[str, Any]:
    """Score files of predictions of the same rows; write scores/, metrics.json and the report into `out`.

    A file's stem is its model's name. A prediction is found by its example's id, or by the conversation's where that
    has one turn to answer. Tokens may be left out of predictions, which are judged by their text.

    Args:
        rows_named: what the rows are called in a message, such as their file's name.

    Raises:
        UserError: where predictions are not of these rows or cannot be read, or `out` is the folder of a run.
    """
    run = RunFolder(out)
    if run.config.exists():
        raise UserError(f"--out {out}: is the folder of a run, whose figures are its own; name another")
    twice = [path for path in predictions if [other.stem for other in predictions].count(path.stem) > 1]
    if twice:
        raise UserError(
            f"{twice[0]}: another file is named {twice[0].name} too; a file's name is its model's: rename it"
        )
    inside = [path for path in predictions if path.resolve() == run.scores(path.stem).resolve()]
    if inside:
        raise UserError(f"--out {out}: {inside[0]} would be written over; name another folder")
    remedy = "predict these rows, or name with --rows those that were predicted"
    examples = turns(rows)
    asked = Asked.of(examples, policy, f"the rows of {rows_named}", remedy)
    if not asked.judged and not asked.quarantined:
        raise UserError(f"{rows_named}: no assistant turn to judge in {len(rows)} rows")
    scores, refused = _score_all(predictions, asked, format, policy, aliases_of(examples))
    facts = {"toolhone": __version__, "rows": rows_named, "predictions": [str(path) for path in predictions]}
    left_out = {"quarantined": asked.quarantined, "refused": refused}
    return _write(run, scores, {**facts, "policy": policy.name, "chat": {"format": format}, **left_out}, None)


def _write(
    run: RunFolder, scores: Mapping[str, list[Score]], provenance: dict[str, Any], seen_tools: set[str] | None
) -> dict[str, Any]:
    found = metrics(scores, provenance, seen_tools)
    for model, rows in scores.items():
        write_jsonl(run.scores(model), (row.to_json() for row in rows))
    write_json(run.metrics, found)
    return found


def _tools_trained_on(run: RunFolder) -> set[str] | None:
    """The tools that the run's training rows call; None for a run without any such rows."""
    if not run.split("train").is_file():
        return None
    examples = turns(read_conversations(run.split("train")))
    return {call.name for example in examples for call in example.turn.tool_calls}


def _prediction_files(run: RunFolder) -> list[Path]:
    """The files of predictions, the base model's first."""
    files = model_files(run.predictions("base").parent)
    if not files:
        raise UserError(f"{run.path}: has no predictions yet; `toolhone train` or `toolhone eval` makes them")
    return files


def _score_all(
    paths: Sequence[Path],
    asked: Asked,
    format: FormatName,
    policy: Policy,
    aliases: Mapping[str, str] | None = None,
) -> tuple[dict[str, list[Score]], dict[str, dict[str, str]]]:
    """Each model's scores, in the order of the rows, and by model the rows that its endpoint refused, with the reason.
    What one was refused counts for none. `aliases` gives the ids of examples that go by another id."""
    read = {path.stem: read_answers(path, asked, aliases or {}) for path in paths}
    refused = {model: left_out for model, (_, left_out) in read.items() if left_out}
    judged = {id_: one for id_, one in asked.judged.items() if not any(id_ in rows for rows in refused.values())}
    scores = {
        model: [score(example, answers[id_], format, policy) for id_, example in judged.items()]
        for model, (answers, _) in read.items()
    }
    return scores, refused


def aliases_of(examples: Sequence[Example]) -> dict[str, str]:
    """The ids of examples that go by their conversation's too, as its one turn to answer."""
    ids: dict[str, list[str]] = {}
    for example in examples:
        ids.setdefault(example.conversation_id, []).append(example.id)
    return {conversation: turn_ids[0] for conversation, turn_ids in ids.items() if len(turn_ids) == 1}


def read_answers(
    path: Path, asked: Asked, aliases: Mapping[str, str], *, tokens: bool = False
) -> tuple[dict[str, Prediction], dict[str, str]]:
    """One model's answers by the row's id, and the rows that the file beside them says its endpoint refused.

    Args:
        aliases: the ids of examples that go by another id.
        tokens: whether to keep the predictions' tokens, which take most of the memory.

    Raises:
        UserError: where a line is no prediction, or the rows answered are not those asked.
    """
    predictions: dict[str, Prediction] = {}
    for where, row in read_jsonl(path):
        prediction = _prediction(row, where, tokens=tokens)
        prediction = replace(prediction, id=aliases.get(prediction.id, prediction.id))
        if prediction.id in predictions:
            raise UserError(f"{where}: {prediction.id} is answered twice, expected once; {asked.remedy}")
        predictions[prediction.id] = prediction
    lacking = [id_ for id_ in asked.judged if id_ not in predictions]
    known = {aliases.get(id_, id_): reason for id_, reason in _left_out(path).items()} if lacking else {}
    refused = {id_: known[id_] for id_ in lacking if id_ in known}
    lacking = [id_ for id_ in lacking if id_ not in refused]
    foreign = [id_ for id_ in predictions if id_ not in asked.judged and id_ not in asked.quarantined]
    if lacking or foreign:
        raise UserError(
            f"{path}: does not answer {asked.named}: {len(lacking)} lack an answer, {len(foreign)} are no such rows "
            f"(first: {(lacking + foreign)[0]}); {asked.remedy}"
        )
    return predictions, refused


def _left_out(path: Path) -> dict[str, str]:
    """What `toolhone predict --leave-out-refused` says beside its predictions of the rows that it went without."""
    note = path.with_suffix(".json")
    said = read_json(note, "") if note.is_file() else None
    left_out = said.get("left_out") if isinstance(said, dict) else None
    return {str(id_): str(reason) for id_, reason in left_out.items()} if isinstance(left_out, dict) else {}


def _prediction(row: dict[str, Any], where: str, *, tokens: bool) -> Prediction:
    """A row as a prediction, without its tokens unless they are asked for."""
    absent = sorted(_PREDICTION_KEYS - row.keys() - {"tokens"})
    unknown = sorted(row.keys() - _PREDICTION_KEYS)
    if absent or unknown:
        faults = [f"{', '.join(absent)} missing"] * bool(absent) + [f"{', '.join(unknown)} unknown"] * bool(unknown)
        known = ", ".join(field.name for field in fields(Prediction))
        raise UserError(f"{where}: is no prediction: {'; '.join(faults)}; expected {known} (tokens may be left out)")
    for key in ("id", "text"):
        if not isinstance(row[key], str):
            raise UserError(f'{where}: expected "{key}" to be a text, found {type(row[key]).__name__}')
    if row["finish_reason"] not in get_args(FinishReason):
        expected = " or ".join(get_args(FinishReason))
        raise UserError(f'{where}: expected "finish_reason" to be {expected}, found {row["finish_reason"]!r}')
    for key in ("prompt_tokens", "completion_tokens", "latency_ms"):
        if isinstance(row[key], bool) or not isinstance(row[key], int | float):
            raise UserError(f'{where}: expected "{key}" to be a number, found {type(row[key]).__name__}')
    if not tokens:
        return Prediction.from_json({**row, "tokens": []})
    try:
        return Prediction.from_json({"tokens": [], **row})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'{where}: its "tokens" cannot be read ({error!r}); expected of each its id, bytes and logprob'
        ) from None
