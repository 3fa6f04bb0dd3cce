"""Drawings of genotypes that no space of the package has."""

from __future__ import annotations

import numpy as np
import pytest

from ssnas_core.show.genotype import Block, Layout, spread
from ssnas_core.spaces.genotype import Genotype, Node


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
