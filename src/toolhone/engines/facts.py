"""What engines behind HTTP have in common: what one says about itself, and its greedy answer to token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from toolhone.records import FinishReason

EngineKind = Literal["llama.cpp", "vllm", "sglang", "openai"]
Cards = Mapping[str, Mapping[str, Any]]
"""The models of `/v1/models` by name, in the engine's order."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A greedy answer to token ids. `ids` may or may not end with the stop token, by engine. `logprobs` are natural
    logarithms of raw probabilities, and `runner_ups` those of the second likeliest tokens. `text` is the engine's own
    text of the answer."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    runner_ups: tuple[float | None, ...]
    text: str
    finish_reason: FinishReason
    latency_ms: float


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine says about itself. None: it does not say.

    Attributes:
        model: the name that requests ask for.
        base_model: the name that reaches the base model without the adapter.
        weights: the number type of the served weights, such as "q8_0".
        model_path: the file of llama.cpp's model.
        adapters: the names or files of the adapters.
        serves_base: whether requests can leave out the adapter.
        context: limits prompt and answer together, in tokens.
        grammar_backend: the library that follows a grammar, where the server's flags choose it.
    """

    kind: EngineKind
    version: str | None = None
    model: str = ""
    base_model: str | None = None
    weights: str | None = None
    template: str | None = None
    model_path: str | None = None
    adapters: tuple[str, ...] = ()
    serves_base: bool = False
    context: int | None = None
    grammar_backend: str | None = None


def engine_name(kind: str, weights: str, *, has_adapter: bool) -> str:
    """Return the engine in words, such as "vllm bfloat16 + LoRA". A routing policy belongs to one such name."""
    return f"{kind} {weights}{' + LoRA' if has_adapter else ''}"


def facts_of_cards(
    kind: EngineKind, version: str | None, cards: Cards, model: str | None, grammar_backend: str | None = None
) -> EngineFacts:
    """Return the facts of an engine that lists each adapter beside its base model, as vLLM and SGLang do. `model` is
    the name to ask for; None: the last one, which is an adapter if there is one."""
    chosen = model or list(cards)[-1]
    parent = cards[chosen].get("parent")
    base = parent if parent in cards else None
    # Only the base model's card has the context.
    context = cards[chosen].get("max_model_len") or cards[base or chosen].get("max_model_len")
    return EngineFacts(
        kind,
        version,
        model=chosen,
        base_model=base,
        adapters=() if base is None else (chosen,),
        serves_base=base is not None,
        context=context,
        grammar_backend=grammar_backend,
    )
