"""Maximum likelihood of the flow encoder: the optimiser loop, resumable at any checkpoint.

Legend: R restarts, B batch of one rank, P factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrscale.errors import EngineError
from mrscale.nn.flow import Flow
from mrscale.progress import Advance, silent
from mrscale.train import checkpoint
from mrscale.train.ranks import Ranks

Batch = tuple[Tensor, Tensor]
"""Scores (B, P) and environment codes (B,) of this rank's share of a global batch."""

LEARNING_RATE = 2e-2
WEIGHT_DECAY = 1e-4
WARM_UP = 0.04
CLIP_NORM = 10.0
JUDGE_EVERY = 40
"""Steps between looks at the held-out likelihood; a checkpoint is written at each."""


@dataclass
class Progressed:
    """How far the loop is: everything a checkpoint must hold beside the flow itself."""

    step: int = 0
    best_step: list[int] = field(default_factory=list)
    best_held_out: list[float] = field(default_factory=list)
    history: list[list[float]] = field(default_factory=list)
    """Rows of [step, training log-likelihood, held-out log-likelihood] of the best restart."""


def fit_flow(
    flow: Flow,
    batches_from: Callable[[int], Iterable[Batch]],
    held_out: Batch,
    *,
    steps: int,
    ranks: Ranks | None = None,
    resume: Path | None = None,
    identity: str = "",
    progress: Advance = silent,
) -> Progressed:
    """Train every restart and leave each at its best held-out state.

    Parameters
    ----------
    flow : Flow
        Trained in place, in its own dtype.
    batches_from : callable
        Given a step, iterates over this rank's batches from there to ``steps``.
    held_out : tuple of Tensor
        This rank's share of the people that judge: scores (B, P), environments (B,).
    steps : int
        Optimiser steps in all.
    ranks : Ranks, optional
        The processes that train together; losses and gradients are sums over all of them
        divided by global counts, so the number of ranks changes nothing but rounding.
    resume : Path, optional
        Checkpoint file: continued from if it is there and of the same ``identity``, and kept
        up to date by the leading rank.
    identity : str
        Digest of all that the result depends on.
    progress : Advance
        Told of steps; the amounts sum to 1.

    Raises
    ------
    EngineError
        If no restart has a finite held-out likelihood.

    Notes
    -----
    AdamW, 4 % linear warm-up, cosine to 2 % of the peak; gradients are clipped per restart, and
    a restart with a gradient that is not finite sits the step out.
    """
    ranks = ranks or Ranks()
    optimiser = _optimiser(flow)
    best = {name: value.clone() for name, value in flow.state_dict().items()}
    done = Progressed(
        best_step=[0] * flow.num_restarts, best_held_out=[-math.inf] * flow.num_restarts
    )
    if resume and resume.exists():
        done = _restore(resume, identity, flow, optimiser, best) or done
    progress(done.step / steps)
    for step, (scores, environment) in enumerate(batches_from(done.step), start=done.step):
        _set_learning_rate(optimiser, step, steps)
        training = _take_step(flow, optimiser, scores, environment, ranks)
        done.step = step + 1
        progress(1 / steps)
        if done.step % JUDGE_EVERY == 0 or done.step == steps:
            _judge(flow, held_out, ranks, training, done, best)
            if resume and ranks.leads:
                checkpoint.save(resume, *_pack(identity, flow, optimiser, best, done))
    flow.load_state_dict(best)
    if not any(math.isfinite(value) for value in done.best_held_out):
        raise EngineError(
            "training diverged: no restart has a finite held-out likelihood; "
            "use fewer [encoder] factors or check the instruments for duplicates"
        )
    return done


def _optimiser(flow: Flow) -> torch.optim.AdamW:
    decayed = flow.decayed()
    chosen = {id(parameter) for parameter in decayed}
    others = [p for p in flow.parameters() if id(p) not in chosen]
    groups = [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.99))


def _set_learning_rate(optimiser: torch.optim.Optimizer, step: int, steps: int) -> None:
    warm = min(1.0, (step + 1) / (WARM_UP * steps))
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimiser.param_groups:
        group["lr"] = LEARNING_RATE * warm * (0.98 * cosine + 0.02)


def global_log_likelihood(flow: Flow, batch: Batch, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Mean log-likelihood over the global batch, per restart (R,): value, and this rank's part.

    The value is detached and the same on every rank. The part is this rank's sum divided by the
    global count; gradients of the parts add up to the gradient of the value.
    """
    scores, environment = batch
    total = flow(scores, environment).sum(1)
    count = ranks.sum(torch.tensor(float(len(scores)), dtype=total.dtype, device=total.device))
    part = total / count
    return ranks.sum(part.detach().clone()), part


def _take_step(
    flow: Flow, optimiser: torch.optim.Optimizer, scores: Tensor, environment: Tensor, ranks: Ranks
) -> Tensor:
    value, part = global_log_likelihood(flow, (scores, environment), ranks)
    optimiser.zero_grad()
    (-part.sum()).backward()
    parameters = [p for p in flow.parameters() if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(flow.num_restarts, -1) for g in gradients], 1)
    ranks.sum(flat)
    norm = flat.norm(dim=1)
    scale = torch.where(torch.isfinite(norm), (CLIP_NORM / norm).clamp(max=1.0), 0.0)
    flat = flat.nan_to_num(0.0, 0.0, 0.0) * scale[:, None]
    sizes = [p[0].numel() for p in parameters]
    for parameter, gradient in zip(parameters, flat.split(sizes, 1), strict=True):
        parameter.grad = gradient.reshape(parameter.shape)
    optimiser.step()
    return value


@torch.no_grad()
def _judge(
    flow: Flow,
    held_out: Batch,
    ranks: Ranks,
    training: Tensor,
    done: Progressed,
    best: dict[str, Tensor],
) -> None:
    value, _ = global_log_likelihood(flow, held_out, ranks)
    held = [v if math.isfinite(v) else -math.inf for v in value.tolist()]
    state = flow.state_dict()
    for restart, log_likelihood in enumerate(held):
        if log_likelihood > done.best_held_out[restart]:
            done.best_held_out[restart], done.best_step[restart] = log_likelihood, done.step
            for name, tensor in state.items():
                best[name][restart] = tensor[restart]
    leader = max(range(len(held)), key=held.__getitem__)
    if math.isfinite(held[leader]):
        done.history.append([done.step, float(training[leader]), held[leader]])


def _pack(
    identity: str,
    flow: Flow,
    optimiser: torch.optim.Optimizer,
    best: dict[str, Tensor],
    done: Progressed,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {f"flow.{name}": value for name, value in flow.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
    return tensors, {"identity": identity, **vars(done)}


def _restore(
    path: Path,
    identity: str,
    flow: Flow,
    optimiser: torch.optim.Optimizer,
    best: dict[str, Tensor],
) -> Progressed | None:
    """Load a checkpoint into its places; None if it is of something else."""
    tensors, story = checkpoint.load(path)
    if story.pop("identity") != identity:
        return None
    parts: dict[str, dict[str, Tensor]] = {"flow": {}, "best": {}, "optimiser": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    flow.load_state_dict(parts["flow"])
    best.update(parts["best"])
    packed = optimiser.state_dict()
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimiser"].items():
        index, _, key = name.partition(".")
        states.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({**packed, "state": states})
    return Progressed(**story)
