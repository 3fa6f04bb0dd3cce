"""Weighted F1 on test of every method, label ratio and seed, with a logistic regression beside.

    python tests/benchmarks/subset_table.py --data mmimdb_subset.tar.gz --out runs/subset

runs `ssnas run` once per seed over one shared store, scores TF-IDF + logistic regression
with the same labels as a sanity line, and writes NAME.csv (every score) and NAME.md (means
and 95 % intervals over seeds) into book/tables. It resumes where it was interrupted.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from ssnas_core.files import read_json, write_json, write_text
from ssnas_core.methods import methods_of
from ssnas_core.metrics import choose_threshold, mean_interval, scores
from ssnas_core.recipes import RECIPES, RunConfig
from ssnas_core.studies import Run

SANITY = "TF-IDF + logistic regression"
GRID = (0.3, 1.0, 3.0, 10.0, 30.0)  # inverse strengths of L2, chosen on the labelled dev part
COLUMNS = ("method", "label_ratio", "seed", "weighted_f1", "weighted_f1_at_0.3",
           "weighted_f1_at_0.5", "micro_f1", "macro_f1", "samples_f1", "weighted_ap",
           "threshold", "parameters", "genotype")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which data, where to, how much."""

    data: Path
    out: Path
    name: str = "mmimdb_subset"
    """Of the tables in book/tables."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    label_ratio: tuple[float, ...] = (0.05, 0.1, 0.3, 1.0)
    recipe: str = "two-core"


def sanity_line(run: Run, ratio: float) -> dict[str, Any]:
    """TF-IDF (fitted on all train texts) and one logistic regression per genre."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    dataset, part = run.prepared.dataset, run.part(ratio)
    texts, labels = dataset.column("text"), dataset.labels()
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words="english")
    vectorizer.fit([texts[row] for row in dataset.indices("train")])
    rows = vectorizer.transform(texts)
    test, truth = dataset.indices("test"), labels[part.train]
    best: tuple[float, float, np.ndarray] | None = None
    for strength in GRID:
        probs = np.tile(truth.mean(0), (len(labels), 1))  # for genres without both answers
        for genre in np.flatnonzero(truth.any(0) & ~truth.all(0)):
            model = LogisticRegression(C=strength, solver="liblinear", random_state=0)
            model.fit(rows[part.train], truth[:, genre])
            probs[:, genre] = model.predict_proba(rows)[:, 1]
        threshold = choose_threshold(probs[part.dev], labels[part.dev])
        dev = scores(probs[part.dev], labels[part.dev], threshold)["weighted_f1"]
        if best is None or dev > best[0]:
            best = (dev, threshold, probs)
    assert best is not None
    found = scores(best[2][test], labels[test], best[1])
    return {"method": SANITY, "label_ratio": ratio, "seed": run.config.seed, **found}


def main(options: Options) -> None:
    """Run what is missing, then write and print the tables."""
    rows: list[dict[str, Any]] = []
    costs: list[dict[str, Any]] = []
    genotypes: list[str] = []
    for seed in options.seeds:
        config = RunConfig(
            data=options.data,
            seed=seed,
            label_ratio=options.label_ratio,
            recipe=RECIPES[options.recipe],
        )
        run = Run(config, options.out / f"seed-{seed}", store=options.out / "store", progress=True)
        result = run.run()
        rows += result["scores"]
        costs.append(result)
        genotypes.append(f"- seed {seed}: `{result['genotype']}`")
        file = run.folder / "sanity.json"
        if not file.exists():
            write_json(file, [sanity_line(run, ratio) for ratio in options.label_ratio])
        rows += read_json(file)

    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for row in rows:
        short = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        table.writerow(short)
    folder = Path(__file__).parents[2] / "book" / "tables"
    write_text(folder / f"{options.name}.csv", text.getvalue())

    seeds = " ".join(map(str, options.seeds))
    lines = [
        f"Weighted F1 on test, mean [95 % interval] over seeds {seeds}; "
        "threshold chosen on the labelled dev part.",
        "",
        "| method | " + " | ".join(f"r = {ratio:g}" for ratio in options.label_ratio) + " |",
        "|---" * (1 + len(options.label_ratio)) + "|",
    ]
    for method in (SANITY, *methods_of(("image", "text"))):
        cells = []
        for ratio in options.label_ratio:
            values = [
                row["weighted_f1"]
                for row in rows
                if row["method"] == method and row["label_ratio"] == ratio
            ]
            mean, low, high = mean_interval(values)
            cells.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    told = ", ".join(f"{stage} {value:.0f}" for stage, value in costs[0]["seconds"].items())
    note = f"Seconds of the first run, which also prepared the features: {told}"
    lines += ["", "Found:", "", *genotypes, "", note]
    peak = max(cost["peak_anonymous_mb"] for cost in costs)
    lines[-1] += f"; peak anonymous memory {peak:.0f} MB."
    write_text(folder / f"{options.name}.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Options))
