"""The coalescent model: Mendelian sampling given ancestry."""

from __future__ import annotations

import numpy as np
import pytest

from mrscale.simulate.cohort import NUM_NEUTRAL
from mrscale.simulate.phenotypes import draw_traits, principal_components

pytest.importorskip("msprime")

from mrscale.simulate.coalescent import CoalescentModel

EFFECT = 0.5


@pytest.fixture(scope="module")
def cohort():
    model = CoalescentModel(np.random.default_rng(1), num_variants=60, num_environments=5)
    return model.draw(np.random.default_rng(2), 10_000, NUM_NEUTRAL)


def test_variants_are_common_and_populations_differ(cohort):
    frequency = np.stack([cohort.dosage[cohort.environment == e].mean(0) / 2 for e in range(5)])
    overall = cohort.dosage.mean(0) / 2
    assert np.minimum(overall, 1 - overall).min() > 0.02
    between = frequency[:3].var(axis=0) / (frequency[:3].mean(0) * (1 - frequency[:3].mean(0)))
    assert 0.03 < between.mean() < 0.3  # F_ST of continental groups is about a tenth


def test_siblings_share_half_of_their_alleles(cohort):
    first = np.flatnonzero(cohort.family[1:] == cohort.family[:-1])
    z = cohort.exogenous[:, 0]
    assert np.corrcoef(z[first], z[first + 1])[0, 1] == pytest.approx(0.5, abs=0.1)


def test_exogenous_latent_is_free_of_ancestry(cohort):
    z = cohort.exogenous[:, 0]
    assert z.std() == pytest.approx(1, abs=0.05)
    assert abs(np.corrcoef(z, cohort.confounder)[0, 1]) < 5 / np.sqrt(len(z))


def test_adjusting_for_components_and_environments_is_enough(cohort, tsls):
    traits = draw_traits(np.random.default_rng(3), cohort, EFFECT)
    controls = np.hstack(
        [np.eye(5)[cohort.environment][:, 1:], principal_components(cohort.neutral)]
    )
    naive, _ = tsls(traits.outcome, traits.exposure, cohort.dosage)
    adjusted, error = tsls(traits.outcome, traits.exposure, cohort.dosage, controls)
    assert naive - EFFECT > 0.3 * EFFECT
    assert abs(adjusted - EFFECT) < 4 * error
    assert abs(adjusted - EFFECT) < 0.15 * EFFECT


@pytest.mark.parametrize("num_environments", [2, 3])
def test_variants_are_common_where_people_are(num_environments):
    model = CoalescentModel(np.random.default_rng(3), 60, num_environments)
    dosage = model.draw(np.random.default_rng(4), 500, 0).dosage
    assert dosage.std(axis=0).min() > 0
