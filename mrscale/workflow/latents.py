"""Latent instruments and remainders of everybody, by all encoders, on disk or in memory.

Legend: S encoders (one per fold), N people, L latents, K remainder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from mrscale.errors import RunError
from mrscale.stats.moments import Floats
from mrscale.store.reader import OPENING_ERRORS
from mrscale.train.encoder import Encoder
from mrscale.workflow.cohorts import Cohort

Encoders = dict[str, list[Encoder]]
"""Per method, one for each fold."""


@dataclass(frozen=True, eq=False)
class Latents:
    """Arrays ``<method>_latent`` (S, N, L) and ``<method>_remainder`` (S, N, K), float32; NaN where
    encoder s was trained on the person.

    Attributes
    ----------
    arrays : mapping of str to array
        numpy or zarr.
    methods : tuple of str
    alternatives : dict of str to str
        Those of the methods that only show how the estimate depends on choices, such as another
        restart, and what people read.
    """

    arrays: Mapping[str, Any]
    methods: tuple[str, ...]
    alternatives: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, methods: Sequence[str]) -> Latents:
        """Of a run folder; those of ``methods`` that are there.

        Raises
        ------
        RunError
            If files of theirs are lost or damaged: what is not there would be read as NaN, which
            is what people have whom the encoder has seen.
        """
        with _damage_told(path.name):
            group: Any = zarr.open_group(str(path), mode="r")
            there = tuple(method for method in methods if f"{method}_latent" in group)
            names = [f"{method}_{kind}" for method in there for kind in ("latent", "remainder")]
            arrays = {name: group[name] for name in names}
        for name, array in arrays.items():
            if array.nchunks_initialized < array.nchunks:
                raise _damaged(name, "files of it are lost")
        return cls(arrays, there)

    @classmethod
    def unfilled(
        cls, encoders: Encoders, num_samples: int, alternatives: Mapping[str, str]
    ) -> Latents:
        """In memory, to be filled by :func:`encode_rows`."""
        arrays = {
            name: np.full((len(trained), num_samples, width), np.nan, dtype=np.float32)
            for name, (trained, width) in widths(encoders).items()
        }
        return cls(arrays, tuple(encoders), alternatives)

    @property
    def main(self) -> list[str]:
        """The methods that are not alternatives."""
        return [method for method in self.methods if method not in self.alternatives]

    def shape(self, method: str) -> tuple[int, int, int]:
        """Number of encoders, latent dimension, remainder dimension."""
        encoders, _, latent_dim = self.arrays[f"{method}_latent"].shape
        return encoders, latent_dim, self.arrays[f"{method}_remainder"].shape[2]

    def of(self, method: str, rows: slice) -> Iterator[tuple[Floats, Floats]]:
        """Latents (N, L) and remainders (N, K) of each encoder of a method, for a block of rows."""
        latents, remainders = (
            self._read(f"{method}_{kind}", rows) for kind in ("latent", "remainder")
        )
        yield from zip(latents, remainders, strict=True)

    def _read(self, name: str, rows: slice) -> Floats:
        with _damage_told(name):
            return np.asarray(self.arrays[name][:, rows], dtype=np.float64)


@contextmanager
def _damage_told(what: str) -> Iterator[None]:
    try:
        yield
    except (*OPENING_ERRORS, FileNotFoundError) as error:
        raise _damaged(what, str(error)) from None


def _damaged(what: str, problem: str) -> RunError:
    return RunError(
        f"the latents of the run folder are damaged at {what}: {problem}; remove its latents.zarr, "
        "run mrscale encode study.toml, and then the same command again"
    )


def widths(encoders: Encoders) -> dict[str, tuple[list[Encoder], int]]:
    """Per array: its encoders and its number of columns."""
    found: dict[str, tuple[list[Encoder], int]] = {}
    for method, trained in encoders.items():
        latent_dim, factors = trained[0].latent_dim, trained[0].front.num_factors
        found[f"{method}_latent"] = trained, latent_dim
        found[f"{method}_remainder"] = trained, factors - latent_dim
    return found


def encode_rows(cohort: Cohort, encoders: Encoders, arrays: Any, rows: slice) -> None:
    """Encode one block of rows with all encoders and write it to the arrays of latents."""
    dosage = cohort.expected_dosage(rows)
    environment = cohort.array("environment", rows)
    fold = cohort.array("fold", rows)
    for method, trained in encoders.items():
        for s, encoder in enumerate(trained):
            latent, remainder = encoder.encode(dosage, environment)
            # nobody is ever given a latent by an encoder that has seen them
            latent[fold == s] = np.nan
            remainder[fold == s] = np.nan
            arrays[f"{method}_latent"][s, rows] = latent
            arrays[f"{method}_remainder"][s, rows] = remainder
