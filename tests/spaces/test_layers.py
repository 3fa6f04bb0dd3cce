"""The layer space: its networks are the formula, and every architecture is there once."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import drop_modality
from ssnas_core.spaces import SPACES
from ssnas_core.spaces.base import labels_of
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.spaces.layers import LayersConfig, LayerSpace

CHANNELS = {"image_0": 3, "image_1": 2, "image_2": 3, "text_0": 4, "text_1": 2}
THREE = {"image_0": 3, "image_1": 2, "text": 4, "sound_0": 2, "sound_1": 2}


def made(layers: int = 2, channels=CHANNELS, **options) -> LayerSpace:
    return LayerSpace(channels, LayersConfig(layers=layers, channels=3, normalise=False, **options))


def small() -> LayerSpace:
    """2 x 1 x 2 = 4 layers, so 4 + 16 + 64 genotypes."""
    return made(3, {"image_0": 3, "image_1": 2, "text_0": 4})


def draw_features(channels, samples: int = 5, positions: int = 3):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(
            samples, 1 if name.startswith("text") else positions, width, generator=generator
        )
        for name, width in channels.items()
    }


def genotype(*layers: tuple[str, ...], space: str = "layers") -> Genotype:
    """From layers written as (activation, input, input, ...)."""
    nodes = (Node(f"layer_{n}", act, inputs) for n, (act, *inputs) in enumerate(layers))
    return Genotype(space, tuple(Node(n.name, n.operator, tuple(n.inputs)) for n in nodes))


# --- the network


def loop_network(one: Genotype, weights, features, channels: int):
    """h_l = act(W_l [mean x_A; mean x_B; h_(l-1)] + b_l), number by number."""
    rows = []
    for sample in range(len(next(iter(features.values())))):
        hidden: list[float] = []
        for level, node in enumerate(one.nodes):
            joined = []
            for name in node.inputs:
                if name in features:
                    maps = features[name][sample].tolist()
                    joined += [sum(column) / len(maps) for column in zip(*maps, strict=True)]
            joined += hidden
            matrix = weights[f"layers.{level}.weight"].tolist()
            bias = weights[f"layers.{level}.bias"].tolist()
            assert len(matrix) == channels
            sums = [
                b + sum(w * x for w, x in zip(row, joined, strict=True))
                for row, b in zip(matrix, bias, strict=True)
            ]
            hidden = [
                max(total, 0.0) if node.operator == "relu" else 1 / (1 + math.exp(-total))
                for total in sums
            ]
        rows.append(hidden)
    return torch.tensor(rows)


@pytest.mark.parametrize("channels", [CHANNELS, THREE], ids=["two modalities", "three"])
@pytest.mark.parametrize("training", [True, False])
def test_network_equals_the_formula_written_as_loops(channels, training):
    space = made(4, channels)
    features = draw_features(channels)
    seen = set()
    for seed in range(12):
        one = space.sample(torch.Generator().manual_seed(seed))
        torch.manual_seed(seed)
        network = space.build(one).train(training)
        wanted = loop_network(one, network.state_dict(), features, 3)
        torch.testing.assert_close(network(features), wanted, rtol=1e-4, atol=1e-5)
        assert network.width == space.config.channels == wanted.shape[1]
        seen |= {node.operator for node in one.nodes}
    assert seen == {"relu", "sigmoid"}


def test_network_reads_only_the_features_that_its_genotype_uses():
    space = made()
    one = genotype(("relu", "image_2", "text_0"), ("sigmoid", "image_2", "text_1", "layer_0"))
    network = space.build(one)
    features = draw_features(CHANNELS)
    assert network.features == ["image_2", "text_0", "text_1"]
    kept = {name: features[name] for name in network.features}
    assert torch.equal(network(kept), network(features))


def test_every_layer_of_a_genotype_decides_the_output():
    space = made(3)
    torch.manual_seed(0)
    one = genotype(
        ("sigmoid", "image_0", "text_0"),
        ("sigmoid", "image_1", "text_0", "layer_0"),
        ("sigmoid", "image_2", "text_1", "layer_1"),
    )
    network = space.build(one)
    network(draw_features(CHANNELS)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_modality_dropout_takes_a_modality_away_in_training_alone():
    space = made(2, modality_dropout=1.0)
    network = space.build(space.sample(torch.Generator().manual_seed(3)))
    features = draw_features(CHANNELS)
    torch.manual_seed(5)
    dropped = drop_modality(features, network.features, 1.0)
    network.eval()
    wanted, whole = network(dropped), network(features)
    network.train()
    torch.manual_seed(5)
    assert torch.equal(network(features), wanted)
    assert not torch.allclose(wanted, whole)


def test_dropout_is_behind_every_layer_in_training_alone():
    one = genotype(("sigmoid", "image_0", "text_0"), ("sigmoid", "image_0", "text_0", "layer_0"))
    network = made(2, dropout=0.5).build(one)
    features = draw_features(CHANNELS, samples=200)
    columns = {}
    network.layers[1].register_forward_pre_hook(lambda _, given: columns.update(x=given[0][:, -3:]))
    for training, share in ((True, 0.5), (False, 0.0)):
        output = network.train(training)(features)
        for values in (output, columns["x"]):
            assert abs(float((values == 0).float().mean()) - share) < 0.1


# --- the space


def test_every_genotype_is_there_once_and_valid():
    space = small()
    found = list(space.genotypes())
    assert len(found) == 4 + 4**2 + 4**3 == len(set(found)) == len({str(one) for one in found})
    for one in found:
        space.validate(one)
        assert Genotype.from_json({"format": 1, **_plain(one)}) == one
    assert [len(one.nodes) for one in found] == sorted(len(one.nodes) for one in found)
    assert str(found[0]) == "relu(image_0, text_0)"
    assert str(found[4]) == "relu(image_0, text_0) -> relu(image_0, text_0, layer_0)"


def _plain(one: Genotype):
    nodes = [{"name": n.name, "operator": n.operator, "inputs": list(n.inputs)} for n in one.nodes]
    return {"space": one.space, "nodes": nodes}


def test_no_two_genotypes_are_one_network():
    space = small()
    features = draw_features(space.channels)
    outputs = set()
    for one in space.genotypes():
        network = space.build(one)
        with torch.no_grad():
            for level, layer in enumerate(network.layers):  # column by column other weights
                values = torch.arange(1, layer.weight.numel() + 1).float() * (1 + level)
                layer.weight.copy_(values.sin().view_as(layer.weight))
                layer.bias.fill_(0.5)
        outputs.add(tuple(round(v, 5) for v in network(features).flatten().tolist()))
    assert len(outputs) == 84


def test_draws_are_uniform_over_the_space():
    space = made(2, {"image_0": 3, "image_1": 2, "text_0": 4})  # 20 genotypes
    generator = torch.Generator().manual_seed(0)
    draws = 4000
    counts = Counter(space.sample(generator) for _ in range(draws))
    assert set(counts) == set(space.genotypes())
    square = sum((count - draws / 20) ** 2 / (draws / 20) for count in counts.values())
    assert square < 44  # chi-square of 19 degrees of freedom, p = 0.001


def test_every_choice_decodes_and_every_genotype_is_decoded():
    space = small()
    ranges = [range(len(values)) for values in space.variables.values()]
    decoded = Counter(
        space.decode(dict(zip(space.variables, numbers, strict=True)))
        for numbers in itertools.product(*ranges)
    )
    found = list(space.genotypes())
    assert set(decoded) == set(found)
    for one in found:
        assert decoded[one] == 4 ** (3 - len(one.nodes))  # what decides nothing is free
        assert space.decode(space.encode(one)) == one
        assert list(space.encode(one)) == list(space.variables)


def test_variables_say_what_their_values_stand_for():
    variables = made(2, THREE).variables
    assert variables == {
        "layers": ("1", "2"),
        **{
            f"layer_{level} {what}": values
            for level in range(2)
            for what, values in (
                ("image", ("image_0", "image_1")),
                ("text", ("text",)),
                ("sound", ("sound_0", "sound_1")),
                ("activation", ("relu", "sigmoid")),
            )
        },
    }
    choice = dict.fromkeys(variables, 0) | {
        "layers": 1,
        "layer_1 sound": 1,
        "layer_0 activation": 1,
    }
    wanted = "sigmoid(image_0, text, sound_0) -> relu(image_0, text, sound_1, layer_0)"
    assert str(made(2, THREE).decode(choice)) == wanted


def test_extensions_grow_all_genotypes_each_once():
    space = small()
    grown: list[Genotype] = []
    level: list[Genotype | None] = [None]
    for count in range(1, 4):
        following = []
        for prefix in level:
            longer = space.extensions(prefix)
            before = () if prefix is None else prefix.nodes
            assert all(one.nodes[:-1] == before and len(one.nodes) == count for one in longer)
            following += longer
        grown += following
        level = list(following)
    assert len(grown) == len(set(grown))
    assert set(grown) == set(space.genotypes())
    assert all(space.extensions(one) == [] for one in level)


def test_first_levels_are_the_space_of_fewer_layers():
    space = small()
    assert space.levels == 3
    for count in (1, 2, 3):
        fewer = space.first(count)
        wanted = [one for one in space.genotypes() if len(one.nodes) <= count]
        assert list(fewer.genotypes()) == wanted
        assert fewer.config.channels == space.config.channels


def test_tokens_tell_genotypes_apart_and_stay_within_their_sizes():
    space = small()
    assert space.token_sizes == (2, 1, 2)
    tokens = [tuple(space.tokens(one)) for one in space.genotypes()]
    assert len(set(tokens)) == len(tokens)
    for one in tokens:
        for token in one:
            assert all(0 <= n < size for n, size in zip(token, space.token_sizes, strict=True))


def test_weights_are_shared_by_layer_sizes_and_activation():
    channels = {"image_0": 3, "image_1": 2, "image_2": 3, "text_0": 3, "text_1": 2}
    space = made(3, channels)
    tensors: dict[str, tuple] = {}
    for one in space.genotypes():
        network = space.build(one)
        parameters = dict(network.named_parameters())
        assert set(network.sharing()) == set(parameters) == set(network.state_dict())
        for name, key in network.sharing().items():
            node = one.nodes[int(name.split(".")[1])]
            sizes = tuple(channels.get(feature, 3) for feature in node.inputs)
            what = (node.name, sizes, node.operator, name.split(".")[2])
            assert tensors.setdefault(key, what) == what
            assert key.endswith(name.split(".")[2])
            if name.endswith("weight"):
                assert parameters[name].shape == (3, sum(sizes))
    # Two sizes of images, two of texts, two activations; weight and bias; three layers.
    assert len(set(tensors.values())) == len(tensors) == 2 * 2 * 2 * 2 * 3


def test_configuration_opens_its_space_and_keeps_its_own_dropout():
    config = LayersConfig(layers=2, channels=3, dropout=0.2)
    assert SPACES.from_plain(SPACES.plain(config), "file") == config
    space = config.open(CHANNELS)
    assert isinstance(space, LayerSpace) and (space.channels, space.config) == (CHANNELS, config)
    assert not any(hasattr(space, name) for name in config.lacks)


def test_layers_have_no_logits_to_label():
    assert labels_of(made()) == {}


# --- what is refused


GOOD = ("relu", "image_0", "text_0")
BAD = {
    "another space": (genotype(GOOD, space="fusion"), "expected layers, got fusion"),
    "too many layers": (
        genotype(GOOD, *(("relu", "image_0", "text_0", f"layer_{n}") for n in range(2))),
        "expected 1 to 2 layers, got 3",
    ),
    "an activation": (genotype(("tanh", "image_0", "text_0")), r"got layer_0 = tanh\("),
    "a feature": (genotype(("relu", "image_7", "text_0")), r"expected layer_0 = relu\|sigmoid\("),
    "the order of modalities": (genotype(("relu", "text_0", "image_0")), r"got layer_0 = relu\(te"),
    "one modality twice": (genotype(("relu", "image_0", "image_1")), r"image_0\|image_1\|image_2"),
    "one modality alone": (genotype(("relu", "image_0")), r"got layer_0 = relu\(image_0\)"),
    "a third feature": (genotype(("relu", "image_0", "text_0", "text_1")), "got layer_0"),
    "a layer without the one before": (genotype(GOOD, GOOD), "text_1, layer_0.; got layer_1"),
    "no inputs": (genotype(("relu",)), r"got layer_0 = relu\(\)"),
    "a name": (Genotype("layers", (Node("cell_0", "relu", GOOD[1:]),)), "got cell_0 = relu"),
}


@pytest.mark.parametrize("case", BAD)
def test_genotype_of_another_space_is_refused(case):
    one, message = BAD[case]
    for use in (LayerSpace.validate, LayerSpace.build, LayerSpace.encode, LayerSpace.extensions):
        with pytest.raises(InputError, match=message):
            use(made(2), one)


def test_layer_that_skips_the_one_before_is_refused():
    skipping = genotype(GOOD, *[("relu", "image_0", "text_0", "layer_0")] * 2)
    with pytest.raises(InputError, match=r"layer_1\); got layer_2 = relu\(.*layer_0\)"):
        made(3).validate(skipping)


@pytest.mark.parametrize("names", [("image_0", "image_1"), ("layer_0", "text_0"),
                                   ("activation_0", "text_0")])  # fmt: skip
def test_features_that_make_no_layers_are_refused(names):
    channels = dict.fromkeys(names, 3)
    with pytest.raises(InputError, match="two modalities, none of them named layer or activation"):
        made(2, channels)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": 0}, "layers must be >= 1, got 0"),
        ({"channels": 0}, "channels must be >= 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1"),
        ({"modality_dropout": 1.5}, r"modality_dropout must be in \[0, 1\], got 1.5"),
    ],
)
def test_sizes_that_make_no_space_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        LayersConfig(**wrong)


def test_normalised_features_may_have_any_scale():
    channels = {"a_0": 3, "b_0": 4}
    given = {n: torch.randn(8, 2, c, generator=torch.Generator().manual_seed(c)) for n, c in
             channels.items()}  # fmt: skip
    scaled = {name: 5 * value + 3 for name, value in given.items()}
    same = {}
    for normalise in (True, False):
        layers = LayerSpace(channels, LayersConfig(layers=1, channels=3, normalise=normalise))
        network = layers.build(next(iter(layers.genotypes())))
        same[normalise] = torch.allclose(network(given), network(scaled), atol=1e-4)
    assert same == {True: True, False: False}
