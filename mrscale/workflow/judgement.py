"""When to believe the learned estimate: the rules that choose the headline and say why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mrscale.results import Diagnostic, Trust, Verdict
from mrscale.results.pair import RIVAL
from mrscale.stats.first_stage import WEAK_F
from mrscale.stats.misfit import LIKELIHOOD_LIMIT, R2_LIMIT
from mrscale.stats.pooling import MetaAnalysis
from mrscale.workflow.checks import SMALL_ENVIRONMENT, LatentCheck


@dataclass(frozen=True)
class LearnedFit:
    """What is known of one learned instrument besides its estimate.

    Attributes
    ----------
    check : LatentCheck
        What was seen without any trait.
    first_stage_f : float
        Of the estimate with controls, the smallest over encoders.
    heterogeneity : MetaAnalysis
        Of the estimate over environments.
    overidentification : float
        p-value of Hansen's J.
    without_controls, from_rival : tuple of (float, float)
        Difference of the estimate from that without controls and from the adjusted 2SLS, each with
        its standard error.
    from_others : dict of str to tuple of (float, float)
        The same from the estimates with controls of the other methods.
    """

    check: LatentCheck
    first_stage_f: float
    heterogeneity: MetaAnalysis
    overidentification: float
    without_controls: tuple[float, float]
    from_rival: tuple[float, float]
    from_others: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Judgement:
    """Headline key, trust in the learned estimate, reasons, the checks behind them, and the method
    that was judged, if there was one."""

    headline: str
    trust: Trust
    reasons: tuple[str, ...]
    diagnostics: tuple[Diagnostic, ...]
    method: str | None = None


def judge(fits: Sequence[LearnedFit]) -> Judgement:
    """Choose the headline among the learned fits and the adjusted rival.

    Notes
    -----
    The linear encoder with controls where the permutation test found at least as many invariant
    directions as it uses and its misfit checks pass; otherwise the flow encoder with controls.
    Whenever F < 10, a misfit check fails, or there are fewer than 2 k + 1 environments for k
    remainder dimensions, the headline is 2SLS adjusted for environments, and PCs if given. Red:
    weak, misfit, or two environments only. Amber: too few environments, one of fewer than 200
    people for each encoder, or estimates that differ between environments.
    """
    if not fits:
        reason = "no learned instruments were trained in this run"
        return Judgement(RIVAL, "red", (reason,), ())
    chosen = _choose(fits)
    checks = tuple(d for one in fits for d in _diagnostics(one))
    reasons, method = _reasons(chosen), chosen.check.method
    two_only = chosen.check.num_environments == 2
    if chosen.first_stage_f < WEAK_F or not chosen.check.misfit.passed or two_only:
        return Judgement(RIVAL, "red", reasons, checks, method)
    if not chosen.check.identifiable:
        return Judgement(RIVAL, "amber", reasons, checks, method)
    small = chosen.check.smallest_environment < SMALL_ENVIRONMENT
    trust: Trust = "amber" if chosen.heterogeneity.q_pvalue < 0.05 or small else "green"
    return Judgement(f"{method}_controls", trust, reasons, checks, method)


def _choose(fits: Sequence[LearnedFit]) -> LearnedFit:
    by_method = {one.check.method: one for one in fits}
    linear = by_method.get("linear")
    if linear and linear.check.linear_suffices:
        return linear
    return by_method.get("flow", fits[0])


def _reasons(chosen: LearnedFit) -> tuple[str, ...]:
    check, found = chosen.check, []
    latent = f"the {check.method} latent"
    if chosen.first_stage_f < WEAK_F:
        found.append(
            f"{latent} hardly predicts the exposure (F {chosen.first_stage_f:.1f} < {WEAK_F:.0f})"
        )
    if not check.misfit.passed:
        found.append(
            f"{latent} can still be predicted from the remainder and the environment, so "
            "confounding may have stayed in it"
        )
    if not check.identifiable:
        k = check.remainder_dim
        found.append(
            f"{check.num_environments} environments are too few to separate {k} moving dimensions "
            f"(2 x {k} + 1 = {2 * k + 1} are needed)"
        )
    if check.smallest_environment < SMALL_ENVIRONMENT:
        found.append(
            f"the smallest environment gives an encoder fewer than {SMALL_ENVIRONMENT} people, so "
            "its law is hardly known"
        )
    if chosen.heterogeneity.q_pvalue < 0.05:
        found.append(
            "the learned estimate differs between environments "
            f"(Cochran Q p = {chosen.heterogeneity.q_pvalue:.2g})"
        )
    return tuple(found) or (
        f"{latent} predicts the exposure, looks the same in every environment, and cannot be "
        "predicted from the remainder",
    )


def _diagnostics(one: LearnedFit) -> list[Diagnostic]:
    name = one.check.method.capitalize()
    q = one.heterogeneity
    needed = 2 * one.check.remainder_dim + 1

    def check(title: str, value: float, rule: str, verdict: Verdict, meaning: str) -> Diagnostic:
        return Diagnostic(f"{name}: {title}", value, rule, verdict, meaning)

    return [
        check(
            "first-stage F (smallest over encoders)",
            one.first_stage_f,
            f">= {WEAK_F:.0f}",
            "pass" if one.first_stage_f >= WEAK_F else "fail",
            "How strongly the learned instrument predicts the exposure. A useless instrument "
            "passes every other check, so look here first.",
        ),
        check(
            f"environments, for k = {one.check.remainder_dim} moving",
            one.check.num_environments,
            f">= {needed}",
            "pass" if one.check.identifiable else "warn",
            "A sufficient number of environments to tell what moves from what stays. With fewer, "
            "the encoder may keep a confounded direction and no check would notice.",
        ),
        check(
            "predictability of the latent (cross-fitted R2)",
            one.check.misfit.r2,
            f"< {R2_LIMIT:g}",
            "pass" if one.check.misfit.r2 < R2_LIMIT else "fail",
            "Whether the learned instrument can be predicted from the remainder and the "
            "environment, in people not used for training. It finds bad fits; it cannot certify "
            "that the right direction was found.",
        ),
        check(
            "law of the latent given the rest (log-likelihood ratio per person)",
            one.check.misfit.likelihood_ratio,
            f"< {LIKELIHOOD_LIMIT:g}",
            "pass" if one.check.misfit.likelihood_ratio < LIKELIHOOD_LIMIT else "fail",
            "Whether the spread of the learned instrument depends on the remainder or the "
            "environment. Same use and same limit as the check above.",
        ),
        check(
            "heterogeneity over environments (Cochran Q p-value)",
            q.q_pvalue,
            ">= 0.05",
            "pass" if math.isnan(q.q_pvalue) or q.q_pvalue >= 0.05 else "warn",
            "Whether the estimate differs between environments more than chance allows: a sign "
            "of remaining confounding or of truly different effects. One false alarm in twenty.",
        ),
        check(
            "invariant linear directions (permutation test)",
            one.check.invariant,
            "for information",
            "info",
            "Directions of the genotype scores whose mean and covariance do not move between "
            "environments. None is found where genotypes mix the latent non-linearly.",
        ),
    ]
