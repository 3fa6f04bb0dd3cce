"""Blocks of encoder and decoder: they are the formulas, written here as loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ssnas_core.common.errors import InputError
from ssnas_core.spaces.encdec.blocks import (
    Attention,
    Block,
    EncDecNetwork,
    grid_boxes,
    present,
    relations,
)

CHANNELS = {"text_0": 5, "image_1": 6}


def network(encoder, decoder, positions: int = 4, **options) -> EncDecNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = EncDecNetwork(
            CHANNELS, encoder, decoder, width=8, head=4, grid=grid_boxes(positions), boxes=None,
            **{"dropout": 0.0, "modality_dropout": 0.0, **options},
        )  # fmt: skip
    return made.eval()


def features(positions: int = 4, words: int = 3, samples: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "text_0": torch.randn(samples, words, 5, generator=generator),
        "image_1": torch.randn(samples, positions, 6, generator=generator),
    }


def test_relations_are_the_published_formula():
    boxes = torch.tensor([[0.0, 0, 9, 19], [5, 5, 24, 9], [30, 0, 33, 3]])

    def number(i: int, j: int) -> list[float]:
        (a, b, c, d), (e, f, g, h) = boxes[i].tolist(), boxes[j].tolist()
        width, height = c - a + 1, d - b + 1
        across = abs((a + c) / 2 - (e + g) / 2) / width
        down = abs((b + d) / 2 - (f + h) / 2) / height
        return [
            math.log(max(across, 1e-3)),
            math.log(max(down, 1e-3)),
            math.log(width / (g - e + 1)),
            math.log(height / (h - f + 1)),
        ]

    expected = torch.tensor([[number(i, j) for j in range(3)] for i in range(3)])
    torch.testing.assert_close(relations(boxes), expected)
    torch.testing.assert_close(relations(boxes.expand(2, 3, 4))[1], expected)


def test_a_grid_s_cells_are_pixels_row_by_row():
    assert grid_boxes(4).tolist() == [[0, 0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]]
    assert grid_boxes(3)[:, 0].tolist() == [0, 1, 2] and not grid_boxes(3)[:, 1].any()


def test_attention_is_the_formula_head_by_head():
    attention = Attention(8, 4, 0.0).eval()
    generator = torch.Generator().manual_seed(0)
    asks = torch.randn(2, 3, 8, generator=generator)
    answers = torch.randn(2, 5, 8, generator=generator)
    added = torch.randn(1, 2, 3, 5, generator=generator)
    heads = []
    for head in range(2):
        own = slice(4 * head, 4 * head + 4)
        query, key, value = (
            layer(x)[..., own]
            for layer, x in (
                (attention.query, asks),
                (attention.key, answers),
                (attention.value, answers),
            )
        )
        scores = query @ key.transpose(1, 2) / 2 + added[:, head]  # 2, the root of 4
        heads.append(scores.softmax(-1) @ value)
    expected = attention.out(torch.cat(heads, -1))
    torch.testing.assert_close(attention(asks, answers, added), expected)


@pytest.mark.parametrize(("name", "width", "numbers"), [
    ("SA", 512, 1_049_600), ("SA", 256, 262_656), ("GA", 512, 1_049_600),
    ("FFN", 512, 2_100_736), ("FFN", 256, 526_080),
])  # fmt: skip
def test_a_block_has_as_many_weights_as_the_released_one(name, width, numbers):
    block = Block([name], width, 64, 0.1)
    assert sum(p.numel() for p in block.parameters()) == numbers


def test_a_block_adds_and_then_normalises():
    block = Block(["FFN"], 8, 4, 0.0)
    nn.init.constant_(block.norms["FFN"].weight, 2.0)
    nn.init.constant_(block.norms["FFN"].bias, 1.0)
    x = torch.randn(2, 3, 8)
    total = x + block.operations["FFN"](x)
    mean, variance = total.mean(-1, keepdim=True), total.var(-1, unbiased=False, keepdim=True)
    expected = 2 * (total - mean) / (variance + 1e-5).sqrt() + 1
    torch.testing.assert_close(block(x, {}, x, None), expected)


def test_rsa_adds_the_logarithm_of_what_a_relation_weighs():
    made = network([["FFN"]], [["RSA"], ["FFN"], ["RSA"]])
    related = made._related(grid_boxes(4))
    assert list(related) == [0, 2]
    one = torch.relu(made.relate(relations(grid_boxes(4))))
    for place, heads in ((0, slice(0, 2)), (2, slice(2, 4))):
        weights = one @ made.weigh.weight[heads].T + made.weigh.bias[heads]  # (P, P, heads)
        expected = weights.clamp(min=1e-6).log().permute(2, 0, 1)
        torch.testing.assert_close(related[place], expected)


def test_only_rsa_sees_where_a_region_is():
    """Regions in another order are the same to all other operations."""
    given = features()
    order = torch.tensor([2, 0, 3, 1])
    moved = {**given, "image_1": given["image_1"][:, order]}
    blind = network([["SA"], ["FFN"]], [["SA"], ["GA"], ["FFN"]])
    torch.testing.assert_close(blind(moved), blind(given))
    sees = network([["SA"], ["FFN"]], [["RSA"], ["GA"], ["FFN"]])
    assert (sees(moved) - sees(given)).abs().max() > 1e-3


def test_a_block_of_rsa_has_as_many_weights_as_the_released_one():
    for width, numbers in ((512, 1_050_120), (256, 262_916)):
        made = EncDecNetwork(
            CHANNELS, [["SA"]], [["RSA"]], width=width, head=64, grid=grid_boxes(4), boxes=None,
            dropout=0.1, modality_dropout=0.0,
        )  # fmt: skip
        parts = (made.decoder, made.weigh)
        assert sum(p.numel() for part in parts for p in part.parameters()) == numbers


def test_relations_reach_the_attention_of_their_block_and_leave_padding_hidden():
    made = network([["SA"]], [["RSA"]])
    given = features()
    given["image_1"][1, 2:] = 0  # two positions of padding
    there = present(given["image_1"])
    x = made.stems["image_1"](given["image_1"], there)
    hidden = torch.zeros(2, 1, 1, 4).masked_fill(~there[:, None, None], -torch.inf)
    attended = made.decoder[0].operations["RSA"](x, x, hidden + made._related(grid_boxes(4))[0])
    expected = made.decoder[0].norms["RSA"](x + attended)
    flat = made.flatten["image_1"](expected, there)
    made.flatten["text_0"] = _Nothing()
    torch.testing.assert_close(made(given), made.norm(flat))


def test_a_flat_vector_is_the_mean_by_learned_weights_of_what_is_there():
    flatten = network([["SA"]], [["SA"]]).flatten["image_1"]
    x = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    scores = [flatten.scores(x[0, place]).item() for place in (0, 2)]
    shares = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
    expected = flatten.out(shares[0] * x[:, 0] + shares[1] * x[:, 2])
    torch.testing.assert_close(flatten(x, torch.tensor([[True, False, True]])), expected)


def test_other_positions_than_the_grid_s_are_refused():
    with pytest.raises(InputError, match="expected image_1 at 4 positions, got 9; open the space"):
        network([["SA"]], [["RSA"]])(features(positions=9))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("side", ["text_0", "image_1"])
def test_positions_of_zeros_are_padding_and_change_nothing(side, training):
    made = network([["SA"], ["FFN"]], [["SA"], ["GA"], ["FFN"]]).train(training)
    given = features()
    value = given[side]
    padded = {**given, side: torch.cat([value, torch.zeros(2, 2, value.shape[2])], 1)}
    torch.testing.assert_close(made(padded), made(given))


def test_a_sample_of_nothing_but_zeros_has_all_its_positions():
    assert present(torch.zeros(1, 3, 2)).all()
    made = network([["SA"]], [["SA"], ["GA"]])
    empty = {name: torch.zeros_like(value) for name, value in features().items()}
    assert made(empty).isfinite().all()


def test_guided_attention_alone_lets_the_encoded_modality_reach_the_decoder():
    def decoded(made, given):
        made.flatten["text_0"] = _Nothing()
        return made(given)

    given = features()
    other = {**given, "text_0": given["text_0"].flip(1) + 1}
    for operation, reaches in (("GA", True), ("SA", False), ("RSA", False)):
        made = network([["SA"]], [[operation], ["FFN"]])
        same = torch.equal(decoded(made, given), decoded(made, other))
        assert same != reaches, operation


class _Nothing(nn.Module):
    def forward(self, x, there):
        return torch.zeros(len(x), 16)


def test_apart_a_region_is_embedded_as_if_it_were_the_only_one_that_is_pooled():
    net, given = network([["SA"]], [["RSA"], ["GA"]]), features()
    given["image_1"][0, 3] = 0  # padding
    kept = {}
    pooled = net.flatten["image_1"].register_forward_hook(
        lambda module, inputs, out: kept.update(x=inputs[0])
    )
    net(given)
    pooled.remove()
    net.flatten["text_0"].register_forward_hook(lambda module, inputs, out: kept.update(text=out))
    net.apart = True
    with torch.no_grad():
        each = net(given)
        assert each.shape == (2, 4, net.width)
        for n in range(2):
            for place in range(4):
                alone = net.flatten["image_1"](
                    kept["x"][n : n + 1, place : place + 1], torch.ones(1, 1, dtype=torch.bool)
                )
                wanted = net.norm(kept["text"][n : n + 1] + alone)[0]
                wanted = torch.zeros_like(wanted) if (n, place) == (0, 3) else wanted
                assert torch.allclose(each[n, place], wanted, atol=1e-6)
