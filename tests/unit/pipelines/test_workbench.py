"""Defaults of the workbench, in a folder tree with its names."""

from __future__ import annotations

import logging

import fsspec.config
import pandas as pd
import pytest

from mrscale import places
from mrscale.errors import InputError
from mrscale.study_file import parse_study
from pipelines.people import arrange, read_phenotypes
from pipelines.workbench import with_defaults

IDS = [f"{1000000 + i}" for i in range(90)]
ACAF, VDS = "WGS_ACAF_THRESHOLD_SPLIT_HAIL_PATH", "WGS_VDS_PATH"


def table(path, **columns):
    places.write_bytes(path, pd.DataFrame(columns).to_csv(sep="\t", index=False).encode())


@pytest.fixture(params=["", "echo_v4_r2.", "delta_v1_gt_", "memory"])
def workbench(request, tmp_path):
    """Environment variables and the release they name; prefixes and id columns drift."""
    url = request.param == "memory"
    root = f"memory://{tmp_path.name}/cdr" if url else str(tmp_path / "cdr")
    prefix, column = ("", "sample_id.s") if url else (request.param, "research_id")
    base = f"{root}/wgs/short_read/snpindel"
    table(
        f"{base}/aux/ancestry/{prefix}ancestry_preds.tsv",
        **{column: IDS},
        ancestry_pred=["afr", "eur", "eur"] * 30,
        pca_features=[f"[{i}, 0.5]" for i in range(90)],
    )
    related = f"{base}/aux/relatedness/{prefix}relatedness"
    table(f"{related}.tsv", **{"i.s": IDS[:5], "j.s": IDS[5:10], "kin": [0.25] * 5})
    table(f"{related}_flagged_samples.tsv", **{column: IDS[:5]})
    table(f"{base}/aux/qc/{prefix}flagged_samples.tsv", s=IDS[80:])
    return {
        "CDR_STORAGE_PATH": root,
        ACAF: f"{base}/acaf_threshold/splitMT/hail.mt",
        VDS: f"{base}/vds/hail.vds",
        "WGS_EXOME_SPLIT_HAIL_PATH": f"{base}/exome/splitMT/hail.mt",
        "GOOGLE_PROJECT": "payer",
    }


def study(people=None, **sections):
    traits = {"exposure": "bmi", "outcome": "sbp", "covariate": ["PC1", "PC2"]}
    return parse_study({"traits": traits, "people": people or {}, **sections})


def test_a_study_without_files_takes_the_release(workbench, tmp_path, caplog):
    values = [float(i) for i in range(90)]
    table(f"{tmp_path}/p.tsv", person_id=IDS, bmi=values, sbp=values[::-1], sex=["F", "M"] * 45)
    own = {"phenotypes": f"{tmp_path}/p.tsv", "environment_column": "ancestry_pred"}
    with caplog.at_level(logging.INFO):
        found = with_defaults(study(own), workbench)
    assert found.genotypes.mt == workbench[ACAF]
    assert found.genotypes.reference_genome == "GRCh38"
    assert ACAF in caplog.text
    assert all(key in caplog.text for key in ("no ancestry;", "no kinship;", "no exclude;"))
    cohort = arrange(read_phenotypes(found), IDS, num_folds=2, seed=0)
    assert cohort.environment_name.tolist() == ["afr", "eur"]
    assert len(cohort.sample_id) == 80
    assert (cohort.family >= 0).sum() == 10
    expected = [[float(IDS.index(one)), 0.5] for one in cohort.sample_id]
    assert cohort.covariate.tolist() == expected
    assert not any(one in caplog.text for one in IDS)


def test_a_list_of_instruments_allows_the_vds(workbench):
    found = with_defaults(study(instruments={"file": "gwas.tsv"}), workbench)
    assert found.genotypes.source == "vds"
    assert found.genotypes.vds == workbench[VDS]


def test_the_next_callset_is_taken_where_one_is_absent(workbench):
    found = with_defaults(study(), {**workbench, ACAF: ""})
    assert found.genotypes.mt == workbench["WGS_EXOME_SPLIT_HAIL_PATH"]


def test_a_vds_alone_asks_for_a_list_of_instruments(workbench, caplog):
    given = study()
    assert with_defaults(given, {VDS: workbench[VDS]}) == given
    assert "give one as file in [instruments]" in caplog.text


def test_what_the_study_names_stays(workbench):
    own = {"ancestry": "a.tsv", "kinship": "k.tsv", "exclude": "x.txt"}
    given = study(own, genotypes={"reference_genome": "GRCh37"})
    found = with_defaults(given, workbench)
    assert found.people == given.people
    assert found.genotypes.reference_genome == "GRCh37"


def test_without_kinship_the_relatives_flagged_are_left_out(workbench):
    root = workbench["CDR_STORAGE_PATH"]
    folder = f"{root}/wgs/short_read/snpindel/aux/relatedness"
    for name in places.names(folder):
        if name.endswith("relatedness.tsv"):
            places.remove(f"{folder}/{name}")
    found = with_defaults(study(), workbench).people
    assert found.kinship is None
    assert [path.rsplit("/", 2)[1] for path in found.exclude] == ["qc", "relatedness"]


@pytest.mark.parametrize("environ", [{}, {"CDR_STORAGE_PATH": "gs://nobody/there"}])
def test_elsewhere_nothing_changes(environ):
    given = study()
    assert with_defaults(given, environ) is given


def test_a_study_with_genotypes_is_left_alone():
    given = study(genotypes={"vcf": "g.vcf.bgz"})
    environ = {ACAF: "gs://nobody/hail.mt", "CDR_STORAGE_PATH": "gs://nobody/there"}
    assert with_defaults(given, environ) is given


def test_the_reader_pays_for_buckets(monkeypatch):
    monkeypatch.setattr(fsspec.config, "conf", {})
    environ = {ACAF: "gs://nobody/hail.mt", "GOOGLE_PROJECT": "payer"}
    found = with_defaults(study(), environ)
    assert found.genotypes.requester_pays == "payer"
    assert fsspec.filesystem("gs", token="anon").requester_pays == "payer"


def test_a_release_that_cannot_be_listed(tmp_path):
    (tmp_path / "wgs").write_text("a file where a folder should be")
    environ = {ACAF: "hail.mt", "CDR_STORAGE_PATH": str(tmp_path)}
    with pytest.raises(
        InputError, match=r"cannot be listed \(NotADirectoryError\); check the perm"
    ):
        with_defaults(study(), environ)
