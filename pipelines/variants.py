"""Which variants become the store's, and what became of all others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale import config
from pipelines import instruments, qc


@dataclass(frozen=True)
class Chosen:
    """The variants of the store (M of them), and what became of all others.

    Attributes
    ----------
    sites : Sites
        The M variants with their counts.
    effect_is_alt : ndarray of bool, shape (M,)
        Whether the dosage counts the alternate allele.
    report : DataFrame
        Every variant of the genotype file (at listed positions) and of the list: variant_id,
        contig, position, alleles, effect_allele, status, reason.
    """

    sites: qc.Sites
    effect_is_alt: NDArray[np.bool_]
    report: pd.DataFrame

    @property
    def status_counts(self) -> dict[str, int]:
        """Variants per status."""
        return dict(sorted(Counter(self.report["status"]).items()))


def choose(sites: qc.Sites, listed: pd.DataFrame | None, study: config.Study) -> Chosen:
    """Apply quality control and the list of instruments.

    Parameters
    ----------
    sites : Sites
        From :func:`pipelines.qc.count_genotypes`.
    listed : DataFrame or None
        From :func:`pipelines.instruments.read_instruments`; None takes every variant.
    study : mrscale.config.Study
    """
    status, reason = qc.judge(sites, study.qc)
    effect_is_alt = np.ones(len(sites.table), dtype=bool)
    unmatched = pd.DataFrame()
    if listed is not None:
        frequency = sites.overall_alt_frequency
        found = instruments.match(listed, sites.table, frequency, study.instruments)
        out = found.status != instruments.KEPT
        status[out], reason[out] = found.status[out], found.reason[out]
        effect_is_alt, unmatched = found.effect_is_alt, found.unmatched
    kept = np.flatnonzero(status == instruments.KEPT)
    table = sites.table.assign(variant_id=_variant_ids(sites.table))
    effect = np.where(effect_is_alt, table["alt"], table["ref"])
    report = table.assign(effect_allele=effect, status=status, reason=reason)
    subset = qc.Sites(table.iloc[kept], sites.counts[kept], sites.num_people, sites.hwe[kept])
    return Chosen(subset, effect_is_alt[kept], _full_report(report, unmatched))


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
    coordinates = columns[0].str.cat(columns[1:], sep=":")
    usable = (table["rsid"] != "") & ~table["rsid"].duplicated(keep=False)
    return table["rsid"].where(usable, coordinates)


def _full_report(report: pd.DataFrame, unmatched: pd.DataFrame) -> pd.DataFrame:
    report = report.assign(alleles=report["ref"] + "," + report["alt"])
    if len(unmatched):
        alleles = unmatched["other_allele"] + "," + unmatched["effect_allele"]
        ids = unmatched["contig"] + ":" + unmatched["position"].astype(str)
        report = pd.concat([report, unmatched.assign(alleles=alleles, variant_id=ids)])
    columns = ["variant_id", "contig", "position", "alleles", "effect_allele", "status", "reason"]
    return report[columns].reset_index(drop=True)
