"""The sentences say what the numbers say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mrscale.plots.numbers import MINUS
from mrscale.report import words
from mrscale.results import PairResult
from mrscale.stats.pooling import meta_analysis


def _with(pair: PairResult, key: str, **changes: float) -> PairResult:
    return replace(
        pair,
        estimates=tuple(replace(e, **changes) if e.key == key else e for e in pair.estimates),
    )


def test_answer(green_pair: PairResult) -> None:
    assert words.answer(green_pair) == (
        "Raising exposure by one unit changes outcome by 0.505 (95 % interval 0.466 to 0.544)."
    )


def test_answer_without_an_estimate(green_pair: PairResult) -> None:
    pair = _with(green_pair, "flow_controls", estimate=math.nan, std_error=math.nan)
    assert words.answer(pair).startswith("No estimate of the effect of exposure on outcome")


def test_caveat_of_the_fallback_headline(red_pair: PairResult) -> None:
    text = words.caveat(red_pair)
    assert "“2SLS, PCs and environments as covariates”" in text
    assert "not to be relied on" in text
    assert "It is unbounded" in text


def test_caveat_says_when_zero_is_inside(green_pair: PairResult) -> None:
    assert "includes zero" not in words.caveat(green_pair)
    assert "includes zero" in words.caveat(_with(green_pair, "flow_controls", ci_lower=-0.1))


@pytest.mark.parametrize(
    ("rival", "verdict"),
    [
        (0.62, "The learned estimate is closer to the truth here."),
        (0.501, "Adjusting does as well here"),
        (0.5, "Adjusting does as well here"),
    ],
)
def test_comparison_with_truth(green_pair: PairResult, rival: float, verdict: str) -> None:
    assert verdict in words.comparison(_with(green_pair, "tsls_pc", estimate=rival))


def test_comparison_says_when_the_adjusted_rival_wins(green_pair: PairResult) -> None:
    pair = _with(_with(green_pair, "tsls_pc", estimate=0.5), "flow_controls", estimate=0.7)
    assert "The adjusted 2SLS is closer" in words.comparison(pair)


def test_comparison_without_truth(green_pair: PairResult, red_pair: PairResult) -> None:
    pair = replace(green_pair, truth=None)
    assert "disagree: their intervals are apart" in words.comparison(pair)
    pair = _with(pair, "tsls_pc", ci_lower=0.5)
    assert "agree within their intervals" in words.comparison(pair)
    assert "so much wider that this says little" in words.comparison(red_pair)


def test_comparison_needs_both(green_pair: PairResult) -> None:
    alone = replace(green_pair, estimates=green_pair.estimates[-2:])
    assert "no adjusted 2SLS estimate" in words.comparison(alone)
    plain = replace(green_pair, estimates=green_pair.estimates[:4], headline="tsls_pc")
    assert "no learned estimate" in words.comparison(plain)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (((0.57, 0.68),), "The effect sizes not rejected at 95 % are 0.570 to 0.680."),
        (((-math.inf, math.inf),), "the whole line"),
        (((-math.inf, -1.0), (0.1, math.inf)), f"the union of everything up to {MINUS}1.000 and"),
        (((-math.inf, 0.2),), "everything up to 0.200. It is unbounded"),
        ((), "The set is empty"),
    ],
)
def test_anderson_rubin(
    green_pair: PairResult, pieces: tuple[tuple[float, float], ...], expected: str
) -> None:
    assert expected in words.anderson_rubin(replace(green_pair, anderson_rubin=pieces))


def test_anderson_rubin_not_computed(green_pair: PairResult) -> None:
    pair = replace(green_pair, estimates=green_pair.estimates[-2:])
    assert words.anderson_rubin(pair).startswith("Not computed")


def test_heterogeneity() -> None:
    apart = meta_analysis([0.1, 0.9], [0.05, 0.05])
    assert "on 1 degree of freedom (p = " in words.heterogeneity(apart, 2)
    assert "(p <1e-300)" in words.heterogeneity(replace(apart, q_pvalue=0.0), 2)
    assert "disagree by more than chance" in words.heterogeneity(apart, 2)
    near = meta_analysis([0.1, 0.11, 0.12], [0.05, 0.05, 0.05])
    assert "agree as far as chance allows" in words.heterogeneity(near, 3)
