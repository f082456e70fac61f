"""Quality control of variants: one aggregation in Hail, thresholds in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mrscale import config
from mrscale.errors import InputError
from pipelines.instruments import KEPT
from pipelines.spark import import_hail

_ADVICE = {
    "call rate": "lower [qc] call_rate",
    "maf": "lower [qc] maf",
    "hwe": "lower [qc] hwe_p",
    "palindromic": "set [instruments] palindromic",
    "p-value": "raise [instruments] p_value",
    "absent": "check that the list and the genotypes are on the same genome build",
    "alleles": "check that the list and the genotypes are on the same genome build",
    "filter": "check the FILTER column of the genotype file",
}
_BASES = frozenset("ACGTN")


@dataclass(frozen=True)
class Sites:
    """Variants of the genotype file with genotype counts of the study's people.

    S variants, E environments.

    Attributes
    ----------
    table : DataFrame, S rows
        ``site``, ``contig``, ``position``, ``ref``, ``alt`` (trimmed), ``rsid``, ``filters``;
        in natural order of contig, position and alleles.
    counts : ndarray of int64, shape (S, E, 3)
        People with 0, 1 and 2 alternate alleles.
    num_people : ndarray of int64, shape (E,)
        People of each environment.
    hwe : ndarray of float64, shape (S, E)
        Hardy-Weinberg mid-p.
    """

    table: pd.DataFrame
    counts: NDArray[np.int64]
    num_people: NDArray[np.int64]
    hwe: NDArray[np.float64]

    @property
    def called(self) -> NDArray[np.int64]:
        """People with a call, shape (S, E)."""
        return np.asarray(self.counts.sum(axis=2))

    @property
    def call_rate(self) -> NDArray[np.float64]:
        """Share of people with a call, shape (S, E)."""
        return self.called / self.num_people

    @property
    def alt_frequency(self) -> NDArray[np.float64]:
        """Frequency of the alternate allele among called alleles, shape (S, E); NaN without any."""
        return _frequency(self.counts)

    @property
    def overall_alt_frequency(self) -> NDArray[np.float64]:
        """Frequency of the alternate allele over everyone, shape (S,)."""
        return _frequency(self.counts.sum(axis=1))


def count_genotypes(
    mt: Any, environment_offset: NDArray[np.int64], listed: pd.DataFrame | None
) -> Sites:
    """Count genotypes per variant and environment in one pass of Hail over the file.

    Parameters
    ----------
    mt : hail.MatrixTable
        From :func:`pipelines.sources.read`, columns already in store order.
    environment_offset : ndarray of int64, shape (E,)
        First column of each environment.
    listed : DataFrame, optional
        From :func:`pipelines.instruments.read_instruments`: only variants at the positions of
        its usable rows are counted; without it all are.
    """
    hl = import_hail()
    if listed is not None:
        mt = _at_positions(hl, mt, listed[listed["status"] == ""])
    num_environments = len(environment_offset)
    mt = mt.add_col_index("column")
    # offsets, not per-person codes: Hail logs the literals of a query
    started = [mt.column >= int(first) for first in environment_offset[1:]]
    environment = sum((hl.int(past) for past in started), hl.int(0))
    num_alt = mt.GT.n_alt_alleles()
    counts = [hl.agg.count_where(num_alt == copies) for copies in range(3)]
    mt = mt.annotate_rows(by=hl.agg.group_by(environment, hl.array(counts)))
    rows = mt.rows().key_by()
    counts_E = [rows.by[code] for code in range(num_environments)]
    test = [hl.hardy_weinberg_test(*(hl.int(c[i]) for i in range(3))).p_value for c in counts_E]
    fields = ("site", "contig", "position", "ref", "alt", "rsid", "filters")
    found = rows.select(*fields, counts=counts_E, hwe=test).collect()
    people_E = np.diff(np.append(environment_offset, mt.count_cols()))
    return _sites(found, fields, people_E)


def judge(sites: Sites, thresholds: config.QC) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Status and reason of every variant by what the genotype file says of it alone.

    Returns
    -------
    status, reason : ndarray of str, shape (S,)
        ``"kept"`` and empty, or the first test that failed.
    """
    table, frequency_S = sites.table, sites.overall_alt_frequency
    call_rate_S = sites.called.sum(axis=1) / sites.num_people.sum()
    plain = [set(ref) | set(alt) <= _BASES for ref, alt in zip(table.ref, table.alt, strict=True)]
    maf_S = np.fmin(frequency_S, 1 - frequency_S)
    tests = (
        ("filter", table["filters"].to_numpy() != "", "did not pass the file's own FILTER"),
        ("symbolic", ~np.array(plain, dtype=bool), "no plain alternate allele"),
        (
            "repeated",
            table.duplicated(["contig", "position", "ref", "alt"], keep=False).to_numpy(),
            "the genotype file has this variant more than once",
        ),
        (
            "call rate",
            (call_rate_S < thresholds.call_rate) | (call_rate_S == 0),
            f"call rate below {thresholds.call_rate}",
        ),
        (
            "maf",
            ~(maf_S >= thresholds.maf) | ~(maf_S > 0),
            f"minor allele frequency below {thresholds.maf}, or zero",
        ),
        (
            "hwe",
            (sites.hwe < thresholds.hwe_p).any(axis=1),
            f"Hardy-Weinberg p below {thresholds.hwe_p} in an environment",
        ),
    )
    status, reason = np.full((2, len(table)), "", dtype=object)
    for name, failed, why in reversed(tests):
        status[failed], reason[failed] = name, why
    status[status == ""] = KEPT
    return status, reason


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


def _at_positions(hl: Any, mt: Any, positions: pd.DataFrame) -> Any:
    plain = zip(positions["contig_key"], positions["position"], strict=True)
    wanted = {(name, int(at)) for key, at in plain for name in _spellings(key)}
    typed = hl.literal(wanted, hl.tset(hl.ttuple(hl.tstr, hl.tint32)))
    return mt.filter_rows(typed.contains((mt.contig, mt.position)))


def _spellings(contig_key: str) -> list[str]:
    names = [contig_key, "M"] if contig_key == "MT" else [contig_key]
    numbers = {"X": "23", "Y": "24", "MT": "26"}
    names += [numbers[contig_key]] if contig_key in numbers else []
    return [prefix + name for prefix in ("", "chr") for name in names]


def _sites(found: list[Any], fields: tuple[str, ...], people_E: NDArray[np.int64]) -> Sites:
    num_environments = len(people_E)
    table = pd.DataFrame({name: [row[name] for row in found] for name in fields}, columns=fields)
    shape = (len(found), num_environments)
    counts_SE3 = np.array([row.counts for row in found], dtype=np.int64).reshape(*shape, 3)
    hwe_SE = np.array([row.hwe for row in found], dtype=float).reshape(shape)
    alleles = [_trimmed(r, a) for r, a in zip(table["ref"], table["alt"], strict=True)]
    table["ref"], table["alt"] = [r for r, _ in alleles], [a for _, a in alleles]
    natural = table["contig"].map(_contig_order)
    order = (
        table.assign(natural=natural)
        .sort_values(["natural", "contig", "position", "ref", "alt"], kind="stable")
        .index.to_numpy()
    )
    return Sites(
        table.iloc[order].reset_index(drop=True), counts_SE3[order], people_E, hwe_SE[order]
    )


def _trimmed(ref: str, alt: str) -> tuple[str, str]:
    """Alleles without the common end that splitting a multi-allelic row leaves behind."""
    while len(ref) > 1 and len(alt) > 1 and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    return ref, alt


def _contig_order(contig: str) -> int:
    plain = contig.removeprefix("chr")
    letters = {"X": 23, "Y": 24, "M": 26, "MT": 26}
    return int(plain) if plain.isdigit() else letters.get(plain, 1000)


def _frequency(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    called = counts.sum(axis=-1)
    alternate = counts[..., 1] + 2 * counts[..., 2]
    frequency = np.full(called.shape, np.nan)
    np.divide(alternate, 2 * called, out=frequency, where=called > 0)
    return frequency
