"""What is done with the notebooks besides reading them.

python book/_tools/notebooks.py execute                  all, one on each core, for the site
python book/_tools/notebooks.py refresh [NOTEBOOK ...]   execute in place, keep small outputs
python book/_tools/notebooks.py refresh --table          all, and write what each costs
python book/_tools/notebooks.py students FOLDER          copies without solutions and outputs
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from pathlib import Path

import nbformat
from nbformat import NotebookNode

BOOK = Path(__file__).parents[1]
EXECUTED = BOOK / "_build" / ".jupyter_cache"  # where Jupyter Book looks for executed notebooks
_PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
_SOLUTION = re.compile(r"^(?P<fence>`{3,}|:{3,})\{solution\}.*?^(?P=fence)[ \t]*$\n?", re.M | re.S)


def for_students(notebook: NotebookNode) -> NotebookNode:
    """A copy without solutions and outputs; each solution's place is an empty cell.

    Solutions are what stands between `{solution-start}` and `{solution-end}`, and
    every `{solution}` directive (docs of sphinx-exercise).

    Raises:
        ValueError: a solution begins or ends twice, or never ends.
    """
    cells, inside = [], False
    for cell in notebook.cells:
        source = cell.source
        starts, ends = (
            cell.cell_type == "markdown" and f"{{solution-{word}}}" in source
            for word in ("start", "end")
        )
        if starts == inside and (starts or ends):
            raise ValueError(f"solutions must not nest, and end once: {source[:60]!r}")
        if starts:
            inside = True
            cells.append(nbformat.v4.new_code_cell("# your answer", id=cell.id))
        elif ends:
            inside = False
        elif not inside:
            copy = NotebookNode(cell)
            if cell.cell_type == "markdown":
                copy.source = _SOLUTION.sub("", source).strip()
            else:
                copy |= {"outputs": [], "execution_count": None}
            if copy.source or cell.cell_type == "code":
                cells.append(copy)
    if inside:
        raise ValueError("a {solution-start} has no {solution-end}.")
    metadata = {key: value for key, value in notebook.metadata.items() if key != "widgets"}
    return NotebookNode(notebook | {"cells": cells, "metadata": NotebookNode(metadata)})


def write_students(folder: Path) -> None:
    """The whole book for students, with what its notebooks read beside them."""
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(BOOK.glob("*.ipynb")):
        nbformat.write(for_students(nbformat.read(path, as_version=4)), folder / path.name)
    for name in ("images", "tables"):
        if (BOOK / name).is_dir():
            shutil.copytree(BOOK / name, folder / name, dirs_exist_ok=True)


def execute(paths: list[Path], into: Path = EXECUTED) -> bool:
    """Execute notebooks beside each other, anew, into the cache that the site is built from.

    Prints seconds, or the error, of each; returns whether all ended well.
    """
    import logging
    import shutil

    from jupyter_cache import get_cache
    from jupyter_cache.executors import load_executor

    shutil.rmtree(into, ignore_errors=True)
    cache = get_cache(into)
    for path in paths:
        cache.add_nb_to_project(str(path))
    load_executor("local-parallel", cache, logging.getLogger()).run_and_cache(timeout=300)
    good = True
    for path in paths:
        done = cache.get_cached_project_nb(str(path))
        if done is not None:
            print(f"{path.name:<32} {done.data['execution_seconds']:5.0f} s")
        else:
            print(f"{path.name}:\n{cache.get_project_record(str(path)).traceback}")
            good = False
    return good


def refresh(path: Path) -> tuple[float, int]:
    """Execute `path` in place, from its own folder.

    Returns:
        Seconds, and the kernel's peak memory in MB.
    """
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(_PEAK))
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", store_widget_state=False,
        record_timing=False, resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    start = time.perf_counter()
    client.execute()
    seconds = time.perf_counter() - start
    peak = int(notebook.cells.pop().outputs[0].text)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            _shrink(output)
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, path)
    return seconds, peak


def _shrink(output: NotebookNode) -> None:
    """Pictures with a palette where that is smaller; no widget that only its page can show."""
    data = output.get("data", {})
    data.pop("application/vnd.jupyter.widget-view+json", None)
    if "image/png" in data:
        from PIL import Image

        png = b64decode(data["image/png"])
        buffer = io.BytesIO()
        picture = Image.open(io.BytesIO(png)).convert("RGB")
        picture.quantize(128, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
        data["image/png"] = b64encode(min(png, buffer.getvalue(), key=len)).decode()


def in_order() -> list[Path]:
    """All notebooks, in the order of the table of contents."""
    import yaml

    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    parts = toc.get("parts", [{"chapters": toc.get("chapters", [])}])
    names = [toc["root"], *(entry["file"] for part in parts for entry in part["chapters"])]
    return [path for name in names if (path := BOOK / f"{name}.ipynb").exists()]


def write_costs(costs: list[tuple[Path, float, int]], to: Path) -> None:
    """A table in Markdown of seconds and peak memory in MB by notebook, and their sum."""
    lines = ["| chapter | seconds | peak memory, MB | size, kB |", "|---|---|---|---|"]
    for path, seconds, peak in costs:
        title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")
        size = path.stat().st_size / 1e3
        lines.append(f"| [{title}]({path.name}) | {seconds:.0f} | {peak} | {size:.0f} |")
    total = sum(seconds for _, seconds, _ in costs)
    most = max(peak for *_, peak in costs)
    lines.append(f"| all, one after the other | {total:.0f} | {most} | |")
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    lines += [
        "",
        f"Executed in this order with OMP_NUM_THREADS={threads}, beginning with an empty cache, by "
        "`make refresh`. `make book` executes one on each core.",
    ]
    to.write_text("\n".join(lines) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("execute")
    refreshing = commands.add_parser("refresh")
    refreshing.add_argument("notebooks", nargs="*", type=Path)
    refreshing.add_argument(
        "--table", action="store_true", help="all, from an empty cache, into tables/cost.md"
    )
    commands.add_parser("students").add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "execute":
        first, *rest = in_order()  # the first prepares what most read; the last ones do without
        return 0 if execute([first, *reversed(rest)]) else 1
    if options.command == "students":
        write_students(options.folder)
        print(f"copies without solutions: {options.folder}")
        return 0
    if options.table and options.notebooks:
        parser.error("--table is about all notebooks; name none.")
    with tempfile.TemporaryDirectory() as empty:
        if options.table:
            os.environ["SSNAS_CACHE"] = empty  # kernels inherit it
        costs = []
        for path in options.notebooks or in_order():
            seconds, peak = refresh(path.resolve())
            costs.append((path, seconds, peak))
            size = path.stat().st_size / 1e3
            print(f"{path.name:<32} {seconds:5.0f} s  {peak:5d} MB  {size:5.0f} kB", flush=True)
    if options.table:
        write_costs(costs, BOOK / "tables" / "cost.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
