"""The canonical form of a linear instrumental-variable problem.

Covariates and the intercept are partialled out of everything, and the instruments are rotated and
scaled so that ``Z'Z = I``, collinear directions dropped. Every classical estimator, test and set
is a short function of what is left. Robust and clustered ones need the meats as well.

Legend: N people, L instruments after rank reduction, P exposures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrscale.stats.linalg import RANK_TOLERANCE, independent, whitening
from mrscale.stats.moments import Floats, Moments


@dataclass(frozen=True, eq=False)
class Reduced:
    """Cross-products of [Z | X | y] with covariates partialled out and ``Z'Z = I``.

    Attributes
    ----------
    count : int
        People N.
    num_controls : int
        Rank of the covariates and the intercept.
    zx : ndarray, shape (L, P)
        ``Z'X``; also the first-stage coefficients.
    zy : ndarray, shape (L,)
        ``Z'y``.
    xx, xy, yy : ndarray of shape (P, P), ndarray of shape (P,), float
        Cross-products of what the covariates leave of exposures and outcome.
    """

    count: int
    num_controls: int
    zx: Floats
    zy: Floats
    xx: Floats
    xy: Floats
    yy: float

    @property
    def num_instruments(self) -> int:
        """L, the rank of the instruments given the covariates."""
        return len(self.zx)

    @property
    def num_exposures(self) -> int:
        """P."""
        return len(self.xx)

    @property
    def total(self) -> Floats:
        """``r'r`` for r = [X | y], shape (P + 1, P + 1)."""
        xy = self.xy[:, None]
        return np.block([[self.xx, xy], [xy.T, np.array([[self.yy]])]])

    @property
    def dof(self) -> int:
        """Residual degrees of freedom of the first stage, N - controls - L."""
        return self.count - self.num_controls - self.num_instruments


@dataclass(frozen=True, eq=False)
class TraitMeats:
    """Sums over people, or over clusters of their sums, of what instruments and traits share.

    Attributes
    ----------
    traits : ndarray, shape (P + 1, P + 1, L, L)
        ``sum_g (sum_{i in g} z_i r_ic) (sum_{i in g} z_i r_id)'`` for r = [X | y], covariates
        partialled out; each person is a group g of their own unless errors are clustered. The
        meat of ``Z'u`` for u = y - X b is ``sum_cd w_c w_d traits[c, d]`` with w = (-b, 1).
    num_groups : int
        Clusters, or people.
    """

    traits: Floats
    num_groups: int

    def of_residual(self, weights: Floats) -> Floats:
        """Meat of ``Z'u``, shape (L, L), for the residual ``u = [X | y] @ weights``."""
        return np.asarray(np.einsum("c,d,cdij->ij", weights, weights, self.traits))


@dataclass(frozen=True, eq=False)
class Meats(TraitMeats):
    """All such sums that robust inference needs.

    Attributes
    ----------
    first_stage : ndarray, shape (P, P, L, L)
        As ``traits`` for the first-stage residuals ``v = X - Z Z'X``.
    reduced_form : ndarray, shape (P + 1, P + 1, L, L), optional
        As ``first_stage`` for the residuals of [X | y].
    """

    first_stage: Floats
    reduced_form: Floats | None = None


@dataclass(frozen=True)
class Columns:
    """How many columns of each kind a design [Z | W | X | y] has.

    Attributes
    ----------
    num_instruments, num_covariates, num_exposures : int
        Widths of Z, W and X; y is one column.
    """

    num_instruments: int
    num_covariates: int
    num_exposures: int

    @property
    def instruments(self) -> NDArray[np.intp]:
        """Indices of Z."""
        return np.arange(self.num_instruments)

    @property
    def covariates(self) -> NDArray[np.intp]:
        """Indices of W."""
        return self.num_instruments + np.arange(self.num_covariates)

    @property
    def traits(self) -> NDArray[np.intp]:
        """Indices of [X | y]."""
        first = self.num_instruments + self.num_covariates
        return first + np.arange(self.num_exposures + 1)

    @property
    def width(self) -> int:
        """All columns C."""
        return self.num_instruments + self.num_covariates + self.num_exposures + 1


@dataclass(frozen=True, eq=False)
class Basis:
    """The way from rows of a design to the canonical coordinates.

    Each map takes ``row - origin``; C is the width of the design.

    Attributes
    ----------
    columns : Columns
    origin : ndarray, shape (C,)
        Column means; zero without an intercept.
    weight : float
        Sum of people's weights.
    has_intercept : bool
    instruments : ndarray, shape (C, L)
        To instruments with ``Z'Z = I``, covariates partialled out.
    covariates : ndarray, shape (C, R)
        To covariates with ``W'W = I``.
    traits : ndarray, shape (C, P + 1)
        To [X | y], covariates partialled out.
    kept_covariates : ndarray of int, shape (R,)
        Covariates that are no combination of earlier ones.
    covariate_root : ndarray, shape (R, R)
        ``root root' = (W'W)^-1`` of the kept covariates.
    on_covariates : ndarray, shape (R, P + 1)
        Regression coefficients of [X | y] on the kept covariates.
    """

    columns: Columns
    origin: Floats
    weight: float
    has_intercept: bool
    instruments: Floats
    covariates: Floats
    traits: Floats
    kept_covariates: NDArray[np.intp]
    covariate_root: Floats
    on_covariates: Floats

    @property
    def num_parameters(self) -> int:
        """Exposures, kept covariates and the intercept."""
        return self.columns.num_exposures + len(self.kept_covariates) + self.has_intercept

    @property
    def regressor_means(self) -> Floats:
        """Means of the exposures and of the kept covariates, shape (P + R,)."""
        exposures = self.columns.traits[:-1]
        return self.origin[np.r_[exposures, self.columns.covariates[self.kept_covariates]]]


def design_cross(moments: Moments, *, intercept: bool = True) -> Floats:
    """Cross-products of columns with the intercept partialled out, shape (C, C)."""
    if not intercept:
        return moments.about_zero
    varies = ~moments.constant
    return moments.cross * np.outer(varies, varies)


def reduce_design(
    moments: Moments, columns: Columns, *, intercept: bool = True
) -> tuple[Reduced, Basis]:
    """Partial the covariates out of a design [Z | W | X | y] and whiten its instruments.

    Parameters
    ----------
    moments : Moments
        Of the design's columns.
    columns : Columns
    intercept : bool, default True
        Whether the constant is one of the covariates (rows are then centred).

    Returns
    -------
    Reduced
        With as many instruments as are linearly independent given the covariates.
    Basis
        How rows map to it.

    Notes
    -----
    Frisch, Waugh and Lovell: estimates and residuals of a linear model are those of its columns
    with the covariates partialled out. What partialling leaves of a column that the covariates
    explain (less than ``RANK_TOLERANCE`` of its variance) is rounding, and set to zero; so is what
    centring leaves of a column of one value.
    """
    s = design_cross(moments, intercept=intercept)
    z, w, r = columns.instruments, columns.covariates, columns.traits
    kept = independent(s[np.ix_(w, w)])
    w = w[kept]
    root, rank = whitening(s[np.ix_(w, w)], 0.0)
    others = np.r_[z, r]
    on_w = root @ (root.T @ s[np.ix_(w, others)])
    rest = s[np.ix_(others, others)] - s[np.ix_(others, w)] @ on_w
    vanished = np.diag(rest) <= RANK_TOLERANCE * np.diag(s)[others]
    rest[vanished], rest[:, vanished] = 0, 0
    m = columns.num_instruments
    z_root, _ = whitening(rest[:m, :m])
    partial = np.zeros((columns.width, len(others)))
    partial[others, np.arange(len(others))] = 1
    partial[w] = -on_w
    zr, rr = z_root.T @ rest[:m, m:], rest[m:, m:]
    p = columns.num_exposures
    covariates = np.zeros((columns.width, rank))
    covariates[w] = root
    reduced = Reduced(
        count=moments.count,
        num_controls=rank + intercept,
        zx=zr[:, :p],
        zy=zr[:, p],
        xx=rr[:p, :p],
        xy=rr[:p, p],
        yy=float(rr[p, p]),
    )
    basis = Basis(
        columns=columns,
        origin=moments.mean if intercept else np.zeros(columns.width),
        weight=moments.weight,
        has_intercept=intercept,
        instruments=partial[:, :m] @ z_root,
        covariates=covariates,
        traits=partial[:, m:],
        kept_covariates=kept,
        covariate_root=root,
        on_covariates=on_w[:, m:],
    )
    return reduced, basis
