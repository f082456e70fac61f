"""A realistic result with known truth, and one whose headline falls back to the adjusted 2SLS."""

from __future__ import annotations

import math

import pytest

from mrscale.results import (
    Diagnostic,
    Estimate,
    Instrument,
    LeftOut,
    LeftOutVariant,
    PairResult,
    Sensitivity,
    StudyResult,
)

LABELS = {
    "ols": "OLS",
    "tsls": "2SLS, all variants",
    "tsls_pc": "2SLS, PCs and environments as covariates",
    "meta": "2SLS within environments, meta-analysed",
    "linear_controls": "Linear learned instruments, with controls",
    "flow_controls": "Flow learned instruments, with controls",
    "oracle": "Oracle (true latent)",
}


def _estimate(
    key: str,
    value: float,
    error: float,
    f: float,
    k: int,
    note: str = "",
    num_obs: int = 20_000,
    j_pvalue: float = math.nan,
    q_pvalue: float = math.nan,
) -> Estimate:
    low, high = value - 1.96 * error, value + 1.96 * error
    label = LABELS.get(key, key)
    tests = (f, j_pvalue, q_pvalue)
    return Estimate(key, label, value, error, low, high, 1e-12, num_obs, k, *tests, note)


@pytest.fixture
def green_pair() -> PairResult:
    return PairResult(
        exposure="exposure",
        outcome="outcome",
        estimates=(
            _estimate("ols", 1.1, 0.008, math.nan, 0),
            _estimate("tsls", 0.83, 0.012, 61.2, 200),
            _estimate("tsls_pc", 0.62, 0.021, 34.9, 200),
            _estimate("meta", 0.80, 0.015, 18.3, 200),
            _estimate("linear_controls", 0.52, 0.024, 310.0, 5),
            _estimate(
                "flow_controls", 0.505, 0.02, 1204.0, 5, "Mean over 4 encoders, t(3).",
                j_pvalue=0.41, q_pvalue=0.27,
            ),
            _estimate("oracle", 0.498, 0.014, 2310.0, 2),
        ),
        headline="flow_controls",
        trust="green",
        reasons=(
            "F is 1204, above 10.",
            "Both misfit checks pass on people not used for training.",
            "There are 5 environments for 2 moving directions (2k + 1 = 5).",
        ),
        diagnostics=(
            Diagnostic("First-stage F", 1204.0, "at least 10", "pass", "Strong, not valid."),
            Diagnostic(
                "Latent predicted from the remainder (cross-fitted R²)",
                0.0031,
                "below 0.01",
                "pass",
                "The latent is unrelated to what moves. It cannot show a confounded direction "
                "that never moves.",
            ),
            Diagnostic("Likelihood ratio per person", -0.0021, "below 0", "pass", "As above."),
            Diagnostic("Restart agreement", math.nan, "", "info", "One restart only."),
        ),
        per_environment=tuple(
            _estimate(name, value, 0.04, 14.0, 200, num_obs=4_000)
            for name, value in [
                ("env1", 0.71), ("env2", 0.78), ("env3", 0.90), ("env4", 0.83), ("env5", 0.76)
            ]
        ),
        anderson_rubin=((0.57, 0.68),),
        without=tuple(
            LeftOut(f"env{i}", 0.5 + i / 100, 0.45, 0.57, 900.0 + i) for i in range(1, 6)
        ),
        sensitivity=(
            Sensitivity("robustness value, estimate", 0.31, math.nan, math.nan, "A share."),
            Sensitivity("union of intervals", math.nan, 0.41, 0.61, "From lowest to highest."),
        ),
        instruments=tuple(
            Instrument(
                f"rs{i}", f"1:{1000 + i}", "A", "C", math.nan if i == 3 else 0.2,
                (-1) ** i * 0.1, 0.01 + i / 500, (-1) ** i * 0.05, 0.02,
            )
            for i in range(7)
        ),
        truth=0.5,
    )  # fmt: skip


@pytest.fixture
def red_pair() -> PairResult:
    return PairResult(
        exposure="LDL cholesterol",
        outcome="carotid intima-media thickness",
        estimates=(
            _estimate("ols", 0.21, 0.01, math.nan, 0),
            _estimate("tsls", 0.35, 0.05, 12.1, 50),
            _estimate("tsls_pc", 0.28, 0.09, 8.2, 50),
            _estimate("meta", 0.30, 0.08, 6.0, 50),
            _estimate("linear_controls", -4.0, 9.5, 0.7, 2),
            _estimate("flow_controls", math.nan, math.nan, math.nan, 0, "Training failed."),
        ),
        headline="tsls_pc",
        trust="red",
        reasons=(
            "F of the learned instruments is 0.7, below 10.",
            "There are 2 environments: the learned instruments are not identified.",
        ),
        diagnostics=(
            Diagnostic("First-stage F", 0.7, "at least 10", "fail", "The instrument is weak."),
        ),
        per_environment=(
            _estimate("EUR", 0.33, 0.09, 7.0, 50, num_obs=12_000),
            _estimate("AFR", 0.22, 0.15, 5.0, 50, num_obs=8_000),
        ),
        anderson_rubin=((-math.inf, -1.2), (0.1, math.inf)),
    )


def _history(seed: float) -> list[list[float]]:
    return [
        [s, -5.2 - 3 * math.exp(-s / 90) - seed, -5.3 - 3 * math.exp(-s / 100) - seed]
        for s in range(0, 1001, 40)
    ]


@pytest.fixture
def study(green_pair: PairResult, red_pair: PairResult) -> StudyResult:
    return StudyResult(
        name="Demo: simulated biobank",
        pairs=(green_pair, red_pair),
        environments={f"env{i}": 4000 for i in range(1, 6)},
        num_people=20_000,
        num_variants=200,
        missing_rate=0.0049,
        variants={"kept": 200, "call rate": 3, "duplicate in the list": 2},
        left_out=(LeftOutVariant("rs9", "2:77", "A,T", "palindromic", "frequency 0.49"),),
        people={"in the genotypes": 20_500, "no phenotype": 500, "kept": 20_000},
        encoders={
            "linear": {
                "latent_dim": 2,
                "factors": 4,
                "folds": [{"fold": fold} for fold in range(4)],
            },
            "flow": {
                "latent_dim": 2,
                "factors": 4,
                "profile": {
                    "latent": {"mean": [[0.01, 0.02]] * 5, "deviation": [[1.0, 0.9]] * 5},
                    "remainder": {
                        "mean": [[-1.0], [-0.5], [0.0], [0.5], [None]],
                        "deviation": [[0.5], [0.5], [1.0], [1.0], [None]],
                    },
                },
                "folds": [
                    {
                        "fold": i,
                        "best_step": 880,
                        "held_out": -5.31 - i / 100,
                        "history": _history(i / 100),
                        "eigenvalues": [4.0 - i / 100, 2.5, 2.0, 1.5, 0.6, 0.5, 0.4],
                    }
                    for i in range(4)
                ],
            },
        },
        provenance={
            "inputs": {"vcf": "3f" * 32, "phenotypes": "a1" * 32},
            "versions": {"mrscale": "0.1.0", "numpy": "2.2.0"},
            "seed": 0,
            "command": "mrscale run study.toml",
        },
    )
