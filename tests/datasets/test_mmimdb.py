import gzip
import io
import json
import logging
import tarfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from ssnas_core.common.errors import InputError
from ssnas_core.datasets import mmimdb
from ssnas_core.datasets.mmimdb import GENRES, read_mmimdb, read_posters
from ssnas_core.datasets.open import open_dataset

SPLIT = {"train": ["0003", "0001", "0002"], "dev": ["0005", "0004"], "test": ["0006"]}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache folder of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SSNAS_CACHE", str(folder))
    return folder


def unpacked(cache):
    """The only folder in the cache."""
    (folder,) = cache.iterdir()
    return folder


def poster(shade, form="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 6), (shade, 0, 0)).save(buffer, form)
    return buffer.getvalue()


def movie(name, **changes):
    document = {"plot": ["brief", f"a longest plot of {name}", "zz"], "genres": ["War", "Drama"]}
    return json.dumps(document | changes).encode()


def files(**changes):
    """MM-IMDB's layout in small: path under mmimdb/ -> bytes; a change of None removes a file."""
    made = {"split.json": json.dumps(SPLIT).encode()}
    for number in range(1, 7):
        name = f"{number:04d}"
        made[f"dataset/{name}.json"] = movie(name)
        made[f"dataset/{name}.jpeg"] = poster(40 * number)
    made |= changes
    return {name: data for name, data in made.items() if data is not None}


def write_folder(folder, made):
    (folder / "dataset").mkdir(parents=True)
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return folder


def tar_bytes(made, extra=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in made.items():
            member = tarfile.TarInfo(f"mmimdb/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member in extra:
            archive.addfile(member)
    return buffer.getvalue()


def write_archive(path, made, extra=()):
    path.write_bytes(gzip.compress(tar_bytes(made, extra), compresslevel=1))
    return path


def contents(dataset):
    """Everything but where the posters lie."""
    return [(r.id, r.inputs["text"], r.inputs["image"].name, r.labels, r.split)
            for r in dataset.records]  # fmt: skip


def test_archive_is_read_in_the_order_of_its_split(tmp_path):
    data = read_mmimdb(write_archive(tmp_path / "mmimdb.tar.gz", files()))
    assert [r.id for r in data.records] == ["0003", "0001", "0002", "0005", "0004", "0006"]
    assert [r.split for r in data.records] == ["train"] * 3 + ["dev"] * 2 + ["test"]
    assert (data.name, data.kinds) == ("mmimdb", {"image": "image", "text": "text"})
    assert data.classes == GENRES
    assert data.records[0].inputs["text"] == "a longest plot of 0003"
    assert data.records[0].inputs["image"].read_bytes() == poster(120)
    assert data.records[0].labels == ("Drama", "War")
    assert data.skipped == {}


def test_folder_its_parent_and_the_archive_give_the_same_records(tmp_path, cache):
    made = files(**{"dataset/0001.json": b"{", "dataset/0002.jpeg": None})
    folder = write_folder(tmp_path / "home" / "mmimdb", made)
    readings = [
        read_mmimdb(folder),
        read_mmimdb(folder.parent),
        read_mmimdb(write_archive(tmp_path / "a.tar.gz", made)),
        read_mmimdb(unpacked(cache)),
    ]
    assert len(readings[0]) == 4
    for other in readings[1:]:
        assert contents(other) == contents(readings[0])
        assert other.skipped == readings[0].skipped
        assert other.fingerprint() == readings[0].fingerprint()


def test_genres_are_the_published_23_in_order():
    assert len(GENRES) == len(set(GENRES)) == 23
    assert (GENRES[0], GENRES[10], GENRES[-1]) == ("Drama", "Sci-Fi", "Film-Noir")


FORMS = {
    "0001.jpg": "JPEG", "0001.JPEG": "JPEG", "0001.JPG": "JPEG", "0001.png": "PNG",
    "0001.PNG": "PNG", "0001.Png": "PNG", "0001.webp": "WEBP", "0001.bmp": "BMP",
    "0001.TIFF": "TIFF", "0001.gif": "GIF",
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_a_poster_may_be_of_any_form_and_end_in_any_case(tmp_path, name):
    content = poster(100, FORMS[name])
    made = files(**{"dataset/0001.jpeg": None, f"dataset/{name}": content})
    for data in (
        read_mmimdb(write_folder(tmp_path / "mmimdb", made), strict=True),
        read_mmimdb(write_archive(tmp_path / "m.tgz", made), strict=True),
    ):
        assert data.records[1].inputs["image"].name == name
        assert data.records[1].inputs["image"].read_bytes() == content


@pytest.mark.parametrize("other", ["0001.jpg", "0001.JPEG", "0001.png"])
def test_a_movie_of_two_posters_is_left_out_as_nobody_knows_which_is_its_own(tmp_path, other):
    made = files(**{f"dataset/{other}": poster(9)})
    data = read_mmimdb(write_folder(tmp_path / "mmimdb", made))
    both = ", ".join(sorted([f"dataset/{other}", "dataset/0001.jpeg"]))
    assert data.skipped == {"0001": f"several files for the poster ({both})"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-8"])
def test_documents_are_read_as_editors_of_any_system_save_them(tmp_path, encoding):
    made = files()
    for name in ("split.json", "dataset/0001.json"):
        made[name] = made[name].decode().encode(encoding)
    data = read_mmimdb(write_folder(tmp_path / "mmimdb", made), strict=True)
    assert contents(data) == contents(read_mmimdb(write_folder(tmp_path / "plain", files())))


def test_an_archive_is_unpacked_into_the_cache_which_is_said_once_with_its_size(
    tmp_path, cache, caplog
):
    big = files(**{"dataset/0001.jpeg": np.random.default_rng(0).bytes(2_300_000)})
    path = write_archive(tmp_path / "mmimdb.tar.gz", big)
    read_mmimdb(path)
    (said,) = caplog.messages
    assert f"{path} is unpacked in {unpacked(cache)} (2.3 MB)" in said and "SSNAS_CACHE" in said
    caplog.clear()
    read_mmimdb(path)
    assert caplog.messages == []
    assert [one.name for one in tmp_path.iterdir()] == ["mmimdb.tar.gz"]
    (tmp_path / "other").mkdir()
    read_mmimdb(write_archive(tmp_path / "other" / "mmimdb.tar.gz", files()))
    assert len([*cache.iterdir()]) == 2  # of one name, but of another folder


def test_a_plot_that_is_text_is_read_and_genres_outside_of_the_task_are_not(tmp_path):
    changes = {
        "dataset/0001.json": movie("0001", plot=" one plot\n", genres=["News", "Sport", "Sport"]),
    }
    data = read_mmimdb(write_archive(tmp_path / "m.tgz", files(**changes)))
    record = data.records[1]
    assert record.inputs["text"] == "one plot"
    assert record.labels == ("Sport",)  # News is not part of the task, and no error


BAD = [
    ("dataset/0001.jpeg", None, "poster missing"),
    ("dataset/0001.jpeg", b"", r"poster empty \(0 bytes\)"),
    ("dataset/0001.json", None, "JSON missing"),
    ("dataset/0001.json", b"", r"JSON empty \(0 bytes\)"),
    ("dataset/0001.json", b'{"plot": ', "JSON unreadable or malformed"),
    ("dataset/0001.json", b"\xff\xfe{", "JSON unreadable or malformed"),
    ("dataset/0001.json", b"[" * 100_000, "JSON unreadable or malformed"),
    ("dataset/0001.json", b"[1]", "JSON is not an object"),
    ("dataset/0001.json", b'{"genres": ["Drama"]}', "no 'plot'"),
    ("dataset/0001.json", b'{"plot": "x", "genres": 3}', "'genres' is not a list of texts"),
    ("dataset/0001.json", movie("", plot=7), "'plot' is not text or a list of texts"),
    ("dataset/0001.json", movie("", plot=["a", None]), "'plot' is not text or a list of texts"),
    ("dataset/0001.json", movie("", plot=[]), "plot is empty"),
    ("dataset/0001.json", movie("", plot=" \n"), "plot is empty"),
    ("dataset/0001.json", movie("", plot="a \ud800 b"), "plot is not valid Unicode"),
    ("dataset/0001.json", movie("", genres="Drama"), "'genres' is not a list of texts"),
    ("dataset/0001.json", movie("", genres=[1]), "'genres' is not a list of texts"),
    ("dataset/0001.json", movie("", genres=["Drama", "Opera"]), "unknown genre 'Opera'"),
    ("dataset/0001.json", movie("", genres=["News", "Adult"]), "none of the 23 genres"),
]


@pytest.mark.parametrize(("file", "data", "reason"), BAD)
def test_a_bad_record_is_left_out_and_reported(tmp_path, caplog, file, data, reason):
    folder = write_folder(tmp_path / "mmimdb", files(**{file: data}))
    with caplog.at_level(logging.WARNING):
        dataset = read_mmimdb(folder)
    assert [r.id for r in dataset.records] == ["0003", "0002", "0005", "0004", "0006"]
    assert dataset.skipped.keys() == {"0001"}
    assert len(caplog.records) == 1
    assert "left out 1 of 6 records: 1 x " in caplog.text
    with pytest.raises(InputError, match=rf"{file}: record '0001': {reason}; mend it") as caught:
        read_mmimdb(folder, strict=True)
    assert f": {dataset.skipped['0001']};" in str(caught.value)


@pytest.mark.parametrize(
    ("split", "bad", "reason"),
    [
        ({"train": ["0001", "0002"], "dev": ["0004", "0001"]}, "0001", "listed in train and dev"),
        ({"train": ["0001", "0002", "0001"]}, "0001", "listed in train and train"),
        ({"train": ["0001", "0009"]}, "0009", "JSON missing"),
        ({"train": ["0001", "../dataset/0002"]}, "../dataset/0002", "not a safe id"),
        ({"train": ["0001", "a\\b"]}, "a\\b", "not a safe id"),
        ({"train": ["0001", "0002\n"]}, "0002\n", "not a safe id"),
        ({"train": ["0001", 2]}, "2", "not a safe id"),
        ({"train": ["0001", ["0002"]]}, "['0002']", "not a safe id"),
    ],
)
def test_a_bad_entry_of_the_split_is_left_out(tmp_path, split, bad, reason):
    made = files(**{"split.json": json.dumps(SPLIT | split).encode()})
    folder = write_folder(tmp_path / "mmimdb", made)
    data = read_mmimdb(folder)
    assert bad not in {r.id for r in data.records}
    assert data.skipped.keys() == {bad}
    assert data.skipped[bad].startswith(reason)
    with pytest.raises(InputError, match=rf"(split|0009)\.json: record .*: {reason}"):
        read_mmimdb(folder, strict=True)


def test_many_bad_records_make_one_warning_that_counts_the_reasons(tmp_path, caplog):
    made = files(**{"dataset/0001.jpeg": None, "dataset/0002.jpeg": None,
                    "dataset/0005.json": b"?"})  # fmt: skip
    data = read_mmimdb(write_folder(tmp_path / "mmimdb", made))
    assert len(data.skipped) == 3
    (warning,) = caplog.messages
    assert "left out 3 of 6 records: 2 x poster missing, 1 x JSON unreadable" in warning


def test_a_clean_corpus_warns_of_nothing(tmp_path, caplog):
    read_mmimdb(write_folder(tmp_path / "mmimdb", files()), strict=True)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (b"{", r"split\.json is not valid JSON"),
        (b"[]", r"split\.json: expected lists of ids under train, dev and test, got \[\]"),
        (b'{"train": [], "dev": []}', "expected lists of ids under train, dev and test"),
        (b'{"train": [], "dev": [], "test": "0001"}', "expected lists of ids under"),
        (b'{"train": ["0001"], "dev": ["0002"], "test": []}', r"split 'test', got none \(0 of"),
        (
            b'{"train": ["0001"], "dev": ["9"], "test": ["0002"]}',
            r"split 'dev', got none \(1 of all 3 unusable, e\.g\. '9': JSON missing\); restore",
        ),
    ],
)
def test_a_split_file_that_cannot_be_used_is_refused(tmp_path, split, message):
    folder = write_folder(tmp_path / "mmimdb", files(**{"split.json": split}))
    with pytest.raises(InputError, match=message):
        read_mmimdb(folder)


def test_paths_without_mmimdb_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist; expected mmimdb\.tar\.gz or"):
        read_mmimdb(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no split\.json; expected MM-IMDB's folder"):
        read_mmimdb(tmp_path)
    (tmp_path / "split.json").write_bytes(files()["split.json"])
    with pytest.raises(InputError, match="holds no folder dataset/"):
        read_mmimdb(tmp_path)


def damaged(kind):
    plain = tar_bytes(files())
    whole = gzip.compress(plain, compresslevel=1)
    if kind == "truncated":
        return whole[: len(whole) // 2]
    if kind == "last byte gone":
        return whole[:-1]
    if kind == "flipped checksum":
        return whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
    if kind == "tar truncated in a member":
        return gzip.compress(plain[: 512 + 20])
    if kind == "tar truncated in a header":
        return gzip.compress(plain[: 1024 + 100])
    if kind == "damaged header":
        return gzip.compress(plain[:1024] + b"garbage" * 10 + plain[1094:])
    return {"text": b"hello", "empty": b"", "plain tar": plain, "gz of text": gzip.compress(b"hi")}[
        kind
    ]


@pytest.mark.parametrize(
    "kind",
    ["truncated", "last byte gone", "flipped checksum", "tar truncated in a member",
     "tar truncated in a header", "damaged header", "text", "empty", "plain tar", "gz of text"],
)  # fmt: skip
def test_a_damaged_archive_is_refused_each_time(tmp_path, cache, kind):
    path = tmp_path / "mmimdb.tar.gz"
    path.write_bytes(damaged(kind))
    for _ in range(2):
        with pytest.raises(InputError, match=r"is not a whole \.tar\.gz archive .*download it"):
            read_mmimdb(path)
    with pytest.raises(InputError, match="no split.json|is an interrupted unpack"):
        read_mmimdb(unpacked(cache))


def test_an_archive_without_a_split_is_refused(tmp_path):
    path = write_archive(tmp_path / "mmimdb.tar.gz", files(**{"split.json": None}))
    with pytest.raises(InputError, match=r"holds no mmimdb/split\.json; expected MM-IMDB's"):
        read_mmimdb(path)


def special(name, kind=tarfile.REGTYPE, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        (special("../evil.json"), "a path outside of it"),
        (special("mmimdb/dataset/../../../evil.json"), "a path outside of it"),
        (special("/tmp/evil.json"), "a path outside of it"),
        (special("mmimdb\\..\\..\\evil.json"), "a path outside of it"),
        (special("mmimdb/dataset/1.json", tarfile.SYMTYPE, "/etc/passwd"), "a link or device"),
        (special("mmimdb/dataset/1.jpeg", tarfile.LNKTYPE, "mmimdb/split.json"), "a link or dev"),
        (special("mmimdb/dataset", tarfile.SYMTYPE, "/tmp"), "a link or device"),
        (special("mmimdb/x", tarfile.CHRTYPE), "a link or device"),
        (special("mmimdb/x", tarfile.FIFOTYPE), "a link or device"),
    ],
)
def test_a_hostile_archive_is_refused_and_writes_nothing_outside(tmp_path, member, problem):
    inside = tmp_path / "deep" / "deeper"
    inside.mkdir(parents=True)
    path = write_archive(inside / "mmimdb.tar.gz", files(), [member])
    with pytest.raises(InputError, match=rf"holds {problem}.*do not use this archive"):
        read_mmimdb(path)
    assert [p.name for p in inside.iterdir()] == ["mmimdb.tar.gz"]
    assert not list(tmp_path.rglob("*evil*"))


def test_only_files_of_the_layout_are_unpacked(tmp_path):
    extra = [
        special("mmimdb/README"),
        special("mmimdb/dataset/run.sh"),
        special("mmimdb/dataset/._0001.jpeg"),
        special("mmimdb/dataset/deep/0001.json"),
        special("other/dataset/0009.json"),
        special("mmimdb", tarfile.DIRTYPE),
    ]
    read_mmimdb(write_archive(tmp_path / "mmimdb.tar.gz", files(), extra), unpack_to=tmp_path / "u")
    found = {str(p.relative_to(tmp_path / "u")) for p in (tmp_path / "u").rglob("*")}
    assert found - {".lock"} == set(files()) | {"dataset", "unpacked.json"}


def test_members_and_files_over_the_limits_are_bad_records(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(mmimdb, "MAX_JSON_BYTES", 2_000_000)
    monkeypatch.setattr(mmimdb, "MAX_POSTER_BYTES", 3_000_000)
    made = files(**{"dataset/0001.json": b" " * 2_000_001, "dataset/0002.jpeg": b" " * 3_000_001})
    expected = {"0001": "JSON larger than 2 MB", "0002": "poster larger than 3 MB"}
    archive = write_archive(tmp_path / "mmimdb.tar.gz", made)
    assert read_mmimdb(archive).skipped == expected
    assert not (unpacked(cache) / "dataset/0002.jpeg").exists()
    assert read_mmimdb(archive).skipped == expected  # also from the marker
    assert read_mmimdb(write_folder(tmp_path / "mmimdb", made)).skipped == expected


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(mmimdb, "MAX_TOTAL_BYTES", 1_000_000)
    made = {"bomb": b"\0" * 1_000_001} | files()  # counted although it would not be unpacked
    path = write_archive(tmp_path / "mmimdb.tar.gz", made)
    with pytest.raises(InputError, match="unpacks to more than 0.001 GB"):
        read_mmimdb(path)


def test_an_archive_that_unpacks_to_many_times_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(mmimdb, "MIN_TOTAL_BYTES", 100_000)
    whole = files(**{"dataset/0001.jpeg": b"\0" * 1_000_000})
    with pytest.raises(InputError, match=r"unpacks to more than 0\.0001\d* GB or 250,000 files"):
        read_mmimdb(write_archive(tmp_path / "a.tar.gz", whole))
    noise = files(**{"dataset/0001.jpeg": np.random.default_rng(0).bytes(1_000_000)})
    assert len(read_mmimdb(write_archive(tmp_path / "b.tar.gz", noise))) == 6


def test_an_archive_of_too_many_members_is_refused(tmp_path, monkeypatch):
    path = write_archive(tmp_path / "mmimdb.tar.gz", files())
    monkeypatch.setattr(mmimdb, "MAX_MEMBERS", len(files()) - 1)
    with pytest.raises(InputError, match="unpacks to more than 1 GB or 12 files"):
        read_mmimdb(path)


@pytest.mark.parametrize("kind", [b"L", b"x"])
@pytest.mark.parametrize("amid", [False, True])
def test_headers_of_megabytes_are_refused_before_they_are_read(tmp_path, kind, amid):
    member = tarfile.TarInfo("mmimdb/x")
    member.type, member.size = kind, 64 << 20
    head = member.tobuf(tarfile.USTAR_FORMAT) + bytes(64 << 20)
    plain = tar_bytes(files())
    members = plain[: -(-len(plain.rstrip(b"\0")) // 512) * 512]
    whole = members + head if amid else head + plain
    path = tmp_path / "mmimdb.tar.gz"
    path.write_bytes(gzip.compress(whole, 1))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="more between its members than they have"):
            read_mmimdb(path)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_a_link_to_itself_is_a_missing_file(tmp_path):
    folder = write_folder(tmp_path / "mmimdb", files(**{"dataset/0001.json": None}))
    (folder / "dataset" / "0001.json").symlink_to("0001.json")
    assert read_mmimdb(folder).skipped == {"0001": "JSON missing"}


def test_a_plot_of_a_book_is_a_bad_record(tmp_path):
    long = files(**{"dataset/0001.json": movie("0001", plot="x" * 100_001)})
    data = read_mmimdb(write_folder(tmp_path / "mmimdb", long))
    assert data.skipped == {"0001": "plot longer than 100,000 characters"}


def test_an_archive_is_unpacked_once_and_again_when_it_changed(tmp_path, cache):
    path = write_archive(tmp_path / "mmimdb.tar.gz", files())
    read_mmimdb(path)
    file = unpacked(cache) / "dataset/0001.jpeg"
    file.write_bytes(b"mine")
    assert read_mmimdb(path).records[1].inputs["image"].read_bytes() == b"mine"
    write_archive(path, files(**{"dataset/0001.jpeg": poster(9) * 2, "dataset/0002.jpeg": None}))
    changed = read_mmimdb(path)
    assert file.read_bytes() == poster(9) * 2
    assert changed.skipped == {"0002": "poster missing"}  # the old archive's is gone


def test_an_interrupted_unpack_is_redone_and_never_read(tmp_path, cache, monkeypatch):
    path = write_archive(tmp_path / "mmimdb.tar.gz", files())
    copied = []

    def killed(source, target):
        if len(copied) == 5:
            raise KeyboardInterrupt
        copied.append(target.write(source.read()))

    with monkeypatch.context() as patch:
        patch.setattr(mmimdb.shutil, "copyfileobj", killed)
        with pytest.raises(KeyboardInterrupt):
            read_mmimdb(path)
    assert (unpacked(cache) / "split.json").exists()
    with pytest.raises(InputError, match="is an interrupted unpack; .*read the archive again"):
        read_mmimdb(unpacked(cache))
    assert len(read_mmimdb(path, strict=True)) == 6


def test_a_folder_with_other_files_is_not_unpacked_into(tmp_path):
    path = write_archive(tmp_path / "mmimdb.tar.gz", files())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="mine holds other files; expected an empty or new folder"):
        read_mmimdb(path, unpack_to=tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    path = write_archive(tmp_path / "mmimdb.tar.gz", files())
    with pytest.raises(InputError, match=r"cannot unpack .* into .*below \(.*name another folder"):
        read_mmimdb(path, unpack_to=path / "below")


def test_movies_without_genres_are_unlabelled_but_in_test(tmp_path):
    train, dev, test = SPLIT["train"], SPLIT["dev"], SPLIT["test"]
    split = {"train": train[1:], "dev": dev, "test": test, "unlabelled": train[:1]}
    changes = {
        "split.json": json.dumps(split).encode(),
        f"dataset/{train[1]}.json": movie("a", genres=[]),
        f"dataset/{dev[0]}.json": b'{"plot": "x"}',
        f"dataset/{test[0]}.json": movie("b", genres=None),
    }
    more = {"split.json": json.dumps({**split, "test": [*test, "0007"]}).encode()}
    made = files(
        **changes | more, **{"dataset/0007.json": movie("c"), "dataset/0007.jpeg": poster(9)}
    )
    data = read_mmimdb(write_folder(tmp_path / "mmimdb", made))
    unlabelled = {record.id: record.split for record in data.records if record.labels is None}
    assert unlabelled == {train[0]: "train", train[1]: "train", dev[0]: "dev"}
    assert data.skipped == {test[0]: "no genre, in test"}


def test_posters_alone_are_the_same_records_without_plots(movies, tmp_path):
    folder = movies.folder(tmp_path / "mmimdb")
    broken = json.loads((folder / movies.json(3)).read_text())
    (folder / movies.json(3)).write_text(json.dumps({**broken, "plot": []}))
    both, alone = read_mmimdb(folder), read_posters(folder)
    assert alone.kinds == {"image": "image"} and not alone.single_label
    assert (alone.classes, alone.skipped) == (both.classes, both.skipped)
    assert [(r.id, r.labels, r.split, r.inputs) for r in alone.records] == [
        (r.id, r.labels, r.split, {"image": r.inputs["image"]}) for r in both.records
    ]
    archive = movies.archive(tmp_path / "mmimdb.tar.gz")
    named = open_dataset(f"posters:{archive}", unpack_to=tmp_path / "unpacked")
    assert len(named) == 60 and (tmp_path / "unpacked" / "split.json").exists()
    with pytest.raises(InputError, match="does not exist; expected mmimdb.tar.gz"):
        open_dataset(f"posters:{tmp_path / 'nowhere'}")
