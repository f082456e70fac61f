"""Calibration of learned instruments over simulated designs.

    python tests/calibration/designs train --grid table
    python tests/calibration/designs estimate --grid table
    python tests/calibration/designs write --page docs/calibration.md

Every step continues where it was interrupted. `train` takes a GPU if there is one; `estimate` can
run beside it (`--follow SECONDS`). `write` shows what there is of all grids.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from estimating import estimate
from grid import Case, grids
from training import train
from writing import write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["train", "estimate", "write"])
    parser.add_argument("--work", type=Path, default=Path("run/designs"))
    parser.add_argument("--grid", choices=list(grids()), default="table")
    parser.add_argument("--seeds", nargs=2, type=int, metavar=("FIRST", "END"))
    parser.add_argument("--only", nargs="*", help="names of designs")
    parser.add_argument("--redraws", type=int, default=6, help="traits for each data set")
    parser.add_argument("--together", type=int, default=32, help="blocks trained side by side")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--follow", type=float, default=0, help="seconds to wait for trained data")
    parser.add_argument("--page", type=Path, help="where tables are written")
    options = parser.parse_args()
    if options.step == "write":
        write(options.work, options.page)
        return
    grid = grids(range(*options.seeds) if options.seeds else None)[options.grid]
    chosen = [case for case in grid.cases if not options.only or case.name in options.only]
    grid, work = replace(grid, cases=chosen), options.work / options.grid
    # spawned: torch's threads and the GPU do not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as pool:
        if options.step == "train":
            device = "cuda" if torch.cuda.is_available() else "cpu"
            torch.set_num_threads(1)
            train(grid, work, options.together, device, pool)
        else:
            job = partial(estimate, work=work, methods=grid.methods, redraws=options.redraws)
            _follow(grid.cases, work, job, pool, options.follow)


def _follow(
    todo: list[Case], work: Path, job: Callable[[Case], None], pool: Executor, seconds: float
) -> None:
    """Do the job for every trained data set, waiting for those that are still in training."""
    submitted: dict[str, Future[None]] = {}
    until = time.monotonic() + seconds
    while True:
        for case in todo:
            if case.key not in submitted and (work / case.key / "trained.json").exists():
                submitted[case.key] = pool.submit(job, case)
        if len(submitted) == len(todo) or time.monotonic() > until:
            break
        time.sleep(1)
    for future in submitted.values():
        future.result()


if __name__ == "__main__":
    main()
