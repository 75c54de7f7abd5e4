"""Every judged row in the layout that lm-evaluation-harness logs samples in, so that tools made for it can read a run.

In: a run folder, read. Out: `samples/<model>/samples_<task>_<date>.jsonl`, a line for each row (the layout of
`lm_eval.evaluator` and `lm_eval.loggers.EvaluationTracker`, version 0.4.9). The prompt is the messages as JSON, as the
harness itself logs it where a model takes messages; the template that made text of them is in the manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolhone.jsonl import write_jsonl
from toolhone.records import Message, Score
from toolhone.report.run_files import RunFiles

METRICS = ("exact_match", "tool_name_accuracy")


def write_samples(run: RunFiles, run_folder: Path) -> None:
    """Write the samples of every model, in place of those of an earlier evaluation."""
    task = re.sub(r"\W+", "_", f"{run.name}_{run.judged}" if run.judged else run.name)
    asked: dict[str, Asked] = {}  # the same of every model
    for model, scores in run.scores.items():
        folder = run_folder / "samples" / model
        path = folder / f"samples_{task}_{_date(run, model)}.jsonl"
        write_jsonl(path, _samples(scores, run.prompts, asked))
        for older in folder.glob(f"samples_{task}_*.jsonl"):
            if older != path:
                older.unlink()


def _date(run: RunFiles, model: str) -> str:
    """When the model answered, as the harness writes it in a file's name: ISO 8601 with dashes for colons. A run that
    does not say when has the start of time, so that the same files always give the same samples."""
    manifest = run.manifest or {}
    stage = manifest.get("stages", {}).get(f"predict:{model}", {})
    found = str(stage.get("finished") or manifest.get("created") or "1970-01-01T00:00:00")
    return found.split("+")[0].replace(":", "-")


def _samples(
    scores: list[Score], prompts: Mapping[str, Sequence[Message]], asked: dict[str, Asked]
) -> Iterator[dict[str, Any]]:
    for number, score in enumerate(scores):
        if score.id not in asked:
            asked[score.id] = ask(score, prompts.get(score.id))
        yield sample(number, score, asked[score.id])


@dataclass(frozen=True, slots=True)
class Asked:
    """What a row asks and expects, whoever answers it: the document, and as JSON its prompt and target, with hashes."""

    doc: dict[str, Any]
    prompt: str
    target: str
    doc_hash: str
    prompt_hash: str
    target_hash: str


def ask(score: Score, prompt: Sequence[Message] | None) -> Asked:
    """What a score's row asks. Where the prompt is not at hand, it is the question alone."""
    if prompt is None:
        messages = [{"role": "user", "content": score.question}]
    else:
        messages = [message.to_json() for message in prompt]
    doc = {"id": score.id, "messages": messages, "tools": list(score.tools), "meta": score.meta}
    written, target = _json(messages), _json(score.gold.to_json())
    doc_text = json.dumps(doc, indent=2, ensure_ascii=False)
    return Asked(doc, written, target, _hash(doc_text), _hash(written), _hash(target))


def sample(number: int, score: Score, asked: Asked) -> dict[str, Any]:
    """One row of the file.

    `target` is the gold as JSON: of calls, each with its accepted values. `filtered_resps` has the calls that were
    read from the answer, as JSON; or the answer itself, where none could be.
    """
    calls = [{"name": call.name, "arguments": call.arguments} for call in score.calls]
    return {
        "doc_id": number,
        "doc": asked.doc,
        "target": asked.target,
        "arguments": {"gen_args_0": {"arg_0": asked.prompt, "arg_1": {"until": [], "do_sample": False}}},
        "resps": [[score.text]],
        "filtered_resps": [_json(calls) if calls or score.status == "none" else score.text],
        "filter": "none",
        "metrics": list(METRICS),
        "doc_hash": asked.doc_hash,
        "prompt_hash": asked.prompt_hash,
        "target_hash": asked.target_hash,
        "exact_match": float(score.exact),
        "tool_name_accuracy": float(score.names_right),
    }


_json = json.JSONEncoder(ensure_ascii=False).encode


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
