"""Generalised method of moments for linear IV: two-step and continuously updated.

The moment conditions are ``sum_i a_i u_i = 0`` for ``a = [z | w | 1]`` and ``u = y - r theta``,
``r = [x | w | 1]``. Cross-products give everything but their covariance, which takes one pass
over people per value of theta: the caller does the pass, the rows to sum are written here.

Legend: N people, J moment conditions, R parameters (exposures, covariates, intercept).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize

from mrscale.errors import InputError
from mrscale.stats.linalg import standardised
from mrscale.stats.moments import Floats

Meat = Callable[[Floats], Floats]
"""``theta -> sum_g s_g s_g'``, (J, J), for sums ``s_g`` of the :func:`score_rows` of group g."""
Slope = Callable[[Floats, Floats], Floats]
"""``(theta, multiplier) -> (R,)``: see :func:`slope_rows`."""

SINGULAR = 1e-12
"""A moment of whose variance the others leave less than this share is a combination of them."""
GRADIENT_TOLERANCE = 1e-6
"""Largest slope of the criterion at a minimum; parameters are then as close, in standard errors."""


@dataclass(frozen=True, eq=False)
class GMMFit:
    """A fitted GMM estimator.

    Attributes
    ----------
    params : ndarray, shape (R,)
        In the order of the regressors.
    cov : ndarray, shape (R, R)
        Their sandwich covariance, from the meat at ``params``.
    weight : ndarray, shape (J, J)
        Weight matrix, the inverse of the covariance of one person's moment conditions.
    j_statistic : float
        Hansen's J with this weight.
    j_dof : int
        J - R.
    iterations : int
        Estimates of theta (two), or iterations of the optimiser.
    evaluations : int
        Passes over the data.
    converged : bool
        Whether the optimiser reached a minimum.
    """

    params: Floats
    cov: Floats
    weight: Floats
    j_statistic: float
    j_dof: int
    iterations: int
    evaluations: int
    converged: bool = True


def score_rows(a: Floats, residual: Floats) -> Floats:
    """Scores of a block of people, ``a_i u_i``: shapes (N, J) and (N,) to (N, J)."""
    return np.asarray(a * residual[:, None])


def slope_rows(a: Floats, regressors: Floats, residual: Floats, multiplier: Floats) -> Floats:
    """Rows of a block of people that give how the meat changes with theta, shape (N, 1 + R).

    Notes
    -----
    With ``m_i = a_i' multiplier`` the rows are ``m_i [u_i | r_i]``. Their outer products are
    summed as those of scores, over people or over sums of clusters; the first row of the total,
    less its first element, is ``slope = -1/2 d(multiplier' meat multiplier) / d theta``.
    """
    return np.asarray((a @ multiplier)[:, None] * np.column_stack([residual, regressors]))


@dataclass(frozen=True, eq=False)
class ClassicalMeat:
    """Meat and slope of homoskedastic errors: cross-products suffice, no pass over the data.

    Attributes
    ----------
    aa, rr, ry : ndarray, shapes (J, J), (R, R), (R,)
    yy : float
    count : int

    Notes
    -----
    ``meat = u'u / N A'A``; the continuously updated estimate is then LIML. (linearmodels takes
    the variance of u in place of its mean square: the same in a model with an intercept.)
    """

    aa: Floats
    rr: Floats
    ry: Floats
    yy: float
    count: int

    def meat(self, theta: Floats) -> Floats:
        """``u'u / N A'A``, shape (J, J)."""
        residual_ss = self.yy - 2 * theta @ self.ry + theta @ self.rr @ theta
        return np.asarray(residual_ss / self.count * self.aa)

    def slope(self, theta: Floats, multiplier: Floats) -> Floats:
        """As :func:`slope_rows` would give, shape (R,)."""
        gain = multiplier @ self.aa @ multiplier / self.count
        return np.asarray(gain * (self.ry - self.rr @ theta))


def two_step(aa: Floats, ar: Floats, ay: Floats, count: int, meat: Meat) -> GMMFit:
    """Efficient two-step GMM: 2SLS, then the inverse of its moments' covariance as weight.

    Parameters
    ----------
    aa, ar, ay : ndarray, shapes (J, J), (J, R), (J,)
        Cross-products ``A'A``, ``A'R`` and ``A'y``, not centred. A has full rank, best an
        orthonormal basis; estimates do not depend on the basis.
    count : int
        People N.
    meat : callable
        Robust, clustered, or :class:`ClassicalMeat`'s.

    Returns
    -------
    GMMFit
        From two passes over the data.

    Raises
    ------
    InputError
        If the covariance of the moment conditions is singular.

    Notes
    -----
    ``theta = (R'A S^-1 A'R)^-1 R'A S^-1 A'y`` and ``J = m' S^-1 m`` for ``m = A'u`` and S the
    meat at the 2SLS estimate. The covariance is the sandwich ``H meat(theta) H'`` with
    ``H = (R'A S^-1 A'R)^-1 R'A S^-1``, which stays right whatever S is. Hansen (1982),
    *Econometrica* 50; Wooldridge (2010), section 8.3.
    """
    problem = _Problem(ar, ay, count)
    first = problem.solve(aa).params
    step = problem.solve(meat(first))
    return problem.result(step.params, step, meat(step.params), iterations=2, evaluations=2)


def continuously_updated(
    aa: Floats,
    ar: Floats,
    ay: Floats,
    count: int,
    meat: Meat,
    slope: Slope,
    *,
    starts: Sequence[Floats] = (),
) -> GMMFit:
    """Continuously updated GMM (CUE): the weight follows theta.

    Parameters
    ----------
    aa, ar, ay, count, meat
        As for :func:`two_step`.
    slope : callable
        The criterion's gradient for one more pass; see :func:`slope_rows`.
    starts : sequence of ndarray, shapes (R,)
        Where to descend from besides the two-step estimate. Give LIML: with weak instruments
        there may be several minima, and the two-step estimate may lead to the wrong one.

    Returns
    -------
    GMMFit
        At the lowest minimum found.

    Raises
    ------
    InputError
        If the covariance of the moment conditions is singular.

    Notes
    -----
    Minimises ``J(theta) = m(theta)' S(theta)^-1 m(theta)`` by BFGS with exact gradients. There
    must be more groups than moment conditions, or J is constant. The covariance is the sandwich
    of :func:`two_step`. Hansen, Heaton and Yaron (1996), *J. Bus. Econ. Stat.* 14.
    """
    problem = _Problem(ar, ay, count)
    first = problem.solve(aa).params
    step = problem.solve(meat(first))
    all_starts = [step.params, *starts]
    descents = [_descend(problem, meat, slope, start, step.root) for start in all_starts]
    params, found = min(descents, key=lambda one: float(one[1].fun))
    outer = meat(params)
    return problem.result(
        params,
        problem.solve(outer),
        outer,
        iterations=int(found.nit),
        evaluations=2 + sum(2 * int(one.nfev) for _, one in descents),
        converged=bool(np.abs(found.jac).max() < GRADIENT_TOLERANCE),
    )


def _descend(
    problem: _Problem, meat: Meat, slope: Slope, start: Floats, root: Floats
) -> tuple[Floats, optimize.OptimizeResult]:
    """Minimise the criterion of CUE from ``start``, along ``start + root z``."""

    def half_criterion(z: Floats) -> tuple[float, Floats]:
        theta = start + root @ z
        total = problem.total(theta)
        multiplier = _Factor.of(meat(theta)).solve(total)
        down = slope(theta, multiplier) - problem.ar.T @ multiplier
        return float(total @ multiplier) / 2, root.T @ down

    # z is in standard errors; rounding of the criterion hides smaller steps from a line search
    origin = np.zeros(len(start))
    found = optimize.minimize(
        half_criterion, origin, method="BFGS", jac=True, options={"gtol": 1e-8}
    )
    return start + root @ found.x, found


@dataclass(frozen=True, eq=False)
class _Factor:
    """Cholesky factor of a covariance: ``scale * lower lower' * scale``."""

    lower: Floats
    scale: Floats

    @classmethod
    def of(cls, covariance: Floats) -> _Factor:
        scaled, inverse = standardised(covariance)
        with suppress(linalg.LinAlgError):
            lower = linalg.cholesky(scaled, lower=True)
            if float(np.diag(lower).min()) ** 2 > SINGULAR:
                return cls(lower, 1 / inverse)
        raise InputError(
            "GMM needs more people, and with clustered errors more clusters, than instruments "
            f"and covariates; the {len(covariance)} moment conditions have a singular covariance; "
            "use fewer instruments or covariates, or another estimator"
        )

    def whiten(self, values: Floats) -> Floats:
        """Rows divided by the factor."""
        scaled = (values.T / self.scale).T
        return np.asarray(linalg.solve_triangular(self.lower, scaled, lower=True))

    def solve(self, values: Floats) -> Floats:
        """The covariance's inverse times ``values``."""
        half = linalg.solve_triangular(self.lower, self.whiten(values), lower=True, trans="T")
        return np.asarray((half.T / self.scale).T)


@dataclass(frozen=True, eq=False)
class _Step:
    """Solution for one weight: parameters, ``root root' = (R'A S^-1 A'R)^-1``, H and the factor."""

    params: Floats
    root: Floats
    map: Floats
    factor: _Factor


@dataclass(frozen=True, eq=False)
class _Problem:
    ar: Floats
    ay: Floats
    count: int

    def total(self, theta: Floats) -> Floats:
        """``m = A'u``."""
        return np.asarray(self.ay - self.ar @ theta)

    def solve(self, covariance: Floats) -> _Step:
        """Least squares of ``A'y`` on ``A'R`` in the metric of the covariance."""
        factor = _Factor.of(covariance)
        left = factor.whiten(self.ar)
        scale = 1 / np.linalg.norm(left, axis=0)
        q, r = linalg.qr(left * scale, mode="economic")
        root = scale[:, None] * linalg.solve_triangular(r, np.eye(len(r)))
        to_params = linalg.solve_triangular(factor.lower, q, lower=True, trans="T").T / factor.scale
        return _Step(root @ (q.T @ factor.whiten(self.ay)), root, root @ to_params, factor)

    def result(
        self,
        params: Floats,
        step: _Step,
        meat: Floats,
        *,
        iterations: int,
        evaluations: int,
        converged: bool = True,
    ) -> GMMFit:
        total = self.total(params)
        return GMMFit(
            params=params,
            cov=step.map @ meat @ step.map.T,
            weight=self.count * step.factor.solve(np.eye(len(total))),
            j_statistic=float(total @ step.factor.solve(total)),
            j_dof=len(total) - len(params),
            iterations=iterations,
            evaluations=evaluations,
            converged=converged,
        )
