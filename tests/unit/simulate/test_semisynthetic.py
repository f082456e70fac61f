"""Reading genotypes and samples that already exist: what is taken and what is refused."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from mrscale.errors import InputError
from mrscale.simulate.semisynthetic import (
    _decode,
    choose_variants,
    read_environments,
    read_sample_ids,
)

HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t"


def _vcf(path, ids, records=()):
    header = (HEADER + "\t".join(ids)).rstrip("\t")
    lines = ["\t".join(map(str, record)) for record in records]
    path.write_bytes(gzip.compress("\n".join([header, *lines, ""]).encode()))
    return path


def _table(path, text):
    path.write_text(text.replace(" ", "\t"))
    return path


PEOPLE = np.array(["01", "2", "3"])


def test_ids_stay_text(tmp_path):
    assert read_sample_ids(_vcf(tmp_path / "a.vcf.bgz", PEOPLE)).tolist() == ["01", "2", "3"]


def test_environments_are_matched_by_id_and_other_rows_ignored(tmp_path):
    text = "person_id x environment\n3 . b\n9 . c\n01 . b\n2 . a\n"
    names, codes = read_environments(_table(tmp_path / "s.tsv", text), PEOPLE)
    assert names == ("a", "b")
    assert codes.tolist() == [1, 0, 1]


def test_an_environment_may_be_called_na(tmp_path):
    text = "person_id environment\n3 NA\n01 SA\n2 NA\n"
    names, codes = read_environments(_table(tmp_path / "s.tsv", text), PEOPLE)
    assert names == ("NA", "SA")
    assert codes.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("person_id ancestry\n01 a\n", "needs a column sample_id .* it has: person_id, ancestry"),
        ("", "not a tab-separated table"),
        ("sample_id environment\n1 a\n2 b\n3 b\n", "<=20 of <=20 have none"),
        ("sample_id environment\n01 a\n2 a\n3 a\n", "one environment only"),
        ("sample_id environment\n01 a\n01 b\n2 a\n3 a\n", "<=20 repeated rows"),
    ],
)
def test_bad_tables_of_samples_are_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_environments(_table(tmp_path / "s.tsv", text), PEOPLE)


def test_files_that_are_no_vcf_are_refused(tmp_path):
    plain = tmp_path / "plain.vcf.bgz"
    plain.write_text("not compressed\n")
    with pytest.raises(InputError, match="not a bgzipped VCF"):
        read_sample_ids(plain)
    cut = _vcf(tmp_path / "cut.vcf.bgz", PEOPLE)
    cut.write_bytes(cut.read_bytes()[:-12])
    with pytest.raises(InputError, match="cut short"):
        read_sample_ids(cut)
    other = tmp_path / "other.vcf.bgz"
    other.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    with pytest.raises(InputError, match="no #CHROM header"):
        read_sample_ids(other)
    with pytest.raises(InputError, match="no samples"):
        read_sample_ids(_vcf(tmp_path / "sites.vcf.bgz", []))


def test_a_file_with_too_few_common_variants_is_refused(tmp_path):
    records = [
        ("1", 10 * (j + 1), f"v{j}", "A", "G", ".", "PASS", ".", "GT", "0/0", "0/1", "1/1")
        for j in range(20)
    ]
    path = _vcf(tmp_path / "few.vcf.bgz", PEOPLE, records)
    with pytest.raises(InputError, match=r"has 20 biallelic variants .* at least 70 are needed"):
        choose_variants(path)


def test_calls_are_decoded_with_or_without_phase_and_other_fields():
    calls = ["0/1:9", "1|0", "1/1:3", "0|0"] * 10 + ["./."]
    line = "\t".join(["1", "5", "rs1", "A", "G", ".", ".", ".", "GT:DP", *calls]).encode()
    site, dosage = _decode(line)
    assert site == ("1", 5, "rs1", "A", "G")
    assert _decode(line.replace(b"rs1", b"."))[0] == ("1", 5, "1:5:A:G", "A", "G")
    # the last call is missing and takes the rounded mean
    assert dosage.tolist() == [1, 1, 2, 0] * 10 + [1]
