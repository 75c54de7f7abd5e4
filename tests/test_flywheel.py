"""The flywheel turns: decisions of a cascade become rows, a new training learns them, and fewer queries are escalated.

A tiny Llama memorises the answers to single questions. The large model is simulated in process.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from served import CHAT, SYSTEM, TOOLS, learn, make_run

from toolhone.config import Config, DataConfig, ModelConfig
from toolhone.data.read import read_conversations, turns
from toolhone.records import Conversation, Message, ToolCall
from toolhone.run_folder import RunFolder

WORDS = ("apple", "river", "stone", "cloud", "tiger", "piano", "lemon", "chair", "ocean", "robot", "fence", "honey")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    yield importlib.import_module("measure_flywheel")
    for name in ("measure_flywheel", "measure_doubt"):
        del sys.modules[name]


def row(n: int) -> Conversation:
    """A question whose answer cannot be guessed from its words."""
    turn = Message("assistant", "", (ToolCall("query_order", {"order_id": str(n)}, "call_1"),))
    return Conversation(f"q{n}", (SYSTEM, Message("user", f"{WORDS[n]} please"), turn), TOOLS, f"made:{n}")


def asked_elsewhere(n: int) -> Conversation:
    """The same question for the policy. Descriptions differ, which the model does not see: it gets the tools' names."""
    tools = tuple(replace(tool, description="for calibration") for tool in TOOLS)
    return replace(row(n), id=f"c{n}", tools=tools)


@pytest.mark.filterwarnings("ignore:Line search of Newton solver")  # twelve rows are separable
@pytest.mark.usefixtures("in_workspace")
def test_each_round_escalates_fewer_of_the_queries_that_earlier_rounds_imported(tiny_llama: Path, script: Any) -> None:
    calibration = [asked_elsewhere(n) for n in range(12)]
    config = Config(
        name="fly",
        model=ModelConfig(name="model", device="cpu", dtype="float32"),
        data=DataConfig(train=("unused.jsonl",), test=("never_read.jsonl",)),
        chat=CHAT,
    )
    console = Console(quiet=True)

    def train(config: Config) -> RunFolder:
        folder = Path("runs", config.name)
        learn(tiny_llama, folder / "model", turns=turns(read_conversations(Path(config.data.train[0]))), steps=160)
        run = RunFolder(make_run(folder, folder / "model", max_new_tokens=60, test=calibration))
        script.answer_queries(run, turns(calibration), run.predictions("tuned"), console)
        return run

    streams = [[row(n) for n in some] for some in ((4, 5, 6), (4, 5, 7), (4, 5, 6, 7))]
    large = script.SimulatedLarge(script.Pool([row(0)]), 0.0, 7)
    rounds = list(script.fly(config, [row(n) for n in range(4)], streams, large, 0.95, console, train))

    assert [one.turns for one in rounds] == [4, 7, 8]
    assert [one.imported for one in rounds[:2]] == [3, 1]
    # Queries that no training has seen are escalated; those that were imported are answered by the small model.
    assert set(rounds[0].routes.values()) == {"large"}
    assert rounds[1].routes == {"q4/2": "small", "q5/2": "small", "q7/2": "large"}
    assert set(rounds[2].routes.values()) == {"small"}
    assert [one.cascade["value"] for one in rounds] == [1.0, 1.0, 1.0]
    assert [one.escalated["numerator"] for one in rounds] == [3, 1, 0]
    learned = {one.id: one for one in read_conversations(Path("runs/fly/round2/train.jsonl"))}
    assert learned["q7/2"].gold_source == "simulated-large"
    assert learned["q7/2"].meta["small_disagrees"] is True
    assert len(turns(learned.values())) == 8


def test_the_simulated_large_model_errs_on_its_share_and_always_alike(script: Any) -> None:
    examples = turns(row(n % 12) for n in range(12))
    many = [replace(examples[n % 12], id=f"e{n}") for n in range(400)]
    large = script.SimulatedLarge(script.Pool([row(n) for n in range(12)]), 0.25, 7)
    wrong = [one.id for one in many if large.turn(one) != one.turn]
    assert 70 <= len(wrong) <= 130
    assert wrong == [one.id for one in many[::-1] if large.turn(one) != one.turn][::-1]
