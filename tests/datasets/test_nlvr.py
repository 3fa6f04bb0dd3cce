"""NLVR's annotations: regions as drawn, no sentence in two parts, odd records told."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.nlvr import is_nlvr, read_nlvr
from ssnas_core.datasets.open import form_of, open_dataset

BLACK = {"type": "circle", "color": "Black", "size": 30, "x_loc": 7, "y_loc": 2}
BLUE = {"type": "triangle", "color": "#0099ff", "size": 10, "x_loc": 50, "y_loc": 88}


def entry(identifier, sentence, directory="0", label="true", boxes=((BLACK,), (), (BLUE,))):
    return {
        "identifier": identifier,
        "sentence": sentence,
        "directory": directory,
        "label": label,
        "structured_rep": [list(box) for box in boxes],
    }


DEV = [
    entry("1-0", "A black circle."),
    entry("1-1", "There is no circle", label="false"),
    entry("2-0", "Both are small", directory="5"),
    entry("2-1", "a black, circle", directory="5"),
    entry("3-0", "Shared with test"),
]
TEST = [entry("9-0", "shared with TEST!")]


def archive(path, dev=DEV, test=TEST, top="nlvr"):
    with tarfile.open(path, "w:gz") as file:
        for name, rows in (("dev/dev.json", dev), ("test/test.json", test)):
            text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(text.encode())
            file.addfile(member, io.BytesIO(text.encode()))
    return path


def test_regions_are_the_boxes_and_the_shapes_as_drawn(tmp_path):
    path = archive(tmp_path / "any.tar.gz")
    assert form_of(path) == "nlvr"
    data = open_dataset(path)
    record = next(one for one in data.records if one.id == "test-9-0")
    rows = record.inputs["regions"]
    assert rows.shape == (25, 16) and not rows[5:].any()
    assert rows[:3, 12:].tolist() == [[0, 0, 99, 99], [150, 0, 249, 99], [300, 0, 399, 99]]
    assert rows[3].tolist() == [0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 7, 2, 36, 31]
    assert rows[4].tolist() == [0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 350, 88, 359, 97]
    assert record.labels == ("true",) and data.single_label


def test_a_sentence_is_in_one_part_alone(tmp_path):
    data = read_nlvr(archive(tmp_path / "any.tar.gz"))
    assert {one.id: one.split for one in data.records} == {
        "dev-1-1": "train", "dev-2-0": "dev", "dev-2-1": "dev", "test-9-0": "test"
    }  # fmt: skip
    assert dict(data.skipped) == dict.fromkeys(
        ["dev-3-0", "dev-1-0"], "its sentence is in a later part too"
    )


def test_an_unpacked_folder_is_read_too(tmp_path):
    path = archive(tmp_path / "any.tar.gz")
    with tarfile.open(path) as file:
        file.extractall(tmp_path / "out", filter="data")
    for folder in (tmp_path / "out", tmp_path / "out" / "nlvr"):
        assert is_nlvr(folder) and form_of(folder) == "nlvr"
        assert read_nlvr(folder).fingerprint() == read_nlvr(path).fingerprint()
    assert not is_nlvr(tmp_path)


@pytest.mark.parametrize("wrong", [
    {"label": "perhaps"}, {"sentence": 3}, {"structured_rep": [[], []]},
    {"structured_rep": [[{**BLACK, "color": "pink"}], [], []]},
    {"structured_rep": [[BLACK] * 23, [], []]}, {"structured_rep": [[{}], [], []]},
    {"structured_rep": None}, {"directory": None, "label": None},
])  # fmt: skip
def test_odd_records_are_left_out_by_name_or_refused(tmp_path, wrong):
    path = archive(tmp_path / "any.tar.gz", dev=[*DEV, {**entry("7-7", "odd"), **wrong}])
    data = read_nlvr(path)
    assert "not as NLVR has it" in data.skipped["dev-7-7"] and len(data) == 4
    with pytest.raises(InputError, match="dev-7-7 is not as NLVR has it .* drop the record"):
        read_nlvr(path, strict=True)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected an object in line 1 of the annotations, got"):
        read_nlvr(archive(tmp_path / "a.tar.gz", dev=["[]"]))
    with pytest.raises(InputError, match="got none that can be read"):
        read_nlvr(archive(tmp_path / "b.tar.gz", dev=[{}], test=[{}]))
    for name, content in (("c.tar.gz", b"\x1f\x8bnone"), ("d.tar.gz", b"")):
        (tmp_path / name).write_bytes(content)
        assert not is_nlvr(tmp_path / name)
        with pytest.raises(InputError, match="expected NLVR's dev/dev.json and test/test.json"):
            read_nlvr(tmp_path / name)
    cut = archive(tmp_path / "e.tar.gz").read_bytes()
    (tmp_path / "e.tar.gz").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(InputError, match="download it again"):
        read_nlvr(tmp_path / "e.tar.gz")
