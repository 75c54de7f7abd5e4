"""Fuzz the parsers of model texts: mutated texts of every format, read strictly and with repairs.

Looks for exceptions, hangs, readings that contradict themselves, and time that grows faster than the text. The texts
are answers of models (`tests/fixtures/outputs` and --predictions), gold turns of `data/customer_service` and BFCL's
nested calls as each format in `FORMATS` writes them, and turns of other families (NATIVE). A text is read in the
formats that wrote or read it and in three others. The same seed gives the same texts. A new format needs no edit here.

    .venv/bin/python scripts/fuzz_parse.py                       # 1,000,000 texts, then lengths up to 1 MB
    .venv/bin/python scripts/fuzz_parse.py --texts 20000 --lengths 250000 --formats gemma4 harmony
    .venv/bin/python scripts/fuzz_parse.py --texts 0 --lengths 0 --compare 1c44ece
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from toolhone.chat.parse import parse_repaired, parse_turn
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.records import FinishReason, FormatName, Tool

ROOT = Path(__file__).parent.parent
TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            "query_order",
            "",
            {
                "type": "object",
                "properties": {
                    "order_id": {"type": "string"},
                    "count": {"type": ["integer", "null"]},
                    "price": {"type": "number"},
                    "open": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
                    "lines": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
                },
            },
        ),
        Tool("query_stock", "", {"type": "object"}),
        Tool("f", "", {"properties": {"a": {"enum": ["x", 1, None]}, "in": {}, "b": True}}),
    )
}
"""The declared tools, with schemas for the formats whose values are typed by them."""
OTHERS = 3
"""Number of formats, other than its own, in which a text is read."""
MAX_EXPONENT = 1.5
"""Greatest accepted exponent e in time ~ length**e."""
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


NATIVE = [
    '[TOOL_CALLS][{"name": "query_order", "arguments": {"order_id": "1"}, "id": "abcdefghi"}]</s>',
    'One moment.[TOOL_CALLS]query_order[ARGS]{"order_id": "1"}[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{}</s>',
    '<|tool_call|>[{"name": "query_order", "arguments": {"order_id": "1"}}]<|/tool_call|>',
    'functools[{"name": "query_order", "arguments": {"order_id": "1"}}, {"name": "f", "arguments": {}}]',
    '<tool_call>[{"name": "query_order", "arguments": {"order_id": "1"}}]</tool_call>',
    "<tool_call>query_order\n<arg_key>order_id</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
    "<tool_call>\n<function=query_order>\n<parameter=order_id>\n1\n</parameter>\n</function>\n</tool_call>",
    '<function name="query_order"><param name="order_id">1</param></function>',
    '<function=query_order>{"order_id": "1"}</function>',
    "<|python_start|>[query_order(order_id='1', count=2)]<|python_end|>",
    '<tool_calls>[{"name": "query_order", "arguments": {"order_id": "1"}}]</tool_calls>',
    "<|tool_call_start|>[query_order(order_id='1', lines=[{'n': 1}]), f(a=None, b=True)]<|tool_call_end|>",
    '[query_order(order_id="1", price=-1.5e-7), f()]',
    "<function_calls>query_order(order_id='1')\nf(a=1)</function_calls>",
    "```tool_code\nprint(default_api.query_order(order_id='1'))\n```",
    "<start_function_call>call:query_order{order_id:<escape>1<escape>,count:2}<end_function_call>",
    '<|channel>thought\nHm.\n<channel|><|tool_call>call:f{a:<|"|>x<|"|>,in:{k:[1,true,null]}}<tool_call|>',
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>query_order\n"
    '```json\n{"order_id": "1"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.query_order "
    '<|constrain|>json<|message|>{"order_id": "1"}<|call|>',
    '<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"a": 1}<|call|>',
    'query_order\n{"order_id": "1"}',
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
    '{"a": 1}<|tool_call_end|><|tool_calls_section_end|>',
    "<seed:tool_call>\n<function=f>\n<parameter=a>1</parameter>\n</function>\n</seed:tool_call>",
    '<|action_start|><|plugin|>\n{"name": "f", "parameters": {"a": 1}}<|action_end|>',
    '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": {"a": 1}}]<|END_ACTION|>',
    '<|tools_prefix|>[{"f": {"a": 1}}]<|tools_suffix|>',
    '<function_calls>\n<invoke name="f">\n<parameter name="a">1</parameter>\n</invoke>\n</function_calls>',
    'Thought: look.\nAction: f\nAction Input: {"a": 1}\nObservation:',
    '```json\n{"name": "f", "arguments": {"a": "x"}}\n```',
    '<tool_call>\n```json\n{"name": "f", "arguments": {"a": "x"}}\n```\n</tool_call>',
    "<tool_call>\n{'name': 'f', 'arguments': {'a': True, 'b': None}}\n</tool_call>",
    "<think>\nHm.\n</think>\n\nWhich order?",
]
"""Turns of model families, as their own templates write them, and turns that a repair fixes."""

_TOKEN = re.compile(r"<[^<>\s]{1,40}>|\[[A-Z_]+\]|\w+|\s+|.", re.DOTALL)
_SIGNS = ('"', "'", "{", "[", "(", "\\", " ", "\n", "1", "-", ",", ":", "a", "<", "=")


class Source(NamedTuple):
    """A text to mutate, and the formats that wrote or read it."""

    text: str
    formats: tuple[FormatName, ...] = ()


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
        "--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="formats to read in (default: all)"
    )
    parser.add_argument(
        "--compare", metavar="COMMIT", help="compare the median time with that of a commit, on the same texts"
    )
    parser.add_argument(
        "--predictions", type=Path, nargs="*", default=[], help="files of predictions to take texts from"
    )
    options = parser.parse_args()
    sources = read_sources(options.predictions)
    print(f"{options.texts:,} texts mutated from {len(sources):,}, seed {options.seed}", flush=True)
    is_fast = True
    if options.texts:
        found = fuzz(sources, options.texts, options.seed, formats=options.formats, report=True)
        print(json.dumps(found, indent=2), flush=True)
    if options.lengths:
        grown = growth(options.lengths, options.formats)
        print(json.dumps(grown, indent=2), flush=True)
        is_fast = all(row["greatest_exponent"] <= MAX_EXPONENT for row in grown.values())
    if options.compare:
        print(json.dumps(compare(options.compare, sources, options.seed), indent=2))
    return 0 if is_fast else 1


def read_sources(predictions: Sequence[Path] = ()) -> list[Source]:
    """Return the texts to mutate."""
    from toolhone.data.read import examples, read_conversations, read_tools

    sources: list[Source] = []
    for path in [*sorted((ROOT / "tests/fixtures/outputs").glob("*.jsonl")), *predictions]:
        sources += [Source(json.loads(line)["text"]) for line in path.read_text(encoding="utf-8").splitlines()]
    for text in NATIVE:
        native = Source(text, tuple(name for name in FORMATS if parse_turn(text, name, tools=TOOLS).calls))
        sources += [native] * 10  # they are few and short, and the other sources many
    tools = read_tools(ROOT / "data/customer_service/tools.json")
    turns = [
        turn for row in read_conversations(ROOT / "data/customer_service/test.jsonl", tools) for turn in examples(row)
    ]
    said = [(t.turn.content, [(c.name, c.arguments) for c in t.turn.tool_calls]) for t in turns]
    said += [("", calls) for calls in _bfcl_calls()]
    for content, calls in said:
        raw = [RawCall(name, json.dumps(arguments, ensure_ascii=len(sources) % 2 == 0)) for name, arguments in calls]
        sources += [Source(FORMATS[name].write(content, raw, "stop"), (name,)) for name in FORMATS]
        sources += [Source(_as_text(call), ("hermes",)) for call in calls[:1]]
    return sources


@cache
def own_call(name: FormatName) -> str:
    """Return a short call as a format writes it."""
    arguments = {"order_id": "x", "count": 2, "lines": [{"n": 1}], "open": None}
    return FORMATS[name].write("", [RawCall("query_order", json.dumps(arguments))], "stop")


@cache
def own_pieces(name: FormatName) -> list[str]:
    """Return texts of a format's syntax to put into others: its tokens, and the beginnings and ends of a call."""
    call = own_call(name)
    ends = [token.end() for token in _TOKEN.finditer(call)]
    tokens = {*FORMATS[name].control_tokens, *_TOKEN.findall(call)}
    return sorted({*tokens, *(call[:end] for end in ends), *(call[end:] for end in ends[:-1])})


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


def mutated(sources: Sequence[Source], draw: random.Random) -> Source:
    """Return a source with one to six changes."""
    source = draw.choice(sources)
    own = own_pieces(draw.choice(source.formats or tuple(FORMATS)))
    text = source.text
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4, 6))):
        pieces = own if draw.random() < 0.5 else PIECES
        first, last = sorted((draw.randint(0, len(text)), draw.randint(0, len(text))))
        near = min(last, first + draw.randint(0, 12))
        kind = draw.randrange(10)
        if kind == 0:
            text = text[:first] + text[near:]
        elif kind == 1:
            text = text[:first] + draw.choice(pieces) + text[first:]
        elif kind == 2:
            text = text[:first] + draw.choice(pieces) + text[near:]
        elif kind == 3:
            text = text[:last] + text[first:]
        elif kind == 4:
            text = text[:first]
        elif kind == 5:
            text = text[:first] + draw.choice(sources).text[: draw.randint(1, 400)] + text[first:]
        elif kind == 6:
            text = text[:first] + chr(draw.randrange(0x110000)) + text[first:]
        elif kind == 7:
            text = text[:first] + draw.choice(pieces) * draw.randint(2, 60) + text[near:]
        elif kind == 8:
            old, new = draw.choice(
                [('"', "'"), ("true", "True"), ("}", ""), ("\n", " "), ("arguments", "parameters"), (": {", ': "{')]
            )
            text = text.replace(old, new, draw.choice([1, -1]))
        else:
            text = text[:first] + text[first:last][::-1] + text[last:]
    return Source(text, source.formats)


def fuzz(
    sources: Sequence[Source],
    count: int,
    seed: int,
    *,
    formats: Collection[FormatName] = tuple(FORMATS),
    report: bool = False,
) -> dict[str, Any]:
    """Read `count` mutated texts, each in its own formats and in `OTHERS` others, and return the figures.

    Raises:
        AssertionError: with seed and text, if a reading raises, hangs or contradicts itself.
    """
    draw = random.Random(seed)
    microseconds = array("d")
    statuses: dict[FormatName, Counter[str]] = {name: Counter() for name in formats}
    repaired, repairs = Counter[str](), Counter[str]()
    characters = longest = 0
    for first in range(0, count, 100):
        with _no_hang(f"seed {seed}, texts {first} to {first + 99}"):
            for number in range(first, min(first + 100, count)):
                source, cut = mutated(sources, draw), draw.random() < 0.3
                text = source.text
                finish_reason: FinishReason = "length" if cut else "stop"
                tools = draw.choice([TOOLS, TOOLS, tuple(TOOLS), None])
                others = draw.sample(list(formats), min(OTHERS, len(formats)))
                characters, longest = characters + len(text), max(longest, len(text))
                for name in dict.fromkeys([*(own for own in source.formats if own in statuses), *others]):
                    try:
                        # Wall clock: asking for the thread's clock can take longer than reading a text.
                        started = time.perf_counter_ns()
                        turn = parse_turn(text, name, finish_reason, tools=tools)
                        microseconds.append((time.perf_counter_ns() - started) / 1000)
                        repaired_turn = parse_repaired(text, name, finish_reason, tools=tools)
                        fault = _at_odds(turn, text, cut) or _at_odds(repaired_turn.turn, text, cut)
                        if not repaired_turn.repairs and repr(repaired_turn.turn) != repr(turn):
                            fault = "another reading though no repair fired"
                    except Exception as error:
                        raise AssertionError(f"seed {seed}, text {number}, {name}: {error!r} on {text!r}") from error
                    if fault:
                        raise AssertionError(f"seed {seed}, text {number}, {name}: {fault} on {text!r}")
                    statuses[name][turn.status] += 1
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
        "statuses": {name: dict(counted) for name, counted in statuses.items()},
        "repaired": dict(repaired),
        "repairs": dict(repairs),
    }


def _at_odds(turn: Any, text: str, cut: bool) -> str | None:
    """What is wrong with a reading, whatever the text; None if nothing is."""
    if bool(turn.calls) != (turn.status in ("calls", "partial")):
        return f"status {turn.status} with {len(turn.calls)} calls"
    if (turn.failure is None) != (turn.status in ("calls", "none")):
        return f"status {turn.status} with failure {turn.failure!r}"
    if turn.status == "truncated" and not cut:
        return "truncated though the text was not cut"
    if len(turn.calls) != len(turn.places) or len(turn.calls) != len(turn.spans):
        return f"{len(turn.calls)} calls with {len(turn.places)} places"
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


def growth(longest: int, formats: Collection[FormatName] = tuple(FORMATS), doublings: int = 3) -> dict[str, Any]:
    """Read repetitions of adversarial units, with repairs, at lengths that double.

    ADVERSARIAL is read up to `longest` characters, a format's own units up to a quarter of it.

    Returns:
        For each format the longest time, and the greatest exponent e in time ~ length**e over all doublings, among the
        cases that take at least 20 ms at the longest (1 is linear, 2 quadratic).
    """
    found: dict[str, Any] = {}
    for name in formats:
        slowest: tuple[float, str] = (0.0, "")
        steepest: tuple[float, str] = (0.0, "")
        cases = [(front, unit, longest) for unit in ADVERSARIAL for front in ("", "{'name': 'f', 'arguments': {'a': ")]
        cases += [(front, unit, longest // 4) for front, unit in own_cases(name)]
        for front, unit, limit in cases:
            seconds, exponent = _growth_of(name, front, unit, limit, doublings)
            if exponent > MAX_EXPONENT:  # measure again: another process may have had the caches
                seconds, exponent = min((seconds, exponent), _growth_of(name, front, unit, limit, doublings))
            case = f"{front}{unit!r}"
            slowest, steepest = max(slowest, (seconds, case)), max(steepest, (exponent, case))
        found[name] = {
            "cases": len(cases),
            "slowest_seconds": round(slowest[0], 3),
            "slowest": slowest[1],
            "greatest_exponent": round(steepest[0], 2),
            "steepest": steepest[1],
        }
    return found


def own_cases(name: FormatName) -> list[tuple[str, str]]:
    """Return a format's own adversarial cases: a text before, and the unit that is repeated after it.

    They are its pieces alone, and signs and its own tokens after each beginning of a call.
    """
    call = own_call(name)
    tokens = [token for token in FORMATS[name].control_tokens if token]
    ends = [token.end() for token in _TOKEN.finditer(call)]
    fronts = [call[:end] for end in ends[:: max(1, len(ends) // 8)]]
    units = [*_SIGNS, *tokens]
    return [("", piece) for piece in own_pieces(name)] + [(front, unit) for front in fronts for unit in units]


def _growth_of(name: FormatName, front: str, unit: str, longest: int, doublings: int) -> tuple[float, float]:
    """Return the seconds at the longest, and the exponent of the growth; 0 if it takes less than 20 ms."""
    seconds = []
    for doubling in range(doublings + 1):
        length = longest >> (doublings - doubling)
        text = front + unit * (length // len(unit))
        # The shortest and the longest decide the exponent.
        seconds.append(min(_seconds(text, name) for _ in range(2 if doubling in (0, doublings) else 1)))
    if seconds[-1] < 0.02:
        return seconds[-1], 0.0
    return seconds[-1], math.log2(seconds[-1] / max(seconds[0], 1e-6)) / doublings


def _seconds(text: str, name: FormatName) -> float:
    started = time.thread_time()
    parse_repaired(text, name, "length", tools=TOOLS)
    return time.thread_time() - started


COMPARED = ("hermes", "llama3", "gemma", "json")
"""The formats that all commits know."""

_TIME_TEXTS = """
import json, sys, time
from toolhone.chat.parse import parse_turn
texts, formats, tools = json.load(open(sys.argv[1], encoding="utf-8"))
keys = {"tools": tools} if tools else {}
best = {}
for _ in range(3):
    for name in formats:
        for number, text in enumerate(texts):
            started = time.perf_counter_ns()
            parse_turn(text, name, "stop", **keys)
            took = time.perf_counter_ns() - started
            best[name, number] = min(took, best.get((name, number), took))
print(json.dumps([best[name, number] for name in formats for number in range(len(texts))]))
"""


def compare(commit: str, sources: Sequence[Source], seed: int, count: int = 2000, rounds: int = 3) -> dict[str, Any]:
    """Compare the median time of `parse_turn` with that of a commit, on the same mutated texts.

    Each text is read nine times in each of the formats that both know; its fastest reading counts. `ratio` is without
    declared tools, which old commits do not know, and `ratio_with_tools` with three of them.
    """
    draw = random.Random(seed)
    # Surrogates cannot be written to the file.
    texts = [mutated(sources, draw).text.encode(errors="replace").decode() for _ in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "commit"
        subprocess.run(["git", "worktree", "add", "--detach", "-q", str(old), commit], cwd=ROOT, check=True)
        try:
            times: Mapping[str, list[list[int]]] = {"old": [], "new": [], "tools": []}
            for _ in range(rounds):
                for label, root in (("old", old), ("new", ROOT), ("tools", ROOT)):
                    tools = list(TOOLS) if label == "tools" else None
                    times[label].append(_times(root / "src", Path(folder) / "texts.json", texts, tools))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(old)], cwd=ROOT, check=True)
    medians = {label: statistics.median(map(min, zip(*runs, strict=True))) / 1000 for label, runs in times.items()}
    return {
        "commit": commit,
        "texts": count,
        "formats": COMPARED,
        "median_microseconds": {label: round(median, 1) for label, median in medians.items()},
        "ratio": round(medians["new"] / medians["old"], 2),
        "ratio_with_tools": round(medians["tools"] / medians["old"], 2),
    }


def _times(src: Path, file: Path, texts: Sequence[str], tools: Sequence[str] | None) -> list[int]:
    """Return the time of reading each text in each format, in nanoseconds, with the toolhone of a source folder."""
    file.write_text(json.dumps([texts, COMPARED, tools]), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(src)}
    command = [sys.executable, "-c", _TIME_TEXTS, str(file)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    times: list[int] = json.loads(done.stdout)
    return times


if __name__ == "__main__":
    sys.exit(main())
