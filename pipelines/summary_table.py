"""Reading a GWAS summary table, whichever program wrote it.

GWAS-SSF is the standard; the column names of the GWAS Catalog, PLINK 1 and 2, REGENIE, SAIGE,
BOLT-LMM, METAL, GCTA, FinnGen and TwoSampleMR are understood too, with each one's own convention
of which allele the effect and the frequency belong to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from mrscale.errors import InputError
from pipelines.tables import column_names, read_table, require_columns

Names = tuple[str, ...]

_CHROMOSOME: Names = ("chromosome", "chr", "chrom", "contig", "chr_id")
_POSITION: Names = ("base_pair_location", "pos", "position", "bp", "base_pair_position", "chr_pos")
# the base position in REGENIE, but centimorgans in BOLT-LMM, which has BP as well
_POSITION += ("ps", "genpos")
_MARKER: Names = ("variant_id", "markername", "markerid", "snpid", "variant", "marker", "snp", "id")
_MARKER += ("rsid", "rs_id", "name")
_P_VALUE: Names = ("p_value", "p", "pval", "pvalue", "p_val", "p_bolt_lmm", "p_bolt_lmm_inf")
_P_VALUE += ("p_wald",)
_NEG_LOG10_P: Names = ("neg_log_10_p_value", "log10p", "log10_p", "neg_log10_p", "mlog10p", "lp")
_NEG_LOG10_P += ("neg_log10_p_value", "neglog10_pval", "neg_log10_pval", "mlogp", "nlog10p")
_HARMONISED = {
    "hm_chrom": "chromosome",
    "hm_pos": "base_pair_location",
    "hm_effect_allele": "effect_allele",
    "hm_other_allele": "other_allele",
    "hm_effect_allele_frequency": "effect_allele_frequency",
}
"""Columns that the GWAS Catalog added to a table when it moved it to GRCh38."""
_MARKER_PATTERN = (
    r"^(?P<contig>(?:chr)?[^:_/\s-]+)[:_-](?P<position>\d+)"
    r"(?:[:_/-](?P<first>[ACGT]+)[:_/,>-](?P<second>[ACGT]+))?(?:[:_/-].*)?$"
)


class _Pair(NamedTuple):
    """Columns with the effect allele, the other allele, and the effect allele's frequency."""

    effect: Names
    other: Names
    frequency: Names
    only_with: Names = ()


_EFFECT: Names = ("effect_allele", "ea", "eff_allele", "tested_allele", "effectallele")
_OTHER: Names = (
    "other_allele",
    "oa",
    "nea",
    "non_effect_allele",
    "noneffect_allele",
    "otherallele",
)
_FREQUENCY: Names = ("effect_allele_frequency", "eaf", "effect_allele_freq", "freq_tested_allele")
_FREQUENCY += ("freq", "frq", "af")
_PAIRS = (
    _Pair(_EFFECT, _OTHER, _FREQUENCY),
    # REGENIE, BOLT-LMM, GEMMA
    _Pair(("allele1",), ("allele0",), ("a1freq", "af")),
    # SAIGE counts the second allele
    _Pair(("allele2",), ("allele1",), ("af_allele2",), ("af_allele2", "ac_allele2")),
    # METAL counts the first
    _Pair(("allele1",), ("allele2",), ("freq1",)),
    # PLINK 1 and 2, GCTA, LDSC
    _Pair(("a1",), ("omitted", "ax", "a2", "a0"), ("a1_freq", "a1freq", "af1", "freq", "frq")),
    # BGENIE
    _Pair(("a_1",), ("a_0",), ("af",)),
)
_REF_ALT = _Pair(
    ("alt", "alt_allele"), ("ref", "ref_allele"), ("af_alt", "alt_freq", "alt_freqs", *_FREQUENCY)
)
"""VCF, FinnGen: without a column of its own the effect allele is the alternate allele."""
_EFFECT_ALONE = (*_EFFECT, "a1", "allele1")
_FREQUENCY_ALONE = ("effect_allele_frequency", "eaf", "a1_freq", "a1freq")
_ALLELES = [name for pair in (*_PAIRS, _REF_ALT) for name in (*pair.effect, *pair.other)]
_FREQUENCIES = [name for pair in (*_PAIRS, _REF_ALT) for name in pair.frequency]
_TEXT = {*_CHROMOSOME, *_MARKER, *_ALLELES, "test"}
_NUMBERS = {*_POSITION, *_P_VALUE, *_NEG_LOG10_P, *_FREQUENCIES}


@dataclass(frozen=True)
class SummaryTable:
    """A GWAS summary table under one set of names.

    Attributes
    ----------
    rows : DataFrame
        As many rows as the file: ``contig``, ``effect_allele``, ``other_allele`` (text, "" where
        missing), ``position``, ``frequency`` (of the effect allele), ``p_value``,
        ``neg_log10_p`` (float64, NaN where missing or impossible) and ``test`` (text).
    harmonised : bool
        Whether position and alleles are those that the GWAS Catalog moved to GRCh38.
    """

    rows: pd.DataFrame
    harmonised: bool


def read_summary_table(path: str, *, needs_p_value: bool = False) -> SummaryTable:
    """Read a GWAS summary table.

    Parameters
    ----------
    path : str
        File or URL, any separator, may be compressed.
    needs_p_value : bool, default False
        Whether a table without p-values is refused.

    Raises
    ------
    InputError
        If there is no such file, or it lacks position, alleles or the p-value.
    """
    columns = _Columns(path)
    if needs_p_value:
        columns.require(*_P_VALUE, *_NEG_LOG10_P)
    test = columns.find("test")
    rows = pd.DataFrame(
        {
            **_place(columns),
            **_alleles(columns),
            **_p_values(columns),
            "test": "" if test is None else _text(test).str.upper(),
        }
    )
    return SummaryTable(rows, columns.harmonised)


class _Columns:
    """A table's columns by plain name: lower case, without # and .exposure, only a-z, 0-9, _."""

    def __init__(self, path: str) -> None:
        self._title = f"the list of instruments ({path})"
        self._present = column_names(path)
        self._name: dict[str, str] = {}
        for column in self._present:
            plain = column.lower().removesuffix(".exposure")
            self._name.setdefault(re.sub(r"[^a-z0-9]+", "_", plain).strip("_"), column)
        self.harmonised = set(list(_HARMONISED)[:4]) <= set(self._name)
        if self.harmonised:
            for original in (*_CHROMOSOME, *_POSITION, *_EFFECT, *_OTHER, *_FREQUENCY):
                self._name.pop(original, None)
            moved = {_HARMONISED[name]: self._name[name] for name in _HARMONISED if name in self}
            self._name |= moved
        text, numbers = ([self._name[n] for n in names if n in self] for names in (_TEXT, _NUMBERS))
        self._table = read_table(path, columns=[*text, *numbers], text=text)

    def __contains__(self, name: str) -> bool:
        return name in self._name

    def find(self, *names: str) -> pd.Series | None:
        """The first of some columns that there is."""
        return next((self._table[self._name[name]] for name in names if name in self), None)

    def number(self, *names: str) -> pd.Series:
        """The first of some columns as float64, NaN where it is no number or there is none."""
        found = self.find(*names)
        if found is None:
            return pd.Series(np.nan, index=self._table.index)
        return pd.to_numeric(found, errors="coerce").astype(float)

    def p_value(self, *names: str) -> pd.Series:
        """As :meth:`number`; refuses cells that are neither numbers nor empty."""
        found, values = self.find(*names), self.number(*names)
        if found is not None and not is_numeric_dtype(found):
            odd = values.isna() & ~_text(found).isin(["", ".", "-"])
            if odd.any():
                row = int(np.flatnonzero(odd)[0])
                raise InputError(
                    f"p-values must be numbers, but {int(odd.sum()):,} of {self._title} are not, "
                    f"the first {str(found.iloc[row])!r} in line {row + 2}; write a decimal point, "
                    "and leave cells empty where there is none"
                )
        return values

    def require(self, *names: str) -> pd.Series:
        """The first of some columns; without any, an error that asks for the first."""
        if not any(name in self for name in names):
            require_columns(self._present, names[:1], file=self._title)
        return self._table[next(self._name[name] for name in names if name in self)]

    @cached_property
    def marker(self) -> pd.DataFrame | None:
        """Contig, position and alleles from names like 1:12345:A:G; None if no column has any."""
        for name in filter(self.__contains__, _MARKER):
            text = _text(self._table[self._name[name]])
            parts = text.str.extract(_MARKER_PATTERN, flags=re.IGNORECASE)
            if parts["position"].notna().any():
                return parts.fillna("")
        return None


def _place(columns: _Columns) -> dict[str, pd.Series]:
    contig, position = columns.find(*_CHROMOSOME), columns.find(*_POSITION)
    if (contig is None or position is None) and columns.marker is not None:
        contig, position = columns.marker["contig"], columns.marker["position"]
    if contig is None or position is None:
        contig, position = columns.require(*_CHROMOSOME), columns.require(*_POSITION)
    return {"contig": _text(contig), "position": pd.to_numeric(position, errors="coerce")}


def _alleles(columns: _Columns) -> dict[str, pd.Series]:
    """Effect allele, other allele and frequency, by the first convention that the table follows."""
    for pair in _PAIRS:
        effect, other = columns.find(*pair.effect), columns.find(*pair.other)
        fits = not pair.only_with or any(name in columns for name in pair.only_with)
        if effect is not None and other is not None and fits:
            return _oriented(columns, effect, other, pair.frequency)
    alt, ref = columns.find(*_REF_ALT.effect), columns.find(*_REF_ALT.other)
    if (alt is None or ref is None) and columns.marker is not None:
        alt, ref = columns.marker["second"], columns.marker["first"]
    if alt is None or ref is None:
        alt, ref = columns.require(*_EFFECT), columns.require(*_OTHER)
    effect = columns.find(*_EFFECT_ALONE)
    if effect is None:
        return _oriented(columns, alt, ref, _REF_ALT.frequency)
    other = _partner(_text(effect), _text(ref), _text(alt))
    return _oriented(columns, effect, other, _FREQUENCY_ALONE)


def _oriented(
    columns: _Columns, effect: pd.Series, other: pd.Series, frequency: Names
) -> dict[str, pd.Series]:
    share = columns.number(*frequency)
    return {
        "effect_allele": _text(effect).str.upper(),
        "other_allele": _text(other).str.upper(),
        "frequency": share.where(share.between(0, 1)),
    }


def _partner(effect: pd.Series, ref: pd.Series, alt: pd.Series) -> pd.Series:
    """The allele of a pair that the effect allele is not; "" if it is neither."""
    effect, ref, alt = effect.str.upper(), ref.str.upper(), alt.str.upper()
    # PLINK 2 lists all alternates of a multi-allelic variant
    several = [one in both.split(",") for one, both in zip(effect, alt, strict=True)]
    return alt.where(effect == ref, ref.where(np.array(several, dtype=bool), ""))


def _p_values(columns: _Columns) -> dict[str, pd.Series]:
    p = columns.p_value(*_P_VALUE)
    neg_log10_p = columns.p_value(*_NEG_LOG10_P)
    p = p.where(p.between(0, 1))
    neg_log10_p = neg_log10_p.where(neg_log10_p >= 0)
    p = p.fillna(10.0**-neg_log10_p)
    with np.errstate(divide="ignore"):
        neg_log10_p = neg_log10_p.fillna(-np.log10(p))
    return {"p_value": p, "neg_log10_p": neg_log10_p}


def _text(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), "").str.strip()
