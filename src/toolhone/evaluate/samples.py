"""Every judged row in the layout that lm-evaluation-harness logs samples in, so that tools made for it can read a run.

In: a run folder, read. Out: `samples/<model>/samples_<task>_<date>.jsonl`, a line for each row (the layout of
`lm_eval.evaluator` and `lm_eval.loggers.EvaluationTracker`, version 0.4.9). The prompt is the messages as JSON, as the
harness itself logs it where a model takes messages; the template that made text of them is in the manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolhone.evaluate.run_files import RunFiles
from toolhone.jsonl import write_jsonl
from toolhone.records import Example, Score

METRICS = ("exact_match", "tool_name_accuracy")


def write_samples(run: RunFiles, run_folder: Path) -> None:
    """Write the samples of every model, in place of those of an earlier evaluation."""
    task = re.sub(r"\W+", "_", f"{run.name}_{run.judged}" if run.judged else run.name)
    for model, scores in run.scores.items():
        folder = run_folder / "samples" / model
        path = folder / f"samples_{task}_{_date(run, model)}.jsonl"
        write_jsonl(path, _samples(scores, run.examples))
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


def _samples(scores: list[Score], examples: dict[str, Example]) -> Iterator[dict[str, Any]]:
    for number, score in enumerate(scores):
        yield sample(number, score, examples.get(score.id))


def sample(number: int, score: Score, example: Example | None) -> dict[str, Any]:
    """One row. Without the example, the prompt is the question alone.

    `target` is the gold as JSON: of calls, each with its accepted values. `filtered_resps` has the calls that were
    read from the answer, as JSON; or the answer itself, where none could be.
    """
    if example is None:
        messages = [{"role": "user", "content": score.question}]
    else:
        messages = [message.to_json() for message in example.prompt]
    doc: dict[str, Any] = {"id": score.id, "messages": messages, "tools": list(score.tools), "meta": score.meta}
    target = _json(score.gold.to_json())
    prompt = _json(messages)
    calls = [{"name": call.name, "arguments": call.arguments} for call in score.calls]
    return {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": [], "do_sample": False}}},
        "resps": [[score.text]],
        "filtered_resps": [_json(calls) if calls or score.status == "none" else score.text],
        "filter": "none",
        "metrics": list(METRICS),
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(prompt),
        "target_hash": _hash(target),
        "exact_match": float(score.exact),
        "tool_name_accuracy": float(score.names_right),
    }


_json = json.JSONEncoder(ensure_ascii=False).encode


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
