"""Kill -9 in the middle of training: the command itself, a rank, a Dask worker or the scheduler;
the same command then gives the undisturbed encoders."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import psutil
import pytest
import torch

from mrscale.config import load_study
from mrscale.errors import RunError
from mrscale.train import checkpoint
from mrscale.workflow.encoding import encode
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.training import train

STUDY = """
name = "killed"
seed = 5
run = "run"
store = "{store}"
folds = 2

[encoder]
methods = ["linear", "kernel", "flow"]
factors = 3
steps = 120
batch_size = 60
"""


@pytest.fixture
def study_file(small_store, tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(STUDY.format(store=small_store))
    return file


def command(study_file, *options):
    return [sys.executable, "-m", "mrscale", "train", "--quiet", *options, str(study_file)]


def start(study_file, log, *options):
    with log.open("wb") as handle:
        return subprocess.Popen(command(study_file, *options), stdout=handle, stderr=handle)


def wait_for(path, process, log):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"no {path.name} was written in time"
        time.sleep(0.001)


def kill_when_there_is(path, study_file, log):
    process = start(study_file, log)
    wait_for(path, process, log)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_killed_training_continues_to_the_same_encoders(study_file, tmp_path):
    study = load_study(study_file)
    folder, log = RunFolder(tmp_path / "run"), tmp_path / "log.txt"

    kill_when_there_is(folder.checkpoint("path"), study_file, log)
    assert checkpoint.load_story(folder.checkpoint("path"))["step"] < study.encoder.steps
    assert not folder.latent_dim.exists()

    kill_when_there_is(folder.checkpoint("kernel"), study_file, log)
    assert checkpoint.load_story(folder.checkpoint("kernel"))["step"] < study.encoder.steps
    assert not folder.checkpoint("path").exists()
    assert not folder.encoder("kernel", 0).exists()
    assert folder.done("train") is None
    with pytest.raises(RunError, match="not trained yet; run first: mrscale train"):
        encode(study, quiet=True)

    kill_when_there_is(folder.checkpoint("flow"), study_file, log)
    kept = [folder.latent_dim, folder.prepared(0), folder.prepared(1)]
    kept += [folder.encoder(method, fold) for method in ("linear", "kernel") for fold in range(2)]
    written = [file.stat().st_mtime_ns for file in kept]
    assert not folder.encoder("flow", 0).exists()
    assert folder.done("train") is None

    finished = subprocess.run(command(study_file), capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert [file.stat().st_mtime_ns for file in kept] == written, "finished work was done again"

    whole = train(study.model_copy(update={"run": str(tmp_path / "whole")}), quiet=True)
    assert not any(folder.checkpoint(what).exists() for what in ("path", "kernel", "flow"))
    same_training(study, folder, whole)


def same_training(study, one, two):
    assert one.done("train") == two.done("train")
    if study.encoder.latent_dim == "auto":
        assert one.latent_dim.read_bytes() == two.latent_dim.read_bytes()
    for fold in range(study.folds):
        same_file(one.prepared(fold), two.prepared(fold))
        for method in study.encoder.methods:
            same_file(one.encoder(method, fold), two.encoder(method, fold))


def same_file(one, two):
    (tensors, story), (expected, told) = checkpoint.load(one), checkpoint.load(two)
    assert story == told
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name]), f"{name} of {one.name}"


STREAMED = """
name = "streamed"
seed = 5
run = "run"
store = "{store}"
folds = 2

[encoder]
methods = ["kernel"]
first_layer = "trained"
input = "streamed"
prefetch_mib = 0.02
factors = 3
latent_dim = 1
steps = 240
batch_size = 60
"""
"""Fewer chunks are held than are shuffled together: Dask is asked for some all the time."""


@pytest.fixture(scope="module")
def undisturbed(small_store, tmp_path_factory):
    """The streamed training in peace."""
    return train(streamed_study(small_store, tmp_path_factory.mktemp("whole"))[1], quiet=True)


def streamed_study(store, folder, **encoder):
    """A study file in a folder, and its study."""
    file = folder / "study.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in encoder.items()]
    file.write_text("\n".join([STREAMED.format(store=store), *lines]))
    return file, load_study(file)


class Cluster:
    """A Dask scheduler and its workers, in processes of their own."""

    def __init__(self, folder, stack, num_workers):
        self._file, self._stack = folder / f"scheduler-{time.monotonic_ns()}.json", stack
        self.scheduler = self._run("dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        while not self._file.exists() or not self._file.read_text():
            time.sleep(0.05)
        self.address = json.loads(self._file.read_text())["address"]
        self.workers = [
            self._run("dask_worker", "--nworkers", "1", "--nthreads", "1", "--no-nanny")
            for _ in range(num_workers)
        ]

    def _run(self, what, *options):
        module = [sys.executable, "-m", f"distributed.cli.{what}", "--no-dashboard"]
        process = subprocess.Popen(
            [*module, *options, "--scheduler-file", str(self._file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process


@pytest.fixture
def cluster_of(tmp_path):
    with ExitStack() as stack:
        yield lambda num_workers: Cluster(tmp_path, stack, num_workers)


def test_a_killed_dask_worker_is_replaced_by_another(
    small_store, undisturbed, cluster_of, tmp_path
):
    file, study = streamed_study(small_store, tmp_path)
    folder, cluster, log = RunFolder(tmp_path / "run"), cluster_of(2), tmp_path / "log.txt"
    process = start(file, log, "--scheduler", cluster.address)
    wait_for(folder.checkpoint("kernel"), process, log)
    cluster.workers[0].kill()
    assert process.wait(120) == 0, log.read_text()
    same_training(study, folder, undisturbed)


def test_without_its_dask_scheduler_training_ends_and_is_continued(
    small_store, undisturbed, cluster_of, tmp_path
):
    file, study = streamed_study(small_store, tmp_path)
    folder, cluster, log = RunFolder(tmp_path / "run"), cluster_of(1), tmp_path / "log.txt"
    process = start(file, log, "--scheduler", cluster.address)
    wait_for(folder.checkpoint("kernel"), process, log)
    cluster.scheduler.kill()
    assert process.wait(120) == 1, log.read_text()
    assert "Error: a chunk of the store could not be read: Dask's scheduler" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert not folder.encoder("kernel", 0).exists()
    assert checkpoint.load_story(folder.checkpoint("kernel"))["step"] < study.encoder.steps

    process = start(file, log, "--scheduler", cluster_of(1).address)
    assert process.wait(120) == 0, log.read_text()
    same_training(study, folder, undisturbed)


def test_a_killed_rank_ends_the_other_and_both_are_continued(small_store, tmp_path):
    file, study = streamed_study(small_store, tmp_path, ranks=2)
    whole = train(study.model_copy(update={"run": str(tmp_path / "whole")}), quiet=True)
    folder, log = RunFolder(tmp_path / "run"), tmp_path / "log.txt"
    process = start(file, log)
    wait_for(folder.checkpoint("kernel"), process, log)
    children = psutil.Process(process.pid).children()
    ranks = [p for p in children if "spawn_main" in " ".join(p.cmdline())]
    assert len(ranks) == 2
    ranks[1].kill()
    assert process.wait(120) == 1
    assert "run the same command again, it continues" in log.read_text()
    assert "Traceback" not in log.read_text()

    assert start(file, log).wait(120) == 0, log.read_text()
    same_training(study, folder, whole)
