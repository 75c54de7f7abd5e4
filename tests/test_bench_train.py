"""What scripts/bench_train.py counts: tokens and pairs of each kind of batch, operations, and a card's peak."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from conftest import load_script

from toolhone.chat.render import mask_labels
from toolhone.train.batches import RowCollator, TreeCollator, tree_features

bench = load_script("bench_train")

ROWS = [mask_labels([1, 2, 3, 4], [5, 6]), mask_labels([1, 2, 3, 4], [7, 8, 9]), mask_labels([1, 2], [10])]


def test_a_tree_counts_a_shared_prefix_once_and_the_pairs_that_its_tokens_see() -> None:
    found = bench.work_of(TreeCollator(0, 4096)([tree_features(row) for row in ROWS]))
    plain = bench.work_of(RowCollator(0)([tree_features(row) for row in ROWS]))
    assert plain["examples"] == found["examples"] == 3
    assert plain["labels"] == found["labels"] == 6
    assert plain["computed_tokens"] == plain["logical_tokens"] == found["logical_tokens"] == 6 + 7 + 3
    assert found["computed_tokens"] == 16 - 3 - 1  # three shared prompt tokens once, and one of the third row
    assert plain["pairs"] == 6 * 7 // 2 + 7 * 8 // 2 + 3 * 4 // 2
    assert found["pairs"] == plain["pairs"] - 3 * 4 // 2 - 1


def test_trees_of_unequal_length_count_no_padding() -> None:
    rows = [mask_labels([1, 2, 3], [4]), mask_labels([5, 6], [7, 8, 9, 10])]
    batch = TreeCollator(0, 6)([tree_features(row) for row in rows])
    assert len(batch["input_ids"]) == 2
    found = bench.work_of(batch)
    assert found["computed_tokens"] == 4 + 6
    assert found["pairs"] == 4 * 5 // 2 + 6 * 7 // 2


def test_a_packed_sequence_counts_each_of_its_rows() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1]])
    labels = torch.tensor([[-100, 4, 5, -100, 6]])
    found = bench.work_of({"position_ids": positions, "labels": labels})
    assert found == {"labels": 3, "examples": 2, "logical_tokens": 5, "computed_tokens": 5, "pairs": 6 + 3}


def test_operations_follow_the_formula_with_the_width_of_the_attention_heads() -> None:
    sizes = SimpleNamespace(body=1000, adapter=10)
    shape = {"num_attention_heads": 4, "head_dim": 32, "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 50}
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(**shape))
    work = {"computed_tokens": 7, "pairs": 28, "labels": 3}
    expected = 7 * (4 * 1000 + 6 * 10) + 12 * 128 * 2 * 28 + 4 * 50 * 64 * 3
    assert bench.training_flops(sizes, config, work) == expected


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA GH200 480GB", 989.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
        ("Tesla T4", None),
    ],
)
def test_the_peak_belongs_to_the_card(card: str, peak: float | None) -> None:
    assert bench.peak_tflops(card) == peak
