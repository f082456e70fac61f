"""Zarr groups and arrays by path or URL, made so that nothing already written is ever deleted.

Two identical extractions may run side by side, and a rerun meets what a killed run left: an array
of the same form is taken as it is, and equal chunks replace equal chunks. Deleting first would
open a window in which a reader, or the other run, finds fill values.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import FsspecStore, LocalStore

from mrscale import places
from mrscale.errors import StoreError
from mrscale.store import guard
from mrscale.store.schema import (
    DOSAGE,
    LARGEST_CHUNK_BYTES,
    SPECS,
    TEXT_BYTES,
    DosageCode,
    Layout,
)

_GROUP = {"attributes": {}, "zarr_format": 3, "node_type": "group"}


def location(path: str | Path, *, read_only: bool = False) -> Any:
    """What zarr and xarray open: a local path, or the store of a URL.

    Listings are not cached: another process may be writing the same store. Options of an object
    store (endpoint, credentials, project) come from fsspec's own configuration and environment.
    """
    if not places.is_url(path):
        return str(path)
    options = {"use_listings_cache": False}
    return FsspecStore.from_url(str(path), storage_options=options, read_only=read_only)


def digest_of(values: NDArray[Any]) -> str:
    """SHA-256 (hex) of an array's shape and content, strings by their UTF-8 text."""
    sha = hashlib.sha256(str(values.shape).encode())
    if values.dtype.kind in "UOT":
        sha.update(json.dumps([str(v) for v in values.ravel()]).encode())
    else:
        sha.update(np.ascontiguousarray(values).data)
    return sha.hexdigest()


def create_group(path: str | Path) -> None:
    """Make an empty group unless there is one (zarr would write over a consolidated one)."""
    places.create_bytes(places.join(path, "zarr.json"), json.dumps(_GROUP).encode())


def create_dosage(path: str | Path, layout: Layout, code: DosageCode) -> None:
    """Make ``call_dosage``, all of it unwritten, or keep one of the same form."""
    width = max(1, layout.num_variants)
    _create(
        path,
        DOSAGE,
        shape=(layout.num_samples, layout.num_variants),
        chunks=(layout.chunk_rows, width),
        shards=(layout.shard_rows, width),
        dtype=code.dtype,
        # no code has this value: zarr leaves out chunks of fill values, and reads lost ones as such
        fill_value=code.unwritten,
        attributes=code.attributes,
    )


def write_whole(path: str | Path, name: str, values: NDArray[Any]) -> str:
    """Write one of the schema's small arrays; its digest."""
    spec = SPECS[name]
    # C order: zarr 3.1 stores the text of a Fortran-ordered array in memory order
    values = np.asarray(values, dtype=object if spec.dtype == "str" else spec.dtype, order="C")
    array = _create(
        path,
        name,
        shape=values.shape,
        chunks=_chunks(values),
        dtype=spec.dtype,
        attributes={"description": spec.meaning},
    )
    if values.size:
        array[...] = values
    return digest_of(values)


def bounded(path: str | Path) -> guard.BoundedReads:
    """What zarr and xarray open of a store that may come from anywhere, for reading."""
    at = location(path, read_only=True)
    return guard.BoundedReads(LocalStore(at, read_only=True) if isinstance(at, str) else at)


def open_sound(
    root: str | Path, group: str | Path, name: str, layout: Layout, code: DosageCode
) -> zarr.Array[Any]:
    """Open one array of a finished store for reading, once its metadata and files are in order.

    Parameters
    ----------
    root, group : str or Path
        The store, and the group in it that has the array.
    name : str
        Name in the schema.
    layout, code : Layout, DosageCode
        As the manifest says.

    Raises
    ------
    StoreError
        As :func:`mrscale.store.guard.require_form`, or if a link leads out of the store.
    """
    place = places.join(group, name)
    guard.require_inside(root, place)
    files = places.files(place)
    guard.require_form(name, guard.read_json(places.join(place, "zarr.json")), files, layout, code)
    with guard.bounded_codecs():
        return zarr.open_array(bounded(group), path=name, mode="r", zarr_format=3)


def open_array(path: str | Path, name: str) -> zarr.Array[Any]:
    """Open one array of a group that is being written."""
    array = zarr.open_array(location(path), path=name, mode="r+", zarr_format=3)
    # what is all fill values must be written as well: a file that is not there is a lost one
    return array.with_config({"write_empty_chunks": True})


def consolidate(path: str | Path, names: Iterable[str]) -> None:
    """Copy the metadata of a group's arrays into the group's own, in one write.

    A reader then needs one small object instead of a listing. Written here rather than by zarr,
    which looks through the whole store for arrays and warns of every file of ours.
    """
    arrays = {
        name: json.loads(places.read_bytes(places.join(path, name, "zarr.json")))
        for name in sorted(names)
    }
    inline = {"kind": "inline", "must_understand": False, "metadata": arrays}
    group = {**_GROUP, "consolidated_metadata": inline}
    places.write_bytes(places.join(path, "zarr.json"), json.dumps(group).encode())


def _create(
    path: str | Path,
    name: str,
    *,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: str,
    attributes: dict[str, Any],
    shards: tuple[int, ...] | None = None,
    fill_value: int | None = None,
) -> zarr.Array[Any]:
    try:
        return zarr.create_array(
            location(path),
            name=name,
            shape=shape,
            chunks=chunks,
            shards=shards,
            dtype=dtype,
            compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"), Crc32cCodec()],
            fill_value=fill_value,
            dimension_names=SPECS[name].dims,
            attributes=attributes,
            config={"write_empty_chunks": True},
            overwrite=False,
        )
    except zarr.errors.ContainsArrayError:
        found = open_array(path, name)
    same = (found.shape, found.chunks, found.shards) == (shape, chunks, shards)
    if not same or dict(found.attrs) != attributes:
        raise StoreError(
            f"{path} was begun by another version of mrscale, which laid out {name} in another "
            "way; nothing was touched; remove the folder and extract again"
        )
    return found


def _chunks(values: NDArray[Any]) -> tuple[int, ...]:
    """One chunk, or whole rows in chunks of bounded size."""
    item = TEXT_BYTES if values.dtype == object else values.itemsize
    row = item * math.prod(values.shape[1:])
    rows = max(1, LARGEST_CHUNK_BYTES // max(1, row))
    return (min(rows, max(1, len(values))), *(max(1, n) for n in values.shape[1:]))
