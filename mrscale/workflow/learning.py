"""From linear starts to encoders: choice of the latent dimension, then one encoder per fold.

Legend: S folds, D latent dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mrscale.config import Method
from mrscale.errors import InputError
from mrscale.progress import Advance, silent
from mrscale.sampling.plan import held_out
from mrscale.stats.moments import Floats
from mrscale.train.dosages import DosageSource
from mrscale.train.encoder import Encoder, Prepared, finish
from mrscale.train.inputs import TrainingBlock
from mrscale.train.learn import Effort, learn
from mrscale.train.metrics import Metrics
from mrscale.train.ranks import Ranks
from mrscale.workflow.cohorts import Cohort
from mrscale.workflow.preparing import nobody_to_train_on, typical_invariant

BLOCKS = 4
"""Disjoint blocks of people, an encoder for each. More of them are of fewer people, share more of
the encoders' bias, which no interval sees, and covered less at 10,000 to 20,000 people."""
PATH_STEPS = 600
"""Of the flows that choose the latent dimension: by then they differ by more than they still
gain."""
AS_GOOD = 0.005
"""Held-out log-likelihood per person within which latent dimensions count as equally good: about
the standard error of a paired comparison in a few thousand people."""


@dataclass(frozen=True, eq=False)
class LatentDim:
    """The latent dimension, and what it was chosen by.

    Attributes
    ----------
    value : int
    path : dict of str to list of float
        Per candidate: held-out log-likelihood in each fold; empty if it was given, or chosen by
        the permutation test. Candidate 0 has no invariant direction at all.
    """

    value: int
    path: dict[str, list[float]]


def training_blocks(cohort: Cohort, starts: Sequence[Prepared], seed: int) -> list[TrainingBlock]:
    """The people of every fold, divided into those who train and those who judge."""
    environment, family = cohort.array("environment"), cohort.array("family")
    return [
        TrainingBlock(start, environment[start.rows], held_out(family[start.rows], seed))
        for start in starts
    ]


def require_people_to_train(
    cohort: Cohort, blocks: Sequence[TrainingBlock], *, kernel: bool
) -> None:
    """Refuse an environment whose people in some block all judge, and blocks in which nobody does,
    or, where a ``kernel`` encoder is trained, not in the same two environments; the linear encoder
    can do."""
    for code, name in enumerate(cohort.names("environments")):
        if any(not (~block.aside & (block.environment == code)).any() for block in blocks):
            raise nobody_to_train_on(name)
    judged = [set(block.environment[block.aside].tolist()) for block in blocks]
    if not all(judged) or (kernel and len(set.intersection(*judged)) < 2):
        whose = " of two environments, the same in all folds," if kernel else ""
        raise InputError(
            f"every fold needs people{whose} to judge its encoders by; of the share of people that "
            "is kept aside for that too few are left; lower folds, or merge small environments "
            "with others"
        )


def require_latent_dim(asked: int | Literal["auto"], factors: int) -> None:
    """Refuse a latent dimension that leaves no remainder."""
    if asked != "auto" and asked >= factors:
        raise InputError(
            f"latent_dim must be below the number of factors, {factors}, so that something is "
            f"left to absorb confounding; found {asked}; lower it, or raise factors"
        )


def choose_latent_dim(
    asked: int | Literal["auto"],
    methods: Sequence[Method],
    blocks: Sequence[TrainingBlock],
    effort: Effort,
    *,
    seed: int,
    **options: Any,
) -> LatentDim:
    """The latent dimension: as asked, by likelihood where flows are trained, or by permutation.

    Parameters
    ----------
    asked : int or "auto"
    methods : sequence of str
    blocks : sequence of S TrainingBlock
    effort : Effort
    seed : int
    **options
        As for :func:`mrscale.train.learn.learn`.

    Notes
    -----
    Flows of every dimension are trained side by side on each fold and judged on people held out.
    The largest dimension within ``AS_GOOD`` of the best is taken: one too many is clearly worse
    (by about 0.1 per person), and one too few costs strength of the instrument only.
    """
    starts = [block.start for block in blocks]
    factors = starts[0].front.num_factors
    require_latent_dim(asked, factors)
    if asked != "auto":
        return LatentDim(asked, {})
    if "flow" not in methods:
        invariant = typical_invariant([start.invariant for start in starts])
        return LatentDim(min(max(invariant, 1), factors - 1), {})
    short = effort if effort.steps != "auto" else replace(effort, steps=PATH_STEPS)
    candidates = range(factors)
    trained = learn("flow", blocks, candidates, replace(short, restarts=1), seed=seed, **options)
    worth = trained.worth[:, :, 0]
    path = {str(d): worth[:, d].tolist() for d in candidates}
    return LatentDim(1 + largest_as_good(worth[:, 1:]), path)


def largest_as_good(worth: Floats) -> int:
    """Index of the last candidate whose mean worth is within ``AS_GOOD`` of the best.

    Parameters
    ----------
    worth : ndarray, shape (S, D)
        Held-out log-likelihood of D candidates in S folds.
    """
    mean = worth.mean(axis=0)
    return int(np.flatnonzero(mean >= mean.max() - AS_GOOD)[-1])


def learn_encoders(
    method: Method,
    blocks: Sequence[TrainingBlock],
    latent_dim: int,
    effort: Effort,
    story: dict[str, Any],
    *,
    seed: int,
    ranks: Ranks | None = None,
    resume: Path | None = None,
    identity: str = "",
    device: str = "auto",
    dosages: DosageSource | None = None,
    metrics: Metrics | None = None,
    progress: Advance = silent,
) -> list[Encoder]:
    """One encoder per fold.

    Parameters
    ----------
    method : {"linear", "kernel", "flow"}
    blocks : sequence of S TrainingBlock
    latent_dim : int
    effort : Effort
    story : dict
        Kept with every encoder, beside its fold.
    seed, ranks, resume, identity, device, dosages, metrics, progress
        As for :func:`mrscale.train.learn.learn`.
    """
    stories = [
        {**story, "fold": fold, "invariant": block.start.invariant}
        for fold, block in enumerate(blocks)
    ]
    if method == "linear":
        progress()
        return [
            finish("linear", latent_dim, block.start, None, own)
            for block, own in zip(blocks, stories, strict=True)
        ]
    trained = learn(
        method,
        blocks,
        [latent_dim],
        effort,
        seed=seed,
        device=device,
        ranks=ranks,
        resume=resume,
        identity=identity,
        dosages=dosages,
        metrics=metrics,
        progress=progress,
    )
    return [
        trained.encoder(fold, latent_dim, block.start, own)
        for fold, (block, own) in enumerate(zip(blocks, stories, strict=True))
    ]
