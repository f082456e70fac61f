"""The boundary of summary-data Mendelian randomization: names, notes and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mrscale.errors import InputError
from mrscale.plots.forest import plot_forest
from mrscale.workflow.summary_figures import forest_data, funnel_data, leave_one_out, scatter_data
from mrscale.workflow.summary_mr import presso, steiger, summary_mr

M = 8


@pytest.fixture
def data() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    bx = np.array([0.1, -0.2, 0.15, 0.12, -0.1, 0.22, 0.18, 0.09])
    return {
        "beta_exposure": bx,
        "se_exposure": np.full(M, 0.01),
        "beta_outcome": rng.normal(0.5 * bx, 0.02),
        "se_outcome": np.full(M, 0.02),
    }


def test_columns_and_rows(data: dict[str, Any]) -> None:
    found = summary_mr(**data)
    assert found.columns.tolist() == [
        "method",
        "exposure",
        "estimate",
        "std_error",
        "ci_lower",
        "ci_upper",
        "pvalue",
        "num_variants",
        "Q",
        "Q_dof",
        "Q_pvalue",
        "I2",
        "intercept",
        "intercept_std_error",
        "intercept_pvalue",
        "I2_GX",
        "F",
        "note",
    ]
    assert found["method"].is_unique
    assert "wald_ratio" not in found["method"].tolist()
    assert found.attrs == {"seed": 0, "num_resamples": 10_000, "level": 0.95}
    needs = found.set_index("method")["note"]
    assert needs["cml"] == (
        "not applicable: needs the sample sizes, num_obs_exposure and num_obs_outcome"
    )
    assert needs["steiger_filtered"].startswith("not applicable: needs allele_frequency")
    numbers = found.columns.difference(["method", "exposure", "num_variants", "note"])
    absent = found["note"].str.startswith("not applicable").astype(bool)
    assert found.loc[absent, numbers].isna().all(axis=None)


def test_sample_sizes_make_all_applicable(data: dict[str, Any]) -> None:
    found = summary_mr(**data, num_obs_exposure=5_000, num_obs_outcome=5_000)
    assert found["estimate"].notna().all()
    assert found.set_index("method").loc["steiger_filtered", "note"].endswith("Steiger's filter")


def test_what_is_masked_is_missing(data: dict[str, Any]) -> None:
    masked = np.ma.masked_array(data["beta_outcome"], mask=False)
    masked[2] = np.ma.masked
    with pytest.raises(InputError, match="beta_outcome"):
        summary_mr(**data | {"beta_outcome": masked})


def test_same_seed_same_numbers(data: dict[str, Any]) -> None:
    pd.testing.assert_frame_equal(summary_mr(**data, seed=3), summary_mr(**data, seed=3))
    methods = ["weighted_median", "weighted_mode"]
    one, other = (summary_mr(**data, methods=methods, seed=s) for s in (1, 2))
    assert (one["std_error"] != other["std_error"]).all()


def test_few_variants_say_why(data: dict[str, Any]) -> None:
    one, two = ({k: v[:n] for k, v in data.items()} for n in (1, 2))
    single = summary_mr(**one).set_index("method")
    assert single.loc["wald_ratio", "std_error"] == pytest.approx(0.2)
    assert single.loc["ivw", "note"] == "not applicable: needs at least 2 variants, 1 given"
    assert single.drop(index="wald_ratio")["estimate"].isna().all()
    pair = summary_mr(**two).set_index("method")
    assert np.isfinite(pair.loc[["ivw", "ivw_fixed"], "estimate"]).all()
    assert pair.loc["egger", "note"] == "not applicable: needs at least 3 variants, 2 given"
    assert summary_mr(**data, methods="wald_ratio")["note"][0] == (
        "not applicable: is for a single variant"
    )


def test_multivariable_rows_carry_names(data: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"ldl": data["beta_exposure"], "hdl": rng.normal(0, 0.1, M)})
    data |= {"beta_exposure": frame, "se_exposure": np.full((M, 2), 0.01)}
    found = summary_mr(**data)
    assert found["exposure"].tolist() == ["ldl", "hdl"] * 3
    few = summary_mr(**{k: v[:2] for k, v in data.items()})
    assert few["note"][0] == "not applicable: needs at least 3 variants, 2 given"
    plain = summary_mr(**data | {"beta_exposure": frame.to_numpy()})
    assert plain["exposure"][:2].tolist() == ["exposure_1", "exposure_2"]
    correlated = summary_mr(**data, correlation=np.eye(M))
    pd.testing.assert_series_equal(correlated["estimate"], found["estimate"])
    assert correlated["F"].isna().all()
    for refused in (leave_one_out, scatter_data, forest_data, funnel_data, presso):
        with pytest.raises(
            InputError, match=f"{refused.__name__} takes one exposure, 2 were given"
        ):
            refused(**data)


def test_one_column_is_one_exposure(data: dict[str, Any]) -> None:
    columns = {k: v[:, None] if "exposure" in k else v for k, v in data.items()}
    found = summary_mr(**columns)
    pd.testing.assert_frame_equal(found, summary_mr(**data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"se_outcome": np.ones(7)}, r"all of the same length; .*se_outcome \(7,\)"),
        ({"beta_exposure": np.ones((M, 2))}, r"beta_exposure \(8, 2\), se_exposure \(8,\)"),
        ({"beta_outcome": ["a"] * M}, "beta_outcome must be an array of numbers"),
        (
            {"beta_outcome": [np.nan, *np.ones(M - 1)]},
            "beta_outcome must be finite.*1 of 8 variants are not, first at position 1; drop them",
        ),
        ({"se_exposure": [*np.ones(M - 1), 0]}, "se_exposure must be positive.*position 8"),
        ({"se_outcome": -np.ones(M)}, "se_outcome must be positive; 8 of 8"),
        ({"beta_exposure": np.zeros(M)}, "beta_exposure must be other than zero"),
        ({"correlation": np.eye(5)}, r"square matrix over the 8 variants; its shape is \(5, 5\)"),
        ({"correlation": np.triu(np.ones((M, M)))}, "correlation must be finite and symmetric"),
        ({"correlation": 2 * np.eye(M)}, "ones on its diagonal"),
        ({"correlation": np.ones((M, M))}, "correlation must be positive definite; its smallest"),
        ({"methods": "eggr"}, "no 'eggr'; did you mean 'egger'"),
        ({"methods": ["ivw", "median"]}, "no 'median'; did you mean '.*median'"),
        ({"methods": []}, "at least one method"),
        ({"reference": "normall"}, "reference: there is no 'normall'; did you mean 'normal'"),
        ({"median_weights": "second"}, "did you mean 'second_order'"),
        ({"raps_loss": "hubber"}, "raps_loss: .* did you mean 'huber'"),
        ({"level": 95}, "level must be between 0 and 1; it is 95"),
        ({"num_resamples": 10}, "num_resamples must be a whole number from 100; it is 10"),
        ({"num_resamples": 1e4}, "num_resamples must be a whole number from 100; it is 10000.0"),
        ({"seed": -1}, "seed must be a whole number from 0; it is -1"),
        ({"mode_bandwidth": 0}, "mode_bandwidth must be positive"),
        ({"mode_grid": 2}, "mode_grid must be None, or at least 64"),
        ({"num_obs_outcome": 12}, "num_obs_outcome must be more than 20 people; give"),
        ({"allele_frequency": np.ones(M)}, "allele_frequency must be between 0 and 1; 8 of 8"),
        ({"allele_frequency": np.ones(3)}, "one number per variant, 8"),
    ],
)
def test_bad_input_gets_one_sentence(
    data: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        summary_mr(**data | change)


def test_nothing_given() -> None:
    with pytest.raises(InputError, match="at least one variant"):
        summary_mr([], [], [], [])


def test_misaligned_tables_are_refused(data: dict[str, Any]) -> None:
    names = [f"rs{i}" for i in range(M)]
    series = {k: pd.Series(v, index=names) for k, v in data.items()}
    assert scatter_data(**series)["variant"].tolist() == names
    series["beta_outcome"] = series["beta_outcome"][::-1]
    with pytest.raises(InputError, match="same variants in the same order"):
        summary_mr(**series)


def test_leave_one_out_of_any_method(data: dict[str, Any]) -> None:
    found = leave_one_out(**data, method="weighted_median")
    assert found["variant"].tolist() == [*range(1, M + 1), "all"]
    keep = np.arange(M) != 2
    without = summary_mr(**{k: v[keep] for k, v in data.items()}, methods="weighted_median")
    assert found["estimate"][2] == without["estimate"][0]
    assert found["std_error"][2] == without["std_error"][0]
    with pytest.raises(InputError, match="method: there is no 'ivv'"):
        leave_one_out(**data, method="ivv")


def test_numbers_for_figures(data: dict[str, Any]) -> None:
    scatter, funnel = scatter_data(**data), funnel_data(**data)
    assert (scatter["beta_exposure"] > 0).all()
    np.testing.assert_allclose(
        scatter["beta_outcome"] / scatter["beta_exposure"], funnel["estimate"]
    )
    np.testing.assert_allclose(funnel["precision"], np.abs(data["beta_exposure"]) / 0.02)
    forest = forest_data(**data)
    assert forest["method"].tolist() == ["wald_ratio"] * M + ["ivw", "egger"]
    np.testing.assert_allclose(forest["std_error"][:M], 1 / funnel["precision"])
    panel = summary_mr(**data, methods=["ivw", "egger"])
    np.testing.assert_allclose(forest["estimate"][M:], panel["estimate"])


def test_presso_names_an_outlier(data: dict[str, Any]) -> None:
    data["beta_outcome"] = data["beta_outcome"] - 0.13 * np.eye(M)[7]
    found = presso(**data)
    assert np.flatnonzero(found.outliers).tolist() == [7]
    row = summary_mr(**data, methods="presso").iloc[0]
    assert row["num_variants"] == M - 1
    assert "outliers removed: 1 (presso says which)" in row["note"]
    assert f"global test p = {found.global_pvalue:.2g};" in row["note"]
    milder = data | {"beta_outcome": np.asarray(data["beta_outcome"]) + 0.1 * np.eye(M)[7]}
    panel = summary_mr(**milder, methods="presso").iloc[0]
    assert f"global test p = {presso(**milder).global_pvalue:.2g}" in panel["note"]
    scarce = summary_mr(**data, methods="presso", num_resamples=100).iloc[0]
    assert "too few resamples to name an outlier" in scarce["note"]
    with pytest.raises(InputError, match="more than 160 resamples to name an outlier among 8"):
        presso(**data, num_resamples=150)
    with pytest.raises(InputError, match="significance must be between 0 and 1; it is 5"):
        presso(**data, significance=5)
    with pytest.raises(InputError, match="at least four variants; 3 given"):
        presso(**{k: v[:3] for k, v in data.items()})


def test_steiger_needs_plausible_variances(data: dict[str, Any]) -> None:
    sizes = {"num_obs_exposure": 5_000, "num_obs_outcome": 8_000}
    assert steiger(**data, **sizes).forward
    with pytest.raises(InputError, match="explain less than all of the exposure"):
        steiger(**data | {"se_exposure": np.full(M, 1e-5)}, **sizes)


@pytest.fixture
def labelled(data: dict[str, Any]) -> dict[str, Any]:
    variants = [f"rs{i}" for i in range(M)]
    return {name: pd.Series(values, variants) for name, values in data.items()}


def test_labels_of_everything_beside_the_associations_must_be_theirs(
    labelled: dict[str, Any],
) -> None:
    variants = labelled["beta_exposure"].index
    linkage = pd.DataFrame(0.3 ** np.abs(np.subtract.outer(range(M), range(M))), variants, variants)
    found = summary_mr(**labelled, correlation=linkage, methods="ivw")
    same = summary_mr(**labelled, correlation=linkage.to_numpy(), methods="ivw")
    pd.testing.assert_frame_equal(found, same)
    other = linkage.iloc[::-1, ::-1]
    for wrong in (other, linkage.iloc[::-1]):
        with pytest.raises(InputError, match="correlation must list the variants"):
            summary_mr(**labelled, correlation=wrong, methods="ivw")
    frequency = pd.Series(0.3, variants[::-1])
    with pytest.raises(InputError, match="allele_frequency must list the variants"):
        steiger(**labelled, allele_frequency=frequency, num_obs_exposure=9999, num_obs_outcome=9999)
    unlabelled = {name: values.to_numpy() for name, values in labelled.items()}
    assert len(summary_mr(**unlabelled, correlation=other, methods="ivw")) == 1


def test_exposures_must_come_in_one_order(data: dict[str, Any]) -> None:
    pair = {"ldl": data["beta_exposure"], "hdl": data["beta_exposure"][::-1]}
    errors = pd.DataFrame({"hdl": data["se_exposure"], "ldl": data["se_exposure"]})
    with pytest.raises(InputError, match="same exposures in the same order"):
        summary_mr(pd.DataFrame(pair), errors, data["beta_outcome"], data["se_outcome"])


@pytest.mark.parametrize("size", [np.full(M, 5000), np.nan, "many"])
def test_a_sample_size_is_one_number(data: dict[str, Any], size: Any) -> None:
    with pytest.raises(InputError, match="num_obs_exposure must be one number"):
        summary_mr(**data, num_obs_exposure=size)


def test_figures_know_the_level_of_their_intervals(data: dict[str, Any]) -> None:
    for table in (
        summary_mr(**data, methods="ivw", level=0.5),
        leave_one_out(**data, level=0.5),
        forest_data(**data, level=0.5),
    ):
        assert table.attrs["level"] == 0.5
        texts = [text.get_text() for text in plot_forest(table).texts]
        assert "estimate (50 % interval)" in texts


def test_a_forest_of_several_exposures_says_which(data: dict[str, Any]) -> None:
    pair = pd.DataFrame({"ldl": data["beta_exposure"], "hdl": data["beta_exposure"][::-1]})
    errors = pd.DataFrame(0.01, pair.index, pair.columns)
    table = summary_mr(pair, errors, data["beta_outcome"], data["se_outcome"], methods="mvmr_ivw")
    names = [text.get_text() for text in plot_forest(table).get_yticklabels()]
    assert names == ["ldl, mvmr_ivw", "hdl, mvmr_ivw"]


@pytest.mark.parametrize("ends", [(-np.inf, np.inf), (np.nan, np.nan)])
def test_a_forest_of_intervals_without_ends(ends: tuple[float, float]) -> None:
    table = pd.DataFrame({"estimate": [0.3], "ci_lower": ends[:1], "ci_upper": ends[1:]})
    low, high = plot_forest(table).get_xlim()
    assert low < 0 < 0.3 < high


def test_numbers_of_rows_are_no_labels(labelled: dict[str, Any]) -> None:
    """What is left of a table's own numbers after a selection names no variant."""
    linkage = pd.DataFrame(np.eye(M), [f"rs{i}" for i in range(M)], [f"rs{i}" for i in range(M)])
    numbered = {name: values.set_axis(np.arange(M) * 2) for name, values in labelled.items()}
    assert len(summary_mr(**numbered, correlation=linkage, methods="ivw")) == 1


def test_numbers_that_name_variants_are_labels(labelled: dict[str, Any]) -> None:
    """Positions, say, if both sides have the same."""
    position = 1000 + 7 * np.arange(M)
    numbered = {name: values.set_axis(position) for name, values in labelled.items()}
    linkage = pd.DataFrame(0.3 ** np.abs(np.subtract.outer(range(M), range(M))), position, position)
    assert len(summary_mr(**numbered, correlation=linkage, methods="ivw")) == 1
    with pytest.raises(InputError, match="correlation must list the variants"):
        summary_mr(**numbered, correlation=linkage.iloc[::-1, ::-1], methods="ivw")
    turned = labelled["beta_outcome"].to_xarray()[::-1]
    with pytest.raises(InputError, match="associations must list the same variants"):
        summary_mr(**labelled | {"beta_outcome": turned}, methods="ivw")
    dates = pd.Series(pd.date_range("2020", periods=M), labelled["beta_outcome"].index)
    with pytest.raises(InputError, match="beta_exposure must be an array of numbers"):
        summary_mr(**labelled | {"beta_exposure": dates}, methods="ivw")


def test_equal_exposure_associations_have_no_slope(data: dict[str, Any]) -> None:
    found = summary_mr(
        **data | {"beta_exposure": np.full(M, 0.2)}, methods=["egger", "egger_bootstrap"]
    )
    assert found["estimate"].isna().all()
    assert found["note"].str.contains("associations are all equal").all()
