"""Kill -9 in the middle of training; the same command then gives the undisturbed encoders."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

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


def command(study_file):
    return [sys.executable, "-m", "mrscale", "train", "--quiet", str(study_file)]


def kill_when_there_is(path, study_file, log):
    with log.open("wb") as handle:
        process = subprocess.Popen(command(study_file), stdout=handle, stderr=handle)
        deadline = time.monotonic() + 120
        while not path.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"no {path.name} was written in time"
            time.sleep(0.001)
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

    undisturbed = train(study.model_copy(update={"run": str(tmp_path / "whole")}), quiet=True)
    assert folder.done("train") == undisturbed.done("train")
    assert not any(folder.checkpoint(what).exists() for what in ("path", "kernel", "flow"))
    assert folder.latent_dim.read_bytes() == undisturbed.latent_dim.read_bytes()
    for fold in range(study.folds):
        same_file(folder.prepared(fold), undisturbed.prepared(fold))
        for method in study.encoder.methods:
            same_file(folder.encoder(method, fold), undisturbed.encoder(method, fold))


def same_file(one, two):
    (tensors, story), (expected, told) = checkpoint.load(one), checkpoint.load(two)
    assert story == told
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name]), f"{name} of {one.name}"
