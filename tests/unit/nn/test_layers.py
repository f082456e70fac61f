"""Each invertible layer against autograd's Jacobian, and what keeps it invertible."""

from __future__ import annotations

import pytest
import torch

from mrscale.nn.layers import (
    LIPSCHITZ,
    ElementwiseSpline,
    FreeLinear,
    ResidualBlock,
    rational_quadratic,
)

R, B, P, H = 2, 5, 3, 8


def randomised(layer, scale, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layer.double()
    for parameter in layer.parameters():
        parameter.data = scale * torch.randn(
            parameter.shape, generator=generator, dtype=torch.float64
        )
    return layer


def block(scale):
    return randomised(ResidualBlock(R, P, H, torch.Generator()), scale)


LAYERS = {
    "linear": lambda: randomised(FreeLinear(torch.eye(P).expand(R, P, P)), 1.0),
    "residual": lambda: block(0.3),
    "residual at its bound": lambda: block(20.0),
    "spline": lambda: randomised(ElementwiseSpline(R, P), 1.0),
}


@pytest.fixture
def z():
    # wider than the spline's tails, so that both of its branches are met
    return 3 * torch.randn(R, B, P, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", LAYERS)
def test_log_determinant_is_that_of_autograds_jacobian(name, z):
    layer = LAYERS[name]()
    log_det = layer(z)[1].expand(R, B)
    for r in range(R):
        for b in range(B):

            def one_person(point, r=r, b=b):
                moved = z.clone()
                moved[r, b] = point
                return layer(moved)[0][r, b]

            jacobian = torch.autograd.functional.jacobian(one_person, z[r, b])
            expected = torch.linalg.slogdet(jacobian).logabsdet
            torch.testing.assert_close(log_det[r, b], expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_residual_branch_is_a_contraction_for_large_weights(scale, z):
    layer = block(scale)
    branch = layer(z)[0] - z
    nearby = z + 1e-3 * torch.randn_like(z)
    ratio = (layer(nearby)[0] - nearby - branch).norm(dim=-1) / (nearby - z).norm(dim=-1)
    assert ratio.max() <= LIPSCHITZ


def test_residual_block_with_large_weights_is_inverted_by_fixed_point_iteration(z):
    layer = block(100.0)
    with torch.no_grad():
        mapped = layer(z)[0]
        found = mapped
        for _ in range(1500):  # 0.97 ** 1500 is 1e-20
            before, found = found, mapped - (layer(found)[0] - found)
            if torch.equal(before, found):
                break
    torch.testing.assert_close(found, z, rtol=0, atol=1e-10)


def test_residual_bound_leaves_small_weights_alone():
    layer = block(0.05)
    torch.testing.assert_close(layer._bounded_w3(), layer.w3, rtol=0, atol=0)


def test_residual_block_starts_as_almost_the_identity(z):
    layer = ResidualBlock(R, P, H, torch.Generator().manual_seed(0)).double()
    mapped, log_det = layer(z)
    assert (mapped - z).abs().max() < 0.05
    assert log_det.abs().max() < 0.05


def test_spline_starts_as_the_identity(z):
    mapped, log_det = ElementwiseSpline(R, P).double()(z)
    torch.testing.assert_close(mapped, z, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_det, torch.zeros(R, B, dtype=torch.float64), rtol=0, atol=1e-12)


def spline_1d(values):
    """A rough spline of one coordinate, and its slope."""
    layer = randomised(ElementwiseSpline(1, 1), 2.0, seed=3)
    mapped, log_slope = layer(values[None, :, None])
    return mapped[0, :, 0].detach(), log_slope[0].exp().detach()


def test_spline_is_increasing_and_its_slope_is_the_difference_quotient():
    grid = torch.linspace(-5, 5, 200_001, dtype=torch.float64)
    mapped, slope = spline_1d(grid)
    steps = mapped.diff()
    assert (steps > 0).all()
    between = torch.maximum(slope[1:], slope[:-1]) * 1.01 + 1e-9
    # the value is held constant in the last 1e-6 before a tail: leave those steps out
    inner = (grid[:-1].abs() < 3.999) & (grid[1:].abs() < 3.999)
    assert (steps / grid.diff() <= between)[inner].all()


def test_spline_is_continuous_at_its_tails():
    # slope 1 on both sides, value within the millionth that numbers are kept away from the tail
    points = torch.tensor([-4.0, -4.0 + 1e-5, 4.0 - 1e-5, 4.0, 4.7], dtype=torch.float64)
    mapped, slope = spline_1d(points)
    torch.testing.assert_close(mapped, points, rtol=0, atol=1e-5)
    torch.testing.assert_close(slope, torch.ones_like(points), rtol=0, atol=1e-2)


def test_spline_is_inverted_by_bisection():
    values = torch.linspace(-3.9, 3.9, 101, dtype=torch.float64)
    low, high = torch.full_like(values, -5.0), torch.full_like(values, 5.0)
    for _ in range(60):
        middle = (low + high) / 2
        above = spline_1d(middle)[0] > values
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    torch.testing.assert_close(spline_1d(low)[0], values, rtol=0, atol=1e-9)


def test_rational_quadratic_goes_through_its_knots():
    bins, tail = 4, 2.0
    sizes = torch.log(torch.tensor([1.0, 2.0, 3.0, 2.0], dtype=torch.float64))
    flat = torch.zeros(bins, dtype=torch.float64)
    slopes = torch.zeros(bins - 1, dtype=torch.float64)
    # bins of share 1/8, 2/8, 3/8, 2/8 (before the smallest size of 0.001) go to equal ones
    share = 1e-3 + (1 - 4e-3) * torch.softmax(sizes, -1)
    knots = -tail + 2 * tail * torch.cumsum(share, -1)[:-1]
    arguments = [values.expand(3, -1) for values in (sizes, flat, slopes)]
    mapped, log_slope = rational_quadratic(knots, *arguments, tail)
    expected = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(mapped, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_slope, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)
