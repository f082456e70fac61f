"""When to believe the learned estimate: the rules that choose the headline and say why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mrscale.results import Diagnostic, Trust, Verdict
from mrscale.stats.misfit import Misfit
from mrscale.stats.pooling import MetaAnalysis

WEAK_F = 10.0
RIVAL = "tsls_pc"


@dataclass(frozen=True)
class LearnedFit:
    """What is known of one learned instrument besides its estimate.

    Attributes
    ----------
    method : str
    first_stage_f : float
        Of the estimate with controls, the smallest over encoders.
    misfit : Misfit
    heterogeneity : MetaAnalysis
        Of the estimate over environments.
    remainder_dim, num_environments : int
    invariant : int
        Number of directions that the permutation test found invariant, the median over folds.
    latent_dim : int
    """

    method: str
    first_stage_f: float
    misfit: Misfit
    heterogeneity: MetaAnalysis
    remainder_dim: int
    num_environments: int
    invariant: int
    latent_dim: int

    @property
    def identifiable(self) -> bool:
        """Whether there are environments enough for this many moving dimensions."""
        return self.num_environments >= 2 * self.remainder_dim + 1


@dataclass(frozen=True)
class Judgement:
    """Headline key, trust in the learned estimate, reasons, and the checks behind them."""

    headline: str
    trust: Trust
    reasons: tuple[str, ...]
    diagnostics: tuple[Diagnostic, ...]


def judge(fits: Sequence[LearnedFit]) -> Judgement:
    """Choose the headline among the learned fits and the PC- and environment-adjusted rival.

    Notes
    -----
    The linear encoder with controls where the permutation test found at least as many invariant
    directions as it uses and its misfit checks pass; otherwise the flow encoder with controls.
    Whenever F < 10, a misfit check fails, or there are fewer than 2 k + 1 environments for k
    remainder dimensions, the headline is 2SLS adjusted for PCs and environments.
    """
    if not fits:
        reason = "no learned instruments were trained in this run"
        return Judgement(RIVAL, "red", (reason,), ())
    chosen = _choose(fits)
    checks = tuple(d for one in fits for d in _diagnostics(one))
    reasons = _reasons(chosen)
    if chosen.first_stage_f < WEAK_F or not chosen.misfit.passed:
        return Judgement(RIVAL, "red", reasons, checks)
    if not chosen.identifiable:
        return Judgement(RIVAL, "amber", reasons, checks)
    trust: Trust = "amber" if chosen.heterogeneity.q_pvalue < 0.05 else "green"
    return Judgement(f"{chosen.method}_controls", trust, reasons, checks)


def _choose(fits: Sequence[LearnedFit]) -> LearnedFit:
    by_method = {one.method: one for one in fits}
    linear = by_method.get("linear")
    if linear and linear.invariant >= linear.latent_dim and linear.misfit.passed:
        return linear
    return by_method.get("flow", fits[0])


def _reasons(chosen: LearnedFit) -> tuple[str, ...]:
    found = []
    if chosen.first_stage_f < WEAK_F:
        found.append(
            f"the {chosen.method} latent hardly predicts the exposure (F {chosen.first_stage_f:.1f}"
            f" < {WEAK_F:.0f})"
        )
    if not chosen.misfit.passed:
        found.append(
            f"the {chosen.method} latent can still be predicted from the remainder and the "
            "environment, so confounding may have stayed in it"
        )
    if not chosen.identifiable:
        found.append(
            f"{chosen.num_environments} environments are too few to separate "
            f"{chosen.remainder_dim} moving dimensions (2 x {chosen.remainder_dim} + 1 = "
            f"{2 * chosen.remainder_dim + 1} are needed)"
        )
    if chosen.heterogeneity.q_pvalue < 0.05:
        found.append(
            "the learned estimate differs between environments "
            f"(Cochran Q p = {chosen.heterogeneity.q_pvalue:.2g})"
        )
    return tuple(found) or (
        f"the {chosen.method} latent predicts the exposure, looks the same in every environment, "
        "and cannot be predicted from the remainder",
    )


def _diagnostics(one: LearnedFit) -> list[Diagnostic]:
    name = one.method.capitalize()
    q = one.heterogeneity
    needed = 2 * one.remainder_dim + 1

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
            f"environments, for k = {one.remainder_dim} moving",
            one.num_environments,
            f">= {needed}",
            "pass" if one.identifiable else "warn",
            "A sufficient number of environments to tell what moves from what stays. With fewer, "
            "the encoder may keep a confounded direction and no check would notice.",
        ),
        check(
            "predictability of the latent (cross-fitted R2)",
            one.misfit.r2,
            "< 0.01",
            "pass" if one.misfit.r2 < 0.01 else "fail",
            "Whether the learned instrument can be predicted from the remainder and the "
            "environment, in people not used for training. It finds bad fits; it cannot certify "
            "that the right direction was found.",
        ),
        check(
            "law of the latent given the rest (log-likelihood ratio per person)",
            one.misfit.likelihood_ratio,
            "< 0",
            "pass" if one.misfit.likelihood_ratio < 0 else "fail",
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
            one.invariant,
            "for information",
            "info",
            "Directions of the genotype scores whose mean and covariance do not move between "
            "environments. None is found where genotypes mix the latent non-linearly.",
        ),
    ]
