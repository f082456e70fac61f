"""Reading a genotype store: nothing unfinished, of another schema or damaged gets past here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from mrscale.errors import StoreError
from mrscale.store.schema import MANIFEST, SCHEMA_VERSION, SPECS, Layout

_DECODING_ERRORS = (ValueError, RuntimeError)
"""What zarr's codecs raise on damaged bytes."""

NameKind = Literal["exposures", "outcomes", "covariates", "environments"]


@dataclass(frozen=True)
class GenotypeStore:
    """A finished genotype store, opened for reading; cheap to pickle, arrays open on first use.

    Attributes
    ----------
    path : str
        Folder of the store.
    manifest : dict
        Content of ``manifest.json``.
    """

    path: str
    manifest: dict[str, Any] = field(repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the store's content."""
        return str(self.manifest["digest"])

    @cached_property
    def layout(self) -> Layout:
        """How rows are cut into chunks and shards."""
        return Layout(**self.manifest["layout"])

    @property
    def num_samples(self) -> int:
        """Number of people."""
        return self.layout.num_samples

    @property
    def num_variants(self) -> int:
        """Number of variants."""
        return self.layout.num_variants

    def array(self, name: str, rows: slice = slice(None)) -> NDArray[Any]:
        """An array of the schema or its first-axis range ``rows``, text as ``str`` arrays.

        For dosages see :meth:`dosage`.
        """
        if name not in SPECS:
            raise StoreError(f"a genotype store has no array {name!r}; it has: {', '.join(SPECS)}")
        with _checksums(name):
            values = np.asarray(self._open(name)[rows])
        return values.astype(object).astype(str) if SPECS[name].dtype == "str" else values

    def dosage(self, rows: slice) -> NDArray[np.int8]:
        """Effect-allele counts of a range of rows.

        Parameters
        ----------
        rows : slice
            Rows (people) in store order, step 1.

        Returns
        -------
        ndarray of int8, shape (rows, num_variants)
            0, 1, 2; -1 is missing.

        Raises
        ------
        StoreError
            If a chunk fails its checksum; the message names it.
        """
        start, stop, _ = rows.indices(self.num_samples)
        try:
            return self._rows(start, stop)
        except _DECODING_ERRORS:
            self._name_broken_chunk(start, stop)
            raise

    def names(self, kind: NameKind) -> list[str]:
        """Names of the exposures, outcomes, covariates or environments, in array order."""
        names = self.array("environment_name" if kind == "environments" else kind)
        return [str(name) for name in names]

    @cached_property
    def _dosage(self) -> zarr.Array[Any]:
        array, layout = self._open("call_dosage"), self.layout
        # zarr reads a lost file as fill values without a word
        found = array.nchunks_initialized // (layout.shard_rows // layout.chunk_rows)
        if found != layout.num_shards:
            raise StoreError(
                f"the store is damaged: {layout.num_shards - found} of {layout.num_shards} shards "
                "of call_dosage are gone; restore it from a copy, or extract it again"
            )
        return array

    def _open(self, name: str) -> zarr.Array[Any]:
        return zarr.open_array(Path(self.path) / name, mode="r")

    def _rows(self, start: int, stop: int) -> NDArray[np.int8]:
        return np.asarray(self._dosage[start:stop])

    def _name_broken_chunk(self, start: int, stop: int) -> None:
        size = self.layout.chunk_rows
        for index in range(start // size, -(-stop // size)):
            chunk = self.layout.chunk(index)
            with _checksums(f"call_dosage, chunk {index} (rows {chunk.start} to {chunk.stop - 1})"):
                self._rows(chunk.start, chunk.stop)


def open_store(path: str | Path) -> GenotypeStore:
    """Open a finished genotype store.

    Raises
    ------
    StoreError
        If the folder has no manifest (the extraction did not finish), or the store was written
        with another schema version.
    """
    manifest_file = Path(path) / MANIFEST
    if not Path(path).exists():
        raise StoreError(
            f"there is no genotype store at {path}; give its folder with --store or a study.toml, "
            "or make it first: mrscale extract"
        )
    if not manifest_file.is_file():
        raise StoreError(
            f"{path} is not a finished genotype store: it has no {MANIFEST}; "
            "run the extraction again, it continues where it stopped"
        )
    manifest = json.loads(manifest_file.read_text())
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} has store schema {version}, this mrscale reads {SCHEMA_VERSION}; "
            "extract it again with this version"
        )
    return GenotypeStore(str(path), manifest)


def open_dataset(path: str | Path) -> xr.Dataset:
    """Open a finished genotype store as a lazy dataset; dims and names as in the schema.

    Raises
    ------
    StoreError
        As :func:`open_store`.
    """
    store = open_store(path)
    dataset: xr.Dataset = xr.open_zarr(store.path, consolidated=True)
    return dataset


@contextmanager
def _checksums(where: str) -> Iterator[None]:
    """Say which array and chunk failed: zarr's own error names neither."""
    try:
        yield
    except _DECODING_ERRORS as error:
        raise StoreError(
            f"the store is damaged at {where}: {error}; restore it from a copy, or remove the "
            "store and extract it again"
        ) from None
