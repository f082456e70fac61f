"""Properties of the tables of people: ids stay text, codes are missing, order does not matter."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrscale.config import People, Traits
from mrscale.errors import InputError
from mrscale.study_file import parse_study
from pipelines.identifiers import describe_ids
from pipelines.people import arrange, read_phenotypes
from pipelines.relatives import family_codes
from pipelines.traits import read_traits

PLANTED = "planted77id"
look_like_numbers = st.one_of(
    st.from_regex(r"0{0,6}[0-9]{1,18}", fullmatch=True),
    st.from_regex(r"-?[0-9]{1,3}\.0|[0-9]e[0-9]|0x[0-9]|1_0|[+-][0-9]|inf|True", fullmatch=True),
)
texts = st.sampled_from(["\t", ",", ";", " ", "parquet"])


def write(frame: pd.DataFrame, path: Path, form: str) -> str:
    frame.to_parquet(path) if form == "parquet" else frame.to_csv(path, sep=form, index=False)
    return str(path)


def folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@settings(deadline=None, max_examples=60)
@given(st.lists(look_like_numbers, min_size=1, max_size=30, unique=True), texts)
def test_ids_that_look_like_numbers_stay_text(ids, form):
    with folder() as place:
        frame = pd.DataFrame({"person_id": ids, "x": range(len(ids))})
        file = write(frame, Path(place) / "people", form)
        found = read_traits(People(phenotypes=file), Traits(exposure="x"))
    assert found.sample_id.tolist() == ids


codes = st.sampled_from(["-9", "-99.5", "999", "NA_custom", "."])


@settings(deadline=None, max_examples=80)
@given(st.data(), st.lists(codes, unique=True), texts)
def test_any_mixture_of_codes_is_missing(data, chosen, form):
    # a cell between blanks cannot be empty
    written = ["NA", *chosen] if form == " " else ["", "NA", *chosen]
    if "-9" in chosen:
        written += ["-9.0", "-9.", "-0.9e1"]
    missing = st.sampled_from(written)
    present = st.integers(0, 100).map(str)
    cells = data.draw(
        st.lists(st.tuples(missing, st.just(True)) | st.tuples(present, st.just(False)), min_size=1)
    )
    cells.append(("7", False))
    with folder() as place:
        frame = pd.DataFrame({"person_id": range(len(cells)), "x": [cell for cell, _ in cells]})
        people = People(
            phenotypes=write(frame, Path(place) / "p", form), missing_values=tuple(chosen)
        )
        _, values = read_traits(people, Traits(exposure="x")).values["exposure"]
    expected = [np.nan if is_missing else float(cell) for cell, is_missing in cells]
    np.testing.assert_array_equal(values[:, 0], np.float32(expected))


def cohort(rng: np.random.Generator, num_people: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    ids = [f"{i:04d}" for i in range(num_people)]
    frame = pd.DataFrame(
        {
            "person_id": ids,
            "environment": np.where(np.arange(num_people) < 21, "least", "most"),
            "family": rng.choice(["f1", "f2", "f3", ""], num_people, p=[0.1, 0.1, 0.1, 0.7]),
            "x": rng.normal(size=num_people),
            "y": rng.normal(size=num_people),
        }
    )
    pairs = pd.DataFrame(rng.choice([*ids, "out1", "out2"], (12, 2)), columns=["ID1", "ID2"])
    return frame, pairs.assign(Kinship=rng.choice([0.01, 0.25], 12))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(42, 90), st.integers(2, 5))
def test_the_order_of_any_file_does_not_matter(seed, num_people, num_folds):
    rng = np.random.default_rng(seed)
    frame, pairs = cohort(rng, num_people)
    genotyped = [*frame["person_id"], *(f"other{i}" for i in range(5))]
    found = []
    with folder() as place:
        for turn in range(2):
            files = {
                "phenotypes": write(frame, Path(place) / f"p{turn}", "\t"),
                "kinship": write(pairs, Path(place) / f"k{turn}", "\t"),
            }
            people = {**files, "family_column": "family"}
            study = parse_study({"people": people, "traits": {"exposure": "x", "outcome": "y"}})
            one = arrange(read_phenotypes(study), genotyped, num_folds=num_folds, seed=seed)
            assert [genotyped[i] for i in one.column] == one.sample_id.tolist()
            found.append(one)
            frame, pairs = (table.sample(frac=1, random_state=turn) for table in (frame, pairs))
            pairs = pairs.rename(columns={"ID1": "ID2", "ID2": "ID1"})
            genotyped = rng.permutation(genotyped).tolist()
    for name in ("sample_id", "environment", "family", "cluster", "fold", "exposure"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))
    assert found[0].environment_offset.tolist() == [0, 21]
    for family in np.unique(found[0].family[found[0].family >= 0]):
        assert len(set(found[0].fold[found[0].family == family])) == 1


@settings(deadline=None, max_examples=100)
@given(st.data(), st.integers(1, 25))
def test_families_are_the_connected_components(data, num_people):
    person = st.integers(0, num_people + 3)
    pairs = data.draw(st.lists(st.tuples(person, person), max_size=20))
    names = data.draw(
        st.lists(st.sampled_from(["a", "b", None]), min_size=num_people, max_size=num_people)
    )
    group = list(range(num_people))

    def join(one, other):
        old, new = group[one], group[other]
        group[:] = [new if code == old else code for code in group]

    for one, other in pairs:
        if max(one, other) < num_people:
            join(one, other)
    for one in range(num_people):
        for other in range(one):
            if names[one] is not None and names[one] == names[other]:
                join(one, other)
    found = family_codes(
        pd.Series([str(i) for i in range(num_people)], dtype="string"),
        pd.Series(names, dtype="string"),
        pd.DataFrame(pairs, columns=["first", "second"]).astype(str),
    )
    for one in range(num_people):
        assert (found[one] < 0) == (group.count(group[one]) == 1)
        for other in range(one):
            same = group[one] == group[other]
            assert same == (found[one] == found[other] and found[one] >= 0)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(min_size=1), min_size=21, max_size=40))
def test_descriptions_of_ids_quote_only_what_all_share(ids):
    shown = describe_ids(ids)
    literals = shown.split("'")[1::2]
    if "'" not in "".join(ids) and "\\" not in shown:
        assert all(literal in one for literal in literals for one in ids)
        assert not any(character.isdigit() for literal in literals for character in literal)


FAULTS = {
    "ragged": lambda text: text + f"{PLANTED}\t1\n",
    "not a number": lambda text: text + f"x1\tmost\t{PLANTED}\t1\n",
    "twice": lambda text: text + f"{PLANTED}\tmost\t1\t1\n" * 2,
    "no header": lambda text: text.split("\n", 1)[1],
    "no header, no numbers": lambda text: f"{PLANTED}\tmost\tNA\t\n" + text.split("\n", 1)[1],
    "one environment": lambda text: text.replace("least", "most"),
    "ids as environments": lambda text: text.replace("environment", "e").replace(
        "person_id", "environment"
    ),
    "small environments": lambda text: text + f"{PLANTED}\tsmall\t1\t1\n",
    "open quote": lambda text: text + f'{PLANTED}\t"most\t1\t1\n',
    "not text": lambda text: text + f"{PLANTED}\t\udcff\t1\t1\n",
}


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(FAULTS)), st.integers(0, 100))
def test_no_message_holds_an_id(fault, seed):
    frame, _ = cohort(np.random.default_rng(seed), 60)
    frame["person_id"] = PLANTED + frame["person_id"]
    text = FAULTS[fault](frame.drop(columns="family").to_csv(sep="\t", index=False))
    with folder() as place:
        file = Path(place) / "p.tsv"
        file.write_bytes(text.encode(errors="surrogateescape"))
        traits = {"exposure": "x", "outcome": "y"}
        ids = "environment" if fault == "ids as environments" else "person_id"
        people = {"phenotypes": str(file), "sample_column": ids}
        study = parse_study({"people": people, "traits": traits})
        with pytest.raises(InputError) as caught:
            arrange(read_phenotypes(study), [PLANTED, *frame["person_id"]], num_folds=2, seed=0)
    assert PLANTED not in str(caught.value)
