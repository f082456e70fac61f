"""The flow as a density, as an extension of the linear encoder, and as independent restarts."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from mrscale.nn.flow import EnvironmentMixtures, Flow, FlowShape


def flow(factors=3, latent_dim=1, environments=2, restarts=2, seed=0, **sizes):
    k = factors - latent_dim
    start = torch.linalg.qr(
        torch.randn(factors, factors, generator=torch.Generator().manual_seed(5))
    ).Q
    return Flow(
        FlowShape(factors, latent_dim, environments, restarts, **sizes),
        start,
        torch.zeros(environments, k),
        torch.eye(k).expand(environments, k, k),
        torch.Generator().manual_seed(seed),
    )


def shaken(model, scale):
    """The same flow in double precision, away from its start."""
    model.double()
    generator = torch.Generator().manual_seed(9)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += scale * noise
    return model


def people(num=40, factors=3, environments=2):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(num, factors, generator=generator, dtype=torch.float64)
    return x, torch.arange(num) % environments


@torch.no_grad()
def test_density_integrates_to_one_in_every_environment_and_restart():
    model = shaken(flow(2, 1, blocks=2, hidden=8), 0.25)
    # wide and fine enough for what shaken weights do to the plane
    axis = torch.linspace(-16, 16, 401, dtype=torch.float64)
    cell = (axis[1] - axis[0]) ** 2
    for code in range(2):
        total = torch.zeros(2, dtype=torch.float64)
        for part in torch.cartesian_prod(axis, axis).split(50_000):
            environment = torch.full((len(part),), code)
            total += model(part, environment).exp().sum(1) * cell
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-3)


def test_log_determinant_is_that_of_the_whole_maps_jacobian():
    model = shaken(flow(), 0.2)
    x, _ = people(4)
    log_det = model.map(x)[1]
    for b in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(
            lambda point: model.map(point[None])[0][:, 0], x[b]
        )
        expected = torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(log_det[:, b], expected, rtol=1e-8, atol=1e-10)


def test_first_restart_starts_at_the_linear_map_and_the_others_near_it():
    model = flow().double()
    x, _ = people()
    linear = x @ model.layers[0].weight[0]
    # ten residual blocks whose second matrix starts at a thousandth
    torch.testing.assert_close(model.map(x)[0][0], linear, rtol=0, atol=0.1)
    assert (model.map(x)[0][1] - linear).abs().max() > 0.1
    for name, parameter in model.named_parameters():
        if name.endswith("w3"):
            parameter.data.zero_()
    torch.testing.assert_close(model.map(x)[0][0], linear, rtol=0, atol=1e-5)


def test_the_same_generator_gives_the_same_start():
    one, same, other = flow(seed=1), flow(seed=1), flow(seed=2)
    x, _ = people()
    assert torch.equal(one.map(x.float())[0], same.map(x.float())[0])
    assert not torch.equal(one.map(x.float())[0], other.map(x.float())[0])


def test_restarts_are_independent():
    x, environment = people()
    model = shaken(flow(), 0.1)
    model(x, environment)[0].sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert all((gradient[1] == 0).all() for gradient in gradients.values())
    assert all((gradient[0] != 0).any() for gradient in gradients.values())

    for parameter in model.parameters():
        parameter.data[1] *= 3
    model.zero_grad()
    model(x, environment)[0].sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad[0], gradients[name][0]), name


def test_remainder_density_is_torchs_gaussian_mixture():
    r, e, c, k = 2, 3, 3, 2
    generator = torch.Generator().manual_seed(4)
    model = EnvironmentMixtures(torch.randn(e, k), torch.eye(k).expand(e, k, k), r, c, generator)
    shaken(model, 0.3)
    z = torch.randn(r, 30, k, generator=generator, dtype=torch.float64)
    environment = torch.arange(30) % e
    root = model.below.tril(-1) + torch.diag_embed(model.log_diagonal.exp())
    expected = MixtureSameFamily(
        Categorical(logits=model.log_weight[:, environment]),
        MultivariateNormal(
            model.mean[:, environment], precision_matrix=(root.mT @ root)[:, environment]
        ),
    ).log_prob(z)
    torch.testing.assert_close(model(z, environment), expected, rtol=1e-10, atol=1e-10)


def test_latent_is_standard_normal_and_the_remainder_moves_with_the_environment():
    x, environment = people()
    model = shaken(flow(), 0.1)
    z, log_det = model.map(x)
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(z[..., 0])
    expected = standard + model.remainder(z[..., 1:], environment) + log_det
    torch.testing.assert_close(model(x, environment), expected, rtol=1e-12, atol=1e-12)
    assert not torch.equal(model(x, environment), model(x, 1 - environment))


@pytest.mark.parametrize("num", [0, 1])
def test_takes_a_rank_with_nobody(num):
    model = flow()
    x, environment = people(num)
    log_likelihood = model(x.float(), environment)
    assert log_likelihood.shape == (2, num)
    log_likelihood.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_weight_decay_is_for_the_residual_matrices_only():
    model = flow(blocks=4)
    assert {id(p) for p in model.decayed()} == {
        id(p) for name, p in model.named_parameters() if name.endswith(("w1", "w3"))
    }
