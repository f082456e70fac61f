"""Several training processes compute what one would."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mrscale.study_file import parse_study
from mrscale.train import checkpoint
from mrscale.train.encoder import Encoder
from mrscale.workflow.training import train

JOBS = Path(__file__).with_name("rank_jobs.py")


def run_jobs(*arguments):
    command = [sys.executable, str(JOBS), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The same training by one to four ranks, in double precision."""
    folder = tmp_path_factory.mktemp("ranks")
    finished = run_jobs("agree", folder)
    assert finished.returncode == 0, finished.stderr
    return {world: checkpoint.load(folder / f"{world}.safetensors") for world in (1, 2, 3, 4)}


@pytest.mark.parametrize("world", [2, 3, 4])
def test_every_step_has_the_losses_and_gradients_of_one_rank(trained, world):
    one, several = trained[1][0], trained[world][0]
    assert one["losses"].dtype == torch.float64
    assert one["losses"].shape == (12, 3)
    assert len(one["gradients"]) == 12
    torch.testing.assert_close(several["losses"], one["losses"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(several["gradients"], one["gradients"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_objective_is_that_of_one_rank_however_people_are_shared(trained, world):
    one, several = trained[1][0], trained[world][0]
    sizes = {name.partition("-")[2] for name in one if name.startswith("gradient-")}
    assert sizes == {"1", "2", "16", "17", "18"}
    for size in sizes:
        gradient, loss = one[f"gradient-{size}"], one[f"loss-{size}"]
        assert gradient.norm() > 0.1
        difference = (several[f"gradient-{size}"] - gradient).norm()
        assert difference <= 1e-6 * gradient.norm(), size
        torch.testing.assert_close(several[f"loss-{size}"], loss, rtol=1e-10, atol=1e-10)
    worths = [name for name in one if name.startswith("worth-")]
    assert len(worths) == 3
    for name in worths:
        assert torch.isfinite(one[name]).all()
        torch.testing.assert_close(several[name], one[name], rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_training_ends_at_the_flow_of_one_rank(trained, world):
    (one, told), (several, also) = (
        (dict(state), story) for state, story in (trained[1], trained[world])
    )
    # without a remainder all mixtures are the same one: the gradient of their weights is rounding
    # alone, and Adam makes whole steps of it
    for state in (one, several):
        state["flow.law.log_weight"] = state["flow.law.log_weight"][:-1]
    for name in one:
        torch.testing.assert_close(several[name], one[name], rtol=1e-10, atol=1e-10, msg=name)
    for row, wanted in zip(also["history"], told["history"], strict=True):
        step, losses, worths = row
        assert [step, *losses, *worths] == pytest.approx([wanted[0], *wanted[1], *wanted[2]], 1e-10)
    assert also["held_out"] == pytest.approx(told["held_out"], rel=1e-10)


def test_a_rank_that_breaks_ends_the_others_with_one_sentence():
    finished = run_jobs("fail")
    assert finished.returncode == 0, finished.stderr
    raised, killed = finished.stdout.splitlines()
    assert raised == (
        "a training rank failed and the others were ended: ValueError: broken on purpose"
    )
    assert killed.startswith("a training rank was killed and the others were ended")
    assert killed.endswith("run the same command again, it continues from the last checkpoint")


def test_ranks_that_see_different_files_agree_or_say_so(tmp_path):
    finished = run_jobs("differ", tmp_path)
    assert finished.returncode == 0, finished.stderr
    *known, error = finished.stdout.splitlines()
    assert known == ["latent dimension 2"] * 2
    assert error.startswith("a training rank failed and the others were ended: mrscale.errors.")
    assert "must continue from one checkpoint, and some found another than the leading" in error


def holding(job, **options):
    """The process of a job, once both of its ranks hold."""
    process = subprocess.Popen(
        [sys.executable, str(JOBS), job],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        **options,
    )
    assert [process.stdout.readline() for _ in range(2)] == ["held\n", "held\n"]
    return process


def test_ranks_end_with_the_process_that_launched_them():
    # as a shell starts what runs in the background: Ctrl-C does not end the ranks then
    process = holding("hold", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    process.kill()
    # standard output closes when the last of them is gone
    assert process.communicate(timeout=30) == ("", None)


def test_an_interrupt_that_only_the_launching_process_gets_ends_the_ranks_first():
    process = holding("interrupt", start_new_session=True)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("0 left\n", None)


def test_ranks_of_torchrun_train_one_encoder_after_the_other():
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finished = subprocess.run(
        [sys.executable, *torchrun, str(JOBS), "join-twice"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.stdout == "2 ranks\n2 ranks\n", finished.stderr


def test_two_ranks_train_the_encoder_of_one(small_store, tmp_path):
    settings = {"factors": 3, "latent_dim": 1, "steps": 60, "batch_size": 61, "restarts": 2}
    raw = {"store": str(small_store), "run": str(tmp_path / "run"), "folds": 2}
    folder = train(parse_study({**raw, "encoder": settings}), quiet=True)
    digest = folder.done("train")
    one = checkpoint.load_story(folder.encoder("flow", 0))
    folder.encoder("flow", 0).unlink()
    folder.reopen("train")

    train(parse_study({**raw, "encoder": settings | {"ranks": 2}}), quiet=True)

    two = checkpoint.load_story(folder.encoder("flow", 0))
    assert two != one, "two ranks round differently: this would be the old encoder"
    assert folder.done("train") == digest
    assert not folder.checkpoint("flow").exists()
    assert [row[0] for row in two["history"]] == [row[0] for row in one["history"]] == [40, 60]
    # In float32 the sums over people of two ranks differ in the last bit (in float64, above, they
    # agree to 1e-10), and where a gradient is all rounding Adam makes a whole step of it.
    assert two["history"][0][1:] == pytest.approx(one["history"][0][1:], rel=1e-4)
    assert two["restarts"] == pytest.approx(one["restarts"], rel=1e-3)


def test_two_ranks_know_the_remainder_of_all_who_judge(small_store, tmp_path):
    settings = {"methods": ["kernel"], "first_layer": "trained", "factors": 3, "latent_dim": 1}
    found = []
    for ranks in (1, 2):
        run = tmp_path / str(ranks)
        encoder = {**settings, "steps": 10, "restarts": 1, "batch_size": 61, "ranks": ranks}
        raw = {"store": str(small_store), "run": str(run), "folds": 2, "encoder": encoder}
        found.append(Encoder.load(train(parse_study(raw), quiet=True).encoder("kernel", 0)))
    one, two = found
    # steps round differently; the judges of one rank alone would be off by hundredths
    assert two.remainder_mean == pytest.approx(one.remainder_mean, abs=2e-3)
    assert two.remainder_sd == pytest.approx(one.remainder_sd, rel=2e-3)
    assert two.remainder_sd.tolist() != one.remainder_sd.tolist(), "two ranks round differently"
