"""What can be said of learned instruments without any trait, on people who did not train them.

Legend: N people, S encoders, E environments, K remainder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrscale.progress import Advance, silent
from mrscale.sampling.plan import blocks
from mrscale.stats.design import indicators
from mrscale.stats.embedding import MAX_PEOPLE, PermutationTest, balanced_subsample
from mrscale.stats.independence import independence_test
from mrscale.stats.invariance import invariance_test, profile
from mrscale.stats.misfit import Misfit, RandomFeatures, misfit
from mrscale.stats.moments import Moments, combine_keyed
from mrscale.stream.engine import Client
from mrscale.stream.reduce import reduce_blocks
from mrscale.workflow.cohorts import Cohort, fewest_people
from mrscale.workflow.designs import LATENT_DEGREE, basis_width
from mrscale.workflow.latents import Encoders, Latents
from mrscale.workflow.preparing import typical_invariant

MISFIT_PARTS = 3
SMALL_ENVIRONMENT = 200
"""People of an environment, of those who train one encoder, below which its law is hardly known."""


@dataclass(frozen=True)
class LatentCheck:
    """What is known of one learned instrument before it meets a trait.

    Attributes
    ----------
    method : str
    latent_dim, remainder_dim, num_environments : int
    invariant : int
        Linear directions that the permutation test found invariant, the median over folds.
    smallest_environment : int
        People of the smallest environment that an encoder was trained on.
    misfit : Misfit
    dependence_gain : float
        Held-out log-likelihood per person that a flow without any invariant direction has more
        than that of the chosen dimension, the mean over folds; NaN if that was not tried.
    restart_spread : float
        Largest difference between restarts in what they were kept by, the median over folds; NaN
        for one restart.
    invariance, independence : PermutationTest
        Of the first encoder: its latent over environments, and latent and remainder within them.
    profile : dict of str to dict of str to list
        Of the same people, ``"mean"`` and ``"deviation"`` of ``"latent"`` and ``"remainder"``: a
        row per environment, of :func:`mrscale.stats.invariance.profile`.
    """

    method: str
    latent_dim: int
    remainder_dim: int
    num_environments: int
    invariant: int
    smallest_environment: int
    misfit: Misfit
    dependence_gain: float
    restart_spread: float
    invariance: PermutationTest
    independence: PermutationTest
    profile: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)

    @property
    def identifiable(self) -> bool:
        """Whether there are environments enough for this many moving dimensions."""
        return self.num_environments >= 2 * self.remainder_dim + 1

    @property
    def linear_suffices(self) -> bool:
        """Whether a linear encoder may be used: invariant directions enough, no misfit."""
        return self.invariant >= self.latent_dim and self.misfit.passed


def check_latents(
    client: Client | None,
    cohort: Cohort,
    latents: Latents,
    encoders: Encoders,
    seed: int,
    *,
    drop_missing: bool = False,
    progress: Advance = silent,
) -> dict[str, LatentCheck]:
    """Checks of every method, in one pass; the amounts told to ``progress`` sum to 1.

    ``drop_missing``: encoders were trained on people with every call only.
    """
    names = cohort.names("environments")
    num_folds = int(cohort.array("fold").max()) + 1
    smallest = fewest_people(cohort, num_folds, drop_missing=drop_missing)
    fits = misfits(client, cohort, latents, seed, progress=progress)
    found = {}
    for method in latents.main:
        _, latent_dim, remainder_dim = latents.shape(method)
        rng = np.random.default_rng(seed)
        g, h, e = _unseen(cohort, latents, method, rng)
        found[method] = LatentCheck(
            method=method,
            latent_dim=latent_dim,
            remainder_dim=remainder_dim,
            num_environments=len(names),
            invariant=typical_invariant([e.story["invariant"] for e in encoders[method]]),
            smallest_environment=smallest,
            misfit=fits[method],
            dependence_gain=_dependence_gain(encoders[method][0].story, latent_dim),
            restart_spread=_restart_spread([e.story for e in encoders[method]]),
            invariance=invariance_test(g, e, rng).joint,
            independence=independence_test(g, h, e, rng),
            profile={"latent": _profile(g, e, len(names)), "remainder": _profile(h, e, len(names))},
        )
    return found


def _dependence_gain(story: Mapping[str, dict[str, list[float]]], latent_dim: int) -> float:
    path = story.get("latent_dim_path", {})
    if "0" not in path:
        return np.nan
    return float(np.mean(path["0"]) - np.mean(path[str(latent_dim)]))


def _restart_spread(stories: Sequence[Mapping[str, list[float]]]) -> float:
    worths = [story.get("restarts", []) for story in stories]
    several = [max(worth) - min(worth) for worth in worths if len(worth) > 1]
    return float(np.median(several)) if several else np.nan


def _profile(
    values: NDArray[Any], environment: NDArray[Any], num_environments: int
) -> dict[str, list[list[float]]]:
    mean, deviation = profile(values, environment, num_environments)
    return {"mean": mean.tolist(), "deviation": deviation.tolist()}


def _unseen(
    cohort: Cohort, latents: Latents, method: str, rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Latent, remainder and environment of some of those whom the first encoder has not seen; tests
    of the other encoders would cost as much and are of the same kind."""
    environment = cohort.array("environment")
    unseen = np.flatnonzero(cohort.array("fold") != 0)
    rows = unseen[np.sort(balanced_subsample(environment[unseen], MAX_PEOPLE, rng))]
    latent, remainder = next(latents.of(method, slice(None)))
    return latent[rows], remainder[rows], environment[rows]


def misfits(
    client: Client | None,
    cohort: Cohort,
    latents: Latents,
    seed: int,
    *,
    progress: Advance = silent,
) -> dict[str, Misfit]:
    """Misfit checks per method, averaged over its encoders, on people who did not train them.

    The regressions are cross-fitted over ``MISFIT_PARTS`` parts of those people: with two folds
    an encoder leaves only one unseen.
    """
    shapes = {method: latents.shape(method) for method in latents.main}
    features = {
        method: RandomFeatures.draw(shape[2], np.random.default_rng(seed))
        for method, shape in shapes.items()
    }
    num_environments = len(cohort.names("environments"))

    def block(rows: slice) -> dict[tuple[str, int, int, int], Moments]:
        environment = cohort.array("environment", rows)
        fold = cohort.array("fold", rows)
        part = _parts(cohort.array("family", rows), rows)
        dummies = indicators(environment, num_environments)
        found: dict[tuple[str, int, int, int], Moments] = {}
        for method in shapes:
            for s, (latent, remainder) in enumerate(latents.of(method, rows)):
                matrix = features[method].rows(latent, remainder, dummies)
                unseen = fold != s
                for p, e in sorted(set(zip(part.tolist(), environment.tolist(), strict=True))):
                    inside = unseen & (part == p) & (environment == e)
                    if inside.any():
                        found[method, s, p, e] = Moments.from_block(matrix[inside])
        return found

    cuts = blocks(cohort.num_samples, cohort.layout.chunk_rows)
    groups = reduce_blocks(client, cuts, block, combine_keyed, progress=progress)
    found = {}
    for method, (encoders, latent_dim, _) in shapes.items():
        targets = basis_width(latent_dim, LATENT_DEGREE)
        checks = [
            misfit(
                {(p, e): m for (name, t, p, e), m in groups.items() if (name, t) == (method, s)},
                targets,
                latent_dim,
            )
            for s in range(encoders)
        ]
        found[method] = Misfit(
            float(np.mean([c.r2 for c in checks])),
            float(np.mean([c.likelihood_ratio for c in checks])),
        )
    return found


def _parts(family: NDArray[np.int32], rows: slice) -> NDArray[np.int64]:
    """Part of each row of a block; relatives share one. A part is as good as a random sample
    whatever the order of the rows: the multiplier (Knuth's) scatters neighbours."""
    unit = np.where(family >= 0, family, np.arange(rows.start, rows.start + len(family)))
    scattered = unit.astype(np.uint64) * np.uint64(2654435761) % np.uint64(2**32)
    return (scattered >> np.uint64(16)).astype(np.int64) % MISFIT_PARTS
