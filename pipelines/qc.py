"""Quality control of variants: what the genotype file says of each, and the study's thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale import config
from mrscale.errors import InputError
from pipelines.alleles import not_autosome
from pipelines.instruments import KEPT

_BUILDS = "check that the list and the genotypes are on the same genome build"
_ADVICE = {
    "call rate": "lower [qc] call_rate",
    "maf": "lower [qc] maf",
    "environment maf": "lower [qc] environment_maf",
    "hwe": "lower [qc] hwe_p",
    "mendel": "raise [qc] mendel_errors",
    "palindromic": "set [instruments] palindromic",
    "p-value": "raise [instruments] p_value",
    "absent": _BUILDS,
    "alleles": _BUILDS,
    "not lifted": "check that the chain file starts from the list's build",
    "filter": "check the FILTER column of the genotype file",
}
_BASES = frozenset("ACGTN")


@dataclass(frozen=True)
class Sites:
    """Variants of the genotype file with what was counted of the study's people.

    S variants, E environments.

    Attributes
    ----------
    table : DataFrame, S rows
        ``site``, ``contig``, ``position``, ``ref``, ``alt`` (trimmed), ``rsid``, ``filters``;
        in natural order of contig, position and alleles.
    called : ndarray of int64, shape (S, E)
        People with a call.
    alt_sum : ndarray of float64, shape (S, E)
        Sum of their dosages of the alternate allele (0 to 2 each).
    num_people : ndarray of int64, shape (E,)
        People of each environment.
    hwe : ndarray of float64, shape (S, E)
        Hardy-Weinberg mid-p; NaN where there is none, as of imputed dosages.
    mendel : ndarray of float64, shape (S,)
        Share of fully called trios with a Mendelian error; NaN without any.
    """

    table: pd.DataFrame
    called: NDArray[np.int64]
    alt_sum: NDArray[np.float64]
    num_people: NDArray[np.int64]
    hwe: NDArray[np.float64]
    mendel: NDArray[np.float64]

    @property
    def call_rate(self) -> NDArray[np.float64]:
        """Share of people with a call, shape (S, E)."""
        return self.called / self.num_people

    @property
    def alt_frequency(self) -> NDArray[np.float64]:
        """Frequency of the alternate allele among called alleles, shape (S, E); NaN without any."""
        return _frequency(self.alt_sum, self.called)

    @property
    def overall_alt_frequency(self) -> NDArray[np.float64]:
        """Frequency of the alternate allele over everyone, shape (S,)."""
        return _frequency(self.alt_sum.sum(axis=1), self.called.sum(axis=1))

    def take(self, rows: NDArray[np.int64]) -> Sites:
        """Some of the variants."""
        return Sites(
            self.table.iloc[rows],
            self.called[rows],
            self.alt_sum[rows],
            self.num_people,
            self.hwe[rows],
            self.mendel[rows],
        )


def judge(
    sites: Sites, thresholds: config.QC, environments: Sequence[str] = ()
) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Status and reason of every variant by what the genotype file says of it alone.

    Parameters
    ----------
    sites : Sites
    thresholds : mrscale.config.QC
    environments : sequence of str, length E, optional
        Names, to say in which environment a variant failed.

    Returns
    -------
    status, reason : ndarray of str, shape (S,)
        ``"kept"`` and empty, or the first test that failed and a sentence.
    """
    status, reason = np.full((2, len(sites.table)), "", dtype=object)
    tests = _by_the_file(sites.table) | _by_counts(sites, thresholds, environments)
    for name, why in tests.items():
        first = (status == "") & (why != "")
        status[first], reason[first] = name, why[first]
    status[status == ""] = KEPT
    return status, reason


def _by_the_file(table: pd.DataFrame) -> dict[str, NDArray[np.object_]]:
    """Reasons (or "") of the tests that need no genotypes, by status."""
    filters = table["filters"].to_numpy(dtype=object)
    alleles = zip(table["ref"], table["alt"], strict=True)
    symbolic = np.array([not set(ref + alt) <= _BASES for ref, alt in alleles], dtype=bool)
    repeated = table.duplicated(["contig", "position", "ref", "alt"], keep=False).to_numpy()
    marked = np.array([f"the genotype file's own FILTER is {text}" for text in filters], object)
    return {
        "sex chromosome": not_autosome(table["contig"]).to_numpy(dtype=object),
        "filter": np.where(filters != "", marked, ""),
        "symbolic": _where(symbolic, "the alternate allele is missing or not spelt out in bases"),
        "repeated": _where(repeated, "the genotype file has this variant more than once"),
    }


def _by_counts(
    sites: Sites, limits: config.QC, environments: Sequence[str]
) -> dict[str, NDArray[np.object_]]:
    """Reasons (or "") of the tests on genotype counts, by status."""
    maf_S, maf_SE = (np.fmin(f, 1 - f) for f in (sites.overall_alt_frequency, sites.alt_frequency))
    # without a call in an environment nothing can be computed there, whatever the threshold
    few_calls_SE = (sites.call_rate < limits.call_rate) | (sites.called == 0)

    def in_any(failed_SE: NDArray[np.bool_], sentence: str) -> NDArray[np.object_]:
        names = [f"environment {name}" for name in environments]
        names = names or ["an environment"] * failed_SE.shape[1]
        reasons = np.array([f"{sentence} in {name}" for name in names], dtype=object)
        return np.where(failed_SE.any(axis=1), reasons[failed_SE.argmax(axis=1)], "")

    return {
        "call rate": in_any(few_calls_SE, f"the call rate is below {limits.call_rate:g}, or zero,"),
        "maf": _where(
            ~(maf_S >= limits.maf) | ~(maf_S > 0),
            f"the minor allele frequency is below {limits.maf:g}, or zero",
        ),
        "environment maf": in_any(
            maf_SE < limits.environment_maf,
            f"the minor allele frequency is below {limits.environment_maf:g}",
        ),
        "hwe": in_any(
            sites.hwe < limits.hwe_p, f"the Hardy-Weinberg mid-p is below {limits.hwe_p:g}"
        ),
        "mendel": _where(
            sites.mendel > limits.mendel_errors,
            f"more than {100 * limits.mendel_errors:g}% of the trios have a Mendelian error",
        ),
    }


def _where(failed: NDArray[np.bool_], sentence: str) -> NDArray[np.object_]:
    return np.where(failed, np.array(sentence, dtype=object), "")


def require_instruments(counts: dict[str, int]) -> None:
    """Refuse a study of which no variant is left, naming what took them and what to relax."""
    if counts.get(KEPT, 0):
        return
    lost = sorted(counts.items(), key=lambda item: -item[1])
    causes = ", ".join(f"{number} by {status}" for status, number in lost)
    advice = [_ADVICE[status] for status, _ in lost if status in _ADVICE]
    raise InputError(
        f"no instrument is left after quality control (dropped: {causes or 'the file is empty'}). "
        f"What helps: {'; '.join(dict.fromkeys(advice)) or 'check the genotype file'}"
    )


def _frequency(alt_sum: NDArray[np.float64], called: NDArray[np.int64]) -> NDArray[np.float64]:
    frequency = np.full(called.shape, np.nan)
    np.divide(alt_sum, 2 * called, out=frequency, where=called > 0)
    return frequency
