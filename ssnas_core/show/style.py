"""The one look of all figures: colours, lines, legends outside, and files of fixed bytes.

Figures belong to no global state, so they need no display and no closing. The
background is opaque and light, so that a figure also reads on a dark page.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C7A00")
"""Okabe and Ito's palette (2008), most contrast first; its yellow darkened to show on white."""

PAPER, INK, PALE = "white", "#222222", "#858585"
FONT = 8.0
"""Size of texts in points; legends and ticks are a little smaller."""

LEGEND: Mapping[str, Any] = {
    "fontsize": FONT - 1.5, "frameon": False, "labelcolor": INK, "handlelength": 2.2,
    "borderaxespad": 0.3, "loc": "outside right center",
}  # fmt: skip
"""The look of legends, and their place beside the panels of a figure."""
_MARKERS = "osD^vPX*"
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
# No date and no version, so that the same figure is the same file.
_METADATA: Mapping[str, Any] = {
    "png": {},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """Return an empty figure of this size in inches."""
    return _picture_class()(figsize=(width, height), dpi=150, facecolor=PAPER, **options)


@functools.cache
def _picture_class() -> type[Figure]:
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that notebooks show without matplotlib's inline backend."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            pixels(self, self.dpi).save(buffer, "png")
            return buffer.getvalue()

    return Picture


def pixels(figure: Figure, dpi: float) -> Image:
    """Return `figure` as a picture in RGB, the one that `savefig` writes.

    It is drawn once: `savefig` draws it a first time for its layout alone.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    before = figure.dpi
    figure.set_dpi(dpi)
    try:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    finally:
        figure.set_dpi(before)


def save(figure: Figure, path: Path) -> Path:
    """Write `figure` to `path`, atomically; the same figure gives the same bytes.

    Raises:
        InputError: the name does not end in .png, .svg or .pdf.
    """
    import matplotlib

    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in _METADATA:
        raise InputError(f"expected a figure named .png, .svg or .pdf, got {Path(path).name!r}.")
    with matplotlib.rc_context({"svg.hashsalt": "ssnas"}), atomic_path(path) as temporary:
        if kind == "png":
            pixels(figure, 200).save(temporary, kind, dpi=(200, 200))
        else:
            figure.savefig(temporary, format=kind, metadata=_METADATA[kind])
    return Path(path)


def style(place: int, dash: int = 0) -> dict[str, Any]:
    """Return colour and dash of curve number `place`; without `dash` they repeat only after 32."""
    dashes = _DASHES[(place // len(COLOURS) + dash) % len(_DASHES)]
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": dashes, "linewidth": 1.4}


def marker(place: int, size: float = 4.5) -> dict[str, Any]:
    """Return the marker of curve number `place`; with `style`'s colours it repeats after 64."""
    return {
        "marker": _MARKERS[(place + place // len(COLOURS)) % len(_MARKERS)],
        "markersize": size,
    }


def text_width(text: str, size: float = FONT) -> float:
    """Return the width in inches of `text`, printed at `size` points."""
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    path = TextPath((0, 0), text, size=size)
    # A letter's curves have a point at each end: `get_extents` finds the same, eight times slower.
    places = path.vertices[path.codes != path.CLOSEPOLY, 0]
    return float(places.max() - places.min()) / 72


def legend_size(labels: Sequence[str]) -> tuple[float, float]:
    """Return width and height in inches of a legend with these texts, 0 without any."""
    if not labels:
        return 0.0, 0.0
    return max(text_width(label, LEGEND["fontsize"]) for label in labels) + 0.45, 0.135 * len(
        labels
    ) + 0.1


def panels(
    titles: Sequence[str], width: float, height: float, columns: int = 1, *, size: float = FONT,
    grid: str = "y", **options: Any,
) -> tuple[Figure, list[Axes]]:  # fmt: skip
    """Return a figure of `width` x `height` inches, and its axes: one below each of `titles`.

    They stand in rows of `columns`; letters have `size` points, and `grid` is the axis
    with lines. Other options are those of `Figure.subplots`.
    """
    figure = new_figure(width, height, layout="constrained")
    places = figure.subplots(-(-len(titles) // columns), columns, squeeze=False, **options).flat
    drawn = list(places)
    for axes in drawn[len(titles) :]:
        axes.set_axis_off()
    for axes, title in zip(drawn, titles, strict=False):
        dress(axes, title, size, grid)
    return figure, drawn[: len(titles)]


def dress(axes: Axes, title: str = "", size: float = FONT, grid: str = "y") -> None:
    """Give axes the common look of all charts."""
    axes.set_facecolor(PAPER)
    axes.set_title(title, fontsize=size, color=INK)
    axes.tick_params(labelsize=size - 1, colors=INK)
    axes.xaxis.label.set(fontsize=size, color=INK)
    axes.yaxis.label.set(fontsize=size, color=INK)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#E5E5E5", linewidth=0.6)  # pyright: ignore[reportArgumentType]
    axes.set_axisbelow(True)


def ratio_axis(axes: Axes, ratios: Sequence[float], width: float = 3.4) -> None:
    """Make the x axis logarithmic, with a number at each of `ratios` (ascending).

    On axes of `width` inches the numbers are turned where they would touch.
    """
    axes.set_xscale("log")
    axes.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
    axes.set_xticks([], minor=True)
    if len(ratios) == 1:
        axes.set_xlim(ratios[0] / 1.3, ratios[0] * 1.3)
    span = math.log(ratios[-1] / ratios[0]) or 1.0
    gaps = [math.log(b / a) / span for a, b in zip(ratios, ratios[1:], strict=False)]
    if any(gap < 0.28 / width for gap in gaps):
        axes.tick_params(axis="x", labelrotation=90)


Curve = tuple[Sequence[float], Sequence[float], str]
"""x values, y values, and a name."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Panels side by side, and what their curves are called.

    Args:
        panels: curves by title of the panel.
        styles: how the curves of each name are drawn; all of them are in the legend.
        ylabel: what is drawn, with its unit.
        zero: y begins at zero, and all panels of the row share its range.
    """

    panels: Mapping[str, Sequence[Curve]]
    styles: Mapping[str, Mapping[str, Any]]
    ylabel: str
    zero: bool = False
    legend: bool = True


def draw_rows(rows: Sequence[Row], xlabel: str = "epoch", one_legend: bool = False) -> Figure:
    """Return rows of panels with a legend at the right of each, or one legend for all.

    A curve of one point is drawn as a dot.
    """
    from matplotlib.lines import Line2D

    columns = max(len(row.panels) for row in rows)
    sizes = [legend_size(list(row.styles) if row.legend else []) for row in rows]
    beside = max(width for width, _ in sizes)
    share = len(rows) if one_legend else 1  # of a legend's height, to a row
    heights = [max(1.45, height / share) for _, height in sizes]
    figure = new_figure(2.05 * columns + beside, sum(heights) + 0.2, layout="constrained")
    grid = figure.add_gridspec(
        len(rows), columns + 1, height_ratios=heights,
        width_ratios=[*[1.75] * columns, max(beside, 0.01)],
    )  # fmt: skip
    for number, row in enumerate(rows):
        drawn: list[Axes] = []
        for column, (title, curves) in enumerate(row.panels.items()):
            first = drawn[0] if drawn and row.zero else None
            axes = figure.add_subplot(grid[number, column], sharey=first)
            drawn.append(axes)
            for x, y, name in curves:
                marker = {"marker": "o", "markersize": 4} if len(x) == 1 else {}
                axes.plot(x, y, **{**row.styles[name], **marker}, label=name)
            dress(axes, title)
            axes.tick_params(labelleft=first is None)
            axes.locator_params(axis="x", integer=True)
            last = all(column >= len(below.panels) for below in rows[number + 1 :])
            axes.set_xlabel(xlabel if last else "")
        drawn[0].set_ylabel(row.ylabel)
        if row.zero:
            drawn[0].set_ylim(0)
        if row.legend and not (one_legend and number):
            corner = figure.add_subplot(
                grid[:, columns] if one_legend else grid[number, len(drawn)]
            )
            corner.set_axis_off()
            handles = [Line2D([], [], **look, label=name) for name, look in row.styles.items()]
            corner.legend(handles=handles, **{**LEGEND, "loc": "center left"})
    return figure
