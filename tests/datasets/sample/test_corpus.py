"""The generated sample: reproducible, readable, and needing both of its modalities."""

from __future__ import annotations

import io
import json
import random
import re
import runpy
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.mmimdb import GENRES, read_mmimdb
from ssnas_core.datasets.sample import corpus, plots, posters

CARD = Path(__file__).parents[3] / "data" / "README.md"
STORY = corpus.Story(
    theme="journey",
    turn="chase",
    length="feature",
    place="sea",
    land="city",
    mood="bright",
    print="photo",
    emblem="eye",
)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return corpus.generate_sample(tmp_path_factory.mktemp("sample") / "s.tar.gz", movies=60)


@pytest.fixture(scope="module")
def bundled() -> dict[str, bytes]:
    with tarfile.open(corpus.sample_archive()) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def movies(bundled) -> dict[str, dict]:
    return {
        Path(name).stem: json.loads(content)
        for name, content in bundled.items()
        if name.startswith("mmimdb/dataset/") and name.endswith(".json")
    }


@pytest.fixture(scope="module")
def stories() -> list[corpus.Story]:
    rng = random.Random(11)
    return [corpus.draw_story(rng) for _ in range(8000)]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_corpus(tmp_path):
    files = [
        corpus.generate_sample(tmp_path / name, movies=12, seed=seed).read_bytes()
        for name, seed in (("a.tar.gz", 3), ("somewhere-else.tar.gz", 3), ("c.tar.gz", 4))
    ]
    assert files[0] == files[1]
    assert files[0][4:8] == bytes(4)  # gzip's own time stamp, which would tell the second
    assert files[0] != files[2]


def test_a_smaller_corpus_holds_the_first_movies_of_a_larger_one(small, bundled):
    with tarfile.open(small) as archive:
        names = [n for n in archive.getnames() if n.endswith("0.json")]
        assert len(names) == 6
        for name in names:
            assert archive.extractfile(name).read() == bundled[name]  # type: ignore[union-attr]


def test_a_generated_corpus_is_read_without_a_skipped_movie(small, tmp_path):
    dataset = read_mmimdb(small, unpack_to=tmp_path, strict=True)
    assert (len(dataset), len(dataset.skipped)) == (60, 0)
    assert [len(dataset.indices(split)) for split in ("train", "dev", "test")] == [36, 9, 15]


def test_the_bundled_archive_is_what_the_generator_writes(bundled):
    expected = dict(
        (name, content) if name.endswith(".json") else (name, b"")
        for name, content in _generated(1200)
    )
    assert set(bundled) == set(expected)
    texts = [name for name in expected if name.endswith(".json")]
    assert len(texts) == 1201
    assert all(bundled[name] == expected[name] for name in texts)


def _generated(movies: int):
    """The members of the corpus with posters left out, which take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posters, "paint", lambda *_: b"")
        yield from corpus._members(movies, 0)


def test_bundled_posters_are_the_generators_up_to_the_encoder(bundled):
    for index in (0, 5, 77, 300, 411, 1199):
        _, _, poster = corpus.draw_movie(index, 0)
        theirs = Image.open(io.BytesIO(bundled[f"mmimdb/dataset/{9_000_000 + index}.jpeg"]))
        ours = Image.open(io.BytesIO(poster))
        assert theirs.size == ours.size == (96, 144)
        gap = np.abs(np.asarray(theirs, np.float32) - np.asarray(ours, np.float32)).mean()
        assert gap < 8  # of 255; an unrelated poster is 40 and more away


def test_a_movie_can_be_asked_for_its_story():
    for index in (0, 77, 1199):
        assert corpus.story_of(f"{9_000_000 + index}") == corpus.draw_movie(index, 0)[0]
    assert corpus.story_of("9000077", seed=1) != corpus.story_of("9000077")


def test_the_bundled_archive_is_small():
    assert corpus.sample_archive().stat().st_size <= 6e6


def test_every_genre_of_mmimdb_occurs_in_every_split_and_drama_in_half_of_all(bundled, movies):
    assert {genre for genre, _ in corpus.RULES} == set(GENRES) == set(corpus._FREQUENCY)
    split = json.loads(bundled["mmimdb/split.json"])
    assert {part: len(names) for part, names in split.items()} == {
        "train": 720,
        "dev": 180,
        "test": 300,
    }
    for names in split.values():
        told = {genre for name in names for genre in movies[name]["genres"]}
        assert told == {*GENRES, *corpus.RELATION}
    counts = Counter(genre for movie in movies.values() for genre in movie["genres"])
    assert counts.pop("Reality-TV") + counts.pop("Talk-Show") == 1200  # the relation's
    assert min(counts.values()) >= 30
    assert counts.most_common(2)[0][0] == "Drama" and 0.48 < counts["Drama"] / 1200 < 0.6
    assert counts.most_common(2)[1][0] == "Comedy"


def test_movies_have_one_to_five_genres_in_mmimdbs_order_and_one_of_the_relation(movies):
    numbers = [len(movie["genres"]) - 1 for movie in movies.values()]
    assert set(numbers) == {1, 2, 3, 4, 5}
    assert 2.2 < np.mean(numbers) < 2.8
    for movie in movies.values():
        *genres, relation = movie["genres"]
        assert genres == [genre for genre in GENRES if genre in genres]
        assert relation in corpus.RELATION


@pytest.mark.parametrize(
    ("given", "also"),
    [("Film-Noir", "Crime"), ("Romance", "Drama"), ("Western", "Adventure"), ("Crime", "Thriller")],
)
def test_genres_that_belong_together_occur_together(movies, given, also):
    having = [movie["genres"] for movie in movies.values() if given in movie["genres"]]
    lift = np.mean([also in genres for genres in having])
    base = np.mean([also in movie["genres"] for movie in movies.values()])
    assert lift > base + 0.03


def test_plots_are_sentences_without_holes(movies):
    for movie in movies.values():
        assert movie["plot"]
        for plot in movie["plot"]:
            assert re.fullmatch(r"[A-Z].*\.", plot) and not re.search(r"[{}|]|  |\.\.", plot)
            assert not re.search(r"[.!?] [a-z]", plot)
        assert 20 <= len(max(movie["plot"], key=len).split()) <= 130


def test_no_two_plots_are_equal_and_few_share_two_thirds_of_their_words(movies):
    plots = [max(movie["plot"], key=len) for movie in movies.values()]
    assert len(set(plots)) == len(plots)
    words = [frozenset(plot.lower().split()) for plot in plots[:300]]
    alike = [len(a & b) / len(a | b) > 2 / 3 for i, a in enumerate(words) for b in words[i + 1 :]]
    assert np.mean(alike) < 1e-3


def test_a_second_person_is_introduced_by_full_name(movies):
    for movie in movies.values():
        plot = max(movie["plot"], key=len)
        for name in re.findall(r"\b(?:Only|But|and|as) ([A-Z][a-z]+)\b", plot):
            if name in sample_names():
                assert re.search(rf"\b{name} [A-Z]", plot), plot


def sample_names() -> set[str]:
    return {*plots.words("plots")["women"], *plots.words("plots")["men"]}


@pytest.mark.parametrize(
    ("land", "genre"), [("desert", "Western"), ("stars", "Sci-Fi"), ("forest", "Fantasy")]
)
def test_the_same_journey_is_another_genre_under_another_sky(land, genre):
    told = [replace(STORY, land=where) for where in corpus.FACTORS["land"]]
    assert [genre in corpus.genres_of(story) for story in told] == [
        story.land == land for story in told
    ]
    assert genre not in corpus.genres_of(replace(STORY, land=land, theme="stage"))


def test_words_of_a_plot_depend_on_the_poster_only_through_echoes():
    other = replace(STORY, land="stars", mood="bleak", print="photo", emblem="couple")
    assert plots.write(STORY, random.Random(1))[2] == plots.write(other, random.Random(1))[2]
    told = [replace(story, echoes=("mood",)) for story in (STORY, other)]
    assert plots.write(told[0], random.Random(1))[2] != plots.write(told[1], random.Random(1))[2]


def test_posters_depend_on_no_factor_of_the_plot():
    plot = {"theme": "crime", "turn": "loss", "length": "short", "place": "snow"}
    other = replace(STORY, **plot, echoes=("mood",))
    first, second = (posters.paint(s, "A Title", random.Random(2)) for s in (STORY, other))
    assert first == second


@pytest.mark.parametrize("factor", [*corpus.LOW_LEVEL_FACTORS, *corpus.SHAPE_FACTORS])
def test_every_value_of_a_poster_factor_shows(factor):
    seen = {
        posters.paint(replace(STORY, **{factor: value}), "A Title", random.Random(2))
        for value in corpus.FACTORS[factor]
    }
    assert len(seen) == len(corpus.FACTORS[factor])


def test_neither_modality_alone_decides_the_labels(stories):
    labels = np.array([[g in told for g in GENRES] for told in map(corpus.genres_of, stories)])

    def best_weighted_f1(*factors: str) -> float:
        """Of the best predictor that sees `factors`, at its best single threshold."""
        keys = [tuple(getattr(story, factor) for factor in factors) for story in stories]
        number = {key: n for n, key in enumerate(dict.fromkeys(keys))}
        rows = np.array([number[key] for key in keys])
        sums = np.zeros((len(number), len(GENRES)))
        np.add.at(sums, rows, labels)
        chance = (sums / np.bincount(rows)[:, None])[rows]
        best = 0.0
        for threshold in np.arange(0.1, 0.6, 0.05):
            said = chance >= threshold
            f1 = 2 * (said & labels).sum(0) / (said.sum(0) + labels.sum(0))
            best = max(best, float((f1 * labels.sum(0)).sum() / labels.sum()))
        return best

    plot = best_weighted_f1(*corpus.PLOT_FACTORS)
    texture = best_weighted_f1(*corpus.LOW_LEVEL_FACTORS)
    shape = best_weighted_f1(*corpus.SHAPE_FACTORS)
    poster = best_weighted_f1(*corpus.LOW_LEVEL_FACTORS, *corpus.SHAPE_FACTORS)
    assert 0.5 < plot < 0.7 and 0.5 < poster < 0.7 and abs(plot - poster) < 0.1
    assert poster > max(texture, shape) + 0.08  # nor one depth of the poster


def test_the_relation_is_told_by_both_modalities_and_by_neither_alone(stories):
    assert corpus.relation_of(STORY) == "Talk-Show"  # the sea is wet, the city dry
    assert corpus.relation_of(replace(STORY, land="forest")) == "Reality-TV"
    assert corpus.relation_of(replace(STORY, land="forest", place="stars")) == "Talk-Show"
    same = np.array([corpus.relation_of(story) == "Reality-TV" for story in stories])
    assert same.mean() == pytest.approx(corpus.OWN_CLIMATE, abs=0.03)
    for factor in ("place", "land", "mood", "emblem", "theme"):
        values = np.array([getattr(story, factor) for story in stories])
        shares = [same[values == value].mean() for value in set(values)]
        assert max(shares) - min(shares) < 0.16  # the lands are not equally common


def test_plots_of_wet_places_speak_of_water_and_of_dry_ones_of_dust():
    for land, sentences in plots.words("plots")["places"].items():
        word = "water" if land in corpus.WET else "dust"
        assert all(re.search(rf"\b{word}\b", sentence.lower()) for sentence in sentences)


def test_the_relation_is_read_as_a_task_of_its_own(small, tmp_path):
    dataset = read_mmimdb(small, genres=corpus.RELATION, unpack_to=tmp_path)
    assert dataset.classes == corpus.RELATION
    for record in dataset.records:
        assert record.labels == (corpus.relation_of(corpus.story_of(record.id)),)
    assert not {*corpus.RELATION} & {*read_mmimdb(small, unpack_to=tmp_path).classes}


def test_label_noise_is_what_the_card_says(stories):
    rng = random.Random(0)
    pairs = [(set(g), set(corpus.noisy_genres(g, rng))) for g in map(corpus.genres_of, stories)]
    lost = sum(len(true - told) for true, told in pairs) / sum(len(true) for true, _ in pairs)
    added = sum(len(told - true) for true, told in pairs) / sum(len(told) for _, told in pairs)
    assert 0.02 < lost < 0.04 and 0.015 < added < 0.035
    assert all(told and len(told) <= corpus.MOST_GENRES for _, told in pairs)


def test_every_rule_speaks_of_factors_and_values_that_exist():
    for genre, needs in corpus.RULES:
        for factor, allowed in needs.items():
            assert set(allowed.split()) <= set(corpus.FACTORS[factor]), (genre, factor)
    for factor, chances in corpus.FACTORS.items():
        assert sum(chances.values()) == pytest.approx(1), factor


def test_the_card_tells_the_rules_and_counts_that_hold(bundled, movies):
    card = CARD.read_text()
    by_genre: dict[str, list[str]] = {}
    for genre, needs in corpus.RULES:
        told = "; ".join(f"{factor}: {', '.join(v.split())}" for factor, v in needs.items())
        by_genre.setdefault(genre, []).append(told)
    for genre, alternatives in by_genre.items():
        assert f"| {genre} | {' *or* '.join(alternatives)} |" in card
    split = json.loads(bundled["mmimdb/split.json"])
    for genre in GENRES:
        counts = [sum(genre in movies[name]["genres"] for name in split[part]) for part in split]
        assert f"| {genre} | {' | '.join(map(str, [*counts, sum(counts)]))} |" in card


def test_the_card_quotes_what_the_committed_enumeration_says(monkeypatch, capsys):
    benchmark = Path(__file__).parents[2] / "benchmarks" / "sample_enumeration.py"
    table = CARD.with_name("sample-enumeration.csv")
    monkeypatch.setattr(sys, "argv", [str(benchmark), "--read", str(table)])
    runpy.run_path(str(benchmark), run_name="__main__")
    told = capsys.readouterr().out
    assert told.count("\n") > 8 and told in CARD.read_text()


def test_too_few_movies_for_three_splits_are_refused(tmp_path):
    with pytest.raises(InputError, match="at least 10 movies .* got 9; ask for more"):
        corpus.generate_sample(tmp_path / "s.tar.gz", movies=9)
    assert not list(tmp_path.iterdir())


def test_a_missing_archive_is_told_with_its_remedy(monkeypatch):
    monkeypatch.setattr(corpus, "ARCHIVE", "nothing.tar.gz")
    with pytest.raises(InputError, match=r"found none; make it with `python -c"):
        corpus.sample_archive()


def test_making_stories_and_plots_imports_nothing_heavy():
    code = (
        "import sys, random; from ssnas_core.datasets.sample import corpus;"
        "from ssnas_core.datasets.sample import plots;"
        "plots.write(corpus.draw_story(random.Random(0)), random.Random(0));"
        "print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
