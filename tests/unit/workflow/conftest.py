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


def rewritten(store, path, **arrays):
    """A copy of a store with some of its arrays replaced."""
    shutil.copytree(store.path, path)
    for name, values in arrays.items():
        shutil.rmtree(path / name)  # of another shape, it may be
        writer.write_array(path, name, values)
    return open_store(path)


@pytest.fixture(scope="module")
def rich(small_store, tmp_path_factory):
    """Two exposures, three outcomes, missing traits, and clusters that span environments."""
    rng = np.random.default_rng(11)
    small = open_store(small_store)
    n = small.num_samples
    dosage = small.dosage(slice(None)).clip(0).astype(float)
    exposure, outcome = small.array("exposure"), small.array("outcome")
    bmi = dosage @ rng.normal(size=30) * 0.4 + rng.normal(size=n) + exposure[:, 0]
    case = outcome[:, 0] > rng.normal(size=n)
    traits = {
        "exposure": np.c_[exposure, bmi],
        "outcome": np.c_[outcome, outcome[:, 0] + bmi, case],
        "covariate": small.array("covariate"),
    }
    for values in traits.values():
        values[rng.random(values.shape) < 0.03] = np.nan
    cluster = rng.integers(0, 150, n)
    cluster[rng.random(n) < 0.2] = -1
    names = {"exposures": ["ldl", "bmi"], "outcomes": ["chd", "stroke", "case"]}
    changed = {**traits, "cluster": cluster, **{k: np.array(v) for k, v in names.items()}}
    return rewritten(small, tmp_path_factory.mktemp("rich") / "rich.zarr", **changed)


@pytest.fixture
def changed_from(tmp_path):
    """Copy a store with some of its arrays replaced, opened."""

    return lambda store, **arrays: rewritten(store, tmp_path / "changed.zarr", **arrays)
