"""Two passes over the rows: moments for every estimator's fit, then its robust error.

Legend: S encoders, E environments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrscale.errors import InputError
from mrscale.progress import Advance, silent
from mrscale.results import Estimate
from mrscale.stats.design import indicators
from mrscale.stats.iv import LinearIV, ordinary_least_squares, two_stage_least_squares
from mrscale.stats.misfit import Misfit, RandomFeatures, misfit
from mrscale.stats.moments import Floats, Moments, combine_keyed, pool
from mrscale.stats.pooling import Replicated, interval, replicate_mean
from mrscale.stream.engine import Client
from mrscale.stream.reduce import reduce_blocks
from mrscale.workflow.designs import (
    LATENT_DEGREE,
    Estimator,
    Frame,
    FrameRows,
    PairData,
    basis_width,
)

EVERYWHERE = -1
"""Environment code of a fit on all environments together."""
MISFIT_PARTS = 3

FrameMoments = dict[tuple[Frame, int], Moments]


@dataclass(frozen=True, eq=False)
class Fitted:
    """An estimator's fits, one per frame, with the pooled answer.

    Attributes
    ----------
    estimator : Estimator
    environment : int
        Code, or ``EVERYWHERE``.
    fits : tuple of LinearIV
    variance : float
        ``sum_i (mean_s psi_is)^2`` over people: HC0 for a single frame.
    """

    estimator: Estimator
    environment: int
    fits: tuple[LinearIV, ...]
    variance: float = np.nan

    @property
    def pooled(self) -> Replicated | None:
        """Mean over replicated encoders; None for a single fit."""
        if len(self.fits) == 1:
            return None
        return replicate_mean(np.array([fit.estimate for fit in self.fits]), self.variance)

    @property
    def estimate(self) -> float:
        """Mean over the fits."""
        return float(np.mean([fit.estimate for fit in self.fits]))

    @property
    def std_error(self) -> float:
        """Robust standard error, with the encoders' own error where there are several."""
        return self.pooled.std_error if self.pooled else self.variance**0.5

    @property
    def first_stage_f(self) -> float:
        """Smallest first-stage F over the fits."""
        return min(fit.first_stage_f for fit in self.fits)

    @property
    def _note(self) -> str:
        if self.pooled is None:
            return ""
        return f"Mean over {len(self.fits)} encoders; interval from t({self.pooled.dof})."

    def result(self, num_obs: int, *, key: str = "", label: str = "") -> Estimate:
        """As users hold it."""
        dof = self.pooled.dof if self.pooled else np.inf
        lower, upper, pvalue = interval(self.estimate, self.std_error, dof=dof)
        return Estimate(
            key=key or self.estimator.key,
            label=label or self.estimator.label,
            estimate=self.estimate,
            std_error=self.std_error,
            ci_lower=lower,
            ci_upper=upper,
            pvalue=pvalue,
            num_obs=num_obs,
            num_instruments=min(fit.num_instruments for fit in self.fits),
            first_stage_f=self.first_stage_f,
            note=self._note,
        )


def frame_moments(
    client: Client | None,
    cuts: Sequence[slice],
    data: PairData,
    *,
    progress: Advance = silent,
) -> FrameMoments:
    """First pass: moments of every frame in every environment."""

    def block(rows: slice) -> FrameMoments:
        found: FrameMoments = {}
        for name, frame in data.frames(rows):
            for code in np.unique(frame.environment):
                inside = frame.matrix[frame.environment == code]
                found[name, int(code)] = Moments.from_block(inside)
        return found

    return reduce_blocks(client, cuts, block, combine_keyed, progress=progress)


def fit(moments: FrameMoments, estimator: Estimator, environment: int = EVERYWHERE) -> Fitted:
    """Point estimates of one estimator, in one environment or over all."""
    m = len(estimator.instruments)
    fits = []
    for frame in estimator.frames:
        selected = select(moments, frame, environment).select(estimator.columns)
        fits.append(two_stage_least_squares(selected, m) if m else ordinary_least_squares(selected))
    return Fitted(estimator, environment, tuple(fits))


def fit_within(
    moments: FrameMoments, estimator: Estimator, environments: Iterable[int]
) -> list[Fitted]:
    """Point estimates in every environment that has people enough for this many instruments."""
    found = []
    for code in environments:
        with suppress(InputError):
            found.append(fit(moments, estimator, code))
    return found


def select(moments: FrameMoments, frame: Frame, environment: int = EVERYWHERE) -> Moments:
    """Moments of one frame, in one environment or over all; InputError if they hold nobody."""
    codes = sorted(code for name, code in moments if name == frame)
    parts = [moments[frame, code] for code in codes if environment in (EVERYWHERE, code)]
    if not parts:
        raise InputError(
            "an estimate needs people with the exposure, the outcome and every covariate; found "
            "nobody with all of them; choose traits that were measured in the same people"
        )
    return pool(parts)


def with_errors(
    client: Client | None,
    cuts: Sequence[slice],
    data: PairData,
    fitted: Sequence[Fitted],
    *,
    progress: Advance = silent,
) -> list[Fitted]:
    """Second pass: the robust variance of every fit."""

    def block(rows: slice) -> Floats:
        frames = dict(data.frames(rows))
        return np.array([_squared_influence(frames, one) for one in fitted])

    totals = reduce_blocks(client, cuts, block, np.add, progress=progress)
    return [
        Fitted(one.estimator, one.environment, one.fits, float(total))
        for one, total in zip(fitted, totals, strict=True)
    ]


def _squared_influence(frames: dict[Frame, FrameRows], one: Fitted) -> float:
    """``sum_i (mean_s psi_is)^2`` over the people of a block; psi is zero outside a frame."""
    members = [frames[name] for name in one.estimator.frames]
    mean = np.zeros(1 + max((int(m.index.max(initial=-1)) for m in members), default=-1))
    for member, single in zip(members, one.fits, strict=True):
        chosen = np.isin(member.environment, one.environment) | (one.environment == EVERYWHERE)
        influence = single.influence(member.matrix[chosen][:, one.estimator.columns])
        mean[member.index[chosen]] += influence / len(members)
    return float(mean @ mean)


def misfits(
    client: Client | None,
    cuts: Sequence[slice],
    data: PairData,
    seed: int,
    *,
    progress: Advance = silent,
) -> dict[str, Misfit]:
    """Misfit checks per method, averaged over its encoders, on people who did not train them.

    The regressions are cross-fitted over ``MISFIT_PARTS`` parts of those people: with two folds
    an encoder leaves only one unseen.
    """
    features = {
        method: RandomFeatures.draw(shape[2], np.random.default_rng(seed))
        for method, shape in data.latent_shape.items()
    }

    def block(rows: slice) -> dict[tuple[str, int, int, int], Moments]:
        environment = data.store.array("environment", rows)
        fold = data.store.array("fold", rows)
        part = _parts(data.store.array("family", rows), rows)
        dummies = indicators(environment, len(data.fill))
        found: dict[tuple[str, int, int, int], Moments] = {}
        for method, s, latent, remainder in data.encoded(rows):
            matrix = features[method].rows(latent, remainder, dummies)
            unseen = fold != s
            for p, e in sorted(set(zip(part.tolist(), environment.tolist(), strict=True))):
                inside = unseen & (part == p) & (environment == e)
                if inside.any():
                    found[method, s, p, e] = Moments.from_block(matrix[inside])
        return found

    groups = reduce_blocks(client, cuts, block, combine_keyed, progress=progress)
    found = {}
    for method, (encoders, latent_dim, _) in data.latent_shape.items():
        targets = basis_width(latent_dim, LATENT_DEGREE)
        checks = [
            misfit(
                {(p, e): m for (name, t, p, e), m in groups.items() if (name, t) == (method, s)},
                targets,
                latent_dim,
            )
            for s in range(encoders)
        ]
        found[str(method)] = Misfit(
            float(np.mean([c.r2 for c in checks])),
            float(np.mean([c.likelihood_ratio for c in checks])),
        )
    return found


def _parts(family: NDArray[np.int32], rows: slice) -> NDArray[np.int64]:
    """Part of each row of a block; relatives share one, and a part is a random sample because the
    store's rows are in random order."""
    unit = np.where(family >= 0, family, np.arange(rows.start, rows.start + len(family)))
    return unit % MISFIT_PARTS
