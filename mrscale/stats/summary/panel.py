"""The panel: names of methods, what each needs, and how it is run.

Legend: M variants, P exposures.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.random import Generator

from mrscale.stats.moments import Floats
from mrscale.stats.summary.associations import Associations, SummaryEstimate, not_applicable
from mrscale.stats.summary.constrained import cml, cml_perturbed
from mrscale.stats.summary.likelihood import debiased_ivw, maximum_likelihood
from mrscale.stats.summary.median import median_estimate, penalised_weights
from mrscale.stats.summary.mixture import contamination_mixture
from mrscale.stats.summary.mode import mode_estimate
from mrscale.stats.summary.multivariable import mvmr_egger, mvmr_ivw
from mrscale.stats.summary.presso import presso
from mrscale.stats.summary.regression import egger, egger_bootstrap, ivw, wald_ratio
from mrscale.stats.summary.robust_score import Loss, raps
from mrscale.stats.summary.steiger import explained

ErrorOrder = Literal["first_order", "second_order"]
Reference = Literal["normal", "t"]


@dataclass(frozen=True, eq=False)
class Options:
    """What the methods may be told; the defaults are those of ``summary_mr``."""

    level: float = 0.95
    reference: Reference = "normal"
    median_weights: ErrorOrder = "first_order"
    mode_errors: ErrorOrder = "second_order"
    mode_bandwidth: float = 1.0
    mode_grid: int | None = None
    raps_loss: Loss = "huber"
    num_resamples: int = 10_000
    num_obs_exposure: int | None = None
    num_obs_outcome: int | None = None
    allele_frequency: Floats | None = None
    seed: int = 0

    @property
    def student(self) -> bool:
        """Whether the reference distribution is t."""
        return self.reference == "t"

    def generator(self, name: str) -> Generator:
        """A method's own random numbers, whichever others run beside it."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])


Run = Callable[[Associations, Options, Generator], SummaryEstimate]


@dataclass(frozen=True)
class Recipe:
    """A method of the panel.

    Attributes
    ----------
    run : callable
    fewest : int, default 3
        Variants needed.
    correlated : bool, default False
        Whether it allows for correlated variants.
    on_request : bool, default False
        Left out of ``methods="all"``.
    """

    run: Run
    fewest: int = 3
    correlated: bool = False
    on_request: bool = False


def _median(kind: Literal["simple", "weighted", "penalised"]) -> Run:
    def run(a: Associations, o: Options, rng: Generator) -> SummaryEstimate:
        weights = a.ratio_error(second_order=o.median_weights == "second_order") ** -2
        if kind == "simple":
            weights = np.ones(a.num_variants)
        if kind == "penalised":
            weights = penalised_weights(a, weights)
        if not weights.any():
            return not_applicable("every variant is an outlier", a.num_variants)
        dof = a.num_variants - 1 if o.student else math.inf
        return median_estimate(a, weights, o.level, rng, o.num_resamples, dof)

    return run


def _mode(kind: Literal["simple", "weighted"]) -> Run:
    def run(a: Associations, o: Options, rng: Generator) -> SummaryEstimate:
        second = o.mode_errors == "second_order"
        weighted = a.ratio_error(second_order=second) ** -2
        return mode_estimate(
            a,
            weighted if kind == "weighted" else np.ones(a.num_variants),
            o.level,
            rng,
            o.num_resamples,
            second_order=second,
            factor=o.mode_bandwidth,
            grid=o.mode_grid,
            dof=a.num_variants - 1 if o.student else math.inf,
        )

    return run


def _cml(perturbed: bool) -> Run:
    def run(a: Associations, o: Options, rng: Generator) -> SummaryEstimate:
        if o.num_obs_exposure is None or o.num_obs_outcome is None:
            reason = "needs the sample sizes, num_obs_exposure and num_obs_outcome"
            return not_applicable(reason, a.num_variants)
        num_obs = min(o.num_obs_exposure, o.num_obs_outcome)
        return cml_perturbed(a, num_obs, o.level, rng) if perturbed else cml(a, num_obs, o.level)

    return run


def _presso(a: Associations, o: Options, rng: Generator) -> SummaryEstimate:
    tests = presso(a, rng, o.num_resamples)
    note = f"global test p = {tests.global_pvalue:.2g}"
    if tests.outliers.any():
        note += f"; outliers removed: {tests.outliers.sum()} (presso says which)"
    if math.isfinite(tests.distortion_pvalue):
        note += f"; distortion test p = {tests.distortion_pvalue:.2g}"
    if a.num_variants / (1 + o.num_resamples) >= 0.05:
        note += "; too few resamples to name an outlier"
    if (~tests.outliers).sum() < 2:
        return not_applicable(f"too few variants without the outliers; {note}", a.num_variants)
    return replace(_ivw_of(a.select(~tests.outliers), o), note=note)


def _steiger_filtered(a: Associations, o: Options, _: Generator) -> SummaryEstimate:
    if o.allele_frequency is None and (o.num_obs_exposure is None or o.num_obs_outcome is None):
        reason = "needs allele_frequency, or num_obs_exposure and num_obs_outcome"
        return not_applicable(reason, a.num_variants)
    x = explained(a.bx, a.sx, o.num_obs_exposure, o.allele_frequency)
    y = explained(a.by, a.sy, o.num_obs_outcome, o.allele_frequency)
    keep = x > y
    if keep.sum() < 2:
        reason = "fewer than two variants explain more of the exposure than of the outcome"
        return not_applicable(reason, int(keep.sum()))
    note = f"{keep.sum()} of {len(keep)} variants pass Steiger's filter"
    return replace(_ivw_of(a.select(keep), o), note=note)


def _ivw_of(chosen: Associations, o: Options) -> SummaryEstimate:
    row = ivw(chosen, o.level, student=o.student)
    return replace(row, f_statistic=chosen.mean_f())


UNIVARIATE: dict[str, Recipe] = {
    "wald_ratio": Recipe(lambda a, o, _: wald_ratio(a, o.level), fewest=1, correlated=True),
    "ivw": Recipe(lambda a, o, _: ivw(a, o.level, student=o.student), fewest=2, correlated=True),
    "ivw_fixed": Recipe(
        lambda a, o, _: ivw(a, o.level, random=False, student=o.student), fewest=2, correlated=True
    ),
    "egger": Recipe(lambda a, o, _: egger(a, o.level, student=o.student), correlated=True),
    "egger_bootstrap": Recipe(lambda a, o, g: egger_bootstrap(a, o.level, g, o.num_resamples)),
    "simple_median": Recipe(_median("simple")),
    "weighted_median": Recipe(_median("weighted")),
    "penalised_median": Recipe(_median("penalised")),
    "simple_mode": Recipe(_mode("simple")),
    "weighted_mode": Recipe(_mode("weighted")),
    "maximum_likelihood": Recipe(lambda a, o, _: maximum_likelihood(a, o.level), correlated=True),
    "contamination_mixture": Recipe(lambda a, o, _: contamination_mixture(a, o.level)),
    "debiased_ivw": Recipe(lambda a, o, _: debiased_ivw(a, o.level)),
    "raps": Recipe(lambda a, o, _: raps(a, o.level, loss=o.raps_loss)),
    "presso": Recipe(_presso, fewest=4),
    "cml": Recipe(_cml(perturbed=False)),
    "cml_perturbed": Recipe(_cml(perturbed=True), on_request=True),
    "steiger_filtered": Recipe(_steiger_filtered),
}
"""Methods for one exposure, in the order of the table."""

MULTIVARIABLE: dict[str, Callable[[Associations, Options], list[SummaryEstimate]]] = {
    "mvmr_ivw": lambda a, o: mvmr_ivw(a, o.level, student=o.student),
    "mvmr_ivw_fixed": lambda a, o: mvmr_ivw(a, o.level, random=False, student=o.student),
    "mvmr_egger": lambda a, o: mvmr_egger(a, o.level, student=o.student),
}
"""Methods for several exposures."""


def run_univariate(name: str, a: Associations, options: Options) -> SummaryEstimate:
    """One method on one exposure; a row that says why where it does not apply."""
    recipe = UNIVARIATE[name]
    if name == "wald_ratio" and a.num_variants > 1:
        return not_applicable("is for a single variant", a.num_variants)
    if a.num_variants < recipe.fewest:
        reason = f"needs at least {recipe.fewest} variants, {a.num_variants} given"
        return not_applicable(reason, a.num_variants)
    if a.correlation is not None and not recipe.correlated:
        return not_applicable("needs uncorrelated variants", a.num_variants)
    row = recipe.run(a, options, options.generator(name))
    of_others = row.num_variants < a.num_variants or math.isnan(row.estimate)
    return row if of_others else replace(row, f_statistic=a.mean_f())


def run_multivariable(name: str, a: Associations, options: Options) -> list[SummaryEstimate]:
    """One method on P exposures, one row each."""
    fewest = a.bx.shape[1] + (2 if name == "mvmr_egger" else 1)
    if a.num_variants < fewest:
        reason = f"needs at least {fewest} variants, {a.num_variants} given"
        return [not_applicable(reason, a.num_variants)] * a.bx.shape[1]
    return MULTIVARIABLE[name](a, options)
