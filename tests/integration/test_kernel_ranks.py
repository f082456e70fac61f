"""Several training processes compute the loss of the kernel encoder that one would, though it is
no sum over people."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mrscale.train import checkpoint

JOBS = Path(__file__).with_name("kernel_rank_jobs.py")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([sys.executable, JOBS, folder], check=True, timeout=300)
    return {world: checkpoint.load(folder / f"{world}.safetensors")[0] for world in (1, 2, 3, 4)}


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_agree_with_one_process_on_every_term(recorded, world):
    alone, together = recorded[1], recorded[world]
    assert alone.keys() == together.keys()
    parts = {name.split("-")[1] for name in alone if name.startswith("slope-")}
    assert parts == {
        "loss", "reconstruction", "environment", "invariance", "independence", "entropy"
    }  # fmt: skip
    for name, value in alone.items():
        difference = (together[name] - value).norm()
        assert difference <= 1e-6 * value.norm().clamp_min(1e-12), name
