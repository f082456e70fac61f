"""Learned instruments of a run, for a chosen pair of a store: those of the study itself."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import mrscale as mr
from mrscale.errors import InputError, RunError
from mrscale.sampling.plan import blocks
from mrscale.store import writer
from mrscale.store.reader import open_store
from mrscale.stream.products import mean_dosage
from mrscale.study_file import parse_study
from mrscale.workflow.designs import PairData
from mrscale.workflow.encoding import encode
from mrscale.workflow.estimating import estimate
from mrscale.workflow.fitting import fit_within, frame_moments, with_errors
from mrscale.workflow.latent_fits import latent_estimates
from mrscale.workflow.latents import Latents
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.training import train


@pytest.fixture(scope="module")
def run(small_store, tmp_path_factory):
    """A run folder with linear encoders, applied, and the study's own estimates."""
    folder = tmp_path_factory.mktemp("learned") / "run"
    encoder = {"methods": ["linear"], "factors": 2, "latent_dim": 1, "restarts": 1}
    study = parse_study(
        {"store": str(small_store), "run": str(folder), "folds": 2, "encoder": encoder}
    )
    train(study, quiet=True)
    encode(study, quiet=True)
    estimate(study, quiet=True)
    return folder


def test_estimates_are_those_of_the_study(small_store, run):
    found = mr.estimate(small_store, instruments="latent", run=run, errors="cluster")
    robust = mr.estimate(small_store, instruments="latent", run=run).estimates
    assert (found.estimates["std_error"] != robust["std_error"]).all()
    assert found.estimates["label"].tolist() == ["linear", "linear_controls"]
    study = pd.read_csv(run / "estimates.tsv", sep="\t").set_index("key")
    same = ["estimate", "std_error", "ci_lower", "ci_upper", "pvalue", "first_stage_f", "num_obs"]
    for row in found.estimates.to_dict("records"):
        assert_allclose([row[c] for c in same], study.loc[row["label"], same].astype(float), 1e-10)
    assert (found.instruments, found.fit, found.people) == ("latent", None, 900)
    assert "latent instruments, 900 people" in found.summary()


def test_lost_and_damaged_files_of_latents_are_no_people_without_latents(small, run, tmp_path):
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    chunk = broken / "latents.zarr" / "linear_latent" / "c" / "1" / "2" / "0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    message = (
        r"damaged at linear_latent: .*; remove its latents\.zarr, run mrscale encode study\.toml, "
        "and then the same command again"
    )
    with pytest.raises(RunError, match=message):
        mr.estimate(small, instruments="latent", run=broken)
    chunk.unlink()
    with pytest.raises(RunError, match="damaged at linear_latent: files of it are lost"):
        mr.estimate(small, instruments="latent", run=broken)
    (broken / "latents.zarr" / "linear_latent" / "zarr.json").write_text("{")
    with pytest.raises(RunError, match=r"damaged at latents\.zarr"):
        mr.estimate(small, instruments="latent", run=broken)


def test_environments_by_themselves_are_fits_within(small, run):
    found = mr.estimate(small, instruments="latent", run=run, by="environment")
    fill = mean_dosage(small)
    data = PairData(small, fill, False, 0, 0, Latents.open(run / "latents.zarr", ["linear"]), None)
    cuts = blocks(small.num_samples, small.layout.chunk_rows)
    controlled = next(one for one in data.estimators() if one.key == "linear_controls")
    within = fit_within(frame_moments(None, cuts, data), controlled, range(3))
    expected, _ = with_errors(None, cuts, data, within)
    assert found.by_environment["label"].tolist() == ["north", "south", "west"]
    assert_allclose(found.by_environment["estimate"], [e.estimate for e in expected], rtol=1e-12)
    assert_allclose(found.by_environment["std_error"], [e.std_error for e in expected], rtol=1e-12)
    assert len(found.meta) == 2


def test_covariates_can_be_chosen(small, run):
    some = mr.estimate(small, instruments="latent", run=run, covariates=["age"])
    none = mr.estimate(small, instruments="latent", run=run, covariates=[])
    all_of_them = mr.estimate(small, instruments="latent", run=run)
    # principal components are no covariates of learned instruments, the remainder is
    assert_allclose(some.estimates["estimate"], all_of_them.estimates["estimate"], rtol=1e-12)
    assert np.abs(none.estimates["estimate"] / some.estimates["estimate"] - 1).max() > 1e-6


def test_an_environment_of_nobody_keeps_its_row(small, run, tmp_path):
    exposure = small.array("exposure")
    exposure[small.array("environment") == 1] = np.nan
    shutil.copytree(small.path, tmp_path / "s.zarr")
    writer.write_array(tmp_path / "s.zarr", "exposure", exposure)
    store = open_store(tmp_path / "s.zarr")
    found = mr.estimate(store, instruments="latent", run=run, by="environment")
    table = found.by_environment.set_index("label")
    assert (table.loc["south", "num_obs"], bool(np.isnan(table.loc["south", "estimate"]))) == (
        0,
        True,
    )
    assert found.people == 900 - int((small.array("environment") == 1).sum())


def test_a_folder_without_latents_is_refused(small, tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(
            RunError, match="found no latents of its encoders in it; run mrscale train"
        ):
            mr.estimate(small, instruments="latent", run=folder)


def test_latents_of_encoders_that_are_no_longer_there_are_refused(small, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    receipt = folder.path / "stages" / "train.json"
    receipt.write_text(json.dumps({**json.loads(receipt.read_text()), "digest": "another"}))
    with pytest.raises(RunError, match="found no latents of its encoders"):
        mr.estimate(small, instruments="latent", run=folder.path)


def test_latents_that_are_made_again_meanwhile_are_refused(small, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    receipt = tmp_path / "run" / "stages" / "encode.json"
    told = json.loads(receipt.read_text())

    def made_again(_):
        receipt.write_text(json.dumps({**told, "run": {"started": "later"}}))

    with pytest.raises(RunError, match="were made again while they were read"):
        latent_estimates(
            small,
            None,
            tmp_path / "run",
            ["exposure"],
            "outcome",
            [],
            None,
            clustered=False,
            progress=made_again,
        )


def test_latents_of_another_store_are_refused(small, run, changed_store):
    store = open_store(changed_store())
    store.manifest["arrays"]["fold"] = "another digest"
    with pytest.raises(RunError, match="are those of another genotype store; name the store"):
        mr.estimate(store, instruments="latent", run=run)


def test_several_exposures_are_refused(small, run, tmp_path):
    values = {"exposure": (["ldl"], np.ones((900, 1)))}
    shutil.copytree(small.path, tmp_path / "s.zarr")
    mr.append(tmp_path / "s.zarr", small.array("sample_id"), values)
    with pytest.raises(InputError, match="one exposure at a time; found 2"):
        mr.estimate(
            tmp_path / "s.zarr", instruments="latent", run=run, exposure=["exposure", "ldl"]
        )


def test_an_estimate_of_few_people_does_not_tell_how_many_they_are(small, run, tmp_path):
    shown = []
    for count in (6, 18):
        exposure = small.array("exposure")
        exposure[np.flatnonzero(small.array("environment") == 1)[count:]] = np.nan
        path = tmp_path / f"{count}.zarr"
        shutil.copytree(small.path, path)
        writer.write_array(path, "exposure", exposure)
        found = mr.estimate(
            open_store(path), instruments="latent", run=run, by="environment", covariates=[]
        )
        row = found.by_environment.set_index("label").loc["south"]
        assert str(row["num_obs"]) == "<=20"
        shown.append((np.isfinite(row["estimate"]), found.meta["num_environments"].tolist()))
    assert shown[0] == shown[1]
