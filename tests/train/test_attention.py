"""Attention of a block as plain matrix products, compared with PyTorch's kernel."""

from __future__ import annotations

import pytest
import torch
from labelled import labelled
from torch.nn.functional import scaled_dot_product_attention

from toolhone.chat.prefix_tree import build_tree
from toolhone.train.attention import AttentionBlocks, tree_attention, visible
from toolhone.train.cpu import GroupedAttention

GIVEN = [(4, 1), (6, 3), (2, 2)]


def states(heads: int, length: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(1, heads, length, 8, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("heads", GIVEN)
@pytest.mark.parametrize("causal", [True, False])
def test_a_block_has_the_kernels_values_and_gradients(heads: tuple[int, int], causal: bool) -> None:
    torch.manual_seed(0)
    keys = 5 if causal else 9
    inputs = [states(n, length, torch.float64) for n, length in ((heads[0], 5), (heads[1], keys), (heads[1], keys))]
    mask = None if causal else (torch.rand(5, keys) < 0.5) | (torch.arange(keys) == 0)
    gradient = torch.randn(1, heads[0], 5, 8, dtype=torch.float64)
    ours = GroupedAttention.apply(*inputs, mask, 0.3)
    kernel = scaled_dot_product_attention(*inputs, attn_mask=mask, is_causal=causal, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(ours, kernel, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, gradient), torch.autograd.grad(kernel, inputs, gradient), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("heads", GIVEN)
def test_a_tree_in_bfloat16_has_the_values_and_gradients_of_a_dense_mask(
    heads: tuple[int, int], window: int | None
) -> None:
    torch.manual_seed(0)
    shared = list(range(100))
    tree = build_tree([labelled([*shared, *[1000 + n] * length], 101) for n, length in enumerate((150, 20, 300))])
    ends, positions = torch.tensor(tree.ends), torch.tensor(tree.positions)
    every = torch.arange(len(tree))
    mask = visible(ends, every, every)
    if window is not None:
        mask &= positions[:, None] - positions < window
    inputs = [states(n, len(tree), torch.bfloat16) for n in (heads[0], heads[1], heads[1])]
    blocks = AttentionBlocks(ends[None], positions[None])
    ours = tree_attention(torch.nn.Module(), *inputs, None, tree_blocks=blocks, scaling=0.3, sliding_window=window)[
        0
    ].transpose(1, 2)
    exact = [one.detach().double().requires_grad_() for one in inputs]
    wanted = scaled_dot_product_attention(*exact, attn_mask=mask, scale=0.3, enable_gqa=True)
    assert ours.dtype == torch.bfloat16
    gradient = torch.randn(ours.shape, dtype=torch.bfloat16)
    mine = [ours, *torch.autograd.grad(ours, inputs, gradient)]
    theirs = [wanted, *torch.autograd.grad(wanted, exact, gradient.double())]
    for one, other in zip(mine, theirs, strict=True):
        # bfloat16 keeps 8 bits; the error of a wrong mask would be as large as the values.
        assert (one.double() - other).norm() < 0.01 * other.norm()
