"""Drawings of genotypes that no space of the package has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssnas_core.show.curves import draw_genotype
from ssnas_core.show.genotype import Block, Layout, drawn_parts, paint, spread
from ssnas_core.spaces.cells.blocks import OPERATIONS
from ssnas_core.spaces.cells.space import CellsConfig, CellsSpace
from ssnas_core.spaces.fusion.space import FusionConfig
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.spaces.joint import JointConfig


def laid_out(genotype: Genotype) -> Layout:
    return Layout(genotype, genotype.features, lambda text: 0.07 * len(text))


def into_head(layout: Layout) -> set[str]:
    return {source for source, target in layout.routes if target == "head"}


CHAIN = (Node("a", "Mine", ("image_0",)), Node("b", "Mine", ("a", "text_0")))
FORK = (*CHAIN, Node("c", "Mine", ("a",)))


@pytest.mark.parametrize(
    ("space", "nodes", "ends", "head"),
    [
        ("mine", CHAIN, {"b"}, "head"),
        ("mine", FORK, {"b", "c"}, "concat → head"),
        ("fusion", FORK, {"a", "b", "c"}, "concat → head"),
    ],
)
def test_head_takes_what_nothing_else_takes_and_of_the_fusion_space_all(space, nodes, ends, head):
    layout = laid_out(Genotype(space, nodes))
    assert into_head(layout) == ends and list(layout.blocks["head"].texts) == [head]


def test_operator_of_ones_own_stands_in_its_block():
    layout = laid_out(Genotype("mine", (Node("a", "own.module:Mixer", ("image_0",)),)))
    assert list(layout.blocks["a"].texts) == ["own.module:Mixer"]


def test_blocks_are_moved_apart_and_no_further():
    blocks = [Block(name, 0, [name]) for name in "abc"]
    far, near = spread(blocks, [4.0, 2.0, 0.0]), spread(blocks, [1.0, 1.0, 1.0])
    assert far.tolist() == [4.0, 2.0, 0.0]  # where they do not overlap, they stay
    room = blocks[0].height
    assert (-np.diff(near) >= room).all() and near.mean() == pytest.approx(1.0)


def test_convolutional_cells_stand_side_by_side_with_an_arrow_for_each_operation():
    space = CellsSpace({"image_0": 3}, {"image_0": 64}, CellsConfig(nodes=5))
    genotype = space.named("CSNAS s5")
    parts = drawn_parts(genotype, ["image_0"])
    for kind, (part, shown) in zip(("normal", "reduce"), parts, strict=True):
        layout = laid_out(part)
        assert set(shown) == {"c_k-2", "c_k-1"}
        nodes = {node.name: node for node in genotype.nodes}
        assert set(layout.features) == {"c_k-2", "c_k-1"}
        assert list(layout.blocks["head"].texts) == ["concat → c_k"]
        assert into_head(layout) == set(nodes[kind].inputs)
        for number in range(2, 7):
            name = f"{kind}_{number}"
            block = layout.blocks[name]
            assert block.framed and "+".join(block.texts) == nodes[name].operator
            assert tuple(step.inputs[0] for step in block.nodes) == nodes[name].inputs
            assert {(source, name) for source in nodes[name].inputs} <= layout.routes.keys()
    chain = Genotype("mine", CHAIN)
    assert drawn_parts(chain, ["image_0"]) == [(chain, ["image_0"])]
    draw_genotype(Genotype("cells", CHAIN))  # a file that is none of them
    figure = draw_genotype(genotype, ["image_0"])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("c_k-2") == texts.count("concat → c_k") == 2 and "image_0" not in texts
    assert sum(text in OPERATIONS for text in texts) == 20


def test_a_joint_genotype_is_drawn_as_cells_and_the_fusion_of_their_features():
    channels, positions = {"image_0": 3, "text_0": 4}, {"image_0": 64, "text_0": 1}
    fusion = FusionConfig(channels=4, output="beside")
    space = JointConfig(fusion=fusion).open(channels, positions)
    genotype = space.sample(torch.Generator().manual_seed(0))
    normal, reduce, (fused, shown) = drawn_parts(genotype, space.features)
    assert shown == ("image_1", "image_2", "image_3", "text_0")
    assert fused == Genotype("fusion", space.split(genotype)[""].nodes)
    for kind, (part, read) in (("normal", normal), ("reduce", reduce)):
        assert set(read) == {"image c_k-2", "image c_k-1"}
        assert part.nodes[-1].inputs == tuple(f"image {kind}_{node}" for node in range(2, 6))
    texts = [text.get_text() for text in draw_genotype(genotype, space.features).axes[0].texts]
    assert "image_3" in texts and "image_0" not in texts and texts.count("concat → c_k") == 2


def test_what_is_too_wide_for_a_row_stands_below_it():
    wide = [laid_out(Genotype("mine", CHAIN)) for _ in range(6)]
    paint(wide, ["image_0"], None)
    tops = [layout.extent()[3] for layout in wide]
    assert tops[0] == pytest.approx(tops[1]) and tops[-1] < wide[0].extent()[2]
    assert wide[0].extent()[0] in [pytest.approx(one.extent()[0]) for one in wide[1:]]


def test_layouts_side_by_side_do_not_overlap_and_begin_at_one_height():
    first, second = laid_out(Genotype("mine", CHAIN)), laid_out(Genotype("mine", FORK))
    paint([first, second], ["image_0"], None)
    (_, right, _, top), (left, _, _, other) = first.extent(), second.extent()
    assert left > right and other == pytest.approx(top)
