"""Faults at random in a whole study, and whether running it again gives what it would have given.

    python tests/faults/injections [--count 200] [--folder faults-run] [--write docs/faults.md]

Each injection starts ``mrscale run`` on 500 people and 20 variants from the beginning of a stage,
strikes once (kill -9 of any of its processes, those of a Dask cluster included; SIGTERM of the
command; a full disk; the connection to an object store or to a Dask scheduler cut), mends what was
broken, runs the command again, and compares store, latents and results with those of an
undisturbed run. What was tried is kept in the folder, so that the count can be reached over
several calls; injection i is always the same but for the machine's timing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import runpy
import shutil
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import surroundings
from strikes import Watched
from undisturbed import PATIENCE_SECONDS, STAGES, Undisturbed, digest, start

from mrscale.errors import MrscaleError
from mrscale.store.reader import open_store

insert = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "page.py"))["insert"]
FAULTS = ("kill -9", "SIGTERM", "disk full", "connection cut")
ON_DASK = ("train", "encode", "estimate")
CUT_SECONDS = 20
"""At most so long is a connection cut."""


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
    traceback : bool
        Whether it printed one.
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
    traceback: bool
    again: int
    opened_wrong: bool
    left_behind: int
    identical: bool

    @property
    def survived(self) -> bool:
        """Whether the command finished when it was run again, and nothing was left or wrong."""
        return not (self.again or self.opened_wrong or self.left_behind or self.traceback)


class Injection:
    """One fault in one study.

    Parameters
    ----------
    index : int
        Says which.
    study : Undisturbed
    place : Path
        A folder for it alone.
    s3 : int
        Port of an object store.
    """

    def __init__(self, index: int, study: Undisturbed, place: Path, s3: int) -> None:
        self._rng = random.Random(index)
        self._index, self._study, self._place, self._s3 = index, study, place, s3
        self._fault = self._rng.choice(FAULTS)
        self._start = self._rng.choice(STAGES)
        self._at = self._rng.random()
        dask = self._start in ON_DASK and self._rng.random() < 0.5
        self._dask = dask and self._fault in ("kill -9", "connection cut")
        in_bucket = self._fault == "connection cut" and not dask
        self._store = f"s3://{surroundings.BUCKET}/{place.name}.zarr" if in_bucket else None

    def run(self) -> Outcome:
        """Strike once, run again, compare."""
        place, options, env, beside, line = self._place, [], {}, [], None
        place.mkdir()
        with ExitStack() as stack:
            if self._fault == "disk full":
                size = self._study.size(self._start, self._at)
                stack.enter_context(surroundings.small_disk(place, size))
            self._study.lay(place, self._start, self._store)
            with ExitStack() as around:
                port = self._s3
                if self._dask:
                    address, beside = around.enter_context(surroundings.dask_cluster(place.parent))
                    port = int(address.rpartition(":")[2])
                if self._fault == "connection cut":
                    line = around.enter_context(surroundings.Line(port))
                    address, env = f"tcp://127.0.0.1:{line.port}", surroundings.endpoint(line.port)
                if self._dask:
                    options = ["--scheduler", address]
                command = Watched(start(place, "run", *options, **env), beside)
                target, stage = self._strike(command, line)
                exit_code = command.process.wait(PATIENCE_SECONDS)
                left_behind = command.left_behind()
            traceback = "Traceback" in place.with_suffix(".log").read_text(errors="replace")
            wrong = self._is_wrong()
            again = start(place, "run").wait(PATIENCE_SECONDS)
            same = again == 0 and digest(place, self._store) == self._study.digest
        shutil.rmtree(place)
        return Outcome(
            self._index,
            self._fault,
            target,
            stage,
            exit_code,
            traceback,
            again,
            wrong,
            left_behind,
            same,
        )

    def _strike(self, command: Watched, line: surroundings.Line | None) -> tuple[str, str]:
        """Do it; what was struck, and in which stage."""
        if self._fault == "disk full":
            command.wait(PATIENCE_SECONDS)
            surroundings.make_room(self._place)
            return "disk", self._start
        command.wait(self._at * self._study.seconds[self._start])
        stage = self._unfinished()
        if line:
            line.cut()
            command.wait(self._rng.random() * CUT_SECONDS)
            line.mend()
            return "Dask scheduler" if self._dask else "object store", stage
        if self._fault == "SIGTERM":
            command.process.terminate()
            return "command", stage
        return command.kill_any(self._rng), stage

    def _is_wrong(self) -> bool:
        try:
            found = open_store(self._store or self._place / "run" / "store.zarr")
        except MrscaleError:
            return False
        return found.manifest != open_store(self._study.store).manifest

    def _unfinished(self) -> str:
        """The first stage without a receipt; the store's is its manifest."""
        done = {file.stem for file in (self._place / "run" / "stages").glob("*.json")}
        if not self._store and (self._place / "run" / "store.zarr" / "manifest.json").is_file():
            done.add("extract")
        if self._start != "extract":
            done.add("extract")
        return next((stage for stage in STAGES if stage not in done), "finished")


def table(outcomes: list[Outcome]) -> str:
    """The outcomes by fault, target and stage, in Markdown."""
    key = [(o.fault, o.target, o.stage) for o in outcomes]
    tried = Counter(key)
    survived = Counter(k for k, o in zip(key, outcomes, strict=True) if o.survived)
    identical = Counter(k for k, o in zip(key, outcomes, strict=True) if o.identical)
    order = (*STAGES, "finished")
    lines = [
        f"| {' | '.join(row)} | {tried[row]} | {survived[row]} | {identical[row]} |"
        for row in sorted(tried, key=lambda row: (row[0], row[1], order.index(row[2])))
    ]
    whole = [f"**{n}**" for n in (len(outcomes), survived.total(), identical.total())]
    return "\n".join(
        [
            "| fault | of | in the stage | tried | survived | identical |",
            "|---|---|---|---|---|---|",
            *lines,
            f"| all | | | {' | '.join(whole)} |",
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
    end = time.monotonic() + options.seconds
    study, log = Undisturbed(options.folder / "study"), options.folder / "injections.jsonl"
    log.touch()
    outcomes = [Outcome(**json.loads(line)) for line in log.read_text().splitlines()]
    with surroundings.object_store() as s3:
        for index in sorted(set(range(options.count)) - {one.index for one in outcomes}):
            if time.monotonic() > end:
                break
            # not that of a call that was killed: what it had started may still be writing there
            place = options.folder.absolute() / f"injection-{index}-{os.getpid()}"
            outcomes.append(Injection(index, study, place, s3).run())
            print(outcomes[-1], flush=True)
            with log.open("a") as handle:
                handle.write(json.dumps(asdict(outcomes[-1])) + "\n")
    print(table(outcomes))
    if options.write:
        insert(options.write, "injections", table(outcomes))
    raise SystemExit(not all(one.survived and one.identical for one in outcomes))


if __name__ == "__main__":
    main()
