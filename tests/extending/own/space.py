"""A space: which one feature is passed on?"""

from dataclasses import dataclass

import torch
from torch import nn

from ssnas_core import Genotype, Node


class Gate(nn.Module):
    """Features brought to one width and mixed by a softmax over one number each."""

    def __init__(self, channels, width):
        super().__init__()
        self.width = width
        self.stems = nn.ModuleDict({name: nn.Linear(c, width) for name, c in channels.items()})
        self.logits = nn.ParameterDict({"choice": nn.Parameter(torch.zeros(len(channels)))})

    def forward(self, features):  # name -> (N, P, C), all to (N, width)
        seen = [stem(features[name].mean(1)) for name, stem in self.stems.items()]
        return torch.einsum("f,fnd->nd", self.logits["choice"].softmax(0), torch.stack(seen))


class OneFeature:
    """The smallest space: one feature, alone."""

    def __init__(self, channels, width):
        self.channels, self.width = channels, width

    def sample(self, generator):
        place = int(torch.randint(len(self.channels), (), generator=generator))
        return self.named(list(self.channels)[place])

    def build(self, genotype):
        (name,) = genotype.features
        return Gate({name: self.channels[name]}, self.width)

    def supernet(self):
        return Gate(self.channels, self.width)

    def derive(self, logits):
        return self.named(list(self.channels)[int(logits["choice"].argmax())])

    def named(self, feature):
        return Genotype("one feature", (Node("cell_0", "Identity", (feature,)),))


@dataclass(frozen=True)
class OneFeatureConfig:
    """One feature, embedded in `width` numbers."""

    width: int = 8

    def open(self, channels, positions):
        return OneFeature(channels, self.width)
