"""The flow encoder: an invertible map whose likelihood asks for everything at once.

Legend: R replicas, E environments, b people of each in a batch, P factors, D latent dimension,
C mixture components.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrscale.nn.layers import ElementwiseSpline, ResidualStack

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class FlowShape:
    """Sizes of flows that are trained side by side; see :class:`Flow`.

    Attributes
    ----------
    factors, num_environments : int
    latent_dims : tuple of int
        Latent dimension of each replica.
    blocks, hidden, components : int
    """

    factors: int
    num_environments: int
    latent_dims: tuple[int, ...]
    blocks: int = 10
    hidden: int = 32
    components: int = 3


class EnvironmentMixtures(nn.Module):
    """Law of z: standard normal latent, and a remainder free to move between environments.

    One Gaussian mixture per environment over all P coordinates, whose first D are held at
    independent standard normals; so that replicas may differ in D and still be one tensor.

    Parameters
    ----------
    latent_dims : sequence of int
        D of each replica.
    mean : Tensor, shape (R, E, P)
        Start of every component's mean, before jitter.
    root_precision : Tensor, shape (R, E, P, P)
        Start of the lower triangular L with precision L'L.
    components : int
    generator : torch.Generator
    """

    free: Tensor

    def __init__(
        self,
        latent_dims: Sequence[int],
        mean: Tensor,
        root_precision: Tensor,
        components: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        r, e, p = mean.shape
        free = torch.arange(p) >= torch.tensor(latent_dims)[:, None]
        self.register_buffer("free", free[:, None, None, :], persistent=False)
        draws = [torch.randn(e, components, p, generator=generator) for _ in range(r)]
        self.mean = nn.Parameter(mean[:, :, None] + 0.5 * torch.stack(draws))
        root = root_precision[:, :, None].expand(r, e, components, p, p)
        self.below = nn.Parameter(root.tril(-1).clone())
        self.log_diagonal = nn.Parameter(root.diagonal(dim1=-2, dim2=-1).log())
        self.log_weight = nn.Parameter(torch.zeros(r, e, components))

    def forward(self, z: Tensor) -> Tensor:
        """Log-density, shape (R, E, b), of z of shape (R, P, E, b)."""
        free = self.free
        mean = torch.where(free, self.mean, 0.0)
        log_diagonal = torch.where(free, self.log_diagonal.clamp(-4, 3), 0.0)
        below = torch.where(free[..., None] & free[..., None, :], self.below.tril(-1), 0.0)
        root = below + torch.diag_embed(log_diagonal.exp())
        offset = z.permute(0, 2, 1, 3)[:, :, None] - mean[..., None]  # (R, E, C, P, b)
        scaled = root @ offset
        log_density = log_diagonal.sum(-1)[..., None] - 0.5 * (
            scaled.square().sum(-2) + z.shape[1] * LOG_2PI
        )
        log_weight = torch.log_softmax(self.log_weight, -1)
        return torch.logsumexp(log_density + log_weight[..., None], 2)


class Flow(nn.Module):
    """Invertible z = T(x) with z = (g, h): g standard normal everywhere, h free per environment.

    Parameters
    ----------
    shape : FlowShape
    start : Tensor, shape (R, P, P)
        Columns of the linear map that each replica starts from (stationary subspace analysis,
        D first).
    mean, root_precision : Tensor, shapes (R, E, P) and (R, E, P, P)
        Start of the law of z; see :class:`EnvironmentMixtures`.
    generator : torch.Generator

    Notes
    -----
    ``log p(x | e) = log N(g; 0, I) + log p_e(h) + log |det dT/dx|``. Maximum likelihood makes g
    invariant over environments, independent of h within them, and of maximal entropy given
    its scale; the loss is a sum over people, so ranks only need to add.
    """

    def __init__(
        self,
        shape: FlowShape,
        start: Tensor,
        mean: Tensor,
        root_precision: Tensor,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        r, p = len(shape.latent_dims), shape.factors
        self.weight = nn.Parameter(start.mT.clone())
        self.bias = nn.Parameter(torch.zeros(r, p, 1))
        self.blocks = ResidualStack(r, shape.blocks, p, shape.hidden, generator)
        self.spline = ElementwiseSpline(r, p)
        self.law = EnvironmentMixtures(
            shape.latent_dims, mean, root_precision, shape.components, generator
        )
        self.num_replicas = r

    def map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z of shape (R, B, P) and log|det dT/dx| of shape (R, B) for x of shape (R, B, P)."""
        z = torch.baddbmm(self.bias, self.weight, x.mT)
        z, of_blocks = self.blocks(z)
        z, of_spline = self.spline(z)
        of_start = torch.linalg.slogdet(self.weight).logabsdet[:, None]
        return z.mT, of_start + of_blocks + of_spline

    def forward(self, x: Tensor) -> Tensor:
        """Log-likelihood of each person, shape (R, E, b), for x of shape (R, E, b, P)."""
        r, e, b, p = x.shape
        z, log_det = self.map(x.reshape(r, e * b, p))
        return self.law(z.mT.reshape(r, p, e, b)) + log_det.view(r, e, b)

    def decayed(self) -> list[nn.Parameter]:
        """Parameters that weight decay applies to: the residual branches' matrices."""
        return [self.blocks.w1, self.blocks.w3]
