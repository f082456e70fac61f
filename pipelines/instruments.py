"""The list of instruments: read, matched to the genotype file's variants, oriented.

Matching is by chromosome (with or without "chr"), position and alleles. Alleles may be given on
the other strand; a palindromic pair (A/T, C/G) looks the same on both and is oriented by its
allele frequency, dropped, or believed, as the study says. Every row leaves with a status.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale import config
from mrscale.errors import InputError
from pipelines.tables import read_table, require_columns

KEPT = "kept"
_ALIASES = {
    "chromosome": ("chr", "chrom", "#chrom", "contig"),
    "base_pair_location": ("pos", "position", "bp", "base_pair_position"),
    "effect_allele": ("ea", "a1", "alt_allele", "tested_allele"),
    "other_allele": ("oa", "nea", "non_effect_allele", "a2", "ref_allele"),
    "effect_allele_frequency": ("eaf", "freq", "af"),
    "beta": ("effect", "b"),
    "standard_error": ("se", "stderr"),
    "p_value": ("p", "pval", "pvalue", "p-value"),
}
_REQUIRED = ("chromosome", "base_pair_location", "effect_allele", "other_allele")
_SEX_CONTIGS = {"23": "X", "24": "Y", "26": "MT", "M": "MT"}
_COMPLEMENT = str.maketrans("ACGT", "TGCA")


@dataclass(frozen=True)
class Matched:
    """What became of the genotype file's variants (S of them) and of the list.

    Attributes
    ----------
    status, reason : ndarray of str, shape (S,)
        ``"kept"`` with an empty reason, or why a variant is no instrument.
    effect_is_alt : ndarray of bool, shape (S,)
        Whether the effect allele is the alternate allele.
    unmatched : DataFrame
        Rows of the list that are no variant's instrument: contig, position, effect_allele,
        other_allele, status, reason.
    """

    status: NDArray[np.object_]
    reason: NDArray[np.object_]
    effect_is_alt: NDArray[np.bool_]
    unmatched: pd.DataFrame


def read_instruments(options: config.Instruments) -> pd.DataFrame | None:
    """Read the GWAS summary table of instruments; None if the study names none.

    Returns
    -------
    DataFrame or None
        Columns ``contig`` (as in the list), ``contig_key``, ``position``, ``effect_allele``,
        ``other_allele``, ``frequency``, ``p_value`` and ``status`` (empty, or why the row is out
        already).

    Raises
    ------
    InputError
        If the file or a column is missing, or no row passes the p-value threshold.
    """
    if options.file is None:
        return None
    table = read_table(options.file)
    table = table.rename(columns=_canonical_names([str(name) for name in table.columns]))
    needed = (*_REQUIRED, *(("p_value",) if options.p_value is not None else ()))
    require_columns(table, needed, file=f"the list of instruments ({options.file})")
    listed = pd.DataFrame(
        {
            "contig": table["chromosome"].map(_plain_text),
            "position": _numeric(table, "base_pair_location").fillna(-1).astype("int64"),
            "effect_allele": table["effect_allele"].map(_plain_text).str.upper(),
            "other_allele": table["other_allele"].map(_plain_text).str.upper(),
            "frequency": _numeric(table, "effect_allele_frequency"),
            "p_value": _numeric(table, "p_value"),
        }
    )
    listed["contig_key"] = contig_key(listed["contig"])
    valid = listed["effect_allele"].str.fullmatch("[ACGT]+")
    valid &= listed["other_allele"].str.fullmatch("[ACGT]+") & (listed["position"] > 0)
    listed["status"] = np.where(valid, "", "unreadable")
    if options.p_value is not None:
        listed.loc[valid & ~(listed["p_value"] <= options.p_value), "status"] = "p-value"
    if (listed["status"] != "").all():
        raise InputError(
            f"none of the {len(listed)} rows of the list of instruments can be used "
            f"({_counts(listed['status'])}); raise [instruments] p_value or mend the list"
        )
    return listed


def contig_key(contig: pd.Series) -> pd.Series:
    """Chromosome names without "chr", numbers of the sex chromosomes as letters."""
    plain = contig.astype(str).str.replace("^chr", "", case=False, regex=True).str.upper()
    return plain.replace(_SEX_CONTIGS)


def match(
    listed: pd.DataFrame,
    sites: pd.DataFrame,
    alt_frequency: NDArray[np.float64],
    options: config.Instruments,
) -> Matched:
    """Find each listed row among the genotype file's variants and orient it.

    Parameters
    ----------
    listed : DataFrame
        From :func:`read_instruments`.
    sites : DataFrame
        One row per variant of the genotype file: ``contig``, ``position``, ``ref``, ``alt``.
    alt_frequency : ndarray, shape (S,)
        Frequency of the alternate allele in the study; NaN if nobody has a call.
    options : mrscale.config.Instruments
        Policy for palindromic variants.

    Notes
    -----
    Of several rows for one variant the one with the smallest p-value counts. A palindromic
    variant is oriented by frequency only if both its minor allele frequencies, in the list and
    in the study, are at most ``palindromic_maf``.
    """
    pairs = _candidates(listed[listed["status"] == ""], sites)
    chosen = _one_row_per_site(pairs)
    effect_is_alt = np.ones(len(sites), dtype=bool)
    status = np.full(len(sites), "not listed", dtype=object)
    reason = np.full(len(sites), "not in the list of instruments", dtype=object)
    swap, cause = _orient_palindromes(chosen, alt_frequency[chosen["site_row"]], options)
    rows = chosen["site_row"].to_numpy()
    effect_is_alt[rows] = chosen["effect_is_alt"].to_numpy() ^ swap
    status[rows] = np.where(cause == "", KEPT, "palindromic")
    reason[rows] = cause
    return Matched(status, reason, effect_is_alt, _unmatched(listed, pairs, chosen, sites))


def _candidates(listed: pd.DataFrame, sites: pd.DataFrame) -> pd.DataFrame:
    """Rows of the list with the site whose alleles they have, as given or on the other strand."""
    key = pd.DataFrame(
        {
            "contig_key": contig_key(sites["contig"]),
            "position": sites["position"].astype("int64"),
            # an empty table has no text columns, only untyped ones
            "ref": sites["ref"].astype(str).str.upper(),
            "alt": sites["alt"].astype(str).str.upper(),
            "site_row": np.arange(len(sites)),
        }
    )
    pairs = listed.reset_index(names="row").merge(key, on=["contig_key", "position"])
    effect, other = pairs["effect_allele"], pairs["other_allele"]
    as_given = _oriented(effect, other, pairs)
    single = (effect.str.len() == 1) & (other.str.len() == 1)
    turned = _oriented(_complement(effect), _complement(other), pairs)
    turned = {allele: found & single for allele, found in turned.items()}
    given = as_given["alt"] | as_given["ref"]
    pairs["effect_is_alt"] = as_given["alt"] | (~given & turned["alt"])
    pairs["palindromic"] = single & (effect == _complement(other))
    pairs["given"] = given
    pairs = pairs[given | turned["alt"] | turned["ref"]]
    # the strand as given first: a row stands for one site only
    return pairs.sort_values(["row", "given"], ascending=[True, False]).drop_duplicates("row")


def _oriented(effect: pd.Series, other: pd.Series, pairs: pd.DataFrame) -> dict[str, pd.Series]:
    return {
        "alt": (effect == pairs["alt"]) & (other == pairs["ref"]),
        "ref": (effect == pairs["ref"]) & (other == pairs["alt"]),
    }


def _one_row_per_site(pairs: pd.DataFrame) -> pd.DataFrame:
    ordered = pairs.sort_values(["p_value", "row"], na_position="last")
    return ordered.drop_duplicates("site_row").sort_values("site_row")


def _orient_palindromes(
    chosen: pd.DataFrame, alt_frequency: NDArray[np.float64], options: config.Instruments
) -> tuple[NDArray[np.bool_], NDArray[np.object_]]:
    """Whether each row's effect allele must be swapped, and why it cannot be used (or "")."""
    palindromic = chosen["palindromic"].to_numpy(dtype=bool)
    cause = np.full(len(chosen), "", dtype=object)
    swap = np.zeros(len(chosen), dtype=bool)
    if options.palindromic == "drop":
        cause[palindromic] = "palindromic alleles (policy: drop)"
    if options.palindromic != "infer":
        return swap, cause
    listed = chosen["frequency"].to_numpy(dtype=float)
    found = np.where(chosen["effect_is_alt"], alt_frequency, 1 - alt_frequency)
    # NaN (no frequency) compares false, so it counts as not orientable
    clear = (_minor(listed) <= options.palindromic_maf) & (_minor(found) <= options.palindromic_maf)
    cause[palindromic & ~clear] = "palindromic alleles, and the frequency does not tell the strand"
    swap[palindromic & clear & ((listed < 0.5) != (found < 0.5))] = True
    return swap, cause


def _unmatched(
    listed: pd.DataFrame, pairs: pd.DataFrame, chosen: pd.DataFrame, sites: pd.DataFrame
) -> pd.DataFrame:
    rest = listed.drop(index=chosen["row"].to_numpy()).copy()
    positions = pd.MultiIndex.from_arrays([contig_key(sites["contig"]), sites["position"]])
    there = pd.MultiIndex.from_frame(rest[["contig_key", "position"]]).isin(positions)
    open_rows = rest["status"] == ""
    rest.loc[open_rows & ~there, "status"] = "absent"
    rest.loc[open_rows & there, "status"] = "alleles"
    rest.loc[rest.index.isin(pairs["row"]) & open_rows, "status"] = "duplicate"
    rest["reason"] = rest["status"].map(_REASONS)
    return rest.drop(columns=["contig_key", "frequency", "p_value"])


_REASONS = {
    "unreadable": "position or alleles missing, or alleles other than A, C, G, T",
    "p-value": "p-value above the threshold",
    "absent": "position not in the genotype file",
    "alleles": "no variant at this position has these alleles",
    "duplicate": "the same variant is listed with a smaller p-value, or earlier",
}


def _canonical_names(columns: list[str]) -> dict[str, str]:
    lower = {column.lower(): column for column in columns}
    found: dict[str, str] = {}
    for name, aliases in _ALIASES.items():
        present = [lower[alias] for alias in (name, *aliases) if alias in lower]
        found |= {present[0]: name} if present else {}
    return found


def _numeric(table: pd.DataFrame, name: str) -> pd.Series:
    if name not in table:
        return pd.Series(np.nan, index=table.index)
    return pd.to_numeric(table[name], errors="coerce")


def _plain_text(value: object) -> str:
    """Text of a cell; a chromosome that pandas read as 10.0 is "10"."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else ""
    return str(value).strip()


def _complement(allele: pd.Series) -> pd.Series:
    return allele.str.translate(_COMPLEMENT)


def _minor(frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.minimum(frequency, 1 - frequency)


def _counts(status: pd.Series) -> str:
    return ", ".join(f"{n} {name}" for name, n in status.value_counts().items())
