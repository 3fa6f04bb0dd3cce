"""Small made copies of tables that are public: read, or refused with a remedy that works.

The columns are those of the published files; the rows are made.
"""

import csv
import json
import random

import pytest
from PIL import Image

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.open import open_dataset
from ssnas_core.datasets.table import TableOptions

GENRES = ("Action", "Comedy", "Drama", "Science Fiction")
draw = random.Random(0)
FILMS = [
    (f"Film {n}", f"A plot of film {n}.", draw.sample(GENRES, draw.randint(1, 3)))
    for n in range(30)
]


def table(path, rows, encoding="utf-8", **options):
    with open(path, "w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def posters(folder, ending="jpg"):
    folder.mkdir(exist_ok=True)
    for n in range(len(FILMS)):
        Image.new("RGB", (4, 6), (8 * n, 0, 0)).save(folder / f"{n}.{ending}")


def as_read(data):
    return {record.inputs["text"]: sorted(record.labels or ()) for record in data.records}


PLOTS = {plot: sorted(genres) for _, plot, genres in FILMS}


def test_tmdb_5000_movies_has_no_posters_but_two_texts(tmp_path):
    """Kaggle's tmdb_5000_movies.csv: genres and keywords are JSON lists of objects."""
    rows = [
        {
            "budget": 10**6,
            "genres": json.dumps([{"id": GENRES.index(one), "name": one} for one in genres]),
            "homepage": "https://example.org/film",
            "id": 100 + n,
            "keywords": json.dumps([{"id": 1, "name": "space"}]),
            "original_language": "en",
            "original_title": title,
            "overview": plot,
            "popularity": 1.5,
            "release_date": "2009-12-10",
            "tagline": "",
            "title": title,
            "vote_average": 7.2,
        }
        for n, (title, plot, genres) in enumerate(FILMS)
    ]
    path = table(tmp_path / "tmdb_5000_movies.csv", rows)
    with pytest.raises(InputError, match=r"got overview among budget, .*by --images .* --texts"):
        open_dataset(path)
    data = open_dataset(path, table=TableOptions(texts=("overview", "title")))
    assert {r.inputs["overview"]: sorted(r.labels) for r in data.records} == PLOTS
    assert (data.classes, data.single_label) == (GENRES, False)


def test_kaggles_genres_from_posters_is_latin_1_with_urls(tmp_path):
    """MovieGenre.csv: imdbId, Imdb Link, Title, IMDB Score, Genre (bars), Poster (a URL)."""
    rows = [
        {
            "imdbId": 114_709 + n,
            "Imdb Link": f"http://www.imdb.com/title/tt{114_709 + n}",
            "Title": f"{title} é",
            "IMDB Score": 8.3,
            "Genre": "|".join(genres),
            "Poster": f"https://example.org/{n}.jpg",
        }
        for n, (title, _, genres) in enumerate(FILMS)
    ]
    path = table(tmp_path / "MovieGenre.csv", rows, encoding="latin-1")
    with pytest.raises(InputError, match=r"not UTF-8 .*in line 2.; save it as UTF-8"):
        open_dataset(path)
    table(path, rows)
    with pytest.raises(InputError, match=r"got Poster among imdbId, .* --texts"):
        open_dataset(path)
    titles = TableOptions(texts=("Title",), id="imdbId")
    with pytest.raises(InputError, match="image is a URL; download the images, and name"):
        open_dataset(path, table=titles)
    posters(tmp_path / "posters")
    table(path, [{**row, "Poster": f"posters/{n}.jpg"} for n, row in enumerate(rows)])
    data = open_dataset(path, table=titles)
    assert as_read(data) == {f"{title} é": sorted(genres) for title, _, genres in FILMS}
    assert data.records[0].id == "114709"


def test_omdb_table_joins_genres_by_commas_and_lacks_values(tmp_path, caplog):
    """OMDb's records: Title, Year, Genre ("Action, Drama"), Plot, Poster; N/A where none is."""
    posters(tmp_path / "posters")
    rows = [
        {
            "Title": title,
            "Year": 1990 + n,
            "Genre": "N/A" if n == 4 else ", ".join(genres),
            "Plot": "N/A" if n == 5 else plot,
            "Poster": "N/A" if n == 6 else f"posters/{n}.jpg",
        }
        for n, (title, plot, genres) in enumerate(FILMS)
    ]
    data = open_dataset(table(tmp_path / "omdb.csv", rows))
    assert data.classes == GENRES and "read as separated by ','" in caplog.text
    assert data.skipped == {"6": "Plot is missing ('N/A')", "7": "no image path"}
    (fifth,) = (record for record in data.records if record.id == "5")
    assert fifth.labels is None and fifth.split == "train"
    assert as_read(data) == {
        plot: [] if n == 4 else sorted(genres)
        for n, (_, plot, genres) in enumerate(FILMS)
        if n not in (5, 6)
    }


def test_lines_of_multimodal_bitransformers(tmp_path):
    """MM-IMDB as MMBT's script writes it: id, text, img, label in train, dev and test.jsonl."""
    posters(tmp_path / "dataset", "jpeg")
    for split, numbers in (("train", range(20)), ("dev", range(20, 25)), ("test", range(25, 30))):
        with open(tmp_path / f"{split}.jsonl", "w") as file:
            for n in numbers:
                _, plot, genres = FILMS[n]
                line = {"id": f"{n:07d}", "text": plot, "img": f"dataset/{n}.jpeg"}
                file.write(json.dumps({**line, "label": genres}) + "\n")
    data = open_dataset(tmp_path, strict=True)
    assert as_read(data) == PLOTS
    assert [len(data.indices(split)) for split in ("train", "dev", "test")] == [20, 5, 5]


def test_movielens_has_no_genre_in_its_own_words(tmp_path):
    """MovieLens: movieId, title, genres (bars), "(no genres listed)" where there is none."""
    rows = [
        {
            "movieId": n,
            "title": title,
            "plot": plot,
            "genres": "(no genres listed)" if n % 10 == 0 else "|".join(genres),
        }
        for n, (title, plot, genres) in enumerate(FILMS)
    ]
    path = table(tmp_path / "movies.csv", rows)
    data = open_dataset(path, table=TableOptions(texts=("title", "plot"), id="movieId"))
    assert data.classes == GENRES
    assert [r.id for r in data.records if r.labels is None] == ["0", "10", "20"]


def test_cmu_summaries_map_ids_to_genres(tmp_path):
    """CMU's movie corpus: genres as a JSON object from Freebase's id to the name."""
    rows = [
        {"title": title, "text": plot, "genres": json.dumps({f"/m/{g}": g for g in genres})}
        for title, plot, genres in FILMS
    ]
    path = table(tmp_path / "movie.metadata.tsv", rows, delimiter="\t")
    data = open_dataset(path, table=TableOptions(texts=("text", "title")))
    assert {r.inputs["text"]: sorted(r.labels) for r in data.records} == PLOTS
