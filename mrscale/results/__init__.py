"""Results as users hold them: frozen numbers with their provenance, no data and no model inside."""

from mrscale.results.cohort import CohortResult
from mrscale.results.iv import IVResult
from mrscale.results.logistic import LogisticIVResult
from mrscale.results.pair import (
    Diagnostic,
    Estimate,
    Instrument,
    LeftOut,
    PairResult,
    Sensitivity,
    Trust,
    Verdict,
)
from mrscale.results.study import LeftOutVariant, StudyResult

__all__ = [
    "CohortResult",
    "Diagnostic",
    "Estimate",
    "IVResult",
    "Instrument",
    "LeftOut",
    "LeftOutVariant",
    "LogisticIVResult",
    "PairResult",
    "Sensitivity",
    "StudyResult",
    "Trust",
    "Verdict",
]
