"""The losses of :mod:`mrscale.nn.kernels` by random Fourier features: the default in training.

A Gaussian kernel is the mean of ``cos w'(a - b)`` over normal frequencies w (Rahimi and Recht
2007). With phi(a) = [cos w'a, sin w'a] / sqrt(F) over F of them, sums of kernels over pairs of
people become products of sums of features over people, so that a batch is needed twice only:

1. :func:`feature_sums` adds up over people. Sums of disjoint groups of people add up, so ranks
   that hold parts of a batch add theirs and need not see each other's people.
2. The losses are pure functions of those sums.

With frequencies drawn afresh at every step, the losses are right in expectation.

Legend: R replicas, E environments, b people in each, n = E b, D latent dimension, K remainder,
F frequencies (2F features).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrscale.nn.kernels import (
    ENVIRONMENT_SHARE,
    LATENT_BANDWIDTHS,
    mean_within,
    normaliser,
    remainder_bandwidths,
)

NUM_FREQUENCIES = 64


class Frequencies(NamedTuple):
    """Frequencies of the features of g, shape (D, F), and of h, shape (K, F)."""

    latent: Tensor
    remainder: Tensor


class FeatureSums(NamedTuple):
    """Sums over people of phi = phi(g) and psi = phi(h); those of disjoint groups add up.

    Attributes
    ----------
    people : Tensor, shape ()
        b, people in each environment.
    latent, remainder : Tensor, shape (R, E, 2F)
        Of phi and of psi.
    cross : Tensor, shape (R, E, 2F, 2F)
        Of phi psi'.
    latent_square : Tensor, shape (R, 2F, 2F)
        Of phi phi', over all environments; carries no gradient.
    remainder_square : Tensor, shape (R, E, 2F, 2F)
        Of psi psi'; carries no gradient.
    """

    people: Tensor
    latent: Tensor
    remainder: Tensor
    cross: Tensor
    latent_square: Tensor
    remainder_square: Tensor


def draw_frequencies(
    latent_dim: int, remainder_dim: int, generator: torch.Generator, num: int = NUM_FREQUENCIES
) -> Frequencies:
    """Draw the frequencies of one step; all replicas share them.

    Parameters
    ----------
    latent_dim, remainder_dim : int
        D and K.
    generator : torch.Generator
    num : int, default 64
        F.
    """

    def draw(dim: int, bandwidths: Sequence[float]) -> Tensor:
        choice = torch.randint(len(bandwidths), (1, num), generator=generator)
        normal = torch.randn(dim, num, generator=generator)
        return normal / torch.tensor(bandwidths)[choice]

    return Frequencies(
        draw(latent_dim, LATENT_BANDWIDTHS),
        draw(remainder_dim, remainder_bandwidths(remainder_dim)),
    )


def fourier_features(points: Tensor, frequencies: Tensor) -> Tensor:
    """[cos w'a, sin w'a] / sqrt(F), shape (R, n, 2F), for points (R, n, dim)."""
    angle = points @ frequencies
    return torch.cat([angle.cos(), angle.sin()], -1) * frequencies.shape[-1] ** -0.5


def feature_sums(g: Tensor, h: Tensor, frequencies: Frequencies) -> FeatureSums:
    """Sums over the people at hand of all that the losses need.

    Parameters
    ----------
    g : Tensor, shape (R, E, b, D)
    h : Tensor, shape (R, E, b, K)
        Divided by its standard deviation over the whole batch; see
        :func:`mrscale.nn.kernels.spread`.
    frequencies : Frequencies
    """
    num_environments, count = g.shape[1:3]
    phi = fourier_features(g.flatten(1, 2), frequencies.latent)
    psi = fourier_features(h.flatten(1, 2), frequencies.remainder)
    phi_e, psi_e = (f.unflatten(1, (num_environments, count)) for f in (phi, psi))
    with torch.no_grad():
        squares = phi.mT @ phi, psi_e.mT @ psi_e
    return FeatureSums(
        torch.tensor(float(count), dtype=g.dtype, device=g.device),
        phi_e.sum(2),
        psi_e.sum(2),
        phi_e.mT @ psi_e,
        *squares,
    )


def mmd_to_normal(sums: FeatureSums, frequencies: Tensor) -> Tensor:
    """Estimate of :func:`mrscale.nn.kernels.mmd_to_normal`, shape (R,).

    Parameters
    ----------
    sums : FeatureSums
    frequencies : Tensor, shape (D, F)
        Those of the latent.

    Notes
    -----
    Mean over e of ``(b |phibar_e|^2 - 1) / (b - 1) - 2 phibar_e . tau + |tau|^2`` with
    ``tau = E phi(y) = [exp(-|w|^2 / 2), 0] / sqrt(F)`` for y ~ N(0, I).
    """
    num = frequencies.shape[-1]
    tau = torch.exp(-0.5 * frequencies.square().sum(0)) * num**-0.5
    within = mean_within(sums.latent.square().sum(-1), sums.people)
    to_target = sums.latent[..., :num] @ tau / sums.people
    return (within - 2 * to_target).mean(1) + tau.square().sum()


def joint_covariance(sums: FeatureSums, rho: float = ENVIRONMENT_SHARE) -> Tensor:
    """HSIC of g with (h, e), not normalised, shape (R,).

    Notes
    -----
    With ``A_e = sum_{i in e} (phi_i - phibar) psi_i' / n``,
    ``sum_e |A_e|^2 + rho |sum_e A_e|^2 - (1 + rho) mean |phi_i - phibar|^2 / n``. Its expectation
    over frequencies is ``sum_{i != j} (HKH)_ij L_ij / n^2``, which differs by O(1/n) from
    :func:`mrscale.nn.kernels.unbiased_hsic`.
    """
    n = sums.people * sums.latent.shape[1]
    mean = sums.latent.sum(1) / n
    covariance = (sums.cross - mean[:, None, :, None] * sums.remainder[:, :, None, :]) / n
    squares = covariance.square().sum((1, 2, 3)) + rho * covariance.sum(1).square().sum((1, 2))
    # |phi_i| = 1
    return squares - (1 + rho) * (1 - mean.square().sum(-1)) / n


@torch.no_grad()
def joint_norm(sums: FeatureSums, rho: float = ENVIRONMENT_SHARE) -> Tensor:
    """Estimate of what :func:`mrscale.nn.kernels.joint_hsic` divides by, shape (R,).

    With few frequencies it is too large, as the norm of any noisy estimate is; it only sets the
    scale of a weight.

    Notes
    -----
    ``|HKH|_F / n`` is the norm of the covariance of phi. The joint kernel has features
    ``(psi 1{e} , sqrt(rho) psi)``, E + 1 copies of psi, and ``|HLH|_F / n`` is the norm of their
    covariance: with second moments ``P_e = sum_{i in e} psi_i psi_i' / n``, ``P = sum_e P_e``,
    means ``m_e = sum_{i in e} psi_i / n`` and ``m = sum_e m_e``,

    ``(1 + 2 rho) sum |P_e|^2 + rho^2 |P|^2
    - 2 (sum m_e'P_e m_e + 2 rho sum m_e'P_e m + rho^2 m'P m) + (sum |m_e|^2 + rho |m|^2)^2``.
    """
    n = sums.people * sums.latent.shape[1]
    mean = sums.latent.sum(1) / n
    covariance = sums.latent_square / n - mean[:, :, None] * mean[:, None, :]
    second, means = sums.remainder_square / n, sums.remainder / n
    pooled, centre = second.sum(1), means.sum(1)
    squares = (1 + 2 * rho) * _norm2(second, 3) + rho**2 * _norm2(pooled, 2)
    length = _norm2(means, 2) + rho * _norm2(centre, 1)
    own = torch.einsum("ref,refg,reg->r", means, second, means)
    across = torch.einsum("ref,refg,rg->r", means, second, centre)
    overall = torch.einsum("rf,rfg,rg->r", centre, pooled, centre)
    joint = squares - 2 * (own + 2 * rho * across + rho**2 * overall) + length.square()
    return normaliser(_norm2(covariance, 2), joint)


def _norm2(values: Tensor, axes: int) -> Tensor:
    """Sum of squares over the last so many axes."""
    return values.square().sum(tuple(range(-axes, 0)))
