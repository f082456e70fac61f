"""People in memory are read as a genotype store is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mrscale.errors import InputError
from mrscale.store.schema import Layout
from mrscale.stream.products import mean_dosage
from mrscale.workflow.cohorts import (
    MOST_ENVIRONMENTS,
    ArrayCohort,
    balanced_folds,
    environment_codes,
    fewest_people,
    fill_of,
)

ALONE = np.full(6, -1, dtype=np.int32)


@pytest.fixture
def cohort():
    arrays = {"environment": np.repeat([0, 1], 3).astype(np.int16), "family": ALONE}
    return ArrayCohort(np.arange(12.0).reshape(6, 2), arrays, {"environments": ["a", "b"]})


def test_rows_names_and_sizes(cohort):
    assert (cohort.num_samples, cohort.num_variants) == (6, 2)
    assert cohort.array("environment", slice(2, 4)).tolist() == [0, 1]
    assert cohort.expected_dosage(slice(5, 6)).tolist() == [[10.0, 11.0]]
    assert cohort.names("environments") == ["a", "b"]
    assert cohort.layout == Layout.choose(6, 2)


def test_an_encoder_has_seen_only_people_with_every_call_where_others_are_dropped():
    environment, fold = np.repeat([0, 1], 6), np.tile([0, 1], 6)
    dosage = np.ones((12, 3))
    dosage[[0, 2, 7], [0, 1, 2]] = np.nan
    arrays = {"environment": environment.astype(np.int16), "fold": fold.astype(np.int8)}
    people = ArrayCohort(dosage, arrays, {"environments": ["a", "b"]})
    assert fewest_people(people, 2) == 3
    assert fewest_people(people, 2, drop_missing=True) == 1


def test_complete_instruments_need_no_fill_and_a_store_has_its_own(cohort, small):
    assert fill_of(cohort).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    np.testing.assert_array_equal(fill_of(small), mean_dosage(small))
    frequency = small.array("variant_allele_frequency")
    of_store = ArrayCohort(
        small.dosage(slice(None)), {"variant_allele_frequency": frequency}, {"environments": []}
    )
    np.testing.assert_array_equal(fill_of(of_store), mean_dosage(small))


@pytest.mark.parametrize(
    ("labels", "codes", "names"),
    [
        (["b", "a", "b"], [1, 0, 1], ["a", "b"]),
        ([10, 2, 10], [1, 0, 1], ["2", "10"]),
        (pd.Series(["x", "y", "x"], dtype="category"), [0, 1, 0], ["x", "y"]),
        (pd.Series(["x", "y", "x"], dtype="string"), [0, 1, 0], ["x", "y"]),
        (np.array(["x", 1, 1], dtype=object), [1, 0, 0], ["1", "x"]),
    ],
)
def test_labels_of_any_kind_become_codes(labels, codes, names):
    found, places = environment_codes(labels)
    assert (found.tolist(), places, found.dtype) == (codes, names, np.int16)


@pytest.mark.parametrize("nothing", [None, np.nan, pd.NA])
def test_a_missing_label_is_refused_without_its_number(nothing):
    labels = np.array(["a", nothing, "b"], dtype=object)
    with pytest.raises(InputError, match="every person needs an environment; found <=20 without"):
        environment_codes(labels)
    series = pd.Series(["a", nothing, "b"], dtype="string")
    with pytest.raises(InputError, match="found <=20 without one"):
        environment_codes(series)


def test_one_environment_or_one_for_each_person_is_refused():
    with pytest.raises(InputError, match=r"at least two environments.*found 1; give the ancestry"):
        environment_codes(["a"] * 5)
    with pytest.raises(InputError, match=r"at most 1,000; found 1,001"):
        environment_codes(np.linspace(0, 1, MOST_ENVIRONMENTS + 1))


def test_folds_keep_families_whole_and_environments_in_equal_shares():
    rng = np.random.default_rng(5)
    environment = rng.integers(0, 3, 1000).astype(np.int16)
    family = np.where(np.arange(1000) < 400, np.arange(1000) // 4, -1).astype(np.int32)
    environment[:400] = np.repeat(environment[:400:4], 4)
    fold = balanced_folds(environment, family, 4, seed=1)
    assert (fold[:400].reshape(100, 4) == fold[:400:4, None]).all()
    for code in range(3):
        shares = np.bincount(fold[environment == code], minlength=4)
        assert shares.max() - shares.min() <= 4, "one family at most"
    np.testing.assert_array_equal(fold, balanced_folds(environment, family, 4, seed=1))
    assert (fold != balanced_folds(environment, family, 4, seed=2)).any()
