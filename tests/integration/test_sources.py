"""Five kinds of genotype files on the real engine: the same cohort gives the same codes."""

from __future__ import annotations

import gzip
import logging
import shutil
import struct
import zlib

import numpy as np
import pandas as pd
import pytest

from mrscale.config import Genotypes
from mrscale.errors import EngineError, InputError
from mrscale.store.schema import DOSAGES

hl = pytest.importorskip("hail")
pysam = pytest.importorskip("pysam")

from pipelines.alleles import contig_key  # noqa: E402
from pipelines.sources import find_files, measure, open_source  # noqa: E402
from pipelines.spark import start_hail  # noqa: E402

pytestmark = pytest.mark.spark

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


@pytest.fixture(scope="module", autouse=True)
def hail(tmp_path_factory):
    start_hail(log_dir=tmp_path_factory.mktemp("hail"))


@pytest.fixture(scope="module")
def calls():
    """Alleles of each call, shape (sites, people, 2), -1 without a call; whether it passed."""
    rng = np.random.default_rng(3)
    drawn = [rng.choice(len(a), (NUM_PEOPLE, 2), p=_frequencies(len(a))) for _, _, a, _ in SITES]
    calls_MN2 = np.sort(np.array(drawn), axis=2)
    calls_MN2[rng.random(calls_MN2.shape[:2]) < 0.1] = -1
    return calls_MN2, (rng.random(calls_MN2.shape[:2]) >= 0.1) | (calls_MN2[..., 0] < 0)


def _frequencies(num_alleles):
    return [0.7, 0.3] if num_alleles == 2 else [0.5, 0.3, 0.2]


@pytest.fixture(scope="module")
def expected(calls):
    """Alternate-allele counts by site; -1 is missing."""
    calls_MN2, passed_MN = calls
    usable_MN = passed_MN & (calls_MN2[..., 0] >= 0)
    return pd.DataFrame.from_dict(
        {
            f"{contig}:{position}:{alleles[0]}:{alleles[k]}": np.where(
                usable_MN[row], (calls_MN2[row] == k).sum(1), -1
            )
            for row, (contig, position, alleles, _) in enumerate(SITES)
            for k in range(1, len(alleles))
        },
        orient="index",
        columns=IDS,
    ).sort_index()


@pytest.fixture(scope="module")
def folder(calls, tmp_path_factory):
    """The cohort in every kind of file."""
    folder = tmp_path_factory.mktemp("the cohort")
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
    return folder


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


ALL_POSITIONS = at(*[(site[0], site[1]) for site in SITES])
KINDS = {
    "one VCF": {"vcf": ("all.vcf.gz",), "reference_genome": "GRCh38"},
    "VCF shards": {"vcf": ("shard-*",)},
    "split MatrixTable": {"mt": "split.mt"},
    "multi-allelic MatrixTable": {"mt": "multi.mt"},
    "VDS": {"vds": "all.vds"},
    "PLINK": {"plink": "plink"},
    "BGEN": {"bgen": ("all.bgen",), "hard_calls": True},
}


def in_folder(folder, genotypes):
    return {
        key: tuple(str(folder / name) for name in value)
        if isinstance(value, tuple)
        else str(folder / value)
        if key in ("mt", "vds", "plink")
        else value
        for key, value in genotypes.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_codes(kind, folder, expected):
    wanted = ALL_POSITIONS if kind == "VDS" else None
    found, source, notes = read(wanted, **in_folder(folder, KINDS[kind]))
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert not source.imputed
    assert source.mt.code.dtype == hl.tint32
    assert list(source.mt.col_key) == ["sample"]
    assert notes["chr20:10300:G:C"] == (
        "rs4",
        "" if kind in ("PLINK", "BGEN") else "q10",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_measured_without_an_engine(kind, folder):
    genotypes = Genotypes(**in_folder(folder, KINDS[kind]))
    files = find_files(genotypes)
    found = measure(genotypes, files)
    if kind == "VDS":
        rows, people = hl.vds.read_vds(files[0]).variant_data.count()
    elif "MatrixTable" in kind:
        rows, people = hl.read_matrix_table(files[0]).count()
    else:
        alleles = sum(len(alleles) - 1 for _, _, alleles, _ in SITES)
        rows, people = len(SITES) if "VCF" in kind else alleles, NUM_PEOPLE
    assert found.num_people == people
    assert found.exact == (kind != "VCF shards")
    assert found.num_rows == rows if found.exact else found.num_rows > 0


def test_rows_of_a_large_vcf_are_judged_from_its_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.sources.vcf._BYTES_TO_JUDGE", 2**15)
    rng = np.random.default_rng(5)
    header = "##fileformat=VCF4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t"
    names = "\t".join(f"p{i}" for i in range(60))
    with pysam.BGZFile(str(tmp_path / "a.vcf.bgz"), "wb") as file:
        file.write(f"{header}{names}\n".encode())
        for position in range(1, 6001):
            calls = "\t".join(rng.choice(["0/0", "0/1", "1/1"], 60))
            file.write(f"1\t{position}\t.\tA\tC\t.\tPASS\t.\tGT\t{calls}\n".encode())
    genotypes = Genotypes(vcf=(str(tmp_path / "a.vcf.bgz"),))
    found = measure(genotypes, find_files(genotypes))
    assert (found.num_people, found.exact) == (60, False)
    assert found.num_rows == pytest.approx(6000, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_positions_asked_for_are_read(kind, folder, expected):
    wanted = at(("chr20", 10_100), ("21", 5_030_400), ("21", 5_030_401), ("22", 1), ("X", 2**33))
    found, _, _ = read(wanted, **in_folder(folder, KINDS[kind]))
    sites = ["chr20:10100:A:G", "chr20:10100:A:T", "chr21:5030400:T:G"]
    pd.testing.assert_frame_equal(found, expected.loc[sites], check_dtype=False)


def test_positions_that_the_file_does_not_have_give_no_rows(folder):
    for kind in ("VDS", "BGEN"):
        found, _, _ = read(at(("5", 77)), **in_folder(folder, KINDS[kind]))
        assert found.shape == (0, NUM_PEOPLE)


def test_a_vds_is_dense_at_the_instruments_alone_and_reads_blocks_that_begin_before(
    folder, expected, tmp_path, caplog
):
    """The blocks begin thousands of bases before the site, the filter's interval at the site."""
    shutil.copytree(folder / "all.vds", tmp_path / "known.vds")
    hl.vds.store_ref_block_max_length(str(tmp_path / "known.vds"))
    site, wanted = "chr21:5030000:T:C", at(("21", 5_030_000))
    assert (expected.loc[site] == 0).sum() > 5
    with caplog.at_level(logging.WARNING):
        for path in (tmp_path / "known.vds", folder / "all.vds"):
            found, _, _ = read(wanted, vds=str(path))
            pd.testing.assert_frame_equal(found, expected.loc[[site]], check_dtype=False)
    advice = [record for record in caplog.records if "store_ref_block" in record.message]
    assert len(advice) == 1


def test_a_vds_without_a_list_of_instruments_is_refused(folder):
    with pytest.raises(InputError, match=r"give a list of them .* or .* dense MatrixTable as mt"):
        read(vds=str(folder / "all.vds"))


def test_counts_equal_those_of_cyvcf2_and_of_vcf2zarr(folder, expected, tmp_path):
    cyvcf2 = pytest.importorskip("cyvcf2")
    bio2zarr = pytest.importorskip("bio2zarr.vcf")
    zarr = pytest.importorskip("zarr")
    found, _, _ = read(vcf=(str(folder / "all.vcf.gz"),))
    bio2zarr.convert([folder / "all.vcf.gz"], tmp_path / "all.vcz", worker_processes=0)
    store = zarr.open(tmp_path / "all.vcz", mode="r")
    zarr_calls_MN2, filter_MN = store["call_genotype"][:], store["call_FT"][:]
    for row, variant in enumerate(cyvcf2.VCF(str(folder / "all.vcf.gz"))):
        calls_N2 = variant.genotype.array()[:, :2]
        failed = np.char.rstrip(variant.format("FT").astype(str), "\0") == "lowGQ"
        np.testing.assert_array_equal(failed, filter_MN[row] == "lowGQ")
        for k, alt in enumerate(variant.ALT, start=1):
            site = f"{variant.CHROM}:{variant.POS}:{variant.REF}:{alt}"
            for calls in (calls_N2, zarr_calls_MN2[row]):
                missing = (calls < 0).any(1) | failed
                counts = np.where(missing, -1, (calls == k).sum(1))
                np.testing.assert_array_equal(found.loc[site], counts, err_msg=site)
    assert found.index.tolist() == expected.index.tolist()


def test_real_people_are_refused_as_gzip_and_read_as_bgzip(shared_data, tmp_path):
    cyvcf2 = pytest.importorskip("cyvcf2")
    original = shared_data("data/1kg_pilot_chr2.vcf.gz")
    with pytest.raises(InputError, match=r"gzip -dc 1kg_pilot_chr2\.vcf\.gz \| bgzip > "):
        find_files(Genotypes(vcf=str(original)))
    plain, packed = tmp_path / "pilot.vcf", tmp_path / "pilot.vcf.bgz"
    plain.write_bytes(gzip.decompress(original.read_bytes()))
    pysam.tabix_compress(str(plain), str(packed))
    found, _, _ = read(vcf=str(packed))
    reader = cyvcf2.VCF(str(packed))
    assert found.columns.tolist() == reader.samples
    assert len(reader.samples) == 629
    num_rows = 0
    for variant in reader:
        calls_N2 = variant.genotype.array()[:, :2]
        for k, alt in enumerate(variant.ALT, start=1):
            counts = np.where((calls_N2 < 0).any(1), -1, (calls_N2 == k).sum(1))
            site = f"{variant.CHROM}:{variant.POS}:{variant.REF}:{alt}"
            np.testing.assert_array_equal(found.loc[site], counts)
            num_rows += 1
    assert num_rows == len(found) > 100


def test_half_and_haploid_calls_are_missing_and_other_fields_do_not_matter(tmp_path):
    calls = ["0/0", "./1", "1/.", "1", "0", ".", "1|0", "1/1"]
    header = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
    rows = [
        ["##fileformat=VCFv4.2"],
        ['##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">'],
        ['##FORMAT=<ID=DP,Number=1,Type=Integer,Description="Depth">'],
        [*header, *"abcdefgh"],
        ["7", "5", ".", "A", "C", "?", ".", "=", "GT:DP", *(f"{call}:many" for call in calls)],
        ["7", "6", ".", "A", ".", ".", ".", ".", "GT", *["0/0"] * 8],
    ]
    (tmp_path / "g.vcf").write_text("".join("\t".join(row) + "\n" for row in rows))
    found, _, notes = read(vcf=str(tmp_path / "g.vcf"))
    assert found.loc["7:5:A:C"].tolist() == [0, -1, -1, -1, -1, -1, 1, 2]
    assert found.loc["7:6:A:."].tolist() == [0] * 8
    assert notes["7:5:A:C"] == ("", "")


def test_vcf_shards_of_other_people_are_refused_without_naming_them(folder, tmp_path):
    shard = (folder / "shard-1.vcf").read_text()
    (tmp_path / "a.vcf").write_text(shard)
    (tmp_path / "b.vcf").write_text(shard.replace("0000\t0001", "0001\t0000"))
    with pytest.raises(InputError, match=r"1 of 2 differ from a\.vcf, among them b\.vcf") as caught:
        find_files(Genotypes(vcf=str(tmp_path / "*.vcf")))
    assert "0001" not in str(caught.value)


def test_plink_counts_allele_1_and_reads_any_phenotype(tmp_path):
    """Against the bytes: two bits a person, 00 two copies of A1, 01 missing, 10 one, 11 none."""
    rng = np.random.default_rng(1)
    bits_MN = rng.integers(0, 4, (4, 11))
    padded = np.pad(bits_MN, ((0, 0), (0, 1))).reshape(4, 3, 4)
    data = (padded << np.array([0, 2, 4, 6])).sum(2).astype(np.uint8).tobytes()
    (tmp_path / "p.bed").write_bytes(b"\x6c\x1b\x01" + data)
    places = [("1", 100, "G"), ("01", 50, "C"), ("0", 0, "0"), ("23", 7, "T")]
    (tmp_path / "p.bim").write_text(
        "".join(f"{contig}\trs{p}\t0\t{p}\t{a1}\tA\n" for contig, p, a1 in places)
    )
    phenotypes = ["-9", "1", "2", "3.5", "NA", "0", "1e3", "-9", "-9", "1", "2"]
    (tmp_path / "p.fam").write_text(
        "".join(f"same\t00{i}\t0 0\t0 {value}\n" for i, value in enumerate(phenotypes))
    )
    found, _, notes = read(plink=str(tmp_path / "p.bed"))
    assert found.columns.tolist() == [f"00{i}" for i in range(11)]
    sites = ["1:100:A:G", "1:50:A:C", "0:0:A:0", "X:7:A:T"]
    np.testing.assert_array_equal(found.loc[sites], np.array([2, -1, 1, 0])[bits_MN])
    assert notes["1:100:A:G"][0] == "rs100"


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


@pytest.fixture(scope="module")
def imputed():
    """Probabilities in 255ths, shape (variants, people, 3), and whether a call is missing."""
    rng = np.random.default_rng(8)
    cuts = np.sort(rng.integers(0, 256, (6, 30, 2)), axis=2)
    cuts[:, :8] = [
        [230, 255],
        [229, 255],
        [0, 255],
        [0, 230],
        [0, 0],
        [255, 255],
        [26, 255],
        [0, 3],
    ]
    probability_MN3 = np.diff(cuts, axis=2, prepend=0, append=255)
    missing_MN = rng.random((6, 30)) < 0.1
    probability_MN3[missing_MN] = 0
    return probability_MN3, missing_MN


@pytest.mark.parametrize("zipped", [True, False])
def test_imputed_dosages_and_hard_calls(imputed, zipped, tmp_path):
    """Two files and a .sample file, in a folder that cannot be written."""
    probability_MN3, missing_MN = imputed
    for number, rows in enumerate((slice(4), slice(4, 6))):
        data = bgen_bytes(probability_MN3[rows], missing_MN[rows], zipped=zipped)
        if number:  # the second file's positions follow those of the first
            data = data.replace(struct.pack("<I", 100) + b"\2\0", struct.pack("<I", 104) + b"\2\0")
            data = data.replace(struct.pack("<I", 101) + b"\2\0", struct.pack("<I", 105) + b"\2\0")
        (tmp_path / f"chr1-{number}.bgen").write_bytes(data)
    ids = [f"00{i}" for i in range(30)]
    lines = ["ID_1 ID_2 missing sex", "0 0 0 D", *(f"{i} {i} 0 1" for i in ids)]
    (tmp_path / "p.sample").write_text("\n".join(lines) + "\n")
    tmp_path.chmod(0o555)
    given = {"bgen": str(tmp_path / "*.bgen"), "bgen_sample": str(tmp_path / "p.sample")}
    genotypes = Genotypes(**given)
    extent = measure(genotypes, find_files(genotypes))
    assert (extent.num_people, extent.num_rows, extent.exact) == (30, 6, True)
    found, source, _ = read(**given)
    assert source.imputed
    assert found.columns.tolist() == ids
    assert found.index.tolist() == [f"1:{100 + row}:A:C" for row in range(6)]
    dosage_MN = (probability_MN3[..., 1] + 2 * probability_MN3[..., 2]) / 255
    codes_MN = np.where(missing_MN, -1, np.rint(DOSAGES.per_allele * dosage_MN))
    np.testing.assert_array_equal(found, codes_MN)
    called, hard, _ = read(**given, hard_calls=True)
    certain = ~missing_MN & (probability_MN3.max(2) >= 0.9 * 255)
    np.testing.assert_array_equal(called, np.where(certain, probability_MN3.argmax(2), -1))
    assert not hard.imputed
    tmp_path.chmod(0o755)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".bgen", ".bgen", ".sample"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"alleles": ("A", "C", "G")}, r"3 alleles instead of 2; .*plink2"),
        ({"bits": 16}, "16 bits a probability instead of 8"),
        ({"ids": None}, "holds no sample ids; give the .sample file"),
        ({"ids": ["planted", "planted"]}, "<=20 ids of g.bgen repeat an earlier one"),
        ({"zipped": 2}, "has another compression"),
    ],
)
def test_a_bgen_that_hail_cannot_read_is_refused_before_it_tries(damage, message, tmp_path):
    data = bgen_bytes(
        np.full((1, 2, 3), 85), np.zeros((1, 2), bool), **{"ids": ["a", "b"]} | damage
    )
    (tmp_path / "g.bgen").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        find_files(Genotypes(bgen=str(tmp_path / "g.bgen")))
    assert "planted" not in str(caught.value)


def test_a_bgen_with_a_later_variant_of_three_alleles_is_refused(tmp_path):
    given = np.full((1, 2, 3), 85), np.zeros((1, 2), bool)
    data = bytearray(bgen_bytes(*given, ids=["a", "b"]))
    other = bgen_bytes(*given, ids=["a", "b"], alleles=("A", "C", "G"))
    data[8:12] = struct.pack("<I", 2)
    (tmp_path / "g.bgen").write_bytes(data + other[4 + struct.unpack("<I", other[:4])[0] :])
    with pytest.raises(InputError, match=r"two alleles only, but a file has one with more"):
        read(bgen=str(tmp_path / "g.bgen"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"GT": hl.tstr}, "has no calls in an entry field GT"),
        ({"GT": hl.tcall, "FT": hl.tint32}, "FT must be true or false"),
    ],
)
def test_a_matrix_table_without_usable_fields_is_refused(columns, message, tmp_path):
    mt = hl.utils.range_matrix_table(2, 2)
    values = {name: hl.missing(kind) for name, kind in columns.items()}
    mt = mt.annotate_entries(**values).annotate_rows(alleles=["A", "C"])
    mt = mt.annotate_rows(locus=hl.struct(contig="1", position=mt.row_idx))
    mt.write(str(tmp_path / "odd.mt"))
    with pytest.raises(InputError, match=message):
        read(mt=str(tmp_path / "odd.mt"))


def test_a_matrix_table_with_other_keys_and_a_filter_in_words(tmp_path):
    mt = hl.utils.range_matrix_table(2, 3)
    mt = mt.annotate_rows(
        locus=hl.struct(contig="chr1", position=mt.row_idx + 1),
        alleles=["A", "C"],
        filters=hl.if_else(mt.row_idx == 0, "PASS", "q10"),
    )
    words = hl.literal(["PASS", "lowGQ", "."])[mt.col_idx]
    mt.annotate_entries(GT=hl.call(0, 1), FT=words).write(str(tmp_path / "odd.mt"))
    found, _, notes = read(at(("1", 2)), mt=str(tmp_path / "odd.mt"))
    assert found.columns.tolist() == ["0", "1", "2"]
    assert found.loc["chr1:2:A:C"].tolist() == [1, -1, 1]
    assert notes == {"chr1:2:A:C": ("", "q10")}


@pytest.mark.parametrize("url", ["s3://bucket/hail.mt", "s3a://bucket/hail.mt"])
def test_a_url_that_spark_has_no_connector_for(url):
    with pytest.raises(EngineError, match=rf"cannot read {url}: .* no connector .*Copy"):
        open_source(Genotypes(mt=url), [url])
