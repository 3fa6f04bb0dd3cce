"""`ssnas` with a tiny recipe, for `test_launching.py`; faults are asked for by the environment.

DIE_AFTER=name kills the first process when it has written a file of that name. FAIL_IN=place
raises in that process at its third loss. PIDS is a folder where each process leaves a file.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from ssnas_core.cli.main import main
from ssnas_core.common import files
from ssnas_core.common.errors import InputError
from ssnas_core.features.config import PrepareConfig
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.runs.recipes import RECIPES, Recipe
from ssnas_core.search.bilevel import BilevelConfig
from ssnas_core.spaces.fusion.space import FusionConfig
from ssnas_core.training import checkpoints
from ssnas_core.training.loop import TrainConfig


def tiny_recipe() -> Recipe:
    """As the fixture of this name, of which a program outside of pytest has no use."""
    simclr = Contrastive(hidden=8, out=4)
    whole = TrainConfig(epochs=2, batch_size=36, learning_rate=0.01)
    twice = TrainConfig(epochs=2, batch_size=12, learning_rate=0.01)
    return Recipe(
        prepare=PrepareConfig(
            image_size=(32, 32),
            views=2,
            length=4,
            image_training=whole,
            text_training=whole,
            contrastive=simclr,
        ),
        parts=(
            FusionConfig(channels=8, length=4),
            BilevelConfig(epochs=2, batch_size=12, arch_learning_rate=0.1),
        ),
        contrastive=simclr,
        pretrain=twice,
        finetune=twice,
    )


def die_after(name: str) -> None:
    replace = os.replace

    def watched(source: Path, goal: Path) -> None:
        replace(source, goal)
        if goal.name == name:
            os.kill(os.getpid(), signal.SIGKILL)

    files.os.replace = watched  # type: ignore[assignment]


def fail_at_loss(number: int) -> None:
    loss, count = Contrastive.loss, 0

    def counted(*args: object) -> object:
        nonlocal count
        count += 1
        if count == number:
            raise InputError("this process alone cannot read its share.")
        return loss(*args)  # type: ignore[arg-type]

    Contrastive.loss = counted  # type: ignore[assignment]


if __name__ == "__main__":
    place = os.environ.get("LOCAL_RANK", "0")
    Path(os.environ["PIDS"], str(os.getpid())).touch()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    RECIPES["two-core"] = tiny_recipe()
    checkpoints.EVERY = 0.0
    if place == "0" and "DIE_AFTER" in os.environ:
        die_after(os.environ["DIE_AFTER"])
    if place == os.environ.get("FAIL_IN"):
        fail_at_loss(3)
    main()
