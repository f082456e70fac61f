"""From variants in rows to people in rows: the shuffle that makes a sample-major store.

Hail packs the dosages of each shard's people into words, one record per variant and shard; a
Spark shuffle brings all variants of a shard together; Python assembles and writes whole shards.
The shuffle is also needed between Hail and Python: Hail's iterators never end when a Python
process reads them in the same stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mrscale.errors import EngineError
from mrscale.store.schema import MISSING_DOSAGE, Layout
from mrscale.store.writer import write_shard

if TYPE_CHECKING:
    import pyarrow as pa

PER_WORD = 15
"""Two-bit codes in one 32-bit word, the sign bit left alone."""
MISSING_CODE = 3
_BATCH_BYTES = 16 * 2**20


def write_shards(
    mt: Any,
    *,
    path: str | Path,
    layout: Layout,
    shards: list[int],
    variant_of_site: dict[str, int],
    effect_is_alt_M: NDArray[np.bool_],
    key: str,
    partitions: int | None,
) -> None:
    """Write the given shards of ``call_dosage``, each with its marker.

    Parameters
    ----------
    mt : hail.MatrixTable
        From :func:`pipelines.sources.read`, columns already in store order.
    path : str or Path
        Folder of the store, its ``call_dosage`` created.
    layout : Layout
    shards : list of int
        Shards to write.
    variant_of_site : dict of str to int
        Store column of each wanted row of ``mt``, by its field ``site``.
    effect_is_alt_M : ndarray of bool, shape (M,)
        Whether the dosage counts the alternate allele.
    key : str
        Digest for the shards' markers.
    partitions : int or None
        Spark partitions of the writing stage; by default one per shard. Not visible in the result.
    """
    import hail as hl

    spark = hl.utils.java.Env.spark_session()
    words = -(-layout.shard_rows // PER_WORD)
    spark.conf.set(
        "spark.sql.execution.arrow.maxRecordsPerBatch", max(1, _BATCH_BYTES // (4 * words))
    )
    variant = hl.literal(variant_of_site, hl.tdict(hl.tstr, hl.tint32)).get(mt.site)
    mt = mt.select_rows(variant=variant)
    table = mt.filter_rows(hl.is_defined(mt.variant))._localize_entries("entries", "columns")
    table = table.key_by().select_globals()
    packed = [_pack(hl, table.entries, layout.shard(shard)) for shard in shards]
    table = table.select("variant", packed=packed)
    records = (
        table.to_spark()
        .selectExpr("variant", "posexplode(packed) as (shard, words)")
        .repartition(partitions or len(shards), "shard")
        .sortWithinPartitions("shard", "variant")
    )
    write = shard_writer(str(path), layout, shards, effect_is_alt_M, key)
    # run for its effect: the shards' markers say what was written, nothing comes back
    records.mapInArrow(write, "shard int").write.format("noop").mode("overwrite").save()


def shard_writer(
    path: str, layout: Layout, shards: list[int], effect_is_alt_M: NDArray[np.bool_], key: str
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The Python end of the shuffle: assembles the shards of one partition and writes each."""

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for position, dosage_MB in _assemble(batches, layout, shards):
            called = dosage_MB != MISSING_DOSAGE
            counts_ref = called & ~effect_is_alt_M[:, None]
            np.subtract(2, dosage_MB, out=dosage_MB, where=counts_ref)
            shard = shards[position]
            write_shard(path, shard, np.ascontiguousarray(dosage_MB.T), key=key)
            yield pa.RecordBatch.from_pydict({"shard": pa.array([shard], pa.int32())})

    return write


def unpack(words: NDArray[np.int32], num_rows: int) -> NDArray[np.int8]:
    """Dosages of packed words.

    Parameters
    ----------
    words : ndarray of int32, shape (..., W)
        Fifteen codes a word, the first person in the highest bits; the last word holds what is
        left over in its lowest bits.
    num_rows : int
        Number of people, of whom the last word's are ``num_rows - 15 (W - 1)``.

    Returns
    -------
    ndarray of int8, shape (..., num_rows)
        0, 1, 2; -1 is missing.
    """
    num_words = words.shape[-1]
    words = words.copy()
    words[..., -1] <<= 2 * (PER_WORD * num_words - num_rows)
    shifts = 2 * np.arange(PER_WORD - 1, -1, -1, dtype=np.int32)
    codes = ((words[..., None] >> shifts) & MISSING_CODE).astype(np.int8)
    codes[codes == MISSING_CODE] = MISSING_DOSAGE
    return codes.reshape(*words.shape[:-1], num_words * PER_WORD)[..., :num_rows]


def _pack(hl: Any, entries: Any, rows: slice) -> Any:
    """Hail expression: the words of some people's alternate-allele counts."""

    def word(start: Any) -> Any:
        stop = hl.min(start + PER_WORD, rows.stop)
        return entries[start:stop].fold(
            lambda done, entry: done * 4 + hl.or_else(entry.GT.n_alt_alleles(), MISSING_CODE), 0
        )

    return hl.range(rows.start, rows.stop, PER_WORD).map(word)


def _assemble(
    batches: Iterator[pa.RecordBatch], layout: Layout, shards: list[int]
) -> Iterator[tuple[int, NDArray[np.int8]]]:
    """Whole shards as (position in ``shards``, dosages with shape (M, rows))."""
    current, filled = -1, 0
    dosage_MB = np.empty((0, 0), dtype=np.int8)
    for batch in batches:
        position_R = batch.column("shard").to_numpy()
        for position in np.unique(position_R):
            if position != current:
                _require_full(filled, dosage_MB)
                if current >= 0:
                    yield current, dosage_MB
                rows = layout.shard(shards[position])
                current, filled = int(position), 0
                dosage_MB = np.empty((layout.num_variants, rows.stop - rows.start), dtype=np.int8)
            first, last = np.searchsorted(position_R, [position, position + 1])
            variant_R = batch.column("variant").to_numpy()[first:last]
            words_RW = batch.column("words")[first:last].flatten().to_numpy()
            words_RW = words_RW.reshape(len(variant_R), -1)
            dosage_MB[variant_R] = unpack(words_RW, dosage_MB.shape[1])
            filled += len(variant_R)
    _require_full(filled, dosage_MB)
    if current >= 0:
        yield current, dosage_MB


def _require_full(filled: int, dosage_MB: NDArray[np.int8]) -> None:
    if filled != len(dosage_MB):
        raise EngineError(
            f"a shard got {filled} of {len(dosage_MB)} variants; the genotype file changed while "
            "it was read, or has a variant twice: run the extraction again"
        )
