"""A study that ``torchrun`` trains, in processes of its own, and the encoders that it must give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mrscale.study_file import load_study
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
def study_file(small_store: Path, tmp_path: Path) -> Path:
    """The study file in a folder of its own."""
    return _study_in(tmp_path, small_store)


@pytest.fixture(scope="module")
def two_ranks(small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The encoders of two ranks that this process starts."""
    study = load_study(_study_in(tmp_path_factory.mktemp("ranks"), small_store))
    ranks = study.encoder.model_copy(update={"ranks": 2})
    return train(study.model_copy(update={"encoder": ranks}), quiet=True)


def torchrun(study_file: Path, num_ranks: int, *options: str) -> subprocess.Popen[str]:
    """``torchrun -m mrscale train``, started."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    return subprocess.Popen(
        [sys.executable, *command, *options, "-m", "mrscale", "train", "--json", str(study_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def require_same_encoders(one: RunFolder, other: RunFolder) -> None:
    """Fail unless the flows of two folders are the same, bit by bit."""
    for fold in range(2):
        found, expected = (checkpoint.load(f.encoder("flow", fold)) for f in (one, other))
        assert found[1] == expected[1]
        assert all(torch.equal(found[0][name], expected[0][name]) for name in expected[0])


def _study_in(folder: Path, store: Path) -> Path:
    file = folder / "study.toml"
    file.write_text(STUDY.format(store=store))
    return file
