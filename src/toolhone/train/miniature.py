"""Make a small random copy of a model: the same class and kinds of layers, with small sizes, in float32.

A copy takes a fraction of a second to make and run. It answers questions about a class of models before any weight is
loaded, for example whether its loss along prefix trees is right (`packing.py`), or how its cache may be filled
(`evaluate/decode.py`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from toolhone.pretrained import build_model

VOCABULARY = 128
WINDOW = 16
"""Sliding windows and attention chunks of a copy, in tokens. The model's own may exceed every test row."""

_MOST_LAYERS = 10
_SIZES: dict[str, int] = {  # upper limits
    "intermediate_size": 64,
    "intermediate_size_mlp": 64,
    "ffn_dim": 64,
    "ffn_hidden_size": 64,
    "n_inner": 64,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 64,
    "moe_shared_expert_intermediate_size": 16,
    "expert_ffn_hidden_size": 16,
    "expert_hidden_size": 64,
    "block_ff_dim": 64,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "top_k_experts": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "hidden_size_per_layer_input": 16,
    "laurel_rank": 8,
    "sliding_window": WINDOW,
    "attention_chunk_size": WINDOW,
    "attention_window_size": WINDOW,
    "mamba_d_state": 16,
    "mamba_dt_rank": 8,
    "mamba_n_groups": 1,
    "mamba_ngroups": 1,
    "mamba_chunk_size": 8,
    "mamba_d_head": 16,
    "mamba_headdim": 16,
    "mamba_head_dim": 16,
    "mamba_num_heads": 4,
    "mamba_d_ssm": 64,
    "n_groups": 1,
    "chunk_size": 8,
    "ssm_state_size": 16,
    "state_size": 16,
    "time_step_rank": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
_HEAD_DIM = 256  # a copy keeps the width of a head, because the rotary embedding depends on it
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class CannotShrinkError(Exception):
    """No small copy can be made. The message says why."""


def make_miniature(model_config: Any, *, model_class: Any = None, trust_remote_code: bool = False) -> Any:
    """Return a small random model, in training mode and without dropout, whose every layer matters to its output.

    Args:
        model_class: its class; None: the one that transformers chooses for the config.

    Raises:
        CannotShrinkError: if the config's sizes cannot be made small, or its class does not build.
    """
    try:
        small = shrink(model_config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if model_class is None:
                model = build_model(small, trust_remote_code=trust_remote_code, dtype=torch.float32)
            else:
                model = model_class(small).float()
            _randomise(model)
    except CannotShrinkError:
        raise
    except Exception as error:  # any code of any class runs here
        raise CannotShrinkError(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:150]}") from error
    return model.train()


def shrink(model_config: Any) -> Any:
    """Return a config of the same class with small sizes, and a layer or more of each kind.

    Positions (rotary embeddings, maximum lengths), capped logits and kinds of layers stay. Dropout and jitter become 0.
    """
    text = model_config.get_text_config()
    values = model_config.to_dict()
    of_text = values
    if text is not model_config:
        key = next(name for name in values if getattr(model_config, name, None) is text)
        of_text = values[key]
        for name, part in values.items():
            if name != key and name.endswith("_config") and isinstance(part, dict):
                part.update({size: 1 for size in ("num_hidden_layers", "depth") if size in part})
    of_text.update(_small_sizes(text, of_text))
    _keep_few_layers(text, of_text)
    for part in (values, of_text):
        part.pop("quantization_config", None)
        for name, value in part.items():
            if isinstance(value, float) and any(word in name for word in ("drop", "jitter")):
                part[name] = 0.0
        part.update({name: number for name, number in _TOKENS.items() if part.get(name) is not None})
    small = type(model_config).from_dict(values)
    small._name_or_path = getattr(model_config, "_name_or_path", "")  # where the Python code of a remote class is
    small_text = small.get_text_config()
    if small_text.num_hidden_layers > 2 * _MOST_LAYERS or set(_derived_kinds(small_text)) != set(_derived_kinds(text)):
        raise CannotShrinkError(f"{small_text.num_hidden_layers} layers do not have all kinds of layers")
    return small


def _derived_kinds(text: Any) -> list[Any]:
    """Return the kind of each layer, also if the config derives them from other values; [] if all are alike."""
    return list(getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ())


def _small_sizes(text: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return the changed values of a text config, under their names in its dictionary."""
    names = getattr(type(text), "attribute_map", {})
    found: dict[str, Any] = {}

    def put(name: str, value: Any) -> None:
        name = names.get(name, name)
        if values.get(name) is not None:
            found[name] = value

    heads = getattr(text, "num_attention_heads", None)
    hidden = int(text.hidden_size)
    small_hidden = 64
    if heads:
        groups = getattr(text, "num_key_value_heads", None) or heads
        dim = min(values.get("head_dim") or hidden // heads, _HEAD_DIM)
        small_groups = min(groups, 2 if dim <= 128 or groups == heads else 1)
        small_heads = small_groups * min(heads // groups, 2)
        small_hidden = small_heads * dim
        sizes = {"num_attention_heads": small_heads, "num_key_value_heads": small_groups, "head_dim": dim}
        # A value of null stands for one that follows from the others; some classes build only with a number.
        found.update({names.get(name, name): size for name, size in sizes.items() if names.get(name, name) in values})
        put("num_global_key_value_heads", 1)
    put("hidden_size", small_hidden)
    for name in ("vocab_size", "vocab_size_per_layer_input"):
        put(name, VOCABULARY)  # even if its own is smaller
    for name in ("word_embed_proj_dim", "block_dim", "conv_dim", "lru_width", "model_dim"):
        if values.get(name) == hidden:
            found[name] = small_hidden
    for name, most in _SIZES.items():
        value = values.get(names.get(name, name))
        if isinstance(value, int) and not isinstance(value, bool):
            put(name, min(value, most))
        elif isinstance(value, list) and value and all(isinstance(one, int) for one in value):
            put(name, [min(one, most) for one in value])
    # In a Mamba layer: inner width = expand x hidden = heads x width of a head.
    expand = next((values[name] for name in ("mamba_expand", "expand") if isinstance(values.get(name), int)), None)
    inner = found.get("mamba_d_ssm") or (expand or 0) * small_hidden
    merged = {**values, **found}
    width = next((merged[name] for name in ("mamba_d_head", "mamba_headdim", "head_dim") if merged.get(name)), None)
    if inner and isinstance(width, int):
        for name in ("mamba_n_heads", "n_mamba_heads", *([] if heads else ["num_heads"])):
            put(name, inner // width)
    return found


def _keep_few_layers(text: Any, values: dict[str, Any]) -> None:
    """Keep a layer or more of each kind: cut lists with one entry for each layer, and lists of layers' indices."""
    count = int(text.num_hidden_layers)
    of_layers = values.get("per_layer_config") or {}  # by the index of a layer, as text
    lists = {name: value for name, value in values.items() if isinstance(value, list)}
    indices = {name: value for name, value in lists.items() if _are_indices(name, value, count)}
    entries = {name: value for name, value in lists.items() if len(value) == count and name not in indices}
    changes = {int(index): str(change) for index, change in of_layers.items()}
    derived = _derived_kinds(text) or [None] * count
    kinds = [
        (
            derived[layer],
            changes.get(layer),
            *(str(value[layer]) for value in entries.values()),
            *(layer in v for v in indices.values()),
        )
        for layer in range(count)
    ]
    shared = int(values.get("num_kv_shared_layers") or 0)  # the last ones, which use the keys of earlier layers
    chosen = _covering(kinds[: count - shared])
    if shared:
        last = [count - shared + layer for layer in _covering(kinds[count - shared :])]
        values["num_kv_shared_layers"] = len(last)
        chosen += last
    for name, value in entries.items():
        values[name] = [value[layer] for layer in chosen]
    for name, value in indices.items():
        values[name] = [n for n, layer in enumerate(chosen) if layer in value]
    if of_layers:
        known = {int(index): change for index, change in of_layers.items()}
        values["per_layer_config"] = {str(n): known[layer] for n, layer in enumerate(chosen) if layer in known}
    key = getattr(type(text), "attribute_map", {}).get("num_hidden_layers", "num_hidden_layers")
    if key in values:
        values[key] = len(chosen)


def _are_indices(name: str, value: list[Any], count: int) -> bool:
    """Return whether a list of a config holds indices of layers, for example full_attn_idxs."""
    ordered = all(isinstance(one, int) for one in value) and value == sorted(set(value)) and value[-1:] < [count]
    return ordered and any(word in name for word in ("layers", "idx", "indices"))


def _covering(kinds: list[Any]) -> list[int]:
    """Return the indices of layers that have all kinds: the first ones, at least 4, or else the first of each kind."""
    every = set(kinds)
    first = next(n for n in range(len(kinds) + 1) if set(kinds[:n]) == every)
    if first <= _MOST_LAYERS:
        return list(range(min(max(first, 4), len(kinds))))
    return sorted(kinds.index(kind) for kind in every)


def _randomise(model: nn.Module) -> None:
    """Draw weights of a size at which every layer changes the output: 1 / sqrt(inputs)."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1 / math.sqrt(parameter.shape[-1]))
