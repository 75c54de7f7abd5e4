"""Fuzz the readers of conversations: rows of every format, with mutated bytes and mutated structure.

Every mutated row must give a conversation or a named fault, and never an exception. Every learned turn of a log must
be accounted for. A conversation must be the same after it is written and read again, and the check must accept all of
them. The rows come from `tests/fixtures`. The same seed gives the same rows.

    .venv/bin/python scripts/fuzz_readers.py                             # 100,000 rows a reader
    .venv/bin/python scripts/fuzz_readers.py --rows 2000 --reader bfcl --reader logs-streamed
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from toolhone.data.check import Survey
from toolhone.data.importers import IMPORTERS
from toolhone.data.importers.importer import RowFault
from toolhone.data.importers.openai import conversation
from toolhone.data.read import read_source
from toolhone.jsonl import conversation_line
from toolhone.records import Conversation
from toolhone.strict_json import parse_line

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
BATCH = 500
"""Number of rows in a file. Each file is read and checked as a whole."""

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 5.0, 1.5, 10**30, 1e308, "", " ", "x", "é", "e\u0301", "查询", "😀", "\x00", "\ud800",
    [], {}, [[]], [{}], {"": None}, [None], {"role": "user"}, {"name": "f", "arguments": {}}, "[]", "{}", "null", '"x"',
    '{"a": 1, "a": 2}', '{"a": NaN}', "[f(x=1)]", "[f(]", "<tool_call>", "</tool_call>", "<tools>[]</tools>", "<tools>",
    "USER: a", "ASSISTANT: b <|endoftext|>", "<functioncall> {", "FUNCTION RESPONSE: ", "data: [DONE]", "data: {",
    "system", "user", "assistant", "tool", "function", "developer", "human", "gpt", "observation", "function_call",
    "function_call_output", "message", "reasoning", "object", "string", "integer", "dict", "List[int]", "str, optional",
    "Union[int, str]", "Tuple[int, ...]", "any", "stop", "length", "call_1", "required", "simple_python_1", "type",
]  # fmt: skip
BYTES = [b"{", b"}", b"[", b"]", b'"', b"'", b"\\", b",", b":", b" ", b"\t", b"\r", b"\x00", b"\xff", b"\xef\xbb\xbf"]
BYTES += [b"\\u0000", b"\\ud800", b"\\ude00", b"NaN", b"1e999", b"-", b"0", b"null", b"\xe2\x80\xa8", b"\xed\xa0\x80"]


def rows_of(name: str) -> list[dict[str, Any]]:
    text = (FIXTURES / name).read_text(encoding="utf-8")
    found: list[dict[str, Any]] = (
        json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    )
    return found


def fixtures(importer: str) -> list[dict[str, Any]]:
    """The rows of an importer's fixtures."""
    files = sorted((FIXTURES / "importers" / importer).glob("*.jsonl"))
    return [row for file in files for row in rows_of(str(file.relative_to(FIXTURES)))]


def legacy(row: dict[str, Any]) -> dict[str, Any]:
    """The row as OpenAI's format was before tools: one call a turn, answered under its function's name."""
    made, called = [], ""
    for message in row["messages"]:
        if message["role"] == "tool" and made[-1]["role"] == "function":
            continue  # result of a second parallel call, which the old format did not have
        if message["role"] == "tool":
            made.append({"role": "function", "name": called, "content": message["content"]})
        elif message.get("tool_calls"):
            call = message["tool_calls"][0]["function"]
            called = call["name"]
            made.append({"role": "assistant", "content": None, "function_call": call})
        else:
            made.append(message)
    return {"messages": made, "functions": [tool["function"] for tool in row["tools"]]}


def naive(row: dict[str, Any]) -> dict[str, Any]:
    """The row as tutorials write it, without ids, types and tools."""
    made = []
    for message in row["messages"]:
        kept = {key: value for key, value in message.items() if key != "tool_call_id"}
        if kept.get("tool_calls"):
            kept["tool_calls"] = [{"function": call["function"]} for call in kept["tool_calls"]]
        made.append(kept)
    return {"messages": made}


def bfcl_rows() -> list[dict[str, Any]]:
    """The questions, each with its gold."""
    found = []
    for path in sorted((FIXTURES / "formats" / "bfcl").glob("*.json")):
        gold = path.parent / "possible_answer" / path.name
        golds = (
            {row["id"]: row["ground_truth"] for row in rows_of(f"formats/bfcl/possible_answer/{path.name}")}
            if (gold.is_file())
            else {}
        )
        for row in rows_of(f"formats/bfcl/{path.name}"):
            found.append({**row, "ground_truth": golds[row["id"]]} if row["id"] in golds else row)
    return found


def batch_rows() -> list[dict[str, Any]]:
    """The lines of a batch's input and output, many times with other ids, so that most find their other half."""
    found = [*rows_of("importers/openai_batch/input.jsonl"), *rows_of("importers/openai_batch/output.jsonl")]
    paired = [row for row in found if row["custom_id"] in ("both", "after", "table", "suburbs")]
    return [{**row, "custom_id": f"{row['custom_id']}-{n}"} for n in range(15) for row in paired]


READERS: dict[str, tuple[str, Callable[[], list[dict[str, Any]]]]] = {
    "openai": ("openai", lambda: rows_of("contracts/conversation.jsonl")),
    "openai-legacy": ("openai", lambda: [legacy(row) for row in rows_of("contracts/conversation.jsonl")]),
    "openai-naive": ("openai", lambda: [naive(row) for row in rows_of("contracts/conversation.jsonl")]),
    "logs-chat": ("logs", lambda: rows_of("logs/chat.jsonl")),
    "logs-legacy": ("logs", lambda: rows_of("logs/legacy.jsonl")),
    "logs-responses": ("logs", lambda: rows_of("logs/responses.jsonl")),
    "logs-streamed": ("logs", lambda: rows_of("logs/streamed.jsonl")),
    "litellm": ("litellm", lambda: rows_of("importers/litellm/standard_logging.jsonl")),
    "litellm-spend": ("litellm", lambda: rows_of("importers/litellm/spend_logs.jsonl")),
    "batch": ("batch", batch_rows),
    "helicone": ("helicone", lambda: rows_of("importers/helicone/manual_logger.jsonl")),
    "helicone-export": ("helicone", lambda: rows_of("importers/helicone_export/export.jsonl")),
    "openpipe": ("openpipe", lambda: rows_of("importers/openpipe/reports.jsonl")),
    "ms-swift": ("ms-swift", lambda: rows_of("importers/ms_swift/rows.jsonl")),
    "anthropic": ("anthropic", lambda: fixtures("anthropic")),
    "bedrock": ("bedrock", lambda: fixtures("bedrock")),
    "gemini": ("gemini", lambda: fixtures("gemini")),
    "ai_sdk": ("ai_sdk", lambda: fixtures("ai_sdk")),
    "langsmith": ("langsmith", lambda: fixtures("langsmith")),
    "langfuse": ("langfuse", lambda: fixtures("langfuse")),
    "langchain": ("langchain", lambda: fixtures("langchain")),
    "otel": ("otel", lambda: [*fixtures("otel"), *fixtures("pydantic_ai")]),
    "otel-openinference": ("otel", lambda: fixtures("openinference")),
    "otel-flat": ("otel", lambda: [*fixtures("traceloop_flat"), *fixtures("traceloop")]),
    "otel-langfuse": ("otel", lambda: [*fixtures("langfuse_otlp"), *fixtures("ai_sdk_telemetry")]),
    "hermes": ("hermes", lambda: rows_of("formats/hermes.json")),
    "glaive": ("glaive", lambda: rows_of("formats/glaive.jsonl")),
    "toolace": ("toolace", lambda: rows_of("formats/toolace_made.jsonl")),
    "llamafactory": ("llamafactory", lambda: rows_of("formats/llamafactory.json")),
    "xlam": ("xlam", lambda: rows_of("formats/xlam.jsonl")),
    "bfcl": ("bfcl", bfcl_rows),
}
"""Each reader's format, and its rows before they are mutated."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, default=100_000, help="number of rows of each reader (default: %(default)s)"
    )
    parser.add_argument(
        "--reader", action="append", choices=READERS, help="use only this reader; may be repeated (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong = 0
    for name in options.reader or READERS:
        started = time.process_time()
        outcomes, faults = fuzz(name, options.rows, options.seed)
        took = time.process_time() - started
        common = ", ".join(f"{rule} {count:,}" for rule, count in outcomes.most_common(6))
        print(f"{name}: {options.rows:,} rows in {took:,.0f} s, {len(faults)} wrong; {common}", flush=True)
        for fault in faults[:5]:
            print(f"  {fault}", flush=True)
        wrong += len(faults)
    return 1 if wrong else 0


def fuzz(name: str, count: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Read `count` mutated rows. Returns how often each rule or "read" was the outcome, and what went wrong."""
    format, seeds = READERS[name]
    chance, originals = random.Random(f"{name}/{seed}"), seeds()
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        for start in range(0, count, BATCH):
            lines = [mutated(originals, chance) for _ in range(min(BATCH, count - start))]
            path.write_bytes(b"".join(line + b"\n" for line in lines))
            faults += wrong_with(path, lines, format, outcomes)
    return outcomes, faults


def mutated(originals: Sequence[dict[str, Any]], chance: random.Random) -> bytes:
    """A row as a line, with one to four changes to its values, its bytes, or both; one in 20 stays as it is."""
    row = json.loads(json.dumps(chance.choice(originals)))
    how = chance.random()
    if how < 0.65:
        for _ in range(chance.randint(1, 4)):
            row = restructured(row, originals, chance)
    line = json.dumps(row, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    if chance.random() < 0.8:  # else a log's lines would nearly all count as repeated
        for kind in (b"chatcmpl-", b"resp_"):
            line = line.replace(b'"' + kind, b'"%s%d' % (kind, chance.randrange(10**9)))
    if how > 0.6 and how < 0.95:
        for _ in range(chance.randint(1, 3)):
            line = rebyted(line, chance)
    return line


def restructured(value: Any, originals: Sequence[dict[str, Any]], chance: random.Random) -> Any:
    """The value with one thing inside it changed. JSON texts and long texts are changed inside as well."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(list(value))
        what = chance.random()
        if what < 0.08:
            return {name: entry for name, entry in value.items() if name != key}
        if what < 0.13:
            return {(chance.choice(["", "x", *originals[0]]) if name == key else name): e for name, e in value.items()}
        if what < 0.16:
            return {**value, chance.choice([*originals[0], "weight", "name", "tool_call_id"]): chance.choice(VALUES)}
        return {**value, key: restructured(value[key], originals, chance)}
    if isinstance(value, list) and value and chance.random() < 0.85:
        place, what = chance.randrange(len(value)), chance.random()
        if what < 0.1:
            return value[:place] + value[place + 1 :]
        if what < 0.2:
            return [*value[: place + 1], *value[place:]]
        if what < 0.25:
            return chance.sample(value, len(value))
        return [*value[:place], restructured(value[place], originals, chance), *value[place + 1 :]]
    if isinstance(value, str) and value and chance.random() < 0.7:
        if value[0] in "[{" and chance.random() < 0.6:
            try:
                return json.dumps(restructured(json.loads(value), originals, chance))
            except ValueError:
                pass  # text in brackets that is not JSON: changed like any other text
        place = chance.randrange(len(value) + 1)
        piece = chance.choice([text for text in VALUES if isinstance(text, str)])
        return chance.choice(
            [value[:place] + piece + value[place:], value[:place], value[place:], value * 2, json.dumps(value)]
        )
    return chance.choice([chance.choice(VALUES), [value], {"x": value}, json.dumps(value)])


def rebyted(line: bytes, chance: random.Random) -> bytes:
    place, size = chance.randrange(len(line) + 1), chance.randint(1, 8)
    piece = chance.choice([*BYTES, bytes([chance.randrange(256)]), line[place : place + 3 * size]])
    made = chance.choice(
        [line[:place] + piece + line[place:], line[:place] + line[place + size :], line[:place], line[:place] + piece]
    )
    return made.replace(b"\n", b"")  # one row stays one line


def wrong_with(path: Path, lines: Sequence[bytes], format: str, outcomes: Counter[str]) -> list[str]:
    """What is wrong with the reading of a file with these lines."""
    try:
        found = list(read_source(path, format=format))
    except Exception:  # noqa: BLE001  (any exception is what the fuzzer looks for)
        return [f"{traceback.format_exc(limit=-3)} {culprit(path, lines, format)!r}"]
    wrong: list[str] = []
    survey = Survey()
    faulty = {row.where for row in found if isinstance(row, RowFault)}
    read = [row for row in found if isinstance(row, Conversation)]
    outcomes.update(row.rule for row in found if isinstance(row, RowFault))
    outcomes["read"] += len(read)
    for row in read:
        try:
            for _ in survey.row(row):
                pass
            again = conversation(parse_line(conversation_line(row))[0], row.where)
        except Exception:  # noqa: BLE001  (as above)
            wrong.append(f"{traceback.format_exc(limit=-3)} {conversation_line(row)!r}")
            continue
        if again != row or conversation_line(again) != conversation_line(row):
            wrong.append(f"another when it is read again: {conversation_line(row)!r}")
    places = {f"{path}:{number}": line for number, line in enumerate(lines, 1) if line.lstrip(b"\xef\xbb\xbf \t\r\n")}
    importer = IMPORTERS[format]
    if importer.fold is not None or importer.read is None:  # several lines may become one conversation
        turns = sum(m.weight > 0 for row in read for m in row.messages if m.role == "assistant")
        # Two rows that are joined give one turn, or one fault at the second row.
        accounted = turns if importer.join is None else 2 * turns + len(faulty)
        if accounted < len(places.keys() - faulty):
            wrong.append(f"{len(places.keys() - faulty)} lines without a fault gave {turns} turns to learn")
    else:
        lost = places.keys() - faulty - {row.where for row in read}
        wrong += [f"lost without a word: {places[place]!r}" for place in lost]
    if strange := {row.where for row in found} - places.keys():
        wrong.append(f"places that are no rows: {sorted(strange)[:3]}")
    return wrong


def culprit(path: Path, lines: Sequence[bytes], format: str) -> bytes:
    """The first line that fails when it is read alone; nothing if only several lines together fail."""
    for line in lines:
        path.write_bytes(line)
        try:
            list(read_source(path, format=format))
        except Exception:  # noqa: BLE001  (as above)
            return line
    return b""


if __name__ == "__main__":
    sys.exit(main())
