"""Encoders of many data sets, trained side by side where they have the same shape."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from grid import Case, Grid

from mrscale.train.encoder import Prepared, finish
from mrscale.train.inputs import TrainingBlock
from mrscale.train.learn import Effort, learn
from mrscale.workflow.cohorts import fill_of
from mrscale.workflow.learning import PATH_STEPS, largest_as_good, training_blocks
from mrscale.workflow.preparing import prepare

AHEAD = 16
"""Data sets that are prepared before they are trained."""


@dataclass(frozen=True, eq=False)
class Ready:
    """One data set, prepared."""

    case: Case
    blocks: list[TrainingBlock]

    @property
    def shape(self) -> tuple[int, ...]:
        """Data sets of one shape can be trained side by side."""
        start: Prepared = self.blocks[0].start
        people = len(self.blocks[0].environment) // 100
        return start.front.num_factors, len(start.mean_dosage), len(self.blocks), people


def ready(case: Case) -> Ready:
    """Draw and prepare one data set."""
    data = case.draw()
    nothing = np.zeros((data.sizes["samples"], 0))
    cohort = case.cohort(data, nothing, nothing)
    folds = int(cohort.arrays["fold"].max()) + 1
    starts = prepare(None, cohort, fill_of(cohort), folds, factors="auto", seed=case.seed)
    return Ready(case, training_blocks(cohort, starts, case.seed))


def train(grid: Grid, work: Path, together: int, device: str, pool: Executor) -> None:
    """Train what is not there yet; a data set is done when its ``trained.json`` is there.

    Parameters
    ----------
    grid : Grid
    work : Path
    together : int
        Blocks of people that are trained side by side.
    device : str
    pool : Executor
        Prepares the data.
    """
    todo = [case for case in grid.cases if not (work / case.key / "trained.json").exists()]
    for group in _groups(_prepared(todo, pool), together):
        began = time.process_time()
        dims, paths = _choose(group, grid, device)
        _train_group(group, dims, paths, work, grid, device)
        seconds = (time.process_time() - began) / len(group)
        for one, dim, path in zip(group, dims, paths, strict=True):
            story = {"latent_dim": dim, "path": path, "seconds": seconds}
            (work / one.case.key / "trained.json").write_text(json.dumps(story))
        print(
            f"{len(group)} x {group[0].case.name} {group[0].shape}: {seconds:.2f} s each",
            flush=True,
        )


def _prepared(cases: Sequence[Case], pool: Executor) -> Iterator[Ready]:
    """A few ahead of the training, so that memory does not grow with their number."""
    waiting: deque[Future[Ready]] = deque()
    for case in cases:
        waiting.append(pool.submit(ready, case))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _groups(found: Iterator[Ready], together: int) -> Iterator[list[Ready]]:
    waiting: dict[tuple[int, ...], list[Ready]] = {}
    for one in found:
        group = waiting.setdefault(one.shape, [])
        group.append(one)
        if len(group) * len(one.blocks) >= together:
            yield waiting.pop(one.shape)
    yield from waiting.values()


def _choose(
    group: list[Ready], grid: Grid, device: str
) -> tuple[list[int], list[dict[str, list[float]]]]:
    """Latent dimension of each data set, and the path it was chosen by."""
    if grid.latent_dim == "true":
        most = group[0].shape[0] - 1
        return [min(one.case.latent_dim, most) for one in group], [{}] * len(group)
    blocks = [block for one in group for block in one.blocks]
    candidates = range(group[0].shape[0])
    trained = learn("flow", blocks, candidates, Effort(1, PATH_STEPS), seed=0, device=device)
    worth = trained.worth[:, :, 0].reshape(len(group), -1, len(candidates))
    dims = [1 + largest_as_good(one[:, 1:]) for one in worth]
    return dims, [{str(d): one[:, d].tolist() for d in candidates} for one in worth]


def _train_group(
    group: list[Ready],
    dims: list[int],
    paths: list[dict[str, list[float]]],
    work: Path,
    grid: Grid,
    device: str,
) -> None:
    for dim in sorted(set(dims)):
        chosen = [i for i in range(len(group)) if dims[i] == dim]
        blocks = [(i, f, block) for i in chosen for f, block in enumerate(group[i].blocks)]
        for method in grid.methods:
            trained = None
            if method != "linear":
                effort = Effort(grid.restarts if method == "flow" else 1)
                only = [block for _, _, block in blocks]
                trained = learn(method, only, [dim], effort, seed=dim, device=device)
            for index, (i, fold, block) in enumerate(blocks):
                story: dict[str, Any] = {
                    "fold": fold,
                    "invariant": block.start.invariant,
                    "latent_dim_path": paths[i],
                }
                encoder = (
                    trained.encoder(index, dim, block.start, story)
                    if trained
                    else finish("linear", dim, block.start, None, story)
                )
                encoder.save(work / group[i].case.key / f"{method}-{fold}.safetensors")
