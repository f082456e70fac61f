"""Items of STROBE-MR that a run knows the answer to.

Skrivankova et al., *Strengthening the Reporting of Observational Studies in Epidemiology Using
Mendelian Randomization*, JAMA 326 (2021).
"""

from __future__ import annotations

from dataclasses import dataclass

from mrscale.disclosure import show_count
from mrscale.results import StudyResult

_MISSING = {
    "mean": "missing calls took the mean dosage of the person's environment",
    "drop": "people with a missing call were left out",
}


@dataclass(frozen=True)
class Item:
    """An item of the checklist: its number, what it asks for, and the answer."""

    number: str
    asked: str
    answer: str


def checklist(result: StudyResult) -> list[Item]:
    """The items that a controlled result answers, in the order of the guideline."""
    return [*_methods(result), *_results(result)]


def _methods(result: StudyResult) -> list[Item]:
    pairs = [f"{pair.exposure} on {pair.outcome}" for pair in result.pairs]
    labels = dict.fromkeys(e.label for pair in result.pairs for e in pair.estimates)
    places = ", ".join(f"{name} {show_count(n)}" for name, n in result.environments.items())
    status = "; ".join(f"{name} {count:,}" for name, count in result.variants.items())
    software = result.provenance.get("software", {})
    return [
        Item("4a", "Setting and participants", f"Environments: {places}."),
        Item(
            "4c",
            "Selection of genetic variants",
            f"{result.num_variants:,} variants; of the candidates: {status or 'not recorded'}. "
            "Those left out are listed with the reason.",
        ),
        Item(
            "5",
            "Assumptions",
            "Those of each estimator are beside it, those of learned instruments under Limits.",
        ),
        Item(
            "6c",
            "Estimators",
            f"Of {'; '.join(pairs)}: {'; '.join(labels)}. Standard errors are robust to unequal "
            "variances, and clustered by family or by the cluster column of the study.",
        ),
        Item(
            "6d",
            "Missing data",
            f"In the analysis {_MISSING[result.missing]}; people without the exposure, the outcome "
            "or a covariate were left out of the pair.",
        ),
        Item(
            "6e",
            "Multiple testing",
            f"{len(pairs)} pair{'s' * (len(pairs) > 1)} of exposure and outcome; intervals and "
            "p-values are not adjusted for their number.",
        ),
        Item(
            "7, 12",
            "Assessment of assumptions",
            f"First-stage F, {'diagnostics of the learned instruments, ' * bool(result.encoders)}"
            "Hansen's J and Cochran's Q, under each pair.",
        ),
        Item(
            "8, 13",
            "Sensitivity analyses",
            f"{', '.join(_sensitivity(result)) or 'none'}, under Sensitivity.",
        ),
        Item(
            "9a",
            "Software",
            ", ".join(f"{name} {version}" for name, version in software.items()) or "not recorded",
        ),
    ]


def _sensitivity(result: StudyResult) -> list[str]:
    """What was varied for some pair."""
    without = ["each environment left out"] * any(pair.without for pair in result.pairs)
    names = (one.name for pair in result.pairs for one in pair.sensitivity)
    return list(dict.fromkeys([*without, *names]))


def _results(result: StudyResult) -> list[Item]:
    steps = "; ".join(f"{step} {show_count(n)}" for step, n in result.people.items())
    return [
        Item("10a", "Participants at each stage", f"{steps or 'not recorded'}."),
        Item(
            "11",
            "Main results",
            "Associations of variants under Instruments; estimates with 95 % intervals and figures "
            "under each pair; per unit of the exposure, on the scale of the outcome.",
        ),
        Item("13d", "Comparison with non-MR analyses", "OLS stands beside all estimates."),
        Item("15", "Limitations", "Under Limits, as far as the method knows them."),
    ]
