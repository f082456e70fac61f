"""The Hardy-Weinberg test against enumeration in exact arithmetic, and against Hail."""

from __future__ import annotations

from fractions import Fraction
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrscale.stats.hwe import hardy_weinberg_mid_p


def enumerated(none, one, two):
    """Mid-p by the definition, in rational numbers."""
    people, copies = none + one + two, 2 * two + one
    weights = {
        h: Fraction(
            2**h,
            factorial(h) * factorial((copies - h) // 2) * factorial(people - (copies + h) // 2),
        )
        for h in range(copies % 2, min(copies, 2 * people - copies) + 1, 2)
    }
    less = sum(w for w in weights.values() if w < weights[one])
    equal = sum(w for w in weights.values() if w == weights[one])
    return float((less + equal / 2) / sum(weights.values()))


@given(st.tuples(*[st.integers(0, 60)] * 3))
def test_mid_p_equals_its_definition(counts):
    np.testing.assert_allclose(hardy_weinberg_mid_p(np.array(counts)), enumerated(*counts), 1e-8)


@pytest.mark.spark
@pytest.mark.usefixtures("hail")
def test_mid_p_equals_that_of_hail():
    hl = pytest.importorskip("hail")
    rng = np.random.default_rng(0)
    counts = []
    for people in (21, 1000, 60_000):
        for f in (0.001, 0.03, 0.3, 0.8):
            for inbreeding in (0, 0.05, 0.4, -0.02):
                het = 2 * f * (1 - f) * (1 - inbreeding)
                shares = np.array([1 - f - het / 2, het, f - het / 2]).clip(0)
                counts.append(rng.multinomial(people, shares / shares.sum()))
    table = hl.utils.range_table(len(counts))
    found = hl.literal(np.array(counts))
    people = (hl.int32(found[table.idx, copies]) for copies in range(3))
    expected = table.select(p=hl.hardy_weinberg_test(*people).p_value).p.collect()
    np.testing.assert_allclose(hardy_weinberg_mid_p(np.array(counts)), expected, rtol=1e-8)


def test_shape_follows_the_counts():
    assert hardy_weinberg_mid_p(np.zeros((3, 2, 3), dtype=int)).tolist() == [[0.5, 0.5]] * 3
    assert hardy_weinberg_mid_p(np.zeros((0, 3), dtype=int)).shape == (0,)
