"""From a design's canonical form to estimates and their covariance, estimator by estimator.

Legend: N people, L instruments, P exposures, R covariates kept, K = P + R + intercept parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import linalg

from mrscale.disclosure import show_count
from mrscale.stats.gmm import (
    ClassicalMeat,
    GMMFit,
    continuously_updated,
    score_rows,
    slope_rows,
    two_step,
)
from mrscale.stats.jive import (
    FirstStage,
    LeaveOutFit,
    LeaveOutRows,
    LeaveOutSums,
    leave_out_block,
    leave_out_fit,
    leave_out_scores,
)
from mrscale.stats.kclass import (
    KClass,
    KClassName,
    all_parameters,
    fit_kclass,
    kappa_of,
    normal_matrix,
    parameter_map,
)
from mrscale.stats.moments import Floats, Moments
from mrscale.stats.reduced import Basis, Meats, Reduced
from mrscale.stats.scores import canonical_rows, iv_scores, meats
from mrscale.stats.specification import (
    ControlFunction,
    TestResult,
    anderson_rubin_overidentification,
    hansen_j,
    sargan,
    wooldridge,
    wu_hausman,
)
from mrscale.workflow.iv_data import Data, Scores

Errors = Literal["classical", "robust", "cluster"]
_NO_INSTRUMENTS = "OLS uses no instruments"
_UNTESTED = (
    TestResult.not_applicable("Overidentification", _NO_INSTRUMENTS),
    TestResult.not_applicable("Endogeneity", _NO_INSTRUMENTS),
)


@dataclass(frozen=True, eq=False)
class Fit:
    """What every estimator gives.

    Attributes
    ----------
    params : ndarray, shape (K,)
        Exposures, kept covariates, intercept.
    cov : ndarray, shape (K, K)
        Asymptotic, not scaled for small samples.
    residual_ss : float
    kappa : float
        NaN unless k-class.
    meats : Meats or None
        None for OLS.
    overidentification, endogeneity : TestResult
    more : tuple of ndarray
        Sums of products of the problem's further scores.
    num_alone : int
        People left out because nobody is like them.
    notes : tuple of str
        What a reader needs to know.
    """

    params: Floats
    cov: Floats
    residual_ss: float
    kappa: float = math.nan
    meats: Meats | None = None
    overidentification: TestResult = _UNTESTED[0]
    endogeneity: TestResult = _UNTESTED[1]
    more: tuple[Floats, ...] = ()
    num_alone: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Problem:
    """A design after its first pass.

    Attributes
    ----------
    data : Data
    moments : Moments
    reduced : Reduced
    basis : Basis
    errors : str
    more : callable, optional
        Further scores of design rows, to be summed in the same pass as those of the fit.
    """

    data: Data
    moments: Moments
    reduced: Reduced
    basis: Basis
    errors: Errors
    more: Scores | None = None

    def k_class(self, estimator: KClassName) -> Fit:
        """OLS, 2SLS, LIML or Fuller, with one more pass for its errors."""
        reduced, basis = self.reduced, self.basis
        fit = fit_kclass(reduced, kappa_of(estimator, reduced))
        control = ControlFunction.of(reduced) if estimator != "ols" else None
        more = self.more

        def scores(rows: Floats, weights: Floats | None) -> list[Floats]:
            z, w, r = canonical_rows(rows, basis, weights)
            found = list(iv_scores(z, w, r, reduced, fit.residual_weights))
            if control is not None:
                found.append(control.scores(z, r, reduced.zx))
            return [*found, *(more(rows, weights) if more else ())]

        sums = self.data.outer_sums(scores)
        to = parameter_map(basis, fit.bread)
        middle = self._classical(fit) if self.errors == "classical" else sums.totals[0]
        found = Fit(
            params=all_parameters(basis, fit.estimate),
            cov=to @ middle @ to.T,
            residual_ss=fit.residual_ss,
            kappa=fit.kappa,
            more=sums.totals[3 if control is None else 4 :],
        )
        if control is None:
            return found
        found_meats = meats(sums, reduced, self.num_groups)
        return replace(
            found,
            meats=found_meats,
            overidentification=self._overidentification(estimator, found_meats),
            endogeneity=self._endogeneity(control, sums.totals[3]),
        )

    def _overidentification(self, estimator: KClassName, found: Meats) -> TestResult:
        if self.errors != "classical":
            return hansen_j(self.reduced, found)
        test = sargan if estimator == "2sls" else anderson_rubin_overidentification
        return test(self.reduced)

    def _endogeneity(self, control: ControlFunction, meat: Floats) -> TestResult:
        return wu_hausman(self.reduced) if self.errors == "classical" else wooldridge(control, meat)

    def gmm(self, *, continuous: bool) -> Fit:
        """Two-step GMM, or CUE started from it and from LIML."""
        start = self.k_class("2sls")
        ar, rr, ry = self._canonical
        aa = np.eye(len(ar))
        ry = np.append(ry, np.zeros(len(rr) - len(ry)))
        ay = np.append(self.reduced.zy, np.zeros(len(ar) - self.reduced.num_instruments))
        count = self.moments.count
        classical = ClassicalMeat(aa, rr, ry, self.reduced.yy, count)
        known = self.errors == "classical"
        meat = classical.meat if known else self._meat
        if continuous:
            slope = classical.slope if known else self._slope
            liml = fit_kclass(self.reduced, kappa_of("liml", self.reduced)).estimate
            starts = [np.append(liml, np.zeros(len(rr) - len(liml)))]
            fit = continuously_updated(aa, ar, ay, count, meat, slope, starts=starts)
        else:
            fit = two_step(aa, ar, ay, count, meat)
        to = parameter_map(self.basis, np.eye(self.reduced.num_exposures))
        t = fit.params
        return Fit(
            params=self._original(t),
            cov=to @ fit.cov @ to.T,
            residual_ss=float(self.reduced.yy - 2 * t @ ry + t @ rr @ t),
            meats=start.meats,
            overidentification=_hansen(fit),
            endogeneity=start.endogeneity,
            more=start.more,
            notes=() if fit.converged else (_NOT_CONVERGED,),
        )

    def jive(self, *, unbiased: bool) -> Fit:
        """JIVE1 or UJIVE, with one pass more for its sums and one for its errors."""
        start = self.k_class("2sls")
        basis = self.basis
        ar, _, _ = self._canonical
        p, n = self.reduced.num_exposures, self.reduced.num_instruments
        controls = np.zeros((len(ar) - n, p))
        first = FirstStage(ar[:, :p], controls if unbiased else None)

        def block(rows: Floats, weights: Floats | None) -> LeaveOutSums:
            return leave_out_block(first, _leave_out_rows(rows, weights, basis))

        fit = leave_out_fit(self.data.sums(block, LeaveOutSums.combine))

        def scores(rows: Floats, weights: Floats | None) -> tuple[Floats]:
            return (leave_out_scores(first, fit, _leave_out_rows(rows, weights, basis)),)

        known = self.errors == "classical"
        cov = fit.classical_cov if known else self.data.outer_sums(scores).totals[0]
        to = parameter_map(basis, np.eye(p))
        return Fit(
            params=self._original(fit.params),
            cov=to @ cov @ to.T,
            residual_ss=fit.residual_ss,
            meats=start.meats,
            overidentification=start.overidentification,
            endogeneity=start.endogeneity,
            more=start.more,
            num_alone=fit.num_alone,
            notes=_left_out(fit),
        )

    @property
    def _canonical(self) -> tuple[Floats, Floats, Floats]:
        """``A'R``, ``R'R`` and ``X'y`` for A = [Z | W | 1] orthonormal and R = [X | W | 1], X and
        y with the covariates partialled out."""
        rest = np.eye(self.basis.num_parameters - self.reduced.num_exposures)
        ar = linalg.block_diag(self.reduced.zx, rest)
        return ar, linalg.block_diag(self.reduced.xx, rest), self.reduced.xy

    def _original(self, theta: Floats) -> Floats:
        """Parameters of the columns as given, from those of canonical columns."""
        p = self.reduced.num_exposures
        to = parameter_map(self.basis, np.eye(p))
        return np.asarray(all_parameters(self.basis, np.zeros(p)) + to @ theta)

    def _meat(self, theta: Floats) -> Floats:
        basis = self.basis

        def scores(rows: Floats, weights: Floats | None) -> tuple[Floats]:
            a, _, residual = _moment_rows(rows, weights, basis, theta)
            return (score_rows(a, residual),)

        return self.data.outer_sums(scores).totals[0]

    def _slope(self, theta: Floats, multiplier: Floats) -> Floats:
        basis = self.basis

        def scores(rows: Floats, weights: Floats | None) -> tuple[Floats]:
            return (slope_rows(*_moment_rows(rows, weights, basis, theta), multiplier),)

        return self.data.outer_sums(scores).totals[0][0, 1:]

    @property
    def num_groups(self) -> int:
        """Clusters, or people."""
        return self.data.num_clusters or self.moments.count

    def _classical(self, fit: KClass) -> Floats:
        """Variance of the scores of equal, independent residuals: ``u'u / N`` times their sum of
        squares."""
        rest = self.basis.num_parameters - len(fit.bread)
        squares = linalg.block_diag(normal_matrix(self.reduced, fit.kappa), np.eye(rest))
        return np.asarray(fit.residual_ss / self.moments.count * squares)


def _moment_rows(
    rows: Floats, weights: Floats | None, basis: Basis, theta: Floats
) -> tuple[Floats, Floats, Floats]:
    """Instruments A, regressors R and residuals of a block of people."""
    z, w, r = canonical_rows(rows, basis, weights)
    regressors = np.column_stack([r[:, :-1], w])
    return np.column_stack([z, w]), regressors, r[:, -1] - regressors @ theta


def _leave_out_rows(rows: Floats, weights: Floats | None, basis: Basis) -> LeaveOutRows:
    z, w, r = canonical_rows(rows, basis, weights)
    return LeaveOutRows(np.column_stack([z, w]), r[:, :-1], w, r[:, -1])


_NOT_CONVERGED = (
    "the optimiser stopped before a minimum of the criterion; instruments this weak give no "
    "estimate to trust, read the Anderson-Rubin set instead"
)


def _hansen(fit: GMMFit) -> TestResult:
    if not fit.j_dof:
        return TestResult.not_applicable("Hansen J", "no more instruments than exposures")
    return TestResult.chi_square("Hansen J", fit.j_statistic, fit.j_dof)


def _left_out(fit: LeaveOutFit) -> tuple[str, ...]:
    if not fit.num_alone:
        return ()
    return (
        f"{show_count(fit.num_alone)} people with leverage one (each the only one with some value "
        "of the instruments) have no prediction from others and were left out; num_obs counts them",
    )
