"""Prefix-tree batches: what examples share is computed once.

In function-calling data nearly every token is the same system prompt and tool schemas again. Here the examples of a
batch become the branches of a tree, laid out in one row of tokens, depth first:

    row        [ system + tools | turn A, answer A | turn B, answer B | ... ]
    position     0 ... p-1        p ...              p ...                     restarts behind the shared prefix
    end          the index behind the last token that descends from this one

Token i sees token j where `j <= i < end[j]`: its ancestors and itself. Every example thus gets exactly the hidden
states that it would get alone, and the gradients of the shared prefix are summed over its branches. Prior work: Tree
Training (arXiv 2511.00413), Prefix Grouper (arXiv 2506.05433).

An example shares at most its prompt without the last token, so that each branch begins with an unlabelled token: no
token has to predict two successors, and the ordinary shifted loss is right as it stands. Duplicates stay two branches.
A turn that the next example goes on from, as the turns of a conversation do, needs no branch: it is learned where it
stands in that example's prompt, so a conversation costs what it would cost once, whatever the number of its turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch

from toolhone.chat.render import Rendered
from toolhone.errors import UserError

IGNORED = -100
"""The label of a token that is not learned, in PyTorch's cross-entropy."""


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """An example as training takes it: its token ids, of which those from `prompt_length` on are labelled. The first of
    these counts once in the loss, each that follows `weight` times."""

    ids: list[int]
    prompt_length: int
    weight: float = 1.0

    @classmethod
    def of(cls, row: Rendered) -> TrainingRow:
        """An example's prompt and turn, joined."""
        return cls(row.prompt_ids + row.completion_ids, len(row.prompt_ids))

    def weight_at(self, place: int) -> float:
        """What the id at a place counts in the loss; 0 where it is not labelled."""
        if place == self.prompt_length:
            return 1.0
        return self.weight if self.prompt_length < place < len(self.ids) else 0.0

    @property
    def shareable(self) -> list[int]:
        """The ids that other rows may share: the prompt without its last token."""
        return self.ids[: self.prompt_length - 1]


@dataclass(slots=True)
class PrefixTree:
    """Rows laid out as a tree. All five lists have one entry a token; `weights` is 0 where the label is IGNORED."""

    ids: list[int]
    positions: list[int]
    ends: list[int]
    labels: list[int]
    weights: list[float]

    def __len__(self) -> int:
        return len(self.ids)


def build_tree(rows: Sequence[TrainingRow]) -> PrefixTree:
    """Lay rows out depth first; rows that share nothing stand side by side."""
    tree = PrefixTree([], [], [], [], [])
    before: list[int] = []  # the ids that the last rows could share ...
    path: list[int] = []  # ... and where in the tree they stand
    within: TrainingRow | None = None  # the row whose turn is learned in the next prompt, which goes on from it
    # In lexical order a row shares most with the one before it.
    alike = groupby(sorted(rows, key=_lexical), key=lambda row: row.shareable)
    groups = [(shareable, list(same)) for shareable, same in alike]
    for (shareable, same), (after, _) in pairwise([*groups, ([], [])]):
        common = _common_length(before, shareable)
        _close(tree, path[common:])
        path = [*path[:common], *_add_tokens(tree, shareable[common:], common, within)]
        within = None
        for row in same:
            if within is None and after[: len(row.ids)] == row.ids:
                within = row
            else:
                _close(tree, _add_tokens(tree, row.ids[len(shareable) :], len(shareable), row))
        before = shareable
    _close(tree, path)
    return tree


def _lexical(row: TrainingRow) -> tuple[list[int], list[int], float]:
    """Puts rows with a common prefix next to each other, and a prefix before what extends it."""
    return row.shareable, row.ids, row.weight


def _common_length(left: list[int], right: list[int]) -> int:
    """How many ids two lists have in common at their start."""
    pairs = zip(left, right, strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(left), len(right)))


def _add_tokens(tree: PrefixTree, ids: list[int], depth: int, row: TrainingRow | None) -> range:
    """Append ids from a depth on, labelled where `row` is, and tell where in the tree they stand."""
    depths = range(depth, depth + len(ids))
    learned = range(row.prompt_length, len(row.ids)) if row else range(0)
    first = len(tree)
    tree.ids.extend(ids)
    tree.positions.extend(depths)
    tree.ends.extend([0] * len(ids))  # known once all that descends from them is there
    tree.labels.extend(id_ if place in learned else IGNORED for id_, place in zip(ids, depths, strict=True))
    tree.weights.extend(row.weight_at(place) if row else 0.0 for place in depths)
    return range(first, len(tree))


def _close(tree: PrefixTree, indices: Iterable[int]) -> None:
    """Nothing more descends from these tokens."""
    for index in indices:
        tree.ends[index] = len(tree)


def visible(ends: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Which queries see which keys of a tree.

    Args:
        ends: [seq], `PrefixTree.ends`.
        queries: [queries], indices of tokens.
        keys: [keys], indices of tokens.

    Returns:
        [queries, keys], boolean, true where the token is seen, as scaled_dot_product_attention takes it.
    """
    return (keys <= queries[:, None]) & (queries[:, None] < ends[keys])


@dataclass(frozen=True, slots=True)
class TreeCollator:
    """Makes a batch of rows into trees of at most `max_tokens` computed tokens, one to a line of the batch.

    Rows are taken in lexical order, so that those which share most lie in one tree. A row longer than `max_tokens` has
    a tree to itself.
    """

    pad_id: int
    max_tokens: int

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        rows = [TrainingRow(one["input_ids"], one["prompt_length"], one.get("weight", 1.0)) for one in features]
        trees = self._trees(rows)
        width = max(len(tree) for tree in trees)
        return {
            "input_ids": _pad([tree.ids for tree in trees], self.pad_id, width),  # [trees, width]
            "position_ids": _pad([tree.positions for tree in trees], 0, width),
            "labels": _pad([tree.labels for tree in trees], IGNORED, width),
            "weights": _pad([tree.weights for tree in trees], 0.0, width),
            # A padding token sees itself alone: a query without any key would give NaN.
            "ends": _pad([tree.ends for tree in trees], None, width),
            "examples": torch.tensor(len(rows)),
            "logical_tokens": torch.tensor(sum(len(row.ids) for row in rows)),
            "computed_tokens": torch.tensor(sum(len(tree) for tree in trees)),
        }

    def _trees(self, rows: list[TrainingRow]) -> list[PrefixTree]:
        whole = build_tree(rows)
        if len(whole) <= self.max_tokens or len(rows) == 1:
            return [whole]
        ordered = sorted(rows, key=_lexical)
        trees: list[PrefixTree] = []
        held: list[TrainingRow] = []
        for row in ordered:
            if held and len(build_tree([*held, row])) > self.max_tokens:
                trees.append(build_tree(held))
                held = []
            held.append(row)
        return [*trees, build_tree(held)]


def _pad(lists: Sequence[Sequence[float]], fill: float | None, width: int) -> torch.Tensor:
    """Stack lists of unequal length; `fill` None continues each with the index behind its own place."""
    tails = ([fill] * (width - len(x)) if fill is not None else list(range(len(x) + 1, width + 1)) for x in lists)
    return torch.tensor([[*x, *tail] for x, tail in zip(lists, tails, strict=True)])


def refuse_other_attention(model_config: Any, name: str) -> None:
    """Trees are computed for layers that see all of a row or a sliding window of it, by PyTorch's own attention: other
    models train with `packing: none`.

    Raises:
        UserError: naming the model.
    """
    text = model_config.get_text_config()
    others = sorted(set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"})
    if getattr(text, "attn_logit_softcapping", None):
        others.append("capped attention logits")
    if text.model_type == "gpt_oss":
        others.append("attention sinks")
    if getattr(text, "use_bidirectional_attention", None):
        others.append("attention to what comes later")
    if others:
        raise UserError(
            f"train.packing: prefix_tree needs full or sliding-window attention in every layer, and {name} has "
            f"{', '.join(others)}; set train.packing: none"
        )
