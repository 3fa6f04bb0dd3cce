import csv
import io
import json
import pickle

import numpy as np
import pyarrow as arrow
import pyarrow.parquet
import pytest
from PIL import Image

from ssnas_core.common.errors import InputError
from ssnas_core.datasets import rows as files
from ssnas_core.datasets.open import open_dataset, source_stamp
from ssnas_core.datasets.rows import split_named
from ssnas_core.features.inputs import decode_images

TITLES = ("image", "text", "labels", "split")
FILMS = [  # shade of the image, text, labels, split
    (0, "a sheriff rides", ["Western", "Drama"], "train"),
    (60, "a ghost in the cellar", ["Horror"], "train"),
    (120, "a wedding", ["Comedy", "Drama"], "validation"),
    (180, "a clown", ["Comedy"], "test"),
    (240, "no genre is known", [], "train"),
]
GENRES = ("Comedy", "Drama", "Horror", "Western")
TRUE = [None if not names else set(names) for _, _, names, _ in FILMS]


def png(shade):
    file = io.BytesIO()
    Image.new("RGB", (4, 6), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def lines(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(one, ensure_ascii=False) for one in entries) + "\n")


def split_dir(split, folder):
    """Hugging Face's image folder: images and their metadata in a folder of each split."""
    films = [film for film in FILMS if film[3] == split]
    for shade, *_ in films:
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / f"{shade}.png").write_bytes(png(shade))
    return [{"file_name": f"{s}.png", "text": text, "genres": names} for s, text, names, _ in films]


def jsonl(folder):
    for shade, *_ in FILMS:
        (folder / f"{shade}.png").write_bytes(png(shade))
    entries = [dict(zip(TITLES, (f"{shade}.png", *rest), strict=True)) for shade, *rest in FILMS]
    lines(folder / "films.jsonl", entries)
    return folder / "films.jsonl"


def image_folder_csv(folder):
    for split in ("train", "validation", "test"):
        entries = split_dir(split, folder)
        with open(folder / split / "metadata.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(entries[0])
            writer.writerows([*e.values()][:2] + [json.dumps(e["genres"])] for e in entries)
    return folder


def image_folder_jsonl(folder):
    for split in ("train", "validation", "test"):
        lines(folder / split / "metadata.jsonl", split_dir(split, folder))
    return folder


def table(films, **metadata):
    columns = {
        "image": [{"bytes": png(shade), "path": f"{shade}.png"} for shade, *_ in films],
        "text": [text for _, text, *_ in films],
        "labels": [names for *_, names, _ in films],
    }
    made = arrow.table(columns)
    return made.replace_schema_metadata(metadata) if metadata else made


def parquet_shards(folder):
    """As the hub has data sets: data/train-00000-of-00001.parquet."""
    (folder / "data").mkdir()
    for split in ("train", "validation", "test"):
        shard = folder / "data" / f"{split}-00000-of-00001.parquet"
        films = [film for film in FILMS if film[3] == split]
        pyarrow.parquet.write_table(table(films), shard, row_group_size=1)
    return folder


def class_labels(folder):
    """Numbers for labels, their names in the file as `datasets` notes them."""
    films = [(s, t, [GENRES.index(name) for name in names], split) for s, t, names, split in FILMS]
    names = {"_type": "ClassLabel", "names": list(GENRES)}
    features = {"labels": {"_type": "Sequence", "feature": names}}
    for split in ("train", "validation", "test"):
        noted = json.dumps({"info": {"features": features}})
        made = table([film for film in films if film[3] == split], huggingface=noted)
        pyarrow.parquet.write_table(made, folder / f"{split}.parquet")
    return folder


def saved_to_disk(folder):
    """As `datasets.save_to_disk` writes: an Arrow stream for each split."""
    for split in ("train", "validation", "test"):
        (folder / split).mkdir()
        made = table([film for film in FILMS if film[3] == split])
        file = folder / split / "data-00000-of-00001.arrow"
        with arrow.OSFile(str(file), "wb") as sink, arrow.ipc.new_stream(sink, made.schema) as out:
            out.write_table(made)
    return folder


def repacked(folder):
    """MM-IMDB as ViLT's code repacks it: bytes, all plots, genres, an Arrow file for each split."""
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        films = [film for film in FILMS if film[3] == split]
        columns = {
            "image": [png(shade) for shade, *_ in films],
            "plots": [["short", text] for _, text, *_ in films],
            "label": [[int(genre in names) for genre in GENRES] for *_, names, _ in films],
            "genres": [names for *_, names, _ in films],
            "image_id": [str(shade) for shade, *_ in films],
            "split": [name for _ in films],
        }
        made = arrow.table(columns)
        file = folder / f"mmimdb_{name}.arrow"
        with arrow.OSFile(str(file), "wb") as sink, arrow.ipc.new_file(sink, made.schema) as out:
            out.write_table(made)
    return folder


def split_csvs(folder):
    """One CSV for each split, separated by semicolons as some spreadsheets write them."""
    for split in ("train", "val", "test"):
        films = [film for film in FILMS if film[3].startswith(split)]
        for shade, *_ in films:
            (folder / f"{shade}.png").write_bytes(png(shade))
        with open(folder / f"{split}.csv", "w", newline="") as file:
            writer = csv.writer(file, delimiter=";")
            writer.writerow(["image", "text", "labels"])
            writer.writerows([f"{s}.png", text, "|".join(names)] for s, text, names, _ in films)
    return folder


LAYOUTS = [jsonl, image_folder_csv, image_folder_jsonl, parquet_shards, class_labels,
           saved_to_disk, repacked, split_csvs]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda one: one.__name__)
def test_layouts_that_people_share_are_read_alike(layout, tmp_path):
    data = open_dataset(layout(tmp_path), strict=True)
    by_text = {record.inputs["text"]: record for record in data.records}
    assert [by_text[text].split for _, text, *_ in FILMS] == [
        "train",
        "train",
        "dev",
        "test",
        "train",
    ]
    labels = [by_text[text].labels for _, text, *_ in FILMS]
    assert [None if names is None else set(names) for names in labels] == TRUE
    assert data.classes == GENRES and not data.single_label
    images, bad = decode_images(data, "image", (6, 4), tmp_path / "cache" / "images.npy")
    assert not bad
    shades = {record.inputs["text"]: int(image[0].max()) for record, image in
              zip(data.records, images, strict=True)}  # fmt: skip
    assert shades == {text: shade for shade, text, *_ in FILMS}


def test_stored_image_can_be_sent_to_another_process(tmp_path):
    data = open_dataset(parquet_shards(tmp_path))
    ghost = next(one for one in data.records if one.inputs["text"] == FILMS[1][1])
    assert pickle.loads(pickle.dumps(ghost.inputs["image"])).load() == png(60)
    assert data.fingerprint() == open_dataset(tmp_path).fingerprint()


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("mmimdb_dev", "dev"), ("val-00000-of-00002", "dev"), ("x_test", "test"),
     ("Validation", "dev"), ("testimony", ""), ("train_test", ""), ("unlabelled", "unlabelled")],
)  # fmt: skip
def test_names_tell_their_splits(name, split):
    assert split_named(name) == split


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"image": 1}\n[1]\n', "line 2: not JSON lines .*is no object"),
        ("a.jsonl", b'{"image": 1}\n{"image"\n', "line 2: not JSON lines"),
        ("a.jsonl", b'{"image": "\xff"}\n', "not UTF-8 .*in line 1"),
        ("a.parquet", b"PAR1 and no more", "not a whole Parquet or Arrow file"),
        ("a.arrow", b"ARROW1\0\0 and no more", "not a whole Parquet or Arrow file"),
        ("a.jsonl", b"", "expected a column of labels"),
    ],
)
def test_broken_file_is_told(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_dataset(tmp_path / name)


def test_class_without_a_name_and_tables_of_other_columns_are_refused(tmp_path):
    folder = class_labels(tmp_path)
    wrong = table([(0, "text", [7], "test")])
    noted = pyarrow.parquet.read_schema(folder / "test.parquet").metadata
    pyarrow.parquet.write_table(wrong.replace_schema_metadata(noted), folder / "test.parquet")
    with pytest.raises(InputError, match="class 7 of 4"):
        open_dataset(folder)
    pyarrow.parquet.write_table(
        wrong.rename_columns(["image", "text", "x"]), folder / "test.parquet"
    )
    with pytest.raises(InputError, match="expected the columns image, text, x"):
        open_dataset(folder)


def test_much_text_or_many_rows_are_refused(tmp_path, monkeypatch):
    made = arrow.table({"text": ["x" * 1000] * 50}).set_column(
        0, "text", arrow.array(["x" * 1000] * 50).dictionary_encode()
    )
    pyarrow.parquet.write_table(made, tmp_path / "a.parquet")
    for name, most in (("MAX_TABLE_BYTES", 10_000), ("MAX_ROWS", 10)):
        with monkeypatch.context() as patch, pytest.raises(InputError, match="split the table"):
            patch.setattr(files, name, most)
            open_dataset(tmp_path / "a.parquet")


def test_stamp_changes_with_the_table_and_not_with_its_images(tmp_path):
    path = jsonl(tmp_path)
    before = source_stamp(path)
    (tmp_path / "0.png").write_bytes(png(9))
    assert source_stamp(path) == before
    path.write_text(path.read_text() + "\n")
    assert source_stamp(path) != before
    path.unlink()
    assert source_stamp(path) is None


def test_damaged_image_in_a_file_is_counted(tmp_path):
    columns = {
        "image": [png(0), b"no image", png(60), png(120), None],
        "text": ["a", "b", "c", "d", "e"],
        "labels": ["A", "B", "A", "B", "A"],
        "split": ["train", "train", "dev", "test", "train"],
    }
    pyarrow.parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
    data = open_dataset(tmp_path / "a.parquet")
    images, bad = decode_images(data, "image", (6, 4), tmp_path / "images.npy")
    assert list(bad) == ["2", "5"] and len(images) == 3
    assert np.array_equal(images[0], np.zeros((3, 6, 4), "uint8"))
