"""Settings of learned instruments that users give, refused where they make no sense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from mrscale.config import Method
from mrscale.errors import InputError
from mrscale.train.learn import Effort
from mrscale.train.objectives import Invariance
from mrscale.workflow.columns import require_choice

Auto = Literal["auto"]
Guide = Literal["components", "guided"]
MOST_BLOCKS = 100


@dataclass(frozen=True)
class LearnOptions:
    """As for :func:`mrscale.fit_encoder`; made of what the user gave, or InputError."""

    method: Method | Auto
    latent_dim: int | Auto
    factors: int | Auto
    restarts: int
    seed: int
    device: str
    steps: int | Auto
    batch_size: int | Auto
    invariance: Invariance = "target"
    front_end: Guide = "components"

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.integer):  # provenance is JSON
                object.__setattr__(self, name, int(value))
        require_choice("method", self.method, [*get_args(Method), "auto"])
        require_choice("invariance", self.invariance, get_args(Invariance))
        require_choice("front_end", self.front_end, get_args(Guide))
        for name, least in (("latent_dim", 1), ("factors", 2), ("steps", 1), ("batch_size", 2)):
            require_whole(name, getattr(self, name), least, auto=True)
        require_whole("restarts", self.restarts, 1)
        require_whole("seed", self.seed, 0, most=2**63 - 1)
        require_device(self.device)

    @property
    def effort(self) -> Effort:
        """How hard to train."""
        return Effort(self.restarts, self.steps, self.batch_size, self.invariance)


def require_blocks(blocks: int | Auto) -> None:
    """Refuse a number of blocks of which none is left to judge the others."""
    require_whole("blocks", blocks, 2, auto=True, most=MOST_BLOCKS)


def require_whole(
    name: str, value: object, least: int, *, auto: bool = False, most: int | None = None
) -> None:
    """Refuse what is no whole number in its range, nor "auto" where that is allowed."""
    if auto and value == "auto":
        return
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
        limit = f"from {least} on" if most is None else f"from {least} to {most}"
        raise InputError(
            f"{name} must be {'auto or ' if auto else ''}a whole number {limit}; found {value!r}; "
            f"{'leave it out to have it chosen' if auto else 'correct it'}"
        )


def require_device(device: str) -> None:
    """Refuse a device that torch does not have here."""
    if device == "auto":
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(
            f"device must be one that torch has on this machine, such as cpu or cuda; found "
            f"{device!r}; leave it out to take a GPU if there is one"
        ) from None
