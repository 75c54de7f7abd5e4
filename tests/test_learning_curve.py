"""A learning curve says whether more data would help, or that there are too few turns to say."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from toolhone.config import ChatConfig, Config, DataConfig, EvaluateConfig, ModelConfig, TrainConfig
from toolhone.errors import UserError
from toolhone.learning_curve import Step, advice, at_size, learning_curve, steps
from toolhone.records import Score

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "data" / "customer_service"
CONTRACT = ROOT / "tests" / "fixtures" / "contracts" / "score.jsonl"


def scores(right: int, of: int = 100) -> list[Score]:
    one = Score.from_json(json.loads(CONTRACT.read_text(encoding="utf-8").splitlines()[0]))
    return [replace(one, id=f"r{n}", conversation_id=f"r{n}", meta={}, exact=n < right) for n in range(of)]


def test_gains_compare_neighbouring_sizes_on_the_same_turns() -> None:
    found = steps({"50": scores(40), "100": scores(60), "400": scores(64)})
    assert [(step.smaller, step.larger) for step in found] == [(50, 100), (100, 400)]
    assert [step.gain for step in found] == pytest.approx([0.20, 0.04])
    assert [step.per_doubling for step in found] == pytest.approx([0.20, 0.02])
    assert all(step.low <= step.gain <= step.high for step in found)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Step(100, 200, 0.08, 0.02, 0.14), "More data helps: from 100 to 200 rows exact match changed by +8.0 points"),
        (Step(100, 200, 0.001, -0.01, 0.015), "More data of this kind would hardly help: from 100 to 200"),
        (Step(100, 200, 0.03, -0.02, 0.08), "242 turns cannot tell whether more data would help: from 100 to 200"),
    ],
)
def test_advice_depends_on_the_interval_not_on_the_gain(step: Step, said: str) -> None:
    assert advice([Step(50, 100, 0.3, 0.2, 0.4), step], 242).startswith(said)


def test_a_few_turns_without_any_difference_are_not_conclusive() -> None:
    assert advice([Step(8, 16, 0.0, 0.0, 0.0)], 8).startswith("8 turns cannot tell")
    assert advice([Step(8, 16, 0.0, 0.0, 0.0)], 50).startswith("More data of this kind would hardly help")


def test_a_gain_without_an_interval_is_not_conclusive() -> None:
    assert advice([Step(8, 16, 0.1, None, None)], 200).startswith("200 turns cannot tell")


def experiment(tiny_llama: Path) -> Config:
    return Config(
        name="curve",
        model=ModelConfig(name=str(tiny_llama), device="cpu", dtype="float32"),
        data=DataConfig(
            train=(str(SHIPPED / "train.jsonl"),),
            test=(str(SHIPPED / "test.jsonl"),),
            tools=str(SHIPPED / "tools.json"),
            validation=0.02,
            test_rows=3,
        ),
        chat=ChatConfig(template="toolhone", tools="names", max_tokens=8192),
        train=TrainConfig(max_steps=1, batch_size=2),
        evaluate=EvaluateConfig(batch_size=4, max_new_tokens=4),
    )


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([50], "expected two or more increasing numbers, found 50"),
        ([50, 50], "expected two or more increasing numbers, found 50,50"),
        ([10, 100_000], r"100000 is more than the \d+ training conversations"),
    ],
)
def test_fewer_than_two_rising_sizes_or_too_many_rows_are_refused(
    tiny_llama: Path, sizes: list[int], message: str
) -> None:
    with pytest.raises(UserError, match=rf"^--sizes: {message}"):
        learning_curve(experiment(tiny_llama), sizes, Console(quiet=True))


@pytest.mark.usefixtures("in_workspace")
def test_a_curve_trains_and_scores_each_size_and_reuses_finished_runs(tiny_llama: Path) -> None:
    config = experiment(tiny_llama)
    assert at_size(config, 4).name == "curve-rows4"
    said = io.StringIO()
    path = learning_curve(config, [4, 8], Console(file=said, width=200))
    assert path == Path("runs/curve-learning-curve.json")
    written = json.loads(path.read_text(encoding="utf-8"))
    assert [size["rows"] for size in written["sizes"]] == [4, 8]
    assert written["sizes"][0]["exact_match"]["denominator"] >= 3
    for size in (4, 8):
        rows = (Path("runs") / f"curve-rows{size}" / "splits" / "train.jsonl").read_text(encoding="utf-8")
        assert len(rows.splitlines()) == size
    assert written["advice"] in said.getvalue()
    again = io.StringIO()
    learning_curve(config, [4, 8], Console(file=again, width=200))
    assert again.getvalue().count("reusing the adapter") == 2
