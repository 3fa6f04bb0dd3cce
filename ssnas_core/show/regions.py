"""The regions of a picture, and which of them are meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ssnas_core.show.curves import sketch
from ssnas_core.show.style import COLOURS, PALE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_regions(boxes: ArrayLike, shares: Sequence[float], *, title: str = "") -> Figure:
    """Draw the boxes of a picture, the one of the largest share wide and with its share.

    Args:
        boxes: (R, 4), x1, y1, x2, y2 in pixels, both corner pixels within; rows of 0 are none.
        shares: (R,), one of each region.
        title: above the picture.
    """
    from matplotlib.patches import Rectangle

    corners = np.asarray(boxes, dtype=float)
    figure, axes = sketch(3.8, 3.6, title=title)
    best = int(np.argmax(shares))
    for place in np.flatnonzero(corners.any(1)).tolist():
        x1, y1, x2, y2 = corners[place]
        look = {"edgecolor": PALE, "linewidth": 1.0}
        if place == best:
            look = {"edgecolor": COLOURS[1], "linewidth": 3.0}
            axes.text(x1, y1 - 1, f"{shares[place]:.2f}", color=COLOURS[1], fontsize=7)
        axes.add_patch(Rectangle((x1, y1), x2 - x1 + 1, y2 - y1 + 1, fill=False, **look))
    wide, high = corners[:, 2].max() + 4, corners[:, 3].max() + 4
    axes.set(xlim=(-4, wide), ylim=(high, -6), aspect="equal", xlabel="pixels")
    axes.grid(False)
    return figure
