"""Near duplicates: texts go in, pairs of texts that are almost the same come out.

Two texts are as near as the Jaccard index of their sets of character 5-grams: shared 5-grams over all. Comparing every
text with every other would take hours for 20,000 of them, so MinHash signatures (Broder 1997; `datasketch`) are
cut into bands, and only texts that agree in a whole band are compared, then exactly. Whether a pair is found depends on
its two texts alone: more texts never hide it. A pair at the threshold itself is found with a probability of 99% or
more, a nearer one with more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from zlib import crc32

import numpy as np
import numpy.typing as npt

Signatures = npt.NDArray[np.uint32]
"""MinHash values, [texts, `PERMUTATIONS`]."""

SHINGLE = 5
PERMUTATIONS = 128
_RECALL = 0.995
_SLACK = 0.1
"""How far below the threshold the signatures' estimate may lie for a pair to be compared exactly: at 0.8 and 128
permutations close to three standard errors, so that some two pairs in a thousand at the very threshold are missed."""
_BLOCK = 2_000
_KEPT = 20_000  # texts whose 5-grams are held in memory: some 100 MB


def near_duplicates(
    texts: Sequence[str], threshold: float = 0.8, linked: Sequence[int] | None = None
) -> list[tuple[int, int, float]]:
    """Pairs `(earlier, later, jaccard)` that tie every text to the group of texts that it is near to.

    Copies are found first, by the text itself: each is paired with the first of its kind, at 1.0. Of a group of near
    texts only as many pairs come back as hold it together (`groups` puts them together again), for ten thousand
    fillings of one template have fifty million pairs. Texts that `linked` gives the same number count as held
    together already: no pair between them is looked for. The same texts give the same pairs, in order.

    Raises:
        ValueError: where the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"expected a threshold above 0 and at most 1, found {threshold}")
    parents = list(range(len(texts)))
    if linked is not None:
        firsts: dict[int, int] = {}
        parents = [firsts.setdefault(label, n) for n, label in enumerate(linked)]
    pairs: list[tuple[int, int, float]] = []
    first_of: dict[str, int] = {}
    for n, text in enumerate(texts):
        first = first_of.setdefault(text, n)
        if first != n:
            if linked is None or find(parents, first) != find(parents, n):
                pairs.append((first, n, 1.0))
            unite(parents, first, n)
    distinct = np.fromiter(first_of.values(), dtype=np.int64, count=len(first_of))
    if threshold < 1:
        found = signatures([texts[n] for n in distinct])
        pairs += _link(texts, distinct, found, threshold, parents)
    return sorted(pairs)


def groups(pairs: Iterable[tuple[int, int, float]], count: int) -> list[int]:
    """For each of `count` texts the lowest index among those that it is tied to by pairs, in however many steps."""
    parents = list(range(count))
    for one, other, _ in pairs:
        unite(parents, one, other)
    return [find(parents, n) for n in range(count)]


def nearest(texts: Sequence[str], queries: Sequence[str], threshold: float = 0.8) -> list[tuple[int, float] | None]:
    """For each query the nearest text and its Jaccard index; None where none reaches the threshold."""
    first_of: dict[str, int] = {}
    for n, text in enumerate(texts):
        first_of.setdefault(text, n)
    best: list[tuple[int, float] | None] = [(first_of[q], 1.0) if q in first_of else None for q in queries]
    open_queries = [n for n, found in enumerate(best) if found is None]
    if not open_queries or not texts or threshold >= 1:
        return best
    distinct = list(first_of.values())
    # A bucket that holds rows of texts and of queries gives candidates.
    candidates: list[set[int]] = [set() for _ in open_queries]
    found = signatures([*(texts[n] for n in distinct), *(queries[n] for n in open_queries)])
    for before, bucket in _buckets(found, threshold):
        held, asked = bucket[bucket < len(distinct)], bucket[bucket >= len(distinct)]
        for row in asked.tolist() if len(held) else ():
            candidates[row - len(distinct)].update(_worth_comparing(found, held, row, before, threshold).tolist())
    for n, query in enumerate(open_queries):
        grams = shingles(queries[query])
        scored = [(jaccard(grams, shingles(texts[distinct[m]])), -distinct[m]) for m in candidates[n]]
        if scored and max(scored)[0] >= threshold:
            score, negative = max(scored)
            best[query] = (-negative, score)
    return best


def shingles(text: str) -> frozenset[str]:
    """The character 5-grams of a text; of a shorter text, the text itself."""
    return frozenset(text[n : n + SHINGLE] for n in range(max(1, len(text) - SHINGLE + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared elements over all elements of two sets that are not both empty."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def signatures(texts: Sequence[str]) -> Signatures:
    """The MinHash signature of each text's 5-grams, [texts, `PERMUTATIONS`]."""
    from datasketch import MinHash  # takes most of a second to import, which commands without near texts need not wait

    empty = MinHash(num_perm=PERMUTATIONS, hashfunc=crc32)
    found = np.empty((len(texts), PERMUTATIONS), dtype=np.uint32)
    for n, text in enumerate(texts):
        sketch = empty.copy()
        # Surrogates, as a broken log may hold them, have no UTF-8.
        sketch.update_batch([gram.encode("utf-8", "surrogatepass") for gram in shingles(text)])
        found[n] = sketch.hashvalues
    return found


def find(parents: list[int], n: int) -> int:
    """The root of n in a forest of parents, the paths to which are halved on the way."""
    while parents[n] != n:
        parents[n] = parents[parents[n]]
        n = parents[n]
    return n


def unite(parents: list[int], one: int, other: int) -> None:
    """Put two trees together under the lower of their roots."""
    low, high = sorted((find(parents, one), find(parents, other)))
    parents[high] = low


@cache
def _bands(threshold: float) -> tuple[int, int]:
    """How many bands of how many values: the longest with which a pair at the threshold agrees in some band with a
    probability of `_RECALL`, which is 1 - (1 - threshold^values)^bands."""
    for values in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // values
        if 1 - (1 - threshold**values) ** bands >= _RECALL:
            return bands, values
    return PERMUTATIONS, 1


def _buckets(found: Signatures, threshold: float) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """The rows, in ascending order, that agree in a whole band, two or more, each time with how many values stand
    before that band; one band after the other, so that no more than one is held in memory."""
    bands, values = _bands(threshold)
    for start in range(0, bands * values, values):
        part = np.ascontiguousarray(found[:, start : start + values])
        keys = part.view(np.dtype((np.void, part.dtype.itemsize * values))).ravel()
        _, labels = np.unique(keys, return_inverse=True)
        order = np.argsort(labels, kind="stable")
        cuts = [*np.flatnonzero(np.diff(labels[order], prepend=-1)).tolist(), len(order)]
        yield from ((start, order[one:end]) for one, end in pairwise(cuts) if end - one > 1)


def _worth_comparing(
    found: Signatures, others: npt.NDArray[np.int64], row: int, before: int, threshold: float
) -> npt.NDArray[np.int64]:
    """Those of `others` whose signatures come near enough to that of `row`, and which no earlier band brought
    together with it."""
    agree = found[others] == found[row]  # [others, PERMUTATIONS]
    worth = np.count_nonzero(agree, axis=1) >= (threshold - _SLACK) * PERMUTATIONS
    if before:
        _, values = _bands(threshold)
        worth &= ~agree[:, :before].reshape(len(others), -1, values).all(axis=2).any(axis=1)
    chosen: npt.NDArray[np.int64] = others[worth]
    return chosen


def _link(
    texts: Sequence[str],
    distinct: npt.NDArray[np.int64],
    found: Signatures,
    threshold: float,
    parents: list[int],
) -> Iterator[tuple[int, int, float]]:
    """Compare the distinct texts as far as they share a band and are not tied yet; tie those that are near, and yield
    the pairs."""
    grams: dict[int, frozenset[str]] = {}
    for before, bucket in _buckets(found, threshold):
        roots = np.array([find(parents, n) for n in distinct[bucket].tolist()])
        if (roots == roots[0]).all():
            continue
        for late in range(1, len(bucket)):
            others = np.flatnonzero(roots[:late] != roots[late])
            for start in range(0, len(others), _BLOCK):
                part = others[start : start + _BLOCK]
                place = dict(zip(bucket[part].tolist(), part.tolist(), strict=True))
                for row in _worth_comparing(found, bucket[part], bucket[late], before, threshold).tolist():
                    early = place[row]
                    if roots[early] == roots[late]:
                        continue
                    one, other = int(distinct[row]), int(distinct[bucket[late]])
                    if len(grams) > _KEPT:
                        grams.clear()
                    for n in (one, other):
                        if n not in grams:
                            grams[n] = shingles(texts[n])
                    score = jaccard(grams[one], grams[other])
                    if score >= threshold:
                        unite(parents, one, other)
                        roots[(roots == roots[early]) | (roots == roots[late])] = find(parents, one)
                        yield (one, other, score)
