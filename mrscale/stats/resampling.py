"""Leave one out, by block of people or by instrument, without refitting from the data.

Legend: N people, M instruments, L instruments after rank reduction, P exposures, G blocks,
C design columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mrscale.stats.linalg import RANK_TOLERANCE
from mrscale.stats.moments import Floats, Moments
from mrscale.stats.reduced import Basis, Meats, Reduced

T = TypeVar("T")

REDUNDANT = 1e-12
"""An instrument with more than this (squared) share in a collinearity is spanned by the others."""


def leave_each_out(parts: Sequence[T], combine: Callable[[T, T], T]) -> list[T]:
    """Combine all parts but one, for each of at least two parts in turn.

    Notes
    -----
    Heads and tails are accumulated once, so that G parts take 3 G combinations and nothing is
    ever subtracted: no digits are lost when a part is most of the whole.
    """
    heads = list(accumulate(parts[:-1], combine))
    tails = list(accumulate(reversed(parts[1:]), lambda tail, part: combine(part, tail)))[::-1]
    inner = [combine(head, tail) for head, tail in zip(heads, tails[1:], strict=False)]
    return [tails[0], *inner, heads[-1]]


@dataclass(frozen=True, eq=False)
class Jackknife:
    """A delete-block jackknife.

    Attributes
    ----------
    estimate, bias_corrected : ndarray, shape (P,)
        From all blocks, and less the jackknife's estimate of its bias.
    cov : ndarray, shape (P, P)
        Covariance of the estimate.
    left_out : ndarray, shape (G, P)
        Estimates without each block.
    """

    estimate: Floats
    bias_corrected: Floats
    cov: Floats
    left_out: Floats

    @property
    def std_error(self) -> Floats:
        """Shape (P,)."""
        return np.sqrt(np.diag(self.cov))


def jackknife(estimate: Floats, left_out: Floats, sizes: Floats) -> Jackknife:
    """Bias and covariance from estimates without each block.

    Parameters
    ----------
    estimate : ndarray, shape (P,)
        From everybody.
    left_out : ndarray, shape (G, P)
        Without each block.
    sizes : ndarray, shape (G,)
        People in each block, or their weight.

    Returns
    -------
    Jackknife

    Notes
    -----
    Blocks may differ in size (Busing, Meijer and van der Leeden, 1999, *Statistics and
    Computing* 9): with ``h_g = n / n_g`` and pseudo-values ``h_g b - (h_g - 1) b_(-g)``, the
    corrected estimate is their mean weighted by ``1 / h_g`` and the covariance is
    ``mean_g (pseudo_g - corrected)^2 / (h_g - 1)``. Equal blocks give the classical delete-a-block
    jackknife (Quenouille 1956; Tukey 1958).

    Warnings
    --------
    Blocks must be independent: relatives belong to one block.
    """
    h = (sizes.sum() / sizes)[:, None]
    pseudo = h * estimate - (h - 1) * left_out
    corrected = np.sum(pseudo / h, axis=0)
    spread = (pseudo - corrected) / np.sqrt(h - 1)
    return Jackknife(estimate, corrected, spread.T @ spread / len(h), left_out)


def block_jackknife(blocks: Sequence[Moments], estimate: Callable[[Moments], Floats]) -> Jackknife:
    """Delete-block jackknife of any function of moments.

    Parameters
    ----------
    blocks : sequence of Moments
        Of disjoint, independent blocks of people; at least two.
    estimate : callable
        From moments to estimates, shape (P,).

    Returns
    -------
    Jackknife
    """
    left_out = leave_each_out(blocks, Moments.combine)
    full = left_out[0].combine(blocks[0])
    sizes = np.array([block.weight for block in blocks])
    return jackknife(estimate(full), np.array([estimate(one) for one in left_out]), sizes)


@dataclass(frozen=True, eq=False)
class LeftOutInstruments:
    """Two-stage least squares without each instrument.

    Attributes
    ----------
    estimate, std_error : ndarray, shape (M, P)
        NaN where the others do not identify every exposure.
    redundant : ndarray of bool, shape (M,)
        Instruments that the others span: without them nothing changes.
    """

    estimate: Floats
    std_error: Floats
    redundant: NDArray[np.bool_]

    @property
    def identified(self) -> NDArray[np.bool_]:
        """Whether the other instruments identify the exposures, shape (M,)."""
        return np.asarray(np.isfinite(self.estimate).all(axis=1))


def instrument_directions(moments: Moments, basis: Basis) -> Floats:
    """What each instrument alone adds to the others, in canonical coordinates.

    Parameters
    ----------
    moments : Moments
        Of a design [Z | W | X | y].
    basis : Basis
        Of the same moments.

    Returns
    -------
    ndarray, shape (L, M), float64
        Unit vectors; zero for an instrument that the others span.

    Notes
    -----
    With R the map from instruments to their canonical form (``R R' = (Z'Z)^+``), ``Z (Z'Z)^+ e_j``
    is the only direction in the span of Z that is orthogonal to every other instrument; in
    canonical coordinates it is row j of R. The others span instrument j if ``Z v = 0`` for some v
    with ``v_j != 0``, that is if row j of an orthonormal basis of the range of ``Z'Z`` (of the
    standardised instruments) is shorter than 1.
    """
    m = basis.columns.num_instruments
    root = basis.instruments[:m]
    s = moments.cross if basis.has_intercept else moments.about_zero
    size = np.linalg.norm(s[:m] @ basis.instruments, axis=1)
    retained = np.sum(np.linalg.qr(root * size[:, None])[0] ** 2, axis=1)
    norm = np.where(1 - retained <= REDUNDANT, np.linalg.norm(root, axis=1), np.inf)
    return (root / norm[:, None]).T


def leave_one_instrument_out(
    reduced: Reduced, directions: Floats, meats: Meats | None = None
) -> LeftOutInstruments:
    """Two-stage least squares without each instrument in turn, by a rank-one downdate.

    Parameters
    ----------
    reduced : Reduced
    directions : ndarray, shape (L, M)
        From :func:`instrument_directions`.
    meats : Meats, optional
        For robust or clustered errors; classical ones without.

    Returns
    -------
    LeftOutInstruments

    Notes
    -----
    Without instrument j the projection on the instruments is ``P - q_j q_j'`` with q_j its
    direction, so ``X'PX`` and ``X'Py`` lose ``(X'q)(q'X)`` and ``(X'q)(q'y)``: exact, and O(L P)
    each. Errors are asymptotic: the classical residual variance has divisor N, robust and
    clustered ones no correction.
    """
    x, y = directions.T @ reduced.zx, directions.T @ reduced.zy
    left = reduced.zx.T @ reduced.zx - x[:, :, None] * x[:, None, :]
    right = reduced.zx.T @ reduced.zy - x * y[:, None]
    bread = _inverses(left, np.diag(reduced.xx))
    b = np.einsum("mpq,mq->mp", bread, right)
    if meats is None:
        rss = reduced.yy - 2 * b @ reduced.xy + np.einsum("mp,pq,mq->m", b, reduced.xx, b)
        cov = bread * (rss / reduced.count)[:, None, None]
    else:
        zx = reduced.zx - directions.T[:, :, None] * x[:, None, :]
        cov = bread @ _meat(zx, b, meats) @ bread
    std_error = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    return LeftOutInstruments(b, std_error, np.asarray(~directions.any(axis=0)))


def _inverses(matrices: Floats, size: Floats) -> Floats:
    """Inverses of (M, P, P) matrices; NaN where one is singular relative to ``size`` (P,)."""
    scale = 1 / np.sqrt(np.outer(size, size))
    values, vectors = np.linalg.eigh(matrices * scale)
    values = np.where(values > RANK_TOLERANCE, values, np.nan)
    inverse = (vectors / values[:, None, :]) @ vectors.transpose(0, 2, 1)
    return np.asarray(inverse * scale)


def _meat(zx: Floats, b: Floats, meats: Meats) -> Floats:
    """``zx_j' S(b_j) zx_j`` for zx of shape (M, L, P), S the meat of ``Z'u``; shape (M, P, P)."""
    weights = np.column_stack([-b, np.ones(len(b))])
    total = np.zeros((len(b), zx.shape[2], zx.shape[2]))
    for c, row in enumerate(meats.traits):
        for d, meat in enumerate(row):
            block = np.einsum("mlp,mlq->mpq", zx, np.einsum("lk,mkq->mlq", meat, zx, optimize=True))
            total += (weights[:, c] * weights[:, d])[:, None, None] * block
    return total
