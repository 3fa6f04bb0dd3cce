import dataclasses
import errno
import hashlib
import http.server
import io
import itertools
import logging
import os
import shutil
import threading
from collections import namedtuple
from types import SimpleNamespace

import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.datasets import download as mirrors
from ssnas_core.datasets.download import PUBLISHED, Published, download

CONTENT = b"\x89HDF\r\n\x1a\n" + os.urandom(300_000)
HASH = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


class Handler(http.server.BaseHTTPRequestHandler):
    """What the first part of the path says: /whole/..., /cut/..., /wrong/..., else 404."""

    protocol_version = "HTTP/1.1"

    def send_head(self):
        self.server.asked.append(f"{self.command} {self.path}")
        kind = self.path.split("/")[1]
        if kind == "moved":
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/whole/x")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        if kind not in ("whole", "cut", "wrong", "encoded", "unsized"):
            self.send_error(404)
            return None
        self.send_response(200)
        if kind == "encoded":  # as some servers do for every .gz
            self.send_header("Content-Encoding", "gzip")
        if kind == "unsized":
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        return kind

    def do_HEAD(self):  # noqa: N802
        self.send_head()

    def do_GET(self):  # noqa: N802
        kind = self.send_head()
        if kind == "cut":
            self.wfile.write(CONTENT[:100_000])
            self.close_connection = True
        elif kind == "wrong":
            self.wfile.write(bytes(len(CONTENT)))
        elif kind is not None:
            self.wfile.write(CONTENT)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A mirror on the loopback: `.url`, and `.asked`, the requests it got."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        running.handle_error = lambda *_: None  # a client may close early
        running.url = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def dead():
    """A URL where nobody listens."""
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        return f"http://127.0.0.1:{closed.server_address[1]}/x"


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("name", "file"), [("mmimdb", "mmimdb.tar.gz"), ("mmimdb-hdf5", "multimodal_imdb.hdf5")]
)
@pytest.mark.parametrize("kind", ["whole", "moved", "encoded", "unsized"])
def test_file_arrives_whole_with_its_hash_beside(server, tmp_path, name, file, kind):
    folder = tmp_path / "new" / "data"
    path = download(name, folder, urls=[f"{server.url}/{kind}/{file}"], sha256=HASH.upper())
    assert path == folder / file and path.read_bytes() == CONTENT
    assert left(folder) == [file, f"{file}.sha256"]
    assert (folder / f"{file}.sha256").read_text() == f"{HASH}  {file}\n"


def test_without_a_known_hash_the_files_own_is_told(server, tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO):
        download("mmimdb-hdf5", tmp_path, urls=[f"{server.url}/whole/x"])
    assert f"SHA-256 {HASH}, written beside it" in caplog.text


def test_new_files_have_the_permissions_of_others(server, tmp_path):
    path = download("mmimdb", tmp_path, urls=[f"{server.url}/whole/x"], sha256=HASH)
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_progress_is_shown_where_asked(server, tmp_path, capsys):
    download("mmimdb", tmp_path / "a", urls=[f"{server.url}/whole/x"], sha256=HASH)
    assert capsys.readouterr() == ("", "")
    for _ in range(2):
        download("mmimdb", tmp_path, urls=[f"{server.url}/whole/x"], sha256=HASH, progress=True)
    told = capsys.readouterr()
    assert told.out == "" and "downloading x: 100%" in told.err
    assert "checking mmimdb.tar.gz: 100%" in told.err


FAILURES = {
    "cut": r"/cut/x: connection cut after 100,000 of 300,\d\d\d bytes",
    "wrong": rf"/wrong/x: expected SHA-256 {HASH}, got [0-9a-f]{{64}}",
    "none": "/none/x: HTTP 404 Not Found",
}


@pytest.mark.parametrize("kind", FAILURES)
def test_failure_is_told_in_one_line_and_leaves_nothing(server, tmp_path, kind):
    with pytest.raises(InputError, match=rf"cannot download mmimdb\.tar\.gz .*{FAILURES[kind]}"):
        download("mmimdb", tmp_path, urls=[f"{server.url}/{kind}/x"], sha256=HASH)
    assert left(tmp_path) == []


def test_failure_leaves_an_older_file_as_it_was(server, tmp_path):
    (tmp_path / "mmimdb.tar.gz").write_bytes(b"old")
    for kind in FAILURES:
        with pytest.raises(InputError, match="cannot download"):
            download("mmimdb", tmp_path, urls=[f"{server.url}/{kind}/x"], sha256=HASH)
    assert left(tmp_path) == ["mmimdb.tar.gz"]
    assert (tmp_path / "mmimdb.tar.gz").read_bytes() == b"old"


def test_dead_mirrors_are_told_one_by_one(server, dead, tmp_path):
    urls = [dead, f"{server.url}/none/x", "ftp://127.0.0.1/x", "nonsense"]
    with pytest.raises(InputError) as caught:
        download("mmimdb", tmp_path, urls=urls)
    message = str(caught.value)
    assert f"{dead}: no connection; " in message
    assert "\n" not in message and all(url in message for url in urls)
    with pytest.raises(InputError, match="no mirror named"):
        download("mmimdb", tmp_path, urls=[])
    assert left(tmp_path) == []


def test_next_mirror_is_tried_until_one_has_the_file(server, dead, tmp_path):
    urls = [dead, *(f"{server.url}/{kind}/x" for kind in ("none", "cut", "wrong", "whole", "cut"))]
    assert download("mmimdb", tmp_path, urls=urls, sha256=HASH).read_bytes() == CONTENT
    assert server.asked == [f"GET /{kind}/x" for kind in ("none", "cut", "wrong", "whole")]


def test_mirror_that_says_nothing_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(mirrors, "_TIMEOUT", 0.1)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(InputError, match=r"/x: no answer within 0\.1 s"):
            download("mmimdb", tmp_path, urls=[url])


def test_what_does_not_begin_as_the_file_is_not_kept(server, tmp_path, monkeypatch):
    (published,) = PUBLISHED["mmimdb-hdf5"]
    other = dataclasses.replace(published, start=b"PK")
    monkeypatch.setitem(PUBLISHED, "mmimdb-hdf5", (other,))
    urls = [f"{server.url}/whole/x"]
    with pytest.raises(InputError, match="got something else, which does not begin as one"):
        download("mmimdb-hdf5", tmp_path, urls=urls)
    assert left(tmp_path) == []
    download("mmimdb-hdf5", tmp_path, urls=urls, sha256=HASH)  # which says more


@pytest.mark.parametrize("kind", ["whole", "unsized"])
def test_file_larger_than_any_published_is_given_up(server, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(mirrors, "_MOST", 100_000)
    message = {"whole": "more than such a file may have", "unsized": "more than 100,000 bytes"}
    with pytest.raises(InputError, match=message[kind]):
        download("mmimdb", tmp_path, urls=[f"{server.url}/{kind}/x"], sha256=HASH)
    assert left(tmp_path) == []


def test_mirror_that_trickles_is_given_up(server, tmp_path, monkeypatch):
    hours = (3600.0 * hour for hour in itertools.count())
    monkeypatch.setattr(mirrors, "time", SimpleNamespace(monotonic=hours.__next__))
    with pytest.raises(InputError, match="less than 1,000 bytes a second"):
        download("mmimdb", tmp_path, urls=[f"{server.url}/whole/x"], sha256=HASH)
    assert left(tmp_path) == []


def test_too_small_a_disk_is_told_before_anything_is_written(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    urls = [f"{server.url}/whole/x"] * 2
    message = r"cannot write .*300,\d+ bytes, the disk 1,000 free.*make room"
    with pytest.raises(InputError, match=message):
        download("mmimdb", tmp_path, urls=urls, sha256=HASH)
    assert left(tmp_path) == [] and len(server.asked) == 1  # another mirror would not help


def test_disk_that_fills_up_on_the_way_is_told(server, tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mirrors, "open", lambda *_: Full(), raising=False)
    with pytest.raises(InputError, match=r"cannot write .*No space left on device.*make room"):
        download("mmimdb", tmp_path, urls=[f"{server.url}/whole/x"], sha256=HASH)
    assert left(tmp_path) == []


def test_interruption_leaves_nothing(server, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(mirrors, "atomic_path", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download("mmimdb", tmp_path, urls=[f"{server.url}/whole/x"], sha256=HASH)
    assert left(tmp_path) == []


def test_folder_that_cannot_be_made_is_told(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write .*name another folder that can be written"):
        download("mmimdb", tmp_path / "file" / "data", urls=[f"{server.url}/whole/x"])


def test_file_that_is_there_is_not_fetched_again(server, tmp_path):
    urls = [f"{server.url}/whole/x"]
    for _ in range(3):
        download("mmimdb-hdf5", tmp_path, urls=urls)  # by the hash beside it
    assert len(server.asked) == 1
    download("mmimdb-hdf5", tmp_path, urls=urls, sha256=HASH)
    assert len(server.asked) == 1
    (tmp_path / "multimodal_imdb.hdf5").write_bytes(bytes(len(CONTENT)))  # same size
    assert download("mmimdb-hdf5", tmp_path, urls=urls).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_file_of_unknown_hash_is_kept_if_it_has_the_mirrors_size(server, dead, tmp_path, caplog):
    path = tmp_path / "multimodal_imdb.hdf5"
    other = CONTENT[:8] + bytes(len(CONTENT) - 8)
    path.write_bytes(other)
    download("mmimdb-hdf5", tmp_path, urls=[dead, f"{server.url}/moved/x"])
    assert server.asked == ["HEAD /moved/x", "HEAD /whole/x"]
    download("mmimdb-hdf5", tmp_path, urls=[dead])
    assert "no mirror tells its size; taken as it is" in caplog.text
    assert path.read_bytes() == other
    path.write_bytes(CONTENT[:-1])  # half a download of somebody else
    download("mmimdb-hdf5", tmp_path, urls=[f"{server.url}/whole/x"])
    assert path.read_bytes() == CONTENT


def test_unknown_names_and_hashes_that_are_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="among mmimdb, mmimdb-hdf5, avmnist, got 'imdb'"):
        download("imdb", tmp_path)
    with pytest.raises(InputError, match="SHA-256 of 64 hex digits, got 'abc'"):
        download("mmimdb", tmp_path, sha256="abc")


def test_published_hash_is_checked_unless_another_is_given(server, tmp_path):
    published = PUBLISHED["mmimdb"][0].sha256
    assert published is not None and len(published) == 64
    with pytest.raises(InputError, match=f"expected SHA-256 {published}, got {HASH}"):
        download("mmimdb", tmp_path, urls=[f"{server.url}/whole/x"])
    assert PUBLISHED["mmimdb-hdf5"][0].sha256 is None


def test_set_of_files_arrives_whole_and_is_not_fetched_again(server, tmp_path, monkeypatch):
    names = [published.name for published in PUBLISHED["avmnist"]]
    assert names == [
        *("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        *("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "fsdd.tar.gz"),
    ]
    few = tuple(Published(name, (), HASH, b"") for name in names)
    monkeypatch.setitem(PUBLISHED, "avmnist", few)
    urls = [f"{server.url}/none", f"{server.url}/whole/"]
    for _ in range(2):
        assert download("avmnist", tmp_path / "av", urls=urls) == tmp_path / "av"
    assert left(tmp_path / "av") == sorted([*names, *(f"{name}.sha256" for name in names)])
    places = [f"GET /{kind}/{name}" for name in names for kind in ("none", "whole")]
    assert server.asked == places
    assert all((tmp_path / "av" / name).read_bytes() == CONTENT for name in names)


def test_each_file_of_a_set_is_checked_by_its_own_hash(server, tmp_path):
    first = PUBLISHED["avmnist"][0]
    with pytest.raises(InputError, match=f"train-images.*expected SHA-256 {first.sha256}, got"):
        download("avmnist", tmp_path, urls=[f"{server.url}/whole"])
    with pytest.raises(InputError, match="no SHA-256 for the several files of avmnist, got one"):
        download("avmnist", tmp_path, sha256=HASH)
    assert left(tmp_path) == []
    *mnist, fsdd = PUBLISHED["avmnist"]
    assert len({one.sha256 for one in mnist}) == 4 and fsdd.sha256 is None
    assert all(len(one.sha256) == 64 and len(one.urls) == 2 for one in mnist)
    assert all(url.endswith(f"/mnist/{one.name}") for one in mnist for url in one.urls)


def test_published_mirrors_are_the_authors():
    for name in ("mmimdb", "mmimdb-hdf5"):
        (published,) = PUBLISHED[name]
        assert published.urls == (f"https://archive.org/download/mmimdb/{published.name}",)
