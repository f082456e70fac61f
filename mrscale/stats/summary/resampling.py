"""Parametric resampling of associations in blocks of bounded size.

Legend: M variants, B resamples in a block.
"""

from __future__ import annotations

from collections.abc import Iterator

from numpy.random import Generator

from mrscale.stats.moments import Floats
from mrscale.stats.summary.associations import Associations

BLOCK = 1_000_000
"""Numbers in one array of a block: bounds the memory, and fixes the order of random numbers."""


def block_sizes(num_resamples: int, row_size: int) -> Iterator[int]:
    """Split resamples into blocks of at most ``BLOCK`` numbers each (one resample at least)."""
    size = max(1, BLOCK // row_size)
    for start in range(0, num_resamples, size):
        yield min(size, num_resamples - start)


def draws(
    a: Associations, rng: Generator, num_resamples: int, centre: Floats | None = None
) -> Iterator[tuple[Floats, Floats]]:
    """Blocks of ``bx* ~ N(bx, sx)`` and ``by* ~ N(centre, sy)``, each of shape (B, M).

    ``centre`` is ``by`` unless given.
    """
    mean = a.by if centre is None else centre
    for size in block_sizes(num_resamples, a.num_variants):
        shape = (size, a.num_variants)
        yield rng.normal(a.bx, a.sx, shape), rng.normal(mean, a.sy, shape)
