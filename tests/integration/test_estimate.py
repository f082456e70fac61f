"""One regression on a store: by the command, and on a cluster of any size."""

from __future__ import annotations

import json
import re

import pytest
from distributed import LocalCluster
from numpy.testing import assert_array_equal

import mrscale as mr
from mrscale.study_file import parse_study
from mrscale.workflow.encoding import encode
from mrscale.workflow.training import train


def test_the_command_prints_what_the_function_returns(command, small_store):
    code, out, err = command("estimate", small_store, "--by", "environment", "--json", "--quiet")
    assert (code, err) == (0, "")
    found = json.loads(out)
    expected = mr.estimate(small_store, by="environment").to_dict()
    assert found == json.loads(json.dumps(expected))
    assert [row["group"] for row in found["estimates"]].count("environment") == 3


def test_people_read_a_summary(command, small_store):
    code, out, err = command(
        "estimate", small_store, "--exposure", "exposure", "--outcome", "outcome",
        "--covariate", "age", "--estimator", "liml", "--errors", "cluster",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert out.startswith("exposure -> outcome, genotype instruments, 900 people\n")
    expected = mr.estimate(small_store, covariates=["age"], estimator="liml", errors="cluster")
    assert out == expected.summary() + "\n"
    assert "person-" not in out


def test_a_store_may_be_named_with_a_flag(command, small_store):
    code, out, _ = command("estimate", "--store", small_store, "--first-stage", "split", "--json")
    assert code == 0
    assert json.loads(out)["fit"]["estimator"] == "split-sample 2sls"


def test_latents_of_a_run_are_used_if_it_is_named(command, small_store, tmp_path):
    encoder = {"methods": ["linear"], "factors": 3, "latent_dim": 1, "restarts": 1}
    folder = tmp_path / "run"
    study = parse_study(
        {"store": str(small_store), "run": str(folder), "folds": 2, "encoder": encoder}
    )
    train(study, quiet=True)
    encode(study, quiet=True)
    code, out, err = command("estimate", small_store, "--run", folder, "--outcome", "outcome")
    assert (code, err) == (0, "")
    assert "latent instruments" in out
    assert "linear_controls" in out
    code, out, err = command("estimate", small_store, "--run", folder, "--errors", "classical")
    assert (code, out) == (1, "")
    assert err.startswith(
        "Error: instruments='latent' takes errors='robust' or 'cluster'; found 'classical'"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--outcome", "outcom"], r"no outcome outcom; .* did you mean 'outcome'\?"),
        (["--by", "site"], "by must be one of environment; found 'site'"),
        (["--estimator", "tsls"], r"did you mean '2sls'\?"),
        (["--outcome-model", "2sri"], "needs an outcome of 0 for controls and 1 for cases"),
        (["--run", "absent"], "absent must be a run folder whose encoders are trained"),
    ],
)
def test_a_wrong_request_is_one_sentence(command, small_store, words, message):
    code, out, err = command("estimate", small_store, *words)
    assert (code, out) == (1, "")
    assert re.fullmatch(f"Error: .*{message}.*\n", err)
    assert "person-" not in err


def test_a_study_says_its_traits_in_its_file(command, tmp_path):
    code, _, err = command("estimate", tmp_path / "study.toml", "--outcome", "chd", "--by", "x")
    assert code == 1
    assert err.startswith("Error: outcome, by can be chosen for one genotype store; found a study")


def test_an_absent_store_is_said(command, tmp_path):
    code, out, _ = command("estimate", tmp_path / "no.zarr", "--json")
    assert code == 1
    assert json.loads(out)["error"].startswith("there is no genotype store at")


def bits(result):
    """Everything estimated, to the last bit."""
    tables = [
        result.fit.params, result.fit.cov, result.fit.first_stage, result.jackknife,
        result.to_dataframe(), result.leave_one_instrument_out, result.per_variant,
        result.first_stage_heterogeneity,
    ]  # fmt: skip
    return [table.select_dtypes("number") if table.ndim == 2 else table for table in tables]


def test_the_same_bits_on_a_cluster_of_any_size(small_store):
    asked = {"by": "environment", "errors": "cluster"}
    expected = bits(mr.estimate(small_store, **asked))
    quiet = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    with LocalCluster(n_workers=1, threads_per_worker=1, **quiet) as cluster:
        one = bits(mr.estimate(small_store, scheduler=cluster.scheduler_address, **asked))
        cluster.scale(3)
        cluster.wait_for_workers(3)
        three = bits(mr.estimate(small_store, scheduler=cluster.scheduler_address, **asked))
    for found in (one, three):
        for a, b in zip(found, expected, strict=True):
            assert_array_equal(a.to_numpy(), b.to_numpy())
