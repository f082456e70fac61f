"""Ctrl-C during a study, at a terminal: every process gets it, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mrscale.simulate import simulate
from pipelines.job import engine_errors
from pipelines.spark import import_hail, start_hail

pytestmark = [pytest.mark.spark, pytest.mark.timeout(900)]

PATIENCE_SECONDS = 200
ENCODER = "\n[encoder]\nranks = 2\nsteps = 100\nrestarts = 1\nfactors = 4\nlatent_dim = 1\n"


def interrupt_when(condition, words):
    """Start a command, send Ctrl-C once a file is there; exit code, what it printed on each."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mrscale", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # as at a terminal: what runs in the background is started with SIGINT ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out, err


def test_ctrl_c_in_extraction_and_in_training(tmp_path):
    pytest.importorskip("pysam")
    folder = tmp_path / "a biobank"
    simulate(folder, num_people=2000, num_variants=30, num_environments=3)
    study, run = folder / "study.toml", folder / "run"
    with study.open("a") as file:
        file.write(ENCODER)
    words = ["run", str(study), "--json"]
    stopped = f"Stopped; what is finished stays. To go on, run: mrscale run '{study}' --json\n"
    places = ("store.zarr/parts/staged/*.npz", "encoders/*.checkpoint.safetensors")
    for place in places:
        found = interrupt_when(lambda here=place: list(run.glob(here)), words)
        assert found == (130, "", stopped)
    assert (run / "store.zarr" / "manifest.json").exists()
    done = subprocess.run([sys.executable, "-m", "mrscale", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (run / "report.html").exists()


@pytest.fixture
def heeded():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
def test_ctrl_c_ends_the_jobs_that_it_leaves(tmp_path):
    pytest.importorskip("hail")
    log = start_hail(log_dir=tmp_path)
    context = import_hail().spark_context()
    threading.Timer(5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), engine_errors(log):
        context.parallelize([1], 1).foreach(lambda _: time.sleep(PATIENCE_SECONDS))
    deadline = time.monotonic() + 30
    while running := context.statusTracker().getActiveJobsIds():
        assert time.monotonic() < deadline, running
        time.sleep(0.1)
    assert context.parallelize([1, 2], 2).sum() == 3, "what is started afterwards works"
