"""The few fields that extraction reads, made alike for every kind of source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mrscale import config
from mrscale.errors import InputError
from pipelines.spark import import_hail

_PASSED = ("PASS", ".", "")


@dataclass(frozen=True)
class GenotypeSource:
    """Genotypes as Hail reads them.

    Attributes
    ----------
    mt : hail.MatrixTable
        Row fields ``contig``, ``position``, ``ref``, ``alt`` (``"."`` where a row has none),
        ``rsid``, ``filters`` (text, empty when passed) and ``site`` = contig:position:ref:alt, one
        row per alternate allele; column key ``sample`` (text); entry field ``code`` (int32,
        missing where there is no call).
    imputed : bool
        Whether ``code`` is the expected alternate dosage in units of the store's code, instead
        of the number of alternate alleles (0, 1, 2).
    """

    mt: Any
    imputed: bool


def normalise(mt: Any, code: Callable[[Any], Any]) -> Any:
    """The fields of :class:`GenotypeSource`, one row per alternate allele.

    ``hl.split_multi`` is not used because it needs one of Hail's reference genomes.

    Parameters
    ----------
    mt : hail.MatrixTable
        With row fields ``locus`` and ``alleles``.
    code : callable
        Entry expression of a MatrixTable that has the row field ``allele``: which of the row's
        alleles to count.
    """
    hl = import_hail()
    mt = mt.select_globals()
    mt = mt.key_cols_by(sample=hl.str(mt[next(iter(mt.col_key))])).select_cols()
    mt = mt.annotate_rows(allele=hl.range(1, hl.max(2, hl.len(mt.alleles)))).explode_rows("allele")
    mt = mt.select_entries(code=hl.int32(code(mt)))
    contig, position, ref = mt.locus.contig, mt.locus.position, mt.alleles[0]
    alt = hl.if_else(mt.allele < hl.len(mt.alleles), mt.alleles[mt.allele], ".")
    return mt.select_rows(
        contig=contig,
        position=position,
        ref=ref,
        alt=alt,
        rsid=_rsid(hl, mt),
        filters=_filters(hl, mt),
        site=hl.delimit([contig, hl.str(position), ref, alt], ":"),
    )


def num_partitions(genotypes: config.Genotypes) -> int:
    """Spark partitions to read with: as the study says, else one for each core."""
    return genotypes.partitions or int(import_hail().spark_context().defaultParallelism)


def require_calls(mt: Any, what: str) -> None:
    """Refuse a MatrixTable without variants, people or calls that can be read."""
    hl = import_hail()
    locus = mt.row.dtype.get("locus")
    has_place = isinstance(locus, hl.tlocus) or {"contig", "position"} <= set(locus or ())
    call, *local = call_fields(mt)
    readable = mt.entry.dtype.get(call) == hl.tcall and set(local) <= set(mt.entry)
    lacking = [] if has_place else ["row field locus"]
    lacking += [] if "alleles" in mt.row else ["row field alleles"]
    lacking += [] if len(mt.col_key) == 1 else ["column key of one field, the sample id"]
    lacking += [] if readable else ["calls in an entry field GT (or in LGT, with LA)"]
    if lacking:
        raise InputError(f"{what} cannot be read: it has no {', no '.join(lacking)}")


def call_fields(mt: Any) -> list[str]:
    """Names of the entry fields that :func:`count_alternate` reads."""
    names = ("GT",) if "GT" in mt.entry else ("LGT", "LA")
    return [*names, *(("FT",) if "FT" in mt.entry else ())]


def count_alternate(mt: Any) -> Any:
    """Entry expression: copies (0, 1, 2) of the row's ``allele`` in the call.

    Missing where there is no call, the call is not diploid, or ``FT`` says that it failed. Other
    alternate alleles count as reference, as in Hail's own split.
    """
    hl = import_hail()
    call = mt.GT if "GT" in mt.entry else mt.LGT
    copies = _global_copies(hl, mt, call) if "GT" in mt.entry else _local_copies(hl, mt, call)
    usable = call.ploidy == 2
    return hl.or_missing(usable & _passed(hl, mt) if "FT" in mt.entry else usable, copies)


def _global_copies(hl: Any, mt: Any, call: Any) -> Any:
    split = hl.len(mt.alleles) <= 2
    return hl.if_else(split, call.n_alt_alleles(), hl.downcode(call, mt.allele).n_alt_alleles())


def _local_copies(hl: Any, mt: Any, call: Any) -> Any:
    """``LA`` lists which of the row's alleles the numbers of ``LGT`` stand for."""
    copies = [hl.int32(mt.LA[call[index]] == mt.allele) for index in range(2)]
    # reference blocks have no LA: it would say nothing
    return hl.if_else(call.is_hom_ref(), 0, copies[0] + copies[1])


def _passed(hl: Any, mt: Any) -> Any:
    """Whether the entry's filter says that the call may be used; so without a value."""
    kind = mt.FT.dtype
    if kind == hl.tbool:
        return hl.or_else(mt.FT, True)
    passed = hl.literal(set(_PASSED))
    if kind == hl.tstr:
        return passed.contains(hl.or_else(mt.FT, "PASS"))
    if kind in (hl.tarray(hl.tstr), hl.tset(hl.tstr)):
        return hl.or_else(hl.array(mt.FT).all(passed.contains), True)
    raise InputError(
        f"the entry field FT must be true or false, or text (PASS), not {kind}; drop it or change "
        "it in the genotype file"
    )


def _rsid(hl: Any, mt: Any) -> Any:
    if "rsid" not in mt.row:
        return ""
    rsid = hl.or_else(hl.str(mt.rsid), "")
    return hl.if_else(rsid == ".", "", rsid)


def _filters(hl: Any, mt: Any) -> Any:
    """Filters that the row failed, joined by semicolons."""
    if "filters" not in mt.row:
        return ""
    given = hl.array([mt.filters]) if mt.filters.dtype == hl.tstr else hl.array(mt.filters)
    failed = given.filter(lambda name: ~hl.literal(set(_PASSED)).contains(name))
    return hl.or_else(hl.delimit(hl.sorted(failed), ";"), "")
