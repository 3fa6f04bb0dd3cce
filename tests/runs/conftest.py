"""A whole run that is read by many tests and changed by none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssnas_core.features.prepare import prepare
from ssnas_core.runs.recipes import Recipe, RunConfig
from ssnas_core.runs.run import Run


@pytest.fixture(scope="session")
def tiny_recipe(tiny_recipe) -> Recipe:
    """With smaller images: many a run here prepares or trains its backbones."""
    small = replace(tiny_recipe.prepare, image_size=(32, 32))
    return replace(tiny_recipe, prepare=small)


@pytest.fixture(scope="session")
def tiny_store(tiny_data, tiny_recipe, tmp_path_factory) -> Path:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    store = tmp_path_factory.mktemp("store")
    prepare(tiny_data, store, tiny_recipe.prepare)
    torch.set_num_threads(threads)
    return store


@pytest.fixture(scope="session")
def finished(tiny_data, tiny_store, tiny_recipe, tmp_path_factory) -> Run:
    """A run of all methods at two label ratios that nothing interrupted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = RunConfig(data=tiny_data, label_ratio=(0.25, 1.0), recipe=tiny_recipe)
    run = Run(config, tmp_path_factory.mktemp("runs") / "run", store=tiny_store, device="cpu")
    run.run()
    torch.set_num_threads(threads)
    return run
