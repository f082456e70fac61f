"""Kill -9 in the middle of training, the command itself or one of its ranks: the same command then
gives the undisturbed encoders."""

from __future__ import annotations

import runpy
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from mrscale.errors import RunError
from mrscale.workflow.encoding import encode
from mrscale.workflow.training import train

trainings = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("trainings.py"))))


def kill_when_there_is(path, study_file):
    with trainings.Training(study_file) as training:
        training.wait_for(path(training.folder))
        training.process.kill()
        assert training.process.wait() == -signal.SIGKILL
    return training.folder


def test_a_killed_training_continues_to_the_same_encoders(small_store, tmp_path):
    methods = ["linear", "kernel", "flow"]
    file, study = trainings.study_in(tmp_path, small_store, methods=methods, steps=120)

    folder = kill_when_there_is(lambda folder: folder.checkpoint("path"), file)
    assert trainings.step_of(folder.checkpoint("path")) < study.encoder.steps
    assert not folder.latent_dim.exists()

    kill_when_there_is(lambda folder: folder.checkpoint("kernel"), file)
    assert trainings.step_of(folder.checkpoint("kernel")) < study.encoder.steps
    assert not folder.checkpoint("path").exists()
    assert not folder.encoder("kernel", 0).exists()
    assert folder.done("train") is None
    with pytest.raises(RunError, match="not trained yet; run first: mrscale train"):
        encode(study, quiet=True)

    kill_when_there_is(lambda folder: folder.checkpoint("flow"), file)
    kept = [folder.latent_dim, folder.prepared(0), folder.prepared(1)]
    kept += [folder.encoder(method, fold) for method in ("linear", "kernel") for fold in range(2)]
    written = [file.stat().st_mtime_ns for file in kept]
    assert not folder.encoder("flow", 0).exists()
    assert folder.done("train") is None

    with trainings.Training(file) as training:
        assert training.finish() == 0, training.output
    assert [file.stat().st_mtime_ns for file in kept] == written, "finished work was done again"

    whole = train(study.model_copy(update={"run": str(tmp_path / "whole")}), quiet=True)
    assert not any(folder.checkpoint(what).exists() for what in ("path", "kernel", "flow"))
    trainings.same_training(study, folder, whole)


@pytest.mark.parametrize(
    ("killed", "settings"),
    [
        (0, {"methods": ["flow"]}),
        (1, {"methods": ["kernel"], "first_layer": "trained", "input": "streamed"}),
    ],
    ids=["leading, scores in memory", "other, dosages streamed"],
)
def test_a_killed_rank_ends_the_other_and_both_are_continued(
    small_store, tmp_path, killed, settings
):
    file, study = trainings.study_in(
        tmp_path, small_store, **settings, steps=240, latent_dim=1, restarts=1, ranks=2
    )
    (method,) = study.encoder.methods
    with trainings.Training(file) as training:
        resume = training.folder.checkpoint(method)
        training.wait_for(resume)
        ranks = training.ranks
        assert len(ranks) == 2
        ranks[killed].kill()
        assert training.finish() == 1, training.output
    (error,) = training.errors
    assert error.endswith("run the same command again, it continues from the last checkpoint")
    assert "Traceback" not in training.output
    assert not any(rank.is_running() for rank in ranks)
    assert trainings.step_of(resume) < study.encoder.steps

    with trainings.Training(file) as training:
        assert training.finish() == 0, training.output
    whole = train(study.model_copy(update={"run": str(tmp_path / "whole")}), quiet=True)
    trainings.same_training(study, training.folder, whole)


def test_a_second_training_is_refused_while_one_works_in_the_run(small_store, tmp_path):
    settings = {"methods": ["flow"], "steps": 240, "latent_dim": 1, "restarts": 1}
    file, _ = trainings.study_in(tmp_path, small_store, **settings)
    with trainings.Training(file) as one:
        one.wait_for(one.folder.checkpoint("flow"))
        one.process.send_signal(signal.SIGSTOP)  # so that it is surely not done before the other
        with trainings.Training(file) as two:
            assert two.finish() == 1
        (error,) = two.errors
        assert f"is in use: process {one.process.pid} on " in error
        one.process.send_signal(signal.SIGCONT)
        assert one.finish() == 0, one.output
