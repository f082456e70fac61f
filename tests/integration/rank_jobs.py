"""What the ranks of test_ranks.py run: started as a script, so that spawned processes find it.

``python rank_jobs.py agree FOLDER``, or ``fail``, ``hold`` or ``join-twice``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrscale.errors import EngineError
from mrscale.nn.flow import Flow
from mrscale.train import checkpoint
from mrscale.train.encoder import start_flow
from mrscale.train.loop import Batch, fit_flow, global_log_likelihood
from mrscale.train.ranks import joined, launch

WORLDS = (1, 2, 3)
# people per step: some do not divide by two or three ranks, some leave a rank with nobody
SIZES = [48, 49, 50, 2, 1, *[51] * 7]


def draw(step: int, num_people: int) -> Batch:
    """The global batch of a step, in float64."""
    generator = torch.Generator().manual_seed(step)
    environment = torch.arange(num_people) % 3
    scores = torch.randn(num_people, 3, generator=generator, dtype=torch.float64)
    scores[:, 2] += environment + scores[:, 0].square()
    return scores, environment


def new_flow() -> Flow:
    latents = [np.random.default_rng(e).normal(size=(50, 3)) for e in range(3)]
    return start_flow(np.eye(3), latents, 1, 3, restarts=2).double()


def gradients(flow: Flow) -> Tensor:
    return torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None])


def record_training(folder: str) -> None:
    """Train a flow in this rank; the leading one writes losses, gradients and weights."""
    losses, slopes = [], []
    with joined() as ranks:
        flow, mine = new_flow(), slice(ranks.rank, None, ranks.world)

        def batches_from(start: int) -> Iterator[Batch]:
            for step in range(start, len(SIZES)):
                scores, environment = draw(step, SIZES[step])
                batch = scores[mine], environment[mine]
                losses.append(global_log_likelihood(flow, batch, ranks)[0])
                yield batch
                slopes.append(gradients(flow))

        scores, environment = draw(10_000, 200)
        held_out = scores[mine], environment[mine]
        done = fit_flow(flow, batches_from, held_out, steps=len(SIZES), ranks=ranks)
        if ranks.leads:
            tensors = {"losses": torch.stack(losses), "gradients": torch.stack(slopes)}
            tensors |= {f"flow.{name}": value for name, value in flow.state_dict().items()}
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
            launch(world, record_training, sys.argv[2])
    elif sys.argv[1] == "hold":
        launch(2, hold)
    elif sys.argv[1] == "join-twice":
        launch(2, count_ranks)
        launch(2, count_ranks)
    else:
        for how in ("raise", "kill"):
            try:
                launch(2, fail, how)
            except EngineError as error:
                sys.stdout.write(f"{error}\n")
