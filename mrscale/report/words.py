"""The sentences of the report: what the numbers say, and what they do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mrscale.plots.numbers import f_statistic, interval, number, p_value
from mrscale.results import Estimate, PairResult, StudyResult
from mrscale.results.pair import RIVAL, LeftOut
from mrscale.stats.pooling import MetaAnalysis

LEARNED = ("flow_controls", "kernel_controls", "linear_controls", "flow", "kernel", "linear")
"""Learned estimates, the one to quote first."""

Row = TypeVar("Row", Estimate, LeftOut)
_MUCH_WIDER = 5.0
_CAVEATS = {
    "green": "The checks on which trust in the learned instruments rests have passed; what no "
    "check can see is listed under Limits.",
    "amber": "Read it with care: not every check on the learned instruments has passed.",
    "red": "The learned instruments are not to be relied on here.",
}


def answer(pair: PairResult) -> str:
    """The one sentence that a reader takes away."""
    best, places = pair[pair.headline], pair.decimals
    if math.isnan(best.estimate):
        return f"No estimate of the effect of {pair.exposure} on {pair.outcome} is available."
    return (
        f"Raising {pair.exposure} by one unit changes {pair.outcome} by "
        f"{number(best.estimate, places)} "
        f"(95 % interval {interval(best.ci_lower, best.ci_upper, places)})."
    )


def caveat(pair: PairResult) -> str:
    """Which estimate the answer is, and how far to believe it."""
    trust = _CAVEATS[pair.trust] if learned(pair) else "No instruments were learned."
    parts = [f"This is the estimate “{pair[pair.headline].label}”.", trust]
    if pair.headline == RIVAL:
        parts.append(
            "The answer holds if, once the covariates and environments are adjusted for, "
            f"every variant acts on {pair.outcome} through {pair.exposure} alone. Robust to weak "
            f"instruments (Anderson-Rubin): {_lower_first(anderson_rubin(pair))}"
        )
    best = pair[pair.headline]
    if best.ci_lower <= 0 <= best.ci_upper:
        parts.append("The interval includes zero: the data are compatible with no effect.")
    return " ".join(parts)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def learned(pair: PairResult) -> Estimate | None:
    """The learned estimate to compare with: the headline if it is one, else the best present."""
    present = {e.key: e for e in pair.estimates if not math.isnan(e.estimate)}
    order = (pair.headline, *LEARNED) if pair.headline in LEARNED else LEARNED
    return next((present[key] for key in order if key in present), None)


def comparison(pair: PairResult) -> str:
    """How the learned estimate compares with 2SLS adjusted for environments, and PCs if given."""
    rivals = [e for e in pair.estimates if e.key == RIVAL and not math.isnan(e.estimate)]
    best = learned(pair)
    if not rivals or best is None:
        missing = "learned estimate" if rivals else "adjusted 2SLS estimate"
        return f"No comparison is possible: there is no {missing} for this pair."
    if pair.truth is None:
        return _agreement(pair, best, rivals[0])
    return _contest(pair, best, rivals[0], pair.truth)


def _contest(pair: PairResult, best: Estimate, rival: Estimate, truth: float) -> str:
    places = pair.decimals
    errors = abs(best.estimate - truth), abs(rival.estimate - truth)
    if abs(errors[0] - errors[1]) < 0.5 * min(best.std_error, rival.std_error):
        verdict = (
            "Adjusting does as well here: the two errors differ by less than half a standard error."
        )
    elif errors[1] < errors[0]:
        verdict = "The adjusted 2SLS is closer to the truth here."
    else:
        verdict = "The learned estimate is closer to the truth here."
    return (
        f"These data are simulated, so the truth is known: {number(truth, places)}. "
        f"{_miss('The learned estimate', best, truth, places)}; "
        f"{_miss(f'“{rival.label}”', rival, truth, places)}. {verdict}"
    )


def _miss(name: str, estimate: Estimate, truth: float, places: int) -> str:
    covers = estimate.ci_lower <= truth <= estimate.ci_upper
    return (
        f"{name} ({number(estimate.estimate, places)}) misses it by "
        f"{number(abs(estimate.estimate - truth), places)} and its interval "
        f"{'contains' if covers else 'does not contain'} it"
    )


def _agreement(pair: PairResult, best: Estimate, rival: Estimate) -> str:
    return (
        f"The learned estimate {_with_interval(best, pair)} and “{rival.label}” "
        f"{_with_interval(rival, pair)} {_overlap(best, rival)}. "
        "The adjusted one relies on what it is adjusted for capturing all that confounds the "
        "variants; the learned one relies on the clean part of the genotypes having the same "
        "distribution in every environment, and on every confounded part moving between them."
    )


def _with_interval(e: Estimate, pair: PairResult) -> str:
    places = pair.decimals
    span = interval(e.ci_lower, e.ci_upper, places)
    return f"({number(e.estimate, places)}, 95 % interval {span})"


def _overlap(best: Estimate, rival: Estimate) -> str:
    if best.ci_lower > rival.ci_upper or rival.ci_lower > best.ci_upper:
        return "disagree: their intervals are apart"
    widths = sorted(e.ci_upper - e.ci_lower for e in (best, rival))
    if widths[1] > _MUCH_WIDER * widths[0]:
        return "have overlapping intervals, but one is so much wider that this says little"
    return "agree within their intervals"


def anderson_rubin(pair: PairResult) -> str:
    """The Anderson-Rubin set of the adjusted 2SLS in words."""
    if RIVAL not in {e.key for e in pair.estimates}:
        return "Not computed: there is no adjusted 2SLS for this pair."
    if not pair.anderson_rubin:
        return (
            "The set is empty: no effect size is compatible with all variants at once. Some of "
            "them are not valid instruments, or their effects differ; this is not precision."
        )
    ends = [end for piece in pair.anderson_rubin for end in piece]
    if ends == [-math.inf, math.inf]:
        return (
            "The set is unbounded, the whole line: for these data the instruments are too weak, or "
            "too many for people or clusters so few, to exclude any effect size."
        )
    places = pair.decimals
    pieces = " and ".join(_piece(low, high, places) for low, high in pair.anderson_rubin)
    union = "the union of " if len(pair.anderson_rubin) > 1 else ""
    tail = (
        " It is unbounded: the instruments are too weak to exclude arbitrarily large effects."
        if any(math.isinf(end) for end in ends)
        else ""
    )
    return f"The effect sizes not rejected at 95 % are {union}{pieces}.{tail}"


def _piece(low: float, high: float, places: int) -> str:
    if math.isinf(low):
        return f"everything up to {number(high, places)}"
    if math.isinf(high):
        return f"everything from {number(low, places)} up"
    return interval(low, high, places)


def heterogeneity(meta: MetaAnalysis, num_environments: int) -> str:
    """Cochran's Q and I2 of the per-environment estimates in words."""
    differ = meta.q_pvalue < 0.05
    freedom = num_environments - 1
    return (
        f"Heterogeneity: Cochran Q = {meta.q:.1f} on {freedom} degree{'s' * (freedom > 1)} of "
        f"freedom (p {_equal(p_value(meta.q_pvalue))}), I² = {100 * meta.i2:.0f} %. The "
        "environments "
        + (
            "disagree by more than chance: the effect differs between them, or the variants are "
            "confounded by different amounts."
            if differ
            else "agree as far as chance allows; a bias that all of them share does not show here."
        )
    )


def _equal(text: str) -> str:
    return text if text.startswith("<") else f"= {text}"


def describe_forest(pair: PairResult) -> str:
    """Text alternative of the forest plot."""
    truth = "" if pair.truth is None else f" The truth, {number(pair.truth, 3)}, is marked."
    return (
        _describe(
            f"Forest plot of the effect of {pair.exposure} on {pair.outcome}",
            pair,
            pair.estimates,
            lambda e: e.label,
        )
        + truth
    )


def describe_environments(pair: PairResult) -> str:
    """Text alternative of the per-environment figure."""
    title = f"2SLS estimates of {pair.exposure} on {pair.outcome} inside each environment"
    return _describe(title, pair, pair.per_environment, lambda e: e.key)


def describe_first_stage(pair: PairResult) -> str:
    """Text alternative of the figure of first stages."""
    shown = [e for e in pair.estimates if not math.isnan(e.first_stage_f)]
    strength = "; ".join(f"{e.label} {f_statistic(e.first_stage_f)}" for e in shown)
    return f"First-stage F statistics: {strength or 'none'}."


def describe_without(pair: PairResult) -> str:
    """Text alternative of the figure of environments left out."""
    title = f"Estimates of {pair.exposure} on {pair.outcome}, one environment left out"
    return _describe(title, pair, pair.without, lambda one: f"without {one.label}")


def farthest(means: NDArray[np.float64], names: list[str]) -> str:
    """Where the means of latents are farthest from zero, in words."""
    distance = np.nanmax(np.abs(np.nan_to_num(means)), axis=1)
    code = int(distance.argmax())
    return f"the latent's mean farthest from zero is {distance[code]:.2f}, in {names[code]}"


def instruments(pair: PairResult, num_variants: int) -> str:
    """Caption of the table of instruments."""
    listed = len(pair.instruments)
    which = "All" if listed == num_variants else f"The {listed:,} strongest of {num_variants:,}"
    return (
        f"{which} instruments, with their associations per effect allele; a frequency, and "
        "standard errors, that would tell a small count are not shown."
    )


def left_out(result: StudyResult) -> str:
    """Caption of the table of candidates that are no instruments."""
    total = sum(count for status, count in result.variants.items() if status != "kept")
    listed = len(result.left_out)
    which = "Candidates" if listed >= total else f"The first {listed:,} of {total:,} candidates"
    return f"{which} that are no instruments, and why."


def _describe(
    title: str, pair: PairResult, rows: tuple[Row, ...], name: Callable[[Row], str]
) -> str:
    places = pair.decimals
    text = "; ".join(
        f"{name(e)} {number(e.estimate, places)} ({interval(e.ci_lower, e.ci_upper, places)})"
        for e in rows
    )
    return f"{title}: {text}."
