"""What `toolhone train` says before it starts: its stages, and how long each takes on this machine."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from transformers import AutoConfig

from toolhone.config import Config, DataConfig, EvaluateConfig, ModelConfig, TrainConfig
from toolhone.evaluate.predict import AnswerMemory, Batch
from toolhone.plan import AnswerSpeed, Speed, answer_seconds, make_plan, measure_speed, training_seconds
from toolhone.prepare import Prepared, prepare
from toolhone.train.estimate import estimate

SHIPPED = Path(__file__).parents[1] / "data" / "customer_service"
SPEED = Speed(1e9, 1e-4, AnswerSpeed(1e9, 0.1, 0.01), AnswerSpeed(1e9, 0.1, 0.01))


@pytest.fixture(scope="module")
def prepared(tiny_llama: Path) -> Prepared:
    config = Config(
        name="try",
        model=ModelConfig(name=str(tiny_llama), device="cpu", dtype="float32"),
        data=DataConfig(
            train=(str(SHIPPED / "train.jsonl"),),
            test=(str(SHIPPED / "test.jsonl"),),
            tools=str(SHIPPED / "tools.json"),
            train_rows=8,
            validation_rows=2,
            test_rows=3,
        ),
        train=TrainConfig(max_steps=4, batch_size=4),
        evaluate=EvaluateConfig(batch_size=4, max_new_tokens=16),
    )
    return prepare(config, console=Console(quiet=True))


def test_the_plan_has_a_line_for_each_stage_then_the_total_and_the_memory(prepared: Prepared) -> None:
    plan = make_plan(prepared)
    turns = len(prepared.scored)
    about = r"about (\d+ s|\d+ min|[\d.]+ h)"
    expected = (
        rf"base answers: {turns} turns, {about}",
        rf"training: 4 steps of 4 examples, {about}",
        rf"tuned answers: {turns} turns, {about}",
        rf"report: scores and page, {about}",
        rf"total: {about}, peak memory about [\d.]+ GB \((training|base answers|tuned answers)\)",
    )
    lines = list(plan.lines())
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line
    assert all(stage.seconds is not None and stage.seconds > 0 for stage in plan.stages)


def test_what_is_finished_takes_no_time(prepared: Prepared) -> None:
    plan = make_plan(prepared, base_is_finished=True, steps_done=4)
    base, training, *_ = plan.stages
    assert str(base).endswith("turns, finished before")
    assert training.seconds == 0


def test_the_peak_is_that_of_the_stage_that_needs_most(prepared: Prepared) -> None:
    plan = make_plan(prepared)
    assert set(plan.memory_gb) == {"training", "base answers", "tuned answers"}
    for stage in plan.memory_gb:
        *_, line = replace(plan, memory_gb={**plan.memory_gb, stage: 123.4}).lines()
        assert line.endswith(f"peak memory about 123.4 GB ({stage})")


def test_more_rows_at_once_need_more_memory(prepared: Prepared) -> None:
    config, sizes = prepared.config, make_plan(prepared).training.sizes
    needs = AnswerMemory(config, prepared.hardware, AutoConfig.from_pretrained(config.model.name), sizes)
    [example] = prepared.scored[:1]
    few, many = (
        needs.peak_gb([Batch([1] * 100, [[1] * 5000] * count, [example] * count)], 16, tuned=True) for count in (2, 64)
    )
    kept = 62 * 4900 * 2 * sizes.key_value * 4 * sizes.layers  # keys and values of the rows' own tokens
    assert kept / 1e9 < many - few < 2 * kept / 1e9  # and attention scores


def test_twice_the_steps_or_half_the_speed_take_twice_as_long(prepared: Prepared) -> None:
    def seconds(steps: int, speed: Speed) -> float:
        train = prepared.config.train.model_copy(update={"max_steps": steps})
        config = prepared.config.model_copy(update={"train": train})
        model_config = AutoConfig.from_pretrained(config.model.name)
        found = estimate(config, prepared.hardware, model_config, [row.tokens for row in prepared.train])
        return training_seconds(config, found, speed, [])

    once = seconds(4, SPEED)
    assert seconds(8, SPEED) == pytest.approx(2 * once)
    assert seconds(4, replace(SPEED, training_flops=5e8, head_s=2e-4)) == pytest.approx(2 * once)


def test_answers_take_prompts_once_and_steps_until_the_longest_row_ends(prepared: Prepared) -> None:
    sizes = make_plan(prepared).training.sizes
    one, two = prepared.scored[:2]
    speed = AnswerSpeed(prompt_flops=1e15, step_s=1.0, row_s=0.1)
    batch = Batch([1, 2, 3], [[1, 2, 3, 4], [1, 2, 3, 5]], [one, two])
    assert answer_seconds(sizes, speed, [batch], {one.id: 10, two.id: 4}) == pytest.approx(10 + 1.4, rel=1e-3)
    slow = replace(speed, prompt_flops=1e3, step_s=0.0, row_s=0.0)
    once = answer_seconds(sizes, slow, [batch], {one.id: 1, two.id: 1})
    assert once < answer_seconds(sizes, slow, [batch, batch], {one.id: 1, two.id: 1}) < 2 * once


def test_measured_speeds_are_within_reach_of_the_real_machine(prepared: Prepared) -> None:
    model_config = AutoConfig.from_pretrained(prepared.config.model.name)
    rows = [row.tokens for row in prepared.train][:4]
    sizes = estimate(prepared.config, prepared.hardware, model_config, rows).sizes
    speed = measure_speed(prepared.config, prepared.hardware, model_config, sizes, rows, 200, 100)
    assert 1e6 < speed.training_flops < 1e14
    assert 1e-9 < speed.head_s < 1
    for one in (speed.base, speed.tuned):
        assert 1e6 < one.prompt_flops < 1e14
        assert 1e-6 < one.step_s + one.row_s < 10
