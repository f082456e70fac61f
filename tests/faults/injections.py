"""Faults at random in a whole study, and whether running it again gives what it would have given.

    python tests/faults/injections.py [--count 200] [--folder faults-run] [--write docs/faults.md]

Each injection starts ``mrscale run`` on 500 people and 20 variants from the beginning of a stage,
strikes once (kill -9 of any of its processes, SIGTERM of the command, or a full disk), runs the
command again, and compares store, latents and results with those of an undisturbed run. What was
tried is kept in the folder, so that the count can be reached over several calls; injection i is
always the same but for the machine's timing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from mrscale.errors import MrscaleError
from mrscale.simulate import simulate
from mrscale.store.reader import open_store

STAGES = ("extract", "train", "encode", "estimate", "report")
FAULTS = ("kill -9", "SIGTERM", "disk full")
PATIENCE_SECONDS = 300
SETTINGS = """
[encoder]
methods = ["linear", "flow"]
factors = 4
latent_dim = 2
steps = 60
restarts = 1
"""
SLACK_BYTES = 5 * 2**20
"""At most so much of what the rest of the study writes fits on a disk that is to be full."""


@dataclass(frozen=True)
class Outcome:
    """What one injection did.

    Attributes
    ----------
    index : int
    fault, target, stage : str
        What struck which process, and which stage was not finished then.
    exit_code : int
        Of the command that was struck.
    again : int
        Of the command that was run again.
    opened_wrong : bool
        Whether a store could be opened after the fault that is not the undisturbed one.
    left_behind : int
        Processes of the command that lived on.
    identical : bool
        Whether all artefacts equal the undisturbed ones.
    """

    index: int
    fault: str
    target: str
    stage: str
    exit_code: int
    again: int
    opened_wrong: bool
    left_behind: int
    identical: bool

    @property
    def survived(self) -> bool:
        """Whether the command finished when it was run again, and nothing was left or wrong."""
        return self.again == 0 and not self.opened_wrong and not self.left_behind


class Injector:
    """Injections into one study, with what is kept of them in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._log = self.folder / "injections.jsonl"
        if not (self.folder / "expected.json").is_file():
            self._prepare()
        expected = json.loads((self.folder / "expected.json").read_text())
        self._digest, self._seconds = expected["digest"], expected["seconds"]

    @property
    def outcomes(self) -> list[Outcome]:
        """What was tried so far."""
        lines = self._log.read_text().splitlines() if self._log.is_file() else []
        return [Outcome(**json.loads(line)) for line in lines]

    def inject(self, index: int) -> Outcome:
        """Strike once, run again, compare."""
        rng = random.Random(index)
        fault, start = rng.choice(FAULTS), rng.choice(STAGES)
        place = self.folder / f"injection-{index}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        try:
            if fault == "disk full":
                mount(place, self._size(start) + int(rng.random() * SLACK_BYTES))
            self._lay(place, start)
            outcome = self._strike(index, rng, fault, start, place)
        finally:
            if place.is_mount():
                subprocess.run(["umount", "-l", str(place)], check=True)
            shutil.rmtree(place, ignore_errors=True)
        with self._log.open("a") as handle:
            handle.write(json.dumps(asdict(outcome)) + "\n")
        return outcome

    def _strike(
        self, index: int, rng: random.Random, fault: str, start: str, place: Path
    ) -> Outcome:
        process = run(place)
        children: dict[int, psutil.Process] = {}
        target = "the disk"
        if fault == "disk full":
            stage = start
            exit_code = process.wait(PATIENCE_SECONDS)
            subprocess.run(["mount", "-o", f"remount,size={2**30}", str(place)], check=True)
        else:
            watch(process, children, rng.random() * self._seconds[start])
            stage = unfinished(place)
            target = strike(process, children, rng, fault)
            exit_code = process.wait(PATIENCE_SECONDS)
        _, alive = psutil.wait_procs(list(children.values()), timeout=60)
        wrong = self._is_wrong(place)
        again = run(place).wait(PATIENCE_SECONDS)
        identical = again == 0 and digest(place / "run") == self._digest
        return Outcome(index, fault, target, stage, exit_code, again, wrong, len(alive), identical)

    def _is_wrong(self, place: Path) -> bool:
        try:
            found = open_store(place / "run" / "store.zarr")
        except MrscaleError:
            return False
        return found.manifest != open_store(self.folder / "report" / "run" / "store.zarr").manifest

    def _size(self, start: str) -> int:
        files = (self.folder / start / "run").rglob("*")
        return 2**20 + sum(f.stat().st_size for f in files if f.is_file())

    def _lay(self, place: Path, start: str) -> None:
        """The study as it is when a stage begins."""
        shutil.copytree(self.folder / start / "run", place / "run", dirs_exist_ok=True)
        shutil.copy(self.folder / "study.toml", place)

    def _prepare(self) -> None:
        """The study, a copy of its run folder at the beginning of each stage, and its results."""
        biobank = self.folder / "biobank"
        simulate(biobank, num_people=500, num_variants=20, num_environments=3)
        text = (biobank / "study.toml").read_text()
        for name in ("genotypes.vcf.bgz", "phenotypes.tsv", "instruments.tsv", "truth.json"):
            text = text.replace(f'"{name}"', f'"{biobank / name}"')
        text = text.replace("folds = 4", "folds = 2")
        (self.folder / "study.toml").write_text(text + SETTINGS)
        work = self.folder / "undisturbed"
        work.mkdir()
        shutil.copy(self.folder / "study.toml", work)
        (work / "run").mkdir()
        seconds = {}
        for stage in STAGES:
            shutil.copytree(work, self.folder / stage)
            started = time.monotonic()
            command(work, stage)
            seconds[stage] = time.monotonic() - started
        left = {s: sum(seconds[t] for t in STAGES[i:]) for i, s in enumerate(STAGES)}
        found = {"digest": digest(work / "run"), "seconds": left}
        (self.folder / "expected.json").write_text(json.dumps(found))


def run(place: Path) -> subprocess.Popen[bytes]:
    """Start the whole study; what it prints goes to a file beside the folder."""
    with place.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mrscale", "run", "study.toml", "--quiet"],
            cwd=place,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def command(place: Path, verb: str) -> None:
    """Run one verb to its end."""
    subprocess.run(
        [sys.executable, "-m", "mrscale", verb, "study.toml", "--json"],
        cwd=place,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def mount(place: Path, size: int) -> None:
    """A disk of this many bytes."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    subprocess.run(words, check=True)


def watch(
    process: subprocess.Popen[bytes], children: dict[int, psutil.Process], seconds: float
) -> None:
    """Collect the processes that a command starts, for a while or until it ends."""
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        try:
            for child in psutil.Process(process.pid).children(recursive=True):
                children.setdefault(child.pid, child)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)


def strike(
    process: subprocess.Popen[bytes],
    children: dict[int, psutil.Process],
    rng: random.Random,
    fault: str,
) -> str:
    """Send the signal; which process it was for."""
    if process.poll() is not None:
        return "nobody, the run was over"
    if fault == "SIGTERM":
        process.terminate()
        return "command"
    alive = [child for child in children.values() if child.is_running()]
    chosen = rng.choice([None, *alive])
    if chosen is None:
        process.kill()
        return "command"
    try:
        role = role_of(chosen)
        chosen.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return "a process that had just ended"
    return role


def role_of(process: psutil.Process) -> str:
    """What a process of a study does."""
    words = " ".join(process.cmdline())
    for mark, role in (
        ("java", "JVM"),
        ("pyspark", "Spark's Python worker"),
        ("resource_tracker", "resource tracker"),
        ("multiprocessing", "training rank"),
    ):
        if mark in words:
            return role
    return "other process"


def unfinished(place: Path) -> str:
    """The first stage without a receipt; the store's is its manifest."""
    done = {file.stem for file in (place / "run" / "stages").glob("*.json")}
    if (place / "run" / "store.zarr" / "manifest.json").is_file():
        done.add("extract")
    return next((stage for stage in STAGES if stage not in done), "finished")


def digest(folder: Path) -> str:
    """Of the store, the latents and the results of a run."""
    sha = hashlib.sha256()
    for name in ("store.zarr", "latents.zarr", "result.json", "estimates.tsv"):
        place = folder / name
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        for file in files:
            # run times differ between equal runs
            if file.is_file() and file.name != "run.json":
                sha.update(f"{file.relative_to(folder)}".encode())
                sha.update(file.read_bytes())
    return sha.hexdigest()


def table(outcomes: list[Outcome]) -> str:
    """The outcomes by fault and stage, in Markdown."""
    key = [(o.fault, o.stage) for o in outcomes]
    tried = Counter(key)
    survived = Counter(k for k, o in zip(key, outcomes, strict=True) if o.survived)
    identical = Counter(k for k, o in zip(key, outcomes, strict=True) if o.identical)
    lines = [
        f"| {fault} | {stage} | {tried[fault, stage]} | {survived[fault, stage]} | "
        f"{identical[fault, stage]} |"
        for fault, stage in sorted(tried)
    ]
    whole = [f"**{n}**" for n in (len(outcomes), survived.total(), identical.total())]
    return "\n".join(
        [
            "| fault | stage | tried | survived | identical |",
            "|---|---|---|---|---|",
            *lines,
            f"| all | | {' | '.join(whole)} |",
            "",
        ]
    )


def main() -> None:
    """Inject until there are enough, then write the table; fails if one did not survive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("faults-run"))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    injector, end = Injector(options.folder), time.monotonic() + options.seconds
    for index in range(len(injector.outcomes), options.count):
        if time.monotonic() > end:
            break
        print(injector.inject(index), flush=True)
    outcomes = injector.outcomes
    print(table(outcomes))
    if options.write:
        intro, _, _ = options.write.read_text().partition("| fault | stage |")
        options.write.write_text(intro + table(outcomes))
    raise SystemExit(not all(one.survived and one.identical for one in outcomes))


if __name__ == "__main__":
    main()
