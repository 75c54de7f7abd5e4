"""Fuzz the parsers of model texts: mutated real texts, in every format, strictly and with repairs.

Looks for exceptions, hangs, readings that contradict themselves, and time that grows faster than the text. The texts
are answers of models (`tests/fixtures/outputs` and --predictions), gold turns of `data/customer_service` and BFCL's
nested calls, with the syntax of all formats. The same seed gives the same texts.

    .venv/bin/python scripts/fuzz_parse.py                       # 1,000,000 texts, then lengths up to 1 MB
    .venv/bin/python scripts/fuzz_parse.py --texts 20000 --lengths 250000
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolhone.chat.parse import parse_repaired, parse_turn
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.records import FormatName, Tool

ROOT = Path(__file__).parent.parent
_TYPES = {"a": "string", "n": "integer", "order_id": "string", "list": "array", "object": "object", "flag": "boolean"}
_SCHEMA = {"type": "object", "properties": {name: {"type": type_} for name, type_ in _TYPES.items()}}
TOOLS = {name: Tool(name, "", _SCHEMA) for name in ("query_order", "query_stock", "f")}
"""The declared tools by name."""
HANG_SECONDS = 20
"""Limit for 100 texts, in seconds of processor time."""

PIECES = [
    "<tool_call>", "</tool_call>", "<tool_call>\n{", "<think>", "</think>", "<|python_tag|>", "<|eom_id|>",
    "<|eot_id|>",
    "<|im_end|>", "<|endoftext|>", "<function=", "[TOOL_CALLS]", "<|tool_call_start|>[query_order(order_id='1')]",
    "<|tool_call|>", "functools[{", "to=functions.query_order", "<｜tool▁calls▁begin｜>", "Action Input: ",
    "<tool_call>query_order\n<arg_key>", "query_order", 'query_order(order_id="', "query_order\n{", "[f(a=1)]",
    "```", "```json\n", "\n```\n", "{", "}", "[", "]",
    "[]", "{}", '"', "'", "\\", '\\"', "\\u00e9", "\\ud83d", "\ud800", ";", "; ", ",", ":", "\n", " ", "\t",
    "\x00", "\u2028", "NaN", "Infinity", "1e999", "-", "0", "True", "None", "null", '{"name": "', '", "arguments": {',
    '"parameters": {', '"name": "f", ', "{'name': 'f', 'arguments': {", '{"type": "function", ', "é", "e\u0301",
    "查询", "😀", "<", "<tool", "<function=f>\n<parameter=a>\n", "\n</parameter>\n", "</function>", "<parameter=n>",
    '<function name="f"><param name="a">', "<![CDATA[", "]]></param>", "</param>", "&amp;", "<arg_key>a</arg_key>",
    "<tool_call>f\n<arg_key>n</arg_key><arg_value>", "</arg_value>", "<|assistant|>", "\nf\n{", "query_order\n{}",
    "[f(a=", "f(a='", ", b=", ")]", "<|tool_call_start|>[", "]<|tool_call_end|>", "<function_calls>",
    "</function_calls>", "```tool_code\n", "print(", ".call(", "\\x4", "\\N{", "\"\"\"", "**",
]  # fmt: skip

ADVERSARIAL = [
    "{", "[", "{[", '{"', '{"a":', '{"a":[', "[[", "}", "]", '"', "'", "\\", "<tool_call>", "<tool_call>{",
    '<tool_call>{"name": "', '<tool_call>{"name": "f", "arguments": {"a": "', "<tool_call>{'a': ", "<tool_call>['\\'",
    "</tool_call>", "<tool", "<think>", "</think>", "<think></think>", "<|python_tag|>", "<|python_tag|>{", "```",
    "\n```", '\n```json\n{"name": "', '\n```json\n{"name": "f", "arguments": {}}\n', "\n```\n{'name': 'f', ",
    '\n{"name": "f", "arguments": {}}', '\n{"name": "', '\n{"name": True, ', "\n{'name': True, ",
    '\n{"name": {"name": ',
    "query_order", "query_order ", "query_order(", "query_order \n", "<query_order", "[f(", "[ ", "<tool_call> ",
    "<tool_call>\n<function=f>\n<parameter=a>\n", "<function=f>", "<parameter=a>", "</parameter>", "</function>", "< ",
    "<function=f><parameter=a></parameter>", '<function name="f">', '<function name="f"><param name="a">', "<![CDATA[",
    '<function name="f"><param name="a"><![CDATA[', "]]></param>", "<b>", "&", "&amp;", "<tool_call>f<arg_key>",
    "<arg_key>a</arg_key><arg_value>", "<tool_call>f<arg_key>a</arg_key><arg_value>", "<|assistant|>", "\nf\n{",
    "\nf\n{}",
    '<function name="f"><param name="a">x</param></function>', "<function=f></function>", "<tool_call>f</tool_call>",
    '{"name": "f", "arguments": "', '{"name":\n', '"name": "f", "arguments": ', "'name': '", "'name': \"", "; ", "[{",
    '\n[{"name": "f"}, ', '{"arguments": {', " ", "\n", "<|im_end|>", "<|im_end|> ", "<function=", "\\u", "-", "1",
    "[f(a=", "[f(a=[", "[f(a={'b':", "[f(a=1), ", "\n[f(a=1)]", "<|tool_call_start|>[f(", "<|tool_call_start|>[f(a='",
    "<function_calls>f(", "<function_calls>f()\n", "```tool_code\nf(", "<|python_tag|>f.call(", "\\x", "'\\",
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1_000_000, help="number of texts; 0: none (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the mutations, a whole number (default: %(default)s)"
    )
    parser.add_argument(
        "--lengths",
        type=int,
        default=1_000_000,
        help="longest repetition, in characters; 0: none (default: %(default)s)",
    )
    parser.add_argument(
        "--predictions", type=Path, nargs="*", default=[], help="files of predictions to take texts from"
    )
    options = parser.parse_args()
    sources = read_sources(options.predictions)
    print(f"{options.texts:,} texts mutated from {len(sources):,}, seed {options.seed}", flush=True)
    if options.texts:
        print(json.dumps(fuzz(sources, options.texts, options.seed, report=True), indent=2), flush=True)
    if options.lengths:
        print(json.dumps(growth(options.lengths), indent=2))
    return 0


def read_sources(predictions: Sequence[Path] = ()) -> list[str]:
    """The texts to mutate."""
    from toolhone.data.read import examples, read_conversations, read_tools

    texts: list[str] = []
    for path in [*sorted((ROOT / "tests/fixtures/outputs").glob("*.jsonl")), *predictions]:
        texts += [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    tools = read_tools(ROOT / "data/customer_service/tools.json")
    turns = [
        turn for row in read_conversations(ROOT / "data/customer_service/test.jsonl", tools) for turn in examples(row)
    ]
    said = [(t.turn.content, [(c.name, c.arguments) for c in t.turn.tool_calls]) for t in turns]
    said += [("", calls) for calls in _bfcl_calls()]
    for content, calls in said:
        raw = [RawCall(name, json.dumps(arguments, ensure_ascii=len(texts) % 2 == 0)) for name, arguments in calls]
        texts += [FORMATS[format].write(content, raw, "stop") for format in FORMATS]
        texts += [_as_text(call) for call in calls[:1]]
    return texts


def _as_text(call: tuple[str, dict[str, Any]]) -> str:
    """A call in the hermes format whose arguments are a JSON text, as OpenAI's API has them."""
    body = json.dumps({"name": call[0], "arguments": json.dumps(call[1], ensure_ascii=False)}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def _bfcl_calls() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The gold calls of BFCL's rows, each argument with its first accepted value, and one row's calls nested deeper."""
    for path in sorted((ROOT / "tests/fixtures/formats/bfcl/possible_answer").glob("*.json")):
        for line in path.read_text(encoding="utf-8").splitlines():
            gold = json.loads(line)["ground_truth"]
            calls = [
                (name, {k: v[0] for k, v in arguments.items() if v})
                for call in gold
                for name, arguments in call.items()
            ]
            yield calls
            yield [
                (name, {"in": {"list": [arguments, {"again": arguments, "text": "a } ; </tool_call> ```"}]}})
                for name, arguments in calls
            ]


def mutated(sources: Sequence[str], draw: random.Random) -> str:
    """A source with one to six changes."""
    text = draw.choice(sources)
    for _ in range(draw.randint(1, 6)):
        first, last = sorted((draw.randint(0, len(text)), draw.randint(0, len(text))))
        near = min(last, first + draw.randint(0, 12))
        kind = draw.randrange(10)
        if kind == 0:
            text = text[:first] + text[near:]
        elif kind == 1:
            text = text[:first] + draw.choice(PIECES) + text[first:]
        elif kind == 2:
            text = text[:first] + draw.choice(PIECES) + text[near:]
        elif kind == 3:
            text = text[:last] + text[first:]
        elif kind == 4:
            text = text[:first]
        elif kind == 5:
            text = text[:first] + draw.choice(sources)[: draw.randint(1, 400)] + text[first:]
        elif kind == 6:
            text = text[:first] + chr(draw.randrange(0x110000)) + text[first:]
        elif kind == 7:
            text = text[:first] + draw.choice(PIECES) * draw.randint(2, 60) + text[near:]
        elif kind == 8:
            old, new = draw.choice(
                [('"', "'"), ("true", "True"), ("}", ""), ("\n", " "), ("arguments", "parameters"), (": {", ': "{')]
            )
            text = text.replace(old, new, draw.choice([1, -1]))
        else:
            text = text[:first] + text[first:last][::-1] + text[last:]
    return text


def fuzz(sources: Sequence[str], count: int, seed: int, *, report: bool = False) -> dict[str, Any]:
    """Read `count` mutated texts in every format and return the figures.

    Raises:
        AssertionError: with seed and text, if a reading raises, hangs or contradicts itself.
    """
    draw = random.Random(seed)
    microseconds = array("d")
    statuses, repaired, repairs = Counter[str](), Counter[str](), Counter[str]()
    characters = longest = 0
    for first in range(0, count, 100):
        with _no_hang(f"seed {seed}, texts {first} to {first + 99}"):
            for number in range(first, min(first + 100, count)):
                text, cut = mutated(sources, draw), draw.random() < 0.3
                characters, longest = characters + len(text), max(longest, len(text))
                for format in FORMATS:
                    try:
                        # Wall clock: asking for the thread's clock can take longer than reading a text.
                        started = time.perf_counter_ns()
                        turn = parse_turn(text, format, "length" if cut else "stop", tools=TOOLS)
                        microseconds.append((time.perf_counter_ns() - started) / 1000)
                        repaired_turn = parse_repaired(text, format, "length" if cut else "stop", tools=TOOLS)
                        fault = _at_odds(turn, cut) or _at_odds(repaired_turn.turn, cut)
                        if not repaired_turn.repairs and repr(repaired_turn.turn) != repr(turn):
                            fault = "another reading though no repair fired"
                    except Exception as error:
                        raise AssertionError(f"seed {seed}, text {number}, {format}: {error!r} on {text!r}") from error
                    if fault:
                        raise AssertionError(f"seed {seed}, text {number}, {format}: {fault} on {text!r}")
                    statuses[turn.status] += 1
                    repairs.update(repaired_turn.repairs)
                    if repaired_turn.repairs:
                        repaired[f"{turn.status} to {repaired_turn.turn.status}"] += 1
        if report and first and first % 10_000 == 0:
            print(f"  {first:,} texts, {time.process_time():.0f} s of processor time", flush=True)
    times = sorted(microseconds)
    return {
        "texts": count,
        "readings": len(times),
        "exceptions": 0,
        "characters_mean": round(characters / count),
        "characters_longest": longest,
        "microseconds": {
            name: round(times[min(len(times) - 1, int(share * len(times)))], 1)
            for name, share in (("median", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))
        },
        "statuses": dict(statuses),
        "repaired": dict(repaired),
        "repairs": dict(repairs),
    }


def _at_odds(turn: Any, cut: bool) -> str | None:
    """What is wrong with a reading, whatever the text; None if nothing is."""
    if bool(turn.calls) != (turn.status in ("calls", "partial")):
        return f"status {turn.status} with {len(turn.calls)} calls"
    if (turn.failure is None) != (turn.status in ("calls", "none")):
        return f"status {turn.status} with failure {turn.failure!r}"
    if turn.status == "truncated" and not cut:
        return "truncated though the text was not cut"
    json.dumps([call.to_json() for call in turn.calls], ensure_ascii=False, allow_nan=False).encode()
    return None


@contextmanager
def _no_hang(what: str) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise AssertionError(f"{what}: no reading after {HANG_SECONDS} s of processor time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def growth(longest: int, units: Sequence[str] = ADVERSARIAL, doublings: int = 3) -> dict[str, Any]:
    """Read repetitions of each unit, with repairs, at lengths that double up to `longest` characters.

    Returns the longest time, and the greatest exponent e in time ~ length**e over all doublings, among those that take
    at least 20 ms at the longest (1 is linear, 2 quadratic).
    """
    slowest: tuple[float, str] = (0.0, "")
    steepest: tuple[float, str] = (0.0, "")
    for unit in units:
        for format in FORMATS:
            # Once after a call, so that something is repaired too, and once the unit alone.
            for front in ("", "{'name': 'f', 'arguments': {'a': "):
                seconds = []
                for doubling in range(doublings + 1):
                    length = longest >> (doublings - doubling)
                    text = front + unit * (length // len(unit))
                    seconds.append(min(_seconds(text, format) for _ in range(2 if doubling in (0, doublings) else 1)))
                name = f"{format} {front}{unit!r}"
                slowest = max(slowest, (seconds[-1], name))
                if seconds[-1] >= 0.02:
                    steepest = max(steepest, (math.log2(seconds[-1] / max(seconds[0], 1e-6)) / doublings, name))
    return {
        "characters": longest,
        "cases": len(units) * len(FORMATS) * 2,
        "slowest_seconds": round(slowest[0], 3),
        "slowest": slowest[1],
        "greatest_exponent": round(steepest[0], 2),
        "steepest": steepest[1],
    }


def _seconds(text: str, format: FormatName) -> float:
    started = time.thread_time()
    parse_repaired(text, format, "length", tools=TOOLS)
    return time.thread_time() - started


if __name__ == "__main__":
    sys.exit(main())
