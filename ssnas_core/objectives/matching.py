"""Do these modalities belong together? A task without labels that fusion alone can solve.

A network sees samples as they are, and samples of which one modality is another sample's, and
tells them apart (image-text matching, ViLBERT, arXiv:1908.02265; the pairs are drawn anew in
each step). The head is linear. So the loss of a network that passes its modalities on side by
side, as late concatenation does, is never below chance: its score s is a sum of what each
modality says by itself, of the same mean over both kinds, and softplus(s) >= log 2 + s / 2.
What lowers the loss is a cell in which they meet, on features of what the modalities have in
common; no view is found by its words or colours.

It is ours to search by it; we know of no paper that does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.distributed import all_gather, at_least_float32, share
from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import by_modality, swap_modality
from ssnas_core.objectives.base import Source


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Tell samples from those with one modality swapped: needs no labels and holds none.

    The loss is the mean binary cross-entropy, both kinds weighing the same: log 2 nats of equal
    embeddings. A sample is an augmented view. Of two modalities one is swapped, of more each in
    turn.

    Examples:
        >>> objective = Matching()
        >>> model = nn.Sequential(encoder, objective.head(8))  # embeddings (N, 8)
        >>> loss = objective.loss(model, source, torch.tensor([4, 0, 2]), torch.Generator())
        >>> loss.backward()
    """

    def head(self, width: int) -> nn.Module:
        """Return a linear head of one number, high where the modalities belong together."""
        return nn.Linear(width, 1)

    def loss(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the mean loss of N samples and of their swapped ones, in one forward pass."""
        real, *swapped = self._scores(model, source, indices, generator)
        of_swapped = torch.stack([F.softplus(scores).mean() for scores in swapped]).mean()
        return (F.softplus(-real).mean() + of_swapped) / 2

    @torch.no_grad()
    def report(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """Return `matched`: how often a sample scores above its swapped one; 0.5 is chance."""
        real, *swapped = self._scores(model, source, indices, generator)
        above = torch.stack([real > scores for scores in swapped]).float()
        return {"matched": float(above.mean())}

    def _scores(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return the head's numbers (N,) of N samples, and for each modality that is swapped.

        Each of several processes draws all samples, as what is swapped in may be another's, and
        sends its own through the network.
        """
        (view,) = source.augmented(indices, generator, 1)
        names = list(by_modality(view))
        if len(names) < 2 or len(indices) < 2:
            raise InputError(
                f"matching needs two modalities and two samples, got {names} of {len(indices)}; "
                "use another objective, as contrastive."
            )
        exchanged = names[:1] if len(names) == 2 else names
        own = share(len(indices))
        groups = [view, *(swap_modality(view, name) for name in exchanged)]
        rows = {n: torch.cat([group[n][own] for group in groups]) for n in view}
        scores = all_gather(model(rows), len(indices), len(groups))
        return at_least_float32(scores[:, 0]).chunk(len(groups))
