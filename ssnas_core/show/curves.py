"""Figures for papers, notebooks and the command line: genotypes, searches, scores, posters.

Every function returns a `matplotlib.figure.Figure` that belongs to no global
state, so it needs no display and no closing. The background is opaque and
light, so that a figure also reads on a dark page; the colours are those of
Okabe and Ito (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ssnas_core.show.genotype import Layout, paint
from ssnas_core.show.style import (
    COLOURS,
    INK,
    PAPER,
    Row,
    draw_rows,
    dress,
    legend_beside,
    legend_size,
    marker,
    new_figure,
    ratio_axis,
    style,
    text_width,
)
from ssnas_core.spaces.genotype import Genotype
from ssnas_core.training.metrics import mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sketch(
    width: float = 4.2, height: float = 2.6, columns: int = 1, *, title: str = ""
) -> tuple[Figure, Any]:
    """A figure of `width` x `height` inches and its empty axes, in the look of all others.

    Axes are one, or a list of `columns` side by side; `title` stands above the first.
    """
    figure = new_figure(width, height, layout="constrained")
    axes = [figure.add_subplot(1, columns, 1 + place) for place in range(columns)]
    for place, one in enumerate(axes):
        dress(one, "" if place else title)
    return figure, axes[0] if columns == 1 else axes


def draw_genotype(
    genotype: Genotype, features: Sequence[str] | None = None, title: str | None = None
) -> Figure:
    """The architecture as a graph: features on the left, cells, head on the right.

    Features stand in one column, grouped by modality, shallow ones on top. A
    node's first input (x) enters above its second (y). A cell of several steps
    is a frame around them; the head takes the concatenated outputs of all cells, or, in the
    layer space, the last layer's.

    Args:
        genotype: what to draw.
        features: all features that were to choose from, e.g. a store's; those
            not used are drawn pale. By default only the used ones are drawn.
        title: printed above; none by default.

    Returns:
        A figure in its natural printed size (8 features and 4 cells in a row: 7.3 inches wide).
    """
    names = tuple(dict.fromkeys((*(features or ()), *genotype.features)))
    return paint(Layout(genotype, names, text_width), genotype.features, title)


def plot_history(
    history: Iterable[Mapping[str, Any]],
    labels: Mapping[str, Sequence[str]] | None = None,
    unit: str = "",
) -> Figure:
    """Losses and architecture weights over the epochs of a search, or its trials.

    Args:
        history: `SearchResult.history`: entries with `"epoch"`, any of
            `"train_loss"` and `"arch_loss"`, and `"logits"`, a mapping from name
            to a vector, or to a matrix whose rows are softmaxes of their own; or
            entries with `"trial"` and `"dev_loss"`.
        labels: what the entries of each logit vector stand for, by its name
            (`FusionSpace.labels()`); vectors without labels get no legend.
        unit: of the losses; that of all objectives of this package is "nats".

    Returns:
        A row for the losses, then one for each kind of logits with their softmax:
        `alpha_0, alpha_1` side by side, as are the cells' first steps. Curves of
        one name have one colour; a matrix's second row is dashed.

    Raises:
        ValueError: the history is empty, or nothing in it can be drawn.
    """
    entries = list(history)
    if not entries:
        raise ValueError("plot_history needs at least one epoch, got an empty history.")
    if "trial" in entries[0]:
        return _plot_trials(entries, unit)
    rows = []
    curves = []
    for key, name in (("train_loss", "weights, on train"), ("arch_loss", "architecture, on dev")):
        known = [entry for entry in entries if key in entry]  # the start has no loss yet
        if known:
            xs = [entry["epoch"] for entry in known]
            curves.append((xs, [entry[key] for entry in known], name))
    if curves:
        styles = {name: style(place) for place, (_, _, name) in enumerate(curves)}
        rows.append(Row(panels={"loss": curves}, styles=styles, ylabel=_loss("", unit)))
    for names in _by_kind(entries[0].get("logits", {})):
        rows.append(_weights_row(entries, names, labels or {}))
    if not rows:
        raise ValueError("plot_history found neither losses nor logits in the history.")
    return draw_rows(rows)


def plot_losses(
    stages: Mapping[str, Mapping[str, Iterable[Mapping[str, Any]]]],
    names: Iterable[str] = (),
    unit: str = "",
) -> Figure:
    """Losses of several stages, a panel each; one legend for all.

    Args:
        stages: by title of the panel the curves by name, each a history as `fit`
            returns: entries with `"epoch"` and `"loss"`. Curves of one name have
            one colour in all panels.
        names: of curves, those that shall come first in the legend.
        unit: of the losses; that of all objectives of this package is "nats".

    Raises:
        ValueError: nothing to draw.
    """
    known = {title: {n: list(h) for n, h in curves.items()} for title, curves in stages.items()}
    known = {title: {n: h for n, h in curves.items() if h} for title, curves in known.items()}
    known = {title: curves for title, curves in known.items() if curves}
    if not known:
        raise ValueError("plot_losses needs at least one epoch, got none.")
    found = dict.fromkeys(name for curves in known.values() for name in curves)
    ordered = dict.fromkeys([*(name for name in names if name in found), *found])
    styles = {name: style(place) for place, name in enumerate(ordered)}
    panels = {
        title: [([e["epoch"] for e in h], [e["loss"] for e in h], n) for n, h in curves.items()]
        for title, curves in known.items()
    }
    titles, columns = list(panels), min(3, len(panels))
    parts = [titles[start : start + columns] for start in range(0, len(titles), columns)]
    rows = [
        Row(panels={title: panels[title] for title in part}, styles=styles, ylabel=_loss("", unit))
        for part in parts
    ]
    return draw_rows(rows, one_legend=True)


def plot_scores(
    rows: Iterable[Mapping[str, Any]], metric: str = "weighted_f1", part: str = ""
) -> Figure:
    """Score against label ratio, one curve per method, with 95 % intervals over seeds.

    Args:
        rows: one mapping per run: `"method"`, `"label_ratio"`, `"seed"` and `metric`;
            optionally `"setting"`, which tells runs apart that differ in more than
            the seed. A method has one colour and marker, a setting one dash and filling.
        metric: name of the score to draw.
        part: of the data that was scored, for the axis label, e.g. "test".

    Returns:
        Means with Student t intervals; a single seed is a point without one.

    Raises:
        ValueError: no rows.
    """
    from matplotlib.lines import Line2D

    runs: dict[tuple[str, str], dict[float, list[float]]] = {}
    for row in rows:
        curve = runs.setdefault((row["method"], row.get("setting") or ""), {})
        curve.setdefault(float(row["label_ratio"]), []).append(float(row[metric]))
    if not runs:
        raise ValueError("plot_scores needs at least one row, got none.")
    methods = list(dict.fromkeys(method for method, _ in runs))
    settings = list(dict.fromkeys(setting for _, setting in runs))
    styles = {method: style(place) | marker(place) for place, method in enumerate(methods)}
    looks = {setting: _setting_style(place) for place, setting in enumerate(settings)}
    entries = {method: styles[method] for method in methods}
    if len(settings) > 1:
        entries = {method: {**look, "linestyle": ""} for method, look in entries.items()}
        plain = {"color": INK, "marker": "o", "markersize": 4.5, "linewidth": 1.4}
        entries |= {_wrap(setting): {**plain, **look} for setting, look in looks.items()}
    width, height = legend_size([line for name in entries for line in name.split("\n")])
    figure = new_figure(4.4 + width, max(3.2, height + 0.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    ratios = sorted({ratio for curve in runs.values() for ratio in curve})
    gaps = [b / a for a, b in zip(ratios, ratios[1:], strict=False)]
    # Bars side by side, not on top of each other, and nearer to their ratio than to the next.
    most = min([1.02 ** (len(runs) - 1), *(gap**0.5 for gap in gaps)])
    for place, ((method, setting), curve) in enumerate(runs.items()):
        own = sorted(curve)
        means, lows, highs = np.array([mean_interval(curve[ratio]) for ratio in own]).T
        shift = most ** (place / max(1, len(runs) - 1) - 0.5)
        look = styles[method] | (looks[setting] if len(settings) > 1 else {})
        errors = np.array([means - lows, highs - means])  # NaN, not drawn, for a single seed
        label = f"{method}, {setting}" if setting else method
        axes.errorbar(
            np.array(own) * shift, means, errors, **look, capsize=2, elinewidth=0.8, label=label
        )
    if all(0 <= value <= 1 for curve in runs.values() for v in curve.values() for value in v):
        low, high = axes.get_ylim()  # intervals of few seeds leave the range of scores
        axes.set_ylim(max(low, 0.0), min(high, 1.0))
    ratio_axis(axes, ratios)
    axes.set_xlabel("label ratio r (share of labels used)")
    name = metric.replace("_", " ").replace("f1", "F1").replace(" ap", " AP")
    axes.set_ylabel(f"{name} on {part}" if part else name)
    dress(axes)
    if len(entries) > 1 or next(iter(entries)):
        legend_beside(axes, [Line2D([], [], **look, label=n) for n, look in entries.items()])
    return figure


def posters(
    images: Sequence[Any], captions: Sequence[str] | None = None, columns: int = 6
) -> Figure:
    """Images side by side, e.g. posters with their genres.

    Args:
        images: arrays as `Axes.imshow` takes them: (H, W, 3), uint8 or floats in [0, 1].
        captions: a short text below each.
        columns: images in one row.

    Raises:
        ValueError: no images, or another number of captions.
    """
    if not len(images) or (captions is not None and len(captions) != len(images)):
        raise ValueError(
            "posters needs at least one image and one caption for each, "
            f"got {len(images)} and {None if captions is None else len(captions)}."
        )
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    figure = new_figure(1.25 * columns, 2.2 * rows, layout="constrained")
    for place, image in enumerate(images):
        axes = figure.add_subplot(rows, columns, 1 + place)
        axes.imshow(image)
        axes.set_xticks([])
        axes.set_yticks([])
        if captions is not None:
            axes.set_xlabel(
                textwrap.fill(captions[place], 20, break_on_hyphens=False), fontsize=7, color=INK
            )
    return figure


def _setting_style(place: int) -> dict[str, Any]:
    """Dash and filling of setting number `place`; they repeat only after 4."""
    fillings: tuple[dict[str, Any], ...] = (
        {},
        {"markerfacecolor": PAPER},
        {"fillstyle": "left", "markerfacecoloralt": PAPER},
        {"fillstyle": "bottom", "markerfacecoloralt": PAPER},
    )
    return {"linestyle": style(0, place)["linestyle"], **fillings[place % len(fillings)]}


def _plot_trials(entries: Sequence[Mapping[str, Any]], unit: str) -> Figure:
    """The dev loss of each trial, of each level where architectures grow, and the lowest so far."""
    known = [entry for entry in entries if "dev_loss" in entry]
    if not known:
        raise ValueError("plot_history found no losses: with one trial nothing is compared.")
    levels: list[Any] = [entry.get("level") for entry in known]
    grown = all(type(level) is int and 0 <= level < len(COLOURS) for level in levels)
    curves, styles = [], {}
    for place, level in enumerate(sorted(set(levels)) if grown else [None]):
        own = [entry for entry in known if level is None or entry["level"] == level]
        name = "a trial" if level is None else f"a trial of level {1 + level}"
        curves.append(([e["trial"] for e in own], [e["dev_loss"] for e in own], name))
        styles[name] = {"color": COLOURS[place], "linestyle": "", **marker(place, 4.0)}
    trials = [entry["trial"] for entry in known]
    lowest = np.minimum.accumulate([entry["dev_loss"] for entry in known]).tolist()
    curves.append((trials, lowest, "lowest so far"))
    styles["lowest so far"] = {**style(len(curves) - 1), "drawstyle": "steps-post"}
    row = Row(panels={"search by trials": curves}, styles=styles, ylabel=_loss(" on dev", unit))
    return draw_rows([row], xlabel="trial")


def _loss(where: str, unit: str) -> str:
    return f"mean loss{where} ({unit})" if unit else f"mean loss{where}"


def _by_kind(vectors: Iterable[str]) -> list[list[str]]:
    """Names that differ only in their first number, as `beta_0_1` and `beta_1_1`, together."""
    kinds: dict[str, list[str]] = {}
    for name in vectors:
        kinds.setdefault(re.sub(r"_\d+", "_#", name, count=1), []).append(name)
    return list(kinds.values())


def _weights_row(
    entries: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    labels: Mapping[str, Sequence[str]],
) -> Row:
    """Panels of the softmax of the logits `names`."""
    from scipy.special import softmax

    panels: dict[str, list[Any]] = {}
    styles: dict[str, dict[str, Any]] = {}
    epochs = [entry["epoch"] for entry in entries]
    for name in names:
        paths = np.array([softmax(np.atleast_2d(e["logits"][name]), axis=-1) for e in entries])
        slots, states = paths.shape[1:]
        texts = labels.get(name) or [str(number) for number in range(slots * states)]
        panels[name] = []
        for number, text in enumerate(texts):
            slot, state = divmod(number, states)
            place = state if slots > 1 else len(styles)
            styles.setdefault(text, style(place, slot))
            panels[name].append((epochs, paths[:, slot, state].tolist(), text))
    kind = re.sub(r"_\d+", "", names[0])
    legend = any(name in labels for name in names)
    return Row(panels=panels, styles=styles, ylabel=f"softmax of {kind}", zero=True, legend=legend)


def _wrap(text: str) -> str:
    """A long legend entry in several lines."""
    return textwrap.fill(text, 34, break_long_words=False, break_on_hyphens=False)
