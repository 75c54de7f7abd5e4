"""The BFCL suite: which entries are used, how figures come from scores, and a run from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from toolhone.chat.probe import make_renderer
from toolhone.cli import main
from toolhone.config_file import load_config
from toolhone.errors import UserError
from toolhone.evaluate.bfcl_suite import CATEGORIES, by_category, parse_categories, read_suite, score_suite
from toolhone.evaluate.match import score
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.jsonl import read_jsonl, write_jsonl
from toolhone.pipeline import save_chat
from toolhone.pretrained import load_tokenizer
from toolhone.records import Conversation, Example, Prediction
from toolhone.report.tables import suite_table
from toolhone.run_folder import RunFolder, open_run

BFCL = Path(__file__).parents[1] / "fixtures" / "formats" / "bfcl"
"""Verbatim entries, one to four of each category."""


def gold_text(example: Example) -> str:
    calls = [RawCall(call.name, json.dumps(call.arguments)) for call in example.turn.tool_calls]
    return FORMATS["hermes"].write(example.turn.content, calls, "stop")


def answered(example: Example, text: str) -> Prediction:
    return Prediction(example.id, "m", text, "stop", 10, 5, 1.0)


def test_every_default_category_is_read_with_its_gold() -> None:
    suite = read_suite(BFCL, CATEGORIES)
    assert len(suite.examples) == 13
    assert {example.meta["category"] for example in suite.examples} == set(CATEGORIES)
    golds = {example.meta["category"]: example.gold.status for example in suite.examples}
    assert {name for name, status in golds.items() if status == "none"} == {"irrelevance", "live_irrelevance"}


def test_the_seed_draws_a_sample_from_each_category() -> None:
    whole = read_suite(BFCL, ["simple_python", "live_simple"])
    drawn = {seed: [e.id for e in read_suite(BFCL, whole.categories, 1, seed).examples] for seed in range(8)}
    for ids in drawn.values():
        assert [id_.rsplit("_", 1)[0].startswith("live") for id_ in ids] == [False, True]
    assert drawn[3] == [e.id for e in read_suite(BFCL, whole.categories, 1, 3).examples]
    assert len({tuple(ids) for ids in drawn.values()}) > 1
    assert len(read_suite(BFCL, whole.categories, 99).examples) == len(whole.examples)


def test_an_entry_that_no_call_satisfies_is_reported_and_not_scored() -> None:
    suite = read_suite(BFCL, ["live_simple"])
    [(where, why)] = suite.unreadable.items()
    assert where.endswith("BFCL_v4_live_simple.json:2")
    assert why.startswith("live_simple_106-63-0: ")
    assert len(suite.examples) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("simple_pyton", '"simple_pyton" is not a single-turn category; known: simple_python'),
        (" , ", "expected at least one category"),
    ],
)
def test_an_unknown_category_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_categories(text)


def test_categories_are_separated_by_commas() -> None:
    assert parse_categories("parallel, irrelevance") == ("parallel", "irrelevance")
    assert parse_categories(None) == CATEGORIES


def test_figures_count_each_entry_once_in_its_category_and_its_group() -> None:
    suite = read_suite(BFCL, CATEGORIES)
    wrong = {"parallel", "live_simple", "irrelevance"}
    call = '<tool_call>\n{"name": "x", "arguments": {}}\n</tool_call>'
    scores = [
        score(e, answered(e, call if e.meta["category"] in wrong else gold_text(e)), "hermes") for e in suite.examples
    ]
    found = by_category(scores, suite.categories)
    counts = {name: (rate["numerator"], rate["denominator"]) for name, rate in found["categories"].items()}
    assert counts["simple_python"] == (4, 4)
    assert counts["parallel"] == (0, 1)
    assert counts["live_simple"] == (0, 1)
    assert counts["irrelevance"] == (0, 1)
    assert counts["live_irrelevance"] == (1, 1)
    groups = {name: (rate["numerator"], rate["denominator"]) for name, rate in found["groups"].items()}
    assert groups == {"non-live calls": (6, 7), "live calls": (3, 4), "no call": (1, 2), "all": (10, 13)}
    assert 0 < found["groups"]["all"]["low"] < 10 / 13 < found["groups"]["all"]["high"] < 1


def test_models_that_answered_the_same_entries_share_one_table(tmp_path: Path) -> None:
    suite = read_suite(BFCL, CATEGORIES)
    for label, text in (("good", gold_text), ("silent", lambda _: "Sorry.")):
        path = tmp_path / "suite" / "bfcl" / "predictions" / f"{label}.jsonl"
        write_jsonl(path, (answered(e, text(e)).to_json() for e in suite.examples))
        metrics = score_suite(tmp_path, suite, [label], "hermes")
    assert list(metrics["models"]) == ["good", "silent"]
    figures = {
        name: {policy: figures["groups"]["all"]["numerator"] for policy, figures in model.items()}
        for name, model in metrics["models"].items()
    }
    assert figures == {"good": {"strict": 12, "bfcl": 13}, "silent": {"strict": 2, "bfcl": 2}}
    assert {name: list(ids) for name, ids in metrics["quarantined"].items()} == {
        "strict": ["parallel_multiple_21/1"],
        "bfcl": [],
    }
    assert json.loads((tmp_path / "suite" / "bfcl" / "metrics.json").read_text(encoding="utf-8")) == metrics
    console = Console(width=200, record=True)
    console.print(suite_table(metrics))
    shown = console.export_text()
    assert "100.0% [75.8, 100.0] 12/12" in shown
    assert all(name in shown for name in CATEGORIES)
    other = score_suite(tmp_path, read_suite(BFCL, ["multiple"]), ["good"], "hermes")
    assert list(other["models"]) == ["good"], "earlier figures are of other entries and are dropped"


# From the command line, with a tiny model


@pytest.fixture
def run(in_workspace: Path, tiny_llama: Path) -> RunFolder:
    """A run folder whose adapter is random, so that base and tuned answer differently."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    Path("try.yaml").write_text(
        f"name: try\nmodel: {{name: {tiny_llama}, device: cpu, dtype: float32}}\n"
        "data: {train: [a.jsonl], test: [b.jsonl]}\nevaluate: {batch_size: 4, max_new_tokens: 4}\n",
        encoding="utf-8",
    )
    made = open_run(load_config(Path("try.yaml"), []))
    lora = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), lora).save_pretrained(made.adapter)
    config = load_config(made.config)
    renderer = make_renderer(load_tokenizer(config.model), config.chat, config.model.name)
    save_chat(made.adapter, renderer)
    chat = {"format": "hermes", "template": renderer.source, "template_hash": renderer.template_hash()}
    made.note(stages={"train": {"fingerprint": "f", "finished": "now"}}, chat=chat)
    return made


def suite_command(*more: str) -> list[str]:
    return ["eval", "--run", "runs/try", "--suite", "bfcl", "--suite-data", str(BFCL), *more]


def rows(run: RunFolder, kind: str, name: str) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(run.path / "suite" / "bfcl" / kind / f"{name}.jsonl")]


def test_base_and_tuned_answer_a_sample_and_a_second_run_reuses_the_answers(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    slice_ = ("--categories", "simple_python,irrelevance", "--max-rows", "2")
    assert main(suite_command(*slice_)) == 0
    shown = capsys.readouterr().out
    assert "base answers 3 entries" in shown
    assert {"base", "tuned", "strict", "bfcl"} <= set(re.findall(r"\w+", shown))
    base, tuned = rows(run, "predictions", "base"), rows(run, "predictions", "tuned")
    assert [row["id"] for row in base] == [row["id"] for row in tuned]
    assert len(base) == 3
    assert [row["tokens"] for row in base] != [row["tokens"] for row in tuned]
    assert [row["id"] for row in rows(run, "scores", "tuned.strict")] == [row["id"] for row in base]
    metrics = json.loads((run.path / "suite" / "bfcl" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["models"]["tuned"]["strict"]["categories"]["simple_python"]["denominator"] == 2
    assert main(suite_command(*slice_)) == 0
    assert capsys.readouterr().out.count("reusing") == 2
    assert main(suite_command(*slice_, "--seed", "1", "--models", "base")) == 0
    assert "base answers 3 entries" in capsys.readouterr().out


def test_entries_that_the_run_was_trained_on_are_reported(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    simple = read_suite(BFCL, ["simple_python"]).examples[0]
    learned = Conversation("other-id", (*simple.prompt, simple.turn), simple.tools, "train.jsonl:1")
    write_jsonl(run.split("train"), [learned.to_json()])
    assert main(suite_command("--categories", "simple_python,irrelevance", "--models", "base")) == 0
    assert "1 of 5 entries are in the run's training rows" in " ".join(capsys.readouterr().out.split())
    metrics = json.loads((run.path / "suite" / "bfcl" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["trained_on"] == [simple.id]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--models", "best"], '--models: "best" is unknown; a run has base and tuned'),
        (["--categories", "simple"], '--categories: "simple" is not a single-turn category'),
        (["--max-rows", "0"], "--max-rows: expected 1 or more, found 0"),
        (["--suite-data", "nowhere"], "python scripts/fetch_bfcl.py"),
        (["--endpoint-model", "m"], "--base-url: name the endpoint's address"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_loaded(
    run: RunFolder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    message: str,
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert main(suite_command(*more)) == 2
    assert message in capsys.readouterr().err
    assert not (run.path / "suite").exists()
