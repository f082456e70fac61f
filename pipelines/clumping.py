"""Clumping on the staged genotypes: linkage on Spark's workers, the choice on the driver."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mrscale import config
from pipelines.clump import Linkage, Window, clump, plan_passes
from pipelines.job import spread
from pipelines.staging import Staged
from pipelines.variants import Chosen

_PASS_BYTES = 2**28
"""Sums that each worker holds, and sends to the driver."""


def representatives(
    staged: Staged, chosen: Chosen, options: config.Instruments
) -> NDArray[np.int64]:
    """The kept variant that stands for each chosen one; see :func:`pipelines.clump.clump`.

    Parameters
    ----------
    staged : Staged
        Complete staged genotypes.
    chosen : Chosen
        Variants that passed everything else.
    options : mrscale.config.Instruments
        ``clump_r2`` (given) and ``clump_kb``.
    """
    assert options.clump_r2 is not None
    table, num_environments = chosen.sites.table, len(chosen.sites.num_people)
    contig, position = table["contig"].to_numpy(dtype=str), table["position"].to_numpy()
    variants, missing = table["site"].to_numpy(), staged.blocks.packing.missing
    pairs = [np.empty((0, 2), np.int64)]
    for windows in plan_passes(
        contig,
        position,
        kb=options.clump_kb,
        num_environments=num_environments,
        memory=_PASS_BYTES,
    ):

        def linkage(blocks: Iterator[int], windows: list[Window] = windows) -> Iterator[Linkage]:
            sums = Linkage(windows, num_environments, missing=missing)
            for block in blocks:
                for segment, codes in staged.codes(block, variants):
                    sums.update(segment.environment, codes.T)
            yield sums

        parts = spread(range(len(staged.blocks))).mapPartitions(linkage)
        total = parts.treeReduce(Linkage.combine)
        pairs.append(total.finalise(position, kb=options.clump_kb, r2=options.clump_r2))
    return clump(chosen.order, np.concatenate(pairs))
