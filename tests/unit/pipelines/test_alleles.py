"""Names of chromosomes, natural order, and alleles in one representation."""

from __future__ import annotations

import pandas as pd
import pytest

from pipelines.alleles import (
    contig_key,
    natural_order,
    not_autosome,
    other_strand,
    trimmed,
    with_trimmed,
)


def test_names_of_chromosomes_are_one_spelling():
    names = ["chr1", "CHR01", "1", "chrX", "23", "24", "M", "chrMT", "26", "25", "chr10_alt", "0"]
    keys = ["1", "1", "1", "X", "X", "Y", "MT", "MT", "MT", "XY", "10_ALT", "0"]
    assert contig_key(pd.Series(names)).tolist() == keys
    names = ["NC_000001.11", "nc_000022.10", "NC_000023", "CM000663.2", "CM000684.1", "CM000686"]
    assert contig_key(pd.Series(names)).tolist() == ["1", "22", "X", "1", "22", "Y"]
    names = ["NC_012920.1", "NC_000025.1", "CM000687.2", "NT_113878.1"]
    assert contig_key(pd.Series(names)).tolist() == ["MT", *names[1:]]
    assert contig_key(pd.Series(["1.0", "22.0", "23.0"])).tolist() == ["1", "22", "X"]
    assert contig_key(pd.Series([], dtype=object)).tolist() == []


SEX = ["X", "chrX", "23", "Y", "24", "XY", "25", "PAR", "PAR1", "X_PAR1", "X.PAR1", "chrX_PAR"]
SEX += ["NC_000023.11", "NC_000023.10", "CM000685.2", "NC_000024.10", "chrY_KI270740v1_random"]
MITOCHONDRION = ["MT", "M", "chrM", "26", "NC_012920.1"]


@pytest.mark.parametrize("contig", SEX + MITOCHONDRION)
def test_contigs_with_another_number_of_copies_are_named(contig):
    assert "only autosomes are used" in not_autosome(pd.Series([contig])).item()


def test_autosomes_and_unknown_contigs_are_not_refused():
    names = ["1", "chr22", "HLA", "simulated", "chr1_alt", "NC_000001.11", "CM000663.2", "XAB"]
    assert not_autosome(pd.Series(names)).tolist() == [""] * len(names)
    assert not_autosome(pd.Series([], dtype=object)).tolist() == []


def test_natural_order_is_by_number_then_position_then_trimmed_alleles():
    rows = [
        ("10", 5, "A", "G"),
        ("X", 1, "A", "G"),
        ("2", 9, "AT", "CT"),
        ("2", 9, "A", "AT"),
        ("2", 7, "T", "C"),
        ("alt", 1, "T", "C"),
    ]
    table = pd.DataFrame(rows, columns=["contig", "position", "ref", "alt"])
    assert natural_order(table).tolist() == [4, 3, 2, 0, 1, 5]
    assert natural_order(table.iloc[:0]).tolist() == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("AC", "GC"), ("A", "G")),
        (("ACT", "ACTCT"), ("A", "ACT")),
        (("a", "<DEL>"), ("A", "<DEL>")),
        (("AC", "A"), ("AC", "A")),
    ],
)
def test_alleles_lose_their_common_end(given, expected):
    assert trimmed(*given) == expected
    table = pd.DataFrame([given], columns=["x", "y"], index=[7])
    assert with_trimmed(table, ("x", "y")).loc[7].tolist() == list(expected)


def test_the_other_strand_is_read_backwards():
    assert other_strand(pd.Series(["A", "GT", "CCA"])).tolist() == ["T", "AC", "TGG"]
