"""k-class estimators: OLS, 2SLS, LIML and Fuller, from the canonical form.

Legend: N people, L instruments, P exposures, K parameters (exposures, covariates, intercept).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import linalg

from mrscale.stats.linalg import standardised
from mrscale.stats.moments import Floats
from mrscale.stats.reduced import Basis, Reduced

KClassName = Literal["ols", "2sls", "liml", "fuller"]


@dataclass(frozen=True, eq=False)
class KClass:
    """A fitted k-class estimator.

    Attributes
    ----------
    kappa : float
        0 for OLS, 1 for 2SLS.
    estimate : ndarray, shape (P,)
        Effects of the exposures.
    bread : ndarray, shape (P, P)
        Inverse of ``(1 - kappa) X'X + kappa X'PX``.
    residual_ss : float
        ``u'u`` for ``u = y - X b``.
    """

    kappa: float
    estimate: Floats
    bread: Floats
    residual_ss: float

    @property
    def residual_weights(self) -> Floats:
        """Weights of [X | y] in the residual, shape (P + 1,)."""
        return np.append(-self.estimate, 1.0)


def liml_kappa(reduced: Reduced) -> float:
    """Least ratio ``u'u / u'Mu`` over all b, M the residual maker of Z.

    Anderson and Rubin (1949); Davidson and MacKinnon (1993), section 18.5.
    """
    return 1 + float(characteristic_roots(reduced)[0])


def characteristic_roots(reduced: Reduced) -> Floats:
    """Eigenvalues of ``(r'Mr)^-1 r'Pr`` in increasing order, shape (P + 1,).

    The smallest is the least Anderson-Rubin ratio ``u'Pu / u'Mu`` over all b, at the LIML
    estimate; one more than it is LIML's kappa.
    """
    scaled, scale = standardised(reduced.total)
    zr = np.column_stack([reduced.zx, reduced.zy]) * scale
    # squared canonical correlations: shares of r'r, so well defined where r'Mr is singular
    share = np.clip(linalg.eigh(zr.T @ zr, scaled, eigvals_only=True), 0, 1)
    with np.errstate(divide="ignore"):  # what the instruments determine has an infinite ratio
        return np.asarray(share / (1 - share))


def kappa_of(estimator: KClassName, reduced: Reduced, fuller: float = 1.0) -> float:
    """The k of an estimator; Fuller's is LIML's less ``fuller / (N - L - controls)``."""
    if estimator == "ols":
        return 0.0
    if estimator == "2sls":
        return 1.0
    kappa = liml_kappa(reduced)
    return kappa if estimator == "liml" else kappa - fuller / reduced.dof


def normal_matrix(reduced: Reduced, kappa: float) -> Floats:
    """``(1 - k) X'X + k X'PX``, shape (P, P), with ``X'PX = (Z'X)'(Z'X)``."""
    return np.asarray((1 - kappa) * reduced.xx + kappa * reduced.zx.T @ reduced.zx)


def fit_kclass(reduced: Reduced, kappa: float) -> KClass:
    """Solve the k-class normal equations.

    Notes
    -----
    ``b = ((1 - k) X'X + k X'PX)^-1 ((1 - k) X'y + k X'Py)``.
    Theil (1958); Davidson and MacKinnon (1993), section 18.5.
    """
    left = normal_matrix(reduced, kappa)
    right = (1 - kappa) * reduced.xy + kappa * reduced.zx.T @ reduced.zy
    scale = 1 / np.sqrt(np.diag(reduced.xx))
    inverse = linalg.inv(left * np.outer(scale, scale), check_finite=False)
    bread = inverse * np.outer(scale, scale)
    b = bread @ right
    rss = reduced.yy - 2 * b @ reduced.xy + b @ reduced.xx @ b
    return KClass(kappa, b, (bread + bread.T) / 2, float(rss))


@dataclass(frozen=True, eq=False)
class Influence:
    """How each person moves the effects of a k-class fit.

    Attributes
    ----------
    origin : ndarray, shape (C,)
        Column means to centre design rows [Z | W | X | y] with.
    exposures : ndarray, shape (C, P)
        To the projected exposures, covariates partialled out.
    residual : ndarray, shape (C,)
        To the structural residual.
    bread : ndarray, shape (P, P)
    """

    origin: Floats
    exposures: Floats
    residual: Floats
    bread: Floats

    @classmethod
    def of(cls, fit: KClass, reduced: Reduced, basis: Basis) -> Influence:
        """Of a fit, for rows of the same design."""
        z = reduced.num_instruments and fit.kappa
        exposures = basis.instruments @ reduced.zx if z else basis.traits[:, :-1]
        return cls(basis.origin, exposures, basis.traits @ fit.residual_weights, fit.bread)

    def of_rows(self, rows: Floats) -> Floats:
        """Influence values of a block of people, shape (N, P).

        Notes
        -----
        ``psi_i = bread d_i u_i`` with projected exposures d and residual u; the sum of their outer
        products is the heteroskedasticity-robust (HC0) covariance of the effects.
        """
        centred = rows - self.origin
        scores = (centred @ self.exposures) * (centred @ self.residual)[:, None]
        return np.asarray(scores @ self.bread)


def parameter_map(basis: Basis, bread: Floats) -> Floats:
    """From scores to estimation errors of all parameters, shape (K, P + R + 1).

    Scores are, in this order, those of the projected exposures, of the whitened covariates and,
    with an intercept, of ``1 / sqrt(weight)`` (the sum of its squares is then one); parameters are
    the exposures, the kept covariates and the intercept. Applied to the score variance on both
    sides it gives the covariance.
    """
    p, r, c = len(bread), len(basis.kept_covariates), int(basis.has_intercept)
    to = np.zeros((p + r + c, p + r + c))
    to[:p, :p] = bread
    to[p : p + r, p : p + r] = basis.covariate_root
    to[p : p + r] -= basis.on_covariates[:, :p] @ to[:p]
    if c:
        to[-1, -1] = basis.weight**-0.5
        to[-1] -= basis.regressor_means @ to[:-1]
    return to


def all_parameters(basis: Basis, estimate: Floats) -> Floats:
    """Exposures' effects, the kept covariates' and the intercept, shape (K,).

    Given the exposures' effects b, covariates and intercept are the regression of ``y - X b``.
    """
    p = len(estimate)
    covariates = basis.on_covariates[:, p] - basis.on_covariates[:, :p] @ estimate
    found = np.concatenate([estimate, covariates])
    if not basis.has_intercept:
        return found
    return np.append(found, basis.origin[-1] - basis.regressor_means @ found)
