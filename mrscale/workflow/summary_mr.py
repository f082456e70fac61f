"""Mendelian randomization from summary data: the panel of methods, MR-PRESSO and Steiger's test.

Legend: M variants, P exposures.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import asdict

import pandas as pd
from numpy.typing import ArrayLike

from mrscale.errors import InputError
from mrscale.stats.summary.associations import SummaryEstimate
from mrscale.stats.summary.panel import (
    MULTIVARIABLE,
    UNIVARIATE,
    ErrorOrder,
    Options,
    Reference,
    run_multivariable,
    run_univariate,
)
from mrscale.stats.summary.presso import Presso
from mrscale.stats.summary.presso import presso as presso_tests
from mrscale.stats.summary.robust_score import Loss
from mrscale.stats.summary.steiger import Steiger, explained
from mrscale.stats.summary.steiger import steiger as steiger_test
from mrscale.workflow.summary_inputs import (
    Table,
    choose,
    frequencies,
    read_associations,
    require,
    require_options,
)

SHOWN = {
    "q": "Q",
    "q_dof": "Q_dof",
    "q_pvalue": "Q_pvalue",
    "i2": "I2",
    "i2_gx": "I2_GX",
    "f_statistic": "F",
}
"""Statistics are written in tables as in the literature."""


def summary_mr(
    beta_exposure: ArrayLike,
    se_exposure: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
    *,
    methods: str | Iterable[str] = "all",
    correlation: ArrayLike | None = None,
    seed: int = 0,
    level: float = 0.95,
    reference: Reference = "normal",
    median_weights: ErrorOrder = "first_order",
    mode_errors: ErrorOrder = "second_order",
    mode_bandwidth: float = 1.0,
    mode_grid: int | None = None,
    raps_loss: Loss = "huber",
    num_resamples: int = 10_000,
    num_obs_exposure: int | None = None,
    num_obs_outcome: int | None = None,
    allele_frequency: ArrayLike | None = None,
) -> pd.DataFrame:
    """Causal estimates from per-variant associations, by every method that applies.

    Parameters
    ----------
    beta_exposure, se_exposure : array-like, shape (M,) or (M, P)
        Associations of M variants with the exposure, per effect allele, and standard errors.
        Several columns mean multivariable Mendelian randomization; columns of a DataFrame name
        the exposures.
    beta_outcome, se_outcome : array-like, shape (M,)
        Associations with the outcome, for the same effect alleles.
    methods : str or iterable of str, default "all"
        Names from the column ``method``. "all" leaves out ``cml_perturbed``, which is slow, and
        ``wald_ratio`` unless there is one variant.
    correlation : array-like, shape (M, M), optional
        Correlation of the variants, signed by the effect alleles. Methods that need uncorrelated
        variants then do not apply, and say so.
    seed : int, default 0
        Each method draws from its own stream, so that results do not depend on which others run.
    level : float, default 0.95
        Coverage of the intervals.
    reference : {"normal", "t"}, default "normal"
        Reference distribution of IVW, MR-Egger, medians, modes and multivariable estimates:
        normal as in MendelianRandomization; t with M - 1 (MR-Egger M - 2, multivariable M - P)
        degrees of freedom as its ``distribution="t-dist"``. TwoSampleMR: t for MR-Egger and
        modes only.
    median_weights : {"first_order", "second_order"}, default "first_order"
        Errors of the ratios that weight the medians: first order as in MendelianRandomization,
        second as in TwoSampleMR.
    mode_errors : {"second_order", "first_order"}, default "second_order"
        Errors of the ratios for the modes; "first_order" is the NOME assumption.
    mode_bandwidth : float, default 1.0
        Multiplies the bandwidth of the modes (phi).
    mode_grid : int, optional
        None finds the mode itself; 512 takes the points that R's ``density`` evaluates.
    raps_loss : {"huber", "tukey", "l2"}, default "huber"
        Loss of MR-RAPS; overdispersion is always allowed for.
    num_resamples : int, default 10,000
        Of medians, modes, the MR-Egger bootstrap and MR-PRESSO.
    num_obs_exposure, num_obs_outcome : int, optional
        Sample sizes, for cML (the smaller one) and Steiger's filter.
    allele_frequency : array-like, shape (M,), optional
        Effect-allele frequencies for Steiger's filter, where both traits have unit variance.

    Returns
    -------
    DataFrame
        One row per method (and exposure): method, exposure, estimate, std_error, ci_lower,
        ci_upper, pvalue, num_variants, Q, Q_dof, Q_pvalue, I2, intercept, intercept_std_error,
        intercept_pvalue, I2_GX, F, note. Where a method does not apply its numbers are NaN and
        the note begins with "not applicable". ``attrs`` holds seed and number of resamples.

    Raises
    ------
    InputError
        If the numbers, the correlation, a method or an option cannot be used.

    Warnings
    --------
    Associations must come from independent samples for the methods that weigh errors of both
    (maximum likelihood, cML, RAPS, debiased IVW); instruments chosen in the same sample that
    estimates ``beta_exposure`` carry the winner's curse.

    Notes
    -----
    Formulas and references are with each kernel in ``mrscale.stats.summary``; a table of methods,
    defaults and the packages they equal is in ``docs/summary-data.md``.

    Examples
    --------
    >>> import mrscale as mr
    >>> summary = ([0.1, 0.2, 0.3], [0.01] * 3, [0.05, 0.1, 0.16], [0.02] * 3)
    >>> table = mr.summary_mr(*summary, methods=["ivw", "weighted_median", "egger"])
    >>> table[["method", "estimate", "std_error"]].round(2)
                method  estimate  std_error
    0              ivw      0.52       0.05
    1  weighted_median      0.52       0.06
    2            egger      0.55       0.14

    A method that cannot be used says why.

    >>> mr.summary_mr(*summary, methods="presso")["note"].item()
    'not applicable: needs at least 4 variants, 3 given'
    """
    table = read_associations(beta_exposure, se_exposure, beta_outcome, se_outcome, correlation)
    options = Options(
        level=level,
        reference=reference,
        median_weights=median_weights,
        mode_errors=mode_errors,
        mode_bandwidth=mode_bandwidth,
        mode_grid=mode_grid,
        raps_loss=raps_loss,
        num_resamples=num_resamples,
        num_obs_exposure=num_obs_exposure,
        num_obs_outcome=num_obs_outcome,
        allele_frequency=frequencies(allele_frequency, table),
        seed=seed,
    )
    require_options(options)
    result = _panel(table, methods, options)
    result.attrs.update(seed=seed, num_resamples=num_resamples, level=level)
    return result


def _panel(table: Table, methods: str | Iterable[str], options: Options) -> pd.DataFrame:
    a, rows = table.associations, []
    if a.bx.ndim > 1:
        for name in choose(methods, list(MULTIVARIABLE), list(MULTIVARIABLE)):
            estimates = run_multivariable(name, a, options)
            for exposure, one in zip(table.exposures, estimates, strict=True):
                rows.append(tabulate(one, method=name, exposure=exposure))
        return pd.DataFrame(rows)
    everything = [
        name
        for name, recipe in UNIVARIATE.items()
        if not recipe.on_request and (name != "wald_ratio" or a.num_variants == 1)
    ]
    for name in choose(methods, list(UNIVARIATE), everything):
        one = run_univariate(name, a, options)
        rows.append(tabulate(one, method=name, exposure=table.exposures[0]))
    return pd.DataFrame(rows)


def tabulate(estimate: SummaryEstimate, **labels: Hashable) -> dict[str, Hashable]:
    """A row of a table: labels first, then the numbers by the names they are shown with."""
    return labels | {SHOWN.get(name, name): value for name, value in asdict(estimate).items()}


def presso(
    beta_exposure: ArrayLike,
    se_exposure: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
    *,
    seed: int = 0,
    num_resamples: int = 10_000,
    significance: float = 0.05,
) -> Presso:
    """The global, outlier and distortion tests of MR-PRESSO.

    Parameters
    ----------
    beta_exposure, se_exposure, beta_outcome, se_outcome : array-like, shape (M,)
        As in ``summary_mr``; at least four variants.
    seed : int, default 0
        The same gives the tests that ``summary_mr`` makes.
    num_resamples : int, default 10,000
        An outlier's corrected p-value is at least ``M / (num_resamples + 1)``.
    significance : float, default 0.05
        Of the global test and of each outlier.

    Returns
    -------
    Presso

    Raises
    ------
    InputError
        If the numbers cannot be used, or resamples are too few to name an outlier.

    Examples
    --------
    >>> import mrscale as mr
    >>> outcome = [0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.11, 0.3]
    >>> exposure = [0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.22, 0.1]
    >>> mr.presso(exposure, [0.01] * 8, outcome, [0.02] * 8).outliers.nonzero()[0]
    array([7])
    """
    table = read_associations(beta_exposure, se_exposure, beta_outcome, se_outcome)
    table.require_one_exposure("presso")
    options = Options(num_resamples=num_resamples, seed=seed)
    require_options(options)
    require(0 < significance < 1, "significance", "between 0 and 1", significance)
    num_variants = table.associations.num_variants
    if num_variants < 4:
        raise InputError(f"presso needs at least four variants; {num_variants} given")
    if num_variants / (1 + num_resamples) >= significance:
        raise InputError(
            f"presso needs more than {num_variants / significance:,.0f} resamples to name an "
            f"outlier among {num_variants:,} variants; num_resamples is {num_resamples:,}"
        )
    rng = options.generator("presso")
    return presso_tests(table.associations, rng, num_resamples, significance=significance)


def steiger(
    beta_exposure: ArrayLike,
    se_exposure: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
    *,
    num_obs_exposure: int,
    num_obs_outcome: int,
    allele_frequency: ArrayLike | None = None,
) -> Steiger:
    """Steiger's test of the direction from exposure to outcome.

    Parameters
    ----------
    beta_exposure, se_exposure, beta_outcome, se_outcome : array-like, shape (M,)
        As in ``summary_mr``.
    num_obs_exposure, num_obs_outcome : int
        Sample sizes.
    allele_frequency : array-like, shape (M,), optional
        If given, a variant explains ``2 f (1 - f) beta^2`` of a trait of unit variance; otherwise
        ``t^2 / (t^2 + n - 2)``, whatever the unit.

    Returns
    -------
    Steiger

    Raises
    ------
    InputError
        If the numbers cannot be used, or variants seem to explain all of a trait.

    Warnings
    --------
    Neither form is the liability-scale variance of a binary trait.

    Examples
    --------
    >>> import mrscale as mr
    >>> summary = ([0.1, 0.2, 0.3], [0.01] * 3, [0.05, 0.1, 0.16], [0.02] * 3)
    >>> found = mr.steiger(*summary, num_obs_exposure=10_000, num_obs_outcome=10_000)
    >>> found.forward, round(found.r2_exposure, 2), round(found.r2_outcome, 2)
    (True, 0.13, 0.01)
    """
    table = read_associations(beta_exposure, se_exposure, beta_outcome, se_outcome)
    table.require_one_exposure("steiger")
    if num_obs_exposure is None or num_obs_outcome is None:
        raise InputError("steiger needs num_obs_exposure and num_obs_outcome, the studies' sizes")
    require_options(Options(num_obs_exposure=num_obs_exposure, num_obs_outcome=num_obs_outcome))
    a = table.associations
    frequency = frequencies(allele_frequency, table)
    x = explained(a.bx, a.sx, num_obs_exposure, frequency)
    y = explained(a.by, a.sy, num_obs_outcome, frequency)
    for name, share in (("exposure", x.sum()), ("outcome", y.sum())):
        if share >= 1:
            raise InputError(
                f"the variants must explain less than all of the {name}; they explain {share:.3g} "
                "times its variance; give independent variants, and effects per standard deviation "
                "where allele_frequency is given"
            )
    return steiger_test(x, y, num_obs_exposure, num_obs_outcome)
