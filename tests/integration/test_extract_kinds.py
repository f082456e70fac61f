"""One cohort of three kinds of files, clumped, tested on trios, imputed: what the stores hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mrscale.errors import InputError
from mrscale.store.reader import open_store
from mrscale.store.verify import verify
from mrscale.study_file import parse_study

hl = pytest.importorskip("hail")

from pipelines.extract import extract  # noqa: E402

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("hail")]

NUM_PEOPLE, NUM_VARIANTS, NUM_TRIOS = 600, 30, 40
COPIED, FROM = 7, 3
"""Variant 7 repeats variant 3 for most people, so it is in linkage disequilibrium with it."""
WRONG = 11
"""Children's calls of this variant do not follow from their parents'."""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A folder with the cohort as MT, VDS, VCF, PLINK and BGEN; dosages by variant and person."""
    folder = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(5)
    frequency = rng.uniform(0.2, 0.5, NUM_VARIANTS)[:, None]
    alleles = rng.random((2, NUM_VARIANTS, NUM_PEOPLE)) < frequency
    copied = rng.random(NUM_PEOPLE) < 0.9
    alleles[:, COPIED, copied] = alleles[:, FROM, copied]
    child, father, mother = (k * NUM_TRIOS + np.arange(NUM_TRIOS) for k in range(3))
    alleles[0][:, child], alleles[1][:, child] = alleles[0][:, father], alleles[1][:, mother]
    alleles[:, WRONG, child] = ~alleles[:, WRONG, father]
    dosage_MN = alleles.sum(axis=0)
    dosage_MN[rng.random(dosage_MN.shape) < 0.01] = -1
    ids = [f"00{i}" for i in range(NUM_PEOPLE)]
    lines = [f"f {ids[c]} {ids[c + NUM_TRIOS]} {ids[c + 2 * NUM_TRIOS]} 0 -9" for c in child]
    (folder / "trios.fam").write_text("\n".join(lines) + "\n")
    pd.DataFrame(
        {
            "person_id": ids,
            "environment": np.where(np.arange(NUM_PEOPLE) % 3, "north", "south"),
            "x": rng.normal(size=NUM_PEOPLE),
            "y": rng.normal(size=NUM_PEOPLE),
        }
    ).to_csv(folder / "people.csv", index=False)
    pd.DataFrame(
        {
            "chromosome": "chr20",
            "base_pair_location": positions(),
            "effect_allele": np.where(np.arange(NUM_VARIANTS) % 2, "G", "A"),
            "other_allele": np.where(np.arange(NUM_VARIANTS) % 2, "A", "G"),
            "p_value": np.where(np.arange(NUM_VARIANTS) == COPIED, 1e-30, 1e-9),
        }
    ).to_csv(folder / "list.tsv", sep="\t", index=False)
    write_files(folder, ids, dosage_MN)
    return folder, pd.DataFrame(dosage_MN.T, index=ids)


def positions():
    return 10_000 + 100 * np.arange(NUM_VARIANTS)


def write_files(folder, ids, dosage_MN):
    call = hl.unphased_diploid_gt_index_call
    mt = hl.utils.range_matrix_table(NUM_VARIANTS, NUM_PEOPLE, n_partitions=3)
    dosage = hl.literal(dosage_MN.astype(np.int32))[mt.row_idx, mt.col_idx]
    mt = mt.annotate_entries(GT=hl.or_missing(dosage >= 0, call(hl.max(dosage, 0))))
    mt = mt.key_cols_by(s=hl.literal(ids)[mt.col_idx]).select_cols()
    place = hl.locus("chr20", hl.int32(10_000 + 100 * mt.row_idx), "GRCh38")
    mt = mt.key_rows_by(locus=place, alleles=["A", "G"]).select_rows()
    mt = mt.checkpoint(str(folder / "g.mt"))
    hl.export_vcf(mt, str(folder / "g.vcf.bgz"))
    hl.export_plink(mt, str(folder / "g"), ind_id=mt.s)
    named = mt.annotate_rows(rsid=hl.str(mt.locus))
    probability = hl.range(3).map(lambda k: hl.float64(named.GT.n_alt_alleles() == k))
    hl.export_bgen(named, str(folder / "g"), gp=probability)
    block_end = hl.or_missing(mt.GT.is_hom_ref(), mt.locus.position)
    merged = mt.annotate_entries(END=block_end, LGT=mt.GT, LA=[0, 1], GQ=50)
    vds = hl.vds.VariantDataset.from_merged_representation(merged.drop("GT"), is_split=False)
    vds.write(str(folder / "g.vds"))


def study(folder, genotypes, **sections):
    listed = {"file": str(folder / "list.tsv"), "palindromic": "keep"}
    raw = {
        "genotypes": genotypes,
        "people": {"phenotypes": str(folder / "people.csv")},
        "traits": {"exposure": "x", "outcome": "y"},
        "qc": {"hwe_p": 0, "call_rate": 0.9},
        "instruments": listed | sections.pop("instruments", {}),
    }
    return parse_study(raw | sections)


def sources(folder):
    return {
        "mt": {"mt": str(folder / "g.mt")},
        "vds": {"vds": str(folder / "g.vds")},
        "vcf": {"vcf": str(folder / "g.vcf.bgz"), "reference_genome": "GRCh38"},
        "plink": {"plink": str(folder / "g")},
        "bgen": {"bgen": str(folder / "g.bgen"), "hard_calls": True},
    }


@pytest.fixture(scope="module")
def stores(cohort, tmp_path_factory):
    """The cohort's store of every kind of file."""
    folder, _ = cohort
    place = tmp_path_factory.mktemp("stores")
    for kind, genotypes in sources(folder).items():
        extract(study(folder, genotypes), str(place / kind))
    return {kind: open_store(place / kind) for kind in sources(folder)}


@pytest.mark.parametrize("kind", ["mt", "vds", "vcf", "plink", "bgen"])
def test_every_kind_of_file_gives_the_same_store(kind, stores, cohort):
    _, dosage = cohort
    store = stores[kind]
    verify(store.path)
    assert store.array("variant_position").tolist() == positions().tolist()
    assert store.array("variant_effect_allele").tolist() == ["A", "G"] * (NUM_VARIANTS // 2)
    alt = dosage.loc[store.array("sample_id")].to_numpy()
    counts_ref = np.arange(NUM_VARIANTS) % 2 == 0
    expected = np.where((alt >= 0) & counts_ref, 2 - alt, alt)
    np.testing.assert_array_equal(store.array("call_dosage"), expected)
    for name in ("sample_id", "fold", "variant_allele_frequency", "variant_call_rate"):
        np.testing.assert_array_equal(store.array(name), stores["mt"].array(name), name)


def test_imputed_dosages_are_stored_with_their_scale(stores, cohort, tmp_path):
    folder, _ = cohort
    imputed = study(folder, {"bgen": str(folder / "g.bgen")})
    extract(imputed, str(tmp_path / "s.zarr"))
    store = open_store(tmp_path / "s.zarr")
    verify(store.path)
    assert store.array("call_dosage").dtype == np.uint8
    everyone = slice(0, NUM_PEOPLE)
    found, calls = store.expected_dosage(everyone), stores["bgen"].expected_dosage(everyone)
    np.testing.assert_array_equal(found, np.where(calls < 0, np.nan, calls))
    for name in ("variant_allele_frequency", "variant_call_rate"):
        np.testing.assert_allclose(store.array(name), stores["bgen"].array(name), rtol=1e-6)
    assert np.isnan(store.array("variant_hwe_p")).all()


def test_clumping_keeps_the_best_of_linked_variants(cohort, stores, tmp_path):
    folder, _ = cohort
    clumped = study(folder, sources(folder)["mt"], instruments={"clump_r2": 0.3})
    manifest = extract(clumped, str(tmp_path / "s.zarr"))
    assert manifest["variants"] == {"clumped": 1, "kept": NUM_VARIANTS - 1}
    kept = open_store(tmp_path / "s.zarr").array("variant_position").tolist()
    assert kept == [p for p in positions() if p != positions()[FROM]]
    report = pd.read_csv(tmp_path / "s.zarr" / "variants.tsv", sep="\t").set_index("position")
    named = f"chr20:{positions()[COPIED]}"
    assert named in report.loc[positions()[FROM], "reason"]
    apart = study(folder, sources(folder)["mt"], instruments={"clump_r2": 0.3, "clump_kb": 0.2})
    assert extract(apart, str(tmp_path / "near.zarr"))["variants"] == {"kept": NUM_VARIANTS}


def test_variants_with_mendelian_errors_leave(cohort, tmp_path):
    folder, _ = cohort
    qc = {"hwe_p": 0, "call_rate": 0.9, "pedigree": str(folder / "trios.fam")}
    manifest = extract(study(folder, sources(folder)["mt"], qc=qc), str(tmp_path / "s.zarr"))
    assert manifest["variants"] == {"kept": NUM_VARIANTS - 1, "mendel": 1}
    assert positions()[WRONG] not in open_store(tmp_path / "s.zarr").array("variant_position")


def test_sex_chromosomes_are_refused_by_name(cohort, tmp_path):
    folder, _ = cohort
    mt = hl.read_matrix_table(str(folder / "g.mt"))
    mt = mt.key_rows_by(locus=hl.locus("chrX", mt.locus.position, "GRCh38"), alleles=mt.alleles)
    mt.write(str(tmp_path / "x.mt"))
    listed = pd.read_csv(folder / "list.tsv", sep="\t").assign(chromosome="23")
    listed.to_csv(tmp_path / "list.tsv", sep="\t", index=False)
    only_x = study(
        folder, {"mt": str(tmp_path / "x.mt")}, instruments={"file": str(tmp_path / "list.tsv")}
    )
    with pytest.raises(InputError, match=f"{NUM_VARIANTS} sex chromosome"):
        extract(only_x, str(tmp_path / "s.zarr"))
    assert not (tmp_path / "s.zarr").exists()
