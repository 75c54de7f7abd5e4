"""Ranking doubtful gold: folds of whole groups, the command from a config or from answers, and the review sheet."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from scored_run import ScoredRun, call_text, scored_run

from toolhone.cli import main
from toolhone.config import ChatConfig, Config, DataConfig, EvaluateConfig, ModelConfig, TrainConfig, config_yaml
from toolhone.data.read import read_conversations, read_tools, turns
from toolhone.doubt import cross_fit, fold_config, split_into_folds
from toolhone.errors import UserError
from toolhone.jsonl import read_jsonl, write_conversations, write_jsonl
from toolhone.records import Conversation, Message, Prediction, Token, Tool, ToolCall

SHIPPED = Path(__file__).parents[1] / "data" / "customer_service"

__all__ = ["scored_run"]


def row(number: int, template: str | None = None) -> Conversation:
    asked = Message("user", f"{number * 7919 % 10007} is what I mean, number {number}")
    meta = {} if template is None else {"template": template}
    return Conversation(f"r{number}", (asked, Message("assistant", "ok")), (), f"rows:{number}", meta=meta)


def test_rows_of_one_template_are_in_one_fold_and_folds_are_even() -> None:
    rows = [row(n, f"t{n % 10}") for n in range(30)]
    folds = split_into_folds(rows, 3, "template")
    assert sorted(one.id for fold in folds for one in fold) == sorted(one.id for one in rows)
    assert all(8 <= len(fold) <= 12 for fold in folds)
    homes = [{one.meta["template"] for one in fold} for fold in folds]
    assert sum(map(len, homes)) == len(set().union(*homes))


def test_folds_do_not_depend_on_the_order_of_the_rows() -> None:
    rows = [row(n, f"t{n % 10}") for n in range(30)]
    one, other = (split_into_folds(some, 3, "template") for some in (rows, rows[::-1]))
    assert [{r.id for r in fold} for fold in one] == [{r.id for r in fold} for fold in other]


def test_fewer_groups_than_folds_are_refused() -> None:
    rows = [row(n, f"t{n % 2}") for n in range(6)]
    with pytest.raises(UserError, match=r"^--k 3: the 6 rows form only 2 groups .*; lower --k, or set data.group_by"):
        split_into_folds(rows, 3, "template")
    assert len(split_into_folds(rows, 3, None)) == 3


def experiment(tiny_llama: Path, folder: Path) -> Config:
    tools = read_tools(SHIPPED / "tools.json")
    rows = list(read_conversations(SHIPPED / "train.jsonl", tools))[:10]
    write_conversations(folder / "train.jsonl", [replace(one, messages=one.messages[:3]) for one in rows])
    return Config(
        name="suspect",
        model=ModelConfig(name=str(tiny_llama), device="cpu", dtype="float32"),
        data=DataConfig(train=(str(folder / "train.jsonl"),), test=(str(SHIPPED / "test.jsonl"),), validation=0.1),
        chat=ChatConfig(template="toolhone", tools="names", max_tokens=8192),
        train=TrainConfig(max_steps=1, batch_size=2),
        evaluate=EvaluateConfig(batch_size=4, max_new_tokens=4),
    )


def test_a_fold_trains_on_the_rows_of_the_other_folds_alone(tiny_llama: Path, in_workspace: Path) -> None:
    config = experiment(tiny_llama, in_workspace)
    files = [Path("a.jsonl"), Path("b.jsonl"), Path("c.jsonl")]
    fold = fold_config(config, 1, files)
    assert (fold.name, fold.data.train, fold.data.test) == ("suspect-doubt2of3", ("a.jsonl", "c.jsonl"), ("b.jsonl",))
    assert fold.data.validation == 0
    selects = config.model_copy(update={"train": TrainConfig(select_by="exact_match")})
    assert fold_config(selects, 1, files).data.validation == 0.1


def test_the_command_trains_each_fold_ranks_every_row_and_reuses_finished_folds(
    tiny_llama: Path, in_workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_workspace / "c.yaml").write_text(config_yaml(experiment(tiny_llama, in_workspace)), encoding="utf-8")
    command = ["data", "doubt", "--config", "c.yaml", "--k", "2", "--out", "doubt.jsonl"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "2 trainings of 1 steps of 2 examples, about" in said
    found = [one for _, one in read_jsonl(Path("doubt.jsonl"))]
    # A random model is surprised by every call.
    ids = {turn.id for turn in turns(read_conversations(Path("train.jsonl"))) if turn.turn.tool_calls}
    assert ids <= {one["id"] for one in found}
    assert [one["rank"] for one in found] == list(range(1, len(found) + 1))
    assert [one["doubt"] for one in found] == sorted((one["doubt"] for one in found), reverse=True)
    assert found[0]["where"].startswith(str(in_workspace / "train.jsonl:"))
    assert set(found[0]) == {
        "rank", "id", "where", "turn", "doubt", "unit", "place", "expected", "says", "probability"
    }  # fmt: skip
    assert not list(Path("runs/suspect-doubt1of2/predictions").glob("*"))

    assert main(command) == 0
    said = capsys.readouterr().out
    assert "0 trainings of 1 steps" in said
    assert said.count("reusing the adapter") == 2
    assert [one for _, one in read_jsonl(Path("doubt.jsonl"))] == found

    assert main(["data", "review", "train.jsonl", "--doubts", "doubt.jsonl", "--max-rows", "4", "--out", "s.csv"]) == 0
    assert "2 doubt" in capsys.readouterr().out
    first = Path("s.csv").read_text(encoding="utf-8-sig").splitlines()[1]
    assert first.split(",")[0] in {one["id"] for one in found[:4]}


def test_over_long_turns_are_counted_and_not_ranked(tiny_llama: Path, in_workspace: Path) -> None:
    config = experiment(tiny_llama, in_workspace)
    long = Message("user", "and again " * 4000)
    rows = list(read_conversations(in_workspace / "train.jsonl"))
    rows[0] = replace(rows[0], messages=(rows[0].messages[0], long, rows[0].messages[2]))
    write_conversations(in_workspace / "train.jsonl", rows)
    drops = config.model_copy(update={"chat": config.chat.model_copy(update={"over_long": "drop"})})
    said = io.StringIO()
    found = cross_fit(drops, 2, Console(file=said, width=200))
    assert f"not ranked: 1 turns dropped as over-long ({rows[0].id}/2)" in said.getvalue()
    assert rows[0].id not in {doubt.id.rpartition("/")[0] for doubt in found}


def answer(id_: str, text: str, logprob: float | None) -> Prediction:
    """An answer whose digits have this log-probability; None: no token has one."""
    chances = ((letter, logprob if letter.isdigit() else -0.0001) for letter in text)
    tokens = tuple(
        Token(n, letter.encode(), chance) for n, (letter, chance) in enumerate(chances) if chance is not None
    )
    tokens = () if logprob is None else tokens
    return Prediction(id_, "small", text, "stop", 100, 9, 5.0, tokens)


ORDER = Tool("query_order", "", {"type": "object", "properties": {"order_id": {"type": "string"}}})


def asked(number: int) -> Conversation:
    call = ToolCall("query_order", {"order_id": f"K{number}"})
    messages = (Message("user", f"Where is K{number}?"), Message("assistant", "", (call,)))
    return Conversation(f"r{number}", messages, (ORDER,), "rows:1")


def test_answers_that_differ_from_the_gold_are_ranked_by_their_certainty(
    in_workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_conversations(Path("rows.jsonl"), [asked(n) for n in range(5)])
    answers = [
        answer("r0/1", call_text("query_order", order_id="K0"), -0.001),  # as the gold
        answer("r1/1", call_text("query_order", order_id="K7"), -0.7),
        answer("r2/1", call_text("query_order", order_id="K8"), -0.001),
        answer("r3/1", call_text("query_order", order_id="K9"), None),
        answer("r4/1", '<tool_call>\n{"name"', -0.001),  # cannot be read
    ]
    write_jsonl(Path("p.jsonl"), (one.to_json() for one in answers))
    assert main(["data", "doubt", "rows.jsonl", "--predictions", "p.jsonl", "--out", "d.jsonl"]) == 0
    found = [one for _, one in read_jsonl(Path("d.jsonl"))]
    assert [one["id"] for one in found] == ["r2/1", "r1/1", "r4/1", "r3/1"]
    assert [one["doubt"] for one in found] == pytest.approx([0.999, 0.497, 0.0, None], abs=0.001)
    assert found[0]["expected"] == 'query_order({"order_id": "K2"})'
    assert found[0]["says"] == 'query_order({"order_id": "K8"})'
    assert found[0]["unit"] == "probability"
    assert "1 answers have no log-probabilities, so they come last" in capsys.readouterr().out


@pytest.mark.usefixtures("in_workspace")
def test_a_runs_own_predictions_are_ranked(scored_run: ScoredRun, capsys: pytest.CaptureFixture[str]) -> None:
    answers = ["right", call_text("query_order", order_id="ORD-009"), "no"]
    run = scored_run(Path("runs/made"), {"tuned": answers}, chat={"format": "hermes"})
    Path(run / "config.yaml").write_text("name: made\nmodel: {name: m}\ndata: {train: [a], test: [b]}\n")
    command = ["data", "doubt", "--run", str(run), "--out", "d.jsonl"]
    assert main(command) == 2
    assert "predictions/tuned.jsonl: no such file; `toolhone eval --run runs/made` makes it" in capsys.readouterr().err
    rows = [answer(f"r{n}/2", text, -0.1 * n) for n, text in enumerate(answers[1:], 1)]
    write_jsonl(run / "predictions" / "tuned.jsonl", (one.to_json() for one in rows))
    assert main(command) == 0
    assert [one["id"] for _, one in read_jsonl(Path("d.jsonl"))] == ["r2/2", "r1/2"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "expected one of --config, --predictions and --run"),
        (["--config", "c", "--run", "r"], "expected one of --config, --predictions and --run"),
        (["a.jsonl", "--config", "c"], "a.jsonl: unexpected; give the predicted rows as SOURCE with --predictions"),
        (["--predictions", "p"], "--predictions: names no rows; give the predicted rows as SOURCE"),
    ],
)
def test_sources_of_doubt_that_do_not_fit_are_refused(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "doubt", *given, "--out", "d.jsonl"]) == 2
    assert said in capsys.readouterr().err


def test_one_fold_is_refused(tiny_llama: Path, in_workspace: Path) -> None:
    with pytest.raises(UserError, match=r"^--k 1: expected 2 or more folds"):
        cross_fit(experiment(tiny_llama, in_workspace), 1, Console(quiet=True))
