"""The table of people: what is refused, and what order and folds promise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrscale.errors import InputError
from mrscale.study_file import parse_study
from pipelines.cells import to_numbers
from pipelines.folds import assign_folds
from pipelines.people import PeopleTables, arrange, input_files, read_phenotypes


def table(n=120, **changes):
    rng = np.random.default_rng(0)
    columns = {
        "person_id": [f"{i:05d}" for i in range(n)],
        "environment": np.where(np.arange(n) % 3 == 0, "north", "south"),
        "bmi": rng.normal(size=n),
        "sbp": rng.normal(size=n),
        "PC1": rng.normal(size=n),
    }
    return pd.DataFrame(columns | changes)


def study(tmp_path, frame, **people):
    frame.to_csv(tmp_path / "people.tsv", sep="\t", index=False)
    traits = {"exposure": ["bmi"], "outcome": ["sbp"], "covariate": ["PC1"]}
    return parse_study(
        {"people": {"phenotypes": str(tmp_path / "people.tsv"), **people}, "traits": traits}
    )


def people(tmp_path, frame, genotyped=None, **options):
    found = read_phenotypes(study(tmp_path, frame, **options))
    genotyped = frame["person_id"].astype(str).tolist() if genotyped is None else genotyped
    return arrange(found, genotyped, num_folds=4, seed=3)


def test_rows_follow_environments_and_point_into_the_genotype_file(tmp_path):
    frame = table()
    genotyped = [*frame["person_id"][::-1], "not-in-the-table"]
    cohort = people(tmp_path, frame, genotyped)
    assert cohort.environment_name.tolist() == ["north", "south"]
    assert cohort.environment_offset.tolist() == [0, 40]
    assert (np.diff(cohort.environment) >= 0).all()
    assert [genotyped[i] for i in cohort.column] == cohort.sample_id.tolist()
    expected = frame.set_index("person_id").loc[cohort.sample_id]
    np.testing.assert_array_equal(cohort.exposure[:, 0], expected["bmi"].astype("float32"))
    np.testing.assert_array_equal(cohort.covariate[:, 0], expected["PC1"].astype("float32"))
    assert cohort.funnel == {
        "in the table of people": 120,
        "in the genotype file": 121,
        "in both": 120,
        "with an environment": 120,
    }


def test_the_order_of_the_files_does_not_matter(tmp_path):
    frame = table(family=[f"f{i // 2}" for i in range(120)])
    ids = frame["person_id"].tolist()
    one = people(tmp_path, frame, ids, family_column="family")
    two = people(tmp_path, frame[::-1], sorted(ids, key=hash), family_column="family")
    for name in ("sample_id", "family", "fold", "environment", "exposure"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_people_without_environment_are_left_out(tmp_path):
    frame = table()
    frame.loc[:9, "environment"] = None
    cohort = people(tmp_path, frame)
    assert len(cohort.sample_id) == 110
    assert cohort.funnel["with an environment"] == 110


def test_missing_traits_stay_missing(tmp_path):
    frame = table()
    frame.loc[3, "bmi"] = np.nan
    cohort = people(tmp_path, frame)
    assert np.isnan(cohort.exposure).sum() == 1


BAD = {
    "no overlap": ({}, "no id of the table of people .120 people.*sample_column"),
    "one environment": ({"environment": "north"}, "environment_column environment has 1 value in"),
    "constant": ({"bmi": 4.0}, "exposure 'bmi' is constant"),
    "missing": ({"sbp": np.nan}, "outcome 'sbp' is missing for everyone"),
    "text": ({"bmi": "heavy"}, "exposure 'bmi' has cells that are not numbers"),
    "infinite": ({"bmi": np.inf}, "exposure 'bmi' has infinite values"),
    "ids twice": ({"person_id": ["1"] * 120}, "one row, but 119 rows.*repeat an id"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_bad_tables_are_refused(tmp_path, changes, message):
    genotyped = None if changes else ["a", "b"]
    with pytest.raises(InputError, match=message) as caught:
        people(tmp_path, table(**changes), genotyped)
    assert "00001" not in str(caught.value)


def test_a_small_environment_is_refused_without_its_count(tmp_path):
    environment = ["tiny"] * 13 + ["large"] * 107
    with pytest.raises(InputError, match=r"with <=20 people: 'tiny'\. Merge") as caught:
        people(tmp_path, table(environment=environment))
    assert "13" not in str(caught.value)


def test_a_trait_missing_for_all_genotyped_people_is_refused(tmp_path):
    frame = table()
    frame.loc[:79, "bmi"] = np.nan
    with pytest.raises(InputError, match="exposure 'bmi' is missing for everyone among"):
        people(tmp_path, frame, frame["person_id"][:80].tolist())


def test_ids_twice_in_the_genotype_file_are_refused(tmp_path):
    frame = table()
    with pytest.raises(InputError, match=r"<=20 sample ids occur twice .*; give every"):
        people(tmp_path, frame, [*frame["person_id"], frame["person_id"][0]])


def test_a_wrong_column_name_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(InputError, match="did you mean 'environment'"):
        people(tmp_path, table(), environment_column="enviroment")


def test_an_environment_of_21_is_large_enough(tmp_path):
    cohort = people(tmp_path, table(environment=["tiny"] * 21 + ["large"] * 99))
    assert cohort.environment_offset.tolist() == [0, 99]


def test_ids_taken_for_environments_are_not_shown(tmp_path):
    with pytest.raises(InputError, match=r"with <=20 people: 120 of 120\. Merge") as caught:
        people(tmp_path, table(), environment_column="person_id")
    assert "00001" not in str(caught.value)


def test_environments_are_crossed(tmp_path):
    site = ["A"] * 64 + ["B"] * 54 + [None, "-9"]
    cohort = people(
        tmp_path,
        table(site=site, environment=["north", "south"] * 60),
        environment_column=["environment", "site"],
        missing_values="-9",
    )
    expected = ["north x A", "north x B", "south x A", "south x B"]
    assert cohort.environment_name.tolist() == expected
    assert len(cohort.sample_id) == 118


def test_ancestry_gives_environments_and_components(tmp_path):
    frame = table().drop(columns="PC1")
    pd.DataFrame(
        {
            "research_id": frame["person_id"][:100],
            "ancestry_pred": ["afr", "eur"] * 50,
            "pca_features": [f"[{i}.5, 1]" for i in range(100)],
        }
    ).to_csv(tmp_path / "ancestry_preds.tsv", sep="\t", index=False)
    ancestry = {"ancestry": str(tmp_path / "ancestry_preds.tsv")}
    cohort = people(tmp_path, frame, environment_column="ancestry_pred", **ancestry)
    assert cohort.environment_name.tolist() == ["afr", "eur"]
    assert len(cohort.sample_id) == 100
    np.testing.assert_array_equal(cohort.covariate[:, 0], cohort.sample_id.astype(int) + 0.5)
    # columns of the study's own table come first
    own = people(tmp_path, table(), **ancestry)
    assert cohort.covariate.shape == (100, 1)
    assert len(own.sample_id) == 120
    with pytest.raises(InputError, match="no column 'ancestry_prd'; did you mean 'ancestry_pred'"):
        people(tmp_path, frame, environment_column="ancestry_prd", **ancestry)


def test_a_table_of_ancestry_of_other_people_is_refused(tmp_path):
    others = [f"P{i}" for i in range(100, 130)]
    pd.DataFrame({"s": others, "ancestry_pred": "afr"}).to_csv(tmp_path / "a.csv", index=False)
    message = r"table are 5 digits, those of the table of ancestry 'P' \+ 3 digits"
    with pytest.raises(InputError, match=message):
        people(
            tmp_path,
            table(),
            environment_column="ancestry_pred",
            ancestry=str(tmp_path / "a.csv"),
        )


def test_exclusions_are_counted_in_order(tmp_path):
    frame = table()
    ids = frame["person_id"]
    first, second = tmp_path / "a" / "flagged.tsv", tmp_path / "b" / "flagged.tsv"
    for path in (first, second):
        path.parent.mkdir()
    frame.loc[:29, ["person_id"]].rename(columns={"person_id": "s"}).to_csv(first, index=False)
    second.write_text("\n".join([*ids[20:40], "absent"]))
    frame.loc[115:, "environment"] = None
    cohort = people(tmp_path, frame, exclude=[str(first), str(second)])
    assert cohort.funnel == {
        "in the table of people": 120,
        "in the genotype file": 120,
        "in both": 120,
        "not excluded by flagged.tsv": 90,
        "not excluded by flagged.tsv (2)": 80,
        "with an environment": 75,
    }
    assert sorted(cohort.sample_id) == ids[40:115].tolist()


def test_no_list_takes_the_place_of_another_of_its_name(tmp_path):
    """Browsers number downloads themselves."""
    lists = [tmp_path / folder / "ids (1).txt" for folder in "abc"]
    for number, path in enumerate(lists):
        path.parent.mkdir()
        path.write_text("\n".join(table()["person_id"][number::8]))
    cohort = people(tmp_path, table(), exclude=[str(path) for path in lists])
    assert len(cohort.sample_id) == 75
    steps = [f"not excluded by ids (1).txt{number}" for number in ("", " (2)", " (3)")]
    assert [cohort.funnel[step] for step in steps] == [105, 90, 75]


def test_a_list_that_excludes_nobody_is_warned_of(tmp_path, caplog):
    (tmp_path / "list.txt").write_text("\n".join(f"NA{i}" for i in range(100, 130)))
    people(tmp_path, table(), exclude=str(tmp_path / "list.txt"))
    message = "nobody of list.txt is left to exclude; ids of the list are 'NA' + 3 digits, those "
    assert message + "of the study 5 digits" in caplog.text
    assert not any(f"NA{i}" in caplog.text for i in range(100, 130))


def test_relatives_are_families_and_clusters(tmp_path):
    frame = table(family=[f"f{i // 2}" if i < 8 else None for i in range(120)])
    ids = frame["person_id"]
    pairs = {"i.s": [ids[1], ids[9], ids[11]], "j.s": [ids[2], ids[10], "absent"]}
    pd.DataFrame({**pairs, "kin": [0.25, 0.1, 0.25]}).to_csv(tmp_path / "k.csv", index=False)
    kinship = {"kinship": str(tmp_path / "k.csv"), "family_column": "family"}
    cohort = people(tmp_path, frame, **kinship)
    by_family = pd.Series(cohort.sample_id).groupby(cohort.family).agg(sorted)
    expected = [[0, 1, 2, 3], [4, 5], [6, 7], [9, 10]]
    assert by_family[by_family.index >= 0].tolist() == [[ids[i] for i in one] for one in expected]
    np.testing.assert_array_equal(cohort.cluster, cohort.family)
    for family in range(4):
        assert len(set(cohort.fold[cohort.family == family])) == 1
    strict = people(tmp_path, frame, **kinship, kinship_min=0.2)
    assert len(np.unique(strict.family)) == 4


def test_clusters_of_a_column(tmp_path):
    frame = table(site=["b", "a", None] * 40)
    cohort = people(tmp_path, frame, cluster_column="site")
    site = frame.set_index("person_id").loc[cohort.sample_id, "site"]
    np.testing.assert_array_equal(cohort.cluster, site.map({"a": 0, "b": 1}).fillna(-1))
    assert (cohort.family == -1).all()


def test_ids_that_do_not_meet_are_described(tmp_path):
    genotyped = [f"biobank_{i:07d}" for i in range(30)]
    message = (
        "ids of the table are 5 digits, those of the genotype file 'biobank' \\+ '_' \\+ 7 dig"
    )
    with pytest.raises(InputError, match=message) as caught:
        people(tmp_path, table(), genotyped)
    assert "00001" not in str(caught.value)


def test_files_that_decide_the_store():
    sections = {"phenotypes": "p.tsv", "kinship": "k.tsv", "exclude": ["a.txt", "b.txt"]}
    assert input_files(parse_study({"people": sections})) == {
        "people": ["p.tsv"],
        "kinship": ["k.tsv"],
        "exclude": ["a.txt", "b.txt"],
    }


def test_no_traits_are_refused():
    with pytest.raises(InputError, match="needs a table of people, an exposure and an outcome"):
        read_phenotypes(parse_study({"people": {"phenotypes": "people.tsv"}}))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_folds_keep_families_whole_and_environments_balanced(data):
    num_people = data.draw(st.integers(8, 200))
    num_folds = data.draw(st.integers(2, 5))
    seed = data.draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    environment = rng.integers(0, 3, num_people)
    family = np.where(rng.random(num_people) < 0.5, rng.integers(0, num_people, num_people), -1)
    fold = assign_folds(environment, family.astype(np.int32), num_folds, rng)
    assert fold.min() >= 0
    assert fold.max() < num_folds
    for code in np.unique(family[family >= 0]):
        assert len(set(fold[family == code])) == 1
    alone = assign_folds(environment, np.full(num_people, -1, np.int32), num_folds, rng)
    for code in np.unique(environment):
        assert np.ptp(np.bincount(alone[environment == code], minlength=num_folds)) <= 1


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), family_size=st.integers(1, 4))
def test_families_stay_together_inside_an_environment(seed, family_size):
    frame = table(family=[f"f{i // (3 * family_size)}" for i in range(120)])
    traits = frame[["bmi", "sbp"]].astype("float32")
    read = pd.DataFrame(
        {
            "sample": frame["person_id"].astype("string"),
            "environment": frame["environment"].astype("string"),
            "family": frame["family"].astype("string"),
            ("exposure", "bmi"): traits["bmi"],
            ("outcome", "sbp"): traits["sbp"],
        }
    )
    arranged = arrange(PeopleTables(read), frame["person_id"].tolist(), num_folds=3, seed=seed)
    for code in range(2):
        families = arranged.family[arranged.environment == code]
        runs = 1 + np.count_nonzero(np.diff(families))
        assert runs == len(np.unique(families))
    for family in np.unique(arranged.family[arranged.family >= 0]):
        assert len(set(arranged.fold[arranged.family == family])) == 1


def test_dates_are_no_numbers():
    """To pandas they are, and a missing one is the smallest of them."""
    for values in (pd.to_datetime(["1980-01-02", None]), pd.to_timedelta([1, 2], unit="D")):
        with pytest.raises(InputError, match="covariate 'born' has cells that are not numbers"):
            to_numbers(pd.Series(values), "covariate 'born'")
