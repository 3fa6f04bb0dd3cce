"""The book's notebooks keep the rules that make them readable, checkable and usable offline.

For those who write a chapter. The alt text of a figure is metadata of its cell:
`{"mystnb": {"image": {"alt": "..."}}}`. An exercise without code is one Markdown cell,

    ```{exercise} Title
    :label: temperature-one
    Question
    ```
    ```{solution} temperature-one
    :label: temperature-one-solution
    :class: dropdown
    Answer
    ```

and one with code goes over several cells: a Markdown cell that begins with
`{exercise-start}` (title and label as above), cells of any kind, a Markdown cell with
`{exercise-end}` alone; then likewise `{solution-start} temperature-one` with its label and
`:class: dropdown`, code that is executed, and `{solution-end}` alone.
"""

from __future__ import annotations

import copy
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

BOOK = Path(__file__).parents[1] / "book"
TOC = yaml.safe_load((BOOK / "_toc.yml").read_text())
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
REFERENCE = {
    entry["file"]
    for part in TOC.get("parts", [])
    if part["caption"] == "Reference"
    for entry in part["chapters"]
}
CHAPTERS = [path for path in NOTEBOOKS if path.stem not in {TOC["root"], *REFERENCE}]
DIRECTIVE = re.compile(
    r"^(?:`{3,}|:{3,})\{(exercise|solution)(-start)?\}(.*)\n((?::[a-z]+:.*\n?)*)", re.MULTILINE
)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BOOK / "_tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


notebooks, vendor = load("notebooks"), load("vendor")


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def markdown(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def problems(notebook: nbformat.NotebookNode, folder: Path) -> list[str]:
    """What makes a notebook hard to read, wherever it stands in the book."""
    wrong: list[str] = []
    titles = re.findall(r"^# ", re.sub(r"```.*?```", "", markdown(notebook), flags=re.S), re.M)
    if len(titles) != 1 or not notebook.cells[0].source.startswith("# "):
        wrong.append("one title, in the first cell")
    if "widgets" in notebook.metadata:
        wrong.append("widget state; make refresh")
    for cell in notebook.cells:
        name = cell.source.strip().splitlines()[0][:50] if cell.source.strip() else cell.id
        if cell.cell_type == "markdown":
            prose = re.sub(r"^(`{3,}).*?^\1", "", cell.source, flags=re.S | re.M)
            for bang, text, target in re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", prose):
                if bang and not text.strip():
                    wrong.append(f"{name}: picture {target} without alt text")
                if "://" not in target and not target.startswith(("#", "mailto:")):
                    page = folder / target.split("#")[0]
                    if not any(p.is_file() for p in (page, page.with_suffix(".ipynb"))):
                        wrong.append(f"{name}: no file {target}")
            continue
        lines = cell.source.splitlines()
        if len(lines) > 12 or max(map(len, lines), default=0) > 80:
            wrong.append(f"{name}: a cell of at most 12 lines of 80 columns")
        if "execution" in cell.metadata:
            wrong.append(f"{name}: times of execution; make refresh")
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        for output in cell.outputs:
            if output.output_type == "error":
                wrong.append(f"{name}: an error")
            if "image/png" in output.get("data", {}) and not alt.strip():
                wrong.append(f"{name}: a figure without alt text")
    return wrong


def exercises(notebook: nbformat.NotebookNode) -> tuple[list[str], list[str], list[str]]:
    """Labels of exercises, labels that solutions name, and what is wrong with either."""
    found: dict[str, list[str]] = {"exercise": [], "solution": []}
    wrong = []
    for kind, gate, argument, options in DIRECTIVE.findall(markdown(notebook)):
        label = re.search(r"^:label: (\S+)", options, re.M)
        found[kind].append(argument.strip() if kind == "solution" else label[1] if label else "")
        if label is None:
            wrong.append(f"{kind}{gate} {argument.strip()}: no label")
        if kind == "solution" and ":class: dropdown" not in options:
            wrong.append(f"solution of {argument.strip()} is not hidden; :class: dropdown")
    return found["exercise"], found["solution"], wrong


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_rules(path: Path):
    assert problems(read(path), BOOK) == []
    assert path.stat().st_size < 800_000, "make refresh; fewer or smaller figures"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_ends_with_a_summary_and_exercises_with_hidden_solutions(path: Path):
    notebook = read(path)
    headings = re.findall(r"^## (.*)$", markdown(notebook), re.M)
    assert {"Summary", "Exercises"} <= set(headings)
    asked, solved, wrong = exercises(notebook)
    assert wrong == []
    assert 3 <= len(asked) <= 5
    assert sorted(asked) == sorted(solved)
    assert len(set(asked)) == len(asked)


def test_labels_of_exercises_are_unique_in_the_book():
    labels = [label for path in NOTEBOOKS for label in exercises(read(path))[0]]
    assert len(set(labels)) == len(labels)


def lesson() -> nbformat.NotebookNode:
    """A small chapter with one exercise of each kind."""
    output = new_output("execute_result", data={"image/png": "aGVsbG8="}, execution_count=1)
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell("figure()", outputs=[output], execution_count=1,
                      metadata={"mystnb": {"image": {"alt": "A figure."}}}),
        new_markdown_cell(
            "Before.\n\n```{exercise} Easy\n:label: easy\nWhy?\n```\n\n"
            "````{solution} easy\n:label: easy-solution\n:class: dropdown\n"
            "Secret one.\n```python\nsecret()\n```\n````\n\nAfter."
        ),
        new_markdown_cell("```{exercise-start} Hard\n:label: hard\n```\n\nCompute."),
        new_code_cell("start = ..."),
        new_markdown_cell("```{exercise-end}\n```"),
        new_markdown_cell(
            "```{solution-start} hard\n:label: hard-solution\n:class: dropdown\n```"
        ),
        new_code_cell("secret()"),
        new_markdown_cell("Secret words."),
        new_markdown_cell("```{solution-end}\n```"),
        new_markdown_cell("## Summary"),
    ]  # fmt: skip
    return new_notebook(cells=cells, metadata={"widgets": {"state": {}}})


def test_student_copies_have_the_exercises_and_no_solution_or_output():
    before = lesson()
    kept = copy.deepcopy(before)
    after = notebooks.for_students(before)
    assert before == kept
    nbformat.validate(after)
    sources = [cell.source for cell in after.cells]
    assert not any("ecret" in source or "{solution" in source for source in sources)
    assert sources == [
        "# Title",
        "figure()",
        "Before.\n\n```{exercise} Easy\n:label: easy\nWhy?\n```\n\n\nAfter.",
        "```{exercise-start} Hard\n:label: hard\n```\n\nCompute.",
        "start = ...",
        "```{exercise-end}\n```",
        "# your answer",
        "## Summary",
    ]
    assert all(not cell.get("outputs") for cell in after.cells)
    assert "widgets" not in after.metadata


def test_solutions_that_do_not_end_are_not_cut_silently():
    for words in (["start"], ["end"], ["start", "start", "end"]):
        cells = [new_markdown_cell(f"```{{solution-{word}}} x\n```") for word in words]
        with pytest.raises(ValueError, match="solution"):
            notebooks.for_students(new_notebook(cells=cells))


def test_student_copies_of_the_whole_book_by_one_command(tmp_path: Path):
    command = [sys.executable, str(BOOK / "_tools" / "notebooks.py"), "students", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    assert {path.name for path in tmp_path.glob("*.ipynb")} == {path.name for path in NOTEBOOKS}
    for path in tmp_path.glob("*.ipynb"):
        made, own = read(path), read(BOOK / path.name)
        assert exercises(made)[0] == exercises(own)[0]
        assert exercises(made)[1] == []
        assert all(not cell.outputs for cell in made.cells if cell.cell_type == "code")


def test_executed_notebooks_are_where_the_site_looks_and_an_error_is_told(tmp_path, capsys):
    jupyter_cache = pytest.importorskip("jupyter_cache")  # of the extra book
    good, bad = tmp_path / "good.ipynb", tmp_path / "bad.ipynb"
    for path, source in ((good, "print(6 * 7)"), (bad, "1 / 0")):
        nbformat.write(new_notebook(cells=[new_code_cell(source)]), path)
    assert not notebooks.execute([good, bad], tmp_path / "cache")
    told = capsys.readouterr().out
    assert re.search(r"^good\.ipynb +\d+ s$", told, re.M) and "ZeroDivisionError" in told
    cache = jupyter_cache.get_cache(tmp_path / "cache")
    found = cache.merge_match_into_notebook(read(good))[1]
    assert found.cells[0].outputs[0].text == "42\n"


def test_refresh_executes_in_the_notebooks_folder_and_keeps_small_outputs(tmp_path: Path):
    (tmp_path / "beside.txt").write_text("found")
    cells = [
        new_code_cell("print(open('beside.txt').read())", metadata={"execution": {"a": "b"}}),
        new_code_cell("from ipywidgets import IntSlider\nIntSlider()"),
        new_code_cell(
            "from ssnas_core.show.style import new_figure\nfigure = new_figure(2, 1)\n"
            "figure.add_subplot().plot([1, 2])\nfigure"
        ),
    ]
    path = tmp_path / "one.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    seconds, peak = notebooks.refresh(path)
    assert seconds > 0
    assert peak > 20  # MB
    first, widget, figure = read(path).cells
    assert first.outputs[0].text == "found\n"
    assert not first.metadata
    assert set(widget.outputs[0].data) == {"text/plain"}
    assert len(figure.outputs[0].data["image/png"]) < 8_000
    assert "widgets" not in read(path).metadata


def test_rules_find_what_breaks_them(tmp_path: Path):
    assert problems(lesson(), tmp_path) == ["widget state; make refresh"]
    (tmp_path / "known.ipynb").touch()
    output = new_output("execute_result", data={"image/png": ""})
    cells = [
        new_markdown_cell("## No title"),
        new_markdown_cell("[x](known) [y](unknown.md) ![](known.ipynb)"),
        new_code_cell("x = 1\n" * 13),
        new_code_cell("#" * 81, metadata={"execution": {}}),
        new_code_cell("figure", outputs=[output, new_output("error")]),
    ]
    assert problems(new_notebook(cells=cells), tmp_path) == [
        "one title, in the first cell",
        "[x](known) [y](unknown.md) ![](known.ipynb): no file unknown.md",
        "[x](known) [y](unknown.md) ![](known.ipynb): picture known.ipynb without alt text",
        "x = 1: a cell of at most 12 lines of 80 columns",
        f"{'#' * 50}: a cell of at most 12 lines of 80 columns",
        f"{'#' * 50}: times of execution; make refresh",
        "figure: a figure without alt text",
        "figure: an error",
    ]
    bare = "```{exercise} A\n```\n```{solution} a\n:label: b\n```"
    assert exercises(new_notebook(cells=[new_markdown_cell(bare)])) == (
        [""], ["a"], ["exercise A: no label", "solution of a is not hidden; :class: dropdown"],
    )  # fmt: skip


def site(folder: Path, url: str = "") -> SimpleNamespace:
    """The Sphinx configuration after the book's extension has seen it."""
    config = SimpleNamespace(
        html_static_path=["_static"], html_context={}, html_theme_options={"repository_url": url}
    )
    load("ssnas_site").configure(SimpleNamespace(srcdir=str(folder)), config)
    return config


def test_pages_load_local_scripts_where_they_were_fetched(tmp_path: Path):
    assert site(tmp_path).html_static_path == ["_static"]
    assert not hasattr(site(tmp_path), "mathjax_path")  # the public server's, by default
    (tmp_path / "_vendor").mkdir()
    (tmp_path / "_vendor" / "packages.txt").touch()
    config = site(tmp_path)
    assert config.html_static_path == ["_static", str(tmp_path / "_vendor")]
    assert config.nb_ipywidgets_js == {"widgets/embed.js": {}}
    assert config.mathjax_path == "mathjax/tex-chtml.js"


def test_launch_buttons_wait_for_the_repositorys_address(tmp_path, monkeypatch):
    monkeypatch.delenv("SSNAS_REPOSITORY", raising=False)
    without = site(tmp_path).html_theme_options
    assert without["use_repository_button"] is False
    assert "launch_buttons" not in without
    in_config = site(tmp_path, "https://example.org/a/b").html_theme_options
    assert in_config["launch_buttons"].keys() == {"colab_url", "binderhub_url"}
    monkeypatch.setenv("SSNAS_REPOSITORY", "https://example.org/c/d")
    given = site(tmp_path, "https://example.org/a/b").html_theme_options
    assert given["repository_url"] == "https://example.org/c/d"
    assert given["use_repository_button"] is True


def test_without_npm_the_book_still_builds(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vendor, "FOLDER", tmp_path / "_vendor")
    monkeypatch.setattr(vendor, "npm", lambda: None)
    assert vendor.main() == 0
    assert "from a public server" in capsys.readouterr().out
    monkeypatch.setattr(vendor, "npm", lambda: [sys.executable, "-c", "raise SystemExit('down')"])
    assert vendor.main() == 0
    captured = capsys.readouterr()
    assert "npm failed" in captured.out and "down" in captured.err
    assert not (tmp_path / "_vendor").exists()


NPM = """
import io, sys, tarfile
*_, package = sys.argv
if package.startswith(sys.argv[1]):
    with tarfile.open("package.tgz", "w:gz") as archive:
        for name in ("dist/embed.js", "dist/embed.js.map", "es5/tex-chtml.js", "es5/ui/a/b.js"):
            archive.addfile(tarfile.TarInfo(f"package/{name}"), io.BytesIO())
else:
    sys.exit("not today")
"""


def test_fetched_scripts_are_all_there_or_not_at_all(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "_vendor"
    monkeypatch.setattr(vendor, "FOLDER", folder)
    monkeypatch.setattr(vendor, "npm", lambda: [sys.executable, "-c", NPM, "@jupyter"])
    assert vendor.main() == 0  # the second package fails
    assert "not today" in capsys.readouterr().err
    assert not folder.exists()
    monkeypatch.setattr(vendor, "npm", lambda: [sys.executable, "-c", NPM, ""])
    assert vendor.main() == 0
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "packages.txt", "widgets/embed.js", "mathjax/tex-chtml.js", "mathjax/ui/a/b.js",
    }  # fmt: skip
    monkeypatch.setattr(vendor, "npm", lambda: pytest.fail("asked again"))
    assert vendor.main() == 0


def test_every_page_loads_only_the_books_own_small_scripts():
    """Jupyter Book loads every script below _static on every page."""
    names = {path.name for path in (BOOK / "_static").rglob("*") if path.is_file()}
    assert names == {"book.css", "book.js"}
