"""Genotype sources: each becomes a Hail MatrixTable of biallelic rows with the same fields."""

from __future__ import annotations

from glob import glob
from pathlib import Path
from typing import Any

from mrscale import config
from mrscale.errors import InputError
from pipelines.spark import import_hail

_BGZF_HEADER = b"\x1f\x8b\x08\x04"
_AUTOSOMES_AND_MORE = (*map(str, range(1, 23)), "X", "Y", "MT")


def find_files(genotypes: config.Genotypes) -> list[str]:
    """The files or folder of the genotype source, checked as far as possible without an engine.

    Parameters
    ----------
    genotypes : mrscale.config.Genotypes

    Returns
    -------
    list of str
        VCF files (a glob may name many), or the one MatrixTable. URLs are returned unchecked.

    Raises
    ------
    InputError
        If nothing is named, nothing is there, or a VCF is gzip instead of bgzip.
    """
    named = genotypes.vcf[0] if genotypes.vcf else genotypes.mt
    if not named:
        raise InputError("extraction needs genotypes: give a VCF (--vcf) or MatrixTable (--mt)")
    if "://" in named:
        return [named]
    files = [named] if Path(named).exists() else sorted(glob(named))  # noqa: PTH207 - may be absolute
    if not files:
        raise InputError(f"no such file: {named}")
    for file in files:
        if genotypes.vcf:
            _check_vcf(Path(file))
        elif not (Path(file) / "metadata.json.gz").is_file():
            raise InputError(f"{file} is not a Hail MatrixTable: it has no metadata.json.gz")
    return files


def read(genotypes: config.Genotypes, files: list[str]) -> Any:
    """Open the source with Hail, rows split to one alternate allele each.

    Parameters
    ----------
    genotypes : mrscale.config.Genotypes
    files : list of str
        From :func:`find_files`.

    Returns
    -------
    hail.MatrixTable
        Row fields ``contig``, ``position``, ``ref``, ``alt`` (``"."`` where a row has none),
        ``rsid``, ``filters`` (text, empty when passed) and ``site`` = contig:position:ref:alt as
        in the file; column field ``sample``; entry field ``GT``.
    """
    hl = import_hail()
    mt = _read_vcf(hl, genotypes, files) if genotypes.vcf else hl.read_matrix_table(files[0])
    return _split(hl, _normalise(hl, mt))


def _check_vcf(path: Path) -> None:
    with path.open("rb") as handle:
        start = handle.read(16)
    if start[:2] != b"\x1f\x8b":
        if not start.startswith(b"##fileformat=VCF"):
            raise InputError(f"{path.name} is not a VCF: it does not start with ##fileformat=VCF")
    elif not (start.startswith(_BGZF_HEADER) and start[12:14] == b"BC"):
        raise InputError(
            f"{path.name} is compressed with gzip; a VCF must be compressed with bgzip, so that "
            f"it can be read in parallel: gzip -dc {path.name} | bgzip > {_bgzipped(path)} "
            "(bgzip comes with samtools and tabix), then give that file"
        )


def _bgzipped(path: Path) -> str:
    """A name for the recompressed file that is never the file itself."""
    stem = path.name.removesuffix(".gz").removesuffix(".bgz").removesuffix(".vcf")
    return f"{stem}.bgzipped.vcf.bgz"


def _read_vcf(hl: Any, genotypes: config.Genotypes, files: list[str]) -> Any:
    build = genotypes.reference_genome
    return hl.import_vcf(
        files,
        reference_genome=build,
        contig_recoding=_contig_recoding(build),
        force_bgz=all(file.endswith(".gz") for file in files),
        min_partitions=genotypes.partitions,
    )


def _contig_recoding(build: str | None) -> dict[str, str] | None:
    """Names of contigs with and without "chr" as the build has them."""
    if build is None:
        return None
    with_prefix = {name: f"chr{name}" for name in _AUTOSOMES_AND_MORE} | {"MT": "chrM"}
    if build == "GRCh38":
        return with_prefix
    return {prefixed: name for name, prefixed in with_prefix.items()}


def _normalise(hl: Any, mt: Any) -> Any:
    """The few fields that extraction reads, whatever else the source has."""
    problems = [name for name in ("locus", "alleles") if name not in mt.row]
    problems += [] if "GT" in mt.entry else ["GT"]
    if problems:
        raise InputError(
            f"a MatrixTable must have row fields locus and alleles and the entry field GT; "
            f"this one has no {', '.join(problems)}"
        )
    filters = hl.delimit(hl.sorted(hl.array(mt.filters)), ";") if "filters" in mt.row else ""
    mt = mt.select_rows(
        rsid=hl.or_else(mt.rsid, "") if "rsid" in mt.row else "",
        filters=hl.or_else(filters, ""),
    )
    has_filter = "FT" in mt.entry and mt.FT.dtype == hl.tbool
    mt = mt.select_entries(
        GT=hl.or_missing(hl.or_else(mt.FT, True), mt.GT) if has_filter else mt.GT
    )
    mt = mt.select_globals()
    return mt.key_cols_by(sample=hl.str(mt[next(iter(mt.col_key))])).select_cols()


def _split(hl: Any, mt: Any) -> Any:
    """One row per alternate allele; other alternates count as reference, as in Hail's own split.

    ``hl.split_multi`` is not used because it needs one of Hail's reference genomes.
    """
    index = hl.range(1, hl.max(2, hl.len(mt.alleles)))
    mt = mt.annotate_rows(allele=index).explode_rows("allele")
    has_alt = mt.allele < hl.len(mt.alleles)
    contig, position = mt.locus.contig, mt.locus.position
    ref, alt = mt.alleles[0], hl.if_else(has_alt, mt.alleles[mt.allele], ".")
    mt = mt.annotate_rows(
        contig=contig,
        position=position,
        ref=ref,
        alt=alt,
        site=hl.delimit([contig, hl.str(position), ref, alt], ":"),
    )
    return mt.transmute_entries(GT=hl.downcode(mt.GT, mt.allele))
