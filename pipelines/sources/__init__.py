"""Genotype sources: each becomes a Hail MatrixTable of biallelic rows with the same fields.

One module per kind of input has three functions: ``find`` checks its files and ``measure`` says
how much they hold, both without an engine; ``open_source`` reads them with Hail.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pandas as pd

from mrscale import config, places
from mrscale.errors import EngineError, InputError, MrscaleError
from pipelines.sources import bgen, matrix, plink, vcf, vds
from pipelines.sources.fields import GenotypeSource
from pipelines.sources.files import Extent
from pipelines.spark import import_hail, is_engine_error

__all__ = ["Extent", "GenotypeSource", "find_files", "measure", "open_source"]


class _Kind(Protocol):
    """What a module of this package offers for one kind of input."""

    def find(self, genotypes: config.Genotypes, /) -> list[str]:
        """The files or folder, checked as far as possible without an engine."""

    def measure(self, genotypes: config.Genotypes, files: list[str], /) -> Extent:
        """How much the files hold, without an engine."""

    def open_source(
        self, genotypes: config.Genotypes, files: list[str], positions: pd.DataFrame | None, /
    ) -> GenotypeSource:
        """The genotypes as Hail reads them."""


_UNREADABLE = (OSError, EOFError, struct.error, zlib.error)
"""What files raise that are cut off, damaged or not permitted."""
_KINDS: dict[str, _Kind] = {"vcf": vcf, "mt": matrix, "vds": vds, "plink": plink, "bgen": bgen}


def find_files(genotypes: config.Genotypes) -> list[str]:
    """The files or folder of the genotype source, checked as far as possible without an engine.

    Parameters
    ----------
    genotypes : mrscale.config.Genotypes

    Returns
    -------
    list of str
        Paths or URLs of everything that the genotypes are read from: VCF or BGEN files in order
        of their names (and the .sample file), the .bed, .bim and .fam, or the one folder.

    Raises
    ------
    InputError
        If nothing is named, nothing is there, or the files are not of the kind named or not fit
        to be read.
    MissingExtraError
        If a URL needs a package that is not installed.
    """
    if genotypes.source is None:
        raise InputError(
            "extraction needs genotypes: give one of vcf, mt, vds, plink and bgen in [genotypes] "
            "of the study file, or --vcf or --mt"
        )
    with _explained(genotypes):
        return _KINDS[genotypes.source].find(genotypes)


def measure(genotypes: config.Genotypes, files: list[str]) -> Extent:
    """How many people and variants genotype files hold, without an engine.

    Parameters
    ----------
    genotypes : mrscale.config.Genotypes
    files : list of str
        From :func:`find_files`.

    Raises
    ------
    InputError
        If the files cannot be read.
    """
    assert genotypes.source is not None, "find_files refuses genotypes without a source"
    with _explained(genotypes):
        return _KINDS[genotypes.source].measure(genotypes, files)


def open_source(
    genotypes: config.Genotypes, files: list[str], positions: pd.DataFrame | None = None
) -> GenotypeSource:
    """Open the source with Hail, rows split to one alternate allele each.

    Parameters
    ----------
    genotypes : mrscale.config.Genotypes
    files : list of str
        From :func:`find_files`.
    positions : DataFrame, optional
        ``contig_key`` (from :func:`pipelines.alleles.contig_key`) and ``position``: only rows at
        these positions are read. Without it all are.

    Returns
    -------
    GenotypeSource

    Raises
    ------
    InputError
        If the source lacks a field that is needed, or is a VDS and there are no ``positions``.
    EngineError
        If Spark cannot read the files' kind of URL.
    """
    assert genotypes.source is not None, "find_files refuses genotypes without a source"
    _require_readable(files)
    for_spark = [
        file if places.is_url(file) else f"file://{Path(file).absolute()}" for file in files
    ]
    return _KINDS[genotypes.source].open_source(genotypes, for_spark, positions)


@contextmanager
def _explained(genotypes: config.Genotypes) -> Iterator[None]:
    """Say in one sentence why genotype files cannot be read."""
    try:
        yield
    except MrscaleError:
        raise
    except Exception as error:  # every object store has its own classes
        named = getattr(genotypes, genotypes.source or "")
        paths = [named] if isinstance(named, str) else list(named)
        if not (isinstance(error, _UNREADABLE) or any(map(places.is_url, paths))):
            raise
        raise InputError(
            f"the genotypes cannot be read ({type(error).__name__}): {', '.join(paths[:3])}; check "
            "that the files are whole, and permissions, network and credentials"
        ) from None


def _require_readable(files: list[str]) -> None:
    """Refuse URLs that Spark has no connector for: Hail says so in a page of Java."""
    hl = import_hail()
    first_of = {file.split("://", 1)[0]: file for file in reversed(files) if places.is_url(file)}
    for scheme, file in first_of.items():
        try:
            hl.current_backend().fs.exists(file)
        except Exception as error:
            if not is_engine_error(error):
                raise
            known = not any(sign in str(error) for sign in ("No FileSystem", "ClassNotFound"))
            cause = "is refused or cannot be reached" if known else "has no connector on this Spark"
            raise EngineError(
                f"Spark cannot read {file}: {scheme}:// {cause}. Copy the genotypes to a disk that "
                "all of Spark's machines see, or start Hail yourself on a Spark with the connector "
                "and credentials (gs:// on Dataproc; s3a:// with hadoop-aws), then extract"
            ) from None
