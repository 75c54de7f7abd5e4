"""What a call costs: tokens times an API's prices, or hours of one's own machines over the calls they serve.

All costs are in dollars. Nothing here reads a file or a price list (`prices.py` does) or advises (`advise.py` does).
"""

from __future__ import annotations

from dataclasses import dataclass

TOKENS_PRICED = 1_000_000
"""Prices are for so many tokens."""


@dataclass(frozen=True, slots=True)
class Price:
    """What an API charges, in dollars for a million tokens. Input that the API had cached costs `cached_input_usd`;
    where it gives no discount, that equals `input_usd`."""

    input_usd: float
    cached_input_usd: float
    output_usd: float


def call_cost_usd(price: Price, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0) -> float:
    """Dollars for a call, or for a mean one: ((prompt - cached) * input + cached * cached input + completion * output)
    / 1,000,000.

    Args:
        prompt_tokens: all tokens of the prompt, those that the API had cached among them, as OpenAI counts them.
        cached_tokens: how many of the prompt's tokens were cached, at most all of them.
    """
    if not 0 <= cached_tokens <= prompt_tokens or completion_tokens < 0:
        raise ValueError(f"no call has {prompt_tokens} prompt, {cached_tokens} cached and {completion_tokens} tokens")
    fresh = (prompt_tokens - cached_tokens) * price.input_usd
    return (fresh + cached_tokens * price.cached_input_usd + completion_tokens * price.output_usd) / TOKENS_PRICED
