"""VCF files, plain or compressed with bgzip; several are shards of the same people."""

from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from mrscale import config, places
from mrscale.errors import InputError
from pipelines.sources import files, positions
from pipelines.sources.fields import GenotypeSource, count_alternate, normalise, num_partitions
from pipelines.spark import import_hail

_GZIP_MAGIC, _BGZF_HEADER = b"\x1f\x8b", b"\x1f\x8b\x08\x04"
_FIXED_COLUMNS = 9
_READERS = 16
_BYTES_TO_JUDGE = 2**20
_AUTOSOMES_AND_MORE = (*map(str, range(1, 23)), "X", "Y", "MT")


def find(genotypes: config.Genotypes) -> list[str]:
    """VCF files, each in a compression that can be read in parallel, all of the same people."""
    found = files.expand(genotypes.vcf)
    with ThreadPoolExecutor(_READERS) as pool:
        headers = list(pool.map(_sample_columns, found))
    files.require_distinct(headers[0].split(b"\t"), found[0])
    files.require_same_people(headers, found, "VCF", ": bcftools view -S ids.txt")
    return found


def measure(_: config.Genotypes, found: list[str]) -> files.Extent:
    """People of the header, and rows judged by how many the first file's beginning has."""
    num_people = len(_sample_columns(found[0]).split(b"\t"))
    num_rows, start, end = _beginning(found[0])
    sizes = [places.size(file) for file in found]
    if len(found) == 1 and end >= sizes[0]:
        return files.Extent(num_people, num_rows)
    if end == start:  # a small file is read at once
        start = 0
    rest = sum(max(0, size - start) for size in sizes)
    return files.Extent(num_people, round(num_rows / (end - start) * rest), exact=False)


def open_source(
    genotypes: config.Genotypes, found: list[str], wanted: pd.DataFrame | None
) -> GenotypeSource:
    """Calls (``GT``, where ``FT`` passed); no other field is parsed."""
    hl = import_hail()
    build = genotypes.reference_genome
    mt = hl.import_vcf(
        found,
        reference_genome=build,
        contig_recoding=_contig_recoding(build),
        force_bgz=True,  # files that end in .gz were seen to be bgzipped
        min_partitions=num_partitions(genotypes),
    )
    if "GT" not in mt.entry:
        raise InputError("a VCF must have calls, but the header of this one has no FORMAT field GT")
    if wanted is not None:
        mt = positions.at(mt, positions.in_spelling_of(positions.genome_of(mt), wanted))
    return GenotypeSource(normalise(mt, count_alternate), imputed=False)


def _sample_columns(path: str) -> bytes:
    """The header's sample ids, tab-separated, of a file that has been found fit to be read."""
    with places.open_binary(path) as handle:
        start = handle.read(16)
        handle.seek(0)
        compressed = start.startswith(_GZIP_MAGIC)
        _check_compression(path, start, compressed)
        for line in gzip.GzipFile(fileobj=handle) if compressed else handle:
            if line.startswith(b"#CHROM"):
                return line.rstrip(b"\r\n").split(b"\t", _FIXED_COLUMNS)[-1]
            if not line.startswith(b"##"):
                break
    raise InputError(
        f"{files.name(path)} is not a VCF: it must start with ##fileformat=VCF and have a line "
        "#CHROM with sample ids"
    )


def _beginning(path: str) -> tuple[int, int, int]:
    """Rows at the beginning of a file, and between which of its bytes they lie."""
    num_rows = start = 0
    with places.open_binary(path) as handle:
        compressed = handle.read(2) == _GZIP_MAGIC
        handle.seek(0)
        for line in gzip.GzipFile(fileobj=handle) if compressed else handle:
            if line.startswith(b"#"):
                start = handle.tell()
                continue
            num_rows += 1
            if handle.tell() - start >= _BYTES_TO_JUDGE:
                break
        return num_rows, start, handle.tell()


def _check_compression(path: str, start: bytes, compressed: bool) -> None:
    name = files.name(path)
    if not compressed:
        if not start.startswith(b"##fileformat=VCF"):
            raise InputError(f"{name} is not a VCF: it does not start with ##fileformat=VCF")
    elif not (start.startswith(_BGZF_HEADER) and start[12:14] == b"BC"):
        raise InputError(
            f"{name} is compressed with gzip; a VCF must be compressed with bgzip, so that "
            f"it can be read in parallel: gzip -dc {name} | bgzip > {_bgzipped(name)} "
            "(bgzip comes with samtools and tabix; without it unpack the file and run: python -c "
            f"\"import pysam; pysam.tabix_compress('unpacked.vcf', '{_bgzipped(name)}')\"), then "
            "give that file"
        )
    elif not name.endswith((".gz", ".bgz")):
        raise InputError(f"{name} is compressed with bgzip; rename it to {name}.bgz")


def _bgzipped(name: str) -> str:
    """A name for the recompressed file that is never the file itself."""
    stem = name.removesuffix(".gz").removesuffix(".bgz").removesuffix(".vcf")
    return f"{stem}.bgzipped.vcf.bgz"


def _contig_recoding(build: str | None) -> dict[str, str] | None:
    """Names of contigs with and without "chr" as the build has them."""
    if build is None:
        return None
    with_prefix = {name: f"chr{name}" for name in _AUTOSOMES_AND_MORE} | {"MT": "chrM"}
    if build == "GRCh38":
        return with_prefix
    return {prefixed: name for name, prefixed in with_prefix.items()}
