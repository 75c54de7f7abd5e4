"""Make models with random weights and rows to train them on, for measurements on machines that reach no hub.

The speed and memory of a training depend on a model's shape and on the lengths of its rows, not on the values of its
weights. The tokenizer is trained on this repository's data, so customer_service rows have realistic lengths.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from make_tiny_llama import make_tokenizer

ROOT = Path(__file__).parents[1]
DATA = ROOT / "data" / "customer_service"
TEXTS = (DATA / "train.jsonl", DATA / "tools.json")
_TOKENIZER_VOCABULARY = 8192

# transformers' name of the architecture, and its sizes.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-0.6b": (
        "qwen3",
        {
            "vocab_size": 151936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
    ),
    "llama-3.2-1b": (
        "llama",
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
    ),
    "llama-3.2-3b": (
        "llama",
        {
            "vocab_size": 128256,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 28,
            "num_attention_heads": 24,
            "num_key_value_heads": 8,
        },
    ),
    "small": (  # for checks of correctness on a GPU
        "llama",
        {
            "vocab_size": 32000,
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "num_hidden_layers": 4,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
        },
    ),
    "tiny": (  # for trying a script on a CPU
        "llama",
        {
            "vocab_size": 1024,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
    ),
}


def make_model(folder: Path, shape: str, *, vocabulary: int | None = None) -> Path:
    """Save a model of this shape with random weights in bfloat16, and a tokenizer, in the folder. Return the folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    kind, sizes = SHAPES[shape]
    words = min(_TOKENIZER_VOCABULARY, sizes["vocab_size"])
    tokenizer = make_tokenizer([path.read_text(encoding="utf-8") for path in TEXTS], vocabulary or words)
    config = AutoConfig.for_model(
        kind,
        **sizes,
        tie_word_embeddings=True,
        max_position_embeddings=16384,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, trust_remote_code=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # for the processes that load the model
    return folder


TokenRows = Iterator[tuple[list[int], int, str]]
"""Rows of a workload: the token ids, the number of prompt tokens, and the name of the conversation."""


def shared_rows(count: int, shared: int, own: int, learned: int, vocabulary: int) -> TokenRows:
    """Yield rows that share their first tokens. Each has `own` tokens more, of which the last ones are learned."""
    draw = random.Random(0)
    prefix = _tokens(draw, shared, vocabulary)
    for number in range(count):
        yield prefix + _tokens(draw, own, vocabulary), shared + own - learned, str(number)


def conversation_rows(count: int, vocabulary: int) -> TokenRows:
    """Yield the six turns of conversations. A system prompt with tools takes 700 tokens, and each turn takes 70 more,
    of which 40 are learned."""
    draw = random.Random(0)
    prefix = _tokens(draw, 700, vocabulary)
    for number in range(-(-count // 6)):
        ids = prefix + _tokens(draw, 6 * 70, vocabulary)
        for turn in range(1, 7):
            yield ids[: 700 + 70 * turn], 700 + 70 * turn - 40, str(number)


def distinct_rows(count: int, vocabulary: int) -> TokenRows:
    """Yield rows of 200 to 1,200 tokens that share nothing; the last 40 are learned."""
    draw = random.Random(0)
    for number in range(count):
        length = draw.randint(200, 1200)
        yield _tokens(draw, length, vocabulary), length - 40, str(number)


def dense_rows(count: int, vocabulary: int) -> TokenRows:
    """Yield rows of 2,048 tokens that share nothing; the second half is learned."""
    draw = random.Random(0)
    for number in range(count):
        yield _tokens(draw, 2048, vocabulary), 1024, str(number)


def _tokens(draw: random.Random, count: int, vocabulary: int) -> list[int]:
    return [draw.randrange(10, vocabulary) for _ in range(count)]


SYNTHETIC: dict[str, Callable[[int, int], TokenRows]] = {
    "shared-700": lambda count, vocabulary: shared_rows(count, 700, 64, 30, vocabulary),
    "shared-1500": lambda count, vocabulary: shared_rows(count, 1500, 100, 40, vocabulary),
    "six-turns": conversation_rows,
    "distinct": distinct_rows,
    "dense": dense_rows,
}
_UNSEEN = ROOT / ".cache" / "bfcl-unseen-tools"
FROM_FILES: dict[str, dict[str, Any]] = {
    "customer_service": {
        "train": [str(DATA / "train.jsonl")],
        "test": [str(DATA / "test.jsonl")],
        "tools": str(DATA / "tools.json"),
    },
    "bfcl": {
        "train": [str(_UNSEEN / name) for name in ("one-call.jsonl", "more-calls.jsonl", "no-call.jsonl")],
        "test": [str(_UNSEEN / "split" / "test.jsonl")],
    },
}
"""Workloads of real rows, as the config's section `data`. scripts/fetch_bfcl.py and split_bfcl.py write BFCL's."""
WORKLOADS = (*FROM_FILES, *SYNTHETIC)


def data_of(workload: str) -> dict[str, Any]:
    """Return the config's section `data` for a workload. For one of made-up rows its files are not read."""
    return {**FROM_FILES.get(workload, FROM_FILES["customer_service"]), "validation": 0}


def rendered_rows(workload: str, count: int, config: Any, vocabulary: int) -> list[Any]:
    """Return `count` rows of a workload as toolhone's trainer takes them. If there are fewer, they are repeated.

    Raises:
        UserError: if the files of the workload are missing.
    """
    from toolhone.chat.probe import make_renderer
    from toolhone.chat.render import render_all
    from toolhone.data.read import turns
    from toolhone.data.split import make_splits
    from toolhone.pretrained import load_tokenizer

    if workload in FROM_FILES:
        renderer = make_renderer(load_tokenizer(config.model), config.chat, config.model.name)
        chat = config.chat.model_copy(update={"over_long": "drop", "max_tokens": 4096})
        rows, _ = render_all(renderer, turns(make_splits(config.data).train), chat)
    else:
        rows = as_rendered(SYNTHETIC[workload](count, vocabulary))
    return [rows[n % len(rows)] for n in range(count)]


def as_rendered(rows: TokenRows) -> list[Any]:
    """Return rows of token ids as toolhone's trainer takes them. They have no text."""
    from toolhone.chat.render import Rendered, mask_labels
    from toolhone.records import Example, Gold, Message

    found = []
    for number, (ids, prompt_length, conversation) in enumerate(rows):
        example = Example(str(number), conversation, (), Message("assistant", ""), Gold("any"), (), "made up", None, {})
        found.append(Rendered(example, "", "", "", mask_labels(ids[:prompt_length], ids[prompt_length:]), False))
    return found
