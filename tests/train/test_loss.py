"""The loss of labelled positions compared with PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from toolhone.chat.render import IGNORED
from toolhone.train.loss import summed_cross_entropy


@pytest.mark.parametrize("ignored", [0, 3])
@pytest.mark.parametrize("positions", [1, 8, 21])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)]
)
def test_loss_and_gradient_equal_pytorchs(positions: int, dtype: torch.dtype, tolerance: float, ignored: int) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = (10 * torch.randn(positions, 50, generator=draw, dtype=torch.float64)).to(dtype)
    targets = torch.randint(0, 50, (positions,), generator=draw)
    targets[1 : 1 + ignored] = IGNORED
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = summed_cross_entropy(ours, targets)
    expected = cross_entropy(theirs.to(torch.promote_types(dtype, torch.float32)), targets, reduction="sum")
    assert loss.dtype == expected.dtype
    assert loss.item() == pytest.approx(expected.item(), rel=min(tolerance, 1e-6))
    (loss / 3).backward()
    (expected / 3).backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert ours.grad.dtype == dtype
    assert (ours.grad - theirs.grad).norm() <= tolerance * theirs.grad.norm()


def test_each_label_is_multiplied_by_its_weight() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(11, 50, generator=draw, dtype=torch.float64)
    targets = torch.randint(0, 50, (11,), generator=draw)
    targets[4] = IGNORED
    weights = torch.rand(11, generator=draw)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = summed_cross_entropy(ours, targets, weights)
    expected = (cross_entropy(theirs, targets, reduction="none") * weights).sum()
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-15)


def test_the_loss_of_no_positions_is_zero() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = summed_cross_entropy(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None


def test_extreme_logits_give_a_finite_loss_and_gradient() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    loss = summed_cross_entropy(logits, torch.tensor([0]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_logits_that_need_no_gradient_are_not_overwritten() -> None:
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    assert summed_cross_entropy(logits, torch.zeros(9, dtype=torch.long)) > 0
    assert torch.equal(logits, before)


def test_a_second_backward_is_refused() -> None:
    hidden = torch.ones(2, 3, requires_grad=True)
    loss = summed_cross_entropy(hidden * 2, torch.tensor([0, 1]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
