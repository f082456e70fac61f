"""Every estimator of one exposure and outcome, with its checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mrscale.disclosure import may_tell_more_than
from mrscale.progress import Advance, silent
from mrscale.results import Estimate, PairResult
from mrscale.sampling.plan import blocks
from mrscale.stats.iv import reduced_pair
from mrscale.stats.moments import Floats
from mrscale.stats.pooling import MetaAnalysis, interval, meta_analysis
from mrscale.stats.weak import anderson_rubin
from mrscale.stream.engine import Client
from mrscale.workflow.checks import LatentCheck
from mrscale.workflow.cohorts import Cohort
from mrscale.workflow.designs import GENOTYPE, Estimator, PairData
from mrscale.workflow.fitting import (
    Fitted,
    FrameMoments,
    fit,
    fit_within,
    frame_moments,
    select,
    with_errors,
)
from mrscale.workflow.judgement import RIVAL, LearnedFit, judge

NAIVE = "tsls"
"""Key of 2SLS on all variants, which is also estimated inside each environment."""


@dataclass(frozen=True)
class PairFits:
    """Every estimator of a pair, before anything is concluded from them.

    Attributes
    ----------
    estimates, per_environment : tuple of Estimate
    learned : tuple of LearnedFit
        What the verdict depends on, per method.
    anderson_rubin : tuple of (float, float)
        As for :class:`mrscale.results.PairResult`.
    """

    estimates: tuple[Estimate, ...]
    per_environment: tuple[Estimate, ...]
    learned: tuple[LearnedFit, ...]
    anderson_rubin: tuple[tuple[float, float], ...]


def estimate_pair(
    client: Client | None,
    data: PairData,
    checks: Mapping[str, LatentCheck],
    *,
    truth: float | None = None,
    progress: Advance = silent,
) -> PairResult:
    """Estimate one exposure's effect on one outcome, and judge the learned instruments.

    Parameters
    ----------
    client, data, checks, progress
        As for :func:`fit_pair`.
    truth : float, optional
        The simulated effect.
    """
    found = fit_pair(client, data, checks, progress=progress)
    verdict = judge(found.learned)
    return PairResult(
        exposure=data.store.names("exposures")[data.exposure],
        outcome=data.store.names("outcomes")[data.outcome],
        estimates=found.estimates,
        headline=verdict.headline,
        trust=verdict.trust,
        reasons=verdict.reasons,
        diagnostics=verdict.diagnostics,
        per_environment=found.per_environment,
        anderson_rubin=found.anderson_rubin,
        truth=truth,
    )


def fit_pair(
    client: Client | None,
    data: PairData,
    checks: Mapping[str, LatentCheck],
    *,
    progress: Advance = silent,
) -> PairFits:
    """Every estimator of one exposure and outcome, in two passes over the people.

    Parameters
    ----------
    client : distributed.Client or None
        As for :func:`mrscale.stream.reduce.reduce_blocks`.
    data : PairData
    checks : mapping of str to LatentCheck
        Of the latents in ``data``, per method.
    progress : Advance
        Told of both passes; the amounts sum to 2.
    """
    cohort = data.store
    cuts = blocks(cohort.num_samples, cohort.layout.chunk_rows)
    moments = frame_moments(client, cuts, data, progress=progress)
    estimators = data.estimators()
    names = cohort.names("environments")
    everywhere = [fit(moments, one) for one in estimators]
    within = [one for e in estimators for one in fit_within(moments, e, range(len(names)))]
    fitted, covariance = with_errors(client, cuts, data, [*everywhere, *within], progress=progress)
    by_key = {one.estimator.key: one for one in fitted[: len(estimators)]}
    inside = {
        e.key: [one for one in fitted[len(estimators) :] if one.estimator.key == e.key]
        for e in estimators
    }
    inside[NAIVE] = [one for one in inside[NAIVE] if _may_be_shown(one, moments, cohort)]
    metas = {key: _meta(ones) for key, ones in inside.items()}
    num_obs = select(moments, GENOTYPE).count
    estimates = [
        replace(one.result(num_obs), q_pvalue=metas[key].q_pvalue) for key, one in by_key.items()
    ]
    naive = inside[NAIVE]
    if naive:
        used = sum(moments[GENOTYPE, one.environment].count for one in naive)
        estimates.insert(3, _meta_result(naive, used, len(names)))
    difference = partial(_contrast, list(by_key), by_key, covariance)
    return PairFits(
        estimates=tuple(estimates),
        per_environment=tuple(
            one.result(
                moments[GENOTYPE, one.environment].count,
                key=names[one.environment],
                label=names[one.environment],
            )
            for one in naive
        ),
        learned=tuple(
            _learned_fit(check, by_key, metas, list(checks), difference)
            for check in checks.values()
        ),
        anderson_rubin=_anderson_rubin(moments, next(e for e in estimators if e.key == RIVAL)),
    )


def _learned_fit(
    check: LatentCheck,
    by_key: Mapping[str, Fitted],
    metas: Mapping[str, MetaAnalysis],
    methods: Sequence[str],
    difference: Callable[[str, str], tuple[float, float]],
) -> LearnedFit:
    key = f"{check.method}_controls"
    others = {method: f"{method}_controls" for method in methods if method != check.method}
    return LearnedFit(
        check=check,
        first_stage_f=by_key[key].first_stage_f,
        heterogeneity=metas[key],
        overidentification=by_key[key].overidentification.pvalue,
        without_controls=difference(key, check.method),
        from_rival=difference(key, RIVAL),
        from_others={method: difference(key, other) for method, other in others.items()},
    )


def _may_be_shown(one: Fitted, moments: FrameMoments, cohort: Cohort) -> bool:
    """Whether an estimate inside an environment tells no more of its people than their count."""
    size = int((cohort.array("environment") == one.environment).sum())
    used = moments[GENOTYPE, one.environment].count
    return may_tell_more_than(len(one.estimator.columns), used, [size])


def _contrast(
    keys: list[str], by_key: Mapping[str, Fitted], covariance: Floats, one: str, other: str
) -> tuple[float, float]:
    """Difference of two estimates and its standard error, the encoders' own error included."""
    i, j = keys.index(one), keys.index(other)
    variance = covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]
    for key in (one, other):
        pooled = by_key[key].pooled
        variance += pooled.between_variance / len(by_key[key].fits) if pooled else 0.0
    difference = by_key[one].estimate - by_key[other].estimate
    return float(difference), math.sqrt(max(float(variance), 0.0))


def _meta(fitted: list[Fitted]) -> MetaAnalysis:
    estimates = np.array([one.estimate for one in fitted])
    return meta_analysis(estimates, np.array([one.std_error for one in fitted]))


def _anderson_rubin(moments: FrameMoments, rival: Estimator) -> tuple[tuple[float, float], ...]:
    selected = select(moments, GENOTYPE).select(rival.columns)
    return anderson_rubin(reduced_pair(selected, len(rival.instruments))[0]).intervals


def _meta_result(within: list[Fitted], num_obs: int, num_environments: int) -> Estimate:
    """Naive 2SLS inside the environments that allow it, pooled by inverse variance."""
    pooled = _meta(within)
    lower, upper, pvalue = interval(pooled.estimate, pooled.std_error)
    return Estimate(
        key="meta",
        label="2SLS within environments, meta-analysed",
        estimate=pooled.estimate,
        std_error=pooled.std_error,
        ci_lower=lower,
        ci_upper=upper,
        pvalue=pvalue,
        num_obs=num_obs,
        num_instruments=min(fit.num_instruments for one in within for fit in one.fits),
        first_stage_f=min(one.first_stage_f for one in within),
        q_pvalue=pooled.q_pvalue,
        note="First-stage F is that of the weakest environment."
        + (
            f" Only {len(within)} of {num_environments} environments have people enough for this "
            "many instruments."
            if len(within) < num_environments
            else ""
        ),
    )
