"""Late fusion: every feature through its own stem, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ssnas_core.baselines import LateConcat
from ssnas_core.spaces.fusion import FusionConfig

CHANNELS = {"image_0": 5, "image_1": 3, "text_0": 7}
POSITIONS = {"image_0": 4, "image_1": 4, "text_0": 1, "text_1": 1}
CONFIG = FusionConfig(channels=6, length=4, dropout=0.3)


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(9, POSITIONS[name], channels, generator=generator)
        for name, channels in CHANNELS.items()
    }


@pytest.fixture
def network():
    torch.manual_seed(0)
    return LateConcat(CHANNELS, CONFIG, POSITIONS)


def test_embedding_is_every_stems_output_side_by_side(network, features):
    network.train()
    network(features)  # batch statistics that are not those of a fresh norm
    network.eval()
    columns = []
    for name, value in features.items():
        stem = network.stems[name]
        for position in range(value.shape[1]):
            hidden = value[:, position] @ stem.linear.weight.T
            norm = stem.norm
            scaled = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
            columns.append((scaled * norm.weight + norm.bias).relu())
    wanted = torch.cat(columns, 1)
    assert wanted.shape == (9, network.width) == (9, 6 * (4 + 4 + 1))
    torch.testing.assert_close(network(features), wanted)


def test_features_do_not_mix_before_the_head(network, features):
    network.eval()
    before = network(features)
    after = network({**features, "image_1": features["image_1"] + 1})
    moved = (before != after).any(0)
    assert not moved[: 4 * 6].any() and not moved[8 * 6 :].any()
    assert moved[4 * 6 : 8 * 6].any()


def test_what_it_is_not_given_is_not_read(network, features):
    network.eval()
    other = {"text_1": torch.full((9, 1, 2), torch.nan)}
    assert torch.equal(network({**features, **other}), network(features))
    alone = LateConcat({"text_0": 7}, CONFIG, POSITIONS)
    assert alone({"text_0": features["text_0"]}).shape == (9, alone.width) == (9, 6)


def test_dropout_and_every_weight_are_in_training(network, features):
    network.train()
    assert not torch.equal(network(features), network(features))
    network(features).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


def test_modality_dropout_acts_while_training_on_networks_of_several_modalities(features):
    config = replace(CONFIG, dropout=0.0, modality_dropout=1.0)
    for names, moves in ((CHANNELS, True), (("image_0", "image_1"), False)):
        torch.manual_seed(0)
        some = {name: CHANNELS[name] for name in names}
        plain, dropping = (
            LateConcat(some, which, POSITIONS) for which in (replace(CONFIG, dropout=0.0), config)
        )
        dropping.load_state_dict(plain.state_dict())
        assert torch.equal(plain.train()(features), dropping.train()(features)) != moves
        dropping.load_state_dict(plain.state_dict())  # the norms' statistics
        assert torch.equal(plain.eval()(features), dropping.eval()(features))
