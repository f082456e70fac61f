"""A Hail MatrixTable: dense, split or multi-allelic, with global or local alleles."""

from __future__ import annotations

import pandas as pd

from mrscale import config, places
from mrscale.errors import InputError
from pipelines.sources import files, positions
from pipelines.sources.fields import (
    GenotypeSource,
    call_fields,
    count_alternate,
    normalise,
    require_calls,
)
from pipelines.spark import import_hail

METADATA = "metadata.json.gz"


def find(genotypes: config.Genotypes) -> list[str]:
    """The folder of the MatrixTable."""
    assert genotypes.mt is not None
    found = files.expand([genotypes.mt])
    if len(found) > 1:
        raise InputError(f"mt must name one MatrixTable, not {len(found)}: {genotypes.mt}")
    if places.is_file(places.join(found[0], "variant_data", METADATA)):
        raise InputError(f"{found[0]} is a Hail VariantDataset; give it as vds, not as mt")
    if not places.is_file(places.join(found[0], METADATA)):
        raise InputError(f"{found[0]} is not a Hail MatrixTable: it has no {METADATA}")
    return found


def measure(_: config.Genotypes, found: list[str]) -> files.Extent:
    """People and rows that the metadata count."""
    return files.hail_extent(found[0], METADATA)


def open_source(
    _: config.Genotypes, found: list[str], wanted: pd.DataFrame | None
) -> GenotypeSource:
    """Calls from ``GT``, or ``LGT`` with ``LA``, where ``FT`` passed."""
    mt = import_hail().read_matrix_table(found[0])
    require_calls(mt, f"the MatrixTable {files.name(found[0])}")
    mt = mt.select_entries(*call_fields(mt))
    if wanted is not None:
        named = positions.in_spelling_of(positions.genome_of(mt), wanted)
        mt = positions.at(positions.near(mt, named), named)
    return GenotypeSource(normalise(mt, count_alternate), imputed=False)
