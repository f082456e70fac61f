"""Simulated biobanks on disk: the files, their truth, and what is refused."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest

from mrscale.errors import InputError, MissingExtraError
from mrscale.simulate import simulate
from mrscale.study_file import load_study

pysam = pytest.importorskip("pysam")
pytest.importorskip("msprime")

SMALL = {"num_people": 600, "num_variants": 30, "num_environments": 3}
FILES = {
    ".simulation.json",
    "genotypes.vcf.bgz",
    "genotypes.vcf.bgz.tbi",
    "instruments.tsv",
    "latents.parquet",
    "phenotypes.tsv",
    "study.toml",
    "truth.json",
}


def _bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _dosages(path):
    """Sample ids and dosages (variants, samples) of a VCF, missing as NaN."""
    with pysam.VariantFile(str(path)) as vcf:
        calls = [
            [np.nan if None in s["GT"] else sum(s["GT"]) for s in record.samples.values()]
            for record in vcf.fetch()
        ]
        return list(vcf.header.samples), np.array(calls)


@pytest.mark.parametrize("model", ["factor", "coalescent"])
def test_equal_arguments_give_equal_bytes(tmp_path, model):
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        simulate(tmp_path / name, model=model, seed=seed, **SMALL)
    first, again, other = (_bytes(tmp_path / name) for name in "abc")
    assert set(first) == FILES
    assert first == again
    assert all(first[name] != other[name] for name in FILES - {"study.toml"})


@pytest.fixture(scope="module")
def biobank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("biobank") / "factor"
    steps = []

    def advance(amount=1.0, *, note=""):
        steps.append(amount)

    truth = simulate(folder, seed=3, progress=advance, **SMALL)
    assert sum(steps) == pytest.approx(1)
    return folder, truth


def test_truth_names_everything_an_oracle_needs(biobank):
    folder, truth = biobank
    assert truth == json.loads((folder / "truth.json").read_text())
    assert truth["effect"] == 0.5
    latents = pd.read_parquet(folder / truth["latents"]["file"])
    people = pd.read_csv(folder / "phenotypes.tsv", sep="\t", dtype={"person_id": str})
    assert latents["person_id"].tolist() == people["person_id"].tolist()
    assert truth["latents"]["exogenous"] == ["z_i_1", "z_i_2"]
    assert set(truth["latents"]["confounded"]) <= set(latents)
    assert len(truth["variants"]) == SMALL["num_variants"]


def test_study_file_loads_and_points_at_the_files(biobank):
    folder, _ = biobank
    study = load_study(folder / "study.toml")
    assert study.genotypes.vcf == (str(folder / "genotypes.vcf.bgz"),)
    assert study.simulation is not None
    people = pd.read_csv(study.people.phenotypes, sep="\t")
    needed = {study.people.sample_column, *study.people.environment_column}
    needed |= {study.people.family_column, *study.traits.exposure, *study.traits.outcome}
    assert needed | set(study.traits.covariate) == set(people)
    assert len(study.traits.covariate) == 12


def test_orders_of_people_tell_nothing(biobank):
    folder, _ = biobank
    ids, _ = _dosages(folder / "genotypes.vcf.bgz")
    people = pd.read_csv(folder / "phenotypes.tsv", sep="\t", dtype={"person_id": str})
    assert sorted(ids) == sorted(people["person_id"])
    assert ids != people["person_id"].tolist()
    environment = people.set_index("person_id")["environment"]
    for order in (environment, environment.loc[ids]):
        changes = (order.to_numpy()[1:] != order.to_numpy()[:-1]).mean()
        assert changes == pytest.approx(2 / 3, abs=0.1)


def test_vcf_has_the_dosages_that_were_drawn_with_a_few_missing(biobank):
    from mrscale.simulate import _MODEL, _PEOPLE, _stream
    from mrscale.simulate.latent import FactorModel

    folder, _ = biobank
    drawn = FactorModel(_stream(3, _MODEL), 30, 3).draw(_stream(3, _PEOPLE), 600, 0)
    ids, calls = _dosages(folder / "genotypes.vcf.bgz")
    assert np.isnan(calls).mean() == pytest.approx(0.005)
    # people are told apart by the latents, which are written beside their ids
    latents = pd.read_parquet(folder / "latents.parquet").set_index("person_id").loc[ids]
    row = {z: i for i, z in enumerate(drawn.exogenous[:, 0])}
    expected = drawn.dosage[[row[z] for z in latents["z_i_1"]]].T
    called = ~np.isnan(calls)
    assert np.array_equal(calls[called], expected[called])


def test_index_finds_a_region(biobank):
    folder, _ = biobank
    with pysam.VariantFile(str(folder / "genotypes.vcf.bgz")) as vcf:
        assert sum(1 for _ in vcf.fetch("2")) > 0


def test_an_interrupted_simulation_has_no_truth_and_is_finished_by_the_same_call(tmp_path):
    calls = 0

    def stop(amount=1.0, *, note=""):
        nonlocal calls
        calls += 1
        if calls == 20:  # in the middle of the VCF
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "a", progress=stop, **SMALL)
    assert not (tmp_path / "a" / "truth.json").exists()
    simulate(tmp_path / "a", **SMALL)
    simulate(tmp_path / "b", **SMALL | {"num_people": np.int64(SMALL["num_people"])})
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")


def test_a_folder_with_other_content_is_refused_and_left_alone(tmp_path, biobank):
    folder, truth = biobank
    before = _bytes(folder)
    assert simulate(folder, seed=3, **SMALL) == truth
    with pytest.raises(InputError, match="does not hold this simulation"):
        simulate(folder, seed=4, **SMALL)
    assert _bytes(folder) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        simulate(tmp_path, **SMALL)
    with pytest.raises(InputError, match="is a file"):
        simulate(tmp_path / "notes.txt", **SMALL)
    with pytest.raises(InputError, match="a file is in the way of a folder"):
        simulate(tmp_path / "notes.txt" / "below", **SMALL)
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / ".simulation.json").write_text('{"seed"')
    with pytest.raises(InputError, match="does not hold this simulation"):
        simulate(cut, **SMALL)


@pytest.mark.parametrize(("package", "model"), [("pysam", "factor"), ("msprime", "coalescent")])
def test_a_missing_package_is_named_with_its_remedy(tmp_path, monkeypatch, package, model):
    monkeypatch.setitem(sys.modules, package, None)  # what Python does for an import that fails
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*pip install 'mrscale\[simulate\]'"):
        simulate(tmp_path / "out", model=model, **SMALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "island"}, "'factor' or 'coalescent', not 'island'"),
        ({"num_variants": 5}, "at least 10 variants"),
        ({"num_environments": 1}, "2 to 50 environments"),
        ({"model": "coalescent", "num_environments": 6}, "2 to 5 environments"),
        ({"num_people": 100}, "at least 150 people"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"seed": None}, "seed must be a whole number; found None"),
        ({"num_people": 600.0}, "num_people must be a whole number"),
        ({"effect": float("nan")}, "effect finite"),
        ({"samples": "s.tsv"}, "both genotypes and samples"),
        ({"genotypes": "g.vcf.bgz", "samples": "s.tsv"}, "no file at g.vcf.bgz"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        simulate(tmp_path / "out", **(SMALL | changes))
    assert not (tmp_path / "out").exists()
