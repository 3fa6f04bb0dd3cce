import csv
import logging

import pytest
from PIL import Image

from ssnas_core.common.errors import InputError
from ssnas_core.datasets import rows as files
from ssnas_core.datasets import table
from ssnas_core.datasets.table import TableOptions, read_table
from ssnas_core.features.inputs import decode_images

HEADER = ["id", "image", "text", "labels", "split"]
ROWS = [
    ["a", "posters/a.png", "A tale, with comma", "War|Drama", "train"],
    ["b", "posters/b.png", 'He says "go".\nShe goes.', "Drama", "train"],
    ["c", "posters/c.png", "Zoë läuft", "Comedy ; War", "dev"],
    ["d", "posters/d.png", "four", " Drama | Comedy |", "test"],
]


def read(path, *, seed=0, strict=False, **options):
    return read_table(path, TableOptions(**options), seed=seed, strict=strict)


def write(folder, header=HEADER, rows=ROWS, name="movies.csv", encoding="utf-8"):
    (folder / "posters").mkdir(parents=True, exist_ok=True)
    for shade, letter in enumerate("abcdefghij"):
        Image.new("RGB", (4, 6), (20 * shade, 0, 0)).save(folder / "posters" / f"{letter}.png")
    with open(folder / name, "w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return folder / name


def changed(row, **cells):
    """The rows with some cells of one row changed."""
    copy = [list(line) for line in ROWS]
    for column, value in cells.items():
        copy[row][HEADER.index(column)] = value
    return copy


def without(column, rows=ROWS):
    place = HEADER.index(column)
    return [line[:place] + line[place + 1 :] for line in (HEADER, *rows)]


def test_rows_become_records_in_order(tmp_path):
    data = read(write(tmp_path), strict=True)
    assert [r.id for r in data.records] == ["a", "b", "c", "d"]
    assert data.kinds == {"image": "image", "text": "text"}
    assert data.column("text") == [row[2] for row in ROWS]
    assert data.column("image") == [tmp_path / row[1] for row in ROWS]
    assert [r.split for r in data.records] == ["train", "train", "dev", "test"]
    assert (data.name, data.skipped, data.single_label) == ("movies", {}, False)


def test_classes_are_sorted_and_labels_split_at_bars_or_else_semicolons(tmp_path):
    data = read(write(tmp_path))
    assert data.classes == ("Comedy", "Drama", "War")
    assert data.labels().tolist() == [[0, 1, 1], [0, 1, 0], [1, 0, 1], [1, 1, 0]]
    mixed = read(write(tmp_path, rows=changed(0, labels="War; Cold|Drama")))
    assert set(mixed.records[0].labels) == {"War; Cold", "Drama"}


def test_folder_with_one_csv_is_read_and_other_folders_are_told(tmp_path):
    write(tmp_path / "one", name="Movies.CSV")
    (tmp_path / "one" / ".hidden.csv").write_text("x")
    assert len(read(tmp_path / "one")) == 4
    write(tmp_path / "two")
    write(tmp_path / "two", name="more.csv")
    for folder, count in (("two", 2), ("two/posters", 0)):
        with pytest.raises(InputError, match=f"exactly one CSV file, got {count}; name the file"):
            read(tmp_path / folder)


def test_byte_order_mark_case_and_spaces_of_the_header_do_not_matter(tmp_path):
    header = [" ID", "Poster ", "PLOT", "Genres", "Split"]
    data = read(write(tmp_path, header, encoding="utf-8-sig"), strict=True)
    assert [r.id for r in data.records] == ["a", "b", "c", "d"]
    assert data.kinds == {"image": "image", "text": "text"}


def test_columns_of_any_name_are_named(tmp_path):
    header = ["key", "scan", "story", "kind", "part"]
    path = write(tmp_path, header)
    names = {"images": "scan", "texts": "story", "labels": "kind", "id": "key", "split": "part"}
    data = read(path, **names, strict=True)
    assert data.fingerprint() == read(write(tmp_path / "plain")).fingerprint()
    for option in ("images", "texts", "labels"):
        with pytest.raises(InputError, match=f"among key, scan, story, kind, part; .* --{option}"):
            read(path, **{k: v for k, v in names.items() if k != option})
    for option in names:
        with pytest.raises(InputError, match=f"one column 'Ear' as named by --{option}, got 0"):
            read(path, **names | {option: "Ear"})


def test_several_images_and_texts_are_modalities_of_their_columns_names(tmp_path):
    header = ["image_front", "image_back", "text_long-one", "labels"]
    rows = [[f"posters/{x}.png", f"posters/{y}.png", f"text {x}", "AB"[x > "e"]]
            for x, y in zip("abcdefghij", "bcdefghija", strict=True)]  # fmt: skip
    data = read(write(tmp_path, header, rows))
    assert data.kinds == {"image_front": "image", "image_back": "image", "text": "text"}
    assert data.records[0].inputs["image_back"] == tmp_path / "posters" / "b.png"
    named = read(tmp_path / "movies.csv", images=(), texts=["text_long-one", "image_back"])
    assert named.kinds == {"text_long_one": "text", "image_back": "text"}
    with pytest.raises(
        InputError, match="at least two columns of images and texts, got text_long-one"
    ):
        read(tmp_path / "movies.csv", images=())
    with pytest.raises(InputError, match="expected different columns by --texts"):
        read(tmp_path / "movies.csv", texts=["image_back", "image_back"])
    with pytest.raises(InputError, match="a column of its own for each modality, got a_b, a_b"):
        read(write(tmp_path, ["a-b", "a b", "text", "labels"], rows), images=["a-b", "a b"])


def test_image_column_wins_over_poster_and_a_second_one_is_refused(tmp_path):
    rows = [[*row, "nowhere.png"] for row in ROWS]
    assert len(read(write(tmp_path, [*HEADER, "poster"], rows), strict=True)) == 4
    with pytest.raises(InputError, match="expected one column 'image', got 2; rename"):
        read(write(tmp_path, [*HEADER, "Image"], rows))


def test_without_ids_rows_are_numbered(tmp_path):
    header, *rows = without("id")
    data = read(write(tmp_path, header, [rows[0], [], ["", " ", "", ""], *rows[1:]]))
    assert [r.id for r in data.records] == ["1", "2", "3", "4"]  # empty rows do not count


def test_split_has_the_usual_names_in_any_case(tmp_path):
    rows = changed(2, split=" Validation ")
    assert read(write(tmp_path, rows=rows), strict=True).records[2].split == "dev"


def many(count=100):
    """Rows without a split: of 100, 90 of class A and 10 of class B."""
    return [[f"m{n}", f"posters/{'abcdefghij'[n % 10]}.png", f"text {n}", "B" if n % 10 == 3 else
             "A"] for n in range(count)]  # fmt: skip


def test_without_a_split_one_is_drawn_stratified_by_the_seed(tmp_path):
    path = write(tmp_path, HEADER[:4], many())
    data = read(path)
    counts = {s: len(data.indices(s)) for s in ("train", "dev", "test")}
    assert counts == {"train": 70, "dev": 10, "test": 20}
    rare = [data.labels()[data.indices(s), 1].sum() for s in counts]
    assert rare[0] in (6, 7, 8) and rare[1] == 1 and rare[2] in (1, 2, 3)
    again, other = read(path), read(path, seed=1)
    assert data.fingerprint() == again.fingerprint() != other.fingerprint()
    with pytest.raises(InputError, match="seed that is a whole number"):
        read(path, seed=-1)


def test_single_label_is_found_out_or_told(tmp_path):
    path = write(tmp_path, HEADER[:4], many())
    assert read(path).single_label
    assert read(path).targets().shape == (100,)
    assert not read(path, single_label=False).single_label
    rows = many()
    rows[5][3] = "A|B"
    path = write(tmp_path, HEADER[:4], rows)
    assert not read(path).single_label
    data = read(path, single_label=True)
    assert data.single_label
    assert data.skipped == {"m5": "2 labels, where one is expected"}


OUTSIDE = [
    ("/etc/passwd", "image path is absolute"),
    (r"C:\posters\a.png", "image path is absolute"),
    (r"\\host\a.png", "image path is absolute"),
    ("../movies.csv", "image path leads out of the table's folder"),
    ("posters/../../x.png", "image path leads out of the table's folder"),
    (r"posters\..\..\x.png", "image path leads out of the table's folder"),
]
BAD = [
    *[({"image": path}, reason) for path, reason in OUTSIDE],
    ({"image": ""}, "no image path"),
    ({"image": "a\0b"}, "no image path"),
    ({"image": "posters/z.png"}, "image missing"),
    ({"image": "posters"}, "image missing"),
    ({"image": "x" * 5000}, "image missing"),
    ({"text": " \n"}, "text is missing"),
    ({"split": "test", "labels": " | |"}, "no label, in test"),
    ({"split": "test", "labels": " ; ;"}, "no label, in test"),
    ({"split": "test", "labels": "N/A"}, "no label, in test"),
    ({"labels": "[1, [2]]"}, "labels are a list of something else than names"),
    ({"image": "https://example.org/a.png"}, "image is a URL; download the images"),
    ({"split": "trial"}, "split 'trial' is none of train, dev, test"),
    ({"split": ""}, "split '' is none of"),
    ({"id": "c"}, "its id occurs 2 times"),
    ({"id": " "}, "no id"),
]


@pytest.mark.parametrize(("cells", "reason"), BAD)
def test_bad_record_is_left_out_and_told_or_refused(tmp_path, caplog, cells, reason):
    rows = [*changed(1, **cells), ["e", "posters/e.png", "five", "War", "dev"]]
    path = write(tmp_path, rows=rows)
    with caplog.at_level(logging.WARNING):
        data = read(path)
    kept = {"a", "c", "d", "e"} - ({"c"} if "id" in cells and cells["id"] == "c" else set())
    assert {record.id for record in data.records} == kept
    assert len(data.skipped) == 5 - len(kept)
    assert all(why.startswith(reason) for why in data.skipped.values())
    assert len(caplog.records) == 1 and reason in caplog.text
    with pytest.raises(InputError, match=r"movies\.csv, line \d: record .*; mend it") as caught:
        read(path, strict=True)
    assert reason in str(caught.value)


def test_paths_may_be_windows_made_and_go_up_and_down_inside(tmp_path):
    rows = changed(0, image=r"posters\..\posters\b.png")
    data = read(write(tmp_path, rows=rows), strict=True)
    assert data.records[0].inputs["image"] == tmp_path / "posters" / "b.png"


def test_rows_of_another_length_are_bad_whatever_they_hold(tmp_path):
    rows = [ROWS[0][:3], *ROWS[1:], [*ROWS[0], "more"], ["e", *ROWS[0][1:]]]
    data = read(write(tmp_path, rows=rows))
    assert [r.id for r in data.records] == ["b", "c", "d", "e"]
    assert list(data.skipped.values()) == ["3 cells, where the header has 5",
                                           "6 cells, where the header has 5"]  # fmt: skip
    assert list(data.skipped) == ["line 2", "line 7"]  # b's text has two lines


def test_empty_and_large_images_are_bad(tmp_path, monkeypatch):
    path = write(tmp_path)
    (tmp_path / "posters" / "b.png").write_bytes(b"")
    assert read(path).skipped == {"b": "image empty (0 bytes)"}
    (tmp_path / "posters" / "b.png").write_bytes(bytes(200_000))
    monkeypatch.setattr(table, "MAX_IMAGE_BYTES", 100_000)
    assert read(path).skipped == {"b": "image larger than 0 MB"}


def test_image_that_is_none_is_found_when_decoded(tmp_path):
    path = write(tmp_path)
    (tmp_path / "posters" / "b.png").write_text("no image")
    data = read(path, strict=True)
    images, bad = decode_images(data, "image", (8, 8), tmp_path / "images.npy")
    assert list(bad) == ["b"] and len(images) == 3
    with pytest.raises(InputError, match="cannot be decoded"):
        decode_images(data, "image", (8, 8), tmp_path / "images.npy", strict=True)


@pytest.mark.parametrize("column", ["image", "text", "labels"])
def test_table_without_a_column_is_told_what_it_has(tmp_path, column):
    header, *rows = without(column)
    with pytest.raises(InputError, match=f"got .* among id, .*; name .* --{column}"):
        read(write(tmp_path, header, rows))


def test_long_headers_are_cut_in_messages(tmp_path):
    path = write(tmp_path, [f"column{n:03d}" + "x" * 50 for n in range(300)], [])
    with pytest.raises(InputError, match=r"column019x+, \.\.\.; name the columns") as caught:
        read(path)
    assert len(str(caught.value)) < 1400


def content(path, text):
    path.write_bytes(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "expected a column of labels, got none among nothing; name the columns by --labels"),
        (b"image,text,labels\n\xff,x,y\n", "is not UTF-8 .*in line 2.; save it as UTF-8"),
        ("image,text,labels\n".encode("utf-16"), "is not UTF-8 .*in line 1"),
        (
            b'image,text,labels\na,"b,c\n',
            "line 2: not a row of a CSV file .*expected quotes closed",
        ),
        (b'image,text,labels\na,"b"x,c\n', "line 2: not a row of a CSV file"),
        (b"image,text,labels\na," + b"b" * 200_000, "line 2: .*cells of at most 131,072"),
        (b"image,text,labels\n", "split 'train', got none"),
        (b"image,text,labels\na.png,x,A\n", "split 'train', got none .*image missing"),
    ],
)
def test_file_that_is_no_such_table_is_told(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read(content(tmp_path / "a.csv", text))


def test_what_is_no_file_is_told(tmp_path):
    with pytest.raises(InputError, match="is no file; expected a CSV file or its folder"):
        read(tmp_path / "nowhere.csv")


def test_huge_table_is_refused_unread(tmp_path):
    path = tmp_path / "a.csv"
    with open(path, "wb") as file:
        file.truncate(2 * 10**9)  # a hole: no disk is used
    with pytest.raises(InputError, match="expected at most 1000 MB, got 2000 MB"):
        read(path)


def test_header_of_several_lines_is_told_in_one(tmp_path):
    path = content(tmp_path / "a.csv", b'id,"im\nage",text,labels\n')
    with pytest.raises(InputError, match="got text among id, im age, text, labels; name"):
        read(path)


def test_too_many_rows_and_endless_lines_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path, HEADER[:4], many(10))
    monkeypatch.setattr(files, "MAX_ROWS", 10)
    read(path)
    monkeypatch.setattr(files, "MAX_ROWS", 9)
    with pytest.raises(InputError, match="expected at most 9 rows, got more"):
        read(path)
    monkeypatch.setattr(files, "_MAX_LINE", 100)
    with pytest.raises(InputError, match="line 1: .*line after it is longer than 100 characters"):
        read(content(path, b"image,text,labels\n" + b"," * 100))


def test_one_class_or_thousands_are_taken_for_a_wrong_column(tmp_path):
    rows = [[*row[:3], "A"] for row in many(10)]
    with pytest.raises(
        InputError, match=r"column .labels.: expected 2 to 1000 classes, got 1 \(e\.g\. 'A"
    ):
        read(write(tmp_path, HEADER[:4], rows))
    rows = [[*row[:3], row[2]] for row in many(1001)]
    with pytest.raises(InputError, match="got 1001"):
        read(write(tmp_path, HEADER[:4], rows))


def test_two_rows_are_too_few_to_split(tmp_path):
    with pytest.raises(InputError, match="at least 3 samples to split"):
        read(write(tmp_path, HEADER[:4], [row[:4] for row in ROWS[:2]]))


def test_each_of_several_bad_records_of_one_name_counts(tmp_path):
    rows = [*ROWS, list(ROWS[0]), list(ROWS[0])]  # "a" three times: none of them is usable
    data = read(write(tmp_path, rows=[*rows, ["z", *ROWS[0][1:]]]))
    assert list(data.skipped) == ["a", "a, line 7", "a, line 8"]
    assert len(data.records) + len(data.skipped) == 7


@pytest.mark.parametrize("name", ["unlabelled", "Unlabeled", "unsupervised"])
def test_rows_of_the_split_unlabelled_join_train_without_their_labels(tmp_path, name):
    data = read(write(tmp_path, rows=changed(1, split=name)), strict=True)
    assert [(one.split, one.labels) for one in data.records[:2]] == [
        *[("train", ("War", "Drama")), ("train", None)],
    ]
    assert data.labelled().tolist() == [True, False, True, True]
