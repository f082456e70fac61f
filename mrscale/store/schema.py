"""The genotype store's one schema: drives writing, validation and documentation.

A store is one Zarr v3 group; rows are people, grouped by environment. It is complete only when
``manifest.json`` stands beside the arrays: the manifest is written last. Nothing is changed after
that; appended traits lie in groups of their own under ``appended/``, and each append makes a new
version of the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrscale.errors import InputError

SCHEMA_VERSION = "1.1"
MANIFEST = "manifest.json"
DOSAGE = "call_dosage"
APPENDED = "appended"
VARIANTS = "variants.tsv"
"""Every candidate of the extraction, with its status and the reason."""
QUERY = "mrscale.query"
"""Key in the metadata of a Parquet file of people: the query that it was made by, as JSON."""
TRAITS = {"exposure": "exposures", "outcome": "outcomes", "covariate": "covariates"}
"""Arrays of traits, and the arrays of their names: what an append adds to."""

TARGET_CHUNK_BYTES = 8 * 2**20
LARGEST_CHUNK_BYTES = 64 * 2**20
"""Of the arrays beside ``call_dosage``."""
TEXT_BYTES = 32
"""Guess of the length of a text cell, for the size of chunks."""
TARGET_CHUNKS = 16
TARGET_SHARDS = 8
MOST_CHUNKS_PER_SHARD = 8
_TOLERANCE = 0.01
"""How far outside 0 to 2 a dosage may lie for rounding in the file it came from."""


@dataclass(frozen=True)
class DosageCode:
    """The integers of ``call_dosage``: ``dosage = code / per_allele``.

    Attributes
    ----------
    name : str
        As in the manifest.
    dtype : str
    missing : int
        Code of a person without a call.
    unwritten : int
        Fill value of the array, never a code: what a lost chunk reads as.
    per_allele : int
        Units of one effect allele, so that 0, 1 and 2 are exact.
    """

    name: str
    dtype: str
    missing: int
    unwritten: int
    per_allele: int

    @property
    def scale(self) -> float:
        """Dosage of one unit."""
        return 1 / self.per_allele

    @property
    def highest(self) -> int:
        """Code of two effect alleles."""
        return 2 * self.per_allele

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the array; CF ones with which xarray decodes scaled codes to 0 .. 2."""
        if self.per_allele == 1:
            return {"description": f"effect alleles; {self.missing} is missing"}
        return {
            "description": f"effect alleles times {self.per_allele}; {self.missing} is missing",
            "scale_factor": self.scale,
            "_FillValue": self.missing,
        }

    def encode(self, dosage: NDArray[np.floating[Any]]) -> NDArray[Any]:
        """Codes of expected dosages, to the nearest unit.

        Parameters
        ----------
        dosage : ndarray of float, any shape
            Effect-allele dosages from 0 to 2; NaN is missing.

        Returns
        -------
        ndarray of ``dtype``, same shape

        Raises
        ------
        InputError
            If a dosage lies outside 0 to 2 by more than rounding.
        """
        missing = np.isnan(dosage)
        if np.any((dosage < -_TOLERANCE) | (dosage > 2 + _TOLERANCE)):
            raise InputError(
                "a dosage must lie between 0 and 2, and some do not; mend the genotype file, or "
                "store hard calls instead (hard_calls = true)"
            )
        units = np.rint(np.where(missing, 0, dosage) * self.per_allele).clip(0, self.highest)
        return np.where(missing, self.missing, units).astype(self.dtype)

    def decode(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Dosages from 0 to 2 of codes; NaN where missing."""
        dosage = codes.astype(np.float32) / np.float32(self.per_allele)
        dosage[codes == self.missing] = np.nan
        return dosage

    def is_valid(self, codes: NDArray[Any]) -> bool:
        """Whether all are codes of a dosage or of a missing call."""
        return bool(((codes == self.missing) | ((codes >= 0) & (codes <= self.highest))).all())


CALLS = DosageCode("calls", "int8", missing=-1, unwritten=-128, per_allele=1)
"""Hard calls 0, 1, 2."""

DOSAGES = DosageCode("dosages", "uint8", missing=255, unwritten=254, per_allele=126)
"""Imputed dosages in steps of 1/126: the finest with a code to spare beside the missing one, and
one whose inverse multiplies back to 0, 1 and 2 exactly in float32 too."""

CODES = {code.name: code for code in (CALLS, DOSAGES)}


@dataclass(frozen=True)
class ArraySpec:
    """Name, dimensions, dtype and meaning of one array of the store."""

    name: str
    dims: tuple[str, ...]
    dtype: str
    meaning: str


ARRAYS: tuple[ArraySpec, ...] = (
    ArraySpec("call_dosage", ("samples", "variants"), "int8", "effect alleles"),
    ArraySpec("sample_id", ("samples",), "str", "ids of people, always text"),
    ArraySpec("environment", ("samples",), "int16", "code into environment_name; sorts rows"),
    ArraySpec("environment_name", ("environments",), "str", "names of the environments"),
    ArraySpec("environment_offset", ("environments",), "int64", "first row of each environment"),
    ArraySpec("exposure", ("samples", "exposures"), "float32", "exposures; NaN is missing"),
    ArraySpec("outcome", ("samples", "outcomes"), "float32", "outcomes; NaN is missing"),
    ArraySpec("covariate", ("samples", "covariates"), "float32", "covariates; NaN is missing"),
    ArraySpec("exposures", ("exposures",), "str", "names of the exposures"),
    ArraySpec("outcomes", ("outcomes",), "str", "names of the outcomes"),
    ArraySpec("covariates", ("covariates",), "str", "names of the covariates"),
    ArraySpec("family", ("samples",), "int32", "family code; -1 is alone"),
    ArraySpec("cluster", ("samples",), "int32", "unit of clustered errors; -1 is its own"),
    ArraySpec("fold", ("samples",), "int8", "block of people that trains one encoder"),
    ArraySpec("variant_contig", ("variants",), "str", "chromosome as in the input"),
    ArraySpec("variant_position", ("variants",), "int32", "1-based position"),
    ArraySpec("variant_allele", ("variants", "alleles"), "str", "reference and alternate allele"),
    ArraySpec("variant_id", ("variants",), "str", "identifier, or contig:position:ref:alt"),
    ArraySpec("variant_effect_allele", ("variants",), "str", "the allele call_dosage counts"),
    ArraySpec(
        "variant_allele_frequency",
        ("environments", "variants"),
        "float32",
        "frequency of the effect allele among called alleles",
    ),
    ArraySpec("variant_call_rate", ("environments", "variants"), "float32", "share called"),
    ArraySpec("variant_hwe_p", ("environments", "variants"), "float32", "Hardy-Weinberg mid-p"),
)

SPECS = {spec.name: spec for spec in ARRAYS}


@dataclass(frozen=True)
class Layout:
    """How rows are cut: chunks are read units, shards (whole chunks) are write units.

    Attributes
    ----------
    num_samples, num_variants, chunk_rows, shard_rows : int
    """

    num_samples: int
    num_variants: int
    chunk_rows: int
    shard_rows: int

    @classmethod
    def choose(cls, num_samples: int, num_variants: int) -> Layout:
        """Chunks of 2^k rows and at most 8 MiB, sixteen or more of them where people allow; eight
        to a shard, or fewer so that there are eight shards to write side by side."""
        by_bytes = max(1, TARGET_CHUNK_BYTES // max(1, num_variants))
        by_count = max(256, num_samples // TARGET_CHUNKS)
        chunk = 1 << (min(by_bytes, by_count).bit_length() - 1)
        num_chunks = -(-num_samples // chunk)
        together = min(max(1, num_chunks // TARGET_SHARDS), MOST_CHUNKS_PER_SHARD)
        return cls(num_samples, num_variants, chunk, chunk << (together.bit_length() - 1))

    @property
    def num_chunks(self) -> int:
        """Number of row chunks (the last may be short)."""
        return -(-self.num_samples // self.chunk_rows)

    @property
    def num_shards(self) -> int:
        """Number of row shards (the last may be short)."""
        return -(-self.num_samples // self.shard_rows)

    def chunk(self, index: int) -> slice:
        """Rows of chunk ``index``."""
        return slice(index * self.chunk_rows, min((index + 1) * self.chunk_rows, self.num_samples))

    def shard(self, index: int) -> slice:
        """Rows of shard ``index``."""
        return slice(index * self.shard_rows, min((index + 1) * self.shard_rows, self.num_samples))
