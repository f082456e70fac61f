"""One exposure, one outcome, from moments: the fit that every block of people can be held against.

Legend: N people, C design columns. Columns of a design are [Z | W | x | y]: instruments,
covariates, exposure, outcome. An intercept is always included by centring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mrscale.stats.first_stage import classical_f
from mrscale.stats.identification import require_estimable
from mrscale.stats.kclass import Influence, fit_kclass
from mrscale.stats.moments import Floats, Moments
from mrscale.stats.reduced import Basis, Columns, Reduced, reduce_design
from mrscale.stats.scores import canonical_rows, trait_scores


@dataclass(frozen=True, eq=False)
class LinearIV:
    """A fitted two-stage least squares (or OLS) regression.

    Attributes
    ----------
    estimate : float
        Effect of the exposure on the outcome.
    influences : Influence
        How each person moves it.
    first_stage_f : float
        Classical F of the excluded instruments; NaN for OLS.
    num_instruments : int
        Rank of the partialled instruments.
    reduced : Reduced
    basis : Basis
        From centred design rows to the canonical form.
    """

    estimate: float
    influences: Influence
    first_stage_f: float
    num_instruments: int
    reduced: Reduced
    basis: Basis

    def influence(self, rows: Floats) -> Floats:
        """Influence value of each person on the estimate, shape (N,).

        The sum of their squares is the heteroskedasticity-robust (HC0) variance.
        """
        return self.influences.of_rows(rows)[:, 0]

    def scores(self, rows: Floats) -> Floats:
        """Instruments times residual of each person, shape (N, L); their outer products are what
        Hansen's J weighs."""
        centred = rows - self.influences.origin
        return np.asarray(
            (centred @ self.basis.instruments) * (centred @ self.influences.residual)[:, None]
        )

    def trait_scores(self, rows: Floats) -> Floats:
        """Instruments times exposure and times outcome of each person, shape (N, 2 L), covariates
        partialled out; of :func:`mrscale.stats.scores.trait_scores`."""
        z, _, r = canonical_rows(rows, self.basis)
        return trait_scores(z, r)


def two_stage_least_squares(moments: Moments, num_instruments: int) -> LinearIV:
    """Two-stage least squares from the moments of a design [Z | W | x | y].

    Parameters
    ----------
    moments : Moments
        Of the design's columns; the last two are exposure and outcome.
    num_instruments : int
        The number of leading columns that are excluded instruments.

    Returns
    -------
    LinearIV

    Raises
    ------
    InputError
        If people are too few for the columns, or nothing is left of the exposure or of the
        instruments once covariates are partialled out.
    """
    reduced, basis = reduced_pair(moments, num_instruments)
    return _fit(reduced, basis, 1.0, float(classical_f(reduced)[0]))


def ordinary_least_squares(moments: Moments) -> LinearIV:
    """OLS of outcome on exposure and covariates from the moments of a design [W | x | y]."""
    reduced, basis = reduced_pair(moments, 0)
    return _fit(reduced, basis, 0.0, math.nan)


def reduced_pair(moments: Moments, num_instruments: int) -> tuple[Reduced, Basis]:
    """The canonical form of one exposure and outcome, refused if it has no unique estimate."""
    columns = Columns(num_instruments, len(moments.mean) - 2 - num_instruments, 1)
    reduced, basis = reduce_design(moments, columns)
    require_estimable(moments, reduced, columns, ["exposure"], instrumented=bool(num_instruments))
    return reduced, basis


def _fit(reduced: Reduced, basis: Basis, kappa: float, first_stage_f: float) -> LinearIV:
    fit = fit_kclass(reduced, kappa)
    influences = Influence.of(fit, reduced, basis)
    return LinearIV(
        float(fit.estimate[0]),
        influences,
        first_stage_f,
        reduced.num_instruments,
        reduced,
        basis,
    )
