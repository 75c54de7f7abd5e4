"""The inputs of a run: fingerprints of its data, model, tokenizer, template and library versions.

Training records them in the manifest when it starts. Commands that resume the run or use its adapter compare them,
because the content at a path in the config may have changed by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from toolhone.config import ModelConfig
from toolhone.errors import UserError
from toolhone.pretrained import load_model_config
from toolhone.run_folder import RunFolder, sha256_of, versions

Inputs = Mapping[str, Mapping[str, Any]]
"""Fingerprints by section and name, as recorded in the manifest."""

MODEL = ("model",)
BASE = ("model", "tokenizer")
CONTENT = ("data", *BASE, "template", "processes")
"""The sections that a finished adapter depends on. Different library versions only give a notice, because they do not
change saved weights."""
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
    "config": "the config's {}",
    "answers": "the {}",
}
_MODEL_FILES = ("config.json", "*.index.json", "**/*.py")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZER_FILES = (
    *("tokenizer*.json", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
    *("*.model", "*.tiktoken", "chat_template*", "*chat_templates/*"),
)


def model_inputs(config: ModelConfig, known: Inputs | None = None) -> dict[str, dict[str, Any]]:
    """Return the sections "model" and "tokenizer": the SHA-256 of each file of a local folder, or a hub model's commit.

    Section "stat" has the size, times and inode of each file. A file whose values in `known` are the same is not read
    again, because hashing large weights takes seconds.

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
            found[section][name] = known[section][name] if known is not None and is_known else sha256_of(path)
            found["stat"][name] = stat
    return found


def differences(recorded: Inputs, now: Inputs, sections: Iterable[str]) -> list[str]:
    """Return the differences between two sets of inputs in these sections, each with the values found and expected."""
    return list(_differences(recorded, now, sections))


def _differences(recorded: Inputs, now: Inputs, sections: Iterable[str]) -> Iterator[str]:
    for section in sections:
        before, after = recorded.get(section, {}), now[section]
        for name in dict.fromkeys((*before, *after)):
            if before.get(name) != after.get(name):
                found, expected = (_short(values.get(name)) for values in (after, before))
                yield f"{_WHAT[section].format(name)}: found {found}, expected {expected}"


def other_versions(recorded: Inputs) -> str:
    """Return a notice if the recorded library versions differ from the installed ones; "" otherwise."""
    before, now = recorded.get("versions", {}), versions()
    changed = [f"{name} {before[name]} (now {now.get(name)})" for name in before if before[name] != now.get(name)]
    return f"made with {', '.join(changed)}" if changed else ""


def refuse_other_model(run: RunFolder, config: ModelConfig, sections: Sequence[str]) -> str:
    """Check that the base model is the one that the run was trained on. Return a notice if the run does not record its
    model, as in older versions of toolhone; "" otherwise.

    Raises:
        UserError: if it is another model. The message lists the differences.
    """
    recorded = run.inputs()
    if recorded is None:
        if run.stage("train") is None:  # no stage has used a model yet
            return ""
        return f"{run.path}: records no fingerprints, so it is unknown whether {config.name} is still the same model"
    changed = differences(recorded, model_inputs(config, recorded), sections)
    if changed:
        raise UserError(
            f"model.name: {config.name} is not the model that {run.path} was made from ({listed(changed)}); restore "
            "it, or train again with --fresh (FRESH=1)"
        )
    return ""


def listed(changed: Sequence[str]) -> str:
    """Return the first four differences, and the number of others."""
    more = f"; {len(changed) - 4} more" if len(changed) > 4 else ""
    return "; ".join(changed[:4]) + more


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _hub_commit(config: ModelConfig) -> str:
    """Return the commit of the snapshot in the hub cache. A commit identifies the content of its files."""
    load_model_config(config)  # downloads it into the cache
    path = try_to_load_from_cache(config.name, "config.json", revision=config.revision)
    if not isinstance(path, str):
        raise UserError(f"model.name: {config.name} is not in the hub cache; check HF_HUB_CACHE")
    return Path(path).parent.name


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = str(value)
    return f"{text[:12]}..." if len(text) > 32 else text
