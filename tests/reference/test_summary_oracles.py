"""Summary-data estimates against pytwosamplemr, published tables and printed R output."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mrscale.workflow.summary_figures import leave_one_out
from mrscale.workflow.summary_mr import steiger, summary_mr

Data = Callable[[str], Path]
CLOSED_FORM = 1e-8


def rows(*associations: Any, **options: Any) -> pd.DataFrame:
    return summary_mr(*associations, **options).set_index("method")


@pytest.fixture(scope="module")
def expected(shared_data: Data) -> dict[str, Any]:
    return json.loads(shared_data("reference/expected_mr.json").read_text())


@pytest.fixture(scope="module")
def lipids(shared_data: Data) -> pd.DataFrame:
    return pd.read_csv(shared_data("reference/lipid_chd_28.csv"), index_col="snp")


@pytest.fixture(scope="module")
def ldl(lipids: pd.DataFrame) -> tuple[pd.Series, ...]:
    return tuple(lipids[c] for c in ("ldlc", "ldlcse", "chdlodds", "chdloddsse"))


@pytest.fixture(scope="module")
def calcium(shared_data: Data) -> tuple[tuple[pd.Series, ...], np.ndarray]:
    table = pd.read_csv(shared_data("reference/calcium_fastgluc_6.csv"), index_col="snp")
    associations = ("calcium", "calciumse", "fastgluc", "fastglucse")
    return tuple(table[c] for c in associations), table.filter(like="rho").to_numpy()


@pytest.fixture(scope="module")
def oracle() -> Any:
    return pytest.importorskip("pytwosamplemr", reason="the oracle pytwosamplemr is not installed")


def simulated(seed: int) -> tuple[np.ndarray, ...]:
    """Associations of 4 to 40 variants, some pleiotropic."""
    rng = np.random.default_rng(seed)
    m = int(rng.integers(4, 41))
    sx, sy = rng.uniform(0.01, 0.02, m), rng.uniform(0.02, 0.05, m)
    bx = rng.choice([-1, 1], m) * rng.uniform(0.05, 0.3, m)
    by = 0.3 * bx + rng.normal(0, sy) + rng.normal(0, 0.05, m) * (rng.random(m) < 0.3)
    return bx + rng.normal(0, sx), sx, by, sy


def correlation(m: int) -> np.ndarray:
    return 0.5 ** np.abs(np.subtract.outer(np.arange(m), np.arange(m)))


# ---------------------------------------------------------------- published tables


@pytest.mark.parametrize("name", ["lipid_chd_28_ldlc", "coursedata_summary"])
def test_tables(
    name: str, expected: dict[str, Any], ldl: tuple[pd.Series, ...], shared_data: Data
) -> None:
    known, data = expected[name], ldl
    if name == "coursedata_summary":
        table = pd.read_csv(shared_data("reference/coursedata_summary.csv"))
        data = tuple(table[c] for c in ("bx", "bxse", "by", "byse"))
    normal = rows(*data, methods=["ivw", "ivw_fixed", "egger", "weighted_median", "simple_median"])
    t = rows(*data, methods=["egger"], reference="t")
    second = rows(*data, methods="weighted_median", median_weights="second_order")
    ivw, egger = known["ivw"], known["egger"]
    pairs = [
        (normal.loc["ivw", "estimate"], ivw["b"]),
        (normal.loc["ivw", "std_error"], ivw["se_random"]),
        (normal.loc["ivw_fixed", "std_error"], ivw["se_fixed"]),
        (normal.loc["ivw", "Q"], ivw["Q"]),
        (normal.loc["ivw", "Q_dof"], ivw["df"]),
        (normal.loc["ivw", "Q_pvalue"], ivw["Q_p"]),
        (normal.loc["ivw", "I2"], max(0, ivw["I2"])),
        (normal.loc["ivw", "F"], known["meanF"]),
        (normal.loc["egger", "estimate"], egger["b"]),
        (normal.loc["egger", "intercept"], egger["intercept"]),
        (normal.loc["egger", "Q"], egger["Q"]),
        (normal.loc["weighted_median", "estimate"], known["weighted_median_first_order"]),
        (second.loc["weighted_median", "estimate"], known["weighted_median_second_order"]),
        (normal.loc["simple_median", "estimate"], known["simple_median"]),
    ]
    # the table multiplies MR-Egger's errors by the residual error even where it is below one
    inflation = 1 if egger["rse"] > 1 else 1 / egger["rse"]
    pairs += [
        (normal.loc["egger", "std_error"], egger["se"] * inflation),
        (normal.loc["egger", "intercept_std_error"], egger["intercept_se"] * inflation),
    ]
    if inflation == 1:
        pairs += [
            (normal.loc["egger", "pvalue"], egger["p_norm"]),
            (normal.loc["egger", "intercept_pvalue"], egger["intercept_p_norm"]),
            (t.loc["egger", "pvalue"], egger["p_t"]),
            (t.loc["egger", "intercept_pvalue"], egger["intercept_p_t"]),
        ]
    ours, theirs = zip(*pairs, strict=True)
    np.testing.assert_allclose(ours, theirs, rtol=CLOSED_FORM)
    left = leave_one_out(*data)["estimate"][:-1]
    np.testing.assert_allclose(left, known["ivw_leave_one_out"], rtol=CLOSED_FORM)


def test_multivariable_table(expected: dict[str, Any], lipids: pd.DataFrame) -> None:
    known = expected["mvivw_lipids"]
    traits = ["ldlc", "hdlc", "trig"]
    data = (lipids[traits], lipids[[f"{t}se" for t in traits]], lipids.chdlodds, lipids.chdloddsse)
    found = summary_mr(*data, methods="mvmr_ivw")
    assert found["exposure"].tolist() == traits
    np.testing.assert_allclose(found["estimate"], known["coef"], rtol=CLOSED_FORM)
    np.testing.assert_allclose(found["std_error"], known["se"], rtol=CLOSED_FORM)
    np.testing.assert_allclose(found["Q"], known["Q"], rtol=CLOSED_FORM)
    # as printed by R: MVEgger 2.829 .515 | -.663 .496 | .827 .209 | intercept -.028 .010
    egger = summary_mr(*data, methods="mvmr_egger")
    np.testing.assert_allclose(egger["estimate"], [2.829, -0.663, 0.827], atol=5e-4)
    np.testing.assert_allclose(egger["std_error"], [0.515, 0.496, 0.209], atol=5.1e-4)
    assert egger["intercept"][0] == pytest.approx(-0.028, abs=5e-4)
    assert egger["intercept_std_error"][0] == pytest.approx(0.010, abs=5e-4)
    # R prints 20.3, 12.9, 13.3 from another estimator, which uses the sample size
    np.testing.assert_allclose(found["F"], [20.3, 12.9, 13.3], rtol=0.08)


def test_correlated_table(
    expected: dict[str, Any], calcium: tuple[tuple[pd.Series, ...], np.ndarray]
) -> None:
    known, (data, rho) = expected["ivw_correlated_calcium"], calcium
    found = rows(*data, correlation=rho)
    ivw = found.loc["ivw"]
    theirs = [known["est"], known["se"], known["Q"], known["F"]]
    ours = ivw[["estimate", "std_error", "Q", "F"]].to_numpy(dtype=float)
    np.testing.assert_allclose(ours, theirs, rtol=CLOSED_FORM)
    # as printed by R: Egger correlated 1.302 1.518, intercept .009 .013
    egger = found.loc["egger"]
    assert egger["estimate"] == pytest.approx(1.302, abs=5e-4)
    assert egger["std_error"] == pytest.approx(1.518, abs=5e-4)
    assert egger["intercept_std_error"] == pytest.approx(0.013, abs=5e-4)
    assert found.loc["weighted_median", "note"] == "not applicable: needs uncorrelated variants"


def test_what_r_prints(ldl: tuple[pd.Series, ...]) -> None:
    """MendelianRandomization 0.10.0 on LDL-C and CHD, to the digits of its vignette."""
    medians = ["weighted_median", "simple_median"]
    closed = ["ivw", "egger", "debiased_ivw", "contamination_mixture"]
    found = rows(*ldl, methods=closed + medians)
    printed = {
        "ivw": (2.834, 0.530),
        "egger": (3.253, 0.770),
        "debiased_ivw": (2.940, 0.531),
    }
    for method, (estimate, error) in printed.items():
        assert found.loc[method, "estimate"] == pytest.approx(estimate, abs=5e-4)
        assert found.loc[method, "std_error"] == pytest.approx(error, abs=5e-4)
    assert found.loc["ivw", ["ci_lower", "ci_upper"]].tolist() == pytest.approx(
        [1.796, 3.873], abs=5e-4
    )
    assert found.loc["egger", "I2_GX"] == pytest.approx(0.919, abs=5e-4)
    # bootstrap errors of 10,000 resamples on both sides: Monte Carlo error about 1.5 %
    for method, estimate, error in [
        ("weighted_median", 2.683, 0.419),
        ("simple_median", 1.755, 0.740),
    ]:
        assert found.loc[method, "estimate"] == pytest.approx(estimate, abs=5e-4)
        assert found.loc[method, "std_error"] == pytest.approx(error, rel=0.05)
    grid = rows(*ldl, methods="weighted_mode", mode_grid=512).loc["weighted_mode"]
    assert grid["estimate"] == pytest.approx(2.946, abs=5e-4)
    assert grid["std_error"] == pytest.approx(1.005, rel=0.05)
    # at the maximum itself, as documented
    mode = rows(*ldl, methods="weighted_mode").loc["weighted_mode"]
    assert mode["estimate"] == pytest.approx(2.822, abs=5e-4)
    assert mode["std_error"] == pytest.approx(0.35, rel=0.05)
    # R searches a grid of step 0.01
    mixture = found.loc["contamination_mixture", ["estimate", "ci_lower", "ci_upper"]]
    assert mixture.tolist() == pytest.approx([2.73, 2.00, 3.43], abs=0.01)


def test_maximum_likelihood_beats_the_printed_one(ldl: tuple[pd.Series, ...]) -> None:
    """R prints 3.225 (Q 86.8145): its Nelder-Mead over 29 parameters stops before the maximum."""
    found = rows(*ldl, methods="maximum_likelihood").loc["maximum_likelihood"]
    bx, sx, by, sy = (x.to_numpy() for x in ldl)

    def q(b: float) -> float:
        return float(np.sum((by - b * bx) ** 2 / (sy**2 + b**2 * sx**2)))

    assert found["Q"] == pytest.approx(q(found["estimate"]))
    assert found["Q"] < q(3.225) < 86.8145
    assert [found["estimate"], found["Q"]] == pytest.approx([3.173, 85.97], abs=5e-3)
    assert found["estimate"] == pytest.approx(3.225, abs=0.1 * found["std_error"])
    assert found["std_error"] == pytest.approx(0.569, rel=0.02)


# ---------------------------------------------------------------- the oracle


@pytest.mark.parametrize("seed", range(12))
def test_closed_forms(oracle: Any, seed: int) -> None:
    data = simulated(seed)
    given = oracle.mr_input(*data)
    found = rows(*data, methods=["ivw", "ivw_fixed", "egger", "debiased_ivw"])
    ivw, fixed = (oracle.mr_ivw(given, model=m) for m in ("random", "fixed"))
    egger, debiased = oracle.mr_egger(given), oracle.mr_divw(given)
    for method, theirs in [
        ("ivw", ivw),
        ("ivw_fixed", fixed),
        ("egger", egger),
        ("debiased_ivw", debiased),
    ]:
        ours = found.loc[method, ["estimate", "std_error", "ci_lower", "ci_upper", "pvalue"]]
        expected = [theirs.estimate, theirs.se, theirs.ci_lower, theirs.ci_upper, theirs.pvalue]
        np.testing.assert_allclose(ours.to_numpy(float), expected, rtol=CLOSED_FORM, err_msg=method)
    for method, theirs in [("ivw", ivw), ("egger", egger)]:
        ours = found.loc[method, ["Q", "Q_pvalue"]]
        expected = [theirs.heter_stat, theirs.heter_pvalue]
        np.testing.assert_allclose(ours.to_numpy(float), expected, rtol=CLOSED_FORM)
    ours = found.loc["egger", ["intercept", "intercept_std_error", "intercept_pvalue", "I2_GX"]]
    expected = [egger.intercept, egger.intercept_se, egger.intercept_pvalue, max(0.0, egger.i_sq)]
    np.testing.assert_allclose(ours.to_numpy(float), expected, rtol=CLOSED_FORM)
    assert found.loc["ivw", "F"] == pytest.approx(ivw.fstat, rel=CLOSED_FORM)


@pytest.mark.parametrize("seed", range(6))
def test_student_reference(oracle: Any, seed: int) -> None:
    data = simulated(seed)
    given = oracle.mr_input(*data)
    found = rows(*data, methods=["ivw", "egger"], reference="t")
    ivw = oracle.mr_ivw(given, model="random", distribution="t-dist")
    assert found.loc["ivw", "pvalue"] == pytest.approx(ivw.pvalue, rel=CLOSED_FORM)
    assert found.loc["ivw", "ci_upper"] == pytest.approx(ivw.ci_upper, rel=CLOSED_FORM)
    egger = oracle.mr_egger(given, distribution="t-dist")
    if egger.rse > 1:  # below one MendelianRandomization takes the wider of two intervals
        assert found.loc["egger", "pvalue"] == pytest.approx(egger.pvalue, rel=CLOSED_FORM)
        assert found.loc["egger", "ci_lower"] == pytest.approx(egger.ci_lower, rel=CLOSED_FORM)


@pytest.mark.parametrize("seed", range(6))
def test_correlated(oracle: Any, seed: int) -> None:
    data = simulated(seed)
    rho = correlation(len(data[0]))
    given = oracle.mr_input(*data, correlation=rho)
    found = rows(*data, correlation=rho, methods=["ivw", "egger"])
    ivw = oracle.mr_ivw(given, model="random", correl=True)
    egger = oracle.mr_egger(given, correl=True)
    for method, theirs in [("ivw", ivw), ("egger", egger)]:
        ours = found.loc[method, ["estimate", "std_error", "pvalue", "Q"]].to_numpy(float)
        expected = [theirs.estimate, theirs.se, theirs.pvalue, theirs.heter_stat]
        np.testing.assert_allclose(ours, expected, rtol=CLOSED_FORM, err_msg=method)
    ours = found.loc["egger", ["intercept", "intercept_std_error"]].to_numpy(float)
    np.testing.assert_allclose(ours, [egger.intercept, egger.intercept_se], rtol=CLOSED_FORM)


@pytest.mark.parametrize("seed", range(3))
def test_medians(oracle: Any, seed: int) -> None:
    data = simulated(seed)
    given = oracle.mr_input(*data)
    for ours, theirs in [
        ("simple", "simple"),
        ("weighted", "weighted"),
        ("penalised", "penalized"),
    ]:
        row = rows(*data, methods=f"{ours}_median").iloc[0]
        other = oracle.mr_median(given, weighting=theirs)
        assert row["estimate"] == pytest.approx(other.estimate, rel=CLOSED_FORM)
        # spread of 10,000 resamples on both sides: Monte Carlo error 1 % where they are normal
        assert row["std_error"] == pytest.approx(other.se, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("order", ["first_order", "second_order"])
def test_modes_on_the_grid_of_r(oracle: Any, seed: int, order: str) -> None:
    data = simulated(seed)
    given = oracle.mr_input(*data)
    for ours, theirs in [("simple_mode", "unweighted"), ("weighted_mode", "weighted")]:
        row = rows(*data, methods=ours, mode_grid=512, mode_errors=order, num_resamples=2000).iloc[
            0
        ]
        kind = "simple" if order == "first_order" else "delta"
        other = oracle.mr_mbe(given, weighting=theirs, stderror=kind, iterations=2000)
        assert row["estimate"] == pytest.approx(other.estimate, rel=CLOSED_FORM)
        # scaled MAD of 2,000 resamples on both sides: Monte Carlo error about 4 %
        assert row["std_error"] == pytest.approx(other.se, rel=0.15)
        exact = rows(*data, methods=ours, num_resamples=100).iloc[0]["estimate"]
        reach = np.ptp(data[2] / data[0]) * 2 / 512
        if order == "second_order":
            assert exact == pytest.approx(other.estimate, abs=reach)


@pytest.mark.parametrize("seed", range(6))
def test_contamination_mixture(oracle: Any, seed: int) -> None:
    data = simulated(seed)
    row = rows(*data, methods="contamination_mixture").iloc[0]
    other = oracle.mr_conmix(oracle.mr_input(*data), ci_step=0.001)
    # the oracle searches a grid of step 0.001
    assert row["estimate"] == pytest.approx(other.estimate, abs=1.1e-3)
    ends = [min(a for a, _ in other.ci_ranges), max(b for _, b in other.ci_ranges)]
    assert [row["ci_lower"], row["ci_upper"]] == pytest.approx(ends, abs=2.1e-3)


def test_contamination_mixture_pvalue_is_divided_by_the_dispersion(
    oracle: Any, ldl: tuple[pd.Series, ...]
) -> None:
    """The oracle, as R, multiplies twice the log-likelihood ratio by the dispersion."""
    from scipy import stats

    row = rows(*ldl, methods="contamination_mixture").iloc[0]
    other = oracle.mr_conmix(oracle.mr_input(*ldl))
    valid = np.array(other.valid)
    bx, _, by, sy = (x.to_numpy()[valid] for x in ldl)
    dispersion = np.sum(((by - other.estimate * bx) / sy) ** 2) / (len(valid) - 1)
    theirs = stats.chi2.isf(other.pvalue, 1) / dispersion**2
    # their grid
    assert stats.chi2.isf(row["pvalue"], 1) == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_maximum_likelihood(oracle: Any, seed: int) -> None:
    data = tuple(x[:4] for x in simulated(seed))
    row = rows(*data, methods="maximum_likelihood").iloc[0]
    other = oracle.mr_maxlik(oracle.mr_input(*data), model="random")
    assert row["Q"] <= other.heter_stat * (1 + 1e-12)
    # Nelder-Mead over five parameters and a numerical Hessian
    assert row["estimate"] == pytest.approx(other.estimate, abs=0.02 * row["std_error"])
    assert row["std_error"] == pytest.approx(other.se, rel=0.02)


def test_correlated_maximum_likelihood(
    oracle: Any, calcium: tuple[tuple[pd.Series, ...], np.ndarray]
) -> None:
    data, rho = calcium
    row = rows(*data, correlation=rho, methods="maximum_likelihood").iloc[0]
    other = oracle.mr_maxlik(oracle.mr_input(*data, correlation=rho), correl=True)
    assert row["Q"] <= other.heter_stat
    # Nelder-Mead over seven parameters
    assert row["estimate"] == pytest.approx(other.estimate, rel=1e-3)
    assert row["std_error"] == pytest.approx(other.se, rel=1e-3)


def test_constrained_likelihood(oracle: Any, ldl: tuple[pd.Series, ...]) -> None:
    sizes = {"num_obs_exposure": 17_723, "num_obs_outcome": 90_000}
    row = rows(*ldl, methods="cml", **sizes).iloc[0]
    other = oracle.mr_cml(oracle.mr_input(*ldl), n=17_723, dp=False)
    # the oracle's coordinate descent stops at a change of 1e-4
    assert row["estimate"] == pytest.approx(other.estimate, rel=1e-4)
    assert row["std_error"] == pytest.approx(other.se, rel=1e-4)
    perturbed = rows(*ldl, methods="cml_perturbed", **sizes).iloc[0]
    # R prints 2.821 0.388: its descent starts at zero only, and of several minima stops at the
    # first (from more starts the oracle moves to 2.88); Monte Carlo error 0.03 on both sides
    assert perturbed["estimate"] == pytest.approx(2.92, abs=0.09)
    assert perturbed["std_error"] == pytest.approx(0.388, rel=0.15)


def test_steiger(oracle: Any) -> None:
    bx, sx, by, sy = simulated(1)
    # of equal size: where sizes differ the oracle takes their mean, TwoSampleMR and we do not
    sizes = {"num_obs_exposure": 20_000, "num_obs_outcome": 20_000}
    small = bx / 5, sx / 5, by / 5, sy / 5
    frequency = np.linspace(0.1, 0.9, len(bx))
    found = steiger(*small, **sizes, allele_frequency=frequency)
    scale = np.sqrt(2 * frequency * (1 - frequency))
    other = oracle.mr_steiger(
        None, None, 20_000, 20_000, r_exp=scale * small[0], r_out=scale * small[2]
    )
    assert found.r2_exposure == pytest.approx(other["r2_exp"], rel=CLOSED_FORM)
    assert found.r2_outcome == pytest.approx(other["r2_out"], rel=CLOSED_FORM)
    assert found.pvalue == pytest.approx(other["steiger_test"], rel=CLOSED_FORM)
    assert found.forward == other["correct_causal_direction"]


def test_leave_one_out(oracle: Any, ldl: tuple[pd.Series, ...]) -> None:
    names = ["beta.exposure", "se.exposure", "beta.outcome", "se.outcome"]
    table = pd.DataFrame(dict(zip(names, ldl, strict=True))).reset_index(names="SNP")
    table["mr_keep"] = True
    other = oracle.mr_leaveoneout(table)
    found = leave_one_out(*ldl)
    assert found["variant"].tolist() == [*ldl[0].index, "all"]
    np.testing.assert_allclose(found["estimate"], other["b"], rtol=CLOSED_FORM)
    np.testing.assert_allclose(found["std_error"], other["se"], rtol=CLOSED_FORM)


def test_single_variant(oracle: Any) -> None:
    one = tuple(x[:1] for x in simulated(3))
    found = rows(*one)
    ivw = oracle.mr_ivw(oracle.mr_input(*one), model="fixed")
    assert found.loc["wald_ratio", "estimate"] == pytest.approx(ivw.estimate, rel=CLOSED_FORM)
    assert found.loc["wald_ratio", "std_error"] == pytest.approx(ivw.se, rel=CLOSED_FORM)
    assert math.isnan(found.loc["egger", "estimate"])
