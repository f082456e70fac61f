"""Encoders as artefacts: what they encode, and that saving changes nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mrscale.train.encoder import Encoder, Prepared, finish, keep_restart, start_flow


def flow_start(prepared, environment, *, restarts=1, seed=0, latent_dim=1):
    z = prepared.scores.astype(np.float64) @ prepared.subspace.directions
    parts = [z[environment == e] for e in range(3)]
    directions = prepared.subspace.directions
    return start_flow(directions, parts, latent_dim, 3, restarts=restarts, seed=seed)


def shaken_encoder(prepared, environment):
    """A flow encoder away from its start."""
    flow = flow_start(prepared, environment)
    generator = torch.Generator().manual_seed(3)
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return finish("flow", 1, prepared, flow, {"identity": "i", "history": [[40, -1.0, -1.1]]})


@pytest.fixture(params=["linear", "flow"])
def encoder(request, prepared, environment):
    if request.param == "linear":
        return finish("linear", 1, prepared, None, {"identity": "i"})
    return shaken_encoder(prepared, environment)


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
    law = flow.remainder
    root = (law.below.tril(-1) + torch.diag_embed(law.log_diagonal.exp()))[0, :, 0].detach()
    for code in range(3):
        h = z[environment == code, 1:]
        covariance = np.cov(h.T) + 1e-3 * np.eye(2)
        precision = (root[code].T @ root[code]).numpy()
        np.testing.assert_allclose(precision, np.linalg.inv(covariance), rtol=1e-4, atol=1e-4)
        # the components' means are scattered around the environment's
        assert np.abs(law.mean[0, code].detach().numpy().mean(0) - h.mean(0)).max() < 1.5


def test_an_environment_of_one_person_can_be_started_from(prepared):
    directions = prepared.subspace.directions
    flow = start_flow(directions, [np.zeros((1, 3)), np.ones((40, 3)) * [[1, 2, 3]]], 1, 2)
    assert all(torch.isfinite(parameter).all() for parameter in flow.parameters())


def test_one_restart_is_kept(prepared, environment):
    flow = flow_start(prepared, environment, restarts=3)
    kept = keep_restart(flow, flow_start(prepared, environment), 2)
    x = torch.from_numpy(prepared.scores[:50])
    torch.testing.assert_close(kept.map(x)[0][0], flow.map(x)[0][2], rtol=1e-6, atol=1e-6)


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
