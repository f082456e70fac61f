"""Latent-mixing designs: the laws, the equations, the violations, and who is biased by how much."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mrscale.errors import InputError
from mrscale.simulate.designs import exposure_score, redraw_traits, simulate_latent

SEEDS = range(4)


def _groups(data, name):
    environment = data.environment.to_numpy()
    values = data[name].to_numpy()
    return [values[environment == e] for e in range(data.attrs["num_environments"])]


def _pvalues(data, name):
    """Of equal means, equal variances and equal laws over environments, smallest over latents."""
    columns = list(zip(*(g.T for g in _groups(data, name)), strict=True))
    return (
        min(stats.f_oneway(*c).pvalue for c in columns),
        min(stats.levene(*c).pvalue for c in columns),
        min(stats.ks_2samp(c[0], other).pvalue for c in columns for other in c[1:]),
    )


@pytest.mark.parametrize("shift", ["covariance", "mean", "scale", "shape"])
def test_exogenous_latent_has_one_law_independent_of_the_confounded_one(shift):
    for seed in SEEDS:
        data = simulate_latent(shift=shift, seed=seed)
        assert min(_pvalues(data, "z_exogenous")) > 1e-4
        for z in data.z_exogenous.to_numpy().T:
            assert stats.kstest(z, "uniform", (-np.sqrt(3), 2 * np.sqrt(3))).pvalue > 1e-4
        for z_i, z_c in zip(
            _groups(data, "z_exogenous"), _groups(data, "z_confounded"), strict=True
        ):
            across = np.corrcoef(z_i.T, z_c.T)[:2, 2:]
            assert np.abs(across).max() < 5 / np.sqrt(2000)


@pytest.mark.parametrize(
    ("shift", "means_move", "variances_move"),
    [
        ("covariance", True, True),
        ("mean", True, False),
        ("scale", False, True),
        ("shape", True, True),
    ],
)
def test_confounded_latent_moves_as_the_shift_says(shift, means_move, variances_move):
    for seed in SEEDS:
        data = simulate_latent(shift=shift, seed=seed, num_people=20_000)
        means, variances, laws = _pvalues(data, "z_confounded")
        assert (means < 1e-20) if means_move else (means > 1e-4)
        assert (variances < 1e-20) if variances_move else (variances > 1e-4)
        assert laws < 1e-20
        z = data.z_confounded.to_numpy()
        np.testing.assert_allclose([z.mean(axis=0), z.std(axis=0)], [[0, 0], [1, 1]], atol=1e-9)


def test_only_the_shape_shift_is_skewed_and_only_in_odd_environments():
    normal, skewed = (simulate_latent(shift=s, num_people=20_000) for s in ("covariance", "shape"))
    assert min(stats.skewtest(g).pvalue.min() for g in _groups(normal, "z_confounded")) > 1e-4
    for e, g in enumerate(_groups(skewed, "z_confounded")):
        # the most skewed of many directions, since a sum of exponentials can be nearly symmetric
        turn = np.linspace(0, np.pi, 20)
        most = np.abs(stats.skew(g @ [np.cos(turn), np.sin(turn)])).max()
        assert (most > 1) if e % 2 else (most < 0.15)


def test_covariances_and_means_are_spread_over_the_stated_range():
    """Moments before standardising, recovered from ratios between environments of one data set."""
    ratios, shares = [], []
    for seed in range(60):
        data = simulate_latent("linear", num_people=2000, num_confounded=1, seed=seed)
        groups = _groups(data, "z_confounded")
        variances = np.array([g.var() for g in groups])
        ratios.append(np.ptp(np.log(variances)) / 2)
        means = np.array([g.mean() for g in groups])
        shares.append(means.var() / variances.mean())
    # expected range of five uniform logarithms, and E mu^2 (E - 1) / E over E sd^2
    assert np.mean(ratios) == pytest.approx(np.log(3) * 2 / 3, abs=0.08)
    assert np.median(shares) == pytest.approx(0.8 / 0.91, abs=0.25)


def test_two_environments_differ_clearly():
    for seed in range(20):
        groups = _groups(simulate_latent(num_environments=2, seed=seed), "z_confounded")
        assert np.abs(groups[0].mean(axis=0) - groups[1].mean(axis=0)).min() > 0.6


def test_traits_follow_the_equations():
    data = simulate_latent(effect=0.7, num_people=20_000)
    score, c, u, d, y, z_i, z_c = (
        data[k].to_numpy()
        for k in (
            "score",
            "confounding",
            "confounder",
            "exposure",
            "outcome",
            "z_exogenous",
            "z_confounded",
        )
    )
    s = (z_i[:, 0] + z_i[:, 1]) / np.sqrt(2) + 0.3 * np.sqrt(2) * (z_i**2 - 1).mean(axis=1)
    np.testing.assert_allclose(score, (s - s.mean()) / s.std())
    mean = z_c.sum(axis=1)
    np.testing.assert_allclose(c, mean / mean.std(), atol=1e-12)
    noises = (
        (u - 0.8 * c, 0.6),
        (d - 0.8 * score - 0.5 * c - 0.6 * u, 0.7),
        (y - 0.7 * d - 0.8 * u - 0.3 * c, 0.7),
    )
    for noise, sd in noises:
        assert stats.kstest(noise / sd, "norm").pvalue > 1e-3
        for cause in (score, c, *z_i.T, *z_c.T):
            assert abs(np.corrcoef(noise, cause)[0, 1]) < 4.5 / np.sqrt(20_000)
    assert np.abs(np.corrcoef([n for n, _ in noises]) - np.eye(3)).max() < 4.5 / np.sqrt(20_000)


def test_no_curvature_is_a_linear_first_stage():
    z = np.random.default_rng(0).standard_normal((50, 3))
    assert np.corrcoef(exposure_score(z, 0.0), z.sum(axis=1))[0, 1] == pytest.approx(1)
    assert np.corrcoef(exposure_score(z, 0.3), z.sum(axis=1))[0, 1] < 0.99


def _bias(tsls, data, instruments, controls=None):
    return tsls(data.outcome.to_numpy(), data.exposure.to_numpy(), instruments, controls)[0] - 1


def _oracle(data):
    z = data.z_exogenous.to_numpy()
    return np.hstack([z, z**2])


@pytest.mark.parametrize("mixing", ["linear", "poly2", "mlp", "tanh", "factor"])
def test_naive_estimate_is_biased_by_six_tenths_and_the_oracle_is_not(mixing, tsls):
    data = [simulate_latent(mixing, seed=seed) for seed in SEEDS]
    naive = [_bias(tsls, d, d.x.to_numpy()) for d in data]
    oracle = [_bias(tsls, d, _oracle(d)) for d in data]
    assert 0.5 < np.mean(naive) < 0.7
    assert abs(np.mean(oracle)) < 0.02


def test_mendelian_estimate_is_repaired_by_environments_and_ancestry(tsls):
    data = [simulate_latent("mendelian", seed=seed) for seed in SEEDS]
    naive = [_bias(tsls, d, d.x.to_numpy()) for d in data]
    oracle = [_bias(tsls, d, d.z_exogenous.to_numpy()) for d in data]
    adjusted = [_bias(tsls, d, d.x.to_numpy(), d.z_confounded.to_numpy()) for d in data]
    assert np.mean(naive) > 0.4
    assert abs(np.mean(oracle)) < 0.04
    assert abs(np.mean(adjusted)) < 0.06
    for d in data:
        assert set(np.unique(d.x)) == {0.0, 1.0, 2.0}
        assert _pvalues(d, "z_exogenous")[0] > 1e-4


def test_unmoved_confounder_has_one_law_and_still_confounds(tsls):
    for seed in SEEDS:
        data = simulate_latent(violation="unmoved_confounder", seed=seed)
        assert min(_pvalues(data, "z_confounded")) > 1e-4
        dummies = np.eye(5)[data.environment.to_numpy()][:, 1:]
        assert _bias(tsls, data, data.x.to_numpy(), dummies) > 0.4


def test_shifting_latent_shifts():
    for seed in SEEDS:
        data = simulate_latent(violation="shifting_latent", seed=seed)
        assert _pvalues(data, "z_exogenous")[0] < 1e-20
        z = data.z_exogenous.to_numpy()
        np.testing.assert_allclose([z.mean(axis=0), z.std(axis=0)], [[0, 0], [1, 1]], atol=1e-9)


def test_dependent_latent_biases_the_oracle_and_leaves_the_instruments_as_they_were(tsls):
    for seed in SEEDS:
        sound = simulate_latent(seed=seed)
        data = simulate_latent(violation="dependent_latent", seed=seed)
        assert np.array_equal(data.x, sound.x)
        # cov(s, U) = 0.6 * 0.5: bias 0.8 * 0.3 / (0.8 + 0.6 * 0.3)
        assert _bias(tsls, data, _oracle(data)) == pytest.approx(0.24 / 0.98, abs=0.05)
        assert data.confounder.std() == pytest.approx(1, abs=0.03)
        correlation = np.corrcoef(data.score, data.confounder)[0, 1]
        assert correlation == pytest.approx(0.3, abs=0.04)
        assert abs(np.corrcoef(sound.score, sound.confounder)[0, 1]) < 0.04


def test_effects_differ_over_environments_by_the_sd_asked_for(tsls):
    data = simulate_latent(heterogeneity=0.4, effect=0.5, num_people=40_000, seed=3)
    effects = data.environment_effect.to_numpy()
    assert [effects.mean(), effects.std()] == pytest.approx([0.5, 0.4])
    environment = data.environment.to_numpy()
    for e, effect in enumerate(effects):
        own = data.isel(samples=environment == e)
        assert _bias(tsls, own, _oracle(own)) + 1 == pytest.approx(effect, abs=0.06)
    assert np.array_equal(simulate_latent(effect=0.5).environment_effect, np.full(5, 0.5))


def test_redraws_keep_the_people_and_change_every_noise():
    data = simulate_latent(num_people=4000)
    before = data.copy(deep=True)
    exposure, outcome = redraw_traits(data, seed=1, num_redraws=20)
    assert data.identical(before)
    assert exposure.shape == outcome.shape == (4000, 20)
    score, c = data.score.to_numpy(), data.confounding.to_numpy()
    # D given the latents: 0.6 * 0.6 e_U + 0.7 e_D; Y - D: 0.8 * 0.6 e_U + 0.7 e_Y
    noise_d = exposure - (0.8 * score + (0.5 + 0.6 * 0.8) * c)[:, None]
    noise_y = outcome - exposure - ((0.8 * 0.8 + 0.3) * c)[:, None]
    assert noise_d.var() == pytest.approx(0.36**2 + 0.49, rel=0.03)
    assert noise_y.var() == pytest.approx(0.48**2 + 0.49, rel=0.03)
    assert np.mean(noise_d * noise_y) == pytest.approx(0.36 * 0.48, abs=0.015)
    for noise in (noise_d, noise_y):
        own = data.exposure.to_numpy()[:, None]
        assert np.abs(np.corrcoef(noise.T) - np.eye(20)).max() < 5 / np.sqrt(4000)
        assert not np.isclose(exposure, own).all(axis=0).any()


@pytest.mark.parametrize("mixing", ["mlp", "factor"])
def test_redraws_have_the_bias_of_the_first_draw_and_the_oracle_has_none(mixing, tsls):
    """Six tenths with all features; redraws of one data set scatter around it."""
    data = simulate_latent(mixing, num_people=4000, seed=2)
    exposure, outcome = redraw_traits(data, seed=5, num_redraws=12)
    naive, oracle = (
        [tsls(y, d, z)[0] - 1 for d, y in zip(exposure.T, outcome.T, strict=True)]
        for z in (data.x.to_numpy(), _oracle(data))
    )
    assert 0.5 < np.mean(naive) < 0.7
    assert 0 < np.std(naive) < 0.05
    assert abs(np.mean(oracle)) < 4 * np.std(oracle) / np.sqrt(12)


def test_redraws_follow_their_seed_and_the_data_sets():
    data, other = (simulate_latent(num_people=500, seed=seed) for seed in (0, 1))
    first = redraw_traits(data, 3, 2)
    assert np.array_equal(first, redraw_traits(data, 3, 2))
    assert not np.isclose(first, redraw_traits(data, 4, 2)).any(axis=(0, 1)).all()

    def noise(d):
        fixed = 0.8 * d.score.to_numpy() + 0.98 * d.confounding.to_numpy()
        return redraw_traits(d, 3)[0][:, 0] - fixed

    assert abs(np.corrcoef(noise(data), noise(other))[0, 1]) < 0.2


def test_redraws_know_the_violation_and_the_effects():
    data = simulate_latent(violation="dependent_latent", heterogeneity=0.5, num_people=4000)
    exposure, outcome = redraw_traits(data, num_redraws=20)
    effect = data.environment_effect.to_numpy()[data.environment.to_numpy()][:, None]
    u_and_noise = outcome - effect * exposure - 0.3 * data.confounding.to_numpy()[:, None]
    # 0.8 U and noise: the slope on s is 0.8 * 0.6 * 0.5
    slope = data.score.to_numpy() @ u_and_noise / len(exposure)
    assert slope.mean() == pytest.approx(0.24, abs=0.03)


def test_equal_arguments_give_equal_bytes_and_streams_do_not_interfere():
    one, two, other = (simulate_latent("poly3", seed=seed, num_people=300) for seed in (5, 5, 6))
    for name in one:
        assert one[name].to_numpy().tobytes() == two[name].to_numpy().tobytes()
        assert other[name].dims == one[name].dims
    assert not np.isclose(one.x, other.x).any(axis=1).all()
    changed = simulate_latent("poly3", seed=5, num_people=300, effect=3.0, heterogeneity=1.0)
    for name in ("x", "environment", "exposure", "confounder"):
        assert np.array_equal(one[name], changed[name])
    assert np.array_equal(
        one.z_confounded, simulate_latent("tanh", seed=5, num_people=300).z_confounded
    )


def test_people_come_in_random_order_from_environments_of_equal_size():
    data = simulate_latent(num_people=1003, num_environments=4)
    environment = data.environment.to_numpy()
    assert environment.dtype == np.int16
    assert sorted(np.bincount(environment)) == [250, 251, 251, 251]
    assert abs(np.corrcoef(environment, np.arange(1003))[0, 1]) < 0.15


def test_attributes_state_the_design():
    data = simulate_latent("factor", num_people=100, violation="shifting_latent", seed=9)
    assert data.attrs == {
        "mixing": "factor",
        "num_exogenous": 2,
        "num_confounded": 2,
        "num_features": 200,
        "num_environments": 5,
        "num_people": 100,
        "shift": "covariance",
        "violation": "shifting_latent",
        "effect": 1.0,
        "curvature": 0.3,
        "heterogeneity": 0.0,
        "linkage": 0.0,
        "seed": 9,
    }
    assert simulate_latent(num_people=100).attrs["violation"] == "none"
    assert simulate_latent("mendelian", num_people=100).attrs["num_exogenous"] == 1


def test_features_see_both_latents_and_nothing_else():
    """x is a function of the latents: no trait, effect or environment enters but through them."""
    for mixing in ("linear", "poly2", "poly3", "mlp", "tanh", "fold", "maxpool"):
        data, other = (
            simulate_latent(mixing, num_people=300, effect=e, heterogeneity=h)
            for e, h in ((1.0, 0.0), (-3.0, 0.7))
        )
        assert np.array_equal(data.x, other.x)
        x = data.x - data.x.mean("samples")
        for name in ("z_exogenous", "z_confounded"):
            z = data[name].to_numpy()
            explained = z @ np.linalg.lstsq(z, x.to_numpy())[0]
            assert explained.var() > 0.1 * x.to_numpy().var()


@pytest.mark.parametrize("mixing", ["fold", "maxpool", "dropout"])
def test_mixings_that_lose_information_still_make_biased_instruments(mixing, tsls):
    data = [simulate_latent(mixing, seed=seed) for seed in SEEDS]
    assert np.mean([_bias(tsls, d, d.x.to_numpy()) for d in data]) > 0.3
    assert abs(np.mean([_bias(tsls, d, _oracle(d)) for d in data])) < 0.02


def test_factor_dosages_are_binomial_with_logits_linear_in_the_latents():
    """A logistic regression on the latents has binomial errors, and no squares are left over."""
    data = simulate_latent("factor", num_people=20_000, num_features=6)
    z = np.hstack([np.ones((20_000, 1)), data.z_exogenous, data.z_confounded])
    for dosage in data.x.to_numpy().T:
        weight = np.zeros(5)
        for _ in range(12):
            p = 1 / (1 + np.exp(-z @ weight))
            information = (z * (2 * p * (1 - p))[:, None]).T @ z
            weight += np.linalg.solve(information, z.T @ (dosage - 2 * p))
        pearson = (dosage - 2 * p) ** 2 / (2 * p * (1 - p))
        assert pearson.mean() == pytest.approx(1, abs=5 * pearson.std() / np.sqrt(20_000))
        for column in (z[:, 1] ** 2 - 1, z[:, 3] ** 2 - 1, z[:, 1] * z[:, 3]):
            left = (dosage - 2 * p) * column
            assert abs(left.mean()) < 4.5 * left.std() / np.sqrt(20_000)


def test_mendelian_exposure_depends_on_dosages_and_frequencies_on_ancestry_only():
    data = simulate_latent("mendelian", num_people=20_000, num_features=30)
    x, score = data.x.to_numpy(), data.score.to_numpy()
    design = np.hstack([np.ones((20_000, 1)), x])
    fitted = design @ np.linalg.lstsq(design, score)[0]
    np.testing.assert_allclose(fitted, score, atol=1e-9)
    by_chance, ancestry = data.z_exogenous.to_numpy()[:, 0], data.z_confounded.to_numpy()
    curved = np.hstack([np.ones((20_000, 1)), ancestry, ancestry**2])
    for part, low, high in ((by_chance, 0, 16 / 20_000), (score - by_chance, 0.9, 1)):
        explained = curved @ np.linalg.lstsq(curved, part)[0]
        assert low < explained.var() / part.var() < high


def test_linkage_reaches_the_dosages():
    plain, linked = (
        np.corrcoef(simulate_latent("factor", linkage=k, num_people=2000).x.T) for k in (0, 0.9)
    )
    assert np.diag(linked, 1).mean() > np.diag(plain, 1).mean() + 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixing": "cube"}, r"mixing must be one of linear.*mendelian; found 'cube'; choose"),
        ({"shift": "time"}, "shift must be one of covariance.*; found 'time'; choose"),
        ({"violation": "all"}, "violation must be one of none.*; found 'all'; choose"),
        ({"num_exogenous": 0}, "num_exogenous must be at least 1; found 0; give"),
        ({"num_confounded": -1}, "num_confounded must be at least 1; found -1; give"),
        ({"num_environments": 0}, "num_environments must be at least 1; found 0; give"),
        ({"num_features": 3}, "num_features must be .* = 4; found 3; ask for more features"),
        ({"num_people": 49}, "5 environments need at least 50 people; found num_people = 49; ask"),
        ({"mixing": "mendelian", "num_exogenous": 2}, "needs num_exogenous = 1 .* found .* = 2"),
        (
            {"mixing": "mendelian", "violation": "shifting_latent"},
            "does not shift .* found .*'shifting_latent'; leave them out",
        ),
        ({"effect": np.inf}, "effect and curvature must be finite; found inf and 0.3; give"),
        ({"curvature": np.nan}, "effect and curvature must be finite; found 1.0 and nan; give"),
        ({"heterogeneity": -0.1}, "heterogeneity must be .*; found -0.1 with 5 environments; give"),
        (
            {"heterogeneity": 0.1, "num_environments": 1},
            "0 if there is one environment; found 0.1 with 1 environments",
        ),
        ({"linkage": 0.5}, "0 unless mixing is factor or mendelian; found 0.5 with 'mlp'; leave"),
        ({"mixing": "factor", "linkage": 1.5}, "linkage must be a probability.* found 1.5"),
        ({"seed": -1}, "seed must be 0 or more; found -1; give"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        simulate_latent(**arguments)
