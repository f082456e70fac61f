"""Results as users hold them: frozen numbers with their provenance, no data and no model inside."""

from mrscale.results.iv import IVResult
from mrscale.results.study import Diagnostic, Estimate, PairResult, StudyResult, Trust, Verdict

__all__ = [
    "Diagnostic",
    "Estimate",
    "IVResult",
    "PairResult",
    "StudyResult",
    "Trust",
    "Verdict",
]
