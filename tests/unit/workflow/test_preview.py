"""What a study would do and take: checked as the study itself is, with nothing written."""

from __future__ import annotations

import json
import subprocess
import sys

import pandas as pd
import pytest

from mrscale import disclosure
from mrscale.errors import InputError, RunError
from mrscale.simulate import simulate
from mrscale.study_file import load_study
from mrscale.workflow.preview import preview_extraction, preview_run


@pytest.fixture(scope="module")
def biobank(tmp_path_factory):
    pytest.importorskip("pysam")
    folder = tmp_path_factory.mktemp("preview") / "biobank"
    simulate(folder, num_people=1500, num_variants=40, num_environments=3)
    return folder


def listing(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_a_study_is_counted_before_it_runs(biobank):
    before = listing(biobank)
    found = preview_run(biobank / "study.toml")
    assert listing(biobank) == before
    assert (found.people, found.people_listed, found.people_genotyped) == (1500, 1500, 1500)
    listed = pd.read_csv(biobank / "instruments.tsv", sep="\t")
    assert found.variants_listed == found.variants <= len(listed)
    assert (found.variants_genotyped, found.variants_counted) == (40, True)
    assert found.genotypes == 1500 * found.variants
    exact = (biobank / "genotypes.vcf.bgz").stat().st_size
    size = found.inputs["genotypes"]["bytes"]
    assert exact <= size < exact + 4096
    assert size % 4096 == 0  # a short list of ids must not be counted by its size
    assert found.inputs["genotypes"] == {"files": 1, "bytes": size}
    assert {stage.name: stage.state for stage in found.stages} == dict.fromkeys(
        ["extract", "train", "encode", "estimate", "report"], "to do"
    )
    text = found.summary()
    assert "nothing was written" in text
    assert f"{size:,} bytes" in text
    assert "docs/benchmarks.md" in text


def test_stages_that_a_study_does_not_have_are_left_out(biobank):
    study = load_study(biobank / "study.toml")
    plain = study.model_copy(update={"encoder": study.encoder.model_copy(update={"methods": ()})})
    assert [stage.name for stage in preview_run(plain).stages] == ["extract", "estimate", "report"]
    assert [stage.name for stage in preview_extraction(study).stages] == ["extract"]


def test_the_command_starts_no_engine(biobank):
    code = """
import sys
from mrscale.cli import app
try:
    app(["extract", sys.argv[1], "--dry-run", "--json"])
finally:
    assert not {"hail", "pyspark"} & set(sys.modules)
"""
    before = listing(biobank)
    done = subprocess.run(
        [sys.executable, "-c", code, str(biobank / "study.toml")], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["stages"][0]["name"] == "extract"
    assert listing(biobank) == before


def test_few_people_are_not_counted_exactly(biobank, tmp_path):
    few = pd.read_csv(biobank / "phenotypes.tsv", sep="\t", dtype=str).head(7)
    few.to_csv(tmp_path / "few.tsv", sep="\t", index=False)
    study = load_study(biobank / "study.toml")
    people = study.people.model_copy(update={"phenotypes": str(tmp_path / "few.tsv")})
    found = preview_extraction(study.model_copy(update={"people": people}))
    assert (found.people, found.people_listed) == ("<=20", "<=20")
    assert found.genotypes == 20 * found.variants
    assert "People            at most <=20: <=20 in the table" in found.summary()


def test_how_many_are_left_out_does_not_follow_from_a_preview(biobank, tmp_path):
    most = pd.read_csv(biobank / "phenotypes.tsv", sep="\t", dtype=str).head(1490)
    most.to_csv(tmp_path / "most.tsv", sep="\t", index=False)
    study = load_study(biobank / "study.toml")
    people = study.people.model_copy(update={"phenotypes": str(tmp_path / "most.tsv")})
    found = preview_extraction(study.model_copy(update={"people": people}))
    assert (found.people, found.people_listed, found.people_genotyped) == (1500, 1500, 1500)
    assert found.genotypes == 1500 * found.variants


def test_what_would_be_refused_is_refused(biobank, tmp_path):
    study = load_study(biobank / "study.toml")
    people = study.people.model_copy(update={"phenotypes": str(tmp_path / "none.tsv")})
    with pytest.raises(InputError, match="no such file"):
        preview_run(study.model_copy(update={"people": people}))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and not a run folder"):
        preview_run(study.model_copy(update={"run": str(tmp_path / "other")}))


def test_a_store_that_was_begun_is_continued(biobank, tmp_path):
    from mrscale.store import writer
    from pipelines import extract

    study, out = load_study(biobank / "study.toml"), str(tmp_path / "store.zarr")
    assert preview_extraction(study, out).stages[0].state == "to do"
    writer.claim(out, extract.check(study, out).settings)
    assert preview_extraction(study, out).stages[0].state == "to continue"
    with pytest.raises(InputError, match="not this study's store"):
        preview_extraction(study.model_copy(update={"seed": 9}), out)


def test_a_preview_keeps_the_limit_of_its_study_wherever_the_store_is(biobank, tmp_path):
    study = load_study(biobank / "study.toml")
    raised = study.disclosure.model_copy(update={"limit": 50})
    preview_extraction(
        study.model_copy(update={"disclosure": raised}), out=str(tmp_path / "s.zarr")
    )
    try:
        assert disclosure.show_count(43) == "<=50"
    finally:
        disclosure.enforce(disclosure.Policy())
