"""Rows of labelled tokens for tests, without a tokenizer."""

from __future__ import annotations

from toolhone.chat.render import LabelledTokens, mask_labels


def labelled(ids: list[int], prompt_length: int, later_weight: float = 1.0) -> LabelledTokens:
    """Return a row whose ids from index `prompt_length` on are labelled."""
    return mask_labels(ids[:prompt_length], ids[prompt_length:], later_weight)
