"""Two-step and continuously updated GMM."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import linalg

from mrscale.errors import InputError
from mrscale.stats import gmm

Design = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def design(
    seed: int = 0, num_people: int = 400, num_instruments: int = 5, strength: float = 0.5
) -> Design:
    """Dense A, R, y and clusters: one exposure, a covariate, heteroskedastic in the first z."""
    rng = np.random.default_rng(seed)
    z = rng.binomial(2, 0.3, size=(num_people, num_instruments)).astype(float)
    w = np.column_stack([rng.normal(size=num_people), np.ones(num_people)])
    common = rng.normal(size=num_people)
    x = strength * z @ rng.uniform(0.5, 1, num_instruments) + common + rng.normal(size=num_people)
    u = (common + rng.normal(size=num_people)) * (0.5 + z[:, 0])
    a, r = np.column_stack([z, w]), np.column_stack([x, w])
    return a, r, 0.3 * x + w @ [1.0, 5.0] + u, np.sort(rng.integers(0, num_people // 5, num_people))


def outer(rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
    sums = np.zeros((codes.max() + 1, rows.shape[1]))
    np.add.at(sums, codes, rows)
    return sums.T @ sums


class Passes:
    """Meat and slope of a dense design, and how often they were asked for."""

    def __init__(self, a: np.ndarray, r: np.ndarray, y: np.ndarray, codes: np.ndarray) -> None:
        self.a, self.r, self.y, self.codes = a, r, y, codes
        self.num = 0

    @property
    def products(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        a = self.a
        return a.T @ a, a.T @ self.r, a.T @ self.y, len(a)

    def meat(self, theta: np.ndarray) -> np.ndarray:
        self.num += 1
        return outer(gmm.score_rows(self.a, self.y - self.r @ theta), self.codes)

    def slope(self, theta: np.ndarray, multiplier: np.ndarray) -> np.ndarray:
        self.num += 1
        rows = gmm.slope_rows(self.a, self.r, self.y - self.r @ theta, multiplier)
        return outer(rows, self.codes)[0, 1:]

    def cue(self, **options: object) -> gmm.GMMFit:
        return gmm.continuously_updated(*self.products, self.meat, self.slope, **options)


def passes(grouping: str = "people", **options: float) -> Passes:
    a, r, y, clusters = design(**options)
    return Passes(a, r, y, clusters if grouping == "clusters" else np.arange(len(y)))


def classical(data: Passes) -> gmm.ClassicalMeat:
    a, r, y = data.a, data.r, data.y
    return gmm.ClassicalMeat(a.T @ a, r.T @ r, r.T @ y, float(y @ y), len(y))


@pytest.mark.parametrize("grouping", ["people", "clusters"])
def test_slope_is_the_derivative_of_the_meat(grouping: str) -> None:
    data, rng = passes(grouping), np.random.default_rng(1)
    theta, multiplier = rng.normal(size=3), rng.normal(size=data.a.shape[1])
    for one in [data, classical(data)]:
        difference = [
            multiplier @ (one.meat(theta + step) - one.meat(theta - step)) @ multiplier
            for step in np.eye(3)
        ]
        # the meat is quadratic in theta: a central difference of any step is its derivative
        expected = -np.array(difference) / 4
        assert_allclose(one.slope(theta, multiplier), expected, rtol=1e-10)


def test_two_step_is_the_textbook_formula_and_two_passes() -> None:
    data = passes("clusters")
    aa, ar, ay, count = data.products
    projected = ar.T @ np.linalg.inv(aa)
    weight = np.linalg.inv(data.meat(np.linalg.solve(projected @ ar, projected @ ay)))
    bread = np.linalg.inv(ar.T @ weight @ ar)
    params = bread @ ar.T @ weight @ ay
    sandwich = bread @ ar.T @ weight @ data.meat(params) @ weight @ ar @ bread
    total = ay - ar @ params
    data.num = 0
    fit = gmm.two_step(aa, ar, ay, count, data.meat)
    assert data.num == fit.evaluations == fit.iterations == 2
    assert_allclose(fit.params, params, rtol=1e-9)
    assert_allclose(fit.cov, sandwich, rtol=1e-9)
    assert_allclose(fit.weight, count * weight, rtol=1e-9)
    assert_allclose(fit.j_statistic, total @ weight @ total, rtol=1e-9)
    assert fit.j_dof == 4


def test_just_identified_gmm_is_iv() -> None:
    data = passes(num_instruments=1)
    _, ar, ay, _ = data.products
    for fit in [gmm.two_step(*data.products, data.meat), data.cue()]:
        assert_allclose(fit.params, np.linalg.solve(ar, ay), rtol=1e-9)
        bread = np.linalg.inv(ar)
        assert_allclose(fit.cov, bread @ data.meat(fit.params) @ bread.T, rtol=1e-9)
        assert fit.j_dof == 0
        assert fit.j_statistic < 1e-12


@pytest.mark.parametrize("kind", ["two-step", "cue"])
def test_estimates_do_not_depend_on_the_basis_and_follow_units(kind: str) -> None:
    data, rng = passes("clusters"), np.random.default_rng(2)
    units = np.array([1e3, 1e-2, 1.0])
    other = Passes(
        data.a @ rng.normal(size=(7, 7)), data.r * units, data.y * 4, np.array(data.codes)
    )
    fits = [
        gmm.two_step(*one.products, one.meat) if kind == "two-step" else one.cue()
        for one in [data, other]
    ]
    # an optimiser stops within its tolerance of 1e-8 standard errors
    rtol = 1e-8 if kind == "two-step" else 1e-6
    assert_allclose(fits[1].params * units / 4, fits[0].params, rtol=rtol)
    assert_allclose(fits[1].cov * np.outer(units, units) / 16, fits[0].cov, rtol=rtol)
    assert_allclose(fits[1].j_statistic, fits[0].j_statistic, rtol=1e-8)


def test_blocks_add_up() -> None:
    data = passes()
    theta, multiplier = np.array([0.3, 1.0, 4.0]), np.ones(7)
    halves = [
        Passes(data.a[rows], data.r[rows], data.y[rows], np.arange(200))
        for rows in [slice(0, 200), slice(200, 400)]
    ]
    assert_allclose(sum(h.meat(theta) for h in halves), data.meat(theta), rtol=1e-12)
    slopes = [h.slope(theta, multiplier) for h in halves]
    assert_allclose(sum(slopes), data.slope(theta, multiplier), rtol=1e-12)


@pytest.mark.parametrize("grouping", ["people", "clusters"])
def test_cue_is_at_a_minimum_of_its_criterion(grouping: str) -> None:
    data = passes(grouping)
    fit = data.cue()
    assert fit.converged
    assert fit.evaluations == data.num

    def criterion(theta: np.ndarray) -> float:
        scores = gmm.score_rows(data.a, data.y - data.r @ theta)
        total = scores.sum(0)
        return float(total @ np.linalg.solve(outer(scores, data.codes), total))

    assert_allclose(fit.j_statistic, criterion(fit.params), rtol=1e-9)
    for step in np.eye(3) * np.sqrt(np.diag(fit.cov)) * 1e-3:
        assert criterion(fit.params + step) > fit.j_statistic
        assert criterion(fit.params - step) > fit.j_statistic
    two_step = gmm.two_step(*data.products, data.meat)
    assert fit.j_statistic < criterion(two_step.params)


def test_cue_with_classical_errors_is_liml() -> None:
    data = passes()
    a, w, traits = data.a, data.r[:, 1:], np.column_stack([data.r[:, 0], data.y])
    residual_makers = [np.eye(len(a)) - q @ q.T for q in map(linalg.orth, [w, a])]
    without, within = (traits.T @ m @ traits for m in residual_makers)
    kappa, vectors = linalg.eigh(without, within)
    meat = classical(data)
    fit = gmm.continuously_updated(*data.products, meat.meat, meat.slope)
    # an optimiser stops within its tolerance of 1e-8 standard errors
    assert_allclose(fit.params[0], -vectors[0, 0] / vectors[1, 0], rtol=1e-6)
    assert_allclose(fit.j_statistic, len(a) * (1 - 1 / kappa[0]), rtol=1e-9)


def test_more_starts_never_end_higher() -> None:
    liml = {
        seed: gmm.continuously_updated(*data.products, one.meat, one.slope).params
        for seed in range(20)
        for data in [passes(seed=seed, num_people=80, strength=0.05)]
        for one in [classical(data)]
    }
    gains = []
    for seed, start in liml.items():
        data = passes(seed=seed, num_people=80, strength=0.05)
        gains.append(data.cue().j_statistic - data.cue(starts=[start]).j_statistic)
    assert min(gains) >= 0
    assert max(gains) > 0.01, "weak instruments: some of these have two minima"


@pytest.mark.parametrize("fit", [lambda d: gmm.two_step(*d.products, d.meat), Passes.cue])
def test_fewer_clusters_than_moment_conditions(fit: Callable[[Passes], gmm.GMMFit]) -> None:
    data = passes()
    data.codes = np.arange(len(data.y)) % 6
    with pytest.raises(InputError, match=r"more clusters, than.* the 7 moment conditions"):
        fit(data)
