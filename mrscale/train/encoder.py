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

from mrscale.errors import InputError
from mrscale.stats.design import fill_missing
from mrscale.stats.moments import Floats
from mrscale.stats.subspace import FrontEnd, StationarySubspace
from mrscale.train import checkpoint
from mrscale.train.models import Model, bare_model
from mrscale.train.ranks import one_thread

SCHEMA = 1
"""Version of the encoder's file; another one is refused."""
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
        with checkpoint.sound(path):
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
    """A trained encoder: instruments in, latent instruments and remainder out.

    Attributes
    ----------
    method : {"linear", "kernel", "flow"}
    latent_dim : int
    front : FrontEnd
    mean_dosage : ndarray, shape (E, M)
    directions : ndarray, shape (P, P)
        Linear map of the scores; used by the linear encoder only.
    model : Flow, KernelEncoder or None
        One replica.
    remainder_mean, remainder_sd : ndarray, shape (K,)
        Of the training people, or of those who judge where the first layer was trained, so that the
        remainder comes out of about unit scale.
    story : dict
        Settings, digests, held-out worths, training history.
    """

    method: str
    latent_dim: int
    front: FrontEnd
    mean_dosage: Floats
    directions: Floats
    model: Model | None
    remainder_mean: Floats
    remainder_sd: Floats
    story: dict[str, Any]

    def encode(
        self, dosage: NDArray[Any], environment: NDArray[np.int16]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Latent instruments (N, L) and standardised remainder (N, K) of people.

        Parameters
        ----------
        dosage : ndarray, shape (N, M), of integers or floats
            Effect alleles; a negative integer or NaN is missing.
        environment : ndarray, shape (N,), int16
            Used to fill missing calls only.
        """
        scores = self.front.scores(fill_missing(dosage, environment, self.mean_dosage))
        z = map_scores(scores, self.directions, self.model)
        remainder = (z[:, self.latent_dim :] - self.remainder_mean) / self.remainder_sd
        return z[:, : self.latent_dim].astype(np.float32), remainder.astype(np.float32)

    def save(self, path: str | Path) -> None:
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
        if self.model is not None:
            tensors |= {f"model.{name}": value for name, value in self.model.state_dict().items()}
        shape = {"schema": SCHEMA, "method": self.method, "latent_dim": self.latent_dim}
        checkpoint.save(path, tensors, {**shape, **self.story})

    @classmethod
    def load(cls, path: str | Path) -> Encoder:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If the file is an encoder of another schema.
        RunError
            If it is damaged.
        """
        tensors, story = checkpoint.load(path)
        if (found := story.pop("schema", None)) != SCHEMA:
            raise InputError(
                f"{path} must be an encoder of schema {SCHEMA}; found "
                f"{'none' if found is None else f'schema {found}'}; train it again with this "
                "version of mrscale"
            )
        with checkpoint.sound(path):
            return cls._of(tensors, story)

    @classmethod
    def _of(cls, tensors: dict[str, torch.Tensor], story: dict[str, Any]) -> Encoder:
        method, latent_dim = story.pop("method"), story.pop("latent_dim")
        state = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        a = {name: value.numpy() for name, value in tensors.items()}
        _require_shapes(a, latent_dim)
        model = None
        if state:
            model = bare_model(method, len(a["directions"]), latent_dim, len(a["mean_dosage"]))
            model.load_state_dict(state)
        return cls(
            method=method,
            latent_dim=latent_dim,
            front=FrontEnd(a["origin"], a["projection"], a["eigenvalues"]),
            mean_dosage=a["mean_dosage"],
            directions=a["directions"],
            model=model,
            remainder_mean=a["remainder_mean"],
            remainder_sd=a["remainder_sd"],
            story=story,
        )


@one_thread()
@torch.no_grad()
def map_scores(scores: Floats, directions: Floats, model: Model | None) -> Floats:
    """z of shape (N, P): by the model's only replica if there is one, else linear."""
    if model is None:
        return scores @ directions
    dtype = next(model.parameters()).dtype
    parts = [
        model.map(torch.as_tensor(part).to(dtype)[None])[0][0].numpy()
        for part in np.split(scores, range(ENCODE_BATCH, len(scores), ENCODE_BATCH))
    ]
    return np.concatenate(parts).astype(np.float64)


def finish(
    method: str,
    latent_dim: int,
    prepared: Prepared,
    model: Model | None,
    story: dict[str, Any],
) -> Encoder:
    """Turn a start and, where one was trained, a model of one replica into an :class:`Encoder`."""
    directions = prepared.subspace.directions
    z = map_scores(prepared.scores.astype(np.float64), directions, model)[:, latent_dim:]
    spread = z.std(0)
    return Encoder(
        method=method,
        latent_dim=latent_dim,
        front=prepared.front,
        mean_dosage=prepared.mean_dosage,
        directions=directions,
        model=model,
        remainder_mean=z.mean(0),
        remainder_sd=np.where(spread > 0, spread, 1.0),
        story=story,
    )


def _require_shapes(a: dict[str, NDArray[Any]], latent_dim: Any) -> None:
    """Refuse, by a ValueError, arrays that do not fit together, before a model is made for them."""
    M, P = a["projection"].shape
    expected = {
        "origin": (M,),
        "eigenvalues": (len(a["eigenvalues"]),),
        "directions": (P, P),
        "mean_dosage": (len(a["mean_dosage"]), M),
    }
    fits = all(a[name].shape == shape for name, shape in expected.items())
    if not fits or type(latent_dim) is not int or not 0 < latent_dim <= P:
        raise ValueError
    if not a["remainder_mean"].shape == a["remainder_sd"].shape == (P - latent_dim,):
        raise ValueError


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
