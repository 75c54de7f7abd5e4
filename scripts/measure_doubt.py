"""Measure `toolhone data doubt`: corrupt 5% of the gold turns of customer_service, and see how many it finds.

Four ways in equal shares, one in a row at most: a plausible other tool, another value, a call dropped (of several, or
replaced by text as if it had been done), a call added. The corrupted rows still pass `toolhone data check`. Prints
precision in the top 2.5% of all gold turns and recall in the top 10%, with 95% Wilson intervals, and the time.

    .venv/bin/python scripts/measure_doubt.py                        # Gemma 3 270M, about 25 minutes on two quiet cores
    .venv/bin/python scripts/measure_doubt.py --steps 90             # shorter trainings
    .venv/bin/python scripts/measure_doubt.py --quick --model DIR    # a tiny model: only shows that it runs

The corrupted rows, the ranking and the figures stay in runs/<name>-doubt. An interrupted measurement continues.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolhone.data.check import Survey
from toolhone.data.read import examples, read_conversations, read_tools, turns
from toolhone.data.values import codes
from toolhone.evaluate.doubts import Doubt, write_doubts
from toolhone.jsonl import write_conversations, write_json
from toolhone.rates import Rate, rate
from toolhone.records import Conversation, Example, Message, Tool, ToolCall

DATA = Path("data/customer_service")
MODEL = "gemma-3-270m"
WAYS = ("wrong tool", "wrong value", "call dropped", "call added")
SHARE = 0.05
TOP_PRECISION, TOP_RECALL = 0.025, 0.1
STEPS = 120
"""Steps of a training: three of about 3 s a step, and the scoring, take about 25 minutes on two cores."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/cpu.yaml"), help="default: %(default)s")
    parser.add_argument(
        "--model", type=Path, help="folder of the base model (default: the config's, fetched if missing)"
    )
    parser.add_argument("--steps", type=int, help=f"steps of each training (default: {STEPS})")
    parser.add_argument("--k", type=int, default=3, help="number of folds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="seed of the corruption (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the config")
    parser.add_argument("--quick", action="store_true", help="few rows, two folds, one step: the figures mean nothing")
    options = parser.parse_args()

    from rich.console import Console

    from toolhone.cli.terminal import prepare_libraries
    from toolhone.config_file import load_config
    from toolhone.fetch import fetch

    prepare_libraries()
    console = Console()
    name = "quick" if options.quick else "measure"
    folder = Path("runs") / f"{name}-doubt"
    tools = read_tools(DATA / "tools.json")
    rows = list(read_conversations(DATA / "train.jsonl", tools))
    if options.quick:
        rows, options.k = rows[:40], 2
    corrupted, truth = corrupt(rows, SHARE, options.seed)
    write_conversations(folder / "corrupted.jsonl", corrupted)
    write_json(folder / "truth.json", truth)
    steps = options.steps or (1 if options.quick else STEPS)
    small = ["train.batch_size=4", "evaluate.max_new_tokens=8", "model.dtype=float32"] if options.quick else []
    given = [f"name={name}", f"data.train=[{folder / 'corrupted.jsonl'}]", f"train.max_steps={steps}", *small]
    given += [f"model.name={options.model}"] if options.model else []
    config = load_config(options.config, [*given, *options.set])
    if options.model is None:
        fetch(MODEL, Path(config.model.name), console)

    from toolhone.doubt import cross_fit

    started = time.perf_counter()
    ranked = cross_fit(config, options.k, console)
    seconds = time.perf_counter() - started
    write_doubts(folder / "doubts.jsonl", ranked)
    found = figures(ranked, truth, len(turns(corrupted)))
    write_json(folder / "figures.json", {**found, "seconds": round(seconds, 1), "steps": steps, "seed": options.seed})
    show(found, ranked, truth, seconds, steps, options.k)
    return 0


# Corrupting


def corrupt(rows: Sequence[Conversation], share: float, seed: int) -> tuple[list[Conversation], dict[str, str]]:
    """Return the rows with a share of their gold turns corrupted, and the way of each by example id."""
    draw = random.Random(seed)
    done = list(rows)
    wanted = round(share * len(turns(rows)))
    pool, survey = Pool(rows), Survey()
    truth: dict[str, str] = {}
    for way, count in zip(WAYS, _equal_shares(wanted, len(WAYS)), strict=True):
        places = [(n, example) for n, row in enumerate(rows) if done[n] is row for example in examples(row)]
        draw.shuffle(places)
        left = count
        for n, example in places:
            if not left:
                break
            if done[n] is not rows[n]:
                continue
            wrong = corrupted_row(rows[n], example, way, pool, draw)
            if wrong is not None and not any(survey.faults(replace(wrong, id=f"{example.id} {way}"))):
                done[n], left = wrong, left - 1
                truth[example.id] = way
        if left:
            raise ValueError(f"{way}: {left} of {count} turns are missing; give more rows")
    return done, truth


def _equal_shares(total: int, parts: int) -> list[int]:
    return [total // parts + (n < total % parts) for n in range(parts)]


class Pool:
    """What wrong turns are made of: the texts of plain answers by language, and values by tool and argument."""

    def __init__(self, rows: Sequence[Conversation]) -> None:
        self.texts: dict[str, list[str]] = {}
        self.values: dict[tuple[str, str], list[Any]] = {}
        for row in rows:
            for message in row.messages:
                if message.role == "assistant" and not message.tool_calls:
                    self.texts.setdefault(str(row.meta.get("language")), []).append(message.content)
                for call in message.tool_calls:
                    for name, value in call.arguments.items():
                        self.values.setdefault((call.name, name), []).append(value)


def corrupted_row(
    row: Conversation, example: Example, way: str, pool: Pool, draw: random.Random
) -> Conversation | None:
    """Return the row with one gold turn wrong, and what follows changed so that it fits; None if it cannot be done."""
    n, turn = len(example.prompt), example.turn
    wrong = wrong_turn(example, way, pool, draw)
    if wrong is None:
        return None
    before, after = row.messages[:n], list(row.messages[n + 1 :])
    kept = {call.id for call in wrong.tool_calls}
    lost = {call.id for call in turn.tool_calls} - kept
    rest = [message for message in after if message.tool_call_id is None or message.tool_call_id not in lost]
    if turn.tool_calls and not wrong.tool_calls and after:
        # The turn says that it is done, without having done it: the sentence after the result.
        if rest and rest[0].role == "assistant" and not rest[0].tool_calls:
            return replace(row, messages=(*before, replace(rest[0], weight=1.0), *rest[1:]))
        return None
    added = [call for call in wrong.tool_calls if call.id not in {one.id for one in turn.tool_calls}]
    results = 0
    while results < len(rest) and rest[results].role == "tool":
        results += 1
    if added and (results or not turn.tool_calls):
        new = [Message("tool", '{"ok": true}', tool_call_id=call.id) for call in added]
        said = [] if turn.tool_calls else [replace(turn, weight=0.0)]
        rest = [*rest[:results], *new, *said, *rest[results:]]
    return replace(row, messages=(*before, wrong, *rest))


def wrong_turn(example: Example, way: str, pool: Pool, draw: random.Random) -> Message | None:
    """Return the gold turn with a fault; None if the turn cannot have this fault. Calls keep their ids."""
    calls = list(example.turn.tool_calls)
    if way == "call added":
        call = _added_call(example, draw) if len(calls) < 2 else None
        return None if call is None else replace(example.turn, content="", tool_calls=(*calls, call))
    if not calls:
        return None
    n = draw.randrange(len(calls))
    if way == "call dropped":
        if len(calls) > 1:
            return replace(example.turn, tool_calls=tuple(calls[:n] + calls[n + 1 :]))
        texts = pool.texts.get(str(example.meta.get("language")))
        return Message("assistant", draw.choice(texts)) if texts else None
    wrong = _other_tool(example, calls[n], draw) if way == "wrong tool" else _other_value(example, calls[n], pool, draw)
    if wrong is None or any((wrong.name, wrong.arguments) == (one.name, one.arguments) for one in calls):
        return None
    calls[n] = wrong
    return replace(example.turn, tool_calls=tuple(calls))


def _other_tool(example: Example, call: ToolCall, draw: random.Random) -> ToolCall | None:
    """Return the call to another tool, with the arguments that fit."""
    texts = [value for value in call.arguments.values() if isinstance(value, str)] or _codes_said(example)
    others = [
        replace(call, name=tool.name, arguments=filled)
        for tool in example.tools
        if tool.name != call.name and (filled := _fill(tool, call.arguments, texts, draw)) is not None
    ]
    return draw.choice(others) if others else None


def _added_call(example: Example, draw: random.Random) -> ToolCall | None:
    """Return a call that nobody asked for, about a code of the call beside it or of the conversation."""
    beside = {name: value for call in example.turn.tool_calls for name, value in call.arguments.items()}
    texts = [value for value in beside.values() if isinstance(value, str)] or _codes_said(example)
    taken = {call.name for call in example.turn.tool_calls}
    others = [
        ToolCall(tool.name, filled, "call_added")
        for tool in example.tools
        if tool.name not in taken and (filled := _fill(tool, beside, texts, draw)) is not None
    ]
    with_arguments = [call for call in others if call.arguments]
    return draw.choice(with_arguments or others) if others else None


def _codes_said(example: Example) -> list[str]:
    """Return the codes of the user's messages, the latest first."""
    said = [message.content for message in reversed(example.prompt) if message.role == "user"]
    return [code for text in said for code in sorted(codes(text))]


def _fill(tool: Tool, arguments: Mapping[str, Any], texts: Sequence[str], draw: random.Random) -> dict[str, Any] | None:
    """Return values for a tool's required arguments: those of the same name, one that the schema lists, or a text."""
    properties, required = tool.parameters.get("properties", {}), tool.parameters.get("required", [])
    taken = {value for name, value in arguments.items() if name in required and isinstance(value, str)}
    unused = [text for text in texts if text not in taken]
    filled: dict[str, Any] = {}
    for name in required:
        if name in arguments:
            filled[name] = arguments[name]
        elif "enum" in properties[name]:
            filled[name] = draw.choice(properties[name]["enum"])
        elif properties[name].get("type") == "string" and unused:
            filled[name] = unused.pop(0)
        else:
            return None
    return filled


def _other_value(example: Example, call: ToolCall, pool: Pool, draw: random.Random) -> ToolCall | None:
    """Return the call with another value of one argument: another of the list, a number changed, or another row's."""
    if not call.arguments:
        return None
    name = draw.choice(sorted(call.arguments))
    value = call.arguments[name]
    schema = next(tool.parameters for tool in example.tools if tool.name == call.name)["properties"].get(name, {})
    if "enum" in schema:
        others = [one for one in schema["enum"] if one != value]
    elif isinstance(value, int):
        others = [value + 1, value + 2]
    elif re.search(r"\d", value) and len(value) < 15:
        others = [_mistyped(value, draw)]
    else:
        others = [one for one in pool.values[call.name, name] if one != value]
    return replace(call, arguments={**call.arguments, name: draw.choice(others)}) if others else None


def _mistyped(code: str, draw: random.Random) -> str:
    place = draw.choice([n for n, letter in enumerate(code) if letter.isdigit()])
    digit = draw.choice([one for one in "0123456789" if one != code[place]])
    return code[:place] + digit + code[place + 1 :]


# Measuring


def figures(ranked: Sequence[Doubt], truth: Mapping[str, str], total: int) -> dict[str, Any]:
    """Return precision in the top 2.5% of `total` turns, recall in the top 10%, and the latter for each way."""
    first, more = round(TOP_PRECISION * total), round(TOP_RECALL * total)
    top, wide = ({doubt.id for doubt in ranked[:size]} for size in (first, more))
    ways = {}
    for way in WAYS:
        ids = {id_ for id_, one in truth.items() if one == way}
        ways[way] = {"in_top": rate(len(ids & top), len(ids)), "recall": rate(len(ids & wide), len(ids))}
    return {
        "turns": total,
        "corrupted": len(truth),
        "doubtful": len(ranked),
        "top": first,
        "wide": more,
        "precision": rate(len(top & truth.keys()), min(first, len(ranked))),
        "recall": rate(len(wide & truth.keys()), len(truth)),
        "ways": ways,
    }


def show(
    found: Mapping[str, Any],
    ranked: Sequence[Doubt],
    truth: Mapping[str, str],
    seconds: float,
    steps: int,
    folds: int,
) -> None:
    """Print the figures as Markdown, and the clean turns that rank highest."""
    print(f"\n{found['corrupted']} of {found['turns']} gold turns corrupted; {folds} trainings of {steps} steps;")
    print(f"{found['doubtful']} doubtful turns; {seconds / 60:.1f} minutes\n")
    print(f"precision in the top {TOP_PRECISION:.1%} ({found['top']} turns): **{_text(found['precision'])}**")
    print(f"recall in the top {TOP_RECALL:.0%} ({found['wide']} turns): **{_text(found['recall'])}**\n")
    print(f"| way | recall in the top {TOP_RECALL:.0%} | found in the top {TOP_PRECISION:.1%} |")
    print("| --- | --- | --- |")
    for way, rates in found["ways"].items():
        print(f"| {way} | {_text(rates['recall'])} | {_text(rates['in_top'])} |")
    print("\nclean turns that rank highest:\n")
    clean = [(rank, doubt) for rank, doubt in enumerate(ranked, 1) if doubt.id not in truth]
    for rank, doubt in clean[:10]:
        print(f"- {rank}: {doubt.id}: {doubt.doubt:.1f} nats, {doubt}")


def _text(found: Rate) -> str:
    if found["value"] is None:
        return "-"
    counts = f"{found['numerator']}/{found['denominator']}"
    return f"{found['value']:.1%} [{found['low']:.1%}, {found['high']:.1%}] {counts}"


if __name__ == "__main__":
    sys.exit(main())
