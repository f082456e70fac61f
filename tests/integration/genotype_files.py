"""One cohort in five kinds of genotype files, and what is read from them; run by the tests."""

from __future__ import annotations

import struct
import zlib

import hail as hl
import numpy as np
import pandas as pd
import pysam

from mrscale.config import Genotypes
from pipelines.alleles import contig_key
from pipelines.sources import find_files, open_source

NUM_PEOPLE = 40
IDS = [f"{i:04d}" for i in range(NUM_PEOPLE)]
SITES = [
    ("chr20", 10_000, ["A", "G"], set()),
    ("chr20", 10_050, ["C", "T"], set()),
    ("chr20", 10_100, ["A", "G", "T"], set()),
    ("chr20", 10_200, ["AC", "A"], set()),
    ("chr20", 10_300, ["G", "C"], {"q10"}),
    ("chr21", 5_030_000, ["T", "C"], set()),
    ("chr21", 5_030_400, ["T", "G"], set()),
]
BLOCK_LEAD = 4000
"""Reference blocks begin this far before the first site of a contig."""


def write_every_kind(folder, calls):
    """A cohort of ``SITES`` and ``IDS`` in every kind of file."""
    (folder / "all.vcf").write_text(vcf_text(*calls, range(len(SITES))))
    pysam.tabix_index(str(folder / "all.vcf"), preset="vcf", keep_original=True)
    (folder / "shard-1.vcf").write_text(vcf_text(*calls, range(3)))
    (folder / "shard-2.vcf").write_text(vcf_text(*calls, range(3, len(SITES))))
    pysam.tabix_compress(str(folder / "shard-2.vcf"), str(folder / "shard-2.vcf.bgz"))
    (folder / "shard-2.vcf").unlink()
    multi = matrix_table(*calls)
    split = hl.split_multi(multi.checkpoint(str(folder / "multi.mt")))
    split = split.annotate_entries(GT=hl.downcode(split.GT, split.a_index))
    split = split.checkpoint(str(folder / "split.mt"))
    plain = split.filter_entries(split.FT)
    hl.export_plink(plain, str(folder / "plink"), ind_id=plain.s, varid=plain.rsid)
    probability = hl.range(3).map(lambda k: hl.float64(plain.GT.n_alt_alleles() == k))
    hl.export_bgen(plain, str(folder / "all"), gp=probability)
    variant_dataset(*calls).write(str(folder / "all.vds"))


def vcf_text(calls_MN2, passed_MN, rows):
    lines = [
        "##fileformat=VCFv4.2",
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">',
        '##FORMAT=<ID=FT,Number=1,Type=String,Description="Filter of the call">',
        '##FILTER=<ID=q10,Description="Low quality">',
        "##contig=<ID=chr20,length=64444167>",
        "##contig=<ID=chr21,length=46709983>",
    ]
    fixed = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
    lines += ["\t".join([*fixed, *IDS])]
    for row in rows:
        contig, position, alleles, filters = SITES[row]
        fields = [contig, str(position), f"rs{row}", alleles[0], ",".join(alleles[1:]), "."]
        fields += [";".join(filters) or "PASS", ".", "GT:FT"]
        for (a, b), passed in zip(calls_MN2[row], passed_MN[row], strict=True):
            fields += ["./.:." if a < 0 else f"{a}/{b}:{'PASS' if passed else 'lowGQ'}"]
        lines += ["\t".join(fields)]
    return "\n".join(lines) + "\n"


def localized(rows, entry, *, key, row_fields):
    """A MatrixTable from Python rows that have their list of entries."""
    schema = hl.tstruct(**row_fields, entries=hl.tarray(entry))
    table = hl.Table.parallelize(rows, schema, key=key, n_partitions=1)
    table = table.annotate_globals(columns=hl.literal([hl.Struct(s=name) for name in IDS]))
    return table._unlocalize_entries("entries", "columns", ["s"])


def locus(row):
    return hl.Locus(SITES[row][0], SITES[row][1], reference_genome="GRCh38")


def row_fields():
    """Made when asked for: a type with a locus starts Hail."""
    return {
        "locus": hl.tlocus("GRCh38"),
        "alleles": hl.tarray(hl.tstr),
        "rsid": hl.tstr,
        "filters": hl.tset(hl.tstr),
    }


def site_rows(entries_of):
    return [
        {
            "locus": locus(row),
            "alleles": SITES[row][2],
            "rsid": f"rs{row}",
            "filters": SITES[row][3],
            "entries": entries_of(row),
        }
        for row in range(len(SITES))
    ]


def matrix_table(calls_MN2, passed_MN):
    """Dense and multi-allelic, with the fields of the All of Us callsets."""

    def entries(row):
        return [
            None
            if a < 0
            else {"GT": hl.Call([a, b]), "AD": [3, 4], "GQ": 20, "FT": passed, "RGQ": 1}
            for (a, b), passed in zip(calls_MN2[row].tolist(), passed_MN[row].tolist(), strict=True)
        ]

    entry = hl.tstruct(
        GT=hl.tcall, AD=hl.tarray(hl.tint32), GQ=hl.tint32, FT=hl.tbool, RGQ=hl.tint32
    )
    return localized(site_rows(entries), entry, key=["locus", "alleles"], row_fields=row_fields())


def variant_dataset(calls_MN2, passed_MN):
    """Sparse with local alleles; runs of reference calls are blocks that begin before them."""
    reference_MN = (calls_MN2 == 0).all(2) & passed_MN

    def entries(row):
        return [
            None if a < 0 or reference else local_call(a, b, passed)
            for (a, b), passed, reference in zip(
                calls_MN2[row].tolist(), passed_MN[row].tolist(), reference_MN[row], strict=True
            )
        ]

    entry = hl.tstruct(
        LGT=hl.tcall, LA=hl.tarray(hl.tint32), LAD=hl.tarray(hl.tint32), FT=hl.tbool, RGQ=hl.tint32
    )
    variants = localized(
        site_rows(entries), entry, key=["locus", "alleles"], row_fields=row_fields()
    )
    blocks = localized(
        reference_blocks(reference_MN),
        hl.tstruct(LEN=hl.tint32, GQ=hl.tint32),
        key=["locus"],
        row_fields={"locus": hl.tlocus("GRCh38")},
    )
    return hl.vds.VariantDataset(blocks, variants)


def local_call(a, b, passed):
    alleles = sorted({0, a, b})
    call = hl.Call(sorted([alleles.index(a), alleles.index(b)]))
    return {"LGT": call, "LA": alleles, "LAD": [1] * len(alleles), "FT": passed, "RGQ": 1}


def reference_blocks(reference_MN):
    blocks = {}
    for contig in dict.fromkeys(site[0] for site in SITES):
        rows = [row for row, site in enumerate(SITES) if site[0] == contig]
        for person in range(NUM_PEOPLE):
            before = SITES[rows[0]][1] - BLOCK_LEAD
            start = None
            for row in rows:
                if reference_MN[row, person]:
                    start = start or before + 1
                    # the block is longer with each reference call in its run
                    entries = blocks.setdefault((contig, start), [None] * NUM_PEOPLE)
                    entries[person] = {"LEN": SITES[row][1] - start + 1, "GQ": 40}
                else:
                    start = None
                before = SITES[row][1]
    return [
        {"locus": hl.Locus(*place, reference_genome="GRCh38"), "entries": blocks[place]}
        for place in sorted(blocks)
    ]


def bgen_bytes(probability_MN3, missing_MN, *, ids=None, alleles=("A", "C"), zipped=True, bits=8):
    """A BGEN 1.2 file of 8-bit probabilities (in 255ths), by the specification."""
    num_people = probability_MN3.shape[1]
    names = b"".join(struct.pack("<H", len(i)) + i.encode() for i in ids or ())
    samples = struct.pack("<2I", 8 + len(names), num_people) + names if ids else b""
    flags = int(zipped) | 2 << 2 | bool(ids) << 31
    header = struct.pack("<3I4sI", 20, len(probability_MN3), num_people, b"bgen", flags)
    out = struct.pack("<I", len(header) + len(samples)) + header + samples
    for row, (p_N3, missing_N) in enumerate(zip(probability_MN3, missing_MN, strict=True)):
        for text in (f"v{row}", f"rs{row}", "01"):
            out += struct.pack("<H", len(text)) + text.encode()
        out += struct.pack("<IH", 100 + row, len(alleles))
        for allele in alleles:
            out += struct.pack("<I", len(allele)) + allele.encode()
        ploidy = (2 + 128 * missing_N).astype(np.uint8).tobytes()
        data = struct.pack("<IHBB", num_people, len(alleles), 2, 2) + ploidy + bytes([0, bits])
        data += p_N3[:, :2].astype(np.uint8).tobytes()
        packed = struct.pack("<I", len(data)) + zlib.compress(data) if zipped else data
        out += struct.pack("<I", len(packed)) + packed
    return out


def read(positions=None, **genotypes):
    """Codes by site (rows) and person (columns), -1 is missing; the source; rsid and filters."""
    chosen = Genotypes(**genotypes)
    source = open_source(chosen, find_files(chosen), positions)
    table = source.mt.localize_entries("entries", "people")
    rows = table.select("site", "rsid", "filters", codes=table.entries.code).collect()
    people = [person.sample for person in hl.eval(table.people)]
    codes = {row.site: [-1 if c is None else c for c in row.codes] for row in rows}
    assert len(codes) == len(rows)
    frame = pd.DataFrame.from_dict(codes, orient="index", columns=people).sort_index()
    return frame, source, {row.site: (row.rsid, row.filters) for row in rows}


def at(*places):
    contigs = pd.Series([contig for contig, _ in places], dtype=object)
    return pd.DataFrame(
        {"contig_key": contig_key(contigs), "position": [position for _, position in places]}
    )
