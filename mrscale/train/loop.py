"""The optimiser loop of every trained encoder, resumable at any checkpoint.

Legend: R replicas (encoders trained side by side), E environments, b people of each in one rank's
share of a batch, P factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mrscale import stopping
from mrscale.errors import EngineError
from mrscale.progress import Advance, silent
from mrscale.train import checkpoint
from mrscale.train.metrics import Metrics, Watch
from mrscale.train.ranks import Ranks

JUDGE_EVERY = 40
"""Steps between looks at the people held out; a checkpoint is written at each."""


@dataclass(frozen=True)
class Recipe:
    """Settings of the optimiser, AdamW; see the objectives for where they come from."""

    learning_rate: float
    weight_decay: float
    warm_up: float
    """Share of the steps over which the rate rises; then a cosine to 2 % of it."""
    clip_norm: float
    betas: tuple[float, float]
    keep_best: bool
    """Whether each replica is left at its best judged state, or at its last."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """This rank's share of the people that judge: scores (R, E, b, P), and weights (R, E, b) that
    are 1 for people and 0 for what fills up the shorter environments."""

    scores: Tensor
    weight: Tensor

    def cpu(self) -> HeldOut:
        """The same in host memory."""
        return HeldOut(self.scores.cpu(), self.weight.cpu())


class Judged(NamedTuple):
    """Worth of each replica on people who did not train it, shape (R,), higher is better; and what
    it is made of, (R,) each."""

    worth: Tensor
    parts: dict[str, Tensor]


class Objective(Protocol):
    """What an encoder is trained for, on people of all ranks together."""

    recipe: Recipe

    def loss(self, model: Any, scores: Tensor, step: int, ranks: Ranks, /) -> tuple[Tensor, Tensor]:
        """Loss of the global batch, shape (R,), detached and equal on every rank; and this rank's
        part, whose gradients add up over ranks to those of the loss."""

    def judge(self, model: Any, held_out: HeldOut, ranks: Ranks) -> Judged:
        """How good each replica is, of everybody held out; equal on every rank."""


@dataclass
class Progressed:
    """How far the loop is: everything a checkpoint must hold beside the model itself."""

    step: int = 0
    best_step: list[int] = field(default_factory=list)
    best_held_out: list[float] = field(default_factory=list)
    history: list[list[Any]] = field(default_factory=list)
    """Rows of [step, training losses, held-out worths], one of either for each replica."""


def fit(
    model: Any,
    objective: Objective,
    batches_from: Callable[[int], Iterable[Tensor]],
    held_out: HeldOut,
    *,
    steps: int,
    ranks: Ranks | None = None,
    resume: Path | None = None,
    identity: str = "",
    metrics: Metrics | None = None,
    chunks_read: Callable[[], int] = int,
    progress: Advance = silent,
) -> Progressed:
    """Train every replica.

    Parameters
    ----------
    model : Module
        Trained in place, in its own dtype. All its parameters have R as leading dimension;
        ``num_replicas`` and ``decayed()``, the parameters for weight decay, are read.
    objective : Objective
    batches_from : callable
        Given a step, iterates over this rank's batches (R, E, b, P) from there to ``steps``.
    held_out : HeldOut
    steps : int
        Optimiser steps in all.
    ranks : Ranks, optional
        The processes that train together; the number of ranks changes nothing but rounding.
    resume : Path, optional
        Checkpoint file: continued from if it is there and of the same ``identity``, and kept
        up to date by the leading rank.
    identity : str
        Digest of all that the result depends on.
    metrics : Metrics, optional
        Given a record at every look at the people held out, by the leading rank.
    chunks_read : callable
        How many chunks of a store this rank has read for its batches.
    progress : Advance
        Told of steps; the amounts sum to 1.

    Raises
    ------
    EngineError
        If no replica has a finite held-out worth, or ranks found different checkpoints.

    Notes
    -----
    Where SIGTERM is heeded, it ends the training after a whole step, with a checkpoint.

    Gradients are clipped per replica, and for a replica whose gradient is not finite it is zero:
    replicas do not know of each other.
    """
    ranks, metrics = ranks or Ranks(), metrics or Metrics()
    recipe = objective.recipe
    optimiser = _optimiser(model, recipe)
    best = {name: value.clone() for name, value in model.state_dict().items()}
    done = Progressed(
        best_step=[0] * model.num_replicas, best_held_out=[-math.inf] * model.num_replicas
    )
    if resume and resume.exists():
        done = _restore(resume, identity, model, optimiser, best) or done
    _require_one_step(done.step, ranks)
    progress(done.step / steps)
    if ranks.leads:
        metrics.continue_from(done.step)
    watch = Watch()

    def keep() -> None:
        if resume and ranks.leads:
            checkpoint.save(resume, *_pack(identity, model, optimiser, best, done))

    with stopping.deferred() as asked:
        for step, scores in enumerate(watch.over(batches_from(done.step)), start=done.step):
            _set_learning_rate(optimiser, recipe, step, steps)
            value, part = objective.loss(model, scores, step, ranks)
            _take_step(model, optimiser, part, recipe, ranks)
            done.step = step + 1
            progress(1 / steps)
            if done.step % JUDGE_EVERY == 0 or done.step == steps:
                judged = _judge(model, objective, held_out, ranks, value, done, best)
                keep()
                measured = _measured(value, judged, watch, chunks_read(), ranks)
                if ranks.leads:
                    metrics.add({"step": done.step, **measured})
            if ranks.any(asked()):
                keep()
                raise stopping.Stopped
    model.load_state_dict(best)
    if not any(math.isfinite(value) for value in done.best_held_out):
        raise EngineError(
            "training diverged: no restart has a finite held-out likelihood; "
            "use fewer [encoder] factors or check the instruments for duplicates"
        )
    return done


def _require_one_step(step: int, ranks: Ranks) -> None:
    """Refuse ranks that would continue from different steps, on all of them alike."""
    if ranks.any(step != ranks.as_leading(step)):
        raise EngineError(
            "all training ranks must continue from one checkpoint, and some found another than "
            "the leading rank, or none; see that the run folder is the same on all machines, and "
            "run the same command again: a shared disk may show a new file late"
        )


def _optimiser(model: Any, recipe: Recipe) -> torch.optim.AdamW:
    decayed = model.decayed()
    chosen = {id(parameter) for parameter in decayed}
    others = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas)


def _set_learning_rate(
    optimiser: torch.optim.Optimizer, recipe: Recipe, step: int, steps: int
) -> None:
    warm = min(1.0, (step + 1) / (recipe.warm_up * steps))
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimiser.param_groups:
        group["lr"] = recipe.learning_rate * warm * (0.98 * cosine + 0.02)


def _take_step(
    model: Any, optimiser: torch.optim.Optimizer, part: Tensor, recipe: Recipe, ranks: Ranks
) -> None:
    optimiser.zero_grad()
    part.sum().backward()
    parameters = [p for p in model.parameters() if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(model.num_replicas, -1) for g in gradients], 1)
    ranks.sum(flat)
    norm = flat.norm(dim=1)
    scale = torch.where(torch.isfinite(norm), (recipe.clip_norm / norm).clamp(max=1.0), 0.0)
    flat = flat.nan_to_num(0.0, 0.0, 0.0) * scale[:, None]
    sizes = [p[0].numel() for p in parameters]
    for parameter, gradient in zip(parameters, flat.split(sizes, 1), strict=True):
        parameter.grad = gradient.reshape(parameter.shape)
    optimiser.step()


@torch.no_grad()
def _judge(
    model: nn.Module,
    objective: Objective,
    held_out: HeldOut,
    ranks: Ranks,
    training: Tensor,
    done: Progressed,
    best: dict[str, Tensor],
) -> Judged:
    judged = objective.judge(model, held_out, ranks)
    held = [value if math.isfinite(value) else -math.inf for value in judged.worth.tolist()]
    state = model.state_dict()
    for replica, value in enumerate(held):
        better = value > done.best_held_out[replica]
        if better or (not objective.recipe.keep_best and math.isfinite(value)):
            done.best_held_out[replica], done.best_step[replica] = value, done.step
            for name, tensor in state.items():
                best[name][replica] = tensor[replica]
    done.history.append([done.step, training.tolist(), held])
    return judged


def _measured(
    loss: Tensor, judged: Judged, watch: Watch, chunks_read: int, ranks: Ranks
) -> dict[str, Any]:
    """What a line of metrics says; times are those of the leading rank."""
    seconds, waited = watch.look()
    chunks = ranks.sum(torch.tensor(float(chunks_read)))
    return {
        "loss": loss.tolist(),
        "held_out": judged.worth.tolist(),
        "parts": {name: part.tolist() for name, part in judged.parts.items()},
        "seconds": round(seconds, 3),
        "input_wait_share": round(waited / seconds, 4),
        "chunks_read": int(chunks),
    }


def _pack(
    identity: str,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    best: dict[str, Tensor],
    done: Progressed,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
    return tensors, {"identity": identity, **vars(done)}


def _restore(
    path: Path,
    identity: str,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    best: dict[str, Tensor],
) -> Progressed | None:
    """Load a checkpoint into its places; None if it is of something else."""
    tensors, story = checkpoint.load(path)
    if story.pop("identity", None) != identity:
        return None
    with checkpoint.sound(path):
        return _put_back(tensors, story, model, optimiser, best)


def _put_back(
    tensors: dict[str, Tensor],
    story: dict[str, Any],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    best: dict[str, Tensor],
) -> Progressed:
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimiser": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    model.load_state_dict(parts["model"])
    best.update(parts["best"])
    packed = optimiser.state_dict()
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimiser"].items():
        index, _, key = name.partition(".")
        states.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({**packed, "state": states})
    return Progressed(**story)
