"""Invertible layers with exact log-determinants, several restarts side by side.

Legend: R restarts, B batch, P dimensions, H hidden units, K spline bins. Tensors are (R, B, P).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

LIPSCHITZ = 0.97
"""Bound on the Lipschitz constant of a residual branch; below 1 the block is invertible."""
SILU_LIPSCHITZ = 1.1
"""Upper bound on the slope of silu."""
MIN_BIN = 1e-3
MIN_SLOPE = 1e-3


class FreeLinear(nn.Module):
    """``z W + b`` with an unconstrained square W.

    Parameters
    ----------
    weight : Tensor, shape (R, P, P)
        Start of W.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.bias = nn.Parameter(torch.zeros_like(weight[:, 0]))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map of shape (R, B, P) and log|det| of shape (R, 1)."""
        mapped = torch.baddbmm(self.bias[:, None], z, self.weight)
        return mapped, torch.linalg.slogdet(self.weight).logabsdet[:, None]


class ResidualBlock(nn.Module):
    """``z + W3 silu(W1 z + b1) + b3``, kept invertible by its Lipschitz constant.

    Parameters
    ----------
    num_restarts, dim, hidden : int
    generator : torch.Generator
        Source of the random start; the block starts as almost the identity.

    Notes
    -----
    ``1.1 |W1| |W3| <= 0.97`` in spectral norms is enforced by rescaling W3 (Behrmann et al. 2019,
    *Invertible residual networks*); without it the map folds and the likelihood is meaningless.
    The Jacobian ``I + W1 diag(silu') W3`` is exact.
    """

    def __init__(
        self, num_restarts: int, dim: int, hidden: int, generator: torch.Generator
    ) -> None:
        super().__init__()

        def normal(*shape: int, scale: float) -> nn.Parameter:
            return nn.Parameter(scale * torch.randn(num_restarts, *shape, generator=generator))

        self.w1 = normal(dim, hidden, scale=dim**-0.5)
        self.b1 = normal(hidden, scale=1.0)
        self.w3 = normal(hidden, dim, scale=1e-3)
        self.b3 = nn.Parameter(torch.zeros(num_restarts, dim))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map of shape (R, B, P) and log|det| of shape (R, B)."""
        hidden = torch.baddbmm(self.b1[:, None], z, self.w1)
        gate = torch.sigmoid(hidden)
        activation, slope = hidden * gate, gate * (1 + hidden * (1 - gate))
        w3 = self._bounded_w3()
        left = self.w1[:, None] * slope[:, :, None, :]  # (R, B, P, H)
        jacobian = (left.flatten(1, 2) @ w3).view(*z.shape, z.shape[-1])
        jacobian = jacobian + torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        mapped = z + torch.baddbmm(self.b3[:, None], activation, w3)
        return mapped, torch.linalg.slogdet(jacobian).logabsdet

    def _bounded_w3(self) -> Tensor:
        norms = [
            torch.linalg.eigvalsh(gram)[:, -1].clamp_min(1e-12).sqrt()
            for gram in (self.w1 @ self.w1.mT, self.w3.mT @ self.w3)
        ]
        bound = SILU_LIPSCHITZ * norms[0] * norms[1]
        return self.w3 * (LIPSCHITZ / bound).clamp(max=1.0)[:, None, None]


class ElementwiseSpline(nn.Module):
    """Monotone rational-quadratic spline of each coordinate on [-tail, tail], identity outside.

    Starts as the identity. Durkan et al. (2019), *Neural spline flows*.
    """

    def __init__(self, num_restarts: int, dim: int, bins: int = 8, tail: float = 4.0) -> None:
        super().__init__()
        self.bins, self.tail = bins, tail
        self.shape = nn.Parameter(torch.zeros(num_restarts, 1, dim, 3 * bins - 1))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map of shape (R, B, P) and log|det| of shape (R, B)."""
        shape = self.shape.expand(-1, z.shape[1], -1, -1)
        mapped, log_slope = rational_quadratic(
            z,
            shape[..., : self.bins],
            shape[..., self.bins : 2 * self.bins],
            shape[..., 2 * self.bins :],
            self.tail,
        )
        return mapped, log_slope.sum(-1)


def rational_quadratic(
    z: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, tail: float
) -> tuple[Tensor, Tensor]:
    """Rational-quadratic spline and its log-slope.

    Parameters
    ----------
    z : Tensor, shape (...)
    widths, heights : Tensor, shape (..., K)
        Unnormalised sizes of the bins.
    slopes : Tensor, shape (..., K - 1)
        Unnormalised slopes at the inner knots; zeros give slope 1.
    tail : float
        The spline maps [-tail, tail] to itself; outside it is the identity.
    """
    inside = (z > -tail) & (z < tail)
    clamped = z.clamp(-tail + 1e-6, tail - 1e-6)
    left, width = _knots(widths, tail)
    bottom, height = _knots(heights, tail)
    slope = MIN_SLOPE + functional.softplus(slopes + math.log(math.expm1(1 - MIN_SLOPE)))
    slope = functional.pad(slope, (1, 1), value=1.0)
    k = torch.searchsorted(left[..., 1:].contiguous(), clamped[..., None].contiguous(), right=True)

    def at(values: Tensor, index: Tensor) -> Tensor:
        return values.gather(-1, index).squeeze(-1)

    w, h, x0, y0 = at(width, k), at(height, k), at(left, k), at(bottom, k)
    d0, d1 = at(slope, k), at(slope, k + 1)
    secant, t = h / w, (clamped - x0) / w
    bend = t * (1 - t)
    denominator = secant + (d0 + d1 - 2 * secant) * bend
    mapped = y0 + h * (secant * t**2 + d0 * bend) / denominator
    numerator = d1 * t**2 + 2 * secant * bend + d0 * (1 - t) ** 2
    log_slope = 2 * torch.log(secant) + torch.log(numerator) - 2 * torch.log(denominator)
    return torch.where(inside, mapped, z), torch.where(inside, log_slope, 0.0)


def _knots(sizes: Tensor, tail: float) -> tuple[Tensor, Tensor]:
    """Left ends and sizes of K bins that fill [-tail, tail]."""
    share = MIN_BIN + (1 - MIN_BIN * sizes.shape[-1]) * torch.softmax(sizes, -1)
    size = 2 * tail * share
    left = functional.pad(torch.cumsum(size, -1)[..., :-1], (1, 0)) - tail
    return left, size
