"""``mrscale.per_variant``: summary data of one's own, to feed :func:`mrscale.summary_mr`.

Legend: N people, M instruments, K covariates, T traits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mrscale.stats.associations import associations
from mrscale.stats.crosses import Crosses
from mrscale.workflow.columns import named_columns
from mrscale.workflow.iv_many import MEMORY_LIMIT
from mrscale.workflow.pairs import PairRows


def per_variant(
    traits: Any,
    instruments: Any,
    covariates: Any = None,
    *,
    environments: Any = None,
    memory_limit: int = MEMORY_LIMIT,
) -> pd.DataFrame:
    """Regress every trait on every instrument, one at a time, in one pass over the rows.

    Parameters
    ----------
    traits : array-like, shape (N, T)
        Exposures and outcomes. NaN is missing: each trait uses everybody who has it.
    instruments : array-like, shape (N, M)
        Dosages; complete.
    covariates : array-like, shape (N, K), optional
        Partialled out, with an intercept; complete.
    environments : array-like, shape (N,), optional
        Label of each person; regressions are then done in each environment on its own.
    memory_limit : int, default 512 MiB
        As for :func:`mrscale.iv_many`.

    Returns
    -------
    DataFrame
        A row per environment (if asked for), instrument and trait: ``environment``,
        ``instrument``, ``trait``, ``beta``, ``std_error`` (homoskedastic), ``pvalue`` (t) and
        ``num_obs``. NaN where the instrument or the trait does not vary given the covariates, or
        people are too few.

    Raises
    ------
    InputError
        As :func:`mrscale.iv_many`.

    Examples
    --------
    >>> import numpy as np, mrscale as mr
    >>> rng = np.random.default_rng(0)
    >>> z = rng.binomial(2, 0.3, (5000, 4))
    >>> x = z @ [0.3, 0.2, 0.4, 0.1] + rng.normal(size=5000)
    >>> mr.per_variant(x, z).shape
    (4, 6)
    """
    named = named_columns(traits, "trait")
    everyone, nothing = np.zeros((len(named), 1)), np.zeros(0, dtype=np.intp)
    rows = PairRows.of(everyone, traits, instruments, covariates, memory_limit)
    rows = replace(rows, outcomes=named)
    codes, names = None, [""]
    if environments is not None:
        codes, names = rows.coded(environments, "environment")
    moments = rows.moments(groups=codes)
    tables = []
    for code, name in enumerate(names):
        crosses = [one.select(nothing, one.outcomes) for one in moments[code].crosses]
        table = _table(rows, crosses)
        if environments is not None:
            table.insert(0, "environment", name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _table(rows: PairRows, crosses: Sequence[Crosses]) -> pd.DataFrame:
    m, t = rows.instruments.width, rows.outcomes.width
    columns = {name: np.full((m, t), np.nan) for name in ("beta", "std_error", "pvalue")}
    num_obs = np.zeros((m, t), dtype=np.int64)
    for one in crosses:
        found = associations(one, m)
        for name, values in columns.items():
            values[:, one.outcomes] = getattr(found, name)
        num_obs[:, one.outcomes] = one.count
    table = {
        "instrument": np.repeat(rows.instruments.names, t),
        "trait": np.tile(rows.outcomes.names, m),
    }
    flat = {name: values.ravel() for name, values in columns.items()}
    return pd.DataFrame(table | flat | {"num_obs": num_obs.ravel()})
