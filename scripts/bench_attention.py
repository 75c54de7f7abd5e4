"""Measure attention over a prefix tree on a CPU, forward and backward: toolhone's blocks compared with a dense mask.

    OMP_NUM_THREADS=1 .venv/bin/python scripts/bench_attention.py --heads 4 --key-value-heads 1 --dim 256 \
        --shared 81 --branches 3 --length 240

One layer, with `branches` of `length` tokens that share the first `shared` ones. Both run in turn; the shortest time
of each counts. The last line says what the collator takes for such a batch, without and with the preparation of
attention, which all layers share.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from toolhone.chat.prefix_tree import build_tree
from toolhone.chat.render import LabelledTokens, mask_labels
from toolhone.train.attention import AttentionBlocks, tree_attention, visible
from toolhone.train.batches import TreeAttention, TreeCollator, tree_features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("heads", 4), ("key-value-heads", 1), ("dim", 256), ("shared", 81), ("branches", 3),
                          ("length", 240), ("repeats", 15)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    print(
        f"{torch.get_num_threads()} threads, {args.heads} heads, {args.key_value_heads} of keys, dimension {args.dim}"
    )
    print("| dtype | dense mask | blocks | ratio | largest difference |\n| --- | --- | --- | --- | --- |")
    for dtype in (torch.float32, torch.bfloat16):
        dense, blocks, difference = compare(args, dtype)
        name = str(dtype).removeprefix("torch.")
        print(f"| {name} | {dense:.1f} ms | {blocks:.1f} ms | {dense / blocks:.1f}x | {difference:.1g} |")
    plain, cut, lists = (
        collate_ms(args, attention)
        for attention in (TreeAttention(), TreeAttention(windows=(None,)), TreeAttention(flex=True, windows=(None,)))
    )
    print(f"the collator: {plain:.1f} ms a batch; with blocks {cut:.1f} ms, with FlexAttention's lists {lists:.1f} ms")


def rows_of(args: argparse.Namespace) -> list[LabelledTokens]:
    shared = list(range(args.shared))
    return [mask_labels([*shared, 1000 + n], [1000 + n] * (args.length - 1)) for n in range(args.branches)]


def collate_ms(args: argparse.Namespace, attention: TreeAttention) -> float:
    """Milliseconds of processor time that the collator takes for a batch."""
    features = [tree_features(row) for row in rows_of(args)]
    collate = TreeCollator(0, 8192, attention)

    def timed() -> float:
        started = time.thread_time()
        collate(features)
        return (time.thread_time() - started) * 1e3

    return min(timed() for _ in range(args.repeats))


def compare(args: argparse.Namespace, dtype: torch.dtype) -> tuple[float, float, float]:
    """Milliseconds with a dense mask and in blocks, and the largest difference of their outputs."""
    tree = build_tree(rows_of(args))
    ends, positions = torch.tensor([tree.ends]), torch.tensor([tree.positions])
    every = torch.arange(len(tree))
    mask = visible(ends[0], every, every)
    cut = AttentionBlocks(ends, positions)
    torch.manual_seed(0)
    heads = (args.heads, args.key_value_heads, args.key_value_heads)
    query, key, value = (torch.randn(1, n, len(tree), args.dim, dtype=dtype, requires_grad=True) for n in heads)
    scaling = args.dim**-0.5
    gradient = torch.randn(1, len(tree), args.heads, args.dim, dtype=dtype)

    def dense() -> torch.Tensor:
        out = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2)

    def blocks() -> torch.Tensor:
        module: Any = SimpleNamespace()
        return tree_attention(module, query, key, value, None, tree_blocks=cut, scaling=scaling)[0]

    def timed(attend: Callable[[], torch.Tensor]) -> float:
        started = time.perf_counter()
        attend().backward(gradient)
        return (time.perf_counter() - started) * 1e3

    times = [(timed(dense), timed(blocks)) for _ in range(args.repeats)]
    with torch.no_grad():
        difference = float((dense() - blocks()).abs().max())
    return min(one for one, _ in times), min(other for _, other in times), difference


if __name__ == "__main__":
    main()
