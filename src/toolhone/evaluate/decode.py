"""Greedy decoding in batches over a prompt prefix that is computed once.

The prompts of a function-calling test set share nearly all their tokens: the system prompt and the tools. The
model runs their longest common prefix once. Each batch starts from a copy of its cache, and finished rows leave the
batch. Every token has its raw log-probability and that of the runner-up.

How a cache may be filled depends on the model's layers (`Method`). For classes that the tests do not cover, and for
models with recurrent or convolution layers, a small copy of the model (`train/miniature.py`) decides: the first method
that gives the same tokens as no cache at all.
"""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers.cache_utils import Cache, DynamicCache

from toolhone.errors import UserError
from toolhone.evaluate.cache import can_stack, has_states, keeps_keys, new_cache, select_rows, stack
from toolhone.evaluate.prefix_attention import ContinuedRows, can_share_prefix, shared_prefix_attention
from toolhone.train.miniature import VOCABULARY, WINDOW, CannotShrinkError, make_miniature
from toolhone.train.packing import is_tested

Method = Literal["padded", "stacked", "stacked without prefix", "alone", "uncached"]
"""How a batch is decoded, the fastest first.

padded: [prefix, padding, rest of the prompt] in one pass; the padding is masked. For attention alone.
stacked: prompts of each length in one pass without padding, then their caches are stacked.
alone: row by row with transformers' own cache. uncached: row by row, and each token takes a pass over all before it.
"""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model generated for a row. `ids` ends with the stop token if `stopped`; `logprobs` are the natural
    logarithms of the tokens' raw probabilities, and `runner_ups` those of the second likeliest tokens."""

    ids: list[int]
    logprobs: Sequence[float]
    runner_ups: Sequence[float | None]
    stopped: bool


@dataclass(frozen=True, slots=True)
class Prefix:
    """Token ids that prompts begin with, and the cache after them (batch 1). Without ids the cache is None."""

    ids: list[int]
    cache: Cache | None


def shared_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Return the longest common prefix of the prompts that leaves each prompt at least one more token."""
    if not prompts:
        return []
    shortest, longest = min(prompts), max(prompts)  # the first and last in lexical order share the least
    limit = min(len(prompt) for prompt in prompts) - 1
    length = next((n for n in range(limit) if shortest[n] != longest[n]), limit)
    return list(shortest[:length])


@torch.inference_mode()
def compute_prefix(model: Any, ids: list[int]) -> Prefix:
    """Run the prefix through the model once. The cache is None if the model cannot continue from one."""
    if not ids or decoding_method(model) not in ("padded", "stacked"):
        return Prefix(ids, None)
    cache = new_cache(model.config)
    _run(model, torch.tensor([ids], device=model.device), cache)  # [1, prefix]
    return Prefix(ids, cache)


@torch.inference_mode()
def decode_greedily(
    model: Any,
    prompts: Sequence[Sequence[int]],
    prefix: Prefix,
    stop_ids: frozenset[int],
    max_new_tokens: int,
    *,
    method: Method | None = None,
) -> list[Completion]:
    """Answer a batch of prompts, each beginning with `prefix.ids` and at least one token longer.

    Padding is masked, and position ids skip it. So in float32 every row gets the same tokens as alone.

    Args:
        method: how the cache is filled; None: the fastest that is right for the model.

    Raises:
        UserError: if prompts and answers are longer than the model's sliding window, and its attention cannot mask
        that.
    """
    method = method or decoding_method(model)
    if method in ("alone", "uncached"):
        return [_decode_alone(model, list(prompt), stop_ids, max_new_tokens, method) for prompt in prompts]
    start = len(prefix.ids) if prefix.cache is not None else 0
    own = [list(prompt[start:]) for prompt in prompts]
    if start and len(own) > 1 and method == "padded" and can_share_prefix(model):
        with shared_prefix_attention(model):
            return _decode(_rows_after_prefix(model, own, prefix.cache, start), len(own), stop_ids, max_new_tokens)
    window = _outgrown_window(model, start + max(map(len, own)) + max_new_tokens)
    fill = _fill_padded if method == "padded" else _fill_and_stack
    rows = _rows_with_prefix(model, *fill(model, own, prefix.cache, start, window), window)
    return _decode(rows, len(own), stop_ids, max_new_tokens)


Rows = Generator[torch.Tensor, tuple[torch.Tensor, torch.Tensor | None], None]
"""Yields the logits [rows, vocabulary] of each token. Before the next one it is sent the chosen tokens [rows], and the
indices of the rows that continue; None: all."""


def _decode(rows: Rows, count: int, stop_ids: frozenset[int], max_new_tokens: int) -> list[Completion]:
    answers: list[tuple[list[int], list[float], list[float]]] = [([], [], []) for _ in range(count)]
    order = list(range(count))  # which answer each row of the batch belongs to
    logits = next(rows)
    for step in range(max_new_tokens):
        chosen, keep = _choose(logits, [answers[row] for row in order]), None  # [rows]
        unfinished = [n for n, row in enumerate(order) if answers[row][0][-1] not in stop_ids]
        if not unfinished or step + 1 == max_new_tokens:
            break
        if len(unfinished) < len(order):
            keep = torch.tensor(unfinished, device=logits.device)
            chosen, order = chosen[keep], [order[n] for n in unfinished]
        logits = rows.send((chosen, keep))
    return [Completion(*answer, stopped=bool(answer[0]) and answer[0][-1] in stop_ids) for answer in answers]


def _rows_with_prefix(
    model: Any, cache: Cache, visible: torch.Tensor, logits: torch.Tensor, window: int | None
) -> Rows:
    """Continue rows whose caches each include the prefix, from what `_fill_padded` returns."""
    is_masked = keeps_keys(cache)  # states have no padding left
    while True:
        chosen, keep = yield logits
        if keep is not None:
            select_rows(cache, keep)
            visible = visible[keep]
        visible = torch.cat([visible, visible.new_ones(len(visible), 1)], dim=1)
        logits = _run(model, chosen[:, None], cache, visible if is_masked else None, window)


def _rows_after_prefix(model: Any, own: Sequence[list[int]], prefix: Any, start: int) -> Rows:
    """Answer rows that share one copy of the prefix's cache."""
    lengths = [len(ids) for ids in own]
    rows = ContinuedRows(lengths, prefix, start, new_cache(model.config), model.device)
    ids = torch.tensor([[0] * (max(lengths) - len(one)) + one for one in own], device=model.device)  # [rows, width]
    while True:
        chosen, keep = yield _last_logits(model, rows.inputs(ids))
        if keep is not None:
            rows.select(keep)
        rows.advance()
        ids = chosen[:, None]


@torch.inference_mode()
def next_logits(
    model: Any, prompt: Sequence[int], prefix: Prefix, max_new_tokens: int
) -> Generator[torch.Tensor, int, None]:
    """Yield the logits [vocabulary] of each token of one answer; the chosen token is sent back before the next. They
    are those of `decode_greedily` with the same prompt and prefix.

    Raises:
        UserError: as `decode_greedily`.
    """
    method = decoding_method(model)
    ids = list(prompt)
    if method in ("alone", "uncached"):
        own_cache = DynamicCache(config=model.config) if method == "alone" else None
        while True:
            chosen = yield _run(model, torch.tensor([ids], device=model.device), own_cache)[0]
            ids = [chosen] if own_cache is not None else [*ids, chosen]
    start = len(prefix.ids) if prefix.cache is not None else 0
    window = _outgrown_window(model, len(ids) + max_new_tokens)
    fill = _fill_padded if method == "padded" else _fill_and_stack
    cache, visible, logits = fill(model, [ids[start:]], prefix.cache, start, window)
    while True:
        chosen = yield logits[0]
        visible = torch.cat([visible, visible.new_ones(1, 1)], dim=1)
        step = torch.tensor([[chosen]], device=model.device)  # [1, 1]
        logits = _run(model, step, cache, visible if keeps_keys(cache) else None, window)


def _fill_padded(
    model: Any, own: Sequence[list[int]], prefix: Cache | None, start: int, window: int | None
) -> tuple[Cache, torch.Tensor, torch.Tensor]:
    """Run a batch laid out as [prefix, padding, rest of the prompt].

    Returns:
        The cache; which of its tokens are no padding [batch, prefix + width]; the last logits [batch, vocabulary].
    """
    width = max(map(len, own))
    input_ids = torch.tensor([[0] * (width - len(ids)) + ids for ids in own], device=model.device)  # [batch, width]
    visible = torch.ones(len(own), start + width, dtype=torch.long, device=model.device)
    for row, ids in enumerate(own):
        visible[row, start : start + width - len(ids)] = 0
    cache = _continued(model, prefix, len(own))
    return cache, visible, _run(model, input_ids, cache, visible, window)


def _fill_and_stack(
    model: Any, own: Sequence[list[int]], prefix: Cache | None, start: int, window: int | None
) -> tuple[Cache, torch.Tensor, torch.Tensor]:
    """Run the rows of each length together, without padding, and stack their caches. Returns what `_fill_padded`
    returns, with the padding on the left."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for row, ids in enumerate(own):
        by_length[len(ids)].append(row)
    caches, logits = [], []
    for rows in by_length.values():
        cache = _continued(model, prefix, len(rows))
        logits.append(_run(model, torch.tensor([own[row] for row in rows], device=model.device), cache))
        caches.append(cache)
    length = start + max(by_length)
    cache = stack(caches, length)
    order = [row for rows in by_length.values() for row in rows]
    visible = torch.ones(len(own), length, dtype=torch.long, device=model.device)
    for row, ids in enumerate(own):
        visible[row, : length - start - len(ids)] = 0
    back = torch.tensor([order.index(row) for row in range(len(own))], device=model.device)
    select_rows(cache, back)
    return cache, visible, torch.cat(logits)[back]


def _continued(model: Any, prefix: Cache | None, rows: int) -> Cache:
    """Return a cache for this many rows that each continue the prefix."""
    if prefix is None:
        return new_cache(model.config)
    cache = copy.deepcopy(prefix)
    select_rows(cache, torch.zeros(rows, dtype=torch.long, device=model.device))
    return cache


def _decode_alone(
    model: Any, prompt: list[int], stop_ids: frozenset[int], max_new_tokens: int, method: Method
) -> Completion:
    cache = DynamicCache(config=model.config) if method == "alone" else None
    answer: tuple[list[int], list[float], list[float]] = ([], [], [])
    ids = prompt
    while len(answer[0]) < max_new_tokens and not (answer[0] and answer[0][-1] in stop_ids):
        logits = _run(model, torch.tensor([ids], device=model.device), cache)
        chosen = _choose(logits, [answer]).tolist()
        ids = chosen if cache is not None else ids + chosen
    return Completion(*answer, stopped=bool(answer[0]) and answer[0][-1] in stop_ids)


def _choose(logits: torch.Tensor, answers: Sequence[tuple[list[int], list[float], list[float]]]) -> torch.Tensor:
    """Add the likeliest token, its log-probability and that of the second to each answer. Return the tokens [batch]."""
    logprobs = logits.float().log_softmax(dim=-1)  # [batch, vocabulary]
    best = logprobs.max(dim=-1)  # the first of equal values, unlike `topk`
    second = logprobs.scatter_(1, best.indices[:, None], float("-inf")).amax(dim=-1)  # [batch]
    # One copy to the host, where a GPU waits for it. A double holds every token id exactly.
    packed = torch.stack([best.indices.double(), best.values.double(), second.double()], dim=1)  # [batch, 3]
    for (ids, logprobs_of, runner_ups), (token, logprob, runner_up) in zip(answers, packed.tolist(), strict=True):
        ids.append(int(token))
        logprobs_of.append(logprob)
        runner_ups.append(runner_up)
    return best.indices


def _run(
    model: Any,
    input_ids: torch.Tensor,
    cache: Cache | None,
    visible: torch.Tensor | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Run tokens [batch, seq] after those of the cache. Return the logits of the last one [batch, vocabulary].

    Args:
        visible: [batch, cached + seq], 0 for padding; None: there is none.
        window: the sliding window, if it is shorter than the prompts and answers.
    """
    inputs: dict[str, Any] = {"input_ids": input_ids, "use_cache": cache is not None}
    if cache is not None:
        known = inspect.signature(_base(model).forward).parameters
        inputs["cache_params" if "cache_params" in known else "past_key_values"] = cache
    if visible is not None:
        inputs["position_ids"] = (visible.cumsum(dim=1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        inputs["attention_mask"] = visible
        if window is not None:
            inputs["attention_mask"] = _windowed(model, visible, input_ids.shape[1], window)
    return _last_logits(model, inputs)


def _last_logits(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Return the logits of the last token of each row [batch, vocabulary]."""
    last: Any = 1
    if (width := inputs["input_ids"].shape[1]) > 1:
        # An index, not a slice: the rows of a slice are not contiguous, and in bfloat16 on a CPU the LM head then
        # copies its weight once for each row (5 seconds for 32 rows of SmolLM2).
        last = torch.tensor([width - 1], device=inputs["input_ids"].device)
    logits: torch.Tensor = model(**inputs, logits_to_keep=last).logits
    return logits[:, -1]


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


_AGREEMENT = 0.02  # in nats; kernels differ by less, and a wrong state by more
_methods: dict[tuple[type, str], Method] = {}


def decoding_method(model: Any) -> Method:
    """Return the fastest method that gives the same tokens as no cache, found on a small copy of the model."""
    base = _base(model)
    key = type(base), model.config.to_json_string(use_diff=False)
    if key not in _methods:
        _methods[key] = "padded" if is_tested(base) and not has_states(model.config) else _find_method(base)
    return _methods[key]


@torch.inference_mode()
def _find_method(base: Any) -> Method:
    methods: list[Method] = ["stacked", "stacked without prefix"] if can_stack(base.config) else []
    if not has_states(base.config):
        methods.insert(0, "padded")
    with torch.inference_mode(False):  # a model that is made in inference mode cannot be trained
        try:
            small = make_miniature(base.config, model_class=type(base)).to(base.device).eval()
        except CannotShrinkError:
            return "padded" if not has_states(base.config) else "alone"
    draw = torch.Generator().manual_seed(0)
    shared, *rests = (
        torch.randint(3, VOCABULARY, (length,), generator=draw).tolist() for length in (2 * WINDOW, 5, 11, 5, 1)
    )
    prompts = [shared + rest for rest in rests]
    wanted = [_decode_alone(small, prompt, frozenset(), 6, "uncached") for prompt in prompts]
    for method in (*methods, "alone"):
        try:
            cache = None
            if method in ("padded", "stacked"):
                cache = new_cache(small.config)
                _run(small, torch.tensor([shared], device=small.device), cache)
            found = decode_greedily(small, prompts, Prefix(shared, cache), frozenset(), 6, method=method)
        except Exception:  # noqa: BLE001  # any code of any class runs here
            continue
        if all(_agree(one, other) for one, other in zip(found, wanted, strict=True)):
            return method
    return "uncached"


def _agree(one: Completion, other: Completion) -> bool:
    same = zip(one.logprobs, other.logprobs, strict=True)
    return one.ids == other.ids and all(abs(first - second) < _AGREEMENT for first, second in same)


def _outgrown_window(model: Any, length: int) -> int | None:
    """Return the sliding window of the model's layers if it is smaller than this number of tokens, else None."""
    text = model.config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None) if not kinds or "sliding_attention" in kinds else None
    if window is None or length <= window:
        return None
    if "flash" in model.config._attn_implementation:
        raise UserError(
            f"model.attention: prompts and answers of {length} tokens are longer than the model's sliding window of "
            f"{window}, which flash attention does not support with a shared prefix; set it to sdpa"
        )
    return int(window)


def _windowed(model: Any, visible: torch.Tensor, queries: int, window: int) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return the attention mask of the last `queries` tokens for each kind of layer, as transformers expects it.

    transformers would count the padding between prefix and prompt as part of the window. Positions skip the padding.

    Args:
        visible: [batch, keys], 0 for padding.

    Returns:
        [batch, 1, queries, keys] to be added to the logits; one for each kind of layer if the model has two.
    """
    keys = torch.arange(visible.shape[1], device=visible.device)
    asking = keys[-queries:, None]  # [queries, 1]
    positions = visible.cumsum(dim=1)  # [batch, keys]
    near = positions[:, -queries:, None] - positions[:, None, :] < window  # [batch, queries, keys]
    # Padding sees only itself: a query without any key gives NaN.
    full = (keys <= asking) & visible.bool()[:, None, :] | (keys == asking)
    masks = {"full_attention": full, "sliding_attention": full & near}
    closed = torch.finfo(model.dtype).min
    added = {kind: (~mask).to(model.dtype)[:, None] * closed for kind, mask in masks.items()}
    return added if getattr(model.config.get_text_config(), "layer_types", None) else added["sliding_attention"]


def batches_by_length(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of the prompts in batches of similar length, the longest first, so that memory peaks at the
    start."""
    order = sorted(range(len(prompts)), key=lambda n: (-len(prompts[n]), n))
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]
