"""A strategy: the best of a few drawn architectures before any training."""

from dataclasses import dataclass

import torch
from torch import nn

from ssnas_core import SearchResult
from ssnas_core.common.random import seeded


@dataclass(frozen=True)
class Untrained:
    """Draw `trials` architectures, and keep the one of the lowest loss with fresh weights."""

    trials: int = 3

    def search(self, space, source, objective, context):
        history, drawn = [], []
        with seeded(context.seed, 0) as generator, torch.no_grad():
            for trial in range(self.trials):
                drawn.append(space.sample(generator))
                network = space.build(drawn[-1])
                model = nn.Sequential(network, objective.head(network.width)).to(context.device)
                loss = objective.loss(model, source, context.dev, generator)
                entry = {"trial": trial, "genotype": str(drawn[-1]), "dev_loss": float(loss)}
                history.append(entry)
        best = min(range(self.trials), key=lambda trial: history[trial]["dev_loss"])
        return SearchResult(drawn[best], tuple(history))
