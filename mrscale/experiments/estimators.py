"""Every estimator on one data set: learned instruments, 2SLS, MR-Egger and the oracle."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mrscale.experiments.cases import EFFECT, Case, Data
from mrscale.stats.linalg import independent
from mrscale.workflow.iv import iv
from mrscale.workflow.iv_fits import Errors
from mrscale.workflow.learned_iv import learned_iv
from mrscale.workflow.per_variant import per_variant
from mrscale.workflow.summary_mr import summary_mr

ESTIMATORS = {
    "ols": "OLS",
    "tsls": "2SLS",
    "egger": "MR-Egger",
    "tsls_pc": "2SLS, env.",
    "linear_controls": "linear",
    "kernel_controls": "kernel",
    "flow_controls": "flow",
    "headline": "headline",
    "oracle": "oracle",
}
"""Keys of the results, and what figures call them."""
_COLUMNS = ["estimate", "std_error", "ci_lower", "ci_upper", "first_stage_f"]


def estimate(case: Case) -> pd.DataFrame:
    """Draw a data set and estimate its effect in every way.

    Parameters
    ----------
    case : Case

    Returns
    -------
    DataFrame
        A row per estimator: ``design``, ``seed``, ``estimator``, ``estimate``, ``std_error``,
        ``ci_lower``, ``ci_upper`` (95 %), ``first_stage_f``, ``effect`` (the truth), ``trust`` (of
        the learned estimates) and ``headline`` (which estimator that was).

    Notes
    -----
    2SLS takes all instruments and adjusts for nothing, as in the paper; the adjusted one takes
    environments too. MR-Egger takes the associations of each instrument with exposure and outcome
    in the same people, and the correlation of the instruments. Learned estimates are those with
    controls, cross-fitted. The oracle is 2SLS on the true latent and its squares.
    """
    data = case.draw()
    learned = learned_iv(
        data.outcome,
        data.exposure,
        data.instruments,
        data.environment,
        clusters=data.family,
        restarts=1,
        seed=case.seed,
        device="cpu",
        quiet=True,
        **case.options,
    )
    table = learned.table[_COLUMNS].copy()
    table.loc["headline"] = table.loc[learned.headline]
    table.loc["egger"] = _egger(data)
    table.loc["oracle"] = _oracle(data)
    table = table.reindex(list(ESTIMATORS)).rename_axis("estimator").reset_index()
    table.insert(0, "design", case.design)
    table.insert(1, "seed", case.seed)
    return table.assign(effect=EFFECT, trust=learned.trust, headline=learned.headline)


def _egger(data: Data) -> pd.Series:
    traits = np.stack([data.exposure, data.outcome], axis=1)
    # of variants that are copies of each other one is enough
    centred = data.instruments - data.instruments.mean(axis=0)
    variants = data.instruments[:, independent(centred.T @ centred)]
    found = per_variant(traits, variants)
    exposure, outcome = (one.dropna() for _, one in found.groupby("trait", sort=False))
    (row,) = summary_mr(
        exposure["beta"].to_numpy(),
        exposure["std_error"].to_numpy(),
        outcome["beta"].to_numpy(),
        outcome["std_error"].to_numpy(),
        methods="egger",
        correlation=np.corrcoef(variants, rowvar=False),
    ).to_dict("records")
    return pd.Series(row).reindex(_COLUMNS)


def _oracle(data: Data) -> pd.Series:
    latent = np.concatenate([data.exogenous, data.exogenous**2], axis=1)
    kind: Errors = "robust" if data.family is None else "cluster"
    fit = iv(data.outcome, data.exposure, latent, errors=kind, clusters=data.family)
    strength = fit.first_stage["f"].iloc[0]
    numbers = [fit.params.iloc[0], fit.std_errors.iloc[0], *fit.conf_int().iloc[0], strength]
    return pd.Series(numbers, _COLUMNS)
