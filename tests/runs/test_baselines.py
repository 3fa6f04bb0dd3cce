"""Networks that nobody searched, against loops written from their equations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssnas_core.runs.baselines import GMU, CentralNet, LateConcat, MaxoutNetwork, Transfer
from ssnas_core.spaces.fusion.networks import Stem
from ssnas_core.spaces.fusion.space import FusionConfig

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
        stem = network.stems.get_submodule(name)
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


# --- the others; each is trained a little first, so that no norm is a fresh one

MODALITIES = {
    "one, of maps": {"image_0": (4, 5), "image_1": (4, 3)},
    "one, of vectors": {"text_0": (1, 7), "text_1": (1, 2)},
    "two": {"image_0": (4, 5), "image_1": (4, 3), "image_2": (1, 4), "text_0": (1, 7)},
    "two, of vectors": {"left_ear_0": (1, 3), "right_0": (1, 2), "right_1": (1, 5)},
    "three": {"image_0": (4, 5), "image_1": (4, 3), "sound_0": (4, 6), "text_0": (1, 7)},
}
PLAIN = replace(CONFIG, dropout=0.0)


def sizes_of(case: str) -> tuple[dict[str, int], dict[str, int]]:
    features = MODALITIES[case].items()
    return {n: width for n, (_, width) in features}, {n: count for n, (count, _) in features}


def features_of(case: str, rows: int = 9) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: 2 + 3 * torch.randn(rows, *size, generator=generator)
        for name, size in MODALITIES[case].items()
    }


def used(network: nn.Module, features: Mapping[str, Tensor]) -> Any:
    """The network after a step of training, in eval mode."""
    optimizer = torch.optim.SGD([*network.parameters(), torch.zeros(1)], lr=0.1)
    loss = network.train()(features).square().mean()
    if loss.requires_grad:
        loss.backward()
    optimizer.step()
    return network.eval()


def standardised(norm: nn.BatchNorm1d, vector: Tensor) -> Tensor:
    """What a batch norm in eval mode makes of one vector (C,)."""
    assert norm.running_mean is not None and norm.running_var is not None
    scaled = (vector - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    return scaled if norm.weight is None else scaled * norm.weight + norm.bias


def stem_of(stem: Stem, vector: Tensor) -> Tensor:
    """What a stem in eval mode makes of one position (C_in,)."""
    return standardised(stem.norm, stem.linear.weight @ vector).relu()


def mean_position(feature: Tensor) -> Tensor:
    """(P, C) -> (C,)."""
    total = torch.zeros(feature.shape[1])
    for position in feature:
        total = total + position
    return total / len(feature)


@pytest.mark.parametrize(
    ("case", "read"),  # inputs that are vectors, else the deepest feature
    [
        ("one, of maps", ["image_1"]),
        ("one, of vectors", ["text_0"]),
        ("two", ["image_2", "text_0"]),
        ("two, of vectors", ["left_ear_0", "right_0"]),
        ("three", ["image_1", "sound_0", "text_0"]),
    ],
)
def test_gmu_is_its_equations_written_as_loops(case, read):
    torch.manual_seed(0)
    features = features_of(case)
    network = used(GMU(*insert(sizes_of(case), PLAIN)), features)
    found = network(features)
    assert found.shape == (9, network.width) == (9, 6 * 4)
    size, blocks = network.width, network.gates.weight.split(network.width)
    for row in range(9):
        inputs = [
            standardised(network.stems[name], mean_position(features[name][row])) for name in read
        ]
        together = torch.cat(inputs)
        hidden = [
            torch.tanh(network.hidden[name].weight @ x)
            for name, x in zip(read, inputs, strict=True)
        ]
        z = [torch.sigmoid(block @ together) for block in blocks]
        if len(read) == 2:  # one gate between two
            z = [z[0], 1 - z[0]]
        wanted = torch.zeros(size)
        for number in range(size):
            for gate, values in zip(z, hidden, strict=True):
                wanted[number] += gate[number] * values[number]
        torch.testing.assert_close(found[row], wanted)


@pytest.mark.parametrize(("case", "shown"), [("two", "image_2"), ("three", "image_1")])
def test_open_gate_lets_its_modality_through_alone(case, shown):
    torch.manual_seed(0)
    features = features_of(case)
    network = used(GMU(*insert(sizes_of(case), PLAIN)), features)
    gate = network.stems[shown]
    with torch.no_grad():  # a gate that opens for one input and is shut for the others
        network.gates.weight.zero_()
        gate.weight.zero_()
        gate.bias.fill_(1.0)
        network.gates.weight[: network.width, : gate.num_features] = 1e4
        if case == "three":
            network.gates.weight[network.width :, : gate.num_features] = -1e4
    alone = torch.tanh(network.hidden[shown].weight.sum(1)).expand(9, -1)
    torch.testing.assert_close(network(features), alone)


def test_order_of_modalities_is_of_no_matter_to_a_gmu():
    torch.manual_seed(0)
    channels, positions = sizes_of("three")
    features = features_of("three")
    network = used(GMU(channels, PLAIN, positions), features)
    order = ("text_0", "sound_0", "image_0", "image_1")
    turned = GMU({name: channels[name] for name in order}, PLAIN, positions)
    state = network.state_dict()
    gates = state["gates.weight"].unflatten(0, (3, -1)).flip(0).flatten(0, 1)
    image, sound, text = gates.split([3, 6, 7], 1)
    state["gates.weight"] = torch.cat((text, sound, image), 1)
    turned.load_state_dict(state)
    torch.testing.assert_close(turned.eval()(features), network(features))


@pytest.mark.parametrize(
    ("case", "depths"),
    [
        ("one, of maps", [["image_0"], ["image_1"]]),
        ("two", [["image_0"], ["image_1"], ["image_2", "text_0"]]),
        ("two, of vectors", [["right_0"], ["left_ear_0", "right_1"]]),
        ("three", [["image_0"], ["image_1", "sound_0", "text_0"]]),
    ],
)
def test_centralnet_is_its_equation_written_as_loops(case, depths):
    torch.manual_seed(0)
    features = features_of(case)
    channels, positions = sizes_of(case)
    network = CentralNet(channels, PLAIN, positions)
    for shares in network.shares:  # equal at first, and together 1
        torch.testing.assert_close(shares.detach(), torch.full_like(shares, 1 / len(shares)))
    used(network, features)
    found, most = network(features), max(positions.values())
    assert found.shape == (9, network.width) == (9, 6 * most)
    for row in range(9):
        for position in range(most):
            central = torch.zeros(0)
            for depth, names in enumerate(depths):
                shares = list(network.shares[depth])
                total = shares.pop(0) * central if depth else torch.zeros(6)
                for name in names:
                    column = features[name][row, min(position, positions[name] - 1)]
                    total = total + shares.pop(0) * stem_of(network.stems[name], column)  # type: ignore[arg-type]
                assert not shares
                central = stem_of(network.layers[depth], total)  # type: ignore[arg-type]
            torch.testing.assert_close(
                found[row, 6 * position : 6 * (position + 1)], central, rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize(
    ("case", "deepest"), [("one, of maps", "image_1"), ("one, of vectors", "text_1")]
)
def test_transfer_is_the_deepest_feature_standardised(case, deepest):
    features = features_of(case)
    network = used(Transfer(sizes_of(case)[0], PLAIN), features)
    assert [*network.parameters()] == []
    found = network(features)
    assert found.shape == (9, network.width)
    for row in range(9):
        wanted = standardised(network.stems[deepest], mean_position(features[deepest][row]))
        torch.testing.assert_close(found[row], wanted)


@pytest.mark.parametrize(
    ("case", "read"), [("one, of maps", "image_1"), ("one, of vectors", "text_0")]
)
def test_maxout_reads_the_input_where_it_is_a_vector_else_the_deepest_feature(case, read):
    torch.manual_seed(0)
    features = features_of(case)
    network = used(MaxoutNetwork(*insert(sizes_of(case), PLAIN)), features)
    found = network(features)
    assert found.shape == (9, network.width) == (9, 128)
    layers = network.stems[read]
    for row in range(9):
        state = mean_position(features[read][row])
        for norm, maxout in layers:
            pieces = maxout.linear.weight @ standardised(norm, state) + maxout.linear.bias
            state = torch.stack([max(pieces[5 * k : 5 * k + 5]) for k in range(len(pieces) // 5)])
        torch.testing.assert_close(found[row], state, rtol=1e-4, atol=1e-5)
        assert len(layers) == 2 and len(layers[0][1].linear.bias) == 64 * 5


def insert(sizes: tuple[Any, Any], config: FusionConfig) -> tuple[Any, FusionConfig, Any]:
    return sizes[0], config, sizes[1]


JOINT: dict[str, Callable[[str, FusionConfig], Any]] = {
    "GMU": lambda case, config: GMU(*insert(sizes_of(case), config)),
    "CentralNet": lambda case, config: CentralNet(*insert(sizes_of(case), config)),
}
ALONE: dict[str, Callable[[str, FusionConfig], Any]] = {
    "Transfer": lambda case, config: Transfer(sizes_of(case)[0], config),
    "MaxoutNetwork": lambda case, config: MaxoutNetwork(*insert(sizes_of(case), config)),
}
CASES = [
    *((make, case) for make in JOINT for case in MODALITIES),
    *((make, case) for make in ALONE for case in MODALITIES if case.startswith("one")),
]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_every_weight_is_trained_and_dropout_acts(name, case):
    torch.manual_seed(0)
    features = features_of(case)
    network = (JOINT | ALONE)[name](case, CONFIG).train()
    assert not torch.equal(network(features), network(features))
    head = nn.Linear(network.width, 3)
    head(network(features)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())
    network.eval()
    assert torch.equal(network(features), network(features))
    for row in (slice(0, 1), slice(4, 9)):  # a sample does not see its neighbours
        some = {key: value[row] for key, value in features.items()}
        torch.testing.assert_close(network(some), network(features)[row])


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize(("case", "moves"), [("three", True), ("one, of maps", False)])
def test_modality_dropout_acts_on_joint_networks_while_training(name, case, moves):
    torch.manual_seed(0)
    features = features_of(case)
    plain, dropping = (JOINT[name](case, replace(PLAIN, modality_dropout=p)) for p in (0.0, 1.0))
    dropping.load_state_dict(plain.state_dict())
    assert torch.equal(plain.train()(features), dropping.train()(features)) != moves
    dropping.load_state_dict(plain.state_dict())
    assert torch.equal(plain.eval()(features), dropping.eval()(features))


@pytest.mark.parametrize("name", [*JOINT, *ALONE])
def test_weights_are_those_of_torchs_seed(name):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append((JOINT | ALONE)[name]("one, of maps", CONFIG).state_dict())
    same = [all(torch.equal(states[0][k], other[k]) for k in other) for other in states[1:]]
    assert same == [True, name == "Transfer"]  # which has no weights


def test_dropout_of_centralnet_is_in_its_stems_alone():
    network = CentralNet(*insert(sizes_of("three"), CONFIG))
    rates = [
        [stem.dropout.p for stem in parts] for parts in (network.stems.values(), network.layers)
    ]
    assert rates == [[0.3] * 4, [0.0] * 2]
