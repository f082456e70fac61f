"""The flow encoder: an invertible map whose likelihood asks for everything at once.

Legend: R restarts, B batch, P factors, D latent dimension, K = P - D remainder, E environments,
C mixture components.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrscale.nn.layers import ElementwiseSpline, FreeLinear, ResidualBlock

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class FlowShape:
    """Sizes of a flow encoder; see :class:`Flow`."""

    factors: int
    latent_dim: int
    num_environments: int
    restarts: int
    blocks: int = 10
    hidden: int = 32
    components: int = 3


class EnvironmentMixtures(nn.Module):
    """One Gaussian mixture per environment: the law of the remainder, free to move.

    Parameters
    ----------
    mean : Tensor, shape (E, K)
        Start of every component's mean, before jitter.
    root_precision : Tensor, shape (E, K, K)
        Start of the lower triangular L with precision L'L.
    num_restarts, components : int
    generator : torch.Generator
    """

    def __init__(
        self,
        mean: Tensor,
        root_precision: Tensor,
        num_restarts: int,
        components: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        e, k = mean.shape
        jitter = 0.5 * torch.randn(num_restarts, e, components, k, generator=generator)
        self.mean = nn.Parameter(mean[None, :, None] + jitter)
        root = root_precision[None, :, None].expand(num_restarts, e, components, k, k)
        self.below = nn.Parameter(root.tril(-1).clone())
        self.log_diagonal = nn.Parameter(root.diagonal(dim1=-2, dim2=-1).log())
        self.log_weight = nn.Parameter(torch.zeros(num_restarts, e, components))

    def forward(self, z: Tensor, environment: Tensor) -> Tensor:
        """Log-density, shape (R, B), of z of shape (R, B, K) in environments of shape (B,)."""
        log_diagonal = self.log_diagonal.clamp(-4, 3)
        root = self.below.tril(-1) + torch.diag_embed(log_diagonal.exp())
        offset = z[:, :, None] - self.mean[:, environment]
        scaled = (root[:, environment] @ offset[..., None]).squeeze(-1)
        log_det = log_diagonal.sum(-1)[:, environment]
        log_density = log_det - 0.5 * (scaled.square().sum(-1) + z.shape[-1] * LOG_2PI)
        log_weight = torch.log_softmax(self.log_weight, -1)[:, environment]
        return torch.logsumexp(log_density + log_weight, -1)


class Flow(nn.Module):
    """Invertible z = T(x) with z = (g, h): g standard normal everywhere, h free per environment.

    Parameters
    ----------
    shape : FlowShape
    start : Tensor, shape (P, P)
        Columns of the linear map to start from (stationary subspace analysis, D first).
    remainder_mean, remainder_root_precision : Tensor, shapes (E, K) and (E, K, K)
        Start of the remainder's law.
    generator : torch.Generator
        Restart 0 starts exactly at ``start``, the others near it.

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
        remainder_mean: Tensor,
        remainder_root_precision: Tensor,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        p, r = shape.factors, shape.restarts
        self.latent_dim = shape.latent_dim
        jitter = 0.2 / math.sqrt(p) * torch.randn(r, p, p, generator=generator)
        jitter[0] = 0
        layers: list[nn.Module] = [FreeLinear(start[None] + jitter)]
        for _ in range(shape.blocks):
            layers.append(FreeLinear(torch.eye(p).expand(r, p, p)))
            layers.append(ResidualBlock(r, p, shape.hidden, generator))
        layers.append(ElementwiseSpline(r, p))
        self.layers = nn.ModuleList(layers)
        self.remainder = EnvironmentMixtures(
            remainder_mean, remainder_root_precision, r, shape.components, generator
        )
        self.num_restarts = r

    def map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z of shape (R, B, P) and log|det dT/dx| of shape (R, B) for x of shape (B, P)."""
        z = x.expand(self.num_restarts, *x.shape)
        log_det = torch.zeros(z.shape[:2], dtype=x.dtype, device=x.device)
        for layer in self.layers:
            z, change = layer(z)
            log_det = log_det + change
        return z, log_det

    def forward(self, x: Tensor, environment: Tensor) -> Tensor:
        """Log-likelihood of each person, shape (R, B), for x (B, P) and environment (B,)."""
        z, log_det = self.map(x)
        g, h = z[..., : self.latent_dim], z[..., self.latent_dim :]
        log_g = -0.5 * (g.square().sum(-1) + self.latent_dim * LOG_2PI)
        return log_g + self.remainder(h, environment) + log_det

    def decayed(self) -> list[nn.Parameter]:
        """Parameters that weight decay applies to: the residual branches' matrices."""
        blocks = [layer for layer in self.layers if isinstance(layer, ResidualBlock)]
        return [weight for block in blocks for weight in (block.w1, block.w3)]
