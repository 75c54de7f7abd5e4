"""The base model answers a sample of the scored turns, with a token limit taken from the gold answers."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from toolhone.chat.probe import make_base_renderer
from toolhone.config import ChatConfig, Config, DataConfig, EvaluateConfig, ModelConfig, TrainConfig
from toolhone.data.read import read_conversations, read_tools, turns
from toolhone.errors import UserError
from toolhone.evaluate.base_rows import sample_turns, with_gold_limit
from toolhone.evaluate.score import compare_files, score_run
from toolhone.jsonl import read_jsonl, write_json, write_jsonl
from toolhone.pipeline import evaluate_run, run_experiment
from toolhone.records import Example, Gold, GoldCall, Message, ToolCall
from toolhone.report.report import write_report
from toolhone.run_folder import RunFolder

CUSTOMER_SERVICE = Path(__file__).parents[2] / "data" / "customer_service"


@pytest.fixture(scope="module")
def scored_turns() -> list[Example]:
    """The 242 turns of customer_service's test rows."""
    tools = read_tools(CUSTOMER_SERVICE / "tools.json")
    return turns(read_conversations(CUSTOMER_SERVICE / "test.jsonl", tools))


def example(id: str, *names: str, roles: Sequence[str] = ("user",)) -> Example:
    """A turn after messages of these roles that expects calls of these tools."""
    prompt = tuple(Message(role, "?") for role in roles)  # type: ignore[arg-type]
    gold = Gold("calls" if names else "none", tuple(GoldCall(name, {}) for name in names))
    turn = Message("assistant", "" if names else "Yes.", tuple(ToolCall(name, {}) for name in names))
    return Example(f"{id}/1", id, prompt, turn, gold, (), "rows.jsonl:1", None, {})


def groups(examples: Sequence[Example]) -> Counter[str]:
    """Counts the turns of each tool and of each other kind."""
    found: Counter[str] = Counter()
    for one in examples:
        after = "after a result: " if one.prompt[-1].role == "tool" else ""
        names = [call.name for call in one.gold.calls]
        found[after + (names[0] if len(names) == 1 else "several calls" if names else "no call")] += 1
    return found


@pytest.mark.parametrize("limit", [30, 60, 120])
def test_the_sample_keeps_the_share_of_each_kind_of_turn(scored_turns: list[Example], limit: int) -> None:
    sample = sample_turns(scored_turns, limit)
    assert len(sample) == limit
    whole, chosen = groups(scored_turns), groups(sample)
    for kind, count in whole.items():
        if not kind.startswith("after a result: ") or kind.endswith("no call"):
            assert chosen[kind] >= 1, kind
            assert abs(chosen[kind] - count * limit / len(scored_turns)) < 2, kind


def test_the_sample_keeps_the_order_and_does_not_depend_on_it(scored_turns: list[Example]) -> None:
    sample = sample_turns(scored_turns, 60)
    places = [scored_turns.index(one) for one in sample]
    assert places == sorted(places)
    shuffled = random.Random(1).sample(scored_turns, len(scored_turns))
    assert {one.id for one in sample_turns(shuffled, 60)} == {one.id for one in sample}


@pytest.mark.parametrize("limit", [None, 242, 1000])
def test_every_turn_is_sampled_if_there_is_no_limit_or_a_larger_one(
    scored_turns: list[Example], limit: int | None
) -> None:
    assert sample_turns(scored_turns, limit) == scored_turns


def test_each_rare_kind_of_turn_is_sampled_once() -> None:
    common = [example(f"c{n}", "find") for n in range(95)]
    rare = [example("late", roles=("user", "assistant", "user")), *(example(f"p{n}", "find", "buy") for n in range(4))]
    chosen = groups(sample_turns([*common, *rare], 10))
    assert chosen == {"find": 8, "no call": 1, "several calls": 1}


def test_tools_called_only_once_are_sampled_as_one_group() -> None:
    """As in a benchmark in which nearly every row has different tools."""
    once = [example(f"o{n}", f"tool_{n}") for n in range(300)]
    chosen = groups(sample_turns([*once, *(example(f"n{n}") for n in range(100))], 40))
    assert chosen["no call"] == 10
    names = sorted(int(name.removeprefix("tool_")) for name in chosen if name != "no call")
    assert len(names) == 30
    assert names[-1] - names[0] > 150  # not only the first names in order


def test_the_token_limit_is_the_longest_gold_answer_plus_a_margin(
    scored_turns: list[Example], tiny_tokenizer: Any
) -> None:
    renderer = make_base_renderer(tiny_tokenizer, ChatConfig(tools="names"), "tiny", "native")
    some = sorted(scored_turns, key=lambda one: len(str(one.turn.to_json())))[-20:]
    longest = max(len(renderer.render(one).completion_ids) for one in some)
    limit = with_gold_limit(EvaluateConfig(max_new_tokens=1000), renderer, some).max_new_tokens
    assert longest * 1.25 <= limit + 1
    assert limit <= longest * 1.25 + 3
    short = [example("s")]
    padded = with_gold_limit(EvaluateConfig(max_new_tokens=1000), renderer, short).max_new_tokens
    assert padded >= len(renderer.render(short[0]).completion_ids) + 16
    assert with_gold_limit(EvaluateConfig(max_new_tokens=9), renderer, some).max_new_tokens == 9


# In a run

TOOL = {"name": "query_order", "description": "", "parameters": {"type": "object", "properties": {}}}
ALL = 6


def row(number: int) -> dict[str, Any]:
    call = {"function": {"name": "query_order", "arguments": "{}"}}
    turn = {"content": "Yes."} if number % 2 else {"tool_calls": [call]}
    return {
        "id": f"row-{number}",
        "messages": [{"role": "user", "content": f"{number}?"}, {"role": "assistant", **turn}],
    }


def run_config(base_rows: int | None) -> Config:
    return Config(
        name="run",
        model=ModelConfig(name="model", device="cpu", dtype="float32"),
        data=DataConfig(train=("train.jsonl",), test=("test.jsonl",), tools="tools.json", validation=0),
        train=TrainConfig(max_steps=1, batch_size=2),
        evaluate=EvaluateConfig(max_new_tokens=3, base_rows=base_rows),
    )


def train(base_rows: int | None) -> str:
    """Run the experiment; returns what it printed."""
    printed = io.StringIO()
    run_experiment(run_config(base_rows), resume=False, fresh=False, console=Console(file=printed, width=1000))
    return printed.getvalue()


@pytest.fixture(scope="module")
def made(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a finished run whose base model answered 3 of 6 turns."""
    folder = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copytree(tiny_llama, "model")
        write_jsonl(Path("train.jsonl"), map(row, range(10, 14)))
        write_jsonl(Path("test.jsonl"), map(row, range(ALL)))
        write_json(Path("tools.json"), [TOOL])
        assert f"base answers 3 of {ALL} turns ..." in train(3)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of the finished run, in the test's own working folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return RunFolder(Path("runs/run"))


def ids(path: Path) -> list[str]:
    return [line["id"] for _, line in read_jsonl(path)]


def test_the_base_model_has_its_own_denominator_and_is_compared_on_the_shared_rows(run: RunFolder) -> None:
    found = json.loads(run.metrics.read_text(encoding="utf-8"))
    base, tuned = found["models"]["base"], found["models"]["tuned"]
    assert (base["rows"], base["sampled_from"], base["exact_match"]["denominator"]) == (3, ALL, 3)
    assert (tuned["rows"], tuned["exact_match"]["denominator"]) == (ALL, ALL)
    assert "sampled_from" not in tuned
    assert {entry["rows"] for entry in found["compare"]} == {3}
    assert len(ids(run.scores("base"))) == 3
    assert compare_files([run.path])["models"]["base"]["sampled_from"] == ALL


def test_the_limit_of_the_base_models_answers_is_recorded_and_reported(run: RunFolder) -> None:
    assert run.read_manifest()["stages"]["predict:base"]["max_new_tokens"] == 3
    write_report(run.path)
    assert "Answers of base are cut off after 3 tokens." in run.report.read_text(encoding="utf-8")


def test_changing_base_rows_repeats_only_the_predictions_of_the_base_model(run: RunFolder) -> None:
    assert "reusing runs/run/predictions/base.jsonl" in train(3)
    before = run.predictions("tuned").stat().st_mtime_ns
    for base_rows, count in ((4, 4), (None, ALL), (2, 2)):
        printed = train(base_rows)
        assert "reusing runs/run/predictions/tuned.jsonl" in printed
        assert len(ids(run.predictions("base"))) == len(ids(run.scores("base"))) == count
        found = json.loads(run.metrics.read_text(encoding="utf-8"))
        assert found["models"]["base"].get("sampled_from") == (None if base_rows is None else ALL)
    assert run.predictions("tuned").stat().st_mtime_ns == before
    assert not list(run.predictions("base").parent.glob(".*.part"))


def test_eval_answers_the_rows_that_the_run_sampled(run: RunFolder) -> None:
    before = ids(run.predictions("base"))
    evaluate_run(run.path, {"max_new_tokens": 2}, console=Console(quiet=True))
    assert ids(run.predictions("base")) == before
    assert {line["completion_tokens"] for _, line in read_jsonl(run.predictions("base"))} <= {1, 2}


def test_predictions_that_lack_sampled_rows_are_refused(run: RunFolder) -> None:
    lines = [line for _, line in read_jsonl(run.predictions("base"))]
    write_jsonl(run.predictions("base"), lines[:2])
    with pytest.raises(UserError, match=r"base\.jsonl: answers other rows than those in"):
        score_run(run)


def test_predictions_may_lack_rows_only_if_the_manifest_records_a_sample(run: RunFolder) -> None:
    stages = run.read_manifest()["stages"]
    del stages["predict:base"]["sampled_from"]
    run.note(stages=stages)
    with pytest.raises(UserError, match=r"base\.jsonl: answers other rows than those in"):
        score_run(run)
