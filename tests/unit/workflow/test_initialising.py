"""A first study file: it can be read, names what the workbench has, and overwrites nothing."""

from __future__ import annotations

import pytest

from mrscale.errors import InputError
from mrscale.study_file import load_study
from mrscale.workflow.initialising import initialise

WORKBENCH = {
    "WORKSPACE_BUCKET": "gs://fc-secure-1",
    "GOOGLE_PROJECT": "terra-1",
    "WGS_VDS_PATH": "gs://release/vds/hail.vds",
    "WGS_ACAF_THRESHOLD_SPLIT_HAIL_PATH": "gs://release/acaf_threshold/splitMT/hail.mt",
}


def test_the_file_is_a_study(tmp_path):
    study = load_study(initialise(tmp_path / "study.toml"))
    assert study.genotypes.source == "vcf"
    assert study.people.environment_column == ("ancestry",)
    assert f"mrscale run {tmp_path / 'study.toml'}" in (tmp_path / "study.toml").read_text()


def test_on_the_workbench_its_own_genotypes_and_ancestry_are_left_to_it(tmp_path):
    file = initialise(tmp_path / "study.toml", all_of_us=True, environ=WORKBENCH)
    study, text = load_study(file), file.read_text()
    assert study.genotypes.source is None
    assert study.store_path == "gs://fc-secure-1/mrscale/store.zarr"
    assert study.people.phenotypes == "gs://fc-secure-1/phenotypes.parquet"
    assert study.people.environment_column == ("ancestry_pred",)
    assert study.traits.covariate[-3:] == ("PC1", "PC2", "PC3")
    assert study.instruments.build == "GRCh38"
    assert "WGS_VDS_PATH, WGS_ACAF_THRESHOLD_SPLIT_HAIL_PATH" in text
    assert "requester pays: terra-1" in text
    assert "{" not in text


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        (["WORKSPACE_BUCKET"], "a workbench sets WORKSPACE_BUCKET;"),
        (["WGS_VDS_PATH", "WGS_ACAF_THRESHOLD_SPLIT_HAIL_PATH"], "a workbench sets WGS_VDS_PATH"),
    ],
)
def test_without_the_variables_of_a_workbench_nothing_is_written(tmp_path, lost, named):
    environ = {name: value for name, value in WORKBENCH.items() if name not in lost}
    with pytest.raises(InputError, match=named):
        initialise(tmp_path / "study.toml", all_of_us=True, environ=environ)
    assert not list(tmp_path.iterdir())


def test_a_study_that_is_there_is_left_alone(tmp_path):
    file = tmp_path / "study.toml"
    file.write_text("mine")
    with pytest.raises(InputError, match="is there already; nothing was touched"):
        initialise(file)
    assert file.read_text() == "mine"


def test_a_place_that_cannot_be_written_is_said():
    with pytest.raises(InputError, match=r"/proc/nowhere/study\.toml cannot be written"):
        initialise("/proc/nowhere/study.toml")
