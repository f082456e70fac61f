"""BGEN 1.2 files of imputed genotypes; several are shards of the same people."""

from __future__ import annotations

import atexit
import logging
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pandas as pd

from mrscale import config, places
from mrscale.disclosure import show_count
from mrscale.errors import InputError
from mrscale.store.schema import DOSAGES
from pipelines.sources import files, positions
from pipelines.sources.fields import GenotypeSource, normalise, num_partitions
from pipelines.sources.plink import CONTIG_NAMES
from pipelines.spark import import_hail, is_engine_error

logger = logging.getLogger(__name__)

CALL_PROBABILITY = 0.9
"""A most likely genotype less probable than this is no hard call."""
_NONE, _ZLIB = 0, 1
_LAYOUT, _BITS = 2, 8
_MAGIC = (b"bgen", b"\0\0\0\0")
_SAMPLE_HEADER_LINES = 2
_PARTITION_BYTES = 128 * 2**20
_ADVICE = (
    "rewrite it, for example: plink2 --bgen FILE ref-first --export bgen-1.2 bits=8 "
    "(--max-alleles 2 --erase-phase)"
)


@dataclass(frozen=True)
class Header:
    """What the beginning of a BGEN file says.

    Attributes
    ----------
    num_people : int
    ids : tuple of bytes or None
        Sample ids, if the file holds them.
    num_variants : int
        May differ between files of the same people.
    """

    num_people: int
    ids: tuple[bytes, ...] | None
    num_variants: int = field(compare=False)


def find(genotypes: config.Genotypes) -> list[str]:
    """BGEN files of the same people that Hail can read, and the .sample file if one is given."""
    found = files.expand(genotypes.bgen)
    headers = [read_header(file) for file in found]
    files.require_same_people(headers, found, "BGEN")
    sample = files.expand([genotypes.bgen_sample]) if genotypes.bgen_sample else []
    ids = _sample_ids(sample[0], headers[0].num_people) if sample else headers[0].ids
    if ids is None:
        raise InputError(
            f"{files.name(found[0])} holds no sample ids; give the .sample file that belongs to it "
            "as bgen_sample in [genotypes]"
        )
    files.require_distinct(ids, (sample or found)[0])
    return found + sample


def measure(genotypes: config.Genotypes, found: list[str]) -> files.Extent:
    """People and variants that the files' headers count."""
    bgen = found[:-1] if genotypes.bgen_sample else found
    headers = [read_header(file) for file in bgen]
    return files.Extent(headers[0].num_people, sum(header.num_variants for header in headers))


def open_source(
    genotypes: config.Genotypes, found: list[str], wanted: pd.DataFrame | None
) -> GenotypeSource:
    """Expected dosages of the second allele, or hard calls where ``hard_calls`` is set."""
    hl = import_hail()
    sample = found[-1] if genotypes.bgen_sample else None
    bgen = found[:-1] if sample else found
    named = None if wanted is None else positions.in_spelling_of(None, wanted)
    mt = hl.import_bgen(
        bgen,
        entry_fields=["GP" if genotypes.hard_calls else "dosage"],
        sample_file=sample,
        n_partitions=_num_partitions(genotypes, bgen, named),
        index_file_map=_index(hl, bgen),
        variants=None if named is None else positions.loci(named),
        _row_fields=["rsid"],
    )
    code = _hard_call if genotypes.hard_calls else _dosage
    return GenotypeSource(normalise(mt, code), imputed=not genotypes.hard_calls)


def read_header(path: str) -> Header:
    """Read the beginning of a BGEN file and refuse what Hail would fail on later.

    References
    ----------
    https://www.chg.ox.ac.uk/~gav/bgen_format/spec/latest.html
    """
    with places.open_binary(path) as handle:
        offset, length, num_variants, num_people, magic = struct.unpack("<4I4s", _read(handle, 20))
        if magic not in _MAGIC:
            raise InputError(f"{files.name(path)} is not a BGEN file")
        handle.seek(length)
        (flags,) = struct.unpack("<I", _read(handle, 4))
        compression, layout = flags & 3, flags >> 2 & 15
        if layout != _LAYOUT or compression not in (_NONE, _ZLIB):
            other = f"layout {layout}" if layout != _LAYOUT else "another compression"
            raise InputError(
                f"{files.name(path)} must be BGEN 1.2 (layout 2), not compressed or with zlib, but "
                f"has {other}; {_ADVICE}"
            )
        ids = _read_ids(handle, num_people) if flags >> 31 else None
        if num_variants:
            handle.seek(offset + 4)
            _check_variant(handle, path, compression == _ZLIB)
    return Header(num_people, ids, num_variants)


def _read_ids(handle: BinaryIO, num_people: int) -> tuple[bytes, ...]:
    size, _ = struct.unpack("<2I", _read(handle, 8))
    block, ids, at = _read(handle, size - 8), [], 0
    for _ in range(num_people):
        start = at + 2
        at = start + int.from_bytes(block[at:start], "little")
        ids.append(block[start:at])
    return tuple(ids)


def _check_variant(handle: BinaryIO, path: str, compressed: bool) -> None:
    """Refuse a first variant of a kind that Hail does not read: the others will be like it."""
    for _ in ("variant id", "rsid", "chromosome"):
        _read(handle, _unsigned(handle, 2))
    _unsigned(handle, 4)
    num_alleles = _unsigned(handle, 2)
    for _ in range(num_alleles):
        _read(handle, _unsigned(handle, 4))
    block = _read(handle, _unsigned(handle, 4))
    data = zlib.decompress(block[4:]) if compressed else block
    num_people, _, fewest, most = struct.unpack_from("<IHBB", data)
    phased, bits = data[8 + num_people : 10 + num_people]
    problems = {
        f"{num_alleles} alleles instead of 2": num_alleles != 2,
        "a ploidy other than 2": (fewest, most) != (2, 2),
        "phased genotypes": phased,
        f"{bits} bits a probability instead of {_BITS}": bits != _BITS,
    }
    if any(problems.values()):
        named = ", ".join(problem for problem, there in problems.items() if there)
        raise InputError(f"{files.name(path)} cannot be read by Hail: it has {named}; {_ADVICE}")


def _sample_ids(path: str, num_people: int) -> tuple[bytes, ...]:
    """First column of a .sample file, below its two header lines."""
    with places.open_binary(path) as handle:
        rows = [line.split() for line in handle if line.strip()][_SAMPLE_HEADER_LINES:]
    if len(rows) != num_people:
        raise InputError(
            f"{files.name(path)} must have two header lines and a line for each of the "
            f"{show_count(num_people)} people of the BGEN file, but has "
            f"{'more' if len(rows) > num_people else 'fewer'}"
        )
    return tuple(row[0] for row in rows)


def _num_partitions(
    genotypes: config.Genotypes, bgen: list[str], named: positions.Wanted | None
) -> int:
    """One for each core; more where whole files are read and are large."""
    fewest = num_partitions(genotypes)
    if genotypes.partitions or named is not None:
        return fewest
    return max(fewest, sum(map(places.size, bgen)) // _PARTITION_BYTES)


def _index(hl: Any, bgen: list[str]) -> dict[str, str]:
    """Index each file in a temporary folder: beside it, it may be read-only."""
    folder = hl.utils.new_temp_file("mrscale-bgen")
    atexit.register(_remove, hl.current_backend().fs, folder)
    index = {file: f"{folder}/{number}.idx2" for number, file in enumerate(bgen)}
    logger.info("indexing %d BGEN files", len(bgen))
    try:
        hl.index_bgen(
            bgen, index_file_map=index, reference_genome=None, contig_recoding=CONTIG_NAMES
        )
    except Exception as error:
        if not (is_engine_error(error) and "biallelic" in str(error)):
            raise
        raise InputError(
            "Hail reads BGEN variants with two alleles only, but a file has one with more; "
            f"{_ADVICE}"
        ) from None
    return index


def _remove(filesystem: Any, folder: str) -> None:
    if filesystem.exists(folder):
        filesystem.rmtree(folder)


def _dosage(mt: Any) -> Any:
    return import_hail().int32(mt.dosage * DOSAGES.per_allele + 0.5)


def _hard_call(mt: Any) -> Any:
    hl = import_hail()
    return hl.or_missing(hl.max(mt.GP) >= CALL_PROBABILITY, hl.argmax(mt.GP))


def _unsigned(handle: BinaryIO, size: int) -> int:
    return int.from_bytes(_read(handle, size), "little")


def _read(handle: BinaryIO, size: int) -> bytes:
    data = handle.read(size)
    if len(data) < size:
        raise InputError("a BGEN file ends in the middle of its first variant; copy it again")
    return data
