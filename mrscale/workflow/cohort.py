"""``mrscale.estimate``: instrumental-variable regression on a genotype store.

Legend: N people, M variants, P exposures, E environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from mrscale.disclosure import export_count, may_tell_more_than
from mrscale.errors import InputError
from mrscale.progress import bar
from mrscale.results.cohort import CohortResult
from mrscale.results.iv import IVResult
from mrscale.results.logistic import LogisticIVResult
from mrscale.stats.binary import SecondStageName
from mrscale.stats.moments import Moments
from mrscale.stats.reduced import reduce_design
from mrscale.stats.small_sample import SmallSample
from mrscale.stats.split_sample import overlap_warning
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.stream.engine import Client, engine
from mrscale.stream.products import Group
from mrscale.stream.reduce import one_blas_thread
from mrscale.workflow.cohort_options import (
    FirstStage,
    Instruments,
    Options,
    OutcomeModel,
    chosen_traits,
    require_options,
)
from mrscale.workflow.cohort_tables import (
    everybody,
    first_stages,
    jackknife,
    per_variant,
    shown_people,
    shown_total,
    without_instruments,
)
from mrscale.workflow.iv import EstimatorName, fit_problem, iv_result
from mrscale.workflow.iv_fits import Errors, Fit, Problem
from mrscale.workflow.latent_fits import latent_estimates
from mrscale.workflow.logistic_iv import LogisticErrors, fit_logistic
from mrscale.workflow.split_iv import fit_split
from mrscale.workflow.store_data import StoreData
from mrscale.workflow.subsets import (
    ALL_FEW_CASES,
    ALL_TOO_FEW,
    Subset,
    each_environment,
    estimates_table,
    few_of_either,
    influence_scores,
    meta_table,
    with_the_others,
    without_each_environment,
)

_TELLING = ("ci_lower", "ci_upper", "pvalue")
"""Columns that have the residual degrees of freedom between them, where t is the reference."""


def estimate(
    store: str | Path | GenotypeStore,
    *,
    exposure: str | Sequence[str] | None = None,
    outcome: str | None = None,
    instruments: Instruments = "genotype",
    covariates: Sequence[str] | None = None,
    by: Literal["environment"] | None = None,
    estimator: EstimatorName = "2sls",
    errors: Errors = "robust",
    small_sample: SmallSample = False,
    first_stage: FirstStage = "same",
    outcome_model: OutcomeModel = "linear",
    prevalence: float | None = None,
    overlapping_gwas: bool = False,
    run: str | Path | None = None,
    scheduler: str | None = None,
    quiet: bool = False,
) -> CohortResult:
    """Estimate the effect of a store's exposures on an outcome.

    Parameters
    ----------
    store : str, Path or GenotypeStore
        A finished genotype store.
    exposure : str or sequence of str, optional
        Names in the store; several mean multivariable MR. May be left out if there is one.
    outcome : str, optional
        A name in the store; may be left out if there is one.
    instruments : {"genotype", "latent"}, default "genotype"
        The dosages, or the latents that encoders learned from them (needs ``run``; always 2SLS
        with robust or clustered errors).
    covariates : sequence of str, optional
        Names in the store; all of its covariates by default. Indicators of environments are
        always added.
    by : {"environment"}, optional
        Also estimate in each environment by itself, pool these (fixed and random effects) and
        estimate without each environment.
    estimator, errors, small_sample
        As for :func:`mrscale.iv`; ``errors="cluster"`` takes the store's clusters, families by
        default.
    first_stage : {"same", "split"}, default "same"
        ``"split"``: each fold's first stage is that of the other folds, as in
        :func:`mrscale.split_iv`. Families share a fold.
    outcome_model : {"linear", "2sri", "logistic"}, default "linear"
        A 0/1 outcome is a linear probability model (risk differences) by default; the others give
        log odds ratios, as :func:`mrscale.logistic_iv` says.
    prevalence : float, optional
        Share of cases in the population, for ``outcome_model`` ``"2sri"`` or ``"logistic"`` where
        cases were sampled on purpose.
    overlapping_gwas : bool, default False
        Say that the variants were chosen by a GWAS that shares people with the store; the result
        then says what this does to the estimate.
    run : str or Path, optional
        Run folder with the latents of trained encoders.
    scheduler : str, optional
        Address of a Dask scheduler; threads of this process by default.
    quiet : bool, default False
        Show no progress even on a terminal.

    Returns
    -------
    CohortResult

    Raises
    ------
    InputError
        If a name is not in the store, options exclude each other, or the data do not allow the
        estimate; as :func:`mrscale.iv`.
    StoreError
        If there is no finished store.
    RunError
        If the run folder has no latents of this store.

    Notes
    -----
    The store is read twice, however many environments there are: once for exact cross-products
    per environment and fold, of which all estimates are functions, and once for people's
    influence on all of them. GMM, CUE and JIVE read it again as :func:`mrscale.iv` says, and take
    2SLS in subsets; the logistic models read it once for each Newton step. Missing calls count as
    their environment's mean. Every estimate with indicators of environments compares people
    within environments only.

    Examples
    --------
    ``store.zarr`` holds 900 simulated people of three environments, and 30 variants.

    >>> import mrscale as mr
    >>> cohort = mr.estimate("store.zarr", exposure="exposure", by="environment")
    >>> cohort.by_environment[["label", "num_obs"]]
       label  num_obs
    0  north      290
    1  south      285
    2   west      325
    >>> cohort.fit.overidentification.name, cohort.meta["I2"].round(2).tolist()
    ('Hansen J', [0.98, 0.98])
    """
    options = Options(
        instruments, by, estimator, errors, small_sample, first_stage, outcome_model, prevalence
    )
    require_options(options, run)
    if not isinstance(store, GenotypeStore):
        store = open_store(store)
    x, y, w = chosen_traits(store, exposure, outcome, covariates)
    threads: AbstractContextManager[Client | None] = nullcontext()
    with (
        engine(scheduler) if scheduler else threads as client,
        one_blas_thread(),  # the same bits wherever the passes ran
        bar("Estimating", options.num_passes, quiet=quiet) as progress,
    ):
        clustered = errors == "cluster"
        if run is not None:
            tables, people = latent_estimates(
                store, client, run, x, y, w, by, clustered=clustered, progress=progress
            )
            found = CohortResult(y, tuple(x), instruments, **tables)
        else:
            data = StoreData.read(store, client, x, y, w, clustered=clustered, progress=progress)
            found, people = _from_genotypes(data, options)
    notes = _notes(store, found, options, overlapping_gwas)
    shown = shown_people(store, people)
    noted = replace(found, notes=(*notes, *found.notes))
    return _controlled(noted, shown, small_sample=bool(small_sample))


def _from_genotypes(data: StoreData, options: Options) -> tuple[CohortResult, dict[int, int]]:
    """The result with exact counts, and the people used by environment."""
    needed = data.columns.width
    if options.estimator == "ols":
        needed -= data.columns.num_instruments
    if not may_tell_more_than(needed, len(data.environment), [data.rows.store.num_samples]):
        raise InputError(ALL_TOO_FEW)
    groups = data.group_moments()
    whole = data.with_indicators(groups)
    if few_of_either(whole, data.columns.num_exposures + 1):
        raise InputError(ALL_FEW_CASES)
    associations = per_variant(data, groups, whole, by_environment=options.by is not None)
    people = {code: int((data.environment == code).sum()) for code in data.present}
    if options.is_plain:
        found = _regressions(data, groups, whole, options)
    else:
        fit = _split(data, groups, options) if options.first_stage == "split" else None
        found = _one_table(data, fit or _logistic(data, whole, options))
    return replace(found, per_variant=associations), people


def _regressions(
    data: StoreData, groups: dict[Group, Moments], moments: Moments, options: Options
) -> CohortResult:
    instrumented = options.estimator != "ols"
    if not instrumented:
        m = data.instruments.width
        groups = {g: one.select(np.arange(m, len(one.mean))) for g, one in groups.items()}
        data = data.without_instruments()
        moments = data.with_indicators(groups)
    reduced, basis = reduce_design(moments, data.columns)
    data.require_usable(moments, reduced, instrumented=instrumented)
    within = each_environment(data, groups, options.k_class) if options.by else []
    without = without_each_environment(data, groups, options.k_class) if options.by else []
    more = influence_scores(data, [*within, *without]) if options.by else None
    problem = Problem(data, moments, reduced, basis, options.errors, more)
    fit = fit_problem(problem, options.estimator)
    result = iv_result(problem, fit, options.estimator, options.small_sample)
    blocks, reason = jackknife(data, groups, options.k_class)
    found = replace(_one_table(data, result), jackknife=blocks)
    if reason:
        found = replace(found, notes=(*found.notes, reason))
    if instrumented:
        heterogeneity = first_stages(data, groups, within)
        left_out = without_instruments(problem, fit)
        found = replace(
            found, first_stage_heterogeneity=heterogeneity, leave_one_instrument_out=left_out
        )
    return _with_environments(found, data, within, without, fit, options) if options.by else found


def _with_environments(
    found: CohortResult,
    data: StoreData,
    within: Sequence[Subset],
    without: Sequence[Subset],
    fit: Fit,
    options: Options,
) -> CohortResult:
    exposures, sums = data.exposures.names, iter(fit.more)

    def table(subsets: Sequence[Subset]) -> pd.DataFrame:
        products = {one.label: next(sums) for one in subsets if one.fit}
        of_fits = None if options.errors == "classical" else products
        return estimates_table(exposures, subsets, of_fits, small_sample=options.small_sample)

    inside, names = table(within), data.rows.store.names("environments")
    return replace(
        found,
        by_environment=with_the_others(inside, names, exposures, {}),
        meta=meta_table(inside),
        leave_one_environment_out=table(without),
    )


def _one_table(data: StoreData, fit: IVResult | LogisticIVResult) -> CohortResult:
    """A result of everybody together only."""
    names = tuple(data.exposures.names)
    outcome = data.outcome.names[0]
    return CohortResult(outcome, names, "genotype", everybody(fit), fit=fit, notes=fit.notes)


def _split(data: StoreData, groups: dict[Group, Moments], options: Options) -> IVResult:
    folds, codes = np.unique(data.fold, return_inverse=True)
    if len(folds) < 2:
        raise InputError(
            "first_stage='split' needs people in two folds or more; found one; use "
            "first_stage='same', or extract the store again with more folds"
        )
    parts = [{g: one for g, one in groups.items() if g[1] == fold} for fold in folds]
    moments = [data.with_indicators(part) for part in parts]
    errors, small_sample = options.errors, options.small_sample
    return fit_split(data, codes, moments, errors=errors, small_sample=small_sample)


def _logistic(data: StoreData, moments: Moments, options: Options) -> LogisticIVResult:
    method = cast(SecondStageName, options.outcome_model)
    errors = cast(LogisticErrors, options.errors)
    return fit_logistic(data, moments, method, errors, options.prevalence)


def _notes(
    store: GenotypeStore, found: CohortResult, options: Options, overlapping_gwas: bool
) -> list[str]:
    notes = []
    values = store.array("outcome")[:, store.names("outcomes").index(found.outcome)]
    if options.outcome_model == "linear" and np.isin(values[np.isfinite(values)], (0, 1)).all():
        notes.append(
            "the outcome is 0 or 1: estimates are risk differences (a linear probability model)"
        )
    if overlapping_gwas and options.estimator != "ols":
        strength = found.estimates["first_stage_f"].dropna()
        notes.append(overlap_warning(float(strength.iloc[0]) if len(strength) == 1 else None))
    if options.estimator != options.k_class:
        notes.append(f"only the estimate of everybody is {options.estimator}; all others are 2sls")
    if options.by and not options.is_plain:
        notes.append(
            "environments by themselves are estimated with first_stage='same' and "
            "outcome_model='linear' only"
        )
    return notes


def _controlled(found: CohortResult, people: dict[str, int], *, small_sample: bool) -> CohortResult:
    """The result with no count of people that may not leave, or from which one would follow."""
    total = shown_total(people)
    cells = {name: export_count(count) for name, count in people.items()}
    pooled = found.by_environment.dropna(subset=["estimate"])["label"].tolist()
    others = {name: shown_total(people, [one for one in people if one != name]) for name in people}

    def counted(table: pd.DataFrame, label: str, counts: dict[str, Any]) -> pd.DataFrame:
        if not len(table):
            return table
        return table.assign(num_obs=[counts.get(name, total) for name in table[label]])

    def without(table: pd.DataFrame, *telling: str) -> pd.DataFrame:
        """Without what tells degrees of freedom, and so people, where their number is hidden."""
        hidden = np.array([isinstance(n, str) for n in table.get("num_obs", ())], dtype=bool)
        there = table.columns.intersection(list(telling))
        return table.assign(**{c: table[c].mask(hidden) for c in there})

    def of_t(table: pd.DataFrame) -> pd.DataFrame:
        return without(table, *_TELLING) if small_sample else table

    return replace(
        found,
        people=total,
        estimates=of_t(counted(found.estimates, "label", {})),
        by_environment=of_t(counted(found.by_environment, "label", cells)),
        meta=found.meta.assign(num_obs=shown_total(people, pooled)),
        leave_one_environment_out=of_t(counted(found.leave_one_environment_out, "label", others)),
        leave_one_instrument_out=counted(found.leave_one_instrument_out, "label", {}),
        # errors of a few variants have the degrees of freedom between them
        per_variant=without(
            counted(found.per_variant, "environment", cells), "std_error", *_TELLING
        ),
    )
