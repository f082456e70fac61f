"""What can be asked of :func:`mrscale.estimate`, and what excludes each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from mrscale.errors import InputError
from mrscale.stats.kclass import KClassName
from mrscale.stats.small_sample import SmallSample
from mrscale.store.reader import GenotypeStore
from mrscale.stream.products import trait_columns
from mrscale.workflow.columns import (
    require_choice,
    require_small_sample,
    require_unique_names,
)
from mrscale.workflow.iv import EstimatorName
from mrscale.workflow.iv_fits import Errors

Instruments = Literal["genotype", "latent"]
FirstStage = Literal["same", "split"]
OutcomeModel = Literal["linear", "2sri", "logistic"]


@dataclass(frozen=True)
class Options:
    """What :func:`estimate` was asked for, beside the traits."""

    instruments: Instruments
    by: Literal["environment"] | None
    estimator: EstimatorName
    errors: Errors
    small_sample: SmallSample
    first_stage: FirstStage
    outcome_model: OutcomeModel
    prevalence: float | None

    @property
    def is_plain(self) -> bool:
        """Whether it is the regression of :func:`mrscale.iv`."""
        return self.first_stage == "same" and self.outcome_model == "linear"

    @property
    def k_class(self) -> KClassName:
        """The estimator in subsets of people."""
        found = self.estimator if self.estimator in get_args(KClassName) else "2sls"
        return cast(KClassName, found)

    @property
    def num_passes(self) -> int | None:
        """Over the store, where it is known beforehand."""
        return 2 if self.is_plain and self.estimator in get_args(KClassName) else None


_LINEAR_2SLS: dict[str, tuple[Any, ...]] = {"estimator": ("2sls",), "outcome_model": ("linear",)}
_GOES_WITH: list[tuple[str, tuple[str, ...], dict[str, tuple[Any, ...]]]] = [
    (
        "instruments",
        ("latent",),
        {
            **_LINEAR_2SLS,
            "errors": ("robust", "cluster"),
            "small_sample": (False,),
            "first_stage": ("same",),
        },
    ),
    ("first_stage", ("split",), _LINEAR_2SLS),
    (
        "outcome_model",
        ("2sri", "logistic"),
        {"estimator": ("2sls",), "errors": ("robust", "cluster"), "small_sample": (False,)},
    ),
    ("outcome_model", ("linear",), {"prevalence": (None,)}),
]
"""Values of an option, and those that other options may have beside them."""


def require_options(options: Options, run: Any) -> None:
    """Refuse values that are unknown, or that exclude each other.

    Raises
    ------
    InputError
    """
    known = {
        "instruments": Instruments,
        "estimator": EstimatorName,
        "errors": Errors,
        "first_stage": FirstStage,
        "outcome_model": OutcomeModel,
    }
    for name, choices in known.items():
        require_choice(name, getattr(options, name), get_args(choices))
    require_small_sample(options.small_sample)
    if options.by is not None:
        require_choice("by", options.by, ("environment",))
    for name, values, others in _GOES_WITH:
        for other, allowed in others.items():
            if getattr(options, name) in values and getattr(options, other) not in allowed:
                raise InputError(
                    f"{name}={getattr(options, name)!r} takes {other}="
                    f"{' or '.join(map(repr, allowed))}; found {getattr(options, other)!r}; "
                    "change one of the two"
                )
    if (options.instruments == "latent") != (run is not None):
        raise InputError(
            "instruments='latent' needs run=, the run folder with the latents of trained "
            "encoders, and the genotypes need none; give both or neither"
        )


def chosen_traits(
    store: GenotypeStore,
    exposure: str | Sequence[str] | None,
    outcome: str | None,
    covariates: Sequence[str] | None,
) -> tuple[list[str], str, list[str]]:
    """Names of exposures, outcome and covariates: by default the only ones, and all covariates.

    Raises
    ------
    InputError
        If there is more than one to choose from, or the store has no such name.
    """
    if exposure is None:
        exposure = _only(store.names("exposures"), "exposure")
    x = [exposure] if isinstance(exposure, str) else list(exposure)
    y = _only(store.names("outcomes"), "outcome") if outcome is None else outcome
    w = store.names("covariates") if covariates is None else list(covariates)
    if not x:
        raise InputError("an estimate needs an exposure; found an empty list; name one or more")
    trait_columns(store, x, [y], w)
    require_unique_names([*x, y, *w])
    return x, y, w


def _only(names: list[str], kind: str) -> str:
    if len(names) != 1:
        raise InputError(
            f"the store has {len(names)} {kind}s ({', '.join(names[:20])}); say which one"
        )
    return names[0]
