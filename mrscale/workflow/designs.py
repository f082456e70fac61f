"""Which columns every estimator uses, and where a block of rows gets them from.

A *frame* is a design matrix [instruments and controls | exposure | outcome] that several
estimators share; an *estimator* picks columns of one frame, or of one frame per encoder.

Legend: N people, M variants, L latents, E environments, S encoders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrscale.config import is_principal_component
from mrscale.results.pair import RIVAL
from mrscale.stats.design import fill_missing, has_every_call, indicators, polynomial_basis
from mrscale.stats.moments import Floats
from mrscale.workflow.cohorts import Cohort, with_every_call
from mrscale.workflow.latents import Latents

GENOTYPE = ("genotype", 0)
ORACLE = ("oracle", 0)
LATENT_DEGREE = 2
REMAINDER_DEGREE = 3

Frame = tuple[str, int]
"""Name of a frame: what it is made from, and which encoder."""


@dataclass(frozen=True, eq=False)
class Estimator:
    """Instruments and controls of one estimator, as columns of its frames."""

    key: str
    label: str
    frames: tuple[Frame, ...]
    instruments: NDArray[np.intp]
    controls: NDArray[np.intp]

    @property
    def columns(self) -> NDArray[np.intp]:
        """Columns in the order [instruments | controls | exposure | outcome]."""
        return np.concatenate([self.instruments, self.controls, [-2, -1]]).astype(np.intp)


@dataclass(frozen=True, eq=False)
class FrameRows:
    """Rows of one frame in one block: the matrix, and the environment of each row."""

    matrix: Floats
    environment: NDArray[np.int16]
    row: NDArray[np.intp]
    """Position of each person in the block."""


@dataclass(frozen=True, eq=False)
class PairData:
    """Everything needed to build the frames of one exposure and outcome.

    Attributes
    ----------
    store : Cohort
    fill : ndarray, shape (E, M)
        Mean dosages that replace missing calls.
    drop_missing : bool
        Leave out people with a missing call instead.
    exposure, outcome : int
        Columns of the store's trait arrays.
    latents : Latents
        Of everybody, by all encoders; without methods if there are none.
    oracle : ndarray, shape (N, L), or None
        True exogenous latents, for simulated data.
    covariates : tuple of str, optional
        Names in the store; all of its covariates by default.
    clustered : bool, default False
        Errors by the store's clusters, which are families unless the study named others.
    """

    store: Cohort
    fill: Floats
    drop_missing: bool
    exposure: int
    outcome: int
    latents: Latents
    oracle: Floats | None
    covariates: tuple[str, ...] | None = None
    clustered: bool = False

    @cached_property
    def covariate_names(self) -> list[str]:
        """Covariates in use, in the order of their columns."""
        there = self.store.names("covariates")
        return there if self.covariates is None else list(self.covariates)

    @cached_property
    def _covariate_columns(self) -> list[int]:
        there = self.store.names("covariates")
        return [there.index(name) for name in self.covariate_names]

    def covariate_rows(self, rows: slice) -> Floats:
        """Values of the covariates in use, shape (rows, K)."""
        values = self.store.array("covariate", rows)[:, self._covariate_columns]
        return values.astype(np.float64)

    @cached_property
    def cluster_sizes(self) -> NDArray[np.intp] | None:
        """People of each cluster of the store, shape (G,); None if errors are not clustered."""
        if not self.clustered:
            return None
        code = self.store.array("cluster")
        return np.bincount(code[code >= 0])

    @cached_property
    def _units(self) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
        """Cluster (-1 is its own) and environment of everybody in the estimates."""
        used = self._with_traits(slice(0, self.store.num_samples))
        if self.drop_missing:
            used &= with_every_call(self.store)
        return self.store.array("cluster")[used], self.store.array("environment")[used]

    def __getstate__(self) -> dict[str, Any]:
        # workers get what was given, not what this process has made of it
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def num_clusters(self, environments: Sequence[int] = ()) -> int:
        """Clusters of the people in the estimates of some environments, or of all if none is named;
        people of their own are clusters."""
        code, environment = self._units
        inside = code[np.isin(environment, environments)] if environments else code
        return len(np.unique(inside[inside >= 0])) + int((inside < 0).sum())

    def _with_traits(self, rows: slice) -> NDArray[np.bool_]:
        x = self.store.array("exposure", rows)[:, self.exposure]
        y = self.store.array("outcome", rows)[:, self.outcome]
        w = self.covariate_rows(rows)
        return np.asarray(np.isfinite(x) & np.isfinite(y) & np.isfinite(w).all(axis=1))

    def complete(self, rows: slice, dosage: NDArray[Any]) -> NDArray[np.bool_]:
        """Which people have exposure, outcome, every covariate and the calls they need."""
        found = self._with_traits(rows)
        return found & has_every_call(dosage) if self.drop_missing else found

    def frames(self, rows: slice) -> Iterator[tuple[Frame, FrameRows]]:
        """The frames of one block of rows, complete cases only."""
        dosage = self.store.expected_dosage(rows)
        keep = self.complete(rows, dosage)
        environment = self.store.array("environment", rows)[keep]
        dummies = indicators(environment, len(self.fill))
        covariates = self.covariate_rows(rows)[keep]
        plain, components = _split_covariates(self.covariate_names)
        traits = np.column_stack(
            [
                self.store.array("exposure", rows)[keep, self.exposure],
                self.store.array("outcome", rows)[keep, self.outcome],
            ]
        ).astype(np.float64)
        everyone, people = np.arange(len(environment)), np.flatnonzero(keep)
        base = covariates[:, plain]

        def frame(parts: list[Floats], index: NDArray[np.intp]) -> FrameRows:
            matrix = np.concatenate([part[index] for part in [*parts, traits]], axis=1)
            return FrameRows(matrix, environment[index], people[index])

        filled = fill_missing(dosage[keep], environment, self.fill)
        yield GENOTYPE, frame([filled, base, covariates[:, components], dummies], everyone)
        if self.oracle is not None:
            truth = polynomial_basis(self.oracle[rows][keep], LATENT_DEGREE)
            yield ORACLE, frame([truth, base], everyone)
        for method, s, latent, remainder in self._encoded(rows):
            inside = np.flatnonzero(~np.isnan(latent[keep, 0]))
            g = polynomial_basis(np.nan_to_num(latent[keep]), LATENT_DEGREE)
            h = polynomial_basis(np.nan_to_num(remainder[keep]), REMAINDER_DEGREE)
            yield (method, s), frame([g, base, dummies, h], inside)

    def _encoded(self, rows: slice) -> Iterator[tuple[str, int, Floats, Floats]]:
        for method in self.latents.methods:
            for s, (latent, remainder) in enumerate(self.latents.of(method, rows)):
                yield method, s, latent, remainder

    def estimators(self) -> list[Estimator]:
        """All estimators that the data allow, in the order of the report."""
        plain, components = _split_covariates(self.covariate_names)
        m, k, c = self.store.num_variants, len(plain), len(components)
        dummies = len(self.fill) - 1
        variants, none = np.arange(m), np.arange(0)
        base = m + np.arange(k)
        adjusted = m + np.arange(k + c + dummies)
        rival = "2SLS, PCs and environment adjusted" if c else "2SLS, environment adjusted"
        found = [
            Estimator("ols", "OLS (no instruments)", (GENOTYPE,), none, base),
            Estimator("tsls", "2SLS, all variants (naive)", (GENOTYPE,), variants, base),
            Estimator(RIVAL, rival, (GENOTYPE,), variants, adjusted),
        ]
        for method in self.latents.methods:
            found += self._learned(method, k, dummies)
        if self.oracle is not None:
            width = basis_width(self.oracle.shape[1], LATENT_DEGREE)
            oracle, label = np.arange(width), "2SLS on the true latent (oracle)"
            found.append(Estimator("oracle", label, (ORACLE,), oracle, width + np.arange(k)))
        return found

    def _learned(self, method: str, k: int, dummies: int) -> list[Estimator]:
        encoders, latent_dim, remainder_dim = self.latents.shape(method)
        frames = tuple((method, s) for s in range(encoders))
        basis = np.arange(basis_width(latent_dim, LATENT_DEGREE))
        controls = k + dummies + basis_width(remainder_dim, REMAINDER_DEGREE)
        after = len(basis) + np.arange(controls)
        name = f"Learned, {self.latents.alternatives.get(method, method)}"
        controlled = Estimator(f"{method}_controls", f"{name} with controls", frames, basis, after)
        if method in self.latents.alternatives:
            return [controlled]
        return [Estimator(method, name, frames, basis[:latent_dim], after[:k]), controlled]


def _split_covariates(names: list[str]) -> tuple[list[int], list[int]]:
    """Indices of ordinary covariates and of genetic principal components."""
    components = [i for i, name in enumerate(names) if is_principal_component(name)]
    return [i for i in range(len(names)) if i not in components], components


def basis_width(columns: int, degree: int) -> int:
    return polynomial_basis(np.zeros((1, columns)), degree).shape[1]
