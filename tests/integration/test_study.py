"""Whole studies on the real engines: simulated, real, and with whatever may be wrong with them."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import os
import re
import shutil
import time

import numpy as np
import pandas as pd
import pytest

import mrscale as mr
from mrscale.errors import InputError
from mrscale.simulate import simulate
from mrscale.store.reader import open_store
from mrscale.study_file import load_study
from mrscale.workflow.preview import preview_run

pytest.importorskip("hail")
pysam = pytest.importorskip("pysam")

pytestmark = pytest.mark.spark

ENCODER = "\n[encoder]\nsteps = 60\nrestarts = 1\nfactors = 4\nlatent_dim = 2\n"
WORD = re.compile(r"(?<![\w.])\w+(?![\w.]*\w)")
"""A word that is no part of a decimal number: seven digits in a row occur there by chance."""
ARTEFACTS = (
    "report.html",
    "estimates.tsv",
    "result.json",
    "latents.zarr",
    "store.zarr",
    "encoders",
)


def written(folder):
    """When every artefact of a run was last written."""
    files = [p for name in ARTEFACTS for p in [folder / name, *(folder / name).rglob("*")]]
    return {p: p.stat().st_mtime_ns for p in files if p.is_file()}


@contextlib.contextmanager
def overheard(file):
    """Send to a file all that this process and its children print or log, at any level."""
    handler = logging.FileHandler(file)
    root = logging.getLogger()
    level, kept = root.level, [os.dup(1), os.dup(2)]
    with file.open("a") as stream:
        try:
            root.addHandler(handler)
            root.setLevel(logging.DEBUG)
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
                yield
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
            handler.close()
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A simulated biobank with a study file."""
    out = tmp_path_factory.mktemp("study") / "biobank"
    simulate(out, num_people=2000, num_variants=60, num_environments=5, seed=1)
    with (out / "study.toml").open("a") as study:
        study.write(ENCODER)
    return out


@pytest.fixture(scope="module")
def result(folder):
    """The study, run once, and all that was said meanwhile in ``said.txt``."""
    with overheard(folder.parent / "said.txt"):
        return mr.run(folder / "study.toml")


def test_learned_instruments_come_closer_to_the_truth_than_naive_ones(result):
    (pair,) = result.pairs
    keys = ["ols", "tsls", "tsls_pc", "meta", "linear", "linear_controls", "flow", "flow_controls"]
    assert [e.key for e in pair.estimates] == [*keys, "oracle"]
    assert pair.truth == 0.5
    naive = abs(pair["tsls"].estimate - 0.5)
    assert naive > 0.3 * 0.5
    assert abs(pair[pair.headline].estimate - 0.5) < naive / 3
    assert abs(pair["oracle"].estimate - 0.5) < naive / 3
    for estimate in pair.estimates:
        assert estimate.ci_lower < estimate.estimate < estimate.ci_upper


def test_everything_that_is_handed_over_is_there(result, folder):
    run = folder / "run"
    page = (run / "report.html").read_text()
    assert "Learned, linear with controls" in page
    table = pd.read_csv(run / "estimates.tsv", sep="\t")
    np.testing.assert_allclose(
        table["estimate"], [e.estimate for e in result.pairs[0].estimates], rtol=1e-12
    )
    raw = json.loads((run / "result.json").read_text())
    assert raw["provenance"]["store"] == open_store(run / "store.zarr").digest
    assert sum(raw["environments"].values()) == 2000
    assert len(raw["encoders"]["flow"]["folds"]) == 4


def test_no_id_of_a_participant_is_in_anything_exported_or_printed(result, folder):
    people = pd.read_csv(folder / "phenotypes.tsv", sep="\t", dtype=str)
    ids = {*people["person_id"], *people["family_id"]}
    assert ids & set(WORD.findall(f'the person "{people["person_id"][0]}", alone'))
    for file in [*(folder / "run" / n for n in ARTEFACTS[:3]), folder.parent / "said.txt"]:
        assert not set(WORD.findall(file.read_text())) & ids, file.name


def test_a_second_run_does_nothing_and_says_the_same(result, folder):
    before, text = written(folder / "run"), (folder / "run" / "result.json").read_text()
    start = time.monotonic()
    again = mr.run(folder / "study.toml")
    assert time.monotonic() - start < 10
    assert again == result
    assert written(folder / "run") == before
    assert (folder / "run" / "result.json").read_text() == text


def test_a_preview_knows_what_is_done(result, folder):
    before = written(folder / "run")
    found = preview_run(folder / "study.toml")
    assert {stage.state for stage in found.stages} == {"done"}
    assert (found.people, found.variants) == (2000, result.num_variants)
    assert found.store_bytes == sum(
        p.stat().st_size for p in (folder / "run" / "store.zarr").rglob("*") if p.is_file()
    )
    study = load_study(folder / "study.toml")
    longer = study.encoder.model_copy(update={"steps": 70})
    stages = preview_run(study.model_copy(update={"encoder": longer})).stages
    assert [stage.state for stage in stages] == ["done", *["to do"] * 4]
    assert written(folder / "run") == before


def test_the_dataset_opens_with_the_names_of_the_schema(result, folder):
    cohort = mr.open(folder / "run" / "store.zarr")
    assert cohort["call_dosage"].dims == ("samples", "variants")
    assert cohort.sizes["samples"] == 2000
    assert set(cohort["environment_name"].values.tolist()) == set(result.environments)


def test_stages_on_their_own_give_the_result_of_a_whole_run(result, folder, command):
    text = (folder / "study.toml").read_text().replace('run = "run"', 'run = "stages"')
    (folder / "stages.toml").write_text(text)
    for verb in ("extract", "train", "encode", "estimate", "report"):
        code, _, err = command(verb, folder / "stages.toml")
        assert (code, err) == (0, "")
    whole, stages = (folder / run / "result.json" for run in ("run", "stages"))
    assert stages.read_text() == whole.read_text()


def test_a_run_goes_on_from_a_store_on_the_scheduler_that_it_is_told(result, folder, command):
    text = (folder / "study.toml").read_text()
    elsewhere = 'run = "elsewhere"\nstore = "run/store.zarr"'
    (folder / "elsewhere.toml").write_text(text.replace('run = "run"', elsewhere))
    code, _, err = command("run", "--scheduler", "nowhere", folder / "elsewhere.toml")
    assert code == 1
    assert err.startswith("Error: 'nowhere' is not the address of a Dask scheduler")


def test_results_are_explained_in_words(result, folder, command):
    for place in (folder / "run", folder / "run" / "estimates.tsv"):
        code, out, err = command("explain", place, "--json")
        assert (code, err) == (0, "")
        (lines,) = json.loads(out).values()
        assert lines[0].startswith("Raising exposure by one unit changes outcome by")
        assert f"Trust in the learned instruments: {result.pairs[0].trust}." in lines
    code, _, err = command("explain", folder)
    assert code == 1
    assert "there are no results in" in err


def test_results_of_before_a_refused_estimate_are_not_explained(result, folder, command, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run", ignore=shutil.ignore_patterns("*.zarr"))
    (tmp_path / "run" / "stages" / "estimate.json").unlink()
    code, out, err = command("explain", tmp_path / "run")
    assert (code, out) == (1, "")
    assert "was refused or cut off; its results are of before" in " ".join(err.split())
    assert command("explain", tmp_path / "run" / "result.json")[0] == 0


def test_other_encoder_settings_train_again_but_do_not_extract(result, folder):
    before = written(folder / "run")
    text = (folder / "study.toml").read_text()
    try:
        (folder / "study.toml").write_text(text.replace("steps = 60", "steps = 20"))
        changed = mr.run(folder / "study.toml")
        after = written(folder / "run")
    finally:
        (folder / "study.toml").write_text(text)
    assert {p for p in before if "store.zarr" in p.parts} <= {
        p for p in after if after[p] == before.get(p)
    }
    flows = [p for p in before if p.name == "flow.safetensors"]
    assert len(flows) == 4
    assert all(after[p] != before[p] for p in flows)
    assert changed.pairs[0]["flow"] != result.pairs[0]["flow"]
    assert changed.pairs[0]["tsls"] == result.pairs[0]["tsls"]


@pytest.fixture(scope="module")
def hapmap(shared_data, tmp_path_factory):
    """Traits drawn on the genotypes of a thousand real people."""
    out = tmp_path_factory.mktemp("hapmap") / "biobank"
    simulate(
        out,
        genotypes=shared_data("data/hapmap_chr10p.vcf.bgz"),
        samples=shared_data("data/hapmap_samples.tsv"),
    )
    with (out / "study.toml").open("a") as study:
        study.write("\n[encoder]\nmethods = []\n")
    return out


def test_real_genotypes_without_a_list_are_extracted_but_not_estimated(hapmap, command):
    text = (hapmap / "study.toml").read_text()
    text = text.replace('[instruments]\nfile = "instruments.tsv"\n', "")
    (hapmap / "all.toml").write_text(text.replace('run = "run"', 'run = "all"'))
    code, _, err = command("run", hapmap / "all.toml")
    assert code == 1
    assert re.search(r"more people than instruments; found 1\d,\d{3} instruments for 1,000", err)
    assert "--instruments FILE" in err
    assert open_store(hapmap / "all" / "store.zarr").num_variants > 10_000


def test_real_genotypes_with_a_list_go_all_the_way(hapmap, command):
    code, out, err = command("run", hapmap / "study.toml")
    assert (code, err) == (0, "")
    assert "2SLS, PCs and environment adjusted" in out
    result = json.loads((hapmap / "run" / "result.json").read_text())
    assert 30 <= result["num_variants"] <= 50
    assert len(result["environments"]) == 2
    assert sum(result["environments"].values()) == result["num_people"] == 1000
    assert (hapmap / "run" / "report.html").stat().st_size > 10_000


NUM_PEOPLE, NUM_VARIANTS = 240, 12


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A small VCF whose ids and families would be noticed anywhere."""
    out = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(2)
    ids = [f"SECRET{i}" for i in range(NUM_PEOPLE)]
    calls = np.array(["0/0", "0/1", "1/1"])[rng.binomial(2, 0.3, (NUM_VARIANTS, NUM_PEOPLE))]
    lines = ["##fileformat=VCFv4.2", "##contig=<ID=1>"]
    lines.append('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">')
    fixed = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
    lines.append("\t".join([*fixed, *ids]))
    for j, row in enumerate(calls):
        site = ["1", str(100 + j), f"rs{j}", "A", "G", ".", "PASS", ".", "GT"]
        lines.append("\t".join([*site, *row]))
    (out / "g.vcf").write_text("\n".join(lines) + "\n")
    pysam.tabix_compress(str(out / "g.vcf"), str(out / "g.vcf.bgz"))
    with gzip.open(out / "plain.vcf.gz", "wt") as handle:
        handle.write((out / "g.vcf").read_text())
    people = pd.DataFrame(
        {
            "person_id": ids,
            "environment": np.where(np.arange(NUM_PEOPLE) % 2, "north", "south"),
            "bmi": rng.normal(size=NUM_PEOPLE),
            "sbp": rng.normal(size=NUM_PEOPLE),
            "constant": 1.5,
            "absent": np.nan,
            "site": "only",
            "rare": np.where(np.arange(NUM_PEOPLE) < 13, "tiny", "large"),
        }
    )
    people.to_csv(out / "people.tsv", sep="\t", index=False)
    people.assign(person_id=[f"OTHER{i}" for i in range(NUM_PEOPLE)]).to_csv(
        out / "others.tsv", sep="\t", index=False
    )
    return out


def words(cohort, out, **changes):
    """The command line of an extraction, with some of its flags changed."""
    flags = {
        "vcf": cohort / "g.vcf.bgz",
        "phenotypes": cohort / "people.tsv",
        "sample-column": "person_id",
        "environment-column": "environment",
        "exposure": "bmi",
        "outcome": "sbp",
        "out": out,
    }
    return ["extract", *(str(w) for k, v in (flags | changes).items() for w in (f"--{k}", v))]


WRONG = {
    "no such file": ({"vcf": "absent.vcf.bgz"}, r"no such file: absent\.vcf\.bgz"),
    "gzip": ({"vcf": "plain.vcf.gz"}, r"compressed with gzip; a VCF must be .* bgzip"),
    "no such table": ({"phenotypes": "absent.tsv"}, r"absent\.tsv"),
    "no such column": ({"exposure": "bim"}, "bim"),
    "ids": ({"phenotypes": "others.tsv"}, r"\(240 people\).*\(240 samples\)"),
    "one environment": ({"environment-column": "site"}, "at least two environments .* has 1"),
    "small environment": ({"environment-column": "rare"}, r"with <=20 people: 'tiny'"),
    "constant": ({"exposure": "constant"}, "exposure 'constant' is constant"),
    "missing": ({"exposure": "absent"}, "'absent'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_is_one_sentence_without_ids(cohort, command, tmp_path, wrong, monkeypatch):
    changes, message = WRONG[wrong]
    monkeypatch.chdir(cohort)
    code, out, err = command(*words(cohort, tmp_path / "s.zarr", **changes))
    assert (code, out) == (1, "")
    assert re.search(message, err), err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    # what all ids have in common may be shown, never one of them
    assert not re.search(r"SECRET\d|OTHER\d|\b13\b", err)
    assert not (tmp_path / "s.zarr").exists()


def test_no_instrument_left_is_said_with_the_threshold(cohort, command, tmp_path):
    text = f"""
        [genotypes]
        vcf = "{cohort / "g.vcf.bgz"}"
        [people]
        phenotypes = "{cohort / "people.tsv"}"
        [traits]
        exposure = ["bmi"]
        outcome = ["sbp"]
        [qc]
        maf = 0.5
    """
    (tmp_path / "study.toml").write_text(text)
    code, _, err = command("run", tmp_path / "study.toml")
    assert code == 1
    assert re.search(r"no instrument is left after quality control.*\[qc\] maf", err)


def test_a_folder_with_something_else_is_not_touched(cohort, command, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    code, _, err = command(*words(cohort, out))
    assert code == 1
    assert "is not this study's store" in err
    assert "nothing was touched" in err
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "notes.txt"]


def test_flags_are_enough_and_an_unfinished_store_is_finished(cohort, command, tmp_path):
    out = tmp_path / "s.zarr"
    code, said, err = command(*words(cohort, out))
    assert (code, err) == (0, "")
    assert said.startswith(f"Genotype store {out}: 240 people, 12 variants; north 120, south 120")
    digest = open_store(out).digest
    (out / "manifest.json").unlink()
    code, said, _ = command(*words(cohort, out), "--json")
    assert code == 0
    assert json.loads(said)["digest"] == digest
    with pytest.raises(InputError, match="not this study's store"):
        mr.run(other_study(cohort, tmp_path))


def other_study(cohort, folder):
    """A study file with another seed that names the same store."""
    text = f"""
        seed = 3
        store = "s.zarr"
        [genotypes]
        vcf = "{cohort / "g.vcf.bgz"}"
        [people]
        phenotypes = "{cohort / "people.tsv"}"
        [traits]
        exposure = ["bmi"]
        outcome = ["sbp"]
    """
    (folder / "other.toml").write_text(text)
    return folder / "other.toml"
