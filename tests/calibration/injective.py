"""More features than latents: components, or the code of an autoencoder, before the flow.

    python tests/calibration/injective.py --work run/injective --write docs/calibration.md

Finished data sets in the work folder are kept.

Legend: S blocks, B batch, M features, p code.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent / "designs"))
from front import PCA_BY_RULE, Comparison, Front, People, components

from mrscale.nn.autoencoder import Perceptron
from mrscale.sampling.plan import held_out
from mrscale.stats.moments import Floats, Moments
from mrscale.stats.subspace import fit_front_end

HIDDEN = 64
STEPS = 2000
CHECK_EVERY = 50
BATCH = 256
RATE = 3e-3
NOISE = 0.2
"""Standard deviation of the noise added to standardised features by the denoising autoencoder."""


class Manifold(nn.Module):
    """M -> p -> M, each way a linear map and a perceptron, S side by side; starts at principal
    components.

    Parameters
    ----------
    into : Tensor, shape (S, M, p)
        Standardised features to components.
    seed : int
    """

    def __init__(self, into: Tensor, seed: int) -> None:
        super().__init__()
        blocks, num_features, p = into.shape
        generator = torch.Generator().manual_seed(seed)
        widths = (num_features, HIDDEN, HIDDEN, p)
        self.into, self.back = nn.Parameter(into), nn.Parameter(torch.linalg.pinv(into))
        self.encoder = Perceptron(blocks, widths, generator)
        self.decoder = Perceptron(blocks, widths[::-1], generator)
        for net in (self.encoder, self.decoder):
            nn.init.zeros_(net.weights[-1])
            nn.init.zeros_(net.biases[-1])
        self.log_scale = nn.Parameter(torch.zeros(blocks, 1, num_features))

    def code(self, x: Tensor) -> Tensor:
        """From (S, B, M) to (S, B, p)."""
        return x @ self.into + self.encoder(x)

    def decode(self, code: Tensor) -> Tensor:
        """Back."""
        return code @ self.back + self.decoder(code)


@dataclass(frozen=True)
class Reconstruction:
    """Squared error per block; when denoising, of features from noisy ones, under a normal law with
    a learned scale for each feature."""

    denoising: bool

    def __call__(self, model: Manifold, x: Tensor, generator: torch.Generator) -> Tensor:
        if not self.denoising:
            return (model.decode(model.code(x)) - x).square().mean((1, 2))
        seen = x + NOISE * torch.randn(x.shape, generator=generator)
        error = (model.decode(model.code(seen)) - x) * torch.exp(-model.log_scale)
        return (error.square() / 2 + model.log_scale).mean((1, 2))


def manifold(denoising: bool) -> Front:
    """Front end: the code of everybody by the autoencoder of each block."""

    def inputs(people: People) -> list[Floats]:
        into, everybody = _standardised(people)
        model = Manifold(into, people.seed)
        _fit(model, Reconstruction(denoising), people, everybody)
        with torch.no_grad():
            return list(model.code(everybody).double().numpy())

    return Front("denoising autoencoder, p known" if denoising else "autoencoder, p known", inputs)


def _standardised(people: People) -> tuple[Tensor, Tensor]:
    """Map to principal components (S, M, p) and features of everybody (S, N, M), by block."""
    into, everybody = [], []
    for rows in people.rows:
        mean, spread = people.x[rows].mean(0), people.x[rows].std(0)
        front = fit_front_end(Moments.from_block(people.x[rows]), people.latents)
        into.append(front.projection * spread[:, None])
        everybody.append((people.x - mean) / spread)
    first, second = (torch.tensor(np.stack(a)).float() for a in (into, everybody))
    return first, second


def _fit(model: Manifold, loss: Reconstruction, people: People, everybody: Tensor) -> None:
    """Train on 85 % of each block, and keep each block's best state on the others."""
    aside = [rows[held_out(np.full(len(rows), -1), people.seed)] for rows in people.rows]
    train = [np.setdiff1d(rows, out) for rows, out in zip(people.rows, aside, strict=True)]
    judges = _take(everybody, [out[: min(map(len, aside))] for out in aside])
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    rng, generator = np.random.default_rng(people.seed), torch.Generator().manual_seed(people.seed)
    best = torch.full((len(people.rows),), torch.inf)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(STEPS):
        batch = _take(everybody, [rng.choice(rows, BATCH) for rows in train])
        optimiser.zero_grad()
        loss(model, batch, generator).sum().backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % CHECK_EVERY == 0:
            with torch.no_grad():
                now = loss(model, judges, torch.Generator().manual_seed(people.seed))
            for name, value in model.state_dict().items():
                kept[name][now < best] = value[now < best]
            best = torch.minimum(best, now)
    model.load_state_dict(kept)


def _take(everybody: Tensor, rows: list[np.ndarray]) -> Tensor:
    """Rows of each block, as many from each: (S, B, M)."""
    return torch.stack([x[torch.from_numpy(r)] for x, r in zip(everybody, rows, strict=True)])


MIXINGS = ("mlp", "fold", "maxpool", "dropout")
FRONTS = (
    PCA_BY_RULE,
    Front("PCA, p known", lambda people: components(people, people.latents)),
    manifold(denoising=False),
    manifold(denoising=True),
)
DESIGNS = {f"{m}, 8 features": ({"mixing": m, "num_features": 8}, FRONTS) for m in MIXINGS}
DESIGNS |= {f"{m}, 4 features": ({"mixing": m}, FRONTS[:1]) for m in MIXINGS}
COMPARISON = Comparison(
    part="more features than latents",
    designs=DESIGNS,
    num_components=0,
    introduction="""INTRO {sets} {machine} {hours:.1f}""",
    conclusion="""CONCLUSION""",
)


if __name__ == "__main__":
    COMPARISON.main()
