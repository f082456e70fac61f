"""Front ends for genotypes: principal components, an exposure-guided score, binomial factors.

    python tests/calibration/front_ends.py --work run/front_ends --write docs/calibration.md

Finished data sets in the work folder are kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from scipy import special

sys.path.insert(0, str(Path(__file__).parent / "designs"))
from front import PCA_BY_RULE, Comparison, Front, People, components

from mrscale.stats.moments import Floats

NEWTON_STEPS = 15
ITERATIONS = 150
PENALTIES = np.logspace(-2, 2, 17)
"""Of the ridge regression, relative to the number of people."""


def with_score(people: People) -> list[Floats]:
    """Principal components by the rule, and a ridge regression of the exposure on dosages."""
    plain = components(people, people.by_rule)
    return [
        np.c_[scores, people.x @ ridge(people.x[rows], people.exposure[rows])]
        for scores, rows in zip(plain, people.rows, strict=True)
    ]


def ridge(x: Floats, y: Floats) -> Floats:
    """Weights (M,) of dosages in the ridge regression on standardised ones; the penalty has the
    least generalised cross-validation error of ``PENALTIES`` (Golub, Heath and Wahba 1979,
    *Technometrics* 21)."""
    spread = x.std(0)
    spread[spread == 0] = np.inf
    left, values, right = np.linalg.svd((x - x.mean(0)) / spread, full_matrices=False)
    centred = y - y.mean()
    along = left.T @ centred
    shrunk = values**2 / (values**2 + len(y) * PENALTIES[:, None])
    unexplained = centred @ centred - (along**2 * (2 * shrunk - shrunk**2)).sum(1)
    best = np.argmin(unexplained / (1 - shrunk.sum(1) / len(y)) ** 2)
    return right.T @ (shrunk[best] * along / np.maximum(values, 1e-9)) / spread


def binomial_factors(people: People) -> list[Floats]:
    """Factors of x_ij ~ Binomial(2, sigmoid(a_j + f_i'l_j)), as many as components by the rule."""
    found = []
    for start, rows in zip(components(people, people.by_rule), people.rows, strict=True):
        intercept, loadings = fit_factors(people.x[rows], start[rows])
        found.append(factor_scores(people.x, intercept, loadings))
    return found


def fit_factors(x: Floats, start: Floats) -> tuple[Floats, Floats]:
    """Intercepts (M,) and loadings (p, M) of the greatest posterior density, jointly with the
    factors; these and the loadings are N(0, 1)."""
    counts = torch.tensor(x, dtype=torch.float32)
    factors = torch.tensor(start, dtype=torch.float32, requires_grad=True)
    loadings = torch.zeros(start.shape[1], x.shape[1], requires_grad=True)
    intercept = torch.logit(counts.mean(0) / 2, eps=1e-3).requires_grad_()
    unknown = [factors, loadings, intercept]
    solver = torch.optim.LBFGS(unknown, max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        logit = intercept + factors @ loadings
        fit = 2 * torch.nn.functional.softplus(logit) - counts * logit
        value = fit.sum() + (factors.square().sum() + loadings.square().sum()) / 2
        value.backward()
        return value

    solver.step(loss)
    return tuple(a.detach().double().numpy() for a in (intercept, loadings))


def factor_scores(x: Floats, intercept: Floats, loadings: Floats) -> Floats:
    """Factors (N, p) of the greatest posterior density given the loadings, by Newton's method."""
    p, num_variants = loadings.shape
    squares = np.einsum("pm,qm->mpq", loadings, loadings).reshape(num_variants, p * p)
    factors = np.zeros((len(x), p))
    for _ in range(NEWTON_STEPS):
        share = special.expit(intercept + factors @ loadings)
        gradient = (x - 2 * share) @ loadings.T - factors
        curvature = (2 * share * (1 - share)) @ squares
        hessian = curvature.reshape(-1, p, p) + np.eye(p)
        factors += np.linalg.solve(hessian, gradient[..., None])[..., 0]
    return factors


FRONTS = (
    PCA_BY_RULE,
    Front("PCA and first-stage score", with_score, guided=True),
    Front("binomial factors", binomial_factors),
)
COMPARISON = Comparison(
    part="front ends for genotypes",
    designs={
        "factor": ({"mixing": "factor"}, FRONTS),
        "factor, linked": ({"mixing": "factor", "linkage": 0.8}, FRONTS),
        "mendelian": ({"mixing": "mendelian"}, FRONTS),
        "mendelian, linked": ({"mixing": "mendelian", "linkage": 0.8}, FRONTS),
    },
    num_components=4,
    introduction="""INTRO {sets} {machine} {hours:.1f}""",
    conclusion="""CONCLUSION""",
)


if __name__ == "__main__":
    COMPARISON.main()
