"""The contrastive objective of SimCLR (arXiv:2002.05709), and signs that an embedding collapses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.distributed import all_gather, at_least_float32
from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import modality_of
from ssnas_core.objectives.base import Features, Source, two_views


@dataclass(frozen=True, kw_only=True)
class Contrastive:
    """SimCLR on joint views of all modalities: needs no labels and holds none.

    Args:
        temperature: tau of NT-Xent. The paper's value is unknown; 0.2 is our choice.
        hidden: width of the projection head's hidden layer.
        out: D, width of the projections.

    Examples:
        >>> objective = Contrastive(temperature=0.2)
        >>> model = nn.Sequential(encoder, objective.head(8))  # embeddings (N, 8)
        >>> loss = objective.loss(model, source, torch.tensor([4, 0, 2]), torch.Generator())
        >>> loss.backward()
    """

    temperature: float = 0.2
    hidden: int = 256
    out: int = 128

    def head(self, width: int) -> nn.Module:
        """Return the projection head g, an MLP with one hidden layer (SimCLR sec. 2.1)."""
        return nn.Sequential(
            nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.out)
        )

    def loss(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return NT-Xent of two augmented views per sample, in one forward pass of 2N rows."""
        both = two_views(source, indices, generator)
        return self.loss_of_projections(all_gather(model(both), len(indices), 2))

    def loss_of_projections(self, projections: Tensor) -> Tensor:
        """Return NT-Xent of rows (2N, D) whose first half are the first views, float32 or finer."""
        first, second = at_least_float32(projections).chunk(2)
        return nt_xent(first, second, temperature=self.temperature)

    @torch.no_grad()
    def report(
        self,
        model: Callable[[Features], Tensor],
        source: Source,
        indices: Tensor,
        generator: torch.Generator,
    ) -> dict[str, float]:
        """Return signs of collapse, and of one modality doing the matching alone.

        Returns:
            `alignment`, `uniformity`, `effective_rank` of the projections;
            `match`, the share of samples whose two views find each other in
            this batch; and `match_without_<modality>`, the same after giving
            the second view another sample's <modality>. Near `match` it says
            that the others decide alone: the one-modality shortcut.
        """
        first, second = source.augmented(indices, generator, 2)
        z1, z2 = model(first).float(), model(second).float()
        figures = {
            "alignment": alignment(z1, z2),
            "uniformity": uniformity(torch.cat((z1, z2))),
            "effective_rank": effective_rank(z1),
            "match": match_rate(z1, z2),
        }
        modalities = dict.fromkeys(modality_of(name) for name in second)
        for modality in modalities if len(modalities) > 1 else ():
            swapped = {
                name: value.roll(1, 0) if modality_of(name) == modality else value
                for name, value in second.items()
            }
            figures[f"match_without_{modality}"] = match_rate(z1, model(swapped).float())
        return {name: float(value) for name, value in figures.items()}


def nt_xent(first: Tensor, second: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Return the mean NT-Xent loss over paired views (SimCLR eq. 1, arXiv:2002.05709).

    Row i of `first` and of `second` are views of one sample; the other 2N - 2
    rows are its negatives. Rows are L2-normalised here, not by the caller.

    Args:
        first: view-1 projections, (N, D) float, N >= 2.
        second: view-2 projections, (N, D).
        temperature: tau > 0, dimensionless.

    Returns:
        Scalar of the inputs' dtype, in nats; log(2N - 1) when all rows are equal.
        Half precisions are summed in float32.

    Raises:
        InputError: shapes differ, N < 2, or temperature <= 0.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise InputError(
            f"nt_xent needs two (N, D) batches with N >= 2, got {tuple(first.shape)} "
            f"and {tuple(second.shape)}; use a larger batch, or drop the last one."
        )
    if not temperature > 0:
        raise InputError(f"temperature must be > 0, got {temperature}; SimCLR uses 0.1 to 1.")
    with torch.autocast(first.device.type, enabled=False):  # whatever the network's precision
        rows = F.normalize(at_least_float32(torch.cat((first, second))))
        similarity = rows @ rows.T / temperature
        similarity.fill_diagonal_(-torch.inf)
        partner = torch.arange(len(rows), device=rows.device).roll(len(first))
        return F.cross_entropy(similarity, partner).to(first.dtype)


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean squared distance of paired views on the sphere (arXiv:2005.10242, eq. 5).

    Args:
        first, second: (N, D); normalised here.

    Returns:
        Scalar in [0, 4]; 0 when views of a sample coincide.
    """
    return (F.normalize(first) - F.normalize(second)).square().sum(1).mean()


def uniformity(rows: Tensor) -> Tensor:
    """Return the log mean Gaussian potential of all pairs (arXiv:2005.10242, eq. 6, t = 2).

    Args:
        rows: (N, D), N >= 2; normalised here.

    Returns:
        Scalar <= 0; 0 when all rows are equal (collapse). At best, for rows at
        the corners of a regular simplex, -4 N / (N - 1): near -4 for many rows
        in many dimensions, but -8 for two, and nearer to 0 where D < N - 1.
    """
    squared = torch.pdist(F.normalize(rows)).square()
    return torch.logsumexp(-2 * squared, 0) - math.log(len(squared))


def effective_rank(rows: Tensor) -> Tensor:
    """Return exp of the entropy of the centred rows' singular values (Roy & Vetterli 2007).

    Args:
        rows: (N, D).

    Returns:
        Scalar in [1, min(N, D)]: dimensions that the embedding uses; 0 when
        all rows are equal.
    """
    values = torch.linalg.svdvals(rows - rows.mean(0))
    rounding = torch.finfo(rows.dtype).eps * max(rows.shape) * rows.norm()
    values = values[values > rounding]  # what the mean's rounding leaves is no direction
    if len(values) == 0:
        return values.new_zeros(())
    return torch.special.entr(values / values.sum()).sum().exp()


def match_rate(first: Tensor, second: Tensor) -> Tensor:
    """Return the share of rows of `first` (N, D) whose nearest row of `second` is their view."""
    nearest = (F.normalize(first) @ F.normalize(second).T).argmax(1)
    return (nearest == torch.arange(len(first), device=first.device)).float().mean()
