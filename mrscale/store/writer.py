"""Writing a genotype store: arrays first, shard by shard and restartable, the manifest last.

Each finished shard of ``call_dosage`` leaves a small marker under ``parts/``, keyed by a digest of
everything that decides the shard's content, so that a rerun writes only what is missing. Any
number of processes may write different shards, and writing one shard twice is harmless.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from mrscale.errors import StoreError
from mrscale.provenance import digest, write_json
from mrscale.store.schema import ARRAYS, MANIFEST, SCHEMA_VERSION, SPECS, Layout

DOSAGE = "call_dosage"
PARTS = "parts"
RUN_RECORD = "run.json"
# no dosage has this value: zarr leaves out chunks of fill values, and reads lost files as such
_UNWRITTEN = -128


def array_digest(values: NDArray[Any]) -> str:
    """SHA-256 (hex) of an array's shape and content, strings by their UTF-8 text."""
    sha = hashlib.sha256(str(values.shape).encode())
    if values.dtype.kind in "UOT":
        sha.update(json.dumps([str(v) for v in values.ravel()]).encode())
    else:
        sha.update(np.ascontiguousarray(values).tobytes())
    return sha.hexdigest()


def create(path: str | Path, layout: Layout) -> None:
    """Create the group and an empty ``call_dosage``; shards of the same layout are kept.

    Parameters
    ----------
    path : str or Path
        Folder of the store.
    layout : Layout
        Numbers of people and variants, and how rows are cut.
    """
    group = zarr.open_group(path, mode="a", zarr_format=3)
    expected = ((layout.num_samples, layout.num_variants), (layout.chunk_rows, layout.num_variants))
    if DOSAGE in group:
        found = group[DOSAGE]
        if isinstance(found, zarr.Array) and (found.shape, found.chunks) == expected:
            return
    shape, chunks = expected
    _create_array(group, DOSAGE, shape, chunks, shards=(layout.shard_rows, layout.num_variants))


def write_array(path: str | Path, name: str, values: NDArray[Any]) -> str:
    """Write one of the small arrays whole.

    Parameters
    ----------
    path : str or Path
        Folder of the store, already created.
    name : str
        Name in :data:`mrscale.store.schema.SPECS`.
    values : ndarray
        Shape and kind as in the schema; converted to the schema's dtype.

    Returns
    -------
    str
        The array's digest.
    """
    spec = SPECS[name]
    # C order: zarr 3.1 stores the text of a Fortran-ordered array in memory order
    values = np.asarray(values, dtype=object if spec.dtype == "str" else spec.dtype, order="C")
    group = zarr.open_group(path, mode="r+")
    array = _create_array(group, name, values.shape, tuple(max(1, n) for n in values.shape))
    if values.size:
        array[...] = values
    return array_digest(values)


def write_shard(path: str | Path, index: int, dosage: NDArray[np.int8], *, key: str) -> str:
    """Write one shard of ``call_dosage`` and then its marker.

    Parameters
    ----------
    path : str or Path
        Folder of the store, already created.
    index : int
        Number of the shard.
    dosage : ndarray of int8, shape (rows of the shard, num_variants)
        Effect-allele counts 0, 1, 2; -1 is missing.
    key : str
        Digest of what decides the content; see :func:`finished_shards`.

    Returns
    -------
    str
        SHA-256 (hex) of the decoded block.
    """
    array = zarr.open_array(Path(path) / DOSAGE, mode="r+")
    shard_rows = array.shards[0] if array.shards else array.chunks[0]
    array[index * shard_rows : index * shard_rows + len(dosage)] = dosage
    sha = array_digest(dosage)
    write_json(Path(path) / PARTS / f"{index:06d}.json", {"key": key, "sha256": sha})
    return sha


def finished_shards(path: str | Path, key: str) -> dict[int, str]:
    """Digests of the shards already written with this key, by shard number."""
    done = {}
    for marker in sorted((Path(path) / PARTS).glob("[0-9]*.json")):
        found = json.loads(marker.read_text())
        if found["key"] == key:
            done[int(marker.stem)] = found["sha256"]
    return done


def finalise(
    path: str | Path,
    *,
    layout: Layout,
    arrays: Mapping[str, str],
    shards: Mapping[int, str],
    report: Mapping[str, Any],
    provenance: Mapping[str, Any],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Commit the store: write ``run.json``, then ``manifest.json``.

    Parameters
    ----------
    path : str or Path
        Folder of the store with all arrays written.
    layout : Layout
        As given to :func:`create`.
    arrays : mapping of str to str
        Digest of every small array.
    shards : mapping of int to str
        Digest of every shard of ``call_dosage``.
    report : mapping
        What a reader wants to know of the people and variants (counts by status).
    provenance : mapping
        Input digests, versions, seed: nothing that differs between equal runs.
    run : mapping
        Times and machine; kept beside the store, not in its digest.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    StoreError
        If an array or a shard has not been written.
    """
    absent = [s.name for s in ARRAYS if s.name not in arrays and s.name != DOSAGE]
    absent += [f"{DOSAGE} shard {i}" for i in range(layout.num_shards) if i not in shards]
    if absent:
        raise StoreError(f"the store cannot be finished, these are not written: {absent[:5]}")
    shard_digests = [shards[i] for i in range(layout.num_shards)]
    digests = {**arrays, DOSAGE: digest(shard_digests)}
    shape = {name: getattr(layout, name) for name in Layout.__dataclass_fields__}
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "digest": digest([SCHEMA_VERSION, shape, digests]),
        "layout": shape,
        "arrays": digests,
        "shards": shard_digests,
        "provenance": dict(provenance),
        **report,
    }
    with warnings.catch_warnings():
        # one small object instead of a listing; zarr warns that this is not yet in the v3
        # specification (readers without it find the same arrays) and of our own JSON files
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(str(path))
    write_json(Path(path) / RUN_RECORD, dict(run))
    write_json(Path(path) / MANIFEST, manifest)
    shutil.rmtree(Path(path) / PARTS, ignore_errors=True)
    return manifest


def _create_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None = None,
) -> zarr.Array[Any]:
    spec = SPECS[name]
    compressors = [BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"), Crc32cCodec()]
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        shards=shards,
        dtype=spec.dtype,
        compressors=compressors,
        fill_value=_UNWRITTEN if name == DOSAGE else None,
        dimension_names=spec.dims,
        attributes={"description": spec.meaning},
        config={"write_empty_chunks": True},
        overwrite=True,
    )
