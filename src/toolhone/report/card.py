"""The model card of an adapter: what it is, what it was tuned from, and how it did, for whoever finds it on its own.

In: a run folder, read, and its report's page. Out: `adapter/README.md`, whose front matter huggingface_hub reads as a
model card with a `model-index`. What a run does not say (a licence, say) is left out, never guessed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_url
from huggingface_hub.errors import HFValidationError
from jinja2 import Environment

from toolhone.evaluate.policy import STRICT
from toolhone.jsonl import write_text
from toolhone.report import leniency, wording
from toolhone.report.page import Page
from toolhone.report.run_files import RunFiles


def write_card(run: RunFiles, page: Page, adapter: Path, environment: Environment) -> None:
    """Write the card beside the weights."""
    body = environment.get_template("card.md.jinja").render(
        page=page, base_model=_base_model(run), is_on_hub=hub_id(_base_model(run)) is not None
    )
    card = ModelCard(f"---\n{card_data(run).to_yaml()}\n---\n\n{body}", ignore_metadata_errors=False)
    write_text(adapter / "README.md", str(card).encode("utf-8", "backslashreplace").decode("utf-8"))


def card_data(run: RunFiles) -> ModelCardData:
    """The front matter. `base_model` stands there only where it names a model on the hub, as a path is none."""
    return ModelCardData(
        base_model=hub_id(_base_model(run)),
        eval_results=eval_results(run) or None,
        language=_languages(run.metrics["models"]) or None,
        library_name="peft",
        model_name=run.name,
        pipeline_tag="text-generation",
        tags=["function-calling", "tool-use", "lora", "toolhone"],
    )


def eval_results(run: RunFiles) -> list[EvalResult]:
    """The last model's headline figures, each as a share from 0 to 1 with its counts and interval; a figure without a
    value is left out."""
    *_, model = run.metrics["models"].values()
    agreement_with = wording.agreement_with(run.metrics["models"])
    policy = leniency.policy(run.metrics)
    split = run.judged
    data = ((run.manifest or {}).get("data") or {}).get(split) or {}
    found = []
    for measure in wording.HEADLINE:
        rate = model[measure.key]
        if rate["value"] is None:
            continue
        label = measure.label_for(agreement_with)
        name = label if agreement_with is None else f"{label} with {agreement_with}"
        found.append(
            EvalResult(
                task_type="text-generation",
                task_name="Function calling",
                dataset_type="toolhone",
                dataset_name=f"{run.name}{f' ({split})' if split else ''}",
                dataset_split=split,
                dataset_revision=data.get("sha256"),
                metric_type=label.lower().replace(" ", "_").replace("-", "_"),
                metric_name=name if policy == STRICT.name else f"{name} under the policy {policy}",
                metric_value=rate["value"],
                metric_args={key: rate[key] for key in ("numerator", "denominator", "low", "high")},
            )
        )
    return found


def hub_id(name: str | None) -> str | None:
    """The name, where it is one of a model on the hub ("owner/name" or "name") and not of a folder here."""
    if name is None or Path(name).exists():
        return None
    try:
        hf_hub_url(name, "config.json")  # asks nobody: it only refuses what can be no name there
    except HFValidationError:
        return None
    return name


def _base_model(run: RunFiles) -> str | None:
    model = (run.manifest or {}).get("model")
    return str(model["name"]) if isinstance(model, dict) and "name" in model else None


def _languages(models: dict[str, dict[str, Any]]) -> list[str]:
    """The languages of the judged rows that are codes of ISO 639."""
    *_, model = models.values()
    return [
        code for code in model["by"].get("language", {}) if len(code) in (2, 3) and code.isascii() and code.islower()
    ]
