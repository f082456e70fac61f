"""Builds of list and genotypes compared, and a list lifted by Hail itself."""

from __future__ import annotations

import gzip

import pandas as pd
import pytest

from mrscale.config import Instruments
from mrscale.errors import InputError
from pipelines.instruments import read_instruments
from pipelines.liftover import lift, require_one_build

LENGTHS = {"GRCh37": 249_250_621, "GRCh38": 248_956_422}
# chr1 1000-2000 moves to 5000-6000; 3000-4000 is inverted and becomes 8000-9000
REVERSED = LENGTHS["GRCh38"] - 9000
CHAIN = f"""chain 1000 chr1 {LENGTHS["GRCh37"]} + 1000 2000 chr1 {LENGTHS["GRCh38"]} + 5000 6000 1
1000

chain 900 chr1 {LENGTHS["GRCh37"]} + 3000 4000 chr1 {LENGTHS["GRCh38"]} - {REVERSED} \
{REVERSED + 1000} 2
1000

"""


def table(tmp_path, rows):
    columns = ["chromosome", "base_pair_location", "effect_allele", "other_allele"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "list.tsv", sep="\t", index=False)
    return str(tmp_path / "list.tsv")


def lifted(tmp_path, rows, chain=CHAIN, genotype_build="GRCh38", **options):
    (tmp_path / "over.chain.gz").write_bytes(gzip.compress(chain.encode()))
    choice = Instruments(
        file=table(tmp_path, rows), liftover=str(tmp_path / "over.chain.gz"), **options
    )
    listed = read_instruments(choice, genotype_build)
    return lift(listed, choice, genotype_build)


@pytest.mark.spark
def test_rows_are_moved_turned_or_leave_with_a_reason(tmp_path, hail):
    rows = [
        ("1", 1500, "A", "G"),
        ("chr1", 3001, "A", "G"),
        ("1", 3101, "AC", "GT"),
        ("1", 3201, "A", "AT"),
        ("1", 1600, "A", "AT"),
        ("1", 2500, "A", "G"),
        ("2", 1500, "A", "G"),
        ("1", 300_000_000, "A", "G"),
        ("1", 1500, "A", "N"),
    ]
    found = lifted(tmp_path, rows, build="GRCh37")
    moved = found[found["status"] == ""]
    columns = ["contig", "contig_key", "position", "effect_allele", "other_allele"]
    assert moved[columns].values.tolist() == [
        ["chr1", "1", 5500, "A", "G"],
        ["chr1", "1", 9000, "T", "C"],
        # the second of the two bases is the first one of the other strand
        ["chr1", "1", 8899, "GT", "AC"],
        ["chr1", "1", 5600, "A", "AT"],
    ]
    gone = found[found["status"] != ""]
    assert gone["status"].tolist() == ["not lifted"] * 4 + ["unreadable"]
    assert "changes strand" in gone["reason"].iloc[0]
    assert gone["reason"].iloc[1:4].str.contains("does not lead from this position").all()
    assert gone["position"].tolist() == [3201, 2500, 1500, 300_000_000, 1500]


@pytest.mark.spark
def test_builds_that_hail_does_not_know_and_large_lists_are_lifted(tmp_path, hail, monkeypatch):
    monkeypatch.setattr("pipelines.liftover._BATCH", 3)
    chain = CHAIN.replace("chr1", "one")
    rows = [("ONE", 1001 + i, "A", "G") for i in range(10)]
    found = lifted(tmp_path, rows, chain=chain, genotype_build=None)
    assert found["position"].tolist() == [5001 + i for i in range(10)]
    assert lifted(tmp_path, rows, chain=chain, genotype_build=None).equals(found)


@pytest.mark.spark
@pytest.mark.parametrize("build", ["GRCh37", None])
def test_a_chain_of_other_builds_is_refused(tmp_path, hail, build):
    chain = CHAIN.replace(str(LENGTHS["GRCh38"]), "999999999")
    with pytest.raises(
        InputError, match=r"must lead to GRCh38, but its chromosome 1 is 999,999,999"
    ):
        lifted(tmp_path, [("1", 1500, "A", "G")], chain=chain, build=build)


@pytest.mark.spark
def test_another_mitochondrion_is_no_other_build(tmp_path, hail):
    """UCSC's hg19 has one of 16,571 bases, GRCh37 one of 16,569."""
    chain = CHAIN + CHAIN.replace("chr1", "chrM").replace(str(LENGTHS["GRCh37"]), "16571")
    assert lifted(tmp_path, [("1", 1500, "A", "G")], chain=chain)["position"].tolist() == [5500]


@pytest.mark.spark
def test_a_file_that_is_no_chain_is_refused(tmp_path, hail):
    with pytest.raises(InputError, match="must be a chain file"):
        lifted(tmp_path, [("1", 1500, "A", "G")], chain="chain of something else\n")
    missing = Instruments(file=table(tmp_path, [("1", 1, "A", "G")]), liftover="/nowhere.chain")
    with pytest.raises(InputError, match=r"no such file: /nowhere\.chain"):
        lift(read_instruments(missing), missing)


def test_a_damaged_chain_file_is_refused(tmp_path):
    (tmp_path / "cut.chain.gz").write_bytes(gzip.compress(CHAIN.encode())[:40])
    choice = Instruments(
        file=table(tmp_path, [("1", 1, "A", "G")]), liftover=str(tmp_path / "cut.chain.gz")
    )
    with pytest.raises(InputError, match="incomplete or damaged"):
        lift(read_instruments(choice), choice)


def test_without_a_chain_nothing_moves(tmp_path):
    choice = Instruments(file=table(tmp_path, [("1", 1500, "A", "G")]))
    listed = read_instruments(choice)
    assert lift(listed, choice, "GRCh38") is listed


def require(tmp_path, genotypes, stated=None, harmonised=False, name="list.tsv", **options):
    if stated is not None:
        (tmp_path / f"{name}-meta.yaml").write_text(f"# GWAS-SSF\ntrait: x\n{stated}\n")
    choice = Instruments(file=str(tmp_path / "list.tsv.gz"), **options)
    require_one_build(choice, genotypes, harmonised=harmonised)


@pytest.mark.parametrize("name", ["list.tsv", "list.tsv.gz"])
@pytest.mark.parametrize("text", ["GRCh37", "hg19", "'37'", '"GRCh37.p13"', "build37"])
def test_the_file_beside_the_list_states_the_build(tmp_path, text, name):
    require(tmp_path, "GRCh37", f"genome_assembly: {text}", name=name)
    with pytest.raises(InputError, match=r"on GRCh37 \(by the -meta.yaml file .* are on GRCh38"):
        require(tmp_path, "GRCh38", f"genome_assembly: {text}", name=name)


def test_a_list_on_another_build_is_refused_unless_it_is_lifted(tmp_path):
    with pytest.raises(InputError, match=r"\[instruments\] build\).*a chain file from GRCh37 to"):
        require(tmp_path, "GRCh38", build="GRCh37")
    require(tmp_path, "GRCh38", build="GRCh37", liftover="x.chain")
    with pytest.raises(InputError, match=r"GRCh38 .*by its columns hm_chrom"):
        require(tmp_path, "GRCh37", harmonised=True)
    with pytest.raises(InputError, match="is on NCBI36"):
        require(tmp_path, "GRCh37", "genomeAssembly: hg18")
    require(tmp_path, None, "genome_assembly: GRCh38")
    require(tmp_path, "GRCh38", "trait: GRCh37", build="GRCh38")


def test_a_liftover_for_nothing_and_contradictions_are_refused(tmp_path):
    with pytest.raises(InputError, match="both on GRCh38, so there is nothing to lift"):
        require(tmp_path, "GRCh38", build="GRCh38", liftover="x.chain")
    with pytest.raises(InputError, match=r"on GRCh38 by \[instruments\] build but GRCh37 by the"):
        require(tmp_path, None, "genome_assembly: GRCh37", build="GRCh38")
