"""A tiny model that has memorised three turns, for all tests of the parity gate."""

from __future__ import annotations

from pathlib import Path

import pytest
from served import learn


@pytest.fixture(scope="session")
def learned(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model."""
    folder = tmp_path_factory.mktemp("learned") / "model"
    learn(tiny_llama, folder)
    return folder
