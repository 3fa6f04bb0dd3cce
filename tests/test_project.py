"""The project's files agree with each other: README, Makefile, environments, citation, CI."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    *PROJECT["dependencies"],
    *(line for lines in PROJECT["optional-dependencies"].values() for line in lines),
]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def commands(text: str) -> list[str]:
    """The `make` targets that a text tells to run, in order."""
    return re.findall(r"(?:^\s*|`)make ([a-z]+)", text, flags=re.MULTILINE)


def tracked() -> list[Path]:
    """Files under version control, or to be; the files of an unpacked archive otherwise."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in result.stdout.splitlines() if (ROOT / line).is_file()]


def test_the_two_commands_of_the_readme_are_make_targets_that_ci_runs():
    readme = commands((ROOT / "README.md").read_text())
    assert {"book", "test"} <= set(readme)
    assert set(readme) <= make_targets()
    assert commands((ROOT / ".ci" / "run").read_text()) == [
        "wheel", "check", "test", "book", "browser",
    ]  # fmt: skip


def test_scores_in_the_readme_are_lines_of_the_committed_tables():
    tables = ROOT / "book" / "tables"
    names = ("study_avmnist", "study_mmimdb_subset", "study_published", "study_easy_vqa", "tfidf")
    known = [(tables / f"{name}.md").read_text() for name in names]
    readme = (ROOT / "README.md").read_text()
    scores = re.findall(r"^\| .*\d\.\d{3} \[.*$", readme, flags=re.MULTILINE)
    assert len(scores) == 23
    assert set(scores) <= {line for text in known for line in text.splitlines()}


def test_ci_is_executable_and_stops_at_the_first_failure():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "set -euo pipefail" in (ROOT / ".ci" / "run").read_text()


def test_make_alone_lists_every_target():
    result = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r"^make ([a-z]+)", result.stdout, flags=re.MULTILINE)) == make_targets()


def test_every_notebook_is_in_the_book_and_the_other_way_round():
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    parts = toc.get("parts", [{"chapters": toc.get("chapters", [])}])
    listed = [toc["root"], *(entry["file"] for part in parts for entry in part["chapters"])]
    notebooks = [path for path in tracked() if path.suffix == ".ipynb"]
    assert {path.stem for path in notebooks} <= set(listed)
    for name in listed:
        assert any((ROOT / "book" / f"{name}{ending}").exists() for ending in (".ipynb", ".md"))


def test_conda_environment_installs_what_pyproject_names():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, through_pip = environment["dependencies"]
    assert environment["name"] == PROJECT["name"]
    assert python == f"python{PROJECT['requires-python']}"
    assert pip == "pip"
    (editable,) = through_pip["pip"]
    extras = re.fullmatch(r"-e \.\[(.*)\]", editable)
    assert extras is not None
    assert set(extras[1].split(",")) == {"book", "dev"} <= set(PROJECT["optional-dependencies"])
    assert f"'.[{extras[1]}]'" in (ROOT / "Makefile").read_text()


def test_requirements_have_lower_bounds_only():
    name = r"[A-Za-z0-9_.-]+(\[[a-z]+\])?"
    for requirement in REQUIREMENTS:
        # the two that have to stay below a version
        if not requirement.startswith(("jupyter-book", "optuna", "ssnas[")):
            assert re.fullmatch(rf"{name}>=[0-9.]+", requirement), requirement
    assert "jupyter-book>=1.0.4.post1,<2" in REQUIREMENTS


def test_public_workflow_runs_make_targets_on_every_python_and_keeps_the_book():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    assert set(re.findall(r"run: make ([a-z]+)", text)) == {"check", "test", "book"}
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert jobs["book"]["steps"][-1]["with"]["path"] == "book/_build/html"


def test_files_that_contributing_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text().replace("`own/", "`tests/extending/own/")
    named = re.findall(r"`((?:tests|ssnas_core|book)/[\w/.]+)`?", text)
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert set(commands(text)) <= make_targets()


def test_citation_changelog_and_package_have_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_nothing_says_where_packages_come_from_or_locks_them():
    locks = {"poetry.lock", "uv.lock", "Pipfile.lock", "pdm.lock", "conda-lock.yml", "pip.conf"}
    assert locks.isdisjoint(path.name for path in tracked())
    for name in ("pyproject.toml", "environment.yml", "Makefile", ".ci/run", "README.md"):
        text = (ROOT / name).read_text()
        assert not re.search(r"index-url|find-links|trusted-host", text), name
        if name != "README.md":
            assert "://" not in text, name


def test_the_opening_sentence_of_the_licence_is_the_one_named():
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    assert PROJECT["license"] == "MIT"
