"""Batched greedy decoding compared with the plain way: one row, no cache, a full forward pass for every token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolhone.errors import UserError
from toolhone.evaluate import decode, prefix_attention
from toolhone.evaluate.decode import (
    Prefix,
    batches_by_length,
    compute_prefix,
    decode_greedily,
    decoding_method,
    shared_prefix,
)
from toolhone.evaluate.prefix_attention import ContinuedRows, can_share_prefix
from toolhone.train import miniature
from toolhone.train.miniature import make_miniature
from toolhone.train.packing import TESTED

VOCABULARY = 64
NEW_TOKENS = 12
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
SHARED = [5, 9, 33, 2, 17, 8, 41]


@pytest.fixture(scope="module")
def model() -> Any:
    """A random Llama with large weights, so that answers differ and no two tokens are nearly tied."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).float().eval()


@pytest.fixture(scope="module", params=["gemma3", "mistral"])
def windowed(request: pytest.FixtureRequest) -> Any:
    """A model with a sliding window shorter than every prompt, in every second layer or in all."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    if request.param == "mistral":
        return MistralForCausalLM(MistralConfig(sliding_window=5, **SIZES)).float().eval()
    kinds = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5, "head_dim": 16}
    return Gemma3ForCausalLM(Gemma3TextConfig(query_pre_attn_scalar=16, **kinds, **SIZES)).float().eval()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Eight prompts of mixed lengths with a common prefix."""
    draw = torch.Generator().manual_seed(1)
    lengths = (1, 9, 3, 17, 2, 9, 5, 12)
    return [SHARED + torch.randint(0, VOCABULARY, (n,), generator=draw).tolist() for n in lengths]


@torch.inference_mode()
def plainly(model: Any, prompt: list[int], stop_ids: frozenset[int], limit: int) -> tuple[list[int], list[float]]:
    """Returns the tokens of one prompt's answer and their log-probabilities, from a full forward pass for each."""
    ids: list[int] = []
    logprobs: list[float] = []
    while len(ids) < limit and not (ids and ids[-1] in stop_ids):
        logits = model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[0, -1]  # [vocabulary]
        logprob, token = torch.log_softmax(logits, dim=-1).max(dim=-1)
        ids.append(int(token))
        logprobs.append(float(logprob))
    return ids, logprobs


@pytest.fixture(scope="module")
def stop_ids(model: Any, prompts: list[list[int]]) -> frozenset[int]:
    """Two tokens that some answers hit early, some late and some never."""
    answers = [plainly(model, prompt, frozenset(), NEW_TOKENS)[0] for prompt in prompts]
    chosen = frozenset({answers[0][1], answers[3][4]})
    lengths = {next((n for n, id_ in enumerate(answer) if id_ in chosen), NEW_TOKENS) for answer in answers}
    assert len(lengths) >= 3, "the random model does not produce the case that these tests need"
    assert NEW_TOKENS in lengths
    return chosen


@pytest.fixture
def forward_shapes(model: Any) -> Iterator[list[tuple[int, int]]]:
    """The rows and columns of every forward pass."""
    shapes: list[tuple[int, int]] = []

    def note(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        rows, columns = kwargs["input_ids"].shape
        shapes.append((rows, columns))

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    yield shapes
    hook.remove()


@pytest.mark.parametrize("prefix_length", [0, 3, len(SHARED)])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_row_gets_the_same_tokens_and_log_probabilities_in_a_batch_as_alone(
    model: Any, prompts: list[list[int]], stop_ids: frozenset[int], batch_size: int, prefix_length: int
) -> None:
    prefix = compute_prefix(model, SHARED[:prefix_length])
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        for prompt, found in zip(batch, decode_greedily(model, batch, prefix, stop_ids, NEW_TOKENS), strict=True):
            ids, logprobs = plainly(model, prompt, stop_ids, NEW_TOKENS)
            assert found.ids == ids
            assert found.logprobs == pytest.approx(logprobs, abs=1e-4)
            assert found.stopped == (ids[-1] in stop_ids)


@pytest.mark.parametrize("prefix_length", [0, 3, len(SHARED)])
def test_a_row_sees_the_same_sliding_window_in_a_batch_as_alone(
    windowed: Any, prompts: list[list[int]], stop_ids: frozenset[int], prefix_length: int
) -> None:
    prefix = compute_prefix(windowed, SHARED[:prefix_length])
    found = decode_greedily(windowed, prompts, prefix, stop_ids, NEW_TOKENS)
    assert [answer.ids for answer in found] == [plainly(windowed, p, stop_ids, NEW_TOKENS)[0] for p in prompts]


def test_flash_attention_is_refused_if_prompts_exceed_the_sliding_window(
    windowed: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windowed.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(UserError, match=r"sliding window of 5.*sdpa"):
        decode_greedily(windowed, prompts, compute_prefix(windowed, []), frozenset(), NEW_TOKENS)


def test_a_prefix_can_be_reused(model: Any, prompts: list[list[int]], stop_ids: frozenset[int]) -> None:
    prefix = compute_prefix(model, SHARED)
    first = decode_greedily(model, prompts[:3], prefix, stop_ids, NEW_TOKENS)
    decode_greedily(model, prompts[3:], prefix, stop_ids, NEW_TOKENS)
    assert decode_greedily(model, prompts[:3], prefix, stop_ids, NEW_TOKENS) == first


def test_the_prefix_is_computed_once_and_every_batch_continues_from_it(
    model: Any, prompts: list[list[int]], forward_shapes: list[tuple[int, int]]
) -> None:
    prefix = compute_prefix(model, SHARED)
    decode_greedily(model, prompts[:3], prefix, frozenset(), 1)
    decode_greedily(model, prompts[3:5], prefix, frozenset(), 1)
    assert forward_shapes == [(1, len(SHARED)), (3, 9), (2, 17)]


def test_a_row_that_stops_leaves_the_batch(
    model: Any, prompts: list[list[int]], stop_ids: frozenset[int], forward_shapes: list[tuple[int, int]]
) -> None:
    lengths = [len(plainly(model, prompt, stop_ids, NEW_TOKENS)[0]) for prompt in prompts]
    forward_shapes.clear()
    decode_greedily(model, prompts, compute_prefix(model, []), stop_ids, NEW_TOKENS)
    # A row takes part in one pass per token.
    assert [rows for rows, _ in forward_shapes] == [
        sum(length > step for length in lengths) for step in range(max(lengths))
    ]
    assert all(columns == 1 for _, columns in forward_shapes[1:])


def test_decoding_ends_with_the_last_row(model: Any, prompts: list[list[int]]) -> None:
    first_token = plainly(model, prompts[1], frozenset(), 1)[0][0]
    [found] = decode_greedily(model, prompts[1:2], compute_prefix(model, []), frozenset({first_token}), NEW_TOKENS)
    assert (found.ids, found.stopped) == ([first_token], True)
    assert len(found.logprobs) == 1


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_generation_ends_at_the_limit(
    model: Any, prompts: list[list[int]], forward_shapes: list[tuple[int, int]], limit: int
) -> None:
    found = decode_greedily(model, prompts, compute_prefix(model, []), frozenset(), limit)
    lengths = [(len(one.ids), len(one.logprobs), len(one.runner_ups), one.stopped) for one in found]
    assert lengths == [(limit, limit, limit, False)] * len(prompts)
    assert len(forward_shapes) == limit


def test_a_stop_token_at_the_limit_counts_as_stopped(model: Any, prompts: list[list[int]]) -> None:
    ids, _ = plainly(model, prompts[0], frozenset(), 2)
    stop = frozenset({ids[1]} - {ids[0]})
    assert stop
    [found] = decode_greedily(model, prompts[:1], compute_prefix(model, []), stop, 2)
    assert (found.ids, found.stopped) == (ids, True)


def test_log_probabilities_come_from_the_raw_distribution(model: Any, prompts: list[list[int]]) -> None:
    """A temperature in the generation config changes nothing."""
    kept: list[torch.Tensor] = []
    hook = model.register_forward_hook(lambda _, __, output: kept.append(output.logits[:, -1].double()))
    model.generation_config.temperature = 0.1
    try:
        found = decode_greedily(model, prompts[:3], compute_prefix(model, []), frozenset(), NEW_TOKENS)
    finally:
        model.generation_config.temperature = None
        hook.remove()
    for row, completion in enumerate(found):
        for step, (id_, logprob) in enumerate(zip(completion.ids, completion.logprobs, strict=True)):
            probabilities = kept[step][row].exp() / kept[step][row].exp().sum()
            assert float(probabilities.sum()) == pytest.approx(1.0)
            assert logprob == pytest.approx(float(probabilities[id_].log()), abs=1e-5)
            assert logprob <= 0
            others = probabilities[torch.arange(VOCABULARY) != id_]
            assert completion.runner_ups[step] == pytest.approx(float(others.max().log()), abs=1e-5)


GRANITE = {"num_hidden_layers": 10, "layer_types": ["mamba"] * 5 + ["attention"] + ["mamba"] * 4, "mamba_n_heads": 128}
LFM2 = {"num_hidden_layers": 16, "full_attn_idxs": [2, 5, 8, 10, 12, 14]}
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "lfm2": (LFM2, "stacked"),
    "qwen3_5_text": ({}, "stacked"),
    "granitemoehybrid": (GRANITE, "stacked"),
    "falcon_h1": ({}, "stacked"),
    "nemotron_h": ({}, "stacked"),
    "recurrent_gemma": ({}, "stacked"),
    "mamba2": ({}, "stacked"),
    "mamba": ({}, "stacked without prefix"),
    "mpt": ({}, "stacked"),  # its position biases count padding
    "bloom": ({}, "padded"),
    "falcon": ({}, "padded"),
    "gpt2": ({}, "padded"),  # learned positions
    "opt": ({}, "padded"),
    "gpt_oss": ({}, "padded"),
    "gemma4_text": ({}, "padded"),
    "gemma3n_text": ({}, "padded"),  # its last layers use the keys of earlier ones
    "gemma3": ({}, "padded"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[Any, str]:
    """A small copy of a model, and the fastest way to decode it."""
    from transformers import AutoConfig

    values, method = FAMILIES[request.param]
    return make_miniature(AutoConfig.for_model(request.param, **values)).eval(), method


def test_every_family_gets_the_same_tokens_in_a_batch_as_alone_without_a_cache(
    family: tuple[Any, str], prompts: list[list[int]]
) -> None:
    model, method = family
    assert decoding_method(model) == method
    alone = [plainly(model, prompt, frozenset(), 6) for prompt in prompts]
    stop_ids = frozenset({alone[1][0][2], alone[3][0][4]})  # some rows leave the batch early
    for length in (0, len(SHARED)):
        prefix = compute_prefix(model, SHARED[:length])
        for batch in (slice(0, 8), slice(2, 5), slice(3, 4)):
            found = decode_greedily(model, prompts[batch], prefix, stop_ids, 6)
            for answer, (ids, logprobs) in zip(found, alone[batch], strict=True):
                end = next((n for n, id_ in enumerate(ids, 1) if id_ in stop_ids), 6)
                assert answer.ids == ids[:end]
                # Recurrent layers sum in another order in one pass than step by step.
                assert answer.logprobs == pytest.approx(logprobs[:end], abs=1e-3 if method == "padded" else 1e-2)


@pytest.mark.parametrize("method", ["alone", "uncached"])
def test_the_slowest_methods_give_the_same_tokens(model: Any, prompts: list[list[int]], method: Any) -> None:
    stops = frozenset({plainly(model, prompts[0], frozenset(), 3)[0][2]})
    fast = decode_greedily(model, prompts[:3], compute_prefix(model, SHARED), stops, 5)
    slow = decode_greedily(model, prompts[:3], Prefix(SHARED, None), stops, 5, method=method)
    assert [one.ids for one in slow] == [one.ids for one in fast]
    assert [one.stopped for one in slow] == [one.stopped for one in fast]


def test_a_model_whose_cache_is_wrong_is_decoded_without_one(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that the tests do not cover, with a cache that forgets."""
    from transformers import LlamaForCausalLM

    class Forgetful(LlamaForCausalLM):  # type: ignore[misc]
        def forward(self, *args: Any, past_key_values: Any = None, use_cache: bool = False, **kwargs: Any) -> Any:
            kwargs.pop("attention_mask", None)
            return super().forward(*args, use_cache=False, **kwargs)

    monkeypatch.setattr(decode, "_methods", {})
    assert decoding_method(Forgetful(model.config).eval()) == "uncached"


IDS = st.lists(st.integers(0, 3), min_size=1, max_size=8)


@given(IDS, st.lists(IDS, min_size=1, max_size=6), st.booleans())
def test_the_shared_prefix_is_the_longest_that_leaves_every_prompt_a_token(
    head: list[int], tails: list[list[int]], headed: bool
) -> None:
    prompts = [head + tail for tail in tails] if headed else tails
    prefix = shared_prefix(prompts)
    assert all(prompt[: len(prefix)] == prefix and len(prompt) > len(prefix) for prompt in prompts)
    longer = len(prefix) + 1
    assert any(len(prompt) <= longer for prompt in prompts) or len({tuple(p[:longer]) for p in prompts}) > 1


@given(st.permutations([[1, 2, 3], [1, 2, 4, 5], [1, 2]]))
def test_the_shared_prefix_does_not_depend_on_the_order(prompts: list[list[int]]) -> None:
    assert shared_prefix(prompts) == [1]


def test_no_prompts_have_an_empty_shared_prefix() -> None:
    assert shared_prefix([]) == []


@given(st.lists(IDS, max_size=20), st.integers(1, 7))
def test_batches_contain_every_prompt_once_longest_first(prompts: list[list[int]], batch_size: int) -> None:
    batches = list(batches_by_length(prompts, batch_size))
    order = [n for batch in batches for n in batch]
    assert sorted(order) == list(range(len(prompts)))
    lengths = [len(prompts[n]) for n in order]
    assert lengths == sorted(lengths, reverse=True)
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


@pytest.mark.parametrize(
    "name",
    ["Llama", "Gemma3", "GPT2LMHeadModel", *(pytest.param(one, marks=pytest.mark.slow) for one in sorted(TESTED))],
)
def test_rows_that_share_the_prefix_of_one_cache_get_the_tokens_of_a_full_pass(name: str) -> None:
    import transformers

    kind = getattr(transformers, name if name.endswith("LMHeadModel") else f"{name}ForCausalLM")
    model = make_miniature(kind.config_class(), model_class=kind).eval()
    if not can_share_prefix(model):
        assert name in ("DeepseekV3", "DiffLlama", "GraniteMoeHybrid", "MiniCPM3")
        pytest.skip(f"{name} copies the prefix for each row")
    draw = torch.Generator().manual_seed(0)
    lengths = (2 * miniature.WINDOW, 5, 11, 5, 1)
    shared, *rests = (torch.randint(3, miniature.VOCABULARY, (n,), generator=draw).tolist() for n in lengths)
    before = model.config._attn_implementation
    found = decode_greedily(model, [shared + rest for rest in rests], compute_prefix(model, shared), frozenset(), 6)
    for rest, answer in zip(rests, found, strict=True):
        ids, logprobs = plainly(model, shared + rest, frozenset(), 6)
        assert answer.ids == ids
        assert answer.logprobs == pytest.approx(logprobs, abs=1e-3)
    assert model.config._attn_implementation == before


def test_a_long_batch_is_attended_in_parts(
    model: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decode_greedily(model, prompts, compute_prefix(model, SHARED), frozenset(), NEW_TOKENS)
    monkeypatch.setattr(prefix_attention, "SCORE_BYTES", 4 * 4 * 17 * 24 * 3)  # three rows of the longest prompt
    parts = decode_greedily(model, prompts, compute_prefix(model, SHARED), frozenset(), NEW_TOKENS)
    assert [answer.ids for answer in parts] == [answer.ids for answer in whole]


def test_rows_do_not_copy_the_cache_of_their_prefix(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens: list[int] = []
    kept = ContinuedRows.advance

    def advance(rows: ContinuedRows) -> None:
        tokens.append(rows.cache.get_seq_length())
        kept(rows)

    monkeypatch.setattr(ContinuedRows, "advance", advance)
    prefix = compute_prefix(model, SHARED)
    decode_greedily(model, [[*SHARED, 1, 2], [*SHARED, 3]], prefix, frozenset(), 3)
    assert tokens == [2, 3]  # of the longest row, without the prefix
