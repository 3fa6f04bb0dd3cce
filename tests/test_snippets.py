"""The Python of README and API page runs, block after block, as a reader would type it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

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
    for name in ("two-core", "classroom"):
        monkeypatch.setitem(RECIPES, name, tiny_recipe)
    for tiny in map(tiny_recipe.strategy, ("bilevel", "random")):  # where nothing else is said
        for name, value in vars(tiny).items():
            monkeypatch.setitem(type(tiny).__init__.__kwdefaults__, name, value)
    names: dict[str, Any] = {}
    run(ROOT / "README.md", names)
    assert len(blocks(ROOT / "README.md")) == 4
    assert names["space"].validate(names["result"].genotype) is None
    assert names["config"].strategy.trials == 20
    assert Path("models/demo/config.json").exists()


def test_api_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    run(ROOT / "book" / "api.md", names)
    assert len(names["prepared"].dataset) == len(names["extracted"]) == 60
    assert names["encoder"].width == 8 and names["labels"].shape == (60,)
