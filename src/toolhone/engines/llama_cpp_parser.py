"""Says whether llama.cpp's own parser reads the calls of a chat template.

llama.cpp derives a parser from the template. For some formats it reads no calls, or not two in one turn, and answers
the request with an error. So we ask it: a tiny model that always writes the same turns is served with the template.
Input: the renderer of a run. Output: why its turns are not read, or None. It takes about half a second.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import httpx2
import jinja2
import numpy as np
from gguf import GGUFWriter, TokenType
from tokenizers.pre_tokenizers import ByteLevel

from toolhone.chat.render import ChatRenderer, RenderError
from toolhone.engines.llama_cpp import llama_cpp_server
from toolhone.errors import UserError
from toolhone.records import Example, Gold, Message, Tool, ToolCall

_TOOLS = tuple(
    Tool(
        name,
        about,
        {"type": "object", "properties": {"id": {"type": "string"}, "count": {"type": "integer"}}, "required": ["id"]},
    )
    for name, about in (("find_order", "Find an order."), ("cancel_item", "Cancel an item."))
)
_TURNS = {
    "a plain answer": Message("assistant", "It is on its way."),
    "a call": Message("assistant", "", (ToolCall("find_order", {"id": "A-1"}),)),
    "two calls": Message(
        "assistant", "", (ToolCall("find_order", {"id": "A-1"}), ToolCall("cancel_item", {"id": "B-2", "count": 3}))
    ),
}
_PIECE = 8
"""Characters in a token of the tiny model. With whole turns as tokens, a grammar could not stop a turn half-way."""


def unread_turn(renderer: ChatRenderer, threads: int = 1) -> str | None:
    """Return what llama.cpp's parser does with a turn that it does not read, or None if it reads a plain answer, a call
    and two calls as the template writes them. A template that llama.cpp cannot load counts as unread.

    If it does not read them, start the server with `skip_chat_parsing`, and read the content with `parse_turn`.

    Raises:
        UserError: if xllamacpp is not installed.
    """
    question = Message("user", "Where is order A-1?")
    written: dict[str, tuple[Message, str]] = {}
    for what, turn in _TURNS.items():
        example = Example("parser/1", "parser", (question,), turn, Gold.of_message(turn), _TOOLS, "parser", None, {})
        with suppress(jinja2.TemplateError, RenderError):  # some templates refuse two calls, so no run writes them
            written[what] = turn, renderer.turn_text(example)
    turns = [(text, renderer.end_of(turn)) for turn, text in written.values()]
    body = {
        "messages": [question.to_json()],
        "tools": [tool.to_json() for tool in _TOOLS],
        "temperature": 0,
        "max_tokens": sum(len(text) for text, _ in turns),
    }
    with tempfile.TemporaryDirectory(prefix="toolhone-llama-cpp-") as scratch:
        gguf = Path(scratch) / "parser.gguf"
        first_ids = write_reciter(gguf, renderer, turns)
        try:
            with llama_cpp_server(gguf, threads=threads) as address, httpx2.Client(timeout=60.0) as client:
                for (what, (turn, _)), first in zip(written.items(), first_ids, strict=True):
                    reply = client.post(f"{address}/v1/chat/completions", json={**body, "logit_bias": [[first, 10.0]]})
                    if fault := _fault(reply, turn):
                        return f"{what}: {fault}"
        except UserError as error:
            if str(gguf) not in str(error):
                raise
            return f"the template: {str(error).removeprefix(f'{gguf}: ')}"
    return None


def _fault(reply: httpx2.Response, turn: Message) -> str | None:
    """Return how a reply differs from the turn that the model wrote."""
    if reply.status_code != 200:
        return f"HTTP {reply.status_code}: {reply.json()['error']['message']}"
    message = reply.json()["choices"][0]["message"]
    calls = [
        ToolCall(call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message.get("tool_calls") or []
    ]
    content = (message.get("content") or "").strip()
    if calls != list(turn.tool_calls) or content != turn.content:
        return f"read as {len(calls)} calls and the text {content!r}"
    return None


def write_reciter(path: Path, renderer: ChatRenderer, turns: Sequence[tuple[str, str]]) -> list[int]:
    """Write a tiny GGUF model that recites texts, with the template of a renderer. Returns the first id of each text.

    Its next token depends only on the last one. After a prompt all tokens are equally likely, so a small bias for a
    first id chooses the text.

    Args:
        turns: pairs of a text and the token that ends it; "" if it has none.
    """
    tokenizer = renderer.tokenizer
    ends = list(dict.fromkeys(end or tokenizer.eos_token for _, end in turns))
    special = list(dict.fromkeys(token for token in (tokenizer.bos_token, tokenizer.eos_token, *ends) if token))
    alphabet = sorted(ByteLevel.alphabet())
    chains, used = [], {*special, *alphabet}
    for text, _ in turns:
        chains.append(_pieces(_byte_letters(text), used))
    tokens = [*special, *alphabet, *(piece for chain in chains for piece in chain)]
    ids = {token: number for number, token in enumerate(tokens)}
    width = math.ceil(len(tokens) / 32) * 32
    head = np.zeros((len(tokens), width), dtype=np.float32)  # [next token, last token]
    for chain, (_, end) in zip(chains, turns, strict=True):
        for last, following in pairwise([*chain, end or tokenizer.eos_token]):
            head[ids[following], ids[last]] = 1.0
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(8192)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_key_length(32)
    writer.add_value_length(32)
    writer.add_rope_dimension_count(32)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * len(special) + [TokenType.NORMAL] * (len(tokens) - len(special)))
    writer.add_token_merges([f"{alphabet[0]} {alphabet[0]}"])  # llama.cpp refuses a vocabulary without merges
    writer.add_add_bos_token(False)
    if tokenizer.bos_token:
        writer.add_bos_token_id(ids[tokenizer.bos_token])
    writer.add_eos_token_id(ids[tokenizer.eos_token or ends[0]])
    writer.add_eot_token_id(ids[ends[0]])
    writer.add_eom_token_id(ids[ends[-1]])
    writer.add_chat_template(renderer.template)
    tensors: dict[str, np.ndarray] = {"token_embd": np.eye(len(tokens), width, dtype=np.float32), "output": head}
    tensors |= {name: np.ones(width, dtype=np.float32) for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")}
    inner = np.zeros((32, width), dtype=np.float32)  # attention and feed-forward layer add nothing
    tensors |= {f"blk.0.{name}": inner for name in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")}
    tensors |= {f"blk.0.{name}": inner.T.copy() for name in ("attn_output", "ffn_down")}
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [ids[chain[0]] for chain in chains]


def _byte_letters(text: str) -> str:
    """Return a text as GPT-2's tokenizer spells it: one letter for each byte."""
    return "".join(letters for letters, _ in ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text))


def _pieces(letters: str, used: set[str]) -> list[str]:
    """Cut a text into pieces that are not used yet, and add them to `used`."""
    pieces: list[str] = []
    start = 0
    while start < len(letters):
        end = start + _PIECE
        while letters[start:end] in used and end < len(letters):
            end += 1
        if letters[start:end] in used:  # the rest of the text is already a piece: make the one before longer
            used.remove(pieces[-1])
            start -= len(pieces.pop())
            end = len(letters)
        pieces.append(letters[start:end])
        used.add(pieces[-1])
        start = end
    return pieces
