"""All pairs at once: each equals its own regression, in two passes, whatever holds the data."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from linearmodels.iv import IV2SLS
from numpy.testing import assert_allclose

from mrscale.errors import InputError
from mrscale.stream import arrays as stream_arrays
from mrscale.workflow.iv import iv
from mrscale.workflow.iv_many import iv_many
from mrscale.workflow.per_variant import per_variant

N, M, K, P, Q = 3000, 8, 2, 3, 4
LINEARMODELS = {"classical": "unadjusted", "robust": "robust", "cluster": "clustered"}
EXACT = ("exposure", "outcome", "num_obs", "num_instruments", "note")


def make(missing=0.0, seed=5, num_people=N):
    rng = np.random.default_rng(seed)
    z = rng.binomial(2, 0.3, (num_people, M)).astype(np.int8)
    w = rng.normal(size=(num_people, K)) * [1, 10] + [0, 50]
    family = rng.integers(0, num_people // 2, num_people)
    family[: num_people // 10] = 0  # one that is larger than a tile
    u = rng.normal(size=(num_people, 1)) + rng.normal(size=num_people)[family][:, None]
    x = z @ rng.uniform(0.2, 0.5, (M, P)) + w @ rng.normal(size=(K, P)) + u
    x += rng.normal(size=x.shape)
    y = x @ rng.normal(0, 0.2, (P, Q)) - u + rng.normal(size=(num_people, Q))
    for table in (x, y):
        table[rng.random(table.shape) < missing] = np.nan
    x[:, 1], y[:, 1] = np.nan_to_num(x[:, 1]), np.nan_to_num(y[:, 1])
    return y, x, z, w, family


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("small_sample", [False, "n-k"])
@pytest.mark.parametrize("errors", ["classical", "robust", "cluster"])
def test_every_pair_equals_linearmodels(errors, small_sample, missing):
    y, x, z, w, family = make(missing)
    clusters = family if errors == "cluster" else None
    table = iv_many(
        y, x, z, covariates=w, errors=errors, clusters=clusters, small_sample=small_sample
    )
    assert len(table) == P * Q
    for (p, q), row in zip(np.ndindex(P, Q), table.itertuples(), strict=True):
        keep = np.isfinite(x[:, p]) & np.isfinite(y[:, q])
        controls = np.column_stack([np.ones(keep.sum()), w[keep]])
        more = {"clusters": family[keep]} if errors == "cluster" else {}
        oracle = IV2SLS(y[keep, q], controls, x[keep, p], z[keep].astype(float)).fit(
            cov_type=LINEARMODELS[errors], debiased=bool(small_sample), **more
        )
        lower, upper = oracle.conf_int().iloc[-1]
        found = [row.estimate, row.std_error, row.statistic, row.ci_lower, row.ci_upper]
        expected = [oracle.params.iloc[-1], oracle.std_errors.iloc[-1], oracle.tstats.iloc[-1]]
        assert_allclose(found, [*expected, lower, upper], rtol=1e-8)
        # a digit of the statistic is several of so small a p-value
        assert_allclose(np.log(row.pvalue), np.log(oracle.pvalues.iloc[-1]), rtol=1e-8)
        assert (row.num_obs, row.num_instruments, row.note) == (keep.sum(), M, "")


@pytest.mark.parametrize("errors", ["classical", "robust", "cluster"])
def test_every_pair_equals_its_single_run_with_its_own_instruments(errors):
    y, x, z, w, family = make(0.05)
    own = {"exposure_0": ["instrument_0", "instrument_3"], "exposure_1": [2, 4, 5, 6]}
    own["exposure_2"] = list(range(M))
    clusters = family if errors == "cluster" else None
    table = iv_many(y, x, z, instruments_of=own, covariates=w, errors=errors, clusters=clusters)
    columns = [[0, 3], [2, 4, 5, 6], list(range(M))]
    for (p, q), row in zip(np.ndindex(P, Q), table.itertuples(), strict=True):
        keep = np.isfinite(x[:, p]) & np.isfinite(y[:, q])
        codes = None if clusters is None else clusters[keep]
        fit = iv(
            y[keep, q], x[keep, p], z[keep][:, columns[p]], w[keep], errors=errors, clusters=codes
        )
        assert_allclose(row.estimate, fit.params.iloc[0], rtol=1e-10)
        assert_allclose(row.std_error, fit.std_errors.iloc[0], rtol=1e-10)
        assert_allclose(row.pvalue, fit.pvalues.iloc[0], rtol=1e-9)
        assert row.num_instruments == fit.num_instruments == len(columns[p])


def assert_same(found, expected, rtol=1e-10):
    for name in expected:
        if name in EXACT:
            assert list(found[name]) == list(expected[name])
        else:
            assert_allclose(found[name], expected[name], rtol=rtol)


def test_names_come_from_pandas_and_xarray():
    y, x, z, w, _ = make(0.02)
    plain = iv_many(y, x, z, covariates=w)
    names = {"exposure": ["bmi", "ldl", "crp"], "outcome": ["chd", "t2d", "mdd", "ra"]}
    people = [f"person-{i}" for i in range(N)]
    frame = iv_many(
        pd.DataFrame(y, people, names["outcome"]),
        pd.DataFrame(x, people, names["exposure"]),
        xr.DataArray(z, dims=("samples", "variants")),
        covariates=w,
    )
    assert list(frame["exposure"]) == list(np.repeat(names["exposure"], Q))
    assert list(frame["outcome"]) == names["outcome"] * P
    assert_same(frame.drop(columns=["exposure", "outcome"]), plain.iloc[:, 2:], rtol=0)


@pytest.mark.parametrize("errors", ["classical", "robust", "cluster"])
def test_less_memory_gives_the_same_numbers(errors):
    y, x, z, w, family = make(0.1)
    clusters = family if errors == "cluster" else None
    options = {"covariates": w, "errors": errors, "clusters": clusters}
    assert_same(iv_many(y, x, z, memory_limit=30_000, **options), iv_many(y, x, z, **options))


class CountedReads:
    """An array on disk, as dask sees it, that counts how often each row is read."""

    def __init__(self, values):
        self.values, self.reads = values, np.zeros(len(values), dtype=int)
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, index):
        self.reads[index[0]] += 1
        return self.values[index]


@pytest.mark.parametrize(("errors", "passes"), [("classical", 1), ("robust", 2), ("cluster", 2)])
@pytest.mark.parametrize("chunk", [1000, stream_arrays.BLOCK_ROWS, 20_000])
def test_all_pairs_take_two_passes_in_total(errors, passes, chunk):
    y, x, z, w, family = make(0.05, num_people=20_000)
    sources = [CountedReads(table) for table in (y, x, z, w)]
    lazy = [da.from_array(s, chunks=(chunk, -1), lock=True) for s in sources]
    clusters = family if errors == "cluster" else None
    options = {"errors": errors, "clusters": clusters}
    found = iv_many(*lazy[:3], covariates=lazy[3], **options)
    for source in sources:
        assert (source.reads == passes).all()
    assert_same(found, iv_many(y, x, z, covariates=w, **options))


def test_pairs_without_an_estimate_say_why_and_leave_the_others_alone():
    y, x, z, w, _ = make()
    expected = iv_many(y, x, z, covariates=w)
    y, x = y.copy(), x.copy()
    x[:, 0], y[5:, 2], y[:, 3] = 1.0, np.nan, np.nan
    table = iv_many(y, x, z, covariates=w)
    note = table.set_index(["exposure", "outcome"])["note"]
    assert note["exposure_0", "outcome_0"].startswith("the exposure does not vary")
    assert note["exposure_1", "outcome_2"].startswith("too few people")
    assert note["exposure_2", "outcome_3"] == "no one has both traits"
    fine = (table["note"] == "").to_numpy()
    assert fine.sum() == 4
    assert table.loc[~fine, ["estimate", "std_error", "pvalue", "ci_lower"]].isna().all(axis=None)
    assert_same(table[fine], expected[fine], rtol=1e-10)


def test_pairs_without_an_error_say_why():
    y, x, z, w, _ = make()
    one = iv_many(y, x, z, covariates=w, errors="cluster", clusters=np.zeros(N))
    assert (one["note"] == "fewer than two clusters").all()
    assert one["estimate"].notna().all()
    assert one["std_error"].isna().all()
    for errors in ("classical", "robust"):
        exact = iv_many(2 * x, x, z, covariates=w, errors=errors)
        diagonal = exact.iloc[[0, P + 1, 2 * P + 2]]
        assert diagonal["note"].str.startswith("the exposure explains all but rounding").all()
        assert_allclose(diagonal["estimate"], 2)
        assert diagonal["std_error"].isna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruments": np.full((N, M), np.nan)}, "instrument must hold finite numbers"),
        ({"covariates": np.full(N, np.inf)}, "covariate must hold finite numbers"),
        ({"exposures": np.full(N, -np.inf)}, "exposure must hold finite.*NaN, which is missing"),
        ({"outcomes": np.zeros(N - 1)}, "one row per person"),
        ({"errors": "hac"}, "errors must be one of classical, robust, cluster; found 'hac'"),
        ({"errors": "cluster"}, "needs clusters"),
        ({"clusters": np.zeros(N)}, "give both or neither"),
        ({"errors": "cluster", "clusters": np.zeros(3)}, "exposure and cluster must have one row"),
        ({"errors": "cluster", "clusters": np.zeros((N, 2))}, "cluster must be one column"),
        ({"errors": "cluster", "clusters": ["a", np.nan] * (N // 2)}, "everybody needs a cluster"),
        ({"small_sample": "n_k"}, "small_sample must be False, True or \"n-k\"; found 'n_k'"),
        ({"errors": "cluster", "clusters": [None] * N}, "everybody needs a cluster"),
        ({"level": 95}, "level must lie between 0 and 1"),
        ({"instruments_of": {"exposure_0": [0]}}, "none for .*exposure_1"),
        ({"instruments_of": {f"exposure_{i}": [0] for i in (0, 1, 3)}}, "unknown.*exposure_3"),
        ({"instruments_of": {f"exposure_{i}": [M] for i in range(P)}}, "no such column"),
        ({"instruments_of": {f"exposure_{i}": ["rs1"] for i in range(P)}}, "names 'rs1'"),
        ({"instruments_of": {f"exposure_{i}": [1.7] for i in range(P)}}, "names 1.7"),
        ({"instruments_of": {f"exposure_{i}": None for i in range(P)}}, "names None"),
        ({"instruments_of": [0]}, "must be a mapping"),
    ],
)
def test_bad_input_gets_one_sentence(change, message):
    y, x, z, w, _ = make()
    given = {"outcomes": y, "exposures": x, "instruments": z, "covariates": w} | change
    with pytest.raises(InputError, match=message):
        iv_many(**given)


def test_people_of_clusters_and_environments_must_be_those_of_the_rows():
    y, x, z, _, family = make()
    people = pd.Index([f"p{i}" for i in range(N)])
    other = pd.Series(family, people[::-1])
    with pytest.raises(InputError, match="the same people in the same order"):
        iv_many(y, pd.DataFrame(x, people), z, errors="cluster", clusters=other)
    with pytest.raises(InputError, match="the same people in the same order"):
        per_variant(pd.DataFrame(x, people), z, environments=other)


@pytest.mark.parametrize("errors", ["classical", "robust", "cluster"])
def test_a_pair_of_few_people_does_not_stop_the_others(errors):
    y, x, z, _, family = make()
    few = np.full(N, np.nan)
    few[:2] = 1.0, 2.0
    clusters = family if errors == "cluster" else None
    options = {"errors": errors, "clusters": clusters, "small_sample": True}
    both = pd.DataFrame({"chd": y[:, 0], "few": few})
    found = iv_many(both, x, z, **options)
    assert found["note"].iloc[1].startswith("too few people")
    assert_same(found.iloc[::2], iv_many(both[["chd"]], x, z, **options), rtol=1e-12)


def test_an_exposure_that_the_instruments_determine_has_no_estimate():
    y, _, z, w, _ = make()
    found = iv_many(y, z @ np.linspace(0.1, 1, M), z, covariates=w)
    assert found["note"].str.startswith("the instruments determine the exposure").all()
    assert found["estimate"].isna().all()


def test_more_patterns_than_memory_are_refused():
    y, x, z, w, _ = make(0.1)
    with pytest.raises(InputError, match=r"patterns of missing traits.*raise it"):
        iv_many(y, x, z, covariates=w, memory_limit=5_000)


def test_scattered_clusters_of_lazy_arrays_must_fit_into_memory():
    y, x, z, _, family = make(num_people=20_000)
    lazy = [da.from_array(table, chunks=(5_000, -1)) for table in (y, x, z)]
    with pytest.raises(InputError, match=r"clusters have people in several blocks.*sort people"):
        iv_many(*lazy, errors="cluster", clusters=family, memory_limit=100_000)


def test_associations_per_variant_and_environment_are_regressions():
    y, x, z, w, _ = make(0.05)
    environments = np.array(["north", "south"])[np.arange(N) % 2]
    t = np.concatenate([x, y], axis=1)
    table = per_variant(t, z, w, environments=environments)
    assert len(table) == 2 * M * (P + Q)
    rows = table.set_index(["environment", "instrument", "trait"])
    for place, m, k in [("north", 0, 0), ("south", 3, 5), ("south", M - 1, P + Q - 1)]:
        keep = (environments == place) & np.isfinite(t[:, k])
        columns = np.column_stack([z[keep, m], np.ones(keep.sum()), w[keep]])
        inverse = np.linalg.inv(columns.T @ columns)
        b = inverse @ columns.T @ t[keep, k]
        rss = np.sum((t[keep, k] - columns @ b) ** 2)
        se = np.sqrt(rss / (keep.sum() - K - 2) * inverse[0, 0])
        row = rows.loc[place, f"instrument_{m}", f"trait_{k}"]
        assert_allclose([row["beta"], row["std_error"]], [b[0], se], rtol=1e-9)
        assert row["num_obs"] == keep.sum()


def test_associations_without_environments_are_those_of_everybody():
    _, x, z, w, _ = make()
    table = per_variant(pd.Series(x[:, 0], name="bmi"), z, w)
    columns = ["instrument", "trait", "beta", "std_error", "pvalue", "num_obs"]
    assert list(table.columns) == columns
    assert set(table["trait"]) == {"bmi"}
    fit = iv(x[:, 0], z[:, 0].astype(float), z[:, 1:], w, estimator="ols", errors="classical")
    assert_allclose(table["beta"][0], fit.params.iloc[0], rtol=1e-10)


def test_a_mask_of_instruments_is_their_numbers():
    y, x, z, w, _ = make()
    mask = np.arange(M) % 2 == 0
    own = {f"exposure_{i}": mask for i in range(P)}
    numbers = {name: np.flatnonzero(mask) for name in own}
    found = iv_many(y, x, z, instruments_of=own, covariates=w)
    assert_same(found, iv_many(y, x, z, instruments_of=numbers, covariates=w), rtol=0)


def test_instruments_are_named_by_their_labels_before_their_place():
    y, x, z = make()[:3]
    table = pd.DataFrame(z[:, :4], columns=[1, 2, 3, 12])
    for chosen, columns in (([1, 2], [0, 1]), ("12", [3]), (12, [3]), (0, [0])):
        found = iv_many(y[:, :1], x[:, :1], table, instruments_of={"exposure": chosen})
        same = iv_many(y[:, :1], x[:, :1], z[:, columns])
        assert_allclose(found["estimate"], same["estimate"], rtol=1e-10)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((9, 0), (9, 1), (9, 2)), "at least one outcome"),
        (((9, 1), (9, 0), (9, 2)), "at least one exposure"),
        (((9, 1), (9, 1), (9, 0)), "at least one instrument"),
        (((0, 1), (0, 1), (0, 2)), "needs people"),
    ],
)
def test_pairs_of_nothing_are_refused(shapes, message):
    with pytest.raises(InputError, match=message):
        iv_many(*map(np.zeros, shapes))
