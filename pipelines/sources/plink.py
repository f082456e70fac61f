"""PLINK 1 binary files: .bed, .bim and .fam."""

from __future__ import annotations

import pandas as pd

from mrscale import config, places
from mrscale.errors import InputError
from pipelines.sources import files, positions
from pipelines.sources.fields import GenotypeSource, count_alternate, normalise, num_partitions
from pipelines.spark import import_hail

CONTIG_NAMES = {"23": "X", "24": "Y", "25": "XY", "26": "MT"} | {
    f"0{i}": f"{i}" for i in range(1, 10)
}
"""PLINK's numbers of the sex chromosomes, and numbers with a leading zero."""
_ENDINGS = (".bed", ".bim", ".fam")
_MAGIC = b"\x6c\x1b"
_VARIANT_MAJOR = b"\x01"
_FAM_COLUMNS = 6
_BED_HEADER, _PEOPLE_IN_BYTE = 3, 4


def find(genotypes: config.Genotypes) -> list[str]:
    """The .bed, .bim and .fam."""
    assert genotypes.plink is not None
    stem = genotypes.plink.removesuffix(".bed")
    found = [stem + ending for ending in _ENDINGS]
    for file in found:
        if not places.is_file(file):
            raise InputError(f"no such file: {file}; PLINK 1 genotypes are a .bed, .bim and .fam")
    _check_bed(found[0])
    _check_fam(found[2])
    return found


def measure(_: config.Genotypes, found: list[str]) -> files.Extent:
    """People of the .fam, and rows by the size of the .bed."""
    with places.open_binary(found[2]) as handle:
        num_people = sum(bool(line.strip()) for line in handle)
    bytes_of_row = -(-num_people // _PEOPLE_IN_BYTE)
    return files.Extent(num_people, (places.size(found[0]) - _BED_HEADER) // max(1, bytes_of_row))


def open_source(
    genotypes: config.Genotypes, found: list[str], wanted: pd.DataFrame | None
) -> GenotypeSource:
    """Calls; A1 (column 5 of the .bim) is the alternate allele, IID the sample id."""
    hl = import_hail()
    bed, bim, fam = found
    mt = hl.import_plink(
        bed=bed,
        bim=bim,
        fam=fam,
        min_partitions=num_partitions(genotypes),
        quant_pheno=True,  # any number will do: the phenotype is not used
        a2_reference=True,
        # no genome: Hail would refuse the position 0 of variants that are not placed
        reference_genome=None,
        contig_recoding=CONTIG_NAMES,
    )
    if wanted is not None:
        named = positions.in_spelling_of(None, wanted)
        mt = positions.at(positions.near(mt, named), named)
    return GenotypeSource(normalise(mt, count_alternate), imputed=False)


def _check_bed(path: str) -> None:
    with places.open_binary(path) as handle:
        start = handle.read(_BED_HEADER)
    if start[:2] != _MAGIC:
        raise InputError(f"{files.name(path)} is not a PLINK 1 .bed: it does not start with 6c 1b")
    if start[2:] != _VARIANT_MAJOR:
        raise InputError(
            f"{files.name(path)} holds one person after another; rewrite it with one variant after "
            "another: plink --make-bed"
        )


def _check_fam(path: str) -> None:
    with places.open_binary(path) as handle:
        rows = [line.split() for line in handle if line.strip()]
    if any(len(row) != _FAM_COLUMNS for row in rows):
        raise InputError(f"every line of {files.name(path)} must have {_FAM_COLUMNS} columns")
    files.require_distinct([row[1] for row in rows], path)
