"""What a regression on a store says of itself, and what it refuses, in one sentence each."""

from __future__ import annotations

import numpy as np
import pytest

import mrscale as mr
from mrscale.errors import EngineError, InputError, StoreError


def test_notes_say_what_an_estimate_is(rich):
    found = mr.estimate(
        rich, exposure="ldl", outcome="case", overlapping_gwas=True, estimator="gmm"
    )
    notes = " ".join(found.notes)
    assert "a linear probability model" in notes
    assert "GWAS that shares people with this sample" in notes
    assert "only the estimate of everybody is gmm" in notes
    by = mr.estimate(rich, exposure="ldl", outcome="chd", by="environment", first_stage="split")
    assert "with first_stage='same'" in " ".join(by.notes)
    assert not mr.estimate(rich, exposure="ldl", outcome="chd").notes


def test_the_only_exposure_and_outcome_need_no_name(small_store):
    found = mr.estimate(str(small_store))
    assert (found.exposures, found.outcome) == (("exposure",), "outcome")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exposure": "ldll"}, r"no exposure ldll; it has ldl, bmi; did you mean 'ldl'\?"),
        ({"outcome": "Chd"}, r"no outcome Chd; .*; did you mean 'chd'\?"),
        ({"covariates": ["aeg"]}, r"no covariate aeg; it has age, PC1; did you mean 'age'\?"),
        ({"exposure": "height"}, "it has ldl, bmi; name one of these, or append it"),
        ({"exposure": None}, r"2 exposures \(ldl, bmi\); say which one"),
        ({"exposure": []}, "needs an exposure; found an empty list"),
        ({"exposure": ["ldl", "ldl"]}, "a name of its own; found ldl more than once"),
        ({"estimator": "tsls"}, r"estimator must be .* did you mean '2sls'\?"),
        ({"by": "site"}, "by must be one of environment; found 'site'"),
        ({"errors": "hc1"}, "errors must be one of classical, robust, cluster"),
        ({"instruments": "latents"}, r"did you mean 'latent'\?"),
        ({"instruments": "latent"}, "instruments='latent' needs run="),
        ({"run": "run"}, "the genotypes need none; give both or neither"),
        ({"instruments": "latent", "run": "r", "estimator": "liml"}, "takes estimator='2sls'"),
        ({"first_stage": "split", "estimator": "liml"}, "takes estimator='2sls'; found 'liml'"),
        ({"prevalence": 0.1}, "outcome_model='linear' takes prevalence=None; found 0.1"),
        ({"outcome_model": "2sri", "errors": "classical"}, "takes errors='robust' or 'cluster'"),
        ({"outcome_model": "2sri"}, "needs an outcome of 0 for controls and 1 for cases"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_one_sentence(rich, options, message):
    with pytest.raises(InputError, match=message):
        mr.estimate(rich, **{"exposure": "ldl", "outcome": "chd", **options})


def test_a_split_needs_two_folds(rich, changed_from):
    store = changed_from(rich, fold=np.zeros(rich.num_samples))
    with pytest.raises(InputError, match="people in two folds or more; found one"):
        mr.estimate(store, exposure="ldl", outcome="chd", first_stage="split")


def test_nobody_with_all_traits_is_refused(rich, changed_from):
    store = changed_from(rich, exposure=np.full((rich.num_samples, 2), np.nan))
    with pytest.raises(InputError, match="nobody with all of them; choose traits"):
        mr.estimate(store, exposure="ldl", outcome="chd")


def test_no_store_and_no_scheduler_are_said(rich, tmp_path):
    with pytest.raises(StoreError, match="there is no genotype store at"):
        mr.estimate(tmp_path / "absent.zarr")
    with pytest.raises(EngineError, match="is not the address of a Dask scheduler"):
        mr.estimate(rich, exposure="ldl", outcome="chd", scheduler="nonsense://")


def test_a_jackknife_that_cannot_be_is_said(rich, changed_from):
    fold = np.zeros(rich.num_samples)
    environment = rich.array("environment")
    exposure = rich.array("exposure")
    exposure[environment != 0] = np.nan
    fold[np.flatnonzero(environment == 0)[:20]] = 1
    store = changed_from(rich, exposure=exposure, fold=fold)
    found = mr.estimate(store, exposure="ldl", outcome="chd")
    assert not len(found.jackknife)
    assert any("there is no jackknife" in note for note in found.notes)
