"""Checks of the genotype files that need no engine."""

from __future__ import annotations

import gzip

import pytest

from mrscale.config import Genotypes
from mrscale.errors import InputError
from pipelines.sources import find_files

HEADER = b"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ta\n"


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match=r"no such file: .*none\.vcf\.bgz"):
        find_files(Genotypes(vcf=str(tmp_path / "none.vcf.bgz")))


def test_gzip_instead_of_bgzip_is_refused_with_the_command(tmp_path):
    (tmp_path / "g.vcf.gz").write_bytes(gzip.compress(HEADER))
    advice = r"with gzip.*gzip -dc g\.vcf\.gz \| bgzip > g\.bgzipped\.vcf\.bgz"
    with pytest.raises(InputError, match=advice):
        find_files(Genotypes(vcf=str(tmp_path / "g.vcf.gz")))


def test_the_advice_for_gzip_never_writes_over_the_file_itself(tmp_path):
    (tmp_path / "g.vcf.bgz").write_bytes(gzip.compress(HEADER))
    with pytest.raises(InputError, match=r"gzip -dc g\.vcf\.bgz \| bgzip > g\.bgzipped\.vcf\.bgz"):
        find_files(Genotypes(vcf=str(tmp_path / "g.vcf.bgz")))


def test_something_else_is_no_vcf(tmp_path):
    (tmp_path / "g.vcf").write_text("chromosome,position\n")
    with pytest.raises(InputError, match=r"g\.vcf is not a VCF"):
        find_files(Genotypes(vcf=str(tmp_path / "g.vcf")))


def test_a_folder_that_is_no_matrix_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a Hail MatrixTable"):
        find_files(Genotypes(mt=str(tmp_path)))


def test_nothing_named_is_refused():
    with pytest.raises(InputError, match=r"give a VCF .* or MatrixTable"):
        find_files(Genotypes())


def test_a_glob_names_files_in_order_and_urls_pass(tmp_path):
    for name in ("chr2.vcf", "chr1.vcf"):
        (tmp_path / name).write_bytes(HEADER)
    found = find_files(Genotypes(vcf=str(tmp_path / "chr*.vcf")))
    assert found == [str(tmp_path / "chr1.vcf"), str(tmp_path / "chr2.vcf")]
    assert find_files(Genotypes(vcf="gs://bucket/x.vcf.bgz")) == ["gs://bucket/x.vcf.bgz"]
