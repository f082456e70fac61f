"""Each invertible layer against autograd's Jacobian, and what keeps it invertible."""

from __future__ import annotations

import pytest
import torch

from mrscale.nn.layers import (
    LIPSCHITZ,
    SILU_LIPSCHITZ,
    ElementwiseSpline,
    ResidualStack,
    log_det_near_identity,
    rational_quadratic,
    silu_and_slope,
)

R, P, B, H = 2, 3, 5, 8


def randomised(layer, scale, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layer.double()
    for parameter in layer.parameters():
        parameter.data = scale * torch.randn(
            parameter.shape, generator=generator, dtype=torch.float64
        )
    return layer


def stack(scale, blocks=3):
    """Blocks whose every matrix is away from its start, the linear ones included."""
    return randomised(ResidualStack(R, blocks, P, H, torch.Generator()), scale)


def branch(scale):
    """One block without its linear map: only ``z + W3 silu(W1 z + b1) + b3``."""
    layer = stack(scale, blocks=1)
    layer.weight.data[:] = torch.eye(P)
    layer.bias.data.zero_()
    return layer


LAYERS = {
    "blocks": lambda: stack(0.5),
    "blocks at their bound": lambda: stack(20.0, blocks=2),
    "branch at its bound": lambda: branch(20.0),
    "spline": lambda: randomised(ElementwiseSpline(R, P), 1.0),
}


@pytest.fixture
def z():
    # wider than the spline's tails, so that both of its branches are met
    return 3 * torch.randn(R, P, B, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", LAYERS)
def test_log_determinant_is_that_of_autograds_jacobian(name, z):
    layer = LAYERS[name]()
    log_det = layer(z)[1]
    assert log_det.shape == (R, B)
    for r in range(R):
        for b in range(B):

            def one_person(point, r=r, b=b):
                moved = z.clone()
                moved[r, :, b] = point
                return layer(moved)[0][r, :, b]

            jacobian = torch.autograd.functional.jacobian(one_person, z[r, :, b])
            expected = torch.linalg.slogdet(jacobian).logabsdet
            torch.testing.assert_close(log_det[r, b], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_a_replica_side_by_side_is_that_replica_alone(name, z):
    layer = LAYERS[name]()
    mapped, log_det = layer(z)
    for r in range(R):
        alone = LAYERS[name]()
        for parameter in alone.parameters():
            parameter.data = parameter.data[[r]]
        found = alone(z[[r]])
        torch.testing.assert_close(found[0][0], mapped[r], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found[1][0], log_det[r], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_residual_branch_is_a_contraction_for_large_weights(scale, z):
    layer = branch(scale)
    moved = layer(z)[0] - z
    nearby = z + 1e-3 * torch.randn_like(z)
    ratio = (layer(nearby)[0] - nearby - moved).norm(dim=1) / (nearby - z).norm(dim=1)
    assert ratio.max() <= LIPSCHITZ


def test_bound_is_on_the_spectral_norms():
    layer = stack(100.0)
    norms = [torch.linalg.matrix_norm(w, 2) for w in (layer.w1, layer._bounded_w3())]
    bound = SILU_LIPSCHITZ * norms[0] * norms[1]
    torch.testing.assert_close(bound, torch.full_like(bound, LIPSCHITZ), rtol=1e-10, atol=0)
    slopes = silu_and_slope(torch.linspace(-20, 20, 100_001, dtype=torch.float64))[1]
    assert slopes.abs().max() < SILU_LIPSCHITZ


def test_residual_block_with_large_weights_is_inverted_by_fixed_point_iteration(z):
    layer = branch(100.0)
    with torch.no_grad():
        mapped = layer(z)[0]
        found = mapped
        for _ in range(1500):  # 0.97 ** 1500 is 1e-20
            before, found = found, mapped - (layer(found)[0] - found)
            if torch.equal(before, found):
                break
    torch.testing.assert_close(found, z, rtol=0, atol=1e-10)


def test_residual_bound_leaves_small_weights_alone():
    layer = stack(0.05)
    torch.testing.assert_close(layer._bounded_w3(), layer.w3, rtol=0, atol=0)


def test_residual_blocks_start_as_almost_the_identity(z):
    layer = ResidualStack(R, 1, P, H, torch.Generator().manual_seed(0)).double()
    mapped, log_det = layer(z)
    assert (mapped - z).abs().max() < 0.05
    assert log_det.abs().max() < 0.05


def near_identity(norm, p, num=20, dtype=torch.float64):
    """Matrices (1, P, P, B) at this spectral distance from the identity, along every direction."""
    generator = torch.Generator().manual_seed(p)
    turns = torch.linalg.qr(torch.randn(num, p, p, generator=generator, dtype=torch.float64)).Q
    turns[0] = -torch.eye(p)  # nearest to being singular
    return (torch.eye(p) + norm * turns).permute(1, 2, 0)[None].to(dtype)


@pytest.mark.parametrize("p", [1, 2, 3, 12])
@pytest.mark.parametrize("norm", [0.0, 0.3, LIPSCHITZ])
def test_elimination_without_pivots_gives_the_log_determinant(norm, p):
    matrix = near_identity(norm, p)
    expected = torch.linalg.slogdet(matrix.permute(0, 3, 1, 2)).logabsdet
    torch.testing.assert_close(log_det_near_identity(matrix), expected, rtol=1e-10, atol=1e-10)
    in_single = log_det_near_identity(near_identity(norm, p, dtype=torch.float32))
    torch.testing.assert_close(in_single.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", [0.3, LIPSCHITZ])
def test_gradient_of_the_log_determinant_is_that_of_finite_differences(norm):
    matrix = near_identity(norm, 3, num=4).contiguous().requires_grad_()
    kept = matrix.detach().clone()
    assert torch.autograd.gradcheck(log_det_near_identity, matrix)
    log_det_near_identity(matrix).sum().backward()
    inverse = torch.linalg.inv(kept.permute(0, 3, 1, 2)).mT.permute(0, 2, 3, 1)
    torch.testing.assert_close(matrix.grad, inverse, rtol=1e-8, atol=1e-8)
    assert torch.equal(matrix.detach(), kept)


def test_silu_is_torchs_and_its_slope_its_gradient():
    x = torch.linspace(-30, 30, 61, dtype=torch.float64, requires_grad=True)
    value, slope = silu_and_slope(x)
    expected = torch.nn.functional.silu(x)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(slope, gradient, rtol=1e-10, atol=1e-14)
    assert torch.autograd.gradcheck(silu_and_slope, x)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_finite_differences(name, z):
    layer = LAYERS[name]()
    names, values = zip(*layer.named_parameters(), strict=True)

    def map_with(point, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), point)

    inputs = [v.detach().clone().requires_grad_() for v in (z[..., :2], *values)]
    assert torch.autograd.gradcheck(map_with, inputs, fast_mode=True, atol=1e-4)


def test_layers_take_nobody():
    for new in LAYERS.values():
        mapped, log_det = new()(torch.zeros(R, P, 0, dtype=torch.float64))
        assert (mapped.shape, log_det.shape) == ((R, P, 0), (R, 0))


def test_spline_starts_as_the_identity(z):
    mapped, log_det = ElementwiseSpline(R, P).double()(z)
    torch.testing.assert_close(mapped, z, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_det, torch.zeros(R, B, dtype=torch.float64), rtol=0, atol=1e-12)


def spline_1d(values):
    """A rough spline of one coordinate, and its slope."""
    layer = randomised(ElementwiseSpline(1, 1), 2.0, seed=3)
    mapped, log_slope = layer(values[None, None])
    return mapped[0, 0].detach(), log_slope[0].exp().detach()


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
    mapped, log_slope = rational_quadratic(knots, sizes, flat, slopes, tail)
    expected = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(mapped, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_slope, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)
