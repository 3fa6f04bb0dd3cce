"""Broken and hostile files of our own formats are used, or refused in one line; nothing else."""

from __future__ import annotations

import json
import random
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import run_inputs
import run_targets
from targets import judge

from ssnas_core.cli.main import main
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import (
    check_shapes,
    load_states,
    load_tensors,
    map_array,
    parse_json,
    plain_name,
    read_bytes,
    read_json,
    read_name,
    save_tensors,
    write_json,
)
from ssnas_core.common.typed import typed
from ssnas_core.features.store import FeatureStore
from ssnas_core.runs.reading import read_trained
from ssnas_core.spaces.genotype import MAX_PARTS, Genotype, Node

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made(one_thread):
    """The valid folders, before anything is forked."""
    return run_targets.valid()


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(run_targets.TARGETS))
def test_every_reader_takes_or_refuses_what_it_is_given(name, made):
    run_targets.warm()

    @settings(
        max_examples=5, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 2**32))
    def check(seed):
        verdict = judge(run_targets.TARGETS[name], random.Random(seed))
        assert verdict.outcome != "finding", verdict.detail

    check()


# --- documents


def test_document_larger_than_its_limit_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('"' + "x" * 98 + '"')
    assert read_json(path, limit=100) == "x" * 98
    with pytest.raises(InputError, match=r"a\.json has 100 bytes, more than the 99"):
        read_json(path, limit=99)
    with open(path, "rb+") as file:
        file.truncate(10**12)  # holes
    with pytest.raises(InputError, match="has 1,000,000,000,000 bytes"):
        read_json(path)


def test_document_of_too_many_values_is_refused_before_it_is_parsed():
    assert len(parse_json(b"[" + b"1," * 1000 + b"1]")) == 1001
    with pytest.raises(ValueError, match="2,000,002 values"):
        parse_json(b"[" + b"1," * 2_000_001 + b"1]")
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(b"[" * 10**5)


def test_text_that_cannot_be_written_is_refused():
    assert parse_json(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"
    with pytest.raises(ValueError, match="surrogates not allowed"):
        parse_json(b'"\\ud800"')


@pytest.mark.parametrize("how", ["a pipe", "a device", "a folder", "a link to itself"])
def test_what_is_no_ordinary_file_is_not_opened(tmp_path, how):
    path = tmp_path / "a.json"
    path.write_text("{}")
    run_inputs.ANY[how](path, random.Random(0))
    for read in (read_json, load_states, load_tensors, map_array, lambda p: read_bytes(p, 9)):
        with pytest.raises(InputError, match=r"a\.json: (Is a directory|it is no ord|Too many)"):
            read(path)


@pytest.mark.parametrize("name", ["../../x", "/etc", "", ".", "..", "a/b", "a\\b", "a\0", 3, None])
def test_name_that_is_a_path_leads_nowhere(tmp_path, name):
    with pytest.raises(InputError, match="prepared: expected a plain name"):
        plain_name(name, "prepared")
    (tmp_path / "prepared.json").write_text(json.dumps({"folder": name}))
    with pytest.raises(InputError, match=r"prepared\.json: folder: expected a plain name"):
        read_name(tmp_path / "prepared.json", "folder")
    assert plain_name("prepared-0123456789abcdef", "x") == "prepared-0123456789abcdef"


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, 2**63), (int, True), (int, 1.0), (float, 10**400), (float, float("nan")),
        (float, float("inf")), (tuple[int, int], [1]), (tuple[int, ...], [1, "2"]),
        (dict[str, int], {"a": None}), (dict[str, int], [["a", 1]]), (str, None),
    ],
)  # fmt: skip
def test_value_of_another_type_or_beyond_its_range_is_refused(hint, value):
    with pytest.raises(InputError, match="^here.*: expected"):
        typed(hint, value, "here")


# --- genotypes


def test_genotype_has_bounds():
    node = Node("cell_0", "Sum", ("a",) * (MAX_PARTS - 1))
    assert len(Genotype("fusion", (node,)).nodes) == 1
    with pytest.raises(InputError, match=f"at most {MAX_PARTS} nodes and inputs, got"):
        Genotype("fusion", (Node("cell_0", "Sum", ("a",) * MAX_PARTS),))


@pytest.mark.parametrize("name", ["../../x", "a\nb", "\x1b[2J", "$x$", "", "a" * 101, "\ud800"])
@pytest.mark.parametrize("place", ["space", "name", "operator", "input"])
def test_genotype_has_no_odd_names(place, name):
    given = {"space": "fusion", "name": "cell_0", "operator": "Sum", "input": "a", place: name}
    with pytest.raises(InputError, match="names are up to 100 letters") as caught:
        Genotype(given["space"], (Node(given["name"], given["operator"], (given["input"],)),))
    assert str(caught.value).isprintable()


# --- trained cells

CELL = {
    "method": "found", "label_ratio": 0.5, "seed": 0, "genotype": None, "parameters": 9,
    "labelled": {"train": 4, "dev": 2}, "threshold": 0.5, "dev": {"weighted_f1": 0.5},
    "shuffled": {"image": 0.25}, "history": [{"epoch": 0, "loss": 1.5}],
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"method": "$\\frac{"}, {"method": "\x1b[2J"}, {"method": "x" * 200}, {"method": 3},
        {"label_ratio": 0}, {"label_ratio": 2.0}, {"label_ratio": "0.5"}, {"seed": 1.5},
        {"labelled": {"train": 4}}, {"labelled": {"train": "4", "dev": 2}}, {"labelled": None},
        {"dev": {"weighted_f1": "good"}}, {"dev": {"weighted_f1": 1e300}}, {"dev": {"a": 1}},
        {"dev": {"weighted_f1": 1, "$x$": 1}}, {"dev": []}, {"threshold": "0.5"},
        {"shuffled": 3}, {"shuffled": {"image": "0.5"}}, {"shuffled": {"$x$": 0.5}},
        {"history": [{"epoch": 0}]}, {"history": [{"epoch": 0, "loss": "1"}]}, {"history": 3},
    ],
)  # fmt: skip
def test_cell_with_something_that_cannot_be_shown_is_told(tmp_path, change):
    file = tmp_path / "train.json"
    write_json(file, CELL)
    assert read_trained(file, "weighted_f1") == CELL
    write_json(file, {**CELL, **change})
    with pytest.raises(InputError, match=r"train\.json is not of a trained cell") as caught:
        read_trained(file, "weighted_f1")
    assert str(caught.value).isprintable()
    for name in CELL:
        write_json(file, {key: value for key, value in CELL.items() if key != name})
        if name not in ("threshold", "shuffled"):  # single labels have none; older files
            with pytest.raises(InputError, match=r"train\.json is not of a trained cell"):
                read_trained(file)


# --- stores and arrays


@pytest.fixture
def store(made, tmp_path):
    return Path(shutil.copytree(made / "store", tmp_path / "store"))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "expected a feature store of version 1"),
        ({"channels": {"../../x": 4}, "positions": {"../../x": 4}}, "expected a plain name"),
        ({"rows": "36"}, r"store\.json\.rows: expected int, got '36'"),
        ({"rows": 10**15}, "expected float16"),
        ({"views": -1}, "expected float16"),
        ({"positions": {}}, "expected float16"),
        ({"channels": [1]}, r"store\.json\.channels: expected"),
        ({"key": None}, r"store\.json\.key: expected str"),
    ],
)
def test_store_edited_by_hand_is_told(store, change, message):
    told = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps({**told, **change}))
    with pytest.raises(InputError, match=message):
        FeatureStore.open(store)


@pytest.mark.parametrize("how", sorted(run_inputs.ARRAYS.keys() - {"no rows"}))
def test_array_that_is_none_is_told(tmp_path, how):
    path = tmp_path / "a.npy"
    run_inputs.ARRAYS[how](path, random.Random(0))
    with pytest.raises(InputError, match=r"cannot read an array from .*a\.npy") as caught:
        map_array(path)
    assert str(caught.value).isprintable()


def test_array_is_mapped_as_it_is(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(2, 3))
    assert map_array(tmp_path / "a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]


# --- weights


@pytest.fixture
def states(tmp_path):
    torch.save({"weight": torch.arange(4096.0), "history": "[]"}, tmp_path / "a.pt")
    return tmp_path / "a.pt"


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("a pickle that calls", "BadZipFile"), ("a pickle that calls, zipped", "UnpicklingError"),
        pytest.param("a zip bomb", "BadZipFile", marks=pytest.mark.thorough),
        ("members on top of each other", "BadZipFile"),
        ("a flipped bit of a weight", "BadZipFile"), ("a whole module", "UnpicklingError"),
        ("the format before zip", "BadZipFile"),
    ],
)  # fmt: skip
def test_checkpoint_that_is_not_what_it_seems_is_refused(states, tmp_path, monkeypatch, how, kind):
    (tmp_path / "here").mkdir()
    (tmp_path / "outside").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run_inputs.CHECKPOINTS[how](states, random.Random(1))
    with pytest.raises(
        InputError, match=rf"a\.pt is not a usable checkpoint \({kind}\); delete it"
    ):
        load_states(states)
    assert list((tmp_path / "outside").iterdir()) == []  # the canary


def test_checkpoint_that_torch_wrote_is_read(states):
    assert load_states(states)["weight"].tolist() == list(range(4096))
    with zipfile.ZipFile(states) as archive:
        assert archive.testzip() is None  # torch writes checksums


def test_header_of_weights_is_bounded_before_it_is_parsed(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.ones(2)})
    assert load_tensors(path)["a"].tolist() == [1, 1]
    path.write_bytes(struct.pack("<Q", 5_000_000) + b" " * 6_000_000)
    with pytest.raises(InputError, match="a header of 5,000,000 bytes"):
        load_tensors(path)


def test_module_is_compared_before_memory_is_taken():
    state = torch.nn.Linear(3, 2).state_dict()
    torch.manual_seed(0)
    check_shapes(lambda: torch.nn.Linear(3, 2), state)
    drawn = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(()))
    with pytest.raises(InputError, match=r"size mismatch for weight: .*\(\[2, 3\]\).*10{12}\]\)$"):
        check_shapes(lambda: torch.nn.Linear(10**12, 2), state)
    with pytest.raises(InputError, match="expected about 2 tensors"):
        check_shapes(
            lambda: torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(10**6))), state
        )


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("backbones/image/config.json", "100 MB of text", r"config\.json has 100,000,009 bytes"),
        ("backbones/text/tokenizer.json", "30 MB of lists", "values, more than such a document"),
        ("backbones/text/tokenizer.json", "a pipe", "it is no ordinary file"),
        ("config.json", "wide", "size mismatch|expected head.weight|expected about"),
    ],
)
def test_saved_model_asks_for_no_more_than_its_weights(made, tmp_path, file, change, message):
    folder = Path(shutil.copytree(made / "hub", tmp_path / "hub"))
    if change == "wide":
        (folder / "backbones" / "text" / "config.json").write_text(
            (folder / "backbones" / "text" / "config.json")
            .read_text()
            .replace('"intermediate_size": 8', '"intermediate_size": 1000000000000')
        )
    else:
        {**run_inputs.ANY, **run_inputs.JSON}[change](folder / file, random.Random(0))
    with pytest.raises(InputError, match=message):
        run_targets.predict(folder)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("weights", "exp_avg", torch.zeros(3)),
        ("logits", "step", torch.zeros(2)),
        ("logits", "exp_avg_sq", None),
    ],
)
def test_optimizer_that_would_fail_at_its_next_step_is_refused(made, tmp_path, part, name, value):
    folder = Path(shutil.copytree(made / "begun", tmp_path / "begun"))
    file = folder / "checkpoint" / "search.pt"
    saved = torch.load(file, weights_only=True)
    state = saved[part]["state"][0]
    state.pop(name) if value is None else state.update({name: value})
    torch.save(saved, file)
    with pytest.raises(InputError, match=r"search\.pt is a checkpoint of another model"):
        run_targets.go_on(folder)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vocabulary", lambda value: value.fill_(255)),  # no UTF-8
        ("vocabulary", lambda value: value.fill_(10)),  # the empty word, again and again
        ("vocabulary", lambda value: value[:20].clone()),
        ("idf", lambda value: value[:5].clone()),
        ("idf", torch.sum),
        ("components", lambda value: value[:5].clone()),
    ],
)
def test_vocabulary_that_does_not_fit_is_told(made, tmp_path, name, change):
    folder = Path(shutil.copytree(made / "model", tmp_path / "model"))
    tensors = load_tensors(folder / "model.safetensors")
    key = f"backbones.text.{name}"
    save_tensors(folder / "model.safetensors", {**tensors, key: change(tensors[key])})
    with pytest.raises(InputError, match="expected a vocabulary of distinct words|size mismatch"):
        run_targets.predict(folder)


@pytest.mark.thorough
def test_tokens_that_the_model_lacks_are_told(made, tmp_path):
    folder = Path(shutil.copytree(made / "hub", tmp_path / "hub"))
    file = folder / "backbones" / "text" / "tokenizer.json"
    file.write_text(file.read_text().replace('"ship": 3', '"ship": 300'))
    with pytest.raises(InputError, match="whose tokens are not among the model's 10"):
        run_targets.predict(folder)


# --- the command


def spoiled(made, kind, names, tmp_path):
    """A copy of a valid folder whose files of these names are nested too deeply to be read."""
    folder = Path(shutil.copytree(made / kind, tmp_path / kind))
    for name in names:
        for file in folder.glob(name):
            file.write_bytes(b"[" * 10**6)
    return folder


COMMANDS = {
    "show, no configuration": ("run", ["config.json"], ["show", "{}"]),
    "compare, no configuration": ("run", ["config.json"], ["compare", "{}"]),
    "embed over broken features": (
        "run", ["store/prepared-*/features/store.json"],
        ["embed", "--run", "{}", "--out", "e.npz"],
    ),
    "train in a broken run": (
        "run", ["dataset.json"],
        ["train", "--run", "{}", "--method", "random", "--label-ratio", "1.0"],
    ),
    "evaluate a broken cell": (
        "run", ["cells/found_r1/train.json", "cells/found_r1/test.json"],
        ["evaluate", "--run", "{}", "--method", "found", "--label-ratio", "1.0"],
    ),
    "predict with a broken backbone": (
        "run", ["store/prepared-*/text.json"], ["predict", "--run", "{}", "--plot", "war"]
    ),
    "predict with a broken model": (
        "model", ["config.json"], ["predict", "--model", "{}", "--plot", "war"]
    ),
    "predict with broken weights": (
        "model", ["model.safetensors"], ["predict", "--model", "{}", "--plot", "war"]
    ),
}  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize("case", COMMANDS)
def test_command_over_broken_files_ends_with_one_line(case, made, tmp_path, capsys):
    kind, names, arguments = COMMANDS[case]
    folder = spoiled(made, kind, names, tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([*(one.format(folder) for one in arguments), "--quiet"])
    said = capsys.readouterr()
    assert stopped.value.code == 2, said
    assert said.out == ""
    assert said.err.startswith("ssnas: ") and said.err.count("\n") == 1, said.err
    assert any(Path(name).name in said.err for name in names), said.err


@pytest.mark.thorough
def test_run_with_a_broken_cell_and_log_is_shown_with_notes(made, tmp_path, capsys):
    broken = ["cells/found_r1/train.json", "timings.jsonl", "pretrain.json", "prepared.json"]
    folder = spoiled(made, "run", broken, tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["show", str(folder), "--quiet"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "late concat" in text  # another cell
    for name in broken:
        assert f"{folder / name}" in text, name
