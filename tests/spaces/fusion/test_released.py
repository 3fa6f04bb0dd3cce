"""BM-NAS's released relaxation: what it computes, and what it can and cannot derive."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from ssnas_core.common.errors import InputError
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.operators import attention

CHANNELS = {"image_0": 5, "image_1": 4, "text_0": 3, "text_1": 6}
PAPER = {**{f"image_{tap}": 512 for tap in range(4)}, "text_0": 64, "text_1": 128}


def released(cells: int = 2, steps: int = 1) -> FusionSpace:
    config = FusionConfig(
        channels=3, length=4, cells=cells, steps=steps, dropout=0.0, relaxation="released"
    )
    return FusionSpace(CHANNELS, config)


def draw_features(samples: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        name: torch.randn(samples, 1 if name.startswith("text") else 4, width)
        for name, width in CHANNELS.items()
    }


def random_supernet(space: FusionSpace):
    torch.manual_seed(0)
    net = space.supernet()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return net


def edge_by_edge(net, space: FusionSpace, features) -> Tensor:
    """As the released code writes it: every edge, state and operator by itself, on [z; z]."""
    config, weights = space.config, dict(net.named_parameters())
    states = net.stems(features)
    outputs: list[Tensor] = []
    for cell in range(config.cells):
        z = torch.zeros_like(states[0])
        for edge, state in zip(weights[f"logits.alpha_{cell}"], [*outputs, *states], strict=True):
            identity, zero = edge.softmax(0)
            z = z + identity * state + zero * torch.zeros_like(state)
        inner = [z, z]
        for step in range(config.steps):
            met = torch.zeros_like(z)
            for edge, state in zip(weights[f"logits.beta_{cell}_{step}"], inner, strict=True):
                met = met + edge.softmax(0)[0] * state
            key, both = f"cells.{cell}.steps.{step}.", torch.cat((met, met), -1)
            gated = both @ weights[key + "LinearGLU.linear.weight"].T
            gated = gated + weights[key + "LinearGLU.linear.bias"]
            dense = both @ weights[key + "ConcatFC.linear.weight"].T
            dense = dense + weights[key + "ConcatFC.linear.bias"]
            made = [
                met + met,
                attention(met, met),
                gated[..., :3] * gated[..., 3:].sigmoid(),
                dense.clamp(min=0),
            ]
            shares = weights[f"logits.gamma_{cell}_{step}"].softmax(0)
            inner.append(sum(share * one for share, one in zip(shares, made, strict=True)))
        joined = torch.cat(inner[2:], -1)
        key = f"cells.{cell}.output."
        if config.steps > 1:
            joined = joined @ weights[key + "project.weight"].T + weights[key + "project.bias"]
        joined = joined + z
        centred = joined - joined.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        outputs.append(scaled * weights[key + "norm.weight"] + weights[key + "norm.bias"])
    return torch.cat([output.flatten(1) for output in outputs], 1)


@pytest.mark.parametrize(("cells", "steps"), [(1, 1), (2, 1), (2, 2)])
def test_supernet_equals_edge_by_edge_in_value_and_in_every_gradient(cells, steps):
    torch.set_default_dtype(torch.float64)
    try:
        space = released(cells, steps)
        net, features = random_supernet(space), draw_features()
        names, parameters = zip(*net.named_parameters(), strict=True)
        results = []
        for forward in (net, lambda given: edge_by_edge(net, space, given)):
            embedding = forward(features)
            probe = torch.linspace(-1, 1, embedding.numel()).view_as(embedding)
            slopes = torch.autograd.grad((probe * embedding).sum(), parameters)
            results.append((embedding, slopes))
        torch.testing.assert_close(results[0][0], results[1][0])
        for name, ours, theirs in zip(names, results[0][1], results[1][1], strict=True):
            torch.testing.assert_close(ours, theirs, msg=name)
    finally:
        torch.set_default_dtype(torch.float32)


def test_at_the_papers_sizes_the_architecture_is_42_numbers():
    net = FusionSpace(PAPER, FusionConfig(relaxation="released")).supernet()
    assert sum(value.numel() for value in net.logits.values()) == 42


def test_both_betas_of_a_step_get_the_same_gradient_so_their_start_decides_to_the_end():
    net = random_supernet(released())
    net(draw_features()).square().sum().backward()
    with torch.no_grad():
        net.logits["beta_0_0"][1] = net.logits["beta_0_0"][0]
    net.zero_grad()
    torch.manual_seed(0)
    (net(draw_features()) * torch.randn(5, 24)).sum().backward()
    first, second = net.logits["beta_0_0"].grad
    assert first.abs().max() > 0
    assert torch.equal(first, second)


def strong(space: FusionSpace, kept: list[list[str]], operators: list[str]) -> dict[str, Tensor]:
    """Logits that prefer some predecessors, in order, and an operator, for each cell."""
    logits = {name: torch.zeros_like(value) for name, value in space.supernet().logits.items()}
    for cell, (names, operator) in enumerate(zip(kept, operators, strict=True)):
        for rank, name in enumerate(names):
            edge = space.predecessors(cell).index(name)
            logits[f"alpha_{cell}"][edge] = torch.tensor([8.0 - rank, 0.0])
        label = space.labels()[f"gamma_{cell}_0"].index(operator)
        logits[f"gamma_{cell}_0"][label] = 5.0
    return logits


def test_a_cell_takes_its_two_strongest_features_and_another_may_not_take_the_same_two():
    space = released()
    best = ["image_1", "text_0"]
    found = space.derive(strong(space, [best, [*best, "text_1"]], ["ConcatFC", "LinearGLU"]))
    assert str(found) == "ConcatFC(image_1, text_0) -> LinearGLU(image_1, text_1)"


def test_a_forced_edge_from_cell_to_cell_is_never_derived():
    space = released()
    wanted = [["image_0", "text_0"], ["cell_0", "text_0", "image_1"]]
    found = space.derive(strong(space, wanted, ["Sum", "Sum"]))
    assert "cell_0" not in found.nodes[1].inputs
    assert found.nodes[1].inputs == ("image_1", "text_0")


def test_3360_genotypes_can_be_derived_at_the_papers_size_and_its_own_is_none_of_them():
    space = FusionSpace(PAPER, FusionConfig(relaxation="released"))
    pairs = list(itertools.combinations(PAPER, 2))
    chains = [(a, b) for a in pairs for b in pairs if set(b) - set(a)]
    assert len(chains) * 4 * 4 == 3360
    for first, second in chains[:: len(chains) // 15]:
        found = space.derive(strong(space, [list(first), list(second)], ["Sum", "ConcatFC"]))
        nodes = {(node.operator, *node.inputs) for node in found.nodes}
        assert nodes == {("Sum", *first), ("ConcatFC", *second)}
        assert not any("cell" in name for node in found.nodes for name in node.inputs)


def test_stronger_beta_makes_the_query_of_an_attention():
    space = released()
    logits = strong(space, [["image_0", "text_0"], ["image_1", "text_1"]], ["Attention", "Sum"])
    logits["beta_0_0"][0, 0] = 1.0
    assert str(space.derive(logits)).startswith("Attention(image_0, text_0)")
    logits["beta_0_0"][1, 0] = 2.0
    assert str(space.derive(logits)).startswith("Attention(text_0, image_0)")


def test_what_is_derived_is_in_the_space_and_takes_the_supernets_weights():
    space = released(steps=2)
    for seed in range(10):
        torch.manual_seed(seed)
        net = space.supernet()
        with torch.no_grad():
            for value in net.logits.values():
                value.copy_(torch.randn_like(value))
        found = space.derive(net.logits)
        space.validate(found)
        network = space.inherit(found, net.state_dict())
        name = next(name for name in network.state_dict() if name.startswith("stems"))
        assert torch.equal(network.state_dict()[name], net.state_dict()[name])


def test_labels_name_every_logit():
    space = released(steps=2)
    labels = space.labels()
    sizes = {name: value.numel() for name, value in space.supernet().logits.items()}
    assert {name: len(texts) for name, texts in labels.items()} == sizes
    assert labels["alpha_1"][:4] == (
        "cell_0 Identity", "cell_0 Zero", "image_0 Identity", "image_0 Zero",
    )  # fmt: skip
    assert labels["gamma_0_0"] == ("Sum", "Attention", "LinearGLU", "ConcatFC")


def test_what_the_released_relaxation_does_not_know_is_refused():
    config = FusionConfig(cells=3, relaxation="released")
    with pytest.raises(InputError, match="4 features for 3 cells"):
        FusionSpace(CHANNELS, config)
    config = FusionConfig(relaxation="released")
    with pytest.raises(InputError, match="has its four operators.*Mine"):
        FusionSpace(CHANNELS, config, {"Mine": torch.nn.Identity})
    with pytest.raises(InputError, match="relaxation must be one of .* got 'other'"):
        FusionConfig(relaxation="other")  # type: ignore[arg-type]
    space = released()
    genotype = space.sample(torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="no one genotype's network"):
        space.one_hot(genotype)
