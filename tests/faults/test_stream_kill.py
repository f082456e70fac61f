"""Kill -9 a Dask worker or the scheduler, or damage a chunk, while a training streams from them:
the same command gives the undisturbed encoders."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mrscale.workflow.training import train

trainings = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("trainings.py"))))
write_small_store = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))[
    "write_small_store"
]

STREAMED = {"input": "streamed", "prefetch_mib": 0.02, "latent_dim": 1, "restarts": 1, "steps": 200}
"""Fewer chunks are held than are shuffled together: Dask is asked for some all the time."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Not to be changed."""
    path = tmp_path_factory.mktemp("people") / "store.zarr"
    write_small_store(path, 2400)
    return path


@pytest.fixture(
    scope="module",
    params=[
        {"methods": ["kernel"], "first_layer": "trained"},
        {"methods": ["kernel", "flow"], "first_layer": "fixed"},
    ],
    ids=["trained layer", "fixed layer"],
)
def undisturbed(request, store, tmp_path_factory):
    """Settings of encoders, and their streamed training in peace."""
    settings = STREAMED | request.param
    _, study = trainings.study_in(tmp_path_factory.mktemp("whole"), store, **settings)
    folder = train(study, quiet=True)
    looks = [json.loads(line) for line in folder.metrics("kernel").read_text().splitlines()]
    assert looks[-1]["chunks_read"] > 2 * looks[0]["chunks_read"]
    return settings, folder


def test_a_killed_dask_worker_is_replaced_by_another(store, undisturbed, tmp_path):
    settings, whole = undisturbed
    file, study = trainings.study_in(tmp_path, store, **settings)
    with (
        trainings.Cluster(tmp_path, 2) as cluster,
        trainings.Training(file, "--scheduler", cluster.address) as running,
    ):
        running.wait_for(running.folder.checkpoint("kernel"))
        cluster.workers[0].kill()
        assert trainings.step_of(running.folder.checkpoint("kernel")) < study.encoder.steps
        assert running.finish() == 0, running.output
    trainings.same_training(study, running.folder, whole)


def test_without_its_dask_scheduler_training_ends_and_is_continued(store, undisturbed, tmp_path):
    settings, whole = undisturbed
    file, study = trainings.study_in(tmp_path, store, **settings)
    *before, method = study.encoder.methods
    with (
        trainings.Cluster(tmp_path, 1) as cluster,
        trainings.Training(file, "--scheduler", cluster.address) as running,
    ):
        folder = running.folder
        running.wait_for(folder.checkpoint(method))
        cluster.scheduler.kill()
        assert running.process.wait(60) == 1, running.output
    (message,) = running.output.splitlines()
    assert message.startswith("Error: a chunk of the store could not be read: Dask's scheduler")
    assert message.endswith("it continues where it stopped")
    assert trainings.step_of(folder.checkpoint(method)) < study.encoder.steps
    assert not folder.encoder(method, 0).exists()
    kept = [folder.encoder(done, fold) for done in before for fold in range(study.folds)]
    written = [path.stat().st_mtime_ns for path in kept]

    with (
        trainings.Cluster(tmp_path, 1) as cluster,
        trainings.Training(file, "--scheduler", cluster.address) as running,
    ):
        assert running.finish() == 0, running.output
    assert [path.stat().st_mtime_ns for path in kept] == written, "finished work was done again"
    trainings.same_training(study, folder, whole)


def test_ranks_whose_chunk_is_damaged_end_together_and_name_it(store, tmp_path):
    own = shutil.copytree(store, tmp_path / "store.zarr")
    settings = STREAMED | {"methods": ["flow"], "prefetch_mib": 0.01, "steps": 240, "ranks": 2}
    file, study = trainings.study_in(tmp_path, own, **settings)
    shard = own / "call_dosage" / "c" / "1" / "0"
    sound = shard.read_bytes()
    with trainings.Training(file) as training:
        resume = training.folder.checkpoint("flow")
        training.wait_for(resume)
        shard.write_bytes(bytes([sound[0] ^ 255]) + sound[1:])
        assert training.finish() == 1, training.output
    (error,) = training.errors
    assert "the store is damaged at call_dosage, chunk 4 (rows 256 to 319)" in error
    assert "Traceback" not in training.output
    assert trainings.step_of(resume) < study.encoder.steps

    shard.write_bytes(sound)
    with trainings.Training(file) as training:
        assert training.finish() == 0, training.output
    whole = train(study.model_copy(update={"run": str(tmp_path / "whole")}), quiet=True)
    trainings.same_training(study, training.folder, whole)
