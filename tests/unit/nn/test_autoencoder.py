"""The kernel encoder: shapes, its linear start, and replicas that do not know of each other."""

from __future__ import annotations

import pytest
import torch

from mrscale.nn.autoencoder import KernelEncoder

R, E, B, P, D = 3, 4, 6, 5, 2


def encoder(start: torch.Tensor, latent_dim: int = D) -> KernelEncoder:
    return KernelEncoder(start, latent_dim, E, torch.Generator().manual_seed(0)).double()


@pytest.fixture
def start():
    return torch.randn(R, P, P, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture
def people():
    return torch.randn(R, E, B, P, generator=torch.Generator().manual_seed(2)).double()


def test_it_starts_as_the_linear_encoder_and_decodes_what_it_encodes(start, people):
    model = encoder(start)
    g, h = model.encode(people)
    linear = people @ start[:, None]
    torch.testing.assert_close(torch.cat([g, h], -1), linear, rtol=0, atol=1e-6)
    assert g.shape[-1] == D
    torch.testing.assert_close(model.decode(g, h), people, rtol=0, atol=1e-4)


def test_environments_are_scored_by_cross_entropy(start, people):
    model = encoder(start)
    _, h = model.encode(people)
    logits = model.classifier(h.flatten(1, 2)).view(R, E, B, E)
    for r in range(R):
        for e in range(E):
            wanted = torch.nn.functional.cross_entropy(
                logits[r, e], torch.full((B,), e), reduction="none"
            )
            torch.testing.assert_close(model.environment_loss(h)[r, e], wanted)


def test_without_a_remainder_nothing_is_known_of_the_environment(start, people):
    model = encoder(start, latent_dim=P)
    g, h = model.encode(people)
    assert h.shape[-1] == 0
    loss = model.environment_loss(h)
    assert torch.isfinite(loss).all()
    torch.testing.assert_close(loss, loss[:, :, :1].expand_as(loss))
    assert model.decode(g, h).shape == people.shape


def test_a_replica_moves_nobody_but_its_own_people(start, people):
    model = encoder(start)
    model.encoder.mlp.weights[-1].data.normal_()
    before = model.map(people.flatten(1, 2))[0]
    changed = people.clone()
    changed[1] += 1
    after = model.map(changed.flatten(1, 2))[0]
    torch.testing.assert_close(before[[0, 2]], after[[0, 2]], rtol=0, atol=0)
    assert not torch.allclose(before[1], after[1])


def test_weight_decay_is_for_the_matrices_of_the_perceptrons(start):
    model = encoder(start)
    decayed = {id(p) for p in model.decayed()}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert names == {
        f"{part}weights.{layer}"
        for part in ("encoder.mlp.", "decoder.mlp.", "classifier.")
        for layer in range(3 if "mlp" in part else 2)
    }
