import json
import logging
import random
import unicodedata

import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.cells import is_missing, label_cells, name_of, similar

GENRES = ("Drama", "Comedy", "Horror", "Sci-Fi", "Film Noir")
draw = random.Random(0)
TRUE = [tuple(draw.sample(GENRES, draw.randint(1, 3))) for _ in range(40)]
NUMBER = {genre: 100 + k for k, genre in enumerate(GENRES)}

SEPARATORS = [
    "|",
    ";",
    "; ",
    ", ",
    ",",
    "、",
    "，",
    "/",
    " / ",
    " - ",
    " & ",
    "&",
    "\t",
    "\n",
    " • ",
    "+",
]
LISTS = {
    "json": json.dumps,
    "python list": lambda x: repr(list(x)),
    "python tuple": repr,
    "python set": lambda x: "{" + ", ".join(map(repr, x)) + "}",
    "numpy": lambda x: "[" + " ".join(map(repr, x)) + "]",
    "numpy lines": lambda x: "[" + "\n ".join(map(repr, x)) + "]",
    "tmdb": lambda x: json.dumps([{"id": NUMBER[name], "name": name} for name in x]),
    "tmdb by python": lambda x: repr([{"id": NUMBER[name], "name": name} for name in x]),
    "postgres": lambda x: "{" + ",".join(x) + "}",
    "bare": lambda x: "[" + ", ".join(x) + "]",
    "real list": list,
    "objects": lambda x: [{"name": name} for name in x],
    "quoted": lambda x: ", ".join(map(repr, x)),
}


@pytest.mark.parametrize("sign", SEPARATORS)
def test_what_plainly_separates_labels_is_found_and_said(sign, caplog):
    read = label_cells([sign.join(names) for names in TRUE], where="column 'genres'")
    assert read == TRUE
    assert len(caplog.records) == (sign[0] not in "|;")


@pytest.mark.parametrize("form", LISTS)
def test_lists_are_read_in_every_spelling(form):
    read = label_cells([LISTS[form](names) for names in TRUE])
    assert read == ([tuple(sorted(names)) for names in TRUE] if form == "python set" else TRUE)


def test_numbers_and_rows_of_zeros_and_ones_are_classes():
    assert label_cells([[28, 12], [12], 10_770, [12.0], None]) == [
        *[("28", "12"), ("12",), ("10770",), ("12",), ()],
    ]
    assert label_cells([[0, 1, 1], [1, 0, 0], [0, 0, 0]]) == [("1", "2"), ("0",), ()]
    assert label_cells([1, 0, 12_345_678]) == [("1",), ("0",), ("12345678",)]


DOUBTFUL = {
    ", ": ["Portland, Oregon", "Salem, Oregon", "Paris"],
    "/": ["Sci-Fi/Fantasy", "Fantasy", "Drama"],
    "&": ["Rock & Roll", "Rock", "Jazz"],
    " ": [" ".join(names) for names in TRUE],
    ":": [":".join(names) for names in TRUE],
    "_": ["_".join(names) for names in TRUE],
    " and ": [" and ".join(names) for names in TRUE],
    "、": ["家庭、悲伤", "笑话"],
    "\t": ["a\tb", "c"],
}


@pytest.mark.parametrize("sign", DOUBTFUL)
def test_what_may_separate_labels_is_refused_with_both_ways_out(sign):
    cells = DOUBTFUL[sign]
    with pytest.raises(InputError, match="may be one label or several.*--labels-separator"):
        label_cells(cells)
    assert label_cells(cells, single=True) == [(name_of(cell),) for cell in cells]
    told = label_cells(cells, separator={"\t": "\\t"}.get(sign, sign.strip() or " "))
    assert told == [tuple(name_of(p) for p in cell.split(sign.strip() or sign)) for cell in cells]


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (["Action & Adventure, Comedy", "Comedy, Drama", "Drama", "Action & Adventure"],
         {"Action & Adventure", "Comedy", "Drama"}),
        (["R&B", "Rock", "Soul"], {"R&B", "Rock", "Soul"}),
        (["C++", "C#", "C"], {"C++", "C#", "C"}),
        (["War; Cold|Drama", "Drama"], {"War; Cold", "Drama"}),
        (["New York", "Paris", "Rome"], {"New York", "Paris", "Rome"}),
        (["Sci-Fi/Fantasy|Drama", "Drama"], {"Sci-Fi/Fantasy", "Drama"}),
        (["digit 1", "digit 2", "digit 3"], {"digit 1", "digit 2", "digit 3"}),
        (["(sub)titled", "dubbed"], {"(sub)titled", "dubbed"}),
    ],
)  # fmt: skip
def test_names_that_hold_a_sign_stay_whole(cells, classes):
    assert {name for names in label_cells(cells) for name in names} == classes


@pytest.mark.parametrize(
    "cell",
    ["", "  ", None, float("nan"), "N/A", "n/a", "nan", "NaN", "None", "NULL", "\\N", "[]", "-",
     "(no genres listed)", "<NA>", "\u00a0", "\u200b", "{}", "#N/A", "[null]", '["N/A"]', "|"],
)  # fmt: skip
def test_missing_values_are_no_label(cell):
    assert label_cells([cell, "Drama", "Horror|N/A"]) == [(), ("Drama",), ("Horror",)]


def test_words_for_missing_values_can_be_told():
    assert label_cells(["None", "unknown", "Drama"], missing=("unknown",)) == [
        *[("None",), (), ("Drama",)],
    ]
    assert is_missing("Unknown ", ("unknown",)) and not is_missing("None", ("unknown",))


@pytest.mark.parametrize(
    "spelling",
    ["Science\u00a0Fiction", "Science  Fiction", " Science Fiction\u200b", "Science\tFiction",
     "\ufeffScience Fiction", "Science\u2003Fiction", "Science Fic\u00adtion"],
)  # fmt: skip
def test_white_space_and_invisible_letters_do_not_split_a_class(spelling):
    assert name_of(spelling) == "Science Fiction"
    assert label_cells([f"Drama|{spelling}"]) == [("Drama", "Science Fiction")]


def test_accents_and_hyphens_have_one_form_each():
    for form in ("NFC", "NFD"):
        assert name_of(unicodedata.normalize(form, "Comédie")) == "Com\u00e9die"
    assert name_of("H₂O") == "H₂O" != name_of("H2O")  # other letters stay others
    assert {name_of(f"Sci{hyphen}Fi") for hyphen in "-\u2010\u2011"} == {"Sci-Fi"}


def test_names_that_differ_by_form_alone_are_found():
    assert similar(["Drama", "DRAMA", "Sci-Fi", "SciFi", "Sci Fi", "War", "Wär", "Sci–Fi"]) == [
        *[("Drama", "DRAMA"), ("Sci-Fi", "SciFi", "Sci Fi", "Sci–Fi")],
    ]
    assert similar(["Drama", "Dramedy"]) == []


@pytest.mark.parametrize("cell", ["[1, [2]]", [["Drama"]], [{"id": 3}], {"id": 3}])
def test_list_that_cannot_be_read_is_told(cell):
    problem, drama = label_cells([cell, "Drama"])
    assert isinstance(problem, str)
    assert drama == ("Drama",)


def test_guess_is_logged_with_an_example(caplog):
    with caplog.at_level(logging.WARNING):
        label_cells([", ".join(names) for names in TRUE], where="films.csv")
    assert caplog.messages == [f"films.csv: read as separated by ',', e.g. {', '.join(TRUE[0])!r}"]
