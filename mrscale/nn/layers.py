"""Invertible layers with exact log-determinants, many flows side by side.

Legend: R replicas (flows trained side by side), P dimensions, B batch, L blocks, H hidden units,
K spline bins. Tensors are (R, P, B): each coordinate of a replica is one contiguous row, so that
every operation of every replica is one call.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LIPSCHITZ = 0.97
"""Bound on the Lipschitz constant of a residual branch; below 1 the block is invertible."""
SILU_LIPSCHITZ = 1.1
"""Upper bound on the slope of silu."""
MIN_BIN = 1e-3
MIN_SLOPE = 1e-3


class ResidualStack(nn.Module):
    """L blocks of a free linear map ``W z + b``, then ``z + W3 silu(W1 z + b1) + b3``.

    Parameters
    ----------
    num_replicas, num_blocks, dim, hidden : int
    generator : torch.Generator
        Source of the random start; the stack starts as almost the identity.

    Notes
    -----
    ``1.1 |W1| |W3| <= 0.97`` in spectral norms is enforced by rescaling W3 (Behrmann et al. 2019,
    *Invertible residual networks*); without it the map folds and the likelihood is meaningless.
    The Jacobian ``I + W3 diag(silu') W1`` is exact, and linear in the slopes, so that those of all
    people are one matrix product.
    """

    def __init__(
        self,
        num_replicas: int,
        num_blocks: int,
        dim: int,
        hidden: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()

        def normal(*shape: int, scale: float) -> nn.Parameter:
            draws = [torch.randn(shape, generator=generator) for _ in range(num_replicas)]
            return nn.Parameter(scale * torch.stack(draws))

        blocks = (num_replicas, num_blocks)
        self.weight = nn.Parameter(torch.eye(dim).repeat(*blocks, 1, 1))
        self.bias = nn.Parameter(torch.zeros(*blocks, dim, 1))
        self.w1 = normal(num_blocks, dim, hidden, scale=dim**-0.5)
        self.b1 = normal(num_blocks, hidden, 1, scale=1.0)
        self.w3 = normal(num_blocks, dim, hidden, scale=1e-3)
        self.b3 = nn.Parameter(torch.zeros(*blocks, dim, 1))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map of shape (R, P, B) and log|det| of shape (R, B)."""
        p, num_people = z.shape[1:]
        w3 = self._bounded_w3()
        # row (i, j) of the map from slopes to Jacobian entries: W3_ih W1_hj
        to_jacobian = (w3[..., :, None, :] * self.w1[..., None, :, :]).flatten(2, 3)
        identity = torch.eye(p, dtype=z.dtype, device=z.device).view(1, p * p, 1)
        log_det = torch.linalg.slogdet(self.weight).logabsdet.sum(1)[:, None]
        # unbound at once: the gradient of one slice at a time would fill the whole stack each time
        stacks = (self.weight, self.bias, self.w1, self.b1, w3, self.b3, to_jacobian)
        blocks = zip(*(stack.unbind(1) for stack in stacks), strict=True)
        for weight, bias, w1, b1, w3_, b3, mixed in blocks:
            z = torch.baddbmm(bias, weight, z)
            activation, slope = silu_and_slope(torch.baddbmm(b1, w1.mT, z))
            jacobian = torch.baddbmm(identity, mixed, slope)
            log_det = log_det + log_det_near_identity(jacobian.view(len(z), p, p, num_people))
            z = z + torch.baddbmm(b3, w3_, activation)
        return z, log_det

    def _bounded_w3(self) -> Tensor:
        grams = torch.stack([self.w1 @ self.w1.mT, self.w3 @ self.w3.mT])
        largest = torch.linalg.eigvalsh(grams)[..., -1].clamp_min(1e-12)
        bound = SILU_LIPSCHITZ * largest.prod(0).sqrt()
        return self.w3 * (LIPSCHITZ / bound).clamp(max=1.0)[..., None, None]


class _SiluAndSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        gate = torch.sigmoid(x)
        value = x * gate
        rest = 1 - gate
        slope = gate.addcmul_(value, rest)
        ctx.save_for_backward(value, rest, slope)
        return value, slope

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        of_value, of_slope = gradients
        value, rest, slope = ctx.saved_tensors
        # the curvature is (1 - s(x)) (2 slope - value)
        curvature = torch.sub(value, slope, alpha=2).mul_(rest)
        return (of_value * slope).addcmul_(of_slope, curvature, value=-1)


def silu_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x s(x)`` with the logistic s, and its derivative; differentiable once."""
    values: tuple[Tensor, Tensor] = _SiluAndSlope.apply(x)
    return values


class _LogDetNearIdentity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        # of the transpose: its inverse is the gradient as it is needed
        inverse = matrix.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        pivots = []
        for k in range(matrix.shape[1]):
            pivot = inverse[:, k, k].clone()
            column, row = inverse[:, :, k].clone(), inverse[:, k].clone()
            column[:, k] -= 1
            row[:, k] += 1
            column /= pivot[:, None]
            inverse.addcmul_(column[:, :, None], row[:, None], value=-1)
            pivots.append(pivot)
        ctx.save_for_backward(inverse)
        return torch.stack(pivots).log().sum(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        return gradients[0][:, None, None] * inverse


def log_det_near_identity(matrix: Tensor) -> Tensor:
    """Log-determinant of many small matrices A with ``|A - I| < 1``; differentiable once.

    Parameters
    ----------
    matrix : Tensor, shape (R, P, P, B)

    Returns
    -------
    Tensor, shape (R, B)

    Notes
    -----
    Gauss-Jordan elimination over all matrices at once, without pivoting: the symmetric part of
    such a matrix is positive definite, so that no pivot vanishes (Golub and Van Loan, *Matrix
    computations*, section 4.2). A step is one of rank one, ``A - (A e_k - e_k) (A' e_k + e_k)' /
    a_kk``. The inverse on the way is the gradient.
    """
    value: Tensor = _LogDetNearIdentity.apply(matrix)
    return value


class ElementwiseSpline(nn.Module):
    """Monotone rational-quadratic spline of each coordinate on [-tail, tail], identity outside.

    Starts as the identity. Durkan et al. (2019), *Neural spline flows*.
    """

    def __init__(self, num_replicas: int, dim: int, bins: int = 8, tail: float = 4.0) -> None:
        super().__init__()
        self.tail = tail
        self.sizes = [bins, bins, bins - 1]
        self.shape = nn.Parameter(torch.zeros(num_replicas, dim, sum(self.sizes)))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map of shape (R, P, B) and log|det| of shape (R, B)."""
        widths, heights, slopes = self.shape.split(self.sizes, dim=-1)
        mapped, log_slope = rational_quadratic(z, widths, heights, slopes, self.tail)
        return mapped, log_slope.sum(1)


def rational_quadratic(
    z: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, tail: float
) -> tuple[Tensor, Tensor]:
    """Rational-quadratic splines and their log-slopes.

    Parameters
    ----------
    z : Tensor, shape (..., B)
    widths, heights : Tensor, shape (..., K)
        Unnormalised sizes of the bins; one spline for each leading index.
    slopes : Tensor, shape (..., K - 1)
        Unnormalised slopes at the inner knots; zeros give slope 1.
    tail : float
        A spline maps [-tail, tail] to itself; outside it is the identity.
    """
    inside = (z > -tail) & (z < tail)
    clamped = z.clamp(-tail + 1e-6, tail - 1e-6)
    left, width = _knots(widths, tail)
    bottom, height = _knots(heights, tail)
    slope = MIN_SLOPE + functional.softplus(slopes + math.log(math.expm1(1 - MIN_SLOPE)))
    slope = functional.pad(slope, (1, 1), value=1.0)
    k = torch.searchsorted(left[..., 1:].contiguous(), clamped.detach().contiguous(), right=True)
    w, h, x0, y0 = (values.gather(-1, k) for values in (width, height, left, bottom))
    d0, d1 = slope.gather(-1, k), slope.gather(-1, k + 1)
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
