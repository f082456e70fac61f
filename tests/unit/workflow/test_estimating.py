"""The estimate and report stages on a small store: what they write, skip, and refuse."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

import mrscale as mr
from mrscale import disclosure
from mrscale.disclosure import show_count
from mrscale.errors import InputError, RunError
from mrscale.report.control import suppressed
from mrscale.results import LeftOutVariant
from mrscale.store.reader import open_store
from mrscale.study_file import parse_study
from mrscale.workflow.encoding import encode
from mrscale.workflow.estimating import estimate
from mrscale.workflow.study import in_words, report, run
from mrscale.workflow.training import train


def study(store, folder, **changes):
    raw = {"store": str(store), "run": str(folder / "run"), "encoder": {"methods": []}}
    return parse_study(raw | changes)


def written(folder):
    files = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    return {p: at for p, at in files.items() if p.parent.name != "lock"}


def test_results_are_written_and_read_back(small_store, tmp_path):
    found = estimate(study(small_store, tmp_path), quiet=True)
    (pair,) = found.pairs
    assert [e.key for e in pair.estimates] == ["ols", "tsls", "tsls_pc", "meta"]
    assert (pair.headline, pair.trust) == ("tsls_pc", "red")
    assert [e.key for e in pair.per_environment] == ["north", "south", "west"]
    assert pair["meta"].first_stage_f == min(e.first_stage_f for e in pair.per_environment)
    raw = json.loads((tmp_path / "run" / "result.json").read_text())
    assert raw["num_people"] == 900
    assert raw["provenance"]["software"]["mrscale"]
    table = pd.read_csv(tmp_path / "run" / "estimates.tsv", sep="\t")
    np.testing.assert_allclose(table["estimate"], [e.estimate for e in pair.estimates], rtol=1e-12)


def test_variants_and_what_the_estimate_depends_on_are_told(small_store, tmp_path):
    (pair,) = estimate(study(small_store, tmp_path), quiet=True).pairs
    whole = mr.estimate(small_store, errors="classical")
    of_store = whole.per_variant.set_index(["instrument", "trait"])
    assert len(pair.instruments) == 30
    strength = [one.first_stage_f for one in pair.instruments]
    assert strength == sorted(strength, reverse=True)
    for one in pair.instruments:
        for trait, beta, error in (
            ("exposure", one.beta_exposure, one.se_exposure),
            ("outcome", one.beta_outcome, one.se_outcome),
        ):
            expected = of_store.loc[(one.variant, trait)]
            np.testing.assert_allclose(
                [beta, error], expected[["beta", "std_error"]].astype(float), rtol=1e-8
            )
        assert (one.effect_allele, one.other_allele) == ("C", "A")
        assert 0 < one.frequency < 1
    left_out = whole.leave_one_instrument_out["estimate"]
    found = {one.name: one for one in pair.sensitivity}
    one = found["2SLS adjusted, without one variant"]
    np.testing.assert_allclose([one.lower, one.upper], [left_out.min(), left_out.max()], rtol=1e-8)
    clustered = mr.estimate(small_store, by="environment", errors="cluster")
    others = clustered.leave_one_environment_out
    assert [one.label for one in pair.without] == others["label"].tolist()
    for column in ("estimate", "ci_lower", "ci_upper", "first_stage_f"):
        told = [getattr(one, column) for one in pair.without]
        np.testing.assert_allclose(told, others[column].astype(float), rtol=1e-6)


def test_errors_are_clustered_by_family(small_store, tmp_path):
    (pair,) = estimate(study(small_store, tmp_path), quiet=True).pairs
    clustered = mr.estimate(small_store, by="environment", errors="cluster")
    robust = mr.estimate(small_store).fit.std_errors["exposure"]
    assert pair["tsls_pc"].std_error != pytest.approx(robust, rel=1e-3)
    expected = clustered.fit.std_errors["exposure"]
    assert pair["tsls_pc"].std_error == pytest.approx(expected, rel=1e-9)


def test_hidden_counts_do_not_follow_from_errors_of_variants(small, changed_store, tmp_path):
    """``dof se^2 + beta^2`` of the exposure and of the outcome are in one ratio for all variants:
    three of them have the degrees of freedom between them."""
    outcome = small.array("outcome")
    outcome[:7] = np.nan
    seldom_measured = changed_store(outcome=outcome)
    (pair,) = estimate(study(seldom_measured, tmp_path), quiet=True).pairs
    assert all(isinstance(e.num_obs, disclosure.AtMost) for e in pair.estimates)
    assert len(pair.instruments) == 30
    for one in pair.instruments:
        assert math.isfinite(one.beta_exposure)
        assert all(map(math.isnan, (one.se_exposure, one.se_outcome, one.first_stage_f)))
    assert (tmp_path / "run" / "report.html").exists()
    table = mr.estimate(seldom_measured, by="environment").per_variant
    hidden = [isinstance(n, str) for n in table["num_obs"]]
    assert table["std_error"].isna().tolist() == hidden
    assert 0 < sum(hidden) < len(hidden)


def test_people_who_are_few_have_no_estimate_under_another_name(write_store, tmp_path):
    """Twelve in the north and none in the west: without the south, they are everybody."""

    def measured(values):
        environment, outcome = values["environment"], values["outcome"]
        outcome[(environment == 0) & (np.cumsum(environment == 0) > 12)] = np.nan
        outcome[environment == 2] = np.nan

    store = tmp_path / "s.zarr"
    write_store(store, num_variants=4, change=measured)
    (pair,) = estimate(study(store, tmp_path), quiet=True).pairs
    assert [one.key for one in pair.per_environment] == ["south"]
    assert [one.label for one in pair.without] == ["north"]
    found = mr.estimate(store, by="environment")
    others = found.leave_one_environment_out.set_index("label")["estimate"]
    assert others.index[others.isna()].tolist() == ["south"]
    inside = found.per_variant.set_index("environment").loc["north", "beta"]
    assert inside.isna().all()


def test_people_who_are_few_allow_no_estimate_at_all(write_store, tmp_path):
    def measured(values):
        values["outcome"][18:] = np.nan

    store = tmp_path / "s.zarr"
    write_store(store, num_variants=4, change=measured)
    for refused in (lambda: estimate(study(store, tmp_path)), lambda: mr.estimate(store)):
        with pytest.raises(InputError, match="hardly more people here than instruments"):
            refused()


def test_few_cases_have_no_estimate(write_store, tmp_path):
    """Ten of 900: the residual variance would be that of one in ninety."""

    def rare(values):
        values["outcome"][:, 0] = np.arange(900) % 90 == 0

    write_store(tmp_path / "s.zarr", change=rare)
    for refused in (
        lambda: estimate(study(tmp_path / "s.zarr", tmp_path)),
        lambda: mr.estimate(tmp_path / "s.zarr"),
    ):
        with pytest.raises(InputError, match="few people here have, or few lack"):
            refused()

    def rare_in_the_north(values):
        north = values["environment"] == 0
        rare, common = np.cumsum(north) % 30 == 0, np.arange(900) % 3 == 0
        values["outcome"][:, 0] = np.where(north, rare, common)

    write_store(tmp_path / "n.zarr", change=rare_in_the_north)
    (pair,) = estimate(study(tmp_path / "n.zarr", tmp_path / "n")).pairs
    assert [one.key for one in pair.per_environment] == ["south", "west"]
    found = mr.estimate(tmp_path / "n.zarr", by="environment")
    inside = found.by_environment.set_index("label")
    assert inside.index[inside["estimate"].isna()].tolist() == ["north"]
    assert found.per_variant.set_index("environment").loc["north", "beta"].isna().all()


def test_people_of_one_cluster_have_no_error_of_their_own(small, changed_store, tmp_path):
    environment = small.array("environment")
    site = np.where(environment == 1, 0, 1 + np.arange(900) % 60).astype(np.int32)
    store = changed_store(cluster=site)
    (pair,) = estimate(study(store, tmp_path), quiet=True).pairs
    assert [one.key for one in pair.per_environment] == ["north", "west"]
    assert min(one.std_error for one in pair.per_environment) > 0.01
    other = changed_store(cluster=np.minimum(environment, 1).astype(np.int32))
    (pair,) = estimate(study(other, tmp_path / "two"), quiet=True).pairs
    assert [one.label for one in pair.without] == ["south", "west"]
    alone = changed_store(cluster=np.zeros(900, dtype=np.int32))
    with pytest.raises(InputError, match=r"two clusters or more .* with another cluster_column"):
        estimate(study(alone, tmp_path / "one"), quiet=True)


def test_candidates_that_are_no_instruments_are_listed(small_store, changed_store, tmp_path):
    store = changed_store()
    columns = "variant_id\tcontig\tposition\talleles\teffect_allele\tstatus\treason"
    rows = ["variant-0\t1\t1000\tA,C\tC\tkept\t", "rs9\t1\t99\tA,T\t\tpalindromic\tfrequency 0.49"]
    (store / "variants.tsv").write_text("\n".join([columns, *rows]) + "\n")
    found = estimate(study(store, tmp_path), quiet=True)
    assert found.left_out == (
        LeftOutVariant("rs9", "1:99", "A,T", "palindromic", "frequency 0.49"),
    )


def test_a_second_call_reads_what_is_there(small_store, tmp_path):
    asked = study(small_store, tmp_path)
    first = estimate(asked, quiet=True)
    before = written(tmp_path)
    assert estimate(asked, quiet=True) == first
    assert written(tmp_path) == before


def test_encoders_that_are_trained_but_not_applied_are_not_left_out(small_store, tmp_path):
    encoder = {"methods": ["linear"], "factors": 3, "latent_dim": 1}
    asked = study(small_store, tmp_path, folds=2, encoder=encoder)
    not_applied = pytest.raises(RunError, match=r"has no latents .*; run first: mrscale encode")
    assert not estimate(asked, quiet=True).encoders
    train(asked, quiet=True)
    with not_applied:
        estimate(asked, quiet=True)
    encode(asked, quiet=True)
    learned = estimate(asked, quiet=True)
    assert list(learned.encoders) == ["linear"]
    shutil.rmtree(tmp_path / "run" / "latents.zarr")
    before = written(tmp_path)
    with not_applied:
        estimate(asked, quiet=True)
    assert written(tmp_path) == before, "the results that are there stay"
    encode(asked, quiet=True)
    assert estimate(asked, quiet=True) == learned


def test_encoders_of_other_settings_are_not_left_out(small_store, tmp_path):
    encoder = {"methods": ["linear"], "factors": 3, "latent_dim": 1}
    asked = study(small_store, tmp_path, folds=2, encoder=encoder)
    folder = train(asked, quiet=True)
    encode(asked, quiet=True)
    learned = estimate(asked, quiet=True)
    before = written(tmp_path)
    other = pytest.raises(RunError, match=r"those of other settings, .*; run first: mrscale train")
    for change in ({"seed": 8}, {"encoder": encoder | {"factors": 4}}):
        with other:
            estimate(study(small_store, tmp_path, **{"folds": 2, "encoder": encoder} | change))
    assert written(tmp_path) == before
    plain = study(small_store, tmp_path, folds=2, encoder=encoder | {"methods": []})
    assert not estimate(plain, quiet=True).encoders
    assert estimate(asked, quiet=True) == learned
    folder.reopen("train")
    with other:
        estimate(asked, quiet=True)


def test_a_pair_without_an_estimate_is_told_of_beside_the_others(small_store, tmp_path):
    store = tmp_path / "s.zarr"
    shutil.copytree(small_store, store)
    constant = {"exposure": (["flat"], np.full((900, 1), 1.7))}
    mr.append(store, open_store(store).array("sample_id"), constant)
    asked = study(store, tmp_path, encoder={"methods": []})
    found = estimate(asked, quiet=True)
    assert [pair.exposure for pair in found.pairs] == ["exposure"]
    assert list(found.not_estimated) == ["flat on outcome"]
    assert "exposure does not vary" in found.not_estimated["flat on outcome"]
    assert "flat on outcome: no estimate: " in found.summary()
    assert '<h2 id="refused-title">' in (tmp_path / "run" / "report.html").read_text()
    told = in_words(tmp_path / "run")
    assert list(told) == ["exposure on outcome", "flat on outcome"]
    assert told["flat on outcome"][0].startswith("No estimate: the exposure does not vary")


def test_results_that_were_removed_are_made_again(small_store, tmp_path):
    asked = study(small_store, tmp_path)
    first = estimate(asked, quiet=True)
    (tmp_path / "run" / "result.json").unlink()
    assert estimate(asked, quiet=True).pairs == first.pairs


def test_another_seed_or_name_is_another_estimate(small_store, tmp_path):
    estimate(study(small_store, tmp_path), quiet=True)
    estimate(study(small_store, tmp_path, seed=9), quiet=True)
    raw = json.loads((tmp_path / "run" / "result.json").read_text())
    assert raw["provenance"]["seed"] == 9


def test_estimates_of_another_version_are_made_again(small_store, tmp_path, monkeypatch):
    monkeypatch.setattr("mrscale.workflow.estimating.__version__", "0.0.1")
    estimate(study(small_store, tmp_path), quiet=True)
    before = written(tmp_path)
    monkeypatch.undo()
    estimate(study(small_store, tmp_path), quiet=True)
    assert written(tmp_path) != before


def test_a_report_needs_estimates(small_store, tmp_path):
    asked = study(small_store, tmp_path)
    with pytest.raises(RunError, match="run first: mrscale estimate"):
        report(asked)
    assert not (tmp_path / "run").exists()  # a refusal takes no folder into use
    estimate(asked, quiet=True)
    (tmp_path / "run" / "report.html").unlink()
    assert report(asked) == estimate(asked, quiet=True)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    before = written(tmp_path)
    report(asked)
    assert written(tmp_path) == before


def test_an_environment_without_the_exposure_is_left_out_of_the_meta_analysis(
    small, changed_store, tmp_path
):
    exposure = small.array("exposure").copy()
    exposure[small.array("environment") == 0] = np.nan
    found = estimate(study(changed_store(exposure=exposure), tmp_path), quiet=True)
    (pair,) = found.pairs
    assert [e.key for e in pair.per_environment] == ["south", "west"]
    assert [one.label for one in pair.without] == ["south", "west"]
    assert "Only 2 of 3 environments" in pair["meta"].note
    assert pair["meta"].num_obs == pair["tsls"].num_obs == (small.array("environment") > 0).sum()


def test_no_environment_large_enough_leaves_no_meta_analysis(small, changed_store, tmp_path):
    exposure = small.array("exposure").copy()
    for code in range(3):
        exposure[np.flatnonzero(small.array("environment") == code)[30:]] = np.nan
    found = estimate(study(changed_store(exposure=exposure), tmp_path), quiet=True)
    (pair,) = found.pairs
    assert [e.key for e in pair.estimates] == ["ols", "tsls", "tsls_pc"]
    assert pair.per_environment == ()
    assert math.isfinite(pair["tsls_pc"].std_error)
    assert (tmp_path / "run" / "report.html").is_file()


def test_genotypes_are_needed_to_run_a_study(tmp_path):
    asked = parse_study({"run": str(tmp_path / "run")})
    with pytest.raises(InputError, match="give one of vcf, mt, vds, plink and bgen in"):
        run(asked, quiet=True)


@pytest.mark.parametrize("same_folder", [True, False])
def test_the_difference_of_two_runs_tells_no_small_count(
    same_folder, small, changed_store, tmp_path
):
    north = np.flatnonzero(small.array("environment") == 0)
    exposure = small.array("exposure").copy()
    exposure[north[:100]] = np.nan
    first = estimate(study(changed_store(exposure=exposure), tmp_path), quiet=True)
    assert first.pairs[0]["ols"].num_obs == 800
    exposure[north[:107]] = np.nan
    earlier = {} if same_folder else {"disclosure": {"earlier": [str(tmp_path / "run")]}}
    place = tmp_path if same_folder else tmp_path / "second"
    second = study(changed_store(exposure=exposure), place, seed=1, **earlier)
    second = estimate(second, quiet=True)
    pair = second.pairs[0]
    assert show_count(pair["ols"].num_obs) == "<=799"
    assert show_count(pair.per_environment[0].num_obs) == f"<={len(north) - 101}"
    assert suppressed(second)[0].startswith(
        "people used inside north, exposure → outcome: shown as <="
    )
    third = estimate(study(changed_store(exposure=exposure), tmp_path / "third"), quiet=True)
    assert show_count(third.pairs[0]["ols"].num_obs) == "793"


def test_a_run_without_results_is_no_earlier_one(small_store, tmp_path):
    asked = study(small_store, tmp_path, disclosure={"earlier": [str(tmp_path / "none")]})
    with pytest.raises(InputError, match=r"earlier in \[disclosure\] .*none has none; correct it"):
        estimate(asked, quiet=True)


def test_a_study_may_hide_more(small_store, tmp_path):
    north = int((open_store(small_store).array("environment") == 0).sum())
    hidden = estimate(study(small_store, tmp_path, disclosure={"limit": north}), quiet=True)
    try:
        assert show_count(hidden.environments["north"]) == f"<={north}"
        assert show_count(hidden.num_people).startswith("<=")
    finally:
        disclosure.enforce(disclosure.Policy())


def test_results_are_told_by_the_study_too(small_store, tmp_path):
    estimate(study(small_store, tmp_path), quiet=True)
    (tmp_path / "study.toml").write_text('run = "run"\n')
    told = in_words(tmp_path / "study.toml")
    assert told == in_words(tmp_path / "run")
    assert told["exposure on outcome"][0].startswith("Raising exposure by one unit")
