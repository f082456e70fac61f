"""Training by torchrun, killed or asked to end, is restarted or continued, by fewer or more."""

from __future__ import annotations

import json
import runpy
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from mrscale.study_file import load_study
from mrscale.train import checkpoint
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.training import train

torchrunning = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "torchrunning.py")))
study_file, two_ranks = torchrunning.study_file, torchrunning.two_ranks


def when_there_is(path, process):
    """The processes that train, once there is a file."""
    deadline = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return psutil.Process(process.pid).children()


def test_torchrun_restarts_a_killed_process_where_the_training_was(study_file, two_ranks, tmp_path):
    folder = RunFolder(tmp_path / "run")
    process = torchrunning.torchrun(study_file, 2, "--max-restarts", "1")
    when_there_is(folder.checkpoint("flow"), process)[1].kill()
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "exitcode: -9" in err
    # the survivor may say that its peer is gone before it is started again; one says the end
    *gone, told = map(json.loads, out.splitlines())
    assert all("another training rank is gone" in one["error"] for one in gone)
    assert told["digest"] == two_ranks.done("train")
    torchrunning.require_same_encoders(folder, two_ranks)


def test_a_training_that_was_killed_is_continued_by_fewer_or_more(study_file, tmp_path):
    study, folder = load_study(study_file), RunFolder(tmp_path / "run")
    process = torchrunning.torchrun(study_file, 2)
    ranks = when_there_is(folder.checkpoint("flow"), process)
    for one in (psutil.Process(process.pid), *ranks):
        one.kill()
    process.communicate()
    step = checkpoint.load_story(folder.checkpoint("flow"))["step"]
    assert 0 < step < study.encoder.steps
    shutil.copytree(folder.path, tmp_path / "more" / "run")
    more = shutil.copy(study_file, tmp_path / "more")

    train(study, quiet=True)
    process = torchrunning.torchrun(more, 3)
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
    process = torchrunning.torchrun(study_file, 2)
    when_there_is(folder.checkpoint("flow"), process)
    before = folder.checkpoint("flow").stat().st_mtime_ns
    process.terminate()
    _, err = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "To go on, run: mrscale train" in err
    # that of the regular 40th step, or a later one, has been written anew
    assert folder.checkpoint("flow").stat().st_mtime_ns > before
    again = torchrunning.torchrun(study_file, 2)
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    torchrunning.require_same_encoders(folder, two_ranks)
