"""What trainings take: plans, batches and people who judge, of scores or of dosages.

Legend: S blocks of people, V encoders trained on each, E environments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrscale.sampling.plan import Plan
from mrscale.train import resident
from mrscale.train.dosages import JUDGES_BYTES, Decoder, DosageSource
from mrscale.train.encoder import Prepared
from mrscale.train.loop import HeldOut
from mrscale.train.ranks import Ranks


@dataclass(frozen=True, eq=False)
class TrainingBlock:
    """The people that one encoder learns from.

    Attributes
    ----------
    start : Prepared
    environment : ndarray of int, shape (N_s,)
        Of the rows of ``start``.
    aside : ndarray of bool, shape (N_s,)
        Who judges; relatives are on one side.
    """

    start: Prepared
    environment: NDArray[np.integer[Any]]
    aside: NDArray[np.bool_]


class Inputs(NamedTuple):
    """A plan for each block, this rank's batches from a step on, and its part of those who
    judge."""

    plans: list[Plan]
    batches_from: Callable[[int], Iterator[Tensor]]
    held_out: HeldOut


@dataclass(frozen=True, eq=False)
class Session:
    """One training: whose, how long, where.

    Attributes
    ----------
    blocks : sequence of S TrainingBlock
    variants : int
        V.
    steps, batch_size, seed : int
    ranks : Ranks
    device : torch.device
    """

    blocks: Sequence[TrainingBlock]
    variants: int
    steps: int
    batch_size: int
    seed: int
    ranks: Ranks
    device: torch.device

    @property
    def _environments(self) -> int:
        return len(self.blocks[0].start.mean_dosage)

    def of_scores(self) -> Inputs:
        """Scores in memory, shuffled all together."""
        loaded = [
            resident.resident_block(
                block.start.scores,
                block.environment,
                block.aside,
                self._environments,
                batch_size=self.batch_size,
                seed=self.seed * 1000 + index,
            )
            for index, block in enumerate(self.blocks)
        ]
        shared = self.variants, self.ranks, self.device
        return Inputs(
            [block.plan for block in loaded],
            lambda start: resident.batches(loaded, *shared, start=start, stop=self.steps),
            resident.held_out(loaded, *shared),
        )

    def of_dosages(self, source: DosageSource, *, project: bool) -> Inputs:
        """Dosages, shuffled in windows of chunks; see :class:`mrscale.train.dosages.Decoder`."""
        starts = [block.start for block in self.blocks]
        decoder = Decoder(starts, self.variants, project=project, device=self.device)
        most_judges = self._most_judges(project=project)
        divided = [
            resident.divide(
                block.start.rows,
                block.environment,
                block.aside,
                self._environments,
                chunk_rows=source.chunk_rows,
                batch_size=self.batch_size,
                # one for all blocks: they then need the same chunks at a time
                seed=self.seed,
                most_judges=most_judges,
            )
            for block in self.blocks
        ]
        plans = [plan for _, plan in divided]
        rank, world = self.ranks.rank, self.ranks.world
        mine = [[rows[rank::world] for rows in judges] for judges, _ in divided]
        return Inputs(
            plans,
            lambda start: decoder.batches(source, plans, start, self.steps, self.ranks),
            HeldOut(*decoder.judges(mine, source)),
        )

    def _most_judges(self, *, project: bool) -> int:
        """People of each block who can judge: as many as ``JUDGES_BYTES`` hold with the instruments
        that they are read with, but no fewer than a batch, which is held anyway."""
        front = self.blocks[0].start.front
        instruments, factors = len(front.origin), front.num_factors
        # copied for the V encoders of a block: what these see
        values = instruments + self.variants * factors if project else self.variants * instruments
        together = len(self.blocks) * values * torch.float32.itemsize
        return min(resident.MOST_JUDGES, max(JUDGES_BYTES // together, self.batch_size))
