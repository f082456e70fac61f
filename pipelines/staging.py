"""Genotypes are read once: from variants in rows to packed blocks of people on disk.

Hail packs every variant's codes for each block of people into words, one record per variant and
block; a Spark shuffle brings all variants of a block together; Python writes them to one file per
block, and counts genotypes on the way. Quality control then reads counts, and the store's shards
are cut from these files. The shuffle is also needed between Hail and Python: Hail's iterators
never end when a Python process reads them in the same stage.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale import places
from mrscale.errors import EngineError
from pipelines.packing import Packing

if TYPE_CHECKING:
    import pyarrow as pa

SITE_FIELDS = ("contig", "position", "ref", "alt", "rsid", "filters")
_SEPARATOR = "\t"
_END_RECORD = (
    "cast(null as string) as site",
    "cast(id as int) as number",
    "cast(null as array<bigint>) as words",
)
"""Follows a block's last variant: Python takes a stream that was cut off for one that has ended."""
_BATCH_BYTES = 4 * 2**20
_MOST_ROWS, _FEWEST_ROWS = 8192, 256


@dataclass(frozen=True)
class Segment:
    """People of one environment within a block: rows of the store, and columns of words."""

    environment: int
    start: int
    stop: int
    words: slice

    @property
    def num_people(self) -> int:
        """People in the segment."""
        return self.stop - self.start


@dataclass(frozen=True)
class Blocks:
    """How the store's rows are cut into staged blocks; a segment never crosses environments.

    Attributes
    ----------
    num_samples : int
    environment_offset : tuple of int
        First row of each environment.
    packing : Packing
    """

    num_samples: int
    environment_offset: tuple[int, ...]
    packing: Packing

    @property
    def rows(self) -> int:
        """Rows of a block: a power of two, few enough that a block is a small task."""
        wanted = min(max(self.num_samples // 4, _FEWEST_ROWS), _MOST_ROWS)
        return int(1 << (wanted.bit_length() - 1))

    def __len__(self) -> int:
        return -(-self.num_samples // self.rows)

    def segments(self, block: int) -> list[Segment]:
        """Segments of a block in row order."""
        start, stop = block * self.rows, min((block + 1) * self.rows, self.num_samples)
        inside = [first for first in self.environment_offset if start < first < stop]
        cuts, found, word = [start, *inside, stop], [], 0
        for first, last in pairwise(cuts):
            environment = int(np.searchsorted(self.environment_offset, first, side="right")) - 1
            words = slice(word, word + self.packing.num_words(last - first))
            found.append(Segment(environment, first, last, words))
            word = words.stop
        return found

    def num_words(self, block: int) -> int:
        """Words of one variant in a block."""
        return self.segments(block)[-1].words.stop


@dataclass(frozen=True)
class Staged:
    """Staged genotypes: one file of words per block, in the same order of variants.

    Attributes
    ----------
    path : str
        Folder or URL of the files.
    blocks : Blocks
    key : str
        Digest of what decides the content; files of another key do not count.
    """

    path: str
    blocks: Blocks
    key: str

    def finished(self) -> list[int]:
        """Blocks that are complete."""
        names = [Path(name) for name in places.names(self.path) if name.endswith(".npz")]
        return [int(name.stem.rsplit("-")[1]) for name in names if name.stem.startswith(self.key)]

    def words(self, block: int, variants: NDArray[np.intp]) -> NDArray[np.int64]:
        """Words of some variants in a block, shape (variants, words)."""
        file, width = self._file(block, "words"), self.blocks.num_words(block)
        if places.is_url(file):
            return np.frombuffer(places.read_bytes(file), np.int64).reshape(-1, width)[variants]
        return np.asarray(np.memmap(file, np.int64, mode="r").reshape(-1, width)[variants])

    def codes(self, block: int, variants: NDArray[np.intp]) -> Iterator[tuple[Segment, Any]]:
        """Each segment of a block with its codes, an array of uint8 (variants, people)."""
        words = self.words(block, variants)
        for segment in self.blocks.segments(block):
            run = words[:, segment.words]
            yield segment, self.blocks.packing.unpack(run, segment.num_people)

    def people(self, rows: NDArray[np.intp], variants: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Codes of some people, by rows of the store, shape (variants, rows)."""
        found = np.empty((len(variants), len(rows)), np.uint8)
        block_of_row = rows // self.blocks.rows
        for block in np.unique(block_of_row):
            for segment, codes in self.codes(int(block), variants):
                inside = (rows >= segment.start) & (rows < segment.stop)
                found[:, inside] = codes[:, rows[inside] - segment.start]
        return found

    def sites(self) -> pd.DataFrame:
        """The staged variants, in file order, with :data:`SITE_FIELDS`."""
        texts = json.loads(self._summary(0)["sites"].tobytes())
        table = pd.DataFrame([text.split(_SEPARATOR) for text in texts], columns=SITE_FIELDS)
        return table.astype({"position": "int64"})

    def counts(self) -> NDArray[np.int64]:
        """Totals of :meth:`Packing.count` per variant and environment, shape (S, E, 3)."""
        total = np.zeros((len(self.sites()), len(self.blocks.environment_offset), 3), np.int64)
        for block in range(len(self.blocks)):
            total += self._summary(block)["counts"]
        return total

    def write(self, block: int, batches: Iterator[tuple[list[str], NDArray[np.int64]]]) -> None:
        """Write one block from batches of sites and their words; the summary comes last."""
        with places.writing(self.path):
            self._write(block, batches)

    def _write(self, block: int, batches: Iterator[tuple[list[str], NDArray[np.int64]]]) -> None:
        segments, packing = self.blocks.segments(block), self.blocks.packing
        sites: list[str] = []
        counts = [np.zeros((0, len(self.blocks.environment_offset), 3), np.int64)]
        with places.replacing(self._file(block, "words")) as handle:
            for names, words in batches:
                found = np.zeros((len(names), *counts[0].shape[1:]), np.int64)
                for segment in segments:
                    run = np.ascontiguousarray(words[:, segment.words])
                    found[:, segment.environment] += packing.count(run, segment.num_people)
                handle.write(words.tobytes())
                sites += names
                counts.append(found)
        text = np.frombuffer(json.dumps(sites).encode(), np.uint8)
        summary = io.BytesIO()
        np.savez(summary, counts=np.concatenate(counts), sites=text[: None if block == 0 else 0])
        places.write_bytes(self._file(block, "npz"), summary.getvalue())

    def _file(self, block: int, kind: str) -> str:
        return places.join(self.path, f"{self.key}-{block:06d}.{kind}")

    def _summary(self, block: int) -> Any:
        return np.load(io.BytesIO(places.read_bytes(self._file(block, "npz"))))


def stage(mt: Any, staged: Staged, *, partitions: int | None) -> None:
    """Read a genotype source once and write the blocks that are not finished.

    Parameters
    ----------
    mt : hail.MatrixTable
        From :func:`pipelines.sources.open_source`, columns already in store order.
    staged : Staged
        Where to write, and which blocks.
    partitions : int or None
        Spark partitions of the writing stage; by default one per block. Not visible in the result.
    """
    import hail as hl
    from pyspark.sql import functions

    done = set(staged.finished())
    missing = [block for block in range(len(staged.blocks)) if block not in done]
    if not missing:
        return
    spark = hl.utils.java.Env.spark_session()
    widest = 8 * max(map(staged.blocks.num_words, missing))
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", max(1, _BATCH_BYTES // widest))
    packed = _packed(hl, mt, staged.blocks, missing).to_spark()
    ends = spark.range(0, len(missing), 1, 1).selectExpr(*_END_RECORD)
    records = (
        packed.selectExpr("site", "posexplode(packed) as (number, words)")
        .union(ends)
        .repartition(partitions or len(missing), "number")
        .sortWithinPartitions("number", functions.asc_nulls_last("site"))
    )
    write = block_writer(staged, missing)
    # run for its effect: the summaries say what was written, nothing comes back
    records.mapInArrow(write, "block int").write.format("noop").mode("overwrite").save()


def block_writer(
    staged: Staged, missing: list[int]
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The Python end of the shuffle: writes each block of one partition."""

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for number, pieces in groupby(_pieces(batches), key=itemgetter(0)):
            block = missing[number]
            staged.write(block, _until_end(pieces, staged.blocks.num_words(block)))
            yield pa.RecordBatch.from_pydict({"block": pa.array([block], pa.int32())})

    return write


def _until_end(
    pieces: Iterator[tuple[int, list[Any], NDArray[np.int64]]], width: int
) -> Iterator[tuple[list[str], NDArray[np.int64]]]:
    """Batches of one block's sites and words (sites, width), once its end record has come too."""
    ended = False
    for _, names, words in pieces:
        ended = names[-1] is None
        yield names[: len(names) - ended], words.reshape(-1, width)
    if not ended:
        raise EngineError("Spark's records of a block of people were cut off; run the same again")


def _packed(hl: Any, mt: Any, blocks: Blocks, wanted: list[int]) -> Any:
    """A Hail table of ``site`` and ``packed``, the words of each wanted block."""
    fields = [hl.str(mt[name]) for name in SITE_FIELDS]
    mt = mt.select_rows(site=hl.delimit(fields, _SEPARATOR)).select_entries("code")
    table = mt._localize_entries("entries", "columns").key_by().select_globals()
    runs = hl.literal(
        [[[s.start, s.stop] for s in blocks.segments(block)] for block in wanted],
        hl.tarray(hl.tarray(hl.tarray(hl.tint32))),
    )

    def block_words(segments: Any) -> Any:
        return segments.flatmap(
            lambda run: blocks.packing.expression(hl, table.entries, run[0], run[1])
        )

    return table.select("site", packed=runs.map(block_words))


def _pieces(
    batches: Iterator[pa.RecordBatch],
) -> Iterator[tuple[int, list[Any], NDArray[np.int64]]]:
    """Records of one block within one batch: its number, sites and all their words."""
    for batch in batches:
        number_R = batch.column("number").to_numpy()
        cuts = [0, *np.flatnonzero(np.diff(number_R)) + 1, len(number_R)]
        for first, last in pairwise(cuts):
            if last > first:
                words = batch.column("words")[first:last].flatten().to_numpy()
                names = batch.column("site")[first:last].to_pylist()
                yield int(number_R[first]), names, words
