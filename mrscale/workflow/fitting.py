"""Two passes over the rows: moments for every estimator's fit, then its robust error.

Legend: S encoders, E environments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mrscale.disclosure import may_tell_more_than
from mrscale.errors import InputError
from mrscale.progress import Advance, silent
from mrscale.results import Estimate
from mrscale.results.pair import RIVAL
from mrscale.stats.iv import LinearIV, ordinary_least_squares, two_stage_least_squares
from mrscale.stats.moments import Floats, Moments, combine_keyed, pool
from mrscale.stats.pooling import Replicated, interval, replicate_mean
from mrscale.stats.reduced import TraitMeats
from mrscale.stats.scores import OuterSums, trait_meats
from mrscale.stats.specification import TestResult, hansen_j_of
from mrscale.stream.engine import Client
from mrscale.stream.reduce import reduce_blocks
from mrscale.workflow.designs import (
    GENOTYPE,
    Estimator,
    Frame,
    FrameRows,
    PairData,
)
from mrscale.workflow.subsets import few_of_either

EVERYWHERE: tuple[int, ...] = ()
"""Environments of a fit on all of them together."""

UNTESTED = TestResult.not_applicable("Hansen J", "no more instruments than exposures")

FrameMoments = dict[tuple[Frame, int], Moments]


@dataclass(frozen=True, eq=False)
class Fitted:
    """An estimator's fits, one per frame, with the pooled answer.

    Attributes
    ----------
    estimator : Estimator
    environments : tuple of int
        Codes, or ``EVERYWHERE``.
    fits : tuple of LinearIV
    variance : float
        ``sum_g (mean_s psi_gs)^2`` over people or clusters g: robust for a single frame.
    overidentification : TestResult
        Hansen's J, the median over frames; not applicable before :func:`with_errors`.
    meats : TraitMeats or None
        Of the rival after :func:`with_errors`, for its Anderson-Rubin set.
    """

    estimator: Estimator
    environments: tuple[int, ...]
    fits: tuple[LinearIV, ...]
    variance: float = np.nan
    overidentification: TestResult = UNTESTED
    meats: TraitMeats | None = None

    @property
    def is_rival(self) -> bool:
        """Whether it is the adjusted 2SLS, in all environments together."""
        return self.estimator.key == RIVAL and self.environments == EVERYWHERE

    @property
    def is_testable(self) -> bool:
        """Whether it has instruments to spare, in all environments together."""
        several = all(fit.num_instruments > 1 for fit in self.fits)
        return self.environments == EVERYWHERE and several

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
            j_pvalue=self.overidentification.pvalue,
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


def fit(
    moments: FrameMoments, estimator: Estimator, environments: tuple[int, ...] = EVERYWHERE
) -> Fitted:
    """Point estimates of one estimator, over some environments or all."""
    m = len(estimator.instruments)
    fits = []
    for frame in estimator.frames:
        selected = select(moments, frame, environments).select(estimator.columns)
        fits.append(two_stage_least_squares(selected, m) if m else ordinary_least_squares(selected))
    return Fitted(estimator, environments, tuple(fits))


def fit_within(
    moments: FrameMoments, estimator: Estimator, environments: Iterable[int]
) -> list[Fitted]:
    """Point estimates in every environment that has people enough for this many instruments."""
    found = []
    for code in environments:
        with suppress(InputError):
            found.append(fit(moments, estimator, (code,)))
    return found


def few_cases(moments: FrameMoments, environments: tuple[int, ...] = EVERYWHERE) -> bool:
    """Whether 1 to 20 people have, or lack, an exposure or outcome of 0 and 1."""
    traits = {key: found.select([-2, -1]) for key, found in moments.items() if key[0] == GENOTYPE}
    return few_of_either(select(traits, GENOTYPE, environments), 2)


def may_be_shown(one: Fitted, moments: FrameMoments, sizes: NDArray[np.intp]) -> bool:
    """Whether an estimate tells no more of the people of its environments than their count.

    One of several environments may be shown if one of them alone could be: else that it is there
    would tell of their sum. ``sizes`` are all people of each environment, with the traits or not.
    """
    needed = len(one.estimator.columns)
    if few_cases(moments, one.environments):
        return False
    if one.environments == EVERYWHERE:
        return may_tell_more_than(needed, select(moments, GENOTYPE).count, [int(sizes.sum())])
    used = {code: found.count for (name, code), found in moments.items() if name == GENOTYPE}
    return any(
        used.get(code, 0) > needed and may_tell_more_than(needed, used[code], [int(sizes[code])])
        for code in one.environments
    )


def fit_without(
    moments: FrameMoments, estimator: Estimator, environments: Sequence[int]
) -> list[Fitted]:
    """Point estimates without each environment, for those whose others allow one."""
    found = []
    for left_out in environments:
        others = tuple(code for code in environments if code != left_out)
        with suppress(InputError):
            if others:
                found.append(fit(moments, estimator, others))
    return found


def select(
    moments: FrameMoments, frame: Frame, environments: tuple[int, ...] = EVERYWHERE
) -> Moments:
    """Moments of one frame, over some environments or all; InputError if they hold nobody."""
    codes = sorted(code for name, code in moments if name == frame)
    parts = [moments[frame, code] for code in codes if not environments or code in environments]
    if not parts:
        raise InputError(
            "an estimate needs people with the exposure, the outcome and every covariate; found "
            "nobody with all of them; choose traits that were measured in the same people"
        )
    return pool(parts)


def in_several_clusters(data: PairData, kinds: Sequence[Sequence[Fitted]]) -> list[list[Fitted]]:
    """Of each list those fits that clustered errors can be given: the influences of people of a
    single cluster sum to zero, which is no error.

    Raises
    ------
    InputError
        If all people in the estimates are one cluster.
    """
    if not data.clustered:
        return [list(kind) for kind in kinds]
    groups = {one.environments for kind in kinds for one in kind}
    several = {group: data.num_clusters(group) > 1 for group in groups}
    if not several[EVERYWHERE]:
        raise InputError(
            "clustered errors need two clusters or more (fifty to be trusted), but all people with "
            "the exposure, the outcome and every covariate are one; extract with another "
            "cluster_column in [people], or without"
        )
    return [[one for one in kind if several[one.environments]] for kind in kinds]


def with_errors(
    client: Client | None,
    cuts: Sequence[slice],
    data: PairData,
    fitted: Sequence[Fitted],
    *,
    progress: Advance = silent,
) -> tuple[list[Fitted], Floats]:
    """Second pass: the robust or clustered variance of every fit, Hansen's J of those over all
    environments, and what the rival's Anderson-Rubin set needs.

    Returns
    -------
    list of Fitted
    ndarray, shape (fits, fits)
        Covariance of the estimates given their encoders.
    """
    sizes = data.cluster_sizes
    tested = [i for i, one in enumerate(fitted) if one.is_testable or one.is_rival]

    def block(rows: slice) -> OuterSums:
        frames, length = dict(data.frames(rows)), rows.stop - rows.start
        influence = np.stack([_influence(frames, one, length) for one in fitted], axis=1)
        scores = [score for i in tested for score in _scores(frames, fitted[i], length)]
        codes = data.store.array("cluster", rows) if data.clustered else None
        return OuterSums.from_block([influence, *scores], codes, sizes)

    sums = reduce_blocks(client, cuts, block, lambda a, b: a.combine(b, sizes), progress=progress)
    covariance, *meats = sums.totals
    variances = np.diag(covariance).tolist()
    num_clusters = data.num_clusters() if data.clustered else None
    found = [replace(one, variance=v) for one, v in zip(fitted, variances, strict=True)]
    for i in tested:
        own, meats = meats[: len(fitted[i].fits)], meats[len(fitted[i].fits) :]
        found[i] = _tested(found[i], own, num_clusters)
    return found, covariance


def _tested(fitted: Fitted, sums: Sequence[Floats], num_clusters: int | None) -> Fitted:
    """A fit with what its sums of :func:`_scores` tell."""
    if fitted.is_rival:
        ((total,), (fit,)) = sums, fitted.fits
        meats = trait_meats(total, fit.reduced, num_clusters or fit.reduced.count)
        sums = [meats.of_residual(np.array([-fit.estimate, 1.0]))]
        fitted = replace(fitted, meats=meats)
    if not fitted.is_testable:
        return fitted
    tests = [
        hansen_j_of(one.reduced, meat, num_clusters or one.reduced.count)
        for one, meat in zip(fitted.fits, sums, strict=True)
    ]
    return replace(fitted, overidentification=_typical(tests))


def _influence(frames: dict[Frame, FrameRows], one: Fitted, length: int) -> Floats:
    """``mean_s psi_is`` of the people of a block; psi is zero outside a frame."""
    mean = np.zeros(length)
    for member, single in _members(frames, one):
        chosen = _inside(member.environment, one.environments)
        influence = single.influence(member.matrix[chosen][:, one.estimator.columns])
        mean[member.row[chosen]] += influence / len(one.fits)
    return mean


def _inside(
    environment: NDArray[np.int16], environments: tuple[int, ...]
) -> NDArray[np.bool_] | slice:
    """Which people are in some environments, or all."""
    if environments == EVERYWHERE:
        return slice(None)
    # few codes: np.isin would cost more than the regression
    return np.asarray(np.logical_or.reduce([environment == code for code in environments]))


def _scores(frames: dict[Frame, FrameRows], one: Fitted, length: int) -> Iterator[Floats]:
    """Scores of each frame's instruments, of the rival before any effect is taken out; zero for
    people outside it."""
    for member, single in _members(frames, one):
        rows = member.matrix[:, one.estimator.columns]
        inside = single.trait_scores(rows) if one.is_rival else single.scores(rows)
        scores = np.zeros((length, inside.shape[1]))
        scores[member.row] = inside
        yield scores


def _members(frames: dict[Frame, FrameRows], one: Fitted) -> Iterator[tuple[FrameRows, LinearIV]]:
    return zip((frames[name] for name in one.estimator.frames), one.fits, strict=True)


def _typical(tests: Sequence[TestResult]) -> TestResult:
    """The test with the median p-value; encoders are fitted to the same people."""
    usable = sorted((t for t in tests if np.isfinite(t.pvalue)), key=lambda t: t.pvalue)
    return usable[len(usable) // 2] if usable else tests[0]
