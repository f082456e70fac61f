"""Encoders of all blocks of people, latent dimensions and restarts, trained side by side.

Legend: S blocks, D latent dimensions, R restarts, P factors, E environments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mrscale.nn.autoencoder import EndToEnd
from mrscale.progress import Advance, silent
from mrscale.stats.moments import Floats
from mrscale.train.dosages import DosageSource
from mrscale.train.encoder import Encoder, Prepared, finish
from mrscale.train.inputs import Session, TrainingBlock
from mrscale.train.loop import HeldOut, Objective, Progressed, fit
from mrscale.train.memory import memory_suffices
from mrscale.train.metrics import Metrics
from mrscale.train.models import Model, bare_model, keep_replica, start_flows, start_kernels
from mrscale.train.objectives import Invariance, KernelLoss, LogLikelihood
from mrscale.train.ranks import Ranks, best_device, one_thread

Trained = Literal["kernel", "flow"]
FirstLayer = Literal["fixed", "trained"]
KERNEL_BATCH = 1000


@dataclass(frozen=True)
class Effort:
    """How to train; "auto": by the method and the number of people in a block.

    Attributes
    ----------
    restarts : int
    steps, batch_size : int or "auto"
    invariance : {"target", "pairwise"}
        Of the kernel encoder; see :class:`mrscale.train.objectives.KernelLoss`.
    first_layer : {"fixed", "trained"}
        Of the kernel encoder: principal components, or what becomes of them in training.
    """

    restarts: int = 1
    steps: int | Literal["auto"] = "auto"
    batch_size: int | Literal["auto"] = "auto"
    invariance: Invariance = "target"
    first_layer: FirstLayer = "fixed"

    def steps_of(self, method: Trained, num_people: int) -> int:
        """Steps of the optimiser."""
        if self.steps != "auto":
            return self.steps
        return 1000 if method == "flow" else 800 if num_people < 20_000 else 2000

    def batch_of(self, method: Trained, num_people: int) -> int:
        """People per step."""
        if self.batch_size != "auto":
            return self.batch_size
        if method == "kernel":
            return KERNEL_BATCH
        return 256 if num_people < 10_000 else 512 if num_people < 40_000 else 1024


@dataclass(frozen=True, eq=False)
class SideBySide:
    """Trained models of S blocks, D latent dimensions and R restarts, in that order.

    Attributes
    ----------
    method : str
    model : Flow or KernelEncoder
    done : Progressed
    num_blocks : int
    latent_dims : tuple of int
    wraps : tuple of tuple of float
        Per block: how often each environment is seen in one epoch, to the nearest power of two, so
        that small environments cannot be counted.
    judges : HeldOut or None
        Everybody who judges, behind the first layer, where that was trained.
    """

    method: Trained
    model: Model | EndToEnd
    done: Progressed
    num_blocks: int
    latent_dims: tuple[int, ...]
    wraps: tuple[tuple[float, ...], ...]
    judges: HeldOut | None = None

    @property
    def worth(self) -> Floats:
        """Held-out worth of every replica, shape (S, D, R)."""
        shape = (self.num_blocks, len(self.latent_dims), -1)
        return np.array(self.done.best_held_out).reshape(shape)

    def encoder(
        self, block: int, latent_dim: int, start: Prepared, story: dict[str, Any], rank: int = 0
    ) -> Encoder:
        """One restart of one block: the best (rank 0), the next best, ..."""
        d = self.latent_dims.index(latent_dim)
        restarts = self.worth[block, d]
        order = np.argsort(-restarts, kind="stable")
        replica = (block * len(self.latent_dims) + d) * len(restarts) + int(order[rank])
        history = [[step, loss[replica], worth[replica]] for step, loss, worth in self.done.history]
        shape = (self.method, start.front.num_factors, latent_dim, len(start.mean_dosage))
        model = self.model
        if isinstance(model, EndToEnd):
            start, model = self._behind(model, replica, start), model.encoder
        single = keep_replica(model, bare_model(*shape), replica)
        story = {
            **story,
            "best_step": self.done.best_step[replica],
            "held_out": self.done.best_held_out[replica],
            "restarts": restarts.tolist(),
            "wraps": list(self.wraps[block]),
            "history": [row for row in history if math.isfinite(row[2])],
        }
        return finish(self.method, latent_dim, start, single, story)

    @torch.no_grad()
    def _behind(self, model: EndToEnd, replica: int, start: Prepared) -> Prepared:
        """A start whose front end is the layer that a replica trained, with scores of judges."""
        assert self.judges is not None
        scores = self.judges.scores[replica][self.judges.weight[replica] > 0]
        front = replace(start.front, projection=model.projection[replica].double().numpy())
        return replace(start, front=front, scores=scores.numpy())


@memory_suffices()
@one_thread()
def learn(
    method: Trained,
    blocks: Sequence[TrainingBlock],
    latent_dims: Sequence[int],
    effort: Effort,
    *,
    seed: int,
    device: str = "auto",
    ranks: Ranks | None = None,
    resume: Path | None = None,
    identity: str = "",
    dosages: DosageSource | None = None,
    metrics: Metrics | None = None,
    progress: Advance = silent,
) -> SideBySide:
    """Train the encoders of every block.

    Parameters
    ----------
    method : {"kernel", "flow"}
    blocks : sequence of S TrainingBlock
    latent_dims : sequence of int
        One for the kernel encoder.
    effort : Effort
    seed : int
    device : str
        As torch names it; ``"auto"`` takes a GPU if there is one.
    dosages : DosageSource, optional
        Where batches are read from, instead of the scores in memory; needed for a trained layer.
    ranks, resume, identity, metrics, progress
        As for :func:`mrscale.train.loop.fit`.
    """
    ranks = ranks or Ranks()
    people = min(len(block.environment) for block in blocks)
    steps, batch_size = effort.steps_of(method, people), effort.batch_of(method, people)
    variants = len(latent_dims) * effort.restarts
    where = best_device(device)
    end_to_end = method == "kernel" and effort.first_layer == "trained"
    model = _started(method, blocks, latent_dims, effort.restarts, seed, end_to_end)
    read_before = dosages.chunks_read if dosages else 0
    session = Session(blocks, variants, steps, batch_size, seed, ranks, where)
    if dosages is None:
        inputs = session.of_scores()
    else:
        inputs = session.of_dosages(dosages, project=not end_to_end)
    objective: Objective = LogLikelihood()
    if method == "kernel":
        objective = KernelLoss(seed, steps, effort.invariance)
    done = fit(
        model.to(where),
        objective,
        inputs.batches_from,
        inputs.held_out,
        steps=steps,
        ranks=ranks,
        resume=resume,
        identity=identity,
        metrics=metrics,
        chunks_read=lambda: dosages.chunks_read - read_before if dosages else 0,
        progress=progress,
    )
    wraps = tuple(tuple(2.0 ** round(math.log2(w)) for w in plan.wraps) for plan in inputs.plans)
    judges = _all_judges(model, inputs.held_out, ranks) if isinstance(model, EndToEnd) else None
    return SideBySide(method, model.cpu(), done, len(blocks), tuple(latent_dims), wraps, judges)


@torch.no_grad()
def _all_judges(model: EndToEnd, share: HeldOut, ranks: Ranks) -> HeldOut:
    scores = torch.einsum("rebm,rmp->rebp", share.scores, model.projection)
    return HeldOut(ranks.gathered(scores.cpu(), 2), ranks.gathered(share.weight.cpu(), 2))


def _started(
    method: Trained,
    blocks: Sequence[TrainingBlock],
    latent_dims: Sequence[int],
    restarts: int,
    seed: int,
    end_to_end: bool,
) -> Model | EndToEnd:
    directions = [block.start.subspace.directions for block in blocks]
    environments = len(blocks[0].start.mean_dosage)
    if method == "kernel":
        (latent_dim,) = latent_dims
        layers = [block.start.front.projection for block in blocks] if end_to_end else None
        return start_kernels(
            directions, latent_dim, environments, restarts=restarts, seed=seed, projections=layers
        )
    latents = [
        block.start.scores.astype(np.float64) @ matrix
        for block, matrix in zip(blocks, directions, strict=True)
    ]
    codes = [block.environment for block in blocks]
    return start_flows(
        directions, latents, codes, latent_dims, environments, restarts=restarts, seed=seed
    )
