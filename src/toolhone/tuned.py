"""One tuned model as one object: its adapter, and the tokenizer, template and format that were saved with the run.

Whoever asks a run's model (`ask`, `serve`, `eval`, `predict`, suites, the pipeline) loads it here, so every prompt is
written as in training, whatever toolhone's templates say today.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from toolhone.chat.probe import make_renderer
from toolhone.chat.render import ChatRenderer
from toolhone.config import Config
from toolhone.errors import UserError
from toolhone.formats import FORMATS
from toolhone.pretrained import load_tokenizer
from toolhone.run_folder import RunFolder, existing_run
from toolhone.train.hardware import Hardware, choose_hardware
from toolhone.train.model import load_for_inference


@dataclass(frozen=True)
class TunedModel:
    """A run's model, ready to answer. The weights are loaded when `model` is first used.

    Attributes:
        run: the run folder that it was loaded from.
        renderer: tokenizer, template and format as they were saved with the run.
        adapter: the folder of the adapter; None for the base model before tuning.
    """

    run: RunFolder
    config: Config
    hardware: Hardware
    renderer: ChatRenderer
    adapter: Path | None

    @classmethod
    def load(cls, folder: Path) -> TunedModel:
        """A finished run's tuned model.

        Raises:
            UserError: if there is no such run, it has no adapter yet, or its saved template is missing or altered.
        """
        run, config = existing_run(folder)
        run.require_adapter()
        return cls(run, config, _hardware(config), saved_renderer(run, config), run.adapter)

    @classmethod
    def base(cls, folder: Path) -> TunedModel:
        """The base model of a run before tuning, asked as evaluation asks it. The run needs no adapter.

        Raises:
            UserError: if there is no such run, or the model cannot be loaded.
        """
        run, config = existing_run(folder)
        renderer = make_renderer(load_tokenizer(config.model), config.chat, config.model.name, untuned=True)
        return cls(run, config, _hardware(config), renderer, None)

    @property
    def label(self) -> str:
        """What predictions and reports call it: "tuned" or "base"."""
        return "base" if self.adapter is None else "tuned"

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
