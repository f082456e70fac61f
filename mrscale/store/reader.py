"""Reading a genotype store: nothing unfinished, of another schema or damaged gets past here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from mrscale import places
from mrscale.disclosure import show_count
from mrscale.errors import StoreError, without_secrets
from mrscale.store import guard
from mrscale.store import manifest as manifests
from mrscale.store.arrays import bounded, open_sound
from mrscale.store.manifest_form import require_sound
from mrscale.store.schema import (
    APPENDED,
    CALLS,
    CODES,
    DOSAGE,
    MANIFEST,
    SCHEMA_VERSION,
    SPECS,
    TRAITS,
    DosageCode,
    Layout,
)

_DECODING_ERRORS = (ValueError, RuntimeError)
"""What zarr's codecs raise on damaged bytes."""
OPENING_ERRORS = (*_DECODING_ERRORS, TypeError, KeyError)
"""What zarr raises on damaged metadata."""

NameKind = Literal["exposures", "outcomes", "covariates", "environments"]


@dataclass(frozen=True)
class GenotypeStore:
    """A finished genotype store, opened for reading; cheap to pickle, arrays open on first use.

    Attributes
    ----------
    path : str
        Folder or URL of the store.
    manifest : dict
        The newest manifest.
    """

    path: str
    manifest: dict[str, Any] = field(repr=False)

    def _repr_html_(self) -> str:
        names = ((kind, ", ".join(self.names(kind))) for kind in get_args(NameKind))
        rows = "".join(f"<tr><th>{kind}</th><td>{escape(text)}</td></tr>" for kind, text in names)
        return f"<p>{escape(str(self))}</p><table>{rows}</table>"

    def __str__(self) -> str:
        return (
            f"Genotype store {without_secrets(self.path)}: {show_count(self.num_samples)} people, "
            f"{self.num_variants:,} variants"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the store's content; another one once traits are appended."""
        return str(self.manifest["digest"])

    @property
    def genotype_digest(self) -> str:
        """SHA-256 (hex) of what encoders are trained on: people, genotypes, environments, families
        and folds; traits do not change it."""
        return manifests.genotype_digest(self.manifest)

    @property
    def code(self) -> DosageCode:
        """How dosages are coded."""
        return CODES[self.manifest["code"]]

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
        if name in TRAITS:
            return np.concatenate([self.read(g, name, rows) for g in self.groups], axis=1)
        if name in TRAITS.values():
            return np.concatenate([self.read(g, name) for g in self.groups])[rows]
        return self.read(self.path, name, rows)

    def dosage(self, rows: slice) -> NDArray[Any]:
        """Codes of effect-allele dosages of a range of rows; see :attr:`code`.

        Parameters
        ----------
        rows : slice
            Rows (people) in store order, step 1.

        Returns
        -------
        ndarray of int8 or uint8, shape (rows, num_variants)
            Hard calls 0, 1, 2 with -1 missing, or imputed dosages in units of ``code.scale``.

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

    def expected_dosage(self, rows: slice) -> NDArray[Any]:
        """Effect alleles of a range of rows, whatever the store's code.

        Returns
        -------
        ndarray of :attr:`dosage_dtype`, shape (rows, num_variants)
            Hard calls as int8, missing ones negative; imputed dosages as float32, missing ones NaN.
        """
        codes = self.dosage(rows)
        return codes if self.code is CALLS else self.code.decode(codes)

    @property
    def dosage_dtype(self) -> str:
        """Of :meth:`expected_dosage`."""
        return "int8" if self.code is CALLS else "float32"

    def names(self, kind: NameKind) -> list[str]:
        """Names of the exposures, outcomes, covariates or environments, in array order."""
        names = self.array("environment_name" if kind == "environments" else kind)
        return [str(name) for name in names]

    @cached_property
    def groups(self) -> list[str]:
        """Paths of the store itself and of its appended traits, in order."""
        added = [places.join(self.path, APPENDED, e["name"]) for e in self.manifest["appended"]]
        return [self.path, *added]

    @cached_property
    def _arrays(self) -> dict[tuple[str, str], zarr.Array[Any]]:
        return {}

    def read(self, group: str, name: str, rows: slice = slice(None)) -> NDArray[Any]:
        """An array of one of :attr:`groups`."""
        where = name if group == self.path else f"{name} of {APPENDED}"
        with places.reached(self.path), _checksums(where):
            values = np.asarray(self.opened(group, name)[rows])
        return values.astype(object).astype(str) if SPECS[name].dtype == "str" else values

    def opened(self, group: str, name: str) -> zarr.Array[Any]:
        """An array of one of :attr:`groups`, as Zarr has it; looked at and opened once."""
        if (group, name) not in self._arrays:
            where = f"the metadata of {name}"
            with places.reached(self.path), _checksums(where, OPENING_ERRORS):
                array = open_sound(self.path, group, name, self.layout, self.code)
            self._arrays[group, name] = array
        return self._arrays[group, name]

    def _rows(self, start: int, stop: int) -> NDArray[Any]:
        with places.reached(self.path):
            return np.asarray(self.opened(self.path, DOSAGE)[start:stop])

    def _name_broken_chunk(self, start: int, stop: int) -> None:
        size = self.layout.chunk_rows
        for index in range(start // size, -(-stop // size)):
            chunk = self.layout.chunk(index)
            with _checksums(f"call_dosage, chunk {index} (rows {chunk.start} to {chunk.stop - 1})"):
                self._rows(chunk.start, chunk.stop)


def open_store(path: str | Path) -> GenotypeStore:
    """Open a finished genotype store.

    Parameters
    ----------
    path : str or Path
        Folder or URL.

    Raises
    ------
    StoreError
        If the folder has no manifest (the extraction did not finish), or the store was written
        with another schema version.
    """
    with places.reading(path):
        manifest = manifests.read(path)
        there = manifest is not None or places.exists(path)
    if not there:
        raise StoreError(
            f"there is no genotype store at {path}; give its folder with --store or a study.toml, "
            "or make it first: mrscale extract study.toml"
        )
    if manifest is None:
        if places.is_file(places.join(path, "store.zarr", MANIFEST)):
            raise StoreError(
                f"{path} is a run folder; its store is {places.join(path, 'store.zarr')}"
            )
        raise StoreError(
            f"{path} is not a finished genotype store: it has no {MANIFEST}; "
            "run the extraction again, it continues where it stopped"
        )
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} has store schema {version}, this mrscale reads {SCHEMA_VERSION}; "
            "extract it again with this version"
        )
    require_sound(manifest)
    return GenotypeStore(str(path), manifest)


def open_dataset(path: str | Path) -> xr.Dataset:
    """Open a finished genotype store as a lazy dataset; dims and names as in the schema.

    Appended traits come after those of the extraction. Imputed dosages are decoded to 0 .. 2 with
    NaN; hard calls stay small integers with -1.

    Parameters
    ----------
    path : str or Path
        Folder or URL.

    Returns
    -------
    xarray.Dataset
        Backed by Dask: ``call_dosage`` (samples, variants) and the other arrays of the store, each
        with a ``description``. Nothing is read before it is used.

    Raises
    ------
    StoreError
        As :func:`open_store`.

    Examples
    --------
    ``store.zarr`` holds 900 simulated people of three environments, and 30 variants.

    >>> import mrscale as mr
    >>> data = mr.open("store.zarr")
    >>> data["call_dosage"].sizes["samples"], data["environment_name"].values.tolist()
    (900, ['north', 'south', 'west'])

    Arrays are read when they are used; -1 is a missing call.

    >>> first = data["call_dosage"].isel(variants=0)
    >>> round(float(first.where(first >= 0).mean()), 2)
    1.16
    """
    store = open_store(path)
    whole, *appended = (_open_lazily(store, group) for group in store.groups)
    if not appended:
        return whole
    kept = [name for name in whole.variables if name in (*TRAITS, *TRAITS.values())]
    joined = whole.drop_vars(kept)
    for name, dim in TRAITS.items():
        parts = [group[[name, dim]] for group in (whole, *appended)]
        joined = joined.merge(xr.concat(parts, dim=dim, data_vars="minimal"))
    return joined


def _open_lazily(store: GenotypeStore, group: str) -> xr.Dataset:
    names = SPECS if group == store.path else (*TRAITS, *TRAITS.values())
    guard.require_inside(store.path, group)
    found = guard.read_json(places.join(group, "zarr.json")).get("consolidated_metadata")
    arrays = found.get("metadata") if isinstance(found, dict) else None
    if not isinstance(arrays, dict) or set(arrays) != set(names):
        raise guard.damaged("zarr.json does not list its arrays")
    files = places.files(group)
    for name in names:
        own = {f.removeprefix(f"{name}/"): n for f, n in files.items() if f.startswith(f"{name}/")}
        guard.require_form(name, arrays[name], own, store.layout, store.code)
    with _checksums("its metadata", OPENING_ERRORS), guard.bounded_codecs():
        dataset: xr.Dataset = xr.open_zarr(bounded(group), consolidated=True, zarr_format=3)
    return dataset


@contextmanager
def _checksums(
    where: str, errors: tuple[type[Exception], ...] = _DECODING_ERRORS
) -> Iterator[None]:
    """Say which array and chunk failed: zarr's own error names neither."""
    try:
        yield
    except errors as error:
        raise StoreError(
            f"the store is damaged at {where}: {error}; restore it from a copy, or remove the "
            "store and extract it again"
        ) from None
