"""How far an estimate with learned instruments depends on what cannot be checked.

Legend: S encoders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from mrscale.results import PairResult
from mrscale.sampling.plan import blocks
from mrscale.stats.reduced import Reduced
from mrscale.stats.sensitivity import fitted_instrument, iv_robustness, leakage_to_explain
from mrscale.workflow.designs import PairData
from mrscale.workflow.fitting import Fitted, fit, frame_moments
from mrscale.workflow.latents import Latents

NAIVE = "tsls"
_PREFERRED = ("flow", "linear", "kernel")
_COLUMNS = ("name", "value", "lower", "upper", "meaning")

Row = tuple[str, float, float, float, str]


def compared_fits(data: PairData, pair: PairResult) -> dict[str, Fitted]:
    """The headline, the learned estimate without controls and naive 2SLS, by their keys.

    In one pass over the people, which reads the latents of one method only.
    """
    method = _method(data.latents, pair)
    single = replace(data, latents=Latents(data.latents.arrays, (method,)))
    cuts = blocks(data.store.num_samples, data.store.layout.chunk_rows)
    moments = frame_moments(None, cuts, single)
    needed = {pair.headline, method, NAIVE}
    return {one.key: fit(moments, one) for one in single.estimators() if one.key in needed}


def sensitivity(fits: Mapping[str, Fitted], pair: PairResult, latents: Latents) -> pd.DataFrame:
    """What would explain the headline away, and how far the learned estimates are apart.

    Parameters
    ----------
    fits : mapping of str to Fitted
        From :func:`compared_fits`.
    pair : PairResult
    latents : Latents

    Returns
    -------
    pandas.DataFrame
        Columns ``name``, ``value``, ``lower``, ``upper`` and ``meaning``.
    """
    rows = [
        *_robustness(fits[pair.headline]),
        _leakage(fits[_method(latents, pair)], fits[NAIVE]),
        _union(pair, latents),
    ]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _method(latents: Latents, pair: PairResult) -> str:
    """The headline's encoder; where the headline is the rival, the one it stands in for."""
    main, headline = latents.main, pair.headline.removesuffix("_controls")
    return headline if headline in main else next(name for name in _PREFERRED if name in main)


def _robustness(headline: Fitted) -> list[Row]:
    found = [iv_robustness(fitted_instrument(one.reduced)) for one in headline.fits]
    meaning = (
        "Share of what is left of the instrument and of the outcome, given the controls, that an "
        "omitted variable must explain to bring {} to zero. Errors are taken to be alike."
    )
    return [
        _row(
            "robustness value, estimate",
            min(one.estimate for one in found),
            meaning.format("the estimate"),
        ),
        _row(
            "robustness value, interval",
            min(one.interval for one in found),
            meaning.format("an end of the 95 % interval of one encoder"),
        ),
    ]


def _leakage(learned: Fitted, naive: Fitted) -> Row:
    strength = float(np.mean([_explained(one.reduced) for one in learned.fits]))
    share = strength / _explained(naive.fits[0].reduced)
    return _row(
        "leakage that would explain it",
        leakage_to_explain(learned.estimate, naive.estimate, share),
        "R2 with which the confounded part of the instruments would have to be in the latent if "
        "there were no effect, judged by how naive 2SLS differs from 2SLS on the latent, both "
        "without controls. None where the latent explains the exposure as well as all instruments.",
    )


def _union(pair: PairResult, latents: Latents) -> Row:
    ours = [pair[f"{method}_controls"] for method in latents.methods]
    return (
        "union of intervals",
        math.nan,
        min(one.ci_lower for one in ours),
        max(one.ci_upper for one in ours),
        "From the lowest to the highest end of the 95 % intervals of all encoders, restarts and "
        "latent dimensions in the table, with controls.",
    )


def _explained(reduced: Reduced) -> float:
    """Partial R2 of the first stage."""
    return float((reduced.zx[:, 0] ** 2).sum() / reduced.xx[0, 0])


def _row(name: str, value: float, meaning: str) -> Row:
    return name, value, math.nan, math.nan, meaning
