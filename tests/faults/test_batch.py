"""deploy/batch: Snakemake runs a study by its rules, and the commands of the WDL's tasks do so when
they are run as a WDL runner would write them; both give what mrscale run gives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mrscale as mr

ROOT = Path(__file__).parents[2]
BATCH = ROOT / "deploy" / "batch"
pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(900)]

ENCODER = '\n[encoder]\nmethods = ["linear"]\nlatent_dim = 1\n'


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that has been run, its run folder being ``run``."""
    pytest.importorskip("pysam")
    pytest.importorskip("hail")
    folder = tmp_path_factory.mktemp("study")
    mr.simulate(folder, num_people=500, num_variants=20, num_environments=3)
    file = folder / "study.toml"
    file.write_text(file.read_text() + ENCODER)
    mr.run(file, quiet=True)
    return folder


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., str]:
    """Run a program where mrscale is that of this checkout; what it prints."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    quiet = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), **quiet}

    def run(*words: object, cwd: Path = tmp_path) -> str:
        command = [str(word) for word in words]
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


def pairs(run: Path) -> Any:
    return json.loads((run / "result.json").read_text())["pairs"]


def test_snakemake_runs_the_stages_that_are_missing(
    study: Path, tmp_path: Path, shell: Callable[..., str]
) -> None:
    pytest.importorskip("snakemake", reason="needs snakemake: pip install --group deploy")
    copy = tmp_path / "ldl"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("run"))
    words = ["-m", "snakemake", "--snakefile", BATCH / "Snakefile", "--cores", 2]
    words += ["--config", "studies=ldl"]
    shell(sys.executable, *words)
    assert pairs(copy / "run") == pairs(study / "run")
    assert (copy / "run" / "report.html").is_file()
    assert "Nothing to be done" in shell(sys.executable, *words)


def test_the_wdl_is_sound(shell: Callable[..., str]) -> None:
    pytest.importorskip("WDL", reason="needs miniwdl: pip install --group deploy")
    shell(sys.executable, "-m", "WDL", "check", "--strict", BATCH / "study.wdl")


def test_the_commands_of_the_wdl_run_a_study(
    study: Path, tmp_path: Path, shell: Callable[..., str]
) -> None:
    wdl = pytest.importorskip("WDL", reason="needs miniwdl: pip install --group deploy")
    inputs = tmp_path / "inputs"
    shutil.copytree(study, inputs, ignore=shutil.ignore_patterns("run"))
    inputs.chmod(0o555)  # as a runner localises them
    names = sorted(path for path in inputs.iterdir() if path.name != "study.toml")
    tasks = {task.name: task for task in wdl.load(str(BATCH / "study.wdl")).tasks}
    given = wdl.Env.Bindings[wdl.Value.Base]()
    given = given.bind("study", wdl.Value.File(str(inputs / "study.toml")))
    given = given.bind("store", wdl.Value.String(str(tmp_path / "store.zarr")))
    tables = [wdl.Value.File(str(path)) for path in names]
    given = given.bind("tables", wdl.Value.Array(wdl.Type.File(), tables))
    library = wdl.StdLib.Base("1.0")
    for name in ("extract", "analyse"):
        work = tmp_path / name
        work.mkdir()
        parts = tasks[name].command.parts
        text = [
            part if isinstance(part, str) else part.eval(given, library).value for part in parts
        ]
        shell("bash", "-c", "".join(text), cwd=work)
    outputs = {one.name: one.expr.eval(given, library).value for one in tasks["analyse"].outputs}
    assert set(outputs) == {"report", "estimates", "result"}
    assert all((work / path).is_file() for path in outputs.values())
    assert pairs(work / "run") == pairs(study / "run")
