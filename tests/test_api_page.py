"""The book's reference pages hold what they promise: every public name, deviation and source."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

import ssnas_core

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
PAGE = (BOOK / "api.md").read_text()
DOCUMENTED = re.findall(r"^\.\. auto(?:function|class|exception|data):: (\S+)", PAGE, re.M)
TEXTS = [*BOOK.glob("*.md"), *BOOK.glob("*.ipynb")]


def resolved(name: str) -> object:
    """What a name of the page leads to, as autodoc finds it."""
    path = name if name.startswith("ssnas_core.") else f"ssnas_core.{name}"
    module, _, attribute = path.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def text_of(path: Path) -> str:
    """A page's prose and code; of a notebook, without its outputs."""
    if path.suffix == ".md":
        return path.read_text()
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)


def test_every_public_name_is_on_the_page_once():
    assert len(DOCUMENTED) == len(set(DOCUMENTED))
    shown = [resolved(name) for name in DOCUMENTED]
    for name in set(ssnas_core.__all__) - {"__version__"}:
        value = getattr(ssnas_core, name)
        assert sum(value is other for other in shown) == 1, f"{name}: add it to book/api.md"


def test_names_that_can_be_imported_from_the_package_are_shown_so():
    public = set(ssnas_core.__all__)
    public |= {"ssnas_core.runs.recipes.RECIPES", "ssnas_core.study.methods.STUDY_METHODS"}
    public |= {"ssnas_core.show.frames.frames"}
    before = PAGE.split("## Parts of your own")[0]
    for name in re.findall(r"^\.\. auto(?:function|class|exception|data):: (\S+)", before, re.M):
        assert name in public, f"{name} is not public"


def test_tables_of_names_list_what_follows_them():
    for block in re.findall(r"\.\. autosummary::\n(.*?)```", PAGE, re.S):
        listed = re.findall(r"^   ~?([\w.]+)$", block, re.M)
        follow = re.findall(r"^\.\. auto(?:function|class|exception|data):: (\S+)", block, re.M)
        assert listed == [name.removeprefix("ssnas_core.") for name in follow]


def test_widgets_of_the_page_are_those_of_the_module():
    for name in ("ssnas_core.show.widgets", "ssnas_core.study.widgets"):
        module = importlib.import_module(name)
        (line,) = re.findall(rf"automodule:: {name}\n   :members: (.*)", PAGE)
        made = {one for one in vars(module) if one.endswith(("_widget", "_editor"))}
        assert set(line.split(", ")) == made


def test_every_module_that_names_a_deviation_is_on_the_decisions_page():
    page = (BOOK / "decisions.md").read_text()
    told = [
        path
        for path in (ROOT / "ssnas_core").rglob("*.py")
        if re.search(r"\bdeviations?\b", ast.get_docstring(ast.parse(path.read_text())) or "", re.I)
    ]
    assert len(told) > 4
    for path in told:
        assert f"`{path.relative_to(ROOT)}`" in page or f"`{path.name}`" in page, path


def test_citations_are_in_the_bibliography():
    entries = set(re.findall(r"^@\w+\{(\w+),", (BOOK / "references.bib").read_text(), re.M))
    for path in TEXTS:
        for group in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text_of(path)):
            assert {key.strip() for key in group.split(",")} <= entries, (path.name, group)


def test_papers_of_the_code_are_in_the_bibliography():
    bibliography = (BOOK / "references.bib").read_text()
    for path in (ROOT / "ssnas_core").rglob("*.py"):
        for number in re.findall(r"arXiv:? ?(\d{4}\.\d{5})", path.read_text()):
            assert f"arXiv:{number}" in bibliography, (path.name, number)


def terms() -> list[str]:
    """Terms of the glossary, synonyms included, in lower case."""
    blocks = re.findall(r"```\{glossary\}\n(.*?)```", (BOOK / "glossary.md").read_text(), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.lower() for line in lines if line and not line.startswith(" ")]


def test_terms_are_explained_once_and_those_that_pages_link_to_exist():
    known = terms()
    assert len(known) == len(set(known)) > 80
    for path in TEXTS:
        for named in re.findall(r"\{term\}`([^`]+)`", text_of(path)):
            target = re.search(r"<([^>]+)>", named)
            wanted = " ".join((target[1] if target else named).split()).lower()
            assert wanted in known, (path.name, named)


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks", BOOK / "_tools" / "notebooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_costs_are_a_table_with_a_line_for_each_chapter_and_their_sum(tmp_path: Path):
    costs = []
    for name, seconds, peak in (("one", 3.4, 500), ("two", 8.2, 400)):
        notebook = new_notebook(cells=[new_markdown_cell(f"# Chapter {name}\n\ntext")])
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
        costs.append((tmp_path / f"{name}.ipynb", seconds, peak))
    tool().write_costs(costs, tmp_path / "cost.md")
    head, _, one, two, total, *_ = (tmp_path / "cost.md").read_text().splitlines()
    assert head == "| chapter | seconds | peak memory, MB | size, kB |"
    assert one.startswith("| [Chapter one](one.ipynb) | 3 | 500 | ")
    assert two.startswith("| [Chapter two](two.ipynb) | 8 | 400 | ")
    assert total == "| all, one after the other | 12 | 500 | |"


def test_all_notebooks_are_refreshed_in_the_order_of_the_book():
    order = [path.stem for path in tool().in_order()]
    assert order[0] == "intro"
    assert set(order) == {path.stem for path in BOOK.glob("*.ipynb")}


def test_costs_of_some_chapters_only_are_refused(capsys):
    with pytest.raises(SystemExit):
        tool().main(["refresh", "--table", "book/intro.ipynb"])
    assert "all notebooks" in capsys.readouterr().err


def test_teachers_page_shows_the_costs():
    page = (BOOK / "teaching.md").read_text()
    assert "```{include} tables/cost.md" in page
    assert (BOOK / "tables" / "cost.md").read_text().startswith("| chapter | seconds |")
