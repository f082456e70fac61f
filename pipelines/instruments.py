"""The list of instruments: which rows are used, and which variant of the genotype file each is.

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
from pipelines.alleles import contig_key, not_autosome, other_strand, with_trimmed
from pipelines.liftover import require_one_build
from pipelines.summary_table import read_summary_table

KEPT = "kept"
_ALLELES = ("effect_allele", "other_allele")
_LARGEST_POSITION = 2**31 - 1
_ENOUGH_TO_JUDGE = 10
"""Rows found at a position of the genotype file from which the alleles tell another build."""


@dataclass(frozen=True)
class Matched:
    """What became of the genotype file's variants (S of them) and of the list.

    Attributes
    ----------
    status, reason : ndarray of str, shape (S,)
        ``"kept"`` with an empty reason, or why a variant is no instrument.
    effect_is_alt : ndarray of bool, shape (S,)
        Whether the effect allele is the alternate allele.
    row : ndarray of int64, shape (S,)
        Row of the list that the variant stands for; -1 without one.
    unmatched : DataFrame
        All other rows of the list, with status and reason; the index is the row's number.
    """

    status: NDArray[np.object_]
    reason: NDArray[np.object_]
    effect_is_alt: NDArray[np.bool_]
    row: NDArray[np.int64]
    unmatched: pd.DataFrame


def read_instruments(
    options: config.Instruments, genotype_build: str | None = None
) -> pd.DataFrame | None:
    """Read the GWAS summary table of instruments; None if the study names none.

    Parameters
    ----------
    options : mrscale.config.Instruments
    genotype_build : str, optional
        Genome build of the genotypes, where it is known.

    Returns
    -------
    DataFrame or None
        One row per row of the file: ``contig`` (as in the list), ``contig_key``, ``position``
        (-1 where unreadable), ``effect_allele``, ``other_allele``, ``frequency``, ``p_value``,
        ``neg_log10_p``, ``status`` (empty, or why the row is out already) and ``reason``.

    Raises
    ------
    InputError
        If the file or a column is missing, the list is on another build than the genotypes and
        ``liftover`` is not given, or no row can be used.
    """
    if options.file is None:
        return None
    summary = read_summary_table(options.file, needs_p_value=options.p_value is not None)
    require_one_build(options, genotype_build, harmonised=summary.harmonised)
    listed = summary.rows
    position = listed["position"]
    whole = position.between(1, _LARGEST_POSITION) & (position % 1 == 0)
    listed["position"] = position.where(whole, -1).astype("int64")
    listed["contig_key"] = contig_key(listed["contig"])
    listed["status"] = listed["reason"] = ""
    for status, why in _faults(listed, options.p_value):
        first = (listed["status"] == "") & (why != "")
        listed.loc[first, "status"], listed.loc[first, "reason"] = status, why[first]
    if (listed["status"] != "").all():
        raise InputError(
            f"none of the {len(listed)} rows of the list of instruments can be used "
            f"({_counts(listed['status'])}); raise [instruments] p_value or mend the list"
        )
    return listed.drop(columns="test")


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

    Raises
    ------
    InputError
        If most rows found at a position of the genotype file have other alleles than it.

    Notes
    -----
    Of several rows for one variant the one with the smallest p-value counts. A palindromic
    variant is oriented by frequency only if both its minor allele frequencies, in the list and
    in the study, are at most ``palindromic_maf``. The order of rows does not matter.
    """
    fitting = _fitting(listed[listed["status"] == ""], sites)
    ambiguous = fitting["ambiguous"].to_numpy()
    chosen = _one_row_per_site(fitting[~ambiguous])
    unmatched = _unmatched(listed, fitting, chosen, sites)
    _require_fitting_alleles(unmatched, num_fitting=fitting["row"].nunique())

    status = np.full(len(sites), "not listed", dtype=object)
    reason = np.full(len(sites), "no row of the list of instruments is this variant", dtype=object)
    unclear = fitting.loc[ambiguous, "site_row"].to_numpy()
    status[unclear], reason[unclear] = "ambiguous", _REASONS["ambiguous"]

    rows = chosen["site_row"].to_numpy()
    swap, why_not = _orient_palindromes(chosen, alt_frequency[rows], options)
    status[rows], reason[rows] = np.where(why_not == "", KEPT, "palindromic"), why_not
    effect_is_alt = np.ones(len(sites), dtype=bool)
    effect_is_alt[rows] = chosen["effect_is_alt"].to_numpy() ^ swap
    row = np.full(len(sites), -1, dtype=np.int64)
    row[rows] = chosen["row"]
    return Matched(status, reason, effect_is_alt, row, unmatched)


def _faults(listed: pd.DataFrame, threshold: float | None) -> list[tuple[str, pd.Series]]:
    """Reasons (or "") why rows cannot be used, each under its status."""
    effect, other = (listed[name] for name in _ALLELES)
    spelt = effect.str.fullmatch("[ACGT]+") & other.str.fullmatch("[ACGT]+")
    no_place = (listed["position"] < 1) | (listed["contig_key"] == "")

    def where(fault: pd.Series, reason: str) -> pd.Series:
        return fault.map({True: reason, False: ""})

    faults = [
        ("unreadable", where(no_place, "the chromosome or the position is missing")),
        ("unreadable", where(~spelt, "the alleles are missing or not spelt out in A, C, G, T")),
        ("unreadable", where(effect == other, "both alleles are the same")),
        (
            "not additive",
            where(~listed["test"].isin(["", "ADD"]), "the row's TEST is not the additive one, ADD"),
        ),
        ("sex chromosome", not_autosome(listed["contig"])),
    ]
    if threshold is not None:
        p = listed["p_value"]
        faults += [
            ("p-value", where(p.isna(), "there is no p-value between 0 and 1")),
            ("p-value", where(p > threshold, f"the p-value is above {threshold:g}")),
        ]
    return faults


def _fitting(listed: pd.DataFrame, sites: pd.DataFrame) -> pd.DataFrame:
    """Rows of the list with the sites whose alleles they have; the strand as given goes first."""
    key = with_trimmed(sites)[["ref", "alt"]].assign(
        contig_key=contig_key(sites["contig"]),
        position=sites["position"].astype("int64"),
        site_row=np.arange(len(sites)),
    )
    pairs = with_trimmed(listed, _ALLELES).reset_index(names="row")
    pairs = pairs.merge(key, on=["contig_key", "position"])
    effect, other = (pairs[name] for name in _ALLELES)
    turned_effect, turned_other = other_strand(effect), other_strand(other)
    # an insertion or deletion begins at another base when it is read from the other strand
    turnable = effect.str.len() == other.str.len()
    as_given = _effect_is_alt(effect, other, pairs)
    turned = _effect_is_alt(turned_effect, turned_other, pairs).where(turnable, 0)
    pairs["given"] = as_given != 0
    pairs["effect_is_alt"] = as_given.where(pairs["given"], turned) > 0
    pairs["palindromic"] = turnable & (effect == turned_other)
    pairs = pairs[pairs["given"] | (turned != 0)]
    pairs = pairs[pairs["given"] == pairs.groupby("row")["given"].transform("max")]
    variant = pairs["ref"] + "," + pairs["alt"]
    return pairs.assign(ambiguous=variant.groupby(pairs["row"]).transform("nunique") > 1)


def _effect_is_alt(effect: pd.Series, other: pd.Series, pairs: pd.DataFrame) -> pd.Series:
    """1 where the effect allele is the site's alternate, -1 where the reference, 0 if neither."""
    is_alt = (effect == pairs["alt"]) & (other == pairs["ref"])
    is_ref = (effect == pairs["ref"]) & (other == pairs["alt"])
    return is_alt.astype(int) - is_ref.astype(int)


def _one_row_per_site(pairs: pd.DataFrame) -> pd.DataFrame:
    """The row with the smallest p-value of each site; ties by content, not by place in the list."""
    by = ["p_value", "weakness", *_ALLELES, "frequency", "row"]
    ordered = pairs.assign(weakness=-pairs["neg_log10_p"]).sort_values(by, na_position="last")
    return ordered.drop_duplicates("site_row").sort_values("site_row")


def _orient_palindromes(
    chosen: pd.DataFrame, alt_frequency: NDArray[np.float64], options: config.Instruments
) -> tuple[NDArray[np.bool_], NDArray[np.object_]]:
    """Whether each row's effect allele must be swapped, and why it cannot be used (or "")."""
    palindromic = chosen["palindromic"].to_numpy(dtype=bool)
    why_not = np.full(len(chosen), "", dtype=object)
    swap = np.zeros(len(chosen), dtype=bool)
    if options.palindromic == "drop":
        why_not[palindromic] = "palindromic alleles, which the study drops"
    if options.palindromic != "infer":
        return swap, why_not
    listed = chosen["frequency"].to_numpy(dtype=float)
    found = np.where(chosen["effect_is_alt"], alt_frequency, 1 - alt_frequency)
    # NaN (no frequency) compares false, so it counts as not orientable
    clear = (_minor(listed) <= options.palindromic_maf) & (_minor(found) <= options.palindromic_maf)
    why_not[palindromic & ~clear] = (
        "palindromic alleles, and the frequency does not tell the strand: the minor allele's is "
        f"above {options.palindromic_maf:g} or not known"
    )
    swap[palindromic & clear & ((listed < 0.5) != (found < 0.5))] = True
    return swap, why_not


_REASONS = {
    "absent": "the position is not in the genotype file",
    "alleles": "no variant at this position of the genotype file has these alleles",
    "ambiguous": "the alleles fit two variants at this position, one the other's reverse",
    "duplicate": "the same variant is listed with a smaller p-value, or again",
}


def _unmatched(
    listed: pd.DataFrame, fitting: pd.DataFrame, chosen: pd.DataFrame, sites: pd.DataFrame
) -> pd.DataFrame:
    rest = listed.drop(index=pd.Index(chosen["row"].unique()))
    positions = pd.MultiIndex.from_arrays([contig_key(sites["contig"]), sites["position"]])
    there = pd.MultiIndex.from_frame(rest[["contig_key", "position"]]).isin(positions)
    fits = rest.index.isin(fitting["row"])
    ambiguous = rest.index.isin(fitting.loc[fitting["ambiguous"], "row"])
    found = np.select([ambiguous, fits, there], ["ambiguous", "duplicate", "alleles"], "absent")
    status = rest["status"].where(rest["status"] != "", pd.Series(found, index=rest.index))
    return rest.assign(
        status=status, reason=rest["reason"].where(rest["reason"] != "", status.map(_REASONS))
    )


def _require_fitting_alleles(unmatched: pd.DataFrame, num_fitting: int) -> None:
    """Refuse a list whose alleles say that its positions are of another genome build."""
    misfits = int((unmatched["status"] == "alleles").sum())
    there = misfits + num_fitting
    if there >= _ENOUGH_TO_JUDGE and 2 * misfits > there:
        raise InputError(
            f"{misfits} of the {there} listed variants found at a position of the genotype file "
            "have other alleles than it: the list and the genotypes are probably on different "
            "genome builds. Give [instruments] liftover, a chain file from the list's build to "
            "the genotypes', or a list on their build"
        )


def _minor(frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.minimum(frequency, 1 - frequency)


def _counts(status: pd.Series) -> str:
    return ", ".join(f"{number} {name}" for name, number in status.value_counts().items())
