"""The study file: what it may say, and what is said when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mrscale.config import is_principal_component
from mrscale.errors import InputError
from mrscale.study_file import load_study, parse_study


def write(folder, text):
    file = folder / "study.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae = 'x'", r"unknown key 'nmae' in the study file; did you mean 'name'\?"),
        ("[encoder]\nrestart = 2", r"'restart' in \[encoder\] .* did you mean 'restarts'\?"),
        ("[people]\nphenotype = 'x'", r"\[people\] .* did you mean 'phenotypes'\?"),
        (
            "[simulation]\ntruht = 'x'",
            r"\[simulation\] .* did you mean 'truth'\? Valid keys: truth",
        ),
        ("[encoders]\nsteps = 3", r"unknown key 'encoders' .* did you mean 'encoder'\?"),
        (
            "[qc]\nzzz = 1",
            r"unknown key 'zzz' .* Valid keys: call_rate, environment_maf,",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_valid_one(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load_study(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("folds = 1", r"'folds' in the study file: .*greater than or equal to 2 \(found 1\)"),
        ("folds = 2.5", r"'folds' in the study file: Input should be a whole number \(found 2.5\)"),
        ("[qc]\nmaf = 0.7", r"'maf' in \[qc\] of the study file: .*0.5 \(found 0.7\)"),
        ("[encoder]\nfactors = 'some'", r"'factors' in \[encoder\] .*'auto' or a whole number"),
        (
            "[encoder]\nmethods = ['deep']",
            r"'methods' in \[encoder\] .*'linear', 'kernel' or 'flow'",
        ),
        ("[encoder]\nmethods = 'flow'", r"'methods' in \[encoder\] .*should be a list, as in"),
        ("[encoder]\nlatent_dim = 0", r"'latent_dim' in \[encoder\] .*'auto' or greater than"),
        ("genotypes = 'a.vcf'", r"'genotypes' in the study file: Input should be a section"),
        ("[simulation]", r"\[simulation\] of the study file needs the key 'truth'"),
        ("memory_gib = inf", r"'memory_gib' in the study file: Input should be a finite number"),
        ("[instruments]\nclump_kb = inf", r"'clump_kb' in \[instruments\] .* finite number"),
        ("[encoder]\nprefetch_mib = nan", r"'prefetch_mib' in \[encoder\] .* finite number"),
        ("seed = 9223372036854775808", r"'seed' in the study file: .*less than"),
        ("run = 'gs://b/run'", r"'run' in the study file: must be a folder on a disk of this"),
        (
            "[genotypes]\nvcf = 'a'\nmt = 'b'",
            r"^\[genotypes\] of the study file: give one of vcf, .*not vcf and mt$",
        ),
        ("name = 'x", "study.toml is not valid TOML"),
        ("name = 'x'\nname = 'y'", "study.toml is not valid TOML"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load_study(write(tmp_path, text))


def test_the_mark_that_editors_of_windows_put_before_text_is_none(tmp_path):
    (tmp_path / "study.toml").write_text("name = 'größer'", encoding="utf-8-sig")
    assert load_study(tmp_path / "study.toml").name == "größer"


def test_long_values_are_cut_short():
    with pytest.raises(InputError) as caught:
        parse_study({"people": {"phenotypes": list(range(10_000))}})
    assert len(str(caught.value)) < 300


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "study.toml").write_bytes(b"name = '\xff\xfe'")
    with pytest.raises(InputError, match=r"study\.toml is not a study file: it is no text; give"):
        load_study(tmp_path / "study.toml")


def test_a_folder_is_refused_with_the_file_that_may_be_in_it(tmp_path):
    with pytest.raises(InputError, match=r"is a folder; give a study file, such as .*study\.toml"):
        load_study(tmp_path)


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no study file at .*absent.toml; .*mrscale demo"):
        load_study(tmp_path / "absent.toml")


def test_relative_paths_start_at_the_study_file(tmp_path, monkeypatch):
    folder = tmp_path / "studies"
    folder.mkdir()
    text = """
        run = "out/run"
        [genotypes]
        vcf = "chr*.vcf.bgz"
        [people]
        phenotypes = "../people.tsv"
        [instruments]
        file = "/data/gwas.tsv"
        [simulation]
        truth = "truth.json"
    """
    write(folder, text)
    monkeypatch.chdir(tmp_path)
    study = load_study(Path("studies") / "study.toml")
    assert study.run == str(folder / "out/run")
    assert study.store_path == str(folder / "out/run/store.zarr")
    assert study.genotypes.vcf == (str(folder / "chr*.vcf.bgz"),)
    assert Path(study.people.phenotypes).resolve() == tmp_path / "people.tsv"
    assert study.instruments.file == "/data/gwas.tsv"
    assert study.simulation.truth == str(folder / "truth.json")
    assert study.genotypes.mt is None
    assert study.store is None


def test_one_trait_may_be_given_without_brackets():
    assert parse_study({"traits": {"exposure": "bmi"}}).traits.exposure == ("bmi",)


def test_urls_and_a_named_store_are_left_as_they_are(tmp_path):
    text = "store = 's.zarr'\n[genotypes]\nmt = 'gs://bucket/cohort.mt'"
    study = load_study(write(tmp_path, text))
    assert study.genotypes.mt == "gs://bucket/cohort.mt"
    assert study.store_path == str(tmp_path / "s.zarr")


def test_an_empty_study_has_the_documented_defaults_and_cannot_be_changed():
    study = parse_study({})
    assert (study.name, study.seed, study.run, study.folds) == ("study", 0, "run", 4)
    assert study.encoder.methods == ("linear", "flow")
    assert (study.encoder.steps, study.encoder.batch_size) == ("auto", "auto")
    assert study.simulation is None
    with pytest.raises(ValidationError, match="frozen"):
        study.seed = 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [("PC1", True), ("pc_12", True), ("Pc3", True), ("PC", False), ("PCR1", False), ("age", False)],
)
def test_principal_components_are_known_by_name(name, expected):
    assert is_principal_component(name) is expected


def test_what_a_whole_section_breaks_is_said_without_its_contents():
    message = r"^\[traits\] of the study file: a column has one role, .* drop it from one of them$"
    with pytest.raises(InputError, match=message):
        parse_study({"traits": {"exposure": ["ldl"], "outcome": "ldl"}})


def test_a_column_has_one_role():
    with pytest.raises(InputError, match="one role, but 'ldl' is exposure and outcome; drop it"):
        parse_study({"traits": {"exposure": ["ldl", "hdl"], "outcome": "ldl"}})
    with pytest.raises(InputError, match="'age' is outcome and covariate"):
        parse_study({"traits": {"outcome": ["age"], "covariate": ["sex", "age"]}})


def test_one_exposure_may_be_given_without_brackets():
    assert parse_study({"traits": {"exposure": "bmi"}}).traits.exposure == ("bmi",)


def test_a_home_folder_is_found_in_files_and_mappings(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    text = "run = '~/run'\n[genotypes]\nvcf = ['~/a.vcf.gz', 'b~/c.vcf.gz']\n"
    from_file = load_study(write(tmp_path, text))
    assert from_file.run == "/home/someone/run"
    assert from_file.genotypes.vcf == ("/home/someone/a.vcf.gz", f"{tmp_path}/b~/c.vcf.gz")
    given = parse_study({"store": "~/s.zarr", "people": {"phenotypes": "gs://b/~/p.tsv"}})
    assert (given.run, given.store) == ("run", "/home/someone/s.zarr")
    assert given.people.phenotypes == "gs://b/~/p.tsv"


@pytest.mark.parametrize("role", ["exposure", "outcome", "covariate"])
def test_a_column_is_named_once(role):
    with pytest.raises(InputError, match=f"{role} names the column 'bmi' twice; drop one"):
        parse_study({"traits": {role: ["bmi", "ldl", "bmi"]}})
