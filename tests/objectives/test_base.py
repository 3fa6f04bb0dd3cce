"""Inputs on a device; the examples of the objectives run as they stand."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import nn

from ssnas_core.objectives.base import OnDevice
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.hybrid import Hybrid
from ssnas_core.objectives.supervised import Supervised


class Encoder(nn.Linear):
    """Embeddings (N, 8) of one feature."""

    def forward(self, features):
        return super().forward(features["text_0"].flatten(1))


@pytest.mark.parametrize("objective", [Contrastive, Hybrid, Supervised])
def test_example_of_the_docstring_runs_and_gives_gradients(source, objective):
    encoder, labels = Encoder(8, 8), torch.arange(64) % 3
    names = {"torch": torch, "nn": nn, "encoder": encoder, "labels": labels, "source": source}
    names |= {each.__name__: each for each in (Contrastive, Hybrid, Supervised)}
    (example,) = doctest.DocTestFinder(recurse=False).find(objective, globs=names)
    result = doctest.DocTestRunner().run(example)
    assert result.failed == 0 and result.attempted >= 4
    assert encoder.weight.grad is not None and encoder.weight.grad.any()


def test_inputs_are_drawn_as_before_and_moved_to_the_device(source):
    indices = torch.tensor([1, 5, 2])
    plain = OnDevice(source, "cpu")
    seeds = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)
    for found, wanted in zip(
        [plain.clean(indices), *plain.augmented(indices, seeds[0], 3)],
        [source.clean(indices), *source.augmented(indices, seeds[1], 3)],
        strict=True,
    ):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    moved = OnDevice(source, "meta")
    drawn = [moved.clean(indices), *moved.augmented(indices, torch.Generator(), 3)]
    assert len(drawn) == 4
    assert {value.device.type for view in drawn for value in view.values()} == {"meta"}
