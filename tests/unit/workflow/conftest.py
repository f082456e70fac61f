"""Stores with a twist, without Spark."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mrscale.store import writer
from mrscale.store.reader import open_store


@pytest.fixture
def changed_store(small_store, tmp_path):
    """Copy the small store with some of its arrays replaced."""

    def change(**arrays: np.ndarray) -> Path:
        path = tmp_path / "changed.zarr"
        shutil.copytree(small_store, path)
        for name, values in arrays.items():
            writer.write_array(path, name, values)
        return path

    return change


@pytest.fixture(scope="session")
def small(small_store):
    """The small store, opened."""
    return open_store(small_store)
