"""Dosages as inputs: the same numbers as scores in memory, whoever holds them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrscale.sampling.plan import Plan
from mrscale.stats.design import fill_missing
from mrscale.stats.moments import Moments
from mrscale.stats.subspace import fit_front_end, stationary_subspace
from mrscale.store.reader import open_store
from mrscale.stream.engine import readers
from mrscale.stream.loader import Loader
from mrscale.stream.products import mean_dosage
from mrscale.train.dosages import Decoder, ResidentDosages
from mrscale.train.encoder import Prepared
from mrscale.train.inputs import Session, TrainingBlock
from mrscale.train.ranks import Ranks

CPU = torch.device("cpu")
P = 3


@pytest.fixture(scope="module")
def store(small_store):
    return open_store(small_store)


@pytest.fixture(scope="module")
def filled(store):
    return fill_missing(
        store.expected_dosage(slice(None)), store.array("environment"), mean_dosage(store)
    )


@pytest.fixture(scope="module")
def starts(store, filled):
    """Both folds' starts."""
    found = []
    for fold in range(2):
        rows = np.flatnonzero(store.array("fold") == fold)
        front = fit_front_end(Moments.from_block(filled[rows]), P)
        scores = front.scores(filled[rows])
        subspace = stationary_subspace([Moments.from_block(scores)])
        found.append(Prepared(front, mean_dosage(store), subspace, rows, np.float32(scores), 1))
    return found


@pytest.fixture(scope="module")
def plans(store, starts):
    environment = store.array("environment")
    return [
        Plan(tuple(s.rows[environment[s.rows] == e] for e in range(3)), 64, 30, seed=4)
        for s in starts
    ]


@pytest.fixture(scope="module")
def resident(store):
    return ResidentDosages(store.expected_dosage(slice(None)), store.layout.chunk_rows, CPU)


@pytest.mark.parametrize("rank", [0, 1])
def test_batches_are_the_scores_of_the_people_of_the_plans(
    store, starts, plans, resident, filled, rank
):
    ranks = Ranks(rank, 2)
    found = list(Decoder(starts, 2, project=True, device=CPU).batches(resident, plans, 3, 9, ranks))
    assert len(found) == 6
    for step, batch in zip(range(3, 9), found, strict=True):
        assert batch.dtype == torch.float32
        for s, (start, plan) in enumerate(zip(starts, plans, strict=True)):
            rows = np.stack(plan.batch(step, rank=rank, world=2))
            expected = torch.tensor(start.front.scores(filled[rows])).float()
            for replica in (2 * s, 2 * s + 1):
                torch.testing.assert_close(batch[replica], expected, rtol=1e-5, atol=1e-5)


def test_encoders_that_project_themselves_get_centred_instruments(starts, plans, resident, filled):
    decoder = Decoder(starts, 1, project=False, device=CPU)
    (batch,) = decoder.batches(resident, plans, 5, 6, Ranks())
    for s, (start, plan) in enumerate(zip(starts, plans, strict=True)):
        expected = filled[np.stack(plan.batch(5))] - start.front.origin
        np.testing.assert_allclose(batch[s], expected, rtol=1e-5, atol=1e-5)


def test_dosages_that_are_streamed_make_the_batches_of_those_in_memory(
    store, starts, plans, resident
):
    decoder = Decoder(starts, 1, project=True, device=CPU)
    with readers() as client:
        loader = Loader(client, store)
        streamed = list(decoder.batches(loader, plans, 0, 12, Ranks()))
    held = list(decoder.batches(resident, plans, 0, 12, Ranks()))
    assert all(torch.equal(one, other) for one, other in zip(streamed, held, strict=True))
    assert loader.chunks_read > 0 == resident.chunks_read


def test_imputed_dosages_are_filled_where_they_are_not_a_number(starts, filled):
    imputed = filled[:12].astype(np.float32)
    imputed[2, 5] = imputed[7, 0] = np.nan
    environment = np.repeat(np.arange(3), 2)
    expected = filled[:12].copy()
    expected[2, 5] = starts[0].mean_dosage[1, 5]
    expected[7, 0] = starts[0].mean_dosage[0, 0]
    found = Decoder(starts, 1, project=True, device=CPU)(imputed, (2, 3, 2))
    assert environment[2] == 1
    for s, start in enumerate(starts):
        wanted = start.front.scores(expected[6 * s : 6 * s + 6]).reshape(3, 2, P)
        np.testing.assert_allclose(found[s], wanted, rtol=1e-5, atol=1e-5)


def test_those_who_judge_are_filled_up_with_weights_of_zero(starts, resident, filled):
    rows = [[np.array([4, 9]), np.array([7]), np.array([], dtype=int)] for _ in starts]
    decoder = Decoder(starts, 2, project=True, device=CPU)
    inputs, weight = decoder.judges(rows, resident)
    assert weight.tolist() == [[[1, 1], [1, 0], [0, 0]]] * 4
    assert torch.isfinite(inputs).all()
    expected = starts[1].front.scores(filled[[4, 9]])
    np.testing.assert_allclose(inputs[2, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("project", "held", "expected"),
    [(True, 30 * 2 * (30 + 6 * P) * 4, 10), (False, 30 * 2 * 6 * 30 * 4, 10), (True, 1, 4)],
)
def test_as_many_judge_as_fit_into_memory_and_no_fewer_than_a_batch(
    store, starts, resident, monkeypatch, project, held, expected
):
    monkeypatch.setattr("mrscale.train.inputs.JUDGES_BYTES", held)
    environment = store.array("environment")
    blocks = [
        TrainingBlock(start, environment[start.rows], np.arange(len(start.rows)) % 2 == 0)
        for start in starts
    ]
    session = Session(blocks, 6, steps=1, batch_size=12, seed=0, ranks=Ranks(), device=CPU)
    weight = session.of_dosages(resident, project=project).held_out.weight
    assert weight.sum(2).tolist() == [[expected] * 3] * 12


@pytest.mark.parametrize("project", [True, False])
def test_a_rank_may_have_nobody_of_a_batch(starts, project):
    nobody = np.zeros((0, starts[0].front.projection.shape[0]), dtype=np.int8)
    found = Decoder(starts, 2, project=project, device=CPU)(nobody, (2, 3, 0))
    assert found.shape[:3] == (4, 3, 0)
