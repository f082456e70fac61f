"""``mrscale.iv_many``: 2SLS of every exposure on every outcome, in two passes for all of them.

Legend: N people, M instruments, K covariates, P exposures, Q outcomes, S patterns of missingness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from mrscale.errors import InputError
from mrscale.results.parameters import require_level
from mrscale.stats.batch import EXACT, NOTES, ONE_CLUSTER, BatchFit, fit_pairs
from mrscale.stats.crosses import Index
from mrscale.stats.moments import Floats
from mrscale.stats.pair_scores import PairScores
from mrscale.stats.patterns import Labels
from mrscale.stats.small_sample import SmallSample, reference_dof, small_sample_scale
from mrscale.workflow.columns import require_choice, require_small_sample
from mrscale.workflow.pairs import PairRows

Errors = Literal["classical", "robust", "cluster"]
MEMORY_LIMIT = 512 * 2**20


def iv_many(
    outcomes: Any,
    exposures: Any,
    instruments: Any,
    *,
    instruments_of: Mapping[str, Sequence[str | int] | str | int] | None = None,
    covariates: Any = None,
    errors: Errors = "robust",
    clusters: Any = None,
    small_sample: SmallSample = False,
    level: float = 0.95,
    memory_limit: int = MEMORY_LIMIT,
) -> pd.DataFrame:
    """Estimate the effect of each of P exposures on each of Q outcomes by 2SLS.

    Parameters
    ----------
    outcomes, exposures : array-like, shapes (N, Q) and (N, P)
        numpy, dask, xarray or pandas. NaN is missing: a pair uses everybody who has both traits.
    instruments : array-like, shape (N, M)
        Of all exposures; complete.
    instruments_of : mapping, optional
        Names, or numbers of columns that have no such name, or a mask of the columns, of each
        exposure's own instruments, by the exposure's name. The others are then not used for it in
        any way.
    covariates : array-like, shape (N, K), optional
        Partialled out of everything, with an intercept; complete.
    errors : str, default "robust"
        ``"classical"``, ``"robust"`` (HC0) or ``"cluster"``.
    clusters : array-like, shape (N,), optional
        Cluster of each person, for ``errors="cluster"``.
    small_sample : bool or "n-k", default False
        As for :func:`mrscale.iv`: errors scaled by N / (N - K), for clusters also by
        G / (G - 1) (N - 1) / N, and p-values from t(N - K), for clusters t(G - 1)
        unless "n-k".
    level : float, default 0.95
        Of the confidence intervals.
    memory_limit : int, default 512 MiB
        Bytes that a thread may use for the working arrays of one block of rows.

    Returns
    -------
    DataFrame
        A row per pair, exposures first: ``exposure``, ``outcome``, ``estimate``, ``std_error``,
        ``statistic``, ``pvalue``, ``ci_lower``, ``ci_upper``, ``num_obs``, ``num_instruments``
        (independent ones given the covariates), ``first_stage_f`` (classical) and ``note``: why
        there is no estimate or no error, or empty.

    Raises
    ------
    InputError
        If lengths differ, instruments or covariates have missing values, a name is unknown, or
        the pairs do not fit into ``memory_limit``.

    Notes
    -----
    Every row equals :func:`mrscale.iv` on the people who have both traits. One pass over the rows
    for the estimates and classical errors, a second one for robust or clustered errors, for all
    pairs together. Pairs that use the same people share the work and the memory: the cost is per
    distinct pattern of missingness, about one more product of [Z | W] with the pattern's traits
    in each pass, and ``(M + K)^2`` numbers.

    Clusters may lie anywhere; with dask arrays, those that lie in several blocks of rows cost
    P x Q numbers each, so sort people by cluster.

    Examples
    --------
    >>> import numpy as np, mrscale as mr
    >>> rng = np.random.default_rng(0)
    >>> z = rng.binomial(2, 0.3, (5000, 3))
    >>> x = z @ rng.uniform(0.2, 0.5, (3, 2)) + rng.normal(size=(5000, 2))
    >>> table = mr.iv_many(x @ [[1.0], [0.0]] + rng.normal(size=(5000, 1)), x, z)
    >>> table[["exposure", "outcome", "num_obs", "num_instruments"]]
         exposure  outcome  num_obs  num_instruments
    0  exposure_0  outcome     5000                3
    1  exposure_1  outcome     5000                3
    """
    _require_choices(errors, clusters, level)
    require_small_sample(small_sample)
    rows = PairRows.of(exposures, outcomes, instruments, covariates, memory_limit)
    if errors == "cluster":
        rows = rows.with_clusters(clusters)
    sets = _instrument_sets(rows, instruments_of)
    moments = rows.moments(classical=errors == "classical")[0]
    fits = [fit_pairs(one, rows.instruments.width, sets) for one in moments.crosses]
    if errors == "classical":
        found = [_classical(fit, small_sample) for fit in fits]
    else:
        scores = rows.scores(moments.labels, fits)
        clustered = errors == "cluster"
        pairs = zip(fits, scores, strict=True)
        found = [_robust(fit, one, small_sample, clustered) for fit, one in pairs]
    return _table(rows, moments.labels, fits, found, small_sample, level)


Variance = tuple[Floats, NDArray[np.int8], float]
"""Of one pattern: variances of the estimates and notes, shapes (P, Q), and degrees of freedom."""


def _classical(fit: BatchFit, small_sample: SmallSample) -> Variance:
    assert fit.residual_ss is not None
    divisor = fit.count - (fit.num_parameters if small_sample else 0)
    variance = fit.residual_ss / divisor / fit.explained[:, None]
    dof = reference_dof(fit.count, fit.num_parameters, None, small_sample)
    return variance, _noted(fit, variance), dof


def _robust(
    fit: BatchFit, scores: PairScores, small_sample: SmallSample, clustered: bool
) -> Variance:
    n, groups = fit.count, scores.num_groups
    clusters = groups if clustered else None
    variance = scores.meat(fit.estimate) / fit.explained[:, None] ** 2
    if n <= fit.num_parameters:
        return np.full_like(variance, np.nan), fit.note, 1
    if clustered and groups < 2:
        note = np.where(fit.note == 0, np.int8(ONE_CLUSTER), fit.note)
        return np.full_like(variance, np.nan), note, 1
    if small_sample:
        variance = variance * small_sample_scale(n, fit.num_parameters, clusters)
    dof = reference_dof(n, fit.num_parameters, clusters, small_sample)
    return variance, _noted(fit, variance), dof


def _noted(fit: BatchFit, variance: Floats) -> NDArray[np.int8]:
    return np.where((fit.note == 0) & ~np.isfinite(variance), np.int8(EXACT), fit.note)


def _table(
    rows: PairRows,
    labels: Labels,
    fits: Sequence[BatchFit],
    variances: Sequence[Variance],
    small_sample: SmallSample,
    level: float,
) -> pd.DataFrame:
    shape = labels.shape
    numbers = ("estimate", "std_error", "first_stage_f", "dof")
    columns = {name: np.full(shape, np.nan) for name in numbers}
    counts = {n: np.zeros(shape, np.int64) for n in ("num_obs", "num_instruments", "note")}
    for s, (fit, (variance, note, dof)) in enumerate(zip(fits, variances, strict=True)):
        p, q = fit.crosses.exposures, fit.crosses.outcomes
        i, j = np.nonzero(labels[np.ix_(p, q)] == s)
        here = (p[i], q[j])
        columns["estimate"][here] = fit.estimate[i, j]
        columns["std_error"][here] = np.sqrt(variance[i, j])
        columns["first_stage_f"][here] = fit.first_stage_f[i]
        counts["num_obs"][here] = fit.count
        counts["num_instruments"][here] = fit.num_instruments[i]
        columns["dof"][here] = dof
        counts["note"][here] = note[i, j]
    one = {name: values.ravel() for name, values in (columns | counts).items()}
    reference = stats.t(np.fmax(one["dof"], 1)) if small_sample else stats.norm
    statistic = one["estimate"] / one["std_error"]
    half = reference.isf((1 - level) / 2) * one["std_error"]
    table = pd.DataFrame(
        {
            "exposure": np.repeat(rows.exposures.names, shape[1]),
            "outcome": np.tile(rows.outcomes.names, shape[0]),
            "estimate": one["estimate"],
            "std_error": one["std_error"],
            "statistic": statistic,
            "pvalue": 2 * reference.sf(np.abs(statistic)),
            "ci_lower": one["estimate"] - half,
            "ci_upper": one["estimate"] + half,
            "num_obs": one["num_obs"],
            "num_instruments": one["num_instruments"],
            "first_stage_f": one["first_stage_f"],
            "note": np.array(NOTES, dtype=object)[one["note"]],
        }
    )
    table.attrs["level"] = level
    return table


def _instrument_sets(
    rows: PairRows, instruments_of: Mapping[str, Sequence[str | int] | str | int] | None
) -> list[Index]:
    """Column numbers of each exposure's instruments."""
    names, exposures = rows.instruments.names, rows.exposures.names
    if instruments_of is None:
        return [np.arange(len(names))] * len(exposures)
    if not isinstance(instruments_of, Mapping):
        raise InputError("instruments_of must be a mapping of each exposure to its instruments")
    given = {str(exposure): _listed(chosen) for exposure, chosen in instruments_of.items()}
    absent = [name for name in exposures if not len(given.get(name, ()))]
    if absent or len(given) != len(exposures):
        unknown = [name for name in given if name not in exposures]
        raise InputError(
            "instruments_of must give every exposure its instruments; found none for "
            f"{absent[:5]} and unknown exposures {unknown[:5]}; complete it"
        )
    number = {name: i for i, name in enumerate(names)}
    return [np.array(sorted({_number(one, number) for one in given[x]})) for x in exposures]


def _listed(chosen: Any) -> list[Any]:
    """Names or numbers of columns; where a mask is true."""
    if isinstance(chosen, str) or not np.iterable(chosen):
        return [chosen]
    found = list(chosen)
    mask = found and all(isinstance(one, bool | np.bool_) for one in found)
    return np.flatnonzero(found).tolist() if mask else found


def _number(instrument: Any, number: Mapping[str, int]) -> int:
    # a name first: labels of columns may be numbers
    whole = isinstance(instrument, int | np.integer) and not isinstance(instrument, bool)
    found = number.get(str(instrument), int(instrument) if whole else -1)
    if not 0 <= found < len(number):
        raise InputError(
            f"instruments_of names {instrument!r}, but instruments have no such column among "
            f"their {len(number):,}; give names, numbers from 0, or a mask"
        )
    return found


def _require_choices(errors: str, clusters: Any, level: float) -> None:
    require_choice("errors", errors, get_args(Errors))
    if (errors == "cluster") != (clusters is not None):
        raise InputError(
            'errors="cluster" needs clusters, and clusters need errors="cluster"; give both or '
            "neither"
        )
    require_level(level)
