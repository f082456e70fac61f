"""Symmetries that every summary-data method must have."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrscale.workflow.summary_mr import summary_mr

EXACT = [
    "ivw",
    "ivw_fixed",
    "egger",
    "maximum_likelihood",
    "contamination_mixture",
    "debiased_ivw",
    "raps",
    "cml",
]
RESAMPLED = ["simple_median", "weighted_median", "penalised_median", "simple_mode", "weighted_mode"]
NUMBERS = ["estimate", "std_error", "ci_lower", "ci_upper"]
SIZES = {"num_obs_exposure": 30_000, "num_obs_outcome": 50_000, "num_resamples": 200}
Associations = tuple[np.ndarray, ...]


@st.composite
def associations(draw: st.DrawFn) -> Associations:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    m = draw(st.integers(4, 25))
    spread = draw(st.sampled_from([0.0, 0.02, 0.2]))
    sx, sy = rng.uniform(0.01, 0.02, m), rng.uniform(0.02, 0.05, m)
    bx = rng.choice([-1, 1], m) * rng.uniform(0.05, 0.3, m)
    by = rng.normal(0.3 * bx, sy) + rng.normal(0, 1, m) * spread
    return bx, sx, by, sy


def panel(data: Associations, methods: list[str]) -> pd.DataFrame:
    return summary_mr(*data, methods=methods, **SIZES).set_index("method")


def agree(found: pd.DataFrame, expected: pd.DataFrame, columns: list[str], factor: float) -> None:
    # 1e-6: roots and maxima of nearly flat functions
    ours = found[columns].to_numpy(float) / factor
    np.testing.assert_allclose(ours, expected[columns].to_numpy(float), rtol=1e-6, atol=1e-9)


@given(associations(), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_order_and_alleles_do_not_matter(data: Associations, random: object) -> None:
    rng = np.random.default_rng(len(data[0]))
    order, sign = rng.permutation(len(data[0])), rng.choice([-1, 1], len(data[0]))
    bx, sx, by, sy = data
    other = tuple(x[order] for x in (bx * sign, sx, by * sign, sy))
    methods = EXACT + RESAMPLED
    expected, found = panel(data, methods), panel(other, methods)
    agree(found.loc[EXACT], expected.loc[EXACT], NUMBERS, 1)
    agree(found.loc[RESAMPLED], expected.loc[RESAMPLED], ["estimate"], 1)


@given(associations(), st.sampled_from([0.25, 8.0]), st.sampled_from([2.0**-20, 2.0**20]))
@settings(max_examples=25, deadline=None)
def test_units_only_scale_the_estimate(data: Associations, of_x: float, of_y: float) -> None:
    bx, sx, by, sy = data
    other = bx * of_x, sx * of_x, by * of_y, sy * of_y
    # resampled errors too: the same random numbers, scaled
    methods = EXACT + RESAMPLED
    agree(panel(other, methods), panel(data, methods), NUMBERS, of_y / of_x)


@given(associations())
@settings(max_examples=10, deadline=None)
def test_a_row_does_not_depend_on_which_others_run(data: Associations) -> None:
    methods = [*RESAMPLED, "egger_bootstrap", "presso"]
    together = panel(data, methods)
    for method in methods:
        pd.testing.assert_frame_equal(panel(data, [method]), together.loc[[method]])


@given(associations())
@settings(max_examples=15, deadline=None)
def test_no_correlation_is_the_identity(data: Associations) -> None:
    methods = ["ivw", "egger", "maximum_likelihood"]
    found = summary_mr(*data, methods=methods, correlation=np.eye(len(data[0])))
    agree(found, summary_mr(*data, methods=methods), [*NUMBERS, "Q", "F"], 1)


@given(associations())
@settings(max_examples=15, deadline=None)
def test_intervals_hold_their_estimate(data: Associations) -> None:
    found = summary_mr(*data, **SIZES)
    used = found[~found["note"].str.startswith("not applicable")]
    assert (used["ci_lower"] <= used["estimate"]).all()
    assert (used["estimate"] <= used["ci_upper"]).all()
    assert used["pvalue"].between(0, 1).all()
    assert (
        used.drop(index=used.index[used["method"] == "contamination_mixture"])["std_error"]
        .gt(0)
        .all()
    )


@pytest.mark.parametrize("num_variants", range(1, 6))
@pytest.mark.parametrize("kind", ["zero outcome", "one exact ratio", "one giant", "tiny errors"])
def test_degenerate_data_give_numbers_or_reasons(num_variants: int, kind: str) -> None:
    rng = np.random.default_rng(num_variants)
    bx = rng.uniform(0.1, 0.2, num_variants)
    sx = sy = np.full(num_variants, 0.01)
    by = 0.5 * bx + rng.normal(0, sy)
    if kind == "zero outcome":
        by = np.zeros(num_variants)
    elif kind == "one exact ratio":
        by = 0.5 * bx
    elif kind == "one giant":
        by[0] = 1e6
    else:
        sx = sy = np.full(num_variants, 1e-9)
    found = summary_mr(bx, sx, by, sy, **SIZES)
    missing = found["estimate"].isna()
    assert (found["note"].str.startswith("not applicable") == missing).all()
    assert np.isfinite(found.loc[~missing, "estimate"]).all()
