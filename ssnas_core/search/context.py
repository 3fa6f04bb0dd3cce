"""What a strategy is (`Strategy`), and what it is always given (`SearchContext`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ssnas_core.objectives.base import Objective, Source
from ssnas_core.spaces.genotype import SearchResult
from ssnas_core.training.checkpoints import OnEpoch


@dataclass(frozen=True, kw_only=True)
class SearchContext:
    """The samples, the chance, the machine and the files of a search.

    Args:
        train: (n,) sample numbers, n >= 2, that weights are trained on; for a supervised
            objective, of labelled samples.
        dev: (m,) sample numbers, m >= 2, that architectures are judged on; likewise.
        seed: decides initial weights and logits, sample order, views, dropout and draws.
        device: where networks live; the source gives tensors there (`objectives.base.OnDevice`).
        checkpoint: a file to save to after an epoch, at most every five seconds, or after each
            trial; and to go on from.
        progress: label of a progress bar on standard error; none without it.
        on_epoch: called with the history after each epoch or trial, and, when the search goes
            on from a checkpoint, with what that holds. Of several processes the first alone
            calls it.
        precision: of the networks' products, "float32" or "bfloat16" (`training.loop.loss_of`).
    """

    train: Tensor
    dev: Tensor
    seed: int = 0
    device: torch.device | str = "cpu"
    checkpoint: Path | None = None
    progress: str | None = None
    on_epoch: OnEpoch | None = None
    precision: str = "float32"


class Strategy(Protocol):
    """How a space is searched: an object with `search`, as a frozen dataclass of settings.

    It may have besides `needs`, names of the methods of a space that it calls beside `width`,
    `build` and `sample`, by which a run refuses a space that lacks one; and `steps`, how many
    steps a history took, for the costs that a study reports.
    """

    def search(
        self, space: Any, source: Source, objective: Objective, context: SearchContext
    ) -> SearchResult:
        """Return the best architecture of `space`, and the history of the search."""
        ...
