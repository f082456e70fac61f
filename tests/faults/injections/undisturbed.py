"""The study that is disturbed: as it is when each stage begins, and what it must come to."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec

from mrscale.simulate import simulate

STAGES = ("extract", "train", "encode", "estimate", "report")
SETTINGS = """
[encoder]
methods = ["linear", "flow"]
factors = 4
latent_dim = 2
steps = 60
restarts = 1
"""
PATIENCE_SECONDS = 300
# for runs of seconds: Java's optimising compiler pays off after minutes
SHORT = {"OMP_NUM_THREADS": "1", "SPARK_SUBMIT_OPTS": "-XX:TieredStopAtLevel=1"}
machine = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "machine.py")))


class Undisturbed:
    """A study of 500 people and 20 variants that nobody disturbed.

    Parameters
    ----------
    folder : Path
        Made if it is not there: a run folder as it is at the beginning of each stage, the whole
        run, how long the rest of the run takes from each stage (s), and the digest of all results.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        found = self.folder / "expected.json"
        kept = json.loads(found.read_text()) if found.is_file() else {}
        # the study names its files by absolute paths: a folder that was moved is of no use
        if kept.get("folder") != str(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            kept = self._prepare()
            found.write_text(json.dumps(kept))
        self.digest, self.seconds = kept["digest"], kept["seconds"]

    @property
    def store(self) -> Path:
        """The genotype store of the whole run."""
        return self.folder / "whole" / "run" / "store.zarr"

    def lay(self, place: Path, start: str, store: str | None = None) -> None:
        """Lay the study as it is when a stage begins, its store at an address of its own if given.

        Parameters
        ----------
        place : Path
            A folder, which may be there.
        start : str
            One of ``STAGES``.
        store : str, optional
            URL of the store.
        """
        shutil.copytree(self.folder / start, place, dirs_exist_ok=True)
        if store:
            file, local = place / "study.toml", place / "run" / "store.zarr"
            file.write_text(f'store = "{store}"\n' + file.read_text())
            if local.is_dir():
                files, _ = fsspec.url_to_fs(store)
                files.put(f"{local}/", f"{store}/", recursive=True)
                shutil.rmtree(local)

    def size(self, start: str, share: float) -> int:
        """Bytes of a disk that holds this share of what the study writes from a stage on."""
        before, after = (machine.pages(self.folder / name) for name in (start, "whole"))
        return machine.PAGE * int(before + 1 + share * (after - before))

    def _prepare(self) -> dict[str, Any]:
        biobank, whole = self.folder / "biobank", self.folder / "whole"
        simulate(biobank, num_people=500, num_variants=20, num_environments=3)
        text = "folds = 2\n" + (biobank / "study.toml").read_text()
        for file in biobank.iterdir():
            text = text.replace(f'"{file.name}"', f'"{file}"')
        whole.mkdir()
        (whole / "study.toml").write_text(text + SETTINGS)
        for stage in STAGES:
            shutil.copytree(whole, self.folder / stage)
            _succeed(whole, stage)
        expected, seconds = digest(whole), {}
        for stage in STAGES:
            place = self.folder / "timed"
            self.lay(place, stage)
            started = time.monotonic()
            _succeed(place, "run")
            seconds[stage] = time.monotonic() - started
            if digest(place) != expected:
                raise SystemExit(f"a run that nobody disturbed differs from the {stage} stage on")
            shutil.rmtree(place)
        return {"folder": str(self.folder), "digest": expected, "seconds": seconds}


def start(place: Path, verb: str, *options: str, **env: str) -> subprocess.Popen[bytes]:
    """Start a verb on the study of a folder; what it prints goes to a file beside the folder."""
    with place.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mrscale", verb, "study.toml", "--json", *options],
            cwd=place,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | SHORT | env,
        )


def _succeed(place: Path, verb: str) -> None:
    if start(place, verb).wait(PATIENCE_SECONDS):
        raise SystemExit(f"{verb} fails undisturbed; see {place.with_suffix('.log')}")


def digest(place: Path, store: str | None = None) -> str:
    """Of the store, the latents and the results of the run in a folder."""
    sha, run = hashlib.sha256(), place.absolute() / "run"
    for root in (store or str(run / "store.zarr"), *map(str, (run / "latents.zarr", run))):
        files, path = fsspec.url_to_fs(root)
        whole = Path(path) != run
        found = files.find(path) if whole else [f"{run}/result.json", f"{run}/estimates.tsv"]
        for file in sorted(found):
            # run times differ between equal runs
            if not file.endswith("/run.json"):
                sha.update(file.removeprefix(path).encode())
                sha.update(files.cat_file(file))
    return sha.hexdigest()
