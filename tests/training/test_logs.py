"""Logs hold the whole history once, whether or not the run was interrupted."""

from __future__ import annotations

import csv
import json
import math
import sys

import numpy as np
import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.search.bilevel import BilevelConfig, bilevel
from ssnas_core.search.context import SearchContext
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.training.logs import csv_log, tensorboard_log

pytestmark = pytest.mark.usefixtures("one_thread")


def epochs(count: int, shift: float = 0.0) -> list[dict]:
    start = {"epoch": 0, "logits": {"alpha_0": [0.0, 0.0]}, "genotype": "Sum(image_0, text_0)"}
    return [
        start,
        *(
            {
                "epoch": epoch,
                "train_loss": 1 / epoch + shift,
                "match": 0.5,
                "logits": {"alpha_0": [0.0, math.log(epoch)]},
                "genotype": f"Sum(image_0, text_{epoch})",
            }
            for epoch in range(1, count)
        ),
    ]


LABELS = {"alpha_0": ("image_0", "x first")}


def lines(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_line_per_epoch_with_weights_by_name_and_nothing_for_what_an_epoch_lacks(
    tmp_path,
):
    csv_log(tmp_path / "new" / "log.csv", LABELS)(epochs(3))
    start, _, last = lines(tmp_path / "new" / "log.csv")
    assert start["train_loss"] == start["match"] == ""
    assert (start["epoch"], start["genotype"]) == ("0", "Sum(image_0, text_0)")
    assert float(last["train_loss"]) == 0.5
    assert float(last["alpha_0/image_0"]) == pytest.approx(1 / 3)  # softmax of (0, log 2)
    assert float(last["alpha_0/x_first"]) == pytest.approx(2 / 3)


def test_weights_without_labels_or_with_labels_of_another_space_are_numbered(tmp_path):
    for labels in (None, {"alpha_0": ("image_0",)}):
        csv_log(tmp_path / "log.csv", labels)(epochs(2))
        assert {"alpha_0/0", "alpha_0/1"} < lines(tmp_path / "log.csv")[0].keys()


def test_each_row_of_a_matrix_is_a_softmax_of_its_own(tmp_path):
    csv_log(tmp_path / "log.csv")([{"epoch": 0, "logits": {"beta": [[0.0, 0.0], [0.0, 99.0]]}}])
    (row,) = lines(tmp_path / "log.csv")
    assert [float(row[f"beta/{n}"]) for n in range(4)] == pytest.approx([0.5, 0.5, 0, 1])


def test_trials_are_logged_too(tmp_path):
    trials = [{"trial": n, "genotype": "Sum(a, b)", "dev_loss": 2.0 - n} for n in range(2)]
    csv_log(tmp_path / "log.csv")(trials)
    assert [row["dev_loss"] for row in lines(tmp_path / "log.csv")] == ["2.0", "1.0"]
    tensorboard_log(tmp_path / "board")(trials)
    assert scalars(tmp_path / "board")["dev_loss"] == [(0, 2.0), (1, 1.0)]


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    """Scalars as TensorBoard shows them: by name, step and value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def expected(history: list[dict], name: str) -> list[tuple[int, float]]:
    return [(e["epoch"], float(np.float32(e[name]))) for e in history if name in e]


def written(folder) -> int:
    """Scalars in all event files, shown or not."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    events = (
        event for file in sorted(folder.iterdir()) for event in EventFileLoader(str(file)).Load()
    )
    return sum(value.tag == "train_loss" for event in events for value in event.summary.value)


def test_tensorboard_has_each_epoch_once_and_the_genotype_as_text(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = tensorboard_log(tmp_path, LABELS)
    for count in range(1, 6):
        log(epochs(count))
    log(epochs(5))
    shown = scalars(tmp_path)
    assert shown.keys() == {"train_loss", "match", "alpha_0/image_0", "alpha_0/x_first"}
    assert shown["train_loss"] == expected(epochs(5), "train_loss")
    assert [step for step, _ in shown["alpha_0/image_0"]] == [0, 1, 2, 3, 4]
    assert shown["alpha_0/image_0"][3][1] == pytest.approx(1 / 4)
    events = EventAccumulator(str(tmp_path)).Reload()
    texts = [event.tensor_proto.string_val[0] for event in events.Tensors("genotype/text_summary")]
    assert texts[1] == b"Sum(image_0, text_1)" and len(texts) == 5


def test_going_on_in_another_process_writes_nothing_twice(tmp_path):
    first = tensorboard_log(tmp_path)
    for count in range(1, 4):
        first(epochs(count))
    second = tensorboard_log(tmp_path)  # knows nothing of the first
    for count in range(3, 7):
        second(epochs(count))
    assert scalars(tmp_path)["train_loss"] == expected(epochs(6), "train_loss")
    assert written(tmp_path) == 5


def test_epochs_that_a_lost_checkpoint_takes_back_are_shown_once(tmp_path):
    tensorboard_log(tmp_path)(epochs(6))
    again = tensorboard_log(tmp_path)
    for count in range(3, 7):
        again(epochs(count))
    assert scalars(tmp_path)["train_loss"] == expected(epochs(6), "train_loss")


def test_another_history_replaces_what_the_folder_held(tmp_path):
    tensorboard_log(tmp_path)(epochs(6))
    other = epochs(4, shift=1.0)
    log = tensorboard_log(tmp_path)
    for count in range(1, 5):
        log(other[:count])
    assert scalars(tmp_path)["train_loss"] == expected(other, "train_loss")
    log(epochs(3))  # the same log, given a shorter history
    assert scalars(tmp_path)["train_loss"] == expected(epochs(3), "train_loss")


def test_tensorboard_that_is_not_installed_is_named_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"need the package tensorboard .*'ssnas\[logs\]'"):
        tensorboard_log(tmp_path)


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_interrupted_search_leaves_the_log_of_one_that_was_not(
    kind, memory_source, killed, tmp_path
):
    names = [f"{modality}_{depth}" for modality in ("image", "text") for depth in range(2)]
    generator = torch.Generator().manual_seed(0)
    source = memory_source({n: torch.randn(24, 2, 3, generator=generator) for n in names})
    space = FusionSpace(dict.fromkeys(names, 3), FusionConfig(channels=4, length=2, cells=1))
    objective = Contrastive(hidden=4, out=3)

    def search(name: str, objective, checkpoint=None):
        folder = tmp_path / name
        csv_file, labels = folder / "log.csv", space.labels()
        log = csv_log(csv_file, labels) if kind == "csv" else tensorboard_log(folder, labels)
        context = SearchContext(
            train=torch.arange(16), dev=torch.arange(16, 24), checkpoint=checkpoint, on_epoch=log
        )
        config = BilevelConfig(epochs=4, batch_size=8)
        result = bilevel(space, source, objective, context, config)
        return result, csv_file.read_bytes() if kind == "csv" else scalars(folder)

    result, whole = search("whole", objective)
    checkpoint = tmp_path / "search.pt"
    with pytest.raises(killed.Kill):
        search("cut", killed(objective, after=10), checkpoint)
    assert search("cut", objective, checkpoint)[1] == whole
    if kind == "csv":
        rows = lines(tmp_path / "cut" / "log.csv")
        assert [row["genotype"] for row in rows] == [e["genotype"] for e in result.history]
        assert "gamma_0_0/Attention" in rows[0] and "beta_0_0/x_first" in rows[0]
        assert json.loads(rows[-1]["train_loss"]) == result.history[-1]["train_loss"]
    else:
        assert {"match_without_image", "gamma_0_0/Attention"} < whole.keys()
        assert [step for step, _ in whole["train_loss"]] == [1, 2, 3, 4]
