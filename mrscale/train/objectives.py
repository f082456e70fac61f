"""What the flow encoder and the kernel encoder are trained for, over all ranks together.

Legend: R replicas, E environments, b people of each in one rank's share of a batch, P factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mrscale.nn import features, kernels
from mrscale.nn.autoencoder import EndToEnd, KernelEncoder
from mrscale.nn.flow import Flow
from mrscale.train.loop import HeldOut, Judged, Recipe
from mrscale.train.ranks import Ranks

KernelModel = KernelEncoder | EndToEnd
Invariance = Literal["target", "pairwise"]
JUDGED_AT_ONCE = 2048
"""People of one environment whose likelihood is computed together."""


class LogLikelihood:
    """Maximum likelihood of the flow encoder: a sum over people, so ranks only add.

    The settings are those that recovered the latent best on simulated data; the rate is high
    because the cosine brings it down and the best judged state is kept.
    """

    recipe = Recipe(
        learning_rate=2e-2,
        weight_decay=1e-4,
        warm_up=0.04,
        clip_norm=10.0,
        betas=(0.9, 0.99),
        keep_best=True,
    )

    def loss(self, model: Flow, scores: Tensor, _step: int, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """Minus the mean log-likelihood of the global batch."""
        total = model(scores).sum((1, 2))
        count = total.new_tensor(float(scores.shape[1] * scores.shape[2]))
        part = -total / ranks.sum(count)
        return ranks.sum(part.detach().clone()), part

    def judge(self, model: Flow, held_out: HeldOut, ranks: Ranks) -> Judged:
        """Mean log-likelihood of the people held out."""
        parts = zip(
            held_out.scores.split(JUDGED_AT_ONCE, 2),
            held_out.weight.split(JUDGED_AT_ONCE, 2),
            strict=True,
        )
        total = torch.stack([(model(x) * weight).sum((1, 2)) for x, weight in parts]).sum(0)
        count = held_out.weight.sum((1, 2))
        worth = ranks.sum(total) / ranks.sum(count)
        return Judged(worth, {"log_likelihood": worth})


class KernelParts(NamedTuple):
    """Parts of the loss of the kernel encoder on the global batch, shape (R,) each.

    ``reconstruction`` and ``environment`` are this rank's share of a mean; gradients flow through
    this rank's people only, everywhere.
    """

    reconstruction: Tensor
    environment: Tensor
    invariance: Tensor
    independence: Tensor
    entropy: Tensor


ADDITIVE = ("reconstruction", "environment")
"""Parts that add up over ranks; every rank computes the others of everybody."""


@dataclass(frozen=True)
class KernelLoss:
    """Loss of the kernel encoder: reconstruction, invariance, independence and entropy.

    Parameters
    ----------
    seed : int
        Of the random frequencies.
    steps : int
        Of the whole training; weights follow the share of it that is done.
    invariance : {"target", "pairwise"}
        ``"target"``: distance of the latent from a standard normal in every environment, which is
        invariance and maximal entropy in one, by random features. ``"pairwise"``: as the paper
        writes it, distances between environments, and the entropy of the bounded latent as a term
        of its own, with all kernels exact; its cost is quadratic in the batch.

    Notes
    -----
    ``l(t) |x' - x|^2 / P + 50 r(t) (INV + HSIC) + 0.1 CE - H``, where ``r`` rises to 1 over the
    first tenth of the steps and ``l`` from 3 to 30 between one tenth and seven tenths of them; H
    is zero unless pairwise. Huang, Robinson and Locatello (2026), arXiv 2602.19782, section 4.
    """

    seed: int
    steps: int
    invariance: Invariance = "target"

    recipe = Recipe(
        learning_rate=3e-3,
        weight_decay=1e-4,
        warm_up=0.05,
        clip_norm=5.0,
        betas=(0.9, 0.999),
        keep_best=False,
    )

    def loss(
        self, model: KernelModel, scores: Tensor, step: int, ranks: Ranks
    ) -> tuple[Tensor, Tensor]:
        """The loss on the global batch; see :class:`mrscale.train.loop.Objective`."""
        parts = self.parts(model, scores, step, ranks)
        mine, shared = self._weighted(parts, step / self.steps)
        return ranks.sum(mine.detach().clone()) + shared.detach(), mine + shared

    def judge(self, model: KernelModel, held_out: HeldOut, ranks: Ranks) -> Judged:
        """Minus the loss on the people held out, with the final weights and fixed frequencies.

        Of the environments in which every replica has people held out, each is cut to the people of
        the smallest one, and exact kernels to some.
        """
        own = held_out.weight.sum(2)
        judged = ranks.sum(own.clone()).amin(0) > 0
        fewest = int(own[:, judged].amin())
        if self.invariance == "pairwise":
            fewest = min(fewest, JUDGED_AT_ONCE // held_out.scores.shape[1])
        parts = self.parts(model, held_out.scores[:, :, :fewest], self.steps, ranks, judged)
        added = {name: ranks.sum(getattr(parts, name)) for name in ADDITIVE}
        whole = parts._replace(**added)
        mine, shared = self._weighted(whole, 1.0)
        return Judged(-(mine + shared), whole._asdict())

    def parts(
        self,
        model: KernelModel,
        scores: Tensor,
        step: int,
        ranks: Ranks,
        environments: Tensor | slice = slice(None),
    ) -> KernelParts:
        """Parts of the loss, in some environments only; ``step`` chooses the frequencies."""
        g, h = model.encode(scores)
        squares = (model.decode(g, h) - model.target(scores)).square().mean(-1)[:, environments]
        everybody = ranks.sum(squares.new_tensor(float(squares[0].numel())))
        reconstruction = squares.sum((1, 2)) / everybody
        environment = model.environment_loss(h)[:, environments].sum((1, 2)) / everybody
        g, h = g[:, environments], h[:, environments]
        if self.invariance == "pairwise":
            return KernelParts(reconstruction, environment, *_pairwise(g, h, ranks))
        spread = kernels.spread(sum_over_ranks(kernels.moment_sums(h), ranks))
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**63)
        drawn = features.draw_frequencies(g.shape[-1], h.shape[-1], generator)
        frequencies = features.Frequencies(*(w.to(g) for w in drawn))
        own = features.feature_sums(g, h / spread, frequencies)
        sums = features.FeatureSums(*(_shared(part, ranks) for part in own))
        return KernelParts(
            reconstruction,
            environment,
            invariance=features.mmd_to_normal(sums, frequencies.latent),
            independence=features.joint_covariance(sums) / features.joint_norm(sums),
            entropy=torch.zeros_like(reconstruction),
        )

    @staticmethod
    def _weighted(parts: KernelParts, share: float) -> tuple[Tensor, Tensor]:
        """This rank's part of what adds up over ranks, and what is already of all of them."""
        rise = min(1.0, share / 0.1)
        faithful = 3 * 10 ** min(1.0, max(0.0, (share - 0.1) / 0.6))
        mine = faithful * parts.reconstruction + 0.1 * parts.environment
        return mine, 50 * rise * (parts.invariance + parts.independence) - parts.entropy


def _pairwise(g: Tensor, h: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
    """Invariance, independence and entropy by exact kernels: every rank sees everybody."""
    g, h = _gathered(g, ranks), _gathered(h, ranks)
    h = h / kernels.spread(kernels.moment_sums(h))
    return (
        kernels.mmd_pairwise(g),
        kernels.joint_hsic(g, h),
        kernels.renyi_entropy(torch.special.ndtr(g.flatten(1, 2))),
    )


def _gathered(own: Tensor, ranks: Ranks) -> Tensor:
    """People (R, E, b, dim) of all ranks, (R, E, sum of b, dim); gradients flow to one's own."""
    counts = torch.zeros(ranks.world, dtype=torch.long, device=own.device)
    counts[ranks.rank] = own.shape[2]
    before, after = ranks.sum(counts)[: ranks.rank].sum(), counts[ranks.rank + 1 :].sum()
    padding = (0, 0, int(before), int(after))
    return _shared(torch.nn.functional.pad(own, padding), ranks)


def _shared(own: Tensor, ranks: Ranks) -> Tensor:
    """Sum over ranks, through which gradients flow to one's own part only.

    Right for what every rank goes on to compute alike from the sum: the gradients of the parts
    then add up over ranks to the whole.
    """
    if ranks.world == 1:
        return own
    return own + (ranks.sum(own.detach().clone()) - own.detach())


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum(own.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.sum(gradients[0].clone()), None


def sum_over_ranks(own: Tensor, ranks: Ranks) -> Tensor:
    """Sum over ranks, through which gradients of all ranks flow to every part.

    Right for what each rank goes on to use for its own people.
    """
    if ranks.world == 1:
        return own
    total: Tensor = _SumOverRanks.apply(own, ranks)
    return total
