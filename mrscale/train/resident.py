"""Scores held in memory: batches and judges for encoders that are trained side by side.

Factors are few, so that the scores of a million people are some tens of megabytes.

Legend: S blocks of people, V encoders trained on each, R = S V replicas, E environments, P factors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrscale.sampling.plan import Plan, Rows
from mrscale.train.loop import HeldOut
from mrscale.train.ranks import Ranks

MOST_JUDGES = 10_000
"""People of one block who judge; more would only cost time."""
WINDOW_STEPS = 32
"""Batches whose rows are drawn at once: one copy of row numbers to a device for all of them."""


@dataclass(frozen=True, eq=False)
class ResidentBlock:
    """One block of people: scores (n, P) float32, rows that judge per environment, and the plan of
    batches over the others."""

    scores: Tensor
    judges: tuple[Rows, ...]
    plan: Plan


def divide(
    rows: Rows,
    environment: NDArray[np.integer],
    aside: NDArray[np.bool_],
    num_environments: int,
    *,
    chunk_rows: int,
    batch_size: int,
    seed: int,
    most_judges: int,
) -> tuple[tuple[Rows, ...], Plan]:
    """Divide people into those who judge, per environment, and a plan over those who train.

    Parameters
    ----------
    rows : ndarray, shape (n,), int64
        Numbers of their rows, increasing.
    environment : ndarray of int, shape (n,)
    aside : ndarray, shape (n,), bool
        Who judges; see :func:`mrscale.sampling.plan.held_out`.
    num_environments, chunk_rows, batch_size, seed : int
        As for :class:`mrscale.sampling.plan.Plan`.
    most_judges : int
        More of those who were put aside are not used.
    """

    def chosen(inside: NDArray[np.bool_]) -> tuple[Rows, ...]:
        return tuple(rows[inside & (environment == code)] for code in range(num_environments))

    most = -(-most_judges // num_environments)
    judges = tuple(part[:most] for part in chosen(aside))
    return judges, Plan(chosen(~aside), chunk_rows, batch_size, seed)


def resident_block(
    scores: NDArray[np.float32],
    environment: NDArray[np.integer],
    aside: NDArray[np.bool_],
    num_environments: int,
    *,
    batch_size: int,
    seed: int,
) -> ResidentBlock:
    """A block whose people are shuffled all together; parameters as for :func:`divide`."""
    judges, plan = divide(
        np.arange(len(scores)),
        environment,
        aside,
        num_environments,
        chunk_rows=len(scores),
        batch_size=batch_size,
        seed=seed,
        most_judges=MOST_JUDGES,
    )
    return ResidentBlock(torch.from_numpy(scores), judges, plan)


def batches(
    blocks: Sequence[ResidentBlock],
    variants: int,
    ranks: Ranks,
    device: torch.device | str = "cpu",
    *,
    start: int,
    stop: int,
) -> Iterator[Tensor]:
    """This rank's share (R, E, b, P) of batches ``start`` to ``stop``, gathered on the device; the
    V encoders of a block see the same people."""
    scores = torch.cat([block.scores for block in blocks]).to(device)
    offsets = np.cumsum([0, *(len(block.scores) for block in blocks[:-1])])
    for first in range(start, stop, WINDOW_STEPS):
        last = min(first + WINDOW_STEPS, stop)
        rows = np.stack(
            [
                offset
                + np.stack(block.plan.window(first, last, rank=ranks.rank, world=ranks.world))
                for offset, block in zip(offsets, blocks, strict=True)
            ],
            axis=1,
        )
        for batch in torch.from_numpy(rows).to(device).permute(2, 1, 0, 3):
            yield scores[batch].repeat_interleave(variants, 0)


def held_out(
    blocks: Sequence[ResidentBlock], variants: int, ranks: Ranks, device: torch.device | str = "cpu"
) -> HeldOut:
    """This rank's share of the people that judge, filled up to the largest environment."""
    mine = [[rows[ranks.rank :: ranks.world] for rows in block.judges] for block in blocks]
    most = max(1, *(len(rows) for parts in mine for rows in parts))
    shape = (len(blocks), len(mine[0]), most)
    scores = torch.zeros(*shape, blocks[0].scores.shape[1])
    weight = torch.zeros(shape)
    for s, (block, parts) in enumerate(zip(blocks, mine, strict=True)):
        for code, rows in enumerate(parts):
            scores[s, code, : len(rows)] = block.scores[rows]
            weight[s, code, : len(rows)] = 1
    scores, weight = scores.to(device), weight.to(device)
    return HeldOut(scores.repeat_interleave(variants, 0), weight.repeat_interleave(variants, 0))
