"""The list of instruments as a GWAS catalogue would hand it over: rough edges included."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale.simulate.cohort import Variants
from mrscale.simulate.phenotypes import SummaryStatistics

_COMPLEMENT = str.maketrans("ACGT", "TGCA")
_FLIPPED, _OTHER_STRAND, _ABSENT, _DUPLICATE = 0.20, 0.10, 0.04, 0.03


def list_instruments(
    rng: np.random.Generator, variants: Variants, statistics: SummaryStatistics
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Write down summary statistics with the irregularities that harmonisation must cope with.

    Parameters
    ----------
    rng : numpy.random.Generator
    variants : Variants
        The M variants to list, with the alternate allele counted in ``statistics``.
    statistics : SummaryStatistics

    Returns
    -------
    table : DataFrame
        GWAS-SSF columns, sorted by position. One fifth of the rows have the reference allele as
        effect allele, one tenth (and every other palindromic one) are on the other strand; a few
        rows are of variants that the genotype file does not have, and a few are there twice.
    kinds : dict
        How many rows there are of each kind; a row can be of several.
    """
    num_variants = len(variants)
    palindromic = np.array(
        [r == a.translate(_COMPLEMENT) for r, a in zip(variants.ref, variants.alt, strict=True)]
    )
    flipped = _some(rng, num_variants, _FLIPPED)
    other_strand = _some(rng, num_variants, _OTHER_STRAND)
    other_strand[np.flatnonzero(palindromic)[::2]] = True
    table = _rows(variants, statistics, flipped, other_strand)
    absent = _absent(rng, table, variants)
    duplicate = table[_some(rng, num_variants, _DUPLICATE)]
    kinds = {
        "flipped": int(flipped.sum()),
        "other_strand": int(other_strand.sum()),
        "palindromic": int(palindromic.sum()),
        "palindromic_other_strand": int((palindromic & other_strand).sum()),
        "absent": len(absent),
        "duplicate": len(duplicate),
    }
    table = pd.concat([table, absent, duplicate], ignore_index=True)
    order = np.lexsort((table["base_pair_location"], table["chromosome"].str.zfill(2)))
    return table.iloc[order].reset_index(drop=True), kinds


def _some(rng: np.random.Generator, num_rows: int, share: float) -> NDArray[np.bool_]:
    """Mark a random share of the rows, at least one."""
    mask = np.zeros(num_rows, bool)
    mask[rng.choice(num_rows, max(1, round(share * num_rows)), replace=False)] = True
    return mask


def _rows(
    variants: Variants,
    statistics: SummaryStatistics,
    flipped: NDArray[np.bool_],
    other_strand: NDArray[np.bool_],
) -> pd.DataFrame:
    effect_allele = pd.Series(np.where(flipped, variants.ref, variants.alt))
    other_allele = pd.Series(np.where(flipped, variants.alt, variants.ref))
    frequency = statistics.effect_allele_frequency
    return pd.DataFrame(
        {
            "chromosome": variants.chromosome,
            "base_pair_location": variants.position,
            "effect_allele": np.where(
                other_strand, effect_allele.str.translate(_COMPLEMENT), effect_allele
            ),
            "other_allele": np.where(
                other_strand, other_allele.str.translate(_COMPLEMENT), other_allele
            ),
            "effect_allele_frequency": np.where(flipped, 1 - frequency, frequency),
            "beta": np.where(flipped, -statistics.beta, statistics.beta),
            "standard_error": statistics.standard_error,
            "p_value": statistics.p_value,
        }
    )


def _absent(rng: np.random.Generator, table: pd.DataFrame, variants: Variants) -> pd.DataFrame:
    """Copies of some rows moved to positions where there is no variant."""
    rows = table[_some(rng, len(table), _ABSENT)].copy()
    taken = set(zip(variants.chromosome.tolist(), variants.position.tolist(), strict=True))
    moved = []
    for chromosome, position in zip(rows["chromosome"], rows["base_pair_location"], strict=True):
        position += 1
        while (chromosome, position) in taken:
            position += 1
        moved.append(position)
    return rows.assign(base_pair_location=moved)
