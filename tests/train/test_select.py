"""Training saves the adapter with the best measurement, and measuring does not change training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from toolhone.chat.probe import make_renderer
from toolhone.chat.render import Rendered
from toolhone.config import ChatConfig, EvaluateConfig
from toolhone.evaluate.match import score
from toolhone.pipeline import exact_match_on
from toolhone.records import Prediction
from toolhone.train.checkpoint import MarkComplete
from toolhone.train.log import TrainLog
from toolhone.train.select import Measured

Train = Callable[..., Any]
KEYS = {"learning_rate": 2e-3, "scheduler": "constant", "warmup": 0, "batch_size": 4, "validate_every": 2}


class FixedMeasure:
    """A measure that returns fixed results and records the adapters that it was given."""

    def __init__(self, *rights: int) -> None:
        self.rights = list(rights)
        self.seen: dict[int, torch.Tensor] = {}

    def __call__(self, model: Any, step: int) -> Measured:
        weights = [p.detach().clone() for name, p in model.named_parameters() if "lora_B" in name]
        self.seen[step] = torch.cat([weight.flatten() for weight in weights])
        return Measured(step, self.rights[len(self.seen) - 1], 10)


def saved(folder: Path) -> torch.Tensor:
    weights = load_file(folder / "adapter_model.safetensors")
    return torch.cat([weight.flatten() for name, weight in weights.items() if "lora_B" in name])


def same_weights(one: torch.Tensor, other: torch.Tensor) -> bool:
    """The same numbers, whatever the order of the layers in a file."""
    return torch.equal(one.sort().values, other.sort().values)


def test_the_best_adapter_is_saved_and_the_first_of_equal_ones(train: Train, short_rows: list[Rendered]) -> None:
    given = FixedMeasure(1, 3, 3, 2)
    trained = train(short_rows, validation=short_rows[:2], measure=given, max_steps=8, **KEYS)
    assert list(given.seen) == [2, 4, 6, 8]
    assert same_weights(saved(trained.run.adapter), given.seen[4])
    assert not same_weights(given.seen[4], given.seen[6])
    curve = [line["eval_exact_match"] for line in trained.log if "eval_exact_match" in line]
    assert curve == [0.1, 0.3, 0.3, 0.2]


def test_training_stops_when_patience_runs_out(train: Train, short_rows: list[Rendered]) -> None:
    given = FixedMeasure(2, 3, 3, 1, 0)
    trained = train(short_rows, validation=short_rows[:2], measure=given, max_steps=20, patience=2, **LATER)
    assert list(given.seen) == [2, 4, 6, 8]
    assert trained.result.finished
    assert trained.result.steps == 8
    assert same_weights(saved(trained.run.adapter), given.seen[4])


LATER = {**KEYS, "select_by": "exact_match"}


def test_the_last_step_is_measured_even_without_a_validation_there(train: Train, short_rows: list[Rendered]) -> None:
    given = FixedMeasure(1, 2)
    trained = train(short_rows, validation=short_rows[:2], measure=given, max_steps=3, **KEYS)
    assert list(given.seen) == [2, 3]
    assert same_weights(saved(trained.run.adapter), given.seen[3])


def test_a_resumed_run_continues_the_measurements(train: Train, short_rows: list[Rendered]) -> None:
    keys = {**KEYS, "save_every": 4}
    first = FixedMeasure(5, 1)  # there is no third figure, so training fails at step 6
    with pytest.raises(IndexError):
        train(short_rows, validation=short_rows[:2], measure=first, max_steps=8, **keys)
    second = FixedMeasure(2, 4)
    trained = train(short_rows, validation=short_rows[:2], measure=second, max_steps=8, resume=True, **keys)
    assert list(second.seen) == [6, 8]
    assert same_weights(saved(trained.run.adapter), first.seen[2])
    written = json.loads((trained.run.checkpoints / "selection" / "selection.json").read_text(encoding="utf-8"))
    assert [row["right"] for row in written["measured"]] == [5, 1, 2, 4]


def test_a_run_killed_after_its_last_measurement_resumes_to_the_best_adapter_without_training(
    train: Train, short_rows: list[Rendered], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both if patience ended training and if the last step did; with measurements by step and by epoch."""
    steps = {"max_steps": 20, "patience": 2, **LATER, "save_every": 2}
    epochs = {"epochs": 2, "learning_rate": 2e-3, "warmup": 0, "batch_size": 4, "save_every": 1}
    for name, keys, rights, measured, best in (
        ("patience", steps, (2, 3, 3, 1), [2, 4, 6, 8], 4),
        ("epochs", epochs, (1, 2), [2, 4], 4),
    ):
        given = FixedMeasure(*rights)
        with monkeypatch.context() as patch:
            patch.setattr(TrainLog, "on_train_end", killed)
            with pytest.raises(KeyboardInterrupt):
                train(short_rows[:8], name, validation=short_rows[:2], measure=given, **keys)
        assert list(given.seen) == measured
        none = FixedMeasure()
        trained = train(short_rows[:8], name, validation=short_rows[:2], measure=none, resume=True, **keys)
        assert not none.seen
        assert trained.result.steps == measured[-1]
        assert same_weights(saved(trained.run.adapter), given.seen[best])


def killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_step_is_measured_before_its_checkpoint_is_saved(
    train: Train, short_rows: list[Rendered], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"epochs": 3, "learning_rate": 2e-3, "warmup": 0, "batch_size": 4, "save_every": 1}
    given = FixedMeasure(5, 1, 1)
    with monkeypatch.context() as patch:
        mark = MarkComplete.on_save

        def killed_after(self: MarkComplete, args: Any, state: Any, control: Any, **others: Any) -> None:
            mark(self, args, state, control, **others)
            if state.global_step == 2:  # the end of the first epoch
                raise KeyboardInterrupt

        patch.setattr(MarkComplete, "on_save", killed_after)
        with pytest.raises(KeyboardInterrupt):
            train(short_rows[:8], validation=short_rows[:2], measure=given, **keys)
    rest = FixedMeasure(1, 1)
    trained = train(short_rows[:8], validation=short_rows[:2], measure=rest, resume=True, **keys)
    assert (list(given.seen), list(rest.seen)) == ([2], [4, 6])
    assert same_weights(saved(trained.run.adapter), given.seen[2])


def test_answers_are_scored_as_in_evaluation_and_training_continues_unchanged(
    train: Train, short_rows: list[Rendered], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    renderer = make_renderer(tiny_tokenizer, ChatConfig(template="toolhone"), "tiny")
    shown = short_rows[:3]
    measure = exact_match_on(
        shown, renderer, EvaluateConfig(batch_size=2, max_new_tokens=8), tmp_path / "answers", Console(quiet=True)
    )
    found: list[Measured] = []

    def kept(model: Any, step: int) -> Measured:
        found.append(measure(model, step))
        return found[-1]

    measured = train(short_rows, "measured", validation=shown, measure=kept, max_steps=6, **KEYS)
    plain = train(short_rows, "plain", validation=shown, max_steps=6, **KEYS)
    assert measured.losses == plain.losses
    assert [one.step for one in found] == [2, 4, 6]
    for one in found:
        lines = (tmp_path / "answers" / f"step-{one.step}.jsonl").read_text(encoding="utf-8").splitlines()
        answers = [Prediction.from_json(json.loads(line)) for line in lines]
        right = [score(row.example, answer, "hermes").exact for row, answer in zip(shown, answers, strict=True)]
        assert (one.right, one.total) == (sum(right), 3)
