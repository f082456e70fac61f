"""Five kinds of genotype files on the real engine: the same cohort gives the same codes."""

from __future__ import annotations

import gzip
import logging
import runpy
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mrscale.config import Genotypes
from mrscale.errors import EngineError, InputError

hl = pytest.importorskip("hail")
pysam = pytest.importorskip("pysam")

from pipelines.sources import find_files, measure, open_source  # noqa: E402

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("hail")]

files = runpy.run_path(str(Path(__file__).with_name("genotype_files.py")))
NUM_PEOPLE, IDS, SITES = files["NUM_PEOPLE"], files["IDS"], files["SITES"]
at, read, vcf_text, matrix_table = (
    files[name] for name in ("at", "read", "vcf_text", "matrix_table")
)


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
    files["write_every_kind"](folder, calls)
    return folder


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
