"""Prefix trees: tokens that the examples of a batch share are laid out, and computed, only once.

In function-calling data, nearly every token belongs to the same system prompt and tool schemas. So the examples of a
batch become branches of a tree, which is laid out depth first in one row of tokens:

    row        [ system + tools | turn A, answer A | turn B, answer B | ... ]
    position     0 ... p-1        p ...              p ...                     restarts after the shared prefix
    end          the index after the last token that descends from this one

Token i sees token j if `j <= i < end[j]`: its ancestors and itself. So every example gets exactly the same hidden
states as on its own, and the gradients of the shared prefix are summed over its branches. Prior work: Tree Training
(arXiv 2511.00413), Prefix Grouper (arXiv 2506.05433).

An example shares at most its prompt without the last token, so each branch begins with an unlabelled token. Then no
token has to predict two successors, and the ordinary shifted loss is correct. Duplicates stay separate branches. If the
next example continues a turn, as in a conversation of several turns, the turn needs no branch: it is learned inside
that example's prompt. So a conversation is computed once, however many turns it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from toolhone.chat.render import IGNORED, LabelledTokens


@dataclass(slots=True)
class PrefixTree:
    """Rows laid out as a tree. All five lists have one entry per token. `weights` is 0 if the label is IGNORED."""

    ids: list[int]
    positions: list[int]
    ends: list[int]
    labels: list[int]
    weights: list[float]

    def __len__(self) -> int:
        return len(self.ids)


def build_tree(rows: Sequence[LabelledTokens]) -> PrefixTree:
    """Lay rows out depth first. Rows that share no prefix are placed side by side."""
    tree = PrefixTree([], [], [], [], [])
    before: list[int] = []  # the ids that the previous rows could share ...
    path: list[int] = []  # ... and their indices in the tree
    within: LabelledTokens | None = None  # the row whose turn the next prompt continues, and which is learned there
    # In lexical order, a row shares the most with the row before it.
    by_prompt = groupby(sorted(rows, key=_lexical), key=shareable_ids)
    groups = [(shareable, list(same)) for shareable, same in by_prompt]
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


def split_into_trees(rows: Sequence[LabelledTokens], max_tokens: int) -> list[PrefixTree]:
    """Lay rows out as trees of at most `max_tokens` tokens each.

    Rows are taken in lexical order, so that rows which share the most are in one tree. A row longer than `max_tokens`
    gets its own tree.
    """
    whole = build_tree(rows)
    if len(whole) <= max_tokens or len(rows) == 1:
        return [whole]
    trees: list[PrefixTree] = []
    waiting: list[LabelledTokens] = []
    for row in sorted(rows, key=_lexical):
        if waiting and len(build_tree([*waiting, row])) > max_tokens:
            trees.append(build_tree(waiting))
            waiting = []
        waiting.append(row)
    return [*trees, build_tree(waiting)]


def shareable_ids(row: LabelledTokens) -> list[int]:
    """Return the ids that other rows may share: the prompt without its last token."""
    return row.ids[: row.prompt_length - 1]


def _lexical(row: LabelledTokens) -> tuple[list[int], list[int], list[float]]:
    """Return a sort key that puts rows with a common prefix next to each other, and a prefix before its extensions."""
    return shareable_ids(row), row.ids, row.weights


def _common_length(left: list[int], right: list[int]) -> int:
    """Return the length of the common prefix of two lists."""
    pairs = zip(left, right, strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(left), len(right)))


def _add_tokens(tree: PrefixTree, ids: list[int], depth: int, row: LabelledTokens | None) -> range:
    """Append ids that start at `depth`, with the labels of `row` there. Returns their indices in the tree."""
    end = depth + len(ids)
    labels = row.labels[depth:end] if row else []
    unlearned = len(ids) - len(labels)
    first = len(tree)
    tree.ids.extend(ids)
    tree.positions.extend(range(depth, end))
    tree.ends.extend([0] * len(ids))  # set by `_close` when all descendants are in the tree
    tree.labels.extend(labels + [IGNORED] * unlearned)
    tree.weights.extend((row.weights[depth:end] if row else []) + [0.0] * unlearned)
    return range(first, len(tree))


def _close(tree: PrefixTree, indices: Iterable[int]) -> None:
    """Set the ends of tokens that get no more descendants."""
    for index in indices:
        tree.ends[index] = len(tree)
