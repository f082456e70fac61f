"""Mixing functions: which can be inverted, which cannot, and that they are what they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from mrscale.simulate.mixing import MIXINGS, draw_mixing, log_uniform, well_conditioned

INVERTIBLE = ("linear", "poly2", "poly3", "mlp", "tanh")
DIM = 4


def _drawn(kind, seed, num_features=DIM, num_people=500):
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((num_people, DIM))
    return draw_mixing(rng, kind, latents, num_features), latents


def _jacobians(mix, latents, step=1e-5):
    """Central differences, shape (N, M, D)."""
    moves = step * np.eye(DIM)
    return np.stack([(mix(latents + h) - mix(latents - h)) / (2 * step) for h in moves], axis=2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", INVERTIBLE)
def test_jacobian_of_invertible_mixings_never_changes_sign(kind, seed):
    sign = np.sign(np.linalg.det(_jacobians(*_drawn(kind, seed))))
    assert abs(sign.sum()) == len(sign)


@pytest.mark.parametrize("kind", ["fold", "maxpool"])
def test_jacobian_of_folds_and_maxima_changes_sign(kind):
    changes = [
        len(np.unique(np.sign(np.linalg.det(_jacobians(*_drawn(kind, seed)))))) for seed in range(6)
    ]
    assert max(changes) == 2


@pytest.mark.parametrize("num_features", [DIM, DIM + 3])
@pytest.mark.parametrize("kind", INVERTIBLE)
def test_latents_are_recovered_from_features(kind, num_features):
    mix, latents = _drawn(kind, 5, num_features)
    for z in latents[:15]:
        x = mix(z[None])[0]

        def miss(guess, x=x):
            return mix(guess[None])[0] - x

        found = optimize.least_squares(miss, np.zeros(DIM), xtol=1e-12, ftol=1e-12, gtol=1e-12)
        np.testing.assert_allclose(found.x, z, atol=1e-4)


def test_folded_people_share_their_features_with_others():
    """-1 - t and -1 + t give the same value, so half of the coordinates have a twin."""
    mix, latents = _drawn("fold", 2)
    rng = np.random.default_rng(2)
    rng.standard_normal(latents.shape)
    first = well_conditioned(rng, DIM, DIM, (0.8, 1.25))
    mirrored = latents @ first.T
    mirrored[:, : DIM // 2] = -2 - mirrored[:, : DIM // 2]
    twins = np.linalg.solve(first, mirrored.T).T
    np.testing.assert_allclose(mix(twins), mix(latents), atol=1e-12)
    assert np.abs(twins - latents).max(axis=1).min() > 0.1


def test_dropout_is_the_network_with_one_value_in_ten_missing():
    lossy, latents = _drawn("dropout", 3, num_people=5000)
    whole, _ = _drawn("mlp", 3, num_people=5000)
    seen, full = lossy(latents), whole(latents)
    dropped = seen == 0
    np.testing.assert_array_equal(seen[~dropped], full[~dropped])
    assert dropped.mean() == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / dropped.size))
    assert np.abs(np.corrcoef(dropped.T) - np.eye(DIM)).max() < 5 / np.sqrt(5000)


def test_polynomials_have_the_degree_of_their_name():
    """Differences of order degree + 1 along a line vanish, those of order degree do not."""
    points = np.arange(8.0)[:, None] * np.array([0.3, -0.5, 0.7, 0.2]) - 1
    for kind, degree in (("linear", 1), ("poly2", 2)):
        x = _drawn(kind, 0, DIM)[0](points)
        assert np.abs(np.diff(x, degree, axis=0)).max() > 1e-3
        assert np.abs(np.diff(x, degree + 1, axis=0)).max() < 1e-10
    cubes = np.diff(_drawn("poly3", 0, DIM)[0](points), 3, axis=0)
    assert np.abs(cubes).max() > 1e-3
    assert np.abs(np.diff(cubes, axis=0)).max() < 1e-10


def test_cubes_of_poly3_are_felt():
    mix, z = _drawn("poly3", 0, num_people=4000)
    x, i, j = mix(z), *np.tril_indices(DIM)
    quadratic = np.hstack([np.ones((4000, 1)), z, z[:, i] * z[:, j]])
    residual = x - quadratic @ np.linalg.lstsq(quadratic, x, rcond=None)[0]
    assert (residual.var(axis=0) / x.var(axis=0)).max() > 0.1


def test_poly2_is_triangular_with_the_jacobian_of_its_linear_parts():
    sizes = np.linalg.slogdet(_jacobians(*_drawn("poly2", 1)))[1]
    assert np.ptp(sizes) < 1e-6


@pytest.mark.parametrize("kind", ["mlp", "tanh"])
def test_layers_of_a_network_stay_non_linear(kind):
    mix, latents = _drawn(kind, 4, num_people=4000)
    x, design = mix(latents), np.hstack([np.ones((4000, 1)), latents])
    residual = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
    assert (residual.var(axis=0) / x.var(axis=0)).max() > 0.03


@pytest.mark.parametrize("kind", MIXINGS)
def test_features_come_in_the_number_asked_for_and_follow_the_seed(kind):
    for num_features in (DIM, 9):
        one, two = (
            mix(latents) for mix, latents in (_drawn(kind, 7, num_features) for _ in range(2))
        )
        assert one.shape == (500, num_features)
        assert one.tobytes() == two.tobytes()
        assert not np.allclose(one, _drawn(kind, 8, num_features)[0](_drawn(kind, 7)[1]))


def test_singular_values_are_log_uniform_within_bounds():
    rng = np.random.default_rng(0)
    values = np.array(
        [
            np.linalg.svd(well_conditioned(rng, 5, 3, (0.5, 1.5)), compute_uv=False)
            for _ in range(400)
        ]
    )
    assert values.min() >= 0.5
    assert values.max() <= 1.5
    assert np.log(values).mean() == pytest.approx(np.log(0.75) / 2, abs=0.04)
    drawn = np.log(log_uniform(rng, (0.5, 1.5), (20_000,)))
    assert drawn.var() == pytest.approx(np.log(3) ** 2 / 12, rel=0.05)
