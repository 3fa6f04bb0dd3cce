"""The layers of BM-NAS's released networks: as theirs, in supernet and derived network alike."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssnas_core.common.errors import InputError
from ssnas_core.spaces import SPACES
from ssnas_core.spaces.fusion.networks import RELEASED
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.operators import PRIMITIVES, Attention, ConcatFC, LinearGLU

ORACLE = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "_bmnas.py"))
CHANNELS = {"image_0": 5, "image_1": 4, "text_0": 3}
CHOICES = [RELEASED, RELEASED[:2], RELEASED[3:]]  # all, inside operators, of cells and output
L = 4


def fusion(cells: int = 2, steps: int = 1, released=RELEASED, **changes) -> FusionSpace:
    sizes: dict[str, Any] = {"channels": 3, "length": L, "dropout": 0.0, **changes}
    config = FusionConfig(cells=cells, steps=steps, released=tuple(released), **sizes)
    return FusionSpace(CHANNELS, config)


def draw_features(samples: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(samples, 1 if name.startswith("text") else L, width, generator=generator)
        for name, width in CHANNELS.items()
    }


def randomised(net: nn.Module, seed: int = 0) -> Any:
    """The network with every weight and statistic random, so that none is neutral."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                value.copy_(
                    torch.rand_like(value) + 0.5 if "_var" in name else torch.randn_like(value)
                )
    return net


def set_logits(net: Any, logits: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in logits.items():
            net.logits[name].copy_(value)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cells", [1, 2])
def test_with_all_layers_a_genotype_computes_what_bm_nas_network_does(cells, training):
    space, features, used = fusion(cells), draw_features(), set()
    columns = {name: value.transpose(1, 2) for name, value in features.items()}  # (N, C_in, P)
    for seed in range(12):
        genotype = space.sample(torch.Generator().manual_seed(seed))
        used |= {node.operator for node in genotype.nodes}
        network = randomised(space.build(genotype), seed).train(training)
        head = nn.Linear(network.width, 6)
        theirs = ORACLE["BMNAS"](CHANNELS, genotype, size=3, length=L, classes=6)
        ORACLE["copy_weights"](theirs, network, head)
        torch.testing.assert_close(
            head(network(features)), theirs.train(training)(columns), rtol=1e-5, atol=1e-5
        )
    assert used == set(PRIMITIVES[1:])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("released", CHOICES, ids=" ".join)
@pytest.mark.parametrize("steps", [1, 2])
def test_derived_network_computes_the_one_hot_supernet(steps, released, training):
    space, features = fusion(2, steps, released), draw_features()
    for seed in range(8):
        genotype = space.sample(torch.Generator().manual_seed(seed))
        net = randomised(space.supernet(), seed)
        set_logits(net, space.one_hot(genotype))
        network = space.inherit(genotype, net.state_dict())
        found, wanted = network.train(training)(features), net.train(training)(features)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("operator", PRIMITIVES[1:])
def test_inherited_norms_follow_cells_and_inputs_that_change_places(operator):
    # as in test_space: cell_0 and cell_1 are canonical the other way round
    space = fusion(3, released=[name for name in RELEASED if name != "residual"])
    net = randomised(space.supernet()).eval()
    logits = space.one_hot(next(space.genotypes()))
    logits["alpha_0"] = 200.0 * torch.tensor([0, 1, 1])
    logits["alpha_1"] = 200.0 * torch.tensor([0, 1, 1, 0])
    logits["alpha_2"] = 200.0 * torch.tensor([1, 1, 0, 0, 0])
    logits["beta_2_0"] = 200.0 * torch.eye(2)
    logits["gamma_2_0"] = 200.0 * torch.eye(5)[PRIMITIVES.index(operator)]
    set_logits(net, logits)
    network = space.inherit(space.derive(net.logits), net.state_dict()).eval()
    mine, theirs = (f(draw_features()).unflatten(1, (3, -1)) for f in (network, net))
    torch.testing.assert_close(mine, theirs[:, [1, 0, 2]], rtol=1e-4, atol=1e-4)


def test_released_relaxation_runs_the_operators_as_they_are_built():
    net = randomised(fusion(1, relaxation="released").supernet())
    step, z = net.cells[0].steps[0], torch.randn(5, L, 3)
    for place, name in enumerate(PRIMITIVES[1:]):
        wanted = 2 * z if name == "Sum" else getattr(step, name)(z, z)
        torch.testing.assert_close(step(z, 200.0 * torch.eye(4)[place]), wanted)
    assert isinstance(step.Attention.norm, nn.LayerNorm)
    assert net.embedding.norm is not None


def test_operators_drop_a_share_of_their_results_and_keep_the_mean():
    torch.manual_seed(0)
    x, y = torch.randn(2, 50, L, 8)
    for made in (ConcatFC(8, norm=True, dropout=0.5), LinearGLU(8, norm=True, dropout=0.5)):
        whole = type(made)(8, norm=True)
        whole.load_state_dict(made.state_dict())
        result, kept = made(x, y), whole(x, y)
        gone = (result == 0) & (kept != 0)
        assert 0.4 < gone.sum() / (kept != 0).sum() < 0.6
        torch.testing.assert_close(result[~gone], 2 * kept[~gone])


def test_attention_drops_before_its_norm():
    torch.manual_seed(0)
    x, y = torch.randn(2, 50, L, 8)
    result = Attention(8, length=L, dropout=0.5)(x, y)
    torch.testing.assert_close(result.mean((1, 2)), torch.zeros(50), rtol=0, atol=1e-5)
    torch.testing.assert_close(result.var((1, 2), correction=0), torch.ones(50), rtol=0, atol=1e-3)
    assert not torch.equal(result, Attention(8, length=L)(x, y))


def dropouts(space: FusionSpace) -> set[float]:
    """The rates inside the operators, of both networks."""
    found = space.build(space.sample(torch.Generator().manual_seed(3))), space.supernet()
    inside = [m for net in found for name, m in net.named_modules() if ".steps." in name]
    return {module.p for module in inside if isinstance(module, nn.Dropout)}


def test_operators_have_the_dropout_of_the_stems_where_it_is_asked_for():
    assert dropouts(fusion(dropout=0.3)) == {0.3}
    assert dropouts(fusion(dropout=0.3, released=["operator_norm"])) == set()
    fine_tuned = fusion(dropout=0.3).config.trained_with(0.6)
    assert fine_tuned.released == RELEASED
    assert dropouts(fine_tuned.open(CHANNELS)) == {0.6}


def test_layers_add_weights_of_their_own_and_change_none_that_are_drawn():
    torch.manual_seed(0)
    before = fusion(steps=2, released=()).supernet().state_dict()
    torch.manual_seed(0)
    more = fusion(steps=2).supernet().state_dict()
    assert before.keys() < more.keys()
    norms = {name for name in before if name.endswith(("output.norm.weight", "output.norm.bias"))}
    assert all(torch.equal(before[name], more[name]) for name in before.keys() - norms)


def test_configuration_survives_its_file_and_older_files_are_without():
    config = FusionConfig(released=("cell_norm", "output_norm"))
    plain = SPACES.plain(config)
    assert SPACES.from_plain(plain, "file") == config
    del plain["released"]
    assert SPACES.from_plain(plain, "file") == FusionConfig()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"released": ("norm",)}, r"released must be some of \('operator_norm', .*got \('norm',\)"),
        ({"released": ("residual", "residual")}, "each once, got"),
        ({"released": RELEASED, "cells": 3}, "residual knows at most two cells, got 3; leave"),
    ],
)
def test_layers_that_do_not_exist_or_do_not_fit_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        FusionConfig(**changes)
