"""An objective without labels: correlate the two views, and nothing else."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Decorrelation:
    """Barlow Twins (arXiv:2103.03230) without its weight on the rest."""

    out: int = 4

    def head(self, width):
        return nn.Linear(width, self.out)

    def loss(self, model, source, indices, generator):
        first, second = (model(view) for view in source.augmented(indices, generator, 2))
        first, second = ((z - z.mean(0)) / (z.std(0) + 1e-3) for z in (first, second))
        return (first.T @ second / len(first) - torch.eye(self.out)).square().sum()

    def report(self, model, source, indices, generator):
        return {}
