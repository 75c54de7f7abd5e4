"""The script that tries all model families tells trained, refused and crashed families apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import load_script

from toolhone.errors import UserError


@pytest.fixture(scope="module")
def families() -> Any:
    return load_script("check_families")


def test_every_template_of_this_repository_and_of_trl_exists(families: Any) -> None:
    models = families.make_model.__globals__
    templates = {family.template.partition(":")[::2] for family in families.FAMILIES.values()}
    missing = [
        (source, name)
        for source, name in templates
        if source != "llama.cpp" and not (models["_TEMPLATES"][source] / f"{name}.jinja").is_file()
    ]
    assert not missing
    used = {name for source, name in templates if source == "own"}
    assert used == {path.stem for path in models["_TEMPLATES"]["own"].glob("*.jinja")}
    assert len(families.FAMILIES) >= 37


@pytest.mark.usefixtures("in_workspace")
def test_a_family_is_trained_refused_or_has_crashed(
    families: Any, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    families.write_rows(Path())
    inside = families.try_family.__globals__
    monkeypatch.setitem(inside, "make_model", lambda _: tiny_llama)
    row = families.try_family("tiny", detect_only=False)
    assert row["result"].startswith("trained; rows answered: base "), row
    assert (row["format"], row["template"]) == ("hermes", "toolhone")

    def refuse(*_: Any) -> Any:
        raise UserError("chat.format: no format fits; choose another model")

    monkeypatch.setitem(inside, "make_renderer", refuse)
    refused = families.try_family("tiny", detect_only=False)["result"]
    assert refused == "refused: chat.format: no format fits; choose another model"
    monkeypatch.setitem(inside, "make_renderer", lambda *_: None)
    assert families.try_family("tiny", detect_only=False)["result"].startswith("CRASHED: AttributeError")
    assert "Traceback" in Path("tiny.traceback").read_text(encoding="utf-8")
