"""Robust and clustered errors of all pairs at once: sums of squared scores as matrix products.

For a projected exposure d, and x and y with covariates partialled out, the meat of the pair is
``sum_c (A_c - b B_c)^2 = sum A_c^2 - 2 b sum A_c B_c + b^2 sum B_c^2`` over clusters c, where
``A_c = sum_{i in c} d_i y_i`` and ``B_c = sum_{i in c} d_i x_i``. Each sum is a product of
matrices for all P x Q pairs; a person is a cluster of their own unless errors are clustered.

Legend: N people, P exposures, Q outcomes, G clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrscale.stats.batch import CANCELLED
from mrscale.stats.moments import Floats

Codes = NDArray[np.int64]

_FAMILY = 8
"""Up to this size a cluster's square is summed over pairs of its people, all clusters at once:
fewer operations than one outer product per cluster, which touches P x Q numbers each time."""


@dataclass(frozen=True, eq=False)
class PairScores:
    """Sums over clusters: a monoid. A cluster is open until all its people were seen.

    Attributes
    ----------
    aa, ab : ndarray, shape (P, Q)
        ``sum A_c^2`` and ``sum A_c B_c`` over closed clusters.
    bb : ndarray, shape (P,)
        ``sum B_c^2``.
    num_groups : int
        Closed clusters (or people) that have the pattern's traits.
    code, seen : ndarray of int, shape (G,)
        Open clusters, ascending, and how many of their people were seen.
    used : ndarray of bool, shape (G,)
        Whether any of these has the pattern's traits.
    a, b : ndarray, shapes (G, P, Q) and (G, P)
        Their sums so far.
    """

    aa: Floats
    ab: Floats
    bb: Floats
    num_groups: int
    code: Codes
    seen: Codes
    used: NDArray[np.bool_]
    a: Floats
    b: Floats

    @classmethod
    def of_people(cls, d: Floats, x: Floats, y: Floats, keep: NDArray[np.bool_]) -> PairScores:
        """Of a block of people, each a cluster.

        Parameters
        ----------
        d, x : ndarray, shape (N, P)
            Projected and partialled exposures; d is zero for people outside the pattern.
        y : ndarray, shape (N, Q)
            Partialled outcomes.
        keep : ndarray of bool, shape (N,)
            People in the pattern.
        """
        dx = d * x
        ab = (d * dx).T @ y
        aa = np.square(d).T @ np.square(y)
        return cls._closed(aa, ab, np.einsum("np,np->p", dx, dx), int(keep.sum()))

    @classmethod
    def of_clusters(
        cls,
        d: Floats,
        x: Floats,
        y: Floats,
        keep: NDArray[np.bool_],
        codes: Codes,
        sizes: Codes,
    ) -> PairScores:
        """Of a block of people in clusters; parameters as for ``of_people``, and those below.

        Parameters
        ----------
        codes : ndarray of int, shape (N,)
            Cluster of each person, ascending.
        sizes : ndarray of int, shape (clusters,)
            People of each cluster in all blocks together.
        """
        first = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
        length = np.diff(np.r_[first, len(codes)])
        code, used = codes[first], np.logical_or.reduceat(keep, first)
        b = np.add.reduceat(d * x, first, axis=0)
        whole = length == sizes[code]
        ab = (d * np.repeat(b * whole[:, None], length, axis=0)).T @ y
        aa = _families(d, y, first, np.where(whole & (length <= _FAMILY), length, 0))
        for i in np.flatnonzero(whole & (length > _FAMILY)):
            aa += np.square(_outer(d, y, first[i], length[i]))
        still = np.flatnonzero(~whole)
        a = [_outer(d, y, first[i], length[i]) for i in still]
        bb = np.square(b[whole]).sum(axis=0)
        closed = cls._closed(aa, ab, bb, int(used[whole].sum()))
        return cls(
            closed.aa,
            closed.ab,
            closed.bb,
            closed.num_groups,
            code[still],
            length[still],
            used[still],
            np.array(a).reshape(len(still), *aa.shape),
            b[still],
        )

    def combine(self, other: PairScores, sizes: Codes | None = None) -> PairScores:
        """Of the people of both; ``sizes`` as for ``of_clusters``."""
        aa, ab, bb = self.aa + other.aa, self.ab + other.ab, self.bb + other.bb
        groups = self.num_groups + other.num_groups
        if sizes is None:
            return self._closed(aa, ab, bb, groups)
        code, where = np.unique(np.r_[self.code, other.code], return_inverse=True)
        seen, used = np.zeros(len(code), np.int64), np.zeros(len(code), np.bool_)
        a, b = np.zeros((len(code), *aa.shape)), np.zeros((len(code), len(bb)))
        for part, at in ((self, where[: len(self.code)]), (other, where[len(self.code) :])):
            seen[at] += part.seen
            used[at] |= part.used
            a[at] += part.a
            b[at] += part.b
        done = seen == sizes[code]
        aa += np.square(a[done]).sum(axis=0)
        ab += np.einsum("gpq,gp->pq", a[done], b[done])
        bb += np.square(b[done]).sum(axis=0)
        groups += int(used[done].sum())
        rest = ~done
        return PairScores(aa, ab, bb, groups, code[rest], seen[rest], used[rest], a[rest], b[rest])

    def meat(self, estimate: Floats) -> Floats:
        """``sum_c (A_c - b B_c)^2`` of every pair, shape (P, Q); NaN where rounding is all of it.

        The three terms cancel to the share of the outcome that the exposure does not explain.
        """
        square = estimate**2 * self.bb[:, None]
        found = self.aa - 2 * estimate * self.ab + square
        return np.where(found > CANCELLED * (self.aa + square), found, np.nan)

    @classmethod
    def _closed(cls, aa: Floats, ab: Floats, bb: Floats, num_groups: int) -> PairScores:
        none = np.zeros(0, dtype=np.int64)
        a, b = np.zeros((0, *aa.shape)), np.zeros((0, len(bb)))
        return cls(aa, ab, bb, num_groups, none, none, none.astype(np.bool_), a, b)


def _outer(d: Floats, y: Floats, first: int, length: int) -> Floats:
    rows = slice(first, first + length)
    return np.asarray(d[rows].T @ y[rows])


def _families(d: Floats, y: Floats, first: Codes, length: Codes) -> Floats:
    """``sum_c A_c^2`` over runs of rows, by products over pairs of people within them.

    ``A_c^2 = sum_i d_i^2 y_i^2 + 2 sum_{i<j} d_i d_j y_i y_j``; one product for each distance
    between i and j.
    """
    start = first[length > 0]
    size = length[length > 0]
    total = np.zeros((d.shape[1], y.shape[1]))
    for lag in range(int(size.max(initial=0))):
        near = size > lag
        i = _ranges(start[near], size[near] - lag)
        total += (1 + (lag > 0)) * ((d[i] * d[i + lag]).T @ (y[i] * y[i + lag]))
    return total


def _ranges(start: Codes, length: Codes) -> Codes:
    """Concatenated ``start + arange(length)``."""
    ends = np.cumsum(length)
    return np.arange(ends[-1]) + np.repeat(start - ends + length, length)
