"""The recipes in configs/recipes: each one loads, fits its model's architecture, and states its memory by formula."""

from __future__ import annotations

import re

import pytest
from conftest import load_script

from toolhone.config import Config, config_fields
from toolhone.config_file import load_config, read_yaml
from toolhone.train.packing import check_packing
from toolhone.train.sizes import model_sizes

TABLE = load_script("recipe_table")
RECIPES = sorted(TABLE.RECIPES.glob("*.yaml"))
NAMES = [path.stem for path in RECIPES]
BILLIONS = {
    "qwen3-0.6b": 0.596,
    "qwen3-1.7b": 1.721,
    "qwen3-4b": 4.022,
    "llama3.2-1b": 1.236,
    "llama3.2-3b": 3.213,
    "llama3.1-8b-qlora": 8.030,
    "gemma3-270m": 0.268,
    "gemma3-1b": 1.000,
    "granite4-micro": 3.403,
    "ministral3-3b": 3.849,
    "lfm2-350m": 0.354,
    "smollm3-3b": 3.075,
}
"""Parameters as the hub counts them, with the vision tower, in billions."""


@pytest.fixture(scope="module")
def memory() -> dict[str, float]:
    return {name: TABLE.memory_gb(name) for name in NAMES}


def recipe(name: str) -> Config:
    return load_config(TABLE.RECIPES / f"{name}.yaml")


def test_there_are_twelve_recipes_each_with_a_model_of_known_sizes() -> None:
    assert len(NAMES) == 12
    assert set(NAMES) == set(TABLE.MODELS) == set(BILLIONS)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_loads_and_sets_only_documented_keys(name: str) -> None:
    config = recipe(name)
    assert config.name == name
    assert config.data.train == ("data/customer_service/train.jsonl",)
    assert config.model.revision is None
    documented = {key for key, field in config_fields() if field.description}
    values, places = read_yaml(TABLE.RECIPES / f"{name}.yaml", "name")
    leaves = {key for key in places if not any(other.startswith(f"{key}.") for other in places)}
    assert {key for key in leaves if not key.startswith("chat.template_kwargs.")} <= documented
    # What a GPU needs is written out, although most of it is the default.
    assert {"dtype", "attention"} <= values["model"].keys()
    assert {"batch_size", "learning_rate", "packing"} <= values["train"].keys()
    assert {"rank", "alpha"} <= values["lora"].keys()


@pytest.mark.parametrize("name", NAMES)
def test_the_sizes_of_a_recipes_model_give_its_known_number_of_parameters(name: str) -> None:
    architecture = TABLE.architecture(name)
    sizes = model_sizes(recipe(name), architecture)
    assert sizes.frozen / 1e9 == pytest.approx(BILLIONS[name], abs=0.001)
    text = TABLE.MODELS[name].sizes.get("text_config", TABLE.MODELS[name].sizes)
    assert (sizes.hidden, sizes.layers, sizes.vocabulary) == (
        text["hidden_size"],
        text["num_hidden_layers"],
        text["vocab_size"],
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_recipes_packing_is_the_fastest_one_that_is_right_for_its_model(name: str) -> None:
    found = check_packing(TABLE.architecture(name))
    assert recipe(name).train.packing == ("rows" if found.tree_fault else "prefix_tree")
    assert found.rows_fault is None


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_states_its_memory_by_formula(name: str, memory: dict[str, float]) -> None:
    text = (TABLE.RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    assert TABLE.memory_line(memory[name]) in text.splitlines()


def test_the_readme_has_the_table_that_the_script_prints(memory: dict[str, float]) -> None:
    text = (TABLE.RECIPES / "README.md").read_text(encoding="utf-8")
    assert TABLE.table(memory) in text
    assert sorted(re.findall(r"\]\(([^)]*)\.yaml\)", text)) == NAMES
