"""Genome builds of the list and of the genotypes: compared, and the list lifted to the other."""

from __future__ import annotations

import gzip
import re
import tempfile
import uuid
import zlib
from pathlib import Path
from typing import Any

import pandas as pd

from mrscale import config, places
from mrscale.errors import InputError
from pipelines.alleles import contig_key, other_strand
from pipelines.spark import import_hail

_BATCH = 20_000
_GZIP_MAGIC = b"\x1f\x8b"
_COMPRESSED = re.compile(r"\.(gz|bgz|bz2|xz|zst)$")
_STATED = re.compile(r"^\s*genome_?assembly\s*:\s*[\"']?([\w.]+)", re.IGNORECASE | re.MULTILINE)
_BUILDS = {"37": "GRCh37", "hg19": "GRCh37", "38": "GRCh38", "hg38": "GRCh38"}
_BUILDS |= {"36": "NCBI36", "hg18": "NCBI36"}


def require_one_build(
    options: config.Instruments, genotype_build: str | None, *, harmonised: bool = False
) -> None:
    """Refuse a list of instruments that states another genome build than the genotypes have.

    Parameters
    ----------
    options : mrscale.config.Instruments
        ``build``; the file ``<file>-meta.yaml`` beside the list (GWAS-SSF) is read as well.
    genotype_build : str or None
        Build of the genotypes; None if it is not known.
    harmonised : bool, default False
        Whether the list has the columns that the GWAS Catalog moved to GRCh38.

    Raises
    ------
    InputError
        If two statements about the list contradict each other, if it is on another build than
        the genotypes and there is no ``liftover``, or if there is one for nothing.
    """
    statements = _statements(options, harmonised=harmonised)
    builds = list(dict.fromkeys(statements.values()))
    if len(builds) > 1:
        said = " but ".join(f"{build} by {source}" for source, build in statements.items())
        raise InputError(f"the list of instruments is on {said}; mend the one that is wrong")
    if not builds or genotype_build is None:
        return
    if builds[0] != genotype_build and not options.liftover:
        raise InputError(
            f"the list of instruments is on {builds[0]} (by {next(iter(statements))}) and the "
            f"genotypes are on {genotype_build}; give [instruments] liftover, a chain file from "
            f"{builds[0]} to {genotype_build}, or a list on {genotype_build}"
        )
    if builds[0] == genotype_build and options.liftover:
        raise InputError(
            f"the list of instruments (by {next(iter(statements))}) and the genotypes are both on "
            f"{genotype_build}, so there is nothing to lift; remove [instruments] liftover, or "
            "mend the build"
        )


def lift(
    listed: pd.DataFrame, options: config.Instruments, genotype_build: str | None = None
) -> pd.DataFrame:
    """Move the list's usable rows to the genotypes' build, with Hail.

    Parameters
    ----------
    listed : DataFrame
        From :func:`pipelines.instruments.read_instruments`.
    options : mrscale.config.Instruments
        ``liftover``, a chain file (path or URL, may be compressed with gzip); without one the list
        comes back as it is.
    genotype_build : str, optional
        Build of the genotypes; the chain must lead to it.

    Returns
    -------
    DataFrame
        The same rows with new ``contig``, ``contig_key`` and ``position``; alleles on the other
        strand where the chain turns. What does not lift has status ``"not lifted"``.

    Raises
    ------
    InputError
        If the chain file is missing, is none, or leads from or to another build.
    """
    if options.liftover is None:
        return listed
    chain = _read_chain(options.liftover)
    source, target = _contigs(chain)
    hl = import_hail()
    _require_length(hl, options.build, source, "from")
    _require_length(hl, genotype_build, target, "to")
    names = {
        key: name for name, key in zip(source, contig_key(pd.Series(list(source))), strict=True)
    }
    usable = listed[listed["status"] == ""]
    contig = usable["contig_key"].map(names)
    length = contig.map(source)
    inside = usable[usable["position"] <= length]
    found = _lifted(hl, chain, source, target, contig[inside.index], inside["position"])
    return _moved(listed, usable, found)


def _statements(options: config.Instruments, *, harmonised: bool) -> dict[str, str]:
    """What says on which build the list is, and what it says."""
    statements: dict[str, str] = {}
    if options.build:
        statements["[instruments] build"] = options.build
    if harmonised:
        statements["its columns hm_chrom and hm_pos, which the study uses"] = "GRCh38"
    elif build := _stated_beside(options.file or ""):
        statements["the -meta.yaml file beside it"] = build
    return statements


def _stated_beside(file: str) -> str | None:
    """``genome_assembly`` in the GWAS-SSF metadata of a table: all that is read of them."""
    for name in dict.fromkeys((file, _COMPRESSED.sub("", file))):
        if places.is_file(f"{name}-meta.yaml"):
            text = places.read_bytes(f"{name}-meta.yaml").decode(errors="replace")
            found = _STATED.search(text)
            return _build_name(found.group(1)) if found else None
    return None


def _build_name(text: str) -> str:
    """A genome build under Hail's name (hg19 is GRCh37); others stay as they are."""
    plain = re.sub(r"^(grch|ncbi|build|b)", "", text.lower()).split(".")[0]
    return _BUILDS.get(plain, text)


def _read_chain(file: str) -> bytes:
    if not places.is_file(file):
        raise InputError(f"no such file: {file}; [instruments] liftover must be a chain file")
    data = places.read_bytes(file)
    try:
        return gzip.decompress(data) if data.startswith(_GZIP_MAGIC) else data
    except (OSError, EOFError, zlib.error):
        raise InputError(
            "[instruments] liftover is compressed with gzip, but incomplete or damaged; fetch the "
            "chain file again"
        ) from None


def _contigs(chain: bytes) -> tuple[dict[str, int], dict[str, int]]:
    """Lengths of the contigs that a chain file starts from and leads to."""
    # chain score tName tSize tStrand tStart tEnd qName qSize ...
    lines = chain.decode(errors="replace").splitlines()
    heads = [line.split() for line in lines if line.startswith("chain")]
    try:
        source = {head[2]: int(head[3]) for head in heads}
        target = {head[7]: int(head[8]) for head in heads}
    except (IndexError, ValueError):
        source, target = {}, {}
    if not source or not target:
        raise InputError(
            "[instruments] liftover must be a chain file (UCSC), with lines that start with "
            "'chain'; this file has none that can be read"
        )
    return source, target


def _require_length(hl: Any, build: str | None, lengths: dict[str, int], way: str) -> None:
    """Refuse a chain file of another build, told by the length of a chromosome."""
    if build is None:
        return
    key = contig_key(pd.Series(list(lengths)))
    found = dict(zip(key, lengths.values(), strict=True))
    reference = hl.get_reference(build).lengths
    for name, length in zip(
        contig_key(pd.Series(list(reference))), reference.values(), strict=True
    ):
        # autosomes only: UCSC's hg19 has another mitochondrion than GRCh37
        if name.isdecimal() and name in found and found[name] != length:
            raise InputError(
                f"the chain file must lead {way} {build}, but its chromosome {name} is "
                f"{found[name]:,} bases long and that of {build} is {length:,}; give the chain "
                "file from the list's build to the genotypes'"
            )


def _lifted(
    hl: Any,
    chain: bytes,
    source: dict[str, int],
    target: dict[str, int],
    contig: pd.Series,
    position: pd.Series,
) -> pd.DataFrame:
    """New ``contig``, ``position`` and ``turned`` (strand) of the rows that the chain covers."""
    name = uuid.uuid4().hex
    # the chain's own contigs, so that it need not spell them as one of Hail's builds does
    builds = [
        hl.ReferenceGenome(f"{way}-{name}", list(lengths), lengths)
        for way, lengths in (("list", source), ("genotypes", target))
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "list.chain"
        file.write_bytes(chain)
        builds[0].add_liftover(file.as_uri(), builds[1])
        found = []
        for start in range(0, len(position), _BATCH):
            batch = slice(start, start + _BATCH)
            pairs = zip(contig.iloc[batch], position.iloc[batch].tolist(), strict=True)
            # evaluated on the driver, where the chain file is
            at = hl.literal(list(pairs), hl.tarray(hl.ttuple(hl.tstr, hl.tint32)))
            moved = at.map(
                lambda p: hl.liftover(
                    hl.locus(p[0], p[1], builds[0]), builds[1], include_strand=True
                )
            )
            found += hl.eval(moved)
        builds[0].remove_liftover(builds[1])
    rows = [
        (at, place.result.contig, place.result.position, place.is_negative_strand)
        for at, place in zip(position.index, found, strict=True)
        if place is not None and place.result is not None
    ]
    return pd.DataFrame(rows, columns=["row", "contig", "position", "turned"]).set_index("row")


def _moved(listed: pd.DataFrame, usable: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    listed = listed.copy()
    lost = usable.index.difference(found.index)
    listed.loc[lost, "status"] = "not lifted"
    listed.loc[lost, "reason"] = "the chain file does not lead from this position"

    turned = found.index[found["turned"].astype(bool)]
    effect, other = listed.loc[turned, "effect_allele"], listed.loc[turned, "other_allele"]
    indel = turned[effect.str.len() != other.str.len()]
    listed.loc[indel, "status"] = "not lifted"
    listed.loc[indel, "reason"] = "an insertion or deletion where the chain file changes strand"
    found, turned = found.drop(indel), turned.difference(indel)

    listed.loc[found.index, "contig"] = found["contig"]
    listed.loc[found.index, "contig_key"] = contig_key(found["contig"])
    # the first base of several is the last one on the other strand
    behind = effect[turned].str.len() - 1
    listed.loc[found.index, "position"] = found["position"].sub(behind, fill_value=0).astype(int)
    listed.loc[turned, "effect_allele"] = other_strand(effect[turned])
    listed.loc[turned, "other_allele"] = other_strand(other[turned])
    return listed
