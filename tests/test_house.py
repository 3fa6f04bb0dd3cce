"""Imports point down, siblings stay apart, functions end, and nothing heavy is imported early."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
# Folders of interchangeable parts, and the modules that their parts share.
SIBLINGS = {
    "datasets": {"records", "splits", "open", "cells", "rows", "facts", "regions", "captions"},
    "search": {"context", "trials", "stable"},
    "objectives": {"base"},
}
# What is put together from its siblings, or chooses among them.
COMPOSED = {
    *("objectives/hybrid.py", "datasets/open.py", "datasets/download.py"),
    *("datasets/mmimdb_hdf5.py", "datasets/toy_avmnist.py"),  # the same data in another form
    "datasets/avmnist.py",  # of MNIST and FSDD
}
HEAVY = {
    *("torchvision", "sklearn", "transformers", "matplotlib", "PIL", "networkx", "IPython"),
    *("h5py", "huggingface_hub", "ipywidgets", "optuna", "timm"),
}
# The base of a class is imported with the module of its heir, so nothing imports that early.
LATE = {"models/classifier.py", "models/card.py"}


def _house() -> ModuleType:
    file = ROOT / "tests" / "benchmarks" / "house.py"
    spec = importlib.util.spec_from_file_location("house", file)
    assert spec is not None and spec.loader is not None
    module = sys.modules["house"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


house = _house()
GRAPH = house.imports(ROOT)


def test_imports_point_down_and_never_in_a_circle():
    assert len(GRAPH) > 50
    assert house.circles(house.imports(ROOT, types=True)) == []
    assert house.arrows_up(GRAPH) == []
    assert house.floorless(GRAPH) == []


def test_no_module_is_private_and_no_function_is_longer_than_100_lines():
    modules = house.modules(ROOT)
    assert [m.path for m in modules if "/_" in m.path and "/__" not in m.path] == []
    assert {m.path: m.longest() for m in modules if m.longest()[0] > 100} == {}


def siblings(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return the imports of an interchangeable part by another one."""
    return [
        (module, other)
        for module, imported in graph.items()
        for other in imported
        if module.count("/") == other.count("/") == 1 and module not in COMPOSED
        for folder in (module.split("/")[0],)
        if folder in SIBLINGS and other.startswith(f"{folder}/")
        if not other.endswith("__init__.py") and Path(other).stem not in SIBLINGS[folder]
        if Path(module).stem not in SIBLINGS[folder]
    ]


def test_interchangeable_parts_do_not_import_each_other():
    assert siblings(GRAPH) == []


FILES = {
    "common/errors.py": "class InputError(ValueError):\n    pass",
    "spaces/genotype.py": "from ssnas_core.common.errors import InputError",
    "objectives/base.py": "",
    "search/random.py": "from ssnas_core.spaces.genotype import Genotype",
    "search/bilevel.py": "",
}
BREACHES = {
    "up": ("common/errors.py", "def f():\n    from ssnas_core.search import random", "arrows_up"),
    "up, relative": ("spaces/genotype.py", "from ..search.bilevel import x", "arrows_up"),
    "siblings of a floor": (
        "objectives/base.py",
        "from ssnas_core.spaces.genotype import Genotype",
        "arrows_up",
    ),
    "a circle": ("common/errors.py", "import ssnas_core.search.random", "circles"),
    "siblings": (
        "search/random.py",
        "from ssnas_core.search.bilevel import bilevel",
        "siblings",
    ),
    "no floor": ("novel/part.py", "", "floorless"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_breach_is_found(breach, tmp_path):
    file, text, check = BREACHES[breach]

    def graph(files):
        for name, content in files.items():
            (tmp_path / "ssnas_core" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "ssnas_core" / name).write_text(content)
        return house.imports(tmp_path)

    checked = {"siblings": siblings}.get(check) or getattr(house, check)
    assert checked(graph(FILES)) == []
    assert checked(graph({file: text})) != []


def test_heavy_libraries_are_imported_where_they_are_used():
    at_top = set()
    for module in house.modules(ROOT):
        for node in ast.parse(module.text).body:
            names = [alias.name for alias in getattr(node, "names", ())]
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            at_top |= {module.path for name in names if name.split(".")[0] in HEAVY}
    assert at_top <= LATE


@pytest.mark.thorough
def test_importing_every_module_imports_nothing_heavy():
    late = {path for path in GRAPH if LATE & house._reached(GRAPH, path)} | LATE
    names = [house._dotted(path) for path in GRAPH if path not in late and "__main__" not in path]
    assert len(names) > 0.8 * len(GRAPH)
    program = f"""
import importlib, sys
import torch
before = set(sys.modules)
for name in {names!r}:
    importlib.import_module(name)
loaded = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(sorted(loaded & {HEAVY!r}))
"""
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_help_is_there_before_torch_is():
    program = "import sys; from ssnas_core.cli import main, commands; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr
