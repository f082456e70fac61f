"""What the ranks of test_kernel_ranks.py run: started as a script, so that spawned processes find
it. ``python kernel_rank_jobs.py FOLDER``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from mrscale.nn.autoencoder import KernelEncoder
from mrscale.train import checkpoint
from mrscale.train.loop import HeldOut, Judged
from mrscale.train.objectives import KernelLoss, KernelParts
from mrscale.train.ranks import Ranks, joined, launch

WORLDS = (1, 2, 3, 4)
REPLICAS, ENVIRONMENTS, FACTORS = 2, 3, 4
SIZES = (12, 7, 2, 1)
"""People of each environment in a step: some do not divide, some leave a rank with nobody."""
CASES = [(kind, dim) for kind in ("target", "pairwise") for dim in (2, FACTORS)]
STEPS = 40


def draw(num: int) -> Tensor:
    """Everybody's scores (R, E, b, P), float64."""
    generator = torch.Generator().manual_seed(num)
    shape = (REPLICAS, ENVIRONMENTS, num, FACTORS)
    scores = torch.randn(shape, generator=generator, dtype=torch.float64)
    scores[..., -1] += torch.arange(ENVIRONMENTS)[:, None] + scores[..., 0].square()
    return scores


def new_encoder(latent_dim: int) -> KernelEncoder:
    """One that has left its linear start."""
    generator = torch.Generator().manual_seed(0)
    start = torch.eye(FACTORS).repeat(REPLICAS, 1, 1)
    model = KernelEncoder(start, latent_dim, ENVIRONMENTS, generator).double()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).double()
    return model


def record(folder: str) -> None:
    """Losses, gradients and worths in this number of ranks; the leading one writes them."""
    tensors = {}
    with joined() as ranks:
        for kind, latent_dim in CASES:
            objective = KernelLoss(3, STEPS, kind)
            for size in SIZES:
                name = f"{kind}-{latent_dim}-{size}"
                mine = draw(size)[:, :, ranks.rank :: ranks.world]
                model = new_encoder(latent_dim)
                value, part = objective.loss(model, mine, STEPS // 2, ranks)
                tensors[f"value-loss-{name}"] = value
                tensors[f"slope-loss-{name}"] = slope(part, model, ranks)
                judged = judge(objective, model, mine, ranks)
                tensors[f"worth-{name}"] = judged.worth
                for term in KernelParts._fields:
                    parts = objective.parts(model, mine, STEPS // 2, ranks)
                    own = getattr(parts, term)
                    tensors[f"slope-{term}-{name}"] = slope(own, model, ranks)
                    tensors[f"held-out-{term}-{name}"] = judged.parts[term]
        if ranks.leads:
            checkpoint.save(Path(folder) / f"{ranks.world}.safetensors", tensors, {})


def slope(part: Tensor, model: KernelEncoder, ranks: Ranks) -> Tensor:
    """Gradient of a term, summed over ranks; zero where it does not depend on a parameter."""
    parameters = list(model.parameters())
    own = [torch.zeros_like(p) for p in parameters]
    if part.requires_grad:
        found = torch.autograd.grad(part.sum(), parameters, allow_unused=True)
        own = [g if g is not None else zero for g, zero in zip(found, own, strict=True)]
    return ranks.sum(torch.cat([g.flatten() for g in own]))


@torch.no_grad()
def judge(objective: KernelLoss, model: KernelEncoder, mine: Tensor, ranks: Ranks) -> Judged:
    return objective.judge(model, HeldOut(mine, torch.ones(mine.shape[:3])), ranks)


if __name__ == "__main__":
    for world in WORLDS:
        launch(world, record, sys.argv[1])
