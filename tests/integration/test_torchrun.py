"""``torchrun -m mrscale train``: the encoders of as many ranks, continued by fewer or more."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from mrscale.config import load_study
from mrscale.train import checkpoint
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.training import train

PYTORCH_JOB = Path(__file__).parents[2] / "deploy/kubernetes/components/pytorch-job/train.yaml"
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


def torchrun(study_file, num_ranks, *options):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    return subprocess.Popen(
        [sys.executable, *command, *options, "-m", "mrscale", "train", "--json", str(study_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def when_there_is(path, process):
    """The processes that train, once there is a file."""
    deadline = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return psutil.Process(process.pid).children()


def with_ranks(study, ranks, run):
    """The same study trained in another folder, by ranks that this process starts."""
    encoder = study.encoder.model_copy(update={"ranks": ranks})
    return train(study.model_copy(update={"encoder": encoder, "run": str(run)}), quiet=True)


def same_encoders(one, other):
    for fold in range(2):
        found, expected = (checkpoint.load(f.encoder("flow", fold)) for f in (one, other))
        assert found[1] == expected[1]
        assert all(torch.equal(found[0][name], expected[0][name]) for name in expected[0])


@pytest.fixture(scope="module")
def two_ranks(small_store, tmp_path_factory):
    """The encoders of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "study.toml").write_text(STUDY.format(store=small_store))
    return with_ranks(load_study(folder / "study.toml"), 2, folder / "run")


def test_two_processes_of_torchrun_train_the_encoders_of_two_ranks(study_file, two_ranks, tmp_path):
    process = torchrun(study_file, 2)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    (told,) = map(json.loads, out.splitlines())
    assert told["trained_on"] == {"linear": "dosages streamed", "flow": "dosages streamed"}
    assert told["digest"] == two_ranks.done("train")
    same_encoders(RunFolder(tmp_path / "run"), two_ranks)


def test_the_words_and_variables_of_a_pytorch_job_train_the_same(study_file, two_ranks, tmp_path):
    """What Kubeflow's operator makes of the template for each pod, on a "pod" of this machine."""
    spec = yaml.safe_load(PYTORCH_JOB.read_text())["spec"]
    elastic, replicas = spec["elasticPolicy"], spec["pytorchReplicaSpecs"]["Worker"]
    (container,) = replicas["template"]["spec"]["containers"]
    assert container["command"] == ["torchrun"]
    words = [str(study_file) if "study.toml" in word else word for word in container["args"]]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = {
        "PET_NNODES": f"{elastic['minReplicas']}:{elastic['maxReplicas']}",
        "PET_NPROC_PER_NODE": spec["nprocPerNode"],
        "PET_MAX_RESTARTS": str(elastic["maxRestarts"]),
        "PET_RDZV_BACKEND": elastic["rdzvBackend"],
        "PET_RDZV_ENDPOINT": f"127.0.0.1:{port}",
    }
    command = [sys.executable, "-m", "torch.distributed.run", *words]
    done = subprocess.run(
        command, env=os.environ | told, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    folder = RunFolder(tmp_path / "run")
    assert folder.done("train") == two_ranks.done("train")
    same_encoders(folder, two_ranks)


def test_torchrun_restarts_a_killed_process_where_the_training_was(study_file, two_ranks, tmp_path):
    folder = RunFolder(tmp_path / "run")
    process = torchrun(study_file, 2, "--max-restarts", "1")
    when_there_is(folder.checkpoint("flow"), process)[1].kill()
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "exitcode: -9" in err
    # the survivor may say that its peer is gone before it is started again; one says the end
    *gone, told = map(json.loads, out.splitlines())
    assert all("another training rank is gone" in one["error"] for one in gone)
    assert told["digest"] == two_ranks.done("train")
    same_encoders(folder, two_ranks)


def test_a_training_that_was_killed_is_continued_by_fewer_or_more(study_file, tmp_path):
    study, folder = load_study(study_file), RunFolder(tmp_path / "run")
    process = torchrun(study_file, 2)
    ranks = when_there_is(folder.checkpoint("flow"), process)
    for one in (psutil.Process(process.pid), *ranks):
        one.kill()
    process.communicate()
    step = checkpoint.load_story(folder.checkpoint("flow"))["step"]
    assert 0 < step < study.encoder.steps
    shutil.copytree(folder.path, tmp_path / "more" / "run")
    more = shutil.copy(study_file, tmp_path / "more")

    train(study, quiet=True)
    process = torchrun(more, 3)
    assert process.wait(200) == 0, process.communicate()[1]
    process.communicate()

    whole = train(study.model_copy(update={"run": str(tmp_path / "whole")}), quiet=True)
    for continued in (folder, RunFolder(tmp_path / "more" / "run")):
        assert continued.done("train") == whole.done("train")
        for fold in range(2):
            story = checkpoint.load_story(continued.encoder("flow", fold))
            expected = checkpoint.load_story(whole.encoder("flow", fold))
            assert story["wraps"] == expected["wraps"]
            assert [row[0] for row in story["history"]] == [40, 80, 120]
            # the batches are the same, sums over people are rounded in another order: in float32
            # the difference grows from step to step
            for row, wanted in zip(story["history"], expected["history"], strict=True):
                assert row == pytest.approx(wanted, rel=1e-2)


def test_torchrun_that_is_asked_to_end_leaves_a_checkpoint_of_that_moment(study_file, two_ranks):
    folder = RunFolder(study_file.with_name("run"))
    process = torchrun(study_file, 2)
    when_there_is(folder.checkpoint("flow"), process)
    before = folder.checkpoint("flow").stat().st_mtime_ns
    process.terminate()
    _, err = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "To go on, run: mrscale train" in err
    # that of the regular 40th step, or a later one, has been written anew
    assert folder.checkpoint("flow").stat().st_mtime_ns > before
    again = torchrun(study_file, 2)
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    same_encoders(folder, two_ranks)
