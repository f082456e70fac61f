"""Methods that maximise a likelihood or solve a score equation."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mrscale.stats.summary.associations import Associations, SummaryEstimate
from mrscale.stats.summary.constrained import best_subsets, cml, cml_perturbed
from mrscale.stats.summary.likelihood import debiased_ivw, maximum_likelihood
from mrscale.stats.summary.mixture import contamination_mixture
from mrscale.stats.summary.profile import derivatives, distances, polish
from mrscale.stats.summary.regression import ivw
from mrscale.stats.summary.robust_score import SCORES, Constants, Loss, raps

from .conftest import Make


def test_derivatives_are_those_of_the_distances(make: Make) -> None:
    a, theta, h = make(1), np.array([-0.3, 0.2, 0.9]), 1e-5

    def half(t: np.ndarray) -> np.ndarray:
        return distances(t, a).sum(-1) / 2

    first, second = derivatives(theta, a, np.ones(20))
    # central differences with step 1e-5 on values of order 100
    np.testing.assert_allclose(first, (half(theta + h) - half(theta - h)) / (2 * h), rtol=1e-6)
    numeric = derivatives(theta + h, a, np.ones(20))[0] - derivatives(theta - h, a, np.ones(20))[0]
    np.testing.assert_allclose(second, numeric / (2 * h), rtol=1e-6)


def test_maximum_likelihood_is_the_lowest_distance(make: Make) -> None:
    a = make(2, strength=3)
    row = maximum_likelihood(a, 0.95)
    grid = np.linspace(-3, 3, 60_001)
    values = distances(grid, a).sum(-1)
    assert row.estimate == pytest.approx(grid[values.argmin()], abs=1e-4)
    assert row.q <= values.min()
    score, _ = derivatives(np.asarray(row.estimate), a, np.ones(20))
    assert abs(score) < 1e-9


def test_correlated_maximum_likelihood(make: Make) -> None:
    rho = 0.5 + 0.5 * np.eye(20)
    a = replace(make(3), correlation=rho)
    row = maximum_likelihood(a, 0.95)
    x, y = rho * np.outer(a.sx, a.sx), rho * np.outer(a.sy, a.sy)

    def q(b: float) -> float:
        e = a.by - b * a.bx
        return float(e @ np.linalg.solve(y + b**2 * x, e))

    assert row.q == pytest.approx(q(row.estimate), rel=1e-9)
    assert row.q < min(q(row.estimate + d) for d in (-1e-3, 1e-3))


def test_contamination_mixture_is_exact(make: Make) -> None:
    a = make(4, 30)
    a = replace(a, by=a.by + np.where(np.arange(30) < 12, 0.3, 0))
    row = contamination_mixture(a, 0.95)
    error = a.ratio_error()
    psi = np.hypot(1.5 * a.ratio.std(ddof=1), error)

    def loglik(b: np.ndarray) -> np.ndarray:
        valid = stats.norm.logpdf(a.ratio, b[:, None], error)
        return np.maximum(valid, stats.norm.logpdf(a.ratio, 0, psi)).sum(-1)

    grid = np.linspace(-3, 6, 90_001)
    values = loglik(grid)
    best = loglik(np.array([row.estimate]))[0]
    assert best >= values.max()
    assert row.estimate == pytest.approx(grid[values.argmax()], abs=1e-4)
    ends = loglik(np.array([row.ci_lower, row.ci_upper]))
    assert ends[0] == pytest.approx(ends[1], rel=1e-9)
    within = values > ends[0]
    assert grid[within][[0, -1]] == pytest.approx([row.ci_lower, row.ci_upper], abs=1e-3)
    joined = "union" not in row.note
    assert joined == (np.count_nonzero(np.diff(within.astype(int)) == 1) == 1)


def test_contamination_mixture_says_when_its_set_is_a_union() -> None:
    ratio = np.r_[np.full(5, 1.0), np.full(5, -1.0), 5.0]
    a = Associations(np.ones(11), np.full(11, 0.01), ratio, np.full(11, 0.1))
    row = contamination_mixture(a, 0.95)
    assert row.note.startswith("the confidence set is the union of [-1.0")
    assert row.ci_lower < -0.9
    assert row.ci_upper > 0.9


def test_contamination_mixture_of_nothing_but_zeros(make: Make) -> None:
    row = contamination_mixture(replace(make(1), by=np.zeros(20)), 0.95)
    assert row.note == "not applicable: the ratios are all zero"


def test_debiased_ivw_does_not_debias_nothing(make: Make) -> None:
    a = replace(make(5), sx=np.full(20, 1e-12))
    one, other = debiased_ivw(a, 0.95), ivw(a, 0.95)
    assert one.estimate == pytest.approx(other.estimate, rel=1e-9)
    noise = replace(a, sx=np.full(20, 10.0))
    assert debiased_ivw(noise, 0.95).note == (
        "not applicable: the exposure associations are all noise"
    )


def test_constrained_likelihood_finds_the_best_subset(make: Make) -> None:
    for seed in range(5):
        a = make(seed, 7, pleiotropy=0.1)
        theta, error, least = best_subsets(a)
        for k in range(6):
            found = []
            for valid in itertools.combinations(range(7), 7 - k):
                keep = np.isin(np.arange(7), valid).astype(float)
                at, _ = polish(a.ratio, a, keep)
                found.append(distances(at, a) @ keep)
            assert least[k] == pytest.approx(np.min(found), rel=1e-9, abs=1e-12)
            keep = np.argsort(np.argsort(distances(theta[k], a))) < 7 - k
            at, information = polish(theta[k], a, keep.astype(float))
            assert error[k] == pytest.approx(information**-0.5)


def test_constrained_likelihood_drops_invalid_variants(make: Make) -> None:
    a = make(6, 30)
    a = replace(a, by=a.by + np.where(np.arange(30) < 12, 0.5, 0))
    rows = cml(a, 50_000, 0.95), cml_perturbed(a, 50_000, 0.95, np.random.default_rng(0))
    for row in rows:
        assert row.estimate == pytest.approx(0.4, abs=4 * row.std_error)
    assert rows[0].std_error < 0.1


def test_constants_of_the_scores() -> None:
    square = Constants.of("l2")
    found = [square.delta, square.c1, square.c2, square.c3]
    np.testing.assert_allclose(found, [1, 1, 2, 1], rtol=1e-12)
    for one in (Constants.of("huber"), Constants.of("tukey")):
        # both are tuned to 95 % efficiency
        assert one.delta**2 / one.c1 == pytest.approx(0.95, abs=0.001)


def test_raps_without_overdispersion_is_maximum_likelihood(make: Make) -> None:
    a = make(2)
    row = raps(a, 0.95, loss="l2")
    assert row.note == "overdispersion tau = 0"
    assert row.estimate == pytest.approx(maximum_likelihood(a, 0.95).estimate, rel=1e-9)


def losses() -> dict[str, Callable[[Associations], SummaryEstimate]]:
    def with_loss(loss: Loss) -> Callable[[Associations], SummaryEstimate]:
        return lambda a: raps(a, 0.95, loss=loss)

    return {loss: with_loss(loss) for loss in SCORES} | {
        "debiased": lambda a: debiased_ivw(a, 0.95)
    }


@pytest.mark.parametrize("method", ["l2", "huber", "tukey", "debiased"])
def test_errors_cover_weak_variants_with_balanced_pleiotropy(make: Make, method: str) -> None:
    rng = np.random.default_rng(10)
    rows = [losses()[method](make(rng, 100, pleiotropy=0.02, strength=2)) for _ in range(120)]
    estimates = np.array([row.estimate for row in rows])
    errors = np.array([row.std_error for row in rows])
    # Monte Carlo error of a standard deviation over 120: 6.5 %
    assert estimates.std(ddof=1) == pytest.approx(np.median(errors), rel=0.2)
    assert estimates.mean() == pytest.approx(0.4, abs=4 * estimates.std() / 120**0.5)


def test_tukey_ignores_outliers(make: Make) -> None:
    a = make(11, 60)
    spoilt = replace(a, by=a.by + np.where(np.arange(60) < 4, 2, 0))
    clean = raps(a, 0.95, loss="tukey")
    assert raps(spoilt, 0.95, loss="tukey").estimate == pytest.approx(
        clean.estimate, abs=clean.std_error
    )
