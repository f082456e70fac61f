"""Trainable models at their linear start, many side by side, and one of them by itself.

Legend: S blocks of people, R replicas, P factors, D latent dimension, E environments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrscale.nn.autoencoder import EndToEnd, KernelEncoder
from mrscale.nn.flow import Flow, FlowShape
from mrscale.stats.moments import Floats, Moments

Model = Flow | KernelEncoder
JITTER = 0.2
"""Spread of the entries of a restart's linear start, relative to 1 / sqrt(P)."""
RIDGE = 1e-3


def start_flows(
    directions: Sequence[Floats],
    latents: Sequence[Floats],
    environments: Sequence[NDArray[np.integer]],
    latent_dims: Sequence[int],
    num_environments: int,
    *,
    restarts: int = 1,
    seed: int = 0,
) -> Flow:
    """Flows that start at linear encoders: per block, per latent dimension, per restart.

    Parameters
    ----------
    directions : sequence of S ndarrays, shape (P, P)
        Linear map of each block's scores, most stationary direction first.
    latents : sequence of S ndarrays, shape (N_s, P)
        ``scores @ directions`` of the block's people, for the start of the remainder's law.
    environments : sequence of S ndarrays of int, shape (N_s,)
    latent_dims : sequence of int
    num_environments, restarts, seed : int
        The first restart starts exactly at the linear map, the others near it.
    """
    generator = torch.Generator().manual_seed(seed)
    means, roots = [], []
    for z, codes in zip(latents, environments, strict=True):
        groups = [Moments.from_block(z[codes == e]) for e in range(num_environments)]
        mean = np.stack([group.mean for group in groups])
        for latent_dim in latent_dims:
            root = np.stack([_root_precision(group, latent_dim) for group in groups])
            means += [mean] * restarts
            roots += [root] * restarts
    starts = _starts(directions, len(latent_dims), restarts, generator)
    dims = tuple(dim for _ in directions for dim in latent_dims for _ in range(restarts))
    shape = FlowShape(len(directions[0]), num_environments, dims)
    mean_start, root_start = (torch.tensor(np.stack(v)).float() for v in (means, roots))
    return Flow(shape, starts, mean_start, root_start, generator)


def start_kernels(
    directions: Sequence[Floats],
    latent_dim: int,
    num_environments: int,
    *,
    restarts: int = 1,
    seed: int = 0,
    projections: Sequence[Floats] | None = None,
) -> KernelEncoder | EndToEnd:
    """Kernel encoders that start at linear ones: per block, per restart; as :func:`start_flows`.

    With ``projections``, an ndarray (M, P) for each block, behind linear layers that start there.
    """
    generator = torch.Generator().manual_seed(seed)
    starts = _starts(directions, 1, restarts, generator)
    encoder = KernelEncoder(starts, latent_dim, num_environments, generator)
    if projections is None:
        return encoder
    layers = torch.from_numpy(np.stack(projections)).float().repeat_interleave(restarts, 0)
    return EndToEnd(encoder, layers)


def bare_model(method: str, factors: int, latent_dim: int, num_environments: int) -> Model:
    """A model of one replica, to load weights into."""
    directions, nobody = [np.eye(factors)], [np.zeros((0, factors))]
    if method == "kernel":
        generator = torch.Generator().manual_seed(0)
        return KernelEncoder(torch.eye(factors)[None], latent_dim, num_environments, generator)
    codes = [np.zeros(0, np.int64)]
    return start_flows(directions, nobody, codes, [latent_dim], num_environments)


def keep_replica(model: Model, single: Model, replica: int) -> Model:
    """Copy one replica into ``single``, a model of one of the same kind."""
    single.load_state_dict({name: v[[replica]] for name, v in model.state_dict().items()})
    return single


def _starts(
    directions: Sequence[Floats], variants: int, restarts: int, generator: torch.Generator
) -> Tensor:
    """Linear starts (R, P, P): blocks slowest, then variants, then restarts."""
    p = len(directions[0])
    starts = []
    for block in directions:
        for _ in range(variants):
            jitter = JITTER / math.sqrt(p) * torch.randn(restarts, p, p, generator=generator)
            jitter[0] = 0
            starts.append(torch.tensor(block).float() + jitter)
    return torch.cat(starts)


def _root_precision(group: Moments, latent_dim: int) -> Floats:
    """Lower triangular L, L'L the precision of the remainder; the identity for the latent."""
    p = len(group.mean)
    root = np.eye(p)
    if group.count > 1:
        covariance = group.covariance[latent_dim:, latent_dim:] + RIDGE * np.eye(p - latent_dim)
        root[latent_dim:, latent_dim:] = np.linalg.inv(np.linalg.cholesky(covariance))
    return root
