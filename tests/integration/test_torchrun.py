"""``torchrun -m mrscale train``: the encoders of as many ranks, continued by fewer or more."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import psutil
import pytest
import torch

from mrscale.config import load_study
from mrscale.train import checkpoint
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.training import train

STUDY = """
run = "run"
store = "{store}"
folds = 2

[encoder]
methods = ["linear", "flow"]
factors = 3
latent_dim = 1
steps = 120
restarts = 1
batch_size = 61
input = "streamed"
"""


@pytest.fixture
def study_file(small_store, tmp_path):
    file = tmp_path / "study.toml"
    file.write_text(STUDY.format(store=small_store))
    return file


def torchrun(study_file, num_ranks):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    return subprocess.Popen(
        [sys.executable, *command, "-m", "mrscale", "train", "--json", str(study_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_of_torchrun_train_the_encoders_of_two_ranks(study_file, tmp_path):
    process = torchrun(study_file, 2)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    (told,) = map(json.loads, out.splitlines())
    assert told["trained_on"] == {"linear": "dosages streamed", "flow": "dosages streamed"}

    study = load_study(study_file)
    encoder = study.encoder.model_copy(update={"ranks": 2})
    whole = train(
        study.model_copy(update={"encoder": encoder, "run": str(tmp_path / "ranks")}), quiet=True
    )
    folder = RunFolder(tmp_path / "run")
    assert told["digest"] == whole.done("train")
    for fold in range(2):
        found, expected = (checkpoint.load(f.encoder("flow", fold)) for f in (folder, whole))
        assert found[1] == expected[1]
        assert all(torch.equal(found[0][name], expected[0][name]) for name in expected[0])


def test_a_training_that_was_killed_is_continued_by_one_process(study_file, tmp_path):
    study, folder = load_study(study_file), RunFolder(tmp_path / "run")
    process = torchrun(study_file, 2)
    deadline = time.monotonic() + 200
    while not folder.checkpoint("flow").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    agent = psutil.Process(process.pid)
    for one in (agent, *agent.children(recursive=True)):
        one.kill()
    process.communicate()
    step = checkpoint.load_story(folder.checkpoint("flow"))["step"]
    assert 0 < step < study.encoder.steps

    train(study, quiet=True)
    whole = train(study.model_copy(update={"run": str(tmp_path / "whole")}), quiet=True)
    for fold in range(2):
        story = checkpoint.load_story(folder.encoder("flow", fold))
        expected = checkpoint.load_story(whole.encoder("flow", fold))
        assert [row[0] for row in story["history"]] == [40, 80, 120]
        # the batches are the same, sums over people are rounded in another order: in float32 the
        # difference grows from step to step
        for row, wanted in zip(story["history"], expected["history"], strict=True):
            assert row == pytest.approx(wanted, rel=1e-2)
