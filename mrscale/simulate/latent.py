"""Factor model: allele frequencies follow an exogenous and a confounded latent.

The regime in which learned instruments help. With z_I the exogenous and z_C the confounded latent
of a person in environment e,

    dosage_j ~ Binomial(2, sigmoid(a_j + z_I A_j + z_C B_j)),
    z_I ~ N(0, I) everywhere,     z_C | e ~ N(mu_e, S_e).

The means mu_e are the corners of a regular polygon and the S_e are turned ellipses, so that with
two moving dimensions the stationary directions are identified from five environments on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from mrscale.simulate.cohort import (
    NUM_NEUTRAL,
    Cohort,
    DosageArray,
    FloatArray,
    draw_dosage,
    draw_families,
    make_variants,
    standardise,
)

NUM_LATENTS = 2
"""Dimensions of z_I and of z_C."""

_PARAMETERS: dict[str, Any] = {
    # Longer loadings would break Hardy-Weinberg proportions inside environments so clearly that
    # quality control would drop the variants: F is about pq times the variance of the logit.
    "loading_exogenous": 0.36,
    "loading_confounded": 0.32,
    "environment_radius": 0.9,
    "within_sd": [0.5, 1.0],
    "curvature_of_score": 0.3,
    "neutral_drift": 0.2,
    "neutral_trace_of_confounding": 0.05,
    "sibling_correlation_of_latents": 0.5,
}

_BLOCK = 4096


class FactorModel:
    """Variants whose frequencies are driven by z_I and z_C; see the module for the equations.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the loadings and positions.
    num_variants, num_environments : int
        M and E.

    Notes
    -----
    Siblings share half of the variance of both latents; given the latents, dosages are independent
    (there is no Mendelian transmission here). Neutral variants drift between environments and carry
    a weak trace of z_C (``neutral_trace_of_confounding``): at 20,000 people their principal
    components explain about half of z_C, so that adjusting for them removes a part only of the
    confounding.
    """

    def __init__(self, rng: np.random.Generator, num_variants: int, num_environments: int) -> None:
        p = _PARAMETERS
        self.environment_names = tuple(f"env{e + 1}" for e in range(num_environments))
        self.variants = make_variants(rng, num_variants)
        self.parameters = dict(p)
        self._intercept = logit(rng.uniform(0.08, 0.92, num_variants))
        self._exogenous = p["loading_exogenous"] * _directions(rng, num_variants)
        self._confounded = p["loading_confounded"] * _directions(rng, num_variants)
        self._angle = rng.uniform(0, 2 * np.pi)
        trace = p["neutral_trace_of_confounding"]
        self._neutral_intercept = logit(rng.uniform(0.1, 0.9, NUM_NEUTRAL))
        self._neutral_drift = p["neutral_drift"] * rng.standard_normal(
            (num_environments, NUM_NEUTRAL)
        )
        self._neutral_trace = trace * rng.standard_normal((NUM_LATENTS, NUM_NEUTRAL))

    @property
    def roles(self) -> dict[str, Any]:
        """Per variant: that it tags both latents, and the length of its two loadings."""
        return {
            str(name): {"role": "tags z_I and z_C", "loading_i": a, "loading_c": b}
            for name, a, b in zip(
                self.variants.name,
                np.round(self._exogenous.T, 6).tolist(),
                np.round(self._confounded.T, 6).tolist(),
                strict=True,
            )
        }

    def draw(self, rng: np.random.Generator, num_people: int, num_neutral: int) -> Cohort:
        """Draw people; see :class:`mrscale.simulate.cohort.Model`."""
        family, family_environment = draw_families(rng, num_people, len(self.environment_names))
        environment = family_environment[family]
        exogenous = self._family_normal(rng, family)
        confounded = self._shifted(self._family_normal(rng, family), environment)
        linear = exogenous.sum(axis=1) / np.sqrt(NUM_LATENTS)
        curved = (exogenous**2 - 1).mean(axis=1) * np.sqrt(NUM_LATENTS)

        def frequency(rows: slice) -> FloatArray:
            drive = exogenous[rows] @ self._exogenous + confounded[rows] @ self._confounded
            return np.asarray(expit(self._intercept + drive))

        def neutral_frequency(rows: slice) -> FloatArray:
            shift = self._neutral_drift[environment[rows]] + confounded[rows] @ self._neutral_trace
            return np.asarray(expit(self._neutral_intercept + shift)[:, :num_neutral])

        return Cohort(
            environment=environment,
            family=family,
            dosage=_by_blocks(rng, num_people, frequency),
            neutral=_by_blocks(rng, num_people, neutral_frequency),
            exogenous=exogenous,
            confounded=confounded,
            score=standardise(linear + self.parameters["curvature_of_score"] * curved),
            confounder=standardise(confounded.sum(axis=1)),
        )

    def _family_normal(self, rng: np.random.Generator, family: NDArray[np.int64]) -> FloatArray:
        """Standard normal latents, correlated within sibships."""
        shared = np.sqrt(self.parameters["sibling_correlation_of_latents"])
        ours = rng.standard_normal((int(family[-1]) + 1, NUM_LATENTS))[family]
        own = rng.standard_normal((len(family), NUM_LATENTS))
        return np.asarray(shared * ours + np.sqrt(1 - shared**2) * own)

    def _shifted(self, normal: FloatArray, environment: NDArray[np.int64]) -> FloatArray:
        """Give each environment its mean (a corner of a polygon) and covariance (an ellipse)."""
        num_environments = len(self.environment_names)
        corner = self._angle + 2 * np.pi * np.arange(num_environments) / num_environments
        mean = self.parameters["environment_radius"] * np.stack(
            [np.cos(corner), np.sin(corner)], axis=1
        )
        turn = corner + self._angle
        rotation = np.stack(
            [np.stack([np.cos(turn), np.sin(turn)], 1), np.stack([-np.sin(turn), np.cos(turn)], 1)],
            axis=1,
        )
        scaled = normal * np.array(self.parameters["within_sd"])
        turned = np.einsum("nk,nkl->nl", scaled, rotation[environment])
        return np.asarray(mean[environment] + turned)


def _directions(rng: np.random.Generator, num_variants: int) -> FloatArray:
    """Loadings of length one in random directions, shape (L, M)."""
    angle = rng.uniform(0, 2 * np.pi, num_variants)
    return np.stack([np.cos(angle), np.sin(angle)])


def _by_blocks(rng: np.random.Generator, num_people: int, frequency: Any) -> DosageArray:
    """Draw dosages a few thousand people at a time, so that no N x M float array is ever held."""
    blocks = [slice(i, min(i + _BLOCK, num_people)) for i in range(0, num_people, _BLOCK)]
    return np.concatenate([draw_dosage(rng, frequency(rows)) for rows in blocks])
