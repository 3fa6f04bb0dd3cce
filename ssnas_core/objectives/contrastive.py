"""Contrastive objectives on joint views of all modalities, and signs that an embedding collapses.

SimCLR (arXiv:2002.05709) asks that the two views of a sample find each other. One modality can
do that alone, so there are tasks that ask for more, or for something else:

- "swapped": the negatives are also views in which one modality is another sample's. A network
  that ignores a modality takes them for the positive, and its loss stays above log 2. It is
  ours; we know of no paper that searches by it.
- "comm": two views find each other, and each of them what the network makes of one modality
  alone, for every modality (CoMM, arXiv:2409.07402).
- "clip": what the network makes of one modality alone finds what it makes of another
  (arXiv:2103.00020). What a single modality tells is no help in that, what both tell is all.

Deviations: CLIP learns its temperature, and has an encoder for each modality; here the
temperature is fixed, and one network reads the modalities in turn. In both, a masked modality
is the batch mean of its features, as in modality dropout. All terms of "comm" are NT-Xent, and
the modalities that stand alone are of a third view.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.distributed import all_gather, at_least_float32, share
from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import by_modality, only_modality, swap_modality
from ssnas_core.common.typed import check_fields
from ssnas_core.objectives.base import Features, Source, drawn, two_views

Task = Literal["simclr", "swapped", "comm", "clip"]


@dataclass(frozen=True, kw_only=True)
class Contrastive:
    """SimCLR on joint views of all modalities: needs no labels and holds none.

    Or another task on them, as the module tells. Of N samples of M modalities, a task sends
    these rows through the network, and its loss of equal embeddings is (nats):

    ========= ================================ ===================================
    task      rows                             loss of equal rows
    ========= ================================ ===================================
    simclr    2 N                              log(2 N - 1)
    swapped   2 N + 2 S N; S = 1 if M = 2,     log((2 + S) N - 1)
              else M
    comm      2 N + M N                        (1 + M) log(2 N - 1)
    clip      M N                              log N
    ========= ================================ ===================================

    Where there is one modality, as for a backbone, "swapped" and "comm" are "simclr", and
    "clip" matches two views of it.

    Args:
        temperature: tau of NT-Xent. The paper's value is unknown; 0.2 is our choice.
        hidden: width of the projection head's hidden layer.
        out: D, width of the projections.
        task: what finds what: "simclr", "swapped", "comm" or "clip", see above.

    Raises:
        InputError: another task, or temperature <= 0.

    Examples:
        >>> objective = Contrastive(temperature=0.2)
        >>> model = nn.Sequential(encoder, objective.head(8))  # embeddings (N, 8)
        >>> loss = objective.loss(model, source, torch.tensor([4, 0, 2]), torch.Generator())
        >>> loss.backward()
    """

    temperature: float = 0.2
    hidden: int = 256
    out: int = 128
    task: Task = "simclr"

    def __post_init__(self) -> None:
        check_fields(self, "temperature")

    def head(self, width: int) -> nn.Module:
        """Return the projection head g, an MLP with one hidden layer (SimCLR sec. 2.1)."""
        return nn.Sequential(
            nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.out)
        )

    def loss(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the mean loss of the task, in one forward pass of all its rows."""
        rows, groups = self.rows(source, indices, generator)
        return self.loss_of_projections(all_gather(model(rows), len(indices), groups), groups)

    def rows(
        self, source: Source, indices: Tensor, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], int]:
        """Return the inputs (G n, ...) that the task has of N samples, and G.

        They are group after group; but for "clip" the first two groups are two views of the
        samples. Of several processes each gets the rows of its n samples, and for "swapped"
        draws all N, as what is swapped in may be another's.
        """
        if self.task == "simclr":
            return two_views(source, indices, generator), 2
        own = share(len(indices))
        if self.task == "swapped":
            views = source.augmented(indices, generator, 2)
            names = list(by_modality(views[0]))
            # of two modalities, to exchange one is to exchange the other
            exchanged = {1: [], 2: names[:1]}.get(len(names), names)
            mixed = [swap_modality(view, name) for name in exchanged for view in views]
            groups = [{n: value[own] for n, value in group.items()} for group in (*views, *mixed)]
        else:
            count = 3 if self.task == "comm" else 2
            views = list(drawn(source, indices, generator, count, own))
            names, groups = list(by_modality(views[0])), views[:2]
            if len(names) > 1 and self.task == "comm":
                groups += [only_modality(views[2], name) for name in names]
            elif len(names) > 1:
                groups = [only_modality(views[i % 2], name) for i, name in enumerate(names)]
        joined = {n: torch.cat([group[n] for group in groups]) for n in groups[0]}
        return joined, len(groups)

    def loss_of_projections(self, projections: Tensor, groups: int = 2) -> Tensor:
        """Return the task's loss of the projections (G N, D) of `rows`, float32 or finer."""
        first, second, *more = at_least_float32(projections).chunk(groups)
        tau = self.temperature
        contrast = partial(nt_xent, temperature=tau)
        if self.task == "clip":
            pairs = itertools.combinations((first, second, *more), 2)
            return torch.stack([_info_nce(one, other, tau) for one, other in pairs]).mean()
        if self.task == "comm":
            alone = [(contrast(one, first) + contrast(one, second)) / 2 for one in more]
            return torch.stack([contrast(first, second), *alone]).sum()
        if more:  # what was swapped into first views and into second ones, in turn
            mixed = torch.cat(more[::2]), torch.cat(more[1::2])
            return _nt_xent_among(first, second, mixed, tau)
        return contrast(first, second)

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
        modalities = by_modality(second)
        for modality in modalities if len(modalities) > 1 else ():
            swapped = model(swap_modality(second, modality)).float()
            figures[f"match_without_{modality}"] = match_rate(z1, swapped)
        return {name: float(value) for name, value in figures.items()}


SWAPPED, COMM, CLIP = (Contrastive(task=task) for task in ("swapped", "comm", "clip"))


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


def _nt_xent_among(
    first: Tensor, second: Tensor, mixed: tuple[Tensor, Tensor], temperature: float
) -> Tensor:
    """Return NT-Xent with further negatives (K, D), made of first views and of second views.

    A row of `first` (N, D) is told from those of second views, as its positive is one, and
    the other way round. Of equal rows it is log(2N - 1 + K).
    """
    with torch.autocast(first.device.type, enabled=False):
        one, two, of_first, of_second = (F.normalize(part) for part in (first, second, *mixed))
        rows = torch.cat((one, two))
        similarity = (rows @ rows.T).fill_diagonal_(-torch.inf)  # (2N, 2N)
        further = torch.cat((one @ of_second.T, two @ of_first.T))  # (2N, K)
        partner = torch.arange(len(rows), device=rows.device).roll(len(first))
        return F.cross_entropy(torch.cat((similarity, further), 1) / temperature, partner)


def _info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the mean loss of finding each row's partner in the other batch, both ways.

    It is CLIP's (arXiv:2103.00020, figure 3): row i of `first` and of `second`, (N, D) each,
    are partners, the N - 1 others of the other batch its negatives. Of equal rows it is log N.
    """
    with torch.autocast(first.device.type, enabled=False):
        similarity = F.normalize(first) @ F.normalize(second).T / temperature  # (N, N)
        own = torch.arange(len(first), device=first.device)
        return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


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
