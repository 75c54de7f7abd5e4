"""Writes the files of a run that other tools read: samples for lm-evaluation-harness, and model cards.

In: the files of a run folder, and the values of its report. Out: `samples/`, and the README.md of an adapter or of an
export. What a run does
not record, such as a licence, is left out and never guessed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.chat.serving import Serving
from toolhone.evaluate.values import STRICT
from toolhone.jsonl import read_json, write_jsonl, write_text
from toolhone.records import Message, Score
from toolhone.report import facts, tables, wording
from toolhone.report.facts import RunFiles
from toolhone.report.pages import markdown_page
from toolhone.run_folder import ADAPTER_FILES

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """What a model card says about an export.

    Attributes:
        base: the base model, a name on the hub or a folder.
        ways: how engines serve the export.
        merged: the number type of merged weights; None for an adapter alone.
        licence: the keys of the base model's licence in the front matter, such as `license`; empty if unknown.
    """

    base: str
    ways: Sequence[Serving]
    merged: str | None = None
    licence: Mapping[str, Any] = field(default_factory=dict)


METRICS = ("exact_match", "tool_name_accuracy")

_Asked = tuple[dict[str, Any], dict[str, str]]


def write_samples(run: RunFiles, run_folder: Path) -> None:
    """Write `samples/<model>/samples_<task>_<date>.jsonl` for every model. Deletes the samples of earlier evaluations.

    The layout is that of `lm_eval.evaluator` and `lm_eval.loggers.EvaluationTracker`, version 0.4.9. The prompt is the
    messages as JSON: the harness logs it so for a model that takes messages.
    """
    task = re.sub(r"\W+", "_", f"{run.name}_{run.scored_split}" if run.scored_split else run.name)
    asked: dict[str, _Asked] = {}
    # doc_id is a row's number in the data set. One model may have answered only a sample of the rows.
    longest = max(run.scores, key=lambda model: len(run.scores[model]))
    numbers = {score.id: number for number, score in enumerate(run.scores[longest])}
    for model in run.scores:
        folder = run_folder / "samples" / model
        path = folder / f"samples_{task}_{_date(run, model)}.jsonl"
        write_jsonl(path, _samples(run, model, asked, numbers))
        for older in folder.glob(f"samples_{task}_*.jsonl"):
            if older != path:
                older.unlink()


def _date(run: RunFiles, model: str) -> str:
    """Return when the model answered, as the harness writes it in a file name: ISO 8601 with dashes instead of colons.

    If the run records no time, the date is 1970-01-01, so that the same files always give the same samples.
    """
    stage = run.manifest.get("stages", {}).get(f"predict:{model}", {})
    found = str(stage.get("finished") or run.manifest.get("created") or "1970-01-01T00:00:00")
    return found.split("+")[0].replace(":", "-")


def _samples(
    run: RunFiles, model: str, asked: dict[str, _Asked], numbers: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a model's file.

    `asked` caches what each row asks, which is the same for every model. `numbers` maps a row id to its `doc_id`.

    `target` is the gold as JSON; calls have all their accepted values. `filtered_resps` has the calls read from the
    answer as JSON, or the answer itself if no call could be read.
    """
    for score in run.scores[model]:
        if score.id not in asked:
            asked[score.id] = _ask(score, run.prompts.get(score.id))
        question, hashes = asked[score.id]
        calls = [{"name": call.name, "arguments": call.arguments} for call in score.calls]
        yield {
            "doc_id": numbers[score.id],
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
    """Return what a row asks and expects, and the hashes of both. Without a prompt, it asks the question alone."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": score.question}]
    if prompt is not None:
        messages = [message.to_json() for message in prompt]
    doc = {"id": score.id, "messages": messages, "tools": list(score.tools), "meta": score.meta}
    asked, target = _json(messages), _json(score.gold.to_json())
    arguments = {"gen_args_0": {"arg_0": asked, "arg_1": {"until": [], "do_sample": False}}}
    texts = {"doc_hash": json.dumps(doc, indent=2, ensure_ascii=False), "prompt_hash": asked, "target_hash": target}
    hashes = {key: hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for key, text in texts.items()}
    return {"doc": doc, "target": target, "arguments": arguments}, hashes


_json = json.JSONEncoder(ensure_ascii=False).encode


def write_card(run: RunFiles, page: Mapping[str, Any], folder: Path, export: ExportedModel | None = None) -> None:
    """Write README.md into the folder of the run's adapter, or of an export. `page` has the values of the run's report.

    huggingface_hub reads the front matter as a model card with a `model-index`.
    """
    from huggingface_hub import ModelCard, ModelCardData

    base = export.base if export else run.base_model
    on_hub = hub_id(base)
    models = run.metrics["models"].values()
    by_language = [*models][-1]["by"].get("language", {}) if models else {}
    # only values that look like ISO 639 codes
    languages = [code for code in by_language if len(code) in (2, 3) and code.isascii() and code.islower()]
    merged = export.merged if export else None
    front_matter = ModelCardData(
        base_model=on_hub,
        eval_results=(_eval_results(run) if models else None) or None,
        language=languages or None,
        library_name="transformers" if merged else "peft",
        model_name=run.name,
        pipeline_tag="text-generation",
        tags=["function-calling", "tool-use", *([] if merged else ["lora"]), "toolhone"],
        **(export.licence if export else {}),
    )
    if export is None:
        settings = read_json(folder / ADAPTER_FILES[0], "training writes it")
        ways: Sequence[Serving] = facts.serving_commands(run, settings)
    else:
        ways = export.ways
    values = {"base_model": base, "is_on_hub": on_hub is not None, "merged": merged, "is_export": export is not None}
    body = markdown_page("card", page=page, ways=ways, **values)
    card = ModelCard(f"---\n{front_matter.to_yaml()}\n---\n\n{body}", ignore_metadata_errors=False)
    write_text(folder / "README.md", str(card).encode("utf-8", "backslashreplace").decode("utf-8"))


def unscored_page(run: RunFiles) -> dict[str, Any]:
    """Return the values of a card for a run that was not scored."""
    empty = ("agreement_with", "change", "sample", "formats")
    lists = ("labels", "models", "headline", "tools", "failure_kinds")
    return {
        "name": run.name,
        "version": run.manifest.get("toolhone"),
        "verdict": "This model was not scored.",
        **dict.fromkeys(empty),
        **dict.fromkeys(lists, ()),
        "facts": tuple(facts.machine(run)),
        "chat": tuple(facts.chat(run)),
        "training": tuple(facts.training(run)),
        "data": tables.data_table(run.manifest),
        "commands": facts.commands(run),
    }


def hub_id(name: str | None) -> str | None:
    """Return `name` if it can be a model on the Hub ("owner/name" or "name"). None for a local folder or other name."""
    if name is None or Path(name).exists():
        return None
    # Imported here because the import is slow, and a run that only evaluates an endpoint has no adapter.
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import HFValidationError

    try:
        hf_hub_url(name, "config.json")  # sends no request; only checks the form of the name
    except HFValidationError:
        return None
    return name


def _eval_results(run: RunFiles) -> list[EvalResult]:
    """Return the last model's headline figures as shares from 0 to 1, with counts and interval. Skips empty figures."""
    from huggingface_hub import EvalResult

    *_, model = run.metrics["models"].values()
    source, policy = wording.agreement_with(run.metrics["models"]), facts.policy(run.metrics)
    split = run.scored_split
    data = (run.manifest.get("data") or {}).get(split) or {}
    results = []
    for measure in wording.HEADLINE:
        rate = model[measure.key]
        if rate["value"] is None:
            continue
        label = measure.label_for(source)
        name = label if source is None else f"{label} with {source}"
        results.append(
            EvalResult(
                task_type="text-generation",
                task_name="Function calling",
                dataset_type="toolhone",
                dataset_name=f"{run.name}{f' ({split})' if split else ''}",
                dataset_split=split,
                dataset_revision=data.get("sha256"),
                metric_type=label.lower().replace(" ", "_").replace("-", "_"),
                metric_name=name if policy == STRICT else f"{name} under the policy {policy}",
                metric_value=rate["value"],
                metric_args={key: rate[key] for key in ("numerator", "denominator", "low", "high") if key in rate},
            )
        )
    return results
