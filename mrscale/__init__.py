"""Biobank-scale Mendelian randomization with learned instruments.

>>> import mrscale as mr
>>> result = mr.run("study.toml")  # doctest: +SKIP
>>> cohort = mr.open("run/store.zarr")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrscale.simulate import simulate
    from mrscale.store.append import append
    from mrscale.store.reader import open_dataset as open
    from mrscale.store.verify import verify
    from mrscale.workflow.describing import describe
    from mrscale.workflow.study import run

__version__ = "0.1.0"
__all__ = ["append", "describe", "open", "run", "simulate", "verify"]

# Loaded on first use: Spark's Python workers import the store layer and must not pay for torch.
_HOMES = {
    "append": ("mrscale.store.append", "append"),
    "describe": ("mrscale.workflow.describing", "describe"),
    "open": ("mrscale.store.reader", "open_dataset"),
    "run": ("mrscale.workflow.study", "run"),
    "simulate": ("mrscale.simulate", "simulate"),
    "verify": ("mrscale.store.verify", "verify"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
