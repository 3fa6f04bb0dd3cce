"""The work of `test_distributed.py`, for one process and for two, and a process that takes orders.

As a program: `python _together.py PLACE COUNT FILE` joins COUNT processes through FILE, then
reads pickled (function, arguments) from standard input and writes pickled results.
"""

from __future__ import annotations

import copy
import os
import pickle
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssnas_core.common import distributed
from ssnas_core.common.distributed import join_norms
from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import drop_modality
from ssnas_core.common.random import seeded
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.hybrid import Hybrid
from ssnas_core.objectives.matching import Matching
from ssnas_core.objectives.memory_bank import MemoryBank
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.search.bilevel import BilevelConfig, bilevel
from ssnas_core.search.context import SearchContext
from ssnas_core.search.evolution import EvolutionConfig, evolution
from ssnas_core.search.gates import GatesConfig, gates
from ssnas_core.search.random import RandomConfig, random_search
from ssnas_core.search.stable import curvature
from ssnas_core.search.surrogate import SurrogateConfig, surrogate
from ssnas_core.search.tpe import TPEConfig, tpe
from ssnas_core.spaces.fusion.networks import FusionSupernet
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.layers import LayersConfig, LayerSpace
from ssnas_core.training import checkpoints
from ssnas_core.training.checkpoints import load_checkpoint
from ssnas_core.training.loop import TrainConfig, fit, loss_of

SAMPLES, CLASSES = 40, 3
FEATURES = ("image_0", "image_1", "text_0")
PARTS = {"train": torch.arange(20), "dev": torch.arange(20, SAMPLES)}


class Drawn:
    """Inputs with noise on them, drawn for all samples; those of a part are given."""

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        self.inputs = dict(inputs)

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        return {name: value[indices] for name, value in self.inputs.items()}

    def augmented(
        self,
        indices: Tensor,
        generator: torch.Generator,
        count: int = 2,
        *,
        part: slice = slice(None),
    ) -> list[dict[str, Tensor]]:
        return [
            {
                name: (value + 0.3 * torch.randn(value.shape, generator=generator))[part]
                for name, value in self.clean(indices).items()
            }
            for _ in range(count)
        ]


def features(*, length: int = 2) -> Drawn:
    generator = torch.Generator().manual_seed(0)
    return Drawn({n: torch.randn(SAMPLES, length, 4, generator=generator) for n in FEATURES})


def space(dropout: float = 0.0) -> FusionSpace:
    config = FusionConfig(channels=4, length=2, cells=2, steps=2, dropout=dropout)
    return FusionSpace(dict.fromkeys(FEATURES, 4), config)


def objective(name: str) -> Any:
    generator = torch.Generator().manual_seed(1)
    several = torch.randint(2, (SAMPLES, CLASSES), generator=generator)
    one = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    simclr = Contrastive(hidden=8, out=4)
    return {
        "contrastive": simclr,
        **{task: replace(simclr, task=task) for task in ("swapped", "comm", "clip")},
        "matching": Matching(),
        "bank": MemoryBank(negatives=4, out=4, samples=SAMPLES),
        "supervised": Supervised(labels=several),
        "clean": Supervised(labels=one, classes=CLASSES, augment=False),
        # 3 of the first 7 samples are labelled: 2 of the first process's share, 1 of the second's
        "hybrid": Hybrid(
            supervised=Supervised(labels=several),
            labelled=torch.tensor([0, 3, 4, *range(20, 30)]),
            contrastive=simclr,
            weight=0.3,
        ),
    }[name]


class Conv(nn.Module):
    """A small image backbone whose batch norms see maps."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 4), (4, 6)):
            conv = nn.Conv2d(inputs, outputs, 3, bias=False)  # whose gradient would be 0
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.layers[4].momentum = None  # a cumulative average

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.layers(inputs["image"]).mean((2, 3))


def network(name: str, dropout: float = 0.0) -> tuple[nn.Module, int, Drawn]:
    """An encoder, its width, and a source of its inputs."""
    with seeded(3):
        if name == "fusion":
            net = space(dropout).supernet()
            return net, net.width, features()
        images = torch.randn(SAMPLES, 3, 5, 5, generator=torch.Generator().manual_seed(0))
        return Conv(), 6, Drawn({"image": images * torch.tensor([1.0, 5.0, 0.1]).view(3, 1, 1) + 2})


# --- the work


def step(net: str, kind: str, rows: int = 7) -> dict[str, Any]:
    """Loss, gradients and running statistics of one batch."""
    encoder, width, source = network(net)
    goal = objective(kind)
    with seeded(4):
        model = nn.Sequential(encoder, goal.head(width)).train()
    join_norms(model)
    generator = torch.Generator().manual_seed(5)
    loss = loss_of(model, goal, "float32")(source, torch.arange(rows), generator)
    loss.backward()
    distributed.average_gradients(model.parameters())
    return {
        "loss": loss.detach(),
        "gradients": {n: p.grad for n, p in model.named_parameters() if p.grad is not None},
        "buffers": dict(model.named_buffers()),
        "names": list(model.state_dict()),
        "chance": generator.get_state(),
    }


def search(kind: str, order: int, alternate: str, **more: Any) -> dict[str, Any]:
    config = BilevelConfig(
        epochs=2, batch_size=7, arch_learning_rate=0.05, order=order, alternate=alternate,
        **more.pop("variant", {}),
    )  # fmt: skip
    dropout = more.pop("dropout", 0.0)
    context = SearchContext(**PARTS, seed=1, **more)
    result = bilevel(space(dropout), features(), objective(kind), context, config)
    return {
        "genotype": str(result.genotype),
        "history": result.history,
        "state": result.state,
    }


def sharpness() -> float:
    """The largest eigenvalue of the Hessian with respect to a relaxed network's logits."""
    encoder, width, source = network("fusion")
    goal = objective("contrastive")
    with seeded(4):
        model = nn.Sequential(encoder, goal.head(width)).eval()
    assert isinstance(encoder, FusionSupernet)

    def loss() -> Tensor:
        return goal.loss(model, source, torch.arange(7), torch.Generator().manual_seed(5))

    return curvature(loss, [encoder.logits["alpha_0"], encoder.logits["gamma_1_0"]])


def training(net: str, kind: str, **more: Any) -> dict[str, Any]:
    encoder, width, source = network(net)
    goal = objective(kind)
    with seeded(4):
        model = nn.Sequential(encoder, goal.head(width))
    config = TrainConfig(epochs=2, batch_size=7, learning_rate=0.01)
    history = fit(model, source, goal, torch.arange(20), config, seed=2, **more)
    return {"history": history, "state": model.state_dict()}


def trying(strategy: str, **more: Any) -> dict[str, Any]:
    brief = TrainConfig(epochs=1, batch_size=7)
    search, config = {
        "gates": (gates, GatesConfig(epochs=3, batch_size=7, every=1)),
        "random": (random_search, RandomConfig(trials=2, train=brief)),
        "evolution": (evolution, EvolutionConfig(population=2, sample=2, trials=4, train=brief)),
        "tpe": (tpe, TPEConfig(trials=4, startup=2, train=brief)),
        "surrogate": (surrogate, SurrogateConfig(iterations=2, samples=2, epochs=5, train=brief)),
    }[strategy]
    over = space()
    if strategy == "surrogate":  # with weights that networks share
        over = LayerSpace(over.channels, LayersConfig(layers=2, channels=4))
    goal = objective("contrastive")
    result = search(over, features(), goal, SearchContext(**PARTS, **more), config)
    return {"genotype": str(result.genotype), "history": result.history}


def chance() -> dict[str, Tensor]:
    """Numbers of torch's global generator and of the one passed on."""
    drawn = {}
    for name, apart in (("together", False), ("apart", True)):
        with seeded(6, apart=apart) as generator:
            drawn[name] = torch.rand(3)
            drawn[f"{name}, passed"] = torch.rand(3, generator=generator)
    return drawn


def writing(folder: Path) -> dict[str, Any]:
    """How often each process reports an epoch, with which checkpoint, in two goes."""
    calls: list[int] = []
    path = folder / "kept.pt"
    for _ in range(2):  # the second only reads
        result = training(
            "conv", "contrastive", checkpoint=path, on_epoch=lambda h: calls.append(1)
        )
    saved = load_checkpoint(path)
    assert saved is not None
    return {"calls": len(calls), "settings": saved["settings"], **result}


def going_on(checkpoint: Path) -> str:
    return refused(lambda: training("conv", "contrastive", checkpoint=checkpoint))


def first_alone(folder: Path) -> dict[str, Any]:
    """The first process works alone, with a fit inside; the others get its result."""
    done: list[int] = []

    def do() -> int:
        done.append(distributed.world_size())
        training("conv", "contrastive")
        return 7

    def fail() -> None:
        raise InputError("no room on the disk")

    return {
        "result": distributed.on_rank_zero(do),
        "done": done,
        "refused": refused(lambda: distributed.on_rank_zero(fail)),
        "processes": distributed.world_size(),
        "place": distributed.rank(),
    }


def lost_modality(rows: int = 7) -> dict[str, Any]:
    """What a lost modality's features become, and the gradient of their sum for each row."""
    numbers = torch.randn(rows, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    part = numbers[distributed.share(rows)]
    names = ["image_0", "text_0"]
    dropped = drop_modality({"image_0": part, "text_0": part}, names, 1.0)
    # one of the two is lost in each row, and is the batch's mean there
    changed = dropped["image_0"] + dropped["text_0"] - part
    sums = distributed.all_gather(changed.square(), rows).sum()
    sums.backward()
    distributed.all_mean([numbers.grad])
    return {"mean": changed.detach(), "gradient": numbers.grad}


def different_starts() -> dict[str, Tensor]:
    """Weights after a training whose processes began with different ones."""
    torch.manual_seed(distributed.rank())
    model = nn.Sequential(Conv(), nn.Linear(6, 4))
    _, _, source = network("conv")
    fit(model, source, objective("contrastive"), torch.arange(14), TrainConfig(epochs=1), seed=0)
    return model.state_dict()


def small_batch() -> str:
    return refused(lambda: step("conv", "contrastive", 2 if distributed.world_size() == 3 else 1))


def refused(do: Any) -> str:
    try:
        do()
    except InputError as error:
        return str(error)
    return "not refused"


def lost(leave: bool) -> str:
    """The first process's error when the second one ends in the middle."""
    if leave and distributed.rank() == 1:
        os._exit(1)
    return refused(lambda: search("contrastive", 1, "step"))


# --- a process that takes orders


def main() -> None:
    place, count, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    checkpoints.EVERY = 0.0
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=place, world_size=count
    )
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that is printed gets between the answers
    while True:
        try:
            name, args, more = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (True, copy.deepcopy(globals()[name](*args, **more)))
        except Exception as error:
            answer = (False, f"{type(error).__name__}: {error}")
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
