"""Different subsets of a seed's neighbours, one after another (specs/grouping.md, GRP-5)."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

_MOST_NUMBERED = 1 << 31
_MOST_LISTED = 1 << 12
_GOLDEN = (math.sqrt(5) - 1) / 2
"""Golden section: successive draws of a seed are then far apart in the order of subsets."""


def draw_subsets(row: Indices, rounds: Indices, K: int, count: int, rng: np.random.Generator) -> Indices:
    """A subset of ``count`` of K ranks for each group; those of one seed all differ.

    Args:
        row: (n,) the seed of each group, as 0..S - 1.
        rounds: (n,) which of its seed's groups it is, less than ``binom(K, count)``.
        K: Number of ranks.
        count: Ranks a subset has.
        rng: Draws the subset at which each seed starts.

    Returns:
        (n, count) int64, ascending ranks.

    One seed with all its ``binom(3, 2) = 3`` groups:

    >>> drawn = draw_subsets(np.zeros(3, int), np.arange(3), 3, 2, np.random.default_rng(0))
    >>> sorted(drawn.tolist())
    [[0, 1], [0, 2], [1, 2]]
    """
    if not len(row):
        return np.empty((0, count), np.int64)
    draws = math.comb(K, count)
    if draws > _MOST_NUMBERED:
        return _random_subsets(row, K, count, rng)
    first = rng.integers(draws, size=int(row.max()) + 1)
    number = (first[row] + rounds * _stride(draws)) % draws
    if draws <= _MOST_LISTED:
        listed = np.array(list(itertools.combinations(range(K), count)), np.int64)
        return np.asarray(listed.reshape(draws, count)[number])
    return _numbered(number, K, count)


def _stride(draws: int) -> int:
    """A step near the golden section of the draws and coprime to them: it visits each draw once."""
    step = max(1, round(draws * _GOLDEN))
    while math.gcd(step, draws) != 1:
        step += 1
    return step


def _numbered(number: Indices, K: int, count: int) -> Indices:
    """Subsets of ``count`` of K ranks by their number in lexicographic order, each ascending.

    >>> _numbered(np.arange(3), 3, 2).tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    number = number.copy()
    result = np.empty((len(number), count), np.int64)
    missing = np.full(len(number), count)
    for rank in range(K):
        ways = np.array([0] + [math.comb(K - 1 - rank, take - 1) for take in range(1, count + 1)])[missing]
        taken = number < ways
        result[taken, count - missing[taken]] = rank
        missing[taken] -= 1
        number[~taken] -= ways[~taken]
    return result


def _random_subsets(row: Indices, K: int, count: int, rng: np.random.Generator) -> Indices:
    """Subsets too many to be numbered: drawn at random, and again if the seed already has the subset."""
    result = np.empty((len(row), count), np.int64)
    todo = np.arange(len(row))
    while len(todo):
        result[todo] = np.sort(np.argsort(rng.random((len(todo), K)), axis=1)[:, :count], axis=1)
        _, first = np.unique(np.column_stack([row, result]), axis=0, return_index=True)
        todo = np.setdiff1d(np.arange(len(row)), first)
    return result
