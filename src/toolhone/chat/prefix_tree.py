"""Prefix trees: what the examples of a batch share is laid out, and computed, once.

In function-calling data nearly every token belongs to the same system prompt and tool schemas. Here the examples of a
batch become the branches of a tree, laid out in one row of tokens, depth first:

    row        [ system + tools | turn A, answer A | turn B, answer B | ... ]
    position     0 ... p-1        p ...              p ...                     restarts after the shared prefix
    end          the index after the last token that descends from this one

Token i sees token j if `j <= i < end[j]`: its ancestors and itself. Every example thus gets exactly the hidden states
that it would get alone, and the gradients of the shared prefix are summed over its branches. Prior work: Tree Training
(arXiv 2511.00413), Prefix Grouper (arXiv 2506.05433).

An example shares at most its prompt without the last token, so each branch begins with an unlabelled token: no token
has to predict two successors, and the ordinary shifted loss is right as it is. Duplicates stay two branches. A turn
that the next example continues, as in a conversation of several turns, needs no branch: it is learned inside that
example's prompt. A conversation thus costs what it would cost once, however many turns it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from toolhone.chat.render import IGNORED, LabelledTokens


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


def build_tree(rows: Sequence[LabelledTokens]) -> PrefixTree:
    """Lay rows out depth first; rows that share nothing lie side by side."""
    tree = PrefixTree([], [], [], [], [])
    before: list[int] = []  # the ids that the last rows could share ...
    path: list[int] = []  # ... and where they lie in the tree
    within: LabelledTokens | None = None  # the row whose turn is learned in the next prompt, which continues it
    # In lexical order a row shares most with the one before it.
    alike = groupby(sorted(rows, key=_lexical), key=shareable_ids)
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


def split_into_trees(rows: Sequence[LabelledTokens], max_tokens: int) -> list[PrefixTree]:
    """Lay rows out as trees of at most `max_tokens` tokens each.

    Rows are taken in lexical order, so that those which share most lie in one tree. A row longer than `max_tokens` gets
    a tree to itself.
    """
    whole = build_tree(rows)
    if len(whole) <= max_tokens or len(rows) == 1:
        return [whole]
    trees: list[PrefixTree] = []
    held: list[LabelledTokens] = []
    for row in sorted(rows, key=_lexical):
        if held and len(build_tree([*held, row])) > max_tokens:
            trees.append(build_tree(held))
            held = []
        held.append(row)
    return [*trees, build_tree(held)]


def shareable_ids(row: LabelledTokens) -> list[int]:
    """The ids that other rows may share: the prompt without its last token."""
    return row.ids[: row.prompt_length - 1]


def _lexical(row: LabelledTokens) -> tuple[list[int], list[int], list[float]]:
    """Puts rows with a common prefix next to each other, and a prefix before what extends it."""
    return shareable_ids(row), row.ids, row.weights


def _common_length(left: list[int], right: list[int]) -> int:
    """How many ids two lists have in common at their start."""
    pairs = zip(left, right, strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(left), len(right)))


def _add_tokens(tree: PrefixTree, ids: list[int], depth: int, row: LabelledTokens | None) -> range:
    """Append ids from a depth on, with the labels that `row` has there. Returns their indices in the tree."""
    end = depth + len(ids)
    labels = row.labels[depth:end] if row else []
    unlearned = len(ids) - len(labels)
    first = len(tree)
    tree.ids.extend(ids)
    tree.positions.extend(range(depth, end))
    tree.ends.extend([0] * len(ids))  # known once all that descends from them is there
    tree.labels.extend(labels + [IGNORED] * unlearned)
    tree.weights.extend((row.weights[depth:end] if row else []) + [0.0] * unlearned)
    return range(first, len(tree))


def _close(tree: PrefixTree, indices: Iterable[int]) -> None:
    """Nothing more descends from these tokens."""
    for index in indices:
        tree.ends[index] = len(tree)
