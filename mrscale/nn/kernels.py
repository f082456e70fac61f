"""Invariance, independence and entropy by Gaussian kernels, exactly: every pair of people is met.

These are the definitions; :mod:`mrscale.nn.features` estimates the same quantities at a cost that
is linear in the batch and is what training uses by default. None of them is a sum over people:
they want the whole batch.

Legend: R replicas, E environments, b people in each, n = E b, D latent dimension, K remainder.
Batches are environment-major, (R, E, b, dim); losses are (R,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LATENT_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0)
"""Of the kernel of g, whose scale is that of a standard normal."""
ENVIRONMENT_SHARE = 1.0
"""rho: weight of pairs of people from different environments in the joint kernel."""
BOUNDED_BANDWIDTH = 0.1
"""Of the density estimate on the unit cube."""
SPREAD_FLOOR = 1e-3
"""Smallest standard deviation that a remainder is divided by; scores have unit variance."""
_LEAST_POTENTIAL = 1e-8
_LEAST_SQUARED_NORM = 1e-8


def remainder_bandwidths(dim: int) -> tuple[float, ...]:
    """Bandwidths of the kernel of a remainder of unit variance in ``dim`` dimensions.

    The typical distance between two people is sqrt(2 dim).
    """
    return tuple(1.4 * math.sqrt(2 * max(dim, 1)) * share for share in (0.25, 0.5, 1.0))


def moment_sums(h: Tensor) -> Tensor:
    """Sums over people of 1, h and h^2, shape (3, R, K), for h (R, E, b, K).

    Sums of disjoint groups of people add up to those of all.
    """
    return torch.stack([torch.ones_like(h), h, h.square()]).sum((2, 3))


def spread(sums: Tensor) -> Tensor:
    """Standard deviations, shape (R, 1, 1, K), from :func:`moment_sums`; at least 0.001."""
    mean, mean_square = sums[1:] / sums[0]
    variance = (mean_square - mean.square()).clamp_min(0)
    return (variance + SPREAD_FLOOR**2).sqrt()[:, None, None]


def gaussian_kernel(points: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """Mean over bandwidths s of ``exp(-|a - b|^2 / 2 s^2)`` for all pairs of points.

    Parameters
    ----------
    points : Tensor, shape (R, n, dim)
    bandwidths : sequence of float

    Returns
    -------
    Tensor, shape (R, n, n)
    """
    norms = points.square().sum(-1)
    squared = norms[:, :, None] + norms[:, None, :] - 2 * points @ points.mT
    squared = squared.clamp_min(0)
    kernels = [torch.exp(squared * (-0.5 / s**2)) for s in bandwidths]
    return torch.stack(kernels).mean(0)


def mean_within(kernel_sums: Tensor, count: Tensor | int) -> Tensor:
    """Mean kernel over pairs of different people, from sums over all pairs.

    Parameters
    ----------
    kernel_sums : Tensor
        Sum of k(i, j) over i and j among ``count`` people, i = j included, where k(i, i) = 1.
    count : Tensor or int

    Notes
    -----
    Among one person there is no pair, and the mean is 0: the rest of an MMD is then still
    defined, up to a constant.
    """
    pairs = torch.as_tensor(count * (count - 1)).clamp_min(1)
    return (kernel_sums - count) / pairs


def mmd_to_normal(g: Tensor, bandwidths: Sequence[float] = LATENT_BANDWIDTHS) -> Tensor:
    """Invariance and maximal entropy in one: distance of g from N(0, I) in every environment.

    Parameters
    ----------
    g : Tensor, shape (R, E, b, D)
    bandwidths : sequence of float

    Returns
    -------
    Tensor, shape (R,)
        Unbiased (so possibly negative) squared maximum mean discrepancy, mean over environments.

    Notes
    -----
    ``MMD^2 = mean_{i != j} k(g_i, g_j) - 2 mean_i E k(g_i, y) + E k(y, y')`` for y, y' ~ N(0, I),
    where ``E k(x, y) = (s^2 / (s^2 + 1))^{D/2} exp(-|x|^2 / 2 (s^2 + 1))`` and
    ``E k(y, y') = (s^2 / (s^2 + 2))^{D/2}``. Gretton et al. (2012), *JMLR* 13, lemma 6.
    If g is N(0, I) then Phi(g) is uniform on the unit cube, the law of maximal entropy there.
    """
    count, dim = g.shape[2:]
    kernel = gaussian_kernel(g.flatten(0, 1), bandwidths)
    within = mean_within(kernel.sum((1, 2)).view(g.shape[:2]), count)
    norms = g.square().sum(-1)
    to_target = torch.zeros_like(within)
    target = 0.0
    for s in bandwidths:
        wider = s**2 + 1
        density = (s**2 / wider) ** (dim / 2) * torch.exp(norms * (-0.5 / wider))
        to_target = to_target + density.mean(-1) / len(bandwidths)
        target += (s**2 / (s**2 + 2)) ** (dim / 2) / len(bandwidths)
    return (within - 2 * to_target + target).mean(1)


def mmd_pairwise(g: Tensor, bandwidths: Sequence[float] = LATENT_BANDWIDTHS) -> Tensor:
    """Invariance alone: mean over pairs of environments of the unbiased squared MMD of g.

    Parameters and shapes as in :func:`mmd_to_normal`. Gretton et al. (2012), *JMLR* 13, lemma 6.
    """
    _, num_environments, count, _ = g.shape
    kernel = gaussian_kernel(g.flatten(1, 2), bandwidths)
    sums = kernel.view(-1, num_environments, count, num_environments, count).sum((2, 4))
    own = sums.diagonal(dim1=1, dim2=2)
    across = (sums.sum((1, 2)) - own.sum(1)) / count**2
    across = across / (num_environments * (num_environments - 1))
    return 2 * mean_within(own, count).mean(1) - 2 * across


def renyi_entropy(u: Tensor, bandwidth: float = BOUNDED_BANDWIDTH) -> Tensor:
    """Quadratic Renyi entropy of a latent on the unit cube; 0, its maximum, if uniform.

    Parameters
    ----------
    u : Tensor, shape (R, n, D)
        In (0, 1)^D.
    bandwidth : float
        At most 0.15, so that one reflection at either end is enough.

    Returns
    -------
    Tensor, shape (R,)

    Notes
    -----
    ``H = -log mean_{i != j} k(u_i, u_j)``, the plug-in of a kernel density estimate in
    ``-log int p^2`` (Principe 2010, *Information Theoretic Learning*, ch. 2), with normal kernels
    reflected at both ends of every coordinate (Silverman 1986, section 2.10). Each k(u, .) then
    integrates to 1, which makes the uniform law the exact maximiser at any bandwidth, where
    unreflected kernels would push people into the corners:
    ``H = -log(1 + MMD^2(u, uniform))``. Among fewer than two people H is a constant.
    """
    count = u.shape[1]
    kernel = torch.ones((), dtype=u.dtype, device=u.device)
    for coordinate in u.unbind(-1):
        one, other = coordinate[:, :, None], coordinate[:, None, :]
        images = (one - other, one + other, one + other - 2)
        kernel = kernel * torch.stack([_normal(image / bandwidth) for image in images]).sum(0)
    kernel = kernel / bandwidth ** u.shape[-1]
    others = kernel.sum((1, 2)) - kernel.diagonal(dim1=1, dim2=2).sum(1)
    return -torch.log((others / max(count * (count - 1), 1)).clamp_min(_LEAST_POTENTIAL))


def _normal(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)


def unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """Unbiased Hilbert-Schmidt independence criterion from two kernels (R, n, n); shape (R,).

    Notes
    -----
    With zero diagonals, ``[tr(KL) + 1'K1 1'L1 / (n-1)(n-2) - 2 1'KL1 / (n-2)] / n(n-3)``.
    Song et al. (2012), *JMLR* 13, theorem 2. It wants four people; among fewer it is 0.
    """
    n = k.shape[-1]
    if n < 4:
        return k.new_zeros(len(k))
    k_diagonal, l_diagonal = (kernel.diagonal(dim1=1, dim2=2) for kernel in (k, l))
    trace = (k * l).sum((1, 2)) - (k_diagonal * l_diagonal).sum(1)
    k_rows, l_rows = k.sum(2) - k_diagonal, l.sum(2) - l_diagonal
    product = k_rows.sum(1) * l_rows.sum(1) / ((n - 1) * (n - 2))
    return (trace + product - 2 * (k_rows * l_rows).sum(1) / (n - 2)) / (n * (n - 3))


def squared_norm(kernel: Tensor) -> Tensor:
    """``|H K H|_F^2 / n^2``, the biased HSIC of a kernel (R, n, n) with itself; shape (R,)."""
    rows = kernel.mean(2)
    return kernel.square().mean((1, 2)) - 2 * rows.square().mean(1) + rows.mean(1).square()


def normaliser(one: Tensor, other: Tensor) -> Tensor:
    """What an HSIC is divided by, from the :func:`squared_norm` of either kernel.

    Bounded away from zero before the root, so that a constant latent or remainder gives 0 / 0.0001
    rather than NaN.
    """
    return (one.clamp_min(0) * other.clamp_min(0)).clamp_min(_LEAST_SQUARED_NORM).sqrt()


def joint_kernel(h: Tensor, bandwidths: Sequence[float], rho: float) -> Tensor:
    """``k(h, h') (1{e = e'} + rho)`` for all pairs of people of h (R, E, b, K): (R, n, n)."""
    same = torch.eye(h.shape[1], dtype=h.dtype, device=h.device)
    same = same.repeat_interleave(h.shape[2], 0).repeat_interleave(h.shape[2], 1)
    return gaussian_kernel(h.flatten(1, 2), bandwidths) * (same + rho)


def joint_hsic(g: Tensor, h: Tensor, rho: float = ENVIRONMENT_SHARE) -> Tensor:
    """Normalised HSIC of g with the remainder and the environment jointly.

    Parameters
    ----------
    g : Tensor, shape (R, E, b, D)
    h : Tensor, shape (R, E, b, K)
        Of unit variance over the batch; see :func:`spread`.
    rho : float
        0 asks for independence within environments; pairs across environments add strength.

    Returns
    -------
    Tensor, shape (R,)

    Notes
    -----
    :func:`unbiased_hsic` of k(g, g') with ``k(h, h') (1{e = e'} + rho)``, divided by
    ``(|HKH| |HLH| / n^2)``, through which no gradient flows.
    """
    k = gaussian_kernel(g.flatten(1, 2), LATENT_BANDWIDTHS)
    joint = joint_kernel(h, remainder_bandwidths(h.shape[-1]), rho)
    with torch.no_grad():
        norm = normaliser(squared_norm(k), squared_norm(joint))
    return unbiased_hsic(k, joint) / norm
