"""Check that vLLM's own parsers read exactly the calls that toolhone's chat formats write.

For each format that names a parser of vLLM, writes fixed turns (`parser_turns.py`) and generated ones as the format
writes them, asks the parser (`serving_verdicts.py`), and compares its verdicts with the gold turns: the calls, in
order, with their names, values and types. A turn that toolhone refuses to render is counted and left out. The parser
may drop the text beside calls, which is counted, and may not change it.

With --hf it asks vLLM's parser `hf` instead, which reads a turn by the model's `response_template`, for each format
that toolhone writes one for. The gold turns of customer_service are then checked too.

The parsers run in an environment of their own in .cache/vllm: the Python files of vLLM's wheel, and the small packages
that they import. The environment shares torch and the other packages of the one that runs this script.

    .venv/bin/python scripts/check_parsers.py                          # 5,000 generated turns per format
    .venv/bin/python scripts/check_parsers.py --turns 0 --fixtures     # write the fixtures of the tests again
    .venv/bin/python scripts/check_parsers.py --hf --fixtures          # the same for the parser hf
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
from parser_turns import FIXED_TOOLS, FIXED_TURNS, Turn, generated_turn
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from toolhone.chat.parse import parse_turn
from toolhone.chat.render import ChatRenderer
from toolhone.chat.template import PLAIN_TURNS
from toolhone.data.read import examples, read_conversations, read_tools
from toolhone.export.response_template import CANNOT_CARRY, NO_TEMPLATE, response_template
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.records import Tool

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures" / "serving_parsers"
FOLDER = Path(".cache/vllm")
WHEEL = "vllm==0.33.0"
PACKAGES = (
    "transformers>=5.16.1,<5.21", "cachetools", "cloudpickle", "msgspec", "pybase64", "cbor2", "ijson", "aiohttp",
    "partial-json-parser", "xgrammar==0.2.8", "oss-harmony>=0.0.11", "mistral_common>=1.11.6", "prometheus_client",
    "pyzmq", "uvloop", "py-cpuinfo", "fastapi>=0.133,<0.137", "pillow", "openai>=2.25",
)  # fmt: skip
"""What the parsers import, beside what toolhone needs itself. vLLM's kernels and its CUDA packages are left out."""
TOKENIZERS = {"openai": "gpt-oss", "llama3_json": "llama3.2"}
"""Parsers that need a tokenizer of their own, a folder in .cache/tokenizers. The others work with any tokenizer."""
HF = "hf"
HF_FIXTURE = FIXTURES / "hf.jsonl"
GOLD = Path(__file__).parent.parent / "data" / "customer_service"
PROMPT = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


class Case(NamedTuple):
    """A turn as a format writes it. `refused` says why `toolhone` does not render it; "" if it does."""

    turn: Turn
    text: str
    refused: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="*", choices=sorted(FORMATS), help="formats to check (default: all)")
    parser.add_argument("--hf", action="store_true", help="check the parser hf with toolhone's response templates")
    parser.add_argument("--turns", type=int, default=5000, help="generated turns per format (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated turns (default: %(default)s)")
    parser.add_argument("--show", type=int, default=10, help="faults to print per format (default: %(default)s)")
    parser.add_argument("--fixtures", action="store_true", help="write the fixtures of the fixed turns again")
    parser.add_argument("--python", type=Path, help="Python of an environment with vLLM (default: one in .cache/vllm)")
    options = parser.parse_args()
    python = options.python or environment()
    parsers = hf_claims() if options.hf else claims()
    names = options.formats or sorted(parsers)
    if unknown := set(names) - set(parsers):
        parser.error(f"vLLM has no such parser for {', '.join(sorted(unknown))}")
    gold = gold_turns() if options.hf else []
    made = [generated_turn(random.Random(f"{options.seed} {number}")) for number in range(options.turns)]
    cases = {name: [case_of(name, turn) for turn in (*FIXED_TURNS, *gold, *made)] for name in names}
    files = {name: write_cases(name, parsers[name], cases[name]) for name in names}
    subprocess.run([python, Path(__file__).parent / "serving_verdicts.py", *files.values()], check=True)
    failed, rows = [], []
    for name in names:
        version, verdicts = read_verdicts(files[name])
        outcomes, faults = compare(name, parsers[name], cases[name], verdicts)
        print(f"{name}: {parsers[name]} of vLLM {version}: {dict(outcomes)}")
        print("".join(f"  {fault}\n" for fault in faults[: options.show]), end="", flush=True)
        failed += [name] * bool(faults)
        if options.hf:
            rows.append(hf_row(files[name], version, cases[name][: len(FIXED_TURNS)], verdicts))
        elif options.fixtures:
            write_fixture(name, version, cases[name][: len(FIXED_TURNS)], verdicts)
    if options.hf and options.fixtures:
        write_rows(HF_FIXTURE, rows)
    if failed:
        print(f"Error: the parsers of {', '.join(failed)} do not read what toolhone writes", file=sys.stderr)
    return 1 if failed else 0


def claims() -> dict[str, str]:
    """Return vLLM's parser of each format that names one."""
    return {
        name: format.serving_parsers["vllm"] for name, format in FORMATS.items() if "vllm" in format.serving_parsers
    }


def hf_claims() -> dict[str, str]:
    """Return the parser `hf` for each format that has a response template."""
    return {name: HF for name in FORMATS if name not in NO_TEMPLATE}


def gold_turns() -> list[Turn]:
    """Return the gold turns of customer_service's test rows."""
    tools = read_tools(GOLD / "tools.json")
    written = [tool.to_json() for tool in tools]
    return [
        Turn(
            example.id,
            example.turn.content,
            [{"name": call.name, "arguments": call.arguments} for call in example.turn.tool_calls],
            written,
        )
        for conversation in read_conversations(GOLD / "test.jsonl", tools)
        for example in examples(conversation)
    ]


def case_of(name: str, turn: Turn) -> Case:
    """Write a turn in a format, as a model tuned with toolhone learns it."""
    raw = [RawCall(call["name"], json.dumps(call["arguments"], ensure_ascii=False)) for call in turn.calls]
    text = FORMATS[name].write(turn.content, raw, "stop")
    return Case(turn, text, refusal(name, turn, text))


def refusal(name: str, turn: Turn, text: str) -> str:
    """Return why toolhone does not render a turn in a format; "" if it does. The rules: `chat/render.py`."""
    tools = {tool["function"]["name"]: Tool(**tool["function"]) for tool in turn.tools}
    parsed = parse_turn(text, name, tools=tools)
    if parsed.failure is not None:
        return f"{parsed.status}: {parsed.failure}"
    read = [{"name": call.name, "arguments": call.arguments} for call in parsed.calls]
    if exact(read) != exact(turn.calls) or parsed.content != turn.content.strip():
        return "it reads back as another turn"
    said = turn.content + exact(turn.calls)
    token = next((token for token in FORMATS[name].control_tokens if token in said), None)
    return f"it contains {token}" if token else ""


def write_cases(name: str, parser: str, cases: Sequence[Case]) -> Path:
    """Write the cases of a format for `serving_verdicts.py`, and return the file."""
    path = FOLDER / ("hf_cases" if parser == HF else "cases") / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    first = {"parser": parser, "tokenizer": str(tokenizer_for(name, parser)), "tools": FIXED_TOOLS}
    if parser == HF:
        tokenizer = AutoTokenizer.from_pretrained(first["tokenizer"], trust_remote_code=False)
        first |= {"response_template": template_of(name, tokenizer), "prompt": PROMPT}
    own = [{} if case.turn.tools is FIXED_TOOLS else {"tools": case.turn.tools} for case in cases]
    rows = [first, *({"text": case.text, **tools} for case, tools in zip(cases, own, strict=True))]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_verdicts(cases: Path) -> tuple[str, list[dict[str, Any]]]:
    """Return vLLM's version, and its verdict for each case of a file."""
    path = cases.with_suffix(".verdicts.jsonl")
    first, *verdicts = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return first["vllm"], verdicts


def compare(
    name: str, parser: str, cases: Iterable[Case], verdicts: Iterable[dict[str, Any]]
) -> tuple[Counter[str], list[str]]:
    """Count what the parser did with each turn, and describe each turn that it read as another."""
    outcomes: Counter[str] = Counter()
    faults = []
    for case, verdict in zip(cases, verdicts, strict=True):
        outcome = "refused by toolhone" if case.refused else outcome_of(case.turn, verdict)
        if parser == HF and outcome == "wrong calls":
            outcome = known_limit(name, case.turn) or outcome
        outcomes[outcome] += 1
        if outcome.startswith("wrong"):
            faults.append(f"{outcome}: {case.turn.name}: wrote {case.text!r}, the parser read {exact(verdict)}")
    return outcomes, faults


def outcome_of(turn: Turn, verdict: dict[str, Any]) -> str:
    """Compare a verdict with its gold turn: "exact", "exact calls, text dropped", or what is wrong."""
    if "error" in verdict:
        return "wrong: exception"
    if exact(verdict["calls"]) != exact(turn.calls):
        return "wrong calls"
    content = (verdict["content"] or "").strip()
    if content == turn.content.strip():
        return "exact"
    return "exact calls, text dropped" if turn.calls and not content else "wrong text"


def known_limit(name: str, turn: Turn) -> str:
    """Return why the parser hf does not read the calls of a turn exactly; "" if it should.

    vLLM gives a text the type of its schema, if that allows another type than text: with {"type": ["string", "null"]},
    "null" becomes null.
    """
    if name in CANNOT_CARRY and any(cannot_carry(name, call["arguments"]) for call in turn.calls):
        return f"not carried: {CANNOT_CARRY[name]}"
    schemas = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in turn.tools}
    texts = (
        schemas[call["name"]].get(key, {})
        for call in turn.calls
        for key, value in call["arguments"].items()
        if isinstance(value, str)
    )
    return "a text typed by the schema" if any(set(_types(schema)) - {"string"} for schema in texts) else ""


def cannot_carry(name: str, value: Any) -> bool:
    """Whether an argument has what `CANNOT_CARRY` names for a format."""
    if isinstance(value, dict):
        odd = name != "pythonic" and any(re.fullmatch(r"\w+", key) is None for key in value)
        return odd or any(cannot_carry(name, item) for item in value.values())
    if isinstance(value, list):
        return any(cannot_carry(name, item) for item in value)
    return name == "pythonic" and (value is None or isinstance(value, bool))


def _types(schema: Mapping[str, Any]) -> list[str]:
    declared = schema.get("type", [])
    own = [declared] if isinstance(declared, str) else declared
    return [*own, *(name for choice in schema.get("anyOf", ()) for name in _types(choice))]


def exact(value: Any) -> str:
    """Return JSON text that differs if a value or its type differs: in Python, True == 1. The numbers 2 and 2.0 are the
    same, as in JSON Schema and in scoring."""
    return json.dumps(_whole(value), ensure_ascii=False, sort_keys=True)


def _whole(value: Any) -> Any:
    """Return a JSON value in which every number without a fraction is whole."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return {key: _whole(item) for key, item in value.items()} if isinstance(value, dict) else value


def write_fixture(name: str, version: str, cases: Sequence[Case], verdicts: Sequence[dict[str, Any]]) -> None:
    rows: list[dict[str, Any]] = [{"format": name, "parser": claims()[name], "vllm": version}]
    for case, verdict in zip(cases, verdicts, strict=False):
        outcome = {"refused": case.refused} if case.refused else {"verdict": verdict}
        rows.append({"turn": case.turn.name, "text": case.text, **outcome})
    write_rows(FIXTURES / f"{name}.jsonl", rows)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(lines, encoding="utf-8")


def hf_row(file: Path, version: str, cases: Sequence[Case], verdicts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the parser hf did with the fixed turns of a format, and what it was given in a file of cases."""
    with file.open(encoding="utf-8") as given:
        template = json.loads(given.readline())["response_template"]
    outcomes = {
        case.turn.name: outcome_of(case.turn, verdict)
        for case, verdict in zip(cases, verdicts, strict=False)
        if not case.refused
    }
    return {
        "format": file.stem,
        "vllm": version,
        "response_template": template,
        "texts": hash_of(cases),
        "exact": sum(outcome == "exact" for outcome in outcomes.values()),
        "others": {turn: outcome for turn, outcome in outcomes.items() if outcome != "exact"},
    }


def hash_of(cases: Iterable[Case]) -> str:
    """Return 16 hex digits that identify the texts of the cases, and which of them are refused."""
    return hashlib.sha256(json.dumps([[case.text, case.refused] for case in cases]).encode()).hexdigest()[:16]


def template_of(name: str, tokenizer: Any) -> dict[str, Any]:
    """Return the response template of a format, for a model with ChatML turns."""
    chat_format = replace(FORMATS[name], end_of_turn="<|im_end|>")
    found = response_template(ChatRenderer(tokenizer, chat_format, PLAIN_TURNS[0].template, "model", "", {}))
    assert found is not None, name
    return found


def tokenizer_for(name: str, parser: str) -> Path:
    """Return a folder with a real tokenizer that has the format's tokens. It is made once for these tokens."""
    source = Path(".cache/tokenizers") / TOKENIZERS.get(parser, "qwen3")
    format = FORMATS[name]
    made_from = [source.name, *sorted({*format.control_tokens, *format.stops})]
    folder = FOLDER / "tokenizers" / name
    made_with = folder / "made_from.json"
    if not made_with.is_file() or json.loads(made_with.read_text(encoding="utf-8")) != made_from:
        if not (source / "tokenizer.json").is_file():
            subprocess.run([sys.executable, Path(__file__).parent / "fetch_tokenizers.py", source.name], check=True)
        tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
        # Not special: some parsers, such as DeepSeek's, rely on call tokens that decoding keeps.
        tokenizer.add_tokens(made_from[1:])
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(folder / "tokenizer.json"))
        settings = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False})
        (folder / "tokenizer_config.json").write_text(settings, encoding="utf-8")
        made_with.write_text(json.dumps(made_from), encoding="utf-8")
    return folder


def environment() -> Path:
    """Return the Python of an environment with vLLM's parsers. It is made once, in .cache/vllm."""
    folder = FOLDER / "env"
    python = (folder / "bin" / "python").absolute()
    ready = folder / WHEEL
    if ready.is_file():
        return python
    print(f"setting up {folder} (a few minutes, once): {WHEEL} without its kernels ...", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "toolhone_packages.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *PACKAGES], check=True)
    subprocess.run([*pip, "download", "--no-deps", "--only-binary=:all:", "--dest", folder, WHEEL], check=True)
    wheel = next(folder.glob("vllm-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site, [file for file in archive.namelist() if file.endswith((".py", ".json"))])
    wheel.unlink()
    ready.touch()
    return python


if __name__ == "__main__":
    sys.exit(main())
