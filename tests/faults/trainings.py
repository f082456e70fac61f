"""Trainings in processes of their own, to be killed, and Dask clusters that read for them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from distributed import Client

from mrscale.config import Study
from mrscale.study_file import load_study
from mrscale.train import checkpoint
from mrscale.workflow.runfolder import RunFolder

SECONDS = 120
"""For machines that are busy."""


def study_in(folder: Path, store: Path, **encoder: Any) -> tuple[Path, Study]:
    """A study file in a folder, and its study."""
    file = folder / "study.toml"
    lines = ['name = "killed"', "seed = 5", 'run = "run"', f'store = "{store}"', "folds = 2"]
    settings = {"factors": 3, "batch_size": 60} | encoder
    lines += ["[encoder]", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
    file.write_text("\n".join(lines))
    return file, load_study(file)


class Training:
    """``mrscale train`` in a process of its own, which ends with the block.

    Parameters
    ----------
    study_file : Path
    options : str
        Of the command.
    """

    def __init__(self, study_file: Path, *options: str) -> None:
        self.folder = RunFolder(study_file.with_name("run"))
        self._log = study_file.with_name(f"log-{time.monotonic_ns()}.txt")
        command = [sys.executable, "-m", "mrscale", "train", "--quiet", *options, str(study_file)]
        with self._log.open("wb") as handle:
            self.process = subprocess.Popen(command, stdout=handle, stderr=handle)

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def output(self) -> str:
        """What was printed so far."""
        return self._log.read_text()

    @property
    def errors(self) -> list[str]:
        """The messages printed so far."""
        return [line for line in self.output.splitlines() if line.startswith("Error: ")]

    @property
    def ranks(self) -> list[psutil.Process]:
        """The processes that train."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def wait_for(self, path: Path) -> None:
        """Wait, to the millisecond, until there is a file."""
        deadline = time.monotonic() + SECONDS
        while not path.exists():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, f"no {path.name} was written in time"
            time.sleep(0.001)

    def finish(self) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(SECONDS)


class Cluster:
    """A Dask scheduler and workers that have joined it, in processes of their own, which end with
    the block."""

    def __init__(self, folder: Path, num_workers: int) -> None:
        self._file = folder / f"scheduler-{time.monotonic_ns()}.json"
        self.scheduler = self._run("dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        single = ["--nworkers", "1", "--nthreads", "1", "--no-nanny"]
        self.workers = [self._run("dask_worker", *single) for _ in range(num_workers)]

    def __enter__(self) -> Cluster:
        deadline = time.monotonic() + SECONDS
        while not self._file.exists() or not self._file.read_text():
            assert time.monotonic() < deadline, "no scheduler in time"
            time.sleep(0.05)
        self.address = json.loads(self._file.read_text())["address"]
        with Client(self.address) as client:
            client.wait_for_workers(len(self.workers), timeout=SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def _run(self, what: str, *options: str) -> subprocess.Popen[bytes]:
        module = [sys.executable, "-m", f"distributed.cli.{what}", "--no-dashboard"]
        return subprocess.Popen(
            [*module, *options, "--scheduler-file", str(self._file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def step_of(file: Path) -> int:
    """How far the training of a checkpoint is."""
    return int(checkpoint.load_story(file)["step"])


def same_training(study: Study, one: RunFolder, two: RunFolder) -> None:
    """Check that two runs have the same encoders bit for bit, and their stories."""
    assert one.done("train") == two.done("train")
    if study.encoder.latent_dim == "auto":
        assert one.latent_dim.read_bytes() == two.latent_dim.read_bytes()
    for fold in range(study.folds):
        _same_file(one.prepared(fold), two.prepared(fold))
        for method in study.encoder.methods:
            _same_file(one.encoder(method, fold), two.encoder(method, fold))


def _same_file(one: Path, two: Path) -> None:
    (tensors, story), (expected, told) = checkpoint.load(one), checkpoint.load(two)
    assert story == told
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name]), f"{name} of {one.name}"
