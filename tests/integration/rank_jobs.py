"""What the ranks of test_ranks.py run: started as a script, so that spawned processes find it.

``python rank_jobs.py agree FOLDER``, ``differ FOLDER``, or ``fail``, ``hold``,
``interrupt`` or ``join-twice``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrscale.errors import EngineError
from mrscale.nn.flow import Flow
from mrscale.train import checkpoint
from mrscale.train.loop import HeldOut, fit
from mrscale.train.models import start_flows
from mrscale.train.objectives import LogLikelihood
from mrscale.train.ranks import Ranks, joined, launch
from mrscale.train.resident import held_out, resident_block
from mrscale.workflow.learning import LatentDim
from mrscale.workflow.training import _as_leading

WORLDS = (1, 2, 3, 4)
LATENT_DIMS = (0, 1, 3)
# people of each environment per step: some do not divide by two or three ranks, some leave a rank
# with nobody
SIZES = [16, 17, 18, 2, 1, *[17] * 7]
# people of each environment who judge: some leave a rank with none of one environment, or of any
JUDGES = [(80, 79, 5), (2, 1, 7), (1, 1, 0)]


def draw(step: int, num_people: int) -> Tensor:
    """The global batch (R, E, b, P) of a step, in float64."""
    generator = torch.Generator().manual_seed(step)
    scores = torch.randn(3, num_people, 3, generator=generator, dtype=torch.float64)
    scores[..., 2] += torch.arange(3)[:, None] + scores[..., 0].square()
    return scores.expand(len(LATENT_DIMS), -1, -1, -1)


def new_flow() -> Flow:
    """Flows of several latent dimensions, away from their start."""
    people = [np.random.default_rng(1).normal(size=(150, 3))], [np.repeat(range(3), 50)]
    flow = start_flows([np.eye(3)], *people, LATENT_DIMS, 3).double()
    generator = torch.Generator().manual_seed(8)
    for parameter in flow.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += 0.05 * noise
    return flow


def share_of_judges(counts: tuple[int, ...], ranks: Ranks) -> HeldOut:
    """What this rank judges on, as the train stage divides it."""
    environment = np.repeat(range(3), np.add(counts, 1))
    aside = np.ones(len(environment), bool)
    aside[np.cumsum(np.add(counts, 1)) - 1] = False
    scores = np.random.default_rng(6).normal(size=(len(environment), 3)).astype(np.float32)
    block = resident_block(scores, environment, aside, 3, batch_size=3, seed=0)
    mine = held_out([block], len(LATENT_DIMS), ranks)
    return HeldOut(mine.scores.double(), mine.weight.double())


def gradients(flow: Flow) -> Tensor:
    return torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None])


def record_objective(ranks: Ranks) -> dict[str, Tensor]:
    """Loss, summed gradient and worth of the flow objective, before any step."""
    found, objective = {}, LogLikelihood()
    for size in sorted(set(SIZES)):
        flow = new_flow()
        mine = draw(size, size)[:, :, ranks.rank :: ranks.world]
        value, part = objective.loss(flow, mine, 0, ranks)
        part.sum().backward()
        found |= {f"loss-{size}": value, f"gradient-{size}": ranks.sum(gradients(flow))}
    for counts in JUDGES:
        with torch.no_grad():
            worth = objective.judge(new_flow(), share_of_judges(counts, ranks), ranks).worth
        found[f"worth-{counts}"] = worth
    return found


def record(folder: str) -> None:
    """Train flows in this rank; the leading one writes losses, gradients and weights."""
    losses, slopes = [], []
    with joined() as ranks:
        flow, objective = new_flow(), LogLikelihood()

        def batches_from(start: int) -> Iterator[Tensor]:
            for step in range(start, len(SIZES)):
                batch = draw(step, SIZES[step])[:, :, ranks.rank :: ranks.world]
                losses.append(objective.loss(flow, batch, step, ranks)[0])
                yield batch
                slopes.append(gradients(flow))

        judges, steps = share_of_judges(JUDGES[0], ranks), len(SIZES)
        done = fit(flow, objective, batches_from, judges, steps=steps, ranks=ranks)
        tensors = {"losses": torch.stack(losses), "gradients": torch.stack(slopes)}
        tensors |= {f"flow.{name}": value for name, value in flow.state_dict().items()}
        tensors |= record_objective(ranks)
        if ranks.leads:
            story = {"history": done.history, "held_out": done.best_held_out}
            checkpoint.save(Path(folder) / f"{ranks.world}.safetensors", tensors, story)


def fail(how: str) -> None:
    """Rank 1 breaks after a first sum that worked; rank 0 waits for it in the second."""
    with joined() as ranks:
        ranks.wait()
        if ranks.rank == 1 and how == "raise":
            raise ValueError("broken on purpose")
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        ranks.wait()


def differ(folder: str) -> None:
    """Only the leading rank sees the latent dimension, and a checkpoint of a first step."""
    with joined() as ranks:
        known = _as_leading(ranks, LatentDim(2, {}) if ranks.leads else None)
        sys.stdout.write(f"latent dimension {known.value if known else 'unknown'}\n")
        resume = Path(folder) / f"{ranks.rank}.safetensors"
        flow, judges = new_flow(), share_of_judges(JUDGES[0], Ranks())

        def batches_until(stop: int) -> Callable[[int], Iterator[Tensor]]:
            return lambda start: (draw(step, 4) for step in range(start, stop))

        if ranks.leads:
            fit(flow, LogLikelihood(), batches_until(1), judges, steps=1, resume=resume)
        ranks.wait()
        fit(flow, LogLikelihood(), batches_until(2), judges, steps=2, ranks=ranks, resume=resume)


def hold() -> None:
    """Say so and wait for longer than the test."""
    sys.stdout.write("held\n")
    sys.stdout.flush()
    time.sleep(300)


def count_ranks() -> None:
    with joined() as ranks:
        total = ranks.sum(torch.ones(1))
        if ranks.leads:
            sys.stdout.write(f"{int(total)} ranks\n")


if __name__ == "__main__":
    if sys.argv[1] == "agree":
        for world in WORLDS:
            launch(world, record, sys.argv[2])
    elif sys.argv[1] == "differ":
        try:
            launch(2, differ, sys.argv[2])
        except EngineError as error:
            sys.stdout.write(f"{error}\n")
    elif sys.argv[1] == "hold":
        launch(2, hold)
    elif sys.argv[1] == "interrupt":
        # a shell that started the tests in the background had it ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            launch(2, hold)
        except KeyboardInterrupt:
            sys.stdout.write(f"{len(active_children())} left\n")
    elif sys.argv[1] == "join-twice":
        launch(2, count_ranks)
        launch(2, count_ranks)
    else:
        for how in ("raise", "kill"):
            try:
                launch(2, fail, how)
            except EngineError as error:
                sys.stdout.write(f"{error}\n")
