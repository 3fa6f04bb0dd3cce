"""Convolutional cells on images of digits: what a search without labels finds, and for what.

    python tests/benchmarks/cells.py --out runs/cells
    python tests/benchmarks/cells.py --out runs/cells-mnist --mnist FOLDER --trials 30 \
        --label-ratio 0.1 0.3 1

Networks of 3 cells and 8 channels (recipe digits), fine-tuned from scratch on the labels of a
ratio r: of scikit-learn's digits, or of 2,000 images of MNIST, whose files are in FOLDER. Compared
on test, --seeds seeds each, are

- the cells that TPE found by the contrastive loss, --trials a search, a search a seed;
- the best of as many random cells by the same loss, and one random cell, a draw a seed;
- what DARTS's bilevel search found by the same loss;
- published cells; and a ResNet of about as many weights.

Then the proxy: over --architectures random cells, the rank correlation (Spearman's) of the
contrastive loss on dev, after one and after two epochs, with the accuracy on test after
fine-tuning, the mean of --proxy-seeds seeds; beside it that of the number of weights, and what
seeds alone leave of any correlation. Intervals are of a bootstrap over architectures.

At last TPE against drawing, by number of trials: on a stand-in for the proxy, a linear model of
the choices fitted to all cells that were tried, with noise of the size that it leaves unexplained.
There a search takes no time, so that --stand-in-seeds searches of many trials can be made.

Writes cells_random.csv, cells_proxy.md, cells.md and cells_budget.md into --tables, each as soon as
it can be; of MNIST the comparison alone, cells_mnist.md. It resumes where it was interrupted. That
of digits takes some 40 minutes of one core.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from scipy.stats import rankdata, t
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from torch import Tensor, nn

from ssnas_core.common.files import read_json, write_json, write_text
from ssnas_core.common.random import seeded
from ssnas_core.datasets.digits import digits
from ssnas_core.datasets.mnist import read_mnist
from ssnas_core.datasets.records import Dataset
from ssnas_core.datasets.splits import labelled_part, labelling_order
from ssnas_core.features.prepare import Prepared, prepare
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.runs.recipes import RECIPES, Recipe
from ssnas_core.search.context import SearchContext
from ssnas_core.search.random import RandomConfig
from ssnas_core.search.tpe import TPEConfig
from ssnas_core.search.trials import Trials
from ssnas_core.show.tables import as_table
from ssnas_core.spaces.cells.space import CellsSpace, cells_network
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.training.loop import TrainConfig, fit, predict

PUBLISHED = ("DARTS_V2", "CSNAS s4")
SEARCHES = {"TPE": "tpe", "DARTS": "bilevel"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much, and where to."""

    out: Path
    mnist: Path | None = None
    tables: Path = Path(__file__).parents[2] / "book" / "tables"
    seeds: int = 5
    trials: int = 40
    architectures: int = 60
    proxy_seeds: int = 1
    label_ratio: tuple[float, ...] = (0.1, 1.0)
    budgets: tuple[int, ...] = (40, 80, 160, 320)
    stand_in_seeds: int = 10


def sized(side: int, *, trial: int, supernet: int, finetune: int, steps: int) -> Recipe:
    """The recipe digits with these epochs, and with fine-tuning of at least so many steps."""
    recipe, brief = RECIPES["digits"], TrainConfig(epochs=trial)
    return replace(
        recipe,
        prepare=replace(recipe.prepare, image_size=(side, side)),
        parts=(
            recipe.space("cells"),
            replace(recipe.strategy("bilevel"), epochs=supernet),
            replace(recipe.strategy("random"), train=brief),
            replace(recipe.strategy("tpe"), train=brief),
        ),
        finetune=replace(recipe.finetune, epochs=finetune, min_steps=steps),
    )


# Half of the recipe's epochs where that takes long. On MNIST the searches take about as many steps
# as on digits; fine-tuning more, as the ResNet has learnt 86 % of train in 94 steps, 97 % in 256.
# (Its accuracy on test was seen then, 0.84 and 0.96; the length is the same for all rows.)
DIGITS = sized(8, trial=2, supernet=3, finetune=5, steps=75)
MNIST = sized(12, trial=1, supernet=2, finetune=8, steps=150)


def mnist_part(folder: Path) -> Dataset:
    """MNIST with 2,000 training and 500 dev images, each class by its share, and all of test."""
    whole = read_mnist(folder)
    rows = [whole.indices("test")]
    for split, count in (("train", 2_000), ("dev", 500)):
        of = whole.indices(split)
        rows.append(of[labelling_order(whole.labels()[of], 0)[:count]])
    return replace(
        whole, records=tuple(whole.records[row] for row in np.sort(np.concatenate(rows)))
    )


class ResNet(nn.Sequential):
    """Two stages of a basic block each (He et al. 2016, arXiv:1512.03385), by torchvision."""

    def __init__(self, feature: str, channels: int, inner: int) -> None:
        from torchvision.models.resnet import BasicBlock

        wide = 2 * inner
        shortcut = nn.Sequential(nn.Conv2d(inner, wide, 1, 2, bias=False), nn.BatchNorm2d(wide))
        super().__init__(
            nn.BatchNorm2d(channels, affine=False),
            nn.Conv2d(channels, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            BasicBlock(inner, inner),
            BasicBlock(inner, wide, 2, shortcut),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.feature, self.width = feature, wide

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Return embeddings (N, width) of pixels (N, P, C)."""
        pixels = features[self.feature]
        side = round(pixels.shape[1] ** 0.5)
        return super().forward(pixels.unflatten(1, (side, side)).permute(0, 3, 1, 2))


class Study:
    """The data, and all figures, each computed once and kept in a file."""

    def __init__(self, options: Options) -> None:
        self.options = options
        data, self.recipe = digits(), DIGITS
        if options.mnist is not None:
            data, self.recipe = mnist_part(options.mnist), MNIST
        self.prepared: Prepared = prepare(data, options.out / "store", self.recipe.prepare)
        self.store = self.prepared.store
        self.space: CellsSpace = self.opened()
        self.context = SearchContext(
            train=self.prepared.indices("train"), dev=self.prepared.indices("dev")
        )

    def opened(self, drop_path: float = 0.0) -> CellsSpace:
        config = replace(self.recipe.space("cells"), drop_path=drop_path)
        return config.open(self.store.channels, self.store.positions)

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, of plain values, with its `seconds` of the processor."""
        file = self.options.out / f"{name}.json"
        if not file.exists():
            start = time.process_time()
            value = compute()
            write_json(file, {"value": value, "seconds": time.process_time() - start})
            print(name, flush=True)
        return read_json(file)

    # --- searches

    @cached_property
    def genotypes(self) -> list[Genotype]:
        """Random architectures for all searches, no two alike."""
        count = max(self.options.seeds * self.options.trials, self.options.architectures)
        generator, found = torch.Generator().manual_seed(0), dict[Genotype, None]()
        while len(found) < count:
            found[self.space.sample(generator)] = None
        return list(found)

    def drawn(self, number: int) -> dict[str, Any]:
        """A random architecture and its loss after each epoch, on the same views as all others."""
        genotype, config = self.genotypes[number], self.recipe.strategy("random")

        def compute() -> dict[str, Any]:
            trials = Trials(self.space, self.store, Contrastive(), self.context, config)
            trials.evaluate(genotype, stop=lambda *_: False)
            weights = sum(p.numel() for p in self.space.build(genotype).parameters())
            return {**trials.history[0], "choice": self.space.encode(genotype), "weights": weights}

        found = self.once(f"random/{number}", compute)
        return {**found["value"], "seconds": found["seconds"]}

    def draws(self, seed: int) -> list[dict[str, Any]]:
        """The random search of a seed."""
        trials = self.options.trials
        return [self.drawn(number) for number in range(seed * trials, (seed + 1) * trials)]

    def searched(self, strategy: str, seed: int) -> dict[str, Any]:
        """What a search with the recipe's settings found, as choices, and its history."""
        trials, config = self.options.trials, self.recipe.strategy(strategy)
        if strategy == "tpe":
            config = replace(config, trials=trials, startup=trials // 2)

        def compute() -> dict[str, Any]:
            file = self.options.out / f"{strategy}-{seed}.pt"
            context = replace(self.context, seed=seed, checkpoint=file)
            result = config.search(self.space, self.store, Contrastive(), context)
            history = [{k: v for k, v in one.items() if k != "logits"} for one in result.history]
            return {"choice": self.space.encode(result.genotype), "history": history}

        return self.once(f"{strategy}-{seed}", compute)

    # --- final accuracy

    def scored(self, name: str, make: Callable[[], Any], ratio: float, seed: int) -> dict[str, Any]:
        """Accuracy on test after fine-tuning on the labelled part of a seed."""

        def compute() -> dict[str, float]:
            dataset = self.prepared.dataset
            part = labelled_part(dataset, ratio, seed)
            targets = torch.from_numpy(dataset.targets())
            objective = Supervised(labels=targets, classes=len(dataset.classes))
            with seeded(seed, 20):
                network = make()
                model = nn.Sequential(network, objective.head(network.width))
            rows, test = torch.from_numpy(part.train), self.prepared.indices("test")
            fit(model, self.store, objective, rows, self.recipe.finetune, seed=seed)
            right = predict(model, self.store, test).argmax(1) == targets[test]
            weights = sum(p.numel() for p in network.parameters())
            return {"accuracy": float(right.double().mean()), "weights": weights}

        return self.once(f"scores/{name.replace(' ', '-')}-{ratio:g}-{seed}", compute)["value"]

    def accuracies(self, number: int, ratio: float) -> list[float]:
        """Those of a random architecture, by seed."""
        make = partial(self.network, self.drawn(number)["choice"])
        seeds = range(self.options.proxy_seeds)
        return [self.scored(f"drawn {number}", make, ratio, s)["accuracy"] for s in seeds]

    def network(self, choice: dict[str, int]) -> nn.Module:
        return self.opened(self.recipe.finetune_dropout or 0.0).build(self.space.decode(choice))

    def of_method(self, method: str, ratio: float, seed: int) -> dict[str, Any]:
        """The score of a method of the table."""
        if method == "ResNet":
            ((feature, channels),) = self.space.channels.items()
            return self.scored(method, lambda: ResNet(feature, channels, 18), ratio, seed)
        if method in PUBLISHED:
            config = replace(
                self.recipe.space("cells"), drop_path=self.recipe.finetune_dropout or 0.0
            )
            sizes = self.store.channels, self.store.positions
            return self.scored(method, lambda: cells_network(method, *sizes, config), ratio, seed)
        if method in SEARCHES:
            choice = self.searched(SEARCHES[method], seed)["value"]["choice"]
        elif method == "random":
            choice = self.drawn(seed * self.options.trials)["choice"]
        else:
            choice = min(self.draws(seed), key=lambda one: one["dev_loss"])["choice"]
        return self.scored(method, lambda: self.network(choice), ratio, seed)


def interval(values: Sequence[float], digits: int = 3) -> str:
    """Mean and 95 % Student-t interval over seeds."""
    mean, count = float(np.mean(values)), len(values)
    reach = t.ppf(0.975, count - 1) * float(np.std(values, ddof=1)) / count**0.5
    return f"{mean:.{digits}f} [{mean - reach:.{digits}f}, {mean + reach:.{digits}f}]"


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of ranks; ties have their mean rank."""
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def bootstrapped(one: np.ndarray, other: np.ndarray, draws: int = 2_000) -> str:
    """Spearman's correlation with the middle 95 % of its values on redrawn architectures."""
    rng = np.random.default_rng(0)
    rows = rng.integers(len(one), size=(draws, len(one)))
    low, high = np.nanquantile([spearman(one[r], other[r]) for r in rows], (0.025, 0.975))
    return f"{spearman(one, other):+.2f} [{low:+.2f}, {high:+.2f}]"


def comparison(study: Study) -> str:
    """The table of methods."""
    seeds, rows, ratios = range(study.options.seeds), [], study.options.label_ratio
    cost = {
        name: float(np.mean([study.searched(strategy, seed)["seconds"] for seed in seeds]))
        for name, strategy in SEARCHES.items()
    }
    tried = [one["seconds"] for seed in seeds for one in study.draws(seed)]
    cost["best of random"] = sum(tried) / len(seeds)
    for method in ("TPE", "best of random", "random", "DARTS", *PUBLISHED, "ResNet"):
        of = {ratio: [study.of_method(method, ratio, seed) for seed in seeds] for ratio in ratios}
        weights = float(np.mean([one["weights"] for one in of[ratios[0]]]))
        accuracies = [interval([one["accuracy"] for one in of[ratio]]) for ratio in ratios]
        rows.append([method, *accuracies, f"{weights / 1000:.1f}", f"{cost.get(method, 0):.0f}"])
    head = ["cells", *(f"r = {ratio:g}" for ratio in ratios), "1,000 weights", "search, s"]
    return "\n".join(as_table(head, rows))


def write_comparison(study: Study, data: str) -> None:
    """Write cells.md, or cells_mnist.md: what was done, and the table."""
    options, recipe = study.options, study.recipe
    epochs = {name: recipe.strategy(name) for name in ("tpe", "bilevel")}
    text = (
        f"Cells on {data} (3 cells, 8 channels, 4 nodes; recipe digits with "
        f"{recipe.finetune.epochs} epochs of fine-tuning, and at least {recipe.finetune.min_steps} "
        f"steps): accuracy on test, means of {options.seeds} seeds with 95 % intervals. TPE and "
        f"random search have {options.trials} trials, each of {epochs['tpe'].train.epochs} "
        f"epoch(s), DARTS {epochs['bilevel'].epochs} epochs of its supernet, all by the "
        "contrastive loss. Search: seconds of one core.\n\n"
    )
    file = "cells.md" if options.mnist is None else "cells_mnist.md"
    write_text(options.tables / file, f"{text}{comparison(study)}\n")


def proxy(study: Study) -> tuple[str, str]:
    """The table of rank correlations, and all that it is made of as CSV."""
    options, rows, lines = study.options, [], []
    ratios = options.label_ratio
    numbers = range(options.architectures)
    known = [study.drawn(number) for number in numbers]
    scores = {ratio: np.array([study.accuracies(n, ratio) for n in numbers]) for ratio in ratios}
    weights = np.array([one["weights"] for one in known])
    losses = np.array([one["dev_losses"] for one in known])  # (A, epochs)
    means = {ratio: scores[ratio].mean(1) for ratio in ratios}
    signs = {
        **{f"loss after {e + 1} epoch(s)": -losses[:, e] for e in range(losses.shape[1])},
        "number of weights": weights,
        "accuracy at the other ratio": None,
    }
    for name, sign in signs.items():
        of = zip(ratios, ratios[::-1], strict=True)
        pairs = [(means[other] if sign is None else sign, means[one]) for one, other in of]
        rows.append([name, *(bootstrapped(*pair) for pair in pairs)])
    of_size = bootstrapped(-losses[:, -1], weights)
    head = ["sign", *(f"with accuracy at r = {ratio:g}" for ratio in ratios)]
    writer = csv.writer(text := io.StringIO(), lineterminator="\n")
    writer.writerow(
        ["architecture", "weights", *(f"loss_{e + 1}" for e in range(losses.shape[1])),
         *(f"accuracy_{ratio:g}" for ratio in ratios), *study.space.variables]
    )  # fmt: skip
    for n, one in enumerate(known):
        lines.append(
            [n, one["weights"], *(f"{loss:.4f}" for loss in losses[n]),
             *(f"{means[ratio][n]:.4f}" for ratio in ratios), *one["choice"].values()]
        )  # fmt: skip
    writer.writerows(lines)
    told = f"\n\nThe loss at the end, turned, with the number of weights: {of_size}."
    return "\n".join(as_table(head, rows)) + told, text.getvalue()


# --- the stand-in


class StandIn:
    """A linear model of the proxy's loss: an objective of which nothing is trained.

    It is as well the space, whose networks are one weight that knows its choices, and the source.
    """

    def __init__(self, study: Study) -> None:
        self.space, self.variables = study.space, study.space.variables
        tried = [
            (one["choice"], one["dev_loss"])
            for seed in range(study.options.seeds)
            for one in study.draws(seed)
        ]
        names = [node.name for node in study.space.sample(torch.Generator()).nodes]
        for seed in range(study.options.seeds):
            for one in study.searched("tpe", seed)["value"]["history"]:
                if "repeats" not in one:
                    tried.append(
                        (study.space.encode(_read(one["genotype"], names)), one["dev_loss"])
                    )
        inputs = np.array([self.one_hot(choice) for choice, _ in tried])
        losses = np.array([loss for _, loss in tried])
        self.samples = len(losses)
        self.model = RidgeCV(np.logspace(-1, 3, 9)).fit(inputs, losses)
        ridge = Ridge(self.model.alpha_)
        left = cross_val_predict(ridge, inputs, losses, cv=KFold(10, shuffle=True, random_state=0))
        self.explained = 1 - float(np.var(losses - left) / np.var(losses))
        self.noise = float(np.std(losses - left))
        generator = torch.Generator().manual_seed(1)
        drawn = [study.space.encode(study.space.sample(generator)) for _ in range(5_000)]
        self.all = np.sort([self.of(choice) for choice in drawn])

    def one_hot(self, choice: Mapping[str, int]) -> list[int]:
        """A choice as 0 and 1."""
        return [
            int(choice[n] == v) for n, values in self.variables.items() for v in range(len(values))
        ]

    def of(self, choice: Mapping[str, int]) -> float:
        """The loss of a choice, without noise."""
        return float(self.model.predict([self.one_hot(choice)])[0])

    def better(self, genotype: Genotype) -> float:
        """The share of random cells that are better."""
        return float(
            np.searchsorted(self.all, self.of(self.space.encode(genotype))) / len(self.all)
        )

    # --- as a space

    def decode(self, choice: Mapping[str, int]) -> Genotype:
        return self.space.decode(choice)

    def sample(self, generator: torch.Generator) -> Genotype:
        return self.space.sample(generator)

    def build(self, genotype: Genotype) -> nn.Module:
        network: Any = nn.Linear(1, 1)  # its chance is the trial's
        network.width = 1
        network.loss = self.of(self.space.encode(genotype)) + self.noise * float(torch.randn(()))
        return network

    # --- as an objective

    def head(self, width: int) -> nn.Module:
        return nn.Identity()

    def loss(self, model: Any, *_: Any) -> Tensor:
        return model[0].loss + 0 * sum(p.sum() for p in model.parameters())

    def report(self, *_: Any) -> dict[str, float]:
        return {}


def _read(genotype: str, names: Sequence[str]) -> Genotype:
    """The genotype of its text, in a space whose nodes have these names."""
    nodes = []
    for name, text in zip(names, genotype.split(" -> "), strict=True):
        operator, inputs = text.removesuffix(")").split("(")
        nodes.append(Node(name, operator, tuple(inputs.split(", "))))
    return Genotype("cells", tuple(nodes))


def by_budget(study: Study) -> str:
    """The table of TPE against drawing on the stand-in."""
    options, brief = study.options, TrainConfig(epochs=1, batch_size=2)
    known = StandIn(study)
    csnas = study.recipe.strategy("tpe")
    rules = {
        "drawn": lambda n: RandomConfig(trials=n, train=brief),
        "TPE, CSNAS's rule": lambda n: replace(csnas, trials=n, candidates=1_000, train=brief),
        "the same, 24 candidates": lambda n: replace(csnas, trials=n, candidates=24, train=brief),
        "TPE, Optuna's rule": lambda n: TPEConfig(
            trials=n, startup=10, gamma=0.1, good="share", train=brief
        ),
    }
    rows = []
    for name, rule in rules.items():
        row = [name]
        for budget in options.budgets:

            def compute(rule: Any = rule, budget: int = budget) -> list[float]:
                found, config = [], rule(budget)
                for seed in range(options.stand_in_seeds):
                    two = torch.arange(2)
                    context = SearchContext(train=two, dev=two, seed=seed)
                    result = config.search(known, known, known, context)
                    found.append(known.better(result.genotype))
                return found

            key = f"stand-in/{name.replace(' ', '-')}-{budget}"
            row.append(interval([100 * one for one in study.once(key, compute)["value"]], 1))
        rows.append(row)
    text = (
        "TPE against drawing on a stand-in for the loss, a linear model of the choices of "
        f"{known.samples} cells that were tried, which explains {known.explained:.0%} of the "
        f"variance of others (ten folds); the rest, a deviation of {known.noise:.3f} nats, is "
        "noise of a trial. How many per cent of random cells are better than the one found, "
        f"without that noise, by number of trials; means of {options.stand_in_seeds} searches "
        "with 95 % intervals.\n\n"
    )
    return text + "\n".join(as_table(["search", *map(str, options.budgets)], rows)) + "\n"


def main(options: Options) -> None:
    """Compute what is missing, and write the tables, as soon as each can be."""
    torch.set_num_threads(1)
    study = Study(options)
    if options.mnist is not None:
        write_comparison(
            study, "MNIST, 2,000 images of train (r = 1) and all of test, at 12 x 12 pixels"
        )
        return
    correlations, lines = proxy(study)
    write_text(options.tables / "cells_random.csv", lines)
    text = (
        f"Spearman's rank correlation over {options.architectures} random cells with the accuracy "
        f"on test, the mean of {options.proxy_seeds} seed(s); with 95 % bootstrap intervals over "
        "cells. The sign of losses is turned, so that a good sign has a positive correlation.\n\n"
    )
    write_text(options.tables / "cells_proxy.md", f"{text}{correlations}\n")
    write_comparison(study, "scikit-learn's digits")
    write_text(options.tables / "cells_budget.md", by_budget(study))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
