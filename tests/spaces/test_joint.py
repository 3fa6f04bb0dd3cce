"""Facts about the joint space: its parts are those of two spaces, and its supernet holds both."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssnas_core.common.errors import InputError
from ssnas_core.spaces.cells.space import CellsConfig
from ssnas_core.spaces.fusion.space import FusionConfig
from ssnas_core.spaces.genotype import Genotype
from ssnas_core.spaces.joint import JointConfig, JointSpace, JointSupernet

pytestmark = pytest.mark.usefixtures("one_thread")

CHANNELS = {"image_0": 3, "audio_0": 1, "text_0": 5, "text_1": 6}
POSITIONS = {"image_0": 64, "audio_0": 144, "text_0": 1, "text_1": 4}
CELLS = CellsConfig(cells=4, channels=2, stem=1)


def space(**options) -> JointSpace:
    fusion = FusionConfig(channels=4, dropout=0.0, **{"output": "beside", **options})
    return JointConfig(cells=CELLS, fusion=fusion).open(CHANNELS, POSITIONS)


def features(samples: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((name, (samples, POSITIONS[name], width)) for name, width in CHANNELS.items())
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes}


def drawn(one: JointSpace, count: int) -> list[Genotype]:
    generator = torch.Generator().manual_seed(0)
    return [one.sample(generator) for _ in range(count)]


def test_a_genotype_is_the_cells_of_each_picture_and_a_fusion_of_what_they_give():
    one = space()
    assert list(one.cells) == ["image", "audio"]
    assert one.fusion.features == (
        "image_1", "image_2", "image_3", "audio_1", "audio_2", "audio_3", "text_0", "text_1",
    )  # fmt: skip
    for genotype in drawn(one, 5):
        parts = one.split(genotype)
        assert [*parts] == ["image", "audio", ""] and one.join(parts) == genotype
        assert [part.space for part in parts.values()] == ["cells", "cells", "fusion"]
        assert one.decode(one.encode(genotype)) == genotype
        assert Genotype.from_json(json.loads(genotype.to_json())) == genotype
        assert set(genotype.features) == {*CHANNELS}
    names = {node.name: node for node in genotype.nodes}
    assert names["audio c_k-1"].inputs == ("audio_0",)
    # of four cells the second and the third reduce
    kinds = [names[f"image_{depth}"].inputs for depth in (1, 2, 3)]
    assert kinds == [("image normal",), ("image reduce",), ("image normal",)]


def test_choices_are_those_of_the_parts():
    one = space()
    sizes = {name: len(values) for name, values in one.variables.items()}
    assert len(sizes) == 2 * len(one.cells["image"].variables) + len(one.fusion.variables)
    assert sizes["audio reduce_4 inputs"] == 6 and sizes["pair_0"] == 8 * 7 // 2
    first, second = drawn(one, 2)
    mixed = {**one.encode(first)}
    others = {k: v for k, v in one.encode(second).items() if k.startswith("audio ")}
    parts = one.split(one.decode(mixed | others))
    assert parts == {**one.split(first), "audio": one.split(second)["audio"]}


def test_the_network_is_cells_below_and_fusion_above_written_out():
    one = space()
    torch.manual_seed(0)
    genotype, given = drawn(one, 1)[0], features()
    network = one.build(genotype).eval()
    read = {name: given[name] for name in ("text_0", "text_1")}
    for name, side in (("image", 8), ("audio", 12)):
        stack = network.pictures[name]
        image = given[f"{name}_0"].mT.unflatten(2, (side, side))  # (N, C, H, W)
        before = last = stack.stem(stack.norm(image))
        for place, cell in enumerate(stack.cells):
            before, last = last, cell(before, last)
            if place in (0, 1, 3):  # the last cells of each size
                pooled = F.adaptive_max_pool2d(last, 2).flatten(2).mT  # L = 4
                read[f"{name}_{[0, 1, 3].index(place) + 1}"] = pooled
    torch.testing.assert_close(network(given), network.fusion(read))
    assert network(given).shape == (5, network.width)


def test_the_supernet_at_one_hot_logits_is_the_derived_network():
    """Once the pools' batch norms, which a final network has not, do nothing."""
    one = space(output="cells")
    torch.manual_seed(0)
    supernet = one.supernet().train()
    for _ in range(3):
        supernet(features())
    for name, module in supernet.named_modules():
        if ".pools." in name and isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.eps = 0.0
    supernet.eval()
    assert supernet.logits.keys() == one.labels().keys()
    for genotype in drawn(one, 4):
        for name, values in one.one_hot(genotype).items():
            supernet.logits[name].data.copy_(values)
        assert one.derive(supernet.logits) == genotype
        derived = one.inherit(genotype, supernet.state_dict()).eval()
        torch.testing.assert_close(supernet(features()), derived(features()))


def test_one_loss_moves_the_logits_of_all_parts():
    one = space()
    torch.manual_seed(0)
    supernet = one.supernet().train()
    supernet(features()).square().mean().backward()
    slopes = {name: leaf.grad for name, leaf in supernet.logits.items()}
    assert {"image normal", "audio reduce", "alpha_0", "output"} <= slopes.keys()
    assert all(slope.count_nonzero() for slope in slopes.values())
    assert {id(leaf) for leaf in supernet.logits.values()} <= {
        id(parameter) for parameter in supernet.parameters()
    }


def test_what_weighs_the_choices_is_set_for_all_parts():
    supernet = space().supernet()
    asked = []

    def relax(scores):
        asked.append(tuple(scores.shape))
        return scores.softmax(-1)

    supernet.relax = relax
    supernet(features())
    assert asked.count((14, 8)) == 4  # normal and reduce of both pictures
    assert (5,) in asked and supernet.relax is relax  # gamma


def test_cells_that_are_fixed_have_no_logits():
    one = space()
    parts = one.split(drawn(one, 1)[0])
    stacks = {name: cells.build(parts[name]) for name, cells in one.cells.items()}
    supernet = JointSupernet(stacks, one.fusion.supernet())
    assert supernet.logits.keys() == one.fusion.labels().keys()
    assert supernet(features()).shape == (5, supernet.width)


def test_cells_of_which_nothing_is_read_are_not_computed():
    one = space(output="chosen")
    choice = dict.fromkeys(one.variables, 0) | {"output_text_1": 1}
    genotype = one.decode(choice)
    network = one.build(genotype)
    assert not network.pictures and network({"text_1": features()["text_1"]}).shape == (5, 16)
    supernet = one.supernet()
    for name, values in one.one_hot(genotype).items():
        supernet.logits[name].data.copy_(values)
    assert not one.inherit(genotype, supernet.state_dict()).pictures


def test_another_dropout_is_the_fusions():
    config = JointConfig(cells=replace(CELLS, drop_path=0.2)).trained_with(0.4)
    assert (config.fusion.dropout, config.cells.drop_path) == (0.4, 0.2)


def test_what_is_no_genotype_of_the_space_is_refused():
    one = space()
    genotype = drawn(one, 1)[0]
    nodes = genotype.nodes
    for bad, message in (
        (Genotype("fusion", nodes), "expected joint, got fusion"),
        (Genotype("joint", nodes[-1:]), "expected cells of image"),
        (Genotype("joint", tuple(n for n in nodes if n.name != "audio_2")), "expected its nodes"),
        (replace(genotype, nodes=tuple(replace(n, operator="stem") if n.name == "image normal_2"
                                       else n for n in nodes)), "OPERATION"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            one.validate(bad)


def test_features_without_a_picture_are_refused():
    config = JointConfig(fusion=FusionConfig(channels=4))
    with pytest.raises(InputError, match="pixels of a picture, at more than 4 positions"):
        config.open({"text_0": 5, "text_1": 5}, {"text_0": 1, "text_1": 4})
    with pytest.raises(InputError, match="multiple of 4 positions, got 100"):
        config.open({"image_0": 3, "text_0": 5}, {"image_0": 100, "text_0": 1})
    with pytest.raises(InputError, match="relaxation 'pairs' does, got 'released'"):
        JointConfig(fusion=FusionConfig(relaxation="released"))
