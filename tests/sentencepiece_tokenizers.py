"""SentencePiece tokenizers for tests, trained on a short text.

They have the normalizers, pre-tokenizers and decoders of real ones.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).parents[1]

PREPEND = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}
REPLACE = PREPEND["normalizers"][1]
FUSE = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = [*FUSE, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]


def metaspace(scheme: str, *, split: bool = False) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


KINDS: dict[str, tuple[str, Any, Any, list[Any]]] = {
    "Llama 2": ("BPE", PREPEND, None, STRIP),
    "Llama 2 in new transformers": ("BPE", None, metaspace("always"), STRIP),
    "Mistral v0.3": ("BPE", None, metaspace("first"), STRIP),
    "no space in front": ("BPE", None, metaspace("never"), FUSE),
    "no space in front, but one is stripped": ("BPE", None, metaspace("never"), STRIP),
    "Gemma": ("BPE", REPLACE, None, FUSE),
    "Unigram, first": ("Unigram", None, metaspace("first", split=True), STRIP),
    "Unigram, always": ("Unigram", None, metaspace("always", split=True), STRIP),
    "Unigram, prepended": ("Unigram", PREPEND, None, STRIP),
    "bytes with a space in front": (
        "ByteLevel",
        None,
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}],
    ),
}
ADDS_SPACE = [name for name in KINDS if name not in ("Gemma",) and not name.startswith("no space")]
CHATML = ("<|im_start|>", "<|im_end|>")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@functools.cache
def model(kind: str) -> str:
    """Return a trained model as JSON: the vocabulary of `kind`, without special tokens."""
    text = (ROOT / "data" / "customer_service" / "tools.json").read_text(encoding="utf-8").replace("\n", " ")
    text += " </s> <|user|> Hello, it is on its way. One moment. Answer: No."
    special = ["<unk>", "<s>", "</s>", *BYTES]
    if kind == "ByteLevel":
        backend, trainer = (
            Tokenizer(models.BPE()),
            trainers.BpeTrainer(
                vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
            ),
        )
        backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    elif kind == "BPE":
        backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        trainer = trainers.BpeTrainer(vocab_size=600, show_progress=False, special_tokens=special)
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        backend = Tokenizer(models.Unigram(byte_fallback=True))
        trainer = trainers.UnigramTrainer(
            vocab_size=600, show_progress=False, special_tokens=special, unk_token="<unk>"
        )
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator([text], trainer)
    found = json.loads(backend.to_str())["model"]
    if kind == "Unigram":  # as in real vocabularies, a control token or a byte is never likelier than its characters
        found["byte_fallback"] = True
        found["vocab"] = [[piece, -100.0 if piece in special else score] for piece, score in found["vocab"]]
    return json.dumps(found)


def tokenizer_of(
    kind: str, *tokens: str, normalizer: Any = None, drop: tuple[str, ...] = (), **flags: bool
) -> PreTrainedTokenizerFast:
    """Return a tokenizer of this kind with more special tokens.

    Args:
        normalizer: a further normalizer, before the kind's own.
        drop: pieces to remove from the vocabulary.
        flags: of the special tokens.
    """
    name, own, pre_tokenizer, steps = KINDS[kind]
    vocabulary = json.loads(model(name))
    if drop:
        vocabulary["byte_fallback"] = False
        vocabulary["vocab"] = {piece: n for piece, n in vocabulary["vocab"].items() if piece not in drop}
    normalizers = [step for step in (normalizer, own) if step]
    pieces = vocabulary["vocab"]
    known = pieces if isinstance(pieces, dict) else {piece: n for n, (piece, _) in enumerate(pieces)}
    first = max(known.values()) + 1
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} | flags
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": known[token], "content": token, **plain} for token in ("<unk>", "<s>", "</s>") if token in known]
    added += [{"id": first + n, "content": token, **flags} for n, token in enumerate(tokens)]
    backend = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": normalizers} if normalizers else None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": vocabulary,
    }
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"} if "<unk>" in known else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)), clean_up_tokenization_spaces=False, **roles
    )
