"""A backbone of images: any module that returns named maps."""

import torch
from torch import nn


class Stripes(nn.Module):
    """Two maps of mean colours, finer and coarser."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, 5, 1)

    def forward(self, images):  # (N, 3, H, W)
        fine = nn.functional.adaptive_avg_pool2d(self.mix(images), 4)
        return {"fine": fine, "coarse": torch.cat((fine, fine.flip(3)), 1)}
