"""The primitive operators against loops; one from outside is searched and built like the others."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

from ssnas_core.common.errors import InputError
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.search.bilevel import BilevelConfig, bilevel
from ssnas_core.search.context import SearchContext
from ssnas_core.search.random import RandomConfig, random_search
from ssnas_core.spaces import OPERATORS, SPACES
from ssnas_core.spaces.fusion.networks import ordered_pairs
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.spaces.operators import (
    PRIMITIVES,
    ConcatFC,
    LinearGLU,
    attention,
    glu,
    is_ordered,
)

N, L, C = 2, 3, 4


def two_inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, N, L, C, generator=generator, dtype=torch.float64)
    return x, y


def operator(name: str) -> nn.Module:
    torch.manual_seed(1)
    return OPERATORS.find(name)(C).double()


def test_attention_is_a_softmax_over_positions_of_y_written_as_loops():
    x, y = two_inputs()
    result = attention(x, y)
    for n in range(N):
        for i in range(L):
            scores = [sum(float(x[n, i, c] * y[n, j, c]) for c in range(C)) for j in range(L)]
            exps = [math.exp(score / math.sqrt(C)) for score in scores]
            for c in range(C):
                read = sum(e / sum(exps) * float(y[n, j, c]) for j, e in enumerate(exps))
                assert float(result[n, i, c]) == pytest.approx(read, rel=1e-12)


def test_attention_to_equal_positions_returns_them():
    x, y = two_inputs()
    same = y[:, :1].expand(-1, L, -1)
    torch.testing.assert_close(attention(x, same), same)


def test_glu_gates_its_first_half_by_its_second():
    gated = torch.cat(two_inputs(), -1)
    result = glu(gated)
    assert result.shape == (N, L, C)
    for index in range(N * L):
        row = gated.flatten(0, 1)[index].tolist()
        for c in range(C):
            wanted = row[c] / (1 + math.exp(-row[C + c]))
            assert float(result.flatten(0, 1)[index, c]) == pytest.approx(wanted, rel=1e-12)


def product(linear: nn.Linear, row: int, x: Tensor, y: Tensor) -> float:
    """Row `row` of W [x; y] + b, for one position."""
    weight = linear.weight[row].tolist()
    both = [*x.tolist(), *y.tolist()]
    return sum(w * v for w, v in zip(weight, both, strict=True)) + linear.bias[row].item()


def test_linear_glu_and_concat_fc_are_their_formulas_written_as_loops():
    x, y = two_inputs()
    gated, dense = operator("LinearGLU"), operator("ConcatFC")
    assert isinstance(gated, LinearGLU) and isinstance(dense, ConcatFC)
    result = gated(x, y).detach(), dense(x, y).detach()
    for n in range(N):
        for i in range(L):
            for c in range(C):
                gate = product(gated.linear, C + c, x[n, i], y[n, i])
                value = product(gated.linear, c, x[n, i], y[n, i]) / (1 + math.exp(-gate))
                assert float(result[0][n, i, c]) == pytest.approx(value, rel=1e-12)
                value = max(0.0, product(dense.linear, c, x[n, i], y[n, i]))
                assert float(result[1][n, i, c]) == pytest.approx(value, rel=1e-12)


def test_sum_adds():
    x, y = two_inputs()
    assert torch.equal(operator("Sum")(x, y), x + y)


def test_zero_comes_first_and_is_the_one_primitive_that_is_never_built():
    assert ("Zero", *OPERATORS.table) == (*PRIMITIVES, "Product")


@pytest.mark.parametrize("name", OPERATORS.table)
def test_ordered_are_exactly_those_that_no_renaming_of_weights_makes_symmetric(name):
    x, y = two_inputs()
    module = operator(name)
    straight = module(x, y)
    assert straight.shape == (N, L, C)
    state = {key: value.clone() for key, value in module.state_dict().items()}
    renamed = {"first": "second", "second": "first"}
    turned = {}
    for key, value in state.items():
        layer, _, kind = key.partition(".")
        turned[key] = state[f"{renamed.get(layer, layer)}.{kind}"]
        if kind == "weight" and value.shape[1] == 2 * C:  # W = [A B] becomes [B A]
            turned[key] = torch.cat((value[:, C:], value[:, :C]), 1)
    module.load_state_dict(turned)
    symmetric = torch.allclose(straight, module(y, x), rtol=1e-12)
    assert symmetric == (not is_ordered(name))


def test_product_multiplies_what_it_makes_of_each():
    x, y = two_inputs()
    module = operator("Product")
    a, b = (x @ module.first.weight.T, y @ module.second.weight.T)
    wanted = (a + module.first.bias) * (b + module.second.bias)
    assert torch.allclose(module(x, y), wanted, rtol=1e-12)


# --- operators of one's own

FEATURES = ("image_0", "image_1", "text_0")


class Gated(nn.Module):
    """x gated by y: not the same when they change places, and with state of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Linear(channels, channels)
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * self.gate(y).sigmoid() + self.offset


class Maximum(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.maximum(x, y)


OWN = {"Gated": Gated, "Maximum": lambda channels: Maximum(channels)}


@pytest.fixture(autouse=True)
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def fusion(cells: int = 1, steps: int = 1, features: int = 3, operators=OWN) -> FusionSpace:
    config = FusionConfig(channels=3, length=2, cells=cells, steps=steps, dropout=0.0)
    return FusionSpace(dict.fromkeys(FEATURES[:features], 4), config, operators)


def inputs_of(space: FusionSpace) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(3, 2, 4, generator=generator) for name in space.features}


def random_supernet(space: FusionSpace, seed: int = 0):
    torch.manual_seed(seed)
    net = space.supernet().double()
    with torch.no_grad():
        for value in (*net.parameters(), *(b for n, b in net.named_buffers() if "offset" in n)):
            value.copy_(torch.randn_like(value))
    return net.eval()


def set_logits(net, logits) -> None:
    with torch.no_grad():
        for name, value in logits.items():
            net.logits[name].copy_(value)


@pytest.mark.parametrize(("cells", "steps"), [(1, 1), (2, 1), (1, 2)])
def test_space_has_both_orders_of_its_inputs_and_each_architecture_once(cells, steps):
    space = fusion(cells, steps, features=2)
    found = list(space.genotypes())
    assert len(set(found)) == len(found)
    if (cells, steps) == (1, 1):
        both = {str(g) for g in found if g.nodes[0].operator in OWN}
        pairs = ("image_0, image_1", "image_1, image_0")
        assert both == {f"{name}({pair})" for name in OWN for pair in pairs}
        assert len(found) == 5 + 4
    for genotype in found:
        assert space.derive(space.one_hot(genotype)) == genotype
    assert set(space.genotypes()) > set(fusion(cells, steps, 2, None).genotypes())


def test_gamma_names_it_after_the_five():
    space = fusion()
    assert space.labels()["gamma_0_0"] == (*PRIMITIVES, "Gated", "Maximum")
    assert space.supernet().logits["gamma_0_0"].shape == (7,)


def test_relaxation_adds_its_share_of_query_and_value():
    space, plain = fusion(), fusion(operators=None)
    net = random_supernet(space)
    old = random_supernet(plain, seed=1)
    shared = {n: v for n, v in net.state_dict().items() if n in old.state_dict()}
    step = net.cells[0].steps[0]
    states = list(torch.randn(2, 3, 2, 3, generator=torch.Generator().manual_seed(2)))
    beta, gamma = torch.randn(2, 2), torch.randn(7)
    old.load_state_dict(shared | {"logits.gamma_0_0": gamma[:5]})
    shares = gamma.softmax(0)
    order = torch.tensor([beta[0, 0] + beta[1, 1], beta[0, 1] + beta[1, 0]]).softmax(0)
    query = order[0] * states[0] + order[1] * states[1]
    value = order[0] * states[1] + order[1] * states[0]
    pairs = ordered_pairs(beta)
    wanted = shares[:5].sum() * old.cells[0].steps[0](states, states, pairs, gamma[:5].softmax(0))
    wanted = wanted + shares[5] * step.Gated(query, value)
    wanted = wanted + shares[6] * torch.maximum(query, value)
    torch.testing.assert_close(step(states, states, pairs, shares), wanted)


@pytest.mark.parametrize(("cells", "steps"), [(1, 1), (3, 1), (2, 2)])
def test_derived_network_inherits_its_weights_and_computes_the_one_hot_supernet(cells, steps):
    space = fusion(cells, steps)
    inputs, used = inputs_of(space), set()
    for seed in range(20):
        genotype = space.sample(torch.Generator().manual_seed(seed))
        used |= {node.operator for node in genotype.nodes}
        net = random_supernet(space, seed)
        set_logits(net, space.one_hot(genotype))
        network = space.inherit(genotype, net.state_dict()).eval()
        torch.testing.assert_close(network(inputs), net(inputs), rtol=1e-9, atol=1e-9)
    assert set(OWN) <= used


def test_its_inputs_keep_their_roles_when_cells_change_places():
    # as in test_fusion: cell_0 and cell_1 are canonical the other way round
    space = fusion(3)
    net = random_supernet(space)
    logits = space.one_hot(next(space.genotypes()))
    logits["alpha_0"] = 200.0 * torch.tensor([0, 1, 1])
    logits["alpha_1"] = 200.0 * torch.tensor([0, 1, 1, 0])
    logits["alpha_2"] = 200.0 * torch.tensor([1, 1, 0, 0, 0])
    logits["beta_2_0"] = 200.0 * torch.eye(2)
    logits["gamma_2_0"] = 200.0 * torch.eye(7)[5]
    set_logits(net, logits)
    genotype = space.derive(net.logits)
    assert genotype.nodes[2] == Node("cell_2", "Gated", ("cell_1", "cell_0"))
    inputs = inputs_of(space)
    mine = space.inherit(genotype, net.state_dict()).eval()(inputs).unflatten(1, (3, -1))
    torch.testing.assert_close(mine, net(inputs).unflatten(1, (3, -1))[:, [1, 0, 2]])


def test_genotype_survives_its_file_and_is_known_to_spaces_with_the_operator_alone(tmp_path):
    space = fusion(2)
    genotype = Genotype(
        "fusion",
        (
            Node("cell_0", "Gated", ("text_0", "image_0")),
            Node("cell_1", "Maximum", ("cell_0", "image_1")),
        ),
    )
    genotype.save(tmp_path / "genotype.json")
    loaded = Genotype.load(tmp_path / "genotype.json")
    assert loaded == genotype
    space.validate(loaded)
    network = space.build(loaded).eval()
    assert network(inputs_of(space)).shape == (3, network.width)
    with pytest.raises(InputError, match="expected Sum, Attention, LinearGLU, ConcatFC of two"):
        fusion(2, operators=None).build(loaded)
    wrong = Genotype("fusion", (Node("cell_0", "Median", ("image_0", "text_0")),))
    with pytest.raises(InputError, match="expected Sum, .*ConcatFC, Gated, Maximum of two differ"):
        fusion(1).validate(wrong)


def named(*names: str, **sizes) -> FusionConfig:
    return FusionConfig(channels=3, length=2, cells=1, operators=names, **sizes)


def test_configuration_names_an_operator_as_its_genotypes_do_by_the_short_name():
    config = named(f"{__name__}:Gated")
    assert SPACES.from_plain(SPACES.plain(config), "file") == config
    space, given = config.open(dict.fromkeys(FEATURES, 4)), fusion(operators={"Gated": Gated})
    assert space.operators == given.operators == {"Gated": Gated}
    assert list(space.genotypes()) == list(given.genotypes())
    assert config.trained_with(0.7).open(space.channels).config == named(
        *config.operators, dropout=0.7
    )
    both = FusionSpace(space.channels, config, {"Maximum": Maximum})
    assert both.first(1).primitives == (*PRIMITIVES, "Gated", "Maximum")
    genotype = Genotype("fusion", (Node("cell_0", "Gated", ("text_0", "image_0")),))
    genotype = Genotype.from_json(json.loads(genotype.to_json()))
    space.validate(genotype)
    supernet = random_supernet(space)
    set_logits(supernet, space.one_hot(genotype))
    network = space.inherit(genotype, supernet.state_dict())
    assert isinstance(network.cells[0].steps[0].operator, Gated)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Median", "unknown operator 'Median'; expected Sum, Attention, LinearGLU, ConcatFC"),
        ("a.b:Own", "'a.b:Own' is not of this library; import a.b first"),
        (f"{__name__}:Other", "cannot import the operator"),
        ("os:abort", "operator 'os:abort' must be a class of nn.Module"),
        ("Sum", "operator 'Sum' has a name in use"),
    ],
)
def test_operator_that_a_configuration_cannot_name_is_refused_at_once(name, message):
    with pytest.raises(InputError, match=message):
        named(name)


def test_two_operators_of_one_name_are_refused():
    name = f"{__name__}:Gated"
    with pytest.raises(InputError, match="operator 'Gated' has a name in use"):
        named(name, name)
    with pytest.raises(InputError, match="operator 'Gated' has a name in use"):
        FusionSpace(dict.fromkeys(FEATURES, 4), named(name), {"Gated": Maximum})
    with pytest.raises(InputError, match="operator 'Product' has a name in use"):  # the library's
        FusionSpace(dict.fromkeys(FEATURES, 4), FusionConfig(), {"Product": Maximum})


def test_a_space_without_further_operators_is_the_one_that_it_was():
    states = []
    for operators in (None, {}):
        torch.manual_seed(0)
        states.append(fusion(2, 2, operators=operators).supernet().state_dict())
    torch.manual_seed(0)
    more = fusion(2, 2).supernet().state_dict()
    assert states[0].keys() == states[1].keys() < more.keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    own = more.keys() - states[0].keys()
    assert {name.split(".")[4] for name in own} == {"Gated"}  # `Maximum` has no state


def test_both_strategies_search_it(memory_source):
    torch.set_default_dtype(torch.float32)
    generator = torch.Generator().manual_seed(0)
    source = memory_source({n: torch.randn(64, 2, 4, generator=generator) for n in FEATURES})
    config = FusionConfig(channels=4, length=2, cells=1, dropout=0.0)
    space = FusionSpace(dict.fromkeys(FEATURES, 4), config, OWN)
    objective = Contrastive(hidden=8, out=4)
    context = SearchContext(train=torch.arange(32), dev=torch.arange(32, 64))
    short = BilevelConfig(epochs=2, batch_size=16, arch_learning_rate=0.1)
    result = bilevel(space, source, objective, context, short)
    space.validate(result.genotype)
    start, end = (result.history[n]["logits"]["gamma_0_0"] for n in (0, -1))
    assert all(abs(end[own] - start[own]) > 0.01 for own in (5, 6))
    assert space.inherit(result.genotype, result.state).width == space.supernet().width
    drawn = random_search(space, source, objective, context, RandomConfig(trials=1))
    space.validate(drawn.genotype)


@pytest.mark.parametrize("name", ["two words", "3D", "", "a.b", "class", "_hidden", "Gated()"])
def test_operator_whose_name_is_no_identifier_is_refused(name):
    with pytest.raises(InputError, match="operator's name must be an identifier, got "):
        fusion(operators={name: Gated})


@pytest.mark.parametrize("name", [*PRIMITIVES, "Concat", "forward", "training", "add_module"])
def test_operator_of_a_name_in_use_is_refused(name):
    with pytest.raises(InputError, match=f"operator '{name}' has a name in use .*; rename it"):
        fusion(operators={name: Gated})


class Wide(Gated):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, y).mean(1, keepdim=True)  # would broadcast without a word


def test_operator_that_is_no_module_or_gives_another_shape_is_refused():
    genotype = Genotype("fusion", (Node("cell_0", "Own", ("image_0", "text_0")),))
    space = fusion(operators={"Own": Wide})
    for network in (space.supernet().double(), space.build(genotype)):
        with pytest.raises(InputError, match=r"Own must give the shape .*\(3, 2, 3\), got \(3, 1,"):
            network(inputs_of(space))
    space = fusion(operators={"Own": lambda channels: torch.maximum})
    for make in (space.supernet, lambda: space.build(genotype)):
        with pytest.raises(InputError, match="Own must be made as an nn.Module, got builtin_func"):
            make()
