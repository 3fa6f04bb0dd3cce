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

from ssnas_core.common.errors import InputError
from ssnas_core.show.genotype import Block, Layout, drawn_parts, paint, spread
from ssnas_core.show.style import (
    COLOURS,
    FONT,
    INK,
    PALE,
    PAPER,
    Curve,
    Row,
    draw_rows,
    dress,
    marker,
    new_figure,
    panels,
    ratio_axis,
    style,
    text_width,
)
from ssnas_core.show.tables import chosen, mean_curves, primary_score, ratios_of, score_name
from ssnas_core.spaces.genotype import Genotype

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SMALL = FONT - 1.0
_OTHERS = "#D2D2D2"


def sketch(
    width: float = 4.2, height: float = 2.6, columns: int = 1, *, title: str = ""
) -> tuple[Figure, Any]:
    """A figure of `width` x `height` inches and its empty axes, in the look of all others.

    Axes are one, or a list of `columns` side by side; `title` stands above the first.
    """
    figure, axes = panels([title, *[""] * (columns - 1)], width, height, columns)
    return figure, axes[0] if columns == 1 else axes


def draw_genotype(
    genotype: Genotype, features: Sequence[str] | None = None, title: str | None = None
) -> Figure:
    """The architecture as a graph: features on the left, cells, head on the right.

    Features stand in one column, grouped by modality, shallow ones on top. A
    node's first input (x) enters above its second (y). A cell of several steps
    is a frame around them; the head takes the concatenated outputs of all cells, or, in the
    layer space, the last layer's. Convolutional cells, the normal and the reduction one, stand
    side by side, each between the outputs of the two cells before and its own.

    Args:
        genotype: what to draw.
        features: all features that were to choose from, e.g. a store's; those
            not used are drawn pale. By default only the used ones are drawn.
        title: printed above; none by default.

    Returns:
        A figure in its natural printed size (8 features and 4 cells in a row: 7.3 inches wide).
    """
    names = tuple(dict.fromkeys((*(features or ()), *genotype.features)))
    layouts, used = [], list(genotype.features)
    for part, shown in drawn_parts(genotype, names):
        layouts.append(Layout(part, shown, text_width))
        used += part.features
    return paint(layouts, used, title)


_PANELS = 4  # side by side, at most


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
        one name have one colour; a matrix's second row is dashed. Of a matrix whose rows have
        the same labels each has a panel, and of one of many rows of two the first in each row is
        drawn.

    Raises:
        ValueError: the history is empty, or nothing in it can be drawn.
    """
    entries = list(history)
    if not entries:
        raise ValueError("plot_history needs at least one epoch, got an empty history.")
    if "trial" in entries[0]:
        return _plot_trials(entries, unit)
    rows, curves = [], []
    for key, name in (("train_loss", "weights, on train"), ("arch_loss", "architecture, on dev")):
        known = [entry for entry in entries if key in entry]  # the start has no loss yet
        if known:
            curves.append(_curve(known, key, name))
    if curves:
        styles = {name: style(place) for place, (_, _, name) in enumerate(curves)}
        rows.append(Row(panels={"loss": curves}, styles=styles, ylabel=_loss("", unit)))
    labels = labels or {}
    entries = [{**entry, "logits": _of_rows(entry.get("logits", {}), labels)} for entry in entries]
    first = entries[0]["logits"]
    labels = {n: labels.get(n) or labels.get(re.sub(r"_\d+$", "", n), ()) for n in first}
    for names in _by_kind(first):
        for start in range(0, len(names), _PANELS):
            rows.append(_weights_row(entries, names[start : start + _PANELS], labels))
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
    known: dict[str, list[Curve]] = {}
    for title, curves in stages.items():
        for name, history in curves.items():
            if entries := list(history):
                known.setdefault(title, []).append(_curve(entries, "loss", name))
    if not known:
        raise ValueError("plot_losses needs at least one epoch, got none.")
    present = dict.fromkeys(name for curves in known.values() for _, _, name in curves)
    ordered = dict.fromkeys([*(name for name in names if name in present), *present])
    styles = {name: style(place) for place, name in enumerate(ordered)}
    titles, columns = list(known), min(3, len(known))
    parts = [titles[start : start + columns] for start in range(0, len(titles), columns)]
    rows = [
        Row(panels={title: known[title] for title in part}, styles=styles, ylabel=_loss("", unit))
        for part in parts
    ]
    return draw_rows(rows, one_legend=True)


def plot_scores(
    rows: Iterable[Mapping[str, Any]],
    methods: Sequence[str] | None = None,
    *,
    metric: str | None = None,
    part: str = "test",
    notes: Sequence[str] = (),
) -> Figure:
    """Score against label ratio: a curve per method with its 95 % interval, named at its end.

    Args:
        rows: of a run, of several or of a study: `"method"`, `"label_ratio"`, `"seed"` and
            `metric`; optionally `"setting"`, a short text that tells runs apart which differ in
            more than the seed, and `"on"`, the part of the data that was scored: several parts
            are settings, too. A method has one colour, a setting one dash and filling.
        methods: those to tell apart; the others are pale lines without names. All by
            default. Of more than 8 curves no intervals are drawn.
        metric: the score; by default what methods are compared by, accuracy or weighted F1.
        part: of the data that was scored, for the axis label, where rows have no `"on"`.
        notes: lines below the axes, as to say what the settings are.

    Returns:
        Means over the seeds that each method has, with Student t intervals: bands, or bars
        where a curve is one point; a single seed has none.

    Raises:
        InputError: no rows, or a method without any.
    """
    rows = list(rows)
    if not rows:
        raise InputError("expected at least one row of scores, got none; train a method first.")
    metric = metric or primary_score(rows)
    methods = chosen(rows, methods)
    parts = {row.get("on", part) for row in rows}
    part = parts.pop() if len(parts) == 1 else ""
    settled = [{**row, "setting": _setting(row, bool(parts))} for row in rows]
    curves = mean_curves(settled, metric, ("method", "setting"))
    shown = sorted((key for key in curves if key[0] in methods), key=lambda k: methods.index(k[0]))
    settings = list(dict.fromkeys(setting for _, setting in curves))
    several = len(settings) > 1
    height = max(2.6, 0.17 * len(shown))
    names = [", ".join(filter(None, key)) for key in shown]
    widest = max(text_width(name, _SMALL) for name in (*names, "pale: 10 more"))
    axes = _fixed_axes(3.4, height, right=widest + 0.5, notes=notes)
    others = [curve for key, curve in curves.items() if key not in shown]
    for curve in others:
        means = [mean for mean, _, _ in curve.values()]
        axes.plot(list(curve), means, color=_OTHERS, linewidth=0.8, zorder=1)
    looks = []
    for place, ((method, setting), name) in enumerate(zip(shown, names, strict=True)):
        curve, number = curves[method, setting], methods.index(method)
        x, (means, lows, highs) = np.array(list(curve)), np.array(list(curve.values())).T
        look = style(number) | marker(number, 4.0)
        looks.append(look | _setting_style(settings.index(setting)) if several else look)
        if len(x) == 1:  # points of one label ratio side by side
            x = x * 1.2 ** ((place + 0.5) / len(shown) - 0.5)
        axes.plot(x, means, **looks[-1], label=name, zorder=3)
        if len(shown) <= len(COLOURS) and len(x) == 1:
            bars = [means - lows, highs - means]
            axes.errorbar(x, means, bars, color=look["color"], capsize=2, elinewidth=0.8)
        elif len(shown) <= len(COLOURS):
            axes.fill_between(x, lows, highs, color=look["color"], alpha=0.14, linewidth=0)
    ratio_axis(axes, ratios_of(rows))
    if all(0 <= mean <= 1 for curve in curves.values() for mean, _, _ in curve.values()):
        low, high = axes.get_ylim()  # intervals of few seeds leave the range of scores
        axes.set_ylim(max(low, 0.0), min(high, 1.0))
    axes.set_xlabel("label ratio r (share of labels used)")
    name = score_name(rows, metric)
    axes.set_ylabel(f"{name} on {part}" if part else name)
    dress(axes)
    _name_ends(axes, names, [list(curves[key].values())[-1][0] for key in shown], looks, height)
    if others:
        axes.text(
            1.06, -0.14 / height, f"pale: {len(others)} more", color=PALE, fontsize=_SMALL,
            va="center", transform=axes.transAxes,
        )  # fmt: skip
    return axes.get_figure(root=True)  # type: ignore[return-value]


def _setting(row: Mapping[str, Any], several_parts: bool) -> str:
    on = f"on {row['on']}" if several_parts else ""
    return " ".join(filter(None, (row.get("setting"), on)))


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


def _fixed_axes(width: float, height: float, right: float, notes: Sequence[str]) -> Axes:
    """Axes of this size in inches, with room for texts at their right and for notes below."""
    columns = int((width + right) / 0.062)  # of letters
    lines = [
        line for note in notes for line in textwrap.wrap(note, columns, subsequent_indent="  ")
    ]
    left, below, above = 0.65, 0.55 + 0.14 * len(lines), 0.12
    figure = new_figure(left + width + right, below + height + above)
    whole = (figure.get_figwidth(), figure.get_figheight())
    figure.text(
        0.15 / whole[0], 0.05 / whole[1], "\n".join(lines), color=INK, fontsize=_SMALL - 0.5,
        linespacing=1.25, va="bottom",
    )  # fmt: skip
    return figure.add_axes((left / whole[0], below / whole[1], width / whole[0], height / whole[1]))


def _name_ends(
    axes: Axes,
    names: Sequence[str],
    ends: Sequence[float],
    looks: Sequence[Mapping[str, Any]],
    height: float,
) -> None:
    """Each curve's name at the right, at the height of its end, none over another.

    Markers stand beside the names where curves share a colour.
    """
    low, high = axes.get_ylim()
    order = sorted(range(len(names)), key=lambda place: -ends[place])
    goals = [height * (ends[place] - low) / (high - low) for place in order]
    heights = spread([Block(names[place], 0) for place in order], goals)
    down = np.arange(len(order))
    gap = min(height / max(1, len(order) - 1), 0.16)
    heights = np.minimum(heights, height - gap * down)  # all beside the axes, none above or below
    heights = np.maximum(heights, gap * down[::-1])
    alike = len({look["color"] for look in looks}) < len(looks)
    for place, goal, at in zip(order, goals, heights / height, strict=True):
        colour = looks[place]["color"]
        outside: Any = {"clip_on": False, "transform": axes.transAxes}
        axes.plot([1.005, 1.05], [goal / height, at], color=colour, linewidth=0.7, **outside)
        if alike:
            axes.plot([1.068], [at], **{**looks[place], "linestyle": ""}, **outside)
        axes.text(
            1.095 if alike else 1.06, at, names[place], color=colour, fontsize=_SMALL, va="center",
            transform=axes.transAxes,
        )  # fmt: skip


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
        curves.append(_curve(own, "dev_loss", name, "trial"))
        styles[name] = {"color": COLOURS[place], "linestyle": "", **marker(place, 4.0)}
    trials, losses, name = _curve(known, "dev_loss", "lowest so far", "trial")
    curves.append((trials, np.minimum.accumulate(losses).tolist(), name))
    styles[name] = {**style(len(curves) - 1), "drawstyle": "steps-post"}
    row = Row(panels={"search by trials": curves}, styles=styles, ylabel=_loss(" on dev", unit))
    return draw_rows([row], xlabel="trial")


def _curve(entries: Iterable[Mapping[str, Any]], y: str, name: str, x: str = "epoch") -> Curve:
    xs, ys = zip(*((entry[x], entry[y]) for entry in entries), strict=True)
    return xs, ys, name


def _loss(where: str, unit: str) -> str:
    return f"mean loss{where} ({unit})" if unit else f"mean loss{where}"


def _by_kind(vectors: Iterable[str]) -> list[list[str]]:
    """Names that differ only in their first number, as `beta_0_1` and `beta_1_1`, together."""
    kinds: dict[str, list[str]] = {}
    for name in vectors:
        kinds.setdefault(re.sub(r"_\d+", "_#", name, count=1), []).append(name)
    return list(kinds.values())


def _of_rows(logits: Mapping[str, Any], labels: Mapping[str, Any]) -> dict[str, Any]:
    """Give each row of a matrix a name of its own, where each has all the labels."""
    parts: dict[str, Any] = {}
    for name, value in logits.items():
        if np.ndim(value) == 2 and len(labels.get(name, ())) == np.shape(value)[1]:
            parts |= {f"{name}_{place}": row for place, row in enumerate(value)}
        else:
            parts[name] = value
    return parts


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
        one_each = slots > 2 and states == 2  # a choice of its own in each row: the first says all
        for number, text in list(enumerate(texts))[:: 2 if one_each else 1]:
            slot, state = divmod(number, states)
            place = state if slots > 1 and not one_each else len(styles)
            styles.setdefault(text, style(place, 0 if one_each else slot))
            panels[name].append((epochs, paths[:, slot, state].tolist(), text))
    kind = re.sub(r"_\d+", "", names[0])
    legend = any(labels.get(name) for name in names)
    return Row(panels=panels, styles=styles, ylabel=f"softmax of {kind}", zero=True, legend=legend)
