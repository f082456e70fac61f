"""The list of instruments: every kind of row, and each one true."""

from __future__ import annotations

import numpy as np
import pytest

from mrscale.simulate.cohort import make_variants
from mrscale.simulate.instruments import list_instruments
from mrscale.simulate.phenotypes import SummaryStatistics

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def _listed(num_variants, seed=0):
    rng = np.random.default_rng(seed)
    variants = make_variants(rng, num_variants)
    statistics = SummaryStatistics(
        effect_allele_frequency=rng.uniform(0.1, 0.4, num_variants),
        beta=rng.uniform(0.1, 0.2, num_variants),
        standard_error=np.full(num_variants, 0.01),
        p_value=np.full(num_variants, 1e-20),
    )
    return variants, statistics, *list_instruments(rng, variants, statistics)


@pytest.mark.parametrize("num_variants", [10, 50, 200])
def test_every_kind_of_row_is_there(num_variants):
    _, _, table, kinds = _listed(num_variants)
    assert all(count > 0 for count in kinds.values())
    assert len(table) == num_variants + kinds["absent"] + kinds["duplicate"]
    assert int(table.duplicated().sum()) == kinds["duplicate"]


def test_every_row_is_a_correct_description_of_its_variant():
    variants, statistics, table, kinds = _listed(200)
    at = {
        key: j
        for j, key in enumerate(
            zip(variants.chromosome.tolist(), variants.position.tolist(), strict=True)
        )
    }
    num_absent = 0
    for row in table.itertuples():
        j = at.get((row.chromosome, row.base_pair_location))
        if j is None:
            num_absent += 1
            continue
        # the drawn frequencies are below 0.4 and the effects positive, so both tell the allele
        flipped = row.effect_allele_frequency > 0.5
        assert (row.beta < 0) == flipped
        assert abs(row.beta) == pytest.approx(statistics.beta[j])
        alleles = (row.other_allele, row.effect_allele)[:: -1 if flipped else 1]
        turned = tuple(a.translate(COMPLEMENT) for a in alleles)
        assert (variants.ref[j], variants.alt[j]) in (alleles, turned)
    assert num_absent == kinds["absent"]


def test_rows_are_sorted_by_position():
    _, _, table, _ = _listed(100)
    keys = list(zip(table["chromosome"].astype(int), table["base_pair_location"], strict=True))
    assert keys == sorted(keys)
