"""The optimiser loop: it learns, keeps the best, resumes to the same bits, survives bad batches."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch

from mrscale.errors import EngineError
from mrscale.nn.autoencoder import KernelEncoder
from mrscale.train import checkpoint, resident
from mrscale.train.loop import JUDGE_EVERY, HeldOut, fit
from mrscale.train.metrics import Metrics
from mrscale.train.models import bare_model, keep_replica, start_flows
from mrscale.train.objectives import KernelLoss, LogLikelihood
from mrscale.train.ranks import Ranks

STEPS = 2 * JUDGE_EVERY + 10


class StoppedError(Exception):
    """Raised in the middle of training."""


def draw(seed, num):
    """A bent cloud (R, E, b, P) that moves over three environments: a linear map cannot straighten
    it. Both replicas see the same people."""
    generator = torch.Generator().manual_seed(seed)
    moves = torch.arange(3)[:, None]
    a, b = torch.randn(2, 3, num, generator=generator)
    b = b * (0.5 + 0.5 * moves) + moves - 1
    return (torch.stack([a + 0.5 * b.square(), b], -1) / 2).repeat(2, 1, 1, 1)


def judges(scores):
    return HeldOut(scores, torch.ones(scores.shape[:3]))


def batches_from(start):
    return (draw(1000 + step, 20) for step in range(start, STEPS))


def stopping_at(stop):
    return lambda start: itertools.chain(
        itertools.islice(batches_from(start), stop - start), raised(StoppedError())
    )


def raised(error):
    raise error
    yield


def new_flow(seed=0):
    people = [np.random.default_rng(1).normal(size=(150, 2))], [np.repeat(range(3), 50)]
    return start_flows([np.eye(2)], *people, [1], 3, restarts=2, seed=seed)


HELD_OUT = judges(draw(1, 80))


def train(flow, batches=batches_from, held_out=HELD_OUT, steps=STEPS, **options):
    return fit(flow, LogLikelihood(), batches, held_out, steps=steps, **options)


@pytest.fixture(scope="module")
def undisturbed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    flow = new_flow()
    done = train(flow)
    torch.set_num_threads(threads)
    return flow.state_dict(), done


def same(one, two, replica=slice(None)):
    return all(torch.equal(one[name][replica], two[name][replica]) for name in one)


@torch.no_grad()
def judged(flow, held_out=HELD_OUT):
    return LogLikelihood().judge(flow, held_out, Ranks()).worth.tolist()


def test_held_out_likelihood_improves(undisturbed):
    state, done = undisturbed
    flow = new_flow()
    before = judged(flow)
    flow.load_state_dict(state)
    after = judged(flow)
    assert min(a - b for a, b in zip(after, before, strict=True)) > 0.2
    assert [row[0] for row in done.history] == [40, 80, 90]
    assert done.best_held_out == pytest.approx(after, rel=1e-6)
    assert done.history[-1][2] == pytest.approx(after, abs=0.05)
    assert done.step == STEPS


def test_training_is_decided_by_its_start(undisturbed):
    flow = new_flow()
    done = train(flow)
    assert same(flow.state_dict(), undisturbed[0])
    assert done == undisturbed[1]


def test_each_replica_is_left_at_its_best_state():
    # judged on people from elsewhere, training makes it worse from some step on
    elsewhere = judges(draw(2, 80).flip(1) * 3)
    flow = new_flow()
    done = train(flow, held_out=elsewhere)
    assert judged(flow, elsewhere) == done.best_held_out
    assert min(done.best_step) < STEPS


@pytest.mark.parametrize("stop", [JUDGE_EVERY + 7, 2 * JUDGE_EVERY])
def test_a_resumed_run_ends_at_the_same_bits(undisturbed, tmp_path, stop):
    path = tmp_path / "flow.checkpoint.safetensors"
    with pytest.raises(StoppedError):
        train(new_flow(), stopping_at(stop), resume=path, identity="mine")
    steps_done = checkpoint.load_story(path)["step"]
    assert steps_done == stop // JUDGE_EVERY * JUDGE_EVERY

    asked = []

    def watched(start):
        asked.append(start)
        return batches_from(start)

    flow = new_flow(seed=5)  # whatever it starts from, the checkpoint decides
    done = train(flow, watched, resume=path, identity="mine")
    assert asked == [steps_done]
    assert same(flow.state_dict(), undisturbed[0])
    assert done == undisturbed[1]


def test_a_finished_run_is_not_trained_again(undisturbed, tmp_path):
    path = tmp_path / "flow.checkpoint.safetensors"
    train(new_flow(), resume=path, identity="mine")
    written = path.stat().st_mtime_ns
    flow = new_flow(seed=5)
    done = train(flow, lambda start: batches_from(start), resume=path, identity="mine")
    assert same(flow.state_dict(), undisturbed[0])
    assert done == undisturbed[1]
    assert path.stat().st_mtime_ns == written


def test_a_checkpoint_of_another_identity_is_ignored(undisturbed, tmp_path):
    path = tmp_path / "flow.checkpoint.safetensors"
    with pytest.raises(StoppedError):
        train(new_flow(seed=5), stopping_at(50), resume=path, identity="another")
    flow = new_flow()
    done = train(flow, resume=path, identity="mine")
    assert same(flow.state_dict(), undisturbed[0])
    assert done == undisturbed[1]
    assert checkpoint.load_story(path)["identity"] == "mine"


def test_a_replica_that_overflows_does_not_poison_another(undisturbed):
    flow = new_flow()
    flow.bias.data[1] = 1e30
    done = train(flow)
    assert same(flow.state_dict(), undisturbed[0], replica=0)
    assert done.best_held_out[0] == undisturbed[1].best_held_out[0]
    assert done.best_held_out[1] == -math.inf
    assert all(torch.isfinite(value).all() for value in flow.state_dict().values())


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_batch_that_is_not_finite_is_sat_out(bad):
    def spoilt(start):
        for step, scores in enumerate(batches_from(start), start):
            if step in (3, 50):
                scores[0, 0, 0, 0] = bad
            yield scores

    flow = new_flow()
    done = train(flow, spoilt)
    assert all(torch.isfinite(value).all() for value in flow.state_dict().values())
    before = judged(new_flow())
    assert min(a - b for a, b in zip(done.best_held_out, before, strict=True)) > 0.2


def test_divergence_of_every_replica_is_said():
    with pytest.raises(EngineError, match=r"training diverged.*use fewer \[encoder\] factors"):
        train(new_flow(), held_out=judges(draw(2, 10) * math.nan))


def test_progress_adds_up_to_one_also_after_a_resume(tmp_path):
    path, told = tmp_path / "flow.checkpoint.safetensors", []
    with pytest.raises(StoppedError):
        train(new_flow(), stopping_at(50), resume=path)
    train(new_flow(), resume=path, progress=lambda amount=1, note="": told.append(amount))
    assert sum(told) == pytest.approx(1)


def test_a_replica_trains_as_it_would_alone():
    def trained(flow, replicas):
        mine = judges(HELD_OUT.scores[replicas].double())
        return train(flow, lambda start: (x[replicas].double() for x in batches_from(start)), mine)

    both = new_flow().double()
    done = trained(both, [0, 1])
    for replica in range(2):
        alone = keep_replica(new_flow(), bare_model("flow", 2, 1, 3), replica).double()
        found = trained(alone, [replica])
        assert found.best_held_out[0] == pytest.approx(done.best_held_out[replica], rel=1e-10)
        for name, value in both.state_dict().items():
            kept = alone.state_dict()[name][0]
            torch.testing.assert_close(kept, value[replica], rtol=1e-8, atol=1e-8, msg=name)


def test_what_fills_up_an_environment_is_no_judge():
    flow, scores = new_flow(), draw(7, 9)
    weight = torch.ones(scores.shape[:3])
    weight[:, 1, 4:] = 0
    filled = scores.clone()
    filled[:, 1, 4:] = 1e3
    people = [scores[:, [e], :number] for e, number in enumerate([9, 4, 9])]
    with torch.no_grad():
        expected = sum(
            flow(part.expand(-1, 3, -1, -1))[:, e].sum(1) for e, part in enumerate(people)
        )
    assert judged(flow, HeldOut(filled, weight)) == pytest.approx(
        (expected / 22).tolist(), rel=1e-5
    )


@pytest.mark.parametrize("invariance", ["target", "pairwise"])
def test_a_kernel_encoder_is_not_judged_where_a_replica_has_nobody(invariance):
    encoder = KernelEncoder(torch.eye(2).repeat(2, 1, 1), 1, 3, torch.Generator().manual_seed(0))
    objective, weight = KernelLoss(0, STEPS, invariance), torch.ones(2, 3, 9)
    weight[1, 1] = 0
    found = []
    for filler in (0, 1e3):
        scores = draw(7, 9)
        scores[:, 1] = filler
        with torch.no_grad():
            judged = objective.judge(encoder, HeldOut(scores, weight), Ranks())
        found.append(torch.stack([judged.worth, *judged.parts.values()]))
    assert torch.isfinite(found[0]).all()
    torch.testing.assert_close(*found)


def test_judging_does_not_depend_on_how_many_are_judged_at_once(monkeypatch):
    flow = new_flow()
    expected = judged(flow)
    monkeypatch.setattr("mrscale.train.objectives.JUDGED_AT_ONCE", 7)
    assert judged(flow) == pytest.approx(expected, rel=1e-6)


def test_loss_is_minus_the_mean_log_likelihood():
    flow, scores = new_flow(), draw(3, 20)
    value, part = LogLikelihood().loss(flow, scores, 0, Ranks())
    torch.testing.assert_close(value, -flow(scores).mean((1, 2)))
    torch.testing.assert_close(part.detach(), value)
    assert part.requires_grad
    assert not value.requires_grad


def few_people(kind):
    """Scores (n, P) and environments of people whom a flow could choke on."""
    rng = np.random.default_rng(3)
    environment = np.repeat([0, 1, 2], [100, 60, 40])
    scores = rng.normal(size=(200, 3))
    if kind == "duplicated people":
        scores[:] = scores[rng.integers(0, 5, 200)]
    elif kind == "the same people":
        scores[:] = scores[0]
    elif kind == "a constant feature":
        scores[:, 1] = 0
    elif kind == "an environment of one person":
        environment[161:] = 0
    return scores.astype(np.float32), environment


@pytest.mark.parametrize(
    "kind",
    [
        "duplicated people",
        "the same people",
        "a constant feature",
        "an environment of one person",
        "nothing odd",
    ],
)
def test_odd_people_and_no_remainder_train_without_a_number_lost(kind):
    scores, environment = few_people(kind)
    aside = np.arange(200) % 7 == 1
    assert set(environment[~aside]) == {0, 1, 2}
    block = resident.resident_block(scores, environment, aside, 3, batch_size=30, seed=0)
    latent_dims = range(4)
    flow = start_flows([np.eye(3)], [scores.astype(float)], [environment], latent_dims, 3)
    done = train(
        flow,
        lambda start: resident.batches([block], 4, Ranks(), start=start, stop=80),
        resident.held_out([block], 4, Ranks()),
        steps=80,
    )
    assert all(torch.isfinite(value).all() for value in flow.state_dict().values())
    assert np.isfinite(done.best_held_out).all()
    assert np.isfinite([loss for _, loss, _ in done.history]).all()


def test_every_look_is_measured_once_though_training_was_stopped(tmp_path):
    path = tmp_path / "flow.metrics.jsonl"
    told = {"resume": tmp_path / "flow.safetensors", "metrics": Metrics(path)}
    with pytest.raises(StoppedError):
        train(new_flow(), stopping_at(JUDGE_EVERY + 7), **told)
    done = train(new_flow(), chunks_read=lambda: 5, **told)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["step"] for r in records] == [JUDGE_EVERY, 2 * JUDGE_EVERY, STEPS]
    assert [[r["step"], r["loss"], r["held_out"]] for r in records] == done.history
    assert [r["chunks_read"] for r in records] == [0, 5, 5]
    assert all(0 <= r["input_wait_share"] <= 1 and r["seconds"] > 0 for r in records)
    assert all(r["parts"]["log_likelihood"] == r["held_out"] for r in records)
