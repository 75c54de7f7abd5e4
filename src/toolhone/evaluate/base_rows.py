"""Choose the examples that the base model answers, and the token limit of its answers.

In: the scored examples and the config. Out: the examples to answer and the token limit. A base model usually generates
until the token limit, so its answers take the most time. A sample of the rows and a limit that fits the gold answers
give nearly the same figures in a fraction of the time.
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
"""The limit exceeds the longest gold answer by this fraction, and at least by this many tokens. That leaves room for a
few words beside a call, or for JSON with more spaces."""

_Kind = tuple[str, str, str]


def select_for_base(
    renderer: ChatRenderer, examples: Sequence[Example], config: EvaluateConfig
) -> tuple[list[Example], EvaluateConfig]:
    """Return the examples that the base model answers, and the config with the token limit of its answers. `renderer`
    writes the base model's prompts."""
    return sample_turns(examples, config.base_rows), with_gold_limit(config, renderer, examples)


def sample_turns(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """Return at most `limit` examples that represent all of them, in the given order; None: all.

    The sample is stratified. A kind of example is its place (first turn, later turn, or the turn after a tool result)
    and its gold (no call, one call of a certain tool, several calls). Kinds that are too small for one place in the
    sample are merged: no call, one call of any tool, several calls. Each kind gets one place, the largest first. The
    other places go to kinds in proportion to their size (Sainte-Laguë's method: a kind with n examples competes for its
    next place with n / 3, n / 5, n / 7, ...). Within a kind, examples are ordered by the hash of their id, which is
    independent of difficulty.

    The choice depends only on the examples and the limit: not on the seed, the machine or any model's answers.
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
    """Return the turn's place, the number of calls expected, and the tool if it is one call."""
    roles = [message.role for message in example.prompt]
    place = "after a tool result" if roles[-1:] == ["tool"] else "later" if "assistant" in roles else "first"
    calls = example.gold.calls
    if example.gold.status != "calls" or len(calls) != 1:
        return place, "several calls" if calls else example.gold.status, ""
    return place, "one call", calls[0].name


def with_gold_limit(config: EvaluateConfig, renderer: ChatRenderer, examples: Sequence[Example]) -> EvaluateConfig:
    """Return the config with `max_new_tokens` lowered to the length of the longest gold answer, plus a margin.

    Gold answers are counted with the renderer's template and tokenizer, including the end of the turn. A SentencePiece
    tokenizer may count one token too many, for the space that it adds in front of a text. If the template
    does not write a gold answer directly after its prompt, the gold's length is unknown and the limit is unchanged.
    """
    longest = 0
    for example in examples:
        prompt = renderer.text(example.prompt, example.tools, ask=True)
        whole = renderer.whole_text(example)
        if not whole.startswith(prompt):
            return config
        longest = max(longest, len(renderer.encode(whole[len(prompt) :])))
    limit = longest + max(_MIN_MARGIN, round(_MARGIN * longest))
    return config.model_copy(update={"max_new_tokens": min(config.max_new_tokens, limit)})
