"""A store of 150 people in two environments, written shard by shard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrscale.store import writer
from mrscale.store.schema import ARRAYS, CALLS, Layout

LAYOUT = Layout(num_samples=150, num_variants=7, chunk_rows=16, shard_rows=64)
SIZES = {"samples": 150, "variants": 7, "environments": 2, "exposures": 1, "outcomes": 2}
SIZES |= {"covariates": 0, "alleles": 2}


@pytest.fixture
def layout() -> Layout:
    return LAYOUT


@pytest.fixture
def values() -> dict[str, Any]:
    """Every array of the schema."""
    rng = np.random.default_rng(5)
    arrays: dict[str, Any] = {}
    for spec in ARRAYS:
        shape = tuple(SIZES[dim] for dim in spec.dims)
        if spec.dtype == "str":
            texts = [f"{spec.name}-{i}" for i in range(int(np.prod(shape)))]
            arrays[spec.name] = np.array(texts, dtype=object).reshape(shape)
        elif spec.dtype == "float32":
            arrays[spec.name] = rng.random(shape).astype(np.float32)
        else:
            arrays[spec.name] = rng.integers(0, 3, size=shape).astype(spec.dtype)
    arrays["call_dosage"][rng.random((150, 7)) < 0.1] = -1
    arrays["environment"] = np.repeat([0, 1], [90, 60]).astype(np.int16)
    arrays["environment_offset"] = np.array([0, 90])
    arrays["family"] = np.repeat(np.arange(-1, 49), 3).astype(np.int32)
    arrays["fold"] = (arrays["family"] % 3).astype(np.int8)
    arrays["variant_effect_allele"] = arrays["variant_allele"][:, 1].copy()
    return arrays


Write = Callable[..., dict[str, Any]]


@pytest.fixture
def write() -> Write:
    """Write a whole store of such arrays; its manifest."""

    def run(path, arrays, code=CALLS, layout=LAYOUT):
        writer.create(path, layout, code=code)
        dosage = arrays["call_dosage"]
        small = {n: writer.write_array(path, n, v) for n, v in arrays.items() if n != "call_dosage"}
        shards = {
            i: writer.write_shard(path, i, dosage[layout.shard(i)], key="k")
            for i in range(layout.num_shards)
        }
        return writer.finalise(
            path, layout=layout, arrays=small, shards=shards, report={}, provenance={}, run={}
        )

    return run


@pytest.fixture
def store(tmp_path: Path, write: Write, values: dict[str, Any]) -> Path:
    write(tmp_path / "s.zarr", values)
    return tmp_path / "s.zarr"
