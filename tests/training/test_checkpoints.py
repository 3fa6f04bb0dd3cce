"""Checkpoints are saved at intervals; what ended between two of them goes on all the same."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from ssnas_core.objectives.supervised import Supervised
from ssnas_core.training import checkpoints
from ssnas_core.training.checkpoints import keep_epoch, load_checkpoint
from ssnas_core.training.loop import TrainConfig, fit

pytestmark = pytest.mark.usefixtures("one_thread")


def saved(path: Path) -> int:
    """How many epochs are in the checkpoint."""
    content = load_checkpoint(path)
    return len(content["history"]) if content else 0


def test_first_epoch_is_saved_and_another_once_the_file_is_old(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "EVERY", 60.0)
    path, history, told = tmp_path / "checkpoint.pt", [], []

    def keep() -> int:
        history.append({"epoch": len(history)})
        keep_epoch(path, {}, history, "settings", lambda h: told.append(len(h)))
        return saved(path)

    def touched(seconds: float) -> None:
        os.utime(path, times=(time.time() + seconds,) * 2)

    assert [keep(), keep(), keep()] == [1, 1, 1]
    touched(-61)
    assert [keep(), keep()] == [4, 4]
    touched(+3600)  # by the clock of another machine
    assert keep() == 6
    assert told == [1, 2, 3, 4, 5, 6]


def test_training_killed_between_two_saves_ends_as_one_that_was_not(
    memory_source, killed, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoints, "EVERY", 60.0)
    source = memory_source(
        {"x_0": torch.randn(12, 1, 4, generator=torch.Generator().manual_seed(0))}
    )
    objective = Supervised(labels=torch.arange(12) % 3, classes=3)
    config, path = TrainConfig(epochs=5, batch_size=6), tmp_path / "checkpoint.pt"

    class Flat(nn.Module):
        def forward(self, inputs):
            return inputs["x_0"].flatten(1)

    def trained(goal, **more):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Sequential(Flat(), nn.Linear(4, 8), nn.Dropout(0.5)), goal.head(8))
        history = fit(model, source, goal, torch.arange(12), config, seed=1, **more)
        return history, model.state_dict()

    history, state = trained(objective)
    with pytest.raises(killed.Kill):
        trained(killed(objective, after=7), checkpoint=path)
    assert saved(path) == 1  # of three
    again, restored = trained(objective, checkpoint=path)
    assert again == history
    assert all(torch.equal(restored[name], value) for name, value in state.items())
