"""A whole run that is read by many tests and changed by none."""

from __future__ import annotations

import pytest
import torch

from ssnas_core.runs.recipes import RunConfig
from ssnas_core.runs.run import Run


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
