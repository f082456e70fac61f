"""Checking a whole store: every array against its digest, and the ranges of the schema."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrscale.errors import StoreError
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.store.schema import ARRAYS, MISSING_DOSAGE
from mrscale.store.writer import DOSAGE, array_digest


def verify(path: str | Path) -> None:
    """Read everything once and compare it with the manifest.

    Parameters
    ----------
    path : str or Path
        Folder of a genotype store.

    Raises
    ------
    StoreError
        If the store is unfinished, a checksum or digest does not match, or a code is out of
        range. The message names the array and, for dosages, the shard or chunk.
    """
    store = open_store(path)
    for spec in ARRAYS:
        if spec.name != DOSAGE:
            _require(
                _small_digest(store, spec.name) == store.manifest["arrays"][spec.name],
                f"array {spec.name} differs from its digest",
            )
    _verify_environments(store)
    for index, expected in enumerate(store.manifest["shards"]):
        rows = store.layout.shard(index)
        dosage_NM = store.dosage(rows)
        where = f"{DOSAGE}, shard {index} (rows {rows.start} to {rows.stop - 1})"
        _require(array_digest(dosage_NM) == expected, f"{where} differs from its digest")
        in_range = dosage_NM.min() >= MISSING_DOSAGE and dosage_NM.max() <= 2
        _require(bool(in_range), f"{where} has codes other than -1, 0, 1, 2")


def _small_digest(store: GenotypeStore, name: str) -> str:
    return array_digest(store.array(name))


def _verify_environments(store: GenotypeStore) -> None:
    environment_N = store.array("environment")
    starts_E = np.flatnonzero(np.diff(environment_N, prepend=-1))
    offsets_E = store.array("environment_offset")
    _require(
        bool((np.diff(environment_N) >= 0).all()) and np.array_equal(starts_E, offsets_E),
        "environment_offset does not fit environment",
    )


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise StoreError(f"the store is damaged: {problem}; extract it again")
