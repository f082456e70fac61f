"""The positions of a list of instruments, as filters of a source's rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.alleles import contig_key
from pipelines.spark import import_hail

MOST_INTERVALS = 1000
"""Hail takes a millisecond to plan an interval; beyond this number, neighbours share one."""
_OTHER_NAMES = {"X": ("23",), "Y": ("24",), "XY": ("25",), "MT": ("26", "M")}
_LAST_POSITION = 2**31 - 1

Wanted = dict[str, NDArray[np.int64]]
"""Sorted positions by contig, as the source spells it."""


def genome_of(mt: Any) -> Any:
    """The reference genome of the rows' loci; None if they are plain contigs and positions."""
    return getattr(mt.locus.dtype, "reference_genome", None)


def in_spelling_of(genome: Any, positions: pd.DataFrame) -> Wanted:
    """The positions by contig, as loci of a reference genome have it.

    Parameters
    ----------
    genome : hail.ReferenceGenome or None
        Positions beyond its contigs' ends are left out. Without one, all usual spellings of a
        chromosome are wanted.
    positions : DataFrame
        ``contig_key`` and ``position``.
    """
    named = _contigs_by_key(genome) if genome else {}
    wanted: Wanted = {}
    for key, group in positions.groupby("contig_key"):
        position = np.unique(group["position"].to_numpy(dtype=np.int64))
        for contig in named.get(str(key), []) if genome else spellings(str(key)):
            last = genome.lengths[contig] if genome else _LAST_POSITION
            wanted[contig] = position[(position >= 1) & (position <= last)]
    return wanted


def spellings(key: str) -> list[str]:
    """Names by which a file may call a chromosome, with and without "chr"."""
    names = (key, *_OTHER_NAMES.get(key, ()))
    return [prefix + name for prefix in ("", "chr") for name in names]


def near(mt: Any, wanted: Wanted) -> Any:
    """Rows in intervals around the positions: partitions without any are never read."""
    if next(iter(mt.row_key), None) != "locus":
        return mt
    return import_hail().filter_intervals(mt, intervals(mt, wanted))


def at(mt: Any, wanted: Wanted) -> Any:
    """Rows at the positions."""
    hl = import_hail()
    by_contig = {contig: set(position.tolist()) for contig, position in wanted.items()}
    literal = hl.literal(by_contig, hl.tdict(hl.tstr, hl.tset(hl.tint32)))
    return mt.filter_rows(literal.get(mt.locus.contig).contains(mt.locus.position))


def intervals(mt: Any, wanted: Wanted) -> Any:
    """Hail expression: an array of intervals of loci that hold the positions."""
    hl = import_hail()
    locus, genome = mt.locus.dtype, genome_of(mt)

    def point(contig: str, position: int) -> Any:
        if genome is None:
            return hl.Struct(contig=contig, position=position)
        return hl.Locus(contig, position, reference_genome=genome)

    spans = [
        hl.Interval(point(contig, first), point(contig, last), includes_end=True, point_type=locus)
        for contig, first, last in merge(wanted, MOST_INTERVALS)
    ]
    return hl.literal(spans, hl.tarray(hl.tinterval(locus)))


def loci(wanted: Wanted) -> Any:
    """A Hail table keyed by ``locus``, a struct of contig and position."""
    hl = import_hail()
    contigs = [{"contig": name, "position": found.tolist()} for name, found in wanted.items()]
    schema = hl.tstruct(contig=hl.tstr, position=hl.tarray(hl.tint32))
    table = hl.Table.parallelize(contigs, schema).explode("position")
    return table.key_by(locus=hl.struct(contig=table.contig, position=table.position)).select()


def merge(wanted: Wanted, most: int) -> list[tuple[str, int, int]]:
    """Spans (contig, first, last) that hold all positions, joined over the narrowest gaps.

    Parameters
    ----------
    wanted : dict of str to ndarray of int64
        Sorted positions by contig.
    most : int
        Number of spans, or of contigs where that is larger.
    """
    wanted = {contig: position for contig, position in wanted.items() if len(position)}
    gaps = [np.diff(position) for position in wanted.values()]
    widest = np.sort(np.concatenate([*gaps, np.empty(0, np.int64)]))[::-1]
    spare = max(most - len(wanted), 0)
    # gaps wider than the first that there is no room for stay open
    closed = widest[spare] if len(widest) > spare else 0
    return [
        (contig, int(run[0]), int(run[-1]))
        for (contig, position), gap in zip(wanted.items(), gaps, strict=True)
        for run in np.split(position, np.flatnonzero(gap > closed) + 1)
    ]


def _contigs_by_key(genome: Any) -> dict[str, list[str]]:
    contigs = pd.Series(genome.contigs, dtype=object)
    return {str(key): group.tolist() for key, group in contigs.groupby(contig_key(contigs))}
