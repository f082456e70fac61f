"""SIGTERM, as schedulers send before they kill: a short end with a checkpoint, the same bits later,
and a run that one process has to itself meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from mrscale.train import checkpoint
from mrscale.train.loop import JUDGE_EVERY

pytestmark = [pytest.mark.spark, pytest.mark.timeout(900)]

PATIENCE_SECONDS = 200
END_SECONDS = 10
ENCODER = (
    '\n[encoder]\nmethods = ["linear", "flow"]\nranks = 2\nsteps = 203\nrestarts = 1\n'
    "factors = 4\nlatent_dim = 1\n"
)
STOPPED = "Stopped; what is finished stays. To go on, run: mrscale run {study} --json\n"


@pytest.fixture(scope="module")
def study_file(tmp_path_factory):
    pytest.importorskip("pysam")
    from mrscale.simulate import simulate

    folder = tmp_path_factory.mktemp("biobank")
    simulate(folder, num_people=3000, num_variants=30, num_environments=3)
    with (folder / "study.toml").open("a") as file:
        file.write(ENCODER)
    return folder / "study.toml"


def start(study):
    return subprocess.Popen(
        [sys.executable, "-m", "mrscale", "run", str(study), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def terminate_when(condition, study, *, everything=False):
    """Start the study, ask it to end once a condition holds, and see it end."""
    process = start(study)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    begun = time.monotonic()
    (os.killpg if everything else os.kill)(process.pid, signal.SIGTERM)
    found = process.communicate(timeout=PATIENCE_SECONDS)
    seconds = time.monotonic() - begun
    assert (process.returncode, *found) == (143, "", STOPPED.format(study=study))
    assert seconds < END_SECONDS
    while is_there(process.pid):  # soon nothing that it started is left
        assert time.monotonic() < begun + PATIENCE_SECONDS
        time.sleep(0.1)


def is_there(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def contents(run):
    names = ["latents.zarr", "store.zarr", "encoders", "result.json", "estimates.tsv"]
    files = [p for name in names for p in [run / name, *(run / name).rglob("*")] if p.is_file()]
    own = ("run.json", "metrics.jsonl")  # times
    return {p.relative_to(run): p.read_bytes() for p in files if not p.name.endswith(own)}


def checkpoint_step(run):
    found = (run / "encoders").glob("*.checkpoint.safetensors")
    return next((checkpoint.load_story(file)["step"] for file in found), 0)


def stopped_between_looks(run, study, everything):
    """Whether SIGTERM makes a checkpoint of its own: at a look, where one is made anyway, it comes
    by chance now and then, and the training is asked again later."""
    for _ in range(4):
        last = checkpoint_step(run)
        terminate_when(lambda last=last: checkpoint_step(run) > last, study, everything=everything)
        if checkpoint_step(run) % JUDGE_EVERY:
            return True
    return False


@pytest.mark.parametrize("everything", [False, True], ids=["the process", "all its processes"])
def test_sigterm_in_every_stage_changes_nothing(study_file, tmp_path, everything):
    text = study_file.read_text()
    study = study_file.with_name(f"{'all' if everything else 'one'}.toml")
    study.write_text(text.replace('run = "run"', f'run = "{tmp_path / "run"}"'))
    run = tmp_path / "run"
    terminate_when(
        lambda: [*run.glob("store.zarr/parts/staged/*.npz")], study, everything=everything
    )
    assert not (run / "store.zarr" / "manifest.json").exists()
    assert stopped_between_looks(run, study, everything)
    terminate_when(lambda: (run / "stages" / "encode.json").exists(), study, everything=everything)
    assert not (run / "result.json").exists()
    done = start(study)
    said = done.communicate(timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, said
    whole = start(study_file)
    said = whole.communicate(timeout=PATIENCE_SECONDS)
    assert whole.returncode == 0, said
    assert contents(run) == contents(study_file.with_name("run"))
