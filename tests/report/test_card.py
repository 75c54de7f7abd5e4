"""The adapter's model card, read back with huggingface_hub's own classes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, metadata_load

from toolhone.report.exports import hub_id
from toolhone.report.report import write_report

WRONG = '<tool_call>\n{"name": "query_order", "arguments": {"order_id": "ORD-010"}}\n</tool_call>'
ANSWERS = {"base": ["我不知道", "我不知道", "right"], "tuned": ["right", WRONG, "right"]}
HEADLINE = ("exact_match", "tool_name_accuracy", "argument_accuracy")
HOSTILE = 'a: b\n---\n# "x" | <script>'

ScoredRun = Callable[..., Path]


def _card(run: Path) -> ModelCard:
    write_report(run)
    return ModelCard.load(run / "adapter" / "README.md")


def test_the_model_index_has_the_last_model_s_headline_figures(tmp_path: Path, scored_run: ScoredRun) -> None:
    run = scored_run(tmp_path / "cpu", ANSWERS, adapter=True, model={"name": "HuggingFaceTB/SmolLM2-135M-Instruct"})
    data = _card(run).data
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["models"]["tuned"]
    assert data.eval_results is not None
    for key, result in zip(HEADLINE, data.eval_results, strict=True):
        assert (result.metric_type, result.metric_value) == (key, found[key]["value"])
        assert result.metric_args == {name: found[key][name] for name in ("numerator", "denominator", "low", "high")}
        assert result.dataset_split == "test"
    assert (data.model_name, data.library_name, data.language) == ("cpu", "peft", ["zh"])
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_hub_can_read_the_front_matter_as_a_model_index(tmp_path: Path, scored_run: ScoredRun) -> None:
    _card(scored_run(tmp_path / "cpu", ANSWERS, adapter=True))
    [entry] = metadata_load(tmp_path / "cpu" / "adapter" / "README.md")["model-index"]
    assert entry["name"] == "cpu"
    [result] = entry["results"]
    assert result["task"]["type"] == "text-generation"
    assert {"name", "type"} <= set(result["dataset"])
    assert all({"type", "value", "name"} <= set(metric) for metric in result["metrics"])


def test_the_card_names_a_policy_other_than_strict(tmp_path: Path, scored_run: ScoredRun) -> None:
    run = scored_run(tmp_path / "cpu", ANSWERS, adapter=True)
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    (run / "metrics.json").write_text(json.dumps({**found, "provenance": {"policy": "bfcl"}}), encoding="utf-8")
    results = _card(run).data.eval_results
    assert results is not None
    assert results[0].metric_name == "Exact match under the policy bfcl"


@pytest.mark.parametrize("name", [".cache/models/SmolLM2", "/models/x", "a/b/c", "src", HOSTILE, None])
def test_a_base_model_without_a_valid_hub_name_is_left_out_of_the_front_matter(
    tmp_path: Path, scored_run: ScoredRun, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub_id(name) is None
    model = {} if name is None else {"model": {"name": name}}
    card = _card(scored_run(tmp_path / "run", ANSWERS, adapter=True, **model))
    assert card.data.base_model is None
    assert card.data.model_name == "run"
    code = re.search(r"AutoModelForCausalLM\.from_pretrained\((\".*?[^\\]\")\)", card.content)
    assert code is not None
    assert json.loads(code[1]) == (name or "path/to/the/base/model")


def test_a_figure_without_a_value_is_left_out(tmp_path: Path, scored_run: ScoredRun) -> None:
    data = _card(scored_run(tmp_path, {"tuned": ["不客气"]}, last_is_chat=True, adapter=True)).data
    assert data.eval_results is not None
    assert [result.metric_type for result in data.eval_results] == ["exact_match", "tool_name_accuracy"]


def test_figures_on_gold_from_another_model_are_called_agreement_on_the_card(
    tmp_path: Path, scored_run: ScoredRun
) -> None:
    card = _card(scored_run(tmp_path, ANSWERS, gold_source="gpt-4o", adapter=True))
    assert card.data.eval_results is not None
    assert [result.metric_name for result in card.data.eval_results] == [
        "Exact agreement with gpt-4o",
        "Tool-name agreement with gpt-4o",
        "Argument agreement with gpt-4o",
    ]
    assert "accuracy" not in card.content.lower()


def test_every_row_of_a_card_table_has_the_same_number_of_cells(tmp_path: Path, scored_run: ScoredRun) -> None:
    card = _card(scored_run(tmp_path, ANSWERS, adapter=True, data={"test": {"rows": 3, "sha256": "9f" * 32}}))
    tables = re.findall(r"(?:^\|.*\n)+", card.text, flags=re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        rows = [re.split(r"(?<!\\)\|", line) for line in table.splitlines()]
        assert len({len(row) for row in rows}) == 1
        assert all(re.fullmatch(r" -{3}:? ", cell) for cell in rows[1][1:-1])


def test_the_card_says_how_engines_serve_the_adapter(tmp_path: Path, scored_run: ScoredRun) -> None:
    traits = {"end_of_answer": "<|im_end|>", "end_of_calls": "<|im_end|>"}
    chat = {"format": "hermes", "template": "both", "parts": ["tools", "calls"], "traits": traits}
    text = _card(scored_run(tmp_path / "run", ANSWERS, adapter=True, model={"name": "Qwen/Qwen3-0.6B"}, chat=chat)).text
    lora = "--enable-lora --max-lora-rank 16 --lora-modules tuned=path/to/this/folder"
    assert f"vllm serve Qwen/Qwen3-0.6B {lora}" in text
    assert "`toolhone export` writes them" in text
    assert "--tool-call-parser hermes" in text
    assert "- Chat format: hermes" in text
    assert "the model's own turns; toolhone writes the tools and calls" in text
    assert "- A turn ends with: <|im_end|>" in text.replace("\\", "")


def test_the_card_names_engines_that_cannot_read_the_format(tmp_path: Path, scored_run: ScoredRun) -> None:
    chat = {"format": "json", "template": "toolhone"}
    run = scored_run(tmp_path / "run", ANSWERS, adapter=True, model={"name": "m"}, chat=chat)
    assert "vLLM: has no parser for this chat format, so calls stay in the text" in _card(run).text


def test_the_card_of_an_adapter_that_engines_refuse_says_to_merge_it(tmp_path: Path, scored_run: ScoredRun) -> None:
    chat = {"format": "hermes", "template": "toolhone"}
    run = scored_run(tmp_path / "run", ANSWERS, adapter=True, model={"name": "m"}, chat=chat)
    (run / "adapter" / "adapter_config.json").write_text('{"use_dora": true}', encoding="utf-8")
    text = _card(run).text
    assert "- vLLM cannot load DoRA adapters. Merge the weights: `toolhone export RUN --merge bf16`" in text
    assert "vllm serve" not in text


def test_a_run_without_an_adapter_gets_no_card(tmp_path: Path, scored_run: ScoredRun) -> None:
    write_report(scored_run(tmp_path, ANSWERS))
    assert not (tmp_path / "adapter").exists()
