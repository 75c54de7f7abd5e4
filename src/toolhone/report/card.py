"""The model card of an adapter: what it is, what it was tuned from, and how it did, for whoever finds it on its own.

In: a run folder, read, and its report's page. Out: `adapter/README.md`, whose front matter huggingface_hub reads as a
model card with a `model-index`. What a run does not say (a licence, say) is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_url
from huggingface_hub.errors import HFValidationError

from toolhone.evaluate.values import STRICT
from toolhone.jsonl import write_text
from toolhone.report import facts, wording
from toolhone.report.pages import markdown_page
from toolhone.report.run_files import RunFiles


def write_card(run: RunFiles, page: Mapping[str, Any], adapter: Path) -> None:
    """Write the card beside the weights. `page` has the values of the run's report."""
    on_hub = hub_id(run.base_model)
    *_, model = run.metrics["models"].values()
    languages = [
        code for code in model["by"].get("language", {}) if len(code) in (2, 3) and code.isascii() and code.islower()
    ]  # those that are codes of ISO 639
    front_matter = ModelCardData(
        base_model=on_hub,
        eval_results=_eval_results(run) or None,
        language=languages or None,
        library_name="peft",
        model_name=run.name,
        pipeline_tag="text-generation",
        tags=["function-calling", "tool-use", "lora", "toolhone"],
    )
    body = markdown_page("card", page=page, base_model=run.base_model, is_on_hub=on_hub is not None)
    card = ModelCard(f"---\n{front_matter.to_yaml()}\n---\n\n{body}", ignore_metadata_errors=False)
    write_text(adapter / "README.md", str(card).encode("utf-8", "backslashreplace").decode("utf-8"))


def hub_id(name: str | None) -> str | None:
    """The name, if it is one of a model on the hub ("owner/name" or "name") and not of a folder here."""
    if name is None or Path(name).exists():
        return None
    try:
        hf_hub_url(name, "config.json")  # asks nobody: it only refuses what can be no name there
    except HFValidationError:
        return None
    return name


def _eval_results(run: RunFiles) -> list[EvalResult]:
    """The last model's headline figures, as shares from 0 to 1 with counts and interval; without those of no value."""
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
