"""A Hail VariantDataset: sparse, with local alleles; made dense at the instruments alone."""

from __future__ import annotations

import logging
from typing import Any

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
from pipelines.sources.matrix import METADATA
from pipelines.spark import import_hail

logger = logging.getLogger(__name__)


def find(genotypes: config.Genotypes) -> list[str]:
    """The folder of the VariantDataset."""
    assert genotypes.vds is not None
    found = files.expand([genotypes.vds])
    if len(found) > 1:
        raise InputError(f"vds must name one VariantDataset, not {len(found)}: {genotypes.vds}")
    parts = [places.join(found[0], part, METADATA) for part in ("reference_data", "variant_data")]
    if not all(map(places.is_file, parts)):
        hint = ""
        if places.is_file(places.join(found[0], METADATA)):
            hint = "; it is a MatrixTable or Table: give a MatrixTable as mt"
        raise InputError(
            f"{found[0]} is not a Hail VariantDataset: it must have reference_data and "
            f"variant_data{hint}"
        )
    return found


def measure(_: config.Genotypes, found: list[str]) -> files.Extent:
    """People and rows that the metadata of the variants count."""
    return files.hail_extent(places.join(found[0], "variant_data"), METADATA)


def open_source(
    _: config.Genotypes, found: list[str], wanted: pd.DataFrame | None
) -> GenotypeSource:
    """Calls at the wanted positions; where a reference block covers one, the call is 0.

    Raises
    ------
    InputError
        Without positions: all sites times all people would be made dense.
    """
    if wanted is None:
        raise InputError(
            "a VDS is read at the positions of instruments alone; give a list of them as file in "
            "[instruments], or give the cohort's dense MatrixTable as mt"
        )
    hl = import_hail()
    vds = hl.vds.read_vds(found[0], _warn_no_ref_block_max_length=False)
    require_calls(vds.variant_data, f"the VDS {files.name(found[0])}")
    if hl.vds.VariantDataset.ref_block_max_length_field not in vds.reference_data.globals:
        logger.warning(
            "the VDS does not say how long its reference blocks are at most, so all of them are "
            "read; hl.vds.store_ref_block_max_length(path), once, makes extraction much faster"
        )
    named = positions.in_spelling_of(vds.reference_genome, wanted)
    # this and no other filter of reference data: it keeps blocks that begin before a position
    vds = hl.vds.filter_intervals(vds, positions.intervals(vds.variant_data, named))
    dense = hl.vds.to_dense_mt(_narrow(hl, vds, named))
    return GenotypeSource(normalise(dense, count_alternate), imputed=False)


def _narrow(hl: Any, vds: Any, named: positions.Wanted) -> Any:
    """The sites and fields that are needed, before the join of blocks and sites."""
    variants = positions.at(vds.variant_data, named)
    variants = variants.select_entries(*call_fields(variants))
    reference = vds.reference_data
    calls = [field for field in ("LEN", "GT", "LGT") if field in reference.entry]
    return hl.vds.VariantDataset(reference.select_entries(*calls), variants)
