"""The command line: help, JSON, exit codes, and one sentence for whatever is wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings

import click
import pytest
import typer

with warnings.catch_warnings():
    # typer 0.24 uses what click 8.5 deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    from typer.testing import CliRunner

    from mrscale import cli

VERBS = ["simulate", "extract", "verify", "describe", "append"]
VERBS += ["init", "train", "encode", "estimate", "report", "run", "explain", "doctor", "demo"]
VERBS += ["experiment"]


def test_every_verb_explains_itself():
    listed = CliRunner().invoke(cli.app, ["--help"])
    assert listed.exit_code == 0
    for verb in VERBS:
        assert verb in listed.output
        found = CliRunner().invoke(cli.app, [verb, "--help"], env={"COLUMNS": "200"})
        assert found.exit_code == 0
        assert "--json" in plain(found.output)


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_with_examples_that_are_commands(verb):
    shown = plain(CliRunner().invoke(cli.app, [verb, "--help"], env={"COLUMNS": "80"}).output)
    lines = [line.strip() for line in shown.split("Examples:")[1].splitlines() if line.strip()]
    assert 1 <= len(lines) <= 3
    group = typer.main.get_command(cli.app)
    for line in lines:
        words = shlex.split(line)
        words = words[words.index("mrscale") + 1 :]
        name, command, rest = group.resolve_command(click.Context(group), words)
        assert name == verb
        command.make_context(name, rest)  # raises for an option or a value that is not allowed


SHELL = """
import sys
sys.argv = ["mrscale", *sys.argv[1:]]
from mrscale.cli import main
main()
"""


def test_shells_can_complete_verbs_and_options():
    assert "--install-completion" in plain(CliRunner().invoke(cli.app, ["--help"]).output)
    for typed, expected in (("mrscale ex", "extract"), ("mrscale extract --dr", "--dry-run")):
        words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        done = subprocess.run(
            [sys.executable, "-c", SHELL],
            env=os.environ | words | {"_MRSCALE_COMPLETE": "complete_bash"},
            capture_output=True,
            text=True,
        )
        assert expected in done.stdout.split()


def on_a_terminal(*words, **env):
    """Exit code of a command whose output and errors go to one terminal, and what it showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mrscale", *map(str, words)],
        stdout=theirs,
        stderr=theirs,
        env={k: v for k, v in os.environ.items() if k != "NO_COLOR"}
        | {"TERM": "xterm-256color"}
        | env,
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    return process.wait(), shown.decode()


COLOUR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-8]|4[0-8]|9[0-7])(?:;[0-9]+)*m")


@pytest.mark.parametrize("words", [["--help"], ["extract", "--vfc"]])
def test_colours_are_for_terminals_that_want_them(words):
    assert COLOUR.search(on_a_terminal(*words)[1])
    assert not COLOUR.search(on_a_terminal(*words, NO_COLOR="1")[1])
    done = subprocess.run([sys.executable, "-m", "mrscale", *words], capture_output=True, text=True)
    assert "\x1b" not in done.stdout + done.stderr


def test_progress_is_for_terminals(small_store):
    assert "Reading" in on_a_terminal("describe", small_store)[1]
    assert "Reading" not in on_a_terminal("describe", small_store, "--quiet")[1]
    coloured = on_a_terminal("describe", small_store, NO_COLOR="1")[1]
    assert "Reading" in coloured
    assert not COLOUR.search(coloured)
    done = subprocess.run(
        [sys.executable, "-m", "mrscale", "describe", str(small_store)], capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "mrscale", "run", "absent.toml"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "Error: no study file at absent.toml; write one, or try: mrscale demo\n"


def test_help_loads_no_engine():
    code = "import sys, mrscale.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "dask", "hail", "pyspark", "zarr"} & set(done.stdout.split())


def test_an_error_is_json_when_asked_for(command, tmp_path):
    code, out, err = command("run", tmp_path / "absent.toml", "--json")
    assert (code, err) == (1, "")
    found = json.loads(out)
    assert found["kind"] == "InputError"
    assert found["error"].startswith("no study file at")
    assert found.keys() == {"error", "kind"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "Missing argument 'STUDY'"),
        (["extract", "--phenotype", "a"], "No such option '--phenotype'. Did you mean"),
        (["train", "--ranks", "0"], "Invalid value for '--ranks'"),
        (["frobnicate"], "No such command"),
        (["extrct"], "No such command 'extrct'. Did you mean 'extract'?"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(command, words, message):
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("Did you mean") == message.count("Did you mean")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[encoder]\nstep = 3", "unknown key 'step' in [encoder] of the study file; did you mean"),
        ("name = ", "study.toml is not valid TOML"),
        ("folds = 0", "'folds' in the study file"),
    ],
)
@pytest.mark.parametrize("verb", ["extract", "train", "encode", "estimate", "report", "run"])
def test_every_verb_checks_the_study_file(command, tmp_path, verb, text, message):
    (tmp_path / "study.toml").write_text(text)
    code, out, err = command(verb, tmp_path / "study.toml")
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_first_study_file_is_written_once(command, tmp_path):
    file = tmp_path / "mine.toml"
    code, out, _ = command("init", file)
    assert (code, out) == (0, f"Wrote {file}. Correct it, then: mrscale run {file}\n")
    code, _, err = command("init", file, "--all-of-us")
    assert code == 1
    assert "is there already" in err


def test_doctor_reports_as_table_and_as_json(command):
    code, out, err = command("doctor", "--json")
    checks = json.loads(out)
    assert err == ""
    assert code == (0 if all(check["ok"] for check in checks) else 1)
    assert {"name", "ok", "found", "fix", "note"} == checks[0].keys()
    code, out, _ = command("doctor")
    assert all(check["name"].split()[0] in out for check in checks)


def test_verbs_before_their_stage_say_what_to_run_first(command, small_store, tmp_path):
    place = ["--store", small_store, "--run", tmp_path / "run"]
    code, _, err = command("encode", *place)
    assert code == 1
    assert "run first: mrscale train" in err
    code, _, err = command("report", *place)
    assert code == 1
    assert "run first: mrscale estimate" in err
    code, _, err = command("estimate", "--store", tmp_path / "none.zarr", "--run", tmp_path / "run")
    assert code == 1
    assert "there is no genotype store at" in err


def test_a_store_is_enough_to_estimate(command, small_store, tmp_path):
    code, out, err = command("estimate", "--store", small_store, "--run", tmp_path / "run")
    assert (code, err) == (0, "")
    assert "2SLS, all variants (naive)" in out
    assert out.rstrip().endswith(f"Report: {tmp_path / 'run' / 'report.html'}")
    code, out, _ = command("report", "--store", small_store, "--run", tmp_path / "run", "--json")
    assert code == 0
    assert json.loads(out)["pairs"][0]["headline"] == "tsls_pc"
    # folds and seed are those of the store, which only its manifest knows here
    assert json.loads(out)["provenance"]["seed"] == 7


def test_a_run_folder_of_another_study_is_refused_untouched(command, small_store, tmp_path):
    (tmp_path / "one.toml").write_text(f'name = "one"\nstore = "{small_store}"')
    (tmp_path / "two.toml").write_text(f'name = "two"\nstore = "{small_store}"')
    assert command("estimate", tmp_path / "one.toml")[0] == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    code, _, err = command("estimate", tmp_path / "two.toml")
    assert code == 1
    assert "holds the run of another study, 'one', not of 'two'; nothing was touched" in err
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


def test_a_scheduler_that_is_not_there_is_an_engine_error(command, small_store, tmp_path):
    (tmp_path / "study.toml").write_text(f'store = "{small_store}"\nscheduler = "nowhere"')
    code, out, _ = command("estimate", "--json", tmp_path / "study.toml")
    assert code == 1
    assert json.loads(out)["kind"] == "EngineError"


def test_training_tells_where_its_batches_came_from(command, small_store, tmp_path):
    study = f'store = "{small_store}"\nfolds = 2\n[encoder]\nmethods = ["linear", "kernel"]\n'
    study += 'latent_dim = 1\nfactors = 3\nrestarts = 1\nsteps = 40\ninput = "streamed"\n'
    (tmp_path / "study.toml").write_text(study)
    code, out, err = command("train", tmp_path / "study.toml")
    assert (code, err) == (0, "")
    assert out.startswith(f"Encoders are in {tmp_path / 'run' / 'encoders'}; trained on ")
    assert "dosages streamed (kernel)" in out
    code, out, err = command("train", "--json", tmp_path / "study.toml")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told.keys() == {"run", "digest", "trained_on"}
    assert told["trained_on"]["kernel"] == "dosages streamed"


def test_training_without_its_scheduler_ends_with_one_sentence(
    command, small_store, tmp_path, monkeypatch
):
    monkeypatch.setattr("mrscale.stream.engine.CONNECT_SECONDS", 1)
    (tmp_path / "study.toml").write_text(f'store = "{small_store}"\nfolds = 2')
    words = ["train", "--scheduler", "tcp://127.0.0.1:9", tmp_path / "study.toml"]
    code, out, err = command(*words)
    assert (code, out) == (1, "")
    assert err.startswith("Error: no Dask scheduler answered at tcp://127.0.0.1:9 within 1 s")
    assert err.count("\n") == 1


@pytest.fixture
def own_store(small_store, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(small_store, tmp_path / "own.zarr")


def test_a_store_is_verified(command, own_store):
    code, out, err = command("verify", own_store)
    assert (code, err) == (0, "")
    assert out == f"{own_store} is sound: 30 variants, 900 people, 4 shards\n"
    code, out, _ = command("verify", own_store, "--json")
    assert json.loads(out).keys() == {"store", "sound", "digest"}
    (own_store / "call_dosage" / "c" / "2" / "0").unlink()
    code, out, err = command("verify", own_store)
    assert (code, out) == (1, "")
    assert "call_dosage lacks shard 2; restore it from a copy" in err
    code, out, err = command("verify", own_store, "--json")
    assert (code, err) == (1, "")
    assert json.loads(out)["kind"] == "StoreError"


def test_a_store_is_described_without_ids(command, small_store):
    code, out, err = command("describe", small_store)
    assert (code, err) == (0, "")
    for text in (
        "900",
        "north",
        "exposure (missing: 0 %)",
        "age",
        "2; families of two",
        "shards",
    ):
        assert text in out
    assert "person-" not in out
    code, out, _ = command("describe", small_store, "--json")
    found = json.loads(out)
    assert (found["people"], found["variants"], found["folds"]) == (900, 30, 2)
    assert found["families"] == 100


def test_traits_are_appended_from_a_table(command, own_store, tmp_path):
    table = "person_id,bmi,age2\n" + "".join(f"person-{i},{i},-9\n" for i in range(890))
    table = table.replace(",-9", ",1.5", 600)
    (tmp_path / "more.csv").write_text(table)
    words = ["append", own_store, "--phenotypes", tmp_path / "more.csv", "--exposure", "bmi"]
    words += ["--covariate", "age2", "--missing-value", "-9"]
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    assert out.startswith(f"Appended bmi, age2 to {own_store}")
    assert out.endswith("people of the store without a row: <=20\n")
    code, out, _ = command(*words, "--json")
    assert json.loads(out)["new"] is False
    assert json.loads(out)["people_without_a_row"] == "<=20"
    code, out, _ = command("describe", own_store, "--json")
    found = json.loads(out)
    assert found["traits"]["exposures"] == {"exposure": 0.0, "bmi": "<=20 people"}
    assert found["traits"]["covariates"]["age2"] == 0.3  # 300 of 900, as vague as counts are
    assert found["appended"] == {"exposures": ["bmi"], "outcomes": [], "covariates": ["age2"]}
    assert command("verify", own_store)[0] == 0
    assert (
        "say what to append to the store: a table (--phenotypes)" in command("append", own_store)[2]
    )
    code, _, err = command("append", own_store, "--phenotypes", tmp_path / "more.csv")
    assert code == 1
    assert "adding traits needs a table of people and the names of some columns" in err


def test_what_is_for_a_study_is_refused_beside_a_store(command, small_store):
    for flags in (["--seed", "5"], ["--store", "other.zarr"]):
        code, out, err = command("estimate", small_store, *flags)
        assert (code, out) == (1, "")
        assert "--seed and --store are for a study file" in err


def test_extraction_takes_every_kind_of_genotypes(command, tmp_path):
    for flag, other in (("--vcf", "--mt"), ("--vds", "--plink"), ("--bgen", "--vds")):
        code, out, err = command("extract", flag, "a", other, "b", "--out", tmp_path / "s")
        assert (code, out) == (1, "")
        assert "give one of vcf, mt, vds, plink, bgen, not" in err
    code, _, err = command("extract", "--vcf", "a", "--p-value", "2", "--out", tmp_path / "s")
    assert code == 1
    assert "'p_value' in [instruments]" in err
    assert not (tmp_path / "s").exists()


def test_ctrl_c_says_how_to_go_on(tmp_path):
    words = ["simulate", "--out", str(tmp_path / "out"), "--people", "400000", "--quiet"]
    # what a shell starts in the background, these tests perhaps, has Ctrl-C ignored
    heed = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"import runpy, signal; {heed}; runpy.run_module('mrscale', run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True
    )
    deadline, begun = time.monotonic() + 180, tmp_path / "out" / ".simulation.json"
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert begun.exists(), "not begun: Python would be stopped in its imports"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    again = shlex.join(["mrscale", *words])
    assert f"Stopped; what is finished stays. To go on, run: {again}\n" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("verb", ["train", "encode", "report", "extract"])
def test_a_verb_without_anything_names_the_study_that_is_there(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nothing = CliRunner().invoke(cli.app, [verb])
    assert str(nothing.exception) == "this verb needs a study file or flags; see --help"
    (tmp_path / "study.toml").write_text("")
    there = CliRunner().invoke(cli.app, [verb])
    assert str(there.exception).endswith("there is study.toml in this folder: give it")
    assert [p.name for p in tmp_path.iterdir()] == ["study.toml"]
