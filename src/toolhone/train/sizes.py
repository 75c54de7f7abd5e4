"""The sizes of a model and of its batches, counted before any weight is loaded.

Parameters are counted by building the architecture on PyTorch's meta device, which has shapes but no storage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from peft.tuners.lora.layer import LoraLayer

from toolhone.config import Config
from toolhone.train.adapter import lora_config
from toolhone.train.language_layers import model_without_weights


@dataclass(frozen=True, slots=True)
class BatchCount:
    """The work of a forward pass: tokens, positions at the LM head, pairs of query and key, and keys. A key that
    several blocks of queries see counts once for each block. `masked` counts the pairs of the blocks that need a
    mask. `shape` is that of the batch's tensors, with padding: rows or trees, and positions."""

    tokens: int
    head_positions: int
    pairs: int
    keys: int
    masked: int
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sizes:
    """A model's sizes.

    `body` counts the frozen weights that every token is multiplied with, `adapter` the trained ones. `frozen` and
    `trainable` count all weights; embeddings and LM head may be among the trained ones (lora.modules_to_save), and
    `trains_head` says whether the LM head is. `adapted` is the sum of the output widths of all layers with an adapter,
    `normed` that of the widths of all norms, and `largest` the number of weights in the largest linear layer.
    `heads` counts the query heads of a layer. `hidden`, `inner`, `query` and `key_value` are the widths of hidden
    states, of the MLP's inner states, of a token's queries in all heads, and of its keys (or values).
    """

    body: int
    adapter: int
    frozen: int
    trainable: int
    adapted: int
    normed: int
    largest: int
    hidden: int
    inner: int
    heads: int
    query: int
    key_value: int
    layers: int
    vocabulary: int
    trains_head: bool


def model_sizes(config: Config, model_config: Any) -> Sizes:
    """Count the weights of the model and its adapter without allocating them."""
    text = model_config.get_text_config()
    model = model_without_weights(config.model, model_config)
    # Only MiCA changes what is trained; the others would compute on weights that have no values here.
    init = "mica" if config.lora.init == "mica" else "default"
    with torch.device("meta"):
        get_peft_model(model, lora_config(config.lora, model, init=init))
    heads = _size_of(text, "num_attention_heads") or 1  # recurrent models may have none
    dim = _size_of(text, "head_dim") or text.hidden_size // heads
    widths = {"q_norm": heads * dim, "k_norm": (_size_of(text, "num_key_value_heads") or heads) * dim}
    weights = list(model.named_parameters())
    # PEFT keeps the original of a fully trained module, but no token is multiplied with it.
    unused = ("embed", "lm_head", ".original_module.")
    used = [(name, p) for name, p in weights if p.dim() == 2 and not any(word in name for word in unused)]
    body = [p.numel() for name, p in used if not p.requires_grad and "lora_" not in name]
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    norms = [(n, m) for n, m in decoder.named_modules() if type(m).__name__.endswith("Norm") and hasattr(m, "weight")]
    return Sizes(
        body=sum(body),
        adapter=sum(p.numel() for name, p in used if p.requires_grad or "lora_" in name),
        frozen=sum(p.numel() for _, p in weights if not p.requires_grad),
        trainable=sum(p.numel() for _, p in weights if p.requires_grad),
        adapted=sum(layer.out_features for layer in model.modules() if isinstance(layer, LoraLayer)),
        normed=sum(widths.get(name.rpartition(".")[2], norm.weight.numel()) for name, norm in norms),
        largest=max(body, default=0),
        hidden=int(text.hidden_size),
        inner=_size_of(text, "intermediate_size") or 4 * int(text.hidden_size),
        heads=heads,
        query=widths["q_norm"],
        key_value=widths["k_norm"],
        layers=int(text.num_hidden_layers),
        vocabulary=int(text.vocab_size),
        trains_head=model.get_output_embeddings().weight.requires_grad,
    )


def _size_of(text: Any, name: str) -> int:
    """Return a size from a text config, the largest if layers differ; 0 if it has none. Some configs let no attribute
    be read whose value differs between layers, so it is read from the dictionary."""
    value = text.to_dict().get(getattr(type(text), "attribute_map", {}).get(name, name)) or 0
    return int(max(value) if isinstance(value, list) else value)
