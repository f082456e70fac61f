"""Every estimator of one exposure and outcome, with its checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice

import numpy as np

from mrscale.errors import InputError
from mrscale.progress import Advance, silent
from mrscale.results import Estimate, LeftOut, PairResult
from mrscale.results.pair import RIVAL
from mrscale.sampling.plan import blocks
from mrscale.stats.moments import Floats
from mrscale.stats.pooling import MetaAnalysis, interval, meta_analysis
from mrscale.stats.weak import anderson_rubin
from mrscale.store.reader import GenotypeStore
from mrscale.stream.engine import Client
from mrscale.workflow.checks import LatentCheck
from mrscale.workflow.designs import GENOTYPE, PairData
from mrscale.workflow.fitting import (
    Fitted,
    FrameMoments,
    few_cases,
    fit,
    fit_within,
    fit_without,
    frame_moments,
    in_several_clusters,
    may_be_shown,
    select,
    with_errors,
)
from mrscale.workflow.instrument_list import AdjustedVariants, strongest
from mrscale.workflow.judgement import LearnedFit, judge
from mrscale.workflow.sensitivity import NAIVE, sensitivity
from mrscale.workflow.subsets import ALL_FEW_CASES, ALL_TOO_FEW


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
    fits : dict of str to Fitted
        Those behind the estimates, by key.
    without : dict of str to tuple of LeftOut
        Of those that may be the headline, without each environment, by key.
    adjusted : AdjustedVariants
        The variants, one by one and one left out, as in the adjusted 2SLS.
    """

    estimates: tuple[Estimate, ...]
    per_environment: tuple[Estimate, ...]
    learned: tuple[LearnedFit, ...]
    anderson_rubin: tuple[tuple[float, float], ...]
    fits: dict[str, Fitted]
    without: dict[str, tuple[LeftOut, ...]]
    adjusted: AdjustedVariants


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
    store = data.store
    pair = PairResult(
        exposure=store.names("exposures")[data.exposure],
        outcome=store.names("outcomes")[data.outcome],
        estimates=found.estimates,
        headline=verdict.headline,
        trust=verdict.trust,
        reasons=verdict.reasons,
        diagnostics=verdict.diagnostics,
        per_environment=found.per_environment,
        anderson_rubin=found.anderson_rubin,
        without=found.without[verdict.headline],
        truth=truth,
    )
    return replace(
        pair,
        sensitivity=sensitivity(
            found.fits, pair, data.latents, found.adjusted.without_one, verdict.method
        ),
        instruments=strongest(store, found.adjusted) if isinstance(store, GenotypeStore) else (),
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
    estimators, names = data.estimators(), cohort.names("environments")
    present = sorted(code for frame, code in moments if frame == GENOTYPE)
    quotable = {RIVAL, *(f"{method}_controls" for method in checks)}
    sizes = np.bincount(cohort.array("environment"), minlength=len(names))
    shown = partial(may_be_shown, moments=moments, sizes=sizes)
    whole = [fit(moments, one) for one in estimators]
    if few_cases(moments):
        raise InputError(ALL_FEW_CASES)
    if not all(map(shown, whole)):
        raise InputError(ALL_TOO_FEW)
    within = [one for e in estimators for one in fit_within(moments, e, present)]
    others = [e for e in estimators if e.key in quotable]
    without = [one for e in others for one in fit_without(moments, e, present)]
    kinds = [whole, [*filter(shown, within)], [*filter(shown, without)]]
    kinds = in_several_clusters(data, kinds)
    fitted, covariance = with_errors(client, cuts, data, [*chain(*kinds)], progress=progress)
    rest = iter(fitted)
    everywhere, within, without = (list(islice(rest, len(kind))) for kind in kinds)
    by_key = {one.estimator.key: one for one in everywhere}
    inside = {key: [one for one in within if one.estimator.key == key] for key in by_key}
    metas = {key: _meta(ones) for key, ones in inside.items()}
    num_obs = select(moments, GENOTYPE).count
    estimates = [
        replace(one.result(num_obs), q_pvalue=metas[key].q_pvalue) for key, one in by_key.items()
    ]
    naive = _inside(inside[NAIVE], moments, names)
    if naive:
        used = sum(e.num_obs for e in naive)
        estimates.insert(3, _meta_result(inside[NAIVE], used, len(names)))
    difference = partial(_contrast, list(by_key), by_key, covariance)
    rival = by_key[RIVAL]
    adjusted = select(moments, GENOTYPE).select(rival.estimator.columns)
    return PairFits(
        estimates=tuple(estimates),
        per_environment=naive,
        learned=tuple(
            _learned_fit(check, by_key, metas, list(checks), difference)
            for check in checks.values()
        ),
        anderson_rubin=anderson_rubin(rival.fits[0].reduced, meats=rival.meats).intervals,
        fits=by_key,
        without={key: _without(without, key, present, names) for key in quotable},
        adjusted=AdjustedVariants.of(adjusted, rival.fits[0]),
    )


def _inside(
    fitted: Sequence[Fitted], moments: FrameMoments, names: Sequence[str]
) -> tuple[Estimate, ...]:
    found = []
    for one in fitted:
        (code,) = one.environments
        count = moments[GENOTYPE, code].count
        found.append(one.result(count, key=names[code], label=names[code]))
    return tuple(found)


def _without(
    fitted: Sequence[Fitted], key: str, present: Sequence[int], names: Sequence[str]
) -> tuple[LeftOut, ...]:
    found = []
    for one in fitted:
        if one.estimator.key == key:
            (left_out,) = set(present) - set(one.environments)
            e = one.result(0)
            numbers = (e.estimate, e.ci_lower, e.ci_upper, e.first_stage_f)
            found.append(LeftOut(names[left_out], *numbers))
    return tuple(found)


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
