"""Thresholds on variants, and the refusal of a study that has none left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mrscale.config import QC, Study
from mrscale.errors import InputError
from pipelines.instruments import KEPT
from pipelines.qc import Sites, judge, require_instruments
from pipelines.variants import choose, drop_clumped, store_arrays


def sites(rows, num_people=(100, 200), contig="1"):
    """Rows of (ref, alt, filters, counts per environment, smallest HWE p)."""
    table = pd.DataFrame(
        [(contig, 10 * i, *row[:2], "rs1", row[2]) for i, row in enumerate(rows)],
        columns=["contig", "position", "ref", "alt", "rsid", "filters"],
    ).assign(site=np.arange(len(rows)))
    counts = np.array([counts for *_, counts, _ in rows]).reshape(len(rows), 2, 3)
    hwe = np.array([[1.0, p] for *_, p in rows]).reshape(len(rows), 2)
    called, alt_sum = counts.sum(axis=2), counts @ np.array([0.0, 1.0, 2.0])
    mendel = np.full(len(rows), np.nan)
    return Sites(table, called, alt_sum, np.array(num_people), hwe, mendel)


GOOD = [[49, 42, 9], [98, 84, 18]]
NAMES = ["afr", "eur"]


@pytest.mark.parametrize(
    ("row", "status", "reason"),
    [
        (("A", "G", "", GOOD, 0.5), "kept", ""),
        (("A", "G", "q10;s50", GOOD, 0.5), "filter", "FILTER is q10;s50"),
        (("A", "<DEL>", "", GOOD, 0.5), "symbolic", "not spelt out"),
        (("A", "*", "", GOOD, 0.5), "symbolic", "not spelt out"),
        (("A", ".", "", GOOD, 0.5), "symbolic", "missing or not spelt out"),
        (
            # 98 % over everyone, 94 % in one environment
            ("A", "G", "", [[49, 42, 3], [98, 84, 18]], 0.5),
            "call rate",
            "the call rate is below 0.95, or zero, in environment afr",
        ),
        (("A", "G", "", [[100, 0, 0], [199, 1, 0]], 0.5), "maf", "is below 0.01, or zero"),
        (("A", "G", "", [[100, 0, 0], [200, 0, 0]], 0.5), "maf", "is below 0.01, or zero"),
        (("A", "G", "", [[0, 0, 0], [98, 84, 18]], 0.5), "call rate", "environment afr"),
        (
            ("A", "G", "", [[90, 9, 1], [198, 2, 0]], 0.5),
            "environment maf",
            "the minor allele frequency is below 0.02 in environment eur",
        ),
        (
            ("A", "G", "", GOOD, 1e-20),
            "hwe",
            "the Hardy-Weinberg mid-p is below 1e-15 in environment eur",
        ),
        (("A", "G", "", GOOD, np.nan), "kept", ""),
    ],
)
def test_a_variant_leaves_with_its_first_failure_and_a_sentence(row, status, reason):
    found, why = judge(sites([row]), QC(environment_maf=0.02), NAMES)
    assert found.tolist() == [status]
    assert reason in why[0]
    assert bool(why[0]) == (status != KEPT)


def test_nothing_is_judged_without_variants():
    status, reason = judge(sites([]), QC(), NAMES)
    assert (len(status), len(reason)) == (0, 0)


@pytest.mark.parametrize(("share", "status"), [(np.nan, "kept"), (0.05, "kept"), (0.06, "mendel")])
def test_mendelian_errors_are_counted_where_there_are_trios(share, status):
    found = replace(sites([("A", "G", "", GOOD, 0.5)]), mendel=np.array([share]))
    assert judge(found, QC(mendel_errors=0.05))[0].tolist() == [status]


def test_sex_chromosomes_are_refused_by_name():
    found = sites([("A", "G", "", GOOD, 0.5)], contig="chrX")
    status, reason = judge(found, QC())
    assert status.tolist() == ["sex chromosome"]
    assert reason[0].startswith("on chromosome X: its number of copies differs")


def test_no_calls_and_no_variation_are_dropped_at_any_threshold():
    found = sites(
        [("A", "G", "", [[100, 0, 0], [200, 0, 0]], 1), ("A", "G", "", [[0] * 3, [0] * 3], 1)]
    )
    status, _ = judge(found, QC(call_rate=0, maf=0, hwe_p=0))
    assert status.tolist() == ["maf", "call rate"]


def test_a_variant_twice_in_the_file_is_dropped():
    found = sites([("A", "G", "", GOOD, 0.5), ("A", "G", "", GOOD, 0.5), ("A", "C", "", GOOD, 0.5)])
    found.table["position"] = 7
    assert judge(found, QC())[0].tolist() == ["repeated", "repeated", "kept"]


def test_frequencies_and_call_rates_by_environment():
    found = sites([("A", "G", "", [[50, 0, 25], [0, 0, 0]], 0.5)])
    np.testing.assert_allclose(found.alt_frequency, [[1 / 3, np.nan]])
    np.testing.assert_allclose(found.call_rate, [[0.75, 0]])
    np.testing.assert_allclose(found.overall_alt_frequency, [1 / 3])


def test_store_arrays_describe_the_kept_variants():
    found = sites([("A", "G", "", GOOD, 0.5), ("A", "G", "q10", GOOD, 0.5)])
    chosen = choose(found, None, Study())
    arrays = store_arrays(chosen)
    assert arrays["variant_id"].tolist() == ["1:0:A:G"]  # rs1 names two variants
    assert arrays["variant_effect_allele"].tolist() == ["G"]
    np.testing.assert_allclose(arrays["variant_allele_frequency"], [[0.3], [0.3]])
    assert chosen.status_counts == {"filter": 1, "kept": 1}


def test_clumped_variants_leave_with_the_name_of_the_one_that_stays():
    found = sites([("A", "G", "", GOOD, 0.5)] * 4 + [("A", "G", "q10", GOOD, 0.5)])
    chosen = choose(found, None, Study())
    assert chosen.order.tolist() == [0, 1, 2, 3]
    chosen = replace(chosen, order=np.array([3, 0, 1, 2]))
    left = drop_clumped(chosen, np.array([0, 3, 0, 3]))
    assert left.sites.table["position"].tolist() == [0, 30]
    assert left.order.tolist() == [1, 0]
    assert left.effect_is_alt.tolist() == [True, True]
    assert left.status_counts == {"clumped": 2, "filter": 1, "kept": 2}
    reasons = left.report.set_index("variant_id")["reason"]
    assert reasons["1:10:A:G"] == "in linkage disequilibrium with 1:30:A:G, which is kept"
    assert reasons["1:20:A:G"] == "in linkage disequilibrium with 1:0:A:G, which is kept"
    assert chosen.status_counts == {"filter": 1, "kept": 4}


def test_no_variant_left_names_the_causes_and_the_cure():
    with pytest.raises(
        InputError, match=r"no instrument is left.*5 by maf, 2 by absent.*\[qc\] maf"
    ):
        require_instruments({"absent": 2, "maf": 5})
    require_instruments({"kept": 1, "maf": 5})
