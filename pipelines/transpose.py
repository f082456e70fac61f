"""From staged blocks of packed variants to the store's shards, people in rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrscale.store.schema import DosageCode, Layout
from mrscale.store.writer import write_shard
from pipelines.job import spread
from pipelines.packing import Packing
from pipelines.staging import Staged

_VARIANTS_AT_ONCE = 128


def write_shards(
    staged: Staged,
    *,
    path: str,
    layout: Layout,
    code: DosageCode,
    shards: list[int],
    variants_M: NDArray[np.intp],
    effect_is_alt_M: NDArray[np.bool_],
    key: str,
) -> None:
    """Write the given shards of ``call_dosage`` on Spark's workers, each with its marker.

    Parameters
    ----------
    staged : Staged
        Complete staged genotypes.
    path : str
        Folder or URL of the store, its ``call_dosage`` created.
    layout : Layout
    code : DosageCode
        How ``call_dosage`` is coded.
    shards : list of int
        Shards to write.
    variants_M : ndarray of int, shape (M,)
        Staged variant of each of the store's columns.
    effect_is_alt_M : ndarray of bool, shape (M,)
        Whether the dosage counts the alternate allele.
    key : str
        Digest for the shards' markers.
    """

    def write(indices: Iterator[int]) -> None:
        for shard in indices:
            dosage = shard_dosage(staged, layout.shard(shard), code, variants_M, effect_is_alt_M)
            write_shard(path, shard, dosage, key=key)

    if shards:
        spread(shards).foreachPartition(write)


def shard_dosage(
    staged: Staged,
    rows: slice,
    code: DosageCode,
    variants_M: NDArray[np.intp],
    effect_is_alt_M: NDArray[np.bool_],
) -> NDArray[Any]:
    """Effect-allele codes of some rows of the store, shape (rows, M)."""
    blocks, packing = staged.blocks, staged.blocks.packing
    counted = {True: np.flatnonzero(effect_is_alt_M), False: np.flatnonzero(~effect_is_alt_M)}
    values = {is_alt: _values(packing, code, is_alt) for is_alt in counted}
    dosage_NM = np.empty((rows.stop - rows.start, len(variants_M)), dtype=code.dtype)
    for block in range(rows.start // blocks.rows, -(-rows.stop // blocks.rows)):
        words_M = staged.words(block, variants_M)
        for segment in blocks.segments(block):
            first, last = max(segment.start, rows.start), min(segment.stop, rows.stop)
            if first >= last:
                continue
            effect_Mn = np.empty((len(variants_M), segment.num_people), np.uint8)
            for is_alt, variants in counted.items():
                run = words_M[variants, segment.words]
                effect_Mn[variants] = packing.unpack(run, segment.num_people, values[is_alt])
            wanted = effect_Mn[:, first - segment.start : last - segment.start].view(code.dtype)
            # a few variants at a time: both sides of the transposition then stay in the cache
            for v in range(0, len(wanted), _VARIANTS_AT_ONCE):
                columns = slice(v, v + _VARIANTS_AT_ONCE)
                dosage_NM[first - rows.start : last - rows.start, columns] = wanted[columns].T
    return dosage_NM


def _values(packing: Packing, code: DosageCode, effect_is_alt: bool) -> NDArray[np.uint8]:
    """The store's code, as an octet, of every packed code."""
    packed = np.arange(packing.missing + 1)
    values = packed if effect_is_alt else code.highest - packed
    values[packing.missing] = code.missing
    return values.astype(code.dtype).view(np.uint8)
