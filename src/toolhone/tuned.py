"""A tuned model as one object: its adapter, and the tokenizer, template and format that were saved with the run.

All code that prompts a run's model (`ask`, `serve`, `eval`, `predict`, suites, the pipeline) loads it here. So every
prompt is the same as in training, even if toolhone's own templates have changed since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from toolhone.chat.probe import EVERY_NEED, make_base_renderer
from toolhone.chat.render import ChatRenderer
from toolhone.chat.template import TemplateTraits
from toolhone.config import Config, EvaluateConfig
from toolhone.errors import UserError
from toolhone.formats import FORMATS
from toolhone.pretrained import load_tokenizer
from toolhone.records import Example
from toolhone.run_folder import ADAPTER_FILES, RunFolder, existing_run, fingerprint, sha256_of, versions
from toolhone.run_inputs import BASE, MODEL, Inputs, refuse_other_model
from toolhone.train.fused_lora import fuse_lora, fuses_lora
from toolhone.train.hardware import Hardware, choose_hardware
from toolhone.train.model import load_for_inference


@dataclass(frozen=True)
class TunedModel:
    """A run's model, ready to answer. Its weights are loaded on the first use of `model`.

    Attributes:
        run: the run folder that it was loaded from.
        renderer: the tokenizer, template and format that were saved with the run.
        adapter: the folder of the adapter; None for the base model.
        notes: notices for the user, in addition to those of the hardware.
    """

    run: RunFolder
    config: Config
    hardware: Hardware
    renderer: ChatRenderer
    adapter: Path | None
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> TunedModel:
        """Load the tuned model of a finished run.

        Raises:
            UserError: if there is no such run, it has no adapter yet, its saved template is missing or changed, or the
                base model is not the one that it was trained on.
        """
        run, config = existing_run(folder)
        run.require_adapter()
        note = refuse_other_model(run, config.model, MODEL)
        renderer = saved_renderer(run, config)
        return cls(run, config, _hardware(config), renderer, run.adapter, (note,) if note else ())

    @classmethod
    def base(cls, folder: Path) -> TunedModel:
        """Load the base model of a run, with the prompts that evaluation uses. The run needs no adapter.

        Raises:
            UserError: if there is no such run, or its model cannot be loaded or has changed.
        """
        run, config = existing_run(folder)
        note = refuse_other_model(run, config.model, BASE)
        needs = (run.read_manifest().get("chat") or {}).get("needs", EVERY_NEED)
        renderer = make_base_renderer(
            load_tokenizer(config.model), config.chat, config.model.name, config.evaluate.base_format, needs=needs
        )
        return cls(run, config, _hardware(config), renderer, None, (note,) if note else ())

    @property
    def label(self) -> str:
        """Its name in predictions and reports: "tuned" or "base"."""
        return "base" if self.adapter is None else "tuned"

    def answers_fingerprint(self, examples: Sequence[Example], config: EvaluateConfig) -> str:
        """Return a fingerprint of everything that the answers depend on, except library versions."""
        inputs = self.run.inputs()
        if self.adapter is not None:
            weights = (self.run.stage("train") or {}).get("fingerprint", self.label)
        else:
            weights = self.label if inputs is None else fingerprint([inputs[section] for section in BASE])
        # Older fingerprints do not include trust_remote_code. The code itself is among the model's files.
        model = self.config.model.model_dump(mode="json", exclude={"trust_remote_code"})
        # The sample of rows is in `examples`; the tuned model's answers do not depend on it.
        # `evaluate/stage.py` adds the engine that answers.
        sections = {"model": model, "evaluate": config.model_dump(mode="json", exclude={"base_rows", "engine"})}
        asked = [example.asked() for example in examples]
        return fingerprint(weights, sections, asked, self.renderer.template_hash(), self.hardware.dtype_name)

    def answers_inputs(self, examples: Sequence[Example], config: EvaluateConfig) -> Inputs:
        """Return what must be the same on every machine that answers a share of the examples."""
        named = {
            "rows to answer": fingerprint([example.asked() for example in examples]),
            "chat template": self.renderer.template_hash(),
            "number type": self.hardware.dtype_name,
            "evaluation's settings and model": self.answers_fingerprint(examples, config),
        }
        if self.adapter is not None:
            named |= {f"adapter's {name}": sha256_of(self.adapter / name) for name in ADAPTER_FILES}
        return {"answers": named, "versions": versions()}

    @cached_property
    def model(self) -> Any:
        """The model with its adapter, on its device; loaded on first use."""
        return self.load_weights()

    def load_weights(self) -> Any:
        """Load the model with its adapter onto its device. Only the caller keeps a reference, so it can free the
        memory.

        The adapter is computed as in training: in the model's type, and not merged. Merged weights would be rounded to
        that type again, which loses every change smaller than half of a weight's last digit.
        """
        model = load_for_inference(self.config.model, self.hardware, self.adapter)
        if self.adapter is not None and fuses_lora(self.config, self.hardware):
            fuse_lora(model)
            for name, weight in model.named_parameters():
                if "lora_" in name:
                    weight.data = weight.data.to(self.hardware.dtype)
        return model


def _hardware(config: Config) -> Hardware:
    return choose_hardware(config.model, cudnn_attention=config.cuda.cudnn_attention)


def saved_renderer(run: RunFolder, config: Config) -> ChatRenderer:
    """Load the tokenizer, template and format that a run's adapter was trained with.

    Raises:
        UserError: if the template beside the adapter is missing, or is not the one in the manifest.
    """
    chat = run.read_manifest().get("chat")
    if chat is None:
        raise UserError(f"{run.manifest}: records no chat template, so the adapter cannot be prompted; train again")
    if chat["format"] not in FORMATS:
        raise UserError(f"{run.manifest}: chat.format: unknown format {chat['format']!r}; known: {', '.join(FORMATS)}")
    tokenizer = load_tokenizer(config.model, run.adapter)
    how = "restore chat_template.jinja from a copy of the run, or train again with --fresh"
    if not isinstance(tokenizer.chat_template, str):
        raise UserError(f"{run.adapter}: the chat template that the adapter was trained with is missing; {how}")
    chat_format = FORMATS[chat["format"]]
    # Older versions did not record the variables: use those of the format and the config.
    template_kwargs = chat.get("template_kwargs", {**chat_format.template_kwargs, **config.chat.template_kwargs})
    # Older versions used only templates that end turns as their format does.
    traits = TemplateTraits(**chat["traits"]) if chat.get("traits") else None
    template, parts, thinking = tokenizer.chat_template, tuple(chat.get("parts", ())), config.chat.thinking
    found = ChatRenderer(
        tokenizer, chat_format, template, chat["template"], "", template_kwargs, thinking, traits, parts
    )
    if found.template_hash() != chat["template_hash"]:
        raise UserError(
            f"{run.adapter}: its chat template is not the one that the adapter was trained with (expected hash "
            f"{chat['template_hash']}, found {found.template_hash()}); {how}"
        )
    return found
