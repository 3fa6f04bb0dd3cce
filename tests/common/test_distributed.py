"""Several processes are one: the same losses, gradients, statistics and architectures; no hangs."""

from __future__ import annotations

import importlib.util
import itertools
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("one_thread")

NETS = ("fusion", "conv")
HERE = Path(__file__).parent
SPEC = importlib.util.spec_from_file_location("_together", HERE / "_together.py")
assert SPEC is not None and SPEC.loader is not None
together = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(together)


class Pair:
    """Two processes that do the same at the same time."""

    def __init__(self, folder: Path, count: int = 2) -> None:
        command = [sys.executable, HERE / "_together.py"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
        self.processes = [
            subprocess.Popen(
                [*command, str(place), str(count), folder / "meeting"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
            for place in range(count)
        ]

    def __call__(self, name: str, *args: Any, seconds: float = 60, **more: Any) -> list[Any]:
        """The results of both processes; all are killed if they take longer."""
        for process in self.processes:
            assert process.stdin is not None
            pickle.dump((name, args, more), process.stdin)
            process.stdin.flush()
        watch = threading.Timer(seconds, self.end)
        watch.start()
        try:
            return [self._answer(process) for process in self.processes]
        finally:
            watch.cancel()

    def _answer(self, process: subprocess.Popen[bytes]) -> Any:
        assert process.stdout is not None
        try:
            fine, value = pickle.load(process.stdout)
        except EOFError:
            return None  # it ended
        assert fine, value
        return value

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"))
    yield made
    made.end()


def few(cases: Iterable[tuple], *quick: tuple) -> list[Any]:
    """Parameters of a test: the cases, all but the quick ones marked thorough."""
    thorough = pytest.mark.thorough
    return [pytest.param(*case, marks=() if case in quick else thorough) for case in cases]


def close(actual: Any, wanted: Any, tolerance: float) -> None:
    torch.testing.assert_close(actual, wanted, rtol=tolerance, atol=tolerance)


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )


def without_figures(history: Any) -> list[dict[str, Any]]:
    """A history's losses and logits, in numbers; signs of collapse magnify rounding."""
    names = ("loss", "train_loss", "arch_loss", "dev_loss", "logits")
    return [{name: entry[name] for name in names if name in entry} for entry in history]


# --- one step


STEPS = [
    *itertools.product(NETS, ("contrastive", "supervised", "hybrid"), (7, 8)),
    *(("conv", "clean", rows) for rows in (7, 8)),
    *itertools.product(("fusion",), ("swapped", "comm", "clip", "matching", "bank"), (7, 8)),
]


@pytest.mark.parametrize(
    ("net", "kind", "rows"),
    few(
        STEPS,
        *(
            ("fusion", kind, 7)
            for kind in ("hybrid", "swapped", "comm", "clip", "matching", "bank")
        ),
        ("conv", "contrastive", 7),
    ),
)
def test_two_processes_give_loss_gradients_and_statistics_of_the_joined_batch(
    pair, net, kind, rows
):
    alone = together.step(net, kind, rows)
    assert len(alone["gradients"]) > 3
    first, second = pair("step", net, kind, rows)
    for result in (first, second):
        assert result["names"] == alone["names"]
        assert torch.equal(result["chance"], alone["chance"])
        for part in ("loss", "gradients", "buffers"):
            close(result[part], alone[part], 1e-5)
    assert equal(first["gradients"], second["gradients"])


def test_dropout_differs_between_processes_and_what_is_drawn_for_all_does_not(pair):
    alone, (first, second) = together.chance(), pair("chance")
    for name, value in alone.items():
        assert torch.equal(first[name], value)
        assert torch.equal(second[name], value) == (name != "apart"), name


def test_lost_modality_becomes_the_mean_of_the_joined_batch(pair):
    alone, (first, second) = together.lost_modality(), pair("lost_modality")
    assert (len(first["mean"]), len(second["mean"])) == (4, 3)
    for result in (first, second):
        close(result["mean"], alone["mean"][: len(result["mean"])], 1e-6)
        close(result["gradient"], alone["gradient"], 1e-5)


# --- whole searches and trainings


@pytest.mark.parametrize(
    ("order", "alternate"), few(itertools.product((1, 2), ("step", "epoch")), (1, "step"))
)
def test_two_processes_find_what_one_finds(pair, order, alternate):
    kind = "hybrid" if order == 1 else "contrastive"
    alone = together.search(kind, order, alternate)
    first, second = pair("search", kind, order, alternate)
    assert first["genotype"] == alone["genotype"]
    close(without_figures(first["history"]), without_figures(alone["history"]), 1e-4)
    close(first["state"], alone["state"], 1e-3)
    assert first["history"] == second["history"]
    assert equal(first["state"], second["state"])


VARIANTS = {
    "sampled and decayed": {"sampling": "gumbel", "beta_decay": 2.0},
    "judged by perturbation": {"select": "perturbation"},
}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", VARIANTS)
def test_two_processes_find_what_one_finds_in_a_variant(pair, kind):
    variant = VARIANTS[kind]
    order = 2 if kind == "sampled and decayed" else 1
    alone = together.search("contrastive", order, "step", variant=variant)
    first, second = pair("search", "contrastive", order, "step", variant=variant)
    close(without_figures(first["history"]), without_figures(alone["history"]), 2e-3)
    assert first["genotype"] == second["genotype"] == alone["genotype"]
    assert first["history"] == second["history"]
    assert equal(first["state"], second["state"])


@pytest.mark.thorough
def test_curvature_is_that_of_the_joined_batch(pair):
    alone = together.sharpness()
    first, second = pair("sharpness")
    assert first == second == pytest.approx(alone, rel=1e-2) and alone > 1e-4


@pytest.mark.thorough
def test_sampled_choices_are_the_same_in_all_processes_where_dropout_differs(pair):
    first, second = pair(
        "search", "contrastive", 1, "step", dropout=0.3, variant=VARIANTS["sampled and decayed"]
    )
    assert first["history"] == second["history"]
    assert equal(first["state"], second["state"])


@pytest.mark.thorough
def test_replicas_stay_equal_with_dropout_that_differs(pair):
    alone = together.search("contrastive", 2, "step", dropout=0.3)
    first, second = pair("search", "contrastive", 2, "step", dropout=0.3)
    assert equal(first["state"], second["state"])
    assert first["history"] != alone["history"]


@pytest.mark.thorough
def test_two_processes_train_what_one_trains(pair):
    alone = together.training("conv", "contrastive")
    first, second = pair("training", "conv", "contrastive")
    close(without_figures(first["history"]), without_figures(alone["history"]), 1e-4)
    close(first["state"], alone["state"], 1e-3)
    assert equal(first["state"], second["state"])


@pytest.mark.thorough
@pytest.mark.parametrize("strategy", ("gates", "random", "evolution", "tpe", "surrogate"))
def test_two_processes_try_and_rank_what_one_does(pair, strategy, tmp_path):
    alone = together.trying(strategy)
    first, second = pair("trying", strategy, checkpoint=tmp_path / "search.json")
    assert first == second
    assert first["genotype"] == alone["genotype"]
    tried = [[one["genotype"] for one in result["history"]] for result in (first, alone)]
    assert tried[0] == tried[1]
    close(without_figures(first["history"]), without_figures(alone["history"]), 1e-4)
    again = pair("trying", strategy, checkpoint=tmp_path / "search.json")
    assert again == [first, first]


@pytest.mark.thorough
def test_processes_that_begin_with_other_weights_go_on_with_those_of_the_first(pair):
    first, second = pair("different_starts")
    assert equal(first, second)


# --- the first process alone


def test_first_process_alone_writes_and_all_go_on_from_it(pair, tmp_path):
    first, second = pair("writing", tmp_path)
    assert (first["calls"], second["calls"]) == (2 + 1, 0)  # two epochs, and what was there
    assert first["settings"].endswith("'2 processes')")
    assert first["history"] == second["history"] and len(first["history"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["kept.pt"]


@pytest.mark.thorough
def test_checkpoint_of_another_number_of_processes_is_refused(pair, tmp_path):
    pair("writing", tmp_path)
    refused = "is a checkpoint of another run: expected .*, got .*'2 processes'"
    with pytest.raises(together.InputError, match=refused):
        together.training("conv", "contrastive", checkpoint=tmp_path / "kept.pt")
    together.training("conv", "contrastive", checkpoint=tmp_path / "one.pt")
    first, second = pair("going_on", tmp_path / "one.pt")
    assert first == second and "expected (2, TrainConfig(" in first and "'2 processes'" in first


def test_what_the_first_process_does_alone_reaches_the_others(pair, tmp_path):
    first, second = pair("first_alone", tmp_path)
    assert first["done"] == [1] and second["done"] == []
    for place, one in enumerate((first, second)):
        assert one["result"] == 7
        assert one["refused"] == "no room on the disk"
        assert (one["processes"], one["place"]) == (2, place)


# --- faults


def test_batch_smaller_than_the_processes_is_refused(pair):
    first, second = pair("small_batch")
    assert first == second
    assert first.startswith("a batch of 1 cannot be divided among 2 processes; use fewer")


@pytest.mark.thorough
def test_end_of_one_process_ends_the_other_with_one_line(tmp_path):
    pair = Pair(tmp_path)
    try:
        message, nothing = pair("lost", True)
        assert nothing is None
        assert message.startswith("another process ended or did not answer (")
        assert message.endswith("the same command goes on from its last checkpoint.")
        assert "\n" not in message
    finally:
        pair.end()
