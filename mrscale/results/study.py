"""A whole study as users hold it: frozen numbers with their provenance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mrscale.results.pair import PairResult


@dataclass(frozen=True)
class LeftOutVariant:
    """A candidate that is no instrument: its status in ``variants.tsv``, and the reason."""

    variant: str
    position: str
    alleles: str
    status: str
    reason: str


@dataclass(frozen=True)
class StudyResult:
    """A whole study: one :class:`PairResult` per exposure and outcome, and how it was made.

    Attributes
    ----------
    pairs : tuple of PairResult
        Those that allow an estimate, at least one.
    environments : dict
        People per environment.
    missing_rate : float
        Share of the calls of the kept variants that are missing.
    missing : {"mean", "drop"}
        Whether missing calls took their environment's mean, or their people were left out.
    variants : dict
        Variants per status (``"kept"``, and each reason for dropping).
    left_out : tuple of LeftOutVariant
        Candidates that are no instruments, and why; the first :data:`MOST_INSTRUMENTS`.
    people : dict
        People after each step, in order.
    encoders : dict
        Per method: latent dimension, factors, held-out likelihood per fold, and so on.
    provenance : dict
        Digests of the inputs, versions, seed, command; no paths and no times.
    not_estimated : dict
        Of every other pair (``"ldl on chd"``), why it allows no estimate.
    """

    name: str
    pairs: tuple[PairResult, ...]
    environments: dict[str, int]
    num_people: int
    num_variants: int
    missing_rate: float
    missing: str = "mean"
    variants: dict[str, int] = field(default_factory=dict)
    left_out: tuple[LeftOutVariant, ...] = ()
    people: dict[str, int] = field(default_factory=dict)
    encoders: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    not_estimated: dict[str, str] = field(default_factory=dict)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per exposure, outcome and estimator; see :meth:`PairResult.to_dataframe`."""
        return pd.concat([pair.to_dataframe() for pair in self.pairs], ignore_index=True)

    def summary(self) -> str:
        """A short text table of the estimates."""
        lines = []
        for pair in self.pairs:
            lines.append(f"{pair.exposure} -> {pair.outcome}  (trust in learned: {pair.trust})")
            places = min(pair.decimals, 8)
            for e in pair.estimates:
                mark = "*" if e.key == pair.headline else " "
                f = "" if math.isnan(e.first_stage_f) else f"  F {e.first_stage_f:.1f}"
                interval = f"[{e.ci_lower: .{places}f}, {e.ci_upper: .{places}f}]"
                lines.append(f" {mark} {e.label:<44} {e.estimate: .{places}f} {interval}{f}")
            lines += [f"   Why: {reason}" for reason in pair.reasons]
            if pair.truth is not None:
                lines.append(f"   {'Truth (simulated)':<44} {pair.truth: .{places}f}")
        lines += [f"{pair}: no estimate: {why}" for pair, why in self.not_estimated.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        columns = ["exposure", "outcome", "label", "estimate", "std_error", "ci_lower", "ci_upper"]
        return str(self.to_dataframe()[columns].to_html(index=False, float_format="{:.4f}".format))

    __repr__ = summary
