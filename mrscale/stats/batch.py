"""Two-stage least squares for all pairs of P exposures and Q outcomes at once, from moments.

Every pair has one exposure; all share the covariates W and an intercept, and each exposure has
its own set of the instruments Z.

Legend: N people, M instruments, K covariates, C = M + K design columns [Z | W], P exposures,
Q outcomes, T = P + Q traits [X | Y], L instruments of one exposure after rank reduction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrscale.stats.crosses import Crosses, Index
from mrscale.stats.identification import UNRELATED_SHARE
from mrscale.stats.linalg import RANK_TOLERANCE, independent, whitening
from mrscale.stats.moments import Floats

NOTES = (
    "",
    "no one has both traits",
    "too few people for the instruments and covariates",
    "the exposure does not vary once the covariates are accounted for",
    "the outcome does not vary once the covariates are accounted for",
    "no instrument varies once the covariates are accounted for",
    "the instruments explain nothing of the exposure",
    "the instruments determine the exposure: there is no confounding to correct",
    "fewer than two clusters",
    "the exposure explains all but rounding of the outcome, so there is no standard error",
)
"""Why a pair has no estimate, or no standard error; the first says that it has both."""
(
    NOBODY,
    TOO_FEW,
    FIXED_EXPOSURE,
    FIXED_OUTCOME,
    NO_INSTRUMENT,
    UNRELATED,
    DETERMINED,
    ONE_CLUSTER,
    EXACT,
) = range(1, len(NOTES))
CANCELLED = 1e-12
"""Share of its terms that rounding may be of what is left when they cancel."""
_ROUNDING = 1e-13
"""Relative spread that rounding leaves of a constant column."""


@dataclass(frozen=True, eq=False)
class BatchFit:
    """2SLS of every pair of one pattern.

    Attributes
    ----------
    crosses : Crosses
        What it was fitted from.
    estimate : ndarray, shape (P, Q)
        NaN where ``note`` says why.
    explained, first_stage_f : ndarray, shape (P,)
        Sum of squares of the projected exposure, and the classical F of its instruments.
    num_instruments : ndarray of int, shape (P,)
        L of each exposure.
    num_controls : int
        Rank of the covariates and the intercept.
    note : ndarray of int8, shape (P, Q)
        Index into ``NOTES``.
    to_projected : ndarray, shape (C, P)
        Centred design rows times this are the projected exposures, covariates partialled out.
    to_expected : ndarray, shape (C, T)
        Centred design rows times this are the traits as expected from the covariates.
    residual_ss : ndarray, shape (P, Q), or None
        ``u'u`` where the crosses hold ``X'Y``; NaN where rounding is all of it.
    """

    crosses: Crosses
    estimate: Floats
    explained: Floats
    first_stage_f: Floats
    num_instruments: NDArray[np.int64]
    num_controls: int
    note: NDArray[np.int8]
    to_projected: Floats
    to_expected: Floats
    residual_ss: Floats | None

    @property
    def count(self) -> int:
        """People N."""
        return self.crosses.count

    @property
    def num_parameters(self) -> int:
        """Of the second stage: the exposure, the covariates and the intercept."""
        return self.num_controls + 1

    def partialled(
        self, design: Floats, exposures: Floats, outcomes: Floats, keep: NDArray[np.bool_]
    ) -> tuple[Floats, Floats, Floats]:
        """Projected exposures, exposures and outcomes of a block, covariates partialled out.

        Parameters
        ----------
        design : ndarray, shape (N, C)
        exposures, outcomes : ndarray, shapes (N, all exposures) and (N, all outcomes)
            NaN is missing.
        keep : ndarray of bool, shape (N,)
            People of the pattern; the others get zero.

        Returns
        -------
        ndarray, shapes (N, P), (N, P) and (N, Q)
        """
        one, p = self.crosses, len(self.crosses.exposures)
        centred = design - one.design_mean
        d = centred @ self.to_projected
        covariates = centred[:, len(centred.T) - len(self.to_expected) :]
        expected = covariates @ self.to_expected + one.trait_mean
        x = _columns(exposures, one.exposures) - expected[:, :p]
        y = _columns(outcomes, one.outcomes) - expected[:, p:]
        if not keep.all():
            d[~keep], x[~keep], y[~keep] = 0, 0, 0
        return d, x, y


def fit_pairs(crosses: Crosses, num_instruments: int, sets: Sequence[Index]) -> BatchFit:
    """2SLS of every exposure on every outcome of one pattern.

    Parameters
    ----------
    crosses : Crosses
    num_instruments : int
        M, the number of leading design columns that are instruments.
    sets : sequence of ndarray of int
        Instruments of each of all exposures.

    Returns
    -------
    BatchFit

    Notes
    -----
    With everything partialled on W, ``pi_p = (Z_p'Z_p)^+ Z_p'x_p`` (zero for instruments outside
    p's set) and ``b_pq = pi_p'Z'y_q / pi_p'Z'x_p``: one product for all pairs. Rank tolerances
    are those of :func:`mrscale.stats.reduced.reduce_design`.
    """
    m, p = num_instruments, len(crosses.exposures)
    own = [sets[e] for e in crosses.exposures]
    left = partial_out(crosses, m)
    pi, instruments = _first_stage(left, own)
    explained = np.einsum("mp,mp->p", pi, left.zt[:, :p])
    note = _notes(left, crosses.count, np.array([len(s) for s in own]), instruments, explained)
    dof = crosses.count - left.num_controls - instruments
    unexplained = np.maximum(left.squares[:p] - explained, np.finfo(np.float64).tiny)
    usable = (note == 0).any(axis=1)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        estimate = np.where(note == 0, pi.T @ left.zt[:, p:] / explained[:, None], np.nan)
        f = np.where(usable, explained / instruments / (unexplained / dof), np.nan)
    residual_ss = None
    if left.pairs is not None:
        x, y = left.squares[:p, None], left.squares[p:]
        residual_ss = y - 2 * estimate * left.pairs + estimate**2 * x
        residual_ss[residual_ss <= CANCELLED * (y + estimate**2 * x)] = np.nan
    return BatchFit(
        crosses=crosses,
        estimate=estimate,
        explained=explained,
        first_stage_f=f,
        num_instruments=instruments,
        num_controls=left.num_controls,
        note=note,
        to_projected=np.concatenate([pi, -left.on_covariates[:, :m] @ pi]),
        to_expected=left.on_covariates[:, m:],
        residual_ss=residual_ss,
    )


@dataclass(frozen=True, eq=False)
class Left:
    """What the covariates leave of [Z | X | Y].

    Attributes
    ----------
    zz, zt : ndarray, shapes (M, M) and (M, T)
        Cross-products of the instruments, and of them with the traits.
    squares : ndarray, shape (T,)
        Sums of squares of the traits; zero for what the covariates explain.
    pairs : ndarray, shape (P, Q), or None
        ``X'Y``.
    on_covariates : ndarray, shape (K, M + T)
        Regression coefficients of [Z | X | Y] on W.
    num_controls : int
        Rank of the covariates and the intercept.
    """

    zz: Floats
    zt: Floats
    squares: Floats
    pairs: Floats | None
    on_covariates: Floats
    num_controls: int


def partial_out(crosses: Crosses, num_instruments: int) -> Left:
    """Remove the covariates from instruments and traits; as ``reduce_design`` does for one pair."""
    m, p = num_instruments, len(crosses.exposures)
    size = crosses.count * (_ROUNDING * crosses.design_mean) ** 2
    g = np.where(np.diag(crosses.design) > size, 1.0, 0.0)
    design = crosses.design * g * g[:, None]
    ww, w_rest = design[m:, m:], np.concatenate([design[m:, :m], crosses.traits[m:]], axis=1)
    kept = independent(ww)
    root, rank = whitening(ww[np.ix_(kept, kept)], 0.0)
    on_w = np.zeros_like(w_rest)
    on_w[kept] = root @ (root.T @ w_rest[kept])
    zz = design[:m, :m] - w_rest[:, :m].T @ on_w[:, :m]
    zt = crosses.traits[:m] - w_rest[:, :m].T @ on_w[:, m:]
    squares = crosses.squares - np.einsum("kt,kt->t", w_rest[:, m:], on_w[:, m:])
    z_gone = np.diag(zz) <= RANK_TOLERANCE * np.diag(design)[:m]
    zz[z_gone], zz[:, z_gone], zt[z_gone] = 0, 0, 0
    constant = crosses.squares <= crosses.count * (_ROUNDING * crosses.trait_mean) ** 2
    squares[constant | (squares <= RANK_TOLERANCE * crosses.squares)] = 0
    pairs = crosses.pairs
    if pairs is not None:
        pairs = pairs - w_rest[:, m : m + p].T @ on_w[:, m + p :]
    return Left(zz, zt, squares, pairs, on_w, rank + 1)


def _columns(table: Floats, chosen: Index) -> Floats:
    """Some columns of a table, in order; the table itself where they are all."""
    return table if len(chosen) == table.shape[1] else table[:, chosen]


def _first_stage(left: Left, own: list[Index]) -> tuple[Floats, NDArray[np.int64]]:
    """First-stage coefficients (M, P) and ranks (P,); exposures of one set share its root."""
    pi = np.zeros((len(left.zz), len(own)))
    rank = np.zeros(len(own), dtype=np.int64)
    groups: dict[bytes, list[int]] = {}
    for i, used in enumerate(own):
        groups.setdefault(used.tobytes(), []).append(i)
    for group in map(np.array, groups.values()):
        used = own[group[0]]
        root, rank[group] = whitening(left.zz[np.ix_(used, used)])
        pi[np.ix_(used, group)] = root @ (root.T @ left.zt[np.ix_(used, group)])
    return pi, rank


def _notes(
    left: Left,
    count: int,
    given: NDArray[np.int64],
    rank: NDArray[np.int64],
    explained: Floats,
) -> NDArray[np.int8]:
    """Why pairs have no estimate; the conditions of ``require_estimable``, first come first."""
    p = len(given)
    x, y = left.squares[:p], left.squares[p:]
    note = np.zeros((p, len(y)), dtype=np.int8)
    note[x - explained <= RANK_TOLERANCE * x] = DETERMINED
    note[explained <= UNRELATED_SHARE * x] = UNRELATED
    note[rank == 0] = NO_INSTRUMENT
    note[:, y <= 0] = FIXED_OUTCOME
    note[x <= 0] = FIXED_EXPOSURE
    note[count <= given + left.num_controls + 1] = TOO_FEW
    if not count:
        note[:] = NOBODY
    return note
