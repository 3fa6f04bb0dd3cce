"""Imports point down, siblings stay apart, and nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "ssnas_core"

# From the bottom up. A part is a module or a folder of the package; inside a layer parts may
# import each other, but never in a circle.
LAYERS = (
    {"errors"},
    {
        "files",
        "_locks",
        "_checked",
        "_typed",
        "_shapes",
        "_processes",
        "_joined_norm",
        "_allocator",
    },
    {
        "genotype",
        "metrics",
        "significance",
        "modalities",
        "ops",
        "augment",
        "_mirrors",
        "downloads",
        "_contrastive",
        "_views",
    },
    {"datasets", "backbones"},
    {"sources"},
    {"features", "inputs", "spaces", "objectives"},
    {
        "training",
        "_checkpoints",
        "search",
        "_prepared_files",
        "_backbone_training",
        "preparation",
        "baselines",
    },
    {
        "_look",
        "_layout",
        "_drawing",
        "plots",
        "_study_rows",
        "_study_figures",
        "_study_dots",
        "logs",
    },
    {
        "runs",
        "recipes",
        "methods",
        "_cells",
        "_run_data",
        "_run_search",
        "studies",
        "_study_methods",
        "_study_jobs",
        "lessons",
    },
    {"_widget_figures", "_frames", "_study_widgets", "widgets"},
    {
        "_tables",
        "_reading",
        "_comparison",
        "_markdown",
        "_study_tests",
        "_study_report",
        "reports",
        "_study_costs",
        "label_study",
    },
    {"models", "cards", "_classifier", "_model_folder", "_model_inputs", "_model_spec"},
    {"cli", "__main__", "__init__"},
)
# Folders of interchangeable parts, and the base that the parts of each share. Modules whose
# name starts with an underscore are pieces of a part and may be imported by it.
SIBLINGS = {"datasets": {"records", "splits"}, "spaces": set(), "search": set()}
HEAVY = {
    *("torchvision", "sklearn", "transformers", "matplotlib", "PIL", "networkx", "IPython"),
    *("h5py", "pooch", "huggingface_hub", "ipywidgets", "optuna"),
}
# A base class is imported with the module of its heir. Nothing imports these before their use.
HEIRS = {("ssnas_core._classifier", "huggingface_hub")}
LATE = {"ssnas_core._classifier", "ssnas_core.models"}


@dataclass(frozen=True)
class Import:
    """One imported name: `target` in dots, e.g. `ssnas_core.files.read_json`."""

    source: str
    target: str
    at_top: bool  # runs when the module is imported
    for_types: bool  # under `if TYPE_CHECKING:`
    star: bool


def imports(name: str, text: str, is_package: bool = False) -> list[Import]:
    """All imports of module `name`, wherever they stand."""
    found: list[Import] = []

    def visit(node: ast.AST, at_top: bool, for_types: bool) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append(Import(name, alias.name, at_top, for_types, False))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".")[: None if is_package else -1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            for alias in node.names:
                star = alias.name == "*"
                target = base if star else f"{base}.{alias.name}"
                found.append(Import(name, target, at_top, for_types, star))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, False, True)
            for child in node.orelse:
                visit(child, at_top, for_types)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                visit(child, at_top and not inside, for_types)

    visit(ast.parse(text), True, False)
    return found


def problems(sources: dict[str, str]) -> list[str]:
    """What is wrong with a package, given as module name -> text; `x.__init__` for folders."""
    modules = {name.removesuffix(".__init__"): text for name, text in sources.items()}
    layer = {part: height for height, parts in enumerate(LAYERS) for part in parts}
    wrong: list[str] = []
    running = nx.DiGraph()  # between modules, of what runs

    def part(module: str) -> str:
        return module.split(".")[1] if "." in module else "__init__"

    def module_of(target: str) -> str:
        while target not in modules and "." in target:
            target = target.rpartition(".")[0]
        return target

    for name in modules:
        if part(name) not in layer:
            wrong.append(
                f"{name}: new part {part(name)!r} has no layer; give it one in "
                "LAYERS of tests/test_layers.py."
            )
    for source, text in sources.items():
        name = source.removesuffix(".__init__")
        for found in imports(name, text, is_package=source != name):
            if found.star:
                wrong.append(f"{name}: star import of {found.target}.")
            root = found.target.split(".")[0]
            if root in HEAVY and found.at_top and (name, root) not in HEIRS:
                wrong.append(f"{name}: imports {found.target} at the top; import it where used.")
            if found.target.split(".")[0] != PACKAGE:
                continue
            target = module_of(found.target)
            if not found.for_types and target != name:
                running.add_edge(name, target)
            if part(target) not in layer or part(name) not in layer:
                continue  # said already
            if layer[part(target)] > layer[part(name)]:
                wrong.append(f"{name}: imports {target} from a higher layer.")
            folder = part(name)
            if folder in SIBLINGS and part(target) == folder and not found.for_types:
                own, other = (m.split(".")[2:3] or [""] for m in (name, target))
                shared = other[0] in SIBLINGS[folder] or other[0].startswith("_")
                if own[0] and own != other and not shared:  # own is "" for the folder itself
                    wrong.append(f"{name}: imports its sibling {target}.")
    wrong += [f"circle of imports: {' -> '.join(c)}." for c in nx.simple_cycles(running)]
    return wrong


def package() -> dict[str, str]:
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    names = (path.relative_to(ROOT).with_suffix("").parts for path in files)
    return {".".join(name): path.read_text() for name, path in zip(names, files, strict=True)}


def test_package_keeps_its_layers():
    assert len(package()) > 10
    assert problems(package()) == []


BAD = {
    "a part without a layer": (
        {"ssnas_core.novel": ""},
        "new part 'novel' has no layer; give it one in LAYERS",
    ),
    "an import upwards": (
        {
            "ssnas_core.ops": "from ssnas_core.spaces.fusion import X",
            "ssnas_core.spaces.fusion": "",
        },
        "ssnas_core.ops: imports ssnas_core.spaces.fusion from a higher layer",
    ),
    "an import upwards inside a function": (
        {"ssnas_core.ops": "def f():\n    import ssnas_core.cli", "ssnas_core.cli": ""},
        "imports ssnas_core.cli from a higher layer",
    ),
    "an import upwards for types only": (
        {
            "ssnas_core.ops": "if TYPE_CHECKING:\n    from ssnas_core.cli import main",
            "ssnas_core.cli": "",
        },
        "imports ssnas_core.cli from a higher layer",
    ),
    "a relative import upwards": (
        {"ssnas_core.datasets.mmimdb": "from ..cli import main", "ssnas_core.cli": ""},
        "imports ssnas_core.cli from a higher layer",
    ),
    "an import of the whole package from inside": (
        {"ssnas_core.ops": "from ssnas_core import search", "ssnas_core.__init__": ""},
        "imports ssnas_core from a higher layer",
    ),
    "siblings": (
        {"ssnas_core.search.random": "from .bilevel import x", "ssnas_core.search.bilevel": ""},
        "ssnas_core.search.random: imports its sibling ssnas_core.search.bilevel",
    ),
    "siblings through their folder": (
        {
            "ssnas_core.datasets.sample": "from ssnas_core.datasets import GENRES",
            "ssnas_core.datasets.__init__": "",
        },
        "ssnas_core.datasets.sample: imports its sibling ssnas_core.datasets.",
    ),
    "siblings through a private module": (
        {
            "ssnas_core.spaces._shared": "def f():\n    from ssnas_core.spaces import layers",
            "ssnas_core.spaces.layers": "",
        },
        "ssnas_core.spaces._shared: imports its sibling ssnas_core.spaces.layers",
    ),
    "a circle inside a layer": (
        {
            "ssnas_core.genotype": "def f():\n    import ssnas_core.metrics",
            "ssnas_core.metrics": "from ssnas_core.genotype import Node",
        },
        "circle of imports",
    ),
    "a star import": (
        {"ssnas_core.ops": "from ssnas_core.errors import *", "ssnas_core.errors": ""},
        "star import of ssnas_core.errors",
    ),
    "a heavy import": (
        {"ssnas_core.cli": "import matplotlib.pyplot as plt"},
        "imports matplotlib.pyplot at the top",
    ),
    "a heavy import inside a class or a condition": (
        {"ssnas_core.cli": "try:\n    class A:\n        from PIL import Image\nfinally:\n    pass"},
        "imports PIL.Image at the top",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_breach_is_found(case):
    sources, message = BAD[case]
    found = problems(sources)
    assert len(found) == 1, found
    assert message in found[0]


def test_what_is_allowed_is_not_reported():
    text = """
from typing import TYPE_CHECKING
import numpy as np
from ssnas_core.datasets import _posters
from ssnas_core.datasets.records import Record
if TYPE_CHECKING:
    from matplotlib.figure import Figure
def draw():
    from PIL import Image
"""
    sources = {
        "ssnas_core.datasets.sample": text,
        "ssnas_core.datasets._posters": (
            "if TYPE_CHECKING:\n    from ssnas_core.datasets.sample import Story"
        ),
        "ssnas_core.datasets.records": "from ssnas_core.errors import InputError",
        "ssnas_core.datasets.__init__": "from ssnas_core.datasets.sample import generate_sample",
        "ssnas_core.errors": "",
    }
    assert problems(sources) == []


def test_importing_every_module_imports_nothing_heavy():
    names = [name.removesuffix(".__init__") for name in package() if "__main__" not in name]
    names = [name for name in names if name not in LATE]
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
