"""One thread of torch, and what encoders start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mrscale.stats.moments import Moments, pool
from mrscale.stats.subspace import fit_front_end, stationary_subspace
from mrscale.train.encoder import Prepared

NUM_PEOPLE, NUM_VARIANTS, NUM_ENVIRONMENTS = 600, 20, 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def environment() -> np.ndarray:
    return np.repeat(np.arange(NUM_ENVIRONMENTS), NUM_PEOPLE // NUM_ENVIRONMENTS).astype(np.int16)


@pytest.fixture
def dosage(environment: np.ndarray) -> np.ndarray:
    """Dosages driven by a factor that stays and one that moves over environments."""
    rng = np.random.default_rng(11)
    factors = rng.normal(size=(NUM_PEOPLE, 2))
    factors[:, 1] = (factors[:, 1] + environment - 1) * (1 + environment)
    logit = factors @ rng.normal(size=(2, NUM_VARIANTS))
    return rng.binomial(2, 1 / (1 + np.exp(-logit))).astype(np.int8)


@pytest.fixture
def prepared(dosage: np.ndarray, environment: np.ndarray, tmp_path: Path) -> Prepared:
    """The linear start of one fold that holds everybody, from its file as in the train stage:
    fresh from the linear algebra, matrices have another memory order, which costs last bits."""
    parts = [dosage[environment == e] for e in range(NUM_ENVIRONMENTS)]
    groups = [Moments.from_block(part) for part in parts]
    front = fit_front_end(pool(groups), 3)
    moments = [group.transform(front.projection, front.origin) for group in groups]
    fresh = Prepared(
        front=front,
        mean_dosage=np.stack([part.mean(0) for part in parts]),
        subspace=stationary_subspace(moments),
        rows=np.arange(NUM_PEOPLE),
        scores=front.scores(dosage.astype(np.float64)).astype(np.float32),
        invariant=1,
    )
    fresh.save(tmp_path / "prepared.safetensors", {})
    return Prepared.load(tmp_path / "prepared.safetensors")
