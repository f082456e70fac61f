"""Any pattern of flips, strands, duplicates and palindromes: the declared effect allele is counted,
or the variant leaves with a status; nothing is lost, and no order of rows matters."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mrscale.config import QC, Instruments, Study
from mrscale.errors import InputError
from pipelines.alleles import natural_order
from pipelines.instruments import match, read_instruments
from pipelines.qc import Sites
from pipelines.variants import choose, store_arrays

COMPLEMENT = str.maketrans("ACGT", "TGCA")
NUM_PEOPLE = 400
PAIRS = [(a, b) for a in "ACGT" for b in "ACGT" if a != b]
PAIRS += [("A", "AT"), ("AT", "A"), ("C", "CGG"), ("GTT", "G")]
COLUMNS = ["chromosome", "base_pair_location", "effect_allele", "other_allele"]
COLUMNS += ["effect_allele_frequency", "p_value"]

# few places, so that rows meet: variants are (contig, position, (reference, alternate), frequency)
variants = st.tuples(
    st.sampled_from(["1", "chr1", "2", "X"]),
    st.integers(1, 3),
    st.sampled_from(PAIRS),
    st.sampled_from([0.1, 0.3, 0.45, 0.7, 0.9]),
)
files = st.lists(
    variants,
    min_size=1,
    max_size=7,
    unique_by=lambda variant: (variant[0].removeprefix("chr"), *variant[1:3]),
)


@st.composite
def listings(draw):
    """A row that names a variant somehow, on either strand and by either allele."""
    contig, position, (ref, alt), frequency = draw(variants)
    effect, other, eaf = (alt, ref, frequency) if draw(st.booleans()) else (ref, alt, 1 - frequency)
    if draw(st.booleans()):
        effect, other = effect.translate(COMPLEMENT), other.translate(COMPLEMENT)
    if draw(st.booleans()):
        effect, other = effect.lower(), other.lower()
    other = draw(st.sampled_from([other, other, other, "<DEL>", "N"]))
    return contig, position, effect, other, eaf, draw(st.sampled_from([1e-9, 1e-8, 0.9]))


# fewer than the ten rows from which another build is suspected
lists = st.lists(listings(), min_size=1, max_size=9)
policies = st.sampled_from(["infer", "drop", "keep"])


def genotype_file(found):
    """Sites in natural order, and the alternate-allele counts of 400 people in two halves."""
    rows = [(contig, position, *pair, "", "") for contig, position, pair, _ in found]
    table = pd.DataFrame(rows, columns=["contig", "position", "ref", "alt", "rsid", "filters"])
    # whoever is below the frequency on a fixed permutation of people carries the allele
    turns = np.stack([np.arange(NUM_PEOPLE), np.arange(NUM_PEOPLE) * 7 % NUM_PEOPLE])
    carried = turns[:, :, None] < NUM_PEOPLE * np.array([frequency for *_, frequency in found])
    order = natural_order(table)
    dosage_NS = carried.sum(axis=0)[:, order]
    halves = np.stack([half.sum(axis=0) for half in np.split(dosage_NS, 2)], axis=1).astype(float)
    num_people = np.array([NUM_PEOPLE // 2] * 2)
    sites = Sites(
        table.iloc[order].reset_index(drop=True).assign(site=range(len(found))),
        np.tile(num_people, (len(found), 1)),
        halves,
        num_people,
        np.ones((len(found), 2)),
        np.full(len(found), np.nan),
    )
    return sites, dosage_NS


def read(folder, rows, **options):
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "list.tsv", sep="\t", index=False)
    choice = Instruments(file=str(folder / "list.tsv"), p_value=0.01, **options)
    try:
        return read_instruments(choice), choice
    except InputError:  # no row can be used: refused before anything is matched
        assume(False)


def stands_for(row, sites):
    """The sites (number, effect allele on their strand) that a row of the list may stand for."""
    contig, position, effect, other, *_ = row
    effect, other = effect.upper(), other.upper()
    here = [
        (number, {site.ref, site.alt})
        for number, site in enumerate(sites.itertuples())
        if site.contig.removeprefix("chr") == contig.removeprefix("chr")
        and site.position == position
    ]
    given_ = [(number, effect) for number, pair in here if pair == {effect, other}]
    if given_ or len(effect) != len(other):
        return given_
    effect, other = effect.translate(COMPLEMENT), other.translate(COMPLEMENT)
    return [(number, effect) for number, pair in here if pair == {effect, other}]


def by_hand(rows, sites, frequency, choice):
    """Status and counted allele of every site, one row and one site after the other."""
    status, allele = ["not listed"] * len(sites), list(sites["alt"])
    best = {}
    for row in rows:
        fits = stands_for(row, sites)
        usable = row[0] != "X" and row[5] <= 0.01 and set(row[3].upper()) <= set("ACGT")
        for number, effect in fits if usable else []:
            if len(fits) > 1:
                status[number] = "ambiguous"
            else:
                key = (row[5], row[2].upper(), row[3].upper(), row[4])
                best[number] = min(best.get(number, (key, effect, row)), (key, effect, row))
    for number, (_, effect, row) in best.items():
        site = sites.iloc[number]
        status[number], allele[number] = "kept", effect
        if site["ref"].translate(COMPLEMENT) != site["alt"]:
            continue
        found = frequency[number] if effect == site["alt"] else 1 - frequency[number]
        listed, found = ((f, min(f, 1 - f)) for f in (row[4], found))
        sure = max(listed[1], found[1]) <= choice.palindromic_maf
        if choice.palindromic == "drop" or (choice.palindromic == "infer" and not sure):
            status[number] = "palindromic"
        elif choice.palindromic == "infer" and (listed[0] < 0.5) != (found[0] < 0.5):
            allele[number] = effect.translate(COMPLEMENT)
    return status, allele


@settings(deadline=None, max_examples=150)
@given(found=files, rows=lists, policy=policies)
def test_the_declared_effect_allele_is_counted_or_there_is_a_status(
    tmp_path_factory, found, rows, policy
):
    listed, choice = read(tmp_path_factory.mktemp("list"), rows, palindromic=policy)
    sites, dosage_NS = genotype_file(found)
    frequency = sites.overall_alt_frequency
    result = match(listed, sites.table, frequency, choice)
    status, allele = by_hand(rows, sites.table, frequency, choice)
    assert result.status.tolist() == status
    assert ((result.reason == "") == (result.status == "kept")).all()
    chosen = choose(sites, listed, Study(instruments=choice, qc=QC(maf=0)))
    arrays = store_arrays(chosen)
    kept = chosen.sites.table["site"].to_numpy()
    assert arrays["variant_effect_allele"].tolist() == [allele[number] for number in kept]
    counted = np.where(chosen.effect_is_alt, dosage_NS[:, kept], 2 - dosage_NS[:, kept])
    is_alt = np.array([allele[number] == sites.table["alt"][number] for number in kept], bool)
    np.testing.assert_array_equal(
        counted, np.where(is_alt, dosage_NS[:, kept], 2 - dosage_NS[:, kept])
    )
    half = counted[: NUM_PEOPLE // 2].mean(axis=0) / 2
    np.testing.assert_allclose(arrays["variant_allele_frequency"][0], half)


@settings(deadline=None, max_examples=80)
@given(found=files, rows=lists, policy=policies)
def test_the_report_is_the_union_of_the_file_and_the_list(tmp_path_factory, found, rows, policy):
    listed, choice = read(tmp_path_factory.mktemp("list"), rows, palindromic=policy)
    sites, _ = genotype_file(found)
    result = match(listed, sites.table, sites.overall_alt_frequency, choice)
    matched = result.row[result.row >= 0].tolist()
    assert sorted([*matched, *result.unmatched.index]) == list(range(len(rows)))
    report = choose(sites, listed, Study(instruments=choice)).report
    assert len(report) == len(found) + len(rows) - len(matched)
    wanted = [f"{c}:{p}:{ref},{alt}" for c, p, (ref, alt), _ in found]
    wanted += [
        f"{r.contig}:{r.position}:{r.other_allele},{r.effect_allele}"
        for r in result.unmatched.itertuples()
    ]
    there = report["contig"] + ":" + report["position"].astype(str) + ":" + report["alleles"]
    assert sorted(there) == sorted(wanted)
    assert (report["status"] != "").all()
    assert ((report["reason"] == "") == (report["status"] == "kept")).all()


@settings(deadline=None, max_examples=80)
@given(found=files, rows=lists, policy=policies, data=st.data())
def test_no_order_of_the_list_or_of_the_file_matters(tmp_path_factory, found, rows, policy, data):
    results = []
    for file, listing in [
        (found, rows),
        (data.draw(st.permutations(found)), data.draw(st.permutations(rows))),
    ]:
        listed, choice = read(tmp_path_factory.mktemp("list"), listing, palindromic=policy)
        chosen = choose(genotype_file(file)[0], listed, Study(instruments=choice, qc=QC(maf=0)))
        results.append((chosen, store_arrays(chosen)))
    (first, arrays), (second, others) = results
    pd.testing.assert_frame_equal(first.report, second.report)
    assert first.order.tolist() == second.order.tolist()
    for name, value in arrays.items():
        np.testing.assert_array_equal(value, others[name])


@settings(deadline=None, max_examples=40)
@given(data=st.data(), pvalues=st.lists(st.sampled_from([1e-9, 1e-8, 0.0]), min_size=1, max_size=8))
def test_clumping_goes_by_p_value_and_then_by_place(tmp_path_factory, data, pvalues):
    found = [("1", 1 + i, ("A", "G"), 0.3) for i in range(len(pvalues))]
    rows = [("1", 1 + i, "G", "A", 0.3, p) for i, p in enumerate(pvalues)]
    shuffled = data.draw(st.permutations(rows))
    listed, choice = read(tmp_path_factory.mktemp("list"), shuffled)
    chosen = choose(genotype_file(found)[0], listed, Study(instruments=choice))
    expected = sorted(range(len(pvalues)), key=lambda variant: (pvalues[variant], variant))
    assert chosen.order.tolist() == expected
