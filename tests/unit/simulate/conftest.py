"""Small numpy checks shared by the tests of the simulations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture(scope="session")
def tsls() -> Callable[..., tuple[float, float]]:
    """Two-stage least squares through projections: ``(estimate, homoskedastic error)``."""

    def estimate(outcome, exposure, instruments, controls=None) -> tuple[float, float]:
        ones = np.ones((len(outcome), 1))
        w = ones if controls is None else np.hstack([ones, controls])
        q, _ = np.linalg.qr(w)
        y, d, z = (v - q @ (q.T @ v) for v in (outcome, exposure, instruments.astype(float)))
        projected = z @ np.linalg.lstsq(z, d, rcond=None)[0]
        beta = projected @ y / (projected @ d)
        sigma2 = np.sum((y - beta * d) ** 2) / (len(y) - w.shape[1] - 1)
        return float(beta), float(np.sqrt(sigma2 / (projected @ projected)))

    return estimate
