"""Biobank-scale Mendelian randomization with learned instruments.

>>> import mrscale as mr
>>> result = mr.run("study.toml")  # doctest: +SKIP
>>> cohort = mr.open("run/store.zarr")  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrscale.plots.forest import plot_forest
    from mrscale.plots.instruments import plot_funnel, plot_leave_one_out, plot_scatter
    from mrscale.simulate import simulate
    from mrscale.simulate.designs import redraw_traits, simulate_latent
    from mrscale.store.append import append
    from mrscale.store.reader import open_dataset as open
    from mrscale.store.verify import verify
    from mrscale.workflow.carried_encoder import encode, load_encoder
    from mrscale.workflow.cohort import estimate
    from mrscale.workflow.describing import describe
    from mrscale.workflow.fit_encoder import fit_encoder
    from mrscale.workflow.iv import iv
    from mrscale.workflow.iv_many import iv_many
    from mrscale.workflow.learned_iv import learned_iv
    from mrscale.workflow.logistic_iv import logistic_iv
    from mrscale.workflow.per_variant import per_variant
    from mrscale.workflow.split_iv import split_iv
    from mrscale.workflow.study import extract, report, run
    from mrscale.workflow.summary_figures import (
        forest_data,
        funnel_data,
        leave_one_out,
        scatter_data,
    )
    from mrscale.workflow.summary_mr import presso, steiger, summary_mr

__version__ = "0.1.0"
__all__ = [
    "append",
    "describe",
    "encode",
    "estimate",
    "extract",
    "fit_encoder",
    "forest_data",
    "funnel_data",
    "iv",
    "iv_many",
    "learned_iv",
    "leave_one_out",
    "load_encoder",
    "logistic_iv",
    "open",
    "per_variant",
    "plot_forest",
    "plot_funnel",
    "plot_leave_one_out",
    "plot_scatter",
    "presso",
    "redraw_traits",
    "report",
    "run",
    "scatter_data",
    "simulate",
    "simulate_latent",
    "split_iv",
    "steiger",
    "summary_mr",
    "verify",
]

# Loaded on first use: Spark's Python workers import the store layer and must not pay for torch.
_HOMES = {
    "append": ("mrscale.store.append", "append"),
    "describe": ("mrscale.workflow.describing", "describe"),
    "encode": ("mrscale.workflow.carried_encoder", "encode"),
    "estimate": ("mrscale.workflow.cohort", "estimate"),
    "extract": ("mrscale.workflow.study", "extract"),
    "fit_encoder": ("mrscale.workflow.fit_encoder", "fit_encoder"),
    "forest_data": ("mrscale.workflow.summary_figures", "forest_data"),
    "funnel_data": ("mrscale.workflow.summary_figures", "funnel_data"),
    "iv": ("mrscale.workflow.iv", "iv"),
    "iv_many": ("mrscale.workflow.iv_many", "iv_many"),
    "learned_iv": ("mrscale.workflow.learned_iv", "learned_iv"),
    "leave_one_out": ("mrscale.workflow.summary_figures", "leave_one_out"),
    "load_encoder": ("mrscale.workflow.carried_encoder", "load_encoder"),
    "logistic_iv": ("mrscale.workflow.logistic_iv", "logistic_iv"),
    "open": ("mrscale.store.reader", "open_dataset"),
    "per_variant": ("mrscale.workflow.per_variant", "per_variant"),
    "plot_forest": ("mrscale.plots.forest", "plot_forest"),
    "plot_funnel": ("mrscale.plots.instruments", "plot_funnel"),
    "plot_leave_one_out": ("mrscale.plots.instruments", "plot_leave_one_out"),
    "plot_scatter": ("mrscale.plots.instruments", "plot_scatter"),
    "presso": ("mrscale.workflow.summary_mr", "presso"),
    "redraw_traits": ("mrscale.simulate.designs", "redraw_traits"),
    "report": ("mrscale.workflow.study", "report"),
    "run": ("mrscale.workflow.study", "run"),
    "scatter_data": ("mrscale.workflow.summary_figures", "scatter_data"),
    "simulate": ("mrscale.simulate", "simulate"),
    "simulate_latent": ("mrscale.simulate.designs", "simulate_latent"),
    "split_iv": ("mrscale.workflow.split_iv", "split_iv"),
    "steiger": ("mrscale.workflow.summary_mr", "steiger"),
    "summary_mr": ("mrscale.workflow.summary_mr", "summary_mr"),
    "verify": ("mrscale.store.verify", "verify"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


class _Module(ModuleType):
    """Keeps ``mr.report`` and ``mr.simulate`` the functions when the packages of these names are
    imported, which Python would put here in their place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Module
