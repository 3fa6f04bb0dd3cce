"""One generated movie, as what writes its plot and paints its poster see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Story:
    """The factors a movie is made from; values are keys of `FACTORS`, the place a land."""

    theme: str  # what happens: the plot's nouns and verbs
    turn: str  # how it ends: the plot's last sentence
    length: str  # a feature, or a short that says so
    place: str  # a land that the plot names, the poster's or another
    land: str  # palette and landscape of the poster
    mood: str  # its light, contrast and brushwork
    print: str  # its printing technique
    emblem: str  # the silhouette in its middle
    echoes: tuple[str, ...] = ()  # poster factors that the plot names as well
