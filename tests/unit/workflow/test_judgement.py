"""Which estimate is the headline, and what is said of it."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace

import pytest

from mrscale.stats.embedding import PermutationTest
from mrscale.stats.misfit import Misfit
from mrscale.stats.pooling import MetaAnalysis
from mrscale.workflow.checks import LatentCheck
from mrscale.workflow.judgement import LearnedFit, judge

ALIKE = MetaAnalysis(0.5, 0.1, 3.0, 0.6, 0.0)
UNLIKE = MetaAnalysis(0.5, 0.1, 30.0, 0.001, 0.8)
CHANCE = PermutationTest(statistic=0.0, z=0.1, pvalue=0.5)
CHECK = LatentCheck(
    method="flow",
    latent_dim=2,
    remainder_dim=2,
    num_environments=5,
    invariant=0,
    smallest_environment=400,
    misfit=Misfit(0.001, -0.01),
    dependence_gain=-0.1,
    restart_spread=0.001,
    invariance=CHANCE,
    independence=CHANCE,
)
GOOD = LearnedFit(
    check=CHECK,
    first_stage_f=50.0,
    heterogeneity=ALIKE,
    overidentification=0.4,
    without_controls=(0.01, 0.02),
    from_rival=(0.1, 0.05),
    from_others={},
)


def changed(one, **change):
    """A fit with other fields, of its own or of its check."""
    of_check = {f.name for f in fields(LatentCheck)} & change.keys()
    check = replace(one.check, **{name: change.pop(name) for name in of_check})
    return replace(one, check=check, **change)


LINEAR = changed(GOOD, method="linear", invariant=2)


def test_a_flow_that_passes_everything_is_the_headline():
    found = judge([GOOD])
    assert (found.headline, found.trust) == ("flow_controls", "green")
    assert len(found.reasons) == 1
    assert "predicts the exposure" in found.reasons[0]
    assert {d.verdict for d in found.diagnostics} == {"pass", "info"}


@pytest.mark.parametrize(
    ("change", "headline", "trust", "reason"),
    [
        ({"first_stage_f": 9.9}, "tsls_pc", "red", r"F 9\.9 < 10"),
        ({"misfit": Misfit(0.02, -0.01)}, "tsls_pc", "red", "can still be predicted"),
        ({"misfit": Misfit(0.001, 0.01)}, "tsls_pc", "red", "can still be predicted"),
        ({"num_environments": 4}, "tsls_pc", "amber", r"4 environments are too few .*\+ 1 = 5"),
        ({"remainder_dim": 3}, "tsls_pc", "amber", "2 x 3"),
        ({"num_environments": 2}, "tsls_pc", "red", "2 environments are too few"),
        ({"smallest_environment": 199}, "flow_controls", "amber", "fewer than 200 people"),
        ({"heterogeneity": UNLIKE}, "flow_controls", "amber", r"Cochran Q p = 0\.001"),
    ],
)
def test_whatever_is_wrong_lowers_trust_and_is_said(change, headline, trust, reason):
    found = judge([changed(GOOD, **change)])
    assert (found.headline, found.trust) == (headline, trust)
    assert any(re.search(reason, said) for said in found.reasons)


def test_everything_wrong_is_said_at_once():
    worst = changed(
        GOOD, first_stage_f=1, misfit=Misfit(0.5, 1), num_environments=2, heterogeneity=UNLIKE
    )
    assert len(judge([worst]).reasons) == 4


def test_linear_is_chosen_where_it_has_invariant_directions_enough():
    assert judge([LINEAR, GOOD]).headline == "linear_controls"
    assert judge([changed(LINEAR, invariant=1), GOOD]).headline == "flow_controls"
    assert judge([changed(LINEAR, misfit=Misfit(0.1, 0)), GOOD]).headline == "flow_controls"


def test_linear_alone_is_judged_on_its_own_checks():
    assert judge([changed(LINEAR, invariant=0)]).headline == "linear_controls"
    assert judge([changed(LINEAR, misfit=Misfit(0.1, 0))]).headline == "tsls_pc"


def test_without_learned_instruments_the_rival_is_the_headline():
    found = judge([])
    assert (found.headline, found.trust, found.diagnostics) == ("tsls_pc", "red", ())
    assert "no learned instruments" in found.reasons[0]


def test_every_method_has_its_diagnostics_each_with_a_meaning():
    found = judge([LINEAR, GOOD]).diagnostics
    assert len(found) == 2 * len(judge([GOOD]).diagnostics)
    assert {d.name.split(":")[0] for d in found} == {"Linear", "Flow"}
    assert all(len(d.meaning) > 40 for d in found)


def test_heterogeneity_that_cannot_be_tested_is_no_fault():
    untested = MetaAnalysis(math.nan, math.nan, math.nan, math.nan, math.nan)
    found = judge([changed(GOOD, heterogeneity=untested)])
    assert found.trust == "green"
