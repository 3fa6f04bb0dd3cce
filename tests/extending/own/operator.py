"""An operator: what a fusion cell may compute from its two inputs."""

import torch
from torch import nn


class Hadamard(nn.Module):
    """Each channel's product of the two inputs, scaled."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x, y):  # (N, L, C) twice -> (N, L, C)
        return self.scale * x * y
