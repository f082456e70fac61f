"""Semi-synthetic traits on the genotypes of a thousand real people."""

from __future__ import annotations

import gzip
import time

import numpy as np
import pandas as pd
import pytest

from mrscale.errors import InputError
from mrscale.simulate import simulate
from mrscale.study_file import load_study

COMPLEMENT = str.maketrans("ACGT", "TGCA")


@pytest.fixture(scope="module")
def sources(shared_data):
    return {
        "genotypes": shared_data("data/hapmap_chr10p.vcf.bgz"),
        "samples": shared_data("data/hapmap_samples.tsv"),
    }


@pytest.fixture(scope="module")
def hapmap(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hapmap") / "out"
    started = time.perf_counter()
    truth = simulate(folder, **sources)
    assert time.perf_counter() - started < 20
    return folder, truth


def test_people_are_those_of_the_vcf_with_their_environments(hapmap, sources):
    folder, _ = hapmap
    study = load_study(folder / "study.toml")
    assert study.genotypes.vcf == (str(sources["genotypes"].resolve()),)
    people = pd.read_csv(folder / "phenotypes.tsv", sep="\t").set_index("person_id")
    known = pd.read_csv(sources["samples"], sep="\t").set_index("sample_id")["environment"]
    assert len(people) == 1000
    assert people["environment"].equals(known.loc[people.index].rename_axis("person_id"))
    # the first component tells the two populations apart
    by_environment = people.groupby("environment")["PC1"]
    assert np.ptp(by_environment.mean()) > 4 * by_environment.std().max()


def test_listed_rows_match_the_vcf_but_for_the_absent_ones(hapmap, sources):
    folder, truth = hapmap
    with gzip.open(sources["genotypes"], "rt") as vcf:
        sites = {
            int(fields[1]): (fields[3], fields[4])
            for fields in (line.split("\t", 5) for line in vcf if line[0] != "#")
        }
    table = pd.read_csv(folder / "instruments.tsv", sep="\t")
    kinds = truth["instrument_rows"]
    assert all(count > 0 for count in kinds.values())
    assert len(table) == 50 + kinds["absent"] + kinds["duplicate"]
    found = table[table["base_pair_location"].isin(list(sites))]
    assert len(table) - len(found) == kinds["absent"]
    for row in found.itertuples():
        alleles = {row.effect_allele, row.other_allele}
        turned = {a.translate(COMPLEMENT) for a in alleles}
        assert set(sites[row.base_pair_location]) in (alleles, turned)
    assert len(truth["variants"]) == 60


def test_exogenous_latent_neither_shifts_nor_stretches(hapmap):
    folder, _ = hapmap
    people = pd.read_csv(folder / "phenotypes.tsv", sep="\t")
    latents = pd.read_parquet(folder / "latents.parquet").merge(people, on="person_id")
    by_environment = latents.groupby("environment")["z_i_1"]
    np.testing.assert_allclose(by_environment.mean(), 0, atol=1e-9)
    np.testing.assert_allclose(by_environment.std(ddof=0), 1)
    assert abs(latents[["z_i_1", "exposure"]].corr().iloc[0, 1]) > 0.2
    # the environment confounds: both traits differ between the two populations
    assert np.ptp(people.groupby("environment")["exposure"].mean()) > 0.5
    assert np.ptp(people.groupby("environment")["outcome"].mean()) > 0.5


def test_same_arguments_give_the_same_bytes(hapmap, sources, tmp_path):
    folder, _ = hapmap
    simulate(tmp_path / "again", **sources)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_samples_that_do_not_match_are_counted_and_not_named(sources, tmp_path):
    table = pd.read_csv(sources["samples"], sep="\t")
    table["sample_id"] = "X" + table["sample_id"]
    table.to_csv(tmp_path / "other.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match="1,000 of 1,000 have none") as caught:
        simulate(tmp_path / "out", genotypes=sources["genotypes"], samples=tmp_path / "other.tsv")
    assert "jpt" not in str(caught.value)
