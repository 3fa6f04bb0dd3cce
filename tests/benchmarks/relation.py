"""What tells a relation? Each operator beside the features, on the sample's relation between them.

    python tests/benchmarks/relation.py --out runs/relation

The sample's plots name a place, and two genres that MM-IMDB's published task drops say whether
the poster shows a place of that climate (`ssnas_core.datasets.sample.corpus.RELATION`). One
cell of the deepest image feature and the words of the plot stands beside all features, with
each operator; late concatenation has no cell. Each is fine-tuned on frozen stored features from
several seeds, and scored on the whole dev part. Test is not read.

Writes relation.md into --tables. About five minutes after the features are prepared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from to_find import Options as Found
from to_find import Setting

from ssnas_core.common.files import write_text
from ssnas_core.datasets.mmimdb import read_mmimdb
from ssnas_core.datasets.sample.corpus import RELATION, sample_archive
from ssnas_core.features.prepare import prepare
from ssnas_core.runs.recipes import recipe_named
from ssnas_core.show.tables import as_table
from ssnas_core.spaces import OPERATORS
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.training.metrics import mean_interval


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much, and where to."""

    out: Path
    """Holds the prepared features, in OUT/store."""
    tables: Path = Path(__file__).parents[2] / "book" / "tables"
    recipe: str = "two-core"
    seeds: int = 5
    label_ratio: tuple[float, ...] = (0.3, 1.0)


def main(options: Options) -> None:
    """Train and score, and write the table."""
    torch.set_num_threads(1)
    recipe = recipe_named(options.recipe)
    space = replace(recipe.space("fusion"), operators=("Product",))
    parts = (space, *(part for part in recipe.parts if type(part) is not type(space)))
    recipe = replace(recipe, parts=parts)
    movies = read_mmimdb(sample_archive(), genres=RELATION, unpack_to=options.out / "sample")
    prepared = prepare(movies, options.out / "store", recipe.prepare)
    setting = Setting(
        Found(data=options.out, recipe=options.recipe, name="relation", out=options.out),
        recipe,
        prepared,
    )
    features = tuple(prepared.store.channels)
    genotypes = {"late concat": setting.late_concat}
    for operator in OPERATORS.table:
        # Attention reads where its second input has positions: the words ask, the image answers.
        pair = ("text_0", "image_3") if operator == "Attention" else ("image_3", "text_0")
        output = Node("output", "Concat", ("cell_0", *features))
        genotypes[operator] = Genotype("fusion", (Node("cell_0", operator, pair), output))
    rows = []
    for name, genotype in genotypes.items():
        row = [name]
        for ratio in options.label_ratio:
            seeds = range(options.seeds)
            scores = [setting.score("chosen", genotype, ratio, seed) for seed in seeds]
            mean, low, high = mean_interval(scores)
            row.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
        rows.append(row)
        print(" | ".join(row), flush=True)
    text = (
        f"Weighted F1 on dev of the sample's relation, recipe {options.recipe}, {options.seeds} "
        "seeds, mean and 95 % interval; one cell of image_3 and text_0 beside all features.\n\n"
    )
    head = ["cell", *(f"r = {ratio:g}" for ratio in options.label_ratio)]
    write_text(options.tables / "relation.md", text + "\n".join(as_table(head, rows)) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
