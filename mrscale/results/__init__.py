"""Results as users hold them: frozen numbers with their provenance, no data and no model inside."""

from mrscale.results.cohort import CohortResult
from mrscale.results.iv import IVResult
from mrscale.results.logistic import LogisticIVResult
from mrscale.results.study import Diagnostic, Estimate, PairResult, StudyResult, Trust, Verdict

__all__ = [
    "CohortResult",
    "Diagnostic",
    "Estimate",
    "IVResult",
    "LogisticIVResult",
    "PairResult",
    "StudyResult",
    "Trust",
    "Verdict",
]
