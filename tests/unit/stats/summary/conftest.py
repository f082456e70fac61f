"""Simulated associations whose truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mrscale.stats.summary.associations import Associations

Make = Callable[..., Associations]


@pytest.fixture(scope="session")
def make() -> Make:
    """Draw associations: ``make(seed, num_variants, effect, pleiotropy=, strength=)``."""

    def draw(
        seed: int | np.random.Generator,
        num_variants: int = 20,
        effect: float = 0.4,
        *,
        pleiotropy: float = 0.0,
        strength: float = 8.0,
    ) -> Associations:
        rng = np.random.default_rng(seed)
        sx, sy = rng.uniform(0.008, 0.012, num_variants), rng.uniform(0.015, 0.03, num_variants)
        true_x = rng.choice([-1, 1], num_variants) * rng.uniform(0.5, 1.5, num_variants)
        true_x *= strength * 0.01
        true_y = effect * true_x + rng.normal(0, 1, num_variants) * pleiotropy
        return Associations(rng.normal(true_x, sx), sx, rng.normal(true_y, sy), sy)

    return draw
