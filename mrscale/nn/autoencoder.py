"""The kernel encoder: an autoencoder whose latent is invariant, independent of the remainder.

Huang, Robinson and Locatello (2026), arXiv 2602.19782.

Legend: R replicas, E environments, b people in each, P factors, D latent dimension, K = P - D
remainder, F frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN = 64
CLASSIFIER_HIDDEN = 32


class Perceptron(nn.Module):
    """Fully connected layers with SiLU between them, R replicas side by side.

    Parameters
    ----------
    num_replicas : int
    sizes : sequence of int
        Widths from input to output.
    generator : torch.Generator
        Source of the random start, uniform on +- 1 / sqrt(width of the input).
    """

    def __init__(self, num_replicas: int, sizes: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()

        def uniform(*shape: int, width: int) -> nn.Parameter:
            unit = 2 * torch.rand(num_replicas, *shape, generator=generator) - 1
            return nn.Parameter(unit / max(width, 1) ** 0.5)

        self.weights = nn.ParameterList(uniform(a, b, width=a) for a, b in pairwise(sizes))
        self.biases = nn.ParameterList(uniform(1, b, width=a) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, B, first size) to (R, B, last size)."""
        *inner, last = zip(self.weights, self.biases, strict=True)
        for weight, bias in inner:
            x = functional.silu(torch.baddbmm(bias, x, weight))
        return torch.baddbmm(last[1], x, last[0])


class SkipPerceptron(nn.Module):
    """``x W + MLP(x)``, started as ``x W`` exactly.

    Parameters
    ----------
    weight : Tensor, shape (R, P, P)
        Start of W.
    generator : torch.Generator
    """

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        num_replicas, p, _ = weight.shape
        self.weight = nn.Parameter(weight.clone())
        self.mlp = Perceptron(num_replicas, (p, HIDDEN, HIDDEN, p), generator)
        nn.init.zeros_(self.mlp.weights[-1])
        nn.init.zeros_(self.mlp.biases[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, B, P) to (R, B, P)."""
        return x @ self.weight + self.mlp(x)


class KernelEncoder(nn.Module):
    """Autoencoder x -> (g, h) -> x, with a classifier of the environment from h.

    Parameters
    ----------
    start : Tensor, shape (R, P, P)
        Columns of the linear map that each encoder starts from (stationary subspace analysis,
        the D most stationary first); the decoder starts at its pseudo-inverse.
    latent_dim, num_environments : int
        D and E.
    generator : torch.Generator
        Source of the multilayer perceptrons' start; their last layers start at zero.
    """

    def __init__(
        self, start: Tensor, latent_dim: int, num_environments: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        num_replicas, factors, _ = start.shape
        self.num_replicas, self.latent_dim = num_replicas, latent_dim
        self.encoder = SkipPerceptron(start, generator)
        self.decoder = SkipPerceptron(torch.linalg.pinv(start), generator)
        sizes = (factors - latent_dim, CLASSIFIER_HIDDEN, num_environments)
        self.classifier = Perceptron(num_replicas, sizes, generator)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latent g (R, ..., D) and remainder h (R, ..., K) of people x (R, ..., P)."""
        z = self.encoder(x.flatten(1, -2)).view(x.shape)
        return z[..., : self.latent_dim], z[..., self.latent_dim :]

    def decode(self, g: Tensor, h: Tensor) -> Tensor:
        """People (R, ..., P) from their latent and remainder."""
        z = torch.cat([g, h], -1)
        return self.decoder(z.flatten(1, -2)).view(z.shape)

    def target(self, x: Tensor) -> Tensor:
        """What people x are to be decoded to: themselves."""
        return x

    def map(self, x: Tensor) -> tuple[Tensor, None]:
        """z = (g, h) of people x, both (R, B, P); with no Jacobian, unlike a flow."""
        return self.encoder(x), None

    def decayed(self) -> list[nn.Parameter]:
        """Parameters that weight decay applies to: the matrices of the perceptrons."""
        parts = (self.encoder.mlp, self.decoder.mlp, self.classifier)
        return [weight for part in parts for weight in part.weights]

    def environment_loss(self, h: Tensor) -> Tensor:
        """Minus the log-probability of each person's environment given h, (R, E, b, K): (R, E, b).

        Without a remainder the classifier knows the shares of the environments only.
        """
        logits = self.classifier(h.flatten(1, 2)).view(*h.shape[:3], h.shape[1])
        return -logits.log_softmax(-1).diagonal(dim1=1, dim2=3).mT


class EndToEnd(nn.Module):
    """A kernel encoder behind a linear layer from M instruments to P factors that is trained too.

    What the decoder is to give back is the scores by the start of the layer, fixed: by the trained
    layer, nothing would keep it from the scores that are easiest to give back.

    Parameters
    ----------
    encoder : KernelEncoder
    projection : Tensor, shape (R, M, P)
        Start of the layer: principal components, whitened.
    """

    start: Tensor
    unit: Tensor

    def __init__(self, encoder: KernelEncoder, projection: Tensor) -> None:
        super().__init__()
        self.encoder, self.num_replicas = encoder, encoder.num_replicas
        self.register_buffer("start", projection.clone())
        # in units of a tenth of a typical entry: a step of the optimiser is then a small change
        self.register_buffer("unit", 0.1 * projection.square().mean((1, 2), keepdim=True).sqrt())
        self.change = nn.Parameter(torch.zeros_like(projection))

    @property
    def projection(self) -> Tensor:
        """The layer, (R, M, P)."""
        return self.start + self.unit * self.change

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latent (R, ..., D) and remainder (R, ..., K) of centred instruments x (R, ..., M)."""
        return self.encoder.encode(_project(x, self.projection))

    def decode(self, g: Tensor, h: Tensor) -> Tensor:
        """Scores (R, ..., P) from latent and remainder."""
        return self.encoder.decode(g, h)

    def target(self, x: Tensor) -> Tensor:
        """What people x are to be decoded to: their scores by the start of the layer."""
        return _project(x, self.start)

    def environment_loss(self, h: Tensor) -> Tensor:
        """As that of the encoder."""
        return self.encoder.environment_loss(h)

    def decayed(self) -> list[nn.Parameter]:
        """Parameters that weight decay applies to: also the change of the layer."""
        return [*self.encoder.decayed(), self.change]


def _project(x: Tensor, projection: Tensor) -> Tensor:
    """Scores (R, ..., P) of x (R, ..., M)."""
    return (x.flatten(1, -2) @ projection).view(*x.shape[:-1], -1)
