"""Tables of a regression on a store, beside its estimate: all from the moments of groups of people.

Legend: M instruments, P exposures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import LinAlgError

from mrscale.disclosure import bounded, export_count, total_of
from mrscale.errors import InputError
from mrscale.results.cohort import ESTIMATES
from mrscale.results.iv import IVResult
from mrscale.results.logistic import LogisticIVResult
from mrscale.stats.associations import associations
from mrscale.stats.crosses import Crosses
from mrscale.stats.heterogeneity import first_stage_heterogeneity
from mrscale.stats.identification import require_estimable
from mrscale.stats.kclass import KClassName, fit_kclass, kappa_of
from mrscale.stats.moments import Floats, Moments
from mrscale.stats.reduced import Columns, reduce_design
from mrscale.stats.resampling import (
    block_jackknife,
    instrument_directions,
    leave_one_instrument_out,
)
from mrscale.store.reader import GenotypeStore
from mrscale.stream.products import Group
from mrscale.workflow.iv_fits import Fit, Problem
from mrscale.workflow.store_data import StoreData
from mrscale.workflow.subsets import (
    Subset,
    environment_moments,
    few_of_either,
    may_tell_more,
    wald,
)


def shown_people(store: GenotypeStore, used: dict[int, int]) -> dict[str, int]:
    """Controlled counts of the people used, by environment.

    Parameters
    ----------
    store : GenotypeStore
    used : dict of int to int
        People with all the traits, by environment code.

    Notes
    -----
    The sizes of environments are published with the store: a count that differs by 1 to 20 from
    its environment's is a bound too, as in the report.
    """
    names = store.names("environments")
    sizes = np.bincount(store.array("environment"), minlength=len(names))
    return {name: bounded(used.get(code, 0), [int(sizes[code])]) for code, name in enumerate(names)}


def shown_total(people: dict[str, int], environments: Sequence[str] | None = None) -> int | str:
    """People of some environments, or all, as a function of their controlled counts."""
    cells = [people[name] for name in people if environments is None or name in environments]
    return export_count(total_of(cells, sum(cells)))


def everybody(result: IVResult | LogisticIVResult) -> pd.DataFrame:
    """The rows of the exposures of a regression."""
    bounds, names = result.conf_int(), list(result.exposures)
    strength = result.first_stage
    table = {
        "label": "everybody",
        "exposure": names,
        "estimate": result.params[names].to_numpy(),
        "std_error": result.std_errors[names].to_numpy(),
        "ci_lower": bounds.loc[names, "lower"].to_numpy(),
        "ci_upper": bounds.loc[names, "upper"].to_numpy(),
        "pvalue": result.pvalues[names].to_numpy(),
        "num_obs": result.num_obs,
        "num_instruments": result.num_instruments,
        "first_stage_f": strength["f"].to_numpy() if len(strength) else np.nan,
        "note": "",
    }
    return pd.DataFrame(table)[list(ESTIMATES)]


def first_stages(
    data: StoreData, groups: dict[Group, Moments], within: Sequence[Subset]
) -> pd.DataFrame:
    """Whether the instruments act alike in the environments that have an estimate."""
    estimated = [subset for subset in within if subset.fit is not None]
    if len(estimated) < 2:
        return pd.DataFrame()
    parts = [environment_moments(groups, subset.environments[0]) for subset in estimated]
    design = Columns(data.instruments.width, data.num_plain_covariates, data.exposures.width)
    found = first_stage_heterogeneity(parts, design)
    rows = [{"Q": h.q, "dof": h.dof, "pvalue": h.pvalue, "I2": h.i2} for h in found]
    table = pd.DataFrame(rows)
    table.insert(0, "exposure", data.exposures.names)
    return table


def without_instruments(problem: Problem, fit: Fit) -> pd.DataFrame:
    """2SLS without each instrument in turn, errors as those of the fit."""
    directions = instrument_directions(problem.moments, problem.basis)
    meats = None if problem.errors == "classical" else fit.meats
    found = leave_one_instrument_out(problem.reduced, directions, meats)
    rows: list[dict[str, Any]] = []
    for i, exposure in enumerate(problem.data.exposures.names):
        for j, name in enumerate(problem.data.instruments.names):
            redundant, identified = bool(found.redundant[j]), bool(found.identified[j])
            note = "the other instruments span it" if redundant else ""
            rows.append(
                {
                    "label": name,
                    "exposure": exposure,
                    **wald(found.estimate[j, i], found.std_error[j, i]),
                    "num_obs": problem.moments.count,
                    "num_instruments": problem.reduced.num_instruments - (not redundant),
                    "note": note if identified else "the others do not identify the effects",
                }
            )
    return pd.DataFrame(rows, columns=list(ESTIMATES))


def jackknife(
    data: StoreData, groups: dict[Group, Moments], estimator: KClassName
) -> tuple[pd.DataFrame, str]:
    """Delete-block jackknife over environments and folds, or why there is none."""
    if len(groups) < 2:
        return pd.DataFrame(), "a jackknife needs people in two folds or environments"
    instrumented = estimator != "ols"

    def effects(moments: Moments) -> Floats:
        reduced, _ = reduce_design(moments, data.columns)
        names = data.exposures.names
        require_estimable(moments, reduced, data.columns, names, instrumented=instrumented)
        return fit_kclass(reduced, kappa_of(estimator, reduced)).estimate

    blocks = [data.with_indicators({group: moments}) for group, moments in groups.items()]
    try:
        found = block_jackknife(blocks, effects)
    except (InputError, LinAlgError):
        return pd.DataFrame(), (
            "there is no jackknife: without one of the blocks (a fold of an environment) the "
            "others do not allow an estimate"
        )
    table = {
        "exposure": data.exposures.names,
        "estimate": found.estimate,
        "std_error": found.std_error,
        "bias_corrected": found.bias_corrected,
    }
    return pd.DataFrame(table), ""


def per_variant(
    data: StoreData, groups: dict[Group, Moments], moments: Moments, *, by_environment: bool
) -> pd.DataFrame:
    """Associations of every variant with every trait, covariates partialled out."""
    tables = [_associations(data, moments).assign(environment="")]
    if by_environment:
        names = data.rows.store.names("environments")
        needed = len(data.within) - len(data.instruments.names)
        for e in data.present:
            moments = environment_moments(groups, e)
            table = _associations(data, moments).assign(environment=names[e])
            few = few_of_either(moments, data.columns.num_exposures + 1)
            if few or not may_tell_more(data, needed, e):
                table[table.columns.difference(["instrument", "trait", "environment"])] = np.nan
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _associations(data: StoreData, moments: Moments) -> pd.DataFrame:
    variants = data.instruments.names
    traits = [*data.exposures.names, *data.outcome.names]
    found = associations(Crosses.from_moments(moments, len(traits)), len(variants))
    table = {
        "instrument": np.repeat(variants, len(traits)),
        "trait": np.tile(traits, len(variants)),
        "beta": found.beta.ravel(),
        "std_error": found.std_error.ravel(),
        "pvalue": found.pvalue.ravel(),
        "num_obs": moments.count,
    }
    return pd.DataFrame(table)
