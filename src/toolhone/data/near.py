"""Near duplicates: finds pairs of texts that are almost the same.

The similarity of two texts is the Jaccard index of their sets of character 5-grams: shared 5-grams over all. Comparing
every text with every other would take hours for 20,000 of them. So MinHash signatures (Broder 1997; `datasketch`) are
cut into bands, and only texts that agree in a whole band are compared, then exactly. Whether a pair is found depends on
its two texts alone: more texts never hide it. A pair at the threshold is found with a probability of at least 99%.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.cluster.hierarchy import DisjointSet

Signatures = npt.NDArray[np.uint32]
"""MinHash values, [texts, `PERMUTATIONS`]."""
Indices = npt.NDArray[np.int64]

THRESHOLD = 0.8  # the similarity from which texts count as near duplicates
SHINGLE = 5
PERMUTATIONS = 128
_RECALL = 0.995
_SLACK = 0.1
"""How far below the threshold the signatures' estimate may be for a pair to be compared exactly: at 0.8 and 128
permutations close to three standard errors, so about two pairs in a thousand at the very threshold are missed."""
_BLOCK = 2_000
_KEPT = 20_000  # texts whose 5-grams are held in memory: about 100 MB


def near_duplicates(
    texts: Sequence[str], threshold: float = THRESHOLD, linked: Sequence[int] | None = None
) -> list[tuple[int, int, float]]:
    """Pairs `(earlier, later, jaccard)` that tie every text to the group of texts that it is near to.

    Copies come first: each is paired with the first of its kind, at 1.0. A group of near texts gives only the pairs
    that hold it together, since ten thousand fillings of one template have fifty million pairs. Texts to which `linked`
    gives the same number already count as one group. The same texts give the same pairs, in order.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"expected a threshold above 0 and at most 1, found {threshold}")
    from scipy.cluster.hierarchy import DisjointSet  # takes a moment to import

    groups = DisjointSet(range(len(texts)))
    first_linked: dict[int, int] = {}
    for n, label in enumerate(linked or ()):
        groups.merge(first_linked.setdefault(label, n), n)
    first_of = _first_places(texts)
    pairs = [(first_of[text], n, 1.0) for n, text in enumerate(texts) if groups.merge(first_of[text], n)]
    if threshold < 1:
        pairs += _near_pairs(texts, np.array(list(first_of.values()), dtype=np.int64), threshold, groups)
    return sorted(pairs)


def nearest(
    texts: Sequence[str], queries: Sequence[str], threshold: float = THRESHOLD
) -> list[tuple[int, float] | None]:
    """For each query the nearest text and its Jaccard index; None if none reaches the threshold."""
    first_of = _first_places(texts)
    best: list[tuple[int, float] | None] = [(first_of[q], 1.0) if q in first_of else None for q in queries]
    open_queries = [n for n, found in enumerate(best) if found is None]
    if not open_queries or not texts or threshold >= 1:
        return best
    distinct = list(first_of.values())
    # In a bucket with both texts and queries, the texts are candidates for the queries.
    candidates: list[set[int]] = [set() for _ in open_queries]
    found = signatures([*(texts[n] for n in distinct), *(queries[n] for n in open_queries)])
    for before, bucket in _buckets(found, threshold):
        held, asked = bucket[bucket < len(distinct)], bucket[bucket >= len(distinct)]
        for row in asked.tolist() if len(held) else ():
            worth = _worth_comparing(found, held, row, before, threshold)
            candidates[row - len(distinct)].update(held[worth].tolist())
    for n, query in enumerate(open_queries):
        grams = shingles(queries[query])
        scored = [(jaccard(grams, shingles(texts[distinct[m]])), -distinct[m]) for m in candidates[n]]
        if scored and max(scored)[0] >= threshold:
            score, negative = max(scored)
            best[query] = (-negative, score)
    return best


def _first_places(texts: Sequence[str]) -> dict[str, int]:
    """The place of each distinct text's first occurrence, in the order of the texts."""
    places: dict[str, int] = {}
    for n, text in enumerate(texts):
        places.setdefault(text, n)
    return places


def shingles(text: str) -> frozenset[str]:
    """The character 5-grams of a text; of a shorter text, the text itself."""
    return frozenset(text[n : n + SHINGLE] for n in range(max(1, len(text) - SHINGLE + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared elements over all elements of two sets that are not both empty."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def signatures(texts: Sequence[str]) -> Signatures:
    """The MinHash signature of each text's 5-grams, [texts, `PERMUTATIONS`]."""
    from datasketch import MinHash  # takes most of a second to import

    empty = MinHash(num_perm=PERMUTATIONS, hashfunc=crc32)
    found = np.empty((len(texts), PERMUTATIONS), dtype=np.uint32)
    for n, text in enumerate(texts):
        sketch = empty.copy()
        # Surrogates, which a broken log may contain, have no UTF-8.
        sketch.update_batch([gram.encode("utf-8", "surrogatepass") for gram in shingles(text)])
        found[n] = sketch.hashvalues
    return found


@cache
def _bands(threshold: float) -> tuple[int, int]:
    """The number of bands and of values in each: the longest bands with which a pair at the threshold agrees in some
    band with a probability of `_RECALL`, which is 1 - (1 - threshold^values)^bands."""
    for values in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // values
        if 1 - (1 - threshold**values) ** bands >= _RECALL:
            return bands, values
    return PERMUTATIONS, 1


def _buckets(found: Signatures, threshold: float) -> Iterator[tuple[int, Indices]]:
    """Groups of two or more rows, in ascending order, that agree in a whole band, each with the number of values before
    that band. Bands come one after the other, so only one is held in memory."""
    bands, values = _bands(threshold)
    for start in range(0, bands * values, values):
        part = np.ascontiguousarray(found[:, start : start + values])
        keys = part.view(np.dtype((np.void, part.dtype.itemsize * values))).ravel()
        _, labels = np.unique(keys, return_inverse=True)
        order = np.argsort(labels, kind="stable")
        cuts = [*np.flatnonzero(np.diff(labels[order], prepend=-1)).tolist(), len(order)]
        yield from ((start, order[one:end]) for one, end in pairwise(cuts) if end - one > 1)


def _worth_comparing(
    found: Signatures, others: Indices, row: int, before: int, threshold: float
) -> npt.NDArray[np.bool_]:
    """Which of `others` have a signature near enough to that of `row`, and were not in one bucket with it in an earlier
    band, [others]."""
    agree = found[others] == found[row]  # [others, PERMUTATIONS]
    worth: npt.NDArray[np.bool_] = np.count_nonzero(agree, axis=1) >= (threshold - _SLACK) * PERMUTATIONS
    if before:
        _, values = _bands(threshold)
        worth &= ~agree[:, :before].reshape(len(others), -1, values).all(axis=2).any(axis=1)
    return worth


def _near_pairs(
    texts: Sequence[str], distinct: Indices, threshold: float, groups: DisjointSet
) -> Iterator[tuple[int, int, float]]:
    """Compare the distinct texts that share a band and are not tied yet. Tie those that are near, and yield the
    pairs."""
    grams = lru_cache(_KEPT)(lambda n: shingles(texts[n]))
    found = signatures([texts[n] for n in distinct])
    for before, bucket in _buckets(found, threshold):
        members = distinct[bucket].tolist()
        roots = np.array([groups[n] for n in members])
        if (roots == roots[0]).all():
            continue
        for late in range(1, len(bucket)):
            others = np.flatnonzero(roots[:late] != roots[late])
            for start in range(0, len(others), _BLOCK):
                block = others[start : start + _BLOCK]
                worth = _worth_comparing(found, bucket[block], bucket[late], before, threshold)
                for early in block[worth].tolist():
                    one, other = members[early], members[late]
                    if roots[early] == roots[late] or (score := jaccard(grams(one), grams(other))) < threshold:
                        continue
                    groups.merge(one, other)
                    roots[(roots == roots[early]) | (roots == roots[late])] = groups[one]
                    yield one, other, score
