"""The same regression in each environment and without each, beside that on everybody.

All of them take one pass over the store: a fit's moments come from those of groups of people,
and people's influence on every fit is summed together.

Legend: N people, C design columns, P exposures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import LinAlgError

from mrscale.disclosure import is_small, may_tell_more_than
from mrscale.errors import InputError
from mrscale.results.cohort import ESTIMATES
from mrscale.stats.first_stage import classical_f
from mrscale.stats.identification import require_estimable
from mrscale.stats.kclass import Influence, KClass, KClassName, fit_kclass, kappa_of
from mrscale.stats.moments import Floats, Moments, pool
from mrscale.stats.pooling import interval, meta_analysis, random_effects
from mrscale.stats.reduced import Columns, Reduced, reduce_design
from mrscale.stats.small_sample import SmallSample, reference_dof, small_sample_scale
from mrscale.stream.products import Group
from mrscale.workflow.store_data import StoreData

NOBODY = "nobody here has the exposure, the outcome and every covariate"
TOO_FEW = "there are hardly more people here than instruments, covariates and exposures"
ALL_TOO_FEW = f"{TOO_FEW}; give fewer instruments, or traits that more people have"
FEW_CASES = "few people here have, or few lack, what a trait of 0 and 1 tells"
ALL_FEW_CASES = f"{FEW_CASES}; their number would follow from an estimate"
_NO_NUMBER = "the columns are too nearly collinear here for a finite estimate"


@dataclass(frozen=True, eq=False)
class SubsetFit:
    """A k-class fit on some of the environments.

    Attributes
    ----------
    kclass : KClass
    reduced : Reduced
    influence : Influence
        Of design rows of the subset.
    """

    kclass: KClass
    reduced: Reduced
    influence: Influence


@dataclass(frozen=True, eq=False)
class Subset:
    """One regression on some of the environments.

    Attributes
    ----------
    label : str
        The environment's name.
    environments : tuple of int
        Whose people are in it.
    columns : ndarray of int
        Columns of the whole design that it uses.
    num_obs : int
    num_clusters : int or None
        If errors are clustered.
    fit : SubsetFit or None
    reason : str
        Why there is none.
    """

    label: str
    environments: tuple[int, ...]
    columns: NDArray[np.intp]
    num_obs: int
    num_clusters: int | None
    fit: SubsetFit | None
    reason: str = ""


def each_environment(
    data: StoreData, groups: dict[Group, Moments], estimator: KClassName
) -> list[Subset]:
    """Fits in each environment by itself, without indicators of environments."""
    names, found = data.rows.store.names("environments"), []
    for e in data.present:
        moments = environment_moments(groups, e)
        one = _subset(data, names[e], (e,), data.within, moments, estimator)
        if one.fit and not may_tell_more(data, len(data.within), e):
            one = replace(one, fit=None, reason=TOO_FEW)
        if one.fit and few_of_either(moments, data.columns.num_exposures + 1):
            one = replace(one, fit=None, reason=FEW_CASES)
        found.append(one)
    return found


def few_of_either(moments: Moments, num_traits: int) -> bool:
    """Whether one of the last columns holds 0 and 1, and 1 to 20 people have either: their number
    would follow from errors and residuals."""
    n = moments.count
    for column in range(-num_traits, 0):
        ones = n * moments.mean[column]
        squares = moments.cross[column, column] + ones * moments.mean[column]
        # a sum of squares that is the sum
        if abs(squares - ones) <= 1e-6 * n and (is_small(round(ones)) or is_small(n - round(ones))):
            return True
    return False


def may_tell_more(data: StoreData, needed: int, code: int) -> bool:
    """Whether it may be told that more than ``needed`` people of an environment have the traits,
    and it is so."""
    used = int((data.environment == code).sum())
    return used > needed and may_tell_more_than(needed, used, [int(data.sizes[code])])


def without_each_environment(
    data: StoreData, groups: dict[Group, Moments], estimator: KClassName
) -> list[Subset]:
    """Fits on everybody else, for each of two environments or more."""
    if len(data.present) < 2:
        return []
    names, columns, found = data.rows.store.names("environments"), np.arange(data.columns.width), []
    for left_out in data.present:
        others = tuple(code for code in data.present if code != left_out)
        part = {group: moments for group, moments in groups.items() if group[0] != left_out}
        moments = data.with_indicators(part)
        one = _subset(data, names[left_out], others, columns, moments, estimator)
        # else that there is an estimate would tell of the sum of their people
        if one.fit and not any(may_tell_more(data, len(columns), code) for code in others):
            one = replace(one, fit=None, reason=TOO_FEW)
        if one.fit and few_of_either(moments, data.columns.num_exposures + 1):
            one = replace(one, fit=None, reason=FEW_CASES)
        found.append(one)
    return found


def environment_moments(groups: dict[Group, Moments], code: int) -> Moments:
    """Moments of one environment, its folds together."""
    return pool([moments for group, moments in groups.items() if group[0] == code])


def influence_scores(
    data: StoreData, subsets: Sequence[Subset]
) -> Callable[[Floats, Floats | None], tuple[Floats, ...]]:
    """A function of design rows: people's influence on every fit, zero outside its subset."""
    fits = [(one.environments, one.columns, one.fit.influence) for one in subsets if one.fit]
    return partial(_influences, fits, np.array(data.present), data.indicators)


def _influences(
    fits: Sequence[tuple[tuple[int, ...], NDArray[np.intp], Influence]],
    present: NDArray[np.intp],
    indicators: NDArray[np.intp],
    rows: Floats,
    _: Floats | None,
) -> tuple[Floats, ...]:
    position = rows[:, indicators] @ np.arange(1, len(present))
    environment = present[position.astype(np.intp)]
    found = []
    for environments, columns, influence in fits:
        values = np.zeros((len(rows), influence.exposures.shape[1]))
        inside = np.isin(environment, environments)
        if inside.any():
            values[inside] = influence.of_rows(rows[inside][:, columns])
        found.append(values)
    return tuple(found)


def estimates_table(
    exposures: Sequence[str],
    subsets: Sequence[Subset],
    sums: dict[str, Floats] | None,
    *,
    small_sample: SmallSample,
) -> pd.DataFrame:
    """Rows of :data:`mrscale.results.cohort.ESTIMATES`.

    Parameters
    ----------
    exposures : sequence of str
    subsets : sequence of Subset
    sums : dict of str to ndarray, shapes (P, P), or None
        Sums of products of influence values, by label; None for classical errors.
    small_sample : bool or "n-k"
        As for :func:`mrscale.iv`.
    """
    rows: list[dict[str, Any]] = []
    for subset in subsets:
        same = {"label": subset.label, "num_obs": subset.num_obs, "note": subset.reason}
        if subset.fit is None:
            rows += [{**same, "exposure": name, "num_instruments": 0} for name in exposures]
            continue
        fit, reduced = subset.fit.kclass, subset.fit.reduced
        cov = fit.bread * fit.residual_ss / subset.num_obs if sums is None else sums[subset.label]
        n, k = subset.num_obs, reduced.num_controls + reduced.num_exposures
        dof = reference_dof(n, k, subset.num_clusters, small_sample)
        if small_sample:
            cov = cov * small_sample_scale(n, k, subset.num_clusters)
        same["num_instruments"] = reduced.num_instruments
        f = classical_f(reduced) if reduced.num_instruments else np.full(len(exposures), np.nan)
        for i, name in enumerate(exposures):
            numbers = wald(fit.estimate[i], cov[i, i] ** 0.5, dof)
            rows.append({**same, "exposure": name, **numbers, "first_stage_f": float(f[i])})
    return pd.DataFrame(rows, columns=list(ESTIMATES))


def with_the_others(
    table: pd.DataFrame, names: Sequence[str], exposures: Sequence[str], people: dict[int, int]
) -> pd.DataFrame:
    """A table of environments with a row for each that is not in it, and why.

    ``people`` are those with all the traits, by environment code.
    """
    there = set(table["label"])
    rows = [
        {
            "label": name,
            "exposure": exposure,
            "num_obs": people.get(code, 0),
            "num_instruments": 0,
            "note": TOO_FEW if people.get(code) else NOBODY,
        }
        for code, name in enumerate(names)
        if name not in there
        for exposure in exposures
    ]
    return pd.DataFrame([*table.to_dict("records"), *rows], columns=list(ESTIMATES))


def meta_table(table: pd.DataFrame) -> pd.DataFrame:
    """Fixed- and random-effects means over environments, two rows per exposure."""
    rows = []
    for exposure, part in table.dropna(subset=["estimate"]).groupby("exposure", sort=False):
        b, error = part["estimate"].to_numpy(float), part["std_error"].to_numpy(float)
        fixed, random = meta_analysis(b, error), random_effects(b, error)
        common = {
            "exposure": exposure,
            "num_obs": int(part["num_obs"].sum()),
            "num_instruments": int(part["num_instruments"].min()),
            "first_stage_f": float(part["first_stage_f"].min()),
            "num_environments": len(part),
            "Q": fixed.q,
            "Q_pvalue": fixed.q_pvalue,
            "I2": fixed.i2,
            "tau2": random.tau2,
            "note": "num_instruments and first_stage_f are those of the weakest environment",
        }
        for label, one in (("fixed effects", fixed), ("random effects", random)):
            rows.append({"label": label, **wald(one.estimate, one.std_error), **common})
    return pd.DataFrame(rows)


def wald(estimate: float, std_error: float, dof: float = math.inf) -> dict[str, float]:
    """Estimate, error, 95 % interval and p-value, as tables of estimates name them."""
    low, high, pvalue = interval(float(estimate), float(std_error), dof=dof)
    return {
        "estimate": float(estimate),
        "std_error": float(std_error),
        "ci_lower": low,
        "ci_upper": high,
        "pvalue": pvalue,
    }


def _subset(
    data: StoreData,
    label: str,
    environments: tuple[int, ...],
    columns: NDArray[np.intp],
    moments: Moments,
    estimator: KClassName,
) -> Subset:
    clusters = None
    if data.codes is not None:
        clusters = len(np.unique(data.codes[np.isin(data.environment, environments)]))
    try:
        fit, reason = _fit(data, columns, moments, estimator), ""
        if clusters is not None and clusters < 2:
            fit, reason = None, "clustered errors need two clusters or more"
    except InputError as error:
        fit, reason = None, str(error)
    return Subset(label, environments, columns, moments.count, clusters, fit, reason)


def _fit(
    data: StoreData, columns: NDArray[np.intp], moments: Moments, estimator: KClassName
) -> SubsetFit | None:
    whole = data.columns
    m, p = whole.num_instruments, whole.num_exposures
    design = Columns(m, len(columns) - m - p - 1, p)
    reduced, basis = reduce_design(moments, design)
    if moments.count <= max(m, 1) + reduced.num_controls + p:
        # said without their number, which need not be one that may be shown
        raise InputError(TOO_FEW)
    instrumented = estimator != "ols"
    require_estimable(moments, reduced, design, data.exposures.names, instrumented=instrumented)
    try:
        fit = fit_kclass(reduced, kappa_of(estimator, reduced))
    except LinAlgError:
        raise InputError(_NO_NUMBER) from None
    return SubsetFit(fit, reduced, Influence.of(fit, reduced, basis))
