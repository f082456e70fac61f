"""Thresholds on variants, and the refusal of a study that has none left."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mrscale.config import QC, Study
from mrscale.errors import InputError
from pipelines.instruments import KEPT
from pipelines.qc import Sites, judge, require_instruments
from pipelines.variants import choose, store_arrays


def sites(rows, num_people=(100, 200)):
    """Rows of (site suffix, ref, alt, filters, counts per environment, smallest HWE p)."""
    table = pd.DataFrame(
        [
            ("1", 10 * i, ref, alt, "rs1", filters)
            for i, (ref, alt, filters, _, _) in enumerate(rows)
        ],
        columns=["contig", "position", "ref", "alt", "rsid", "filters"],
    ).assign(site=[f"site{i}" for i in range(len(rows))])
    counts = np.array([counts for *_, counts, _ in rows])
    hwe = np.array([[1.0, p] for *_, p in rows])
    return Sites(table, counts, np.array(num_people), hwe)


GOOD = [[49, 42, 9], [98, 84, 18]]


def test_each_variant_leaves_with_its_first_failure():
    found = sites(
        [
            ("A", "G", "", GOOD, 0.5),
            ("A", "G", "q10", GOOD, 0.5),
            ("A", "<DEL>", "", GOOD, 0.5),
            ("A", "*", "", GOOD, 0.5),
            ("A", "G", "", [[49, 42, 9], [80, 60, 18]], 0.5),
            ("A", "G", "", [[100, 0, 0], [199, 1, 0]], 0.5),
            ("A", "G", "", [[100, 0, 0], [200, 0, 0]], 0.5),
            ("A", "G", "", [[0, 0, 0], [0, 0, 0]], 0.5),
            ("A", "G", "", GOOD, 1e-20),
        ]
    )
    status, reason = judge(found, QC())
    expected = ["kept", "filter", "symbolic", "symbolic", "call rate", "maf", "maf", "call rate"]
    assert status.tolist() == [*expected, "hwe"]
    assert [not why for why in reason] == [kept == KEPT for kept in status]


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


def test_no_variant_left_names_the_causes_and_the_cure():
    with pytest.raises(
        InputError, match=r"no instrument is left.*5 by maf, 2 by absent.*\[qc\] maf"
    ):
        require_instruments({"absent": 2, "maf": 5})
    require_instruments({"kept": 1, "maf": 5})
