"""Frames: precomputed pictures in a stack, and a slider that chooses one in the browser."""

from __future__ import annotations

import functools
import html
import io
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ssnas_core.common.errors import InputError
from ssnas_core.show.style import pixels

if TYPE_CHECKING:
    from ipywidgets import HTML, Stack, VBox
    from matplotlib.figure import Figure

_DPI = 160
_COLOURS = 48  # in a frame's palette
_ON_SCREEN = 150  # widest pixels per inch of a figure; plain ones have as many


def frames(
    values: Sequence[Any],
    draw: Callable[[Any], Figure | tuple[Figure, ...]],
    *,
    description: str,
    alt: Callable[[Any], str | tuple[str, ...]],
    caption: Callable[[Any], str] | None = None,
    label: Callable[[Any], str] = "{:g}".format,
    start: int = 0,
) -> VBox:
    """Return a slider over `values` and, below it, the figure of the value it stands at.

    Args:
        values: at least two, in the slider's order.
        draw: one figure for a value, or several to stand below each other.
        description: what the slider changes, e.g. `"label ratio r"`.
        alt: what the figure of a value shows, for those who cannot see it; as
            many texts as figures. Frames with equal picture and text are stored once.
        caption: numbers or a sentence below the figure; lines end with a newline.
        label: a value as the slider shows it.
        start: index of the value that is shown first.

    Returns:
        An ipywidgets box; the last expression of a cell shows it.

    Raises:
        InputError: fewer than two values, or `start` is none of their indices.
    """
    from ipywidgets import Layout, SelectionSlider

    if len(values) < 2 or not 0 <= start < len(values):
        raise InputError(
            f"expected at least two values and a start among their indices, got "
            f"{len(values)} and {start}; a single value needs no slider."
        )
    slider = SelectionSlider(
        options=[(label(value), place) for place, value in enumerate(values)],
        index=start,
        description=description,
        style={"description_width": "initial"},
        layout=Layout(width="auto", max_width="630px"),
    )
    once = functools.cache(page)  # one model for equal frames
    columns = [_images(draw(value), alt(value)) for value in values]
    if caption is not None:
        columns = [[*c, sentence(caption(v))] for c, v in zip(columns, values, strict=True)]
    rows = [[once(picture) for picture in row] for row in zip(*columns, strict=True)]
    panels = [linked([slider], row.__getitem__) for row in rows]
    return box([slider, *panels], f"{description}: {len(values)} frames")


def _images(figures: Figure | tuple[Figure, ...], alts: str | tuple[str, ...]) -> list[str]:
    figures = figures if isinstance(figures, tuple) else (figures,)
    alts = alts if isinstance(alts, tuple) else (alts,)
    return [image(figure, alt) for figure, alt in zip(figures, alts, strict=True)]


def image(figure: Figure, alt: str) -> str:
    """Return the figure as an `<img>` of a small palette PNG, never wider than the page."""
    width = round(figure.get_figwidth() * _ON_SCREEN)
    source = b64encode(_png(figure)).decode()
    return (
        f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{source}" '
        f'style="width:100%;max-width:{width}px;height:auto;margin:0">'
    )


def _png(figure: Figure) -> bytes:
    from PIL import Image

    picture = pixels(figure, _DPI).quantize(_COLOURS, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def sentence(lines: str) -> str:
    """Return lines of plain text as a paragraph."""
    broken = "<br>".join(html.escape(line) for line in lines.splitlines())
    return f'<p style="margin:0.2em 0;line-height:1.5">{broken}</p>'


def page(content: str) -> HTML:
    """Return one place in a stack."""
    from ipywidgets import HTML

    return HTML(content)


def linked(controls: Sequence[Any], leaf: Callable[..., Any], *chosen: int) -> Stack:
    """Return what `leaf` gives for the places at which the controls stand.

    It is a stack for the first control, of stacks for the next one, and so on; each shows, in
    the browser, the child at its control's index.

    Args:
        controls: lists or sliders.
        leaf: the widget to show, by the index of each control.
        chosen: indices of the controls before these.
    """
    from ipywidgets import Stack, jslink

    control, *more = controls
    places = range(len(control.options))
    children = [linked(more, leaf, *chosen, n) if more else leaf(*chosen, n) for n in places]
    level = Stack(children, selected_index=control.index)
    jslink((control, "index"), (level, "selected_index"))
    return level


def box(children: Sequence[Any], summary: str) -> VBox:
    """Return children below each other; `summary` stands for them where widgets are not shown."""
    living = _box_class()(children)
    living.summary = summary
    living.add_class("ssnas-widget")
    return living


@functools.cache
def _box_class() -> type[Any]:
    from ipywidgets import VBox

    class Living(VBox):
        """A box that says what it is where widgets are not shown, e.g. on a code host."""

        summary = ""

        def _repr_mimebundle_(self, **options: Any) -> Any:
            bundle = super()._repr_mimebundle_(**options) or {}
            return bundle | {"text/plain": f"[{self.summary}; they move in the built book]"}

    return Living
