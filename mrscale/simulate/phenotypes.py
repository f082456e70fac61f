"""Traits, covariates and principal components of a simulated cohort, and its exposure GWAS.

With s the score (from the genotypes) and c the measure of confounding, both standardised,

    U = 0.8 c + 0.6 e_U,
    D = 0.8 s + 0.5 c + 0.6 U + 0.7 e_D + 0.1 age' + 0.1 sex',
    Y = effect D + 0.8 U + 0.3 c + 0.7 e_Y + 0.1 age' - 0.1 sex',

where the e are standard normal, age' is age in standard deviations and sex' is -1 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mrscale.simulate.cohort import Cohort, DosageArray, FloatArray

NUM_COMPONENTS = 10

COEFFICIENTS = {
    "confounder_from_latent": 0.8,
    "confounder_noise": 0.6,
    "exposure_from_score": 0.8,
    "exposure_from_latent": 0.5,
    "exposure_from_confounder": 0.6,
    "exposure_noise": 0.7,
    "outcome_from_confounder": 0.8,
    "outcome_from_latent": 0.3,
    "outcome_noise": 0.7,
    "age_and_sex": 0.1,
}
"""The coefficients of the equations above; written to ``truth.json``."""

_AGES = (40, 70)
_SMALLEST_P = 1e-300
_BLOCK = 4096


@dataclass(frozen=True)
class Traits:
    """Exposure, outcome and covariates of N people, each an array of shape (N,).

    Ages are whole years, sex is 0 or 1.
    """

    exposure: FloatArray
    outcome: FloatArray
    age: FloatArray
    sex: FloatArray


@dataclass(frozen=True)
class SummaryStatistics:
    """Marginal regression of the exposure on each dosage, arrays of shape (M,)."""

    effect_allele_frequency: FloatArray
    beta: FloatArray
    standard_error: FloatArray
    p_value: FloatArray

    def take(self, rows: NDArray[np.int64]) -> SummaryStatistics:
        """The statistics of some variants."""
        return SummaryStatistics(*(getattr(self, f.name)[rows] for f in fields(self)))


def draw_traits(rng: np.random.Generator, cohort: Cohort, effect: float) -> Traits:
    """Draw exposure and outcome of a cohort by the equations in the module's docstring.

    Parameters
    ----------
    rng : numpy.random.Generator
    cohort : Cohort
    effect : float
        Causal effect of the exposure on the outcome (outcome units per exposure unit).

    Returns
    -------
    Traits
    """
    k, score, latent = COEFFICIENTS, cohort.score, cohort.confounder
    noise_u, noise_d, noise_y = rng.standard_normal((3, len(score)))
    age = rng.integers(_AGES[0], _AGES[1], len(score)).astype(float)
    sex = rng.integers(0, 2, len(score)).astype(float)
    age_in_sd = (age - np.mean(_AGES)) / (np.ptp(_AGES) / np.sqrt(12))
    unobserved = k["confounder_from_latent"] * latent + k["confounder_noise"] * noise_u
    exposure = (
        k["exposure_from_score"] * score
        + k["exposure_from_latent"] * latent
        + k["exposure_from_confounder"] * unobserved
        + k["exposure_noise"] * noise_d
        + k["age_and_sex"] * (age_in_sd + 2 * sex - 1)
    )
    outcome = (
        effect * exposure
        + k["outcome_from_confounder"] * unobserved
        + k["outcome_from_latent"] * latent
        + k["outcome_noise"] * noise_y
        + k["age_and_sex"] * (age_in_sd - 2 * sex + 1)
    )
    return Traits(exposure=exposure, outcome=outcome, age=age, sex=sex)


def principal_components(dosage: DosageArray) -> FloatArray:
    """Scores of people on the ten leading principal components of standardised dosages.

    Parameters
    ----------
    dosage : ndarray of int8, shape (N, J)
        Neutral variants, none missing.

    Returns
    -------
    ndarray of float64, shape (N, 10)
        Standard deviation 1; the sign makes the largest loading positive.
    """
    num_people = len(dosage)
    blocks = [dosage[i : i + _BLOCK].astype(float) for i in range(0, num_people, _BLOCK)]
    mean = dosage.mean(axis=0)
    # sums of products of whole numbers are exact, so the result does not depend on the blocks
    gram = sum(x.T @ x for x in blocks) / num_people - np.outer(mean, mean)
    varying = np.diag(gram) > 0
    spread = np.sqrt(np.diag(gram)[varying])
    values, vectors = np.linalg.eigh(gram[np.ix_(varying, varying)] / np.outer(spread, spread))
    leading = vectors[:, ::-1][:, :NUM_COMPONENTS]
    leading = leading * np.sign(leading[np.abs(leading).argmax(axis=0), range(leading.shape[1])])
    weights = leading / (spread[:, None] * np.sqrt(values[::-1][:NUM_COMPONENTS]))
    return np.concatenate([(x[:, varying] - mean[varying]) @ weights for x in blocks])


def exposure_gwas(dosage: DosageArray, exposure: FloatArray) -> SummaryStatistics:
    """Marginal (unadjusted) regression of the exposure on each alternate-allele dosage.

    Parameters
    ----------
    dosage : ndarray of int8, shape (N, M)
    exposure : ndarray of float64, shape (N,)

    Returns
    -------
    SummaryStatistics
        Two-sided normal p-values, never below 1e-300 (tools read a zero as missing).
    """
    num_people = len(exposure)
    centred = exposure - exposure.mean()
    mean = dosage.mean(axis=0)
    square = np.array([np.dot(x, x) for x in dosage.T.astype(np.float32)], float)
    product = np.array([np.dot(x, centred) for x in dosage.T])
    variance = square / num_people - mean**2
    beta = product / (num_people * variance)
    residual = centred @ centred - beta**2 * num_people * variance
    standard_error = np.sqrt(residual / ((num_people - 2) * num_people * variance))
    p_value = 2 * stats.norm.sf(np.abs(beta / standard_error))
    return SummaryStatistics(mean / 2, beta, standard_error, np.maximum(p_value, _SMALLEST_P))
