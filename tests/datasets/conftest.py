"""What tests of several readers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssnas_core.runs.recipes import RECIPES, RunConfig
from ssnas_core.runs.run import Run
from ssnas_core.search.random import RandomConfig
from ssnas_core.spaces.encdec.space import EncDecConfig
from ssnas_core.training.loop import TrainConfig


@pytest.fixture
def brief_run(tmp_path: Path) -> Callable[..., Run]:
    """Makes a run of encoder and decoder over four regions, of one trial and epoch, on a folder."""

    def made(folder: Path, **axes: Any) -> Run:
        short, recipe = TrainConfig(epochs=1, batch_size=4), RECIPES["scenes"]
        prepare = replace(recipe.prepare, length=4)
        config = RunConfig(
            data=folder,
            recipe=replace(recipe, prepare=prepare, pretrain=short, finetune=short),
            space=EncDecConfig(encoder=1, decoder=1, channels=8, head=8, boxes="regions_0"),
            strategy=RandomConfig(trials=1, train=short),
            label_ratio=(1.0,),
            **axes,
        )
        return Run(config, tmp_path / "run", device="cpu")

    return made
