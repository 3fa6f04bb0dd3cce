"""Search by gates: paths are drawn by p, what is not drawn stays, gates have p's gradient."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.search import gates as module
from ssnas_core.search.context import SearchContext
from ssnas_core.search.gates import Gates, GatesConfig, gates, one_path
from ssnas_core.spaces.base import SHADOW
from ssnas_core.spaces.cells.space import CellsConfig, CellsSpace
from ssnas_core.spaces.encdec.space import EncDecConfig, EncDecSpace
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace

pytestmark = pytest.mark.usefixtures("one_thread")

SAMPLES = 48
LABELS = torch.arange(SAMPLES) % 3
OBJECTIVE = Supervised(labels=LABELS, classes=3, augment=False)
CONTEXT = SearchContext(train=torch.arange(32), dev=torch.arange(32, SAMPLES), seed=3)
SMALL = GatesConfig(epochs=4, batch_size=8, every=3, warmup=0.25, arch_learning_rate=0.1)
CHANNELS = {"image_0": 4, "image_1": 4, "text_0": 5}


@pytest.fixture
def source(memory_source):
    generator = torch.Generator().manual_seed(0)
    rows = {n: torch.randn(SAMPLES, 4, c, generator=generator) for n, c in CHANNELS.items()}
    return memory_source(rows, noise=0.3)


@pytest.fixture
def pixels(memory_source):
    rows = torch.randn(SAMPLES, 16, 4, generator=torch.Generator().manual_seed(0))
    return memory_source({"image_0": rows}, noise=0.3)


def encdec(**options) -> EncDecSpace:
    given = {"encoder": 2, "decoder": 3, "channels": 8, "head": 4, "dropout": 0.0, **options}
    return EncDecSpace(CHANNELS, dict.fromkeys(CHANNELS, 4), EncDecConfig(**given))


def fusion() -> FusionSpace:
    sizes = FusionConfig(channels=4, length=4, cells=1, dropout=0.0)
    return FusionSpace(CHANNELS, sizes)


def cells() -> CellsSpace:
    sizes = CellsConfig(cells=3, channels=2, stem=1, nodes=2)
    return CellsSpace({"image_0": 4}, {"image_0": 16}, sizes)


def opened(source, space, **changes) -> Gates:
    return Gates(space, source, OBJECTIVE, CONTEXT, replace(SMALL, **changes))


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_paths_are_drawn_by_the_softmax_of_their_scores():
    scores = torch.tensor([[0.0, 1.0, -1.0], [2.0, 2.0, -torch.inf]])
    rolls = chance()
    drawn = torch.stack([one_path(scores, rolls) for _ in range(4000)])
    assert torch.equal(drawn.sum(-1), torch.ones(4000, 2))
    assert (drawn.mean(0) - scores.softmax(-1)).abs().max() < 0.03
    assert drawn[:, 1, 2].sum() == 0


def calls(supernet) -> Counter:
    """How often each operation of each block was computed, counted from here on."""
    counted: Counter = Counter()
    for side in ("encoder", "decoder"):
        for place, block in enumerate(getattr(supernet, side)):
            for name, operation in block.operations.items():
                key = (f"{side}_{place}", name)
                operation.register_forward_hook(lambda *_, key=key: counted.update([key]))
    return counted


@pytest.mark.parametrize(("options", "computed"), [("full", 2 * 2 + 3 * 4), ("two", 2 * 5)])
def test_a_weight_step_computes_one_operation_a_block_and_a_logit_step_all_or_two(
    source, options, computed
):
    one = opened(source, encdec(), options=options)
    counted = calls(one.supernet)
    one.step_weights(CONTEXT.train[:8], 1e-3, chance(1))
    assert sorted(block for block, _ in counted) == sorted(one.space.variables)
    counted.clear()
    one.step_logits(CONTEXT.dev[:8], chance(1))
    assert counted.total() == len(counted) == computed


def test_of_all_that_a_logit_step_computes_the_path_alone_keeps_a_graph(source):
    one = opened(source, encdec())
    learning = []
    for block in (*one.supernet.encoder, *one.supernet.decoder):
        for norm in block.norms.values():
            norm.register_forward_hook(lambda _, __, x: learning.append(x.requires_grad))
    one.step_logits(CONTEXT.dev[:8], chance(1))
    # the first block of either side reads features, so that nothing before it has logits
    assert len(learning) == 2 * 2 + 3 * 4 and sum(learning) == 1 + 2


@pytest.mark.parametrize("space", [encdec, fusion, cells])
def test_weights_that_no_path_went_through_are_frozen(source, pixels, space):
    one = opened(pixels if space is cells else source, space())
    unmoved = []
    for seed in range(6):
        before = {name: w.detach().clone() for name, w in one.model.named_parameters()}
        moments = {
            name: {k: v.clone() for k, v in one.weight_optimizer.state[w].items()}
            for name, w in one.model.named_parameters()
        }
        one.step_weights(CONTEXT.train[:8], 1e-2, chance(seed))
        for name, weight in one.model.named_parameters():
            if weight.grad is None and not name.startswith("0.logits"):
                assert torch.equal(weight, before[name])
                state = one.weight_optimizer.state[weight]
                assert all(torch.equal(state[k], v) for k, v in moments[name].items())
                unmoved += [name] if moments[name] else []  # it moved before
            else:
                assert name.startswith("0.logits") or not torch.equal(weight, before[name])
        logits = [name for name in before if name.startswith("0.logits")]
        assert all(torch.equal(before[n], one.named[n.split(".")[-1]]) for n in logits)
    assert unmoved  # with momentum of earlier steps


@pytest.mark.parametrize("space", [encdec, fusion, cells])
def test_the_gradient_of_logits_is_that_of_the_gates_in_closed_form(
    source, pixels, space, monkeypatch
):
    source = pixels if space is cells else source
    one = opened(source, space())
    with torch.no_grad():
        for values in one.named.values():
            values.copy_(torch.randn(values.shape, generator=chance(8)))
    scored, paths, slopes = [], [], []

    def draw(scores, rolls):
        path = one_path(scores, rolls)
        paths.append(path)
        return path

    monkeypatch.setattr(module, "one_path", draw)
    start = {name: value.detach().clone() for name, value in one.named.items()}
    one.step_logits(CONTEXT.dev[:8], chance(5))
    found = {name: value.grad for name, value in one.named.items()}
    with torch.no_grad():
        for name, value in start.items():
            one.named[name].copy_(value)
    drawn = iter(paths)

    def relax(scores):  # the path's gates as leaves
        scored.append(scores)
        slopes.append(next(drawn).clone().clamp(min=SHADOW).requires_grad_())
        return slopes[-1]

    one.supernet.relax = relax
    loss = OBJECTIVE.loss(one.model, source, CONTEXT.dev[:8], chance())
    expected = {name: torch.zeros_like(value) for name, value in one.named.items()}
    by_gate = torch.autograd.grad(loss, slopes, retain_graph=True)
    for scores, slope in zip(scored, by_gate, strict=True):
        p = scores.detach().softmax(-1)
        by_score = p * (slope - (slope * p).sum(-1, keepdim=True))  # sum_j g_j p_j (d_ij - p_i)
        for name, value in one.named.items():
            (part,) = torch.autograd.grad(
                scores, [value], by_score, retain_graph=True, allow_unused=True
            )
            expected[name] += 0 if part is None else part
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-8)
    assert sum(value.abs().max() > 1e-6 for value in expected.values()) > 1


def test_weights_that_a_space_froze_stay_frozen(source):
    space = encdec()
    supernet = space.supernet().requires_grad_(False)
    for block in (*supernet.encoder, *supernet.logits.values()):
        block.requires_grad_(True)
    space.supernet = lambda: supernet
    one = opened(source, space)
    before = {name: w.detach().clone() for name, w in supernet.decoder.named_parameters()}
    one.step_weights(CONTEXT.train[:8], 1e-2, chance(1))
    assert all(torch.equal(w, before[name]) for name, w in supernet.decoder.named_parameters())


def test_of_two_options_one_gains_what_the_other_loses(source):
    one = opened(source, encdec(), options="two", arch_learning_rate=0.5)
    before = {name: value.detach().clone() for name, value in one.named.items()}
    one.step_logits(CONTEXT.dev[:8], chance(2))
    for name, logits in before.items():
        old, new = logits.softmax(-1), one.named[name].detach().softmax(-1)
        moved = one.named[name] != logits
        assert torch.equal(moved.sum(-1), torch.full((len(logits),), 2))
        kept = [(share * moved).sum(-1) for share in (old, new)]
        torch.testing.assert_close(kept[0], kept[1])
        assert (new - old).abs().max() > 0.02


def test_two_options_need_logits_that_are_choices(source):
    with pytest.raises(InputError, match="chooses by sums of logits; use options='full'"):
        opened(source, fusion(), options="two").step_logits(CONTEXT.dev[:8], chance())


def test_a_prior_is_where_the_search_starts(source):
    one = opened(source, encdec(encoder=2, decoder=3), prior="MMnas prior")
    assert one.space.derive(one.named) == one.space.named("MMnas prior")
    shares = {name: value.softmax(-1).amax(-1) for name, value in one.named.items()}
    assert shares["encoder"].tolist() == pytest.approx([0.88] * 2, abs=0.005)
    assert shares["decoder"].tolist() == pytest.approx([0.71] * 3, abs=0.005)
    with pytest.raises(InputError, match="needs a space that has architectures by name"):
        opened(source, fusion(), prior="MCAN")
    with pytest.raises(InputError, match="expected one of MMnas VQA"):
        opened(source, encdec(), prior="mine")


def test_logits_wait_and_then_move_every_third_step(source):
    found = gates(encdec(), source, OBJECTIVE, CONTEXT, SMALL)
    assert [entry.get("steps") for entry in found.history] == [
        None,
        4,
        5,
        6,
        5,
    ]  # of 4, at 6, 9, 12
    logits = [entry["logits"] for entry in found.history]
    assert logits[0] == logits[1] != logits[2]
    assert ["arch_loss" in entry for entry in found.history] == [False, False, True, True, True]
    assert SMALL.steps(found.history, 32, 16) == 20
    assert str(found.genotype) == found.history[-1]["genotype"]
    rates = [GatesConfig().rate(epoch, 100) / GatesConfig().learning_rate for epoch in (1, 2, 3, 4)]
    assert rates == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("options", ["full", "two"])
def test_a_search_killed_in_any_epoch_resumes_bit_identical(source, killed, tmp_path, options):
    config, path = replace(SMALL, options=options), tmp_path / "checkpoint.pt"
    counted = killed(OBJECTIVE)
    whole = gates(encdec(dropout=0.2), source, counted, CONTEXT, config)
    for after in (counted.losses // 2, counted.losses - 1):
        path.unlink(missing_ok=True)
        again = replace(CONTEXT, checkpoint=path)
        with pytest.raises(killed.Kill):
            gates(encdec(dropout=0.2), source, killed(OBJECTIVE, after), again, config)
        torch.manual_seed(after)
        resumed = gates(encdec(dropout=0.2), source, OBJECTIVE, again, config)
        assert resumed == whole
        assert all(torch.equal(resumed.state[n], v) for n, v in whole.state.items())


class Paying:
    """An objective under which a block is good where it is FFN."""

    def head(self, width):
        return torch.nn.Identity()

    def report(self, model, source, indices, generator):
        return {}

    def loss(self, model, source, indices, generator):
        weights: list[torch.Tensor] = []
        relax = model[0].relax
        model[0].relax = lambda logits: weights.append(relax(logits)) or weights[-1]
        value = 0 * model(source.clean(indices)).square().mean()
        model[0].relax = relax
        return value - sum(one[:, -1].sum() for one in weights)


@pytest.mark.parametrize("options", ["full", "two"])
def test_gates_find_the_operation_that_pays(source, options):
    config = replace(SMALL, epochs=40, every=1, options=options, batch_size=16)
    found = gates(encdec(), source, Paying(), CONTEXT, config)
    assert {node.operator for node in found.genotype.nodes} == {"FFN"}


def test_too_few_samples_and_odd_settings_are_refused(source):
    with pytest.raises(InputError, match="needs two samples in each part, got 1 train"):
        gates(encdec(), source, OBJECTIVE, replace(CONTEXT, train=torch.arange(1)), SMALL)
    with pytest.raises(InputError, match=r"warmup must be in \[0, 1\), got 1.0"):
        GatesConfig(warmup=1.0)
    with pytest.raises(InputError, match="every must be >= 1, got 0"):
        GatesConfig(every=0)
