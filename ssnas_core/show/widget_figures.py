"""The figures that widgets move through: each shows one position of a slider.

They are plain functions of what a page has computed, so that a page can draw
one figure plainly before it makes many of them into a widget. All are 4.2
inches wide, with letters that can still be read on a phone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from ssnas_core.common.errors import InputError
from ssnas_core.show.style import (
    COLOURS,
    INK,
    LEGEND,
    PALE,
    dress,
    new_figure,
    panels,
    ratio_axis,
    style,
)
from ssnas_core.show.tables import mean_curves, score_name
from ssnas_core.training.metrics import choose_threshold, f1_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _FONT = 4.2, 9.5  # inches, points: letters large enough for a phone
_ABOVE = {
    **LEGEND, "fontsize": _FONT - 1, "handlelength": 1.8,
    "loc": "lower center", "bbox_to_anchor": (0.5, 1.0),
}  # fmt: skip
_GRID = np.linspace(0, 1, 101)  # thresholds of a curve
_MOST_PAIRS = 32  # of views whose similarities can still be told apart


def draw_label_ratio(
    rows: Iterable[Mapping[str, Any]],
    counts: Mapping[float, Mapping[str, int]],
    ratio: float,
    metric: str = "weighted_f1",
) -> Figure:
    """Draw scores against label ratio with one ratio marked, and the labels that it leaves.

    Args:
        rows: one mapping per run: `"method"`, `"label_ratio"`, `"seed"` and `metric`.
        counts: per label ratio, the number of labelled samples of each class.
        ratio: the one to mark; a key of `counts` and a ratio of the rows.
        metric: name of the score.

    Returns:
        Above, each method's mean over seeds; below, bars of `counts[ratio]`
        over pale ones of the largest ratio.

    Raises:
        InputError: `ratio` is not among the counts, or not among the rows.
    """
    rows = list(rows)
    curves = mean_curves(rows, metric)
    known = sorted({value for curve in curves.values() for value in curve} & set(counts))
    if ratio not in known:
        raise InputError(
            f"expected a label ratio that has scores and counts, got {ratio}; choose among {known}."
        )
    classes = counts[ratio]
    figure = new_figure(_WIDTH, 3.4 + 0.17 * len(classes), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3.2, 0.4 + 0.17 * len(classes)))
    for place, (method, curve) in enumerate(curves.items()):
        means = [mean for mean, _, _ in curve.values()]
        upper.plot(list(curve), means, **style(place), marker="o", markersize=3, label=method)
        upper.plot([ratio], [curve[ratio][0]], "o", color=style(place)["color"], markersize=6.5)
    upper.axvline(ratio, color=PALE, linewidth=1, linestyle="--")
    ratio_axis(upper, known)
    upper.set_xlabel("label ratio r")
    upper.set_ylabel(score_name(rows, metric))
    dress(upper, size=_FONT)
    upper.legend(ncols=2, **_ABOVE)
    most, places = counts[max(counts)], range(len(classes))
    lower.barh(places, [most.get(name, 0) for name in classes], color="#E5E5E5")
    lower.barh(places, list(classes.values()), color=COLOURS[0])
    lower.set_yticks(places, list(classes))
    lower.invert_yaxis()
    lower.set_xlabel(f"labelled samples at r = {ratio:g} (pale: r = {max(counts):g})")
    dress(lower, size=_FONT, grid="x")
    return figure


def draw_temperature(first: Any, second: Any, temperature: float) -> Figure:
    """Draw each view's softmax over all others, as NT-Xent has it at one temperature.

    Args:
        first, second: (N, D) embeddings of two views of the same N <= 32 samples.
        temperature: tau > 0.

    Returns:
        The (2N, 2N) matrix of shares: row i divides 1 among the views that are
        not i. The partners, which should get all of it, are framed.

    Raises:
        InputError: shapes differ, N is not in 2..32, or tau <= 0.
    """
    from matplotlib.patches import Rectangle

    shares = pair_shares(first, second, temperature)
    views = len(shares)
    figure = new_figure(_WIDTH, 3.7, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    for row, partner in enumerate(_partners(views)):
        axes.add_patch(
            Rectangle((partner - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=COLOURS[1])
        )
    bar = figure.colorbar(image, ax=axes, shrink=0.9)
    bar.ax.tick_params(labelsize=8.5, colors=INK)
    middles = [views / 4 - 0.5, 3 * views / 4 - 0.5], ["first views", "second views"]
    axes.set_xticks(*middles)
    axes.set_yticks(*middles, rotation=90, va="center")
    axes.tick_params(labelsize=9, colors=INK, length=0)
    axes.set_title(f"share of each view, τ = {temperature:g}", fontsize=_FONT, color=INK)
    return figure


def draw_weights(logits: Mapping[str, Any], labels: Mapping[str, Sequence[str]]) -> Figure:
    """Draw the architecture weights at one moment of a search, as bars.

    Args:
        logits: vectors by name; a matrix's rows are softmaxes of their own.
        labels: what each entry stands for (`FusionSpace.labels()`); vectors
            without labels are left out.

    Returns:
        One panel per vector, its softmax from 0 to 1; of a matrix of many rows of two, the first
        in each row.

    Raises:
        InputError: no vector has labels.
    """
    shown = [name for name in logits if name in labels]
    if not shown:
        raise InputError(
            f"expected labels for one of {list(logits)}, got {list(labels)}; "
            "pass the space's labels()."
        )
    columns = min(2, len(shown))
    grid = [shown[start : start + columns] for start in range(0, len(shown), columns)]
    bars = {name: _bars(logits[name], labels[name]) for name in shown}
    heights = [0.55 + 0.17 * max(len(bars[name]) for name in row) for row in grid]
    figure, drawn = panels(
        shown, _WIDTH, sum(heights), columns, size=_FONT, grid="x", height_ratios=heights
    )
    for axes, name in zip(drawn, shown, strict=True):
        axes.barh(range(len(bars[name])), list(bars[name].values()), color=COLOURS[0])
        axes.set_yticks(range(len(bars[name])), list(bars[name]))
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
    return figure


def _bars(logits: Any, texts: Sequence[str]) -> dict[str, float]:
    """Return the share of each option that is shown, by its text."""
    shares = softmax(np.asarray(logits, dtype=float), axis=-1)
    one_each = shares.ndim == 2 and len(shares) > 2 and shares.shape[1] == 2
    return dict(list(zip(texts, shares.ravel().tolist(), strict=True))[:: 2 if one_each else 1])


def draw_threshold(probs: Any, labels: Any, threshold: float) -> Figure:
    """Draw the four F1 averages against the threshold, one threshold marked.

    Args:
        probs: probabilities in [0, 1], (N, K).
        labels: 0 or 1, (N, K).
        threshold: the one to mark, in [0, 1].

    Returns:
        Curves over thresholds 0, 0.01, ..., 1; a dotted line where the
        weighted F1 of these very labels is highest (`choose_threshold`).

    Raises:
        InputError: a threshold outside [0, 1].
        ValueError: as `f1_scores`.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"expected a threshold in [0, 1], got {threshold}; choose one there.")
    curves = [f1_scores(probs, labels, value) for value in _GRID]
    here = f1_scores(probs, labels, threshold)
    figure, (axes,) = panels([""], _WIDTH, 3.2, size=_FONT)
    for place, name in enumerate(here):
        axes.plot(_GRID, [curve[name] for curve in curves], **style(place, dash=place), label=name)
        axes.plot([threshold], [here[name]], "o", color=style(place)["color"], markersize=5.5)
    axes.axvline(threshold, color=PALE, linewidth=1, linestyle="--")
    axes.axvline(choose_threshold(probs, labels), color=INK, linewidth=1, linestyle=":")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None)
    axes.set_xlabel("threshold (dotted: best weighted F1)")
    axes.set_ylabel("F1")
    axes.legend(ncols=4, columnspacing=1.2, **_ABOVE)
    return figure


def pair_shares(first: Any, second: Any, temperature: float) -> np.ndarray:
    """Return the softmax over the other views of each view's cosine similarities / tau: (2N, 2N).

    Minus the mean logarithm of the partners' entries is `nt_xent`.
    """
    first, second = (np.asarray(views, dtype=float) for views in (first, second))
    if first.ndim != 2 or first.shape != second.shape or not 2 <= len(first) <= _MOST_PAIRS:
        raise InputError(
            f"expected two (N, D) arrays with N in 2..{_MOST_PAIRS}, got {first.shape} and "
            f"{second.shape}; take the first {_MOST_PAIRS} rows."
        )
    if not temperature > 0:
        raise InputError(f"expected a temperature > 0, got {temperature}; SimCLR uses 0.1 to 1.")
    rows = np.concatenate((first, second))
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    similarity = rows @ rows.T / temperature
    np.fill_diagonal(similarity, -np.inf)
    return softmax(similarity, axis=-1)


def partner_shares(shares: np.ndarray) -> np.ndarray:
    """Return the share that each view gives to the other view of its sample: (2N,)."""
    return shares[np.arange(len(shares)), _partners(len(shares))]


def _partners(views: int) -> np.ndarray:
    return np.roll(np.arange(views), -(views // 2))
