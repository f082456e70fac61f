"""Canonical problems built from raw columns by QR, independently of the package's own reduction.

Test files of several folders load it by path (``runpy``): with ``--import-mode=importlib`` the
folder of tests is not a package.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import linalg

from mrscale.stats.reduced import Meats, Reduced


class Columns(NamedTuple):
    """Instruments (N, M), exposures (N, P), outcome (N,), covariates (N, K), clusters (N,)."""

    z: np.ndarray
    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    clusters: np.ndarray

    @property
    def controls(self) -> np.ndarray:
        return np.column_stack([np.ones(len(self.y)), self.w])


class Problem(NamedTuple):
    """The canonical form with the rows it came from, covariates partialled out."""

    reduced: Reduced
    meats: Meats
    reduced_form: np.ndarray
    z: np.ndarray
    traits: np.ndarray
    codes: np.ndarray

    def outer(self, scores: np.ndarray) -> np.ndarray:
        return _outer(scores, self.codes)


def design(seed, n=300, m=4, p=1, *, strength=0.3, k=2, num_clusters=50, confounding=1.0):
    """Heteroskedastic errors that families share; effects 0.5 to -0.3."""
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, num_clusters, n)
    w = rng.normal(size=(n, k))
    z = rng.normal(size=(n, m)) + 0.3 * w @ rng.normal(size=(k, m))
    common = confounding * (rng.normal(size=n) + 0.5 * rng.normal(size=num_clusters)[clusters])
    x = strength * z @ rng.normal(size=(m, p)) + common[:, None] + rng.normal(size=(n, p))
    u = common + rng.normal(size=n) * (0.5 + np.abs(z[:, 0]))
    return Columns(z, x, x @ np.linspace(0.5, -0.3, p) + w.sum(1) + u, w, clusters)


def canonical(columns: Columns, clustered: bool = False) -> Problem:
    n = len(columns.y)
    controls = _basis(columns.controls)

    def off(a: np.ndarray) -> np.ndarray:
        for _ in range(2):  # once more, for what rounding left
            a = a - controls @ (controls.T @ a)
        return a

    z, x, y = _basis(off(columns.z)), off(columns.x), off(columns.y)
    traits = np.column_stack([x, y])
    residuals = traits - z @ (z.T @ traits)
    codes = np.unique(columns.clusters, return_inverse=True)[1] if clustered else np.arange(n)
    reduced = Reduced(n, controls.shape[1], z.T @ x, z.T @ y, x.T @ x, x.T @ y, float(y @ y))
    form = _meat(z, residuals, codes)
    p = x.shape[1]
    meats = Meats(_meat(z, traits, codes), int(codes.max()) + 1, form[:p, :p])
    return Problem(reduced, meats, form, z, traits, codes)


def homoskedastic(reduced: Reduced) -> Meats:
    """Meats that say what classical errors assume: ``r'Mr / dof`` for every instrument."""
    zr = np.column_stack([reduced.zx, reduced.zy])
    xy = reduced.xy[:, None]
    off = np.block([[reduced.xx, xy], [xy.T, np.array([[reduced.yy]])]]) - zr.T @ zr
    traits = np.multiply.outer(off / reduced.dof, np.eye(reduced.num_instruments))
    return Meats(traits, reduced.count, traits[:-1, :-1])


def _basis(a: np.ndarray) -> np.ndarray:
    q, r, _ = linalg.qr(a, mode="economic", pivoting=True)
    diagonal = np.abs(np.diag(r))
    return q[:, diagonal > 1e-8 * diagonal[0]]


def _outer(scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
    sums = np.zeros((codes.max() + 1, scores.shape[1]))
    np.add.at(sums, codes, scores)
    return sums.T @ sums


def _meat(z: np.ndarray, columns: np.ndarray, codes: np.ndarray) -> np.ndarray:
    scores = (columns[:, :, None] * z[:, None, :]).reshape(len(z), -1)
    shape = (columns.shape[1], z.shape[1])
    return _outer(scores, codes).reshape(*shape, *shape).transpose(0, 2, 1, 3)
