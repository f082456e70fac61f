"""A disk that becomes full in any stage of a run: one sentence, and the same results later."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from mrscale.errors import RunError
from mrscale.workflow.encoding import encode
from mrscale.workflow.estimating import estimate
from mrscale.workflow.runfolder import RunFolder
from mrscale.workflow.training import train

trainings = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("trainings.py"))))
machine = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "machine.py")))
STAGES = {"train": train, "encode": encode, "estimate": estimate}


def test_a_full_disk_in_every_stage(disk, small_store, tmp_path):
    folder, remount = disk
    settings = {"methods": ["linear", "flow"], "steps": 80, "latent_dim": 1, "restarts": 1}
    _, study = trainings.study_in(tmp_path, small_store, **settings)
    run = RunFolder(folder / "run")
    cramped = study.model_copy(update={"run": str(run.path)})
    for stage, work in STAGES.items():
        before = machine.pages(tmp_path / "run")
        whole = work(study, quiet=True)
        written = machine.pages(tmp_path / "run") - before
        said = rf"^{run.path} cannot be written, the disk .* is full; make room and run the same"
        for share in (0.2, 0.7):
            remount(f"size={machine.PAGE * (1 + before + int(share * written))}")
            with pytest.raises(RunError, match=said):
                work(cramped, quiet=True)
            assert run.done(stage) is None
        remount("size=64m")
        found = work(cramped, quiet=True)
    trainings.same_training(study, run, RunFolder(tmp_path / "run"))
    assert found.pairs == whole.pairs
