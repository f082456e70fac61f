"""Checks of the genotype files that need no engine, and positions in a source's spelling."""

from __future__ import annotations

import gzip

import fsspec
import numpy as np
import pandas as pd
import pytest

from mrscale.config import Genotypes
from mrscale.errors import InputError
from pipelines.sources import find_files
from pipelines.sources.positions import in_spelling_of, merge

HEADER = b"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ta\tb\n"


def find(**genotypes):
    return find_files(Genotypes(**{key: str(value) for key, value in genotypes.items()}))


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match=r"no such file: .*none\.vcf\.bgz"):
        find(vcf=tmp_path / "none.vcf.bgz")


def test_gzip_instead_of_bgzip_is_refused_with_the_command(tmp_path):
    (tmp_path / "g.vcf.gz").write_bytes(gzip.compress(HEADER))
    advice = r"with gzip.*gzip -dc g\.vcf\.gz \| bgzip > g\.bgzipped\.vcf\.bgz"
    with pytest.raises(InputError, match=advice):
        find(vcf=tmp_path / "g.vcf.gz")


def test_the_advice_for_gzip_never_writes_over_the_file_itself(tmp_path):
    (tmp_path / "g.vcf.bgz").write_bytes(gzip.compress(HEADER))
    with pytest.raises(InputError, match=r"gzip -dc g\.vcf\.bgz \| bgzip > g\.bgzipped\.vcf\.bgz"):
        find(vcf=tmp_path / "g.vcf.bgz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"chromosome,position\n", r"g\.vcf is not a VCF: it does not start"),
        (b"##fileformat=VCFv4.2\n1\t5\n", "must start .* have a line #CHROM"),
        (HEADER.replace(b"\ta\tb", b"\tplanted\tplanted"), "<=20 ids of g.vcf repeat"),
    ],
)
def test_something_else_is_no_vcf(content, message, tmp_path):
    (tmp_path / "g.vcf").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        find(vcf=tmp_path / "g.vcf")
    assert "planted" not in str(caught.value)


def test_a_bgzipped_file_must_end_in_gz_or_bgz(tmp_path):
    pysam = pytest.importorskip("pysam")
    (tmp_path / "g.txt").write_bytes(HEADER)
    pysam.tabix_compress(str(tmp_path / "g.txt"), str(tmp_path / "g.vcf"))
    with pytest.raises(InputError, match=r"rename it to g\.vcf\.bgz"):
        find(vcf=tmp_path / "g.vcf")


def test_a_bgzipped_file_that_is_cut_off_is_refused(tmp_path):
    pysam = pytest.importorskip("pysam")
    many = "\t".join(f"person-{i * 7919}" for i in range(2000)).encode()
    (tmp_path / "g.txt").write_bytes(HEADER.replace(b"a\tb", many))
    pysam.tabix_compress(str(tmp_path / "g.txt"), str(tmp_path / "g.vcf.bgz"))
    whole = (tmp_path / "g.vcf.bgz").read_bytes()
    (tmp_path / "g.vcf.bgz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot be read \(EOFError\).*check that the files are"):
        find(vcf=tmp_path / "g.vcf.bgz")


def test_a_glob_names_files_in_order_and_none_twice(tmp_path):
    for name in ("chr2.vcf", "chr1.vcf"):
        (tmp_path / name).write_bytes(HEADER)
    patterns = (str(tmp_path / "chr*.vcf"), str(tmp_path / "chr2.vcf"))
    found = find_files(Genotypes(vcf=patterns))
    assert found == [str(tmp_path / "chr1.vcf"), str(tmp_path / "chr2.vcf")]


def test_urls_are_checked_like_local_files():
    fsspec.filesystem("memory").pipe({"/g/1.vcf": HEADER, "/g/2.vcf": HEADER, "/g/x": b"x"})
    assert find(vcf="memory://g/*.vcf") == ["memory:///g/1.vcf", "memory:///g/2.vcf"]
    with pytest.raises(InputError, match="x is not a VCF"):
        find(vcf="memory://g/x")
    with pytest.raises(InputError, match=r"no such file: memory://g/3\.vcf"):
        find(vcf="memory://g/3.vcf")


def test_nothing_named_is_refused():
    with pytest.raises(InputError, match="give one of vcf, mt, vds, plink and bgen"):
        find_files(Genotypes())


def test_folders_of_hail_are_told_apart(tmp_path):
    mt, vds = tmp_path / "a.mt", tmp_path / "a.vds"
    for folder in (mt, vds / "reference_data", vds / "variant_data"):
        folder.mkdir(parents=True)
        (folder / "metadata.json.gz").touch()
    assert find(mt=mt) == [str(mt)]
    assert find(vds=vds) == [str(vds)]
    with pytest.raises(InputError, match="give it as vds, not as mt"):
        find(mt=vds)
    with pytest.raises(InputError, match="give a MatrixTable as mt"):
        find(vds=mt)
    with pytest.raises(InputError, match="is not a Hail MatrixTable"):
        find(mt=tmp_path)
    with pytest.raises(InputError, match="is not a Hail VariantDataset"):
        find(vds=tmp_path)


def plink(folder, *, bed=b"\x6c\x1b\x01", fam="f a 0 0 0 -9\nf b 0 0 0 -9\n"):
    (folder / "p.bed").write_bytes(bed)
    (folder / "p.fam").write_text(fam)
    return folder / "p"


def test_plink_needs_three_files_and_takes_the_bed_or_the_stem(tmp_path):
    stem = plink(tmp_path)
    with pytest.raises(InputError, match=r"no such file: .*p\.bim; .* a \.bed, \.bim and \.fam"):
        find(plink=stem)
    (tmp_path / "p.bim").touch()
    assert find(plink=stem) == find(plink=f"{stem}.bed")
    assert find(plink=stem) == [f"{stem}.bed", f"{stem}.bim", f"{stem}.fam"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"bed": b"\x6c\x1b\x00"}, "one person after another; .* plink --make-bed"),
        ({"bed": b"x"}, "is not a PLINK 1 .bed"),
        ({"fam": "f planted 0 0 0 -9\ng planted 0 0 0 -9\n"}, "<=20 ids of p.fam repeat"),
        ({"fam": "f planted\n"}, "must have 6 columns"),
    ],
)
def test_plink_files_that_cannot_be_read(damage, message, tmp_path):
    stem = plink(tmp_path, **damage)
    (tmp_path / "p.bim").touch()
    with pytest.raises(InputError, match=message) as caught:
        find(plink=stem)
    assert "planted" not in str(caught.value)


def test_something_else_is_no_bgen(tmp_path):
    (tmp_path / "g.bgen").write_bytes(b"no BGEN file but a text, long enough")
    with pytest.raises(InputError, match=r"g\.bgen is not a BGEN file"):
        find(bgen=tmp_path / "g.bgen")


def test_positions_are_wanted_in_all_usual_spellings():
    positions = pd.DataFrame({"contig_key": ["1", "X", "1"], "position": [7, 2**40, 3]})
    wanted = in_spelling_of(None, positions)
    assert {name: found.tolist() for name, found in wanted.items()} == {
        **{"1": [3, 7], "chr1": [3, 7]},
        **{"X": [], "23": [], "chrX": [], "chr23": []},
    }


@pytest.mark.parametrize("most", [1, 2, 5, 17, 1000])
def test_close_positions_share_an_interval_beyond_the_most(most):
    rng = np.random.default_rng(5)
    wanted = {name: np.unique(rng.integers(1, 10**6, 30)) for name in ("1", "2")}
    wanted["3"] = np.empty(0, dtype=np.int64)
    spans = merge(wanted, most)
    assert len(spans) <= max(most, 2)
    for name, positions in wanted.items():
        inside = [[first <= p <= last for c, first, last in spans if c == name] for p in positions]
        assert all(sum(hits) == 1 for hits in inside)
    if most == 1000:
        assert [first for _, first, _ in spans] == np.concatenate(list(wanted.values())).tolist()
