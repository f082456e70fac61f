"""Sums of products of scores, over people or over clusters: what robust errors are made of.

Three small functions and an identity: scores of a block of people -> :class:`OuterSums` ->
``combine`` -> totals. A cluster may lie in several blocks: its sum stays open until all its people
have been seen.

Legend: N people, C design columns, L instruments, P exposures, R covariates, G clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrscale.stats.moments import Floats
from mrscale.stats.reduced import Basis, Meats, Reduced, TraitMeats

Codes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class OuterSums:
    """``sum_g s_g s_g'`` for several kinds of scores, ``s_g`` the sum over cluster g.

    Attributes
    ----------
    totals : tuple of ndarray, shapes (J, J)
        Over people without clusters, or over the clusters that are complete.
    open_code, open_count : ndarray of int, shape (G,)
        Clusters of which some people are still to come, and how many were seen.
    open_sums : tuple of ndarray, shapes (G, J)
        Their sums so far.
    """

    totals: tuple[Floats, ...]
    open_code: Codes
    open_count: Codes
    open_sums: tuple[Floats, ...]

    @classmethod
    def from_block(
        cls, scores: Sequence[Floats], codes: Codes | None = None, sizes: Codes | None = None
    ) -> OuterSums:
        """Of a block of people.

        Parameters
        ----------
        scores : sequence of ndarray, shapes (N, J)
        codes : ndarray of int, shape (N,), optional
            Cluster of each person, -1 for a person of their own; without it all are.
        sizes : ndarray of int, shape (clusters,), optional
            People of each cluster in all blocks together.
        """
        if codes is None or sizes is None or (codes < 0).all():
            none = np.zeros(0, dtype=np.int64)
            totals = tuple(s.T @ s for s in scores)
            return cls(totals, none, none, tuple(np.zeros((0, s.shape[1])) for s in scores))
        alone = codes < 0
        totals = tuple(s[alone].T @ s[alone] for s in scores)
        order = np.argsort(codes, kind="stable")[int(alone.sum()) :]
        sums = cls._grouped(codes[order], np.ones(len(order), np.int64), [s[order] for s in scores])
        return cls._closed(totals, *sums, sizes)

    def combine(self, other: OuterSums, sizes: Codes | None = None) -> OuterSums:
        """Of the people of both; ``sizes`` as for ``from_block``."""
        totals = tuple(a + b for a, b in zip(self.totals, other.totals, strict=True))
        if sizes is None:
            return OuterSums(totals, self.open_code, self.open_count, self.open_sums)
        code = np.concatenate([self.open_code, other.open_code])
        order = np.argsort(code, kind="stable")
        count = np.concatenate([self.open_count, other.open_count])[order]
        pairs = zip(self.open_sums, other.open_sums, strict=True)
        sums = [np.concatenate(pair)[order] for pair in pairs]
        return self._closed(totals, *self._grouped(code[order], count, sums), sizes)

    @staticmethod
    def _grouped(
        code: Codes, count: Codes, values: list[Floats]
    ) -> tuple[Codes, Codes, list[Floats]]:
        """Sums of runs of equal codes."""
        if not len(code):
            return code, count, values
        first = np.flatnonzero(np.r_[True, code[1:] != code[:-1]])
        sums = [np.add.reduceat(v, first, axis=0) for v in values]
        return code[first], np.add.reduceat(count, first), sums

    @classmethod
    def _closed(
        cls,
        totals: tuple[Floats, ...],
        code: Codes,
        count: Codes,
        sums: list[Floats],
        sizes: Codes,
    ) -> OuterSums:
        """Move clusters whose people have all been seen to the totals."""
        complete = count == sizes[code]
        done = [s[complete] for s in sums]
        totals = tuple(t + s.T @ s for t, s in zip(totals, done, strict=True))
        rest = ~complete
        return cls(totals, code[rest], count[rest], tuple(s[rest] for s in sums))


def canonical_rows(
    rows: Floats, basis: Basis, weights: Floats | None = None
) -> tuple[Floats, Floats, Floats]:
    """Rows in canonical coordinates.

    Returns
    -------
    instruments : ndarray, shape (N, L)
        ``Z'Z = I``.
    covariates : ndarray, shape (N, R + 1)
        ``W'W = I``; the last is the constant, if there is an intercept.
    traits : ndarray, shape (N, P + 1)
        [X | y], covariates partialled out.

    Notes
    -----
    All are multiplied by the square root of the weight: sums of products are then those of a
    weighted regression.
    """
    centred = rows - basis.origin
    root = None if weights is None else np.sqrt(weights)
    if root is not None:
        centred *= root[:, None]
    maps = np.concatenate([basis.instruments, basis.covariates, basis.traits], axis=1)
    m, k = basis.instruments.shape[1], basis.covariates.shape[1]
    z, w, r = np.split(centred @ maps, [m, m + k], axis=1)
    if basis.has_intercept:
        one = np.ones(len(rows)) if root is None else root
        w = np.column_stack([w, one / basis.weight**0.5])
    return z, w, r


def iv_scores(
    z: Floats, w: Floats, r: Floats, reduced: Reduced, residual_weights: Floats
) -> tuple[Floats, Floats, Floats]:
    """Scores of a block of people for a k-class fit and for weak-instrument inference.

    Parameters
    ----------
    z, w, r : ndarray
        Of :func:`canonical_rows`.
    reduced : Reduced
        Without instruments (L = 0) for OLS, whose exposures stand for themselves.
    residual_weights : ndarray, shape (P + 1,)
        ``(-b, 1)``.

    Returns
    -------
    parameters : ndarray, shape (N, P + R)
        ``u_i`` times [projected exposures | whitened covariates]; to be mapped by
        :func:`mrscale.stats.kclass.parameter_map`. One column more with an intercept.
    traits : ndarray, shape (N, (P + 1) L)
        ``z_i r_ic``, r = [X | y]; index c runs slower.
    residuals : ndarray, shape (N, (P + 1) L)
        The same for what the instruments leave of r.
    """
    fitted = z @ np.column_stack([reduced.zx, reduced.zy])
    projected = fitted[:, :-1] if reduced.num_instruments else r[:, :-1]
    u = r @ residual_weights
    parameters = np.column_stack([projected, w]) * u[:, None]
    return parameters, trait_scores(z, r), trait_scores(z, r - fitted)


def meats(sums: OuterSums, reduced: Reduced, num_groups: int) -> Meats:
    """The sums of :func:`iv_scores` as :class:`Meats`."""
    p = reduced.num_exposures
    traits, reduced_form = (_by_traits(total, reduced) for total in sums.totals[1:3])
    return Meats(traits, num_groups, reduced_form[:p, :p], reduced_form)


def trait_meats(total: Floats, reduced: Reduced, num_groups: int) -> TraitMeats:
    """The sums of :func:`trait_scores` as :class:`TraitMeats`."""
    return TraitMeats(_by_traits(total, reduced), num_groups)


def _by_traits(total: Floats, reduced: Reduced) -> Floats:
    n, p = reduced.num_instruments, reduced.num_exposures
    return total.reshape(p + 1, n, p + 1, n).transpose(0, 2, 1, 3)


def trait_scores(z: Floats, r: Floats) -> Floats:
    """Products of every instrument with every column, shape (N, columns * L); the index of columns
    runs slower."""
    return np.asarray(np.einsum("nc,nl->ncl", r, z).reshape(len(z), r.shape[1] * z.shape[1]))
