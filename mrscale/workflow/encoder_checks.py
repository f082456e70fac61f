"""What the people who judge an encoder say of it, as a table.

Legend: N people, L latent instruments, K remainder, E environments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale.disclosure import is_small, policy, vague
from mrscale.errors import InputError
from mrscale.results import Verdict
from mrscale.stats.invariance import Invariance, invariance_test
from mrscale.stats.misfit import LIKELIHOOD_LIMIT, R2_LIMIT
from mrscale.train.encoder import Encoder
from mrscale.train.inputs import TrainingBlock
from mrscale.workflow.blockwise import encode_people
from mrscale.workflow.checks import SMALL_ENVIRONMENT, LatentCheck, check_latents
from mrscale.workflow.cohorts import ArrayCohort, Cohort
from mrscale.workflow.latents import Latents
from mrscale.workflow.learned_encoder import DIAGNOSTICS
from mrscale.workflow.learning import AS_GOOD

JUDGES_PER_DIMENSION = 10
"""Judges of an environment for each parameter of the mean and spread of its latents, at least."""
ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class EncoderChecks:
    """What is known of an encoder that has met no trait.

    Attributes
    ----------
    check : LatentCheck
    invariance : Invariance
        Over all environments, and per pair.
    """

    check: LatentCheck
    invariance: Invariance


def check_encoder(
    cohort: Cohort, block: TrainingBlock, encoder: Encoder, seed: int
) -> EncoderChecks:
    """Checks on the people who judged an encoder while it trained, or would have.

    Environments of which too few people judge are left out.

    Raises
    ------
    InputError
        If that leaves fewer than two.
    """
    judges = _judges(cohort, block, encoder.latent_dim)
    latent, remainder = encode_people(encoder, cohort, judges)
    people = _unseen(cohort, judges, latent)
    arrays = {
        f"{encoder.method}_latent": latent[None],
        f"{encoder.method}_remainder": remainder[None],
    }
    latents = Latents(arrays, (encoder.method,))
    check = check_latents(None, people, latents, {encoder.method: [encoder]}, seed)[encoder.method]
    trained = np.bincount(block.environment[~block.aside])
    environment, rng = people.array("environment"), np.random.default_rng(seed)
    return EncoderChecks(
        replace(check, smallest_environment=int(trained[trained > 0].min())),
        invariance_test(latent.astype(np.float64), environment, rng),
    )


def diagnostics(found: EncoderChecks, places: Sequence[str]) -> pd.DataFrame:
    """The checks as users hold them.

    Parameters
    ----------
    found : EncoderChecks
    places : sequence of str
        Names of environments.
    """
    rows = [
        *_tests(found, places),
        *_misfit(found.check),
        *_likelihood(found.check),
        *_environments(found.check),
        _permutation(found.check),
    ]
    return pd.DataFrame(rows, columns=list(DIAGNOSTICS))


Row = tuple[str, float, float, Verdict, str]


def _tests(found: EncoderChecks, places: Sequence[str]) -> list[Row]:
    everywhere, pairs = found.invariance.joint, found.invariance
    worst = np.lexsort((-pairs.pair_statistic, pairs.pair_pvalue))[0]
    one, other = (places[code] for code in pairs.pairs[worst])
    dependence = found.check.independence
    return [
        (
            "invariance over environments",
            everywhere.statistic,
            everywhere.pvalue,
            _unless(everywhere.pvalue),
            "Whether the latent has the same law in every environment; the statistic is the share "
            "of it that lies between them. With many people a harmless difference is found too, "
            "and a latent that is invariant may still be the wrong one.",
        ),
        (
            f"invariance, worst pair: {one} and {other}",
            float(pairs.pair_statistic[worst]),
            float(pairs.pair_pvalue[worst]),
            _unless(float(pairs.pair_pvalue[worst])),
            "Where the law of the latent differs most; adjusted for the number of pairs. Same "
            "limits.",
        ),
        (
            "independence of latent and remainder",
            dependence.statistic,
            dependence.pvalue,
            _unless(dependence.pvalue),
            "Whether the latent tells of the remainder within environments; the statistic is a "
            "kernel correlation. Dependence lets confounding in. Same limits.",
        ),
    ]


def _misfit(check: LatentCheck) -> list[Row]:
    r2, ratio = check.misfit.r2, check.misfit.likelihood_ratio
    return [
        (
            "predictability of the latent (R2)",
            r2,
            math.nan,
            "pass" if r2 < R2_LIMIT else "fail",
            "Whether remainder and environment predict the latent, or its square (below "
            f"{R2_LIMIT:g} is good). Told good from bad fits in simulations; cannot certify that "
            "the right direction was found.",
        ),
        (
            "law of the latent given the rest (log-likelihood ratio)",
            ratio,
            math.nan,
            "pass" if ratio < LIKELIHOOD_LIMIT else "fail",
            "Whether the latent's mean and spread depend on remainder and environment (below "
            f"{LIKELIHOOD_LIMIT:g} is good), in nats per person. Same use and limits.",
        ),
    ]


def _likelihood(check: LatentCheck) -> list[Row]:
    gain, spread = check.dependence_gain, check.restart_spread
    return [
        (
            "held-out likelihood of a model without invariance",
            gain,
            math.nan,
            "info" if math.isnan(gain) else "pass" if gain <= AS_GOOD else "warn",
            "What a flow whose latents may all move gains, in nats per person. A gain says that "
            "no part of the instruments of this dimension is invariant and independent. Known "
            "where flows chose the latent dimension.",
        ),
        (
            "spread of restarts",
            spread,
            math.nan,
            "info",
            "Difference between the best and the worst restart in what they were judged by. Far "
            "apart: the fit depends on luck, more restarts may find a better one. Close: says "
            "little, for restarts can agree on a wrong answer.",
        ),
    ]


def _environments(check: LatentCheck) -> list[Row]:
    num, needed = check.num_environments, 2 * check.remainder_dim + 1
    smallest = check.smallest_environment
    few: Verdict = "fail" if num == 2 else "pass" if check.identifiable else "warn"
    return [
        (
            f"environments, {needed} for {check.remainder_dim} moving dimensions",
            float(num),
            math.nan,
            few,
            "With 2 k + 1 environments k moving dimensions can be told from what stays. With "
            "fewer, and always with two, a confounded direction may stay in the latent, and no "
            "check would notice.",
        ),
        (
            "people in the smallest environment",
            math.nan if is_small(smallest) else float(vague(smallest)),
            math.nan,
            "fail"
            if smallest <= policy().limit
            else "pass"
            if smallest >= SMALL_ENVIRONMENT
            else "warn",
            "Of those who trained, rounded up to hundreds (no number: "
            f"{policy().limit} or fewer). Below {SMALL_ENVIRONMENT} its law is hardly known, and "
            "the encoder may follow chance there; merge it with a similar one.",
        ),
    ]


def _permutation(check: LatentCheck) -> Row:
    return (
        "invariant linear directions (permutation test)",
        float(check.invariant),
        math.nan,
        "pass" if check.invariant >= check.latent_dim else "info",
        "Directions of the scores whose mean and covariance do not move. As many as latent "
        "instruments: a linear encoder will do. Fewer: the instruments mix the latent "
        "non-linearly, or nothing is invariant.",
    )


def _unless(pvalue: float) -> Verdict:
    return "warn" if pvalue < ALPHA else "pass"


def _judges(cohort: Cohort, block: TrainingBlock, latent_dim: int) -> NDArray[np.bool_]:
    """Who judges, of the cohort, in environments with people enough."""
    num_environments = len(cohort.names("environments"))
    counts = np.bincount(block.environment[block.aside], minlength=num_environments)
    enough = counts >= JUDGES_PER_DIMENSION * (latent_dim + 1)
    if enough.sum() < 2:
        raise InputError(
            "an encoder is judged by 15 % of the people, who do not train it, and they must be "
            f"{JUDGES_PER_DIMENSION * (latent_dim + 1)} or more in at least two environments; "
            f"found {int(enough.sum())} such; merge environments, or give more people"
        )
    judges = np.zeros(cohort.num_samples, dtype=np.bool_)
    judges[block.start.rows[block.aside & enough[block.environment]]] = True
    return judges


def _unseen(cohort: Cohort, judges: NDArray[np.bool_], latent: NDArray[np.float32]) -> ArrayCohort:
    """The judges by themselves, as people whom the only encoder has not seen."""
    arrays = {name: cohort.array(name)[judges] for name in ("environment", "family")}
    arrays["fold"] = np.ones(len(latent), dtype=np.int8)
    return ArrayCohort(latent, arrays, {"environments": cohort.names("environments")})
