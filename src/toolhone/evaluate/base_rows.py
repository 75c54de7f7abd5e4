"""What the base model is asked: which of the scored examples, and how long its answers may be.

In: the scored examples and the config. Out: the examples to ask and the token limit. An untuned model usually generates
until the token limit, so its answers take the most time of all and say the least. A sample of the rows and a limit that
fits the gold answers give nearly the same figures in a fraction of the time.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from toolhone.chat.render import ChatRenderer
from toolhone.config import EvaluateConfig
from toolhone.records import Example

_MARGIN = 0.25
_MIN_MARGIN = 16
"""Answers may be longer than the longest gold answer by this fraction of it, and at least by this many tokens: room for
a few words beside a call, or for JSON with more spaces."""

_Kind = tuple[str, str, str]


def asked_of_base(
    renderer: ChatRenderer, examples: Sequence[Example], config: EvaluateConfig
) -> tuple[list[Example], EvaluateConfig]:
    """Return the examples that the base model answers, and the config with the token limit of its answers. `renderer`
    writes the base model's prompts."""
    return sample_turns(examples, config.base_rows), with_gold_limit(config, renderer, examples)


def sample_turns(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """Choose at most `limit` examples that represent all of them, in their own order; None: all.

    The examples are divided into kinds: by their place (first turn, later turn, or the turn after a tool result) and by
    what is expected (no call, one call of a certain tool, several calls). Kinds that are too small for one place in the
    sample are joined: no call, one call of any tool, several calls. Each kind gets one example, the largest first, and
    the rest by its share of the whole (Sainte-Laguë's method: a kind with n examples gets its next place at n / 3,
    n / 5, n / 7, ...). Within a kind the order is that of the hashes of the ids, which says nothing about difficulty.

    So the choice depends on the examples alone. Every run with the same rows and limit asks the same ones, whatever its
    seed and machine, and no answer of any model takes part in it.
    """
    if limit is None or limit >= len(examples):
        return list(examples)
    sizes = Counter(map(_kind, examples))
    kinds: defaultdict[tuple[str, ...], list[tuple[bytes, str]]] = defaultdict(list)
    for example in examples:
        kind = _kind(example)
        is_small = sizes[kind] * limit < len(examples)
        kinds[kind[:2] if is_small else kind].append((hashlib.sha256(example.id.encode()).digest(), example.id))
    places = sorted(
        (number > 0, (2 * number + 1) / len(members), *member)
        for members in kinds.values()
        for number, member in enumerate(sorted(members))
    )
    chosen = {id_ for *_, id_ in places[:limit]}
    return [example for example in examples if example.id in chosen]


def _kind(example: Example) -> _Kind:
    """The turn's place, how many calls are expected, and the tool if it is one call."""
    roles = [message.role for message in example.prompt]
    place = "after a tool result" if roles[-1:] == ["tool"] else "later" if "assistant" in roles else "first"
    calls = example.gold.calls
    if example.gold.status != "calls" or len(calls) != 1:
        return place, "several calls" if calls else example.gold.status, ""
    return place, "one call", calls[0].name


def with_gold_limit(config: EvaluateConfig, renderer: ChatRenderer, examples: Sequence[Example]) -> EvaluateConfig:
    """The config with `max_new_tokens` lowered to what the examples' longest gold answer needs, plus a margin.

    Gold answers are counted with the renderer's template and tokenizer, up to and including the end of the turn. The
    limit stays as it is if the template does not write a gold answer right after its prompt, since the gold's length is
    then unknown.
    """
    longest = 0
    for example in examples:
        prompt = renderer.text(example.prompt, example.tools, ask=True)
        whole = renderer.text((*example.prompt, example.turn), example.tools, ask=False)
        if not whole.startswith(prompt):
            return config
        longest = max(longest, len(renderer.encode(whole[len(prompt) :])))
    limit = longest + max(_MIN_MARGIN, round(_MARGIN * longest))
    return config.model_copy(update={"max_new_tokens": min(config.max_new_tokens, limit)})
