"""Ids and values of people, planted in the input, are looked for in all that is said and written.

Only the genotype store may hold them.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import subprocess
import sys
import time
import traceback

import pandas as pd
import psutil
import pytest

from mrscale.errors import EngineError, InputError
from mrscale.study_file import load_study

pytest.importorskip("hail")
pytest.importorskip("pysam")

from mrscale.simulate import simulate
from pipelines.extract import extract
from pipelines.spark import start_hail

pytestmark = [pytest.mark.spark, pytest.mark.slow]

PREFIX, VALUE = "PLANTED", "7.765431"
"""Of every person's id; and one person's exposure."""
FEW = 7
"""People of one environment who lack the exposure."""
SECRET = re.compile(rf"{PREFIX}[\d-]|{re.escape(VALUE)}|[01]/[01]\t[01]/[01]")
"""Also calls of people side by side, as in a line of a VCF."""


@pytest.fixture(scope="module")
def biobank(tmp_path_factory):
    """A study file, its VCF not compressed, with planted ids and an exposure."""
    folder = tmp_path_factory.mktemp("biobank")
    simulate(folder, num_people=900, num_variants=12, num_environments=3)
    with gzip.open(folder / "genotypes.vcf.bgz", "rt") as handle:
        lines = handle.read().splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("#CHROM"))
    columns = lines[header].split("\t")
    lines[header] = "\t".join(columns[:9] + [PREFIX + name for name in columns[9:]])
    (folder / "genotypes.vcf").write_text("\n".join(lines) + "\n")
    people = pd.read_csv(folder / "phenotypes.tsv", sep="\t", dtype=str)
    people["person_id"] = PREFIX + people["person_id"]
    people.loc[17, "exposure"] = VALUE
    few = people.index[people["environment"] == people["environment"][100]][20 : 20 + FEW]
    people.loc[few, "exposure"] = ""
    people.to_csv(folder / "phenotypes.tsv", sep="\t", index=False)
    study = (folder / "study.toml").read_text().split("[simulation]")[0]
    study = study.replace("genotypes.vcf.bgz", "genotypes.vcf")
    (folder / "study.toml").write_text(study + '[encoder]\nmethods = ["linear"]\n')
    return folder


def require_clean(name, text):
    if found := SECRET.search(text):
        around = text[max(0, found.start() - 300) : found.end() + 100]
        pytest.fail(f"{name} holds {found[0]!r}: ...{around}...")


def require_clean_files(folder):
    """No file below a folder holds a secret, the arrays of a store aside; their names."""
    names = [str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()]
    checked = [name for name in names if not name.endswith((".safetensors", "/0"))]
    for name in checked:
        require_clean(name, (folder / name).read_bytes().decode("latin-1"))
    return checked


def test_a_study_that_succeeds_with_python_workers_killed_on_the_way(biobank):
    run = biobank / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "mrscale", "run", str(biobank / "study.toml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAVA_TOOL_OPTIONS": "-XX:ActiveProcessorCount=1"},
    )
    while process.poll() is None and not list(run.glob("store.zarr/parts/staged/*.npz")):
        time.sleep(0.001)
    kill_python_workers(process.pid)
    out, err = process.communicate()
    assert process.returncode == 0, err
    require_clean("standard output", out)
    require_clean("standard error", err)
    checked = require_clean_files(run)
    must = ["logs/hail.log", "logs/java.log", "result.json", "report.html", "estimates.tsv"]
    assert {*must, "store.zarr/variants.tsv", "store.zarr/manifest.json"} <= set(checked)
    assert "Lost task" in (run / "logs" / "hail.log").read_text()
    require_no_small_cell(biobank, out + err)


def require_no_small_cell(biobank, said):
    """The seven without the exposure follow from nothing that was said or may leave."""
    people = pd.read_csv(biobank / "phenotypes.tsv", sep="\t")
    sizes = people["environment"].value_counts()
    used = people.dropna(subset="exposure")["environment"].value_counts()
    assert (sizes - used).max() == FEW
    place = (sizes - used).idxmax()
    exports = [biobank / "run" / name for name in ("result.json", "estimates.tsv", "report.html")]
    texts = [said, *(file.read_text() for file in exports)]
    for count in (used[place], used.sum()):
        number = re.compile(rf"(?<![\d.,=#]){count:,}(?![\d.])|(?<![\d.,=#]){count}(?![\d.])")
        for text in texts:
            # figures are drawn from estimates alone; their coordinates are no counts
            found = number.search(re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
            assert not found, found.string[max(0, found.start() - 200) : found.end() + 50]
    result = json.loads(exports[0].read_text())
    assert result["environments"][place] == sizes[place]
    inside = {row["key"]: row["num_obs"] for row in result["pairs"][0]["per_environment"]}
    assert inside == {name: int(n) for name, n in sizes.items()} | {place: f"<={sizes[place] - 1}"}
    assert {row["num_obs"] for row in result["pairs"][0]["estimates"]} == {f"<={sizes.sum() - 1}"}


def kill_python_workers(driver):
    for child in psutil.Process(driver).children(recursive=True):
        parent = child.parent()
        if parent and "pyspark.daemon" in parent.cmdline():
            child.kill()


@pytest.fixture(scope="module")
def engine_logs(tmp_path_factory):
    """Logs of the Spark of this process."""
    log = start_hail(log_dir=tmp_path_factory.mktemp("hail") / "logs")
    return [log, log.with_name("java.log")]


def broken_call(vcf, people):
    """A genotype that is none, in the middle of a line."""
    lines = vcf.split("\n")
    cells = lines[-4].split("\t")
    cells[500] = f"0/x:{PREFIX}-0"
    return "\n".join([*lines[:-4], "\t".join(cells), *lines[-3:]]), people


def line_of_ids(vcf, people):
    """A second line of ids, as files leave that were joined by hand."""
    lines = vcf.split("\n")
    header = next(line for line in lines if line.startswith("#CHROM"))
    return "\n".join([*lines[:-4], header.removeprefix("#"), *lines[-4:]]), people


def id_twice_in_the_vcf(vcf, people):
    first, second = people["person_id"][:2]
    return vcf.replace(first, second), people


def other_ids(vcf, people):
    return vcf, people.assign(person_id=people["person_id"] + "x")


def id_twice_in_the_table(vcf, people):
    return vcf, pd.concat([people, people[:1]])


def id_in_a_trait(vcf, people):
    return vcf, people.assign(exposure=people["exposure"].where(people.index != 5, f"{PREFIX}-1"))


def small_environment(vcf, people):
    return vcf, people.assign(environment=people["environment"].where(people.index > 4, "PLANT"))


def environment_of_fifteen(vcf, people):
    return vcf, people.assign(environment=people["environment"].where(people.index > 14, "here"))


def ids_as_environments(vcf, people):
    return vcf, people.assign(environment=people["person_id"])


def constant_trait(vcf, people):
    return vcf, people.assign(exposure=VALUE)


def no_header(vcf, people):
    return vcf, people.rename(columns=dict(zip(people, people.iloc[0], strict=True)))


def cell_too_many(vcf, people):
    return vcf, people.assign(sex=people["sex"].where(people.index != 7, f"1\t{PREFIX}-2"))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (broken_call, EngineError),
        (line_of_ids, EngineError),
        (id_twice_in_the_vcf, InputError),
        (other_ids, InputError),
        (id_twice_in_the_table, InputError),
        (id_in_a_trait, InputError),
        (small_environment, InputError),
        (environment_of_fifteen, InputError),
        (ids_as_environments, InputError),
        (constant_trait, InputError),
        (no_header, InputError),
        (cell_too_many, InputError),
    ],
)
def test_an_extraction_that_fails(change, kind, biobank, tmp_path, engine_logs, caplog, capfd):
    for name in ("study.toml", "instruments.tsv"):
        (tmp_path / name).write_text((biobank / name).read_text())
    people = pd.read_csv(biobank / "phenotypes.tsv", sep="\t", dtype=str)
    vcf, people = change((biobank / "genotypes.vcf").read_text(), people)
    (tmp_path / "genotypes.vcf").write_text(vcf)
    lines = ["\t".join(row) for row in [people.columns, *people.fillna("").to_numpy()]]
    (tmp_path / "phenotypes.tsv").write_text("\n".join(lines) + "\n")
    sizes = [log.stat().st_size for log in engine_logs]
    caplog.set_level(logging.DEBUG)
    with pytest.raises(kind) as caught:
        extract(load_study(tmp_path / "study.toml"), str(tmp_path / "run" / "store.zarr"))
    said = "".join(traceback.format_exception(caught.value))
    require_clean("the error", said)
    if change is environment_of_fifteen:
        assert "with <=20 people: 'here'" in str(caught.value)
        assert "15" not in str(caught.value)
    require_clean("Python's log", caplog.text)
    for name, text in zip(["standard output", "standard error"], capfd.readouterr(), strict=True):
        require_clean(name, text)
    for log, size in zip(engine_logs, sizes, strict=True):
        require_clean(log.name, log.read_bytes()[size:].decode())
    require_clean_files(tmp_path / "run")
