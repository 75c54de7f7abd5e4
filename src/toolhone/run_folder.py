"""The run folder `runs/<name>/`: where each file of a run lies, and the manifest that says how it came about.

A stage that has finished is marked in the manifest together with a fingerprint of what it was made from; a later run
with the same fingerprint reuses it.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from toolhone import __version__
from toolhone.config import Config, config_fields, config_yaml
from toolhone.config_file import load_config
from toolhone.errors import UserError
from toolhone.jsonl import read_json, write_json, write_text

RUNS = Path("runs")

# What a finished training run rests on. A change of `evaluate` only makes predictions anew.
_TRAINING_SECTIONS = ("seed", "model", "data", "chat", "lora", "train")
# Keys that change no trained weight: a run may go on with other values.
_FREE_KEYS = {"train.log_every", "train.keep_checkpoints", "train.report_to", "data.test", "data.test_rows"}

_VERSIONED = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "tokenizers")


def model_files(folder: Path) -> list[Path]:
    """The files of predictions or scores in a folder, one a model, the base model's first."""
    return sorted(folder.glob("*.jsonl"), key=lambda path: (path.stem != "base", path.stem))


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of a run, and its manifest on disk."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def train_log(self) -> Path:
        return self.path / "train_log.jsonl"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def split(self, name: str) -> Path:
        return self.path / "splits" / f"{name}.jsonl"

    def predictions(self, model: str) -> Path:
        return self.path / "predictions" / f"{model}.jsonl"

    def scores(self, model: str) -> Path:
        return self.path / "scores" / f"{model}.jsonl"

    def read_manifest(self) -> dict[str, Any]:
        if not self.manifest.is_file():
            return {"stages": {}}
        try:
            manifest: dict[str, Any] = read_json(self.manifest, "it is written when a run begins")
        except UserError as error:
            raise UserError(f"{error}; start anew with --fresh (FRESH=1)") from None
        return manifest

    def note(self, **facts: Any) -> None:
        """Write facts into the manifest, beside those that are there."""
        write_json(self.manifest, {**self.read_manifest(), **facts})

    def mark_finished(self, stage: str, fingerprint: str, **facts: Any) -> None:
        """Record that a stage is done, what it was made from, and what it measured."""
        stages = self.read_manifest().get("stages", {})
        stages[stage] = {"finished": _now(), "fingerprint": fingerprint, **facts}
        self.note(stages=stages)

    def is_finished(self, stage: str, fingerprint: str) -> bool:
        """Whether the stage was finished from just this."""
        found = self.read_manifest().get("stages", {}).get(stage)
        return found is not None and found["fingerprint"] == fingerprint


def open_run(config: Config, *, fresh: bool = False) -> RunFolder:
    """The run folder of a config, made where it is not there yet, with the resolved config in it.

    Raises:
        UserError: where the folder holds a run whose training rests on other values, naming them.
    """
    run = RunFolder(RUNS / config.name)
    if fresh and run.config.is_file():
        shutil.rmtree(run.path)
    if run.config.is_file():
        _refuse_other_config(run, config)
    elif run.path.exists() and any(run.path.iterdir()):
        raise UserError(f"{run.path}: is not empty and is no run folder; choose another name in the config")
    write_text(run.config, config_yaml(config))
    return run


def existing_run(path: Path) -> tuple[RunFolder, Config]:
    """A run folder that is there already, with its config.

    Raises:
        UserError: where it is not, naming the runs that are.
    """
    run = RunFolder(path)
    if not run.config.is_file():
        known = sorted(str(p.parent) for p in RUNS.glob("*/config.yaml"))
        raise UserError(f"{path}: is no run folder; known: {', '.join(known) or 'none yet, run `make train`'}")
    return run, load_config(run.config)


def provenance(config: Config) -> dict[str, Any]:
    """What a reader needs in order to make the run again: versions, machine, seed and commit."""
    return {
        "toolhone": __version__,
        "run": config.name,
        "created": _now(),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: metadata.version(name) for name in _VERSIONED},
        "seed": config.seed,
        "git_commit": _git_commit(),
    }


def _refuse_other_config(run: RunFolder, config: Config) -> None:
    old = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    new = config.model_dump(mode="json")
    names = [name for name, _ in config_fields() if name.split(".")[0] in _TRAINING_SECTIONS and name not in _FREE_KEYS]
    changed = [name for name in names if _lookup(old, name) != _lookup(new, name)]
    if changed:
        listed = "; ".join(f"{name} is {_lookup(new, name)!r}, was {_lookup(old, name)!r}" for name in changed[:5])
        raise UserError(
            f"{run.path}: holds a run with another config ({listed}); give this one another name "
            "(--set name=...), or start anew with --fresh (FRESH=1), which deletes the old run"
        )


def _lookup(values: dict[str, Any], dotted: str) -> Any:
    found: Any = values
    for part in dotted.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _git_commit() -> str | None:
    command: Sequence[str] = ("git", "describe", "--always", "--dirty", "--abbrev=12")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
