"""How far an estimate depends on what cannot be checked.

Legend: S encoders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mrscale.results import PairResult, Sensitivity
from mrscale.results.pair import ROBUSTNESS
from mrscale.stats.misfit import R2_LIMIT
from mrscale.stats.reduced import Reduced
from mrscale.stats.sensitivity import fitted_instrument, iv_robustness, leakage_to_explain
from mrscale.workflow.fitting import Fitted
from mrscale.workflow.latents import Latents

NAIVE = "tsls"
_WITHOUT_ONE = ("2SLS adjusted, without one variant", math.nan)
_OF_WITHOUT_ONE = (
    "Smallest and largest estimate with one of the variants left out: a range that is wide beside "
    "the interval means that a single variant decides."
)


def sensitivity(
    fits: Mapping[str, Fitted],
    pair: PairResult,
    latents: Latents,
    without_one: tuple[float, float],
    method: str | None,
) -> tuple[Sensitivity, ...]:
    """What would explain the headline away, and how far estimates are apart.

    Parameters
    ----------
    fits : mapping of str to Fitted
        Behind the estimates of the pair, by key.
    pair : PairResult
    latents : Latents
    without_one : tuple of (float, float)
        Smallest and largest adjusted 2SLS without one variant; NaN if that was not tried.
    method : str, optional
        Whose encoders were judged, for the headline or in its place.
    """
    rows = _robustness(fits[pair.headline])
    if method:
        rows += [_leakage(fits[method], fits[NAIVE]), _union(pair, latents)]
    if not math.isnan(without_one[0]):
        rows.append(Sensitivity(*_WITHOUT_ONE, *without_one, _OF_WITHOUT_ONE))
    return tuple(rows)


def _robustness(headline: Fitted) -> list[Sensitivity]:
    found = [iv_robustness(fitted_instrument(one.reduced)) for one in headline.fits]
    meaning = (
        "Share of what is left of the instrument and of the outcome, given the controls, that an "
        "omitted variable must explain to bring {} to zero. Errors are taken to be alike."
    )
    return [
        _row(
            f"{ROBUSTNESS}, estimate",
            min(one.estimate for one in found),
            meaning.format("the estimate"),
        ),
        _row(
            f"{ROBUSTNESS}, interval",
            min(one.interval for one in found),
            meaning.format("an end of the 95 % interval of one encoder"),
        ),
    ]


def _leakage(learned: Fitted, naive: Fitted) -> Sensitivity:
    strength = float(np.mean([_explained(one.reduced) for one in learned.fits]))
    share = strength / _explained(naive.fits[0].reduced)
    needed = leakage_to_explain(learned.estimate, naive.estimate, share)
    unseen = (
        f" So little would pass the check of predictability, which asks for less than {R2_LIMIT}: "
        "the checks cannot tell this estimate from none."
        if needed < R2_LIMIT
        else ""
    )
    return _row(
        "leakage that would explain it",
        needed,
        "R2 with which the confounded part of the instruments would have to be in the latent if "
        "there were no effect, judged by how naive 2SLS differs from 2SLS on the latent, both "
        "without controls. None where the latent explains the exposure as well as all instruments."
        + unseen,
    )


def _union(pair: PairResult, latents: Latents) -> Sensitivity:
    ours = [pair[f"{method}_controls"] for method in latents.methods]
    return Sensitivity(
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


def _row(name: str, value: float, meaning: str) -> Sensitivity:
    return Sensitivity(name, value, math.nan, math.nan, meaning)
