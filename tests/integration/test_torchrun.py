"""``torchrun -m mrscale train``: the encoders of as many ranks."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import yaml

from mrscale.workflow.runfolder import RunFolder

PYTORCH_JOB = Path(__file__).parents[2] / "deploy/kubernetes/components/pytorch-job/train.yaml"
torchrunning = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "torchrunning.py")))
study_file, two_ranks = torchrunning.study_file, torchrunning.two_ranks


def test_two_processes_of_torchrun_train_the_encoders_of_two_ranks(study_file, two_ranks, tmp_path):
    process = torchrunning.torchrun(study_file, 2)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    (told,) = map(json.loads, out.splitlines())
    assert told["trained_on"] == {"linear": "dosages streamed", "flow": "dosages streamed"}
    assert told["digest"] == two_ranks.done("train")
    torchrunning.require_same_encoders(RunFolder(tmp_path / "run"), two_ranks)


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
    torchrunning.require_same_encoders(folder, two_ranks)
