"""Score the predictions of a run or of files, write scores/ and metrics.json, and read scores to compare models.

No model or tokenizer is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

from toolhone import __version__
from toolhone.data.importers.openai import conversation
from toolhone.data.read import read_conversations, turns
from toolhone.errors import UserError
from toolhone.evaluate.match import gold_faults, score
from toolhone.evaluate.metrics import metrics
from toolhone.evaluate.values import STRICT
from toolhone.formats import FORMATS
from toolhone.jsonl import read_json, read_jsonl, write_json, write_jsonl
from toolhone.records import Conversation, Example, FinishReason, FormatName, Prediction, Score, ScoringPolicy
from toolhone.run_folder import RunFolder, fingerprint, model_files

_OPTIONAL = {"tokens", "prose_end", "format"}
_PREDICTION_KEYS = [field.name for field in fields(Prediction)]


def score_run(run: RunFolder, policy: ScoringPolicy = STRICT) -> dict[str, Any]:
    """Score every file of predictions, write scores/ and metrics.json, and return the metrics.

    All models are scored on the same rows, except a base model that answered only a sample. The metrics' provenance
    lists the rows left out: those whose gold is not an exact match with itself, and those that any model's endpoint
    refused.

    Raises:
        UserError: if there are no predictions, or they do not answer the run's test rows.
    """
    manifest, split, examples = run.read_manifest(), scored_split(run), scored_examples(run)
    asked = RowsToScore(examples, policy, f"the {split} rows in {run.path}/splits", "run `toolhone eval`")
    predictions = model_files(run.predictions("base").parent)
    if not predictions:
        raise UserError(f"{run.path}: has no predictions yet; `toolhone train` or `toolhone eval` makes them")
    samples = _samples(run, predictions, examples)
    facts = {key: manifest[key] for key in ("toolhone", "run", "created", "git_commit", "seed", "versions", "chat")}
    facts |= {"policy": policy, "split_sha256": (manifest.get("data") or {}).get(split, {}).get("sha256")}
    learned = turns(read_conversations(run.split("train"))) if run.split("train").is_file() else None
    seen_tools = None if learned is None else {call.name for one in learned for call in one.turn.tool_calls}
    return _score_all(run, predictions, asked, facts, seen_tools, samples)


def score_files(
    predictions: Sequence[Path],
    rows: Sequence[Conversation],
    rows_named: str,
    out: Path,
    format: FormatName,
    policy: ScoringPolicy = STRICT,
) -> dict[str, Any]:
    """Score files of predictions of the same rows; write scores/ and metrics.json into `out`, and return the metrics.

    A file's stem is its model's name. `rows_named` names the rows in messages, for example by their file.

    Raises:
        UserError: if predictions are of other rows or cannot be read, or `out` is a run folder.
    """
    run = RunFolder(out)
    if run.config.exists():
        raise UserError(f"--out {out}: is a run folder, whose figures would be overwritten; choose another folder")
    stems = [path.stem for path in predictions]
    for path in predictions:
        if stems.count(path.stem) > 1:
            raise UserError(
                f"{path}: another file is also named {path.name}; the file name is the model's name, so rename one"
            )
        if path.resolve() == run.scores(path.stem).resolve():
            raise UserError(f"--out {out}: {path} would be overwritten; choose another folder")
    asked = RowsToScore(turns(rows), policy, f"the rows of {rows_named}")
    if not asked.examples and not asked.quarantined:
        raise UserError(f"{rows_named}: no assistant turn to score in {len(rows)} rows")
    facts = {"toolhone": __version__, "rows": rows_named, "predictions": [str(path) for path in predictions]}
    return _score_all(run, predictions, asked, {**facts, "policy": policy, "chat": {"format": format}}, None, {})


def _score_all(
    run: RunFolder,
    predictions: Sequence[Path],
    asked: RowsToScore,
    facts: dict[str, Any],
    seen_tools: set[str] | None,
    samples: Mapping[str, Collection[str]],
) -> dict[str, Any]:
    """Score each model's file and write the files of `run`. A row that one endpoint refused counts for no model.
    `samples` has the ids that a model was asked, if it was asked only a sample."""
    read = {path.stem: asked.read_answers(path, samples.get(path.stem)) for path in predictions}
    refused = {model: left_out for model, (_, left_out) in read.items() if left_out}
    scored = [example for id_, example in asked.examples.items() if not any(id_ in rows for rows in refused.values())]
    format: FormatName = facts["chat"]["format"]
    facts["formats"] = {
        model: sorted({answer.format or format for answer in answers.values()}) for model, (answers, _) in read.items()
    }
    scores = {
        model: [score(one, answers[one.id], format, asked.policy) for one in scored if one.id in answers]
        for model, (answers, _) in read.items()
    }
    for model in samples:
        if not scores[model]:
            raise UserError(f"{run.predictions(model)}: none of its rows can be scored; raise evaluate.base_rows")
        scores[model] = [replace(row, sampled_from=len(scored)) for row in scores[model]]
    found = metrics(scores, {**facts, "quarantined": asked.quarantined, "refused": refused}, seen_tools)
    for model, rows in scores.items():
        write_jsonl(run.scores(model), (row.to_json() for row in rows))
    write_json(run.metrics, found)
    return found


def asked_fingerprint(examples: Sequence[Example]) -> str:
    """Return a fingerprint of the examples' prompts and tools, without their gold. It is recorded with the answers."""
    return fingerprint([example.asked() for example in examples])


def _samples(run: RunFolder, predictions: Sequence[Path], examples: Sequence[Example]) -> dict[str, set[str]]:
    """Check that files of predictions answer these examples. Return the ids that each model was asked, for models whose
    stage records a sample.

    Ids alone are not enough, because the rows may have been edited. Files without a record are not checked.
    """
    asked, samples = asked_fingerprint(examples), {}
    for path in predictions:
        note = path.with_suffix(".json")  # written beside an endpoint's answers
        endpoint = read_json(note, "") if note.is_file() else None
        recorded = run.stage(f"predict:{path.stem}") or (endpoint if isinstance(endpoint, dict) else {})
        answered = examples
        if recorded.get("sampled_from") == asked:
            ids = {row.get("id") for _, row in read_jsonl(path)}
            answered = [example for example in examples if example.id in ids]
            samples[path.stem] = {example.id for example in answered}
        if recorded.get("asked") not in (None, asked_fingerprint(answered)):
            raise UserError(
                f"{path}: answers other rows than those in {run.split(scored_split(run))}, which have changed since; "
                "ask the run's models again with `toolhone eval`, or an endpoint with `toolhone predict`"
            )
    return samples


def scored_split(run: RunFolder) -> str:
    """Return the name of the split that the run's models are scored on, "test" or "validation"."""
    manifest = run.read_manifest()
    if "judged" not in manifest:
        raise UserError(f"{run.manifest}: does not record which rows are scored; `toolhone train` writes it")
    return str(manifest["judged"])


def scored_examples(run: RunFolder, *, with_tools: bool = True) -> list[Example]:
    """Return the examples that the run's models are scored on. Without tools, reading is much faster; ids and messages
    are the same.

    Raises:
        UserError: if the split's file was edited. This is checked only with tools.
    """
    split = scored_split(run)
    if with_tools:
        run.refuse_edited_split(split)
    rows = read_jsonl(run.split(split))
    if not with_tools:
        # A row without an id is named by a hash of its content, including tools.
        rows = ((where, {**row, "tools": None} if row.get("id") else row) for where, row in rows)
    return turns(conversation(row, where, ()) for where, row in rows)


class RowsToScore:
    """The examples to score, by id. `quarantined` has those whose gold is not an exact match with itself, and the
    reason.

    In messages, `named` names these rows, and `remedy` says what to do if other rows were answered.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        policy: ScoringPolicy,
        named: str,
        remedy: str = "predict these rows, or give the predicted rows with --rows",
    ) -> None:
        self.policy, self.named, self.remedy = policy, named, remedy
        places: dict[str, str] = {}
        turn_ids: dict[str, list[str]] = {}
        for example in examples:
            if example.id in places:
                raise UserError(
                    f"{example.where}: {example.id} is also the id at {places[example.id]}; give each row another id"
                )
            places[example.id] = example.where
            turn_ids.setdefault(example.conversation_id, []).append(example.id)
        self.quarantined = gold_faults(examples, policy)
        self.examples = {example.id: example for example in examples if example.id not in self.quarantined}
        self._aliases = {name: ids[0] for name, ids in turn_ids.items() if len(ids) == 1 and name not in places}

    def read_answers(
        self, path: Path, sample: Collection[str] | None = None, *, tokens: bool = False
    ) -> tuple[dict[str, Prediction], dict[str, str]]:
        """Return one model's answers by example id, and the rows that its endpoint refused, each with the reason.

        A prediction may have its example's id, or the conversation's id if that has only one turn to answer. A model
        that was asked a `sample` must answer only these ids. Tokens take most of the memory and are skipped by default.

        Raises:
            UserError: if a line is not a prediction, or the answers are to other rows.
        """
        predictions: dict[str, Prediction] = {}
        for where, row in read_jsonl(path):
            prediction = _prediction(row, where, tokens=tokens)
            prediction = replace(prediction, id=self._aliases.get(prediction.id, prediction.id))
            if prediction.id in predictions:
                raise UserError(f"{where}: {prediction.id} is answered twice, expected once; {self.remedy}")
            predictions[prediction.id] = prediction
        lacking = [id_ for id_ in self.examples if id_ not in predictions and (sample is None or id_ in sample)]
        known = {self._aliases.get(id_, id_): reason for id_, reason in _left_out(path).items()} if lacking else {}
        refused = {id_: known[id_] for id_ in lacking if id_ in known}
        lacking = [id_ for id_ in lacking if id_ not in refused]
        foreign = [id_ for id_ in predictions if id_ not in self.examples and id_ not in self.quarantined]
        if lacking or foreign:
            raise UserError(
                f"{path}: does not answer {self.named}: {len(lacking)} lack an answer, {len(foreign)} are other rows "
                f"(first: {(lacking + foreign)[0]}); {self.remedy}"
            )
        return predictions, refused


def _left_out(path: Path) -> dict[str, str]:
    """Return the rows that `toolhone predict --leave-out-refused` left out, from the file beside its predictions."""
    note = path.with_suffix(".json")
    summary = read_json(note, "") if note.is_file() else None
    left_out = summary.get("left_out") if isinstance(summary, dict) else None
    return {str(id_): str(reason) for id_, reason in left_out.items()} if isinstance(left_out, dict) else {}


def _prediction(row: dict[str, Any], where: str, *, tokens: bool) -> Prediction:
    absent = sorted(set(_PREDICTION_KEYS) - row.keys() - _OPTIONAL)
    unknown = sorted(row.keys() - set(_PREDICTION_KEYS))
    if absent or unknown:
        faults = [f"{', '.join(absent)} missing"] * bool(absent) + [f"{', '.join(unknown)} unknown"] * bool(unknown)
        known = ", ".join(_PREDICTION_KEYS)
        raise UserError(
            f"{where}: is not a prediction: {'; '.join(faults)}; expected {known} "
            f"({', '.join(sorted(_OPTIONAL))} are optional)"
        )
    for key in ("id", "text"):
        if not isinstance(row[key], str):
            raise UserError(f'{where}: expected "{key}" to be a text, found {type(row[key]).__name__}')
    if row["finish_reason"] not in get_args(FinishReason):
        expected = " or ".join(get_args(FinishReason))
        raise UserError(f'{where}: expected "finish_reason" to be {expected}, found {row["finish_reason"]!r}')
    if row.get("format") not in (None, *FORMATS):
        known = ", ".join(FORMATS)
        raise UserError(f'{where}: expected "format" to be a chat format ({known}), found {row["format"]!r}')
    for key in ("prompt_tokens", "completion_tokens", "latency_ms"):
        if isinstance(row[key], bool) or not isinstance(row[key], int | float):
            raise UserError(f'{where}: expected "{key}" to be a number, found {type(row[key]).__name__}')
    prose_end, length = row.get("prose_end", 0), len(row["text"])
    if isinstance(prose_end, bool) or not isinstance(prose_end, int) or not 0 <= prose_end <= length:
        raise UserError(
            f'{where}: expected "prose_end" to be from 0 to the length of the text, {length}, found {prose_end!r}'
        )
    try:
        return Prediction.from_json({"tokens": [], **row} if tokens else {**row, "tokens": []})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'{where}: its "tokens" cannot be read ({error!r}); expected id, bytes and logprob of each token'
        ) from None


_REMEDY = "run `toolhone score` to score predictions"


def read_scores(path: Path, remedy: str = _REMEDY) -> list[Score]:
    """Read one file of scores.

    Raises:
        UserError: if the file is missing, or a line is not a score. The message ends with `remedy`.
    """
    scores = []
    for where, row in read_jsonl(path):
        try:
            scores.append(Score.from_json(row))
        except (KeyError, TypeError) as error:
            raise UserError(f"{where}: not a score ({error}); {remedy}") from None
    return scores


def read_score_files(sources: Sequence[Path]) -> dict[str, list[Score]]:
    """Return each model's scores by the stem of its file. If two stems are the same, the folder's name precedes them.

    Raises:
        UserError: if a source has no scores, is named twice, or a line is not a score.
    """
    files = [file for source in sources for file in _files_of(source)]
    counts = Counter(file.resolve() for file in files)
    twice = [file for file in files if counts[file.resolve()] > 1]
    if twice:
        raise UserError(f"{twice[0]}: is named twice; name each run or file once")
    return {name: read_scores(file) for name, file in zip(_names(files), files, strict=True)}


def compare_files(sources: Sequence[Path]) -> dict[str, Any]:
    """Return the figures of all models in the sources and of each pair of them, in the shape of metrics.json.

    Raises:
        UserError: if the models were not scored on the same rows with the same gold.
    """
    return metrics(read_score_files(sources), {"toolhone": __version__, "sources": list(map(str, sources))})


def _files_of(source: Path) -> list[Path]:
    """Return a file itself, or the files of a folder's scores, the base model's first."""
    if not source.is_dir():
        return [source]
    inside = source / "scores" if (source / "scores").is_dir() else source
    files = model_files(inside)
    if not files:
        raise UserError(f"{source}: has no scores (looked for {inside}/*.jsonl); {_REMEDY}")
    return files


def _names(files: Sequence[Path]) -> list[str]:
    stems = [file.stem for file in files]
    folders = [file.resolve().parent for file in files]
    owners = [(folder.parent if folder.name == "scores" else folder).name for folder in folders]
    owned = [f"{owner}/{stem}" for owner, stem in zip(owners, stems, strict=True)]
    return next((names for names in (stems, owned) if len(set(names)) == len(files)), list(map(str, files)))
