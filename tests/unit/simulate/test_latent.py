"""The factor model: what is invariant, what shifts, and who is biased."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, stats

from mrscale.simulate.cohort import NUM_NEUTRAL, standardise
from mrscale.simulate.latent import FactorModel
from mrscale.simulate.phenotypes import draw_traits, principal_components

EFFECT = 0.5


@pytest.fixture(scope="module")
def cohort():
    model = FactorModel(np.random.default_rng(1), num_variants=200, num_environments=5)
    return model.draw(np.random.default_rng(2), 20_000, NUM_NEUTRAL)


def _moving(cohort, latent):
    groups = [latent[cohort.environment == e] for e in range(5)]
    return stats.f_oneway(*groups).pvalue, stats.levene(*groups).pvalue


def test_exogenous_latent_has_one_law_and_confounded_latent_moves(cohort):
    # family members share latents, so the p-values of the first are slightly too small
    for z in cohort.exogenous.T:
        assert min(_moving(cohort, z)) > 1e-3
        assert stats.kstest(z, "norm").pvalue > 1e-3
    for z in cohort.confounded.T:
        assert max(_moving(cohort, z)) < 1e-20
    within = [
        np.corrcoef(np.hstack([cohort.exogenous, cohort.confounded])[cohort.environment == e].T)
        for e in range(5)
    ]
    assert np.abs(np.stack(within)[:, :2, 2:]).max() < 5 / np.sqrt(4000)


def test_families_stay_in_one_environment_and_share_half_of_their_latents(cohort):
    first = np.flatnonzero(cohort.family[1:] == cohort.family[:-1])
    assert 0.1 < len(first) / len(cohort.family) < 0.2
    assert np.array_equal(cohort.environment[first], cohort.environment[first + 1])
    for z in cohort.exogenous.T:
        assert np.corrcoef(z[first], z[first + 1])[0, 1] == pytest.approx(0.5, abs=0.06)


def test_dosages_pass_usual_quality_control(cohort):
    frequency = cohort.dosage.mean(axis=0) / 2
    assert np.minimum(frequency, 1 - frequency).min() > 0.05
    for e in range(5):
        x = cohort.dosage[cohort.environment == e]
        p = x.mean(axis=0) / 2
        inbreeding = 1 - (x == 1).mean(axis=0) / (2 * p * (1 - p))
        assert stats.chi2.sf(len(x) * inbreeding**2, 1).min() > 1e-15


def test_naive_is_biased_components_do_not_suffice_and_stationary_directions_do(cohort, tsls):
    traits = draw_traits(np.random.default_rng(3), cohort, EFFECT)
    dummies = np.eye(5)[cohort.environment][:, 1:]
    components = principal_components(cohort.neutral)

    def bias(instruments, controls=None):
        return tsls(traits.outcome, traits.exposure, instruments, controls)[0] - EFFECT

    naive = bias(cohort.dosage)
    adjusted = bias(cohort.dosage, np.hstack([dummies, components]))
    assert naive > 0.3 * EFFECT
    assert 0.3 * EFFECT < adjusted < 0.8 * naive
    assert abs(bias(cohort.exogenous)) < 0.1 * EFFECT
    assert abs(bias(_stationary(cohort))) < 0.2 * EFFECT


def _stationary(cohort):
    """Two most stationary directions among four principal components (Hara et al. 2012)."""
    x = standardise(cohort.dosage.astype(float))
    scores = standardise(x @ np.linalg.eigh(x.T @ x)[1][:, -4:])
    groups = [scores[cohort.environment == e] for e in range(5)]
    covariances = [np.cov(g.T) for g in groups]
    pooled = np.mean(covariances, axis=0)
    moving = np.zeros((4, 4))
    for group, covariance in zip(groups, covariances, strict=True):
        deviation = covariance - pooled
        moving += np.outer(group.mean(0), group.mean(0))
        moving += deviation @ np.linalg.solve(pooled, deviation) / 2
    return scores @ linalg.eigh(moving, pooled)[1][:, :2]
