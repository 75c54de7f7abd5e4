"""Which rows may have wrong gold? Ranks the turns whose gold a model that was not trained on them disagrees with.

Cross-fitting: the training rows of a config are split into k folds, whole groups at a time. An adapter is trained on
the other folds and scores the gold of its own (`evaluate/gold_doubt.py`). Each fold is a run folder,
`runs/<name>-doubt<n>of<k>`, so an interrupted command continues. The idea is that of confident learning (Northcutt and
others 2021, JAIR 70), with places in a call instead of classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from toolhone.chat.probe import make_renderer, needs_of
from toolhone.chat.render import render_all
from toolhone.config import Config, DataConfig
from toolhone.data.check.finding import LeftOut, describe_left_out
from toolhone.data.groups import KeyTable
from toolhone.data.read import examples as examples_of
from toolhone.data.read import read_tools, turns
from toolhone.data.split import balanced_subset, read_files
from toolhone.errors import Interrupted, UserError
from toolhone.evaluate.doubts import Doubt, ranked
from toolhone.evaluate.gold_doubt import gold_doubts
from toolhone.jsonl import write_conversations
from toolhone.pipeline import interruption, train_only
from toolhone.plan import make_plan
from toolhone.prepare import Prepared, prepare
from toolhone.pretrained import load_tokenizer
from toolhone.progress import Progress, duration
from toolhone.records import Conversation
from toolhone.run_folder import RUNS, RunFolder
from toolhone.train.checkpoint import can_continue
from toolhone.train.hardware import release_memory
from toolhone.tuned import TunedModel


def cross_fit(config: Config, folds: int, console: Console, *, fresh: bool = False) -> list[Doubt]:
    """Train an adapter for each fold on the rows of the others, and return the doubt of every turn, the greatest first.

    Args:
        fresh: delete the folds' earlier runs.

    Raises:
        Interrupted: if a training was stopped early.
        UserError: if the rows form too few groups.
    """
    if folds < 2:
        raise UserError(f"--k {folds}: expected 2 or more folds")
    rows, dropped = _learned_rows(config, console)
    parts = split_into_folds(rows, folds, config.data.group_by)
    files = [RUNS / f"{config.name}-doubt" / f"fold-{n}of{folds}.jsonl" for n in range(1, folds + 1)]
    for file, part in zip(files, parts, strict=True):
        write_conversations(file, part)
    configs = [fold_config(config, n, files) for n in range(folds)]
    waiting = [one for one in configs if fresh or RunFolder(RUNS / one.name).stage("train") is None]
    found: list[Doubt] = []
    for n, (fold, part) in enumerate(zip(configs, parts, strict=True), 1):
        console.print(f"fold {n} of {folds}: scores {len(turns(part))} turns", style="bold")
        prepared = prepare(fold, console=Console(quiet=True))
        if n == 1:
            _say_cost(prepared, len(waiting), folds, len(turns(rows)), console)
        found += _doubts_of_fold(prepared, part, console, fresh=fresh)
    if dropped:
        console.print(f"not ranked: {len(dropped)} turns dropped as over-long ({', '.join(dropped[:5])})", markup=False)
    return ranked(found)


def _learned_rows(config: Config, console: Console) -> tuple[list[Conversation], list[str]]:
    """Return the config's training rows, those for validation included, and the ids of over-long turns, which are not
    learned."""
    tools = read_tools(Path(config.data.tools)) if config.data.tools else ()
    left_out: LeftOut = {}
    rows = read_files(config.data.train, left_out, tools, config.data.format)
    if left_out:
        console.print(describe_left_out(left_out), markup=False)
    rows = balanced_subset(rows, config.data.train_rows)
    if config.chat.over_long == "error":
        return rows, []
    learned = turns(rows)
    tokenizer = load_tokenizer(config.model)
    renderer = make_renderer(tokenizer, config.chat, config.model.name, needs=needs_of(learned))
    _, dropped = render_all(renderer, learned, config.chat)
    without = [_unlearn(row, set(dropped)) for row in rows] if dropped else rows
    return [row for row in without if examples_of(row)], dropped


def _unlearn(row: Conversation, ids: set[str]) -> Conversation:
    """Return the row with weight 0 for the turns with these ids."""
    messages = (replace(m, weight=0.0) if f"{row.id}/{n}" in ids else m for n, m in enumerate(row.messages))
    return replace(row, messages=tuple(messages))


def split_into_folds(rows: Sequence[Conversation], count: int, group_by: str | None) -> list[list[Conversation]]:
    """Split rows into folds with about the same number of turns. Rows of one group stay together: those of one template
    or conversation, and near duplicates (`data/groups.py`). The order of the rows does not matter.

    Raises:
        UserError: if there are fewer groups than folds.
    """
    table = KeyTable(group_by)
    for row in rows:
        table.add(row)
    groups = table.groups().tolist()
    members: dict[int, list[int]] = {}
    for n, group in enumerate(groups):
        members.setdefault(group, []).append(n)
    if len(members) < count:
        raise UserError(
            f"--k {count}: the {len(rows)} rows form only {len(members)} groups of one template, conversation or "
            "wording; lower --k, or set data.group_by: null"
        )
    learned = [len(examples_of(row)) for row in rows]
    sizes = {group: sum(learned[n] for n in some) for group, some in members.items()}
    hashes = {group: min(rows[n].content_hash() for n in some) for group, some in members.items()}
    fold_of: dict[int, int] = {}
    loads = [0] * count
    for group in sorted(members, key=lambda group: (-sizes[group], hashes[group])):
        fold_of[group] = loads.index(min(loads))
        loads[fold_of[group]] += sizes[group]
    return [[row for row, group in zip(rows, groups, strict=True) if fold_of[group] == n] for n in range(count)]


def fold_config(config: Config, n: int, files: Sequence[Path]) -> Config:
    """Return the config that trains on all files except the n-th, whose rows it scores. Validation rows are held out
    only if they choose the adapter."""
    data = config.data.model_dump() | {
        "train": tuple(str(file) for m, file in enumerate(files) if m != n),
        "test": (str(files[n]),),
        "format": "openai",
        "tools": None,
        "validation": config.data.validation if config.train.select_by == "exact_match" else 0.0,
        "train_rows": None,
        "test_rows": None,
    }
    return config.model_copy(
        update={
            "name": f"{config.name}-doubt{n + 1}of{len(files)}",
            "data": DataConfig(**data),
            "evaluate": config.evaluate.model_copy(update={"base": False, "split": "test"}),
        }
    )


def _say_cost(prepared: Prepared, trainings: int, folds: int, all_turns: int, console: Console) -> None:
    """Print how many trainings there will be, and about how long they and the scoring take."""
    with Progress("measuring this machine", None, "", console):
        plan = make_plan(prepared)
    training = next(stage for stage in plan.stages if stage.name == "training")
    seconds = training.seconds or 0.0
    # A forward pass alone takes half of the operations of a forward and backward pass.
    scoring = all_turns * seconds / (plan.training.steps * plan.training.effective_batch) / 2
    reused = f", {folds - trainings} more finished before" if trainings < folds else ""
    console.print(
        f"{trainings} trainings of {training.detail}, about {duration(seconds)} each{reused}; scoring {all_turns:,} "
        f"turns, about {duration(scoring)}; total about {duration(trainings * seconds + scoring)}",
        markup=False,
    )


def _doubts_of_fold(prepared: Prepared, rows: Sequence[Conversation], console: Console, *, fresh: bool) -> list[Doubt]:
    """Train the adapter of a fold, unless it is finished, and return its doubts about the gold of `rows`."""
    config = prepared.config
    started = RunFolder(RUNS / config.name)
    # An interrupted fold continues from its checkpoint when the command is run again.
    resume = not fresh and can_continue(started)
    try:
        run = train_only(prepared, resume=resume, fresh=fresh, console=console)
    except Interrupted as error:
        raise Interrupted(error.kept, flag="") from None
    if run is None:
        raise Interrupted(interruption(started).kept, flag="")
    tuned = TunedModel.load(run.path)
    rendered, _ = render_all(tuned.renderer, turns(rows), config.chat)
    model = tuned.load_weights()
    found = gold_doubts(model, tuned.renderer, rendered, config, tuned.hardware, console)
    del model
    release_memory(tuned.hardware.device)
    return found
