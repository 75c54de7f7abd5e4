"""Every scored row in the layout that lm-evaluation-harness logs samples in, so that tools made for it can read a run.

In: a run folder, read. Out: `samples/<model>/samples_<task>_<date>.jsonl`, a line for each row (the layout of
`lm_eval.evaluator` and `lm_eval.loggers.EvaluationTracker`, version 0.4.9). The prompt is the messages as JSON, as the
harness itself logs it if a model takes messages; the template that made text of them is in the manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from toolhone.jsonl import write_jsonl
from toolhone.records import Message, Score
from toolhone.report.run_files import RunFiles

METRICS = ("exact_match", "tool_name_accuracy")

_Asked = tuple[dict[str, Any], dict[str, str]]


def write_samples(run: RunFiles, run_folder: Path) -> None:
    """Write the samples of every model, in place of those of an earlier evaluation."""
    task = re.sub(r"\W+", "_", f"{run.name}_{run.scored_split}" if run.scored_split else run.name)
    asked: dict[str, _Asked] = {}
    for model in run.scores:
        folder = run_folder / "samples" / model
        path = folder / f"samples_{task}_{_date(run, model)}.jsonl"
        write_jsonl(path, _samples(run, model, asked))
        for older in folder.glob(f"samples_{task}_*.jsonl"):
            if older != path:
                older.unlink()


def _date(run: RunFiles, model: str) -> str:
    """When the model answered, as the harness writes it in a file's name: ISO 8601 with dashes for colons.

    A run that does not say when has the start of time, so that the same files always give the same samples.
    """
    stage = run.manifest.get("stages", {}).get(f"predict:{model}", {})
    found = str(stage.get("finished") or run.manifest.get("created") or "1970-01-01T00:00:00")
    return found.split("+")[0].replace(":", "-")


def _samples(run: RunFiles, model: str, asked: dict[str, _Asked]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a model's file. `asked` keeps what the rows ask, which is the same for every model.

    `target` is the gold as JSON: of calls, each with its accepted values. `filtered_resps` has the calls that were
    read from the answer, as JSON; or the answer itself, if none could be.
    """
    for number, score in enumerate(run.scores[model]):
        if score.id not in asked:
            asked[score.id] = _ask(score, run.prompts.get(score.id))
        question, hashes = asked[score.id]
        calls = [{"name": call.name, "arguments": call.arguments} for call in score.calls]
        yield {
            "doc_id": number,
            **question,
            "resps": [[score.text]],
            "filtered_resps": [_json(calls) if calls or score.status == "none" else score.text],
            "filter": "none",
            "metrics": list(METRICS),
            **hashes,
            "exact_match": float(score.exact),
            "tool_name_accuracy": float(score.names_right),
        }


def _ask(score: Score, prompt: Sequence[Message] | None) -> _Asked:
    """What a row asks and expects, and the hashes of that. If the prompt is not at hand, it is the question alone."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": score.question}]
    if prompt is not None:
        messages = [message.to_json() for message in prompt]
    doc = {"id": score.id, "messages": messages, "tools": list(score.tools), "meta": score.meta}
    asked, target = _json(messages), _json(score.gold.to_json())
    arguments = {"gen_args_0": {"arg_0": asked, "arg_1": {"until": [], "do_sample": False}}}
    texts = {"doc_hash": json.dumps(doc, indent=2, ensure_ascii=False), "prompt_hash": asked, "target_hash": target}
    return {"doc": doc, "target": target, "arguments": arguments}, {key: _hash(text) for key, text in texts.items()}


_json = json.JSONEncoder(ensure_ascii=False).encode


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
