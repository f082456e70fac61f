"""The flow as a density, as an extension of the linear encoder, and as independent replicas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from mrscale.nn.flow import EnvironmentMixtures, Flow, FlowShape


def starts(factors, replicas):
    """The linear maps that replicas start from: a rotation, and others near it."""
    generator = torch.Generator().manual_seed(5)
    turn = torch.linalg.qr(torch.randn(factors, factors, generator=generator)).Q
    jitter = 0.2 * torch.randn(replicas, factors, factors, generator=generator)
    jitter[0] = 0
    return turn + jitter


def flow(factors=3, latent_dims=(1, 1), environments=2, seed=0, **sizes):
    r = len(latent_dims)
    return Flow(
        FlowShape(factors, environments, tuple(latent_dims), **sizes),
        starts(factors, r),
        torch.zeros(r, environments, factors),
        torch.eye(factors).expand(r, environments, factors, factors),
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


def people(num=20, replicas=2, factors=3, environments=2):
    """The same people (R, E, b, P) for every replica."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(environments, num, factors, generator=generator, dtype=torch.float64)
    return x.expand(replicas, -1, -1, -1)


@torch.no_grad()
def test_density_integrates_to_one_in_every_environment_whatever_the_latent_dimension():
    model = shaken(flow(2, (0, 1, 2), blocks=2, hidden=8), 0.25)
    # wide and fine enough for what shaken weights do to the plane
    axis = torch.linspace(-20, 20, 501, dtype=torch.float64)
    cell = (axis[1] - axis[0]) ** 2
    total = torch.zeros(3, 2, dtype=torch.float64)
    for part in torch.cartesian_prod(axis, axis).split(50_000):
        total += model(part.expand(3, 2, -1, -1)).exp().sum(2) * cell
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-3)


def test_log_determinant_is_that_of_the_whole_maps_jacobian():
    model = shaken(flow(), 0.2)
    x = people(2)[:, 0]
    log_det = model.map(x)[1]
    for r in range(2):
        for b in range(2):

            def one_person(point, r=r):
                return model.map(point.expand(2, 1, -1))[0][r, 0]

            jacobian = torch.autograd.functional.jacobian(one_person, x[r, b])
            expected = torch.linalg.slogdet(jacobian).logabsdet
            torch.testing.assert_close(log_det[r, b], expected, rtol=1e-10, atol=1e-10)


def test_every_replica_starts_at_its_linear_map():
    model = flow().double()
    x = people()[:, 0]
    linear = x @ starts(3, 2).double()
    # ten residual blocks whose second matrix starts at a thousandth
    torch.testing.assert_close(model.map(x)[0], linear, rtol=0, atol=0.1)
    assert (linear[1] - linear[0]).abs().max() > 0.1
    model.blocks.w3.data.zero_()
    z, log_det = model.map(x)
    torch.testing.assert_close(z, linear, rtol=0, atol=1e-5)
    expected = torch.linalg.slogdet(starts(3, 2).double()).logabsdet
    torch.testing.assert_close(log_det, expected[:, None].expand(2, 20), rtol=0, atol=1e-5)


def test_the_same_generator_gives_the_same_start():
    one, same, other = flow(seed=1), flow(seed=1), flow(seed=2)
    x = people()[:, 0].float()
    assert torch.equal(one.map(x)[0], same.map(x)[0])
    assert not torch.equal(one.map(x)[0], other.map(x)[0])


def test_replicas_are_independent():
    x = people()
    model = shaken(flow(), 0.1)
    model(x)[0].sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert all((gradient[1] == 0).all() for gradient in gradients.values())
    assert all((gradient[0] != 0).any() for gradient in gradients.values())

    for parameter in model.parameters():
        parameter.data[1] *= 3
    model.zero_grad()
    model(x)[0].sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad[0], gradients[name][0]), name


def test_replicas_side_by_side_are_each_replica_alone():
    latent_dims = (0, 1, 2, 3)
    model = shaken(flow(3, latent_dims), 0.1)
    x = people(replicas=4) + torch.arange(4)[:, None, None, None]  # people of their own
    together = model(x)
    together.sum().backward()
    for r, latent_dim in enumerate(latent_dims):
        alone = flow(3, (latent_dim,)).double()
        alone.load_state_dict({name: v[[r]] for name, v in model.state_dict().items()})
        found = alone(x[[r]])
        torch.testing.assert_close(found[0], together[r], rtol=1e-12, atol=1e-12)
        found.sum().backward()
        for (name, one), several in zip(alone.named_parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(
                one.grad[0], several.grad[r], rtol=1e-10, atol=1e-10, msg=name
            )


def test_law_is_standard_normal_for_the_latent_and_torchs_gaussian_mixture_for_the_remainder():
    latent_dims, e, c, p = (0, 1, 2, 3), 3, 3, 3
    r = len(latent_dims)
    generator = torch.Generator().manual_seed(4)
    mean, root = torch.randn(r, e, p), torch.eye(p).expand(r, e, p, p)
    model = shaken(EnvironmentMixtures(latent_dims, mean, root, c, generator), 0.3)
    z = torch.randn(r, p, e, 10, generator=generator, dtype=torch.float64)
    found = model(z)
    assert found.shape == (r, e, 10)
    for i, d in enumerate(latent_dims):
        g, h = z[i, :d], z[i, d:]
        expected = Normal(0.0, 1.0).log_prob(g).sum(0)
        if d < p:
            factor = model.below[i].tril(-1) + torch.diag_embed(model.log_diagonal[i].exp())
            factor = factor[..., d:, d:]
            mixture = MixtureSameFamily(
                Categorical(logits=model.log_weight[i]),
                MultivariateNormal(model.mean[i, ..., d:], precision_matrix=factor.mT @ factor),
            )
            expected = expected + mixture.log_prob(h.permute(2, 1, 0)).T
        torch.testing.assert_close(found[i], expected, rtol=1e-10, atol=1e-10)


def test_only_the_remainder_moves_with_the_environment():
    x = people(factors=3)
    model = shaken(flow(3, (1, 3)), 0.1)
    here, there = model(x), model(x.flip(1)).flip(1)
    assert not torch.equal(here[0], there[0])
    # without a remainder there is nothing that could move
    torch.testing.assert_close(here[1], there[1], rtol=0, atol=1e-12)
    z, log_det = model.map(x[:, 0])
    expected = Normal(0.0, 1.0).log_prob(z[1]).sum(-1) + log_det[1]
    torch.testing.assert_close(here[1, 0], expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_the_likelihood_are_those_of_finite_differences():
    model = shaken(flow(3, (1, 2), blocks=2, hidden=4), 0.2)
    names, values = zip(*model.named_parameters(), strict=True)

    def likelihood(x, *parameters):
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), x).sum(
            (1, 2)
        )

    inputs = [v.detach().clone().requires_grad_() for v in (people(3), *values)]
    assert torch.autograd.gradcheck(likelihood, inputs)


def all_the_same(x):
    return x[:, :, :1].expand_as(x)


def constant_feature(x):
    return x * torch.tensor([1.0, 0.0, 1.0])


def far_away(x):
    return 1e4 * x


@pytest.mark.parametrize("change", [all_the_same, constant_feature, far_away])
@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_odd_people_have_finite_likelihoods_and_gradients(change, scale):
    model = shaken(flow(3, (0, 1, 3)), scale).float()
    log_likelihood = model(change(people(replicas=3)).float())
    assert torch.isfinite(log_likelihood).all()
    log_likelihood.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("num", [0, 1])
def test_takes_a_rank_with_nobody(num):
    model = flow()
    log_likelihood = model(people(num).float())
    assert log_likelihood.shape == (2, 2, num)
    log_likelihood.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_spread_of_the_remainder_is_bounded():
    model = flow(2, (0,), environments=1).double()
    model.law.log_diagonal.data.fill_(50.0)
    assert model(people(5, 1, 2, 1)).max() < 2 * 3 + math.log(2)  # precision at most e^3
    assert torch.isfinite(model(people(5, 1, 2, 1))).all()


def test_weight_decay_is_for_the_residual_matrices_only():
    model = flow(blocks=4)
    assert {id(p) for p in model.decayed()} == {
        id(p) for name, p in model.named_parameters() if name.endswith(("w1", "w3"))
    }
