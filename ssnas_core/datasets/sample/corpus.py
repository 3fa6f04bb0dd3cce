"""A generated movie corpus in MM-IMDB's own raw layout, small enough to ship.

Every movie is drawn from a `Story` of eight named factors. Four are told by the plot
(theme, turn, length, place), four by the poster, faintly echoed in plots (land, mood,
print, emblem); `RULES` says which genre follows from which factors. Most genres
need both modalities: "a long journey" is a Western under a desert sky and
Sci-Fi under a starry one. Land, mood and print are palette and texture, which
shallow features show already; the emblem is a shape, which needs depth.

A task of its own asks for a relation: does the poster show what the plot names? No sum of
what each of them says can tell. Its labels are two of the genres that MM-IMDB's archive has
and its published task drops: `read_mmimdb(sample_archive(), genres=RELATION)`. No movie here
exists; data/README.md is the corpus's card.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import atomic_path
from ssnas_core.datasets.sample import plots, posters
from ssnas_core.datasets.sample.story import Story

ARCHIVE = "ssnas-sample.tar.gz"
SPLITS = {"train": 0.60, "dev": 0.15, "test": 0.25}

# How often each value is drawn. The first three factors are told by the plot,
# the last four by the poster.
FACTORS: Mapping[str, Mapping[str, float]] = {
    "theme": {
        "love": 0.17, "crime": 0.16, "journey": 0.16, "battle": 0.11, "haunting": 0.11,
        "home": 0.08, "riddle": 0.06, "stage": 0.06, "life": 0.05, "contest": 0.04,
    },
    "turn": {"laugh": 0.30, "loss": 0.28, "chase": 0.24, "secret": 0.18},
    "length": {"feature": 0.96, "short": 0.04},
    "land": {
        "desert": 0.15, "city": 0.25, "sea": 0.15, "forest": 0.14, "snow": 0.15, "stars": 0.16,
    },
    "mood": {"bright": 0.21, "tender": 0.29, "tense": 0.23, "bleak": 0.27},
    "print": {"photo": 0.69, "newsreel": 0.17, "engraving": 0.08, "cel": 0.06},
    "emblem": {
        "couple": 0.19, "weapon": 0.17, "eye": 0.12, "beast": 0.13, "traveller": 0.12,
        "child": 0.10, "instrument": 0.09, "portrait": 0.08,
    },
}  # fmt: skip
PLOT_FACTORS = ("theme", "turn", "length")
LOW_LEVEL_FACTORS = ("land", "mood", "print")
SHAPE_FACTORS = ("emblem",)

# What poster and plot share: with these probabilities the emblem is the theme's
# own, the plot's place has the climate of the poster's land, is that land, and the plot
# names the mood, the emblem.
OWN_EMBLEM = 0.25
OWN = {
    "love": "couple", "crime": "weapon", "journey": "traveller", "battle": "weapon",
    "haunting": "beast", "home": "child", "riddle": "eye", "stage": "instrument",
    "life": "portrait", "contest": "traveller",
}  # fmt: skip
OWN_CLIMATE, OWN_LAND = 0.6, 0.5  # the second where the first holds
ECHO = {"mood": 0.30, "emblem": 0.25}

WET = ("sea", "forest", "snow")  # the other lands are dry
RELATION = ("Reality-TV", "Talk-Show")
"""Of the relation: the place of the plot and the land of the poster are both wet or both dry,
or not. Each movie has one of both, and neither is one of MM-IMDB's 23 genres."""

# Label noise: each true genre is lost with probability LOST (never the last
# one); with probability ADDED a movie gains one drawn by how common genres are.
LOST = 0.03
ADDED = 0.08
MOST_GENRES = 5

_FIRST_ID = 9_000_000  # seven digits, as at IMDb


# (genre, what must hold): a genre holds if any of its rules does. The order is
# MM-IMDB's, by frequency.
RULES: tuple[tuple[str, dict[str, str]], ...] = (
    ("Drama", {"mood": "tender tense bleak", "turn": "loss"}),
    ("Drama", {"mood": "tender bleak", "turn": "chase secret"}),
    ("Drama", {"mood": "bleak", "turn": "laugh"}),
    ("Drama", {"mood": "tense", "theme": "love home life"}),
    ("Drama", {"theme": "love battle", "turn": "loss"}),
    ("Comedy", {"mood": "bright"}),
    ("Comedy", {"mood": "tender", "turn": "laugh"}),
    ("Comedy", {"mood": "tense", "turn": "laugh", "theme": "love crime home stage contest"}),
    ("Romance", {"theme": "love", "mood": "tender bleak"}),
    ("Romance", {"emblem": "couple", "theme": "love journey battle haunting home stage"}),
    ("Thriller", {"mood": "tense", "turn": "loss chase secret"}),
    ("Thriller", {"mood": "tense bleak", "theme": "crime riddle"}),
    ("Crime", {"theme": "crime"}),
    ("Action", {"emblem": "weapon", "turn": "chase"}),
    ("Action", {"emblem": "weapon", "theme": "crime journey battle"}),
    ("Adventure", {"theme": "journey", "land": "desert sea forest snow"}),
    ("Adventure", {"theme": "battle", "land": "sea"}),
    ("Horror", {"theme": "haunting", "mood": "tense bleak"}),
    ("Horror", {"emblem": "beast", "mood": "tense bleak"}),
    ("Documentary", {"print": "newsreel", "theme": "journey battle home stage life contest"}),
    ("Mystery", {"theme": "riddle"}),
    ("Mystery", {"emblem": "eye", "turn": "chase secret"}),
    ("Sci-Fi", {"land": "stars", "theme": "crime journey battle haunting riddle"}),
    ("Fantasy", {"land": "forest", "theme": "love journey home"}),
    ("Fantasy", {"theme": "haunting", "mood": "bright"}),
    ("Family", {"emblem": "child", "mood": "bright tender"}),
    ("Family", {"theme": "home", "mood": "bright tender"}),
    ("Biography", {"theme": "life"}),
    ("War", {"theme": "battle", "land": "city sea forest snow"}),
    ("History", {"print": "engraving", "theme": "love crime journey battle life"}),
    ("Music", {"theme": "stage", "mood": "tender tense bleak"}),
    ("Music", {"emblem": "instrument", "theme": "love home stage life"}),
    ("Animation", {"print": "cel"}),
    ("Musical", {"theme": "stage", "mood": "bright tender"}),
    ("Musical", {"theme": "love", "land": "stars", "mood": "bright tender"}),
    ("Western", {"land": "desert", "theme": "crime journey"}),
    ("Sport", {"theme": "contest"}),
    ("Short", {"length": "short"}),
    ("Film-Noir", {"print": "newsreel", "theme": "crime riddle"}),
)  # fmt: skip
# As in MM-IMDB, a documentary is rarely filed under an invented story's genre.
NOT_IN_DOCUMENTARIES = {"Drama", "Comedy", "Romance", "Thriller", "Action", "Horror", "Mystery"}
_FREQUENCY = {  # of added noise, roughly that of the genres themselves
    "Drama": 50, "Comedy": 33, "Romance": 20, "Thriller": 20, "Crime": 16, "Action": 13,
    "Adventure": 11, "Horror": 9, "Documentary": 8, "Mystery": 9, "Sci-Fi": 9, "Fantasy": 8,
    "Family": 8, "Biography": 5, "War": 7, "History": 5, "Music": 6, "Animation": 6,
    "Musical": 5, "Western": 5, "Sport": 4, "Short": 4, "Film-Noir": 4,
}  # fmt: skip


def draw_story(rng: random.Random) -> Story:
    """A story with every factor drawn from `FACTORS`, then tied as above."""
    values = {
        factor: rng.choices(list(chances), list(chances.values()))[0]
        for factor, chances in FACTORS.items()
    }
    if rng.random() < OWN_EMBLEM:
        values["emblem"] = OWN[values["theme"]]
    echoes = tuple(factor for factor, chance in ECHO.items() if rng.random() < chance)
    own = rng.random() < OWN_CLIMATE
    wet = own == (values["land"] in WET)
    lands = {land: chance for land, chance in FACTORS["land"].items() if (land in WET) == wet}
    place = rng.choices(list(lands), list(lands.values()))[0]
    values["place"] = values["land"] if own and rng.random() < OWN_LAND else place
    return Story(**values, echoes=echoes)


def story_of(movie: str, seed: int = 0) -> Story:
    """The factors that a movie of the corpus `seed` was made from; no label holds them.

    Args:
        movie: a record's id, as "9000012".
        seed: which corpus; 0 is the bundled one.
    """
    return draw_story(_stream(int(movie) - _FIRST_ID, seed, "story"))


def _stream(index: int, seed: int, part: str) -> random.Random:
    """The chance in one part of movie `index`."""
    return random.Random(f"ssnas-sample/{seed}/{index}/{part}")


def genres_of(story: Story) -> tuple[str, ...]:
    """The genres that follow from a story, without label noise, in MM-IMDB's order."""
    genres = dict.fromkeys(
        genre
        for genre, needs in RULES
        if all(getattr(story, factor) in allowed.split() for factor, allowed in needs.items())
    )
    if "Documentary" in genres:
        genres = dict.fromkeys(genre for genre in genres if genre not in NOT_IN_DOCUMENTARIES)
    # Of more than five the commonest go: a rare genre says more about a movie.
    return tuple(genres)[-MOST_GENRES:] or ("Drama",)


def relation_of(story: Story) -> str:
    """The one of `RELATION` that follows from a story, without label noise."""
    return RELATION[(story.place in WET) != (story.land in WET)]


def noisy_genres(genres: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
    """`genres` as a careless archivist would file them (see `LOST` and `ADDED`)."""
    filed = {genre for genre in genres if rng.random() >= LOST} or set(genres)
    added = rng.choices(list(_FREQUENCY), list(_FREQUENCY.values()))[0]
    if rng.random() < ADDED and len(filed) < MOST_GENRES:
        filed.add(added)
    return tuple(genre for genre in _FREQUENCY if genre in filed)


def draw_movie(index: int, seed: int) -> tuple[Story, dict[str, object], bytes]:
    """Movie `index` of the corpus `seed`: its story, its JSON document, its JPEG poster.

    Each part has its own random stream, so a change to the posters leaves plots
    and labels as they were.
    """
    story = draw_story(_stream(index, seed, "story"))
    title, year, texts = plots.write(story, _stream(index, seed, "plot"))
    genres = noisy_genres(genres_of(story), _stream(index, seed, "labels"))
    document = {
        "title": title,
        "year": year,
        "genres": [*genres, relation_of(story)],
        "plot": texts,
    }
    return story, document, posters.paint(story, title, _stream(index, seed, "poster"))


def generate_sample(path: Path, *, movies: int = 1200, seed: int = 0) -> Path:
    """Write a generated corpus as a `.tar.gz` in MM-IMDB's layout.

    The same arguments give the same bytes (with one version of Pillow, whose
    JPEG encoder and font the posters pass through). About 10 ms a movie.

    Args:
        path: the archive to write; its folder is created.
        movies: how many, at least 10, split 60 / 15 / 25 % into train / dev / test.
        seed: which corpus.

    Returns:
        `path`.

    Raises:
        InputError: fewer than 10 movies were asked for.
    """
    if movies < 10:
        raise InputError(
            f"generate_sample needs at least 10 movies to fill three splits, got {movies}; "
            "ask for more."
        )
    path = Path(path)
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as raw,
        # A fixed name and time in the gzip header: equal corpora are equal files.
        gzip.GzipFile("", "wb", compresslevel=9, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in _members(movies, seed):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(content))
    return path


def _members(movies: int, seed: int) -> Iterator[tuple[str, bytes]]:
    ids = [f"{_FIRST_ID + index}" for index in range(movies)]
    shuffled = random.Random(f"ssnas-sample/{seed}/split").sample(ids, movies)
    train = round(SPLITS["train"] * movies)
    dev = train + round(SPLITS["dev"] * movies)
    split = {"train": shuffled[:train], "dev": shuffled[train:dev], "test": shuffled[dev:]}
    yield "mmimdb/split.json", _json(split)
    for index, name in enumerate(ids):
        _, document, poster = draw_movie(index, seed)
        yield f"mmimdb/dataset/{name}.json", _json(document)
        yield f"mmimdb/dataset/{name}.jpeg", poster


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def sample_archive() -> Path:
    """Return the path of the bundled corpus, `generate_sample(..., movies=1200, seed=0)`.

    Raises:
        InputError: neither the package nor the checkout around it holds the file.
    """
    package = Path(__file__).resolve().parents[2]  # ssnas_core
    places = (package / "data" / ARCHIVE, package.parent / "data" / ARCHIVE)
    for place in places:
        if place.is_file():
            return place
    raise InputError(
        f"expected the bundled sample at {places[1]}, found none; make it with "
        f"`python -c \"from ssnas_core import generate_sample as g; g('{places[1]}')\"`."
    )
