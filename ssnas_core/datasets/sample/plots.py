"""Plots of the generated sample: a template grammar over a story's factors.

A plot is three to six sentences: an opening and a development that tell the
theme (`_themes`), sometimes an echo of the poster, and an ending that tells the
turn. The words of a theme are neutral about land and mood ("a journey of a
thousand miles" may be a Western or Sci-Fi), and the endings about the theme.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ssnas_core.datasets.sample.themes import MIDDLES, OPENINGS, ROLES

if TYPE_CHECKING:
    from ssnas_core.datasets.sample.story import Story

WOMEN = (
    "Ada Agnes Alma Beatrix Carmen Clara Cora Delia Edith Elena Esther Freya Greta Hana Ines Iris "
    "Josefa Juno Lena Lucia Mabel Maren Mina Nadia Nora Odile Olga Petra Rosa Ruth Sabine Selma "
    "Thea Ursula Vera Wanda Yara Zelda"
).split()
MEN = (
    "Abel Amos Anton Bruno Casper Cyrus Dario Edgar Elias Emil Felix Gideon Hugo Ivo Jasper Jonas "
    "Kofi Laszlo Leon Luca Magnus Marcel Milo Nils Oskar Otto Pavel Quentin Rafael Ruben Samuel "
    "Silas Tomas Ulric Viktor Walter Yusuf Zoltan"
).split()
SURNAMES = (
    "Abara Ashdown Bellamy Brandt Calloway Castellan Crane Dacosta Delacroix Drummond Eklund "
    "Farrow Fenwick Galloway Grimaldi Hale Halloran Ibarra Jansen Kessler Kowal Lindqvist Lockhart "
    "Marchetti Mercer Moreau Nakata Novak Okafor Orlov Pemberton Petrov Quill Reyes Rosales Salter "
    "Santoro Sorensen Tanaka Thorne Ullman Vance Varga Vasquez Wexler Whitlock Winter Yardley "
    "Zeller"
).split()
TOWNS = (
    "Alder Reach|Ashgrove|Bitter Creek|Blackmoor|Brindle|Calder's Rest|Cinder Bay|Coldwater|"
    "Dunmore|Eastmark|Elderby|Far Haven|Fallow Bridge|Gallows Hill|Greyhollow|Halcyon|Harrow's End|"
    "Ironvale|Juniper Cross|Kestrel Point|Lanternfield|Little Tarn|Marrow Gate|Mercy|"
    "New Providence|"
    "Nightingale Row|Oxbow|Pale Harbour|Quarry Lane|Redstone|Saint Orrin|Sorrow Falls|Tamarind|"
    "Tolliver|Umber|Vesper|Wick's Landing|Winterbourne|Wren Hollow|Yarrow"
).split("|")

ENDINGS = {
    "laugh": (
        "A mistaken identity, three identical hats and a runaway cake do the rest.",
        "By the time everyone is hiding in the same wardrobe, the farce is complete.",
        "It all ends in a ridiculous misunderstanding, a chase of waiters and a very long apology.",
        "Nothing goes as planned, least of all the prank with the donkey.",
        "The absurd scheme works for exactly the wrong person, and the whole town roars with "
        "laughter.",
        "{first} bluffs, blunders and stammers into the silliest victory imaginable.",
        "Then the wrong twin arrives, and the joke is on everybody.",
    ),
    "loss": (
        "When the end comes, there is no one left to say goodbye to.",
        "{first} arrives too late, and grief is all that can be carried home.",
        "One of them will not survive, and the other must learn to mourn.",
        "What is lost is never found again, only remembered at a graveside.",
        "The price is a life, and {first} pays it alone.",
        "In the last scene an empty chair, a folded coat and a farewell nobody heard.",
        "Sorrow, in the end, is the only inheritance.",
    ),
    "chase": (
        "Hunted from rooftop to rooftop, {first} has until dawn to escape.",
        "With pursuers an hour behind and a bomb already ticking, there is only one way out.",
        "It becomes a race against the clock, through fire, flood and a collapsing tunnel.",
        "Now {first} is running, wounded and outnumbered, and the pursuit does not tire.",
        "The fuse is lit, the exits are blocked, and {second} is at the controls.",
        "A breathless pursuit ends with both of them hanging from the same rope.",
        "Ambushed twice before noon, they fight their way out with whatever is at hand.",
    ),
    "secret": (
        "But {second} has been lying from the start, and the truth is hidden closer than anyone "
        "thinks.",
        "Nobody is who they claim to be, and the betrayal was planned long ago.",
        "Then a hidden door, a double life and a name that was never {his} own come to light.",
        "The last confession reveals who has been watching all along.",
        "Only {second} knows what was really buried that night, and the secret is for sale.",
        "What {first} uncovers is a conspiracy of silence with {his} own signature on it.",
        "Someone among them is an impostor, and the mask is beginning to slip.",
    ),
}
SHORTS = (
    "A short film in nine wordless minutes.",
    "A short told in a single unbroken take.",
    "This short sketch runs under a quarter of an hour.",
    "A student short, shot over one weekend.",
)
ECHOES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "land": {
        "desert": (
            "Around them lies nothing but canyon, cactus and red dust.",
            "The desert sun bleaches the mesas white.",
            "Sand buries their tracks before noon, and the wells are dry.",
        ),
        "city": (
            "Neon and rain fill the avenues of the city.",
            "Above the streets the skyscrapers never go dark.",
            "The city hums below, all traffic, alleys and lit windows.",
        ),
        "sea": (
            "The tide brings salt, driftwood and rumours to the harbour.",
            "Beyond the reef the ocean waits.",
            "Waves break over the lighthouse, and no sailor will put out.",
        ),
        "forest": (
            "The forest closes over the path, moss and fern and ancient oak.",
            "Deep in the woods the owls have gone quiet.",
            "Among the pines, even the trees seem to listen.",
        ),
        "snow": (
            "Snow has closed the mountain pass.",
            "The glacier creaks above the frozen valley.",
            "A blizzard cuts the summit off from the world.",
        ),
        "stars": (
            "Overhead the stars are close, and a second moon is rising.",
            "Beyond the dome there is only orbit, vacuum and starlight.",
            "A comet hangs over the colony like a lamp.",
        ),
    },
    "mood": {
        "bright": (
            "All of it is told with sunny good cheer.",
            "The days are golden and full of mischief.",
            "A light-hearted tale in high spirits.",
        ),
        "tender": (
            "It unfolds gently, in quiet and wistful afternoons.",
            "A tender, soft-spoken tale.",
            "Much is said in small gestures and patient silences.",
        ),
        "tense": (
            "Nerves fray, and every footstep could be a threat.",
            "The danger tightens by the hour.",
            "A taut, feverish tale of mounting suspicion.",
        ),
        "bleak": (
            "Hope is scarce, and the winters are long and hungry.",
            "A sombre, unforgiving tale.",
            "Poverty and bitterness have hollowed everyone out.",
        ),
    },
    "emblem": {
        "couple": ("Two figures, hand in hand, are seen at dusk.", "The pair become inseparable."),
        "weapon": ("A loaded gun lies on the table.", "Somewhere a sword is being sharpened."),
        "eye": ("A detail is seen through a magnifying glass.", "An unblinking eye follows them."),
        "beast": ("Something with claws is loose.", "A monster is said to feed at night."),
        "traveller": ("The engine is running.", "There is a vessel ready to depart."),
        "child": ("A child with a red balloon follows.", "A small boy flies his kite."),
        "instrument": ("An old violin plays somewhere.", "A guitar hangs on the wall."),
        "portrait": ("A face in a gilded frame looks on.", "A portrait hangs over the mantel."),
    },
}

TITLE_NOUNS = {
    "love": "Valentine Bride Promise Kiss Letter Waltz Sweetheart",
    "crime": "Alibi Heist Gun Witness Getaway Verdict Thief",
    "journey": "Road Trail Crossing Horizon Voyage Map Frontier",
    "battle": "Siege Regiment Flag Bugle Garrison Armistice Bridge",
    "haunting": "Curse Phantom Crypt Whisper Seance Shadow Bell",
    "home": "Supper House Cousin Kitchen Orchard Holiday Puppy",
    "riddle": "Cipher Stranger Key Clue Diary Guest Riddle",
    "stage": "Encore Song Overture Chorus Melody Ballad Fiddle",
    "contest": "Champion Underdog Final Rematch Medal Sprint Team",
    "life": "Life Portrait Genius Century Legacy Apprentice Memoir",
}
TITLE_LANDS = {
    "desert": "Desert Canyon Dust Mesa Copper Scorpion",
    "city": "City Midnight Neon Boulevard Rooftop Uptown",
    "sea": "Harbour Tidal Salt Lighthouse Coral Pelican",
    "forest": "Forest Cedar Moss Hollow Fern Raven",
    "snow": "Winter Glacier Frost Summit White Alpine",
    "stars": "Star Comet Lunar Orbit Astral Saturn",
}
TITLE_MOODS = {
    "bright": "Merry Lucky Golden Perfect Runaway",
    "tender": "Quiet Gentle Last Little Faithful",
    "tense": "Deadly Burning Broken Sudden Crimson",
    "bleak": "Bitter Hollow Lost Nameless Bleak",
}


def write(story: Story, rng: random.Random) -> tuple[str, int, list[str]]:
    """Title, year and plots (the longest is the plot) of `story`."""
    hero_is_she = rng.random() < 0.5
    first, second = rng.choice(WOMEN if hero_is_she else MEN), rng.choice(WOMEN + MEN)
    while second == first:
        second = rng.choice(WOMEN + MEN)
    surnames = rng.sample(SURNAMES, 2)
    words = {
        "first": first,
        "second": second,
        "hero": f"{first} {surnames[0]}",
        "other": f"{second} {surnames[1]}",
        "role": rng.choice(ROLES[story.theme].split("|")),
        "place": rng.choice(TOWNS),
        **dict(
            zip(("he", "him", "his"), ("she", "her", "her") if hero_is_she else _HE, strict=True)
        ),
    }
    opening = rng.choice(OPENINGS[story.theme])
    echo = {factor: rng.choice(ECHOES[factor][getattr(story, factor)]) for factor in story.echoes}
    mood = echo.pop("mood", None)  # speaks of the whole tale, so it closes the plot
    sentences = [opening, rng.choice(MIDDLES[story.theme]), *echo.values()]
    sentences.append(rng.choice(ENDINGS[story.turn]))
    if mood is not None:
        sentences.append(mood)
    if story.length == "short":
        sentences.append(rng.choice(SHORTS))
    plot = _fill(sentences, words)
    plots = [plot]
    if rng.random() < 0.4:  # an outline beside the plot, as IMDb has
        plots.insert(rng.randrange(2), _fill([opening], words))
    return _title(story, words, rng), _year(story, rng), plots


_HE = ("he", "him", "his")


def _fill(sentences: list[str], words: Mapping[str, str]) -> str:
    text = " ".join(sentences)
    if "{other}" not in text:  # a second person enters by full name
        text = text.replace("{second}", "{other}", 1)
    if "{hero}" not in text:
        text = text.replace("{first}", "{hero}", 1)
    return text.format_map(dict(words))


def _title(story: Story, words: Mapping[str, str], rng: random.Random) -> str:
    noun = rng.choice(TITLE_NOUNS[story.theme].split())
    land = rng.choice(TITLE_LANDS[story.land].split())
    mood = rng.choice(TITLE_MOODS[story.mood].split())
    patterns = (
        f"The {land} {noun}",
        f"{land} {noun}",
        f"The {mood} {noun}",
        f"{mood} {land}",
        f"The {noun} of {words['place']}",
        f"{words['first']} and the {noun}",
        f"A {noun} for {words['second']}",
        f"{words['place']}",
        f"The {mood} {noun} of {words['hero']}",
    )
    title = rng.choice(patterns)
    return re.sub(r"\bA ([AEIOU])", r"An \1", title)


def _year(story: Story, rng: random.Random) -> int:
    first, last = {"newsreel": (1936, 1958), "engraving": (1948, 1994)}.get(
        story.print, (1952, 2014)
    )
    return rng.randint(first, last)
