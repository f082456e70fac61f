"""Kernel losses, exact and by random features, against their formulas written as double loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from mrscale.nn import features, kernels

R, E, B, D, K = 2, 3, 5, 2, 2
RHO = 0.7


def people(num=B, latent=D, remainder=K, environments=E, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (R, environments, num)
    g = torch.randn(*shape, latent, generator=generator, dtype=torch.float64)
    h = torch.randn(*shape, remainder, generator=generator, dtype=torch.float64)
    return g, h + 0.5 * g[..., :1]


def slow_kernel(a, b, bandwidths):
    distance = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return sum(math.exp(-distance / (2 * s * s)) for s in bandwidths) / len(bandwidths)


def pairs(num):
    return [(i, j) for i in range(num) for j in range(num)]


def each_replica(slow, *tensors):
    return [slow(*(t[r].tolist() for t in tensors)) for r in range(len(tensors[0]))]


def slow_mmd_to_normal(g, bandwidths=kernels.LATENT_BANDWIDTHS):
    dim, total = len(g[0][0]), 0.0
    for group in g:
        n = len(group)
        own = sum(slow_kernel(group[i], group[j], bandwidths) for i, j in pairs(n) if i != j)
        to_target = sum(
            (s**2 / (s**2 + 1)) ** (dim / 2)
            * math.exp(-sum(v * v for v in x) / (2 * (s**2 + 1)))
            / len(bandwidths)
            for x in group
            for s in bandwidths
        )
        target = sum((s**2 / (s**2 + 2)) ** (dim / 2) for s in bandwidths) / len(bandwidths)
        total += own / (n * (n - 1)) - 2 * to_target / n + target
    return total / len(g)


def slow_mmd_pairwise(g, bandwidths=kernels.LATENT_BANDWIDTHS):
    def within(group):
        n = len(group)
        found = [slow_kernel(group[i], group[j], bandwidths) for i, j in pairs(n) if i != j]
        return sum(found) / (n * (n - 1))

    def across(one, other):
        found = [slow_kernel(a, b, bandwidths) for a in one for b in other]
        return sum(found) / len(found)

    two = [(a, b) for a in range(len(g)) for b in range(len(g)) if a < b]
    found = [within(g[a]) + within(g[b]) - 2 * across(g[a], g[b]) for a, b in two]
    return sum(found) / len(found)


def slow_entropy(u, bandwidth=kernels.BOUNDED_BANDWIDTH):
    def density(x, y):
        images = [x - y, x + y, x + y - 2]
        return sum(
            math.exp(-0.5 * (image / bandwidth) ** 2) / (bandwidth * math.sqrt(2 * math.pi))
            for image in images
        )

    n = len(u)
    found = [
        math.prod(density(x, y) for x, y in zip(u[i], u[j], strict=True))
        for i, j in pairs(n)
        if i != j
    ]
    return -math.log(sum(found) / len(found))


def kernel_matrices(g, h, rho):
    """Kernels of everybody, the joint one with the environment, written entry by entry."""
    latent = [x for group in g for x in group]
    rest = [(e, x) for e, group in enumerate(h) for x in group]
    n, bandwidths = len(latent), kernels.remainder_bandwidths(len(h[0][0]))
    k, joint = np.zeros((n, n)), np.zeros((n, n))
    for i, j in pairs(n):
        k[i, j] = slow_kernel(latent[i], latent[j], kernels.LATENT_BANDWIDTHS)
        same = rest[i][0] == rest[j][0]
        joint[i, j] = slow_kernel(rest[i][1], rest[j][1], bandwidths) * (same + rho)
    return k, joint


def slow_unbiased_hsic(k, joint):
    """The U-statistic itself: a mean over all ordered quadruples of different people."""
    total, count = 0.0, 0
    for i, j, q, r in itertools.permutations(range(len(k)), 4):
        total += k[i, j] * (joint[i, j] + joint[q, r] - 2 * joint[i, q])
        count += 1
    return total / count


def slow_squared_norm(k):
    n = len(k)
    total = 0.0
    for i, j in pairs(n):
        total += (k[i, j] - k[i].mean() - k[:, j].mean() + k.mean()) ** 2
    return total / n**2


def slow_joint_hsic(g, h, rho=RHO):
    k, joint = kernel_matrices(g, h, rho)
    norm = math.sqrt(slow_squared_norm(k) * slow_squared_norm(joint))
    return slow_unbiased_hsic(k, joint) / norm


@pytest.mark.parametrize("slow_and_fast", ["mmd_to_normal", "mmd_pairwise"])
def test_discrepancies_equal_double_loops(slow_and_fast):
    g, _ = people()
    fast = getattr(kernels, slow_and_fast)(g)
    slow = each_replica(globals()[f"slow_{slow_and_fast}"], g)
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-10)


def test_entropy_equals_a_double_loop():
    u = torch.rand(R, 9, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(kernels.renyi_entropy(u), each_replica(slow_entropy, u), atol=1e-10)


def test_joint_hsic_equals_the_mean_over_quadruples_of_people():
    g, h = people(num=3)
    fast = kernels.joint_hsic(g, h, RHO)
    np.testing.assert_allclose(fast, each_replica(slow_joint_hsic, g, h), rtol=0, atol=1e-10)


def test_the_uniform_law_has_the_largest_entropy():
    steps = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    uniform = kernels.renyi_entropy(steps[None, :, None])
    beta = [kernels.renyi_entropy(steps[None, :, None] ** power) for power in (0.8, 1.3)]
    assert abs(float(uniform)) < 0.01
    assert max(beta) < uniform


def slow_feature_sums(g, h, frequencies, rho):
    """All losses by random features of one replica, from sums over people one at a time."""
    num = frequencies.latent.shape[1]

    def phi(x, w):
        angles = [sum(a * b for a, b in zip(x, column, strict=True)) for column in w.T.tolist()]
        both = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        return np.array(both) / math.sqrt(num)

    phis = [[phi(x, frequencies.latent) for x in group] for group in g]
    psis = [[phi(x, frequencies.remainder) for x in group] for group in h]
    n, b = sum(map(len, phis)), len(phis[0])
    everybody = np.array([f for group in phis for f in group])
    mean = everybody.mean(0)
    norms = frequencies.latent.square().sum(0).numpy()
    tau = np.concatenate([np.exp(-norms / 2), np.zeros(num)]) / math.sqrt(num)
    to_normal = np.mean(
        [
            sum(p @ q for p, q in itertools.permutations(group, 2)) / (b * (b - 1))
            - 2 * np.mean([p @ tau for p in group])
            + tau @ tau
            for group in phis
        ]
    )
    covariances = [
        sum(np.outer(p - mean, q) for p, q in zip(one, other, strict=True)) / n
        for one, other in zip(phis, psis, strict=True)
    ]
    noise = np.mean([((p - mean) ** 2).sum() for p in everybody]) / n
    hsic = sum((a**2).sum() for a in covariances) + rho * (sum(covariances) ** 2).sum()
    joint = np.array(
        [
            [(e == f) * (p @ q) + rho * (p @ q) for f, other in enumerate(psis) for q in other]
            for e, one in enumerate(psis)
            for p in one
        ]
    )
    norm = math.sqrt(slow_squared_norm(everybody @ everybody.T) * slow_squared_norm(joint))
    return to_normal, hsic - (1 + rho) * noise, norm


def test_losses_by_random_features_equal_loops_over_people():
    g, h = people()
    drawn = features.draw_frequencies(D, K, torch.Generator().manual_seed(2), num=4)
    frequencies = features.Frequencies(*(w.double() for w in drawn))
    sums = features.feature_sums(g, h, frequencies)
    fast = [
        features.mmd_to_normal(sums, frequencies.latent),
        features.joint_covariance(sums, RHO),
        features.joint_norm(sums, RHO),
    ]
    slow = [slow_feature_sums(g[r].tolist(), h[r].tolist(), frequencies, RHO) for r in range(R)]
    np.testing.assert_allclose(torch.stack(fast, 1), slow, rtol=0, atol=1e-10)


def exact_covariance(g, h):
    """What the features estimate without bias: sum over i != j of (HKH)_ij L_ij / n^2."""
    k = kernels.gaussian_kernel(g.flatten(1, 2), kernels.LATENT_BANDWIDTHS)
    joint = kernels.joint_kernel(h, kernels.remainder_bandwidths(h.shape[-1]), RHO)
    centred = k - k.mean(1, keepdim=True) - k.mean(2, keepdim=True) + k.mean((1, 2), keepdim=True)
    products = centred * joint
    return (products.sum((1, 2)) - products.diagonal(dim1=1, dim2=2).sum(1)) / k.shape[1] ** 2


def test_random_features_agree_with_exact_kernels_on_average():
    g, h = people(num=60)
    generator = torch.Generator().manual_seed(3)
    found = []
    for _ in range(200):
        drawn = features.draw_frequencies(D, K, generator)
        frequencies = features.Frequencies(*(w.double() for w in drawn))
        sums = features.feature_sums(g, h, frequencies)
        one = (
            features.mmd_to_normal(sums, frequencies.latent),
            features.joint_covariance(sums, RHO),
        )
        found.append(torch.stack(one))
    exact = kernels.mmd_to_normal(g), exact_covariance(g, h)
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / 200**0.5
    assert ((mean - torch.stack(exact)).abs() < 4 * error).all()
    assert (error < 0.001).all()


def test_many_random_features_give_the_normalised_hsic():
    g, h = people(num=20)
    drawn = features.draw_frequencies(D, K, torch.Generator().manual_seed(3), num=1000)
    frequencies = features.Frequencies(*(w.double() for w in drawn))
    sums = features.feature_sums(g, h, frequencies)
    norm = kernels.joint_hsic(g, h, RHO).reciprocal() * kernels.unbiased_hsic(
        kernels.gaussian_kernel(g.flatten(1, 2), kernels.LATENT_BANDWIDTHS),
        kernels.joint_kernel(h, kernels.remainder_bandwidths(K), RHO),
    )
    torch.testing.assert_close(features.joint_norm(sums, RHO), norm, rtol=0.02, atol=0)


def test_sums_of_groups_of_people_add_up():
    g, h = people(num=7)
    frequencies = features.Frequencies(
        *(w.double() for w in features.draw_frequencies(D, K, torch.Generator(), num=4))
    )
    whole = features.feature_sums(g, h, frequencies)
    parts = [
        features.feature_sums(g[:, :, cut], h[:, :, cut], frequencies)
        for cut in (slice(3), slice(3, 7), slice(7, 7))
    ]
    for one, *others in zip(whole, *parts, strict=True):
        torch.testing.assert_close(one, sum(others), rtol=0, atol=1e-12)


LOSSES = {
    "mmd_to_normal": lambda g, h: kernels.mmd_to_normal(g),
    "mmd_pairwise": lambda g, h: kernels.mmd_pairwise(g),
    "renyi_entropy": lambda g, h: kernels.renyi_entropy(torch.special.ndtr(g.flatten(1, 2))),
    "unbiased_hsic": lambda g, h: kernels.unbiased_hsic(
        kernels.gaussian_kernel(g.flatten(1, 2), kernels.LATENT_BANDWIDTHS),
        kernels.joint_kernel(h, kernels.remainder_bandwidths(h.shape[-1]), RHO),
    ),
    "joint_hsic": lambda g, h: kernels.joint_hsic(g, h, RHO),
    "feature_mmd_to_normal": lambda g, h: by_features(g, h)[0],
    "feature_joint_covariance": lambda g, h: by_features(g, h)[1],
    "feature_joint_hsic": lambda g, h: by_features(g, h)[1] / by_features(g, h)[2],
}
NORMED = ("joint_hsic", "feature_joint_hsic")
"""No gradient flows through what they are divided by, so differences do not show it."""


def by_features(g, h):
    drawn = features.draw_frequencies(
        g.shape[-1], h.shape[-1], torch.Generator().manual_seed(5), num=3
    )
    frequencies = features.Frequencies(*(w.double() for w in drawn))
    h = h / kernels.spread(kernels.moment_sums(h))
    sums = features.feature_sums(g, h, frequencies)
    return (
        features.mmd_to_normal(sums, frequencies.latent),
        features.joint_covariance(sums, RHO),
        features.joint_norm(sums, RHO),
    )


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in NORMED])
def test_gradients_are_those_of_the_loss(name):
    g, h = people(num=4)
    assert gradcheck(LOSSES[name], (g.requires_grad_(), h.requires_grad_()))


@pytest.mark.parametrize("name", NORMED)
def test_no_gradient_flows_through_the_normaliser(name):
    g, h = people(num=4)
    g, h = g.requires_grad_(), h.requires_grad_()
    whole = torch.autograd.grad(LOSSES[name](g, h).sum(), (g, h))
    top = LOSSES["unbiased_hsic" if name == "joint_hsic" else "feature_joint_covariance"](g, h)
    norm = (top / LOSSES[name](g, h)).detach()
    parts = torch.autograd.grad((top / norm).sum(), (g, h))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


EDGES = {
    "constant latent": lambda g, h: (torch.zeros_like(g), h),
    "constant remainder": lambda g, h: (g, torch.ones_like(h)),
    "duplicated people": lambda g, h: (g[:, :, :1].expand_as(g), h[:, :, :1].expand_as(h)),
    "environments of one person": lambda g, h: (g[:, :, :1], h[:, :, :1]),
    "one person in all": lambda g, h: (g[:, :1, :1], h[:, :1, :1]),
    "no remainder": lambda g, h: (g, h[..., :0]),
    "far away": lambda g, h: (1e6 * g, 1e6 * h),
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_or_gradient_is_ever_nan(name, edge):
    g, h = (t.float().contiguous() for t in EDGES[edge](*people()))
    if g.shape[1] == 1 and "pairwise" in name:
        g, h = g.repeat(1, 2, 1, 1), h.repeat(1, 2, 1, 1)
    g, h = g.requires_grad_(), h.requires_grad_()
    by_double = "feature" in name
    value = LOSSES[name](g.double(), h.double()) if by_double else LOSSES[name](g, h)
    assert torch.isfinite(value).all()
    if value.requires_grad:
        gradients = torch.autograd.grad(value.sum(), (g, h), materialize_grads=True)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
