"""Extraction on the real engines: what is in the VCF is in the store, whatever the partitions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mrscale.errors import InputError
from mrscale.store.reader import open_store
from mrscale.store.schema import ARRAYS
from mrscale.store.verify import verify
from mrscale.study_file import parse_study

pytest.importorskip("hail")
pysam = pytest.importorskip("pysam")

from pipelines.extract import extract  # noqa: E402

pytestmark = [pytest.mark.spark, pytest.mark.usefixtures("hail")]

NUM_PEOPLE, NUM_PLAIN = 5000, 24
CALLS = np.array(["./.", "0/0", "0|1", "1/1"])


def vcf_lines(ids, dosage_MN):
    """A VCF: plain variants, then rows that need splitting or dropping."""
    yield "##fileformat=VCFv4.2"
    yield '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">'
    yield '##FILTER=<ID=q10,Description="Low quality">'
    yield from (f"##contig=<ID={contig}>" for contig in ("2", "10"))
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
    yield "\t".join([*columns, *ids])
    for j, dosage_N in enumerate(dosage_MN):
        contig, position = ("2", 1000 + j) if j < 12 else ("10", 500 + j)
        ref, alt = ("A", "T") if j == 5 else ("A", "G")
        row = [contig, position, f"rs{j}", ref, alt, ".", "PASS", ".", "GT", *CALLS[dosage_N + 1]]
        yield "\t".join(map(str, row))
    num = len(ids)
    odd = np.resize(["0/1", "1/2", "2|2", "0/2", "./1", "0/0"], num)
    half = np.resize(["0/1", "0/0", "0/0"], num)
    for position, alleles, flag, calls in [
        (9000, "AC\tA,GC", "PASS", odd),
        (9001, "A\tG", "q10", half),
        (9002, "A\t<DEL>", "PASS", half),
        (9003, "A\tG", ".", np.resize(["0/0"], num)),
        (9004, "A\tG", ".", np.resize(["0/1", "0/0", "./."], num)),
        (9005, "A\tG", "PASS", half),
        (9005, "A\tG", "PASS", half),
    ]:
        yield "\t".join(["10", str(position), ".", alleles, ".", flag, ".", "GT", *calls])


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    """Folder with a VCF and tables; the alternate-allele counts of its plain variants."""
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(11)
    ids = [f"0{i}" for i in rng.permutation(NUM_PEOPLE)]
    environment_N = rng.integers(0, 3, NUM_PEOPLE)
    frequency = np.clip(rng.uniform(0.15, 0.4, (NUM_PLAIN, 3)), 0, 1)[:, environment_N]
    dosage_MN = rng.binomial(2, frequency)
    dosage_MN[rng.random(dosage_MN.shape) < 0.02] = -1
    (folder / "g.vcf").write_text("\n".join(vcf_lines(ids, dosage_MN)) + "\n")
    pysam.tabix_compress(str(folder / "g.vcf"), str(folder / "g.vcf.bgz"))
    people = pd.DataFrame(
        {
            "person_id": ids,
            "environment": np.array(["c", "a", "b"])[environment_N],
            "bmi": rng.normal(size=NUM_PEOPLE),
            "sbp": rng.normal(size=NUM_PEOPLE),
            "PC1": rng.normal(size=NUM_PEOPLE),
            "family": [f"f{i // 2}" for i in range(NUM_PEOPLE)],
        }
    )
    # the table is in another order, lacks some people, and some have no environment
    people.loc[people.index % 50 == 1, "environment"] = np.nan
    people[people.index % 50 != 0][::-1].to_csv(folder / "people.tsv", sep="\t", index=False)
    return folder, pd.DataFrame(dosage_MN.T, index=ids)


def study(folder, **sections):
    raw = {
        "seed": 4,
        "genotypes": {"vcf": str(folder / "g.vcf.bgz")},
        "people": {"phenotypes": str(folder / "people.tsv"), "family_column": "family"},
        "traits": {"exposure": ["bmi"], "outcome": ["sbp"], "covariate": ["PC1"]},
    }
    return parse_study(raw | sections)


def arrays(path):
    opened = open_store(path)
    return {spec.name: opened.array(spec.name) for spec in ARRAYS}


@pytest.fixture(scope="session")
def store(cohort, tmp_path_factory):
    """The cohort's store, with every variant that passes QC, written with two partitions."""
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    extract(study(cohort[0], genotypes=vcf(cohort[0], 2)), str(path))
    return path


def vcf(folder, partitions):
    return {"vcf": str(folder / "g.vcf.bgz"), "partitions": partitions}


def test_dosages_equal_those_of_the_vcf(store, cohort):
    found, (_, expected) = arrays(store), cohort
    plain = np.array([name.startswith("rs") for name in found["variant_id"]])
    assert found["variant_id"][plain].tolist() == [f"rs{j}" for j in range(NUM_PLAIN)]
    np.testing.assert_array_equal(
        found["call_dosage"][:, plain], expected.loc[found["sample_id"]].to_numpy()
    )
    assert open_store(store).layout.num_shards == 10
    verify(store)


def test_other_rows_are_split_or_leave_with_a_reason(store):
    found = arrays(store)
    report = pd.read_csv(store / "variants.tsv", sep="\t", keep_default_na=False)
    odd = report[report["position"] >= 9000].set_index("variant_id")["status"].to_dict()
    assert odd == {
        "10:9000:AC:A": "call rate",
        "10:9000:A:G": "call rate",
        "10:9001:A:G": "filter",
        "10:9002:A:<DEL>": "symbolic",
        "10:9003:A:G": "maf",
        "10:9004:A:G": "call rate",
        "10:9005:A:G": "repeated",
    }
    counts = open_store(store).manifest["variants"]
    assert counts == report["status"].value_counts().to_dict()
    assert len(found["variant_id"]) == counts["kept"] == NUM_PLAIN


def test_multi_allelic_rows_count_each_alternate(cohort, tmp_path):
    folder, _ = cohort
    header = ["contig", "pos", "ea", "nea"]
    rows = [("chr10", 9000, "G", "A"), ("chr10", 9000, "A", "AC")]
    pd.DataFrame(rows, columns=header).to_csv(tmp_path / "list.tsv", sep="\t", index=False)
    extract(
        study(
            folder,
            qc={"call_rate": 0.5, "hwe_p": 0},
            instruments={"file": str(tmp_path / "list.tsv")},
        ),
        str(tmp_path / "s.zarr"),
    )
    found = arrays(tmp_path / "s.zarr")
    assert found["variant_allele"].tolist() == [["A", "G"], ["AC", "A"]]
    ids = pd.read_csv(folder / "g.vcf", sep="\t", skiprows=5, nrows=0, dtype=str).columns[9:]
    by_person = pd.Series(np.arange(len(ids)) % 6, index=ids).loc[found["sample_id"]]
    first, second = [1, 1, 0, 0, -1, 0], [0, 1, 2, 1, -1, 0]
    np.testing.assert_array_equal(found["call_dosage"][:, 1], np.array(first)[by_person])
    np.testing.assert_array_equal(found["call_dosage"][:, 0], np.array(second)[by_person])


def test_people_are_where_the_table_says(store, cohort):
    found = arrays(store)
    table = pd.read_csv(cohort[0] / "people.tsv", sep="\t", dtype={"person_id": str})
    table = table.set_index("person_id").loc[found["sample_id"]]
    name = found["environment_name"]
    assert name.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(name[found["environment"]], table["environment"])
    np.testing.assert_array_equal(found["exposure"][:, 0], table["bmi"].astype("float32"))
    np.testing.assert_array_equal(found["covariate"][:, 0], table["PC1"].astype("float32"))
    funnel = open_store(store).manifest["people"]
    assert [count for _, count in funnel] == [4900, 5000, 4900, len(found["sample_id"])]


@pytest.mark.parametrize("partitions", [1, 4])
def test_any_number_of_partitions_gives_the_same_store(store, cohort, tmp_path, partitions):
    extract(study(cohort[0], genotypes=vcf(cohort[0], partitions)), str(tmp_path / "s.zarr"))
    expected = arrays(store)
    for name, value in arrays(tmp_path / "s.zarr").items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert open_store(tmp_path / "s.zarr").manifest == open_store(store).manifest


def test_a_matrix_table_gives_the_store_of_its_vcf(store, cohort, tmp_path):
    import hail as hl

    mt = hl.import_vcf(str(cohort[0] / "g.vcf.bgz"), reference_genome=None)
    mt.write(str(tmp_path / "g.mt"))
    extract(study(cohort[0], genotypes={"mt": str(tmp_path / "g.mt")}), str(tmp_path / "s.zarr"))
    assert open_store(tmp_path / "s.zarr").digest == open_store(store).digest


def test_listed_instruments_are_oriented(cohort, tmp_path):
    folder, expected = cohort
    rows = [
        ("chr2", 1000, "G", "A", 0.3, 1e-9),
        ("2", 1001, "A", "G", 0.7, 1e-9),
        ("2", 1002, "T", "C", 0.7, 1e-9),
        ("2", 1003, "G", "A", 0.3, 0.5),
        ("2", 1005, "A", "T", 0.72, 1e-9),
        ("10", 1, "A", "G", 0.7, 1e-9),
    ]
    columns = ["chromosome", "base_pair_location", "effect_allele", "other_allele"]
    columns += ["effect_allele_frequency", "p_value"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "list.tsv", sep="\t", index=False)
    chosen = study(folder, instruments={"file": str(tmp_path / "list.tsv"), "p_value": 1e-5})
    manifest = extract(chosen, str(tmp_path / "s.zarr"))
    assert manifest["variants"] == {
        "absent": 1,
        "kept": 4,
        "p-value": 1,
    }
    found = arrays(tmp_path / "s.zarr")
    assert found["variant_effect_allele"].tolist() == ["G", "A", "A", "A"]
    alt = expected.loc[found["sample_id"], [0, 1, 2, 5]].to_numpy()
    effect = np.where([True, False, False, False] | (alt < 0), alt, 2 - alt)
    np.testing.assert_array_equal(found["call_dosage"], effect)
    called = found["call_dosage"] >= 0
    for code in range(3):
        rows_of = found["environment"] == code
        mean = np.where(called, effect, 0)[rows_of].sum(axis=0) / called[rows_of].sum(axis=0)
        np.testing.assert_allclose(found["variant_allele_frequency"][code], mean / 2, rtol=1e-6)


def test_a_finished_store_is_returned_and_another_study_refused(store, cohort, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    same = study(cohort[0], genotypes=vcf(cohort[0], 3))
    assert extract(same, str(store)) == open_store(store).manifest
    refusal = r"not this study's store \(what changed: seed\); nothing was touched; choose"
    with pytest.raises(InputError, match=refusal):
        extract(study(cohort[0], seed=5), str(store))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not this study's store"):
        extract(same, str(tmp_path))
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*")} == before


def test_what_a_killed_extraction_left_in_a_finished_store_is_removed(store, cohort):
    staged = store / "parts" / "staged" / "0.npz"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(b"genotypes")
    extract(study(cohort[0]), str(store))
    assert not (store / "parts").exists()


def test_a_pedigree_is_read_before_the_genotypes(cohort, tmp_path):
    broken = (cohort[0] / "g.vcf").read_text().replace("0|1", "0|x", 1)
    (tmp_path / "g.vcf").write_text(broken)
    (tmp_path / "trios.fam").write_text("f 1 0 0\n")
    asked = study(
        cohort[0],
        genotypes={"vcf": str(tmp_path / "g.vcf")},
        qc={"pedigree": str(tmp_path / "trios.fam")},
    )
    with pytest.raises(InputError, match=r"pedigree must be a PLINK \.fam file"):
        extract(asked, str(tmp_path / "s.zarr"))
    assert not (tmp_path / "s.zarr").exists()


def test_bad_input_leaves_no_folder(cohort, tmp_path):
    folder, _ = cohort
    out = tmp_path / "s.zarr"
    with pytest.raises(
        InputError, match=r"no instrument is left after quality control.*\[qc\] maf"
    ):
        extract(study(folder, qc={"maf": 0.5}), str(out))
    strangers = pd.read_csv(folder / "people.tsv", sep="\t", dtype={"person_id": str})
    strangers["person_id"] = "x" + strangers["person_id"]
    strangers.to_csv(tmp_path / "people.tsv", sep="\t", index=False)
    people = {"phenotypes": str(tmp_path / "people.tsv")}
    with pytest.raises(InputError, match=r"no id .*\(4,900 people\).*\(5,000 samples\)") as caught:
        extract(study(folder, people=people), str(out))
    assert "x0" not in str(caught.value)
    assert not out.exists()


def test_a_broken_vcf_is_reported_without_its_lines(cohort, tmp_path):
    from mrscale.errors import EngineError

    text = (cohort[0] / "g.vcf").read_text().replace("0|1", "0|x", 1)
    (tmp_path / "g.vcf").write_text(text)
    with pytest.raises(
        EngineError, match=r"Hail could not finish .*the cause is in .*hail\.log"
    ) as e:
        extract(study(cohort[0], genotypes={"vcf": str(tmp_path / "g.vcf")}), str(tmp_path / "s"))
    assert "0|x" not in str(e.value)
    assert e.value.__suppress_context__


def test_real_genotypes_frequencies_equal_a_direct_count(shared_data, tmp_path):
    import gzip

    file = shared_data("data/hapmap_chr10p.vcf.bgz")
    people = pd.read_csv(shared_data("data/hapmap_samples.tsv"), sep="\t")
    rng = np.random.default_rng(2)
    people["x"], people["y"] = rng.normal(size=(2, len(people)))
    people.to_csv(tmp_path / "people.tsv", sep="\t", index=False)
    chosen = parse_study(
        {
            "genotypes": {"vcf": str(file)},
            "people": {
                "phenotypes": str(tmp_path / "people.tsv"),
                "sample_column": "sample_id",
            },
            "traits": {"exposure": ["x"], "outcome": ["y"]},
            "qc": {"maf": 0.0, "call_rate": 0.0, "hwe_p": 0.0},
        }
    )
    manifest = extract(chosen, str(tmp_path / "s.zarr"))
    with gzip.open(file, "rt") as handle:
        rows = [line.rstrip("\n").split("\t") for line in handle if not line.startswith("##")]
    ids, rows = rows[0][9:], rows[1:]
    code = {"0/0": 0, "0/1": 1, "1/0": 1, "1/1": 2, "./.": -1}
    dosage_MN = np.array([[code[c.split(":")[0].replace("|", "/")] for c in r[9:]] for r in rows])
    environment_N = people.set_index("sample_id")["environment"].loc[ids].to_numpy()
    found = arrays(tmp_path / "s.zarr")
    varies = [len(set(d[d >= 0])) > 1 or set(d[d >= 0]) == {1} for d in dosage_MN]
    assert manifest["variants"]["kept"] == sum(varies) > 14_000
    assert found["variant_position"].tolist() == [
        int(r[1]) for r, v in zip(rows, varies, strict=True) if v
    ]
    for e, name in enumerate(found["environment_name"]):
        of_E = dosage_MN[np.array(varies)][:, environment_N == name]
        expected = np.where(of_E >= 0, of_E, 0).sum(axis=1) / (2 * (of_E >= 0).sum(axis=1))
        np.testing.assert_array_equal(
            found["variant_allele_frequency"][e], expected.astype("float32")
        )
