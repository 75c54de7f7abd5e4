"""One tuned model as one object: its adapter, and the tokenizer, template and format that were saved with the run.

Whoever asks a run's model (`ask`, `serve`, `eval`, `predict`, suites, the pipeline) loads it here, so every prompt is
written as in training, whatever toolhone's templates say today.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from toolhone.chat.probe import make_renderer
from toolhone.chat.render import ChatRenderer
from toolhone.config import Config, EvaluateConfig
from toolhone.errors import UserError
from toolhone.formats import FORMATS
from toolhone.pretrained import load_tokenizer
from toolhone.records import Example
from toolhone.run_folder import RunFolder, existing_run, fingerprint
from toolhone.run_inputs import BASE, MODEL, refuse_other_model
from toolhone.train.hardware import Hardware, choose_hardware
from toolhone.train.model import load_for_inference


@dataclass(frozen=True)
class TunedModel:
    """A run's model, ready to answer. The weights are loaded when `model` is first used.

    Attributes:
        run: the run folder that it was loaded from.
        renderer: tokenizer, template and format as they were saved with the run.
        adapter: the folder of the adapter; None for the base model before tuning.
        notes: sentences for the user, beside those of the hardware.
    """

    run: RunFolder
    config: Config
    hardware: Hardware
    renderer: ChatRenderer
    adapter: Path | None
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> TunedModel:
        """A finished run's tuned model.

        Raises:
            UserError: if there is no such run, it has no adapter yet, its saved template is missing or altered, or the
                base model is not the one that it was trained on.
        """
        run, config = existing_run(folder)
        run.require_adapter()
        note = refuse_other_model(run, config.model, MODEL)
        renderer = saved_renderer(run, config)
        return cls(run, config, _hardware(config), renderer, run.adapter, (note,) if note else ())

    @classmethod
    def base(cls, folder: Path) -> TunedModel:
        """The base model of a run before tuning, asked as evaluation asks it. The run needs no adapter.

        Raises:
            UserError: if there is no such run, or the model cannot be loaded or is not the one that the run is made
                from.
        """
        run, config = existing_run(folder)
        note = refuse_other_model(run, config.model, BASE)
        renderer = make_renderer(load_tokenizer(config.model), config.chat, config.model.name, untuned=True)
        return cls(run, config, _hardware(config), renderer, None, (note,) if note else ())

    @property
    def label(self) -> str:
        """What predictions and reports call it: "tuned" or "base"."""
        return "base" if self.adapter is None else "tuned"

    def answers_fingerprint(self, examples: Sequence[Example], config: EvaluateConfig) -> str:
        """Identify the answers to examples by all that they depend on, except the versions of libraries."""
        inputs = self.run.inputs()
        if self.adapter is not None:
            weights = (self.run.stage("train") or {}).get("fingerprint", self.label)
        else:
            weights = self.label if inputs is None else fingerprint([inputs[section] for section in BASE])
        # Whether the model's own code may run is a newer key, and that code is part of the model's files.
        model = self.config.model.model_dump(mode="json", exclude={"trust_remote_code"})
        # The sample of rows is in `examples`; the tuned model's answers do not depend on it.
        sections = {"model": model, "evaluate": config.model_dump(mode="json", exclude={"base_rows"})}
        asked = [example.asked() for example in examples]
        return fingerprint(weights, sections, asked, self.renderer.template_hash(), self.hardware.dtype_name)

    @cached_property
    def model(self) -> Any:
        """The model with its adapter, on its device; loaded once and kept."""
        return self.load_weights()

    def load_weights(self) -> Any:
        """The model with its adapter, on its device, which the caller alone holds."""
        return load_for_inference(self.config.model, self.hardware, self.adapter)


def _hardware(config: Config) -> Hardware:
    return choose_hardware(config.model, cudnn_attention=config.cuda.cudnn_attention)


def saved_renderer(run: RunFolder, config: Config) -> ChatRenderer:
    """The tokenizer, template and format that a run's adapter was trained with.

    Raises:
        UserError: if the template beside the adapter is missing, or is not the one that the manifest names.
    """
    chat = run.read_manifest().get("chat")
    if chat is None:
        raise UserError(f"{run.manifest}: names no chat template, so the adapter cannot be prompted; train again")
    if chat["format"] not in FORMATS:
        raise UserError(f"{run.manifest}: chat.format: there is no format {chat['format']!r} here")
    tokenizer = load_tokenizer(config.model, run.adapter)
    how = "restore chat_template.jinja from a copy of the run, or train again with --fresh"
    if not isinstance(tokenizer.chat_template, str):
        raise UserError(f"{run.adapter}: the chat template that the adapter was trained with is missing; {how}")
    chat_format = FORMATS[chat["format"]]
    # Runs of older versions do not record the variables; they are the format's and the config's.
    template_kwargs = chat.get("template_kwargs", {**chat_format.template_kwargs, **config.chat.template_kwargs})
    found = ChatRenderer(tokenizer, chat_format, tokenizer.chat_template, chat["template"], "", template_kwargs)
    if found.template_hash() != chat["template_hash"]:
        raise UserError(
            f"{run.adapter}: its chat template is not the one that the adapter was trained with (expected hash "
            f"{chat['template_hash']}, found {found.template_hash()}); {how}"
        )
    return found
