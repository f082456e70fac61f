"""Which variants become the store's, and what became of all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale import config
from pipelines import instruments, qc
from pipelines.alleles import natural_order

_REPORT = ["variant_id", "contig", "position", "alleles", "effect_allele", "status", "reason"]


@dataclass(frozen=True)
class Chosen:
    """The variants of the store (M of them), and what became of all others.

    Attributes
    ----------
    sites : Sites
        The M variants with their counts, in natural order; the table has ``variant_id`` as well.
    effect_is_alt : ndarray of bool, shape (M,)
        Whether the dosage counts the alternate allele.
    order : ndarray of int64, shape (M,)
        The variants from the best on: by p-value, then in natural order.
    report : DataFrame
        Every variant of the genotype file (at listed positions) and every other row of the list:
        variant_id, contig, position, alleles, effect_allele, status, reason.
    """

    sites: qc.Sites
    effect_is_alt: NDArray[np.bool_]
    order: NDArray[np.int64]
    report: pd.DataFrame

    @property
    def status_counts(self) -> dict[str, int]:
        """Variants per status."""
        return dict(sorted(Counter(self.report["status"]).items()))


def choose(
    sites: qc.Sites,
    listed: pd.DataFrame | None,
    study: config.Study,
    environments: Sequence[str] = (),
) -> Chosen:
    """Apply quality control and the list of instruments.

    Parameters
    ----------
    sites : Sites
        In natural order.
    listed : DataFrame or None
        From :func:`pipelines.instruments.read_instruments`; None takes every variant.
    study : mrscale.config.Study
    environments : sequence of str, length E, optional
        Names, for the reasons.
    """
    status, reason = qc.judge(sites, study.qc, environments)
    effect_is_alt = np.ones(len(sites.table), dtype=bool)
    unmatched = pd.DataFrame()
    strength = np.full((2, len(sites.table)), np.nan)
    if listed is not None:
        frequency = sites.overall_alt_frequency
        found = instruments.match(listed, sites.table, frequency, study.instruments)
        out = found.status != instruments.KEPT
        status[out], reason[out] = found.status[out], found.reason[out]
        effect_is_alt, unmatched = found.effect_is_alt, found.unmatched
        listed_rows = found.row[found.row >= 0]
        p_values = listed.loc[listed_rows, ["p_value", "neg_log10_p"]].to_numpy()
        strength[:, found.row >= 0] = p_values.T
    kept = np.flatnonzero(status == instruments.KEPT)
    table = sites.table.assign(variant_id=_variant_ids(sites.table))
    effect = np.where(effect_is_alt, table["alt"], table["ref"])
    report = table.assign(effect_allele=effect, status=status, reason=reason)
    return Chosen(
        replace(sites, table=table).take(kept),
        effect_is_alt[kept],
        _best_first(*strength[:, kept]),
        _full_report(report, unmatched),
    )


def drop_clumped(chosen: Chosen, kept_by: NDArray[np.int64]) -> Chosen:
    """Take out the variants that others represent.

    Parameters
    ----------
    chosen : Chosen
    kept_by : ndarray of int64, shape (M,)
        From :func:`pipelines.clump.clump`.
    """
    kept = kept_by == np.arange(len(kept_by))
    ids = chosen.sites.table["variant_id"].to_numpy()
    by = dict(zip(ids[~kept], ids[kept_by[~kept]], strict=True))
    report = chosen.report.copy()
    dropped = (report["status"] == instruments.KEPT) & report["variant_id"].isin(by)
    report.loc[dropped, "status"] = "clumped"
    report.loc[dropped, "reason"] = [
        f"in linkage disequilibrium with {by[name]}, which is kept"
        for name in report.loc[dropped, "variant_id"]
    ]
    rank = np.cumsum(kept) - 1
    return Chosen(
        chosen.sites.take(np.flatnonzero(kept)),
        chosen.effect_is_alt[kept],
        rank[chosen.order[kept[chosen.order]]],
        report,
    )


def store_arrays(chosen: Chosen) -> dict[str, NDArray[Any]]:
    """The variants' arrays of the store's schema."""
    sites, effect_is_alt_M = chosen.sites, chosen.effect_is_alt
    table, frequency_EM = sites.table, sites.alt_frequency.T
    return {
        "variant_contig": table["contig"].to_numpy(dtype=str),
        "variant_position": table["position"].to_numpy(),
        "variant_allele": table[["ref", "alt"]].to_numpy(dtype=str),
        "variant_id": table["variant_id"].to_numpy(dtype=str),
        "variant_effect_allele": np.where(effect_is_alt_M, table["alt"], table["ref"]).astype(str),
        "variant_allele_frequency": np.where(effect_is_alt_M, frequency_EM, 1 - frequency_EM),
        "variant_call_rate": sites.call_rate.T,
        "variant_hwe_p": sites.hwe.T,
    }


def _variant_ids(table: pd.DataFrame) -> pd.Series:
    """The file's own identifier where it has a unique one, else contig:position:ref:alt."""
    columns = [table[name].astype(str) for name in ("contig", "position", "ref", "alt")]
    coordinates = columns[0].str.cat(pd.concat(columns[1:], axis=1), sep=":")
    usable = (table["rsid"] != "") & ~table["rsid"].duplicated(keep=False)
    return table["rsid"].where(usable, coordinates)


def _best_first(
    p_value: NDArray[np.float64], neg_log10_p: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Variants by p-value; the logarithm tells apart those that are 0 as a number."""
    by_strength = (np.nan_to_num(-neg_log10_p, nan=np.inf), np.nan_to_num(p_value, nan=np.inf))
    return np.lexsort(by_strength).astype(np.int64)


def _full_report(report: pd.DataFrame, unmatched: pd.DataFrame) -> pd.DataFrame:
    report = report.assign(alleles=report["ref"] + "," + report["alt"])
    if len(unmatched):
        alleles = unmatched["other_allele"] + "," + unmatched["effect_allele"]
        ids = unmatched["contig"] + ":" + unmatched["position"].astype(str)
        report = pd.concat([report, unmatched.assign(alleles=alleles, variant_id=ids)])
    report = report[_REPORT].reset_index(drop=True)
    # rows of one place in an order that does not depend on that of the list
    by_text = report.sort_values(["alleles", "effect_allele", "status", "reason"], kind="stable")
    places = by_text.assign(ref="", alt="")
    return by_text.iloc[natural_order(places)].reset_index(drop=True)
