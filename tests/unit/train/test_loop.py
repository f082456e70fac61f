"""The optimiser loop: it learns, keeps the best, resumes to the same bits, survives bad batches."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mrscale.errors import EngineError
from mrscale.train import checkpoint
from mrscale.train.encoder import start_flow
from mrscale.train.loop import JUDGE_EVERY, fit_flow, global_log_likelihood
from mrscale.train.ranks import Ranks

STEPS = 2 * JUDGE_EVERY + 10


class StoppedError(Exception):
    """Raised in the middle of training."""


def draw(seed, num):
    """A bent cloud that moves over three environments: a linear map cannot straighten it."""
    generator = torch.Generator().manual_seed(seed)
    environment = torch.arange(num) % 3
    a, b = torch.randn(2, num, generator=generator)
    b = b * (0.5 + 0.5 * environment) + environment - 1
    return torch.stack([a + 0.5 * b.square(), b], 1) / 2, environment


def batches_from(start):
    return (draw(1000 + step, 60) for step in range(start, STEPS))


def stopping_at(stop):
    return lambda start: itertools.chain(
        itertools.islice(batches_from(start), stop - start), raised(StoppedError())
    )


def raised(error):
    raise error
    yield


def new_flow(seed=0):
    return start_flow(
        np.eye(2), [np.random.default_rng(1).normal(size=(50, 2))] * 3, 1, 3, restarts=2, seed=seed
    )


HELD_OUT = draw(1, 240)


def fit(flow, batches=batches_from, held_out=HELD_OUT, **options):
    return fit_flow(flow, batches, held_out, steps=STEPS, **options)


@pytest.fixture(scope="module")
def undisturbed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    flow = new_flow()
    done = fit(flow)
    torch.set_num_threads(threads)
    return flow.state_dict(), done


def same(one, two, restart=slice(None)):
    return all(torch.equal(one[name][restart], two[name][restart]) for name in one)


@torch.no_grad()
def judged(flow, held_out=HELD_OUT):
    return global_log_likelihood(flow, held_out, Ranks())[0].tolist()


def test_held_out_likelihood_improves(undisturbed):
    state, done = undisturbed
    flow = new_flow()
    before = judged(flow)
    flow.load_state_dict(state)
    after = judged(flow)
    assert min(a - b for a, b in zip(after, before, strict=True)) > 0.2
    assert [row[0] for row in done.history] == [40, 80, 90]
    assert done.history[-1][2] == pytest.approx(max(after), abs=0.05)
    assert done.step == STEPS


def test_training_is_decided_by_its_start(undisturbed):
    flow = new_flow()
    done = fit(flow)
    assert same(flow.state_dict(), undisturbed[0])
    assert done == undisturbed[1]


def test_each_restart_is_left_at_its_best_state():
    # judged on people from elsewhere, training makes it worse from some step on
    scores, environment = draw(2, 240)
    elsewhere = scores.flip(0) * 3, environment
    flow = new_flow()
    done = fit(flow, held_out=elsewhere)
    assert judged(flow, elsewhere) == done.best_held_out
    assert min(done.best_step) < STEPS


@pytest.mark.parametrize("stop", [JUDGE_EVERY + 7, 2 * JUDGE_EVERY])
def test_a_resumed_run_ends_at_the_same_bits(undisturbed, tmp_path, stop):
    path = tmp_path / "flow.checkpoint.safetensors"
    with pytest.raises(StoppedError):
        fit(new_flow(), stopping_at(stop), resume=path, identity="mine")
    steps_done = checkpoint.load_story(path)["step"]
    assert steps_done == stop // JUDGE_EVERY * JUDGE_EVERY

    asked = []

    def watched(start):
        asked.append(start)
        return batches_from(start)

    flow = new_flow(seed=5)  # whatever it starts from, the checkpoint decides
    done = fit(flow, watched, resume=path, identity="mine")
    assert asked == [steps_done]
    assert same(flow.state_dict(), undisturbed[0])
    assert done == undisturbed[1]


def test_a_finished_run_is_not_trained_again(undisturbed, tmp_path):
    path = tmp_path / "flow.checkpoint.safetensors"
    fit(new_flow(), resume=path, identity="mine")
    written = path.stat().st_mtime_ns
    flow = new_flow(seed=5)
    done = fit(flow, lambda start: batches_from(start), resume=path, identity="mine")
    assert same(flow.state_dict(), undisturbed[0])
    assert done == undisturbed[1]
    assert path.stat().st_mtime_ns == written


def test_a_checkpoint_of_another_identity_is_ignored(undisturbed, tmp_path):
    path = tmp_path / "flow.checkpoint.safetensors"
    with pytest.raises(StoppedError):
        fit(new_flow(seed=5), stopping_at(50), resume=path, identity="another")
    flow = new_flow()
    done = fit(flow, resume=path, identity="mine")
    assert same(flow.state_dict(), undisturbed[0])
    assert done == undisturbed[1]
    assert checkpoint.load_story(path)["identity"] == "mine"


def test_a_restart_that_overflows_does_not_poison_another(undisturbed):
    flow = new_flow()
    flow.layers[0].bias.data[1] = 1e30
    done = fit(flow)
    assert same(flow.state_dict(), undisturbed[0], restart=0)
    assert done.best_held_out[0] == undisturbed[1].best_held_out[0]
    assert done.best_held_out[1] == -math.inf
    assert all(torch.isfinite(value).all() for value in flow.state_dict().values())


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_batch_that_is_not_finite_is_sat_out(bad):
    def spoilt(start):
        for step, (scores, environment) in enumerate(batches_from(start), start):
            if step in (3, 50):
                scores[0, 0] = bad
            yield scores, environment

    flow = new_flow()
    done = fit(flow, spoilt)
    assert all(torch.isfinite(value).all() for value in flow.state_dict().values())
    assert done.best_held_out[0] > judged(new_flow())[0] + 0.2


def test_divergence_of_every_restart_is_said():
    scores, environment = draw(2, 30)
    with pytest.raises(EngineError, match=r"training diverged.*use fewer \[encoder\] factors"):
        fit(new_flow(), held_out=(scores * math.nan, environment))


def test_progress_adds_up_to_one_also_after_a_resume(tmp_path):
    path, told = tmp_path / "flow.checkpoint.safetensors", []
    with pytest.raises(StoppedError):
        fit(new_flow(), stopping_at(50), resume=path)
    fit(new_flow(), resume=path, progress=lambda amount=1, note="": told.append(amount))
    assert sum(told) == pytest.approx(1)
