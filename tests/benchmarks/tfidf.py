"""A sanity line beside a study: TF-IDF and logistic regression on the same labels.

    python tests/benchmarks/tfidf.py --data mmimdb_subset.tar.gz --store runs/study/store

Text alone, no network: whatever joins texts with images should be above it. It takes the
labelled parts of `ssnas study`, by its seeds and label ratios, on data prepared by its recipe.

Writes book/tables/NAME.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from ssnas_core.common.files import write_text
from ssnas_core.datasets.records import Dataset
from ssnas_core.datasets.splits import labelled_part
from ssnas_core.features.prepare import prepare
from ssnas_core.runs.recipes import RECIPES
from ssnas_core.study.jobs import LABEL_RATIOS
from ssnas_core.training.metrics import choose_threshold, mean_interval, multi_label_scores

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)  # inverse, of L2; chosen on the labelled dev part


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which data, how much."""

    data: Path
    store: Path
    """Folder of prepared data, as that of `ssnas study`; what it lacks is prepared."""
    name: str = "tfidf"
    """Of the table in book/tables."""
    seeds: int = 5
    label_ratio: tuple[float, ...] = LABEL_RATIOS
    recipe: str = "two-core"


def tfidf(dataset: Dataset) -> Any:
    """A sparse row per text, fitted on all train texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = dataset.column("text")
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words="english")
    vectorizer.fit([texts[row] for row in dataset.indices("train")])
    return vectorizer.transform(texts)


def weighted_f1(dataset: Dataset, rows: Any, ratio: float, seed: int) -> float:
    """On test, of one logistic regression per genre on the rows of `tfidf`."""
    from sklearn.linear_model import LogisticRegression

    part, labels = labelled_part(dataset, ratio, seed), dataset.labels()
    test, truth = dataset.indices("test"), labels[part.train]
    best: tuple[float, float, np.ndarray] | None = None
    for strength in STRENGTHS:
        probs = np.tile(truth.mean(0), (len(labels), 1))  # for genres without both answers
        for genre in np.flatnonzero(truth.any(0) & ~truth.all(0)):
            model = LogisticRegression(C=strength, solver="liblinear", random_state=0)
            model.fit(rows[part.train], truth[:, genre])
            probs[:, genre] = model.predict_proba(rows)[:, 1]
        threshold = choose_threshold(probs[part.dev], labels[part.dev])
        dev = multi_label_scores(probs[part.dev], labels[part.dev], threshold)["weighted_f1"]
        if best is None or dev > best[0]:
            best = (dev, threshold, probs)
    assert best is not None
    return multi_label_scores(best[2][test], labels[test], best[1])["weighted_f1"]


def main(options: Options) -> None:
    """Score every label ratio, then write and print the table."""
    prepared = prepare(options.data, options.store, RECIPES[options.recipe].prepare)
    dataset = prepared.dataset
    rows, cells = tfidf(dataset), []
    for ratio in options.label_ratio:
        found = [weighted_f1(dataset, rows, ratio, seed) for seed in range(options.seeds)]
        mean, low, high = mean_interval(found)
        cells.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
    head = " | ".join(f"r = {ratio:g}" for ratio in options.label_ratio)
    lines = [
        "Weighted F1 on test, mean [95 % t interval] over n seeds; threshold and "
        "strength of L2 chosen on the labelled dev part.",
        "",
        f"| method | n | {head} |",
        "| --- " * (2 + len(cells)) + "|",
        f"| TF-IDF + logistic regression | {options.seeds} | {' | '.join(cells)} |",
    ]
    told = "\n".join(lines) + "\n"
    write_text(Path(__file__).parents[2] / "book" / "tables" / f"{options.name}.md", told)
    print(told)


if __name__ == "__main__":
    main(tyro.cli(Options))
