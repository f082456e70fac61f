"""The paper's experiments on small data sets, in processes, interrupted and continued."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mrscale.experiments.cases import OnGenotypes, Simulated
from mrscale.experiments.estimators import ESTIMATORS
from mrscale.experiments.running import FIGURE, RESULTS, TABLE, run, summarise

SMALL = {"latent_dim": 1, "factors": 2, "steps": 20, "blocks": 2}
CASES = [
    Simulated(
        "linear",
        seed,
        2000,
        {"mixing": "linear", "num_exogenous": 1, "num_confounded": 1},
        SMALL,
    )
    for seed in (42, 43)
]
CASES.append(OnGenotypes("coalescent", 42, 1000, options=SMALL))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    out = tmp_path_factory.mktemp("experiment")
    return out, run(CASES, out, quiet=True)


def test_every_estimator_on_every_data_set(finished) -> None:
    out, results = finished
    assert len(results) == len(CASES) * len(ESTIMATORS)
    found = results.groupby(["design", "seed"], sort=False)["estimator"].agg(list)
    assert all(names == list(ESTIMATORS) for names in found)
    linear = results[results["design"] == "linear"].set_index("estimator")
    assert (linear.loc["tsls", "estimate"] > 1.3).all()
    assert np.allclose(linear.loc["linear_controls", "estimate"], 1, atol=0.15)
    assert np.allclose(linear.loc["oracle", "estimate"], 1, atol=0.15)
    # two features, two parameters of MR-Egger: it does not apply
    assert linear.loc["egger", "estimate"].isna().all()
    assert (results[results["design"] == "coalescent"]["estimate"].notna()).all()
    pd.testing.assert_frame_equal(pd.read_parquet(out / RESULTS), results)
    assert (out / FIGURE).read_text().count("<svg") == 1


def test_what_is_finished_stays_and_what_is_missing_comes_out_the_same(finished) -> None:
    out, results = finished
    kept, lost, other = sorted((out / "cases").iterdir())
    before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in (kept, other)}
    bytes_lost, figure = lost.read_bytes(), (out / FIGURE).read_bytes()
    lost.unlink()
    again = run(CASES, out, quiet=True)
    pd.testing.assert_frame_equal(again, results)
    assert lost.read_bytes() == bytes_lost
    assert (out / FIGURE).read_bytes() == figure
    for file in (kept, other):
        assert before[file.name] == (file.stat().st_mtime_ns, file.read_bytes())


def test_the_table_is_of_the_results(finished) -> None:
    out, results = finished
    table = pd.read_csv(out / TABLE, sep="\t").set_index(["design", "estimator"])
    assert ("linear", "egger") not in table.index
    error = results.query("design == 'linear' and estimator == 'tsls'")["estimate"] - 1
    row = table.loc[("linear", "tsls")]
    assert row["sets"] == 2
    assert row["bias"] == pytest.approx(error.mean())
    assert row["monte_carlo_error"] == pytest.approx(error.std() / math.sqrt(2))
    assert row["rmse"] == pytest.approx(math.sqrt((error**2).mean()))
    assert row["covered"] == 0


def test_coverage_counts_intervals_that_contain_the_truth() -> None:
    intervals = [(0.9, 1.1), (1.05, 1.2), (0.5, 0.99), (1.0, 1.5)]
    rows = [
        {
            "design": "mlp",
            "seed": seed,
            "estimator": "tsls",
            "estimate": (lower + upper) / 2,
            "std_error": 0.1,
            "ci_lower": lower,
            "ci_upper": upper,
            "first_stage_f": 10.0,
            "effect": 1.0,
            "trust": "green",
            "headline": "tsls",
        }
        for seed, (lower, upper) in enumerate(intervals)
    ]
    (found,) = summarise(pd.DataFrame(rows)).to_dict("records")
    assert found["covered"] == 0.5
    assert found["green"] == 1
