"""The Python of README and API page runs, block after block, as a reader would type it."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ssnas_core
from ssnas_core.runs.recipes import RECIPES

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("one_thread")


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.S | re.M)


def run(path: Path, names: dict[str, Any]) -> None:
    for number, block in enumerate(blocks(path)):
        exec(compile(block, f"{path.name}, block {number}", "exec"), names)


def test_readme(tiny_data, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ssnas_core, "sample_archive", lambda: tiny_data, raising=False)
    monkeypatch.setitem(RECIPES, "two-core", tiny_recipe)
    names: dict[str, Any] = {}
    run(ROOT / "README.md", names)
    assert len(blocks(ROOT / "README.md")) == 4
    assert names["space"].validate(names["result"].genotype) is None
    assert names["config"].strategy.trials == 20
    assert Path("models/demo/config.json").exists()


def test_api_page_and_the_examples_of_docstrings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    run(ROOT / "book" / "api.md", names)
    assert len(names["prepared"].dataset) == len(names["extracted"]) == 60
    assert names["space"].width == 4
    given = {name: names[name] for name in ("encoder", "source", "labels")}
    given |= {"torch": torch, "nn": nn}
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    found = []
    for name in set(ssnas_core.__all__) - {"__version__"}:
        value = getattr(ssnas_core, name)
        if ">>>" not in (value.__doc__ or ""):
            continue
        module = importlib.import_module(value.__module__)
        for example in finder.find(value, name, module, globs={**vars(module), **given}):
            found.append(name)
            runner.run(example)
    assert {"Contrastive", "Supervised", "Hybrid"} <= set(found)
    assert runner.summarize(verbose=False).failed == 0
