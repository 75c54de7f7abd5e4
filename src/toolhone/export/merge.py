"""Merges an adapter into the weights of its base model, and proves that the merged model answers the same.

In: the config of a run and its adapter. Out: a folder that transformers and engines load as a model of its own, and the
`Proof`: the greedy answers of the merged model compared with those of base and adapter.

The base weights are loaded in float32, merged there, and cast last. A run that trained on 4-bit weights is merged into
the same base weights without quantisation, because weights that are merged in 4 bits lose most of what was learned.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from rich.console import Console
from torch import nn
from transformers import GenerationConfig

from toolhone.chat.render import ChatRenderer
from toolhone.config import ModelConfig
from toolhone.errors import UserError
from toolhone.evaluate.decode import Completion, decode_greedily
from toolhone.evaluate.predict import PrefixCache, answer_batches
from toolhone.pretrained import load_model_config
from toolhone.progress import Progress
from toolhone.rates import Rate, rate
from toolhone.records import Example
from toolhone.train.hardware import Hardware, choose_device, release_memory
from toolhone.train.model import load_for_inference, load_model, no_progress_bar

MergedType = Literal["bf16", "f32"]
DTYPES = {"bf16": "bfloat16", "f32": "float32"}
"""The number types of merged weights: the value of --merge, and torch's name."""

_BATCH = 16  # prompts that a proof answers together


class NotEqualError(Exception):
    """A merged model in float32 that answers differently from base and adapter. The message says where."""


@dataclass(frozen=True, slots=True)
class Proof:
    """The answers of a merged model compared with those of base and adapter, both computed in `dtype`.

    Attributes:
        agreement: the share of prompts with equal tokens.
        tokens: the number of tokens compared: those of base and adapter.
        max_logprob_difference: the largest difference of a token's log-probability, in nats, up to the first token that
            differs.
        differences: the first prompts whose answers differ, and where.
    """

    dtype: str
    agreement: Rate
    tokens: int
    max_logprob_difference: float
    differences: tuple[str, ...]


def merge_adapter(config: ModelConfig, adapter: Path, dtype: MergedType, folder: Path) -> None:
    """Merge an adapter into its base model and save the weights and config.json in a folder.

    Raises:
        UserError: if the base model cannot be loaded, or is itself quantised.
    """
    if getattr(load_model_config(config), "quantization_config", None):
        raise UserError(
            f"model.name: {config.name} is quantised, and an adapter cannot be merged into it; leave out --merge"
        )
    unquantised = _unquantised(config)
    base = load_model(unquantised, Hardware("cpu", torch.float32, ()))
    base.config.use_cache = True  # training turns it off
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's warnings about tied weights; `_untie` handles them
        model = PeftModel.from_pretrained(base, str(adapter))
        _untie(model.get_base_model())
        merged = model.merge_and_unload(safe_merge=True)
    _cast(merged, getattr(torch, DTYPES[dtype]))
    # Sampling parameters that do not fit each other would stop transformers from saving. The export writes its own.
    merged.generation_config = GenerationConfig()
    with no_progress_bar():
        merged.save_pretrained(folder)


def _unquantised(config: ModelConfig) -> ModelConfig:
    """Return the config of the same base model without quantisation, on any device."""
    attention = "sdpa" if config.attention == "flash_attention_2" else config.attention
    return config.model_copy(update={"quantize": "none", "attention": attention})


def _untie(model: Any) -> None:
    """Give the LM head its own weight if it shares that of the input embeddings and only these have an adapter.

    The merge changes the shared weight in place. Without this, the head would change too.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embeddings, BaseTunerLayer) and head is not None and not isinstance(head, BaseTunerLayer):
        weight = embeddings.get_base_layer().weight
        if head.weight is weight:
            head.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)


def _cast(model: Any, dtype: torch.dtype) -> None:
    """Cast the weights, except those that the model's class keeps in float32, such as the biases of routers."""
    kept = tuple(model._get_dtype_plan(dtype))
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_floating_point() and not any(part in name for part in kept):
            tensor.data = tensor.data.to(dtype)
    model.config.dtype = dtype


def prove_merge(
    config: ModelConfig,
    adapter: Path,
    merged: Path,
    dtype: MergedType,
    renderer: ChatRenderer,
    examples: Sequence[Example],
    max_new_tokens: int,
    console: Console,
) -> Proof:
    """Answer prompts with the merged model, loaded from its folder, and with base and adapter. Compare the tokens.

    Raises:
        NotEqualError: if any token differs in float32, in which rounding is too small to change answers.
    """
    unquantised = _unquantised(config)
    hardware = Hardware(choose_device(config.device)[0], getattr(torch, DTYPES[dtype]), ())
    answers = []
    models = ((unquantised, adapter), (unquantised.model_copy(update={"name": str(merged), "revision": None}), None))
    with Progress("proof of the merge", 2 * len(examples), "answers", console) as progress:
        for model_config, folder in models:
            model = load_for_inference(model_config, hardware, folder)
            answers.append(_answers(model, renderer, examples, max_new_tokens, progress))
            del model
            release_memory(hardware.device)
    proof = compare_answers(DTYPES[dtype], examples, *answers)
    if dtype == "f32" and proof.differences:
        count = proof.agreement["denominator"] - proof.agreement["numerator"]
        raise NotEqualError(
            f"the merged model answers {count} of {len(examples)} prompts differently from base and adapter in "
            f"float32: {'; '.join(proof.differences)}"
        )
    return proof


def _answers(
    model: Any, renderer: ChatRenderer, examples: Sequence[Example], max_new_tokens: int, progress: Progress
) -> dict[str, Completion]:
    """Answer the examples greedily. Returns the answers by the examples' ids."""
    prefixes = PrefixCache(model)
    found: dict[str, Completion] = {}
    for batch in answer_batches(renderer, examples, _BATCH):
        prefix = prefixes.get(batch.prefix_ids)
        completions = decode_greedily(model, batch.prompts, prefix, renderer.stop_ids(), max_new_tokens)
        found |= {example.id: done for example, done in zip(batch.examples, completions, strict=True)}
        progress.advance(len(batch.examples))
    return found


def compare_answers(
    dtype: str, examples: Sequence[Example], expected: dict[str, Completion], found: dict[str, Completion]
) -> Proof:
    """Compare two sets of answers to the same examples."""
    equal, largest = 0, 0.0
    differences: list[str] = []
    for example in examples:
        one, other = expected[example.id], found[example.id]
        same = next((n for n, pair in enumerate(zip(one.ids, other.ids, strict=False)) if pair[0] != pair[1]), None)
        compared = min(len(one.ids), len(other.ids)) if same is None else same
        pairs = zip(one.logprobs[:compared], other.logprobs[:compared], strict=True)
        largest = max([largest, *(abs(first - second) for first, second in pairs)])
        if one.ids == other.ids:
            equal += 1
        elif len(differences) < 3:
            differences.append(f"{example.id} from token {compared + 1} on")
    tokens = sum(len(answer.ids) for answer in expected.values())
    return Proof(dtype, rate(equal, len(examples)), tokens, largest, tuple(differences))
