"""What is made of people's dosages, block by block, in their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrscale.sampling.plan import blocks
from mrscale.stats.design import fill_missing
from mrscale.stream.reduce import map_blocks
from mrscale.train.encoder import Encoder
from mrscale.workflow.cohorts import Cohort, fill_of

Encoded = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Latents (N, L) and remainders (N, K)."""


def encode_people(
    encoder: Encoder, cohort: Cohort, chosen: NDArray[np.bool_] | None = None
) -> Encoded:
    """Latents and remainders of the people of a cohort, in its order, block by block.

    Parameters
    ----------
    encoder : Encoder
    cohort : Cohort
        Missing calls are filled with its own means: its environments may be others than those of
        the encoder.
    chosen : ndarray of bool, shape (N,), optional
        People to encode; everybody by default.
    """
    latent, remainder = over_people(cohort, encoder.encode, chosen)
    return latent, remainder


def over_people(
    cohort: Cohort,
    function: Callable[[NDArray[Any], NDArray[np.int16]], tuple[NDArray[Any], ...]],
    chosen: NDArray[np.bool_] | None = None,
) -> list[NDArray[Any]]:
    """Arrays of people, in their order, that a function makes of the dosages of each block.

    Missing calls are filled before, which is why the environments that it gets are all zero.
    """
    fill = fill_of(cohort)

    def block(rows: slice) -> tuple[NDArray[Any], ...]:
        kept = slice(None) if chosen is None else chosen[rows]
        environment = cohort.array("environment", rows)[kept]
        dosage = fill_missing(cohort.expected_dosage(rows)[kept], environment, fill)
        return function(dosage, np.zeros_like(environment))

    parts = map_blocks(None, blocks(cohort.num_samples, cohort.layout.chunk_rows), block)
    return [np.concatenate(part) for part in zip(*parts, strict=True)]
