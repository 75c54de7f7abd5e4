"""What a run was made from: fingerprints of the content of its data, model, tokenizer, template and versions.

Training records them in the manifest when it starts. Whatever resumes the run or uses its adapter compares them, since
a path in the config may lead to other content by then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from toolhone.config import ModelConfig
from toolhone.errors import UserError
from toolhone.pretrained import load_model_config
from toolhone.run_folder import RunFolder, versions

Inputs = Mapping[str, Mapping[str, Any]]
"""Fingerprints by section and name, as the manifest holds them."""

MODEL = ("model",)
BASE = ("model", "tokenizer")
CONTENT = ("data", *BASE, "template", "processes")
"""The sections that a finished adapter depends on. Other versions give a notice there: they change no saved weight."""
EVERYTHING = (*CONTENT, "hardware", "versions")
"""The sections that the next training step depends on."""

_WHAT = {
    "data": "the {}",
    "model": "the model's {}",
    "tokenizer": "the tokenizer's {}",
    "template": "the {}",
    "processes": "the {}",
    "hardware": "the {}",
    "versions": "the version of {}",
}
_MODEL_FILES = ("config.json", "*.index.json", "**/*.py")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZER_FILES = (
    *("tokenizer*.json", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
    *("*.model", "*.tiktoken", "chat_template*", "*chat_templates/*"),
)


def model_inputs(config: ModelConfig, known: Inputs | None = None) -> dict[str, dict[str, Any]]:
    """The sections "model" and "tokenizer": the SHA-256 of every file of a local folder, or a hub model's commit.

    Section "stat" holds each file's size, times and inode. A file that has those of `known` is not read again, since
    large weights take seconds.

    Raises:
        UserError: if there is no such model.
    """
    folder = Path(config.name)
    if not folder.is_dir():
        commit = {"commit": _hub_commit(config)}
        return {"model": commit, "tokenizer": commit, "stat": {}}
    weights = next((paths for pattern in _WEIGHTS if (paths := _matching(folder, [pattern]))), [])
    files = {"model": [*_matching(folder, _MODEL_FILES), *weights], "tokenizer": _matching(folder, _TOKENIZER_FILES)}
    found: dict[str, dict[str, Any]] = {"model": {}, "tokenizer": {}, "stat": {}}
    for section, paths in files.items():
        for path in paths:
            name, status = path.relative_to(folder).as_posix(), path.stat()
            stat = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            is_known = known is not None and known["stat"].get(name) == stat and name in known[section]
            found[section][name] = known[section][name] if known is not None and is_known else _sha256(path)
            found["stat"][name] = stat
    return found


def differences(recorded: Inputs, now: Inputs, sections: Iterable[str]) -> list[str]:
    """What differs between two inputs in these sections, each with what was found and what was expected."""
    return list(_differences(recorded, now, sections))


def _differences(recorded: Inputs, now: Inputs, sections: Iterable[str]) -> Iterator[str]:
    for section in sections:
        before, after = recorded.get(section, {}), now[section]
        for name in dict.fromkeys((*before, *after)):
            if before.get(name) != after.get(name):
                found, expected = (_short(values.get(name)) for values in (after, before))
                yield f"{_WHAT[section].format(name)}: found {found}, expected {expected}"


def other_versions(recorded: Inputs) -> str:
    """A notice of the versions that something was made with, if they are not those installed; "" otherwise."""
    before, now = recorded.get("versions", {}), versions()
    changed = [f"{name} {before[name]} (now {now.get(name)})" for name in before if before[name] != now.get(name)]
    return f"made with {', '.join(changed)}" if changed else ""


def refuse_other_model(run: RunFolder, config: ModelConfig, sections: Sequence[str]) -> str:
    """Check that the base model is the one that the run was made from. Returns a notice if the run does not record it,
    as older versions did not; "" otherwise.

    Raises:
        UserError: naming what differs.
    """
    recorded = run.inputs()
    if recorded is None:
        if run.stage("train") is None:  # nothing is made from a model yet
            return ""
        return f"{run.path}: records no fingerprints, so it is not known whether {config.name} is still the same model"
    changed = differences(recorded, model_inputs(config, recorded), sections)
    if changed:
        raise UserError(
            f"model.name: {config.name} is not the model that {run.path} was made from ({listed(changed)}); restore "
            "it, or train again with --fresh (FRESH=1)"
        )
    return ""


def listed(changed: Sequence[str]) -> str:
    """The first of the differences, and how many more there are."""
    more = f"; {len(changed) - 4} more" if len(changed) > 4 else ""
    return "; ".join(changed[:4]) + more


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _hub_commit(config: ModelConfig) -> str:
    """The commit of the snapshot in the hub's cache, which names its files by a hash of their content."""
    load_model_config(config)  # puts it there
    path = try_to_load_from_cache(config.name, "config.json", revision=config.revision)
    if not isinstance(path, str):
        raise UserError(f"model.name: {config.name} is not in the hub's cache; check HF_HUB_CACHE")
    return Path(path).parent.name


def _sha256(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = str(value)
    return f"{text[:12]}..." if len(text) > 32 else text
