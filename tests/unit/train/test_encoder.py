"""Encoders as artefacts: what they encode, and that saving changes nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mrscale.errors import InputError, RunError
from mrscale.train import checkpoint
from mrscale.train.encoder import SCHEMA, Encoder, Prepared, finish
from mrscale.train.models import bare_model, keep_replica, start_flows, start_kernels


def flow_start(prepared, environment, *, blocks=1, latent_dims=(1,), restarts=1, seed=0):
    """Flows of this many blocks of people, all of whom are the same."""
    directions = prepared.subspace.directions
    z = prepared.scores.astype(np.float64) @ directions
    people = [directions] * blocks, [z] * blocks, [environment] * blocks
    return start_flows(*people, latent_dims, 3, restarts=restarts, seed=seed)


def kernel_start(prepared, restarts=1, seed=0):
    return start_kernels([prepared.subspace.directions], 1, 3, restarts=restarts, seed=seed)


def shaken(model):
    """A model away from its start."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(params=["linear", "kernel", "flow"])
def encoder(request, prepared, environment):
    if request.param == "linear":
        return finish("linear", 1, prepared, None, {"identity": "i"})
    start = kernel_start(prepared) if request.param == "kernel" else None
    model = shaken(start or flow_start(prepared, environment))
    story = {"identity": "i", "history": [[40, -1.0, -1.1]]}
    return finish(request.param, 1, prepared, model, story)


def test_a_saved_encoder_encodes_to_the_same_bits(encoder, dosage, environment, tmp_path):
    dosage[::7, 3] = -1
    encoder.save(tmp_path / "e.safetensors")
    loaded = Encoder.load(tmp_path / "e.safetensors")
    expected, found = (e.encode(dosage, environment) for e in (encoder, loaded))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert (loaded.method, loaded.latent_dim) == (encoder.method, encoder.latent_dim)
    assert loaded.story == encoder.story
    loaded.save(tmp_path / "again.safetensors")
    files = [tmp_path / name for name in ("e.safetensors", "again.safetensors")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("schema", [None, SCHEMA + 1])
def test_an_encoder_of_another_schema_is_refused(encoder, tmp_path, schema):
    path = tmp_path / "e.safetensors"
    encoder.save(path)
    tensors, story = checkpoint.load(path)
    assert story.pop("schema") == SCHEMA
    checkpoint.save(path, tensors, story if schema is None else {**story, "schema": schema})
    found = "none" if schema is None else f"schema {schema}"
    message = (
        rf"e\.safetensors must be an encoder of schema {SCHEMA}; found {found}; train it again"
    )
    with pytest.raises(InputError, match=message):
        Encoder.load(path)


CLAIMS = [
    {"latent_dim": 10**9},
    {"latent_dim": "1"},
    {"latent_dim": 0},
    {"directions": torch.zeros(2, 1)},
    {"mean_dosage": torch.zeros(3, 1)},
    {"remainder_sd": torch.zeros(50)},
    {"projection": torch.zeros(4)},
]


@pytest.mark.parametrize("claim", CLAIMS, ids=[next(iter(claim)) for claim in CLAIMS])
def test_an_encoder_that_claims_what_does_not_fit_is_refused(encoder, tmp_path, claim):
    path = tmp_path / "e.safetensors"
    encoder.save(path)
    tensors, story = checkpoint.load(path)
    ((name, value),) = claim.items()
    (tensors if name in tensors else story)[name] = value
    checkpoint.save(path, tensors, story)
    with pytest.raises(RunError, match=r"e\.safetensors is damaged"):
        Encoder.load(path)


def test_encodes_latents_and_a_standardised_remainder(encoder, dosage, environment):
    latent, remainder = encoder.encode(dosage, environment)
    assert latent.shape == (600, 1)
    assert remainder.shape == (600, 2)
    assert latent.dtype == remainder.dtype == np.float32
    # float32 scores on the one side, float64 on the other
    np.testing.assert_allclose(remainder.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(remainder.std(0), 1, rtol=1e-5)


def test_missing_calls_are_filled_with_the_environments_mean(encoder, dosage, environment):
    complete = dosage.astype(np.float64)
    dosage[5, :4] = -1
    latent, remainder = encoder.encode(dosage, environment)
    complete[5, :4] = encoder.mean_dosage[environment[5], :4]
    expected = encoder.encode(complete, environment)
    np.testing.assert_allclose(latent, expected[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(remainder, expected[1], rtol=1e-6, atol=1e-6)


def test_encoding_does_not_depend_on_the_block(encoder, dosage, environment, monkeypatch):
    whole = encoder.encode(dosage, environment)[0]
    monkeypatch.setattr("mrscale.train.encoder.ENCODE_BATCH", 100)
    np.testing.assert_allclose(encoder.encode(dosage, environment)[0], whole, rtol=1e-5, atol=1e-6)
    alone = encoder.encode(dosage[7:8], environment[7:8])[0]
    np.testing.assert_allclose(alone, whole[7:8], rtol=1e-5, atol=1e-6)


def test_linear_latent_has_mean_zero_and_unit_variance(prepared, dosage, environment):
    encoder = finish("linear", 1, prepared, None, {})
    latent = encoder.encode(dosage, environment)[0][:, 0]
    np.testing.assert_allclose(latent.mean(), 0, atol=1e-6)
    within = np.mean([latent[environment == e].var(ddof=1) for e in range(3)])
    # the ridge of the stationary subspace is one millionth of the average variance
    np.testing.assert_allclose(within, 1, rtol=1e-5)


def test_an_encoder_without_a_remainder_can_be_kept(prepared, dosage, environment, tmp_path):
    flow = shaken(flow_start(prepared, environment, latent_dims=(3,)))
    finish("flow", 3, prepared, flow, {}).save(tmp_path / "e.safetensors")
    latent, remainder = Encoder.load(tmp_path / "e.safetensors").encode(dosage, environment)
    assert (latent.shape, remainder.shape) == ((600, 3), (600, 0))
    assert np.isfinite(latent).all()


def test_flow_starts_at_the_linear_encoder(prepared, dosage, environment):
    linear = finish("linear", 1, prepared, None, {}).encode(dosage, environment)[0]
    flow = flow_start(prepared, environment)
    start = finish("flow", 1, prepared, flow, {}).encode(dosage, environment)[0]
    np.testing.assert_allclose(start, linear, rtol=0, atol=0.1)


def test_start_is_decided_by_its_seed(prepared, environment):
    one, same, other = (flow_start(prepared, environment, seed=s) for s in (1, 1, 2))
    states = [flow.state_dict() for flow in (one, same, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_remainders_law_starts_at_the_moments_of_each_environment(prepared, environment):
    flow = flow_start(prepared, environment)
    z = prepared.scores.astype(np.float64) @ prepared.subspace.directions
    law = flow.law
    root = (law.below.tril(-1) + torch.diag_embed(law.log_diagonal.exp()))[0, :, 0].detach()
    np.testing.assert_array_equal(root[:, 0, 0], 1)
    np.testing.assert_array_equal(root[:, 1:, 0], 0)
    for code in range(3):
        h = z[environment == code, 1:]
        covariance = np.cov(h.T) + 1e-3 * np.eye(2)
        precision = (root[code].T @ root[code]).numpy()[1:, 1:]
        np.testing.assert_allclose(precision, np.linalg.inv(covariance), rtol=1e-4, atol=1e-4)
        # the components' means are scattered around the environment's
        assert np.abs(law.mean[0, code, :, 1:].detach().numpy().mean(0) - h.mean(0)).max() < 1.5


def test_replicas_are_blocks_then_latent_dimensions_then_restarts(prepared, environment):
    flow = flow_start(prepared, environment, blocks=2, latent_dims=(0, 2), restarts=3)
    assert flow.num_replicas == 12
    free = flow.law.free[:, 0, 0].sum(-1)
    assert free.tolist() == [3, 3, 3, 1, 1, 1] * 2
    linear = torch.tensor(prepared.subspace.directions.T).float()
    exact = [torch.equal(weight, linear) for weight in flow.weight]
    assert exact == [True, False, False] * 4
    assert (flow.weight - linear).abs().max() < 1


def test_each_block_starts_from_its_own_people(prepared, environment):
    directions = prepared.subspace.directions
    z = prepared.scores.astype(np.float64) @ directions
    both = start_flows([directions, 2 * directions], [z, 3 * z], [environment] * 2, [1], 3)
    assert torch.equal(both.weight[1], 2 * both.weight[0])
    spread = (-both.law.log_diagonal[..., 1:]).exp().detach()
    assert (spread[1] / spread[0] > 2.9).all()


def test_people_who_do_not_vary_can_be_started_from():
    z = np.concatenate([np.zeros((1, 3)), np.ones((40, 3)) * [[1, 2, 3]]])
    codes = np.repeat([0, 1], [1, 40])
    for latent_dim in range(4):
        flow = start_flows([np.eye(3)], [z], [codes], [latent_dim], 2)
        assert all(torch.isfinite(parameter).all() for parameter in flow.parameters())
        log_likelihood = flow(torch.zeros(1, 2, 1, 3))
        log_likelihood.sum().backward()
        assert torch.isfinite(log_likelihood).all()
        assert all(torch.isfinite(parameter.grad).all() for parameter in flow.parameters())


@pytest.mark.parametrize("method", ["kernel", "flow"])
def test_one_replica_is_kept(prepared, environment, method):
    if method == "flow":
        model = flow_start(prepared, environment, latent_dims=(2, 1), restarts=2)
    else:
        model = kernel_start(prepared, restarts=4)
    shaken(model)
    kept = keep_replica(model, bare_model(method, 3, 1, 3), 2)
    assert kept.num_replicas == 1
    x = torch.from_numpy(prepared.scores[:50])
    expected = model.map(x.expand(4, -1, -1))[0][2]
    torch.testing.assert_close(kept.map(x[None])[0][0], expected, rtol=1e-5, atol=1e-5)
    if method == "flow":
        people = x[:48].view(1, 3, 16, 3)
        several = model(people.expand(4, -1, -1, -1))[2]
        torch.testing.assert_close(kept(people)[0], several, rtol=1e-4, atol=1e-4)
    before = kept.map(x[None])[0]
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(kept.map(x[None])[0], before), "a kept replica must be a copy"


def test_prepared_is_loaded_as_saved(prepared, tmp_path):
    prepared.save(tmp_path / "p.safetensors", {"identity": "i"})
    loaded = Prepared.load(tmp_path / "p.safetensors")
    for part in ("front", "subspace"):
        one, two = (dataclasses.asdict(getattr(p, part)) for p in (prepared, loaded))
        for name, value in one.items():
            np.testing.assert_array_equal(two[name], value, name)
    for name in ("mean_dosage", "rows", "scores", "invariant"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(prepared, name), name)
    assert loaded.scores.dtype == np.float32
