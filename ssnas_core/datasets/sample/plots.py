"""Plots of the generated sample: a template grammar over a story's factors.

A plot is four to seven sentences: an opening and a development that tell the
theme (`themes.toml`), one that names a place, sometimes an echo of the poster, and an
ending that tells the turn (`plots.toml`). The words of a theme are neutral about land and mood ("a
journey of a thousand miles" may be a Western or Sci-Fi), and the endings about
the theme.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from ssnas_core.datasets.sample.story import Story

_YEARS = {"newsreel": (1936, 1958), "engraving": (1948, 1994)}  # of other prints 1952 to 2014


@cache
def words(name: str) -> dict[str, Any]:
    """The lists to choose from in `<name>.toml`, as "themes", beside this module."""
    return tomllib.loads(
        (resources.files("ssnas_core.datasets.sample") / f"{name}.toml").read_text("utf-8")
    )


def write(story: Story, rng: random.Random) -> tuple[str, int, list[str]]:
    """Title, year and plots (the longest is the plot) of `story`."""
    lists, theme = words("plots"), words("themes")[story.theme]
    women, men = lists["women"], lists["men"]
    hero_is_she = rng.random() < 0.5
    first, second = rng.choice(women if hero_is_she else men), rng.choice(women + men)
    while second == first:
        second = rng.choice(women + men)
    surnames = rng.sample(lists["surnames"], 2)
    names = {
        "first": first,
        "second": second,
        "hero": f"{first} {surnames[0]}",
        "other": f"{second} {surnames[1]}",
        "role": rng.choice(theme["roles"]),
        "place": rng.choice(lists["towns"]),
        "he": "she" if hero_is_she else "he",
        "him": "her" if hero_is_she else "him",
        "his": "her" if hero_is_she else "his",
    }
    opening = rng.choice(theme["openings"])
    echoes = {
        factor: rng.choice(lists["echoes"][factor][getattr(story, factor)])
        for factor in story.echoes
    }
    mood = echoes.pop("mood", None)  # speaks of the whole tale, so it closes the plot
    place = rng.choice(lists["places"][story.place])
    sentences = [opening, rng.choice(theme["middles"]), place, *echoes.values()]
    sentences.append(rng.choice(lists["endings"][story.turn]))
    if mood is not None:
        sentences.append(mood)
    if story.length == "short":
        sentences.append(rng.choice(lists["shorts"]))
    plots = [_fill(sentences, names)]
    if rng.random() < 0.4:  # an outline beside the plot, as IMDb has
        plots.insert(rng.randrange(2), _fill([opening], names))
    title = _title(rng.choice(theme["nouns"]), story, names, rng)
    return title, rng.randint(*_YEARS.get(story.print, (1952, 2014))), plots


def _fill(sentences: list[str], names: Mapping[str, str]) -> str:
    text = " ".join(sentences)
    if "{other}" not in text:  # a second person enters by full name
        text = text.replace("{second}", "{other}", 1)
    if "{hero}" not in text:
        text = text.replace("{first}", "{hero}", 1)
    return text.format_map(names)


def _title(noun: str, story: Story, names: Mapping[str, str], rng: random.Random) -> str:
    titles = words("plots")["titles"]
    land = rng.choice(titles["land"][story.land])
    mood = rng.choice(titles["mood"][story.mood])
    title = rng.choice(
        (
            f"The {land} {noun}",
            f"{land} {noun}",
            f"The {mood} {noun}",
            f"{mood} {land}",
            f"The {noun} of {names['place']}",
            f"{names['first']} and the {noun}",
            f"A {noun} for {names['second']}",
            names["place"],
            f"The {mood} {noun} of {names['hero']}",
        )
    )
    return re.sub(r"\bA ([AEIOU])", r"An \1", title)
