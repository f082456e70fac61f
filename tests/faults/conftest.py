"""Extractions in processes of their own, to be killed, and the store that they must give."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mrscale.store.reader import open_store
from mrscale.store.schema import ARRAYS
from mrscale.store.verify import verify

PATIENCE_SECONDS = 400
"""For machines that are busy; nothing here measures time."""

EXTRACT = """
import sys
from mrscale.study_file import load_study
from pipelines.extract import extract
extract(load_study(sys.argv[1]), sys.argv[2])
"""
ONE_CORE = {"JAVA_TOOL_OPTIONS": "-XX:ActiveProcessorCount=1"}
"""Spark then does one task after the other, so that there is a middle."""


@pytest.fixture(scope="session")
def biobank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study file of a simulated biobank."""
    pytest.importorskip("pysam")
    from mrscale.simulate import simulate

    folder = tmp_path_factory.mktemp("biobank")
    simulate(folder, num_people=8000, num_variants=40, num_environments=3)
    return folder / "study.toml"


@pytest.fixture(scope="session")
def extract_here(hail: None) -> Callable[..., dict[str, Any]]:
    """Extract in this process."""
    from mrscale.study_file import load_study
    from pipelines.extract import extract

    def run(study_file: Path, out: Path) -> dict[str, Any]:
        return extract(load_study(study_file), str(out))

    return run


@pytest.fixture(scope="session")
def undisturbed(
    biobank: Path,
    extract_here: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The biobank's store, extracted in peace."""
    out = tmp_path_factory.mktemp("undisturbed") / "store.zarr"
    extract_here(biobank, out)
    return out


@pytest.fixture
def is_undisturbed(undisturbed: Path) -> Callable[[Path], None]:
    """Check a store: sound, and in nothing different from the undisturbed one."""

    def check(path: Path) -> None:
        found, expected = verify(path), open_store(undisturbed)
        assert found.manifest == expected.manifest
        for spec in ARRAYS:
            np.testing.assert_array_equal(
                found.array(spec.name), expected.array(spec.name), spec.name
            )
        assert not (path / "parts").exists()

    return check


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own; a function that sets its options (size=64k, ro)."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting a file system is not permitted here: {done.stderr.strip()}")

    mount("size=64k")
    yield folder, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Extraction:
    """An extraction in a process of its own, with its children (a JVM, Python workers).

    Parameters
    ----------
    script : str
        Python code; gets the study file, the store's place and ``words`` as arguments.
    study_file, out, log : Path
        What to extract, where to, and a file for what is printed.
    """

    def __init__(
        self, script: str, study_file: Path, out: Path, *words: object, log: Path, **env: object
    ) -> None:
        self.out, self._log = out, log
        command = [sys.executable, "-c", script, *map(str, [study_file, out, *words])]
        environment = os.environ | ONE_CORE | {name: str(value) for name, value in env.items()}
        with log.open("wb") as handle:
            self.process = subprocess.Popen(command, stdout=handle, stderr=handle, env=environment)

    @property
    def output(self) -> str:
        """What was printed so far."""
        return self._log.read_text(errors="replace")

    @property
    def blocks(self) -> dict[str, int]:
        """Finished staged blocks, and when each was written."""
        return _times((self.out / "parts" / "staged").glob("*.npz"))

    @property
    def shards(self) -> dict[str, int]:
        """Finished shards, and when each was written."""
        numbers = [int(marker.stem) for marker in (self.out / "parts").glob("[0-9]*.json")]
        return _times(self.out / "call_dosage" / "c" / str(number) / "0" for number in numbers)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait, to the millisecond, while the process runs."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.001)

    def finish(self) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        """Kill -9 this process alone; all that it has started must end by itself."""
        children = self.children()
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL
        _, alive = psutil.wait_procs(children, timeout=PATIENCE_SECONDS)
        assert not alive, "a killed driver leaves processes behind"

    def kill_python_workers(self) -> int:
        """Kill -9 the processes that pyspark's daemon has forked; how many there were."""
        workers = [
            child
            for child in self.children()
            if (parent := child.parent()) and "pyspark.daemon" in parent.cmdline()
        ]
        for worker in workers:
            worker.kill()
        return len(workers)

    def kill_java(self) -> None:
        """Kill -9 the process in which Spark and Hail run."""
        (java,) = (child for child in self.children() if child.name() == "java")
        java.kill()

    def children(self) -> list[psutil.Process]:
        """All processes below this one."""
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def extracting(biobank: Path, tmp_path: Path) -> Iterator[Callable[..., Extraction]]:
    """Start an extraction of the biobank; what still runs after the test is ended."""
    started: list[Extraction] = []

    def start(
        out: Path, *words: object, script: str = EXTRACT, study: Path = biobank, **env: object
    ) -> Extraction:
        log = tmp_path / f"process-{len(started)}.log"
        started.append(Extraction(script, study, out, *words, log=log, **env))
        return started[-1]

    yield start
    for extraction in started:
        if extraction.process.poll() is None:
            extraction.kill()


def _times(files: Iterator[Path]) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in files}
