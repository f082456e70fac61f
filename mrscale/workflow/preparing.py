"""What encoders start from, in two passes: moments of every fold and environment, from which the
linear front ends follow, then the scores of the fold's people.

Legend: N people, M variants, P factors, E environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mrscale.errors import InputError
from mrscale.progress import Advance, silent
from mrscale.sampling.plan import blocks
from mrscale.stats.design import fill_missing, has_every_call
from mrscale.stats.moments import Floats, Moments, combine_keyed, pool
from mrscale.stats.subspace import (
    FrontEnd,
    add_score,
    count_invariant,
    fit_front_end,
    stationary_subspace,
)
from mrscale.stream.engine import Client
from mrscale.stream.reduce import map_blocks, reduce_blocks
from mrscale.train.encoder import Prepared
from mrscale.workflow.cohorts import Cohort

Factors = int | Literal["auto"]
FoldEnvironment = tuple[int, int]


def prepare(
    client: Client | None,
    cohort: Cohort,
    fill: Floats,
    num_folds: int,
    *,
    factors: Factors,
    guided: bool = False,
    drop_missing: bool = False,
    seed: int = 0,
    progress: Advance = silent,
) -> list[Prepared]:
    """Front end, scores and stationary subspace of every fold.

    Parameters
    ----------
    client : distributed.Client or None
        As for :func:`mrscale.stream.reduce.reduce_blocks`.
    cohort : Cohort
    fill : ndarray, shape (E, M)
        Mean dosages that replace missing calls.
    num_folds : int
    factors : int or "auto"
        Auto: :func:`mrscale.stats.subspace.count_factors` in each fold, and their median in all.
    guided : bool
        Add the first-stage score of the cohort's first exposure, learned in each fold, to its
        components; see :func:`mrscale.stats.subspace.add_score`.
    drop_missing : bool
        Leave out people with a missing call instead of filling it.
    seed : int
        Of the permutation test.
    progress : Advance
        Told of both passes; the amounts sum to 2.

    Raises
    ------
    InputError
        If a fold has too few people of an environment, or the variants allow no such front end.
    """
    source = _Rows(cohort, fill, guided, drop_missing)
    cuts = blocks(cohort.num_samples, cohort.layout.chunk_rows)
    groups = reduce_blocks(client, cuts, source.moments, combine_keyed, progress=progress)
    _require_everywhere(groups, num_folds, cohort)
    fronts = _front_ends(groups, num_folds, factors, guided)
    instruments = range(cohort.num_variants)
    parts = map_blocks(client, cuts, lambda rows: source.scores(rows, fronts), progress=progress)
    environment = cohort.array("environment")
    found = []
    for fold, front in enumerate(fronts):
        rows, scores = (np.concatenate(a) for a in zip(*(p[fold] for p in parts), strict=True))
        inside = [m for (f, _), m in sorted(groups.items(), key=lambda item: item[0]) if f == fold]
        subspace = stationary_subspace(
            [m.select(instruments).transform(front.projection, front.origin) for m in inside]
        )
        rng = np.random.default_rng([seed, fold])
        invariant = count_invariant(scores.astype(np.float64), environment[rows], rng)
        found.append(Prepared(front, fill, subspace, rows, scores, invariant))
    return found


@dataclass(frozen=True)
class _Rows:
    """Block functions over the rows of a cohort, grouped by fold and environment."""

    cohort: Cohort
    fill: Floats
    guided: bool
    drop_missing: bool

    def _read(
        self, rows: slice
    ) -> tuple[NDArray[np.intp], Floats, NDArray[np.int16], NDArray[np.int8]]:
        """Row numbers, dosages, environments and folds of the people to train on."""
        dosage = self.cohort.expected_dosage(rows)
        kept = np.ones(len(dosage), bool)
        if self.drop_missing:
            kept = has_every_call(dosage)
        environment = self.cohort.array("environment", rows)[kept]
        filled = fill_missing(dosage[kept], environment, self.fill)
        numbers = rows.start + np.flatnonzero(kept)
        return numbers, filled, environment, self.cohort.array("fold", rows)[kept]

    def moments(self, rows: slice) -> dict[FoldEnvironment, Moments]:
        numbers, filled, environment, fold = self._read(rows)
        if self.guided:
            exposure = self.cohort.array("exposure", rows)[numbers - rows.start, :1]
            filled = np.c_[filled, exposure]
        pairs = sorted(set(zip(fold.tolist(), environment.tolist(), strict=True)))
        return {
            (f, e): Moments.from_block(filled[(fold == f) & (environment == e)]) for f, e in pairs
        }

    def scores(
        self, rows: slice, fronts: list[FrontEnd]
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        numbers, filled, _, fold = self._read(rows)
        inside = [np.flatnonzero(fold == f) for f in range(len(fronts))]
        return [
            (numbers[index], front.scores(filled[index]).astype(np.float32))
            for index, front in zip(inside, fronts, strict=True)
        ]


def _require_everywhere(
    groups: dict[FoldEnvironment, Moments], num_folds: int, cohort: Cohort
) -> None:
    """Refuse a fold without people of some environment."""
    for code, name in enumerate(cohort.names("environments")):
        if any((fold, code) not in groups for fold in range(num_folds)):
            raise nobody_to_train_on(name)


def nobody_to_train_on(environment: str) -> InputError:
    """The refusal of an environment that has nobody to train on in some fold."""
    return InputError(
        f"every fold needs people of every environment to train on; environment {environment!r} "
        "has too few for this many folds; lower folds, or merge the environment with another"
    )


def _front_ends(
    groups: dict[FoldEnvironment, Moments], num_folds: int, factors: Factors, guided: bool
) -> list[FrontEnd]:
    """One front end per fold, all with the same number of factors."""
    folds = [pool([m for (f, _), m in groups.items() if f == fold]) for fold in range(num_folds)]
    plain = [fold.select(range(len(fold.mean) - 1)) for fold in folds] if guided else folds
    number = None if factors == "auto" else factors
    fronts = [fit_front_end(fold, number) for fold in plain]
    typical = sorted(front.num_factors for front in fronts)[len(fronts) // 2]
    if factors == "auto":  # no fold may have to do with more than it has
        typical = min(typical, *(front.available for front in fronts))
    fronts = [
        front if front.num_factors == typical else fit_front_end(fold, typical)
        for fold, front in zip(plain, fronts, strict=True)
    ]
    if not guided:
        return fronts
    return [add_score(front, fold) for front, fold in zip(fronts, folds, strict=True)]


def typical_invariant(counts: Sequence[int]) -> int:
    """Number of invariant directions that the folds agree on: their lower median."""
    return sorted(counts)[(len(counts) - 1) // 2]
