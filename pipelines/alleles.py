"""Chromosome names and alleles as text: one spelling, one order, one representation."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_NUMBERED = {"23": "X", "24": "Y", "25": "XY", "26": "MT", "M": "MT"}
"""PLINK's numbers, and the other name of the mitochondrion."""
NOT_AUTOSOMES = {
    "X": "chromosome X",
    "Y": "chromosome Y",
    "XY": "the pseudo-autosomal region of X and Y",
    "PAR": "the pseudo-autosomal region of X and Y",
    "PAR1": "the pseudo-autosomal region of X and Y",
    "PAR2": "the pseudo-autosomal region of X and Y",
    "MT": "the mitochondrion",
}
"""Contigs (by key) on which the number of copies differs between people, in words."""
_ACCESSIONS = {
    **{f"NC_{number:06}": str(number) for number in range(1, 25)},
    **{f"CM{662 + number:06}": str(number) for number in range(1, 25)},
    "NC_012920": "MT",
    "J01415": "MT",
}
"""Those of RefSeq and GenBank, without the versions that follow a point."""
_PART = re.compile(r"[._]")
"""Before the name of a part or a patch of a chromosome: X_PAR1, X_KI270880V1_ALT."""
_FLOAT = re.compile(r"^(\d+)\.0+$")
"""What pandas makes of a whole number in a column in which one is missing."""
_COMPLEMENT = str.maketrans("ACGT", "TGCA")
_ORDER = {"X": 23, "Y": 24, "XY": 25, "PAR1": 25, "PAR2": 25, "MT": 26}
_UNNUMBERED = 1000


def contig_key(contig: pd.Series) -> pd.Series:
    """Chromosome names in one spelling: upper case, without "chr" or leading zeros, X for
    23 and for NC_000023.11."""
    return contig.map({name: _key(str(name)) for name in contig.unique()}).astype(object)


def not_autosome(contig: pd.Series) -> pd.Series:
    """Why a variant's contig is refused (a sentence), or "" on all other contigs."""
    why = {
        key: f"on {place}: its number of copies differs between people; only autosomes are used"
        for key, place in NOT_AUTOSOMES.items()
    }
    return contig_key(contig).map(_whole).map(why).fillna("").astype(object)


def natural_order(table: pd.DataFrame) -> NDArray[np.int64]:
    """Rows in natural order: chromosomes 1, 2, ..., 22, X, ..., then position and alleles.

    Parameters
    ----------
    table : DataFrame
        ``contig``, ``position``, ``ref``, ``alt``.

    Returns
    -------
    ndarray of int64, shape (S,)
        Row numbers; equal rows keep their order.
    """
    key = contig_key(table["contig"])
    tidy = with_trimmed(table)
    number = key.map({name: _number(name) for name in key.unique()})
    by = pd.DataFrame(
        {
            "number": number.to_numpy(),
            "contig": table["contig"].astype(str).to_numpy(),
            "position": table["position"].to_numpy(),
            "ref": tidy["ref"].to_numpy(),
            "alt": tidy["alt"].to_numpy(),
        }
    )
    return by.sort_values(list(by.columns), kind="stable").index.to_numpy(dtype=np.int64)


def trimmed(first: str, second: str) -> tuple[str, str]:
    """Two alleles in upper case and without a common end.

    Splitting a multi-allelic row leaves common ends behind: AC to GC is A to G.
    """
    first, second = first.upper(), second.upper()
    while len(first) > 1 and len(second) > 1 and first[-1] == second[-1]:
        first, second = first[:-1], second[:-1]
    return first, second


def with_trimmed(table: pd.DataFrame, names: tuple[str, str] = ("ref", "alt")) -> pd.DataFrame:
    """The table with the alleles of two columns :func:`trimmed`."""
    pairs = [trimmed(a, b) for a, b in zip(*(table[name] for name in names), strict=True)]
    columns = zip(*pairs, strict=True) if pairs else ((), ())
    return table.assign(
        **{
            name: pd.Series(alleles, index=table.index, dtype=object)
            for name, alleles in zip(names, columns, strict=True)
        }
    )


def other_strand(allele: pd.Series) -> pd.Series:
    """The bases that face an allele, read in their own direction: the reverse complement."""
    return allele.str[::-1].str.translate(_COMPLEMENT)


def _key(contig: str) -> str:
    plain = contig.strip().upper().removeprefix("CHR")
    plain = _FLOAT.sub(r"\1", plain)
    plain = _ACCESSIONS.get(plain.partition(".")[0], plain.lstrip("0") or plain)
    return _NUMBERED.get(plain, plain)


def _whole(key: str) -> str:
    """The chromosome that a contig is, or is a part of."""
    return _PART.split(key)[0]


def _number(key: str) -> int:
    return int(key) if key.isdecimal() else _ORDER.get(key, _UNNUMBERED)
