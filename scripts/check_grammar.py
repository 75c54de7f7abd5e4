"""Count the valid calls in random answers that follow the grammar of `chat/grammar.py`, for random tools.

The answers are random walks: llguidance with random tokens, and llama.cpp with the weights of a tiny random model. Each
complete answer is read with `parse_turn`, and its calls are validated against their tools.

    python scripts/check_grammar.py --calls 2000
    python scripts/check_grammar.py --engine llama.cpp --gguf tiny.gguf --calls 2000
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolhone.chat.grammar import call_grammar
from toolhone.chat.parse import parse_turn
from toolhone.formats import FORMATS
from toolhone.records import Tool
from toolhone.tool_schema import arguments_valid

MAX_TOKENS = 1500
_CLOSERS = ('"', "'", "}", "]", ")", ",", ">", "\n", "1", "a")
"""Texts that end a value. A random walk prefers them, or it would write one long string."""

_VALUE_ENDS = (b"</parameter>", b"</arg_value>", b"</param>", b"]]></param>", b"<escape>", b'<|"|>')
_ENDINGS = (*_VALUE_ENDS, b"</think>", b"<channel|>", b"<|end|><|start|>assistant")
"""Longer texts that end a value or a thought. Random bytes hardly ever are one of them."""

_PATTERNS = (r"^[A-Z]{2}\d{4}$", r"^(small|large)-\d+$", r"[aeiou]", r"^\w+$", r"^[^\s\"]{1,8}$", r"^#[0-9a-f]{6}$")
_WORDS = ("red", "dark blue", "é", 'say "hi"', "back\\slash", "line\nbreak", "", "1", "true", "<b>", "a|b", "it's")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000, help="calls to count for each format (default: %(default)s)")
    parser.add_argument("--formats", default=",".join(FORMATS), help="chat formats, separated by commas")
    parser.add_argument("--engine", choices=("llguidance", "llama.cpp"), default="llguidance")
    parser.add_argument("--gguf", type=Path, help="a GGUF file for llama.cpp")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    is_fine = True
    for name in options.formats.split(","):
        started = time.monotonic()
        if options.engine == "llguidance":
            count = counted(name, options.calls, options.seed, byte_walk)
        else:
            with llama_cpp_answers(options.gguf) as answer:
                count = counted(name, options.calls, options.seed, answer)
        is_fine = is_fine and not count.invalid
        print(f"{name:15} {count}, {time.monotonic() - started:.0f} s", flush=True)
        for text in count.invalid[:5]:
            print("   ", text)
    return 0 if is_fine else 1


class Count:
    """What a number of answers contained. `cut` answers reached the token limit."""

    def __init__(self) -> None:
        self.calls = self.valid = self.texts = self.cut = 0
        self.invalid: list[str] = []

    def __str__(self) -> str:
        return f"{self.valid} of {self.calls} calls valid, {self.texts} texts, {self.cut} answers cut"


Answerer = Callable[[Any, random.Random], str | None]
"""Makes an answer to a grammar; None if it reached the token limit."""


def counted(name: str, calls: int, seed: int, answer: Answerer) -> Count:
    """Count the valid calls of random answers in a format, until there are this many calls."""
    chance, count = random.Random(f"{name}{seed}"), Count()
    while count.calls < calls:
        tools = [random_tool(chance, number) for number in range(chance.randint(1, 4))]
        is_required = chance.random() < 0.8
        grammar = call_grammar(
            FORMATS[name], tools, required=is_required, free_text=not is_required, parallel=chance.random() < 0.7
        )
        if grammar.unenforced:
            raise SystemExit(f"a random tool has what the grammar does not enforce: {grammar.unenforced}")
        for _ in range(3):
            text = answer(grammar, chance)
            if text is None:
                count.cut += 1
            else:
                _add(count, text, name, {tool.name: tool for tool in tools}, is_required=is_required)
    return count


def _add(count: Count, text: str, name: str, tools: dict[str, Tool], *, is_required: bool) -> None:
    turn = parse_turn(text, name, tools=tools)
    if turn.status == "none" and not is_required:
        count.texts += 1
        return
    count.calls += max(1, len(turn.calls))
    if turn.status != "calls":
        count.invalid.append(f"{turn.status}: {turn.failure}: {text!r}")
        return
    for call in turn.calls:
        if call.name in tools and arguments_valid(call.arguments, tools[call.name], ""):
            count.valid += 1
        else:
            schema = json.dumps(tools[call.name].parameters) if call.name in tools else "no tool"
            count.invalid.append(f"{call.name}({call.arguments}) in {text!r}: {schema}")


# Tools


def random_tool(chance: random.Random, number: int) -> Tool:
    """Return a tool with random arguments. Every keyword of its schema is one that a grammar enforces."""
    name = f"{chance.choice(('get', 'set', 'find_all', 'Do'))}_{number}"
    count = chance.choice((0, 1, 2, 3, 4, 5, 8))
    parameters = _object(chance, 0, count)
    if chance.random() < 0.2:
        node = {"type": "object", "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}}}
        parameters["$defs"] = {"node": {**node, "additionalProperties": False}}
        parameters["properties"]["nodes"] = {"$ref": "#/$defs/node"}
    return Tool(name, "", parameters)


def _object(chance: random.Random, depth: int, count: int) -> dict[str, Any]:
    names = chance.sample([a + b for a in "abcdefgh" for b in ("", "_id", "Name", "2")], count)
    properties = {name: random_schema(chance, depth + 1) for name in names}
    required = [name for name in names if chance.random() < 0.5]
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required or chance.random() < 0.5 else schema


def random_schema(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    """Return the schema of one argument."""
    kinds = [_string, _string, _integer, _integer, _number, _enum, _const, lambda _: {"type": "boolean"}]
    if depth < 3:
        kinds += [lambda c: _array(c, depth), lambda c: _object(c, depth, c.randint(0, 3)), lambda c: _any_of(c, depth)]
    schema = chance.choice(kinds)(chance)
    if isinstance(schema.get("type"), str) and "enum" not in schema and chance.random() < 0.15:
        schema = {**schema, "type": [schema["type"], "null"]}
    if chance.random() < 0.1:
        schema = {"allOf": [schema], "description": "one of a kind"}
    return schema


def _string(chance: random.Random) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    kind = chance.random()
    if kind < 0.3:
        schema["minLength"] = chance.randint(0, 4)
        schema["maxLength"] = schema["minLength"] + chance.randint(0, 30)
    elif kind < 0.5:
        schema["pattern"] = chance.choice(_PATTERNS)
        if chance.random() < 0.3:
            schema["maxLength"] = 12
    elif kind < 0.7:
        schema["format"] = chance.choice(("date", "date-time", "time", "uuid", "email", "ipv4"))
    return schema


def _integer(chance: random.Random) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    low = chance.randint(-1200, 1200)
    if chance.random() < 0.5:
        schema[chance.choice(("minimum", "exclusiveMinimum"))] = low
    if chance.random() < 0.5:
        schema[chance.choice(("maximum", "exclusiveMaximum"))] = low + chance.randint(10, 5000)
    if chance.random() < 0.2:
        schema["multipleOf"] = chance.choice((2, 5, 10, 25, 100))
        schema.pop("exclusiveMaximum", None)
        schema.pop("maximum", None)
    return schema


def _number(chance: random.Random) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "number"}
    low = chance.choice((0, 0.5, -1, -273.15, 1e-3, 10.25))
    if chance.random() < 0.6:
        schema[chance.choice(("minimum", "exclusiveMinimum"))] = low
    if chance.random() < 0.6:
        schema[chance.choice(("maximum", "exclusiveMaximum"))] = low + chance.choice((0.5, 1, 99.75, 1e6))
    return schema


def _enum(chance: random.Random) -> dict[str, Any]:
    values: list[Any] = chance.sample(_WORDS, chance.randint(1, 5))
    if chance.random() < 0.3:
        return {"enum": [*values, 3, 2.5, None, True, [1, "x"], {"k": "v"}]}
    return {"type": "string", "enum": values}


def _const(chance: random.Random) -> dict[str, Any]:
    return {"const": chance.choice(["fixed", 7, False])}


def _array(chance: random.Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": random_schema(chance, depth + 1)}
    if chance.random() < 0.5:
        schema["minItems"] = chance.randint(0, 2)
        schema["maxItems"] = schema["minItems"] + chance.randint(0, 3)
    if chance.random() < 0.2:
        return {"type": "array", "uniqueItems": True, "items": {"enum": ["a", "b", "c", 4]}}
    return schema


def _any_of(chance: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(chance, depth + 1) for _ in range(chance.randint(1, 3))]}


# Answers


def byte_walk(grammar: Any, chance: random.Random) -> str | None:
    """Return a random answer of llguidance, with one token for each byte."""
    import llguidance

    tokenizer = _byte_tokenizer()
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_lark(grammar.lark))
    written, ending = bytearray(), b""
    for _ in range(MAX_TOKENS):
        if matcher.is_error():
            raise SystemExit(f"llguidance: {matcher.get_error()}\n{grammar.lark}")
        allowed = matcher.compute_logit_bias()  # for each token a byte, not 0 if it may come next
        may_end = bool(allowed[tokenizer.eos_token])
        if may_end and (not any(allowed[:256]) or chance.random() < 0.3):
            return written.decode()
        if not ending and chance.random() < 0.2:
            ending = chance.choice(_ENDINGS)
        token, ending = _next_byte(allowed, ending, chance)
        written.append(token)
        matcher.consume_token(token)
        if matcher.is_stopped():
            return written.decode()
    return None


def _next_byte(allowed: bytes, ending: bytes, chance: random.Random) -> tuple[int, bytes]:
    """Return a byte that may come next, and what is left of the ending: nothing if the byte is another one."""
    if ending and allowed[ending[0]]:
        return ending[0], ending[1:]
    closers = [ord(letter) for letter in _CLOSERS if allowed[ord(letter)]]
    if closers and chance.random() < 0.4:
        return chance.choice(closers), b""
    some = next((byte for byte in chance.choices(range(256), k=20) if allowed[byte]), None)
    return chance.choice([byte for byte in range(256) if allowed[byte]]) if some is None else some, b""


@functools.cache
def _byte_tokenizer() -> Any:
    import llguidance

    return llguidance.LLTokenizer("byte")


@contextmanager
def llama_cpp_answers(gguf: Path) -> Iterator[Answerer]:
    """Yield a maker of random answers of llama.cpp with a GGUF file."""
    import httpx2

    from toolhone.engines.llama_cpp import llama_cpp_server

    with (
        llama_cpp_server(gguf, ctx=MAX_TOKENS, threads=1) as url,
        httpx2.Client(base_url=url, timeout=300) as client,
    ):
        yield functools.partial(_llama_cpp_answer, client)


def _llama_cpp_answer(client: Any, grammar: Any, chance: random.Random) -> str | None:
    body = {
        "prompt": "call",
        "n_predict": MAX_TOKENS // 3,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "seed": chance.randrange(1 << 30),
        "grammar": grammar.gbnf,
        "logit_bias": [[letter, 4.0] for letter in _CLOSERS],
    }
    answer = client.post("/completion", json=body)
    if answer.status_code != 200:
        raise SystemExit(f"llama.cpp: {answer.text}\n{grammar.gbnf}")
    read = answer.json()
    return None if read["stop_type"] == "limit" else str(read["content"])


if __name__ == "__main__":
    sys.exit(main())
