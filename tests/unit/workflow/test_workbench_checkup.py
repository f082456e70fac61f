"""What the doctor says of a workbench, in a folder tree with a release's names."""

from __future__ import annotations

import pytest

from mrscale import places
from mrscale.workflow import workbench_checkup
from mrscale.workflow.workbench_checkup import examine_workbench


@pytest.fixture
def environ(tmp_path, monkeypatch):
    monkeypatch.setattr(workbench_checkup, "DATAPROC_FOLDER", tmp_path / "google-dataproc")
    monkeypatch.setattr(workbench_checkup, "SPARK_DEFAULTS", tmp_path / "spark-defaults.conf")
    release = f"memory://{tmp_path.name}/cdr"
    aux = f"{release}/wgs/short_read/snpindel/aux"
    places.write_bytes(f"{aux}/ancestry/echo_v4.ancestry_preds.tsv", b"research_id\n")
    places.write_bytes(f"{aux}/qc/flagged_samples.tsv", b"s\n")
    (tmp_path / "bucket").mkdir()
    return {
        "WORKSPACE_BUCKET": str(tmp_path / "bucket"),
        "CDR_STORAGE_PATH": release,
        "WGS_VDS_PATH": f"{release}/hail.vds",
        "GOOGLE_PROJECT": "terra-1",
        "HOME": "/root",
    }


def by_name(environ):
    return {check.name: check for check in examine_workbench(environ)}


def test_without_its_variables_nothing_is_looked_up():
    assert examine_workbench({"HOME": "/root", "WGS_NOT_A_FILE": "x", "WORKSPACE_BUCKET": ""}) == []


def test_a_workbench_is_looked_at(environ, tmp_path):
    found = by_name(environ)
    assert all(check.ok for check in found.values())
    assert "WGS_VDS_PATH" in found["Workbench"].found
    assert "HOME" not in found["Workbench"].found
    assert "not set: WORKSPACE_CDR" in found["Workbench"].note
    assert found["Workspace bucket"].found.endswith("can be listed; writing was not tried")
    assert found["Release"].found == (
        "genotypes as vds; tables: ancestry, people flagged in quality control"
    )
    assert found["Release"].note == "not found: kinship; name your own in [people]"
    assert found["Cluster"].found == "not on Dataproc: Spark runs on this machine alone"
    assert "Requester pays" not in found, "nothing here is in a bucket of Google's"
    assert list((tmp_path / "bucket").iterdir()) == []


def test_who_pays_is_asked_where_a_path_is_in_a_bucket(environ):
    del environ["CDR_STORAGE_PATH"]
    environ["WGS_VDS_PATH"] = "gs://release/hail.vds"
    assert by_name(environ)["Requester pays"].found == "reading is billed to terra-1"
    del environ["GOOGLE_PROJECT"]
    found = by_name(environ)["Requester pays"]
    assert not found.ok
    assert "export GOOGLE_PROJECT=" in found.fix


def test_a_release_that_cannot_be_listed_has_a_remedy(environ, tmp_path):
    (tmp_path / "wgs").write_text("a file where a folder should be")
    found = by_name(environ | {"CDR_STORAGE_PATH": str(tmp_path)})["Release"]
    assert not found.ok
    assert "cannot be listed" in found.found
    assert "check CDR_STORAGE_PATH" in found.fix


@pytest.mark.parametrize("marker", ["HAIL_DATAPROC", "DATAPROC_IMAGE_VERSION", None])
def test_a_cluster_is_known_by_its_marks(environ, tmp_path, marker):
    if marker:
        environ[marker] = "1"
    else:
        (tmp_path / "google-dataproc").mkdir()
    found = by_name(environ)["Cluster"]
    assert found.ok
    assert found.found == f"Dataproc; no settings in {tmp_path / 'spark-defaults.conf'}"
    assert all(word in found.note for word in ("Preemptible", "autoscaling", "137", "hl.init"))
    text = (
        "# comment\n\nspark.executor.memory 5g\nspark.driver.memory=12g\nspark.ui.enabled  false\n"
    )
    (tmp_path / "spark-defaults.conf").write_text(text)
    found = by_name(environ)["Cluster"]
    assert found.found == "Dataproc; spark.executor.memory 5g, spark.driver.memory 12g"
