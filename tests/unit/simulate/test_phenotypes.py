"""Components, GWAS and traits against plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mrscale.simulate.cohort import Cohort, standardise
from mrscale.simulate.phenotypes import draw_traits, exposure_gwas, principal_components


@pytest.fixture
def dosage():
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], 100)
    frequency = rng.uniform(0.2, 0.8, (3, 30))
    return rng.binomial(2, frequency[group]).astype(np.int8)


def test_components_equal_those_of_a_singular_value_decomposition(dosage):
    left = np.linalg.svd(standardise(dosage.astype(float)), full_matrices=False)[0][:, :10]
    scores = principal_components(dosage)
    assert scores.shape == (300, 10)
    np.testing.assert_allclose(scores.std(axis=0), 1, rtol=1e-10)
    # singular vectors have length one, scores have unit variance; signs are free
    agreement = np.abs(np.sum(left * scores, axis=0)) / np.sqrt(300)
    np.testing.assert_allclose(agreement, 1, rtol=1e-9)


def test_components_ignore_a_variant_that_does_not_vary(dosage):
    padded = np.hstack([dosage, np.zeros((300, 1), np.int8)])
    np.testing.assert_allclose(principal_components(padded), principal_components(dosage))


def test_gwas_equals_simple_regression(dosage):
    exposure = np.random.default_rng(1).standard_normal(300) + 0.3 * dosage[:, 2]
    found = exposure_gwas(dosage, exposure)
    for j in (0, 2, 29):
        expected = stats.linregress(dosage[:, j], exposure)
        assert found.beta[j] == pytest.approx(expected.slope, rel=1e-10)
        assert found.standard_error[j] == pytest.approx(expected.stderr, rel=1e-10)
        assert found.effect_allele_frequency[j] == pytest.approx(dosage[:, j].mean() / 2)


def test_gwas_never_prints_a_p_value_of_zero(dosage):
    exposure = dosage[:, 0] + 1e-3 * np.random.default_rng(1).standard_normal(300)
    assert exposure_gwas(dosage, exposure).p_value[0] == 1e-300


def test_effect_is_recovered_when_nothing_confounds(tsls):
    rng = np.random.default_rng(4)
    score = rng.standard_normal(20_000)
    nothing = np.zeros((20_000, 0), np.int8)
    cohort = Cohort(
        environment=np.zeros(20_000, np.int64),
        family=np.arange(20_000),
        dosage=nothing,
        neutral=nothing,
        exogenous=score[:, None],
        confounded=score[:, None],
        score=score,
        confounder=rng.standard_normal(20_000),
    )
    traits = draw_traits(rng, cohort, -0.7)
    estimate, error = tsls(traits.outcome, traits.exposure, score[:, None])
    assert abs(estimate + 0.7) < 4 * error
    assert set(np.unique(traits.sex)) == {0, 1}
    assert traits.age.min() == 40
    assert traits.age.max() == 69
