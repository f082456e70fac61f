"""Dosages from frequencies: binomial margins, linkage inside blocks only, Mendelian scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mrscale.simulate.dosages import draw_frequencies, draw_linked_dosages, mendelian_score


@pytest.mark.parametrize("linkage", [0.0, 0.9])
def test_margins_are_binomial_whatever_the_linkage(linkage):
    p = np.linspace(0.05, 0.95, 25)
    dosage = draw_linked_dosages(np.random.default_rng(0), np.tile(p, (20_000, 1)), linkage)
    for frequency, column in zip(p, dosage.T, strict=True):
        observed = np.bincount(column.astype(int), minlength=3)
        expected = stats.binom.pmf([0, 1, 2], 2, frequency) * len(column)
        assert stats.chisquare(observed, expected).pvalue > 1e-4


def test_linkage_correlates_neighbours_inside_blocks_of_ten_only():
    dosage = draw_linked_dosages(np.random.default_rng(1), np.full((20_000, 20), 0.4), 0.8)
    correlation = np.corrcoef(dosage.T)
    # equal frequencies: alleles are copies unless a recombination lies between, 0.8 ** distance
    for distance in (1, 2, 5):
        inside = [correlation[j, j + distance] for j in range(10 - distance)]
        np.testing.assert_allclose(inside, 0.8**distance, atol=0.035)
    assert np.abs(correlation[:10, 10:]).max() < 5 / np.sqrt(20_000)
    independent = draw_linked_dosages(np.random.default_rng(1), np.full((20_000, 20), 0.4), 0.0)
    assert np.abs(np.corrcoef(independent.T) - np.eye(20)).max() < 5 / np.sqrt(20_000)


def test_complete_linkage_orders_alleles_by_frequency():
    p = np.tile([0.2, 0.5, 0.7], (500, 1))
    dosage = draw_linked_dosages(np.random.default_rng(2), p, 1.0)
    assert (np.diff(dosage, axis=1) >= 0).all()


def test_logits_of_frequencies_are_linear_in_the_latents():
    latents = np.random.default_rng(3).standard_normal((300, 3))
    p = draw_frequencies(np.random.default_rng(4), latents, 400)
    design = np.hstack([np.ones((300, 1)), latents])
    weight, residual, _, _ = np.linalg.lstsq(design, np.log(p / (1 - p)), rcond=None)
    assert residual.max() < 1e-18
    assert weight[0].std() == pytest.approx(0.7, rel=0.15)
    assert weight[1:].std() == pytest.approx(0.5, rel=0.1)


def test_mendelian_score_splits_into_chance_and_ancestry():
    rng = np.random.default_rng(5)
    ancestry = rng.standard_normal((20_000, 1))
    p = draw_frequencies(rng, ancestry, 100)
    dosage = draw_linked_dosages(rng, p, 0.0)
    score, by_chance = mendelian_score(rng, dosage, p)
    rest = score - by_chance
    assert abs(np.corrcoef(by_chance, ancestry[:, 0])[0, 1]) < 4 / np.sqrt(20_000)
    assert abs(np.corrcoef(rest, ancestry[:, 0])[0, 1]) > 0.8
    assert [by_chance.mean(), by_chance.std()] == pytest.approx([0, 1], abs=1e-9)
    # 30 of the 100 variants act, and no others
    weight = np.linalg.lstsq(dosage - dosage.mean(axis=0), score, rcond=None)[0]
    assert (np.abs(weight) > 1e-9).sum() == 30
