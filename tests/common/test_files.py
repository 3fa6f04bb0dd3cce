"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import (
    atomic_path,
    cache_folder,
    path_of,
    path_text,
    read_json,
    remove_parts,
    write_json,
    write_text,
)


def test_json_survives_a_round_trip(tmp_path):
    value = {"genotype": "Sum(image_0, text_0)", "scores": [0.5, None, True], "é": []}
    write_json(tmp_path / "new" / "folder" / "value.json", value)
    assert read_json(tmp_path / "new" / "folder" / "value.json") == value


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "value.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["value.txt"]


def test_who_reads_the_old_file_still_reads_all_of_it(tmp_path):
    path = tmp_path / "value.txt"
    write_text(path, "old")
    with open(path) as reader:
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_left_parts_are_deleted_but_where_another_process_may_be_at_work(tmp_path):
    own, other = tmp_path / "cells" / ".a.json.x1.part", tmp_path / "store" / ".b.npy.x2.part"
    for path in (own, other):
        path.parent.mkdir()
        path.touch()
    (other.parent / ".lock").touch()
    (tmp_path / ".lock").touch()  # one's own
    remove_parts(tmp_path)
    assert (own.exists(), other.exists()) == (False, True)


def test_failed_first_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "value.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_old_file_is_whole_until_the_new_one_is(tmp_path):
    path = tmp_path / "value.txt"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # one file system, so that the rename is atomic
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["value.txt"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX systems")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_an_ordinary_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "value.txt", "text")
        assert os.umask(umask) == umask  # and the umask is as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "value.txt").stat().st_mode) == mode


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_have_are_refused(tmp_path, value):
    path = tmp_path / "value.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": [1.0, value]})
    assert read_json(path) == {"loss": 1.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_unreadable_json_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"value\.json is {message}.*restore or delete"):
        read_json(path)


def test_missing_file_and_folder_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*missing\.json: No such file"):
        read_json(tmp_path / "missing.json")
    with pytest.raises(InputError, match="cannot read .*: Is a directory"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        "\ud800",
        "caf\udce9",
        ["fine", "\udfff"],
        {"\udce9": 1},
        {"deep": [{"er": "a\ud83d"}]},
        "\ude00\ud83d",  # a pair in the wrong order
    ],
)
def test_texts_that_the_reader_would_reject_are_not_written(tmp_path, value):
    path = tmp_path / "value.json"
    write_json(path, "😀 é 中")
    assert read_json(path) == "😀 é 中"
    with pytest.raises(
        InputError, match=r"cannot write .*value\.json: expected texts that are Uni"
    ):
        write_json(path, value)
    assert read_json(path) == "😀 é 中"


NAMES = [
    "movies.csv", "café", "数据", "映画　一覧", "a\u00a0b", "zero\u200bwidth", "e\u0301", "😀",
    "a 'b' $c", "dataset:x",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_path_comes_back_from_json_in_this_locale_and_in_one_of_ascii(tmp_path, name):
    path = tmp_path / name
    write_json(tmp_path / "note.json", {"path": path_text(path)})
    assert read_json(tmp_path / "note.json") == {"path": str(path)}
    assert path_of(read_json(tmp_path / "note.json")["path"], "note") == path


@pytest.mark.parametrize(
    "value", [None, 1, ["a"], "two\nlines", "caf\udce9", "\x1b[31m", "a\u2028b"]
)
def test_a_path_edited_by_hand_is_refused_by_name(value):
    with pytest.raises(InputError, match="^note: expected (str|a path of one line.*), got"):
        path_of(value, "note")


def test_paths_are_the_same_text_in_every_locale(tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
    program = (
        "import sys; from pathlib import Path\n"
        "from ssnas_core.common.files import path_of, path_text\n"
        "found = {path_text(one) for one in Path(sys.argv[1]).iterdir()}\n"
        "assert all(path_of(one, '').is_dir() for one in found)\n"
        "sys.stdout.buffer.write('\\n'.join(sorted(found)).encode())"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", program, str(tmp_path)]
    told = subprocess.run(command, env=os.environ | ascii_only, capture_output=True, check=True)
    assert told.stdout.decode().split("\n") == sorted(str(tmp_path / name) for name in NAMES)


@pytest.mark.parametrize(
    "name", [b"caf\xe9", b"\xff", b"\x80a", b"\xc3", b"\xe4\xb8", b"a\nb", b"a\tb", b"\x1b[31m"]
)
def test_a_path_that_no_file_could_hold_is_refused_with_its_bytes(name):
    path = Path(os.fsdecode(b"/data/" + name))
    with pytest.raises(
        InputError, match=r"expected a path .*got .*data.*rename the folder or file"
    ):
        path_text(path)


def test_cache_is_the_users_own_where_nothing_else_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("SSNAS_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("SSNAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ssnas"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "ssnas"


def test_many_short_values_are_read_where_they_are_expected(tmp_path):
    path = tmp_path / "words.json"
    path.write_text(f"[{'[7, 5], ' * 800_000}[]]")
    with pytest.raises(InputError, match="words.json is not valid JSON .2,400,002 values, more"):
        read_json(path)
    assert len(read_json(path, shortest=2)) == 800_001
