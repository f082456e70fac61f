"""Jackknife instrumental variables: a person's exposures predicted from everybody else.

With many instruments, first-stage fits follow the people they were fitted to, and 2SLS leans
towards OLS. JIVE predicts the exposures of each person from a first stage without that person,
which takes no more than the leverage: a first pass gives the first stage, a second the
:class:`LeaveOutSums` of blocks, a third, for robust errors, the scores.

Legend: N people, J dimension of [Z | W | 1], C of the controls [W | 1], P exposures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from mrscale.stats.moments import Floats

LEVERAGE_TOLERANCE = 1e-8
"""A person whose leverage is this close to one has no prediction from the others."""


@dataclass(frozen=True, eq=False)
class FirstStage:
    """Regression of the exposures on orthonormal columns, over all people.

    Attributes
    ----------
    on_basis : ndarray, shape (J, P)
        ``Q'X`` for the basis Q of [Z | W | 1], ``Q'Q = I``.
    on_controls : ndarray, shape (C, P), optional
        ``C'X`` for the basis C of [W | 1], ``C'C = I``: makes it UJIVE, JIVE1 without.
    """

    on_basis: Floats
    on_controls: Floats | None = None


@dataclass(frozen=True, eq=False)
class LeaveOutRows:
    """A block of people.

    Attributes
    ----------
    basis : ndarray, shape (N, J)
        Rows of the orthonormal basis of [Z | W | 1].
    exposures : ndarray, shape (N, P)
    controls : ndarray, shape (N, C)
        Rows of a basis of [W | 1]; for UJIVE an orthonormal one.
    outcome : ndarray, shape (N,)
    """

    basis: Floats
    exposures: Floats
    controls: Floats
    outcome: Floats


@dataclass(frozen=True, eq=False)
class LeaveOutSums:
    """Sums over people; ``combine`` adds them.

    Attributes
    ----------
    cross : ndarray, shape (2 P + C + 1, 2 P + C + 1)
        Cross-products of [instruments | exposures | controls | outcome].
    num_exposures : int
        P.
    count : int
        People in the sums.
    num_alone : int
        People left out because their leverage is one.
    """

    cross: Floats
    num_exposures: int
    count: int
    num_alone: int

    def combine(self, other: LeaveOutSums) -> LeaveOutSums:
        """Sums over the people of both."""
        return LeaveOutSums(
            self.cross + other.cross,
            self.num_exposures,
            self.count + other.count,
            self.num_alone + other.num_alone,
        )


@dataclass(frozen=True, eq=False)
class LeaveOutFit:
    """A fitted JIVE or UJIVE.

    Attributes
    ----------
    params : ndarray, shape (P + C,)
        Effects of the exposures, then coefficients of the controls.
    classical_cov : ndarray, shape (P + C, P + C)
        Homoskedastic covariance, error variance with divisor N. Robust and clustered ones are
        sums of outer products of :func:`leave_out_scores`.
    to_params : ndarray, shape (P + C, P + C)
        From sums of ``[instruments | controls]' u`` to errors of the parameters.
    residual_ss : float
        ``u'u``.
    count, num_alone : int
        People used, and people with leverage one, who are not.
    """

    params: Floats
    classical_cov: Floats
    to_params: Floats
    residual_ss: float
    count: int
    num_alone: int


def leave_out_instruments(first: FirstStage, rows: LeaveOutRows) -> Floats:
    """Instruments that do not contain a person's own exposures, shape (N, P).

    Returns
    -------
    ndarray, shape (N, P)
        Of JIVE1 the prediction from everybody else, ``x_i - e_i / (1 - h_i)`` with leverage h
        and residual e of the first stage; of UJIVE the same less the prediction from the controls
        alone. NaN for a person whose leverage is one.

    References
    ----------
    Angrist, Imbens and Krueger (1999), *Journal of Applied Econometrics* 14 (JIVE1). Kolesár
    (2013), "Estimation in an instrumental variables model with treatment effect heterogeneity":
    ``(I - D_Q)^-1 (H_Q - D_Q) X - (I - D_W)^-1 (H_W - D_W) X`` (UJIVE).
    """
    predicted = _predicted_from_others(rows.basis, rows.exposures, first.on_basis)
    if first.on_controls is None:
        return predicted
    return predicted - _predicted_from_others(rows.controls, rows.exposures, first.on_controls)


def leave_out_block(first: FirstStage, rows: LeaveOutRows) -> LeaveOutSums:
    """Sums of a block of people.

    People with leverage one, such as the only carrier of a variant that is an instrument, have no
    prediction from others: they are left out of all sums and counted. JIVE1 is then exactly the
    estimate without them; UJIVE's controls were still fitted with them, so leave them out before.
    """
    instruments = leave_out_instruments(first, rows)
    columns = np.column_stack([instruments, rows.exposures, rows.controls, rows.outcome])
    used = columns[~np.isnan(instruments).any(axis=1)]
    num_alone = len(columns) - len(used)
    return LeaveOutSums(used.T @ used, instruments.shape[1], len(used), num_alone)


def leave_out_fit(sums: LeaveOutSums, *, partial_out: bool = True) -> LeaveOutFit:
    """Estimates and classical errors from the sums over all people.

    Parameters
    ----------
    sums : LeaveOutSums
    partial_out : bool, default True
        Whether the controls are instruments for themselves, as in 2SLS: the effects are then those
        of columns with the controls partialled out. False is UJIVE to the letter of Kolesár
        (2013), as in Stata ``manyiv`` and R ``jive``: ``(I'X)^-1 I'y`` for the instruments I and
        columns as they are, which depends on the origin of y.

    Returns
    -------
    LeaveOutFit

    Notes
    -----
    ``theta = ([I | C]'[X | C])^-1 [I | C]'y``; with B this inverse, the classical covariance is
    ``u'u / N B [I | C]'[I | C] B'`` and the robust one ``B sum_i [I | C]_i'[I | C]_i u_i^2 B'``.
    These hold for a fixed number of instruments; with many weak ones they are too small
    (Chao et al., 2012, *Econometric Theory* 28).
    """
    p, s = sums.num_exposures, sums.cross
    k = len(s) - p - 1
    instruments, regressors = np.r_[0:p, 2 * p : p + k], np.arange(p, p + k)
    left, right = s[np.ix_(instruments, regressors)], s[instruments, -1]
    if not partial_out:
        left[:p, p:] = 0
    rows = 1 / np.sqrt(np.diag(s)[instruments])
    columns = 1 / np.sqrt(np.diag(s)[regressors])
    inverse = linalg.inv(rows[:, None] * left * columns)
    to_params = columns[:, None] * inverse * rows
    params = to_params @ right
    weights = np.append(-params, 1.0)
    rss = float(weights @ s[p:, p:] @ weights)
    meat = s[np.ix_(instruments, instruments)]
    cov = rss / sums.count * to_params @ meat @ to_params.T
    return LeaveOutFit(params, cov, to_params, rss, sums.count, sums.num_alone)


def leave_out_scores(first: FirstStage, fit: LeaveOutFit, rows: LeaveOutRows) -> Floats:
    """Each person's share in the error of the parameters, shape (N, P + C).

    The sum of their outer products is the HC0 covariance; the sum of the outer products of their
    sums over clusters the clustered one. Zero for people whose leverage is one.
    """
    instruments = leave_out_instruments(first, rows)
    p = instruments.shape[1]
    effects, controls = fit.params[:p], fit.params[p:]
    residual = rows.outcome - rows.exposures @ effects - rows.controls @ controls
    scores = np.column_stack([instruments, rows.controls]) * residual[:, None]
    scores[np.isnan(scores).any(axis=1)] = 0
    return np.asarray(scores @ fit.to_params.T)


def _predicted_from_others(basis: Floats, exposures: Floats, coefficients: Floats) -> Floats:
    """Fitted values of a regression on orthonormal columns without each person's own row."""
    left = 1 - np.einsum("nj,nj->n", basis, basis)
    left = np.where(left > LEVERAGE_TOLERANCE, left, np.nan)
    return np.asarray(exposures - (exposures - basis @ coefficients) / left[:, None])
