"""Moments of many pairs of an exposure and an outcome, each over the people who have both.

Pairs that use the same people (a pattern of missingness, see :mod:`mrscale.stats.patterns`) share
one :class:`Crosses`.

Legend: N people, M instruments, K covariates, C = M + K design columns [Z | W], P exposures,
Q outcomes, T = P + Q traits [X | Y].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mrscale.stats.moments import Floats, Moments, centre
from mrscale.stats.patterns import Labels, first_pairs, members, refine

Index = NDArray[np.intp]

_CANCELLED = 1e-4
"""Share of a column's variance in a block; a difference that leaves less has lost digits."""


@dataclass(frozen=True, eq=False)
class Crosses:
    """What estimates of many pairs need of their people: a commutative monoid, as Moments is.

    Attributes
    ----------
    exposures, outcomes : ndarray of int, shapes (P,) and (Q,)
        Which of all exposures and outcomes these are.
    count : int
        People N.
    design_mean, trait_mean : ndarray, shapes (C,) and (T,)
    design : ndarray, shape (C, C)
        Centred cross-product of [Z | W].
    traits : ndarray, shape (C, T)
        Centred cross-product of [Z | W] with [X | Y].
    squares : ndarray, shape (T,)
        Centred sums of squares of the traits.
    pairs : ndarray, shape (P, Q), or None
        Centred ``X'Y``: for homoskedastic errors only.
    """

    exposures: Index
    outcomes: Index
    count: int
    design_mean: Floats
    trait_mean: Floats
    design: Floats
    traits: Floats
    squares: Floats
    pairs: Floats | None

    @classmethod
    def from_moments(cls, moments: Moments, num_traits: int) -> Crosses:
        """Of moments of [Z | W | T], all T traits as outcomes."""
        c, cross = len(moments.mean) - num_traits, moments.cross
        return cls(
            exposures=np.zeros(0, dtype=np.intp),
            outcomes=np.arange(num_traits),
            count=moments.count,
            design_mean=moments.mean[:c],
            trait_mean=moments.mean[c:],
            design=cross[:c, :c],
            traits=cross[:c, c:],
            squares=np.diag(cross)[c:],
            pairs=None,
        )

    def combine(self, other: Crosses) -> Crosses:
        """Of the people of both; the formula is that of ``Moments.combine``."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        share, factor = other.count / count, self.count * other.count / count
        g, t = other.design_mean - self.design_mean, other.trait_mean - self.trait_mean
        pairs, p = None, len(self.exposures)
        if self.pairs is not None and other.pairs is not None:
            pairs = self.pairs + other.pairs + np.outer(t[:p], t[p:] * factor)
        return replace(
            self,
            count=count,
            design_mean=self.design_mean + g * share,
            trait_mean=self.trait_mean + t * share,
            design=self.design + other.design + np.outer(g, g * factor),
            traits=self.traits + other.traits + np.outer(g, t * factor),
            squares=self.squares + other.squares + t * t * factor,
            pairs=pairs,
        )

    def select(self, exposures: Index, outcomes: Index) -> Crosses:
        """Of some of the exposures and outcomes, named by their numbers among all."""
        p, q = np.searchsorted(self.exposures, exposures), np.searchsorted(self.outcomes, outcomes)
        if len(p) == len(self.exposures) and len(q) == len(self.outcomes):
            return self
        columns = np.r_[p, len(self.exposures) + q]
        return replace(
            self,
            exposures=exposures,
            outcomes=outcomes,
            trait_mean=self.trait_mean[columns],
            traits=self.traits[:, columns],
            squares=self.squares[columns],
            pairs=None if self.pairs is None else self.pairs[np.ix_(p, q)],
        )


@dataclass(frozen=True, eq=False)
class PairMoments:
    """Labels of all pairs by the people they use, shape (P, Q), and the moments of each label."""

    labels: Labels
    crosses: tuple[Crosses, ...]

    @classmethod
    def from_block(
        cls,
        design: Floats,
        exposures: Floats,
        outcomes: Floats,
        labels: Labels,
        *,
        classical: bool,
    ) -> PairMoments:
        """Of a block of people.

        Parameters
        ----------
        design : ndarray, shape (N, C)
            [Z | W], complete.
        exposures, outcomes : ndarray, shapes (N, P) and (N, Q)
            NaN is missing.
        labels : ndarray of int, shape (P, Q)
            Of :func:`mrscale.stats.patterns.pattern_labels` for these people.
        classical : bool
            Keep ``X'Y`` too.

        Notes
        -----
        The cross-product of the design is computed once; a pattern takes away that of the people
        it leaves out, or adds up its own people where these are fewer. What is left costs one
        product of the design with the pattern's traits: the cost is per distinct pattern.
        """
        has_x, has_y = np.isfinite(exposures), np.isfinite(outcomes)
        origin, centred = centre(design) if len(design) else (np.zeros(design.shape[1]), design)
        whole = centred.T @ centred
        found = []
        for (p, q), (one_p, one_q) in zip(members(labels), first_pairs(labels), strict=True):
            keep = has_x[:, one_p] & has_y[:, one_q]
            traits = np.concatenate([exposures[:, p], outcomes[:, q]], axis=1)
            part = _cross(centred, whole, traits, keep, len(p), classical=classical)
            found.append(
                replace(part, exposures=p, outcomes=q, design_mean=origin + part.design_mean)
            )
        return cls(labels, tuple(found))

    def combine(self, other: PairMoments) -> PairMoments:
        """Of the people of both: labels are refined until pairs share them in both."""
        labels, sources = refine(self.labels, other.labels)
        crosses = [
            self.crosses[i].select(p, q).combine(other.crosses[j].select(p, q))
            for (i, j), (p, q) in zip(sources, members(labels), strict=True)
        ]
        return PairMoments(labels, tuple(crosses))


def _cross(
    centred: Floats,
    whole: Floats,
    traits: Floats,
    keep: NDArray[np.bool_],
    p: int,
    *,
    classical: bool,
) -> Crosses:
    """Moments of the people in ``keep``, the mean of the design relative to its block's."""
    count = int(keep.sum())
    mean, design, shift = np.zeros(traits.shape[1]), whole, np.zeros(len(whole))
    if 0 < count == len(keep):
        mean, traits = centre(traits)
    else:
        of_some, traits = traits[keep], np.zeros_like(traits)
        if count:
            mean, traits[keep] = centre(of_some)
        design, shift = _design_of(centred, whole, keep)
    none = np.zeros(0, dtype=np.intp)
    return Crosses(
        exposures=none,
        outcomes=none,
        count=count,
        design_mean=shift,
        trait_mean=mean,
        design=design,
        traits=centred.T @ traits,
        squares=np.einsum("nt,nt->t", traits, traits),
        pairs=traits[:, :p].T @ traits[:, p:] if classical else None,
    )


def _design_of(centred: Floats, whole: Floats, keep: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Cross-product of the design, and its mean, over some people of a block."""
    count = int(keep.sum())
    if not count:
        return np.zeros_like(whole), np.zeros(len(whole))
    if 2 * count >= len(keep):
        gone = centred[~keep]
        # the sum over everyone is zero
        total = -gone.sum(axis=0)
        design = whole - gone.T @ gone - np.outer(total, total / count)
        if (np.diag(design) >= _CANCELLED * np.diag(whole)).all():
            return design, total / count
    mean, rows = centre(centred[keep])
    return rows.T @ rows, mean
