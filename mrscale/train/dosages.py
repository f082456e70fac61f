"""Dosages as model inputs: decoded on the device, whether held there or read as they are needed.

Legend: S blocks of people, V encoders trained on each, R = S V replicas, E environments, b people
of each in one rank's share of a batch, M instruments, P factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrscale.sampling.plan import Plan, Rows
from mrscale.stats.moments import Floats
from mrscale.train.encoder import Prepared
from mrscale.train.ranks import Ranks

JUDGES_BYTES = 256 * 2**20
"""Of the instruments of people who judge, where encoders see instruments."""


class DosageSource(Protocol):
    """Where dosages come from; missing calls are negative or NaN.

    Attributes
    ----------
    chunks_read : int
        Chunks of the store that were read for batches so far.
    chunk_rows : int
        Rows in a chunk.
    """

    @property
    def chunks_read(self) -> int: ...

    @property
    def chunk_rows(self) -> int: ...

    def batches_as(
        self,
        decode: Callable[[Any], Tensor],
        plans: Sequence[Plan],
        *,
        start: int,
        stop: int,
        rank: int,
        world: int,
    ) -> Iterator[Tensor]:
        """What ``decode`` makes, ahead of the trainer if possible, of the dosages (S E b, M), array
        or tensor, of this rank's share of every batch."""

    def rows(self, rows: Rows) -> Any:
        """Dosages of some rows, in their order."""


class ResidentDosages:
    """Dosages of everybody, held on the device.

    Parameters
    ----------
    dosage : ndarray, shape (N, M), int8 or float32
    chunk_rows : int
        Of the store: batches are then those that would be streamed.
    device : torch.device
    """

    chunks_read = 0

    def __init__(self, dosage: NDArray[Any], chunk_rows: int, device: torch.device) -> None:
        self._dosage, self.chunk_rows = torch.from_numpy(dosage).to(device), chunk_rows

    def batches_as(
        self,
        decode: Callable[[Any], Tensor],
        plans: Sequence[Plan],
        *,
        start: int,
        stop: int,
        rank: int,
        world: int,
    ) -> Iterator[Tensor]:
        """As :class:`DosageSource`."""
        for step in range(start, stop):
            parts = [plan.batch(step, rank=rank, world=world) for plan in plans]
            yield decode(self.rows(np.concatenate([rows for part in parts for rows in part])))

    def rows(self, rows: Rows) -> Tensor:
        """As :class:`DosageSource`."""
        return self._dosage[torch.from_numpy(rows).to(self._dosage.device)]


class Decoder:
    """Fills missing calls, centres, and projects to scores unless encoders do that themselves.

    Parameters
    ----------
    starts : sequence of S Prepared
    variants : int
        V.
    project : bool
        Whether inputs are scores (R, E, b, P), or else centred instruments (R, E, b, M).
    device : torch.device
    """

    def __init__(
        self, starts: Sequence[Prepared], variants: int, *, project: bool, device: torch.device
    ) -> None:
        self._variants, self._project, self._device = variants, project, device
        self._fill = self._tensor(starts[0].mean_dosage)
        self._origin = self._tensor(np.stack([start.front.origin for start in starts]))
        fronts = [start.front for start in starts]
        self._projection = self._tensor(np.stack([front.projection for front in fronts]))
        self._shift = self._tensor(np.stack([front.origin @ front.projection for front in fronts]))

    def __call__(self, dosage: Any, shape: tuple[int, int, int]) -> Tensor:
        """Inputs, float32, of dosages in rows by block, environment and person.

        Parameters
        ----------
        dosage : ndarray or Tensor, shape (S E b, M)
        shape : (S, E, b)
        """
        codes = _to(dosage, self._device).view(*shape, dosage.shape[-1])
        missing = codes.isnan() if codes.is_floating_point() else codes < 0
        x = codes.float().masked_fill_(missing, 0)
        block, environment, person, variant = missing.nonzero(as_tuple=True)
        fill = self._fill[environment, variant]
        if self._project:
            scores = (x.flatten(1, 2) @ self._projection).view(*shape, self._projection.shape[-1])
            scores -= self._shift[:, None, None]
            filled = fill[:, None] * self._projection[block, variant]
            x = scores.index_put_((block, environment, person), filled, accumulate=True)
        else:
            x[block, environment, person, variant] = fill
            x -= self._origin[:, None, None]
        return x.repeat_interleave(self._variants, 0)

    def batches(
        self,
        source: DosageSource,
        plans: Sequence[Plan],
        start: int,
        stop: int,
        ranks: Ranks,
    ) -> Iterator[Tensor]:
        """This rank's share of batches ``start`` to ``stop``."""
        shares = plans[0].batch(start, rank=ranks.rank, world=ranks.world)
        shape = len(plans), len(shares), len(shares[0])
        return source.batches_as(
            lambda dosage: self(dosage, shape),
            plans,
            start=start,
            stop=stop,
            rank=ranks.rank,
            world=ranks.world,
        )

    def judges(self, rows: Sequence[Sequence[Rows]], source: DosageSource) -> tuple[Tensor, Tensor]:
        """Inputs (R, E, most, ...) and weights (R, E, most) of people who judge, from their rows by
        block and environment."""
        most = max(1, *(len(part) for parts in rows for part in parts))
        shape = len(rows), len(rows[0]), most
        weight = torch.zeros(shape)
        read = source.rows(np.concatenate([part for parts in rows for part in parts]))
        padded = torch.zeros(*shape, read.shape[1], dtype=_to(read[:1], "cpu").dtype)
        first = 0
        for s, parts in enumerate(rows):
            for code, part in enumerate(parts):
                padded[s, code, : len(part)] = _to(read[first : first + len(part)], "cpu")
                weight[s, code, : len(part)] = 1
                first += len(part)
        inputs = self(padded.flatten(0, 2), shape)
        return inputs, weight.to(self._device).repeat_interleave(self._variants, 0)

    def _tensor(self, values: Floats) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).float().to(self._device)


def _to(values: Any, device: torch.device | str) -> Tensor:
    """Values on a device, copied beside the computation where memory can be pinned."""
    tensor = torch.as_tensor(values)
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
