"""Writes a tiny Llama, and its adapter, as GGUF files. llama.cpp's own converter needs a download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from toolhone.chat.render import ChatRenderer

_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_model(path: Path, model: Any, renderer: ChatRenderer, *, q8_0: bool = False) -> Path:
    """Write a LlamaForCausalLM with tied embeddings and a byte-level tokenizer, in float32 or Q8_0."""
    import gguf

    config, tokenizer = model.config, renderer.tokenizer
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if q8_0 else gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(list(range(config.vocab_size))))
    kinds = (gguf.TokenType.CONTROL, gguf.TokenType.NORMAL)
    writer.add_token_types([kinds[id_ not in special] for id_ in range(config.vocab_size)])
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]])
    writer.add_add_bos_token(False)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(renderer.template)
    for name, tensor in _tensors(model).items():
        if q8_0 and tensor.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    _close(writer)
    return path


def write_lora(path: Path, adapted: Any) -> Path:
    """Write the adapter of a PeftModel on q_proj."""
    import gguf

    config = adapted.peft_config["default"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(config.lora_alpha))
    heads = adapted.config.num_attention_heads
    for number, layer in enumerate(adapted.base_model.model.model.layers):
        q_proj = layer.self_attn.q_proj
        a, b = (one["default"].weight.detach().numpy() for one in (q_proj.lora_A, q_proj.lora_B))
        writer.add_tensor(f"blk.{number}.attn_q.weight.lora_a", a)
        writer.add_tensor(f"blk.{number}.attn_q.weight.lora_b", _rotated(b, heads))
    _close(writer)
    return path


def _tensors(model: Any) -> dict[str, Any]:
    found = {"token_embd.weight": model.model.embed_tokens.weight, "output_norm.weight": model.model.norm.weight}
    for number, layer in enumerate(model.model.layers):
        for ours, theirs in _LAYER.items():
            found[f"blk.{number}.{theirs}.weight"] = layer.get_submodule(ours).weight
    tensors = {name: weight.detach().float().numpy() for name, weight in found.items()}
    for name, heads in (("attn_q", model.config.num_attention_heads), ("attn_k", model.config.num_key_value_heads)):
        for key in [key for key in tensors if f".{name}." in key]:
            tensors[key] = _rotated(tensors[key], heads)
    return tensors


def _rotated(weight: Any, heads: int) -> Any:
    """Return the rows in llama.cpp's order: it rotates neighbouring values, and transformers the halves of a head."""
    rows, columns = weight.shape
    return np.ascontiguousarray(
        weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


def _close(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
