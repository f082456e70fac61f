"""Stores with a twist, without Spark, and the columns of a regression."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrscale.store import writer
from mrscale.store.reader import open_store


@pytest.fixture
def changed_store(small_store, tmp_path):
    """Copy the small store with some of its arrays replaced."""

    def change(**arrays: np.ndarray) -> Path:
        path = tmp_path / "changed.zarr"
        shutil.copytree(small_store, path, dirs_exist_ok=True)
        for name, values in arrays.items():
            writer.write_array(path, name, values)
        return path

    return change


@pytest.fixture
def damaged(small_store: Path, tmp_path: Path) -> Path:
    """A copy of the small store in which arrays may be written over."""
    shutil.copytree(small_store, tmp_path / "store.zarr")
    return tmp_path / "store.zarr"


@pytest.fixture(scope="session")
def small(small_store):
    """The small store, opened."""
    return open_store(small_store)


@pytest.fixture(scope="session")
def made() -> Callable[..., dict[str, Any]]:
    """Makes the columns of a regression of some people."""

    def people(n: int = 400, seed: int = 4) -> dict[str, Any]:
        """Dosages, a confounded exposure, a heteroskedastic outcome; families side by side."""
        rng = np.random.default_rng(seed)
        z = rng.binomial(2, 0.4, (n, 3)).astype(np.int8)
        u, w = rng.normal(size=n), rng.normal(size=(n, 2))
        x = z.sum(1) + u + w[:, 0] + rng.normal(size=n)
        y = 0.5 * x + u * (1 + z[:, 0]) + w.sum(1) + rng.normal(size=n)
        return {"outcome": y, "exposure": x, "instruments": z, "covariates": w}

    return people


@pytest.fixture(scope="module")
def data(made: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Columns of a regression of 400 people."""
    return made()
