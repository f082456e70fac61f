"""Checking a whole store: every array against its digest, and the rules of the schema."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from mrscale import places
from mrscale.progress import Advance, silent
from mrscale.store import guard
from mrscale.store.arrays import digest_of
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.store.schema import DOSAGE, TRAITS

MOST_WORKERS = 8
"""Threads by default: each holds a whole shard, some 64 MiB of dosages, decoded."""
_SHARD_FILE = re.compile(r"c/(\d+)/0")

Check = Callable[[], None]


def verify(
    path: str | Path, *, workers: int | None = None, progress: Advance = silent
) -> GenotypeStore:
    """Read every array once and compare it with the manifest and the schema.

    Parameters
    ----------
    path : str or Path
        Folder or URL of a genotype store.
    workers : int, optional
        Threads; 0 works in this one. By default one per core, at most eight.
    progress : Advance
        Called with shares of the work that add up to 1.

    Returns
    -------
    GenotypeStore
        The store that was found sound.

    Raises
    ------
    StoreError
        If the store is unfinished, a file is missing or not the store's, a checksum or digest
        does not match, or a value breaks a rule. The message names the array and, for dosages,
        the shard or chunk.

    Examples
    --------
    ``store.zarr`` holds 900 simulated people of three environments, and 30 variants.

    >>> import mrscale as mr
    >>> print(mr.verify("store.zarr"))
    Genotype store store.zarr: 900 people, 30 variants
    """
    store = open_store(path)
    whole = (_check_files, _check_environments, _check_people, _check_variants)
    checks: list[Check] = [partial(check, store) for check in whole]
    for group, digests in _small_arrays(store):
        checks += [partial(_check_digest, store, group, name, digests[name]) for name in digests]
    # shards last: whatever is wrong with the small arrays is found in seconds
    checks += [partial(_check_shard, store, index) for index in range(store.layout.num_shards)]
    _run(checks, min(MOST_WORKERS, os.cpu_count() or 1) if workers is None else workers, progress)
    return store


def _run(checks: list[Check], workers: int, progress: Advance) -> None:
    share = 1 / len(checks)
    if workers == 0:
        for check in checks:
            check()
            progress(share)
        return
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(check) for check in checks]
        try:
            for future in futures:
                future.result()
                progress(share)
        finally:
            pool.shutdown(cancel_futures=True)


def _small_arrays(store: GenotypeStore) -> list[tuple[str, dict[str, str]]]:
    """Each group's path and the digests of its arrays, the dosages' aside."""
    digests = [store.manifest["arrays"], *(e["arrays"] for e in store.manifest["appended"])]
    return list(zip(store.groups, digests, strict=True))


def _check_files(store: GenotypeStore) -> None:
    names = places.files(places.join(store.path, DOSAGE))
    found = {int(m[1]) for name in names if (m := _SHARD_FILE.fullmatch(name))}
    expected = set(range(store.layout.num_shards if store.num_variants else 0))
    # zarr leaves these behind when it is killed
    strange = {n for n in names if not (_SHARD_FILE.fullmatch(n) or n.endswith(".partial"))}
    _require(found >= expected, f"{DOSAGE} lacks shard {min(expected - found, default='')}")
    _require(
        found <= expected and strange <= {"zarr.json"},
        f"{DOSAGE} has files that the manifest does not know",
    )


def _check_digest(store: GenotypeStore, group: str, name: str, expected: str) -> None:
    found = digest_of(store.read(group, name))
    _require(found == expected, f"array {_place(store, group, name)} differs from its digest")


def _check_environments(store: GenotypeStore) -> None:
    environment_N = store.array("environment")
    offset_E = store.array("environment_offset")
    num_environments = len(store.array("environment_name"))
    _require(
        bool((np.diff(environment_N) >= 0).all())
        and len(offset_E) == num_environments
        and bool((environment_N < num_environments).all())
        and np.array_equal(np.searchsorted(environment_N, np.arange(num_environments)), offset_E),
        "environment_offset does not fit environment",
    )


def _check_people(store: GenotypeStore) -> None:
    fold_N, family_N = store.array("fold"), store.array("family")
    ids = store.array("sample_id")
    _require(len(np.unique(ids)) == len(ids), "sample_id has an id twice")
    _require(bool((fold_N >= 0).all()), "fold has codes below 0")
    for name, codes in (("family", family_N), ("cluster", store.array("cluster"))):
        _require(bool((codes >= -1).all()), f"{name} has codes below -1")
    related = family_N >= 0
    pairs = np.unique(np.stack([family_N[related], fold_N[related]]), axis=1)
    _require(len(np.unique(pairs[0])) == pairs.shape[1], "a family is split over folds")
    for group in store.groups:
        for name, names in TRAITS.items():
            where = _place(store, group, name)
            values, columns = store.read(group, name), len(store.read(group, names))
            _require(not np.isinf(values).any(), f"{where} has infinite values")
            _require(values.shape == (store.num_samples, columns), f"{where} has another shape")


def _check_variants(store: GenotypeStore) -> None:
    for name in ("variant_allele_frequency", "variant_call_rate", "variant_hwe_p"):
        values = store.array(name)
        _require(
            bool((np.isnan(values) | ((values >= 0) & (values <= 1))).all()),
            f"{name} has values that are no shares",
        )
    alleles, effect = store.array("variant_allele"), store.array("variant_effect_allele")
    _require(
        len(effect) == store.num_variants and bool((alleles == effect[:, None]).any(axis=1).all()),
        "variant_effect_allele is not one of the alleles",
    )


def _check_shard(store: GenotypeStore, index: int) -> None:
    rows = store.layout.shard(index)
    codes = store.dosage(rows)
    where = f"{DOSAGE}, shard {index} (rows {rows.start} to {rows.stop - 1})"
    _require(
        digest_of(codes) == store.manifest["shards"][index], f"{where} differs from its digest"
    )
    size = store.layout.chunk_rows  # in pieces, to hold little beside the shard
    valid = all(store.code.is_valid(codes[at : at + size]) for at in range(0, len(codes), size))
    _require(valid, f"{where} has codes that are no dosages")


def _place(store: GenotypeStore, group: str, name: str) -> str:
    return name if group == store.path else f"{name} ({group.rsplit('/', 1)[-1]}, appended)"


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise guard.damaged(problem)
