"""The exact test of Hardy-Weinberg equilibrium, for many variants at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from mrscale.stats.moments import Floats

_TESTS_AT_ONCE = 256
_TIE = 1e-9
"""Probabilities that differ by less than this, relatively, are equal but for rounding."""


def hardy_weinberg_mid_p(counts: NDArray[np.int64]) -> Floats:
    """Mid-p of the exact test of Hardy-Weinberg equilibrium.

    Parameters
    ----------
    counts : ndarray of int, shape (..., 3)
        People with 0, 1 and 2 copies of an allele.

    Returns
    -------
    ndarray of float64, shape (...)
        1/2 where nothing can be tested: nobody is called, or one allele is absent.

    Notes
    -----
    Given n people and a copies of the rarer allele, the number h of heterozygotes has probability
    proportional to ``2^h / (h! ((a - h)/2)! ((2n - a - h)/2)!)`` (Levene 1949, Haldane 1954). The
    mid-p is the probability of all h less likely than the observed one, plus half of that of those
    as likely (Graffelman and Moreno 2013). Far from the mode the terms vanish in float64: only a
    window is summed, wide enough to hold both tails beyond the observed h.
    """
    flat = np.asarray(counts, dtype=np.int64).reshape(-1, 3)
    people, observed = flat.sum(axis=1), flat[:, 1]
    copies = np.minimum(2 * flat[:, 0], 2 * flat[:, 2]) + observed
    log_factorial = gammaln(np.arange(2 * people.max(initial=0) + 1) + 1.0)
    frequency = copies / np.maximum(2 * people, 1)
    expected = 2 * people * frequency * (1 - frequency)
    sd = 2 * frequency * (1 - frequency) * np.sqrt(people)
    reach = ((3 * np.abs(observed - expected) + 9 * sd + 40) / 2).astype(np.int64)
    p_value = np.empty(len(flat))
    order = np.argsort(reach, kind="stable")
    for first in range(0, len(order), _TESTS_AT_ONCE):
        rows = order[first : first + _TESTS_AT_ONCE]
        steps = np.arange(-reach[rows[-1]], reach[rows[-1]] + 1)
        centre = expected[rows].astype(np.int64) // 2 * 2 + copies[rows] % 2
        p_value[rows] = _mid_p(
            people[rows], copies[rows], observed[rows], centre[:, None] + 2 * steps, log_factorial
        )
    return p_value.reshape(np.shape(counts)[:-1])


def _mid_p(
    people: NDArray[np.int64],
    copies: NDArray[np.int64],
    observed: NDArray[np.int64],
    heterozygotes: NDArray[np.int64],
    log_factorial: Floats,
) -> Floats:
    """Mid-p of tests (T,) over a window of numbers of heterozygotes (T, K)."""

    def log_weight(h: NDArray[np.int64]) -> Floats:
        rare, common = (copies[:, None] - h) // 2, (2 * people - copies)[:, None] - h
        found = h * np.log(2) - log_factorial[h] - log_factorial[rare]
        return np.asarray(found - log_factorial[common // 2])

    possible = (heterozygotes >= 0) & (heterozygotes <= copies[:, None])
    inside = np.where(possible, heterozygotes, copies[:, None])
    log_p = np.where(possible, log_weight(inside), -np.inf)
    at = log_p[heterozygotes == observed[:, None]][:, None]
    less, as_likely = log_p < at - _TIE, np.abs(log_p - at) <= _TIE
    p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    return np.asarray(
        (p.sum(axis=1, where=less) + p.sum(axis=1, where=as_likely) / 2) / p.sum(axis=1)
    )
