"""Scores in files: reading them from run folders, folders of scores and single files, and comparing their models.

In: run folders, folders that `toolhone score --out` wrote, and files of scores. Out: each model's scores under a name
of its own, and the figures of all of them. Nothing is scored again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolhone import __version__
from toolhone.errors import UserError
from toolhone.evaluate.metrics import metrics
from toolhone.jsonl import read_jsonl
from toolhone.records import Score
from toolhone.run_folder import model_files

_REMEDY = "`toolhone score` makes scores of predictions"


def read_scores(path: Path, remedy: str = _REMEDY) -> list[Score]:
    """Read one file of scores.

    Args:
        remedy: how to fix a line that is no score, for the message.

    Raises:
        UserError: if the file is missing, or a line is no score.
    """
    scores = []
    for where, row in read_jsonl(path):
        try:
            scores.append(Score.from_json(row))
        except (KeyError, TypeError) as error:
            raise UserError(f"{where}: not a score ({error}); {remedy}") from None
    return scores


def read_score_files(sources: Sequence[Path]) -> dict[str, list[Score]]:
    """Read each model's scores, by its file's stem; if two stems are the same, with the folder's name before them.

    Raises:
        UserError: if a source holds no scores, is named twice, or a line is no score.
    """
    files = [file for source in sources for file in _files_of(source)]
    counts = Counter(file.resolve() for file in files)
    twice = [file for file in files if counts[file.resolve()] > 1]
    if twice:
        raise UserError(f"{twice[0]}: is named twice; name each run or file once")
    return {name: read_scores(file) for name, file in zip(_names(files), files, strict=True)}


def compare_files(sources: Sequence[Path]) -> dict[str, Any]:
    """Return the figures of all models in the sources and of each pair of them, in the shape of metrics.json.

    Raises:
        UserError: if the models were not scored on the same rows with the same gold.
    """
    return metrics(read_score_files(sources), {"toolhone": __version__, "sources": list(map(str, sources))})


def _files_of(source: Path) -> list[Path]:
    """A file itself; of a folder its scores, the base model's first."""
    if not source.is_dir():
        return [source]
    inside = source / "scores" if (source / "scores").is_dir() else source
    files = model_files(inside)
    if not files:
        raise UserError(f"{source}: holds no scores (looked for {inside}/*.jsonl); {_REMEDY}")
    return files


def _names(files: Sequence[Path]) -> list[str]:
    def owner(file: Path) -> str:
        folder = file.resolve().parent
        return folder.parent.name if folder.name == "scores" else folder.name

    stems = [file.stem for file in files]
    owned = [f"{owner(file)}/{file.stem}" for file in files]
    return next((names for names in (stems, owned) if len(set(names)) == len(files)), [str(file) for file in files])
