"""FlexAttention over prefix trees, on a CPU: its block lists, its forward pass and how often it is compiled."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import labelled
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.data import DataLoader
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from toolhone.chat.render import LabelledTokens
from toolhone.errors import UserError
from toolhone.train import flex
from toolhone.train.attention import TREE_ATTENTION, AttentionBlocks, tree_attention, visible
from toolhone.train.batches import TreeAttention, TreeCollator, tree_features
from toolhone.train.flex import BLOCK, BlockLists
from toolhone.train.loss import tree_loss
from toolhone.train.packing import flex_fault

HEADS, KEY_HEADS, DIM = 4, 2, 16


def rows_of(lengths: list[int], shared: int = 200) -> list[LabelledTokens]:
    """Return rows with one shared prefix and tails of these lengths."""
    return [labelled([1] * shared + [2 + n] * length, shared + 1) for n, length in enumerate(lengths)]


def collated(rows: list[LabelledTokens], max_tokens: int = 8192, window: int | None = None) -> dict[str, Any]:
    attention = TreeAttention(flex=True, windows=(window,))
    return TreeCollator(0, max_tokens, attention)([tree_features(row) for row in rows])


@st.composite
def tries(draw: st.DrawFn) -> list[LabelledTokens]:
    """Rows that share prefixes, up to four levels deep, with segments shorter and longer than a block."""
    rows: list[list[int]] = []

    def grow(prefix: list[int], depth: int) -> None:
        for child in range(draw(st.integers(1, 3))):
            path = [*prefix, *[10 * depth + child + 1] * draw(st.sampled_from([2, 30, 127, 128, 200]))]
            if depth == 4 or draw(st.booleans()):
                rows.append(path)
            else:
                grow(path, depth + 1)

    grow([], 1)
    return [labelled(row, draw(st.integers(1, len(row) - 1))) for row in rows[:8]]


def seen_pairs(blocks: AttentionBlocks, window: int | None) -> torch.Tensor:
    """Return which query sees which key [trees, seq, seq], from the definition of a tree alone."""
    every = torch.arange(blocks.ends.shape[1])
    seen = torch.stack([visible(ends, every, every) for ends in blocks.ends])
    if window is not None:
        seen &= blocks.positions[:, :, None] - blocks.positions[:, None] < window
    return seen


def as_map(numbers: torch.Tensor | None, indices: torch.Tensor | None) -> torch.Tensor:
    """Return a list of blocks as [trees, blocks, blocks], boolean."""
    assert numbers is not None
    assert indices is not None
    counted = torch.arange(indices.shape[-1]) < numbers[..., None]
    return torch.zeros(indices.shape, dtype=torch.bool).scatter_(3, indices.long(), counted)[:, 0]


def maps(mask: BlockMask) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the partial and the full blocks of a mask [trees, queries, keys]. Both directions must agree."""
    part, full = (
        as_map(mask.kv_num_blocks, mask.kv_indices),
        as_map(mask.full_kv_num_blocks, mask.full_kv_indices),
    )
    assert torch.equal(as_map(mask.q_num_blocks, mask.q_indices), part.transpose(1, 2))
    assert torch.equal(as_map(mask.full_q_num_blocks, mask.full_q_indices), full.transpose(1, 2))
    return part, full


def computed_pairs(mask: BlockMask) -> torch.Tensor:
    """Return which query sees which key [trees, seq, seq] in a kernel that uses this mask."""
    part, full = (blocks.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2) for blocks in maps(mask))
    trees, seq = part.shape[:2]
    every = torch.arange(seq)
    tree, head = torch.arange(trees)[:, None, None], torch.zeros(1, dtype=torch.int)
    return full | (part & mask.mask_mod(tree, head, every[:, None], every))


def by_block(pairs: torch.Tensor) -> torch.Tensor:
    """Return [trees, blocks, blocks, pairs of one block] from [trees, seq, seq]."""
    trees, seq, _ = pairs.shape
    return pairs.view(trees, seq // BLOCK, BLOCK, seq // BLOCK, BLOCK).transpose(2, 3).flatten(3)


@given(tries(), st.sampled_from([8192, 700]))
@settings(max_examples=15, deadline=None)
def test_block_lists_are_exactly_those_of_the_dense_mask_and_of_create_block_mask(
    rows: list[LabelledTokens], max_tokens: int
) -> None:
    blocks = collated(rows, max_tokens)["tree_blocks"]
    seen = seen_pairs(blocks, None)
    mask = blocks.within(None).mask
    assert torch.equal(computed_pairs(mask), seen)
    of_block = by_block(seen)
    part, full = maps(mask)
    assert torch.equal(full, of_block.all(3))
    assert torch.equal(part, of_block.any(3) & ~of_block.all(3))
    theirs = create_block_mask(mask.mask_mod, len(seen), None, seen.shape[1], seen.shape[2], device="cpu")
    for one, other in zip((part, full), maps(theirs), strict=True):
        assert torch.equal(one, other)


@given(tries(), st.sampled_from([8192, 700]), st.sampled_from([1, 5, 100, 128, 129, 300, 4000]))
@settings(max_examples=15, deadline=None)
def test_block_lists_of_a_window_compute_exactly_the_pairs_in_the_window(
    rows: list[LabelledTokens], max_tokens: int, window: int
) -> None:
    blocks = collated(rows, max_tokens, window)["tree_blocks"]
    seen = seen_pairs(blocks, window)
    mask = blocks.within(window).mask
    assert torch.equal(computed_pairs(mask), seen)
    assert torch.equal(maps(mask)[1], by_block(seen).all(3))


def test_a_window_skips_the_blocks_before_it() -> None:
    blocks = collated([labelled([1] * 1024, 1000)])["tree_blocks"]
    part, full = maps(blocks.within(200).mask)
    assert part.sum() == 8 + 7 + 6  # the diagonal and the two blocks before it
    assert full.sum() == 0
    part, full = maps(blocks.within(400).mask)
    assert full.sum() == 7 + 6  # up to 383 tokens away


@pytest.mark.parametrize("shift", [-1, 1])
def test_each_wrong_end_changes_the_computed_pairs(shift: int) -> None:
    batch = collated(rows_of([60, 100]))["tree_blocks"]
    right = seen_pairs(batch, None)
    assert torch.equal(computed_pairs(BlockLists.of(batch.ends, batch.positions, None).mask), right)
    for token in (0, 127, 128, 199, 200, 259, 260, 359):
        ends = batch.ends.clone()
        ends[0, token] += shift
        assert not torch.equal(computed_pairs(BlockLists.of(ends, batch.positions, None).mask), right), token


def test_trees_are_padded_to_whole_blocks() -> None:
    assert [flex.padded(tokens) for tokens in (1, 128, 256, 257)] == [256, 256, 256, 384]
    batch = collated(rows_of([60, 100]))
    assert {batch[name].shape for name in ("input_ids", "position_ids", "labels", "weights")} == {(1, 384)}
    assert batch["computed_tokens"] == 360
    assert (batch["labels"][0, 360:] == -100).all()


# The forward pass


@pytest.fixture(scope="module")
def graphs() -> Iterator[list[torch.fx.GraphModule]]:
    """The graphs that torch.compile makes. They run as they are, without code generation."""
    made: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        made.append(graph)
        return graph.forward

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", partial(torch.compile, backend=backend))
        flex.compiled.cache_clear()
        yield made
    flex.compiled.cache_clear()


@pytest.fixture
def no_graphs(graphs: list[torch.fx.GraphModule]) -> list[torch.fx.GraphModule]:
    """The graphs that this test makes."""
    graphs.clear()
    flex.compiled.cache_clear()
    return graphs


def states(batch: dict[str, Any]) -> list[torch.Tensor]:
    """Return a query, key and value, laid out in memory as models do."""
    trees, seq = batch["input_ids"].shape
    return [torch.randn(trees, seq, heads, DIM).transpose(1, 2) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]


@torch.no_grad()
def attend(batch: dict[str, Any], window: int | None = None) -> None:
    """Compare FlexAttention with a dense mask."""
    query, key, value = states(batch)
    found, _ = tree_attention(
        torch.nn.Module(),
        query,
        key,
        value,
        None,
        tree_blocks=batch["tree_blocks"],
        scaling=0.3,
        sliding_window=window,
    )
    mask = seen_pairs(batch["tree_blocks"], window)[:, None]
    dense = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(found, dense, atol=2e-6, rtol=1e-5)


SIX = [rows_of(lengths) for lengths in ([60], [200], [100, 200, 30], [150] * 3, [300] * 2, [150] * 6)]


def test_one_kernel_serves_all_lengths_and_another_windows_and_several_trees(
    no_graphs: list[torch.fx.GraphModule],
) -> None:
    torch.manual_seed(0)
    batches = [collated(rows) for rows in SIX]
    assert len({batch["input_ids"].shape for batch in batches}) == 6
    for batch in batches:
        attend(batch)
    assert len(no_graphs) == 1
    for batch in batches[:3]:
        attend(batch, 50)
    assert len(no_graphs) == 2
    for rows in SIX[2:4]:
        attend(collated(rows, 400))
    assert len(no_graphs) == 3
    for graph in no_graphs:
        (call,) = (node for node in graph.graph.nodes if "flex_attention" in str(node.target))
        assert call.args[5] == 0.3  # the kernel for GPUs needs a constant


def test_too_many_compilations_are_an_error(
    no_graphs: list[torch.fx.GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex, "MAX_COMPILATIONS", 1)
    attend(collated(SIX[2]))
    with pytest.raises(UserError, match=r"train\.attention: FlexAttention was compiled 1 times.*set it to blocks"):
        attend(collated(SIX[2], 400))
    assert len(no_graphs) == 1


@pytest.mark.slow  # the C++ compiler takes up to a minute
def test_the_generated_code_has_the_values_of_a_dense_mask() -> None:
    torch.manual_seed(0)
    flex.compiled.cache_clear()
    for rows in SIX:
        attend(collated(rows))
        attend(collated(rows), 50)


SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def tiny(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "llama":
        model: Any = LlamaForCausalLM(LlamaConfig(head_dim=DIM, **SIZES))
    else:
        kinds = ["sliding_attention", "full_attention"]
        windowed = {"layer_types": kinds, "sliding_window": 50, "head_dim": DIM, "query_pre_attn_scalar": DIM}
        model = Gemma3ForCausalLM(Gemma3TextConfig(**windowed, **SIZES))
    for parameter in model.parameters():
        if parameter.dim() == 2:  # attention is far from uniform, so that a wrong mask changes the loss
            torch.nn.init.normal_(parameter, std=0.3)
    model.set_attn_implementation(TREE_ATTENTION)
    return model.eval()


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@torch.no_grad()
def test_a_model_has_the_same_loss_with_flex_and_in_blocks(kind: str) -> None:
    model = tiny(kind)
    rows = [labelled([*range(1, 60), *[1 + (7 * n * m) % 60 for m in range(150)]], 80) for n in range(4)]
    features = [tree_features(row) for row in rows]
    losses = {}
    for name, attention in (
        ("blocks", TreeAttention()),
        ("flex", TreeAttention(flex=True)),
        ("other window", TreeAttention(flex=True)),
    ):
        if name == "other window":
            if kind == "llama":
                continue
            model.model.layers[0].self_attn.sliding_window += 1
        losses[name] = tree_loss(model, TreeCollator(0, 500, attention)(features)).item()
    assert losses["flex"] == pytest.approx(losses["blocks"], rel=1e-6)
    if kind == "gemma3":
        assert losses["other window"] != pytest.approx(losses["blocks"], rel=1e-5)


def test_attention_dropout_is_refused() -> None:
    batch = collated(SIX[0])
    query, key, value = states(batch)
    blocks = batch["tree_blocks"]
    with pytest.raises(NotImplementedError, match="dropout"):
        tree_attention(torch.nn.Module(), query, key, value, None, tree_blocks=blocks, scaling=0.3, dropout=0.1)


def test_a_trial_step_says_why_flex_does_not_work_on_a_cpu() -> None:
    model = tiny("llama")
    assert "does not support backward on CPU" in (flex_fault(model, TreeAttention(flex=True)) or "")
    assert flex_fault(model, TreeAttention()) is None
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


# From the collator to the device


def tensors_of(batch: dict[str, Any]) -> list[torch.Tensor]:
    """Return every tensor that the layers of a model read."""
    found = [value for value in batch.values() if isinstance(value, torch.Tensor)]
    for window in (None, 50):
        blocks = batch["tree_blocks"].within(window)
        found += [blocks.integers] if isinstance(blocks, BlockLists) else [blocks.keys, blocks.masks]
    return found


OPTIONS = [TreeAttention(flex=True, windows=(None, 50)), TreeAttention(device="meta", windows=(None, 50))]


@pytest.mark.parametrize("attention", OPTIONS)
def test_a_batch_from_a_worker_is_that_of_the_main_process(attention: TreeAttention) -> None:
    features: Any = [tree_features(row) for row in SIX[2]]
    collator = TreeCollator(0, 8192, attention)
    (found,) = DataLoader(features, batch_size=3, collate_fn=collator, num_workers=1)
    for one, other in zip(tensors_of(found), tensors_of(collator(features)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("attention", OPTIONS)
def test_a_batch_moves_to_the_device_as_a_whole(attention: TreeAttention) -> None:
    batch = TreeCollator(0, 8192, attention)([tree_features(row) for row in SIX[2]])
    sizes = [tensor.shape for tensor in tensors_of(batch)]
    moved = send_to_device(batch, "meta", non_blocking=True)
    assert {tensor.device.type for tensor in tensors_of(moved)} == {"meta"}
    assert [tensor.shape for tensor in tensors_of(moved)] == sizes
    assert moved["examples"] == 3


@pytest.mark.parametrize("windows", [(), (None, 50)])
def test_no_layer_reads_a_tensor_of_the_device(windows: tuple[int | None, ...]) -> None:
    # A tensor on "meta" has no values: every read is an error.
    attention = TreeAttention(device="meta", windows=windows)
    model = tiny("gemma3").to("meta").train()
    batch = TreeCollator(0, 300, attention)([tree_features(row) for row in SIX[2]])
    tree_loss(model, send_to_device(batch, "meta")).backward()  # type: ignore[no-untyped-call]
    assert model.model.layers[0].self_attn.q_proj.weight.grad is not None
