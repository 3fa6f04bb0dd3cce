"""The structure of a checkout's `ssnas_core` in numbers, and the path to read it by.

    python tests/benchmarks/house.py [--root CHECKOUT] [--against CHECKOUT] [--out FILE.md]
    python tests/benchmarks/house.py --path
    python tests/benchmarks/house.py --rooms

Files are parsed, never imported: a checkout needs no environment. Prints Markdown; --out writes
it too. A module is named by its path inside the package, as `spaces/genotype.py`.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import statistics
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

PACKAGE = "ssnas_core"
CHECKOUT = Path(__file__).parents[2]

# A folder imports from its own floor and from lower ones.
FLOORS = {
    1: ("common",),
    2: ("datasets", "backbones", "spaces", "objectives"),
    3: ("training",),
    4: ("features", "search", "show"),
    5: ("runs",),
    6: ("study", "models", "benchmark"),
    7: ("cli",),
}
APART = (2, 6)  # floors whose folders never import each other
ENTRANCE = ("__init__.py", "__main__.py")  # of the package: on no floor, by design

WORDS = ("told", "found", "own")  # the field says config, message, best, result

PATH = """
    spaces/genotype.py spaces/operators.py spaces/base.py
    spaces/fusion/choices.py spaces/fusion/mixing.py spaces/fusion/networks.py
    spaces/fusion/space.py spaces/fusion/released.py
    objectives/base.py objectives/supervised.py objectives/contrastive.py objectives/hybrid.py
    training/loop.py training/metrics.py
    search/bilevel.py search/stable.py search/trials.py search/random.py search/tpe.py
    features/augment.py features/store.py features/extract.py features/prepare.py
    datasets/records.py datasets/splits.py backbones/base.py backbones/image.py
    runs/run.py
""".split()

Graph = dict[str, set[str]]  # each module, and the modules that it imports


@dataclass(frozen=True)
class Module:
    """One file of the package, parsed on first use."""

    path: str
    text: str

    @cached_property
    def lines(self) -> list[str]:
        """All lines, blank ones included."""
        return io.StringIO(self.text).readlines()

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the syntax tree."""
        return list(ast.walk(ast.parse(self.text)))

    @cached_property
    def tokens(self) -> list[tokenize.TokenInfo]:
        """All tokens, comments included."""
        return list(tokenize.generate_tokens(io.StringIO(self.text).readline))

    @cached_property
    def docstrings(self) -> list[ast.Constant]:
        """Strings that stand alone: docstrings, also those below a dataclass's fields."""
        values = [node.value for node in self.nodes if isinstance(node, ast.Expr)]
        return [v for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]

    @cached_property
    def code(self) -> int:
        """Number of lines that are neither blank, comment nor docstring."""
        layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT)
        layout += (tokenize.DEDENT, tokenize.ENDMARKER)
        prose = {n for d in self.docstrings for n in range(d.lineno, (d.end_lineno or 0) + 1)}
        code: set[int] = set()
        for token in self.tokens:
            documents = token.type == tokenize.STRING and token.start[0] in prose
            if token.type not in layout and not documents:
                code.update(range(token.start[0], token.end[0] + 1))
        return sum(bool(self.lines[number - 1].strip()) for number in code)

    def longest(self) -> tuple[int, str]:
        """Return the lines and the name of its longest function; (0, "none") without any."""
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        defs = [node for node in self.nodes if isinstance(node, kinds)]
        sizes = [((node.end_lineno or 0) - node.lineno + 1, node.name) for node in defs]
        return max(sizes, default=(0, "none"))

    def words(self) -> list[str]:
        """Return the words, in lower case, of names (split at `_`), docstrings and comments."""
        nodes = (node for node in self.nodes if not isinstance(node, ast.Constant))
        texts = [v for node in nodes for _, v in ast.iter_fields(node) if isinstance(v, str)]
        texts += [str(docstring.value) for docstring in self.docstrings]
        texts += [token.string for token in self.tokens if token.type == tokenize.COMMENT]
        return [word for text in texts for word in re.findall(r"[a-z]+", text.lower())]


def modules(root: Path) -> list[Module]:
    """Return the package's modules in the checkout `root`, sorted by path."""
    package = root / PACKAGE
    if not package.is_dir():
        raise SystemExit(f"expected a checkout with a folder {PACKAGE}, got {root}")
    paths = sorted(package.rglob("*.py"))
    return [Module(p.relative_to(package).as_posix(), p.read_text("utf-8")) for p in paths]


def imports(root: Path, *, types: bool = False) -> Graph:
    """Return which modules each module imports, at its top or inside functions.

    Blocks under `if TYPE_CHECKING` count only with `types`; what a table of strings looks up
    never does. An import of `a.b` is an edge to `a/b.py` alone, though Python runs
    `a/__init__.py` first.
    """
    files = modules(root)
    dotted = {_dotted(module.path): module.path for module in files}
    graph: Graph = {}
    for module in files:
        blocks = [node for node in module.nodes if isinstance(node, ast.If)]
        typing = [b for b in blocks if ast.unparse(b.test).split(".")[-1] == "TYPE_CHECKING"]
        hidden = {node for b in typing for part in b.body for node in ast.walk(part)}
        seen = [node for node in module.nodes if types or node not in hidden]
        names: set[str | None] = set()
        for node in seen:
            if isinstance(node, ast.Import):
                names |= {dotted.get(alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = _base(node, module.path)
                here = dotted.get(base)
                names |= {dotted.get(f"{base}.{alias.name}", here) for alias in node.names}
        graph[module.path] = {name for name in names if name is not None}
    return graph


def _dotted(path: str) -> str:
    parts = (PACKAGE, *PurePosixPath(path).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _base(node: ast.ImportFrom, path: str) -> str:
    """Return the dotted module that `from ... import` names, a relative one resolved."""
    above = (PACKAGE, *PurePosixPath(path).parent.parts)
    start = above[: len(above) + 1 - node.level] if node.level else ()
    return ".".join((*start, *([node.module] if node.module else [])))


def circles(graph: Graph) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others."""
    reached = {module: _reached(graph, module) for module in graph}
    groups = {
        tuple(sorted(other for other in reached[module] if module in reached[other]))
        for module in graph
        if module in reached[module]
    }
    return [list(group) for group in sorted(groups)]


def _reached(graph: Graph, module: str) -> set[str]:
    """Return all modules that `module` imports, directly or through others."""
    reached: set[str] = set()
    waiting = list(graph[module])
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(graph[name])
    return reached


def floor(module: str) -> int | None:
    """Return the floor of a module's folder; None in the root or a folder not in `FLOORS`."""
    folder = PurePosixPath(module).parts[0]
    return next((number for number, folders in FLOORS.items() if folder in folders), None)


def arrows_up(graph: Graph) -> list[tuple[str, str]]:
    """Return the imports (module, imported) of a higher floor, or of a sibling in `APART`."""
    arrows = []
    for module, imported in sorted(graph.items()):
        for other in sorted(imported):
            low, high = floor(module), floor(other)
            if low is None or high is None:
                continue
            same_folder = module.split("/")[0] == other.split("/")[0]
            if low < high or (low == high and low in APART and not same_folder):
                arrows.append((module, other))
    return arrows


def floorless(graph: Graph) -> list[str]:
    """Return the modules on no floor; their arrows are not judged."""
    return [module for module in graph if module not in ENTRANCE and floor(module) is None]


def measure(root: Path) -> dict[str, str]:
    """Return each figure of the table as text, by its label."""
    files, graph = modules(root), imports(root)
    nodes = [node for module in files for node in module.nodes]
    lines = [line for module in files for line in module.lines]
    sizes = [len(module.lines) for module in files]
    names = [PurePosixPath(module.path).name for module in files]
    longest, function, where = max((*module.longest(), module.path) for module in files)
    docstrings = [str(d.value).lstrip() for module in files for d in module.docstrings]
    words = [word for module in files for word in module.words()]
    entries = _visible(root / PACKAGE, "*")
    folders = [p for p in _visible(root / PACKAGE, "**/*") if p.is_dir()]
    comments = sum(line.lstrip().startswith("#") for line in lines)
    raises = sum(isinstance(node, ast.Raise) for node in nodes)
    private = [name for name in names if name.startswith("_") and not name.startswith("__")]
    return {
        "files (.py)": f"{len(files):,}",
        "modules, `__init__` not counted": f"{len(files) - names.count('__init__.py'):,}",
        "lines": f"{len(lines):,}",
        "code lines": f"{sum(module.code for module in files):,}",
        "entries in the package's root": f"{len(entries)}",
        "folders": f"{sum(path.is_dir() for path in entries)}",
        "folders and subfolders": f"{len(folders)}",
        "private modules": f"{len(private)}",
        "modules in import circles": f"{sum(map(len, circles(graph)))}",
        "the same, with imports for types": f"{sum(map(len, circles(imports(root, types=True))))}",
        "arrows up": f"{len(arrows_up(graph))}",
        "modules on no floor": f"{len(floorless(graph))}",
        "module lines, median": f"{statistics.median(sizes):g}",
        "module lines, max": f"{max(sizes):,}",
        "longest function": f"`{function}` in {where}, {longest}",
        "raises per 1,000 lines": f"{1000 * raises / len(lines):.1f}",
        "full-line comments": f"{100 * comments / len(lines):.1f} %",
        'docstrings that begin "What "': f"{sum(d.startswith('What ') for d in docstrings)}",
        **{f'the word "{word}"': f"{words.count(word)}" for word in WORDS},
    }


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Return the folder's entries without what running it leaves behind."""
    paths = (p for p in folder.glob(pattern) if not p.name.startswith("."))
    return [path for path in paths if "__pycache__" not in path.parts]


def table(root: Path, against: Path | None = None) -> str:
    """Return the figures of `root` as Markdown, beside those of `against`, and its knots."""
    now, before = measure(root), measure(against) if against else {}
    heads = ["before", "now"] if against else ["now"]
    lines = [f"| | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    for label, value in now.items():
        cells = [before[label], value] if against else [value]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    graph = imports(root)
    real, typed = circles(graph), circles(imports(root, types=True))
    knots = [f"- circle: {', '.join(c)}" for c in real]
    knots += [f"- circle through types: {', '.join(c)}" for c in typed if c not in real]
    knots += [f"- arrow up: {module} imports {other}" for module, other in arrows_up(graph)]
    knots = knots or ["No circle, and no arrow up between floors."]
    return "\n".join([*lines, "", *knots]) + "\n"


def reading_order(graph: Graph, names: Sequence[str]) -> list[str]:
    """Return `names` so that each follows those that it imports, as far as circles allow.

    Imports through modules that are not in `names` count too; `names` settles the rest.
    """
    order: list[str] = []
    seen: set[str] = set()
    place = {name: number for number, name in enumerate(names)}

    def visit(module: str) -> None:
        if module not in seen:
            seen.add(module)
            for other in sorted(graph[module], key=lambda m: (place.get(m, len(place)), m)):
                visit(other)
            order.append(module)

    for name in names:
        if name in graph:
            visit(name)
    return [module for module in order if module in place]


def path(root: Path) -> str:
    """Return the marked afternoon's path as Markdown: modules in reading order, with lines."""
    graph, sizes = imports(root), {module.path: len(module.lines) for module in modules(root)}
    order = reading_order(graph, PATH)
    rows = [f"| {place} | {name} | {sizes[name]} |" for place, name in enumerate(order, start=1)]
    total = f"| | {len(order)} modules | {sum(sizes[name] for name in order):,} |"
    missing = [f"- not in this checkout: {name}" for name in PATH if name not in graph]
    return "\n".join(["| | module | lines |", "| ---: | --- | ---: |", *rows, total, "", *missing])


def rooms(root: Path) -> str:
    """Return the folders as Markdown, from the upper floor down, in the words of each."""
    files = modules(root)
    rows = []
    for number in sorted(FLOORS, reverse=True):
        for folder in FLOORS[number]:
            inside = [m for m in files if m.path.startswith(f"{folder}/")]
            if inside:
                door = next(m for m in inside if m.path == f"{folder}/__init__.py")
                says = (ast.get_docstring(ast.parse(door.text)) or "").partition("\n")[0]
                count = sum(not m.path.endswith("__init__.py") for m in inside)
                lines = sum(len(m.lines) for m in inside)
                rows.append(f"| {number} | `{folder}` | {says} | {count} | {lines:,} |")
    heads = "| floor | folder | what it is | modules | lines |"
    return "\n".join([heads, "| ---: | --- | --- | ---: | ---: |", *rows])


def doors(root: Path) -> dict[tuple[str, str], int]:
    """Return how many modules of one folder import from another, by (importer, imported)."""
    counts: dict[tuple[str, str], int] = {}
    for module, imported in imports(root).items():
        folders = {other.split("/")[0] for other in imported if floor(other) is not None}
        for folder in folders - {module.split("/")[0]} if floor(module) is not None else ():
            pair = (module.split("/")[0], folder)
            counts[pair] = counts.get(pair, 0) + 1
    return counts


def main() -> None:
    """Print the table, the path or the rooms of the checkout that the arguments name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=CHECKOUT, help="a checkout; default: this")
    parser.add_argument("--against", type=Path, help='another checkout, for a column "before"')
    parser.add_argument("--out", type=Path, help="a Markdown file to write too")
    parser.add_argument("--path", action="store_true", help="the reading path, not the table")
    parser.add_argument("--rooms", action="store_true", help="the folders, not the table")
    options = parser.parse_args()
    if options.rooms:
        text = rooms(options.root)
    else:
        text = path(options.root) if options.path else table(options.root, options.against)
    text = text.rstrip("\n") + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
