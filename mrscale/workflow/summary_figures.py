"""Numbers for the figures of summary-data analyses: leave-one-out, scatter, forest and funnel."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mrscale.stats.summary.associations import wald
from mrscale.stats.summary.panel import UNIVARIATE, Options, run_univariate
from mrscale.workflow.summary_inputs import choose, one_of, read_associations, require_options
from mrscale.workflow.summary_mr import tabulate


def leave_one_out(
    beta_exposure: ArrayLike,
    se_exposure: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
    *,
    method: str = "ivw",
    correlation: ArrayLike | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """The estimate without each variant in turn, and, last, with all of them.

    Parameters
    ----------
    beta_exposure, se_exposure, beta_outcome, se_outcome, correlation, seed, level
        As in ``summary_mr``; one exposure.
    method : str, default "ivw"
        A method of ``summary_mr`` that needs no sample sizes or frequencies.

    Returns
    -------
    DataFrame
        The columns of ``summary_mr`` but ``exposure``, with ``variant``, the one left out; "all" in
        the last row.

    Raises
    ------
    InputError
        If the numbers or the method cannot be used.

    Examples
    --------
    >>> import mrscale as mr
    >>> summary = ([0.1, 0.2, 0.3], [0.01] * 3, [0.05, 0.1, 0.16], [0.02] * 3)
    >>> mr.leave_one_out(*summary)[["variant", "estimate"]].round(2)
      variant  estimate
    0       1      0.52
    1       2      0.53
    2       3      0.50
    3     all      0.52
    """
    table = read_associations(beta_exposure, se_exposure, beta_outcome, se_outcome, correlation)
    table.require_one_exposure("leave_one_out")
    one_of("method", method, list(UNIVARIATE))
    options = Options(level=level, seed=seed)
    require_options(options)
    a, everyone = table.associations, np.arange(table.associations.num_variants)
    rest = [(v, a.select(np.delete(everyone, i))) for i, v in enumerate(table.variants)]
    rows = [
        tabulate(run_univariate(method, one, options), variant=variant, method=method)
        for variant, one in [*rest, ("all", a)]
        if one.num_variants
    ]
    found = pd.DataFrame(rows)
    found.attrs["level"] = level
    return found


def scatter_data(
    beta_exposure: ArrayLike,
    se_exposure: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
) -> pd.DataFrame:
    """Points of the scatter plot: associations oriented to the allele that raises the exposure.

    Parameters
    ----------
    beta_exposure, se_exposure, beta_outcome, se_outcome : array-like, shape (M,)
        As in ``summary_mr``; one exposure.

    Returns
    -------
    DataFrame
        variant, beta_exposure (never negative), se_exposure, beta_outcome, se_outcome. The lines
        have ``intercept`` (zero where NaN) and slope ``estimate`` of the rows of ``summary_mr``.

    Raises
    ------
    InputError
        If the numbers cannot be used.

    Examples
    --------
    >>> import mrscale as mr
    >>> summary = ([0.1, 0.2, 0.3], [0.01] * 3, [0.05, 0.1, 0.16], [0.02] * 3)
    >>> mr.scatter_data(*summary).shape
    (3, 5)
    """
    table = read_associations(beta_exposure, se_exposure, beta_outcome, se_outcome)
    table.require_one_exposure("scatter_data")
    a = table.associations.oriented()
    return pd.DataFrame(
        {
            "variant": table.variants,
            "beta_exposure": a.bx,
            "se_exposure": a.sx,
            "beta_outcome": a.by,
            "se_outcome": a.sy,
        }
    )


def forest_data(
    beta_exposure: ArrayLike,
    se_exposure: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
    *,
    methods: Iterable[str] = ("ivw", "egger"),
    correlation: ArrayLike | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Rows of the forest plot: each variant's Wald ratio, then the estimates from all variants.

    Parameters
    ----------
    beta_exposure, se_exposure, beta_outcome, se_outcome : array-like, shape (M,)
        As in ``summary_mr``; one exposure.
    methods : iterable of str, default ("ivw", "egger")
        Methods of ``summary_mr`` below the ratios.
    correlation, level
        As in ``summary_mr``.

    Returns
    -------
    DataFrame
        variant ("all" below the ratios), method, estimate, std_error, ci_lower, ci_upper, pvalue,
        note.

    Raises
    ------
    InputError
        If the numbers or a method cannot be used.

    Examples
    --------
    >>> import mrscale as mr
    >>> summary = ([0.1, 0.2, 0.3], [0.01] * 3, [0.05, 0.1, 0.16], [0.02] * 3)
    >>> mr.forest_data(*summary)[["variant", "method", "estimate"]].round(2)
      variant      method  estimate
    0       1  wald_ratio      0.50
    1       2  wald_ratio      0.50
    2       3  wald_ratio      0.53
    3     all         ivw      0.52
    4     all       egger      0.55
    """
    table = read_associations(beta_exposure, se_exposure, beta_outcome, se_outcome, correlation)
    table.require_one_exposure("forest_data")
    options = Options(level=level)
    require_options(options)
    a = table.associations
    ratios = [
        tabulate(wald(float(b), float(e), 1, level=level), variant=variant, method="wald_ratio")
        for variant, b, e in zip(table.variants, a.ratio, a.ratio_error(), strict=True)
    ]
    pooled = [
        tabulate(run_univariate(name, a, options), variant="all", method=name)
        for name in choose(methods, list(UNIVARIATE), list(UNIVARIATE))
    ]
    shown = ["variant", "method", "estimate", "std_error", "ci_lower", "ci_upper", "pvalue", "note"]
    found = pd.DataFrame([*ratios, *pooled])[shown]
    found.attrs["level"] = level
    return found


def funnel_data(
    beta_exposure: ArrayLike,
    se_exposure: ArrayLike,
    beta_outcome: ArrayLike,
    se_outcome: ArrayLike,
) -> pd.DataFrame:
    """Points of the funnel plot.

    Parameters
    ----------
    beta_exposure, se_exposure, beta_outcome, se_outcome : array-like, shape (M,)
        As in ``summary_mr``; one exposure.

    Returns
    -------
    DataFrame
        variant, estimate (its Wald ratio) and precision (1 / first-order standard error).

    Raises
    ------
    InputError
        If the numbers cannot be used.

    Examples
    --------
    >>> import mrscale as mr
    >>> summary = ([0.1, 0.2, 0.3], [0.01] * 3, [0.05, 0.1, 0.16], [0.02] * 3)
    >>> mr.funnel_data(*summary).round(2)
       variant  estimate  precision
    0        1      0.50        5.0
    1        2      0.50       10.0
    2        3      0.53       15.0
    """
    table = read_associations(beta_exposure, se_exposure, beta_outcome, se_outcome)
    table.require_one_exposure("funnel_data")
    a = table.associations
    return pd.DataFrame(
        {"variant": table.variants, "estimate": a.ratio, "precision": 1 / a.ratio_error()}
    )
