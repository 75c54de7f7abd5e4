"""Ask vLLM's own parsers what they read in the texts of model turns. `scripts/check_parsers.py` calls it.

It runs in the environment of vLLM, not of toolhone: it needs only vllm, transformers and the standard library. It takes
the same way as vLLM's server: the request with its tools, the parser that `--tool-call-parser` names, and the text that
the tokenizer decodes from the turn's tokens.

In: files of JSON lines. The first line is {"parser", "tokenizer", "tools"}: the parser's name, a folder with a
tokenizer, and tools as OpenAI's API has them. For the parser `hf` it also has {"response_template", "prompt"}. Each
further line is a case: {"text"}, and optionally {"tools"} of its own.

Out: beside each file, one that ends in .verdicts.jsonl. Its first line is {"vllm", "parser"}. Then comes one line per
case, in order: {"calls", "content"}, each call with its "name" and its decoded "arguments", or {"error"} with the
exception.

    python scripts/serving_verdicts.py CASES [CASES ...]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

_HARMONY = "openai"
"""The parser that reads token ids instead of text."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path, nargs="+", help="files of cases to read")
    options = parser.parse_args()
    from vllm.version import __version__  # takes seconds

    for path in options.cases:
        first, *cases = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        with path.with_suffix(".verdicts.jsonl").open("w", encoding="utf-8") as file:
            for row in itertools.chain([{"vllm": __version__, "parser": first["parser"]}], verdicts(first, cases)):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return 0


def verdicts(first: dict[str, Any], cases: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Parse each case as vLLM's server does, and yield the parser's verdict."""
    from transformers import AutoTokenizer
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.parser import ParserManager

    tokenizer = AutoTokenizer.from_pretrained(first["tokenizer"], trust_remote_code=False)
    # As in the server of vLLM, which caches it: each new parser reads it, and building it takes a tenth of a second.
    vocabulary = tokenizer.get_vocab()
    tokenizer.get_vocab = lambda: vocabulary
    if "response_template" in first:
        tokenizer.response_template = first["response_template"]
    parser_class = ParserManager.get_parser(
        tool_parser_name=first["parser"], enable_auto_tools=True, is_harmony=first["parser"] == _HARMONY
    )
    for case in cases:
        try:
            request = ChatCompletionRequest(
                model="tuned", messages=[{"role": "user", "content": ""}], tools=case.get("tools") or first["tools"]
            )
            parser = parser_class(tokenizer, request.tools)
            if "prompt" in first:
                parser.set_prompt_token_ids(tokenizer.encode(first["prompt"], add_special_tokens=False))
            request = parser.adjust_request(request)
            ids = tokenizer.encode(case["text"], add_special_tokens=False)
            leaves_out = request.skip_special_tokens is not False  # vLLM's default, unless the parser changes it
            text = tokenizer.decode(ids, skip_special_tokens=leaves_out)
            _, content, calls = parser.parse(text, request, enable_auto_tools=True, model_output_token_ids=ids)
            yield {"calls": [_decoded(call) for call in calls or ()], "content": content}
        except Exception as error:  # noqa: BLE001 - whatever a parser raises is its verdict
            yield {"error": f"{type(error).__name__}: {error}"}


def _decoded(call: Any) -> dict[str, Any]:
    """Return a call as JSON. Arguments that are not JSON stay the text that a client would get."""
    try:
        return {"name": call.name, "arguments": json.loads(call.arguments)}
    except ValueError:
        return {"name": call.name, "arguments": call.arguments}


if __name__ == "__main__":
    sys.exit(main())
