"""What quality control needs to know of the staged variants: counts, and tests on counts."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from mrscale.stats.hwe import hardy_weinberg_mid_p
from mrscale.store.schema import DosageCode
from pipelines.alleles import natural_order, with_trimmed
from pipelines.pedigree import Trios, mendel_errors
from pipelines.qc import Sites
from pipelines.staging import Staged

logger = logging.getLogger(__name__)

_VARIANTS_AT_ONCE = 1024


def count(staged: Staged, code: DosageCode, trios: Trios | None) -> Sites:
    """Count the staged genotypes, variants in natural order.

    Parameters
    ----------
    staged : Staged
        Complete staged genotypes.
    code : DosageCode
        How the store will code them; its scale is that of staged imputed dosages.
    trios : Trios or None
        Children and parents as rows of the store.

    Returns
    -------
    Sites
        Field ``site`` of the table is the number of the staged variant.
    """
    counts_SE3 = staged.counts()
    hard_calls = staged.blocks.packing.bits == 2
    table = with_trimmed(staged.sites()).assign(site=np.arange(len(counts_SE3)))
    offsets = [*staged.blocks.environment_offset, staged.blocks.num_samples]
    if hard_calls:
        called, alt_sum = counts_SE3.sum(axis=2), counts_SE3 @ np.array([0.0, 1.0, 2.0])
    else:
        called, alt_sum = counts_SE3[..., 0], counts_SE3[..., 1] * code.scale
    order = natural_order(table)
    hwe = hardy_weinberg_mid_p(counts_SE3) if hard_calls else np.full(called.shape, np.nan)
    mendel = np.full(len(table), np.nan)
    if trios and not hard_calls:
        logger.warning("[qc] pedigree tests hard calls; imputed dosages are not tested")
    if trios and hard_calls:
        mendel = _mendel(staged, len(table), trios)
    return Sites(
        table.iloc[order].reset_index(drop=True),
        called[order],
        alt_sum[order],
        np.diff(offsets),
        hwe[order],
        mendel[order],
    )


def _mendel(staged: Staged, num_sites: int, trios: Trios) -> NDArray[np.float64]:
    """Share of fully called trios with a Mendelian error, shape (S,); NaN without any."""
    share = []
    for first in range(0, num_sites, _VARIANTS_AT_ONCE):
        variants = np.arange(first, min(first + _VARIANTS_AT_ONCE, num_sites))
        codes = staged.people(trios.members, variants).astype(np.int8)
        codes[codes == staged.blocks.packing.missing] = -1
        errors, called = mendel_errors(*(codes[:, rows] for rows in trios.positions))
        with np.errstate(invalid="ignore"):
            share.append(errors / called)
    return np.concatenate(share) if share else np.empty(0)
