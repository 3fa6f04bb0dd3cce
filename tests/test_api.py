"""`from ssnas_core import ...`: every name is there, documented, and costs nothing before use."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ssnas_core

ROOT = Path(__file__).parents[1]
SLOW = (
    *("torch", "torchvision", "sklearn", "scipy", "transformers", "matplotlib", "PIL", "tqdm"),
    *("h5py", "huggingface_hub", "optuna"),
)


def table() -> dict[str, str]:
    """Name -> module of the stub, the one table of public names."""
    tree = ast.parse(Path(ssnas_core.__file__).with_suffix(".pyi").read_text())
    lines = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    for line in lines:
        (alias,) = line.names
        assert alias.asname == alias.name  # `as` itself: a type checker's sign of a re-export
    return {line.names[0].name: f"ssnas_core.{line.module}" for line in lines}


@pytest.mark.parametrize("name", ssnas_core.__all__)
def test_public_name_is_there_and_documented(name):
    value = getattr(ssnas_core, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        assert value.__doc__ and not value.__doc__.startswith(f"{name}("), name  # not a made one
        assert value.__module__.startswith("ssnas_core.")


def test_names_are_those_of_the_table_and_no_other_is_made_up():
    assert set(ssnas_core.__all__) == set(table())
    assert len(set(ssnas_core.__all__)) == len(ssnas_core.__all__) > 70
    with pytest.raises(AttributeError, match="No ssnas_core attribute nonsense"):
        ssnas_core.nonsense  # noqa: B018
    for name, module in table().items():
        assert getattr(ssnas_core, name) is getattr(importlib.import_module(module), name)


def test_version_is_the_projects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ssnas_core.__version__ == project["version"]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_importing_the_package_or_asking_for_help_imports_nothing_slow():
    program = f"""
import json, sys
def slow():
    return sorted(set(sys.modules) & set({SLOW!r}))
import ssnas_core
found = [slow()]
from ssnas_core.cli.main import main
for arguments in (["--help"], ["show", "--help"], ["show", "--sed", "1"]):
    try:
        main(arguments)
    except SystemExit:
        found.append(slow())
print(json.dumps(found), file=sys.stderr)
"""
    told = run(program)
    assert json.loads(told.stderr.splitlines()[-1]) == [[], [], [], []], told.stderr


def test_names_of_the_readme_are_public():
    used = re.findall(r"from ssnas_core import ([\w, ]+)", (ROOT / "README.md").read_text())
    names = {name.strip() for line in used for name in line.split(",")}
    assert names <= set(ssnas_core.__all__)


# --- the public surface: no underscore anywhere in a dotted name


def public_modules() -> list[str]:
    root = Path(ssnas_core.__file__).parent
    names = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            names.append(".".join(("ssnas_core", *parts)))
    return names


def own(owner: object, module: str) -> dict[str, object]:
    """Public functions and classes that are defined in a module, or methods in a class."""
    return {
        name: value
        for name, value in vars(owner).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module
    }


@pytest.mark.parametrize("module", public_modules())
def test_public_functions_and_classes_are_typed_and_documented(module):
    wrong = []
    for name, value in own(importlib.import_module(module), module).items():
        parts = {name: value}
        if inspect.isclass(value):
            parts |= {f"{name}.{key}": method for key, method in own(value, module).items()}
        for label, part in parts.items():
            if not inspect.getdoc(part):
                wrong.append(f"{label} has no docstring")
            if inspect.isfunction(part):
                signature = inspect.signature(part)
                bare = [
                    parameter.name
                    for parameter in signature.parameters.values()
                    if parameter.annotation is parameter.empty
                    and parameter.name not in ("self", "cls", "_")
                ]
                if bare or signature.return_annotation is signature.empty:
                    wrong.append(f"{label} lacks types of {bare or 'what it returns'}")
    assert wrong == []


def test_names_that_only_their_module_uses_are_underscored():
    root = Path(ssnas_core.__file__).parent
    pages = [*ROOT.glob("book/*.md"), *ROOT.glob("book/*.ipynb"), *ROOT.glob("tests/**/*.py")]
    pages += [*root.rglob("*.py"), ROOT / "README.md"]
    words = {path: set(re.findall(r"\w+", path.read_text())) for path in pages}
    lonely = []
    for module in public_modules():
        file = Path(importlib.import_module(module).__file__ or "")
        for name in own(importlib.import_module(module), module):
            if not any(name in used for path, used in words.items() if path != file):
                lonely.append(f"{module}.{name}")
    assert lonely == []
