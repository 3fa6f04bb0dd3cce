"""Do these modalities belong together? A task without labels that fusion alone can solve.

A network sees samples as they are, and samples of which one modality is another sample's, and
tells them apart (image-text matching, ViLBERT, arXiv:1908.02265; the pairs are drawn anew in
each step). The head is linear. So the loss of a network that passes its modalities on side by
side, as late concatenation does, is never below chance: its score s is a sum of what each
modality says by itself, of the same mean over both kinds, and softplus(s) >= log 2 + s / 2.
What lowers the loss is a cell in which they meet, on features of what the modalities have in
common; no view is found by its words or colours.

It is ours to search by it; we know of no paper that does.

Where pairs are what is to be learnt, as in image-text retrieval, wrong pairs that look right teach
most (`MatchingPairs`). MMnas (arXiv:2004.12070) finds them before each epoch, among 64 texts of
other pictures for each picture and 64 pictures for each text. Ours come from the batch, in each
step, so that nothing is kept from one step to the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.distributed import all_gather, at_least_float32, share
from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import by_modality, modality_of, swap_modality
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


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchingPairs:
    """Tell a picture's own texts from those of other pictures, the most alike first.

    Of a batch, each picture gets a wrong text and each text a wrong picture: of some drawn ones the
    one with the highest score. The loss is (2 BCE(own, 1) + BCE(wrong text, 0) + BCE(wrong picture,
    0)) / 4, log 2 nats of equal embeddings; or, with a margin, the hinge max(0, margin - p(own) +
    p(wrong)) on probabilities, the sum over both.

    Args:
        pictures: (N,) the number of each sample's picture; samples share one.
        text: the modality that the texts are.
        mined: how many wrong ones are tried for each; 1 takes any.
        margin: of the hinge; None for cross-entropies.
        augment: train on augmented views; on clean ones otherwise.

    Raises:
        InputError: nothing to try, or a margin <= 0.
    """

    pictures: Tensor
    text: str
    mined: int = 4
    margin: float | None = None
    augment: bool = True

    def __post_init__(self) -> None:
        if self.mined < 1 or not (self.margin is None or self.margin > 0):
            raise InputError(
                f"expected mined >= 1 and a margin > 0 or None, got {self.mined} and {self.margin}."
            )

    def head(self, width: int) -> nn.Module:
        """Return a linear head of one number, high where text and picture belong together."""
        return nn.Linear(width, 1)

    def loss(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the mean loss of N samples."""
        own, text, picture = self._scores(model, source, indices, generator)
        if self.margin is not None:
            wrong = torch.stack([text, picture]).sigmoid()
            return F.relu(self.margin - own.sigmoid() + wrong).sum(0).mean()
        return (2 * F.softplus(-own) + F.softplus(text) + F.softplus(picture)).mean() / 4

    @torch.no_grad()
    def report(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """Return `matched`: how often a pair scores above a wrong one; 0.5 is chance."""
        own, *wrong = self._scores(model, source, indices, generator)
        return {"matched": float((own > torch.stack(wrong)).float().mean())}

    def _scores(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return numbers (N,) of the pairs, of wrong texts, and of wrong pictures."""
        if self.augment:
            (view,) = source.augmented(indices, generator, 1)
        else:
            view = source.clean(indices)
        count, pictures = len(indices), self.pictures[indices.cpu()]
        other = (pictures[:, None] != pictures).float()  # (N, N)
        if not bool(other.any(1).all()):
            raise InputError(
                f"expected pairs of at least two pictures in a batch, got one in {count} samples; "
                "give more pictures, or larger batches."
            )
        places = torch.arange(count)
        tried = [
            torch.multinomial(other, self.mined, replacement=True, generator=generator)
            for _ in range(2)
        ]
        text, picture = (one[:, 0] for one in tried)
        if self.mined > 1:
            rows = places[:, None].expand_as(tried[0])
            text = _hardest(model, self._pairs(view, tried[0], rows), tried[0])
            picture = _hardest(model, self._pairs(view, rows, tried[1]), tried[1])
        texts = torch.stack([places, text, places])  # (3, N)
        seen = torch.stack([places, places, picture])
        share_of = share(count)
        scores = model(self._pairs(view, texts[:, share_of], seen[:, share_of]))
        own, *wrong = at_least_float32(all_gather(scores, count, 3)[:, 0]).chunk(3)
        return own, *wrong

    def _pairs(self, view: Any, texts: Tensor, pictures: Tensor) -> dict[str, Tensor]:
        """Return a view's rows with the texts and the pictures of these places in it."""
        return {
            name: value[(texts if modality_of(name) == self.text else pictures).flatten()]
            for name, value in view.items()
        }


@torch.no_grad()
def _hardest(model: nn.Module, pairs: dict[str, Tensor], tried: Tensor) -> Tensor:
    """Return the one of those tried (N, T) whose pair has the highest score, (N,)."""
    training = model.training
    model.eval()
    scores = model(pairs)[:, 0].view(tried.shape).cpu()
    model.train(training)
    return tried.gather(1, scores.argmax(1, keepdim=True))[:, 0]
