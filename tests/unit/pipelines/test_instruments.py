"""Matching and orienting a list of instruments."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrscale.config import Instruments
from mrscale.errors import InputError
from pipelines.instruments import match, read_instruments

COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A"}
PLAIN_PAIRS = [(a, b) for a in "ACGT" for b in "ACGT" if b not in (a, COMPLEMENT[a])]
PALINDROMES = [(a, COMPLEMENT[a]) for a in "ACGT"]


def sites(*rows):
    return pd.DataFrame(rows, columns=["contig", "position", "ref", "alt"])


def listed(tmp_path, rows, **options):
    columns = ["chromosome", "base_pair_location", "effect_allele", "other_allele"]
    columns += ["effect_allele_frequency", "p_value"]
    path = tmp_path / "list.tsv"
    pd.DataFrame(rows, columns=columns).to_csv(path, sep="\t", index=False)
    choice = Instruments(file=str(path), **options)
    return read_instruments(choice), choice


def matched(tmp_path, rows, found, frequency=None, **options):
    table, choice = listed(tmp_path, rows, **options)
    return match(table, found, np.asarray(frequency or [0.3] * len(found)), choice)


def test_alleles_as_given_swapped_and_on_the_other_strand(tmp_path):
    found = sites(*[("chr1", p, "A", "G") for p in (1, 2, 3, 4)])
    rows = [
        ("1", 1, "G", "A", 0.3, 1e-9),
        ("1", 2, "a", "g", 0.7, 1e-9),
        ("1", 3, "C", "T", 0.3, 1e-9),
        ("1", 4, "T", "C", 0.7, 1e-9),
    ]
    result = matched(tmp_path, rows, found)
    assert result.status.tolist() == ["kept"] * 4
    assert result.effect_is_alt.tolist() == [True, False, True, False]
    assert result.unmatched.empty


@settings(deadline=None, max_examples=60)
@given(
    pair=st.sampled_from(PLAIN_PAIRS),
    effect_is_alt=st.booleans(),
    turned=st.booleans(),
    prefix=st.sampled_from(["", "chr"]),
)
def test_any_plain_pair_is_oriented_whatever_strand_and_prefix(
    tmp_path_factory, pair, effect_is_alt, turned, prefix
):
    ref, alt = pair
    effect, other = (alt, ref) if effect_is_alt else (ref, alt)
    if turned:
        effect, other = COMPLEMENT[effect], COMPLEMENT[other]
    folder = tmp_path_factory.mktemp("list")
    rows = [(f"{prefix}7", 5, effect, other, np.nan, 1e-9)]
    result = matched(folder, rows, sites(("7", 5, ref, alt)))
    assert result.status.tolist() == ["kept"]
    assert result.effect_is_alt.tolist() == [effect_is_alt]


@settings(deadline=None, max_examples=60)
@given(
    pair=st.sampled_from(PALINDROMES),
    effect_is_alt=st.booleans(),
    turned=st.booleans(),
    frequency=st.floats(0.05, 0.95).filter(lambda f: abs(f - 0.5) > 0.1),
)
def test_palindromes_are_oriented_by_frequency(
    tmp_path_factory, pair, effect_is_alt, turned, frequency
):
    ref, alt = pair
    effect, other = (alt, ref) if effect_is_alt else (ref, alt)
    if turned:
        effect, other = COMPLEMENT[effect], COMPLEMENT[other]
    effect_frequency = frequency if effect_is_alt else 1 - frequency
    folder = tmp_path_factory.mktemp("list")
    rows = [("7", 5, effect, other, effect_frequency, 1e-9)]
    result = matched(folder, rows, sites(("7", 5, ref, alt)), [frequency])
    assert result.status.tolist() == ["kept"]
    assert result.effect_is_alt.tolist() == [effect_is_alt]


@pytest.mark.parametrize(("listed_eaf", "alt_frequency"), [(0.45, 0.3), (0.3, 0.45), (np.nan, 0.3)])
def test_a_palindrome_that_frequency_cannot_orient_is_dropped(tmp_path, listed_eaf, alt_frequency):
    rows = [("7", 5, "T", "A", listed_eaf, 1e-9)]
    result = matched(tmp_path, rows, sites(("7", 5, "A", "T")), [alt_frequency])
    assert result.status.tolist() == ["palindromic"]
    assert "does not tell the strand" in result.reason[0]


@pytest.mark.parametrize(("policy", "status"), [("drop", "palindromic"), ("keep", "kept")])
def test_policies_for_palindromes(tmp_path, policy, status):
    rows = [("7", 5, "T", "A", 0.9, 1e-9), ("7", 6, "G", "A", 0.5, 1e-9)]
    found = sites(("7", 5, "A", "T"), ("7", 6, "A", "G"))
    result = matched(tmp_path, rows, found, palindromic=policy)
    assert result.status.tolist() == [status, "kept"]
    assert result.effect_is_alt.tolist() == [True, True]


@settings(deadline=None, max_examples=40)
@given(pvalues=st.lists(st.sampled_from([1e-3, 1e-6, 1e-9]), min_size=1, max_size=5, unique=True))
def test_of_duplicates_the_smallest_p_value_counts(tmp_path_factory, pvalues):
    # every other row names the other allele, so the orientation tells which row was taken
    alleles = [("G", "A") if i % 2 == 0 else ("A", "G") for i in range(len(pvalues))]
    rows = [("1", 9, *pair, 0.3, p) for pair, p in zip(alleles, pvalues, strict=True)]
    result = matched(tmp_path_factory.mktemp("list"), rows, sites(("1", 9, "A", "G")))
    best = pvalues.index(min(pvalues))
    assert result.effect_is_alt.tolist() == [best % 2 == 0]
    assert result.row.tolist() == [best]
    assert result.unmatched["status"].tolist() == ["duplicate"] * (len(pvalues) - 1)


def test_the_strand_as_given_goes_before_the_other(tmp_path):
    found = sites(("1", 9, "A", "G"), ("1", 9, "T", "C"))
    rows = [("1", 9, "C", "T", 0.3, 1e-9)]
    result = matched(tmp_path, rows, found)
    assert result.status.tolist() == ["not listed", "kept"]
    assert matched(tmp_path, rows, found.iloc[:1]).status.tolist() == ["kept"]


def test_alleles_that_an_insertion_and_a_deletion_have_are_ambiguous(tmp_path):
    found = sites(("1", 9, "A", "AT"), ("1", 9, "AT", "A"), ("1", 9, "A", "C"))
    rows = [("1", 9, "AT", "A", 0.3, 1e-9), ("1", 9, "C", "A", 0.3, 1e-9)]
    result = matched(tmp_path, rows, found)
    assert result.status.tolist() == ["ambiguous", "ambiguous", "kept"]
    assert result.unmatched["status"].tolist() == ["ambiguous"]


def test_alleles_are_compared_without_common_ends_and_in_any_case(tmp_path):
    found = sites(("1", 9, "A", "G"), ("1", 10, "ATT", "AT"), ("1", 11, "ac", "gt"))
    rows = [
        ("1", 9, "GC", "AC", 0.3, 1e-9),
        ("1", 10, "a", "at", 0.3, 1e-9),
        ("1", 11, "AC", "GT", 0.3, 1e-9),
    ]
    result = matched(tmp_path, rows, found, palindromic="keep")
    assert result.status.tolist() == ["kept"] * 3
    assert result.effect_is_alt.tolist() == [True, True, False]


def test_an_indel_is_not_looked_for_on_the_other_strand(tmp_path):
    rows = [("1", 9, "T", "TA", 0.3, 1e-9)]
    assert matched(tmp_path, rows, sites(("1", 9, "A", "AT"))).status.tolist() == ["not listed"]


def test_a_variant_twice_in_the_file_is_listed_twice(tmp_path):
    found = sites(("1", 9, "A", "G"), ("chr1", 9, "A", "G"))
    result = matched(tmp_path, [("1", 9, "A", "G", 0.3, 1e-9)], found)
    assert result.status.tolist() == ["kept"] * 2
    assert result.row.tolist() == [0, 0]
    assert result.unmatched.empty


@pytest.mark.parametrize("num_misfits", [5, 6])
def test_alleles_that_mostly_do_not_fit_tell_another_build(tmp_path, num_misfits):
    found = sites(*[("1", p, "A", "G") for p in range(1, 11)])
    rows = [("1", p, "C" if p <= num_misfits else "G", "A", 0.3, 1e-9) for p in range(1, 11)]
    rows += [("1", 1000 + p, "G", "A", 0.3, 1e-9) for p in range(20)]
    if num_misfits == 5:
        assert (matched(tmp_path, rows, found).status == "kept").sum() == 5
    else:
        message = r"6 of the 10 listed variants found at a position .* different genome builds"
        with pytest.raises(InputError, match=message):
            matched(tmp_path, rows, found)


def test_nine_rows_are_too_few_to_tell_another_build(tmp_path):
    found = sites(*[("1", p, "A", "G") for p in range(1, 10)])
    rows = [("1", p, "C", "A", 0.3, 1e-9) for p in range(1, 10)]
    assert (matched(tmp_path, rows, found).unmatched["status"] == "alleles").all()


def test_every_row_and_site_leaves_with_a_status(tmp_path):
    found = sites(("1", 1, "A", "G"), ("1", 2, "A", "G"), ("1", 2, "A", "C"), ("1", 3, "AT", "A"))
    rows = [
        ("1", 1, "G", "A", 0.3, 1e-9),
        ("1", 2, "C", "A", 0.3, 1e-9),
        ("1", 2, "A", "T", 0.3, 1e-9),
        ("1", 3, "A", "AT", 0.3, 1e-9),
        ("1", 8, "A", "C", 0.3, 1e-9),
        ("1", 1, "G", "A", 0.3, 0.5),
        ("1", 1, "G", "*", 0.3, 1e-9),
    ]
    result = matched(tmp_path, rows, found, p_value=1e-5)
    assert result.status.tolist() == ["kept", "not listed", "kept", "kept"]
    assert result.effect_is_alt[[0, 2, 3]].tolist() == [True, True, True]
    statuses = result.unmatched["status"].tolist()
    assert statuses == ["alleles", "absent", "p-value", "unreadable"]
    assert result.unmatched["reason"].notna().all()


def test_a_list_without_a_position_in_the_file_leaves_every_row_absent(tmp_path):
    rows = [("1", 7, "A", "G", 0.3, 1e-9)]
    result = matched(tmp_path, rows, sites())
    assert result.unmatched["status"].tolist() == ["absent"]


def test_rows_that_cannot_be_used_leave_with_a_reason(tmp_path):
    (tmp_path / "list.csv").write_text(
        "CHR,POS,EA,NEA,EAF,PVAL,TEST\n"
        "1,12,a,g,0.2,1e-8,ADD\n"
        "chrX,12,a,g,0.2,1e-8,ADD\n"
        "MT,12,a,g,0.2,1e-8,ADD\n"
        "1,12.5,a,g,0.2,1e-8,ADD\n"
        ",12,a,g,0.2,1e-8,ADD\n"
        "1,12,a,<DEL>,0.2,1e-8,ADD\n"
        "1,12,a,A,0.2,1e-8,ADD\n"
        "1,12,a,g,0.2,1e-8,PC1\n"
        "1,12,a,g,0.2,NA,ADD\n"
        "1,12,a,g,0.2,0.5,ADD\n"
    )
    found = read_instruments(Instruments(file=str(tmp_path / "list.csv"), p_value=1e-5))
    expected = ["", "sex chromosome", "sex chromosome", *["unreadable"] * 4]
    assert found["status"].tolist() == [*expected, "not additive", "p-value", "p-value"]
    for number, word in [
        (1, "chromosome X"),
        (2, "mitochondrion"),
        (3, "position is missing"),
        (4, "chromosome or the position"),
        (5, "A, C, G, T"),
        (6, "the same"),
        (7, "ADD"),
        (8, "no p-value"),
        (9, "above 1e-05"),
    ]:
        assert word in found["reason"][number]
    assert found["contig_key"].tolist()[:3] == ["1", "X", "MT"]


def test_a_list_on_another_build_is_refused(tmp_path):
    options = {"build": "GRCh37"}
    rows = [("1", 1, "G", "A", 0.3, 1e-9)]
    _, choice = listed(tmp_path, rows, **options)
    with pytest.raises(InputError, match=r"on GRCh37 .* on GRCh38; give"):
        read_instruments(choice, "GRCh38")
    assert read_instruments(choice, "GRCh37") is not None


def test_no_list_means_no_list():
    assert read_instruments(Instruments()) is None


def test_a_threshold_that_takes_every_row_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none of the 1 rows.*\(1 p-value\); raise"):
        listed(tmp_path, [("1", 1, "G", "A", 0.3, 0.2)], p_value=1e-8)
