"""Measure the flywheel: does a cascade escalate less, round by round, if the escalated queries become training rows?

Round 0 trains on a small share of customer_service. Each round makes a policy on the test turns, routes queries that no
round has seen, imports the escalated ones with `data import-decisions`, and trains again on all rows so far. The large
model is simulated: it gives the gold, except for 5% of the queries, where its answer is wrong in one of the ways of
measure_doubt.py. Prints escalation rate and accuracy of each round with 95% Wilson intervals.

    .venv/bin/python scripts/measure_flywheel.py                     # Gemma 3 270M, about 25 minutes on two quiet cores

Each round is a run folder, runs/flywheel-round<n>, so an interrupted measurement continues.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from measure_doubt import DATA, MODEL, WAYS, Pool, wrong_turn
from rich.console import Console

from toolhone.config import Config
from toolhone.data.read import read_conversations, read_tools, turns
from toolhone.errors import Interrupted, UserError
from toolhone.evaluate.match import score
from toolhone.evaluate.predict import predict
from toolhone.evaluate.score import scored_examples
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.jsonl import read_jsonl, write_conversations, write_json
from toolhone.pipeline import interruption, run_experiment
from toolhone.rates import Rate, rate_of
from toolhone.records import Conversation, Example, Message, Prediction
from toolhone.route.cascade import Cascade, DecisionLog, Routed, answer
from toolhone.route.confidence import signals
from toolhone.route.decisions import import_decisions
from toolhone.route.large_model import LargeAnswer, LargeModel, utc_day
from toolhone.route.policy import Policy, RouteSettings, identity_of_run
from toolhone.route.route import Row, RowSplit, route
from toolhone.run_folder import RUNS, RunFolder
from toolhone.train.checkpoint import can_continue
from toolhone.train.hardware import release_memory
from toolhone.tuned import TunedModel

LARGE = "simulated-large"
ROUNDS = 3
START_ROWS, ROUND_ROWS = 50, 80
EPOCHS = 3
ERRORS = 0.05
TARGET = 0.92


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/cpu.yaml"), help="default: %(default)s")
    parser.add_argument("--start", type=int, default=START_ROWS, help="training rows of round 0 (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=ROUND_ROWS, help="rows routed in a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="number of rounds (default: %(default)s)")
    parser.add_argument("--errors", type=float, default=ERRORS, help="share of wrong gold (default: %(default)s)")
    about = "accuracy of the cascade that the policy aims for (default: %(default)s)"
    parser.add_argument("--target", type=float, default=TARGET, help=about)
    parser.add_argument("--seed", type=int, default=7, help="seed of rows and errors (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the config")
    parser.add_argument("--fresh", action="store_true", help="delete the rounds' earlier runs")
    options = parser.parse_args()

    from toolhone.cli.terminal import prepare_libraries
    from toolhone.config_file import load_config
    from toolhone.fetch import fetch

    prepare_libraries()
    console = Console()
    given = ["name=flywheel", f"train.epochs={EPOCHS}", "train.max_steps=null", "data.validation=0"]
    config = load_config(options.config, [*given, *options.set])
    if Path(config.model.name).name == MODEL:
        fetch(MODEL, Path(config.model.name), console)
    rows = list(read_conversations(DATA / "train.jsonl", read_tools(DATA / "tools.json")))
    random.Random(options.seed).shuffle(rows)
    start, rest = rows[: options.start], rows[options.start :]
    streams = [rest[n * options.rows : (n + 1) * options.rows] for n in range(options.rounds)]
    started = time.perf_counter()
    large = SimulatedLarge(Pool(rows), options.errors, options.seed)
    rounds = []

    def train(config: Config) -> RunFolder:
        return train_round(config, console, fresh=options.fresh)

    for done in fly(config, start, streams, large, options.target, console, train):
        rounds.append(done)
        show(rounds)
    minutes = (time.perf_counter() - started) / 60
    print(f"\n{len(rounds)} rounds, {options.errors:.0%} of the large model's answers wrong, {minutes:.1f} minutes")
    write_json(RUNS / "flywheel" / "rounds.json", [done.to_json() for done in rounds])
    return 0


class SimulatedLarge:
    """A large model that knows the gold of the examples it was told, and errs on a share of them. It takes the place of
    a `LargeModel` in a cascade."""

    model, priced = LARGE, False

    def __init__(self, pool: Pool, errors: float, seed: int) -> None:
        self._pool, self._errors, self._seed = pool, errors, seed

    def turn(self, example: Example) -> Message:
        """Return the answer to an example: always the same, whatever was asked before."""
        draw = random.Random(f"{self._seed}/{example.id}")
        if draw.random() >= self._errors:
            return example.turn
        ways = draw.sample(WAYS, len(WAYS))
        wrong = (wrong_turn(example, way, self._pool, draw) for way in ways)
        return next((turn for turn in wrong if turn is not None), example.turn)

    async def ask(self, example: Example, answer: LargeAnswer, **_: Any) -> None:
        message = self.turn(example)
        row: dict[str, Any] = {"role": "assistant", "content": message.content or None, "refusal": None}
        if message.tool_calls:
            row["tool_calls"] = [
                {**call.to_json(), "id": call.id or f"call_{n}"} for n, call in enumerate(message.tool_calls)
            ]
        choice = {"index": 0, "message": row, "finish_reason": "tool_calls" if message.tool_calls else "stop"}
        answer.completion, answer.failure = {"model": LARGE, "choices": [choice], "usage": None}, None
        answer.calls = 1


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of a round: what was trained on, the tuned model on the test turns, and the routed queries."""

    rows: int
    turns: int
    test: Rate
    escalated: Rate
    small: Rate
    cascade: Rate
    imported: int
    left_out: Mapping[str, int]
    routes: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def fly(
    config: Config,
    start: Sequence[Conversation],
    streams: Sequence[Sequence[Conversation]],
    large: SimulatedLarge,
    target: float,
    console: Console,
    train: Callable[[Config], RunFolder],
) -> Iterator[Round]:
    """Yield a round for each stream of conversations, whose turns are the queries. The config's test rows calibrate.
    `train` trains on a config's rows, and answers its test rows."""
    rows = list(start)
    for number, stream in enumerate(streams):
        folder = RUNS / config.name / f"round{number}"
        write_conversations(folder / "train.jsonl", rows)
        run = train(round_config(config, number, folder / "train.jsonl"))
        policy, test = make_policy(run, large, target)
        queries = turns(stream)
        answers = answer_queries(run, queries, folder / "answers.jsonl", console)
        log = folder / "decisions.jsonl"
        log.unlink(missing_ok=True)
        routed = asyncio.run(route_all(queries, answers, policy, large, log))
        imported = import_decisions([log], [str(folder / "train.jsonl")], console)
        for line in imported.lines():
            console.print(line, markup=False)
        small = [score(query, answers[query.id], policy.format).exact for query in queries]
        went = [one.route for one in routed]
        right = [
            is_right if way == "small" else way == "large" and large.turn(query).tool_calls == query.turn.tool_calls
            for query, is_right, way in zip(queries, small, went, strict=True)
        ]
        yield Round(
            rows=len(rows),
            turns=len(turns(rows)),
            test=rate_of(test),
            escalated=rate_of(way != "small" for way in went),
            small=rate_of(small),
            cascade=rate_of(right),
            imported=len(turns(imported.rows)),
            left_out=dict(imported.left_out),
            routes={query.id: way for query, way in zip(queries, went, strict=True)},
        )
        rows += imported.rows


def round_config(config: Config, number: int, train_file: Path) -> Config:
    """Return the config of a round."""
    data = config.data.model_copy(update={"train": (str(train_file),)})
    evaluate = config.evaluate.model_copy(update={"base": False})
    return config.model_copy(update={"name": f"{config.name}-round{number}", "data": data, "evaluate": evaluate})


def train_round(config: Config, console: Console, *, fresh: bool) -> RunFolder:
    """Train and score a round, and continue it if it was interrupted."""
    run = RunFolder(RUNS / config.name)
    resume = not fresh and can_continue(run)
    done = run_experiment(config, resume=resume, fresh=fresh, console=console)
    if done is None:
        raise Interrupted(interruption(run).kept, flag="")
    return done


def make_policy(run: RunFolder, large: SimulatedLarge, target: float) -> tuple[Policy, list[bool]]:
    """Return a policy for the cascade's accuracy on the run's scored turns, and which of them the tuned model has
    right. If the turns cannot calibrate, because all answers are wrong or all right, the error says so."""
    format = run.read_manifest()["chat"]["format"]
    answers = {row["id"]: Prediction.from_json(row) for _, row in read_jsonl(run.predictions("tuned"))}
    rows = [
        Row(
            signals(answers[example.id], example, format),
            score(example, answers[example.id], format),
            score(example, as_prediction(example, large.turn(example), format), format),
        )
        for example in scored_examples(run)
    ]
    split = RowSplit(tuple(rows), tuple(rows), "the same rows calibrate and measure")
    found = route(split, RouteSettings(target_accuracy=target), identity_of_run(run), format)
    return found.policy, [row.small.exact for row in rows]


def as_prediction(example: Example, turn: Message, format: str) -> Prediction:
    """Return a turn of the large model as a prediction."""
    calls = [RawCall(call.name, json.dumps(call.arguments, ensure_ascii=False)) for call in turn.tool_calls]
    text = FORMATS[format].write(turn.content, calls, "stop")
    return Prediction(example.id, LARGE, text, "stop", 0, 0, 0.0, prose_end=0 if calls else len(text))


def answer_queries(run: RunFolder, queries: Sequence[Example], path: Path, console: Console) -> dict[str, Prediction]:
    """Return the small model's answers by example id."""
    tuned = TunedModel.load(run.path)
    model, config = tuned.load_weights(), tuned.config.evaluate
    fingerprint = tuned.answers_fingerprint(queries, config)
    predict(model, tuned.renderer, queries, "tuned", config, path, console, fingerprint=fingerprint)
    del model
    release_memory(tuned.hardware.device)
    return {row["id"]: Prediction.from_json(row) for _, row in read_jsonl(path)}


async def route_all(
    queries: Sequence[Example],
    answers: Mapping[str, Prediction],
    policy: Policy,
    large: SimulatedLarge,
    path: Path,
) -> list[Routed]:
    """Send each query through the cascade, and write the decisions to a log."""
    log = DecisionLog(path, utc_day())
    cascade = Cascade(policy, cast(LargeModel, large), log, log_texts=True)

    async def ask_small(example: Example) -> Prediction:
        return answers[example.id]

    try:
        return [await answer(cascade, query, ask_small) for query in queries]
    finally:
        log.close()


def show(rounds: Sequence[Round]) -> None:
    """Print the rounds so far as a Markdown table."""
    heads = ("trained on turns", "test turns right", "escalated", "small right", "cascade right", "imported")
    print(f"\n| round | {' | '.join(heads)} |")
    print("| --- | ---: | --- | --- | --- | --- | ---: |")
    for number, one in enumerate(rounds):
        rates = " | ".join(map(_text, (one.test, one.escalated, one.small, one.cascade)))
        print(f"| {number} | {one.turns} | {rates} | {one.imported} |")


def _text(found: Rate) -> str:
    counts = f"{found['numerator']}/{found['denominator']}"
    return f"{found['value']:.1%} [{found['low']:.1%}, {found['high']:.1%}] {counts}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"Error: {error}")
