"""The run folder `runs/<name>/`: the paths of its files, the manifest that records how they were made, and its lock.

A run is one experiment of one config. The manifest records each finished stage with a fingerprint of its
inputs; a later command with the same fingerprint reuses the stage.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from toolhone import __version__
from toolhone.config import Config, config_fields, config_yaml
from toolhone.config_file import load_config
from toolhone.errors import UserError
from toolhone.jsonl import read_json, read_jsonl, write_json, write_text

if TYPE_CHECKING:
    from rich.console import Console

RUNS = Path("runs")

_TRAINING_SECTIONS = ("seed", "model", "data", "chat", "lora", "train")
"""The config sections that training depends on. A change of `evaluate` needs only new predictions."""
_FREE_KEYS = {
    "train.attention",
    "train.log_every",
    "train.keep_checkpoints",
    "train.report_to",
    "data.test",
    "data.test_rows",
}
"""Keys in these sections that change no trained weight. A run can continue if their values change."""

_ABSENT = object()
_VERSIONED = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "tokenizers")


ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""The files of an adapter, as PEFT names them: its config and its weights."""


def fingerprint(*parts: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of the parts as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex digits."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def model_files(folder: Path) -> list[Path]:
    """Return the files of predictions or scores in a folder, one for each model, the base model's first."""
    return sorted(folder.glob("*.jsonl"), key=lambda path: (path.stem != "base", path.stem))


@dataclass
class RunFolder:
    """The paths of a run, and its manifest on disk."""

    path: Path

    def __post_init__(self) -> None:
        self.config = self.path / "config.yaml"
        self.manifest = self.path / "manifest.json"
        self.adapter = self.path / "adapter"
        self.checkpoints = self.path / "checkpoints"
        self.train_log = self.path / "train_log.jsonl"
        self.metrics = self.path / "metrics.json"
        self.report = self.path / "report.html"
        self.lock_file = self.path / ".lock"

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
            raise UserError(f"{error}; start again with --fresh (FRESH=1)") from None
        return manifest

    def inputs(self) -> dict[str, dict[str, Any]] | None:
        """Return the fingerprints of the run's inputs (`run_inputs.py`); None if none are recorded."""
        found: dict[str, dict[str, Any]] | None = self.read_manifest().get("inputs")
        return found

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        write_json(self.manifest, {**self.read_manifest(), **facts})

    def mark_finished(self, stage: str, fingerprint: str, **facts: Any) -> None:
        """Record that a stage is done, the fingerprint of its inputs, and its facts."""
        stages = self.read_manifest().get("stages", {})
        stages[stage] = {"finished": _now(), "fingerprint": fingerprint, **facts}
        self.note(stages=stages)

    def stage(self, stage: str) -> dict[str, Any] | None:
        """Return the record of a finished stage (`finished`, `fingerprint` and facts); None if it is not finished."""
        stages: dict[str, Any] = self.read_manifest().get("stages", {})
        return stages.get(stage)

    def is_finished(self, stage: str, fingerprint: str) -> bool:
        """Return whether the stage was finished from exactly these inputs."""
        found = self.stage(stage)
        return found is not None and found["fingerprint"] == fingerprint

    def require_adapter(self) -> None:
        """Check that the folder has an adapter: its config and its weights.

        Raises:
            UserError: if either is missing.
        """
        missing = missing_adapter_files(self.adapter)
        if missing == [*ADAPTER_FILES]:
            raise UserError(f"{self.path}: has no adapter yet; `toolhone train` makes it")
        if missing:
            where = self.adapter / missing[0]
            raise UserError(f"{where}: is missing; restore it from a copy, or train again with --fresh (FRESH=1)")

    def refuse_edited_split(self, name: str) -> None:
        """Check that a split still has the rows that the manifest records.

        Raises:
            UserError: if the file was changed or is missing.
        """
        expected = (self.read_manifest().get("data") or {}).get(name, {}).get("sha256")
        if expected is None:  # no training has written into this folder
            return
        found = fingerprint([row for _, row in read_jsonl(self.split(name))])
        if found != expected:
            raise UserError(
                f"{self.split(name)}: its rows are not those that {self.manifest} records (found {found}, expected "
                f"{expected}); `toolhone train` with the run's config writes the file again"
            )

    @contextlib.contextmanager
    def lock(self, console: Console) -> Iterator[None]:
        """Keep other processes from writing into the folder. The operating system releases the lock if this process
        dies.

        Raises:
            UserError: if another process uses the folder (the message names it), or it cannot be written to.
        """
        is_new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = self._open_locked(console)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written to ({error.strerror})") from None
        try:
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}, since {_now()}\n".encode())
            yield
        finally:
            self.lock_file.unlink(missing_ok=True)
            os.close(handle)
            if is_new:  # rmdir fails if anything was written
                with contextlib.suppress(OSError):
                    self.path.rmdir()

    def _open_locked(self, console: Console) -> int:
        """Open the lock file and lock it; returns its descriptor."""
        while True:
            handle = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another process may have deleted the file between the two calls. Then a third one can lock a new file.
                if self.lock_file.exists() and os.fstat(handle).st_ino == self.lock_file.stat().st_ino:
                    return handle
            except BlockingIOError:
                holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
                os.close(handle)
                raise UserError(
                    f"{self.path}: is in use by {holder}; wait until it is done or stop it, or give this run another "
                    "name (--set name=...)"
                ) from None
            except OSError as error:
                if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                    console.print(f"note: {self.path} cannot be locked here; do not run a second command on it")
                    return handle
                os.close(handle)
                raise
            os.close(handle)


def missing_adapter_files(folder: Path) -> list[str]:
    """Return the files of an adapter that are missing in a folder."""
    return [name for name in ADAPTER_FILES if not (folder / name).is_file()]


def open_run(config: Config, *, fresh: bool = False) -> RunFolder:
    """Open the run folder of a config, create it if it does not exist, and write the resolved config into it.

    Raises:
        UserError: if the folder has a run of another config. The message names the keys that differ.
    """
    run = RunFolder(RUNS / config.name)
    if fresh and run.config.is_file():
        empty_run(run)
    refuse_other_config(run, config)
    write_text(run.config, config_yaml(config))
    return run


def empty_run(run: RunFolder) -> None:
    """Delete everything in a run folder except the lock. The config goes last, because it marks the run folder."""
    for path in sorted(run.path.iterdir(), key=lambda path: path == run.config):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != run.lock_file:
            path.unlink()


def existing_run(path: Path) -> tuple[RunFolder, Config]:
    """Return an existing run folder and its config.

    Raises:
        UserError: if it does not exist. The message lists the existing runs.
    """
    run = RunFolder(path)
    if not run.config.is_file():
        known = sorted(str(p.parent) for p in RUNS.glob("*/config.yaml"))
        raise UserError(f"{path}: is not a run folder; known: {', '.join(known) or 'none yet, run `make train`'}")
    return run, load_config(run.config)


def provenance(config: Config) -> dict[str, Any]:
    """Return what is needed to reproduce the run: versions, machine, seed and commit."""
    return {
        "toolhone": __version__,
        "run": config.name,
        "created": _now(),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: metadata.version(name) for name in _VERSIONED},
        "seed": config.seed,
        "git_commit": _git_commit(),
    }


def versions() -> dict[str, str]:
    """Return the versions of toolhone and of the libraries that training and answering use."""
    return {"toolhone": __version__, **{name: metadata.version(name) for name in _VERSIONED}}


def training_fingerprint(values: dict[str, Any], *inputs: Any) -> str:
    """Return the fingerprint of a training: its inputs, and the config's values that change trained weights. A config
    of an older version has fewer keys."""
    keys = [key for key in _training_keys() if key.partition(".")[0] not in ("data", "chat")]
    pairs = [[key, _lookup(values, key, _ABSENT)] for key in keys]
    return fingerprint([[key, value] for key, value in pairs if value is not _ABSENT], *inputs)


def older_training_fingerprints(run: RunFolder, *inputs: Any) -> set[str]:
    """Return the fingerprints that older versions may have recorded for the run's config and these inputs. Versions
    before 0.2 included the keys that change no weight."""
    stored = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    sections = {name: stored.get(name) for name in ("seed", "model", "lora", "train")}
    return {training_fingerprint(stored, *inputs), fingerprint(sections, *inputs)}


def refuse_other_config(run: RunFolder, config: Config) -> None:
    """Check that a folder can be used for the run of this config.

    Raises:
        UserError: if it is not a run folder, or has a run of another config. The message names the keys that differ.
    """
    if not run.config.is_file():
        inside = set(run.path.iterdir()) if run.path.is_dir() else {run.path} if run.path.exists() else set()
        if inside - {run.lock_file}:
            raise UserError(f"{run.path}: is not empty and is not a run folder; choose another name in the config")
        return
    defaults = {name: field.get_default() for name, field in config_fields() if not field.is_required()}
    old, new = yaml.safe_load(run.config.read_text(encoding="utf-8")), config.model_dump(mode="json")
    # A config of an older version lacks newer keys. Such a run used their present defaults.
    pairs = [(key, _lookup(old, key, defaults.get(key)), _lookup(new, key)) for key in _training_keys()]
    changed = [f"{key} is {now!r}, was {was!r}" for key, was, now in pairs if was != now]
    if changed:
        raise UserError(
            f"{run.path}: holds a run with another config ({'; '.join(changed[:5])}); give this one another name "
            "(--set name=...), or start again with --fresh (FRESH=1), which deletes the old run"
        )


def _training_keys() -> list[str]:
    """Return the dotted keys of a config that change trained weights."""
    return [key for key, _ in config_fields() if key.partition(".")[0] in _TRAINING_SECTIONS and key not in _FREE_KEYS]


def _lookup(values: dict[str, Any], dotted: str, default: Any = None) -> Any:
    found: Any = values
    for part in dotted.split("."):
        if not isinstance(found, dict) or part not in found:
            return default
        found = found[part]
    return found


def _git_commit() -> str | None:
    command = ("git", "describe", "--always", "--dirty", "--abbrev=12")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
