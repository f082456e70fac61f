"""The genotype store's one schema: drives writing, validation and documentation.

A store is one Zarr v3 group; rows are people, grouped by environment. It is complete only when
``manifest.json`` stands beside the arrays: the manifest is written last.
"""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = "1.0"
MANIFEST = "manifest.json"
MISSING_DOSAGE = -1
"""Code of a missing hard call in ``call_dosage`` (int8)."""

TARGET_CHUNK_BYTES = 8 * 2**20
TARGET_CHUNKS = 16
CHUNKS_PER_SHARD = 8


@dataclass(frozen=True)
class ArraySpec:
    """Name, dimensions, dtype and meaning of one array of the store."""

    name: str
    dims: tuple[str, ...]
    dtype: str
    meaning: str


ARRAYS: tuple[ArraySpec, ...] = (
    ArraySpec("call_dosage", ("samples", "variants"), "int8", "effect alleles; -1 is missing"),
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
        """Chunks of 2^k rows and at most 8 MiB, sixteen or more of them where people allow."""
        by_bytes = max(1, TARGET_CHUNK_BYTES // max(1, num_variants))
        by_count = max(256, num_samples // TARGET_CHUNKS)
        chunk = 1 << (min(by_bytes, by_count).bit_length() - 1)
        return cls(num_samples, num_variants, chunk, chunk * CHUNKS_PER_SHARD)

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
