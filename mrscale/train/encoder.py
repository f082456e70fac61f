"""Encoders as artefacts: what was learned on one fold of people, applied to all the others.

Legend: N people, M variants, P factors, L latent instruments, K = P - L remainder, E environments.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrscale.nn.flow import Flow, FlowShape
from mrscale.stats.design import fill_missing
from mrscale.stats.moments import Floats, Moments
from mrscale.stats.subspace import FrontEnd, StationarySubspace
from mrscale.train import checkpoint

ENCODE_BATCH = 4096


@dataclass(frozen=True, eq=False)
class Prepared:
    """What one fold's encoders start from: everything linear, from moments.

    Attributes
    ----------
    front : FrontEnd
        Fitted on the fold's people.
    mean_dosage : ndarray, shape (E, M)
        Fills missing calls.
    subspace : StationarySubspace
        Of the fold's scores.
    rows : ndarray, shape (N,), int64
        The fold's rows of the store, increasing.
    scores : ndarray, shape (N, P), float32
        Their scores.
    invariant : int
        Directions that the permutation test found invariant.
    """

    front: FrontEnd
    mean_dosage: Floats
    subspace: StationarySubspace
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    invariant: int

    def save(self, path: Path, story: dict[str, Any]) -> None:
        """Write to a safetensors file with its story (digests, settings)."""
        arrays: dict[str, NDArray[Any]] = {
            "origin": self.front.origin,
            "projection": self.front.projection,
            "eigenvalues": self.front.eigenvalues,
            "mean_dosage": self.mean_dosage,
            "directions": self.subspace.directions,
            "nonstationarity": self.subspace.nonstationarity,
            "rows": self.rows,
            "scores": self.scores,
        }
        tensors = {name: _tensor(value) for name, value in arrays.items()}
        checkpoint.save(path, tensors, {**story, "invariant": self.invariant})

    @classmethod
    def load(cls, path: Path) -> Prepared:
        """Read what :meth:`save` wrote."""
        tensors, story = checkpoint.load(path)
        a = {name: tensor.numpy() for name, tensor in tensors.items()}
        return cls(
            front=FrontEnd(a["origin"], a["projection"], a["eigenvalues"]),
            mean_dosage=a["mean_dosage"],
            subspace=StationarySubspace(a["directions"], a["nonstationarity"]),
            rows=a["rows"],
            scores=a["scores"],
            invariant=story["invariant"],
        )


@dataclass(frozen=True, eq=False)
class Encoder:
    """A trained encoder: dosages in, latent instruments and remainder out.

    Attributes
    ----------
    method : {"linear", "flow"}
    latent_dim : int
    front : FrontEnd
    mean_dosage : ndarray, shape (E, M)
    directions : ndarray, shape (P, P)
        Linear map of the scores; used by the linear encoder only.
    flow : Flow or None
        The map of the flow encoder, one restart.
    remainder_mean, remainder_sd : ndarray, shape (K,)
        Of the training people, so that the remainder comes out of about unit scale.
    story : dict
        Settings, digests, held-out likelihoods, training history.
    """

    method: str
    latent_dim: int
    front: FrontEnd
    mean_dosage: Floats
    directions: Floats
    flow: Flow | None
    remainder_mean: Floats
    remainder_sd: Floats
    story: dict[str, Any]

    def encode(
        self, dosage: NDArray[Any], environment: NDArray[np.int16]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Latent instruments (N, L) and standardised remainder (N, K) of people.

        Parameters
        ----------
        dosage : ndarray, shape (N, M), int8 or float32
            Effect alleles; negative or NaN is missing.
        environment : ndarray, shape (N,), int16
            Used to fill missing calls only.
        """
        scores = self.front.scores(fill_missing(dosage, environment, self.mean_dosage))
        z = map_scores(scores, self.directions, self.flow)
        remainder = (z[:, self.latent_dim :] - self.remainder_mean) / self.remainder_sd
        return z[:, : self.latent_dim].astype(np.float32), remainder.astype(np.float32)

    def save(self, path: Path) -> None:
        """Write to a safetensors file."""
        tensors = {
            "origin": _tensor(self.front.origin),
            "projection": _tensor(self.front.projection),
            "eigenvalues": _tensor(self.front.eigenvalues),
            "mean_dosage": _tensor(self.mean_dosage),
            "directions": _tensor(self.directions),
            "remainder_mean": _tensor(self.remainder_mean),
            "remainder_sd": _tensor(self.remainder_sd),
        }
        if self.flow is not None:
            tensors |= {f"flow.{name}": value for name, value in self.flow.state_dict().items()}
        shape = {"method": self.method, "latent_dim": self.latent_dim}
        checkpoint.save(path, tensors, {**shape, **self.story})

    @classmethod
    def load(cls, path: Path) -> Encoder:
        """Read what :meth:`save` wrote."""
        tensors, story = checkpoint.load(path)
        method, latent_dim = story.pop("method"), story.pop("latent_dim")
        state = {k.removeprefix("flow."): v for k, v in tensors.items() if k.startswith("flow.")}
        a = {name: value.numpy() for name, value in tensors.items()}
        directions, environments = a["directions"], len(a["mean_dosage"])
        flow = None
        if state:
            flow = start_flow(directions, np.zeros((0, 0)), latent_dim, environments)
            flow.load_state_dict(state)
        return cls(
            method=method,
            latent_dim=latent_dim,
            front=FrontEnd(a["origin"], a["projection"], a["eigenvalues"]),
            mean_dosage=a["mean_dosage"],
            directions=directions,
            flow=flow,
            remainder_mean=a["remainder_mean"],
            remainder_sd=a["remainder_sd"],
            story=story,
        )


def start_flow(
    directions: Floats,
    latents_by_environment: list[Floats] | Floats,
    latent_dim: int,
    num_environments: int,
    *,
    restarts: int = 1,
    seed: int = 0,
) -> Flow:
    """A flow encoder that starts at the linear one.

    Parameters
    ----------
    directions : ndarray, shape (P, P)
        Linear map of the scores, most stationary direction first.
    latents_by_environment : list of ndarray, shape (N_e, P)
        ``scores @ directions`` of the training people, for the start of the remainder's law;
        empty where weights will be loaded anyway.
    latent_dim, num_environments, restarts, seed : int
    """
    p, k = len(directions), len(directions) - latent_dim
    shape = FlowShape(p, latent_dim, num_environments, restarts)
    mean = np.zeros((num_environments, k))
    root = np.tile(np.eye(k), (num_environments, 1, 1))
    for code, latents in enumerate(latents_by_environment):
        remainder = Moments.from_block(latents[:, latent_dim:])
        mean[code] = remainder.mean
        covariance = remainder.covariance + 1e-3 * np.eye(k)
        root[code] = np.linalg.inv(np.linalg.cholesky(covariance))
    start, mean_start, root_start = (torch.tensor(v).float() for v in (directions, mean, root))
    generator = torch.Generator().manual_seed(seed)
    return Flow(shape, start, mean_start, root_start, generator)


@torch.no_grad()
def map_scores(scores: Floats, directions: Floats, flow: Flow | None) -> Floats:
    """z of shape (N, P): by the flow (its first restart) if there is one, else linear."""
    if flow is None:
        return scores @ directions
    dtype = next(flow.parameters()).dtype
    parts = [
        flow.map(torch.as_tensor(part).to(dtype))[0][0].numpy()
        for part in np.split(scores, range(ENCODE_BATCH, len(scores), ENCODE_BATCH))
    ]
    return np.concatenate(parts).astype(np.float64)


def finish(
    method: str,
    latent_dim: int,
    prepared: Prepared,
    flow: Flow | None,
    story: dict[str, Any],
) -> Encoder:
    """Turn a start and, for the flow encoder, trained weights into an :class:`Encoder`."""
    directions = prepared.subspace.directions
    z = map_scores(prepared.scores.astype(np.float64), directions, flow)[:, latent_dim:]
    return Encoder(
        method=method,
        latent_dim=latent_dim,
        front=prepared.front,
        mean_dosage=prepared.mean_dosage,
        directions=directions,
        flow=flow,
        remainder_mean=z.mean(0),
        remainder_sd=z.std(0),
        story=story,
    )


def keep_restart(flow: Flow, start: Flow, restart: int) -> Flow:
    """Copy one restart of ``flow`` into ``start``, a flow of the same shape with one restart."""
    state = {name: value[[restart]] for name, value in flow.state_dict().items()}
    start.load_state_dict(state)
    return start


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
