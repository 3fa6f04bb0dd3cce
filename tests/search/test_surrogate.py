"""Sequential model-based search: its schedule, its draws, its surrogate; resumable."""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter

import pytest
import torch
from torch import nn

from ssnas_core.common.errors import InputError
from ssnas_core.common.random import seeded
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.search import surrogate as module
from ssnas_core.search import trials
from ssnas_core.search.context import SearchContext
from ssnas_core.search.random import RandomConfig, random_search
from ssnas_core.search.surrogate import SurrogateConfig, surrogate
from ssnas_core.search.trials import Trials
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.genotype import Genotype
from ssnas_core.spaces.layers import LayersConfig, LayerSpace
from ssnas_core.training.loop import TrainConfig

SAMPLES = 24
TRAIN, DEV = torch.arange(16), torch.arange(16, SAMPLES)
FEATURES = ("image_0", "image_1", "text_0")
SMALL = SurrogateConfig(
    iterations=2, samples=3, hidden=4, epochs=2, train=TrainConfig(epochs=1, batch_size=4)
)
OBJECTIVES = {
    "contrastive": Contrastive(hidden=8, out=4),
    "supervised": Supervised(labels=torch.arange(SAMPLES) % 3, classes=3),
}


@pytest.fixture(params=["supervised", pytest.param("contrastive", marks=pytest.mark.thorough)])
def objective(request):
    return OBJECTIVES[request.param]


@pytest.fixture
def space():
    """4 + 16 genotypes."""
    config = LayersConfig(layers=2, channels=4, dropout=0.2)
    return LayerSpace(dict.fromkeys(FEATURES, 3), config)


@pytest.fixture
def source(memory_source):
    generator = torch.Generator().manual_seed(0)
    return memory_source({n: torch.randn(SAMPLES, 1, 3, generator=generator) for n in FEATURES})


def search(space, source=None, objective=None, config=SMALL, train=TRAIN, dev=DEV, **options):
    context = SearchContext(train=train, dev=dev, **options)
    return surrogate(space, source, objective, context, config)


def wide(levels: int = 4) -> LayerSpace:
    """4 x 4 x 2 = 32 layers, as in the paper."""
    names = [f"{modality}_{depth}" for modality in ("image", "text") for depth in range(4)]
    return LayerSpace(dict.fromkeys(names, 3), LayersConfig(layers=levels))


@pytest.fixture
def table(monkeypatch):
    """Losses by a function of a genotype (and of how often it was tried), in place of training."""

    def use(loss_of):
        def evaluate(self, genotype, *, space=None, **extra):
            times = sum(entry["genotype"] == str(genotype) for entry in self.history)
            loss = float(loss_of(genotype, times))
            entry = {"trial": len(self.history), "genotype": str(genotype), "dev_loss": loss}
            (space or self.space).validate(genotype)
            self._tried.append(genotype)
            self.history.append({**entry, **extra})
            return loss

        monkeypatch.setattr(Trials, "evaluate", evaluate)

    return use


def _mark(genotype: Genotype) -> int:
    """A number without a pattern, the same in every process."""
    return zlib.crc32(str(genotype).encode())


# --- the schedule


def by_step(history) -> dict[tuple[int, int], list[str]]:
    steps: dict[tuple[int, int], list[str]] = {}
    for entry in history:
        steps.setdefault((entry["iteration"], entry["level"]), []).append(entry["genotype"])
    return steps


def test_defaults_train_197_networks_on_the_papers_space(table):
    table(lambda genotype, _: len(str(genotype)))
    config = SurrogateConfig()
    assert (config.iterations, config.samples, config.train.epochs) == (3, 15, 3)
    steps = by_step(search(wide(), config=SurrogateConfig(hidden=2, epochs=1)).history)
    counts = [len(tried) for tried in steps.values()]
    assert counts == [32, *[15] * 11]
    assert sum(counts) == 197
    assert list(steps) == [(iteration, level) for iteration in range(3) for level in range(4)]


@pytest.mark.parametrize("seed", range(3))
def test_each_level_extends_what_the_one_before_kept(table, seed, monkeypatch):
    def spy(options, *more):
        offered.append(len(options))
        return drawn(options, *more)

    offered, drawn = [], module._drawn
    monkeypatch.setattr(module, "_drawn", spy)
    table(lambda genotype, _: _mark(genotype) % 97)
    space = wide(3)
    config = SurrogateConfig(iterations=3, samples=5, hidden=4, epochs=2)
    steps = by_step(search(space, config=config, seed=seed).history)
    single = {str(one) for one in space.extensions(None)}
    for (iteration, level), tried in steps.items():
        assert len(set(tried)) == len(tried)  # drawn without replacement
        if level == 0:
            assert set(tried) == single if iteration == 0 else set(tried) < single
            continue
        before = steps[iteration, level - 1]
        assert {one.rpartition(" -> ")[0] for one in tried} <= set(before)
        assert {one.count(" -> ") for one in tried} == {level}
    # Of the first level's 32 five are kept; what is drawn from is all that five become.
    assert offered == [32, *[5 * 32] * 2, *[32, 5 * 32, 5 * 32] * 2]


def test_first_level_is_kept_by_its_measured_scores(table):
    space = wide(2)
    best = {str(one) for one in space.extensions(None)[7:10]}
    table(lambda genotype, _: 0.0 if str(genotype.nodes[0]) in best else 1.0)
    kept = Counter()
    config = SurrogateConfig(iterations=1, samples=3, hidden=2, epochs=1)
    for seed in range(40):
        steps = by_step(search(space, config=config, seed=seed).history)
        kept.update(one.partition(" -> ")[0] in best for one in steps[0, 1])
    # Three of 32 stand out; at temperature 10 nearly all draws are alike, and none is certain.
    assert 0 < kept[True] < kept[False]


def test_temperature_falls_along_the_whole_search(table):
    table(lambda genotype, _: 1.0)
    config = SurrogateConfig(iterations=2, samples=2, hidden=2, epochs=1)
    history = search(wide(3), config=config).history
    found = list(dict.fromkeys(entry["temperature"] for entry in history))
    wanted = [
        9.8 * math.exp(-((s * 3 + level) ** 2) / 16) + 0.2 for s in (0, 1) for level in (0, 1, 2)
    ]
    assert found == pytest.approx(wanted, rel=1e-12)
    assert found[0] == 10.0 and sorted(set(found), reverse=True) == found


# --- scores and draws


def test_score_is_the_share_of_worse_losses_among_those_of_as_many_levels():
    losses, lengths = [3.0, 1.0, 9.0, 2.0, 8.0, 1.0], [1, 1, 2, 1, 2, 1]
    wanted = [0.5 / 4, (2 + 1) / 4, 0.5 / 2, (1 + 0.5) / 4, 1.5 / 2, (2 + 1) / 4]
    assert module._scores(losses, lengths) == wanted
    assert module._scores([math.exp(9 * loss) for loss in losses], lengths) == wanted
    assert module._scores([7.0], [3]) == [0.5]


@pytest.mark.parametrize("step", [0, 3, 9])
def test_draws_go_by_score_to_the_power_of_one_over_temperature(step):
    options, scores = wide(1).extensions(None)[:4], [0.9, 0.5, 0.6, 0.3]
    temperature = 9.8 * math.exp(-(step**2) / 16) + 0.2
    powers = [score ** (1 / temperature) for score in scores]
    counts = Counter(module._drawn(options, scores, step, 1, seed)[0] for seed in range(1500))
    for option, power in zip(options, powers, strict=True):
        share = power / sum(powers)
        deviation = math.sqrt(share * (1 - share) / 1500)
        assert abs(counts[option] / 1500 - share) < 4 * deviation


def test_draws_are_without_replacement_and_all_where_few():
    options = wide(1).extensions(None)[:5]
    scores = [1.0 - 1e-9, 1e-30, 1e-30, 1e-30, 1e-30]  # at 0.2: 1 to 1e-150
    for count, size in ((3, 3), (5, 5), (9, 5)):
        drawn = module._drawn(options, scores, 11, count, 0)
        assert len(drawn) == len(set(drawn)) == size


# --- the surrogate


def net(**options):
    torch.manual_seed(0)
    return module._Surrogate((3, 2, 2), SurrogateConfig(**options))


def test_guess_is_embedding_lstm_and_sigmoid_written_as_loops():
    guess = net(hidden=5)
    state = guess.state_dict()
    tokens = [[(0, 1, 0), (2, 0, 1), (1, 1, 1)], [(1, 0, 0), (1, 0, 0), (0, 0, 1)]]
    wanted = []
    for one in tokens:
        h = c = torch.zeros(5)
        for a, b, d in one:
            columns = state["embedding.weight"][:, [a, 3 + b, 5 + d]].sum(1)
            x = (columns + state["embedding.bias"]).sigmoid()
            gates = state["lstm.weight_ih_l0"] @ x + state["lstm.bias_ih_l0"]
            gates = gates + state["lstm.weight_hh_l0"] @ h + state["lstm.bias_hh_l0"]
            i, f, g, o = gates.chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        wanted.append(float((state["value.weight"] @ h + state["value.bias"]).sigmoid()))
    assert guess.scores(tokens) == pytest.approx(wanted, rel=1e-5)


def test_surrogate_has_the_papers_size_but_for_what_it_reads():
    # 80,800 in the LSTM, 101 in the last layer; the embedding reads 7 numbers here, 3 there.
    assert sum(p.numel() for p in net().parameters()) == 81_301 + (7 - 3) * 100


def test_each_epoch_is_one_adam_step_on_the_mean_square_per_length():
    tokens = [[(0, 0, 0)], [(1, 0, 0)], [(0, 1, 0), (2, 0, 1)], [(2, 1, 1)]]
    scores = [0.1, 0.9, 0.4, 0.7]
    guess, twin = net(hidden=5, epochs=3, learning_rate=0.01), net(hidden=5)
    guess.learn(tokens, scores)
    guess.learn(tokens[:3], scores[:3])  # goes on from there, with Adam's moments
    adam = torch.optim.Adam(twin.parameters(), lr=0.01)
    for known in (4, 3):
        for _ in range(3):
            for length in (1, 2):
                rows = [row for row in range(known) if len(tokens[row]) == length]
                adam.zero_grad()
                loss = sum(
                    (twin(torch.tensor([tokens[row]]))[0] - scores[row]) ** 2 for row in rows
                ) / len(rows)
                loss.backward()
                adam.step()
    for name, value in guess.state_dict().items():
        assert torch.allclose(value, twin.state_dict()[name], atol=1e-5), name


@pytest.mark.thorough
def test_surrogate_learns_an_order_that_the_choices_decide():
    space = wide(2)
    with seeded(0) as generator:
        drawn = list({space.sample(generator) for _ in range(300)})
    tokens = [space.tokens(one) for one in drawn]
    losses = [sum(abs(a - 2) + (b != 1) + 2 * c for a, b, c in one) / len(one) for one in tokens]
    scores = module._scores(losses, [len(one) for one in tokens])
    torch.manual_seed(0)
    guess = module._Surrogate(space.token_sizes, SurrogateConfig(hidden=32, epochs=300))
    half = len(drawn) // 2
    guess.learn(tokens[:half], scores[:half])
    guessed, wanted = [], []
    for length in (1, 2):
        rows = [row for row in range(half, len(drawn)) if len(tokens[row]) == length]
        if rows:
            guessed += guess.scores([tokens[row] for row in rows])
            wanted += [scores[row] for row in rows]
    correlation = torch.corrcoef(torch.tensor([guessed, wanted]))[0, 1]
    assert correlation > 0.8


def test_surrogate_learns_the_lowest_loss_of_each_architecture(table, space, monkeypatch):
    losses = {}

    def loss_of(genotype, times):
        first_is_worse = genotype.nodes[0].operator == "relu"
        value = _mark(genotype) % 89 + 100 * ((times + first_is_worse) % 2)
        losses.setdefault(genotype, []).append(value)
        return value

    table(loss_of)
    seen = []
    learn = module._Surrogate.learn

    def spy(self, tokens, scores):
        best = {genotype: min(values) for genotype, values in losses.items()}
        beaten = {
            tuple(space.tokens(one)): sum(
                1.0 if other > loss else 0.5 if other == loss else 0.0
                for two, other in best.items()
                if len(two.nodes) == len(one.nodes)
            )
            / sum(len(two.nodes) == len(one.nodes) for two in best)
            for one, loss in best.items()
        }
        assert {tuple(t): s for t, s in zip(tokens, scores, strict=True)} == pytest.approx(beaten)
        seen.append(len(tokens))
        learn(self, tokens, scores)

    monkeypatch.setattr(module._Surrogate, "learn", spy)
    later = set()  # whether an architecture was worse when it was tried again
    for seed in range(4):
        losses.clear()
        search(space, seed=seed)
        later |= {values[1] > values[0] for values in losses.values() if len(values) > 1}
    assert later == {True, False}
    assert len(seen) == 4 * 4  # once per level


# --- the search


@pytest.mark.thorough
def test_surrogate_finds_lower_losses_than_as_many_random_draws(table):
    depths = 8  # 128 layers, 2 million architectures
    names = [f"{modality}_{depth}" for modality in ("image", "text") for depth in range(depths)]
    space = LayerSpace(dict.fromkeys(names, 3), LayersConfig(layers=3))

    def loss_of(genotype, _):
        """Every layer has a best pair of features; more layers are better. Lowest: 0."""
        tokens = space.tokens(genotype)
        wrong = [
            (a - (1 + 3 * level) % depths) ** 2 + (b - (6 - 2 * level) % depths) ** 2 + activation
            for level, (a, b, activation) in enumerate(tokens)
        ]
        return sum(wrong) + depths**2 * (3 - len(tokens))

    table(loss_of)
    config = SurrogateConfig(iterations=6, samples=8, hidden=24, epochs=15, learning_rate=1e-2)
    guided, drawn = 0.0, 0.0
    for seed in range(3):
        history = search(space, config=config, seed=seed).history
        context = SearchContext(train=TRAIN, dev=DEV, seed=seed)
        as_many = RandomConfig(trials=len(history))
        control = random_search(space, None, None, context, as_many).history
        losses = [entry["dev_loss"] for entry in history]
        others = [entry["dev_loss"] for entry in control]
        assert min(losses) < min(others)
        last = losses[-config.samples :]  # of three layers, at the lowest temperature
        assert sum(last) / len(last) < 0.4 * sum(others) / len(others)
        guided, drawn = guided + min(losses), drawn + min(others)
    assert guided < 0.75 * drawn


def test_genotype_of_the_lowest_recorded_loss_is_returned(space, source, objective):
    result = search(space, source, objective)
    losses = [trial["dev_loss"] for trial in result.history]
    assert str(result.genotype) == result.history[losses.index(min(losses))]["genotype"]
    assert [trial["trial"] for trial in result.history] == list(range(4 + 3 * 3))
    assert json.loads(json.dumps(result.history)) == list(result.history)
    space.validate(result.genotype)
    assert not result.state


def test_fewer_layers_may_win_in_a_space_that_has_them(table):
    table(lambda genotype, _: len(genotype.nodes) + _mark(genotype) % 89 / 100)
    result = search(wide(3))
    assert len(result.genotype.nodes) == 1


def test_fewer_cells_are_tried_and_never_win_where_the_space_is_of_full_ones(table):
    space = FusionSpace(
        dict.fromkeys(FEATURES, 3), FusionConfig(channels=4, length=1, cells=2, dropout=0.0)
    )
    table(lambda genotype, _: len(genotype.nodes) + _mark(genotype) % 89 / 100)
    result = search(space)
    full = [entry for entry in result.history if entry["level"] == 1]
    assert {entry["level"] for entry in result.history} == {0, 1}
    assert result.history[0]["dev_loss"] < min(entry["dev_loss"] for entry in full)
    best = min(full, key=lambda entry: entry["dev_loss"])
    assert str(result.genotype) == best["genotype"]
    space.validate(result.genotype)


def test_fusion_space_is_searched_with_networks_of_each_size(source, objective):
    space = FusionSpace(
        dict.fromkeys(FEATURES, 3), FusionConfig(channels=4, length=1, cells=2, dropout=0.0)
    )
    config = SurrogateConfig(iterations=1, samples=2, hidden=4, epochs=2, train=SMALL.train)
    result = search(space, source, objective, config=config)
    assert len(result.history) == len(list(space.first(1).genotypes())) + 2
    space.validate(result.genotype)


def test_search_is_decided_by_its_seed_and_leaves_the_callers_randomness_alone(
    space, source, objective
):
    results = []
    for seed, outside in ((1, 10), (1, 11), (2, 10)):
        torch.manual_seed(outside)
        state = torch.get_rng_state()
        results.append(search(space, source, objective, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
    assert results[0] == results[1] != results[2]


# --- shared weights


@pytest.mark.parametrize("share", [True, False])
def test_networks_start_from_what_the_last_with_such_a_layer_left(
    space, source, monkeypatch, share
):
    def trained(model, *_, **__):
        """In place of training: note the start, and add the trial's number."""
        starts.append({n: p.detach().clone() for n, p in model[0].named_parameters()})
        heads.append(model[1].weight.detach().clone())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += len(starts)
        return []

    starts: list[dict] = []
    heads: list = []
    monkeypatch.setattr(trials, "fit", trained)
    config = SurrogateConfig(
        iterations=2, samples=3, hidden=4, epochs=1, share_weights=share, train=SMALL.train
    )
    result = search(space, source, OBJECTIVES["supervised"], config=config, seed=7)
    left: dict[tuple, torch.Tensor] = {}
    reused = 0
    for trial, entry in enumerate(result.history):
        with seeded(7, 1, trial):
            fresh = space.build(_read(entry["genotype"]))
            head = nn.Linear(fresh.width, 3)
        assert torch.equal(heads[trial], head.weight)  # never shared
        for name, start in starts[trial].items():
            level, what = int(name.split(".")[1]), name.split(".")[2]
            activation = entry["genotype"].split(" -> ")[level].partition("(")[0]
            key = (level, what, activation)  # all features are of one size here
            wanted = dict(fresh.named_parameters())[name]
            if share and key in left:
                wanted, reused = left[key], reused + 1
            assert torch.equal(start, wanted), (trial, name)
            left[key] = start + (trial + 1)
    assert (reused > 20) is share


def _read(text: str) -> Genotype:
    """The genotype that reads like this."""
    nodes = []
    for level, part in enumerate(text.split(" -> ")):
        operator, _, inputs = part.rstrip(")").partition("(")
        nodes.append({"name": f"layer_{level}", "operator": operator, "inputs": inputs.split(", ")})
    return Genotype.from_json({"format": 1, "space": "layers", "nodes": nodes})


# --- kills


WAYS = [(after, share) for after in (0, 8, 25, 40, 77) for share in (True, False)]


@pytest.mark.parametrize(
    ("after", "share"),
    [way if way == (25, True) else pytest.param(*way, marks=pytest.mark.thorough) for way in WAYS],
)
def test_search_killed_in_any_trial_resumes_to_the_same_result(
    space, source, objective, killed, tmp_path, after, share
):
    config = SurrogateConfig(
        iterations=2, samples=3, hidden=4, epochs=2, share_weights=share, train=SMALL.train
    )
    whole = search(space, source, objective, config=config, seed=5)
    path = tmp_path / "search.pt"
    options = {"config": config, "seed": 5, "checkpoint": path}
    with pytest.raises(killed.Kill):
        search(space, source, killed(objective, after), **options)
    counted = killed(objective)
    assert search(space, source, counted, **options) == whole
    a_trial = 4 + 2  # training steps and dev batches
    assert counted.losses == 13 * a_trial - after // a_trial * a_trial
    dead = killed(objective, after=0)
    assert search(space, source, dead, **options) == whole


def test_trials_of_another_search_are_refused(space, source, tmp_path):
    path, objective = tmp_path / "search.pt", OBJECTIVES["supervised"]
    search(space, source, objective, seed=5, checkpoint=path)
    for options in ({"seed": 6}, {"seed": 5, "train": TRAIN[:-1]}):
        with pytest.raises(InputError, match=r"search\.pt is a checkpoint of another run"):
            search(space, source, objective, checkpoint=path, **options)
    other = LayerSpace({"image_7": 3, "image_8": 3, "text_0": 3}, space.config)
    with pytest.raises(InputError, match=r"search\.pt is of another search; delete it"):
        search(other, source, objective, seed=5, checkpoint=path)


@pytest.mark.parametrize("name", ["iterations", "samples", "hidden", "epochs", "learning_rate"])
def test_nothing_to_do_is_refused(name):
    with pytest.raises(InputError, match=rf"SurrogateConfig\.{name} must be >=? [01], got 0"):
        SurrogateConfig(**{name: 0})
