"""The wheel alone, outside of the checkout: `make wheel` runs this where nothing else is installed.

Each way in and out is a command, as a user of the package would give it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path


def ssnas(*arguments: object) -> str:
    """What the command prints; its failure is ours."""
    command = [Path(sys.executable).with_name("ssnas"), *map(str, arguments)]
    print("ssnas", *arguments, flush=True)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main(folder: Path) -> None:
    """Import, demo, show, predict, save, predict from the saved model, embed, compare."""
    import ssnas_core

    home = Path(ssnas_core.__file__).parent
    site = Path(sysconfig.get_paths()["purelib"])
    assert home.is_relative_to(site), f"{home} is not the installed package"
    assert (home / "py.typed").exists()
    run, model = folder / "demo", folder / "model"
    result = json.loads(ssnas("demo", "--out", run, "--json", "--quiet"))
    assert len(result["scores"]) == 12
    print("found", result["genotype"])
    print(ssnas("show", run))
    poster = next((run / "store").glob("raw-*/dataset/*.jpeg"))
    asked = ("--poster", poster, "--plot", "A ship sets sail for a distant war.", "--json")
    told = json.loads(ssnas("predict", "--run", run, *asked))
    ssnas("save", "--run", run, "--out", model)
    assert json.loads(ssnas("predict", "--model", model, *asked)) == told
    alone = json.loads(ssnas("predict", "--model", model, "--poster", poster, "--json"))
    assert alone["missing"] == ["text"]
    assert alone["probabilities"] != told["probabilities"]
    ssnas("embed", "--run", run, "--out", folder / "embeddings.npz")
    print(ssnas("compare", run))
    print("works outside of the checkout, on Python", sys.version.split()[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
